"""A disk that is full, and then is not, at whatever the history just does: nothing is lost, questions are answered meanwhile,
and it goes on by itself."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from commander.telemetry import archive
from commander.telemetry.levels import DAY_MS, HOUR_MS
from garrison.clock import ManualClock
from garrison.faults import DiskFull, Fault
from tests.commander.telemetry.history_post import BEGUN_MS, KEYS, damaged, post_at
from tests.small_disk import fill, free_bytes, small_disk


def full_at(monkeypatch: pytest.MonkeyPatch, name: str, rows: str) -> None:
    """The disk is full for this file of the archive once it is to grow: from `rows` on."""
    real = archive.writing

    @contextlib.contextmanager
    def writing(path: Path) -> Iterator[sqlite3.Connection]:
        with real(path) as c:
            if path.name.startswith(name) and (rows == "first" or c.execute(f"select count(*) from {rows}").fetchone()[0]):  # noqa: S608  # the test's own words
                c.execute(f"pragma max_page_count={c.execute('pragma page_count').fetchone()[0]}").fetchone()
            yield c

    monkeypatch.setattr(archive, "writing", writing)


@pytest.mark.parametrize("rows", ["first", "blocks"], ids=["new file", "grows"])
@pytest.mark.parametrize("name", ["raw", "5min", "1h"])
async def test_full_just_when_the_archive_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: str) -> None:
    """Whichever of the three files does not go in, and whichever did: questions see each look once meanwhile, the totals too, and
    the next round with space completes it."""
    async with post_at(tmp_path, ManualClock(BEGUN_MS)) as post:
        if rows == "blocks":
            await post.live(24 * 60)
            post.clock.advance(2 * 3_600)
            await post.telemetry.tidy()
        await post.live(24 * 60)
        post.clock.advance(2 * 3_600)
        to_ms = post.clock.now_ms()
        with monkeypatch.context() as full:
            full_at(full, name, rows)
            for _ in range(2):
                with pytest.raises(DiskFull):
                    await post.telemetry.tidy()
                await post.all_is_there()
                await post.totals_are_right(to_ms)
                await post.live(10)
        done = await post.telemetry.tidy()
        assert done.days >= len(KEYS)
        assert done.batches
        await post.all_is_there()
        await post.totals_are_right(to_ms)
        assert await post.telemetry.db.read(lambda c: c.execute("select count(*) from totals where batch > 0").fetchone()[0]) == 0
    assert damaged(tmp_path) == [None] * 4


async def test_full_to_the_last_byte(tmp_path: Path) -> None:
    """A real disk without a free byte, while frames come and a day is to be sealed and merged: nothing is acknowledged, the live
    values go on, every question is answered, from hot.db and from the archive, also by a history that was opened for it just
    now. With space again, all of it is done within one round."""
    with small_disk(tmp_path / "disk", 24) as disk:
        folder = disk / "history"
        async with post_at(folder, ManualClock(BEGUN_MS)) as post:
            await post.live(24 * 60)
            post.clock.advance(2 * 3_600)
            await post.telemetry.tidy()
            for _ in range(11):  # of the totals of what is not sealed an hour is kept
                await post.live(2 * 60)
                await post.telemetry.tidy()
            assert not post.unsent
            post.clock.advance(3 * 3_600)
            fill(disk / "other", leave_bytes=64 << 10)
            await post.live(5)
            for _ in range(3):
                with pytest.raises(DiskFull):
                    await post.telemetry.tidy()
                fill(disk / "other")
                for _ in range(12):  # what the failed transaction has left in the WAL is room too
                    await post.live(3)
                    if post.unsent:
                        break
                assert post.unsent
                newest = post.telemetry.latest([KEYS[0]])[KEYS[0]]
                assert newest.at_ms == post.clock.now_ms(), "the live values go on"
                await post.all_is_there()
                await post.totals_are_right(post.clock.now_ms() - 2 * HOUR_MS)
            assert free_bytes(disk) == 0
            (disk / "other").unlink()
            await post.send()
            assert not post.unsent
            await post.telemetry.tidy()
            await post.all_is_there()
            await post.totals_are_right(post.clock.now_ms() - 10 * 60_000)
            rest = await post.telemetry.db.read(
                lambda c: c.execute("select count(*) from blocks where start_ms < ?", (BEGUN_MS + 2 * DAY_MS,)).fetchone()[0]
            )
            assert rest == len(KEYS), "only the newest looks are left of the days that are merged"
        assert damaged(folder) == [None] * 4


async def test_full_at_the_start(tmp_path: Path) -> None:
    """A commander that starts on a full disk says so and can be started again; or it starts, and answers."""
    with small_disk(tmp_path / "disk", 24) as disk:
        clock = ManualClock(BEGUN_MS)
        async with post_at(disk / "history", clock) as post:
            await post.live(24 * 60)
            clock.advance(2 * 3_600)
            await post.telemetry.tidy()
            acked, journal = post.acked, post.journal
        fill(disk / "other")
        with contextlib.suppress(Fault):
            async with post_at(disk / "history", clock) as post:
                post.acked, post.journal = acked, journal
                await post.all_is_there()
        (disk / "other").unlink()
        async with post_at(disk / "history", clock) as post:
            post.acked, post.journal = acked, journal
            await post.live(10)
            await post.all_is_there()
