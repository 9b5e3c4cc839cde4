"""Orders to ASICs other than power: each acts once, and then looks until it sees the effect or its time is over.

Entry points: `perform` and `settle`, called by `post.py`; `sheet_of` for the watcher.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from garrison import keyfile
from garrison.clock import Clock
from garrison.faults import BadInput, Fault, NotFound, NotSupported
from garrison.model import Order, Outcome, PoolOrder, Sheet
from garrison.words import PULSES, SETTINGS, ActionKind, ActionState
from sentry_asic.make import Driver, Reading
from sentry_asic.order_rules import holds_pools, mines_on, restarted, sleeps
from sentry_asic.settable import setting_of
from sentry_asic.watch import Watcher
from sentry_core.post import Progress

log = logging.getLogger(__name__)

ACTED = "acted"
"""The note that stands on disk before the first command leaves: without it, nothing was sent."""
SHEETS_FILE = "sheets.json"


@dataclass(frozen=True, slots=True)
class Waits:
    """How long an effect may take (facts: 10 s to 10 min), and the time between two looks for it."""

    restart_s: float = 900
    mode_s: float = 600
    light_s: float = 30
    look_every_s: float = 3


Check = Callable[[Reading], str]
"""What a look shows: empty when not yet, else what it shows, in words."""


class DeviceOrders:
    """`state_dir` holds which flight sheet was last verified on which device."""

    def __init__(self, watcher: Watcher, clock: Clock, state_dir: Path, waits: Waits | None = None) -> None:
        self._watcher, self._clock, self._waits = watcher, clock, waits or Waits()
        self._path = state_dir / SHEETS_FILE
        self._sheets: dict[str, str] = _kept_sheets(self._path)

    def sheet_of(self, identity: str) -> str:
        return self._sheets.get(identity, "")

    async def perform(self, order: Order, progress: Progress) -> Outcome:
        """Raises what the device or its driver raises; then nothing is known to have changed."""
        if order.kind is ActionKind.APPLY_FLIGHT_SHEET:
            return await self._apply(order, progress)
        if order.kind in SETTINGS:
            return await self._set(order, progress)
        began_ms = self._clock.monotonic_ms()
        async with self._watcher.hold(order.device) as driver:
            _must_have(driver, order.kind)
            await progress.note(ACTED, str(self._clock.now_ms()))
            await self._act(driver, order)
        await progress.verifying("the device took the order; looking for the effect")
        return await self._effect(order, lambda: (self._clock.monotonic_ms() - began_ms) / 1000)

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        """After a crash in the middle: looks, sends nothing."""
        if ACTED not in notes:
            return Outcome(ActionState.FAILED, "the sentry ended before it sent anything", "unavailable")
        if order.kind in PULSES:
            return Outcome(ActionState.UNKNOWN, "the sentry ended after sending it, and a look cannot tell whether it worked")
        if order.kind is ActionKind.APPLY_FLIGHT_SHEET and order.sheet is not None:
            proof = await self._until(order.device, order.sheet.verify_within_s, _mining(order.sheet.pools))
            if proof:
                self._keep(order.device, order.sheet.id)
                return Outcome(ActionState.SUCCEEDED, proof)
            return Outcome(ActionState.FAILED, "the sentry ended meanwhile; the device does not mine on the new pool", "timed_out")
        return await self._effect(order, lambda: 0.0)

    # ---- parts -------------------------------------------------------------------------------------------------

    async def _act(self, driver: Driver, order: Order) -> None:
        match order.kind:
            case ActionKind.REBOOT:
                await driver.reboot()
            case ActionKind.RESTART_MINING:
                await driver.restart_mining()
            case ActionKind.PAUSE:
                await driver.pause()
            case ActionKind.RESUME:
                await driver.resume()
            case ActionKind.LOCATE:
                await driver.locate(order.locate_on)
            case _:
                raise NotSupported(f"an ASIC cannot {order.kind.value.replace('_', ' ')}")

    async def _effect(self, order: Order, since_s: Callable[[], float]) -> Outcome:
        match order.kind:
            case ActionKind.REBOOT | ActionKind.RESTART_MINING:
                away = _Away()
                proof = await self._until(order.device, self._waits.restart_s, _restarted(since_s, away), away)
            case ActionKind.PAUSE:
                proof = await self._until(order.device, self._waits.mode_s, lambda r: "it sleeps" if sleeps(r, True) else "")
            case ActionKind.RESUME:
                proof = await self._until(order.device, self._waits.mode_s, lambda r: "it is awake" if sleeps(r, False) else "")
            case kind if kind in SETTINGS:
                return await self._is_set(order)
            case _:
                return await self._light(order)
        if proof:
            return Outcome(ActionState.SUCCEEDED, proof)
        return Outcome(ActionState.FAILED, "the device took the order, but no look showed the effect in time", "timed_out")

    async def _light(self, order: Order) -> Outcome:
        until_ms = self._clock.monotonic_ms() + round(self._waits.light_s * 1000)
        while True:
            try:
                async with self._watcher.hold(order.device) as driver:
                    blinks = await driver.locating()
            except Fault as fault:
                log.debug("not read", extra={"device": order.device, "why": str(fault)})
                blinks = None if self._clock.monotonic_ms() >= until_ms else not order.locate_on
            if blinks is None:
                return Outcome(ActionState.UNKNOWN, "this device does not tell whether its light blinks")
            if blinks is order.locate_on:
                return Outcome(ActionState.SUCCEEDED, f"the light {'blinks' if blinks else 'is off'}")
            if self._clock.monotonic_ms() >= until_ms:
                return Outcome(ActionState.FAILED, f"the light {'still blinks' if blinks else 'does not blink'}", "timed_out")
            await self._clock.sleep(1)

    async def _set(self, order: Order, progress: Progress) -> Outcome:
        """Sends nothing when it is so already: many restart their miner even then."""
        async with self._watcher.hold(order.device) as driver:
            _must_have(driver, order.kind)
            setting = setting_of(driver, order)
            held = await setting.read()
            if setting.is_held(held):
                return Outcome(ActionState.SUCCEEDED, f"its {setting.name} is {held} already", detail={"changed": "false"})
            await progress.note(ACTED, str(self._clock.now_ms()))
            await setting.act()
        await progress.verifying(f"the device took the order; its {setting.name} was {held or 'not told'}")
        outcome = await self._is_set(order)
        self._watcher.nudge(order.device)
        return outcome

    async def _is_set(self, order: Order) -> Outcome:
        """What the device itself says of it, until that is as wanted or the time is over. It may restart in between."""
        until_ms = self._clock.monotonic_ms() + round(self._waits.mode_s * 1000)
        fault: Fault | None = None
        while True:
            held: str | None = None
            try:
                async with self._watcher.hold(order.device) as driver:
                    setting = setting_of(driver, order)
                    name, held = setting.name, await setting.read()
                fault = None
            except NotFound:
                raise
            except Fault as error:
                fault = error
            if fault is None and setting.is_held(held):
                return Outcome(ActionState.SUCCEEDED, f"its {name} is {held}", detail={"changed": "true"})
            if self._clock.monotonic_ms() >= until_ms:
                break
            await self._clock.sleep(self._waits.look_every_s)
            with contextlib.suppress(Fault):  # told by the reading that follows
                await self._watcher.look(order.device, slow=False)  # waits while the device is left in peace
        if fault is not None:
            return Outcome(ActionState.FAILED, f"the device took the order, but was not read again: {fault.text}", "timed_out")
        if held is None:
            return Outcome(ActionState.UNKNOWN, f"this device does not tell its {name}")
        return Outcome(ActionState.FAILED, f"the device took the order, but its {name} is {held}", "timed_out")

    async def _apply(self, order: Order, progress: Progress) -> Outcome:
        sheet = order.sheet
        if sheet is None or not sheet.pools:
            raise BadInput("the order holds no flight sheet with pools")
        async with self._watcher.hold(order.device) as driver:
            _must_have(driver, order.kind)
            before = await driver.pools()
            await progress.note(ACTED, str(self._clock.now_ms()))
            changed = tuple(before[: len(sheet.pools)]) != sheet.pools or len(before) != len(sheet.pools)
            if changed:
                await driver.set_pools(sheet.pools)
        await progress.verifying("pools written; watching that it mines there" if changed else "it has these pools already")
        proof = await self._until(order.device, sheet.verify_within_s, _mining(sheet.pools))
        if proof:
            self._keep(order.device, sheet.id)
            self._watcher.nudge(order.device)
            return Outcome(ActionState.SUCCEEDED, proof, detail={"changed": str(changed).lower()})
        why = await self._why_not(order.device, sheet)
        if not changed or not before:
            return Outcome(ActionState.FAILED, why, "timed_out", {"rolled_back": "nothing"})
        return await self._go_back(order, before, why)

    async def _go_back(self, order: Order, before: Sequence[PoolOrder], why: str) -> Outcome:
        was = self.sheet_of(order.device) or "the pools it had"
        try:
            async with self._watcher.hold(order.device) as driver:
                await driver.set_pools(before)
                back = holds_pools(await driver.pools(), before)
        except Fault as fault:
            text = f"{why}; going back to {was} did not work: {fault.text}"
            return Outcome(ActionState.FAILED, text, fault.code, {"rolled_back": "failed"})
        self._watcher.nudge(order.device)
        if not back:
            return Outcome(ActionState.FAILED, f"{why}; it did not take {was} back", "timed_out", {"rolled_back": "failed"})
        return Outcome(ActionState.FAILED, f"{why}; went back to {was}", "timed_out", {"rolled_back": was})

    async def _why_not(self, identity: str, sheet: Sheet) -> str:
        try:
            mines, why = mines_on(await self._watcher.look(identity), sheet.pools)
        except Fault as fault:
            why, mines = fault.text, False
        return f"it began to mine there too late: {why}" if mines else f"within {sheet.verify_within_s} s {why}"

    async def _until(self, identity: str, limit_s: float, check: Check, away: _Away | None = None) -> str:
        """The first thing that `check` finds; empty when the time is over. A device that does not answer is asked again."""
        until_ms = self._clock.monotonic_ms() + round(limit_s * 1000)
        while True:
            try:
                if proof := check(await self._watcher.look(identity)):
                    return proof
            except NotFound:
                raise
            except Fault:
                if away is not None:
                    away.seen = True
            if self._clock.monotonic_ms() >= until_ms:
                return ""
            await self._clock.sleep(self._waits.look_every_s)

    def _keep(self, identity: str, sheet_id: str) -> None:
        self._sheets[identity] = sheet_id
        try:
            keyfile.write(self._path, msgspec.json.encode(self._sheets))
        except Fault as fault:  # shown until the next restart all the same
            log.warning("cannot keep which sheet was verified", extra={"why": fault.text})


@dataclass(slots=True)
class _Away:
    seen: bool = False


def _restarted(since_s: Callable[[], float], away: _Away) -> Check:
    def check(reading: Reading) -> str:
        return "its miner started anew" if restarted(reading, since_order_s=since_s(), was_away=away.seen) else ""

    return check


def _mining(pools: Sequence[PoolOrder]) -> Check:
    def check(reading: Reading) -> str:
        mines, what = mines_on(reading, pools)
        return what if mines else ""

    return check


def _must_have(driver: Driver, kind: ActionKind) -> None:
    if kind not in driver.capabilities:
        able = ", ".join(driver.capabilities) or "nothing"
        raise NotSupported(f"this {driver.make} cannot {kind.value.replace('_', ' ')}", hint=f"it can: {able}")


def _kept_sheets(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(keyfile.read(path), type=dict[str, str])
    except NotFound:
        return {}
    except (Fault, msgspec.DecodeError) as fault:
        log.warning("which sheets were verified is not known any more", extra={"why": str(fault)})
        return {}
