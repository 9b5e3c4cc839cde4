"""NVIDIA cards through the real binding and a stand-in for the driver's library, built here from C."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from garrison.clock import SystemClock
from sentry_rig import nvidia
from sentry_rig.nvidia import NvidiaCards

GCC = shutil.which("gcc") or shutil.which("cc")
FIRST, SECOND = "GPU-0000-0", "GPU-0000-1"
pytestmark = pytest.mark.skipif(GCC is None or os.name == "nt", reason="needs a C compiler for the stand-in library")


class Leap(SystemClock):
    """The system's clock, which a test may push forward past a wait."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.ahead_ms


class Rig:
    """The cards, and the word that tells the stand-in how to behave."""

    def __init__(self, folder: Path, word: Path) -> None:
        self.clock, self._word = Leap(), word
        self.behaves("well")
        env = {**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(word)}
        self.cards = NvidiaCards(self.clock, deadline_s=4, env=env)

    def behaves(self, word: str) -> None:
        self._word.write_text(word)

    @property
    def helper(self) -> int | None:
        helper = self.cards._helper
        return helper.pid if helper is not None and helper.returncode is None else None


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in library."""
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([str(GCC), "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)], check=True, timeout=60)
    return folder


@pytest.fixture
async def rig(library: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(library, tmp_path / "word")
    yield made
    await made.cards.close()


async def test_values_by_uuid_in_base_units(rig: Rig) -> None:
    """Known by UUID and PCI address, W and J instead of mW and mJ; what a card does not support is absent."""
    look = await rig.cards.look()
    assert (look.fault, look.missing, look.driver) == ("", 0, "999.01")
    first, second = look.cards
    assert (first.uuid, first.pci, first.name, first.vbios) == (FIRST, "0000:01:00.0", "Fake GPU 0", "94.02")
    assert (second.uuid, second.pci) == (SECOND, "0000:0b:00.0")
    assert first.values == {
        "temp_c": 61,
        "power_w": 118.5,
        "power_limit_w": 130,
        "energy_j": 7654321,
        "fan_pct": 41,
        "core_clock_mhz": 1605,
        "memory_clock_mhz": 7001,
        "memory_used_bytes": 5 << 30,
        "memory_total_bytes": 8 << 30,
        "pstate": 2,
    }
    assert not {"temp_c", "power_w", "fan_pct"} & second.values.keys()  # 511 °C, not supported, no fan
    assert second.values["core_clock_mhz"] == 1605


@pytest.mark.parametrize("word", ["lost", "gone"])
async def test_a_lost_card_is_missed_and_the_other_goes_on(rig: Rig, word: str) -> None:
    """A card that fell off the bus keeps its name and address, has no values, and does not shift the other's."""
    await rig.cards.look()
    rig.behaves(word)
    look = await rig.cards.look()
    cards = {card.uuid: card for card in look.cards}
    assert look.missing == 1
    assert not look.fault
    assert (cards[SECOND].lost, cards[SECOND].values) == (True, {})
    assert (cards[SECOND].pci, cards[SECOND].name) == ("0000:0b:00.0", "Fake GPU 1")
    assert (cards[FIRST].lost, cards[FIRST].values["temp_c"]) == (False, 61)
    rig.behaves("well")
    look = await rig.cards.look()
    assert look.missing == 0
    assert {card.uuid for card in look.cards} == {FIRST, SECOND}


async def test_a_card_lost_before_we_knew_it_is_counted(rig: Rig) -> None:
    """It has no name to show, and is missed all the same."""
    rig.behaves("gone")
    look = await rig.cards.look()
    assert (look.nameless, look.missing, len(look.cards)) == (1, 1, 1)


async def test_a_hanging_card_does_not_hang_the_sentry(rig: Rig) -> None:
    """At the deadline the helper is killed, values are absent, the fault is told; later it is tried again."""
    await rig.cards.look()
    pid = rig.helper
    assert pid is not None
    rig.behaves("hang")
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.05)
            beats += 1

    beating = asyncio.create_task(heart())
    look = await rig.cards.look()
    beating.cancel()
    assert "hangs" in look.fault
    assert beats > 20  # the loop went on meanwhile
    assert [(card.uuid, card.values, card.lost) for card in look.cards] == [(FIRST, {}, False), (SECOND, {}, False)]
    assert not psutil.pid_exists(pid)
    started = time.monotonic()
    assert (await rig.cards.look()).fault  # not tried again at once
    assert time.monotonic() - started < 0.5
    rig.behaves("well")
    rig.clock.ahead_ms += 11_000
    assert (await rig.cards.look()).cards[0].values["temp_c"] == 61


async def test_helpers_that_cannot_be_killed_are_few(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper stuck in the kernel is left behind, at most MAX_STUCK of them; when one goes, it is tried again."""
    monkeypatch.setattr(nvidia, "_KILL_LIMIT_S", 0.2)
    rig.behaves("hang")
    rig.cards._deadline_s = 1.5
    pids = []
    real_kill = asyncio.subprocess.Process.kill
    # what the kernel does with a process in uninterruptible sleep: the signal is taken and nothing happens
    monkeypatch.setattr(asyncio.subprocess.Process, "kill", lambda process: pids.append(process.pid))
    for _ in range(nvidia.MAX_STUCK + 2):
        look = await rig.cards.look()
        assert look.fault
        rig.clock.ahead_ms += 301_000
    assert "only a reboot helps" in look.fault
    assert len(pids) == nvidia.MAX_STUCK
    monkeypatch.setattr(asyncio.subprocess.Process, "kill", real_kill)
    rig.behaves("well")
    for stuck in rig.cards._stuck:
        psutil.Process(stuck.pid).kill()
        await stuck.wait()
    rig.clock.ahead_ms += 301_000
    assert not (await rig.cards.look()).fault


async def test_a_crash_in_the_drivers_library_is_a_fault(rig: Rig) -> None:
    """The helper dies, the sentry does not."""
    rig.behaves("crash")
    look = await rig.cards.look()
    assert "crashed" in look.fault


async def test_a_driver_that_hangs_at_its_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvmlInit itself may hang: the same deadline holds."""
    monkeypatch.setattr(nvidia, "_START_LIMIT_S", 2.0)
    rig.behaves("inithang")
    assert "did not start" in (await rig.cards.look()).fault


async def test_no_driver_is_no_fault(rig: Rig, tmp_path: Path) -> None:
    """On a rig without NVIDIA cards nothing is wrong, no helper stays, and it is asked again an hour later."""
    rig.behaves("nodriver")
    look = await rig.cards.look()
    assert (look.fault, look.cards, rig.helper) == ("", (), None)
    without = NvidiaCards(SystemClock(), env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert (await without.look()).fault == ""
    await without.close()
    rig.behaves("well")
    assert (await rig.cards.look()).cards == ()
    rig.clock.ahead_ms += 3_601_000
    assert len((await rig.cards.look()).cards) == 2


async def test_the_helper_ends_with_the_sentry(rig: Rig) -> None:
    """Its input ends when the sentry dies, however it dies, and so it ends too."""
    await rig.cards.look()
    helper = rig.cards._helper
    assert helper is not None
    assert helper.stdin is not None
    helper.stdin.close()
    await asyncio.wait_for(helper.wait(), 20)
