"""Every order that switched mains, or may have, in `fleet.db`: what the rules count."""

from __future__ import annotations

import sqlite3

from commander.model import ActionRow
from commander.power.rules import Feed, Switching
from garrison.words import ActionKind, ActionState

_NEVER = (ActionState.REFUSED, ActionState.EXPIRED, ActionState.CANCELLED)
"""Mains was not touched, unless the order had been started before. What failed or is unknown counts: it may have clicked."""

_BY_A_RULE = ("rule_refused", "guard_refused")
"""Refused by the sentry's own rules: they are asked after the start, and before anything is switched."""


def create_tables(c: sqlite3.Connection) -> None:
    # No foreign keys: it counts also when the device or the board was removed and added again.
    c.execute(
        "create table power_switchings (action_id text primary key, kind text not null, device_id integer not null,"
        " identity text not null, board_id text not null, outlet text not null, at_ms integer not null, state integer not null,"
        " started integer not null, by_a_rule integer not null)"
    )
    c.execute("create index power_switchings_at on power_switchings (at_ms)")


def note(c: sqlite3.Connection, row: ActionRow, feed: Feed) -> None:
    """A new order counts from now; when it is started, from then."""
    started = ActionState.STARTED
    c.execute(
        "insert into power_switchings (action_id, kind, device_id, identity, board_id, outlet, at_ms, state, started, by_a_rule)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (action_id) do update set state = excluded.state,"
        " at_ms = case when excluded.state = ? then excluded.at_ms else power_switchings.at_ms end,"
        " started = case when excluded.started = 1 then 1 else power_switchings.started end, by_a_rule = excluded.by_a_rule",
        (
            row.id,
            row.kind.value,
            row.device_id,
            row.identity,
            feed.board,
            feed.outlet,
            row.updated_ms,
            int(row.state),
            int(row.state >= started and row.state not in _NEVER),
            int(row.fault in _BY_A_RULE),
            int(started),
        ),
    )


def since(c: sqlite3.Connection, since_ms: int, device_id: int, identity: str, feeds: tuple[Feed, ...]) -> list[Switching]:
    """Of this device, by whatever it is known, and of its outlets, whatever they fed then. Oldest first."""
    found = c.execute(
        "select kind, device_id, identity, board_id, outlet, at_ms from power_switchings"
        " where at_ms >= ? and not (state in (?, ?, ?) and (started = 0 or by_a_rule = 1)) order by at_ms",
        (since_ms, *(int(state) for state in _NEVER)),
    )
    outlets = {(feed.board, feed.outlet) for feed in feeds}
    return [
        Switching(ActionKind(row["kind"]), row["at_ms"])
        for row in found
        if row["device_id"] == device_id
        or (identity and row["identity"] == identity)
        or (row["board_id"], row["outlet"]) in outlets
    ]
