"""The archive: the files beside hot.db in which merged days are kept.

Questions are answered over `Files`, which keeps some connections open between them: opening a file and reading its layouts takes
longer than reading a day of a device. Only the history's own worker writes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from commander import db
from commander.telemetry import block_store, totals_store
from commander.telemetry.block_store import Columns
from commander.telemetry.levels import FileSpan, Level, file_named, files_between
from garrison.faults import Broken, DiskFull, Fault, Unavailable, VersionMismatch

VERSION = 1
MOST_IDLE = 2
"""Connections kept of one file; a reader more opens its own."""

MOST_FILES = 24
WAIT_S = 60.0
"""For the last question to end before a file is replaced: longer than any may take."""

PAGE_BYTES = 4096
_APPLICATION = 0x47415252  # "GARR"


def existing(folder: Path, level: Level | None = None) -> list[FileSpan]:
    """The files that are there, of one level or all, by level and time."""
    found = [file_named(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    spans = [span for span in found if span is not None and level in (None, span.level)]
    return sorted(spans, key=lambda span: (span.level, span.from_ms))


def between(folder: Path, level: Level, from_ms: int, to_ms: int) -> list[FileSpan]:
    """The files that are there and meet [from, to), the oldest first."""
    if to_ms - from_ms > 10 * 366 * 86_400_000:
        return [span for span in existing(folder, level) if span.to_ms > from_ms and span.from_ms < to_ms]
    return [span for span in files_between(level, from_ms, to_ms) if (folder / span.name).exists()]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection for reading, in one snapshot, or None when the file is not there (any more). Broken, Unavailable,
    VersionMismatch."""
    connection = _connected(path)
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


class _Frozen(sqlite3.Connection):
    """Takes the file for one that nobody writes into: for one question."""


def _connected(path: Path) -> sqlite3.Connection | None:
    try:
        # Not mode=ro: such a connection cannot see what a writer puts into a WAL that was not there when it was opened.
        return _begun(path, "mode=rw", sqlite3.Connection)
    except DiskFull:
        # What SQLite wants to put beside the file for a reader has no room. All is in the file itself when it has no WAL, and
        # who writes into it finds no room either.
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists() and wal.stat().st_size:
            raise
        return _begun(path, "mode=ro&immutable=1", _Frozen)


