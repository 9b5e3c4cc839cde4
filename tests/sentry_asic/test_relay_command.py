"""`sentry-asic relay`, without a commander: what it gives, and that a cycle brings power back whatever happens."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from garrison.faults import BadInput, DidNotSwitch, RuleRefused, Unreachable, WrongPassword
from rrc.board import BoardAddress
from rrc.queue import QueueLimits
from sentry_asic.power_store import PowerStore
from sentry_asic.relay_command import relay
from tests.sentry_asic.stand import FakeBoard, FastClock, until
from tests.simulators.tasmota import Tasmota

QUICK = QueueLimits(confirm_within_s=10, poll_s=1)


def fake(folder: Path, **options: str) -> tuple[FakeBoard, BoardAddress]:
    board = FakeBoard(folder, **options)
    return board, BoardAddress("fake", "nowhere", 4, options=board.board.options)


async def test_status() -> None:
    """Every outlet, or one; null for what is not known; it prints as JSON."""
    async with Tasmota(outlets=2, load_w=None) as plug:
        address = BoardAddress("tasmota", plug.address, 2)
        found = await relay("status", address)
        assert json.loads(json.dumps(found)) == found
        outlets = found["outlets"]
        assert isinstance(outlets, list)
        assert outlets[0] == {"outlet": "1", "state": "on", "power_w": None, "voltage_v": None, "current_a": None, "energy_j": None}
        one = (await relay("status", address, "2"))["outlets"]
        assert isinstance(one, list)
        assert [o["outlet"] for o in one] == ["2"]
        assert found["simulated"] is False


async def test_on_and_off(tmp_path: Path) -> None:
    """What the last read showed, and whether a command was sent at all."""
    board, address = fake(tmp_path)
    off = await relay("off", address, "2")
    assert (off["state"], off["effect"], off["sent"]) == ("off", "confirmed", True)
    assert (await relay("off", address, "2"))["sent"] is False
    assert (await relay("on", address, "2"))["state"] == "on"
    assert board.clicks("2") == [False, True]
    assert off["simulated"] is True


@pytest.mark.parametrize(("options", "guarded"), [({}, "this process"), ({"cycle": "5-600"}, "board timer"), ({}, "journal")])
async def test_cycle(options: dict[str, str], guarded: str, tmp_path: Path) -> None:
    """Off, ten seconds, on; it says what would have brought power back."""
    board, address = fake(tmp_path, **options)
    journal = tmp_path / "power.db" if guarded == "journal" else None
    found = await relay("cycle", address, "1", 10, journal=journal, clock=FastClock(), limits=QUICK)
    assert (found["state"], found["guarded_by"], found["off_s"]) == ("on", guarded, 10)
    assert board.clicks() == [False, True]
    if journal is not None:
        store = await PowerStore.open(journal)
        assert await store.restores() == []
        await store.close()


async def test_interrupted_cycle(tmp_path: Path) -> None:
    """Ctrl-C while it is dark: power comes back before the command ends."""
    board, address = fake(tmp_path)
    doing = asyncio.create_task(relay("cycle", address, "1", 3000, clock=FastClock(), limits=QUICK))
    await until(lambda: board.clicks() == [False])
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert board.clicks() == [False, True]


async def test_faults(tmp_path: Path) -> None:
    """Stuck, unreachable, wrong password, no such outlet, too short, off already: each its fault."""
    board, address = fake(tmp_path)
    with pytest.raises(BadInput):
        await relay("on", address)
    with pytest.raises(BadInput):
        await relay("off", address, "9")
    with pytest.raises(RuleRefused, match="min_off_time"):
        await relay("cycle", address, "1", 5)
    await relay("off", address, "3")
    with pytest.raises(RuleRefused, match="reads off, not on"):
        await relay("cycle", address, "3", 30)
    board.break_it(stuck="1")
    with pytest.raises(DidNotSwitch, match="did not switch"):
        await relay("off", address, "1", clock=FastClock(), limits=QUICK)
    with pytest.raises(DidNotSwitch, match="did not switch"):
        await relay("cycle", address, "1", 10, clock=FastClock(), limits=QUICK)
    board.break_it(unreachable="yes")
    with pytest.raises(Unreachable):
        await relay("status", address)
    async with Tasmota(password="right") as plug:
        with pytest.raises(WrongPassword):
            await relay("off", BoardAddress("tasmota", plug.address, 1, password="wrong"), "1")
        assert plug.clicks == []
