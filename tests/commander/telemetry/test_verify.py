"""Damage: whatever the disk changes is found, the rest is served, and a repair leaves a history that verifies."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from commander.telemetry import archive, block_store, pages, salvage_store, verify
from commander.telemetry.checks import Checks
from commander.telemetry.levels import DAY_MS, Level
from commander.telemetry.members import FARM
from commander.telemetry.repair import Mended, mend_offline
from commander.telemetry.seal import Pace
from commander.telemetry.series import RAW, Answer
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.faults import Broken, Conflict, Unavailable
from garrison.frame import Layout, Sample, pack

BOOT = bytes(16)
BEGUN_MS = 1_799_971_200_000  # a midnight
KEYS = (1, 2, 2**63 + 3)
LAYOUT = Layout.of([("hashrate_hs", ""), ("power_w", ""), ("accepted", ""), ("temp_c", "board:1")])
OTHER = Layout.of([("hashrate_hs", ""), ("fan_rpm", "fan:2")])
EVERY_S = 240
LEVELS = {Level.RAW: "raw-2027-W02.db", Level.FIVE_MINUTES: "5min-2027-01.db", Level.HOUR: "1h-2027.db"}


async def _groups() -> AsyncIterator[tuple[int, tuple[tuple[str, str], ...]]]:
    for key in KEYS:
        yield key, (FARM, ("rack", f"r{key % 2}"))


async def _opened(folder: Path, clock: ManualClock) -> Telemetry:
    telemetry = await Telemetry.open(folder, clock, commit_every_ms=1)
    telemetry.follow(_groups)
    await telemetry.learn_layout("s1", LAYOUT)
    await telemetry.learn_layout("s1", OTHER)
    return telemetry


async def _report(telemetry: Telemetry, clock: ManualClock, hours: float, first_seq: int) -> int:
    """Two devices of one kind and one of another; the next number."""
    jobs = []
    seq = first_seq
    for _ in range(round(hours * 3600 / EVERY_S)):
        clock.advance(EVERY_S)
        at_ms = clock.now_ms()
        rise = (at_ms - BEGUN_MS) // 1000
        values = {("hashrate_hs", ""): 10**14 + rise * 10**9, ("power_w", ""): 3000 + rise % 7, ("accepted", ""): rise}
        some = [Sample(key, at_ms + key % 7, {**values, ("temp_c", "board:1"): 60.5}) for key in KEYS[:2]]
        jobs.append(telemetry.take("s1", BOOT, seq, LAYOUT.hash, pack(LAYOUT, some)))
        one = [Sample(KEYS[2], at_ms, {("hashrate_hs", ""): rise, ("fan_rpm", "fan:2"): 5000})]
        jobs.append(telemetry.take("s1", BOOT, seq + 1, OTHER.hash, pack(OTHER, one)))
        seq += 2
    await asyncio.gather(*jobs)
    return seq


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history with two merged days, chunks of two hours, and frames that are not sealed."""
    folder = tmp_path_factory.mktemp("filled") / "history"

    async def fill() -> None:
        clock = ManualClock(BEGUN_MS)
        telemetry = await _opened(folder, clock)
        await telemetry.tidy()
        seq = await _report(telemetry, clock, 50, 1)
        await telemetry.tidy()
        await _report(telemetry, clock, 1, seq)
        await telemetry.close()

    asyncio.run(fill())
    assert verify.files(folder) == ["hot.db", *LEVELS.values()]
    return folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "history")
    return tmp_path / "history"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(BEGUN_MS + 51 * 3_600_000)


@pytest.fixture
async def telemetry(folder: Path, clock: ManualClock) -> AsyncIterator[Telemetry]:
    opened = await Telemetry.open(folder, clock, commit_every_ms=1)
    opened.follow(_groups)
    yield opened
    await opened.close()


def looked(folder: Path) -> dict[str, verify.Report]:
    return {name: verify.file(folder, name, threading.Event(), Pace()) for name in verify.files(folder)}


def wrong(folder: Path) -> dict[str, list[str]]:
    """What verify finds, by file; whole ones are left out."""
    found = looked(folder)
    return {
        name: [*(one.what for one in report.damaged), *(["structure"] if report.structure else [])]
        for name, report in found.items()
        if not report.whole
    }


