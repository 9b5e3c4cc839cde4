"""Orders to simulated Antminers, the whole way: hold, act, look until the effect is seen. Success is what a look showed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from garrison.clock import SystemClock
from garrison.faults import BadAnswer, Conflict, NotFound, NotSupported, Refused, WrongPassword
from garrison.model import Order, Outcome, PoolOrder, Sheet, Target
from garrison.words import ActionKind, ActionState
from sentry_asic.orders import ACTED, DeviceOrders, Waits
from sentry_asic.watch import Pace, Watcher
from tests.simulators.antminer import Antminer

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "x"), PoolOrder("stratum+tcp://spare.invalid:443", "w", "p"))
SHEET = Sheet("s1", "new coin", "BTC", "sha256", POOLS, "wallet", "rig-1", verify_within_s=20)
QUICK = Waits(restart_s=20, mode_s=20, light_s=5, look_every_s=0.1)


@dataclass
class Notes:
    """The progress of an order, remembered."""

    texts: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    on_note: Callable[[], None] = lambda: None

    async def verifying(self, text: str) -> None:
        self.texts.append(text)

    async def note(self, key: str, value: str) -> None:
        self.notes[key] = value
        self.on_note()


class Quiet:
    """An outbox that nobody reads."""

    async def look(self, samples: object) -> None: ...

    async def event(self, kind: str, text: str, **more: object) -> None: ...

    def roster(self, devices: object, gone: object = ()) -> None: ...


@contextlib.asynccontextmanager
async def standing(device: Antminer, folder: Path, waits: Waits = QUICK) -> AsyncIterator[tuple[DeviceOrders, str]]:
    clock = SystemClock()
    watcher = Watcher(clock, Pace(poll_every_s=0.3, look_s=2, slow_look_s=4, back_off_s=0.5))
    watcher.assign([Target("1", f"{device.host}:{device.api_port}", http_port=device.http_port)])
    task = asyncio.create_task(watcher.run(Quiet()))
    identity = f"mac:{device.mac}"
    try:
        end = time.monotonic() + 20
        while not watcher.known(identity):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        yield DeviceOrders(watcher, clock, folder, waits), identity
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def order(kind: ActionKind, identity: str, **more: object) -> Order:
    return replace(Order("a1", kind, identity, 60_000, 1), **more)  # type: ignore[arg-type]  # fields of an order


async def done(device: Antminer, folder: Path, kind: ActionKind, waits: Waits = QUICK, **more: object) -> tuple[Outcome, Notes]:
    notes = Notes()
    async with standing(device, folder, waits) as (orders, identity):
        return await orders.perform(order(kind, identity, **more), notes), notes


@pytest.mark.parametrize("kind", ["modern", "old"])
@pytest.mark.parametrize("drop", [False, True], ids=["answers", "hangs up"])
async def test_reboot_is_seen_in_the_uptime(kind: str, drop: bool, tmp_path: Path) -> None:
    """One reboot, written down before it is sent; a lost reply changes nothing."""
    async with Antminer(kind) as device:
        device.faults.drop_reply = drop
        outcome, notes = await done(device, tmp_path, ActionKind.REBOOT)
        assert outcome.state is ActionState.SUCCEEDED, outcome
        assert device.reboots == 1
        assert ACTED in notes.notes
        assert notes.texts


async def test_an_order_that_was_taken_and_ignored_has_failed(tmp_path: Path) -> None:
    """The device said yes and did nothing: failed, not succeeded."""
    async with Antminer() as device:
        device.faults.ignore_orders = True
        outcome, _ = await done(device, tmp_path, ActionKind.REBOOT, replace(QUICK, restart_s=1))
        assert (outcome.state, outcome.fault) == (ActionState.FAILED, "timed_out")


async def test_pause_and_resume_are_seen_in_the_mode(tmp_path: Path) -> None:
    """It sleeps, and it is awake again."""
    async with Antminer() as device:
        for kind, state in ((ActionKind.PAUSE, "sleeping"), (ActionKind.RESUME, "mining")):
            outcome, _ = await done(device, tmp_path, kind)
            assert outcome.state is ActionState.SUCCEEDED, outcome
            end = time.monotonic() + 10
            while device.state != state:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["modern", "old"])
async def test_locate_is_read_back(kind: str, tmp_path: Path) -> None:
    """On and off."""
    async with Antminer(kind) as device:
        for on in (True, False):
            outcome, _ = await done(device, tmp_path, ActionKind.LOCATE, locate_on=on)
            assert (outcome.state, device.blinking) == (ActionState.SUCCEEDED, on), outcome


@pytest.mark.parametrize("kind", ["modern", "old"])
async def test_a_sheet_is_verified_by_a_later_look(kind: str, tmp_path: Path) -> None:
    """It mines on the new pool; which sheet was verified is kept; applying it again writes nothing."""
    async with Antminer(kind) as device:
        outcome, _ = await done(device, tmp_path, ActionKind.APPLY_FLIGHT_SHEET, sheet=SHEET)
        assert outcome.state is ActionState.SUCCEEDED, outcome
        assert [p["url"] for p in device.conf["pools"]] == [POOLS[0].url, POOLS[1].url, ""]
        async with standing(device, tmp_path) as (orders, identity):
            assert orders.sheet_of(identity) == "s1"
        again, _ = await done(device, tmp_path, ActionKind.APPLY_FLIGHT_SHEET, sheet=SHEET)
        assert again.state is ActionState.SUCCEEDED
        assert len(device.writes) == 1


@pytest.mark.parametrize("kind", ["modern", "old"])
async def test_a_sheet_whose_pools_are_dead_is_taken_back(kind: str, tmp_path: Path) -> None:
    """Not mining there within the limit: failed, and the pools from before are back, with their passwords."""
    async with Antminer(kind) as device:
        before = [dict(pool) for pool in device.conf["pools"]]
        dead = replace(SHEET, pools=(PoolOrder("stratum+tcp://dead.invalid:1", "w", "x"),), verify_within_s=2)
        outcome, _ = await done(device, tmp_path, ActionKind.APPLY_FLIGHT_SHEET, sheet=dead)
        assert outcome.state is ActionState.FAILED
        assert "went back" in outcome.text
        assert device.conf["pools"] == before
        assert len(device.writes) == 2


async def test_nothing_is_written_when_the_configuration_cannot_be_read(tmp_path: Path) -> None:
    """A configuration without pools, a refused log-in: the fault, and no write."""
    async with Antminer() as device:
        device.faults.broken_conf = True
        with pytest.raises(BadAnswer):
            await done(device, tmp_path, ActionKind.APPLY_FLIGHT_SHEET, sheet=SHEET)
        device.faults.broken_conf = False
        async with standing(device, tmp_path) as (orders, identity):
            device.password = "changed"
            device._nonces.clear()
            with pytest.raises(WrongPassword):
                await orders.perform(order(ActionKind.APPLY_FLIGHT_SHEET, identity, sheet=SHEET), Notes())
            with pytest.raises(Refused):
                await orders.perform(order(ActionKind.REBOOT, identity), Notes())
        assert device.writes == []
        assert device.reboots == 0


async def test_what_a_device_cannot(tmp_path: Path) -> None:
    """Old firmware does not sleep; nothing was sent, nothing was noted."""
    async with Antminer("old") as device, standing(device, tmp_path) as (orders, identity):
        for kind in (ActionKind.PAUSE, ActionKind.RESUME, ActionKind.RESTART_MINING):
            notes = Notes()
            with pytest.raises(NotSupported):
                await orders.perform(order(kind, identity), notes)
            assert notes.notes == {}


async def test_another_device_at_the_address_gets_no_order(tmp_path: Path) -> None:
    """It answers at the address that was the first one's: nothing is sent to it."""
    async with Antminer() as device, standing(device, tmp_path) as (orders, identity):
        device.mac = "02:00:00:00:00:0b"
        with pytest.raises((Conflict, NotFound)):
            await orders.perform(order(ActionKind.REBOOT, identity), Notes())
        assert device.reboots == 0


async def test_after_a_crash_nothing_is_sent_again(tmp_path: Path) -> None:
    """A pulse is unknown, a wanted state is read back, and what was never sent has failed."""
    async with Antminer() as device, standing(device, tmp_path) as (orders, identity):
        acted = {ACTED: "1"}
        assert (await orders.settle(order(ActionKind.REBOOT, identity), acted)).state is ActionState.UNKNOWN
        assert (await orders.settle(order(ActionKind.REBOOT, identity), {})).state is ActionState.FAILED
        assert (await orders.settle(order(ActionKind.RESUME, identity), acted)).state is ActionState.SUCCEEDED
        lit = await orders.settle(order(ActionKind.LOCATE, identity, locate_on=False), acted)
        assert lit.state is ActionState.SUCCEEDED
        other = replace(SHEET, verify_within_s=1)
        assert (await orders.settle(order(ActionKind.APPLY_FLIGHT_SHEET, identity, sheet=other), acted)).state is ActionState.FAILED
        assert device.reboots == 0
        assert device.writes == []
