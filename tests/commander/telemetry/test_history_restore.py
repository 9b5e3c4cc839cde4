"""A history that is put back to an older backup, and refilled by its sentries: each sample once, no total doubled, marks right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from commander import backup as backups
from commander import db
from commander.telemetry.levels import HOUR_MS
from garrison.clock import ManualClock
from garrison.spans import Spans
from tests.commander.telemetry.history_post import BEGUN_MS, BOOT, Post, damaged, history_at, post_at


async def days(post: Post) -> None:
    """Two days: the first is merged, of the second there are chunks, and frames that are not sealed yet."""
    for _ in range(23):
        await post.live(2 * 60)
        await post.telemetry.tidy()
    await post.live(20)


async def a_late_hour(post: Post) -> None:
    """Looks of the day before, between those that came live."""
    for minute in range(0, 60, 10):
        post.look(post.clock.now_ms() - 20 * HOUR_MS + minute * 60_000 + 30_001)
    await post.send()


async def refill(home: Path, post: Post, archive: Path, saved: set[int] | None) -> None:
    """The restored history says that it has what was saved; its sentry sends it the rest, and then all that it holds."""
    await asyncio.to_thread(backups.restore, archive, home)
    assert set(damaged(home / "history")) == {None}
    async with history_at(home / "history", post.clock) as telemetry:
        held = await post.meet(telemetry)
        assert saved is None or set(post.unsent) == held - saved
        await post.send()
        post.unsent = sorted(held)
        await post.send()
        await post.all_is_there()
        await telemetry.tidy()
        await post.all_is_there()
        await post.totals_are_right(post.clock.now_ms() - 10 * 60_000)
        last = max(post.journal)
        assert (await telemetry.durable("s1", [(BOOT, 1, last)]))[BOOT] == Spans([(1, last)])
        await post.live(60)
        post.clock.advance(26 * 3_600)
        await telemetry.tidy()
        await post.all_is_there()
        await post.totals_are_right(post.clock.now_ms() - 10 * 60_000)


@pytest.mark.parametrize("hours", [0, 20])
async def test_restored_and_refilled(tmp_path: Path, hours: int) -> None:
    """Backed up with a merged day, chunks and hot frames; some hours later, in which more was sealed and merged and some came late,
    put back. The sentries still hold a day."""
    home, archive = tmp_path / "home", tmp_path / "backup.tar"
    async with post_at(home / "history", ManualClock(BEGUN_MS)) as post:
        await days(post)
        async with post.telemetry.undisturbed():
            await backups.backup(home, archive)
        saved = set(post.acked)
        for _ in range(hours):
            await post.live(60)
            await post.telemetry.tidy()
        await a_late_hour(post)
        await post.telemetry.tidy()
    await refill(home, post, archive, saved)


@pytest.mark.parametrize("busy", range(5))
async def test_backed_up_while_all_of_it_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: int) -> None:
    """Frames come, and a sealing and a merge are due, at every moment of the backup: what it holds is of one moment, so that the
    refilled history is whole."""
    home, archive = tmp_path / "home", tmp_path / "backup.tar"
    async with post_at(home / "history", ManualClock(BEGUN_MS)) as post:
        await days(post)
        await a_late_hour(post)
        post.clock.advance(3 * 3_600)  # the second day is to be merged
        loop, copied = asyncio.get_running_loop(), 0
        real = db.copy_checked
        upkeep: list[asyncio.Task[object]] = []

        async def go_on() -> None:
            upkeep.append(asyncio.create_task(post.telemetry.tidy()))
            await post.live(10)
            await asyncio.wait(upkeep, timeout=1)  # it could be through with it; it waits for the backup

        def copy_checked(source: Path, target: Path, given_up: Callable[[], bool]) -> None:
            nonlocal copied
            copied += 1
            if copied == busy:
                asyncio.run_coroutine_threadsafe(go_on(), loop).result(20)
            real(source, target, given_up)

        monkeypatch.setattr(db, "copy_checked", copy_checked)
        if busy == 0:
            upkeep.append(asyncio.create_task(post.telemetry.tidy()))
            await asyncio.sleep(0.05)
        async with post.telemetry.undisturbed():
            await backups.backup(home, archive)
        monkeypatch.undo()
        assert copied >= busy
        await asyncio.gather(*upkeep)
        await post.telemetry.tidy()
        await post.live(60)
        await post.all_is_there()
    await refill(home, post, archive, None)
