"""The journal's SQLite file: tables, what is dropped at the cap, how a damaged file is read out. One thread uses it.

Called by `sentry_core.journal` only. Each row has a CRC-32, because SQLite does not see a flipped bit in the middle of a
blob. The file belongs to one process at a time (exclusive lock), which is also what stops a second sentry in the same
state folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from garrison import wire
from garrison.faults import BadInput, Broken, DiskFull, Fault, Unavailable, VersionMismatch
from garrison.frame import Layout
from garrison.model import Held, Order, Report
from garrison.spans import Spans
from garrison.v1 import post_pb2 as pb
from garrison.words import POWER_ACTIONS, ActionKind, ActionState

FRAMES, RECORDS = int(wire.FRAMES), int(wire.RECORDS)
TABLES = {FRAMES: "frames", RECORDS: "records"}
VERSION = "1"
CHECK_UP_TO = 256 * 1024 * 1024
"""Larger files are not read through at start: damage is found, and handled, when it is met."""

DAY_MS = 24 * 3600 * 1000
KEEP_RECORDS_MS = 30 * DAY_MS
KEEP_ACTIONS = 10_000
_TIDY_EVERY_MS = 10 * 60 * 1000
_STEP = 16
_SMALL = ("acked", "boots", "meta")
"""Read in one go, or as far as that goes: without rowids, or a few rows."""

_SCHEMA = """
create table meta (name text primary key, value text not null, crc integer not null);
create table boots (no integer primary key, boot blob not null unique, crc integer not null);
create table frames (boot integer, seq integer, at_ms integer, layout blob, body blob, crc integer, primary key (boot, seq));
create table records (boot integer, seq integer, at_ms integer, kind text, body blob, crc integer, primary key (boot, seq));
create table acked (lane integer, boot integer, seq integer, at_ms integer, primary key (lane, boot, seq)) without rowid;
create table layouts (hash blob primary key, body blob, crc integer);
create table actions (
    id text primary key, asked blob not null, accepted_ms integer not null, started_ms integer, state integer not null,
    updated_ms integer not null, fault text not null, text text not null, detail text not null, notes text not null,
    crc integer not null
);
create index actions_by_age on actions (accepted_ms);
"""


@dataclass(frozen=True, slots=True)
class Frame:
    boot: bytes
    seq: int
    layout: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """`kind` is "event" or "report"; `body` is that message without boot and seq."""

    boot: bytes
    seq: int
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Action:
    """An order as the journal knows it. `accepted_ms` is the wall clock's; `started_ms` None: nothing was done yet."""

    order: Order
    accepted_ms: int
    state: ActionState
    updated_ms: int
    started_ms: int | None = None
    fault: str = ""
    text: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def _crc(*parts: object) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part if isinstance(part, bytes) else repr(part).encode(), crc)
    return crc


