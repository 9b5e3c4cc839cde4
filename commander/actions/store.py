"""Orders and what was reported about each, in `fleet.db`. One row an order for ever; reports are bounded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commander.model import ActionRow
from garrison.model import Report
from garrison.words import ActionKind, ActionState

REPORTS_PER_ORDER = 100
STRAY_REPORTS = 1_000
"""Kept of reports for orders that this database does not know (it was restored from an older backup)."""

_ACTION = (
    "id, batch, kind, device_id, device, identity, simulated, sentry_id, state, by_sentry, cancel_asked, asked_by,"
    " created_ms, deadline_ms, updated_ms, arguments, fault, text, result"
)


@dataclass(frozen=True, slots=True)
class ReportRow:
    """`at_ms` by the sentry's clock, `received_ms` by ours."""

    action_id: str
    sentry_id: str
    received_ms: int
    report: Report


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter; None: any."""

    states: tuple[ActionState, ...] | None = None
    device_id: int | None = None
    kind: ActionKind | None = None
    since_ms: int | None = None
    batch: str | None = None
    before_id: str | None = None
    limit: int = 100


def create_tables(c: sqlite3.Connection) -> None:
    # No foreign keys: an order stays on record when its device or sentry is gone.
    c.execute(
        "create table actions (id text primary key, batch text not null, kind text not null, device_id integer not null,"
        " device text not null, identity text not null, simulated integer not null, sentry_id text not null,"
        " state integer not null, by_sentry integer not null, cancel_asked integer not null, asked_by text not null,"
        " created_ms integer not null, deadline_ms integer not null, updated_ms integer not null, arguments text not null,"
        " fault text not null, text text not null, result text not null)"
    )
    # 6 is SUCCEEDED, the first of the ends: one open order a device, whoever asks at the same moment
    c.execute("create unique index actions_open on actions (device_id) where state < 6")
    c.execute("create index actions_device on actions (device_id, id)")
    c.execute("create index actions_sentry on actions (sentry_id, id) where state < 6")
    c.execute(
        "create table action_reports (id integer primary key autoincrement, action_id text not null, sentry_id text not null,"
        " received_ms integer not null, at_ms integer not null, state integer not null, fault text not null, text text not null,"
        " detail text not null, stray integer not null)"
    )
    c.execute("create index action_reports_of on action_reports (action_id, id)")
    c.execute("create index action_reports_stray on action_reports (sentry_id, id) where stray = 1")


# ---- orders ----------------------------------------------------------------------------------------------------


def insert(c: sqlite3.Connection, row: ActionRow) -> None:
    c.execute(f"insert into actions ({_ACTION}) values ({', '.join('?' * 19)})", _values(row))  # noqa: S608  # our own constant


def update(c: sqlite3.Connection, row: ActionRow) -> None:
    """What may change after the order was given: never its kind, device or arguments."""
    c.execute(
        "update actions set state = ?, by_sentry = ?, cancel_asked = ?, updated_ms = ?, fault = ?, text = ?, result = ?"
        " where id = ?",
        (
            int(row.state),
            int(row.by_sentry),
            int(row.cancel_asked),
            row.updated_ms,
            row.fault,
            row.text,
            json.dumps(dict(row.result), ensure_ascii=False),
            row.id,
        ),
    )


def one(c: sqlite3.Connection, action_id: str) -> ActionRow | None:
    found = c.execute(f"select {_ACTION} from actions where id = ?", (action_id,)).fetchone()  # noqa: S608  # our own constant
    return _row(found) if found else None


def ending(c: sqlite3.Connection, tail: str) -> list[str]:
    """Ids of orders that end so; two are enough to know that it is not one. `tail`: hexadecimal digits and dashes only."""
    return [row[0] for row in c.execute("select id from actions where id like ? limit 2", (f"%{tail}",))]


def open_of(c: sqlite3.Connection, device_id: int) -> ActionRow | None:
    found = c.execute(
        f"select {_ACTION} from actions where device_id = ? and state < 6",  # noqa: S608  # our own constant
        (device_id,),
    ).fetchone()
    return _row(found) if found else None


def all_open(c: sqlite3.Connection, sentry_id: str | None = None) -> list[ActionRow]:
    """Oldest first."""
    found = c.execute(
        f"select {_ACTION} from actions where state < 6 and (? is null or sentry_id = ?) order by id",  # noqa: S608  # our own constant
        (sentry_id, sentry_id),
    )
    return [_row(row) for row in found]


def find(c: sqlite3.Connection, wanted: Wanted) -> list[ActionRow]:
    """Newest first."""
    terms, values = ["1 = 1"], []
    for term, value in (
        ("device_id = ?", wanted.device_id),
        ("kind = ?", None if wanted.kind is None else wanted.kind.value),
        ("created_ms >= ?", wanted.since_ms),
        ("batch = ?", wanted.batch),
        ("id < ?", wanted.before_id),
    ):
        if value is not None:
            terms.append(term)
            values.append(value)
    if wanted.states is not None:
        terms.append(f"state in ({', '.join('?' * len(wanted.states))})")
        values.extend(int(state) for state in wanted.states)
    found = c.execute(
        f"select {_ACTION} from actions where {' and '.join(terms)} order by id desc limit ?",  # noqa: S608  # our own constants
        (*values, wanted.limit),
    )
    return [_row(row) for row in found]


# ---- reports ---------------------------------------------------------------------------------------------------


def add_report(c: sqlite3.Connection, sentry_id: str, received_ms: int, report: Report, *, stray: bool) -> None:
    """`stray`: this database knows no such order of this sentry. The oldest go when there are too many."""
    c.execute(
        "insert into action_reports (action_id, sentry_id, received_ms, at_ms, state, fault, text, detail, stray)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            report.action_id,
            sentry_id,
            received_ms,
            report.at_ms,
            int(report.state),
            report.fault,
            report.text,
            json.dumps(dict(report.detail), ensure_ascii=False),
            int(stray),
        ),
    )
    if stray:
        c.execute(
            "delete from action_reports where stray = 1 and sentry_id = ? and id <= (select id from action_reports"
            " where stray = 1 and sentry_id = ? order by id desc limit 1 offset ?)",
            (sentry_id, sentry_id, STRAY_REPORTS),
        )
    else:
        c.execute(
            "delete from action_reports where action_id = ? and stray = 0 and id <= (select id from action_reports"
            " where action_id = ? and stray = 0 order by id desc limit 1 offset ?)",
            (report.action_id, report.action_id, REPORTS_PER_ORDER),
        )


def reports(c: sqlite3.Connection, action_id: str) -> list[ReportRow]:
    """In the order they came."""
    found = c.execute(
        "select action_id, sentry_id, received_ms, at_ms, state, fault, text, detail from action_reports"
        " where action_id = ? and stray = 0 order by id",
        (action_id,),
    )
    return [
        ReportRow(
            row[0],
            row[1],
            row[2],
            Report(row[0], ActionState(row[4]), row[3], row[5], row[6], json.loads(row[7])),
        )
        for row in found
    ]


# ---- rows ------------------------------------------------------------------------------------------------------


def _values(row: ActionRow) -> Sequence[Any]:
    return (
        row.id,
        row.batch,
        row.kind.value,
        row.device_id,
        row.device,
        row.identity,
        int(row.simulated),
        row.sentry_id,
        int(row.state),
        int(row.by_sentry),
        int(row.cancel_asked),
        row.asked_by,
        row.created_ms,
        row.deadline_ms,
        row.updated_ms,
        json.dumps(dict(row.arguments), ensure_ascii=False),
        row.fault,
        row.text,
        json.dumps(dict(row.result), ensure_ascii=False),
    )


def _row(found: sqlite3.Row) -> ActionRow:
    return ActionRow(
        id=found["id"],
        kind=ActionKind(found["kind"]),
        device_id=found["device_id"],
        sentry_id=found["sentry_id"],
        state=ActionState(found["state"]),
        asked_by=found["asked_by"],
        created_ms=found["created_ms"],
        deadline_ms=found["deadline_ms"],
        updated_ms=found["updated_ms"],
        arguments=json.loads(found["arguments"]),
        fault=found["fault"],
        text=found["text"],
        result=json.loads(found["result"]),
        device=found["device"],
        identity=found["identity"],
        simulated=bool(found["simulated"]),
        batch=found["batch"],
        by_sentry=bool(found["by_sentry"]),
        cancel_asked=bool(found["cancel_asked"]),
    )
