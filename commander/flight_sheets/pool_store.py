"""What is kept of each device whose pools are watched, in `fleet.db`: a row for every device that ever got a sheet."""

from __future__ import annotations

import sqlite3

from commander.flight_sheets.pool_rules import Record

_FIELDS = "device_id, held, restores, drifting, signature, event_id, left_event_id, changed_ms"


def create_table(c: sqlite3.Connection) -> None:
    # No foreign keys to devices or events: they are other subjects' tables.
    c.execute(
        "create table pool_watch (device_id integer primary key, held integer not null default 0,"
        " restores integer not null default 0, drifting integer not null default 0, signature text not null default '',"
        " event_id integer, left_event_id integer, changed_ms integer not null default 0, last_restore text not null default '')"
    )


def records(c: sqlite3.Connection) -> dict[int, Record]:
    found = c.execute(f"select {_FIELDS} from pool_watch")  # noqa: S608  # our own constant
    return {row[0]: Record(row[0], bool(row[1]), row[2], bool(row[3]), *row[4:8]) for row in found}


def ordered(c: sqlite3.Connection, device_id: int) -> None:
    """A person gave the device a sheet: nothing of before counts."""
    c.execute(
        "insert into pool_watch (device_id) values (?) on conflict (device_id) do update set held = 0, restores = 0,"
        " drifting = 0, signature = '', event_id = null, left_event_id = null, changed_ms = 0",
        (device_id,),
    )


def held(c: sqlite3.Connection, device_id: int) -> None:
    """It was seen with the pools it was assigned."""
    c.execute("insert into pool_watch (device_id, held) values (?, 1) on conflict (device_id) do update set held = 1", (device_id,))


def count_restore(c: sqlite3.Connection, device_id: int, action_id: str) -> None:
    """One more; the same order again counts once."""
    c.execute(
        "insert into pool_watch (device_id, restores, last_restore) values (?, 1, ?) on conflict (device_id)"
        " do update set restores = pool_watch.restores + 1, last_restore = excluded.last_restore"
        " where pool_watch.last_restore <> excluded.last_restore",
        (device_id, action_id),
    )


def drifts(c: sqlite3.Connection, device_id: int, signature: str, event_id: int, now_ms: int) -> None:
    """It drifts, and that was told. Another event than before: that it is left alone has not been told with that one."""
    c.execute(
        "insert into pool_watch (device_id, drifting, signature, event_id, changed_ms) values (?, 1, ?, ?, ?)"
        " on conflict (device_id) do update set drifting = 1, signature = excluded.signature, event_id = excluded.event_id,"
        " changed_ms = excluded.changed_ms,"
        " left_event_id = case when pool_watch.event_id = excluded.event_id then pool_watch.left_event_id end",
        (device_id, signature, event_id, now_ms),
    )


def is_right(c: sqlite3.Connection, device_id: int, now_ms: int) -> None:
    """It was seen with what it was assigned."""
    held(c, device_id)
    c.execute("update pool_watch set drifting = 0, changed_ms = ? where device_id = ? and drifting = 1", (now_ms, device_id))


def is_left(c: sqlite3.Connection, device_id: int, event_id: int) -> None:
    c.execute("update pool_watch set left_event_id = ? where device_id = ?", (event_id, device_id))
