"""Events about several devices at once: the list of them beside the event. Their texts name only the first few."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping

from commander.fleet.records import EventRecord

Named = tuple[int, str]
"""A device's id, and its name when that was written."""


def create_table(c: sqlite3.Connection) -> None:
    c.execute(
        "create table event_devices (event_id integer not null references events (id) on delete cascade,"
        " device_id integer not null, device text not null, primary key (event_id, device_id))"
    )
    c.execute("create index event_devices_device on event_devices (device_id, event_id)")


def add(c: sqlite3.Connection, one: EventRecord, devices: Iterable[Named]) -> int:
    """Its id."""
    found = c.execute(
        "insert into events (at_ms, kind, text, severity, sentry_id, device_id, device, detail) values (?, ?, ?, ?, ?, ?, ?, ?)"
        " returning id",
        (one.at_ms, one.kind, one.text, one.severity, one.sentry_id, one.device_id, one.device, json.dumps(dict(one.detail))),
    ).fetchone()
    _join(c, found[0], devices)
    return int(found[0])


def change(c: sqlite3.Connection, event_id: int, text: str, detail: Mapping[str, str], devices: Iterable[Named]) -> bool:
    """More devices, and what is said of all of them now. False: the event is gone."""
    changed = c.execute(
        "update events set text = ?, detail = ?, device_id = null, sentry_id = '' where id = ?",
        (text, json.dumps(dict(detail)), event_id),
    ).rowcount
    if changed:
        _join(c, event_id, devices)
    return changed > 0


def of_event(c: sqlite3.Connection, event_id: int) -> tuple[Named, ...]:
    return of_events(c, [event_id]).get(event_id, ())


def of_events(c: sqlite3.Connection, event_ids: Iterable[int]) -> dict[int, tuple[Named, ...]]:
    """The list of each that has one."""
    ids = list(event_ids)
    found: defaultdict[int, list[Named]] = defaultdict(list)
    rows = c.execute(
        f"select event_id, device_id, device from event_devices where event_id in ({', '.join('?' * len(ids))})"  # noqa: S608  # question marks
        " order by event_id, device_id",
        ids,
    )
    for row in rows:
        found[row[0]].append((row[1], row[2]))
    return {event_id: tuple(devices) for event_id, devices in found.items()}


def _join(c: sqlite3.Connection, event_id: int, devices: Iterable[Named]) -> None:
    c.executemany(
        "insert into event_devices (event_id, device_id, device) values (?, ?, ?) on conflict (event_id, device_id) do nothing",
        [(event_id, device_id, name) for device_id, name in devices],
    )
