"""The fleet's tables. The service holds all of it in memory and writes rows here as they change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from commander.fleet import audit, found_store, many, marks
from commander.fleet.records import BoardRecord, DeviceRecord, EventRecord, FoundRecord, OutletRecord, SentryRecord
from garrison.model import Device

EVENTS_KEPT = 1_000_000
EVENTS_KEPT_MS = 400 * 86_400_000

_SENTRY = (
    "id, kind, name, standing, fingerprint, site, address, software, enrolled_ms, seen_ms, certificate_until_ms,"
    " frames_dropped, clock_skew_ms, capabilities, facts, revision, digest"
)
_DEVICE = (
    "id, identity, sentry_id, kind, name, added_ms, named, watched_address, make_hint, http_port, expected_hashrate_hs, sealed,"
    " simulated, maintenance, site, rack, position, tags, wanted_sheet_id, left_it, seen, notes"
)
_BOARD = "id, name, sentry_id, kind, address, outlets, added_ms, simulated, sealed, options"
_OUTLET = "board_id, outlet, device_id, circuit, protected"
_EVENT = "at_ms, kind, text, severity, sentry_id, device_id, device, detail"


def create_tables(c: sqlite3.Connection) -> None:
    c.execute(
        "create table sentries (id text primary key, kind text not null, name text not null, standing text not null,"
        " fingerprint text not null, site text not null, address text, software text, enrolled_ms integer, seen_ms integer,"
        " certificate_until_ms integer, frames_dropped integer, clock_skew_ms integer, capabilities text not null,"
        " facts text not null, revision integer not null, digest text not null)"
    )
    # No foreign key to sentries: what a sentry once watched stays, with its history, when the sentry is gone.
    c.execute(
        "create table devices (id integer primary key, identity text unique, sentry_id text not null, kind text not null,"
        " name text not null, added_ms integer not null, named integer not null, watched_address text not null,"
        " make_hint text not null, http_port integer not null, expected_hashrate_hs real, sealed blob, simulated integer not null,"
        " maintenance integer not null, site text not null, rack text not null, position text not null, tags text not null,"
        " wanted_sheet_id text not null, left_it integer not null, seen text)"
    )
    c.execute(
        "create table boards (id text primary key, name text not null, sentry_id text not null, kind text not null,"
        " address text not null, outlets integer not null, added_ms integer not null, simulated integer not null, sealed blob,"
        " options text not null)"
    )
    c.execute(
        "create table outlets (board_id text not null references boards (id) on delete cascade, outlet text not null,"
        " device_id integer references devices (id) on delete set null, circuit text not null, protected integer not null,"
        " primary key (board_id, outlet))"
    )
    c.execute(
        "create table events (id integer primary key autoincrement, at_ms integer not null, kind text not null, text text not null,"
        " severity text not null, sentry_id text not null, device_id integer, device text not null, detail text not null)"
    )
    c.execute("create index events_at on events (at_ms)")
    c.execute("create index events_device on events (device_id, id)")
    c.execute("create table counters (name text primary key, value integer not null)")
    marks.create_table(c)
    audit.create_table(c)


def add_notes(c: sqlite3.Connection) -> None:
    c.execute("alter table devices add column notes text not null default ''")


@dataclass(slots=True)
class Changes:
    """Rows to write in one transaction. Counters only rise, so that a removed row's number is never given again."""

    sentries: dict[str, SentryRecord] = field(default_factory=dict)
    devices: dict[int, DeviceRecord] = field(default_factory=dict)
    removed_devices: set[int] = field(default_factory=set)
    boards: dict[str, BoardRecord] = field(default_factory=dict)
    removed_boards: set[str] = field(default_factory=set)
    outlets: dict[tuple[str, str], OutletRecord] = field(default_factory=dict)
    removed_outlets: set[tuple[str, str]] = field(default_factory=set)
    found: dict[tuple[str, str], FoundRecord] = field(default_factory=dict)
    removed_found: set[tuple[str, str]] = field(default_factory=set)
    events: list[EventRecord] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(
            (
                self.sentries,
                self.devices,
                self.removed_devices,
                self.boards,
                self.removed_boards,
                self.outlets,
                self.removed_outlets,
                self.found,
                self.removed_found,
                self.events,
                self.counters,
            )
        )


