"""The table of blocks, the same in hot.db and in every file of the archive, and all its SQL.

A row is one device over the time that its file keeps in one piece: two hours in hot.db, a day of looks or of 5-minute values,
a month of hourly ones. What is read is checked: a row whose bytes, time or device changed on disk is Broken, never wrong.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commander.telemetry import blocks
from commander.telemetry.blocks import Grain
from commander.telemetry.table import Table, interned
from garrison.faults import Broken
from garrison.frame import Column, Series

NEWEST_MS = -1
"""In place of a start, in hot.db: the device's last look alone, kept when its chunks go to the archive."""

PUT_LAYOUT = """insert into layouts (hash, columns) values (?, ?)
    on conflict (hash) do update set columns = excluded.columns where columns <> excluded.columns"""
"""The hash says what the text must be: one that the disk has harmed is put right by whoever knows it."""

_IDENTITY = struct.Struct("<qqIqq16s")
_BLOCK = "id, key, start_ms, layout, rows, first_ms, last_ms, crc, body"


@dataclass(frozen=True, slots=True)
class Packed:
    """A block ready to be written. Times of its first and last row."""

    key: int
    start_ms: int
    columns: tuple[Column, ...]
    rows: int
    first_ms: int
    last_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A block as it lies in its file; `key` as SQL has it."""

    id: int
    signed_key: int
    start_ms: int
    layout: int
    rows: int
    first_ms: int
    last_ms: int
    crc: int
    body: bytes

    @property
    def key(self) -> int:
        return unsigned(self.signed_key)


def create_tables(c: sqlite3.Connection) -> None:
    """Without the table of layouts, which hot.db has already."""
    # Not WITHOUT ROWID: blobs of kilobytes waste its pages (0.97 bytes a value instead of 0.70).
    c.execute(
        """create table blocks (id integer primary key, key integer not null, start_ms integer not null,
            layout integer not null references layouts, rows integer not null, first_ms integer not null,
            last_ms integer not null, crc integer not null, body blob not null)"""
    )
    c.execute("create unique index blocks_by_device on blocks (key, start_ms)")
    c.execute("create index blocks_by_time on blocks (start_ms)")


def create_layouts(c: sqlite3.Connection) -> None:
    c.execute("create table layouts (no integer primary key, hash blob not null unique, columns text not null)")


def packed(key: int, start_ms: int, table: Table, grain: Grain) -> Packed:
    return Packed(key, start_ms, table.columns, len(table), int(table.at_ms[0]), int(table.at_ms[-1]), blocks.pack(table, grain))


def packed_many(tables: Sequence[tuple[int, int, Table]], grain: Grain) -> list[Packed]:
    """(key, start_ms, table) each; cheaper than one by one."""
    bodies = blocks.pack_many([table for _, _, table in tables], grain)
    return [
        Packed(key, start_ms, table.columns, len(table), int(table.at_ms[0]), int(table.at_ms[-1]), body)
        for (key, start_ms, table), body in zip(tables, bodies, strict=True)
    ]


# ---- layouts -----------------------------------------------------------------------------------------------


def columns_text(columns: Iterable[Column]) -> str:
    return json.dumps([[x.metric, x.component, x.unit, x.decimals] for x in columns], separators=(",", ":"))


def columns_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"garrison.columns").digest()


def put_columns(c: sqlite3.Connection, columns: tuple[Column, ...]) -> int:
    """Its number in this file."""
    text = columns_text(columns)
    name = columns_hash(text)
    c.execute(PUT_LAYOUT, (name, text))
    return int(c.execute("select no from layouts where hash = ?", (name,)).fetchone()[0])


class Columns:
    """The layouts of one file, each read once."""

    def __init__(self, c: sqlite3.Connection) -> None:
        self._c = c
        self._known: dict[int, tuple[bytes, tuple[Column, ...]]] = {}

    def __getitem__(self, number: int) -> tuple[bytes, tuple[Column, ...]]:
        """(hash, columns). Broken: there is no such layout, or it was changed on disk."""
        if number not in self._known:
            # as bytes: what the disk has harmed may be no text any more
            row = self._c.execute("select hash, cast(columns as blob) from layouts where no = ?", (number,)).fetchone()
            if row is None:
                raise Broken(f"layout {number} is missing")
            try:
                columns = tuple(Column(*column) for column in json.loads(row[1]))
            except (ValueError, TypeError) as error:
                raise Broken(f"layout {number} does not read") from error
            if columns_hash(columns_text(columns)) != row[0]:
                raise Broken(f"layout {number} was changed on disk")
            self._known[number] = (row[0], interned(columns))
        return self._known[number]


KnownColumns = Mapping[int, tuple[bytes, tuple[Column, ...]]]
"""The same of a file that SQLite does not open any more."""


# ---- blocks ------------------------------------------------------------------------------------------------


def put(c: sqlite3.Connection, rows: Sequence[Packed]) -> None:
    """In place of what was there for that device and time."""
    names: dict[int, tuple[int, bytes]] = {}  # by identity: `rows` holds the columns
    found = []
    for one in rows:
        if id(one.columns) not in names:
            names[id(one.columns)] = put_columns(c, one.columns), columns_hash(columns_text(one.columns))
        number, name = names[id(one.columns)]
        key = signed(one.key)
        crc = _crc(key, one.start_ms, one.rows, one.first_ms, one.last_ms, name, one.body)
        found.append((key, one.start_ms, number, one.rows, one.first_ms, one.last_ms, crc, one.body))
    c.executemany(
        """insert into blocks (key, start_ms, layout, rows, first_ms, last_ms, crc, body) values (?, ?, ?, ?, ?, ?, ?, ?)
            on conflict (key, start_ms) do update set layout = excluded.layout, rows = excluded.rows,
            first_ms = excluded.first_ms, last_ms = excluded.last_ms, crc = excluded.crc, body = excluded.body""",
        found,
    )


def of_device(c: sqlite3.Connection, key: int, from_ms: int, to_ms: int, longest_ms: int) -> Iterator[Stored]:
    """Blocks with rows in [from, to), by time. `longest_ms`: no block of this file is for a longer time."""
    rows = c.execute(
        f"select {_BLOCK} from blocks where key = ? and start_ms > ? and start_ms < ? order by start_ms",  # noqa: S608  # our own constant
        (signed(key), from_ms - longest_ms, to_ms),
    )
    for row in rows:
        stored = from_row(row)
        # one whose times cannot be is damaged: `read` says so
        beside = not stored.start_ms <= stored.first_ms <= stored.last_ms < stored.start_ms + longest_ms
        if beside or (stored.last_ms >= from_ms and stored.first_ms < to_ms):
            yield stored


def at(c: sqlite3.Connection, key: int, start_ms: int) -> Stored | None:
    row = c.execute(f"select {_BLOCK} from blocks where key = ? and start_ms = ?", (signed(key), start_ms)).fetchone()  # noqa: S608  # our own constant
    return None if row is None else from_row(row)


def newest(c: sqlite3.Connection, key: int, after_ms: int) -> Stored | None:
    """The block of hot.db with the device's last look, if that is later than `after_ms`. Late looks may have made a chunk of a time
    before those that are in the archive already: then it is the last look, kept alone."""
    rows = c.execute(
        """select id, last_ms from blocks where key = ?1
            and start_ms in (?2, (select max(start_ms) from blocks where key = ?1)) order by last_ms desc limit 1""",
        (signed(key), NEWEST_MS),
    ).fetchall()
    if not rows or rows[0][1] <= after_ms:
        return None
    row = c.execute(f"select {_BLOCK} from blocks where id = ?", (rows[0][0],)).fetchone()  # noqa: S608  # our own constant
    return from_row(row)


def every(c: sqlite3.Connection, after_id: int = 0) -> Iterator[Stored]:
    for row in c.execute(f"select {_BLOCK} from blocks where id > ? order by id", (after_id,)):  # noqa: S608  # our own constant
        yield from_row(row)


def from_row(row: Sequence[Any]) -> Stored:
    """Of a row of all its columns. The disk may have made anything of it: what is of another type cannot be read, and meets
    every question."""
    if isinstance(row[8], bytes) and all(isinstance(one, int) for one in row[:8]):
        return Stored(*row)
    key, start_ms = (one if isinstance(one, int) else 0 for one in row[1:3])
    return Stored(row[0], key, start_ms, -1, 0, -(2**63), 2**63 - 1, -1, row[8] if isinstance(row[8], bytes) else b"")


def keys_starting(c: sqlite3.Connection, from_ms: int, to_ms: int) -> list[int]:
    """Devices with blocks that start in [from, to)."""
    rows = c.execute("select distinct key from blocks where start_ms >= ? and start_ms < ?", (from_ms, to_ms))
    return [unsigned(row[0]) for row in rows]


def starts(c: sqlite3.Connection) -> list[int]:
    """All times at which blocks start, ascending."""
    return [row[0] for row in c.execute("select distinct start_ms from blocks where start_ms >= 0 order by start_ms")]


def keys(c: sqlite3.Connection) -> list[int]:
    return [unsigned(row[0]) for row in c.execute("select distinct key from blocks")]


def remove(c: sqlite3.Connection, ids: Iterable[int]) -> None:
    c.executemany("delete from blocks where id = ?", [(one,) for one in ids])


def read(stored: Stored, columns: Columns | KnownColumns, wanted: Collection[Series] | None = None) -> Table:
    """Its table, or only these series of it. Broken: it is not what was written."""
    name, layout = columns[stored.layout]
    crc = _crc(stored.signed_key, stored.start_ms, stored.rows, stored.first_ms, stored.last_ms, name, stored.body)
    if crc != stored.crc:
        raise Broken("the checksum of a block is wrong")
    places = None
    if wanted is not None:
        places = [place for place, column in enumerate(layout) if (column.metric, column.component) in wanted]
    return blocks.unpack(layout, stored.body, places)


def signed(key: int) -> int:
    """SQL integers are signed; device keys are not."""
    return key - (1 << 64) if key >> 63 else key


def unsigned(key: int) -> int:
    return key + (1 << 64) if key < 0 else key


def _crc(key: int, start_ms: int, rows: int, first_ms: int, last_ms: int, layout: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_IDENTITY.pack(key, start_ms, rows & 0xFFFFFFFF, first_ms, last_ms, layout)))
