"""Sheets with all their revisions, programs, and which sheet was given to which device, in `fleet.db`."""

from __future__ import annotations

import sqlite3

import msgspec

from commander.flight_sheets.records import Application, ProgramRow, SheetRow, Template
from garrison.model import Sheet

_SHEET = (
    "select s.id, s.revision, s.created_ms, r.at_ms, r.by, r.template from sheets s"
    " join sheet_revisions r on r.sheet_id = s.id and r.revision = s.revision"
)
_PROGRAM = "name, version, location, sha256, executable, simulated, added_ms, added_by"
_APPLICATION = "action_id, device_id, sheet_id, revision, at_ms, rendered"


def create_tables(c: sqlite3.Connection) -> None:
    # autoincrement: the number of a removed sheet, which a rig may still run, is never given again
    c.execute(
        "create table sheets (id integer primary key autoincrement, name text not null, folded text not null,"
        " revision integer not null, created_ms integer not null, removed integer not null)"
    )
    c.execute("create unique index sheets_name on sheets (folded) where removed = 0")
    c.execute(
        "create table sheet_revisions (sheet_id integer not null references sheets (id), revision integer not null,"
        " at_ms integer not null, by text not null, template text not null, primary key (sheet_id, revision))"
    )
    c.execute(
        "create table programs (name text not null, version text not null, location text not null, sha256 text not null,"
        " executable text not null, simulated integer not null, added_ms integer not null, added_by text not null,"
        " primary key (name, version))"
    )
    # No foreign keys to actions or devices: they are other subjects' tables.
    c.execute(
        "create table sheet_applications (action_id text primary key, device_id integer not null, sheet_id integer not null,"
        " revision integer not null, at_ms integer not null, rendered text not null, withdrawn integer not null)"
    )
    c.execute("create index sheet_applications_device on sheet_applications (device_id, action_id) where withdrawn = 0")


# ---- sheets ----------------------------------------------------------------------------------------------------


def add(c: sqlite3.Connection, template: Template, by: str, now_ms: int) -> SheetRow | None:
    """None: there is one of this name."""
    found = c.execute(
        "insert into sheets (name, folded, revision, created_ms, removed) values (?, ?, 1, ?, 0)"
        " on conflict (folded) where removed = 0 do nothing returning id",
        (template.name, template.name.casefold(), now_ms),
    ).fetchone()
    if found is None:
        return None
    row = SheetRow(found[0], 1, template, now_ms, now_ms, by)
    _add_revision(c, row)
    return row


def change(c: sqlite3.Connection, row: SheetRow) -> None:
    """The next revision. The caller has seen that its name is free."""
    c.execute(
        "update sheets set name = ?, folded = ?, revision = ? where id = ?",
        (row.template.name, row.template.name.casefold(), row.revision, row.id),
    )
    _add_revision(c, row)


def _add_revision(c: sqlite3.Connection, row: SheetRow) -> None:
    c.execute(
        "insert into sheet_revisions (sheet_id, revision, at_ms, by, template) values (?, ?, ?, ?, ?)",
        (row.id, row.revision, row.changed_ms, row.changed_by, msgspec.json.encode(row.template).decode()),
    )


def remove(c: sqlite3.Connection, sheet_id: int) -> None:
    """It is not listed any more; its revisions stay, for the orders that name them."""
    c.execute("update sheets set removed = 1 where id = ?", (sheet_id,))


def find(c: sqlite3.Connection, ref: str) -> SheetRow | None:
    """By name or number."""
    number = int(ref) if ref.isdecimal() and len(ref) < 18 else -1
    found = c.execute(
        f"{_SHEET} where s.removed = 0 and (s.folded = ? or s.id = ?)",
        (ref.strip().casefold(), number),
    ).fetchone()
    return _sheet(found) if found else None


def all_sheets(c: sqlite3.Connection) -> list[SheetRow]:
    return [_sheet(row) for row in c.execute(f"{_SHEET} where s.removed = 0 order by s.folded")]