def apply(c: sqlite3.Connection, changes: Changes) -> None:
    """Removals first: a device that is removed may hold the identity that another one takes."""
    c.executemany("delete from outlets where board_id = ? and outlet = ?", sorted(changes.removed_outlets))
    c.executemany("delete from devices where id = ?", [(one,) for one in sorted(changes.removed_devices)])
    c.executemany("delete from boards where id = ?", [(one,) for one in sorted(changes.removed_boards)])
    found_store.remove(c, changes.removed_found)
    c.executemany(_upsert("sentries", _SENTRY, "id"), map(_sentry_row, changes.sentries.values()))
    if changes.devices:
        c.executemany(_upsert("devices", _DEVICE, "id"), map(_device_row, changes.devices.values()))
    c.executemany(_upsert("boards", _BOARD, "id"), map(_board_row, changes.boards.values()))
    c.executemany(_upsert("outlets", _OUTLET, "board_id, outlet"), map(_outlet_row, changes.outlets.values()))
    found_store.put(c, changes.found.values())
    for event in changes.events:
        add_event(c, event)
    c.executemany(
        "insert into counters (name, value) values (?, ?) on conflict (name) do update set value = excluded.value"
        " where excluded.value > counters.value",
        changes.counters.items(),
    )


def _upsert(table: str, columns: str, key: str) -> str:
    names = [name.strip() for name in columns.split(",")]
    sets = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key.split(", "))
    places = ", ".join("?" * len(names))
    return f"insert into {table} ({columns}) values ({places}) on conflict ({key}) do update set {sets}"  # noqa: S608  # our own constants


# ---- rows ----------------------------------------------------------------------------------------------------


def _sentry_row(one: SentryRecord) -> tuple[object, ...]:
    return (
        one.id,
        one.kind,
        one.name,
        one.standing,
        one.fingerprint,
        one.site,
        one.address,
        one.software,
        one.enrolled_ms,
        one.seen_ms,
        one.certificate_until_ms,
        one.frames_dropped,
        one.clock_skew_ms,
        json.dumps(one.capabilities),
        json.dumps(dict(one.facts)),
        one.revision,
        one.digest,
    )


def _device_row(one: DeviceRecord) -> tuple[object, ...]:
    return (
        one.id,
        one.identity,
        one.sentry_id,
        one.kind,
        one.name,
        one.added_ms,
        int(one.named),
        one.watched_address,
        one.make_hint,
        one.http_port,
        one.expected_hashrate_hs,
        one.sealed,
        int(one.simulated),
        int(one.maintenance),
        one.site,
        one.rack,
        one.position,
        json.dumps(one.tags),
        one.wanted_sheet_id,
        int(one.left),
        None if one.seen is None else msgspec.json.encode(one.seen).decode(),
        one.notes,
    )


def _board_row(one: BoardRecord) -> tuple[object, ...]:
    return (
        one.id,
        one.name,
        one.sentry_id,
        one.kind,
        one.address,
        one.outlets,
        one.added_ms,
        int(one.simulated),
        one.sealed,
        json.dumps(dict(one.options)),
    )


def _outlet_row(one: OutletRecord) -> tuple[object, ...]:
    return (one.board_id, one.outlet, one.device_id, one.circuit, int(one.protected))


def sentries(c: sqlite3.Connection) -> list[SentryRecord]:
    return [
        SentryRecord(*(*row[:13], tuple(json.loads(row[13])), json.loads(row[14]), row[15], row[16]))
        for row in c.execute(f"select {_SENTRY} from sentries")  # noqa: S608  # our own constant
    ]


