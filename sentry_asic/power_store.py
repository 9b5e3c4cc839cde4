"""`power.db`: what the sentry promised about power, on disk before anything is switched.

`restores`: "this outlet must be on again at that time", with all it takes to reach the board, for it may have left the
assignment by then; its password stands here only while the promise is open (the file is 0600, freed pages are overwritten).
`cuts`: each time power was taken away, for the limits. `switches`: a counter an outlet.

One thread does everything; WAL with synchronous=FULL, so what returned is on disk. `sentry-asic relay cycle` may write here
too while the daemon runs: the daemon adopts promises that are not its own once they are overdue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from garrison.faults import DiskFull, Fault, Unavailable, VersionMismatch
from garrison.model import Board, Credentials
from garrison.words import ActionKind
from sentry_asic.power_rules import DAY_MS, Cut

log = logging.getLogger(__name__)
T = TypeVar("T")
VERSION = 1
_KEEP_CUTS_MS = 30 * DAY_MS
_SCHEMA = """
create table restores (
    board text not null, outlet text not null, device text not null, circuit text not null, action_id text not null,
    cut_ms integer not null, off_s integer not null, due_ms integer not null, by_board integer not null,
    kind text not null, address text not null, outlets integer not null, options text not null,
    username text not null, password text not null, simulated integer not null,
    primary key (board, outlet)
);
create table cuts (
    id integer primary key, device text not null, board text not null, outlet text not null, kind text not null,
    at_ms integer not null
);
create index cuts_at on cuts (at_ms);
create table switches (board text not null, outlet text not null, count integer not null, primary key (board, outlet));
"""


@dataclass(frozen=True, slots=True)
class Restore:
    """A promise: `outlet` of `board` is on again at `due_ms`. `by_board`: its own timer should have done it by then."""

    board: Board
    outlet: str
    device: str
    circuit: str
    action_id: str
    cut_ms: int
    off_s: int
    due_ms: int
    by_board: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return (self.board.id, self.outlet)


class PowerStore:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None
        """Where a damaged file went at `open`; its promises are lost, and somebody must be told."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="power.db")
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._switches: dict[tuple[str, str], int] = {}

    @classmethod
    async def open(cls, path: Path) -> PowerStore:
        """Creates the file (0600) if need be. A damaged one is set aside. VersionMismatch, DiskFull, Unavailable."""
        store = cls(path)
        try:
            await store._do(store._open)
        except BaseException:
            store._thread.shutdown()
            raise
        return store

    async def close(self) -> None:
        if self._closed:
            return
        with contextlib.suppress(Fault):
            await self._do(lambda db: db.close())
        self._closed, self._db = True, None
        await asyncio.to_thread(self._thread.shutdown)

    async def begin(self, cut: Cut, restore: Restore | None) -> int:
        """Before power is cut: the cut, and the promise to bring it back (None: off for good). Ends an older promise there."""
        return await self._do(lambda db: _begin(db, cut, restore))

    async def undo(self, cut_id: int, restore: Restore | None) -> None:
        """Nothing was sent after all."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("delete from cuts where id = ?", (cut_id,))
            if restore is not None:
                db.execute("delete from restores where board = ? and outlet = ?", restore.key)

        await self._do(work)

    async def postpone(self, restore: Restore, due_ms: int) -> None:
        """The outlet went off later than thought: so is the time due."""
        await self._do(
            lambda db: db.execute("update restores set due_ms = ? where board = ? and outlet = ?", (due_ms, *restore.key)).close()
        )

    async def finish(self, board: str, outlet: str) -> None:
        """Power is back, or a person ended the promise."""
        await self._do(lambda db: db.execute("delete from restores where board = ? and outlet = ?", (board, outlet)).close())

    async def restores(self) -> list[Restore]:
        return await self._do(lambda db: [_restore(row) for row in db.execute("select * from restores order by due_ms")])

    async def cuts(self, since_ms: int) -> list[Cut]:
        """Cuts since then, and those in the future: the clock may have gone back."""
        sql = "select device, board, outlet, kind, at_ms from cuts where at_ms >= ? order by at_ms"
        return await self._do(lambda db: [Cut(d, b, o, ActionKind(k), at) for d, b, o, k, at in db.execute(sql, (since_ms,))])

    async def count_switch(self, board: str, outlet: str) -> None:
        """One more command that this sentry sent to that outlet."""
        count = self._switches.get((board, outlet), 0) + 1
        self._switches[board, outlet] = count
        sql = "insert into switches values (?, ?, ?) on conflict (board, outlet) do update set count = excluded.count"
        await self._do(lambda db: db.execute(sql, (board, outlet, count)).close())

    def switches(self, board: str, outlet: str) -> int:
        return self._switches.get((board, outlet), 0)

    # ---- in the thread ----

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise Unavailable(f"{self.path.name} is closed", hint="the sentry is stopping")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._db is None:
                self._db = self._attach()
            with self._db:
                return work(self._db)
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error

    def _attach(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600, exist_ok=True)
        try:
            return _connect(self.path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, full, no right: not damage
            self.set_aside = _aside(self.path)
            log.exception("the record of power promises was damaged and is set aside", extra={"file": str(self.set_aside)})
            self.path.touch(mode=0o600)
            return _connect(self.path)

    def _open(self, db: sqlite3.Connection) -> None:
        self._switches = {(board, outlet): count for board, outlet, count in db.execute("select * from switches")}


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, check_same_thread=False)
    try:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        db.execute("pragma secure_delete = on")
        version = db.execute("pragma user_version").fetchone()[0]
        if version > VERSION:
            raise VersionMismatch(f"{path.name} is of version {version}, this program knows {VERSION}", hint="update this sentry")
        if version == 0:
            db.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {VERSION}; commit;")
        if (told := db.execute("pragma quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(told)
    except BaseException:
        db.close()
        raise
    return db


def _aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    return target


def _translate(error: sqlite3.Error, path: Path) -> Fault:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return DiskFull(f"{path.name} cannot be written: {error}", hint="free space on the sentry's disk; nothing was switched off")
    return Unavailable(f"{path.name}: {error}")


def _begin(db: sqlite3.Connection, cut: Cut, restore: Restore | None) -> int:
    db.execute("delete from cuts where at_ms < ?", (cut.at_ms - _KEEP_CUTS_MS,))
    row = (cut.device, cut.board, cut.outlet, cut.kind.value, cut.at_ms)
    cut_id = db.execute("insert into cuts (device, board, outlet, kind, at_ms) values (?, ?, ?, ?, ?)", row).lastrowid
    db.execute("delete from restores where board = ? and outlet = ?", (cut.board, cut.outlet))
    if restore is not None:
        db.execute(f"insert into restores values ({', '.join('?' * 16)})", _row(restore))  # noqa: S608  # question marks
    return int(cut_id or 0)


def _row(r: Restore) -> tuple[str | int, ...]:
    login = r.board.credentials or Credentials("", "")
    told = (r.board.id, r.outlet, r.device, r.circuit, r.action_id, r.cut_ms, r.off_s, r.due_ms, int(r.by_board))
    options = msgspec.json.encode(dict(r.board.options)).decode()
    return (*told, r.board.kind, r.board.address, r.board.outlets, options, login.username, login.password, int(r.board.simulated))


def _restore(row: tuple[object, ...]) -> Restore:
    (
        board_id,
        outlet,
        device,
        circuit,
        action_id,
        cut_ms,
        off_s,
        due_ms,
        by_board,
        kind,
        address,
        outlets,
        options,
        user,
        word,
        sim,
    ) = row
    login = Credentials(str(user), str(word)) if user or word else None
    known = msgspec.json.decode(str(options), type=dict[str, str])
    board = Board(str(board_id), str(kind), str(address), int(str(outlets)), login, bool(sim), known)
    times = (int(str(cut_ms)), int(str(off_s)), int(str(due_ms)))
    return Restore(board, str(outlet), str(device), str(circuit), str(action_id), *times, bool(by_board))
