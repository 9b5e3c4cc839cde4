"""Which records (events, action reports) are durable: the mark is written in the transaction of the effect.

So a record that is sent twice has its effect once, and what was acked is there. Kept as spans, a handful of rows a journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from garrison.faults import BadInput
from garrison.spans import Spans


def create_table(c: sqlite3.Connection) -> None:
    c.execute(
        "create table record_marks (sentry_id text not null, boot blob not null, first integer not null, last integer not null,"
        " primary key (sentry_id, boot, first))"
    )


def once(c: sqlite3.Connection, sentry_id: str, boot: bytes, seq: int) -> bool:
    """True the first time, and marks it; False for a record that had its effect before."""
    if len(boot) != 16 or not 0 < seq < 1 << 63:
        raise BadInput(f"no record: boot of {len(boot)} bytes, sequence {seq}")
    key = (sentry_id, boot)
    below = c.execute(
        "select first, last from record_marks where sentry_id = ? and boot = ? and first <= ? order by first desc limit 1",
        (*key, seq),
    ).fetchone()
    if below is not None and below[1] >= seq:
        return False
    first, last = (below[0] if below is not None and below[1] == seq - 1 else seq), seq
    above = c.execute("select last from record_marks where sentry_id = ? and boot = ? and first = ?", (*key, seq + 1)).fetchone()
    if above is not None:
        last = above[0]
        c.execute("delete from record_marks where sentry_id = ? and boot = ? and first = ?", (*key, seq + 1))
    c.execute(
        "insert into record_marks (sentry_id, boot, first, last) values (?, ?, ?, ?)"
        " on conflict (sentry_id, boot, first) do update set last = excluded.last",
        (*key, first, last),
    )
    return True


def durable(c: sqlite3.Connection, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Spans]:
    """Of what a journal still holds ((boot, first, last) each), what is marked."""
    found: dict[bytes, Spans] = {}
    for boot, first, last in held:
        spans = found.setdefault(boot, Spans())
        for row in c.execute(
            "select first, last from record_marks where sentry_id = ? and boot = ? and last >= ? and first <= ?",
            (sentry_id, boot, first, last),
        ):
            spans.add(max(row[0], first), min(row[1], last))
    return found
