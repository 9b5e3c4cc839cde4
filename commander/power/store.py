"""Every order that switched mains, or may have, in `fleet.db`: what the rules count."""

from __future__ import annotations

import sqlite3

from commander.power.rules import Feed, Switching
from garrison.words import ActionKind, ActionState

_NEVER = (ActionState.REFUSED, ActionState.EXPIRED, ActionState.CANCELLED)
"""Mains was surely not touched. What failed or is unknown counts: it may have clicked."""


def create_tables(c: sqlite3.Connection) -> None:
    # No foreign keys: it counts also when the device or the board was removed and added again.
    c.execute(
        "create table power_switchings (action_id text primary key, kind text not null, device_id integer not null,"
        " identity text not null, board_id text not null, outlet text not null, at_ms integer not null, state integer not null)"
    )
    c.execute("create index power_switchings_at on power_switchings (at_ms)")


def note(
    c: sqlite3.Connection,
    action_id: str,
    kind: ActionKind,
    device_id: int,
    identity: str,
    feed: Feed,
    at_ms: int,
    state: ActionState,
) -> None:
    """A new order counts from now; when it is started, from then."""
    c.execute(
        "insert into power_switchings (action_id, kind, device_id, identity, board_id, outlet, at_ms, state)"
        " values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (action_id) do update set state = excluded.state,"
        " at_ms = case when excluded.state = ? then excluded.at_ms else power_switchings.at_ms end",
        (action_id, kind.value, device_id, identity, feed.board, feed.outlet, at_ms, int(state), int(ActionState.STARTED)),
    )


def since(c: sqlite3.Connection, since_ms: int, device_id: int, identity: str, feeds: tuple[Feed, ...]) -> list[Switching]:
    """Of this device, by whatever it is known, and of its outlets, whatever they fed then. Oldest first."""
    found = c.execute(
        "select kind, device_id, identity, board_id, outlet, at_ms from power_switchings"
        " where at_ms >= ? and state not in (?, ?, ?) order by at_ms",
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
