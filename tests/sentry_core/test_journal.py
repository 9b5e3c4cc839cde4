"""The journal: what is written stays through restarts, acks, the cap, a full disk and damage."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from garrison.clock import Clock, ManualClock, SystemClock
from garrison.faults import Fault, Unavailable, VersionMismatch
from garrison.frame import Layout
from garrison.model import Event, Order, Report
from garrison.spans import Spans
from garrison.words import ActionKind, ActionState
from sentry_core.journal import FRAMES, RECORDS, Frame, Journal, Record

LAYOUTS = (Layout.of([("power_w", "")]), Layout.of([("power_w", ""), ("temp_c", "")]))
ORDER = Order("0001", ActionKind.POWER_CYCLE, "mac:aa", 60_000, 3, off_s=20)


@contextlib.asynccontextmanager
async def journal(folder: Path, clock: Clock | None = None, **changes: Any) -> AsyncIterator[Journal]:
    it = await Journal.open(folder / "journal.db", clock or SystemClock(), **changes)
    try:
        yield it
    finally:
        await it.close()


async def unsent(it: Journal, lane: int) -> list[int]:
    return [item.seq for item in await it.unsent(lane, {}, 100_000, 1 << 40)]


def event(n: int) -> Event:
    return Event(n, "kind", f"text {n}", "mac:aa", "warning", {"n": str(n)})


# ---- against a model -----------------------------------------------------------------------------------------


class Model:
    """What the journal must hold: two lanes of bodies by number, what is acked, and one order."""

    def __init__(self) -> None:
        self.items: dict[int, dict[int, bytes | str]] = {FRAMES: {}, RECORDS: {}}
        self.acked: dict[int, set[int]] = {FRAMES: set(), RECORDS: set()}

    def unsent(self, lane: int) -> list[int]:
        return [seq for seq in sorted(self.items[lane]) if seq not in self.acked[lane]]


steps = st.one_of(
    st.tuples(st.just("frame"), st.integers(0, 1), st.binary(max_size=50)),
    st.tuples(st.just("events"), st.integers(1, 5), st.none()),
    st.tuples(st.just("ack"), st.sampled_from([FRAMES, RECORDS]), st.tuples(st.integers(1, 40), st.integers(0, 10))),
    st.tuples(st.just("reconcile"), st.sampled_from([FRAMES, RECORDS]), st.tuples(st.integers(1, 40), st.integers(0, 30))),
    st.tuples(st.just("reopen"), st.booleans(), st.none()),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=25))
async def test_against_a_model(tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, Any, Any]]) -> None:
    """Any order of writing, acking, reconciling and restarting (cleanly or not) leaves exactly what the model holds."""
    folder = tmp_path_factory.mktemp("journal")
    model = Model()
    it = await Journal.open(folder / "journal.db", ManualClock())
    boot = it.boot
    try:
        for what, which, value in script:
            if what == "frame":
                frame = await it.append_frame(LAYOUTS[which], value)
                assert frame is not None
                assert frame.seq == len(model.items[FRAMES]) + 1
                model.items[FRAMES][frame.seq] = value
            elif what == "events":
                first = len(model.items[RECORDS]) + 1
                await asyncio.gather(*(it.append_event(event(first + n)) for n in range(which)))
                model.items[RECORDS] |= {first + n: f"text {first + n}" for n in range(which)}
            elif what == "ack":
                first, more = value
                it.ack(which, boot, Spans([(first, first + more)]))
                model.acked[which] |= {seq for seq in range(first, first + more + 1) if seq in model.items[which]}
            elif what == "reconcile":
                first, more = value
                lanes = {FRAMES, RECORDS} - {which}
                durable = {(which, boot): Spans([(first, first + more)]), (lanes.pop(), boot): Spans()}
                await it.reconcile(durable)
                model.acked = {FRAMES: set(), RECORDS: set()}
                model.acked[which] = {seq for seq in range(first, first + more + 1) if seq in model.items[which]}
            else:
                await it.close()
                it = await Journal.open(folder / "journal.db", ManualClock())
                assert it.boot == boot
            for lane in (FRAMES, RECORDS):
                assert await unsent(it, lane) == model.unsent(lane)
        for item in await it.unsent(FRAMES, {}, 1000):
            assert isinstance(item, Frame)
            assert item.body == model.items[FRAMES][item.seq]
            assert await it.layout(item.layout) in LAYOUTS
        held = await it.held()
        for lane in (FRAMES, RECORDS):
            assert [(one.first, one.last) for one in held[lane]] == ([(1, len(model.items[lane]))] if model.items[lane] else [])
    finally:
        await it.close()
        shutil.rmtree(folder)


async def test_acks_beyond_what_was_written(tmp_path: Path) -> None:
    """A commander that acks numbers that do not exist yet does not make later frames count as acked."""
    async with journal(tmp_path) as it:
        await it.append_frame(LAYOUTS[0], b"1")
        it.ack(FRAMES, it.boot, Spans([(1, 1_000_000)]))
        it.ack(FRAMES, b"x" * 16, Spans([(1, 5)]))
        await it.append_frame(LAYOUTS[0], b"2")
        assert await unsent(it, FRAMES) == [2]


async def test_unsent_is_bounded_and_skips(tmp_path: Path) -> None:
    """By number and by bytes, the oldest first; at least one comes."""
    async with journal(tmp_path) as it:
        for n in range(10):
            await it.append_frame(LAYOUTS[0], bytes([n]) * 1000)
        assert [i.seq for i in await it.unsent(FRAMES, {it.boot: Spans([(1, 2), (4, 4)])}, 3)] == [3, 5, 6]
        assert [i.seq for i in await it.unsent(FRAMES, {}, 100, 2500)] == [1, 2, 3]
        assert [i.seq for i in await it.unsent(FRAMES, {}, 100, 1)] == [1]


# ---- cap and retention ----------------------------------------------------------------------------------------


async def test_at_the_cap_acked_frames_go_first_then_the_oldest(tmp_path: Path) -> None:
    """The size stays under the cap; what was not acked and went is counted, over restarts; records all stay."""
    cap = 1024 * 1024
    async with journal(tmp_path, cap_bytes=cap) as it:
        for n in range(60):
            await it.append_frame(LAYOUTS[0], bytes(10_000))
            await it.append_event(event(n))
        assert it.frames_dropped == 0
        it.ack(FRAMES, it.boot, Spans([(11, 40)]))
        for _ in range(100):
            await it.append_frame(LAYOUTS[0], bytes(10_000))
        left = await unsent(it, FRAMES)
        assert await it.used_bytes() <= cap
        unacked = [*range(1, 11), *range(41, 161)]
        assert left == unacked[-len(left) :]
        assert it.frames_dropped == len(unacked) - len(left)
        assert 10 < it.frames_dropped < 60
        assert len(await unsent(it, RECORDS)) == 60
        dropped = it.frames_dropped
    async with journal(tmp_path, cap_bytes=cap) as it:
        assert it.frames_dropped == dropped
        assert len(await unsent(it, RECORDS)) == 60


async def test_records_are_kept_even_beyond_the_cap(tmp_path: Path) -> None:
    """A cap full of records keeps no frame, and still takes records."""
    async with journal(tmp_path, cap_bytes=200_000) as it:
        await it.append_frame(LAYOUTS[0], b"x" * 1000)
        await asyncio.gather(*(it.append_event(Event(n, "k", "t" * 1000)) for n in range(500)))
        assert len(await unsent(it, RECORDS)) == 500
        assert await unsent(it, FRAMES) == []
        assert it.frames_dropped == 1


async def test_acked_frames_are_kept_a_day(tmp_path: Path) -> None:
    """Then they go, with no word about it; records and orders stay for 30 days."""
    clock = ManualClock()
    async with journal(tmp_path, clock) as it:
        for _ in range(5):
            await it.append_frame(LAYOUTS[0], b"x")
        await it.accept(ORDER)
        it.ack(FRAMES, it.boot, Spans([(1, 3)]))
        it.ack(RECORDS, it.boot, Spans([(1, 1)]))
        await it.append_frame(LAYOUTS[0], b"y")
        clock.advance(23 * 3600)
        await it.append_frame(LAYOUTS[0], b"y")
        assert (await it.held())[FRAMES][0].first == 1
        clock.advance(2 * 3600)
        await it.append_frame(LAYOUTS[0], b"y")
        assert (await it.held())[FRAMES][0].first == 4
        assert (await it.held())[RECORDS][0].first == 1
        assert it.frames_dropped == 0
        await it.advance(ORDER.id, Report(ORDER.id, ActionState.FAILED, clock.now_ms()))
        clock.advance(31 * 86400)
        await it.append_frame(LAYOUTS[0], b"y")
        assert (await it.held())[RECORDS][0].first == 2
        assert await it.action(ORDER.id) is not None, "the last 10,000 orders stay for good"


# ---- orders ----------------------------------------------------------------------------------------------------


async def test_an_order_is_kept_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    """Notes, times, outcome; each change is one record, in the same commit."""
    clock = ManualClock()
    async with journal(tmp_path, clock) as it:
        action, new = await it.accept(ORDER)
        assert new
        assert action.state is ActionState.ACCEPTED
        assert (await it.accept(ORDER))[1] is False
        clock.advance(1)
        await it.advance(ORDER.id, Report(ORDER.id, ActionState.STARTED, clock.now_ms()), started=True)
        await it.note(ORDER.id, "off_sent", "yes")
    async with journal(tmp_path, clock) as it:
        (action,) = await it.open_actions()
        assert action.order == ORDER
        assert action.notes == {"off_sent": "yes"}
        assert await it.power_history(0) == [(ActionKind.POWER_CYCLE, "mac:aa", clock.now_ms())]
        report = Report(ORDER.id, ActionState.SUCCEEDED, clock.now_ms(), "", "on again", {"watts": "1200"})
        assert await it.advance(ORDER.id, report) is not None
        assert await it.advance(ORDER.id, Report(ORDER.id, ActionState.FAILED, clock.now_ms())) is None, "final is final"
        assert await it.open_actions() == []
        assert len(await unsent(it, RECORDS)) == 3
        assert await it.raise_epoch(7) == 7
        assert await it.raise_epoch(3) == 7


# ---- a full disk -----------------------------------------------------------------------------------------------


async def test_a_full_file(tmp_path: Path) -> None:
    """SQLite can grow no more: frames are lost and counted, a record waits until there is room and is then there."""
    async with journal(tmp_path) as it:
        await it.append_frame(LAYOUTS[0], bytes(300_000))
        await it._do(lambda f: f._db.execute("pragma max_page_count=90").fetchone())
        assert await it.append_frame(LAYOUTS[0], bytes(300_000)) is None
        assert it.frames_dropped == 1
        waiting = asyncio.create_task(it.append_event(Event(1, "k", "t" * 16_000)))
        await asyncio.wait_for(waiting, 20)  # the old frame makes room for it
        assert len(await unsent(it, RECORDS)) == 1
        await it._do(lambda f: f._db.execute("pragma max_page_count=100000").fetchone())
        assert await it.append_frame(LAYOUTS[0], bytes(1000)) is not None
        total = it.frames_dropped
    async with journal(tmp_path) as it:
        assert it.frames_dropped == total


_FULL = """
import asyncio, resource, sys
from pathlib import Path
from garrison.clock import SystemClock
from garrison.frame import Layout
from garrison.model import Event
from sentry_core.journal import FRAMES, RECORDS, Journal

