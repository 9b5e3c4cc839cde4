"""Tests of commander.db: what was acknowledged is there, whatever happens to the process, the disk or a neighbour."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commander import db
from commander.db import Database, Migration
from garrison.faults import Broken, DiskFull, Unavailable, VersionMismatch

ROOT = Path(__file__).parents[2]


def _first(c: sqlite3.Connection) -> None:
    c.execute("create table things (id integer primary key, name text unique, body blob)")


def _second(c: sqlite3.Connection) -> None:
    c.execute("alter table things add column size integer")


ONE = [Migration(1, "things", _first)]
TWO = [*ONE, Migration(2, "size", _second)]


@pytest.fixture
async def things(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "home" / "things.db", ONE)
    yield database
    await database.close()


def _add(name: str, size: int = 10) -> db.Work[int]:
    return lambda c: c.execute("insert into things (name, body) values (?, zeroblob(?)) returning id", (name, size)).fetchone()[0]


async def _names(database: Database) -> set[str]:
    return {row[0] for row in await database.read(lambda c: c.execute("select name from things").fetchall())}


# ---- writing and reading -----------------------------------------------------------------------------------


async def test_written_is_read(things: Database) -> None:
    """What `write` returned from is seen by the next read, and the file is private."""
    assert await things.write(_add("a")) == 1
    assert await _names(things) == {"a"}
    assert things.path.stat().st_mode & 0o777 == 0o600


async def test_waiting_writes_share_a_commit(tmp_path: Path) -> None:
    """A hundred writes within the gathering time need a few commits, and each gets its own result."""
    database = await Database.open(tmp_path / "a.db", ONE, gather_s=0.2)
    ids = await asyncio.gather(*(database.write(_add(f"n{i}")) for i in range(100)))
    assert sorted(ids) == list(range(1, 101))
    assert database.commits <= 3
    await database.close()


async def test_a_failing_write_takes_no_other_with_it(tmp_path: Path) -> None:
    """In one group: a broken constraint, wrong SQL, an exception of ours and a half-done write fail alone."""
    database = await Database.open(tmp_path / "a.db", ONE, gather_s=0.2)

    def half(c: sqlite3.Connection) -> None:
        c.execute("insert into things (name) values ('half')")
        raise Unavailable("no")

    jobs = [_add("a"), _add("a"), lambda c: c.execute("select * from nothing"), half, _add("b")]
    done = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
    assert database.commits == 1
    assert done[0] == 1
    assert isinstance(done[1], sqlite3.IntegrityError)
    assert isinstance(done[2], sqlite3.OperationalError)
    assert isinstance(done[3], Unavailable)
    assert isinstance(done[4], int)
    assert await _names(database) == {"a", "b"}
    await database.close()


async def test_a_write_that_commits_by_itself_is_refused(things: Database) -> None:
    """It would make the writes of others durable halves; they are told, and the writer lives."""
    with pytest.raises(Unavailable):
        await things.write(lambda c: c.executescript("insert into things (name) values ('x')"))
    await things.write(_add("after"))
    assert "after" in await _names(things)


async def test_a_cancelled_wait_does_not_hurt(things: Database) -> None:
    """The caller may go away; the write happens, the writer lives."""
    waiting = asyncio.create_task(things.write(_add("left")))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await things.write(_add("next"))
    assert await _names(things) == {"left", "next"}


async def test_reads_do_not_wait_for_the_writer(things: Database) -> None:
    """A read answers while a write is in the middle of its transaction, and sees what was committed before."""
    await things.write(_add("old"))
    inside, go_on = threading.Event(), threading.Event()

    def long(c: sqlite3.Connection) -> None:
        c.execute("insert into things (name) values ('new')")
        inside.set()
        go_on.wait(30)

    writing = things.submit(long)
    await asyncio.to_thread(inside.wait, 30)
    try:
        assert await asyncio.wait_for(_names(things), 10) == {"old"}
    finally:
        go_on.set()
    await writing
    assert await _names(things) == {"old", "new"}


async def test_reads_cannot_write(things: Database) -> None:
    """A connection for reading refuses to write."""
    with pytest.raises(Unavailable):
        await things.read(lambda c: c.execute("insert into things (name) values ('x')"))


async def test_close_finishes_what_was_submitted(tmp_path: Path) -> None:
    """Nothing submitted before `close` is lost; after it both directions refuse; the file is whole without its WAL."""
    database = await Database.open(tmp_path / "a.db", ONE, gather_s=0.5)
    jobs = [database.submit(_add(f"n{i}")) for i in range(200)]
    await database.read(lambda c: c.execute("select 1").fetchone())
    begun = time.monotonic()
    await database.close()
    assert time.monotonic() - begun < 5
    await asyncio.gather(*jobs)
    with pytest.raises(Unavailable):
        database.submit(_add("late"))
    with pytest.raises(Unavailable):
        await database.read(lambda c: c.execute("select 1"))
    assert not (tmp_path / "a.db-wal").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as c:
        assert c.execute("select count(*) from things").fetchone() == (200,)


# ---- kill -9 -----------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from pathlib import Path
from commander.db import Database
from tests.commander.test_db import ONE, _add

async def main():
    database = await Database.open(Path(sys.argv[1]), ONE, gather_s=0.002)
    async def one(worker):
        for i in range(1_000_000):
            name = f"{sys.argv[2]}-{worker}-{i}"
            await database.write(_add(name, 3000))
            print(name, flush=True)
    await asyncio.gather(*(one(worker) for worker in range(8)))
asyncio.run(main())
"""


