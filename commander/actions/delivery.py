"""Orders on their way to a sentry.

An order is marked sent (durably) before it is handed to the stream: so what is `queued` was surely not sent. Whatever was
sent and not answered goes again under its id, in the next session or in this one; the sentry carries it out once.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Protocol

from commander.actions import rules, store
from commander.db import Database
from commander.model import ActionRow
from garrison.clock import Clock
from garrison.faults import BadInput
from garrison.model import Order
from garrison.words import ActionState

log = logging.getLogger(__name__)

REMIND_S = 30


class Line(Protocol):
    """To the sentries. `send` and `cancel_at` say False when it is not connected, or has too much waiting."""

    @property
    def send(self) -> Callable[[str, Order], bool]: ...

    @property
    def cancel_at(self) -> Callable[[str, str], bool]: ...

    @property
    def connected(self) -> Callable[[str], bool]: ...


class Delivery:
    """`keep` writes a changed order, with its hooks, in the transaction it is given."""

    def __init__(
        self, db: Database, line: Line, clock: Clock, epoch: int, keep: Callable[[sqlite3.Connection, ActionRow], None]
    ) -> None:
        self._db, self._line, self._clock, self._epoch, self._keep = db, line, clock, epoch, keep
        self._locks: dict[str, asyncio.Lock] = {}
        self._handed_ms: dict[str, int] = {}
        self.held: dict[str, str] = {}
        """Sentries that get no orders for now, each with the reason."""
        self._started_ms = clock.monotonic_ms()

    def lock(self, sentry_id: str) -> asyncio.Lock:
        """Held while orders of this sentry are marked and handed over, and while one is called back."""
        return self._locks.setdefault(sentry_id, asyncio.Lock())

    async def orders_for(self, sentry_id: str) -> list[Order]:
        """For a sentry that has just connected, oldest first."""
        if sentry_id in self.held:
            return []
        async with self.lock(sentry_id):
            now_ms = self._clock.now_ms()
            await self._db.write(lambda c: self._mark_sent(c, sentry_id, now_ms))
            rows = await self._db.read(lambda c: store.all_open(c, sentry_id))
        orders = [order for row in rows if rules.may_be_sent(row, now_ms) and (order := self._order(row, now_ms)) is not None]
        self._handed_ms |= {order.id: self._clock.monotonic_ms() for order in orders}
        return orders

    async def send_queued(self, sentry_id: str) -> None:
        if sentry_id in self.held:
            await self.explain(sentry_id)
            return
        if not self._line.connected(sentry_id):
            return
        async with self.lock(sentry_id):
            now_ms = self._clock.now_ms()
            rows = await self._db.write(lambda c: self._mark_sent(c, sentry_id, now_ms))
            back = [row for row in rows if not self._handed_over(row, now_ms)]
            if back:
                await self._db.write(lambda c: self._unmark(c, back))

    async def explain(self, sentry_id: str) -> None:
        """Why its queued orders wait stands in their text, and no longer when it is over."""
        async with self.lock(sentry_id):
            await self._db.write(lambda c: self._explain(c, sentry_id))

    def _explain(self, c: sqlite3.Connection, sentry_id: str) -> None:
        for row in store.all_open(c, sentry_id):
            if self.says_otherwise(row):
                self._keep(c, replace(row, text=self.held.get(sentry_id, "")))

    def says_otherwise(self, row: ActionRow) -> bool:
        return row.state is ActionState.QUEUED and row.text != self.held.get(row.sentry_id, "")

    async def remind(self, sentry_id: str) -> None:
        """A sentry that has too much to do lets orders go, and tells nobody: what it did not answer goes again, under its id."""
        if not self._line.connected(sentry_id):
            return
        async with self.lock(sentry_id):
            now_ms, long_ago_ms = self._clock.now_ms(), self._clock.monotonic_ms() - REMIND_S * 1000
            for row in await self._db.read(lambda c: store.all_open(c, sentry_id)):
                if row.cancel_asked and row.state in (ActionState.SENT, ActionState.ACCEPTED):
                    self._line.cancel_at(sentry_id, row.id)
                elif (
                    sentry_id not in self.held
                    and rules.may_be_sent(row, now_ms)
                    and self._handed_ms.get(row.id, self._started_ms) <= long_ago_ms
                ):
                    self._handed_over(row, now_ms)

    def ask_back(self, row: ActionRow) -> None:
        """Asked again by `remind` until the sentry reports."""
        if self._line.connected(row.sentry_id):
            self._line.cancel_at(row.sentry_id, row.id)

    def forget_all_but(self, action_ids: Collection[str]) -> None:
        self._handed_ms = {one: at_ms for one, at_ms in self._handed_ms.items() if one in action_ids}

    def _handed_over(self, row: ActionRow, now_ms: int) -> bool:
        order = self._order(row, now_ms)
        taken = order is not None and self._line.send(row.sentry_id, order)
        if taken:
            self._handed_ms[row.id] = self._clock.monotonic_ms()
        return taken

    def _order(self, row: ActionRow, now_ms: int) -> Order | None:
        try:
            return rules.order_of(row, now_ms, self._epoch)
        except BadInput as fault:  # one stored order that cannot be read must not hold back the others; it expires
            log.warning("an order cannot be sent", extra={"action": row.id, "text": fault.text})
            return None

    def _mark_sent(self, c: sqlite3.Connection, sentry_id: str, now_ms: int) -> list[ActionRow]:
        marked = []
        for row in store.all_open(c, sentry_id):
            if row.state is ActionState.QUEUED and row.deadline_ms > now_ms:
                marked.append(replace(row, state=ActionState.SENT, updated_ms=now_ms, text=""))
                self._keep(c, marked[-1])
        return marked

    def _unmark(self, c: sqlite3.Connection, rows: Sequence[ActionRow]) -> None:
        """The stream took none of these: they are queued again, unless a report says that one arrived after all."""
        for row in rows:
            now = store.one(c, row.id)
            if now is not None and now.state is ActionState.SENT:
                self._keep(c, replace(now, state=ActionState.QUEUED))
