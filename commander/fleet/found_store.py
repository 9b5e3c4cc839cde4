"""The table of devices that scans found and nobody has adopted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from commander.fleet.records import FoundRecord
from garrison.model import Device

COLUMNS = "sentry_id, address, first_ms, seen_ms, dismissed, told, seen"


def create_table(c: sqlite3.Connection) -> None:
    c.execute(
        "create table found (sentry_id text not null, address text not null, first_ms integer not null, seen_ms integer not null,"
        " dismissed integer not null, told text not null, seen text not null, primary key (sentry_id, address))"
    )


def put(c: sqlite3.Connection, records: Iterable[FoundRecord]) -> None:
    for one in records:
        c.execute(
            f"insert into found ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?) on conflict (sentry_id, address) do update set"  # noqa: S608  # our own constant
            " first_ms = excluded.first_ms, seen_ms = excluded.seen_ms, dismissed = excluded.dismissed, told = excluded.told,"
            " seen = excluded.seen",
            _row(one),
        )


def remove(c: sqlite3.Connection, keys: Iterable[tuple[str, str]]) -> None:
    for key in sorted(keys):
        c.execute("delete from found where sentry_id = ? and address = ?", key)


def _row(one: FoundRecord) -> tuple[object, ...]:
    seen = msgspec.json.encode(one.seen).decode()
    return one.sentry_id, one.address, one.first_ms, one.seen_ms, int(one.dismissed), "\n".join(one.told), seen


def found(c: sqlite3.Connection) -> list[FoundRecord]:
    decode = msgspec.json.Decoder(Device).decode
    rows = c.execute(f"select {COLUMNS} from found")  # noqa: S608  # our own constant
    return [
        FoundRecord(one[0], one[1], decode(one[6]), one[2], one[3], bool(one[4]), tuple(one[5].split("\n")) if one[5] else ())
        for one in rows
    ]