async def charts(telemetry: Telemetry, level: Level) -> dict[int, Answer]:
    telemetry._files.release()  # what is open holds pages in memory
    step = {Level.RAW: RAW, Level.FIVE_MINUTES: 300_000, Level.HOUR: 3_600_000}[level]
    from_ms = BEGUN_MS - (8 * DAY_MS if level is Level.HOUR else 0)  # for a shorter time hours are made of 5-minute values
    found = {key: await telemetry.chart(key, None, from_ms, BEGUN_MS + 51 * 3_600_000, step, limit=20_000) for key in KEYS}
    assert {answer.level for answer in found.values()} == {level}
    return found


def points(answer: Answer) -> int:
    """How many values it has."""
    name = "value" if answer.step_ms is None else "count"
    return sum(sum(1 for value in list(line.stats[name]) if value == value and value) for line in answer.lines)


async def mended(telemetry: Telemetry) -> list[Mended]:
    return [await telemetry.mend(name, threading.Event()) for name in verify.files(telemetry.db.path.parent)]


def change(path: Path, sql: str, *given: object) -> None:
    """As the disk would: behind the back of whoever has it open."""
    with closing(sqlite3.connect(path, timeout=10)) as c:
        assert c.execute(sql, given).rowcount > 0
        c.commit()


def flip(path: Path, table: str, column: str, where: str, place: float = 0.5) -> None:
    """One bit of one byte of a text, a blob or a number."""
    with closing(sqlite3.connect(path)) as c:
        sql = f"select rowid, {column} from {table} where {where} limit 1"  # noqa: S608  # a test's own words
        rowid, value = c.execute(sql).fetchone()
    if isinstance(value, int):
        changed: object = value ^ 0x20
    else:
        raw = bytearray(value.encode() if isinstance(value, str) else value)
        raw[int(len(raw) * place)] ^= 1
        changed = raw.decode() if isinstance(value, str) else bytes(raw)
    change(path, f"update {table} set {column} = ? where rowid = ?", changed, rowid)  # noqa: S608  # the same


def flip_byte(path: Path, at: int, bits: int = 0x10) -> None:
    with path.open("rb+") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bits]))


# ---- all is well -------------------------------------------------------------------------------------------


async def test_a_whole_history(telemetry: Telemetry, folder: Path) -> None:
    """Everything is counted, nothing is found, and a repair of it does nothing."""
    found = looked(folder)
    assert all(report.whole for report in found.values()), wrong(folder)
    assert found["hot.db"].frames > 0
    assert found["hot.db"].blocks > 3
    assert found[LEVELS[Level.RAW]].blocks == 6
    assert found[LEVELS[Level.RAW]].rows == 2 * 360 * 3 - 3  # the first looks come after a step
    assert found[LEVELS[Level.HOUR]].blocks == 3
    assert found[LEVELS[Level.FIVE_MINUTES]].totals > 0
    assert all(one.whole and not one.did for one in await mended(telemetry))
    assert not (folder / "damaged").exists()


async def test_an_empty_history(tmp_path: Path) -> None:
    """Of the first minute; a file that was made and not yet written is nothing wrong."""
    telemetry = await Telemetry.open(tmp_path / "history", ManualClock(), commit_every_ms=1)
    (tmp_path / "history" / LEVELS[Level.RAW]).touch()
    assert wrong(tmp_path / "history") == {}
    await telemetry.close()


# ---- one flipped bit in every kind of thing ----------------------------------------------------------------


HOT_THINGS = [
    ("hot", "body", "id > 0", "frame"),
    ("hot", "first_ms", "id > 0", "frame"),
    ("hot", "last_ms", "id > 0", "frame"),
    ("blocks", "body", "start_ms > 0", "chunk"),
    ("blocks", "key", "start_ms > 0", "chunk"),
    ("blocks", "start_ms", "start_ms > 0", "chunk"),
    ("blocks", "first_ms", "start_ms > 0", "chunk"),
    ("blocks", "rows", "start_ms > 0", "chunk"),
    ("blocks", "crc", "start_ms > 0", "chunk"),
    ("blocks", "body", "start_ms < 0", "newest look"),
]


