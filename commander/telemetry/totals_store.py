"""The tables of group totals and of who was in which group, and all their SQL.

Totals are plain rows, one for a group, metric and step, for any SQLite tool: `select * from group_totals`. In hot.db they are
contributions that add up; once a day they move to the archive in numbered batches, so that whoever is killed on the
way adds nothing twice. A reader takes the archive's rows and those of hot.db whose batch the archive does not have yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from commander.telemetry.block_store import signed, unsigned
from commander.telemetry.levels import STEP_MS

Group = tuple[str, str]
"""Kind ("farm", "site", "rack", "model", "coin", "tag") and name; the farm's is empty."""

OPEN = 0
"""The batch of rows that still grow."""

_LINES = """create table lines (no integer primary key, kind text not null, name text not null, metric text not null,
    unique (kind, name, metric))"""
_TOTAL = """devices real not null, covered real not null, sum real not null, min real, max real"""


@dataclass(frozen=True, slots=True)
class Total:
    """What a group's devices gave in one step. `devices` had a value; `covered`: for how much of the step, added up over them
    (2 devices for half the time: 1.0). `sum`: of their averages, or of what their counters rose."""

    group: Group
    metric: str
    at_ms: int
    devices: float
    covered: float
    sum: float
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Membership:
    """A device was in a group in [from_ms, to_ms); None: it is."""

    key: int
    group: Group
    from_ms: int
    to_ms: int | None


def create_hot_tables(c: sqlite3.Connection) -> None:
    c.execute(_LINES)
    c.execute(
        f"create table totals (line integer not null references lines, at_ms integer not null, batch integer not null, {_TOTAL},"
        " primary key (line, at_ms, batch)) without rowid"
    )
    c.execute(
        """create view group_totals as select kind, name, metric, at_ms, sum(devices) as devices, sum(covered) as covered,
            sum(sum) as sum, min(min) as min, max(max) as max from totals join lines on no = line group by line, at_ms"""
    )
    c.execute("create table batches (no integer primary key, made_ms integer not null)")
    c.execute(
        """create table members (key integer not null, kind text not null, name text not null, from_ms integer not null,
            to_ms integer, primary key (key, kind, name, from_ms)) without rowid"""
    )


def create_archive_tables(c: sqlite3.Connection) -> None:
    c.execute(_LINES)
    c.execute(
        f"create table totals (line integer not null references lines, at_ms integer not null, {_TOTAL}, primary key (line, at_ms))"
        " without rowid"
    )
    c.execute(
        """create view group_totals as select kind, name, metric, at_ms, devices, covered, sum, min, max
            from totals join lines on no = line"""
    )
    c.execute("create table applied (batch integer primary key)")


# ---- hot.db ------------------------------------------------------------------------------------------------


def add(c: sqlite3.Connection, totals: Iterable[Total]) -> None:
    """Adds contributions (or takes back: negative ones) to the rows that still grow."""
    lines: dict[tuple[Group, str], int] = {}
    c.executemany(
        """insert into totals (line, at_ms, batch, devices, covered, sum, min, max) values (?, ?, 0, ?, ?, ?, ?, ?)
            on conflict (line, at_ms, batch) do update set devices = devices + excluded.devices,
            covered = covered + excluded.covered, sum = sum + excluded.sum,
            min = case when excluded.min < min or min is null then excluded.min else min end,
            max = case when excluded.max > max or max is null then excluded.max else max end""",
        [(_line(c, t.group, t.metric, lines), t.at_ms, t.devices, t.covered, t.sum, t.min, t.max) for t in totals],
    )


def close_batch(c: sqlite3.Connection, from_ms: int, to_ms: int, now_ms: int) -> int | None:
    """Gives the growing rows of [from, to) a number of their own, and returns it. None: there are none."""
    if not c.execute("select 1 from totals where batch = 0 and at_ms >= ? and at_ms < ? limit 1", (from_ms, to_ms)).fetchone():
        return None
    # the wall clock takes part: after a restore from a backup a number must not be one that the archive has seen
    last = c.execute("select coalesce(max(no), 0) from batches").fetchone()[0]
    number = max(last + 1, now_ms)
    c.execute("insert into batches (no, made_ms) values (?, ?)", (number, now_ms))
    c.execute("update totals set batch = ? where batch = 0 and at_ms >= ? and at_ms < ?", (number, from_ms, to_ms))
    return int(number)


def closed_batches(c: sqlite3.Connection) -> list[tuple[int, int, int]]:
    """(number, first and last time) of rows that are to be moved."""
    rows = c.execute("select batch, min(at_ms), max(at_ms) from totals where batch > 0 group by batch order by batch")
    return [tuple(row) for row in rows]


def end_of_farm(c: sqlite3.Connection, from_ms: int, to_ms: int) -> int:
    """Where the farm's totals of [from, to) end; `from_ms` where there are none."""
    row = c.execute(
        "select max(at_ms) from totals where line in (select no from lines where kind = 'farm') and at_ms >= ? and at_ms < ?",
        (from_ms, to_ms),
    ).fetchone()
    return from_ms if row[0] is None else int(row[0]) + STEP_MS


def first_growing_ms(c: sqlite3.Connection) -> int | None:
    found: int | None = c.execute("select min(at_ms) from totals where batch = 0").fetchone()[0]
    return found


