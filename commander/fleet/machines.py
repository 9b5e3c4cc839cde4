"""Which machines use a sentry's identity. The link decides over them; here they outlive a restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from commander.fleet.records import MachineRecord


def create_table(c: sqlite3.Connection) -> None:
    c.execute(
        "create table machines (sentry_id text not null, machine blob not null, place integer not null, standing text not null,"
        " address text not null, met integer not null, told_ms integer not null, primary key (sentry_id, machine))"
    )


def keep(c: sqlite3.Connection, sentry_id: str, machines: Sequence[MachineRecord]) -> None:
    """These, in this order, and no others."""
    c.execute("delete from machines where sentry_id = ?", (sentry_id,))
    c.executemany(
        "insert into machines (sentry_id, machine, place, standing, address, met, told_ms) values (?, ?, ?, ?, ?, ?, ?)",
        [(sentry_id, m.machine, place, m.standing, m.address, int(m.met), m.told_ms) for place, m in enumerate(machines)],
    )


def kept(c: sqlite3.Connection) -> dict[str, tuple[MachineRecord, ...]]:
    """By sentry, in the order they were kept."""
    found: dict[str, tuple[MachineRecord, ...]] = {}
    for row in c.execute("select sentry_id, machine, standing, address, met, told_ms from machines order by sentry_id, place"):
        found[row[0]] = (*found.get(row[0], ()), MachineRecord(row[1], row[2], row[3], bool(row[4]), row[5]))
    return found