def devices(c: sqlite3.Connection) -> list[DeviceRecord]:
    decode = msgspec.json.Decoder(Device).decode
    return [
        DeviceRecord(
            *(
                *row[:6],
                bool(row[6]),
                *row[7:12],
                bool(row[12]),
                bool(row[13]),
                *row[14:17],
                tuple(json.loads(row[17])),
                row[18],
                bool(row[19]),
                None if row[20] is None else decode(row[20]),
                row[21],
            )
        )
        for row in c.execute(f"select {_DEVICE} from devices")  # noqa: S608  # our own constant
    ]


def boards(c: sqlite3.Connection) -> list[BoardRecord]:
    return [
        BoardRecord(*(*row[:7], bool(row[7]), row[8], json.loads(row[9])))
        for row in c.execute(f"select {_BOARD} from boards")  # noqa: S608  # our own constant
    ]


def outlets(c: sqlite3.Connection) -> list[OutletRecord]:
    return [
        OutletRecord(*(*row[:4], bool(row[4])))
        for row in c.execute(f"select {_OUTLET} from outlets")  # noqa: S608  # our own constant
    ]


def counters(c: sqlite3.Connection) -> dict[str, int]:
    return dict(tuple(row) for row in c.execute("select name, value from counters"))


def set_seen(c: sqlite3.Connection, seen_ms: Mapping[str, int]) -> None:
    """When each sentry was last heard."""
    c.executemany("update sentries set seen_ms = ? where id = ?", [(at_ms, one) for one, at_ms in seen_ms.items()])


def renumber(c: sqlite3.Connection, now_ms: int) -> None:
    """After a restore: every assignment becomes newer than any that the lost days may have sent."""
    c.execute("update sentries set revision = ? where revision > 0 and revision < ?", (now_ms, now_ms))


# ---- events --------------------------------------------------------------------------------------------------


def add_event(c: sqlite3.Connection, one: EventRecord) -> None:
    c.execute(
        f"insert into events ({_EVENT}) values (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # our own constant
        (one.at_ms, one.kind, one.text, one.severity, one.sentry_id, one.device_id, one.device, json.dumps(dict(one.detail))),
    )


def events(
    c: sqlite3.Connection,
    *,
    device_id: int | None = None,
    sentry_id: str | None = None,
    kinds: Iterable[str] = (),
    since_ms: int = 0,
    before_id: int | None = None,
    limit: int = 100,
) -> list[EventRecord]:
    """Newest first."""
    wanted = sorted(set(kinds))
    where = ["at_ms >= ?"]
    values: list[object] = [since_ms]
    if device_id is not None:
        where.append("(device_id = ? or id in (select event_id from event_devices where device_id = ?))")
        values += [device_id, device_id]
    for clause, value in (("sentry_id = ?", sentry_id), ("id < ?", before_id)):
        if value is not None:
            where.append(clause)
            values.append(value)
    if wanted:
        where.append(f"kind in ({', '.join('?' * len(wanted))})")
        values += wanted
    found = c.execute(
        f"select {_EVENT}, id from events where {' and '.join(where)} order by id desc limit ?",  # noqa: S608  # clauses above
        (*values, limit),
    ).fetchall()
    lists = many.of_events(c, [row[8] for row in found])
    return [EventRecord(*(*row[:7], json.loads(row[7]), row[8], lists.get(row[8], ()))) for row in found]


def trim_events(c: sqlite3.Connection, now_ms: int, *, kept: int = EVENTS_KEPT, at_most: int = 10_000) -> int:
    """Removes up to `at_most` events that are too old or too many; returns how many."""
    newest = c.execute("select coalesce(max(id), 0) from events").fetchone()[0]
    return c.execute(
        "delete from events where id in (select id from events where at_ms < ? or id <= ? order by id limit ?)",
        (now_ms - EVENTS_KEPT_MS, newest - kept, at_most),
    ).rowcount