def _begun(path: Path, how: str, kind: type[sqlite3.Connection]) -> sqlite3.Connection | None:
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False, factory=kind
        )
    except sqlite3.OperationalError:
        return None
    try:
        connection.execute("pragma query_only=1")
        _check_version(connection, path)
        connection.execute("begin")
        # one whose schema was harmed is refused here; one whose first transaction was cut short is not there yet
        if not connection.execute("select 1 from sqlite_master limit 1").fetchone():
            connection.close()
            return None
    except UnicodeDecodeError as error:  # SQLite cites what stands there now
        connection.close()
        raise Broken(f"{path} is damaged: its schema was changed on disk") from error
    except sqlite3.Error as error:
        connection.close()
        if not path.exists():
            return None
        raise _translated(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(slots=True)
class Opened:
    """A file open for reading, in one snapshot while it is lent."""

    c: sqlite3.Connection
    columns: Columns
    inode: int


class Files:
    """Lends connections to the files of a folder, to any thread. A file that was replaced meanwhile is opened anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._idle: dict[str, list[Opened]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._lent: dict[str, int] = {}
        self._barred: set[str] = set()

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Opened | None]:
        """As `reading`; None when there is no such file."""
        with self._counted(name), self._reading(name) as opened:
            yield opened

    @contextlib.contextmanager
    def closed(self, name: str) -> Iterator[None]:
        """While inside, nobody has the file open; questions wait. For a file that is replaced: SQLite, closing the last
        connection to the old one, would remove the WAL of the new one. Unavailable: somebody reads it for too long."""
        with self._lock:
            self._barred.add(name)
        try:
            self.release(name)
            with self._lock:
                if not self._changed.wait_for(lambda: not self._lent.get(name), WAIT_S):
                    raise Unavailable(f"{name} is being read", hint="try again")
            self.release(name)
            yield
        finally:
            with self._lock:
                self._barred.discard(name)
                self._changed.notify_all()

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        with self._lock:
            if not self._changed.wait_for(lambda: name not in self._barred, WAIT_S):
                raise Unavailable(f"{name} is being replaced", hint="try again")
            self._lent[name] = self._lent.get(name, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._lent[name] -= 1
                if not self._lent[name]:
                    del self._lent[name]
                    self._changed.notify_all()

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[Opened | None]:
        path = self.folder / name
        try:
            inode = path.stat().st_ino
        except OSError:
            yield None
            return
        opened = self._taken(name, inode)
        if opened is None:
            connection = _connected(path)
            if connection is None:
                yield None
                return
            opened = Opened(connection, Columns(connection), inode)
        else:
            opened.c.execute("begin")
        kept = False
        try:
            yield opened
            opened.c.execute("rollback")  # only after a question that went well is the connection used again
            kept = self._kept(name, opened)
        finally:
            if not kept:
                opened.c.close()

    def release(self, name: str | None = None) -> None:
        """Closes what is idle, of one file or of all: before a file is removed or replaced, and at the end."""
        with self._lock:
            names = list(self._idle) if name is None else [name]
            opened = [one for some in names for one in self._idle.pop(some, [])]
        for one in opened:
            one.c.close()

    def _taken(self, name: str, inode: int) -> Opened | None:
        with self._lock:
            idle = self._idle.get(name)
            opened = idle.pop() if idle else None
        if opened is not None and opened.inode != inode:
            opened.c.close()
            return None
        return opened

    def _kept(self, name: str, opened: Opened) -> bool:
        with self._lock:
            idle = self._idle.setdefault(name, [])
            if len(idle) >= MOST_IDLE or len(self._idle) > MOST_FILES or isinstance(opened.c, _Frozen):
                return False
            idle.append(opened)
            return True


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction, durable when the block ends. Makes the file (mode 0600) where there is none. DiskFull, Broken,
    Unavailable."""
    fresh = not path.exists() or not path.stat().st_size
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    except OSError as error:
        raise Unavailable(f"cannot open {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise db.translated(error, path) from error
    try:
        if fresh:
            connection.execute(f"pragma page_size={PAGE_BYTES}")
        db.settle(connection)
        with db.transaction(connection):
            if not connection.execute("select 1 from sqlite_master where name = 'blocks'").fetchone():
                create(connection)
            _check_version(connection, path)
            yield connection
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    finally:
        connection.close()


def _translated(error: sqlite3.Error, path: Path) -> Fault:
    # of the index of the WAL, which whoever opens the file first makes beside it
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFull(f"no space left beside {path}", hint="free some space; it goes on by itself")
    return db.translated(error, path)


def touched_ms(c: sqlite3.Connection) -> int:
    """When something was last written into the file."""
    row = c.execute("select value from meta where name = 'touched_ms'").fetchone()
    return 0 if row is None else int(row[0])


def touch(c: sqlite3.Connection, now_ms: int) -> None:
    c.execute(
        "insert into meta (name, value) values ('touched_ms', ?) on conflict (name) do update set value = excluded.value", (now_ms,)
    )


def remove(path: Path) -> None:
    """The file and what SQLite put beside it. PermissionError: somebody reads it (Windows); try again later."""
    for end in ("-wal", "-shm", ""):  # the file last: a WAL that was left would be taken for that of the next file of this name
        path.with_name(path.name + end).unlink(missing_ok=True)


def create(c: sqlite3.Connection) -> None:
    """The tables of this version."""
    c.execute(f"pragma application_id={_APPLICATION}")
    c.execute(f"pragma user_version={VERSION}")
    c.execute("create table meta (name text primary key, value integer not null)")
    block_store.create_layouts(c)
    block_store.create_tables(c)
    totals_store.create_archive_tables(c)


def version(c: sqlite3.Connection) -> int:
    return int(c.execute("pragma user_version").fetchone()[0])


def _check_version(c: sqlite3.Connection, path: Path) -> None:
    found = version(c)
    if found > VERSION:
        raise VersionMismatch(
            f"{path} was written by a newer Garrison (version {found}, this program knows {VERSION})",
            hint="install the newer program again, or restore a backup made by this one",
        )
