"""Power: gathers the facts, asks the rules, remembers what was switched.

Called by the orders (`arguments` before a power order is written, `within` in its transactions) and by `api.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commander.db import Database
from commander.fleet.audit import COMMANDER
from commander.model import ActionRow, BoardRow, Caller, DeviceRow, OutletRow, Sentry
from commander.power import rules, store
from commander.power.rules import Asked, Facts, Feed, Limits, Refusal, Switching
from garrison.clock import Clock
from garrison.faults import RuleRefused
from garrison.words import POWER_ACTIONS, ActionKind, SentryState


@dataclass(frozen=True, slots=True)
class Ports:
    """What the fleet knows; `main.py` connects it."""

    devices: Callable[[], Awaitable[Sequence[DeviceRow]]]
    outlets: Callable[[int], Awaitable[Sequence[OutletRow]]]
    boards: Callable[[], Awaitable[Sequence[BoardRow]]]
    sentries: Callable[[], Awaitable[Sequence[Sentry]]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusals` empty: it may be switched. `off_s` 0: not a cycle. `cuts`: of the last 24 h."""

    asked: Asked
    feeds: tuple[Feed, ...]
    cuts: tuple[Switching, ...]
    off_s: int
    refusals: tuple[Refusal, ...]


class Power:
    def __init__(self, db: Database, ports: Ports, clock: Clock, limits: Limits) -> None:
        self._db, self._ports, self._clock, self._limits = db, ports, clock, limits

    async def judge(self, asked: Asked, device: DeviceRow) -> Verdict:
        """What the rules say now; nothing is done."""
        feeds = await self._feeds(device)
        now_ms = self._clock.now_ms()
        # A longer interval than a day must be seen too. What lies ahead of now, after a clock was set back, is included.
        back_ms = max(rules.DAY_MS, self._limits.min_interval_s * 1000)
        found = await self._db.read(lambda c: store.since(c, now_ms - back_ms, device.id, device.identity or "", feeds))
        cuts = tuple(one for one in found if one.kind in rules.CUTS)
        facts = Facts(
            name=device.name,
            now_ms=now_ms,
            feeds=feeds,
            held=device.maintenance,
            cuts=cuts,
            quiet=rules.how_quiet(device, await self._ports.devices()),
        )
        return Verdict(asked, feeds, cuts, rules.off_s(asked, self._limits), rules.may_switch(asked, facts, self._limits))

    async def arguments(self, caller: Caller, kind: ActionKind, device: DeviceRow, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """For an order: which outlet of which board, at which sentry, how long off. RuleRefused names each rule that forbids it."""
        force = bool(given.get("force", False))
        asked = Asked(kind, int(given.get("off_s", 0)), person=caller != COMMANDER, force=force)
        verdict = await self.judge(asked, device)
        if verdict.refusals:
            raise refused(verdict.refusals)
        (feed,) = verdict.feeds
        chosen = {"sentry_id": feed.sentry, "board": feed.board, "outlet": feed.outlet, "force": force}
        return {**chosen, "off_s": verdict.off_s} if kind is ActionKind.POWER_CYCLE else chosen

    def within(self, c: sqlite3.Connection, row: ActionRow) -> None:
        """In the transaction of an order's new state: what the rules will count."""
        if row.kind in POWER_ACTIONS:
            feed = Feed(str(row.arguments["board"]), str(row.arguments["outlet"]))
            store.note(c, row, feed)

    async def _feeds(self, device: DeviceRow) -> tuple[Feed, ...]:
        outlets = [outlet for outlet in await self._ports.outlets(device.id) if outlet.device_id == device.id]
        boards = {board.id: board for board in await self._ports.boards()}
        connected = {
            sentry.id for sentry in await self._ports.sentries() if sentry.state in (SentryState.CONNECTED, SentryState.LAGGING)
        }
        feeds = []
        for outlet in outlets:
            sentry_id = boards[outlet.board_id].sentry_id if outlet.board_id in boards else ""
            feeds.append(Feed(outlet.board_id, outlet.outlet, outlet.protected, sentry_id, sentry_id in connected))
        return tuple(feeds)


def refused(refusals: Sequence[Refusal]) -> RuleRefused:
    """All of them in one fault, each with the name of its rule."""
    text = "; ".join(f"rule {one.rule}: {one.text}" for one in refusals)
    hints = list(dict.fromkeys(one.hint for one in refusals if one.hint))
    return RuleRefused(text, hint="; ".join(hints))
