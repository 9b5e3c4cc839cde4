"""Watches that ASICs keep the pools they were given, tells when they do not, and puts it right if the owner wants that.

A difference that stays for some looks is one critical event with the list of all devices that changed alike; devices that
follow join it. With `restore` each gets the sheet again that it was given, by an ordinary order: written before it is sent,
sent once, verified by its sentry. How often is counted in the transaction that writes the order, so that no restart
forgets one. After the second time the device is left alone, and that is an event too. A person's order begins anew.

Called by the orders (`within`, `changed`) and by `main.py` (`run`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from commander.db import Database
from commander.fleet import many
from commander.fleet.records import EventRecord
from commander.flight_sheets import pool_rules as rules
from commander.flight_sheets import pool_store, store
from commander.flight_sheets.pool_rules import Difference, Look, Record, Verdict
from commander.flight_sheets.records import Application
from commander.model import ActionRow, Caller, DeviceRow
from garrison.clock import Clock
from garrison.faults import Fault
from garrison.words import ActionKind, ActionState

log = logging.getLogger(__name__)
K = TypeVar("K")

RESTORER = Caller("commander/restore_pools", "administrator", local=True)
"""Who orders it. No person has a name with a slash."""
CHANGED = "pools_changed"
LEFT = "pools_left_alone"
HOLD_LOOKS = 3
HOLD_S = 5.0
"""A difference must stay for so many looks and a little. What is gone sooner was none: somebody typed, or a look was on its way."""
AT_ONCE = 100
"""Devices that are put right in one round: their pools restart, and an error of ours must not stop a whole farm at once."""
AGAIN_MS = 60_000
"""An order that was refused, mostly because another one is open, is tried again after this."""
PIECE = 500


@dataclass(frozen=True, slots=True)
class Ports:
    """What the other parts do; `main.py` connects them. `restore` orders it of these devices and says which got no order."""

    devices: Callable[[Sequence[int]], Awaitable[Sequence[DeviceRow]]]
    switching: Callable[[], Awaitable[frozenset[int]]]
    restore: Callable[[Sequence[str]], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Found:
    """A device whose difference has stayed. `held`: it had what it was assigned before, so somebody changed it."""

    device: DeviceRow
    wanted: Application
    difference: Difference
    held: bool = False

    @property
    def signature(self) -> str:
        return self.difference.signature if self.held else f"order {self.difference.signature}"

    @property
    def change(self) -> str:
        return self.difference.change if self.held else f"never took what it was ordered and {self.difference.change}"

    @property
    def named(self) -> many.Named:
        return self.device.id, self.device.name

    @property
    def able(self) -> bool:
        return ActionKind.APPLY_FLIGHT_SHEET in self.device.capabilities


class PoolWatch:
    """`look_s`: how often devices are looked at, and compared."""

    def __init__(self, db: Database, ports: Ports, clock: Clock, *, restore: bool, look_s: float) -> None:
        self._db, self._ports, self._clock, self._restore, self._look_s = db, ports, clock, restore, look_s
        self._hold_ms = round((HOLD_LOOKS * look_s + HOLD_S) * 1000)
        self._wanted: dict[int, Application] | None = None
        self._stale: set[int] = set()
        self._since: dict[int, tuple[str, str, int]] = {}
        self._looked: dict[int, tuple[DeviceRow, Application, Difference | Look]] = {}
        self._not_before_ms: dict[str, int] = {}

    # ---- for the orders ----------------------------------------------------------------------------------------

    def within(self, c: sqlite3.Connection, row: ActionRow) -> None:
        """In the transaction of an order's new state."""
        if row.kind is not ActionKind.APPLY_FLIGHT_SHEET:
            return
        if row.state is ActionState.SUCCEEDED:
            if store.wanted_action(c, row.device_id) == row.id:
                pool_store.held(c, row.device_id)
        elif row.state is ActionState.QUEUED and row.asked_by == RESTORER.name:
            pool_store.count_restore(c, row.device_id, row.id)
        elif row.state is ActionState.QUEUED:
            pool_store.ordered(c, row.device_id)

    def changed(self, row: ActionRow) -> None:
        if row.kind is ActionKind.APPLY_FLIGHT_SHEET:
            self._stale.add(row.device_id)

    # ---- by itself ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.tick()
            except Fault as fault:  # no space, or the file is busy: it passes, and the next round does it
                log.warning("pools are not compared", extra={"fault": fault.code, "text": fault.text})
            await self._clock.sleep(self._look_s)

    async def tick(self) -> None:
        wanted = await self._assigned()
        switching = await self._ports.switching()  # before the devices: what they tell is then newer than an order's end
        found, right = await self._look(wanted, switching)
        records = await self._db.read(pool_store.records)
        found = [replace(one, held=_held(records.get(one.device.id))) for one in found]
        right = {
            one: action for one, action in right.items() if (kept := records.get(one)) is None or kept.drifting or not kept.held
        }
        news = [one for one in found if _is_news(records.get(one.device.id), one)]
        if right or news:
            now_ms = self._clock.now_ms()
            await self._db.write(lambda c: self._note(c, news, right, now_ms))
            records = await self._db.read(pool_store.records)
        await self._act(found, records)

    async def _assigned(self) -> Mapping[int, Application]:
        stale, self._stale = self._stale, set()
        try:
            if self._wanted is None:
                self._wanted = {one.device_id: one for one in await self._db.read(store.wanted)}
            elif stale:
                fresh = await self._db.read(lambda c: {one: store.wanted_of(c, one) for one in stale})
                kept = {one: known for one, known in self._wanted.items() if one not in fresh}
                self._wanted = kept | {one: known for one, known in fresh.items() if known is not None}
        except BaseException:
            self._stale |= stale
            raise
        return self._wanted

    async def _look(self, wanted: Mapping[int, Application], switching: frozenset[int]) -> tuple[list[Found], dict[int, str]]:
        """Those whose difference has stayed, and those that are right, each with the order that it was compared with."""
        now_ms = self._clock.monotonic_ms()
        since, looked, found, right = {}, {}, [], {}
        async for device in self._devices(wanted):
            one = wanted[device.id]
            if device.kind != "asic" or device.id in switching:
                continue
            before = self._looked.get(device.id)
            if before is not None and before[0] is device and before[1] is one:
                look = before[2]
            else:
                look = rules.looked(one.rendered.pools, device.pools, device.state)
            looked[device.id] = device, one, look
            if look is Look.RIGHT:
                right[device.id] = one.action_id
            elif isinstance(look, Difference):
                what = (look.signature, one.action_id)  # of an order that came meanwhile the device may not have told yet
                known = self._since.get(device.id)
                since[device.id] = known if known is not None and known[:2] == what else (*what, now_ms)
                if now_ms - since[device.id][2] >= self._hold_ms:
                    found.append(Found(device, one, look))
        self._since, self._looked = since, looked
        return found, right

    async def _devices(self, wanted: Mapping[int, Application]) -> AsyncIterator[DeviceRow]:
        """In pieces, so that the event loop goes on."""
        ids = sorted(wanted)
        for first in range(0, len(ids), PIECE):
            for device in await self._ports.devices(ids[first : first + PIECE]):
                yield device
            await asyncio.sleep(0)

    # ---- telling -----------------------------------------------------------------------------------------------

    def _note(self, c: sqlite3.Connection, news: Sequence[Found], right: Mapping[int, str], now_ms: int) -> None:
        """In the writer: who drifts now, with the events that say so, and who does no longer. Not of those that a newer order
        was given meanwhile: nothing of before counts.
        """
        records = pool_store.records(c)
        news = [one for one in news if store.wanted_action(c, one.device.id) == one.wanted.action_id]
        for device_id, action_id in right.items():
            if store.wanted_action(c, device_id) == action_id:
                pool_store.is_right(c, device_id, now_ms)
        for signature, alike in _by(news, lambda one: one.signature).items():
            open_now = rules.open_event(signature, records.values(), now_ms)
            of_event: dict[int | None, list[Found]] = defaultdict(list)
            for one in alike:
                record = records.get(one.device.id, Record(one.device.id))
                of_event[rules.event_of(record, signature, open_now, now_ms)].append(one)
            for event_id, ones in of_event.items():
                told = self._tell(c, event_id, CHANGED, ones, now_ms)
                for one in ones:
                    pool_store.drifts(c, one.device.id, signature, told, now_ms)

    def _tell(self, c: sqlite3.Connection, event_id: int | None, kind: str, ones: Sequence[Found], now_ms: int) -> int:
        """One event about all of them: a new one, or `event_id` with those that it did not name yet."""
        before = many.of_event(c, event_id) if event_id is not None else ()
        devices = dict(before) | dict(one.named for one in ones)
        first = ones[0]
        detail = {
            "pools": rules.spelled(first.difference.told),
            "assigned": rules.spelled(first.difference.assigned),
            "devices": str(len(devices)),
        }
        names = list(devices.values())
        text = rules.told(names, first.change)
        if kind == LEFT:
            text = rules.left(names, rules.MAX_RESTORES, able=first.able)
        if event_id is not None and (len(devices) == len(before) or many.change(c, event_id, text, detail, devices.items())):
            return event_id
        alone = first.device if len(devices) == 1 else None
        event = EventRecord(
            now_ms, kind, text, "critical", first.device.sentry_id if alone else "", alone.id if alone else None, detail=detail
        )
        log.error("pools are not what was assigned", extra={"kind": kind, "text": text})
        return many.add(c, event, devices.items())

    # ---- acting ------------------------------------------------------------------------------------------------

    async def _act(self, found: Sequence[Found], records: Mapping[int, Record]) -> None:
        found = [one for one in found if one.device.id in records]
        verdicts = [(one, rules.verdict(records[one.device.id], restore=self._restore, able=one.able)) for one in found]
        left = [one for one, what in verdicts if what is Verdict.LEAVE and records[one.device.id].left_event_id is None]
        if left:
            now_ms = self._clock.now_ms()
            await self._db.write(lambda c: self._leave(c, left, now_ms))
        now_ms = self._clock.monotonic_ms()
        self._not_before_ms = {one: at_ms for one, at_ms in self._not_before_ms.items() if at_ms > now_ms}
        ask = [one.device.identity for one, what in verdicts if what is Verdict.RESTORE and one.device.identity is not None]
        ask = [one for one in ask if one not in self._not_before_ms][:AT_ONCE]
        if ask:
            refused = await self._ports.restore(ask)
            self._not_before_ms |= dict.fromkeys(refused, now_ms + AGAIN_MS)

    def _leave(self, c: sqlite3.Connection, left: Sequence[Found], now_ms: int) -> None:
        records = pool_store.records(c)
        for (event_id, _), ones in _by(left, lambda one: (records[one.device.id].event_id, one.able)).items():
            earlier = (one.left_event_id for one in records.values() if one.event_id == event_id and one.left_event_id is not None)
            told = self._tell(c, max(earlier, default=None), LEFT, ones, now_ms)
            for one in ones:
                pool_store.is_left(c, one.device.id, told)


def _held(record: Record | None) -> bool:
    return record is not None and (record.held or record.restores > 0)


def _is_news(record: Record | None, one: Found) -> bool:
    return record is None or not record.drifting or record.signature != one.signature or record.event_id is None


def _by(ones: Iterable[Found], key: Callable[[Found], K]) -> dict[K, list[Found]]:
    groups: defaultdict[K, list[Found]] = defaultdict(list)
    for one in ones:
        groups[key(one)].append(one)
    return dict(groups)
