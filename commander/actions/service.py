"""Orders to hardware: given, sent, followed to their end.

An order is written before anything else happens with it; `delivery.py` brings it to its sentry. What the sentry says of it,
or fails to say in time, ends it. After a restart queued orders wait on and sent ones go again under their id.

Called by `api.py`, by the link (`open_orders`, `sent`, `take_report`) and by `main.py` (`run`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from commander.actions import rules, store
from commander.actions.delivery import Delivery
from commander.actions.store import ReportRow, Wanted
from commander.db import Database
from commander.fleet import audit, marks
from commander.model import ActionRow, Caller, DeviceRow
from garrison.clock import Clock
from garrison.faults import BadInput, Conflict, Fault, NotFound, Unavailable
from garrison.model import Order, Report, Sheet
from garrison.words import POWER_ACTIONS, ActionKind, ActionState

log = logging.getLogger(__name__)

_TAIL = re.compile(r"[0-9a-f-]{6,35}")
MAX_DEVICES = 10_000
MAX_WAIT_S = 300.0
TICK_S = 5.0
PATIENCE_S = 90
"""After our own start nobody is given up before sentries had the time to come back and report."""


@dataclass(frozen=True, slots=True)
class RefusedOrder:
    """Why one device of a request got no order. `device`: as the caller named it, or its name."""

    device: str
    code: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """What became of one request: an order for each device that may take it, and a reason for each other."""

    actions: tuple[ActionRow, ...]
    refused: tuple[RefusedOrder, ...]


@dataclass(frozen=True, slots=True)
class Ports:
    """What the other parts do for orders; `main.py` connects them.

    `render(sheet, device)` gives the flight sheet as this device would run it. `power_check(caller, kind, device,
    arguments)` gives the arguments of a power order, with the `sentry_id` of its relay board among them, or raises
    RuleRefused. `send` and `cancel_at` say False when the sentry is not connected.
    """

    device: Callable[[str], Awaitable[DeviceRow]]
    send: Callable[[str, Order], bool]
    cancel_at: Callable[[str, str], bool]
    connected: Callable[[str], bool]
    render: Callable[[str, DeviceRow], Awaitable[Sheet]]
    power_check: Callable[[Caller, ActionKind, DeviceRow, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Actions:
    """`epoch`: of this commander; sentries refuse orders of an older one."""

    def __init__(self, db: Database, ports: Ports, clock: Clock, *, epoch: int = 1) -> None:
        self._db, self._ports, self._clock = db, ports, clock
        self._delivery = Delivery(db, ports, clock, epoch, self._store)
        self.within: list[Callable[[sqlite3.Connection, ActionRow], None]] = []
        """Called in the transaction that writes a new order or a new state of one."""
        self.changed: list[Callable[[ActionRow], None]] = []
        """Called when that is durable. Must be quick and not fail."""
        self._ids = rules.Ids()
        self._judging = asyncio.Lock()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._started_ms = clock.monotonic_ms()
        self._closed = False

    # ---- giving orders -----------------------------------------------------------------------------------------

    async def create(
        self,
        caller: Caller,
        kind: ActionKind,
        devices: Sequence[str],
        arguments: Mapping[str, Any] | None = None,
        *,
        deadline_s: int | None = None,
    ) -> Ordered:
        """One order for each device. What makes no sense for all of them raises BadInput; what one device refuses is told."""
        if self._closed:
            raise Unavailable("the commander is stopping and takes no orders")
        if not 0 < len(devices) <= MAX_DEVICES:
            raise BadInput(f"name 1 to {MAX_DEVICES} devices, not {len(devices)}")
        given = rules.checked_arguments(kind, arguments or {})
        rules.check_count(kind, len(set(devices)))
        now_ms = self._clock.now_ms()
        batch = self._ids.next(now_ms, secrets.token_bytes(8))
        until_ms = rules.deadline_ms(kind, now_ms, deadline_s)
        # Power is judged over what was switched before: one request at a time, from the judgement to the commit.
        async with self._judging if kind in POWER_ACTIONS else contextlib.nullcontext():
            rows: dict[int, ActionRow] = {}
            refused: list[RefusedOrder] = []
            for ref in dict.fromkeys(devices):
                try:
                    row = await self._drawn_up(caller, kind, ref, given, batch, now_ms, until_ms)
                except Fault as fault:
                    refused.append(RefusedOrder(ref, fault.code, fault.text, fault.hint))
                else:
                    rows.setdefault(row.device_id, row)
            made, existing, clashes = await self._db.write(lambda c: self._enter(c, caller, kind, list(rows.values()), refused))
        self._tell(made)
        for sentry_id in dict.fromkeys(row.sentry_id for row in made):
            await self._delivery.send_queued(sentry_id)
        current = await self._rows([row.id for row in (*made, *existing)])
        return Ordered(tuple(current), (*refused, *clashes))

    async def _drawn_up(
        self, caller: Caller, kind: ActionKind, ref: str, given: Mapping[str, Any], batch: str, now_ms: int, until_ms: int
    ) -> ActionRow:
        device = await self._ports.device(ref)
        rules.check_device(kind, device)
        arguments = dict(given)
        sentry_id = device.sentry_id
        if kind is ActionKind.APPLY_FLIGHT_SHEET:
            arguments = {"sheet": msgspec.to_builtins(await self._ports.render(given["sheet"], device))}
        elif kind in POWER_ACTIONS:
            arguments = dict(await self._ports.power_check(caller, kind, device, given))
            sentry_id = arguments.pop("sentry_id")  # of the relay board: not always the one that watches the device
        return ActionRow(
            id=self._ids.next(now_ms, secrets.token_bytes(8)),
            kind=kind,
            device_id=device.id,
            sentry_id=sentry_id,
            state=ActionState.QUEUED,
            asked_by=caller.name,
            created_ms=now_ms,
            deadline_ms=until_ms,
            updated_ms=now_ms,
            arguments=arguments,
            device=device.name,
            identity=device.identity or "",
            simulated=device.simulated,
            batch=batch,
        )

    def _enter(
        self, c: sqlite3.Connection, caller: Caller, kind: ActionKind, rows: list[ActionRow], refused: Sequence[RefusedOrder]
    ) -> tuple[list[ActionRow], list[ActionRow], list[RefusedOrder]]:
        """In the writer: new orders, those that were open already, and what clashes with an open one."""
        made, existing, clashes = [], [], []
        for row in rows:
            is_open = store.open_of(c, row.device_id)
            try:
                if is_open is not None and rules.check_open(row, is_open):
                    existing.append(is_open)
                    continue
            except Conflict as fault:
                clashes.append(RefusedOrder(row.device, fault.code, fault.text, fault.hint))
                continue
            store.insert(c, row)
            self._hooks(c, row)
            made.append(row)
            detail = {"action": row.id, "sentry": row.sentry_id, **audited(row.arguments)}
            audit.record(c, row.created_ms, caller, f"order.{kind.value}", f"device {row.device_id}", detail)
        for one in (*refused, *clashes):
            detail = {"code": one.code, "text": one.text}
            audit.record(c, self._clock.now_ms(), caller, f"order.{kind.value}.refused", f"device {one.device[:80]}", detail)
        return made, existing, clashes

    async def cancel(self, caller: Caller, action_id: str) -> ActionRow:
        """Calls it back: at once while it was surely not sent, otherwise the sentry is asked. NotFound, Conflict."""
        row = await self.get(action_id)
        async with self._delivery.lock(row.sentry_id):
            row = await self._db.write(lambda c: self._recalled(c, caller, action_id))
        if row.state.final:
            self._tell([row])
        else:
            self._delivery.ask_back(row)
        return row

    def _recalled(self, c: sqlite3.Connection, caller: Caller, action_id: str) -> ActionRow:
        row = store.one(c, action_id)
        if row is None:
            raise NotFound(f"there is no order {action_id}")
        now_ms = self._clock.now_ms()
        if rules.recall(row) is rules.Recall.AT_ONCE:
            text = f"called back by {caller.name}; it was never sent"
            row = replace(row, state=ActionState.CANCELLED, updated_ms=now_ms, text=text, cancel_asked=True)
        else:
            row = replace(row, cancel_asked=True, text=f"{caller.name} asked for it back; waiting for its sentry")
        self._store(c, row)
        audit.record(c, now_ms, caller, "order.cancel", f"device {row.device_id}", {"action": row.id, "state": row.state.word})
        return row

    # ---- for the link ------------------------------------------------------------------------------------------

    async def open_orders(self, sentry_id: str) -> list[Order]:
        """What to send to a sentry that has just connected, oldest first; marked sent before this returns.

        Orders sent before and not heard of go again, under the same id. Those past their deadline do not.
        """
        return await self._delivery.orders_for(sentry_id)

    async def sent(self, action_id: str) -> None:
        """The link put it on the stream. It is marked so already: a crash in between must not leave it `queued`."""

    def hold(self, sentry_id: str, why: str) -> None:
        """Orders to it wait, and say why; empty: no longer. What was sent is still followed, and may be called back."""
        if why:
            self._delivery.held[sentry_id] = why
        else:
            self._delivery.held.pop(sentry_id, None)

    async def take_report(self, sentry_id: str, boot: bytes, seq: int, report: Report, *, twin: str = "") -> None:
        """Durable, with its effect, when it returns; a second time it has none. Late and repeated reports change nothing.

        `twin`: the post of a second machine with the sentry's identity. It was sent nothing: what it reports stood in the
        journal that it was copied with, and is kept without effect.
        """
        row = await self._db.write(lambda c: self._entered(c, sentry_id, boot, seq, report, twin))
        if row is not None:
            self._tell([row])

    def _entered(self, c: sqlite3.Connection, sentry_id: str, boot: bytes, seq: int, report: Report, twin: str) -> ActionRow | None:
        if not marks.once(c, twin or sentry_id, boot, seq):
            return None
        report = rules.bounded(report)
        now_ms = self._clock.now_ms()
        row = store.one(c, report.action_id)
        if row is None or row.sentry_id != sentry_id or twin:
            # A restored backup does not know the order; or a sentry speaks of one that is not its own. Kept, without effect.
            log.warning("report on an order that is not its own", extra={"sentry": twin or sentry_id, "action": report.action_id})
            store.add_report(c, sentry_id, now_ms, report, stray=True)
            return None
        store.add_report(c, sentry_id, now_ms, report, stray=False)
        state = rules.after_report(row.state, row.by_sentry, report.state)
        if state is None:
            return None
        row = replace(
            row,
            state=state,
            by_sentry=True,
            updated_ms=now_ms,
            fault=report.fault,
            text=report.text,
            result={**row.result, **report.detail},
        )
        self._store(c, row)
        return row

    # ---- looking -----------------------------------------------------------------------------------------------

    async def get(self, action_id: str) -> ActionRow:
        row = await self._db.read(lambda c: store.one(c, action_id))
        if row is None:
            raise NotFound(f"there is no order {action_id}", hint="`commander actions list` shows them")
        return row

    async def id_of(self, ref: str) -> str:
        """The id that `ref` is, or is the end of: 6 characters or more. NotFound, BadInput."""
        given = ref.strip().lower()
        if not _TAIL.fullmatch(given):
            return ref
        found = await self._db.read(lambda c: store.ending(c, given))
        if len(found) > 1:
            raise BadInput(f"several orders end with {ref}", hint="give more of the id")
        return found[0] if found else ref

    async def reports(self, action_id: str) -> list[ReportRow]:
        """What its sentry said of it, in the order it came."""
        return await self._db.read(lambda c: store.reports(c, action_id))

    async def find(self, wanted: Wanted) -> list[ActionRow]:
        """Newest first."""
        return await self._db.read(lambda c: store.find(c, wanted))

    async def busy(self, kind: ActionKind) -> frozenset[int]:
        """The devices with an open order of this kind."""
        unfinished = tuple(state for state in ActionState if not state.final)
        rows = await self.find(Wanted(states=unfinished, kind=kind, limit=MAX_DEVICES))
        return frozenset(row.device_id for row in rows)

    async def device_id(self, ref: str) -> int:
        return (await self._ports.device(ref)).id

    async def wait(self, action_id: str, timeout_s: float) -> ActionRow:
        """The order when it has ended, or as it stands after `timeout_s`. NotFound."""
        over = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(action_id, set()).add(over)
        try:
            row = await self.get(action_id)
            if row.state.final or self._closed:
                return row
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(timeout_s, MAX_WAIT_S))):
                    await over
            return await self.get(action_id)
        finally:
            self._waiting[action_id].discard(over)
            if not self._waiting[action_id]:
                del self._waiting[action_id]

    # ---- by itself ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Expires, gives up, sends what was left behind; until cancelled."""
        try:
            while True:
                try:
                    await self.tick()
                except Unavailable as fault:  # no space, or the file is busy: it passes, and the next tick does it
                    log.warning("orders wait", extra={"fault": fault.code, "text": fault.text})
                await self._clock.sleep(TICK_S)
        finally:
            self.close()

    async def tick(self) -> None:
        now_ms = self._clock.now_ms()
        patient = self._clock.monotonic_ms() - self._started_ms < PATIENCE_S * 1000
        late = [row.id for row in await self._db.read(store.all_open) if _assumed(row, now_ms, patient=patient)]
        ended = await self._db.write(lambda c: self._give_up(c, late, now_ms, patient=patient)) if late else []
        self._tell(ended)
        rows = await self._db.read(store.all_open)
        for sentry_id in dict.fromkeys(row.sentry_id for row in rows if self._delivery.says_otherwise(row)):
            await self._delivery.explain(sentry_id)
        for sentry_id in dict.fromkeys(row.sentry_id for row in rows if row.state is ActionState.QUEUED):
            await self._delivery.send_queued(sentry_id)
        for sentry_id in dict.fromkeys(row.sentry_id for row in rows if row.state in (ActionState.SENT, ActionState.ACCEPTED)):
            await self._delivery.remind(sentry_id)
        self._delivery.forget_all_but({row.id for row in rows})

    def close(self) -> None:
        """No new orders; whoever waits is answered."""
        self._closed = True
        for futures in self._waiting.values():
            for over in futures:
                if not over.done():
                    over.set_result(None)

    def _give_up(self, c: sqlite3.Connection, ids: Sequence[str], now_ms: int, *, patient: bool) -> list[ActionRow]:
        ended = []
        for action_id in ids:
            row = store.one(c, action_id)
            assumed = _assumed(row, now_ms, patient=patient) if row is not None else None
            if row is not None and assumed is not None:
                state, text = assumed
                ended.append(replace(row, state=state, by_sentry=False, updated_ms=now_ms, fault="timed_out", text=text))
                self._store(c, ended[-1])
        return ended

    def _store(self, c: sqlite3.Connection, row: ActionRow) -> None:
        store.update(c, row)
        self._hooks(c, row)

    def _hooks(self, c: sqlite3.Connection, row: ActionRow) -> None:
        for hook in self.within:
            hook(c, row)

    async def _rows(self, ids: Sequence[str]) -> list[ActionRow]:
        found = await self._db.read(lambda c: [store.one(c, action_id) for action_id in ids])
        return [row for row in found if row is not None]

    def _tell(self, rows: Sequence[ActionRow]) -> None:
        for row in rows:
            for listener in self.changed:
                listener(row)
            if row.state.final:
                for over in self._waiting.get(row.id, ()):
                    if not over.done():
                        over.set_result(None)


def _assumed(row: ActionRow, now_ms: int, *, patient: bool) -> tuple[ActionState, str] | None:
    assumed = rules.after_waiting(row, now_ms)
    return None if assumed is not None and patient and assumed[0] is ActionState.UNKNOWN else assumed


def audited(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without what is long or secret: of a sheet, which one, where to and to whom."""
    kept = {name: value for name, value in arguments.items() if name != "sheet"}
    sheet = arguments.get("sheet")
    if isinstance(sheet, Mapping):
        kept["sheet"] = {key: sheet.get(key) for key in ("id", "name", "coin", "wallet", "program", "version")}
        kept["sheet"]["pools"] = [{"url": pool["url"], "user": pool["user"]} for pool in sheet.get("pools", ())]
    return kept
