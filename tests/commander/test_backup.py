"""Tests of backup and restore: everything comes back, nothing half, nothing elsewhere, nothing over anything."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from commander import backup as module
from commander import db
from commander.backup import backup, finish_restore, restore
from commander.db import Database, Migration
from commander.lock import held_alone
from commander.telemetry import verify
from commander.telemetry.members import FARM
from commander.telemetry.seal import Pace
from commander.telemetry.series import RAW
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.faults import BadInput, Broken, Conflict, Fault, NotFound, Unavailable, VersionMismatch
from garrison.frame import Layout, Sample, pack
from garrison.spans import Spans

ROOT = Path(__file__).parents[2]
BOOT = bytes(16)
LAYOUT = Layout.of([("accepted", "")])


def _things(c: sqlite3.Connection) -> None:
    c.execute("create table things (name text)")


FLEET = [Migration(1, "things", _things)]


async def _farm(home: Path, frames: int = 3) -> tuple[Database, Telemetry]:
    """A home as a commander keeps it, open."""
    (home / "ca").mkdir(parents=True, mode=0o700)
    (home / "ca" / "root.key").write_bytes(b"secret")
    (home / "ca" / "root.key").chmod(0o600)
    (home / "commander.toml").write_text('farm = "north"\n')
    (home / "empty").write_bytes(b"")
    fleet = await Database.open(home / "fleet.db", FLEET)
    telemetry = await Telemetry.open(home / "history", ManualClock(), commit_every_ms=5)
    await fleet.write(lambda c: c.execute("insert into things values ('rig')"))
    await telemetry.learn_layout("s1", LAYOUT)
    for seq in range(1, frames + 1):
        await _send(telemetry, seq)
    return fleet, telemetry


async def _send(telemetry: Telemetry, seq: int) -> None:
    body = pack(LAYOUT, [Sample(1, 1_700_000_000_000 + seq, {("accepted", ""): seq})])
    await telemetry.take("s1", BOOT, seq, LAYOUT.hash, body)


async def _close(fleet: Database, telemetry: Telemetry) -> None:
    await fleet.close()
    await telemetry.close()


@pytest.fixture
async def made(tmp_path: Path) -> Path:
    """A good backup of a small farm, whose home is `tmp_path`/farm/commander."""
    opened = await _farm(tmp_path / "farm" / "commander")
    await backup(tmp_path / "farm" / "commander", tmp_path / "good.tar")
    await _close(*opened)
    return tmp_path / "good.tar"


# ---- the round trip ----------------------------------------------------------------------------------------


async def test_there_and_back(tmp_path: Path) -> None:
    """Backed up while both databases are written to; restored elsewhere and in place: settings, CA, fleet, history and
    marks of that moment; what came later comes again from the sentries and is taken once; the old home is kept aside."""
    home = tmp_path / "farm" / "commander"
    fleet, telemetry = await _farm(home)
    (home / "commander.sock").touch()
    (home / "link").symlink_to("/etc/passwd")
    seq = 3
    stop = False

    async def live() -> None:
        nonlocal seq
        while not stop:
            seq += 1
            await _send(telemetry, seq)
            await fleet.write(lambda c: c.execute("insert into things values ('more')"))

    living = asyncio.create_task(live())
    made = await backup(home, tmp_path / "a.tar")
    stop = True
    await living
    await _send(telemetry, seq + 1)
    last = seq + 1
    assert made.path == tmp_path / "a.tar"
    assert made.left_out == ("link",)
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.bytes == made.path.stat().st_size
    with tarfile.open(made.path) as tar:
        names = tar.getnames()
    assert names == ["commander.toml", "empty", "fleet.db", "ca/root.key", "history/hot.db", "manifest.json"]

    with pytest.raises(Conflict), held_alone(home):
        restore(made.path, home)
    await _close(fleet, telemetry)
    lines = restore(made.path, home)
    assert any("before-restore" in line for line in lines)
    assert any("link" in line for line in lines)
    assert (home / "ca" / "root.key").read_bytes() == b"secret"
    assert (home / "ca" / "root.key").stat().st_mode & 0o777 == 0o600
    assert (home / "ca").stat().st_mode & 0o777 == 0o700
    (aside,) = home.parent.glob("commander.before-restore-*")
    assert (aside / "commander.toml").read_text() == 'farm = "north"\n'

    telemetry = await Telemetry.open(home / "history", ManualClock(), commit_every_ms=5)
    durable = (await telemetry.durable("s1", [(BOOT, 1, last)]))[BOOT]
    assert {1, 2, 3} <= set(_numbers(durable))
    assert last not in durable
    await telemetry.learn_layout("s1", LAYOUT)
    for again in range(1, last + 1):
        await _send(telemetry, again)
    rows = await telemetry.db.read(lambda c: c.execute("select seq from hot order by seq").fetchall())
    assert [row[0] for row in rows] == list(range(1, last + 1))
    await telemetry.close()
    with closing(sqlite3.connect(home / "fleet.db")) as c:
        assert c.execute("select name from things limit 1").fetchone() == ("rig",)


def _numbers(spans: Spans) -> list[int]:
    return [number for span in spans for number in range(span.first, span.last + 1)]


def test_restore_onto_nothing(made: Path, tmp_path: Path) -> None:
    """On a new machine there is no home yet."""
    restore(made, tmp_path / "new" / "commander")
    assert sorted(os.listdir(tmp_path / "new")) == ["commander", "commander.lock"]  # noqa: PTH208  # names only
    assert (tmp_path / "new" / "commander" / "commander.toml").exists()


# ---- refusals when making ----------------------------------------------------------------------------------


async def test_backup_overwrites_nothing(made: Path, tmp_path: Path) -> None:
    """An existing target, a target inside the home, a missing folder, no home: refused, and nothing is left behind."""
    home = tmp_path / "farm" / "commander"
    before = made.read_bytes()  # noqa: ASYNC240  # a test alone on its loop
    for target in (made, home / "b.tar", tmp_path / "no" / "b.tar"):
        with pytest.raises(BadInput):
            await backup(home, target)
    with pytest.raises(NotFound):
        await backup(tmp_path / "nowhere", tmp_path / "c.tar")
    assert made.read_bytes() == before  # noqa: ASYNC240  # the same
    assert {path.name for path in tmp_path.iterdir()} == {"farm", "good.tar"}  # noqa: ASYNC240  # a test alone on its loop


async def test_a_damaged_database_is_not_backed_up_as_good(tmp_path: Path) -> None:
    """Broken says which; no backup appears that would look good."""
    home = tmp_path / "commander"
    await _close(*await _farm(home, frames=60))
    whole = (home / "history" / "hot.db").read_bytes()
    (home / "history" / "hot.db").write_bytes(whole[:8192] + b"\xff" * 8192 + whole[16384:])
    with pytest.raises(Broken, match=r"hot\.db is damaged"):
        await backup(home, tmp_path / "a.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["commander"]  # noqa: ASYNC240  # a test alone on its loop


async def test_a_backup_given_up_stops(tmp_path: Path) -> None:
    """Cancelled in the middle: the thread ends soon and leaves nothing."""
    home = tmp_path / "commander"
    fleet, telemetry = await _farm(home)
    await fleet.write(lambda c: c.execute("insert into things values (hex(zeroblob(60000000)))"))
    making = asyncio.create_task(backup(home, tmp_path / "a.tar"))
    await asyncio.sleep(0.05)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    for _ in range(1_000):
        if [path.name for path in tmp_path.iterdir()] == ["commander"]:  # noqa: ASYNC240  # a test alone on its loop
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail("something was left")
    await _close(fleet, telemetry)


FULL = """
import asyncio, sys
from pathlib import Path
from commander.backup import backup, restore
from garrison.faults import DiskFull