@pytest.mark.parametrize(("table", "column", "where", "what"), HOT_THINGS, ids=lambda value: value)
async def test_a_flipped_bit_in_hot_db(telemetry: Telemetry, folder: Path, table: str, column: str, where: str, what: str) -> None:
    """Verify finds exactly it; the other samples are served; a repair sets it aside and all is well again."""
    before = {key: points(answer) for key, answer in (await charts(telemetry, Level.RAW)).items()}
    flip(folder / "hot.db", table, column, where)
    assert wrong(folder) == {"hot.db": [what]}
    charted = await charts(telemetry, Level.RAW)
    missing = sum(before.values()) - sum(points(answer) for answer in charted.values())
    assert 0 <= missing <= 200
    done = await mended(telemetry)
    assert [one.set_aside for one in done if one.did] == [1]
    assert all(one.whole for one in done)
    assert wrong(folder) == {}
    (aside,) = await telemetry.set_aside_blocks()
    assert (aside.file, aside.what) == ("hot.db", what)
    assert aside.body
    assert sum(points(answer) for answer in (await charts(telemetry, Level.RAW)).values()) >= sum(before.values()) - 200


ARCHIVED = [
    (level, column) for level in Level for column in ("body", "key", "start_ms", "layout", "rows", "first_ms", "last_ms", "crc")
]


@pytest.mark.parametrize(("level", "column"), ARCHIVED, ids=lambda value: str(value))
async def test_a_flipped_bit_in_the_archive(telemetry: Telemetry, folder: Path, level: Level, column: str) -> None:
    """The same of a day, a 5-minute day and an hourly month; the last two are made again, as they were."""
    before = await charts(telemetry, level)
    path = folder / LEVELS[level]
    flip(path, "blocks", column, "id = 2")
    assert wrong(folder) == {path.name: [verify.BLOCK_OF[level]]}
    charted = await charts(telemetry, level)
    whole = [key for key in KEYS if same(charted[key], before[key])]
    assert len(whole) == 2
    (harmed,) = set(KEYS) - set(whole)
    assert charted[harmed].unreadable == (0 if column == "key" else 1) or column == "start_ms"
    done = {one.file: one for one in await mended(telemetry)}
    assert done[path.name].set_aside == 1
    assert wrong(folder) == {}
    after = await charts(telemetry, level)
    assert all(answer.unreadable == 0 for answer in after.values())
    if level is Level.RAW:
        assert all(same(after[key], before[key]) for key in whole)
        assert 0 < points(after[harmed]) < points(before[harmed])
    else:
        assert done[path.name].made_again == 1
        assert all(same(after[key], before[key]) for key in KEYS)


def same(one: Answer, other: Answer) -> bool:
    """Value by value."""
    if one.at_ms.tolist() != other.at_ms.tolist() or len(one.lines) != len(other.lines):
        return False
    for mine, theirs in zip(one.lines, other.lines, strict=True):
        if mine.metric != theirs.metric or mine.component != theirs.component or mine.stats.keys() != theirs.stats.keys():
            return False
        for stat in mine.stats:
            pairs = zip(list(mine.stats[stat]), list(theirs.stats[stat]), strict=True)
            if not all(a == b or (a != a and b != b) for a, b in pairs):
                return False
    return True


@pytest.mark.parametrize("name", LEVELS.values())
async def test_a_flipped_bit_in_a_layout_of_the_archive(telemetry: Telemetry, folder: Path, name: str) -> None:
    """Everything of that layout stops reading, and comes back: other files hold the same text."""
    level = next(level for level, one in LEVELS.items() if one == name)
    before = await charts(telemetry, level)
    flip(folder / name, "layouts", "columns", "no = 1", place=0.1)
    assert "layout" in wrong(folder)[name]
    assert sum(answer.unreadable for answer in (await charts(telemetry, level)).values()) > 0
    done = {one.file: one for one in await mended(telemetry)}
    assert "put right from elsewhere" in done[name].did[0]
    assert done[name].set_aside == 0
    assert wrong(folder) == {}
    assert all(same(answer, before[key]) for key, answer in (await charts(telemetry, level)).items())


async def test_a_layout_that_is_lost_everywhere(telemetry: Telemetry, folder: Path) -> None:
    """Its blocks are set aside, and what can be made from other levels is."""
    for name in ("hot.db", *LEVELS.values()):
        with closing(sqlite3.connect(folder / name)) as c:
            c.execute("update layouts set columns = replace(columns, 'fan_rpm', 'fan_rpx')")
            c.commit()
    assert set(wrong(folder)) == {"hot.db", *LEVELS.values()}
    telemetry._ingest._layouts.clear()  # no sentry is connected
    assert all(one.whole for one in await mended(telemetry))
    assert wrong(folder) == {}
    after = await charts(telemetry, Level.RAW)
    assert points(after[KEYS[0]]) > 0
    assert points(after[KEYS[2]]) == 0
    await telemetry.learn_layout("s1", OTHER)
    body = pack(OTHER, [Sample(KEYS[2], BEGUN_MS + 51 * 3_600_000 - 1, {("hashrate_hs", ""): 1})])
    await telemetry.take("s1", BOOT, 100_000, OTHER.hash, body)
    assert points((await charts(telemetry, Level.RAW))[KEYS[2]]) == 1
    assert wrong(folder) == {}