def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    """A writer killed at random moments, again and again on one file: each name it printed is there, and the file is whole."""
    rng = random.Random(7)
    path = tmp_path / "a.db"
    acked: set[str] = set()
    for life in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(life)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acked.add(writer.stdout.readline().strip())
            time.sleep(rng.uniform(0.05, 0.5))
            writer.kill()
            whole = writer.stdout.read().rpartition("\n")[0]  # a last line may have been cut
            acked.update(whole.splitlines())
    assert len(acked) > 20
    assert db.damage(path) is None
    with contextlib.closing(sqlite3.connect(path)) as c:
        kept = {row[0] for row in c.execute("select name from things")}
    assert acked <= kept


# ---- a full disk -------------------------------------------------------------------------------------------


async def test_a_full_disk_refuses_writes_and_recovers_alone(things: Database) -> None:
    """DiskFull for what does not fit; reads go on; small writes and later writes succeed when there is room again."""
    await things.write(_add("before"))
    pages = await things.write(lambda c: c.execute("pragma page_count").fetchone()[0])
    await things.write(lambda c: c.execute(f"pragma max_page_count={pages + 2}").fetchone())
    with pytest.raises(DiskFull, match="no space"):
        await things.write(_add("large", 1_000_000))
    assert "no space" in str(things.last_error)
    assert await _names(things) == {"before"}
    await things.write(lambda c: c.execute("pragma max_page_count=1000000").fetchone())
    await things.write(_add("large", 1_000_000))
    assert str(things.last_error) == "None"
    assert await _names(things) == {"before", "large"}
    assert await things.check() is None


