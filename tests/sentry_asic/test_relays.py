"""Watching boards: samples, roster, and that what is not known is never shown as off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from garrison.frame import device_key, pack_look, unpack
from garrison.model import Board, Credentials
from garrison.words import DEVICE_STATE_CODES, DeviceState, PowerState
from sentry_asic.relays import Relays
from tests.sentry_asic.stand import FakeBoard, FastClock, KeptOutbox
from tests.simulators.tasmota import Tasmota


@contextlib.asynccontextmanager
async def watching(relays: Relays) -> AsyncIterator[KeptOutbox]:
    outbox = KeptOutbox()
    task = asyncio.create_task(relays.run(outbox))
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(outbox: KeptOutbox, true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            outbox.news.clear()
            await outbox.news.wait()


async def test_look_at_a_plug() -> None:
    """State, watts, volts, amperes, joules and the switch counter of each outlet, in a frame that packs."""
    async with Tasmota(outlets=2, password="pw") as plug:
        plug.on[2] = False
        board = Board("7", "tasmota", plug.address, 2, Credentials("", "pw"), simulated=True)
        relays = Relays(FastClock(), switches=lambda board, outlet: 5)
        await relays.assign([board])
        sample, device = await relays.look("7")
        await relays.close()
    values = sample.values
    assert sample.key == device_key("relay:7")
    assert (values["look_ok", ""], values["state", ""]) == (1, DEVICE_STATE_CODES[DeviceState.IDLE])
    assert (values["outlet_state", "outlet:1"], values["outlet_state", "outlet:2"]) == (2, 1)
    assert (values["power_w", "outlet:1"], values["power_w", "outlet:2"]) == (3250.0, 0.0)
    assert values["voltage_v", "outlet:1"] == 230
    assert values["energy_j", "outlet:1"] == 45_000_000
    assert values["outlet_switches", "outlet:2"] == 5
    assert (device.identity, device.kind, device.make, device.simulated) == ("relay:7", "relay", "tasmota", True)
    assert device.components == ("outlet:1", "outlet:2")
    ((layout, body),) = pack_look([sample])
    assert unpack(layout, body)[0].values == values


@pytest.mark.parametrize(
    ("change", "state", "fault"),
    [
        ({"mode": "html"}, DeviceState.UNKNOWN, "bad_answer"),
        ({"mode": "huge"}, DeviceState.UNKNOWN, "bad_answer"),
        ({"password": "other"}, DeviceState.REFUSED, "wrong_password"),
        ({"stopped": "yes"}, DeviceState.UNREACHABLE, "unreachable"),
    ],
)
async def test_board_that_does_not_answer(change: dict[str, str], state: DeviceState, fault: str) -> None:
    """The look failed, its fault is named, and every outlet is unknown: 0, not 1, which is off."""
    plug = Tasmota()
    await plug.start()
    relays = Relays(FastClock())
    try:
        await relays.assign([Board("7", "tasmota", plug.address, 1)])
        await relays.look("7")
        assert relays.state("7", "1") is PowerState.ON
        plug.mode, plug.password = change.get("mode", "ok"), change.get("password", "")
        if "stopped" in change:
            await plug.stop()
        sample, device = await relays.look("7")
    finally:
        await relays.close()
        await plug.stop()
    assert (device.state, device.fault) == (state, fault)
    assert sample.values["look_ok", ""] == 0
    assert sample.values["outlet_state", "outlet:1"] == 0
    assert {metric for metric, _ in sample.values} == {"state", "look_ok", "look_ms", "outlet_state"}
    assert relays.state("7", "1") is PowerState.UNKNOWN


async def test_the_commander_sets_the_pace(tmp_path: Path) -> None:
    """Boards are read as often as the assignment says, and at our own pace when it says nothing; at once when it changes."""
    relays = Relays(FastClock(), poll_s=3600)
    board = FakeBoard(tmp_path).board
    await relays.assign([board])
    async with watching(relays) as outbox:
        await until(outbox, lambda: len(outbox.samples) == 1)
        await relays.assign([board], poll_every_ms=1000)
        await until(outbox, lambda: len(outbox.samples) >= 5)


async def test_polls_and_tells_news_once(tmp_path: Path) -> None:
    """Looks come at their interval; the roster entry only when something changed; a switch makes the next look due at once."""
    fake = FakeBoard(tmp_path)
    relays = Relays(FastClock(), poll_s=2.0)
    await relays.assign([fake.board])
    async with watching(relays) as outbox:
        await until(outbox, lambda: len(outbox.samples) >= 3)
        assert list(outbox.devices) == ["relay:B1"]
        told = outbox.devices["relay:B1"]
        assert told.simulated
        assert relays.roster() == [replace(told, seen_ms=relays.roster()[0].seen_ms)]
        fake.break_it(unreachable="yes")
        await until(outbox, lambda: outbox.devices["relay:B1"].state is DeviceState.UNREACHABLE)
        fake.mend()
        await until(outbox, lambda: outbox.devices["relay:B1"].state is DeviceState.IDLE)


async def test_state_grows_old(tmp_path: Path) -> None:
    """What was read more than three looks ago is unknown; where looks come fast, what is older than 15 s."""
    clock = FastClock()
    relays = Relays(clock, poll_s=1.0)
    await relays.assign([FakeBoard(tmp_path).board])
    await relays.look("B1")
    assert relays.state("B1", "2") is PowerState.ON
    await clock.sleep(16)
    assert relays.state("B1", "2") is PowerState.UNKNOWN
    assert relays.state("B1", "99") is PowerState.UNKNOWN
    assert relays.state("nowhere", "1") is PowerState.UNKNOWN


async def test_assignment_changes(tmp_path: Path) -> None:
    """A board that is gone leaves the roster; a changed one is opened anew; one of an unknown kind is faulty, not fatal."""
    relays = Relays(FastClock(), poll_s=2.0)
    first, second = FakeBoard(tmp_path, "B1"), FakeBoard(tmp_path, "B2")
    await relays.assign([first.board, second.board, Board("B3", "shely", "x", 1)])
    async with watching(relays) as outbox:
        await until(outbox, lambda: len(outbox.devices) == 3)
        assert outbox.devices["relay:B3"].fault == "bad_input"
        assert "kinds: fake" in outbox.devices["relay:B3"].fault_text
        assert relays.known("relay:B2")
        assert not relays.known("relay:B9")
        queue = relays.queue("B1")
        await relays.assign([replace(first.board, outlets=2)])
        await until(outbox, lambda: sorted(outbox.gone) == ["relay:B2", "relay:B3"])
        assert relays.queue("B1") is not queue
        assert relays.queue("B2") is None
        assert "not among the boards" in relays.fault("B2")