async def test_a_layout_of_frames(folder: Path, clock: ManualClock) -> None:
    """Frames are never read with a changed layout: not at the start, not when they are sealed; the sentry's own word mends it."""
    with closing(sqlite3.connect(folder / "hot.db")) as c:
        c.execute(
            'update layouts set columns = replace(columns, \'"temp_c","board:1"\', \'"temp_c","board:7"\') where hash = ?',
            (LAYOUT.hash,),
        )
        c.commit()
    assert wrong(folder)["hot.db"].count("layout") == 1
    telemetry = await Telemetry.open(folder, clock, commit_every_ms=1)
    charted = (await charts(telemetry, Level.RAW))[KEYS[0]]
    assert charted.unreadable > 0
    assert "board:7" not in {line.component for line in charted.lines}
    clock.advance(7200)
    await telemetry.tidy()
    assert wrong(folder)["hot.db"].count("layout") == 1  # nothing was sealed with it, and nothing thrown away
    await telemetry.learn_layout("s1", LAYOUT)
    assert wrong(folder) == {}
    assert (await charts(telemetry, Level.RAW))[KEYS[0]].unreadable == 0
    await telemetry.close()


async def test_totals_that_are_no_numbers(telemetry: Telemetry, folder: Path) -> None:
    """A row of totals may not be a text; hourly ones are made again."""
    for name in (LEVELS[Level.FIVE_MINUTES], LEVELS[Level.HOUR]):
        change(
            folder / name,
            "update totals set sum = 'x' where rowid_of is null".replace(
                "rowid_of is null", "at_ms = (select min(at_ms) from totals)"
            ),
        )
    assert wrong(folder) == {LEVELS[Level.FIVE_MINUTES]: ["totals"], LEVELS[Level.HOUR]: ["totals"]}
    done = {one.file: one for one in await mended(telemetry)}
    assert wrong(folder) == {}
    assert any("hourly totals made again" in said for said in done[LEVELS[Level.HOUR]].did)


# ---- files -------------------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _cut_in_a_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 77])


def _first_page(path: Path) -> None:
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])


def _root(path: Path) -> None:
    """The kind of the first page of the table of blocks."""
    with closing(sqlite3.connect(path)) as c:
        (page,) = c.execute("select rootpage from sqlite_master where name = 'blocks'").fetchone()
    flip_byte(path, (page - 1) * 4096)


def _index(path: Path) -> None:
    """A key in the index, which only a full check compares with its table."""
    with closing(sqlite3.connect(path)) as c:
        (page,) = c.execute("select rootpage from sqlite_master where name = 'blocks_by_time'").fetchone()
    flip_byte(path, page * 4096 - 4, 1)


STRUCTURE: list[tuple[Callable[[Path], None], bool]] = [
    (lambda path: flip_byte(path, 0), True),  # "SQLite format 3"
    (lambda path: flip_byte(path, 16), True),  # the size of a page
    (lambda path: flip_byte(path, 100), True),  # the kind of the first page
    (_first_page, True),
    (lambda path: flip_byte(path, 60, 0x80), True),  # the version, so that it cannot be one
    (_root, False),  # in a small file it is the page of the rows too
    (_index, True),
    (_truncate, False),
    (_cut_in_a_page, False),
]


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize(
    ("harm", "all_saved"),
    STRUCTURE,
    ids=["magic", "page-size", "page-kind", "page-1", "version", "root", "index", "cut", "cut-in-a-page"],
)
async def test_a_file_whose_structure_is_damaged(
    telemetry: Telemetry, folder: Path, level: Level, harm: Callable[[Path], None], all_saved: bool
) -> None:
    """The other levels and hot.db are served; what reads is written anew, the old file is kept; coarse levels are made again."""
    before = {one: await charts(telemetry, one) for one in Level}
    totals = await telemetry.aggregate("rack", "hashrate_hs", "sum", BEGUN_MS, BEGUN_MS + DAY_MS, 3_600_000)
    path = folder / LEVELS[level]
    harm(path)
    harmed = path.read_bytes()
    assert list(wrong(folder)) == [path.name]
    await charts(telemetry, level)  # does not fail
    done = {one.file: one for one in await mended(telemetry)}
    assert wrong(folder) == {}
    assert (folder / done[path.name].kept_as).read_bytes() == harmed
    assert not list(folder.glob(".*"))  # noqa: ASYNC240  # a test alone on its loop
    after = await charts(telemetry, level)
    if all_saved or level is not Level.RAW:
        assert all(same(after[key], before[level][key]) for key in KEYS)
    else:
        assert 0 < sum(map(points, after.values())) <= sum(map(points, before[level].values()))
    if all_saved:
        again = await telemetry.aggregate("rack", "hashrate_hs", "sum", BEGUN_MS, BEGUN_MS + DAY_MS, 3_600_000)
        assert [line.values.tolist() for line in again.groups] == [line.values.tolist() for line in totals.groups]
        with archive.reading(path) as c:
            assert c is not None
            assert archive.touched_ms(c) > 0


