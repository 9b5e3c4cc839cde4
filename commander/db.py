"""SQLite for the commander: one writer thread with group commit, read-only connections, migrations.

Called by the stores of the subjects; nobody else opens a database.

    db = await Database.open(path, MIGRATIONS)
    await db.write(lambda c: c.execute("insert …"))      # durable when it returns
    rows = await db.read(lambda c: c.execute("select …").fetchall())
    await db.close()

WAL with `synchronous=FULL`: what `write` returned from survives kill -9 and a power cut (measured: 0 of 275 acknowledged
transactions lost over 6 kills). Writes that wait together share one commit; each runs in its own savepoint, so that one
that fails takes no other with it. Only a fault of the file or the disk fails the whole group, and the writer goes on:
when there is space again, the next write succeeds.

Opening never reads a large file through: a file up to `CHECK_AT_OPEN_BYTES` is checked whole, a larger one only at its
schema, and `check()` does the rest while the commander already serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from garrison.faults import Broken, DiskFull, Fault, Unavailable, VersionMismatch

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

CHECK_AT_OPEN_BYTES = 128 << 20
"""quick_check reads about 1 GB/s from memory and 100 MB/s from a slow disk: this much is at most a second or two."""

_MAX_GROUP = 5_000
_OF_THE_FILE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""Primary result codes that say something of the file or the machine. All others are of the statement: a mistake of ours."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `number` counts from 1 without gaps; `apply` runs in one transaction with its record."""

    number: int
    name: str
    apply: Callable[[sqlite3.Connection], None]  # must not commit by itself: `executescript` and `with connection:` do


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Database:
    """`gather_s`: how long a write may wait for others to share its commit; 0: only with those already waiting."""

    def __init__(self, path: Path, *, gather_s: float = 0.0, readers: int = 2) -> None:
        self.path = path
        self._gather_s = gather_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_on, name=f"writer:{path.name}", daemon=True)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix=f"reader:{path.name}")
        self._mine = threading.local()
        self._open_readers: list[sqlite3.Connection] = []
        self._closed = False
        self.commits = 0
        self.failed = 0
        self.last_error: str | None = None
        """Why the last commit failed; None after one that succeeded."""

    @classmethod
    async def open(cls, path: Path, migrations: Sequence[Migration], *, gather_s: float = 0.0, readers: int = 2) -> Database:
        """Creates or migrates the file (mode 0600). VersionMismatch: written by a newer program. Broken: damaged."""
        db = cls(path, gather_s=gather_s, readers=readers)
        await asyncio.to_thread(prepare, path, migrations)
        db._writer.start()
        return db

    async def write(self, work: Work[T]) -> T:
        """Runs `work` in the writer thread; returns its result once it is durable. DiskFull and Unavailable pass: retry later."""
        return await self.submit(work)

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """As `write`, without waiting: the future is done when the commit is durable."""
        if self._closed:
            raise Unavailable(f"{self.path.name} is closed")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._jobs.put(job)
        return job.done

    def write_from_thread(self, work: Work[T], loop: asyncio.AbstractEventLoop) -> T:
        """As `write`, in a thread that may wait."""
        return asyncio.run_coroutine_threadsafe(self.write(work), loop).result()

    async def read(self, work: Work[T]) -> T:
        """Runs `work` on a read-only connection in another thread. Never waits for the writer. Broken, Unavailable."""
        if self._closed:
            raise Unavailable(f"{self.path.name} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def check(self) -> str | None:
        """Reads the whole file through, in a thread, while work goes on. What is damaged, or None."""
        return await asyncio.to_thread(damage, self.path)

    async def backup(self, target: Path) -> None:
        """A consistent copy while running, checked by opening it. `target` must not exist."""
        await asyncio.to_thread(copy_checked, self.path, target)

    async def close(self) -> None:
        """Finishes what was submitted, then closes. The writer goes last, so that SQLite folds the WAL back into the file."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._open_readers:
            connection.close()
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)

    def _read(self, work: Work[T]) -> T:
        try:
            return work(self._reader())
        except sqlite3.Error as error:
            if _of_the_file(error):
                raise translated(error, self.path) from error
            raise

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self.reader()
            self._open_readers.append(connection)
        return connection

    def reader(self) -> sqlite3.Connection:
        """A read-only connection of the caller's own, for work that would keep others from theirs. The caller closes it."""
        return reader(self.path)

    # ---- the writer thread ---------------------------------------------------------------------------------

    def _write_on(self) -> None:
        connection: sqlite3.Connection | None = None
        while (jobs := self._next()) is not None:
            try:
                connection = connection or self._connected()
                self._commit(connection, jobs)
            except sqlite3.Error as error:
                self._refuse(jobs, error)
            for job in jobs:
                with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                    job.loop.call_soon_threadsafe(_settle, job)
        if connection is not None:
            connection.close()

    def _connected(self) -> sqlite3.Connection:
        connection = connect(self.path)
        connection.row_factory = sqlite3.Row
        return connection

    def _next(self) -> list[_Job] | None:
        first = self._jobs.get()
        if first is None:
            return None
        jobs = [first]
        until = time.monotonic() + self._gather_s
        while len(jobs) < _MAX_GROUP:
            try:
                left = until - time.monotonic()
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # close after this commit
                break
            jobs.append(job)
        return jobs

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        with transaction(connection):
            for job in jobs:
                self._run(connection, job)
        self.commits += 1
        self.last_error = None

    def _run(self, connection: sqlite3.Connection, job: _Job) -> None:
        connection.execute("savepoint job")
        try:
            job.result = job.work(connection)
        except sqlite3.Error as error:
            if _of_the_file(error) or not connection.in_transaction:
                raise  # the whole group fails
            job.error = error
        except BaseException as error:  # carried to whoever waits; the writer must live
            job.error = error
        if not connection.in_transaction:
            raise sqlite3.ProgrammingError("a write ended the transaction it shares with others")
        if job.error is not None:
            connection.execute("rollback to job")
        connection.execute("release job")

    def _refuse(self, jobs: list[_Job], error: sqlite3.Error) -> None:
        fault = translated(error, self.path)
        self.failed += 1
        if self.last_error != fault.text:
            log.warning("cannot write", extra={"database": self.path.name, "fault": fault.code, "text": fault.text})
        self.last_error = fault.text
        for job in jobs:
            job.error = job.error or fault


def _settle(job: _Job) -> None:
    if job.done.done():
        return
    if job.error is not None:
        job.done.set_exception(job.error)
    else:
        job.done.set_result(job.result)


def connect(path: Path) -> sqlite3.Connection:
    """A writing connection as every part of the commander must open it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    settle(connection)
    return connection


def reader(path: Path) -> sqlite3.Connection:
    """A read-only connection, for any thread."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("pragma query_only=1")
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Durable when the block ends; nothing of it is there when it fails."""
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite itself has rolled back after most faults of the disk
            connection.execute("rollback")
        raise


def settle(connection: sqlite3.Connection) -> None:
    """How every writing connection works: durable at each commit, readers never wait."""
    for pragma in (
        "journal_mode=wal",
        "synchronous=full",
        "foreign_keys=on",
        "wal_autocheckpoint=4000",
        "temp_store=memory",
        "journal_size_limit=67108864",  # a WAL that a long read let grow shrinks again
    ):
        connection.execute(f"pragma {pragma}").fetchall()


def prepare(path: Path, migrations: Sequence[Migration]) -> None:
    """Creates the file or brings it to the newest version; each migration is one transaction with its record."""
    newest = len(migrations)
    if [m.number for m in migrations] != list(range(1, newest + 1)):
        raise ValueError(f"migrations of {path.name} are not numbered 1 to {newest}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = connect(path)
    except OSError as error:
        raise Unavailable(f"cannot open {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise translated(error, path) from error
    try:
        wrong = _quick_check(connection) if path.stat().st_size <= CHECK_AT_OPEN_BYTES else _glance(connection)
        if wrong is not None:
            raise Broken(f"{path} is damaged: {wrong}", hint="`commander restore` puts a backup in its place")
        connection.execute(
            "create table if not exists migrations (number integer primary key, name text not null, at text not null)"
        )
        done = connection.execute("select coalesce(max(number), 0) from migrations").fetchone()[0]
        if done > newest:
            raise VersionMismatch(
                f"{path} was written by a newer Garrison (version {done}, this program knows {newest})",
                hint="install the newer program again, or restore a backup made by this one",
            )
        for migration in migrations[done:]:
            connection.execute("begin immediate")
            migration.apply(connection)
            if not connection.in_transaction:
                raise ValueError(f"migration {migration.number} of {path.name} committed by itself")
            connection.execute(
                "insert into migrations (number, name, at) values (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
                (migration.number, migration.name),
            )
            connection.execute("commit")
    except sqlite3.Error as error:
        raise translated(error, path) from error
    finally:
        connection.close()


def damage(path: Path) -> str | None:
    """What SQLite's quick_check finds wrong with the file, or None. Reads all of it: about a second a gigabyte at best."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return _quick_check(connection)
    except sqlite3.Error as error:
        if _of_the_file(error):
            return str(error)
        raise


def _quick_check(connection: sqlite3.Connection) -> str | None:
    found = str(connection.execute("pragma quick_check(1)").fetchone()[0])
    return None if found == "ok" else found


def _glance(connection: sqlite3.Connection) -> str | None:
    """A large file: the schema and the first page of every table must read, and the file must not be cut short."""
    pages = connection.execute("pragma page_count").fetchone()[0]
    size = connection.execute("pragma page_size").fetchone()[0]
    (name,) = (row[2] for row in connection.execute("pragma database_list") if row[1] == "main")
    wal = Path(f"{name}-wal")
    if not (wal.exists() and wal.stat().st_size) and Path(name).stat().st_size < pages * size:
        return f"it should hold {pages} pages and is cut short"
    for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
        quoted = table.replace('"', '""')
        connection.execute(f'select * from "{quoted}" limit 1').fetchone()  # noqa: S608  # the file's own names, quoted
    return None


def copy_checked(source: Path, target: Path, given_up: Callable[[], bool] = lambda: False) -> None:
    """A consistent copy of a database in use into a new file (mode 0600, synced), checked by reading it through.

    Raises Unavailable (also when `given_up` says so), DiskFull, Broken; `target` is then not there.
    """
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError as error:
        raise Unavailable(f"{target} exists already", hint="name a new file") from error
    except OSError as error:
        raise Unavailable(f"cannot write {target}: {error.strerror}") from error
    try:
        _copy(source, target, given_up)
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise translated(error, target if _primary(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) else source) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy(source: Path, target: Path, given_up: Callable[[], bool]) -> None:
    def step(*_: int) -> None:
        if given_up():
            raise Unavailable(f"the copy of {source.name} was given up")

    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as here,
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as there,
    ):
        # Without a read transaction of its own the copy would start again at every commit of the writer, and never end.
        here.execute("begin")
        here.execute("select count(*) from sqlite_master").fetchone()
        here.backup(there, pages=2_000, sleep=0.001, progress=step)
        here.execute("rollback")
        there.execute("pragma journal_mode=delete").fetchone()  # one file, whole by itself
        wrong = _quick_check(there)
    if wrong is not None:
        raise Broken(f"{source} is damaged: {wrong}", hint="an older backup may be whole")
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _of_the_file(error: sqlite3.Error) -> bool:
    return _primary(error) in _OF_THE_FILE


def translated(error: sqlite3.Error, path: Path) -> Fault:
    """SQLite's error as one of ours; the only place that reads its codes."""
    code = _primary(error)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"no space left for {path}", hint="free some space; it goes on by itself")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Broken(f"{path} is damaged: {error}", hint="`commander restore` puts a backup in its place")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
        return Unavailable(f"cannot open {path} for writing: {error}", hint="check its owner and mode")
    return Unavailable(f"{path}: {error}")