class JournalFile:
    """`open` never fails because of what is in the file: damage sets it aside (`set_aside` says where) and begins anew.

    `machine`: the hash of this machine's hardware. A file that comes from another one goes on under a new boot id: both may
    be alive, and their numbers must not be taken for one another's. Empty: not known, and nothing is compared.
    """

    def __init__(self, path: Path, cap_bytes: int, keep_acked_ms: int, min_free_bytes: int = 0, machine: bytes = b"") -> None:
        self.path = path
        self._machine = machine.hex()
        self._cap = cap_bytes
        self._keep_acked_ms = keep_acked_ms
        self._min_free = min_free_bytes
        self._db: sqlite3.Connection
        self.boot = b""
        self._dropped = 0
        self._unwritable = 0
        self._unwritable_written = 0
        self.set_aside: Path | None = None
        self.moved = False
        """It came from another machine."""
        self._no = 0
        self._boots: dict[int, bytes] = {}
        self._next: dict[int, int] = {}
        self._acked: dict[tuple[int, int], Spans] = {}
        self._unwritten_acks: list[tuple[int, int, int, int, int]] = []
        self._tidied_ms = 0
        self._layouts: set[bytes] = set()

    # ---- opening -------------------------------------------------------------------------------------------

    def open(self, now_ms: int) -> None:
        """Raises Unavailable (locked, no rights), DiskFull, VersionMismatch; never because of damage."""
        self.set_aside = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise Unavailable(f"cannot open {self.path}: {error.strerror}", hint="check its owner and mode") from error
        fault = self._trouble(now_ms)
        if isinstance(fault, Broken):
            self.begin_anew(now_ms)
        elif fault is not None:
            self.close()
            raise fault

    def _trouble(self, now_ms: int) -> Fault | None:
        try:
            self._attach()
            self._try_to_write(now_ms)
            self._move_in()
        except (sqlite3.Error, Broken, ValueError, VersionMismatch) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
                # we could open it for writing just now: this is what a damaged header says
                return Broken(f"{self.path} is damaged: {error}")
            return translated(error, self.path)
        return None

    def begin_anew(self, now_ms: int) -> None:
        """Sets the damaged file aside, starts a new one with a new boot id, and saves what can still be read."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{now_ms}")
        for old in self.path.parent.glob(f"{self.path.name}.damaged-*"):
            old.unlink(missing_ok=True)  # only the newest is kept: it may be as large as the cap
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            self._attach()
            self._save_from(aside)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        self.set_aside = aside

    def close(self) -> None:
        db = getattr(self, "_db", None)
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _attach(self) -> None:
        self._db = _connect(self.path)
        if self._db.execute("select count(*) from sqlite_master").fetchone()[0] == 0:
            self._create()
        elif self.path.stat().st_size <= CHECK_UP_TO:
            check = self._db.execute("pragma quick_check(1)").fetchone()[0]
            if check != "ok":
                raise Broken(f"{self.path} is damaged: {check}")
            self._db.execute("pragma wal_checkpoint(truncate)").fetchall()
            page, count = (self._db.execute(f"pragma {p}").fetchone()[0] for p in ("page_size", "page_count"))
            if self.path.stat().st_size != page * count:
                raise Broken(f"{self.path} is damaged: it is shorter than it says")
        version = self._meta("version")
        if version != VERSION:
            raise VersionMismatch(
                f"{self.path} was written by another version of this program ({version}; this one reads {VERSION})",
                hint="install the newer program again",
            )
        self._load()

    def _try_to_write(self, now_ms: int) -> None:
        self._db.execute("begin immediate")
        self._set_meta("opened_ms", str(now_ms))
        self._db.execute("commit")

    def _move_in(self) -> None:
        """Writes down which machine this is. After a move: a new boot, counted from 1; what is held keeps its own."""
        found = self._db.execute("select 1 from meta where name = 'machine'").fetchone()
        before = self._meta("machine") if found is not None else ""
        if not self._machine or before == self._machine:
            return
        self._db.execute("begin immediate")
        if before:
            boot = secrets.token_bytes(16)
            self._db.execute("insert into boots values (?, ?, ?)", (self._no + 1, boot, _crc(boot)))
            for name in TABLES.values():
                self._set_meta(f"next_{name}", "1")
        self._set_meta("machine", self._machine)
        self._db.execute("commit")
        self.moved = bool(before)
        self._load()

    def _create(self) -> None:
        self._db.execute("begin immediate")
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                self._db.execute(statement)
        boot = secrets.token_bytes(16)
        self._db.execute("insert into boots values (1000000, ?, ?)", (boot, _crc(boot)))  # below: boots saved from damage
        for name, value in (("version", VERSION), ("next_frames", "1"), ("next_records", "1"), ("epoch", "0")):
            self._set_meta(name, value)
        for name in ("dropped", "unwritable"):
            self._set_meta(name, "0")
        if self._machine:
            self._set_meta("machine", self._machine)
        self._db.execute("commit")

    def _load(self) -> None:
        self._boots.clear()
        for no, boot, crc in self._db.execute("select no, boot, crc from boots order by no"):
            if not isinstance(boot, bytes) or len(boot) != 16 or crc != _crc(boot):
                raise Broken(f"{self.path} is damaged: a boot id")
            self._boots[no] = boot
        if not self._boots:
            raise Broken(f"{self.path} is damaged: no boot id")
        self._no = max(self._boots)
        self.boot = self._boots[self._no]
        self._dropped = int(self._meta("dropped"))
        self._unwritable_written = int(self._meta("unwritable"))
        self._unwritable = max(self._unwritable, self._unwritable_written)
        for lane, name in TABLES.items():
            self._next[lane] = int(self._meta(f"next_{name}"))
            last = self._db.execute(f"select coalesce(max(seq), 0) from {name} where boot = ?", (self._no,)).fetchone()[0]  # noqa: S608  # our own names
            if not last < self._next[lane]:
                raise Broken(f"{self.path} is damaged: numbers behind the counter")
        self._layouts = {row[0] for row in self._db.execute("select hash from layouts")}
        self._acked.clear()
        self._unwritten_acks.clear()
        for lane, no, seq in self._db.execute("select lane, boot, seq from acked order by lane, boot, seq"):
            self._acked.setdefault((lane, no), Spans()).add(seq)

    def _meta(self, name: str) -> str:
        row = self._db.execute("select value, crc from meta where name = ?", (name,)).fetchone()
        if row is None or row[1] != _crc(name, row[0]):
            raise Broken(f"{self.path} is damaged: {name}")
        return str(row[0])

    def _set_meta(self, name: str, value: str) -> None:
        self._db.execute("insert or replace into meta values (?, ?, ?)", (name, value, _crc(name, value)))

    # ---- transactions, driven by the thread ----------------------------------------------------------------

    def begin(self) -> None:
        self._db.execute("begin immediate")

    def commit(self) -> None:
        self._db.execute("commit")

    def rollback(self) -> None:
        """Also brings what is kept in memory back to what the file says."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("rollback")
        unwritten = self._unwritten_acks[:]
        with contextlib.suppress(sqlite3.Error, Broken, ValueError):
            self._load()
        self._unwritten_acks = unwritten
        for lane, no, first, last, _ in unwritten:
            self._acked.setdefault((lane, no), Spans()).add(first, last)

    # ---- frames and records --------------------------------------------------------------------------------

    def add_frame(self, layout: Layout, body: bytes, now_ms: int) -> Frame:
        if layout.hash not in self._layouts:
            plain = wire.layout_to(layout).SerializeToString()
            self._db.execute("insert or replace into layouts values (?, ?, ?)", (layout.hash, plain, _crc(layout.hash, plain)))
            self._layouts.add(layout.hash)
        frame = Frame(self.boot, self._take_number(FRAMES), layout.hash, body)
        self._db.execute(
            "insert into frames values (?, ?, ?, ?, ?, ?)",
            (self._no, frame.seq, now_ms, frame.layout, body, _crc(frame.seq, frame.layout, body)),
        )
        if self._unwritable != self._unwritable_written:
            self._set_meta("unwritable", str(self._unwritable))
            self._unwritable_written = self._unwritable
        self._write_acks()
        self._tidy(now_ms)
        self._make_room()
        return frame

    def add_record(self, kind: str, body: bytes, now_ms: int) -> Record:
        record = Record(self.boot, self._take_number(RECORDS), kind, body)
        self._db.execute(
            "insert into records values (?, ?, ?, ?, ?, ?)",
            (self._no, record.seq, now_ms, kind, body, _crc(record.seq, kind, body)),
        )
        self._make_room()
        return record

    @property
    def dropped(self) -> int:
        """Frames that went without having been acknowledged: by the cap, or because the disk was full."""
        return self._dropped + self._unwritable

    def count_unwritable(self) -> None:
        """A frame that could not even be written. The count itself is written with the next one that can."""
        self._unwritable += 1

    def _take_number(self, lane: int) -> int:
        number = self._next[lane]
        self._next[lane] = number + 1
        self._set_meta(f"next_{TABLES[lane]}", str(number + 1))
        return number

    def held(self) -> dict[int, tuple[Held, ...]]:
        """Lane to what the file holds, one span a boot, oldest boot first."""
        found: dict[int, tuple[Held, ...]] = {}
        for lane, table in TABLES.items():
            rows = self._db.execute(f"select boot, min(seq), max(seq) from {table} group by boot order by boot")  # noqa: S608  # our own names
            found[lane] = tuple(Held(self._boots[no], first, last) for no, first, last in rows if no in self._boots)
        return found

    def unsent(self, lane: int, skip: Mapping[bytes, Spans], limit: int, max_bytes: int) -> list[Frame | Record]:
        """The oldest items that are neither acknowledged nor in `skip`, at most `limit` and about `max_bytes`."""
        found: list[Frame | Record] = []
        left = max_bytes
        for no, boot in sorted(self._boots.items()):
            done = self._acked.get((lane, no), Spans()).copy()
            for first, last in skip.get(boot, ()):
                done.add(first, last)
            for item in self._items(lane, no, done):
                found.append(item)
                left -= len(item.body)
                if len(found) >= limit or left <= 0:
                    return found
        return found

    def _items(self, lane: int, no: int, done: Spans) -> Iterator[Frame | Record]:
        table = TABLES[lane]
        first, last = self._db.execute(f"select min(seq), max(seq) from {table} where boot = ?", (no,)).fetchone()  # noqa: S608  # our own names
        if first is None:
            return
        name = "layout" if lane == FRAMES else "kind"
        for span in list(done.missing(first, last)):
            asked = f"select seq, {name}, body, crc from {table} where boot = ? and seq between ? and ? order by seq"  # noqa: S608  # our own names
            with contextlib.closing(self._db.execute(asked, (no, *span))) as rows:
                for seq, label, body, crc in rows:
                    if crc != _crc(seq, label, body):
                        raise Broken(f"{self.path} is damaged: {table} {seq}")
                    yield Frame(self._boots[no], seq, label, body) if lane == FRAMES else Record(self._boots[no], seq, label, body)

    def layout(self, layout_hash: bytes) -> Layout | None:
        row = self._db.execute("select body, crc from layouts where hash = ?", (layout_hash,)).fetchone()
        if row is None:
            return None
        try:
            return wire.layout_from(wire.parsed(pb.Layout, row[0]))
        except BadInput as error:
            raise Broken(f"{self.path} is damaged: a layout") from error

    # ---- acknowledgement -----------------------------------------------------------------------------------

    def ack(self, lane: int, boot: bytes, spans: Spans, now_ms: int) -> None:
        """Kept in memory and written with the next item: an ack that is lost costs a resend, which is harmless."""
        no = self._number_of(boot)
        if no is None:
            return
        known = self._acked.setdefault((lane, no), Spans())
        for first, last in spans:
            last = min(last, self._next[lane] - 1) if no == self._no else last
            if first <= last:
                known.add(first, last)
                self._unwritten_acks.append((lane, no, first, last, now_ms))
        if len(self._unwritten_acks) >= 512:
            self._write_acks()

    def reconcile(self, durable: Mapping[tuple[int, bytes], Spans], now_ms: int) -> None:
        """What a Welcome says is durable is acknowledged, all else is not: a commander restored from a backup knows less."""
        self._write_acks()
        for lane, table in TABLES.items():
            for no, boot in self._boots.items():
                first, last = self._db.execute(f"select min(seq), max(seq) from {table} where boot = ?", (no,)).fetchone()  # noqa: S608  # our own names
                if first is None:
                    continue
                known = durable.get((lane, boot), Spans())
                for gap in list(known.missing(first, last)):
                    self._db.execute("delete from acked where lane = ? and boot = ? and seq between ? and ?", (lane, no, *gap))
                for span in known:
                    self._write_ack(lane, no, span.first, span.last, now_ms)
                seqs = self._db.execute("select seq from acked where lane = ? and boot = ? order by seq", (lane, no))
                spans = Spans()
                for (seq,) in seqs:
                    spans.add(seq)
                self._acked[lane, no] = spans

    def flush_acks(self) -> None:
        self._write_acks()

    def _number_of(self, boot: bytes) -> int | None:
        return next((no for no, its in self._boots.items() if its == boot), None)

    def _write_acks(self) -> None:
        for entry in self._unwritten_acks:
            self._write_ack(*entry)
        self._unwritten_acks.clear()

    def _write_ack(self, lane: int, no: int, first: int, last: int, now_ms: int) -> None:
        self._db.execute(
            f"insert or ignore into acked select ?, boot, seq, ? from {TABLES[lane]} where boot = ? and seq between ? and ?",  # noqa: S608  # our own names
            (lane, now_ms, no, first, last),
        )

    # ---- room ----------------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        page, count, free = (self._db.execute(f"pragma {p}").fetchone()[0] for p in ("page_size", "page_count", "freelist_count"))
        return int(page * (count - free))

    def free_some(self) -> None:
        """Called when the disk is full and a record must be written: frees pages of the oldest frames for it."""
        self._drop_oldest(64)

    def _make_room(self) -> None:
        while (self.used_bytes() > self._cap or self._disk_is_low()) and self._drop_oldest(_STEP):
            pass

    def _disk_is_low(self) -> bool:
        """Below the floor of free disk the file must not grow: free pages inside it are used instead."""
        if not self._min_free:
            return False
        page, free = (self._db.execute(f"pragma {p}").fetchone()[0] for p in ("page_size", "freelist_count"))
        if page * free > 1024 * 1024:
            return False
        try:
            stat = os.statvfs(self.path.parent) if hasattr(os, "statvfs") else None
        except OSError:
            return False
        return stat is not None and stat.f_bavail * stat.f_frsize < self._min_free

    def _drop_oldest(self, count: int) -> int:
        """Acknowledged frames first. Returns how many frames went."""
        rows = self._db.execute(
            "select f.boot, f.seq from acked a join frames f on f.boot = a.boot and f.seq = a.seq"
            " where a.lane = ? order by a.boot, a.seq limit ?",
            (FRAMES, count),
        ).fetchall()
        if not rows:
            rows = self._db.execute("select boot, seq from frames order by boot, seq limit ?", (count,)).fetchall()
            self._dropped += len(rows)
            self._set_meta("dropped", str(self._dropped))
        self._db.executemany("delete from frames where boot = ? and seq = ?", rows)
        self._db.executemany(f"delete from acked where lane = {FRAMES} and boot = ? and seq = ?", rows)  # noqa: S608  # a number
        return len(rows)

    def _tidy(self, now_ms: int) -> None:
        if abs(now_ms - self._tidied_ms) < _TIDY_EVERY_MS:
            return
        self._tidied_ms = now_ms
        for lane, keep_ms in ((FRAMES, self._keep_acked_ms), (RECORDS, KEEP_RECORDS_MS)):
            old = self._db.execute(
                "select boot, seq from acked where lane = ? and at_ms < ? limit 2000", (lane, now_ms - keep_ms)
            ).fetchall()
            self._db.executemany(f"delete from {TABLES[lane]} where boot = ? and seq = ?", old)  # noqa: S608  # our own names
            self._db.executemany(f"delete from acked where lane = {lane} and boot = ? and seq = ?", old)  # noqa: S608  # a number
        self._db.execute(
            "delete from actions where state >= ? and accepted_ms < ?"
            " and id not in (select id from actions order by accepted_ms desc limit ?)",
            (int(ActionState.SUCCEEDED), now_ms - KEEP_RECORDS_MS, KEEP_ACTIONS),
        )

    # ---- actions -------------------------------------------------------------------------------------------

    def accept(self, order: Order, now_ms: int) -> tuple[Action, bool]:
        """The action and whether it is new. A new one is written as ACCEPTED, together with its report."""
        known = self.action(order.id)
        if known is not None:
            return known, False
        action = Action(order, now_ms, ActionState.ACCEPTED, now_ms)
        self._put_action(action)
        self._add_report(action, now_ms)
        return action, True

    def advance(
        self, action_id: str, report: Report, *, started: bool = False, only_from: tuple[ActionState, ...] = ()
    ) -> Action | None:
        """The action in its new state, with its report. None: unknown, final already, or in none of the states `only_from`."""
        action = self.action(action_id)
        if action is None or action.state.final or (only_from and action.state not in only_from):
            return None
        action = replace(
            action,
            state=report.state,
            updated_ms=report.at_ms,
            started_ms=report.at_ms if started else action.started_ms,
            fault=report.fault,
            text=report.text,
            detail=dict(report.detail),
        )
        self._put_action(action)
        self._add_report(action, report.at_ms)
        return action

    def report_again(self, action_id: str, now_ms: int) -> Action | None:
        """The stored state as a new record, with the time it came about."""
        action = self.action(action_id)
        if action is not None:
            self._add_report(action, now_ms)
        return action

    def note(self, action_id: str, key: str, value: str) -> None:
        action = self.action(action_id)
        if action is not None:
            self._put_action(replace(action, notes={**action.notes, key: value}))

    def action(self, action_id: str) -> Action | None:
        row = self._db.execute("select * from actions where id = ?", (action_id,)).fetchone()
        return None if row is None else self._read_action(row)

    def open_actions(self) -> list[Action]:
        """Not final, oldest first."""
        rows = self._db.execute(
            "select * from actions where state < ? order by accepted_ms, id", (int(ActionState.SUCCEEDED),)
        ).fetchall()
        return [self._read_action(row) for row in rows]

    def power_history(self, since_ms: int) -> list[tuple[ActionKind, str, int]]:
        """(kind, device, started_ms) of the power orders that were started since then."""
        rows = self._db.execute("select * from actions where started_ms >= ? order by started_ms", (since_ms,)).fetchall()
        actions = [self._read_action(row) for row in rows]
        return [(a.order.kind, a.order.device, a.started_ms or 0) for a in actions if a.order.kind in POWER_ACTIONS]

    def epoch(self) -> int:
        return int(self._meta("epoch"))

    def raise_epoch(self, epoch: int) -> int:
        """The highest ever seen."""
        if epoch > self.epoch():
            self._set_meta("epoch", str(epoch))
        return self.epoch()

    def _put_action(self, action: Action) -> None:
        self._db.execute("insert or replace into actions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _action_row(action))

    def _add_report(self, action: Action, now_ms: int) -> None:
        report = Report(action.order.id, action.state, action.updated_ms, action.fault, action.text, action.detail)
        self.add_record("report", wire.report_to(report).SerializeToString(), now_ms)

    def _read_action(self, row: tuple[Any, ...]) -> Action:
        if row[-1] != _crc(*row[:-1]):
            raise Broken(f"{self.path} is damaged: an action")
        _, asked, accepted_ms, started_ms, state, updated_ms, fault, text, detail, notes, _ = row
        try:
            order = wire.order_from(wire.parsed(pb.Action, asked))
        except BadInput as error:
            raise Broken(f"{self.path} is damaged: an action") from error
        return Action(
            order, accepted_ms, ActionState(state), updated_ms, started_ms, fault, text, json.loads(detail), json.loads(notes)
        )

    # ---- out of a damaged file -----------------------------------------------------------------------------

    def _save_from(self, aside: Path) -> None:
        """Takes over every row that can still be read and whose CRC is right: unacknowledged frames, records, actions."""
        try:
            source = _connect(aside)
        except sqlite3.DatabaseError as error:
            if not isinstance(translated(error, aside), Broken):
                raise
            return  # not even a database: there is nothing to take over
        try:
            self._db.execute("begin immediate")
            boots = {no: boot for no, boot, crc in _readable(source, "boots") if isinstance(boot, bytes) and crc == _crc(boot)}
            for no, boot in boots.items():
                if len(boot) == 16:
                    moved = no - 1_000_000  # keeps their order, below the new one
                    self._db.execute("insert or ignore into boots values (?, ?, ?)", (moved, boot, _crc(boot)))
            for layout_hash, body, crc in _readable(source, "layouts"):
                if crc == _crc(layout_hash, body):
                    self._db.execute("insert or ignore into layouts values (?, ?, ?)", (layout_hash, body, crc))
            for table in TABLES.values():
                for no, seq, at_ms, label, body, crc in _readable(source, table):
                    if no in boots and crc == _crc(seq, label, body):
                        moved = no - 1_000_000
                        row = (moved, seq, at_ms, label, body, crc)
                        self._db.execute(f"insert or ignore into {table} values (?, ?, ?, ?, ?, ?)", row)  # noqa: S608  # our own names
            for lane, no, seq, at_ms in _readable(source, "acked"):
                if no in boots and lane in TABLES:
                    self._db.execute("insert or ignore into acked values (?, ?, ?, ?)", (lane, no - 1_000_000, seq, at_ms))
            for action in _readable(source, "actions"):
                if action[-1] == _crc(*action[:-1]):
                    self._db.execute("insert or ignore into actions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", action)
            for name, value, crc in _readable(source, "meta"):
                if name in ("epoch", "dropped", "unwritable") and crc == _crc(name, value):
                    self._set_meta(name, value)
            self._db.execute("commit")
        finally:
            with contextlib.suppress(sqlite3.Error):
                source.close()
        self._load()


def _action_row(a: Action) -> tuple[Any, ...]:
    row = (
        a.order.id,
        wire.order_to(a.order).SerializeToString(deterministic=True),
        a.accepted_ms,
        a.started_ms,
        int(a.state),
        a.updated_ms,
        a.fault,
        a.text,
        json.dumps(dict(a.detail)),
        json.dumps(dict(a.notes)),
    )
    return (*row, _crc(*row))


def _readable(db: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """The rows that a damaged table still gives. Where it cannot be read it goes on behind, in growing steps."""
    at, step = 0, 1
    while step < 1 << 40:
        try:
            if table in _SMALL:
                yield from db.execute(f"select * from {table}")  # noqa: S608  # our own names
                return
            asked = f"select rowid, * from {table} where rowid > ? order by rowid"  # noqa: S608  # our own names
            for row in db.execute(asked, (at,)):
                at, step = row[0], 1
                yield row[1:]
            return
        except (sqlite3.Error, ValueError, OverflowError):  # ValueError: a text that is no UTF-8
            at, step = at + step, step * 2
            if table in _SMALL:
                return


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
    try:
        for pragma in ("locking_mode=exclusive", "journal_mode=wal", "synchronous=full", "cache_size=-1024", "temp_store=memory"):
            db.execute(f"pragma {pragma}").fetchall()
        db.execute("pragma wal_autocheckpoint=500")
    except BaseException:
        db.close()
        raise
    return db


def translated(error: Exception, path: Path) -> Fault:
    """SQLite's error as one of ours."""
    if isinstance(error, Fault):
        # its frames hold cursors, and an open cursor keeps the file locked
        return error.with_traceback(None)
    if not isinstance(error, sqlite3.Error):
        return Broken(f"{path} is damaged: {error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return DiskFull(f"cannot write {path}: {error}", hint="free some space; it goes on by itself")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"{path} is in use by another process", hint="a sentry with this state folder is running already")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
        return Unavailable(f"cannot open {path} for writing: {error}", hint="check its owner and mode")
    return Broken(f"{path} is damaged: {error}")