async def main():
    it = await Journal.open(Path(sys.argv[1]) / "journal.db", SystemClock())
    layout = Layout.of([("power_w", "")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))  # no file of ours grows beyond: as on a full disk
    kept = [await it.append_frame(layout, bytes(50_000)) for _ in range(30)]
    waiting = asyncio.create_task(it.append_event(Event(1, "k", "told")))
    await asyncio.sleep(0.5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await asyncio.wait_for(waiting, 20)
    frame = await it.append_frame(layout, b"after")
    print(sum(one is not None for one in kept), it.frames_dropped, frame.seq, len(await it.unsent(RECORDS, {}, 10)))
    await it.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_full_disk(tmp_path: Path) -> None:
    """The file system refuses: the same, in a process of its own. Numbers go on without a gap where nothing was written."""
    done = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kept, dropped, seq, records = (int(word) for word in done.stdout.split())
    assert 0 < kept < 30
    assert dropped >= 30 - kept
    assert seq == kept + 1
    assert records == 1


# ---- damage ----------------------------------------------------------------------------------------------------


async def filled(folder: Path) -> Path:
    """A journal with everything in it. Returns its file; the WAL is part of it."""
    async with journal(folder) as it:
        for n in range(40):
            await it.append_frame(LAYOUTS[n % 2], bytes([n]) * 700)
            await it.append_event(event(n))
        for n in range(10):
            await it.accept(Order(f"{n:04}", ActionKind.PAUSE, "mac:aa", 1000, 1))
        it.ack(FRAMES, it.boot, Spans([(1, 10)]))
    return folder / "journal.db"


async def check_it_works(folder: Path) -> Journal:
    """It starts, and takes and gives what a journal must. The caller closes it."""
    it = await Journal.open(folder / "journal.db", SystemClock())
    await it.append_event(event(999))
    frame = await it.append_frame(LAYOUTS[0], b"fresh")
    assert frame is not None
    sent = await it.unsent(FRAMES, {}, 1000, 1 << 30)
    assert any(isinstance(one, Frame) and one.body == b"fresh" for one in sent)
    for one in sent:
        assert isinstance(one, Frame)
        assert one.body == b"fresh" or one.body == one.body[:1] * 700, "a damaged body is never sent"
    records = await it.unsent(RECORDS, {}, 1000, 1 << 30)
    assert all(isinstance(one, Record) for one in records)
    await it.open_actions()
    await it.held()
    return it


@pytest.mark.timeout(300)
async def test_damage_anywhere_never_stops_the_start(tmp_path: Path) -> None:
    """Cut at, and bytes flipped at, many places: the sentry starts, sends nothing that is wrong, and tells of it."""
    whole = (await filled(tmp_path / "whole")).read_bytes()
    chance = random.Random(7)
    places = [0, 1, 15, 16, 18, 24, 28, 40, 60, 63, 99, 100, 105, 4095, 4096, len(whole) - 1]
    places += [chance.randrange(len(whole)) for _ in range(60)]
    told = 0
    for number, place in enumerate(places):
        for cut in (True, False):
            folder = tmp_path / f"{number}-{cut}"
            folder.mkdir()
            data = bytearray(whole)
            if cut:
                del data[place:]
            else:
                data[place] ^= 1 << chance.randrange(8)
            (folder / "journal.db").write_bytes(data)
            it = await check_it_works(folder)
            told += any(folder.glob("*.damaged-*"))
            await it.close()
            again = await check_it_works(folder)
            await again.close()
            shutil.rmtree(folder)
    assert told > len(places), "most of these places matter"


async def test_what_can_be_read_of_a_damaged_journal_is_taken_over(tmp_path: Path) -> None:
    """One page in the middle is lost: orders and most records and frames live on, under their old boot id."""
    path = await filled(tmp_path)
    async with journal(tmp_path) as it:
        old = it.boot
    data = bytearray(path.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as db:
        root = db.execute("select rootpage from sqlite_master where name = 'frames'").fetchone()[0]
        pages = (
            [row[0] for row in db.execute("select pageno from dbstat where name = 'frames' and pagetype = 'leaf'")]
            if _dbstat(db)
            else [root]
        )
    page = pages[len(pages) // 2]
    data[(page - 1) * 4096 : page * 4096] = bytes(4096)
    path.write_bytes(data)
    async with journal(tmp_path) as it:
        assert it.boot != old
        assert len(await it.open_actions()) == 10
        records = await it.unsent(RECORDS, {}, 1000)
        assert sum(record.boot == old for record in records) == 50
        damaged = [record for record in records if record.boot == it.boot]
        assert len(damaged) == 1
        assert b"journal_damaged" in damaged[0].body
        held = await it.held()
        assert [one.boot for one in held[RECORDS]] == [old, it.boot]
        it.ack(RECORDS, old, Spans([(1, 50)]))
        assert [record.boot for record in await it.unsent(RECORDS, {}, 1000)] == [it.boot]


def _dbstat(db: sqlite3.Connection) -> bool:
    try:
        db.execute("select 1 from dbstat limit 1")
    except sqlite3.Error:
        return False
    return True


async def test_damage_met_while_running(tmp_path: Path) -> None:
    """The file is overwritten under us: what was asked succeeds on a new file, and the session is told to begin anew."""
    path = await filled(tmp_path)
    async with journal(tmp_path) as it:
        old, told = it.boot, []
        it.on_new_boot = lambda: told.append(True)
        data = bytearray(path.read_bytes())
        for at in range(4096, len(data)):
            data[at] ^= 0x55
        with path.open("r+b") as file:
            file.write(data)
        await it._do(lambda f: f._db.execute("pragma cache_size=0").fetchall())
        for n in range(5):
            await it.append_frame(LAYOUTS[0], b"after")
            await it.append_event(event(n))
        with contextlib.suppress(Fault):
            await it.unsent(FRAMES, {}, 1000)
        await asyncio.sleep(0)
        assert it.boot != old
        assert told
        assert await it.append_frame(LAYOUTS[0], b"later") is not None


async def test_two_sentries_in_one_folder(tmp_path: Path) -> None:
    """The second does not start, and says why."""
    async with journal(tmp_path):
        with pytest.raises(Unavailable, match="in use") as refusal:
            await Journal.open(tmp_path / "journal.db", SystemClock())
        assert "running already" in refusal.value.hint


async def test_a_journal_of_a_newer_program(tmp_path: Path) -> None:
    """Is refused, not set aside."""
    async with journal(tmp_path) as it:
        await it._do(lambda f: f._set_meta("version", "2"))
    with pytest.raises(VersionMismatch, match="2"):
        await Journal.open(tmp_path / "journal.db", SystemClock())
    assert sorted(one.name for one in await asyncio.to_thread(lambda: list(tmp_path.iterdir())) if "damaged" in one.name) == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
async def test_it_is_private(tmp_path: Path) -> None:
    """It holds orders with pool passwords."""
    async with journal(tmp_path):
        assert (tmp_path / "journal.db").stat().st_mode & 0o077 == 0


async def test_a_disk_in_another_machine(tmp_path: Path) -> None:
    """It goes on under a new boot, from number 1; what it held keeps its numbers. A machine that is not known compares nothing."""
    here, there = b"h" * 16, b"t" * 16
    async with journal(tmp_path) as it:
        first = it.boot
        await it.append_event(event(1))
    for machine in (here, b"", here):
        async with journal(tmp_path, machine=machine) as it:
            assert it.boot == first
    async with journal(tmp_path, machine=there) as it:
        second = it.boot
        assert second != first
        await it.append_event(event(2))
        found = [(one.boot, one.seq) for one in await it.unsent(RECORDS, {}, 10)]
        assert found == [(first, 1), (second, 1)]
        it.ack(RECORDS, first, Spans([(1, 1)]))
        assert [life.boot for life in (await it.held())[RECORDS]] == [first, second]
    async with journal(tmp_path, machine=there) as it:
        assert it.boot == second
        await it.append_event(event(3))
        assert [(one.boot, one.seq) for one in await it.unsent(RECORDS, {}, 10)] == [(second, 1), (second, 2)]


async def test_a_new_journal_knows_its_machine(tmp_path: Path) -> None:
    """Also one that took the place of a damaged one: neither begins another boot at the next start."""
    for _ in range(2):
        async with journal(tmp_path, machine=b"h" * 16) as it:
            boot = it.boot
        async with journal(tmp_path, machine=b"h" * 16) as it:
            assert it.boot == boot
        (tmp_path / "journal.db").write_bytes(b"noise" * 1000)