@pytest.mark.parametrize("level", Level)
async def test_a_file_of_rubbish(telemetry: Telemetry, folder: Path, level: Level) -> None:
    """Nothing of it reads: it is moved away, and what can be made again is."""
    before = await charts(telemetry, level)
    path = folder / LEVELS[level]
    path.write_bytes(random.Random(1).randbytes(50_000))
    assert wrong(folder) == {path.name: ["structure"]}
    charted = await charts(telemetry, level)
    assert all(answer.unreadable for answer in charted.values())
    assert sum(map(points, charted.values())) > 0  # hot.db has the newest hours
    assert all(one.whole for one in await mended(telemetry))
    assert wrong(folder) == {}
    after = await charts(telemetry, level)
    assert path.exists() == (level is not Level.RAW)
    assert all(same(after[key], (before if path.exists() else charted)[key]) for key in KEYS)
    assert len(list((folder / "damaged").iterdir())) == 1


async def test_a_file_of_a_newer_version(telemetry: Telemetry, folder: Path) -> None:
    """It is not damaged, and it is not touched; but nobody says that all is well."""
    path = folder / LEVELS[Level.RAW]
    with closing(sqlite3.connect(path)) as c:
        c.execute("pragma user_version = 2")
    whole = path.read_bytes()
    report = looked(folder)[path.name]
    assert (report.whole, report.damaged, report.structure) == (False, [], [])
    assert "newer Garrison" in report.unchecked
    (done,) = [one for one in await mended(telemetry) if not one.whole]
    assert (done.file, done.did) == (path.name, [])
    assert "newer Garrison" in done.why
    assert path.read_bytes() == whole