# ---- programs --------------------------------------------------------------------------------------------------


def add_program(c: sqlite3.Connection, program: ProgramRow) -> bool:
    """False: this version is there already."""
    found = c.execute(
        f"insert into programs ({_PROGRAM}) values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (name, version) do nothing returning name",  # noqa: S608  # our own constant
        (
            program.name,
            program.version,
            program.location,
            program.sha256,
            program.executable,
            int(program.simulated),
            program.added_ms,
            program.added_by,
        ),
    ).fetchone()
    return found is not None


def program(c: sqlite3.Connection, name: str, version: str) -> ProgramRow | None:
    """Version empty: the one added last."""
    found = c.execute(
        f"select {_PROGRAM} from programs where name = ? and (? = '' or version = ?) order by added_ms desc, version desc limit 1",  # noqa: S608  # our own constant
        (name, version, version),
    ).fetchone()
    return _program(found) if found else None


def all_programs(c: sqlite3.Connection) -> list[ProgramRow]:
    return [_program(row) for row in c.execute(f"select {_PROGRAM} from programs order by name, version")]  # noqa: S608  # our own constant


def remove_program(c: sqlite3.Connection, name: str, version: str) -> bool:
    return c.execute("delete from programs where name = ? and version = ?", (name, version)).rowcount > 0


# ---- which device should run what ------------------------------------------------------------------------------


def apply(c: sqlite3.Connection, one: Application, *, withdrawn: bool) -> None:
    """New, or a change of mind about whether the order counts."""
    c.execute(
        f"insert into sheet_applications ({_APPLICATION}, withdrawn) values (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # our own constant
        " on conflict (action_id) do update set withdrawn = excluded.withdrawn",
        (
            one.action_id,
            one.device_id,
            one.sheet_id,
            one.revision,
            one.at_ms,
            msgspec.json.encode(one.rendered).decode(),
            int(withdrawn),
        ),
    )


def wanted(c: sqlite3.Connection) -> list[Application]:
    """The newest application of each device that was not withdrawn."""
    found = c.execute(
        f"select {_APPLICATION} from sheet_applications a where withdrawn = 0 and action_id = (select max(action_id)"  # noqa: S608  # our own constant
        " from sheet_applications b where b.device_id = a.device_id and b.withdrawn = 0) order by device_id"
    )
    return [_application(row) for row in found]


def wanted_of(c: sqlite3.Connection, device_id: int) -> Application | None:
    found = c.execute(
        f"select {_APPLICATION} from sheet_applications where device_id = ? and withdrawn = 0 order by action_id desc limit 1",  # noqa: S608  # our own constant
        (device_id,),
    ).fetchone()
    return _application(found) if found else None


def wanted_action(c: sqlite3.Connection, device_id: int) -> str | None:
    """The order that `wanted_of` is from."""
    found = c.execute(
        "select max(action_id) from sheet_applications where device_id = ? and withdrawn = 0", (device_id,)
    ).fetchone()
    return found[0] if found else None


# ---- rows ------------------------------------------------------------------------------------------------------


def _sheet(row: sqlite3.Row) -> SheetRow:
    return SheetRow(
        row["id"],
        row["revision"],
        msgspec.json.decode(row["template"], type=Template),
        row["created_ms"],
        row["at_ms"],
        row["by"],
    )


def _program(row: sqlite3.Row) -> ProgramRow:
    return ProgramRow(
        row["name"],
        row["version"],
        row["location"],
        row["sha256"],
        row["executable"],
        bool(row["simulated"]),
        row["added_ms"],
        row["added_by"],
    )


def _application(row: sqlite3.Row) -> Application:
    return Application(
        row["action_id"],
        row["device_id"],
        row["sheet_id"],
        row["revision"],
        row["at_ms"],
        msgspec.json.decode(row["rendered"], type=Sheet),
    )