def of_batch(c: sqlite3.Connection, batch: int, from_ms: int, to_ms: int) -> list[Total]:
    rows = c.execute(
        """select kind, name, metric, at_ms, devices, covered, sum, min, max from totals join lines on no = line
            where batch = ? and at_ms >= ? and at_ms < ?""",
        (batch, from_ms, to_ms),
    )
    return [Total((row[0], row[1]), *row[2:]) for row in rows]


def drop_batch(c: sqlite3.Connection, batch: int) -> None:
    c.execute("delete from totals where batch = ?", (batch,))
    c.execute("delete from batches where no < ?", (batch,))


def hot_rows(c: sqlite3.Connection, kind: str, metric: str, from_ms: int, to_ms: int) -> list[tuple[Any, ...]]:
    """Of all groups of the kind: batch, name, at_ms, devices, covered, sum, min, max."""
    rows = c.execute(
        """select batch, name, at_ms, devices, covered, sum, min, max from lines join totals on line = no
            where kind = ? and metric = ? and at_ms >= ? and at_ms < ?""",
        (kind, metric, from_ms, to_ms),
    )
    return [tuple(row) for row in rows]


# ---- the archive -------------------------------------------------------------------------------------------


def applied(c: sqlite3.Connection) -> set[int]:
    """The batches that this file has."""
    return {row[0] for row in c.execute("select batch from applied")}


def apply(c: sqlite3.Connection, batch: int, totals: Sequence[Total]) -> bool:
    """Adds a batch, once. False: it was there already."""
    if c.execute("insert into applied (batch) values (?) on conflict (batch) do nothing", (batch,)).rowcount == 0:
        return False
    lines: dict[tuple[Group, str], int] = {}
    c.executemany(
        """insert into totals (line, at_ms, devices, covered, sum, min, max) values (?, ?, ?, ?, ?, ?, ?)
            on conflict (line, at_ms) do update set devices = devices + excluded.devices,
            covered = covered + excluded.covered, sum = sum + excluded.sum,
            min = case when excluded.min < min or min is null then excluded.min else min end,
            max = case when excluded.max > max or max is null then excluded.max else max end""",
        [(_line(c, t.group, t.metric, lines), t.at_ms, t.devices, t.covered, t.sum, t.min, t.max) for t in totals],
    )
    return True


def replace(c: sqlite3.Connection, totals: Sequence[Total]) -> None:
    """In place of what was there."""
    lines: dict[tuple[Group, str], int] = {}
    c.executemany(
        """insert into totals (line, at_ms, devices, covered, sum, min, max) values (?, ?, ?, ?, ?, ?, ?)
            on conflict (line, at_ms) do update set devices = excluded.devices, covered = excluded.covered, sum = excluded.sum,
            min = excluded.min, max = excluded.max""",
        [(_line(c, t.group, t.metric, lines), t.at_ms, t.devices, t.covered, t.sum, t.min, t.max) for t in totals],
    )


def archive_rows(c: sqlite3.Connection, kind: str, metric: str, from_ms: int, to_ms: int) -> list[tuple[Any, ...]]:
    """Of all groups of the kind: name, at_ms, devices, covered, sum, min, max."""
    return c.execute(
        """select name, at_ms, devices, covered, sum, min, max from lines join totals on line = no
            where kind = ? and metric = ? and at_ms >= ? and at_ms < ?""",
        (kind, metric, from_ms, to_ms),
    ).fetchall()


def times(c: sqlite3.Connection, from_ms: int, to_ms: int) -> set[int]:
    """At which there are totals."""
    return {row[0] for row in c.execute("select distinct at_ms from totals where at_ms >= ? and at_ms < ?", (from_ms, to_ms))}


def archived_between(c: sqlite3.Connection, from_ms: int, to_ms: int) -> list[Total]:
    """Of all groups and metrics."""
    rows = c.execute(
        """select kind, name, metric, at_ms, devices, covered, sum, min, max from totals join lines on no = line
            where at_ms >= ? and at_ms < ?""",
        (from_ms, to_ms),
    )
    return [Total((row[0], row[1]), *row[2:]) for row in rows]


# ---- members -----------------------------------------------------------------------------------------------


def members(c: sqlite3.Connection) -> list[Membership]:
    return [
        Membership(unsigned(key), (kind, name), from_ms, to_ms)
        for key, kind, name, from_ms, to_ms in c.execute("select key, kind, name, from_ms, to_ms from members")
    ]


def put_members(c: sqlite3.Connection, changed: Iterable[Membership]) -> None:
    c.executemany(
        """insert into members (key, kind, name, from_ms, to_ms) values (?, ?, ?, ?, ?)
            on conflict (key, kind, name, from_ms) do update set to_ms = excluded.to_ms""",
        [(signed(one.key), *one.group, one.from_ms, one.to_ms) for one in changed],
    )


def forget_members(c: sqlite3.Connection, before_ms: int) -> None:
    c.execute("delete from members where to_ms < ?", (before_ms,))


def _line(c: sqlite3.Connection, group: Group, metric: str, known: dict[tuple[Group, str], int]) -> int:
    found = known.get((group, metric))
    if found is None:
        c.execute(
            "insert into lines (kind, name, metric) values (?, ?, ?) on conflict (kind, name, metric) do nothing", (*group, metric)
        )
        row = c.execute("select no from lines where kind = ? and name = ? and metric = ?", (*group, metric)).fetchone()
        found = known[group, metric] = int(row[0])
    return found