async def test_many_damaged_blocks(telemetry: Telemetry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the table of what is set aside may hold: the whole file is kept."""
    monkeypatch.setattr("commander.telemetry.salvage.MOST_KEPT", 2)
    for name in ("hot.db", LEVELS[Level.RAW]):
        with closing(sqlite3.connect(folder / name)) as c:
            c.execute("update blocks set crc = crc + 1 where id in (select id from blocks order by id limit 4)")
            c.commit()
    done = {one.file: one for one in await mended(telemetry)}
    assert {name: one.set_aside for name, one in done.items() if one.did} == {"hot.db": 4, LEVELS[Level.RAW]: 4}
    assert sorted(path.name.partition(".2027")[0] for path in (folder / "damaged").iterdir()) == ["hot.db", LEVELS[Level.RAW]]
    assert wrong(folder) == {}


# ---- anywhere ----------------------------------------------------------------------------------------------


async def test_any_byte_of_an_archive_file(telemetry: Telemetry, folder: Path) -> None:
    """A byte that is flipped anywhere either changes no answer, or verify finds it; no answer is ever wrong without a sign, and
    a repair that found it leaves a file that verifies. (Totals have no checksum; they are not asked here.)"""
    rng = random.Random(7)
    path = folder / LEVELS[Level.RAW]
    whole = path.read_bytes()
    before = await charts(telemetry, Level.RAW)
    hidden = 0
    places = [*rng.sample(range(120), 12), *rng.sample(range(len(whole)), 60)]
    for at in places:
        path.write_bytes(whole)
        flip_byte(path, at, 1 << rng.randrange(8))
        charted = await charts(telemetry, Level.RAW)
        changed = not all(same(charted[key], before[key]) for key in KEYS)
        report = looked(folder)[path.name]
        if changed:
            assert not report.whole, at
        hidden += report.whole
        if not report.whole and not report.unchecked:
            done = await telemetry.mend(path.name, threading.Event())
            assert done.whole, (at, done.why)
            assert points((await charts(telemetry, Level.RAW))[KEYS[0]]) >= points(charted[KEYS[0]])
    assert hidden < len(places)


async def test_any_page_of_an_archive_file(telemetry: Telemetry, folder: Path) -> None:
    """A page of zeros: at most the rows on it are lost, whatever page it was."""
    path = folder / LEVELS[Level.RAW]
    whole = path.read_bytes()
    before = await charts(telemetry, Level.RAW)
    for page in range(len(whole) // 4096):
        path.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        await charts(telemetry, Level.RAW)
        done = await telemetry.mend(path.name, threading.Event())
        assert done.whole, (page, done.why)
        after = await charts(telemetry, Level.RAW)
        lost = [key for key in KEYS if not same(after[key], before[key])]
        assert len(lost) <= len(KEYS) if path.exists() else True
        assert all(points(after[key]) > 0 for key in KEYS)


# ---- hot.db ------------------------------------------------------------------------------------------------


def offline(folder: Path, clock: ManualClock) -> dict[str, Mended]:
    return {one.file: one for one in mend_offline(folder, clock.now_ms())}


async def test_hot_db_in_use(telemetry: Telemetry, folder: Path) -> None:
    """Its indexes are made anew at once; what else is wrong with its structure is for the repair without a commander."""
    path = folder / "hot.db"
    with closing(sqlite3.connect(path)) as c:
        c.execute("pragma wal_checkpoint(truncate)")
        pages_of = dict(c.execute("select name, rootpage from sqlite_master").fetchall())
        (start_ms,) = c.execute("select max(start_ms) from blocks").fetchone()
    await telemetry.close()
    begin = (pages_of["blocks_by_time"] - 1) * 4096
    flip_byte(path, begin + path.read_bytes()[begin : begin + 4096].rindex(start_ms.to_bytes(6, "big")) + 5, 1)
    again = await Telemetry.open(folder, ManualClock(BEGUN_MS + 51 * 3_600_000))
    assert wrong(folder) == {"hot.db": ["structure"]}
    done = await again.mend("hot.db", threading.Event())
    assert done.did == ["its indexes were made anew"]
    assert wrong(folder) == {}
    await again.close()
    whole = path.read_bytes()
    again = await Telemetry.open(folder, ManualClock(BEGUN_MS + 51 * 3_600_000))
    path.write_bytes(whole[: (pages_of["members"] - 1) * 4096] + bytes(4096) + whole[pages_of["members"] * 4096 :])
    done = await again.mend("hot.db", threading.Event())
    assert not done.whole
    assert "commander history repair --offline" in done.why
    await again.close()


HOT_PAGES = ("hot", "blocks", "marks", "presence", "layouts", "posts", "totals", "members")


@pytest.mark.parametrize("table", HOT_PAGES)
async def test_a_damaged_hot_db(folder: Path, clock: ManualClock, table: str) -> None:
    """The commander does not start and says what helps; all other tables are saved, the old file is kept, and it starts again."""
    with closing(sqlite3.connect(folder / "hot.db")) as c:
        (page,) = c.execute("select rootpage from sqlite_master where name = ?", (table,)).fetchone()
    whole = (folder / "hot.db").read_bytes()
    (folder / "hot.db").write_bytes(whole[: (page - 1) * 4096] + b"\xff" * 4096 + whole[page * 4096 :])
    with pytest.raises(Broken) as caught:
        await Telemetry.open(folder, clock)
    assert "history repair --offline" in caught.value.hint
    done = offline(folder, clock)
    assert all(one.whole for one in done.values()), {name: one.why for name, one in done.items()}
    assert (folder / done["hot.db"].kept_as).exists()
    assert wrong(folder) == {}
    telemetry = await _opened(folder, clock)
    found = await charts(telemetry, Level.RAW)
    assert points(found[KEYS[0]]) > 2000 * 0.9
    await telemetry.tidy()
    await _report(telemetry, clock, 1, 200_000)
    await telemetry.tidy()
    assert wrong(folder) == {}
    await telemetry.close()


async def test_hot_db_of_rubbish(folder: Path, clock: ManualClock) -> None:
    """Everything in it is lost; the archive stays, and what sentries hold comes again."""
    (folder / "hot.db").write_bytes(random.Random(1).randbytes(100_000))
    (folder / "hot.db-wal").write_bytes(b"left over")
    done = offline(folder, clock)
    assert all(one.whole for one in done.values())
    assert "nothing of it reads" in done["hot.db"].did[0]
    kept = sorted(path.name for path in (folder / "damaged").iterdir())
    assert [name.endswith("-wal") for name in kept] == [False, True]
    telemetry = await _opened(folder, clock)
    assert points((await charts(telemetry, Level.RAW))[KEYS[0]]) > 2000 * 0.9
    assert (await telemetry.durable("s1", [(BOOT, 1, 10)]))[BOOT] != [(1, 10)]
    await telemetry.close()


async def test_the_first_page_of_hot_db(folder: Path, clock: ManualClock) -> None:
    """Chunks are found on their pages."""
    whole = (folder / "hot.db").read_bytes()
    chunks = looked(folder)["hot.db"].blocks
    (folder / "hot.db").write_bytes(bytes(4096) + whole[4096:])
    done = offline(folder, clock)
    assert done["hot.db"].whole
    assert looked(folder)["hot.db"].blocks == chunks


async def test_damaged_rows_offline(folder: Path, clock: ManualClock) -> None:
    """The same as in use: set aside, the file stays."""
    flip(folder / "hot.db", "blocks", "body", "start_ms > 0")
    flip(folder / "hot.db", "hot", "body", "id > 0")
    flip(folder / LEVELS[Level.RAW], "blocks", "body", "id = 1")
    done = offline(folder, clock)
    assert [one.set_aside for one in done.values()] == [2, 1, 0, 0]
    assert wrong(folder) == {}
    assert not (folder / "damaged").exists()


async def test_rows_without_what_they_refer_to(telemetry: Telemetry, folder: Path) -> None:
    """A mark of no journal, a presence at no post."""
    with closing(sqlite3.connect(folder / "hot.db")) as c:
        c.execute("insert into marks values (999, 1, 2)")
        c.execute("insert into presence values (5, 999, 1, 2)")
        c.commit()
    assert sorted(wrong(folder)["hot.db"]) == ["marks", "presence"]
    done = await telemetry.mend("hot.db", threading.Event())
    assert done.whole
    assert done.did == ["2 rows that made no sense removed"]


# ---- while the farm works ----------------------------------------------------------------------------------


async def rows_of(rows: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row async for row in rows]


async def test_checks_while_samples_come(telemetry: Telemetry, folder: Path, clock: ManualClock) -> None:
    """Verify and repair give a line a file and a summary; frames are taken meanwhile; one at a time."""
    flip(folder / LEVELS[Level.FIVE_MINUTES], "blocks", "body", "id = 1")
    await telemetry.learn_layout("s1", LAYOUT)
    await telemetry.learn_layout("s1", OTHER)
    checks = Checks(telemetry, lambda: {1: (7, "seven"), 2: (8, "eight")})
    found, seq = await asyncio.gather(rows_of(checks.verify()), _report(telemetry, clock, 2, 300_000))
    files = [row["file"] for row in found if "file" in row]
    assert [row["file"] for row in files] == ["hot.db", *LEVELS.values()]
    (one,) = [row for row in files if not row["whole"]]
    assert one["list"] == [
        {"what": "5-minute day", "device": "seven", "at_ms": BEGUN_MS, "text": "the checksum of a block is wrong"}
    ]
    assert found[-1]["summary"]["whole"] is False
    assert (found[-1]["summary"]["damaged"], found[-1]["summary"]["files"]) == (1, 4)
    repaired, _, _ = await asyncio.gather(rows_of(checks.repair()), _report(telemetry, clock, 2, seq), telemetry.tidy())
    assert repaired[-1]["summary"] == {"files": 4, "repaired": 1, "set_aside": 1, "made_again": 1, "whole": True}
    assert wrong(folder) == {}
    verifying = checks.verify()
    first = await anext(verifying)
    assert first
    with pytest.raises(Conflict):
        checks.repair()
    await verifying.aclose()  # type: ignore[attr-defined]  # a generator
    assert (await rows_of(checks.verify()))[-1]["summary"]["whole"] is True


async def test_questions_while_a_file_is_replaced(telemetry: Telemetry, folder: Path, clock: ManualClock) -> None:
    """Every answer is one of before or of after; and what is written into the new file stays: nobody removes its WAL."""
    before = await charts(telemetry, Level.FIVE_MINUTES)
    flip_byte(folder / LEVELS[Level.FIVE_MINUTES], 16)
    asking = True

    async def ask() -> int:
        asked = 0
        while asking:
            found = await telemetry.chart(KEYS[asked % 3], None, BEGUN_MS, BEGUN_MS + DAY_MS, 300_000)
            assert points(found) > 0 or found.unreadable
            asked += 1
        return asked

    askers = [asyncio.create_task(ask()) for _ in range(4)]
    done = await telemetry.mend(LEVELS[Level.FIVE_MINUTES], threading.Event())
    assert done.whole
    await telemetry.learn_layout("s1", LAYOUT)
    late = [Sample(KEYS[0], BEGUN_MS + 1_000 + i, {("hashrate_hs", ""): 5}) for i in range(3)]
    await telemetry.take("s1", BOOT, 400_000, LAYOUT.hash, pack(LAYOUT, late))
    clock.advance(3_600)
    await telemetry.tidy()
    asking = False
    assert sum(await asyncio.gather(*askers)) > 0
    after = await charts(telemetry, Level.FIVE_MINUTES)
    assert all(same(after[key], before[key]) for key in KEYS[1:])
    assert points(after[KEYS[0]]) >= points(before[KEYS[0]])
    telemetry._files.release()
    assert wrong(folder) == {}
    with archive.reading(folder / LEVELS[Level.RAW]) as c:
        assert c is not None
        block = block_store.at(c, KEYS[0], BEGUN_MS)
        assert block is not None
        assert block.first_ms == BEGUN_MS + 1_000


def test_given_up(folder: Path) -> None:
    """A reading that nobody waits for ends at the next block."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(Unavailable, match="given up"):
        verify.file(folder, "hot.db", stop, Pace())


async def test_a_disk_that_is_too_small(telemetry: Telemetry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room to write a file anew: it is said, and nothing is touched."""
    path = folder / LEVELS[Level.RAW]
    _truncate(path)
    before = path.read_bytes()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    checks = Checks(telemetry, dict)
    told = await rows_of(checks.repair())
    assert told[-1]["fault"]["code"] == "disk_full"
    assert path.read_bytes() == before
    assert not (folder / "damaged").exists()


# ---- pages -------------------------------------------------------------------------------------------------


def test_rows_from_pages(tmp_path: Path) -> None:
    """Whatever SQLite can store in a row, of any length, with and without overflow; another number of columns is another table."""
    path = tmp_path / "x.db"
    rng = random.Random(3)
    rows = [(None, 1, -1, 2**62, 0.5, "é", b""), (None, 0, 127, -(2**31), -1e300, "", b"x" * 4054)]
    rows += [(None, rng.randrange(-(2**63), 2**63), i, 300, 1.0, "t" * i, rng.randbytes(i * 997)) for i in range(40)]
    with closing(sqlite3.connect(path)) as c:
        c.execute("create table a (id integer primary key, b, c, d, e, f, g)")
        c.execute("create table other (id integer primary key, b)")
        c.executemany("insert into a values (?, ?, ?, ?, ?, ?, ?)", rows)
        c.execute("insert into other values (-5, 1)")
        c.commit()
    found = dict(pages.rows(path, 7, 4096))
    assert [found[number] for number in sorted(found)] == rows
    assert list(pages.rows(path, 2, 4096)) == [(-5, (None, 1))]


def test_a_walk_past_damage(tmp_path: Path) -> None:
    """Every row on a page that reads, in order."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as c:
        c.execute("create table hot (id integer primary key, body blob)")
        c.executemany("insert into hot values (?, ?)", [(i * 3, bytes(300)) for i in range(1, 2_000)])
        c.commit()
    whole = path.read_bytes()
    pages_at = [at for at in range(4096, len(whole), 4096) if whole[at] == 13]
    broken = bytearray(whole)
    for at in pages_at[5:9] + pages_at[-1:]:
        broken[at : at + 4096] = b"\xff" * 4096
    path.write_bytes(broken)
    lost = salvage_store.Lost()
    with closing(salvage_store.connected(path, threading.Event())) as c:
        found = [row[0] for row in salvage_store.walk(c, salvage_store.Shape("hot", "id", ("body",)), lost)]
    assert lost.times > 0
    assert found == sorted(set(found))
    assert 1_999 - 5 * 14 <= len(found) < 1_999
    assert block_store.NEWEST_MS < 0