small, home, good = map(Path, sys.argv[1:])
for late in (False, True):
    if late:  # the check before says there is room, and then there is not
        import commander.backup
        commander.backup._room = lambda *_: None
    try:
        asyncio.run(backup(home, small / "a.tar"))
    except DiskFull:
        print("full", sorted(path.name for path in small.iterdir()))
    try:
        restore(good, small / "commander")
    except DiskFull:
        print("full", sorted(path.name for path in small.iterdir()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system of its own")
def test_no_space(made: Path, tmp_path: Path) -> None:
    """On a full disk, foreseen or not, backup and restore say so and leave nothing half done."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no mount namespace")
    (tmp_path / "small").mkdir()
    script = 'mount -t tmpfs -o size=64k tmpfs "$1" && exec "$0" -c "$4" "$1" "$2" "$3"'
    arguments = [sys.executable, str(tmp_path / "small"), str(tmp_path / "farm" / "commander"), str(made), FULL]
    ran = subprocess.run(
        [unshare, "-rm", "sh", "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert ran.stdout.splitlines() == ["full []", "full ['commander.lock']"] + ["full ['commander.lock']"] * 2, ran.stderr


# ---- refusals when restoring -------------------------------------------------------------------------------


def _rewritten(source: Path, change: Callable[[str, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> None:
    """The same archive with members changed, dropped or renamed."""
    members = []
    with tarfile.open(source) as tar:
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None
            members.append((member.name, data.read()))
    with tarfile.open(source, "w") as tar:
        for name, content in members:
            changed = change(name, content)
            if changed is not None:
                changed[0].size = len(changed[1]) if changed[0].isreg() else 0
                tar.addfile(changed[0], io.BytesIO(changed[1]))


def _renamed(old: str, new: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Path], None]:
    def change(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(new if name == old else name)
        if name == old:
            info.type, info.linkname = kind, link
        return info, content

    return lambda source: _rewritten(source, change)


def _content(of: str, turn: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    def change(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
        turned = turn(content) if name == of else content
        return None if turned is None else (tarfile.TarInfo(name), turned)

    return lambda source: _rewritten(source, change)


def _cut(share: float) -> Callable[[Path], object]:
    return lambda source: source.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])


def _manifest(turn: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    return _content("manifest.json", lambda text: json.dumps(turn(json.loads(text))).encode())


@pytest.mark.parametrize(
    ("harm", "fault", "words"),
    [
        (_cut(0.3), Broken, "cut short"),
        (_cut(0.9), Broken, "cut short"),
        (_cut(0.0), Broken, "cut short"),
        (lambda source: source.write_bytes(os.urandom(20_000)), Broken, "no backup"),
        (lambda source: source.write_bytes(b"\x1f\x8b" + bytes(20_000)), Broken, "no backup"),
        (_content("commander.toml", lambda text: text + b"x"), Broken, "hash is wrong"),
        (_content("ca/root.key", lambda text: text[:-1] + b"T"), Broken, "hash is wrong"),
        (_content("fleet.db", lambda _: None), Broken, r"lost fleet\.db"),
        (_content("manifest.json", lambda _: None), Broken, "no manifest"),
        (_content("manifest.json", lambda _: b"{"), Broken, "manifest"),
        (_content("manifest.json", lambda _: b"[]"), Broken, "manifest"),
        (_manifest(lambda told: {**told, "format": 2}), VersionMismatch, "newer"),
        (_manifest(lambda told: {**told, "more": 1}), Broken, "manifest"),
        (_renamed("empty", "../../escaped"), BadInput, "no backup of ours"),
        (_renamed("empty", "/tmp/escaped"), BadInput, "no backup of ours"),
        (_renamed("empty", "ca/../../escaped"), BadInput, "no backup of ours"),
        (_renamed("empty", "ca\\..\\escaped"), BadInput, "no backup of ours"),
        (_renamed("empty", "C:escaped"), BadInput, "no backup of ours"),
        (_renamed("empty", "extra"), (BadInput, Broken), "manifest|lost"),
        (_renamed("empty", "fleet.db"), BadInput, "twice"),
        (_renamed("empty", "fleet.db/under"), BadInput, "twice"),
        (_renamed("empty", "link", tarfile.SYMTYPE, "/etc"), BadInput, "no backup of ours"),
        (_renamed("empty", "link", tarfile.LNKTYPE, "fleet.db"), BadInput, "no backup of ours"),
        (_renamed("empty", "folder", tarfile.DIRTYPE), BadInput, "no backup of ours"),
        (_renamed("empty", "device", tarfile.CHRTYPE), BadInput, "no backup of ours"),
    ],
)
def test_a_bad_archive_touches_nothing(
    made: Path, tmp_path: Path, harm: Callable[[Path], object], fault: type[Fault], words: str
) -> None:
    """Cut, changed, incomplete, from a newer program, or made to write elsewhere: refused with words; the home, and all
    beside it, stay as they were."""
    harm(made)
    before = _state(tmp_path)
    with pytest.raises(fault, match=words):
        restore(made, tmp_path / "farm" / "commander")
    after = _state(tmp_path)
    after.pop("farm/commander.lock")
    assert after == before


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A backup of a newer program says so before anything is touched."""
    home = tmp_path / "commander"
    fleet, telemetry = await _farm(home)
    await telemetry.db.write(lambda c: c.execute("insert into migrations values (99, 'later', 'now')"))
    await backup(home, tmp_path / "a.tar")
    await _close(fleet, telemetry)
    with pytest.raises(VersionMismatch, match="version 99"):
        restore(tmp_path / "a.tar", home)
    assert not list(tmp_path.glob("*before*"))  # noqa: ASYNC240  # a test alone on its loop


def test_a_database_damaged_before_it_was_archived(made: Path, tmp_path: Path) -> None:
    """Even with matching hashes a database that does not read is not put in place."""
    rubbish = b"SQLite format 3\0" + bytes(5_000)

    def listed(told: dict[str, object]) -> object:
        files = told["files"]
        assert isinstance(files, list)
        (entry,) = (file for file in files if file["path"] == "fleet.db")
        entry.update(size=len(rubbish), sha256=hashlib.sha256(rubbish).hexdigest())
        return told

    _content("fleet.db", lambda _: rubbish)(made)
    _manifest(listed)(made)
    with pytest.raises(Broken, match=r"fleet\.db"):
        restore(made, tmp_path / "farm" / "commander")


def test_sources_that_are_none(made: Path, tmp_path: Path) -> None:
    """A folder and a missing file."""
    with pytest.raises(BadInput):
        restore(tmp_path, tmp_path / "farm" / "commander")
    with pytest.raises(NotFound):
        restore(tmp_path / "nothing", tmp_path / "farm" / "commander")


def test_killed_between_the_two_renames(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a moment without a home; the next start or restore completes it. A rename that fails puts the old one back."""
    home = tmp_path / "farm" / "commander"
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name == "commander.restored":
            raise KeyboardInterrupt
        return rename(self, target)

    def failing(self: Path, target: Path) -> Path:
        if self.name == "commander.restored":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(Unavailable, match="busy"):
            restore(made, home)
    assert (home / "commander.toml").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            restore(made, home)
    assert not home.exists()
    assert finish_restore(home)
    assert not finish_restore(home)
    assert db.damage(home / "fleet.db") is None
    assert module.restore(made, home)


def _state(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


# ---- the history's files -----------------------------------------------------------------------------------

DAY_MS = 86_400_000
MIDNIGHT_MS = 1_700_006_400_000  # 2023-11-15
GAUGE = Layout.of([("hashrate_hs", "")])


async def _days(home: Path, clock: ManualClock, hours: int = 30) -> Telemetry:
    """A history of two devices that looked once a minute, of which nothing is merged yet. With totals of the farm."""
    telemetry = await Telemetry.open(home / "history", clock, commit_every_ms=1)

    async def groups() -> AsyncIterator[tuple[int, tuple[tuple[str, str], ...]]]:
        for key in (1, 2):
            yield key, (FARM,)

    telemetry.follow(groups)
    await telemetry.tidy()
    await telemetry.learn_layout("s1", GAUGE)
    jobs = []
    for minute in range(60 * hours):
        clock.advance(60)
        looks = [Sample(key, clock.now_ms(), {("hashrate_hs", ""): 1000 + minute}) for key in (1, 2)]
        jobs.append(telemetry.take("s1", BOOT, minute + 1, GAUGE.hash, pack(GAUGE, looks)))
    await asyncio.gather(*jobs)
    return telemetry


async def _known(telemetry: Telemetry) -> tuple[list[int], list[float], int]:
    """Times of a device, the farm's sums, and what did not read."""
    looks = await telemetry.chart(1, None, MIDNIGHT_MS, MIDNIGHT_MS + 2 * DAY_MS, RAW)
    total = await telemetry.aggregate("farm", "hashrate_hs", "sum", MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS, 3_600_000)
    return looks.at_ms.tolist(), total.groups[0].values.tolist(), looks.unreadable + total.unreadable


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "commander").mkdir()
    return tmp_path / "commander"


async def test_a_merge_during_a_backup(home: Path, tmp_path: Path) -> None:
    """hot.db is copied first: what moves to the archive meanwhile is in both copies and counts once, and never in none."""
    clock = ManualClock(MIDNIGHT_MS)
    telemetry = await _days(home, clock)
    before = (await _known(telemetry))[0]
    copied = db.copy_checked
    loop = asyncio.get_running_loop()

    def merging(source: Path, target: Path, given_up: Callable[[], bool] = lambda: False) -> None:
        copied(source, target, given_up)
        if source.name == "hot.db":  # the night falls between two files
            asyncio.run_coroutine_threadsafe(telemetry.tidy(), loop).result(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "copy_checked", merging)
        await backup(home, tmp_path / "a.tar")
    assert len(list((home / "history").glob("raw-*.db"))) == 1
    await telemetry.close()
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    assert names[0] == "history/hot.db"
    restore(tmp_path / "a.tar", home)
    telemetry = await Telemetry.open(home / "history", clock, commit_every_ms=1)
    assert (await _known(telemetry))[0] == before
    await telemetry.tidy()
    assert (await _known(telemetry))[0] == before
    assert all(verify.file(home / "history", name, threading.Event(), Pace()).whole for name in verify.files(home / "history"))
    await telemetry.close()


async def test_a_backup_of_one_moment(home: Path, tmp_path: Path) -> None:
    """As the commander makes it, nothing moves meanwhile: totals, which add up, are in it once."""
    clock = ManualClock(MIDNIGHT_MS)
    telemetry = await _days(home, clock)
    async with telemetry.undisturbed():
        tidying = asyncio.create_task(telemetry.tidy())
        await backup(home, tmp_path / "a.tar")
        assert not tidying.done()
    await tidying
    before = await _known(telemetry)
    await telemetry.close()
    restore(tmp_path / "a.tar", home)
    telemetry = await Telemetry.open(home / "history", clock, commit_every_ms=1)
    await telemetry.tidy()
    after = await _known(telemetry)
    assert after[0] == before[0]
    assert after[1][:-1] == pytest.approx(before[1][:-1])
    assert after[2] == 0
    await telemetry.close()


async def test_a_file_whose_time_ends_during_a_backup(home: Path, tmp_path: Path) -> None:
    """It is not there any more when it is its turn: the backup goes on without it."""
    telemetry = await _days(home, ManualClock(MIDNIGHT_MS))
    await telemetry.tidy()
    copied = db.copy_checked

    def removing(source: Path, target: Path, given_up: Callable[[], bool] = lambda: False) -> None:
        copied(source, target, given_up)
        for raw in (home / "history").glob("raw-*.db"):
            raw.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "copy_checked", removing)
        made = await backup(home, tmp_path / "a.tar")
    with tarfile.open(made.path) as tar:
        names = tar.getnames()
    assert "history/hot.db" in names
    assert not [name for name in names if "raw-" in name]
    assert [name for name in names if "5min-" in name]
    await telemetry.close()


async def test_what_was_set_aside_is_left_out(home: Path, tmp_path: Path) -> None:
    """Files as they were before a repair are not in the backup, and that is told."""
    telemetry = await _days(home, ManualClock(MIDNIGHT_MS), hours=1)
    await telemetry.close()
    (home / "history" / "damaged").mkdir()
    (home / "history" / "damaged" / "raw-2023-W46.db.20231115T000000Z").write_bytes(b"x" * 1000)
    (home / "history" / ".raw-2023-W46.db.part").write_bytes(b"x")
    made = await backup(home, tmp_path / "a.tar")
    assert made.left_out == ("history/damaged",)
    with tarfile.open(made.path) as tar:
        assert tar.getnames() == ["history/hot.db", "manifest.json"]


async def test_a_damaged_file_of_the_archive(home: Path, tmp_path: Path) -> None:
    """It is not backed up as good; what helps is said."""
    telemetry = await _days(home, ManualClock(MIDNIGHT_MS))
    await telemetry.tidy()
    await telemetry.close()
    (raw,) = (home / "history").glob("raw-*.db")
    raw.write_bytes(raw.read_bytes()[:9_000])
    with pytest.raises(Broken, match=raw.name) as caught:
        await backup(home, tmp_path / "a.tar")
    assert "commander history repair" in caught.value.hint


async def test_a_newer_file_of_the_archive_is_refused(home: Path, tmp_path: Path) -> None:
    """As a newer database is: before anything is touched."""
    telemetry = await _days(home, ManualClock(MIDNIGHT_MS))
    await telemetry.tidy()
    await telemetry.close()
    (raw,) = (home / "history").glob("raw-*.db")
    with closing(sqlite3.connect(raw)) as c:
        c.execute("pragma user_version = 7")
    await backup(home, tmp_path / "a.tar")
    with pytest.raises(VersionMismatch, match="version 7"):
        restore(tmp_path / "a.tar", home)
    assert not list(tmp_path.glob("*before*"))  # noqa: ASYNC240  # a test alone on its loop