FILLER = """
import asyncio, sys
from pathlib import Path
from commander.db import Database
from garrison.faults import DiskFull
from tests.commander.test_db import ONE, _add, _names

async def main(folder):
    database = await Database.open(folder / "a.db", ONE)
    acked, refused = set(), 0
    for i in range(200):
        try:
            await database.write(_add(f"n{i}", 100_000))
            acked.add(f"n{i}")
        except DiskFull:
            refused += 1
            assert await _names(database) == acked   # reads go on
            if refused == 3:
                (folder / "ballast").unlink()
            if refused > 50:
                break
    assert 3 <= refused < 60, refused
    assert len(acked) > 40, len(acked)
    assert await _names(database) == acked
    assert await database.check() is None
    await database.close()
    print("recovered")

folder = Path(sys.argv[1])
(folder / "ballast").write_bytes(bytes(4_000_000))
asyncio.run(main(folder))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system of its own")
def test_a_really_full_file_system(tmp_path: Path) -> None:
    """The same on an 8 MB tmpfs that fills up and gets space back, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no mount namespace")
    script = f'mount -t tmpfs -o size=8m tmpfs "{tmp_path}" && exec "{sys.executable}" - "{tmp_path}"'
    ran = subprocess.run(
        [unshare, "-rm", "sh", "-c", script], input=FILLER, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert ran.stdout.strip() == "recovered", ran.stderr


# ---- opening -----------------------------------------------------------------------------------------------


async def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    """An older file is brought up to date; a second opening changes nothing."""
    path = tmp_path / "a.db"
    await (await Database.open(path, ONE)).close()
    for _ in range(2):
        database = await Database.open(path, TWO)
        done = await database.read(lambda c: c.execute("select number, name from migrations order by number").fetchall())
        assert [tuple(row) for row in done] == [(1, "things"), (2, "size")]
        await database.close()


async def test_a_failing_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    """Each migration is one transaction with its record; one that commits by itself is a mistake that shows at once."""

    def half(c: sqlite3.Connection) -> None:
        c.execute("create table half (id integer)")
        raise RuntimeError("stop")

    def by_itself(c: sqlite3.Connection) -> None:
        c.executescript("create table other (id integer);")

    path = tmp_path / "a.db"
    with pytest.raises(RuntimeError):
        await Database.open(path, [*ONE, Migration(2, "half", half)])
    with pytest.raises(ValueError, match="committed by itself"):
        await Database.open(tmp_path / "b.db", [*ONE, Migration(2, "by itself", by_itself)])
    database = await Database.open(path, TWO)
    assert "half" not in {row[0] for row in await database.read(lambda c: c.execute("select name from sqlite_master").fetchall())}
    await database.close()


async def test_a_newer_file_is_refused_untouched(tmp_path: Path) -> None:
    """VersionMismatch says both versions; the file stays as it was."""
    path = tmp_path / "a.db"
    await (await Database.open(path, TWO)).close()
    before = path.read_bytes()
    with pytest.raises(VersionMismatch, match="version 2, this program knows 1"):
        await Database.open(path, ONE)
    assert path.read_bytes() == before


@pytest.mark.parametrize("harm", ["not a database", "first page", "every page", "cut"])
async def test_a_damaged_file_is_told(tmp_path: Path, harm: str) -> None:
    """Broken, with what to do, instead of a traceback or of a commander that starts on rubbish."""
    path = tmp_path / "a.db"
    database = await Database.open(path, ONE)
    for i in range(50):
        await database.write(_add(f"n{i}", 3000))
    await database.close()
    whole = path.read_bytes()
    harmed = {
        "not a database": b"this is a letter, not a database. " * 200,
        "first page": bytes(4096) + whole[4096:],
        "every page": whole[:4096] + b"".join(b"\xff" * 16 + whole[at + 16 : at + 4096] for at in range(4096, len(whole), 4096)),
        "cut": whole[: len(whole) // 2],
    }[harm]
    path.write_bytes(harmed)
    with pytest.raises(Broken, match="damaged") as raised:
        await Database.open(path, ONE)
    assert "restore" in raised.value.hint


async def test_opening_a_large_file_does_not_read_it_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound only the schema and the first pages are read: damage deep inside does not stop the start, and
    `check` finds it while the commander serves; a file that was cut short is told at once."""
    path = tmp_path / "a.db"
    database = await Database.open(path, ONE)
    for i in range(300):
        await database.write(_add(f"n{i}", 3000))
    await database.close()
    whole = path.read_bytes()
    monkeypatch.setattr(db, "CHECK_AT_OPEN_BYTES", 100_000)
    deep = len(whole) // 2 // 4096 * 4096
    path.write_bytes(whole[:deep] + b"\xff" * 40_960 + whole[deep + 40_960 :])
    database = await Database.open(path, ONE)
    assert await database.check() is not None
    await database.close()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Broken, match="damaged"):
        await Database.open(path, ONE)


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files")
async def test_a_10_gb_file_opens_in_time(tmp_path: Path) -> None:
    """Ready within 5 s: a database whose file is 10 GB (sparse: its pages lie on the free list) opens, reads and writes."""
    path = tmp_path / "a.db"
    await (await Database.open(path, ONE)).close()
    pages = (10 << 30) // 4096
    with path.open("r+b") as file:
        file.truncate(pages * 4096)
        file.seek(28)
        file.write(pages.to_bytes(4, "big"))
    begun = time.monotonic()
    database = await Database.open(path, ONE)
    await database.write(_add("a"))
    assert await _names(database) == {"a"}
    assert time.monotonic() - begun < 5
    await database.close()


async def test_a_folder_in_the_way(tmp_path: Path) -> None:
    """What cannot be opened is Unavailable with the path, and a file in place of the folder too."""
    (tmp_path / "a.db").mkdir()
    with pytest.raises(Unavailable, match="cannot open"):
        await Database.open(tmp_path / "a.db", ONE)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot open"):
        await Database.open(tmp_path / "file" / "a.db", ONE)


# ---- copies ------------------------------------------------------------------------------------------------


async def test_a_copy_made_under_load_is_consistent(things: Database, tmp_path: Path) -> None:
    """Pairs are written in one transaction all the while; the copy ends, opens, and holds no half pair."""
    stop = False

    async def write_on() -> None:
        i = 0
        while not stop:
            await things.write(lambda c, i=i: (_add(f"a{i}", 20_000)(c), _add(f"b{i}", 20_000)(c)))  # type: ignore[misc]  # lambda default
            i += 1

    for i in range(400):
        await things.write(_add(f"x{i}", 50_000))
    writing = asyncio.create_task(write_on())
    await asyncio.wait_for(things.backup(tmp_path / "copy.db"), 60)
    stop = True
    await writing
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert db.damage(tmp_path / "copy.db") is None
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as c:
        names = {row[0] for row in c.execute("select name from things")}
    assert {f"x{i}" for i in range(400)} <= names
    assert {n[1:] for n in names if n[0] == "a"} == {n[1:] for n in names if n[0] == "b"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.db", "home"]  # noqa: ASYNC240  # a test alone on its loop


async def test_a_copy_overwrites_nothing_and_leaves_nothing(things: Database, tmp_path: Path) -> None:
    """An existing target and a missing folder are refused; a damaged source gives no copy."""
    (tmp_path / "there").write_text("mine")
    with pytest.raises(Unavailable, match="exists already"):
        await things.backup(tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(Unavailable, match="cannot write"):
        await things.backup(tmp_path / "no" / "there")
    (tmp_path / "bad.db").write_bytes(b"this is a letter, not a database. " * 200)
    with pytest.raises(Broken):
        db.copy_checked(tmp_path / "bad.db", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
