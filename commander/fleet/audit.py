"""Who changed what, written in the transaction of the change itself. Secrets never stand in it.

Every subject that changes something or orders hardware calls `record` inside its own write.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commander.model import Caller

COMMANDER = Caller("commander", "administrator", local=True)
"""What the commander does by itself."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: int
    at_ms: int
    who: str
    address: str
    what: str
    object: str
    detail: Mapping[str, Any]


def create_table(c: sqlite3.Connection) -> None:
    c.execute(
        "create table audit (id integer primary key autoincrement, at_ms integer not null, who text not null,"
        " address text not null, what text not null, object text not null, detail text not null)"
    )


def record(
    c: sqlite3.Connection, at_ms: int, caller: Caller, what: str, object_: str, detail: Mapping[str, Any] | None = None
) -> None:
    """`what`: "device.rename", "sentry.approve"; `object_`: "device 4"; `detail`: before and after, as JSON values."""
    c.execute(
        "insert into audit (at_ms, who, address, what, object, detail) values (?, ?, ?, ?, ?, ?)",
        (at_ms, caller.name, caller.address, what, object_, json.dumps(dict(detail or {}), sort_keys=True, ensure_ascii=False)),
    )


def rows(c: sqlite3.Connection, *, before_id: int | None = None, limit: int = 100) -> list[AuditRow]:
    """Newest first."""
    found = c.execute(
        "select id, at_ms, who, address, what, object, detail from audit where (? is null or id < ?) order by id desc limit ?",
        (before_id, before_id, limit),
    )
    return [AuditRow(*(*row[:6], json.loads(row[6]))) for row in found]
