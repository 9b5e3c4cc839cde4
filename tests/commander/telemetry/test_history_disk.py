"""A disk that is full, and then is not, at whatever the history just does: nothing is lost, questions are answered meanwhile,
and it goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commander import db
from commander.telemetry import archive
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS
from commander.telemetry.members import FARM
from commander.telemetry.series import RAW
from commander.telemetry.service import Telemetry
from commander.telemetry.totals_store import Group
from garrison.clock import ManualClock
from garrison.faults import DiskFull, Fault
from garrison.frame import Layout, Sample, pack
from tests.small_disk import fill, free_bytes, small_disk

BEGUN_MS = 1_800_000_000_000 // DAY_MS * DAY_MS
LAYOUT = Layout.of([("hashrate_hs", ""), ("accepted", ""), ("power_w", ""), ("temp_c", "")])
KEYS = tuple(range(1, 41))
EVERY_MS = 150_000


@dataclass
class Post:
    """Looks at forty devices. `unsent`: what was not acknowledged and comes again, as from a journal."""

    telemetry: Telemetry
    clock: ManualClock
    looks: int = 0
    acked: set[int] = field(default_factory=set)  # times
    unsent: list[tuple[int, int]] = field(default_factory=list)  # (seq, time)

    async def live(self, minutes: int) -> None:
        for _ in range(minutes * 60_000 // EVERY_MS):
            self.clock.advance(EVERY_MS / 1000)
            self.looks += 1
            self.unsent.append((self.looks, self.clock.now_ms()))
        await self.send()

    async def send(self) -> None:
        jobs = [self.telemetry.take("s1", bytes(16), seq, LAYOUT.hash, body(at_ms)) for seq, at_ms in self.unsent]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(result is None or isinstance(result, DiskFull) for result in results), results
        self.acked |= {at_ms for (_, at_ms), result in zip(self.unsent, results, strict=True) if result is None}
        self.unsent = [one for one, result in zip(self.unsent, results, strict=True) if result is not None]

    async def all_is_there(self) -> None:
        """Every acknowledged look, once, with its values."""
        for key in (KEYS[0], KEYS[-1]):
            found = await self.telemetry.chart(key, {("hashrate_hs", "")}, BEGUN_MS, self.clock.now_ms() + 1, RAW)
            assert found.unreadable == 0
            assert found.at_ms.tolist() == sorted(self.acked)
            assert list(found.lines[0].stats["value"]) == [hashrate(key, at_ms) for at_ms in sorted(self.acked)]

    async def totals_are_right(self, to_ms: int) -> None:
        """The farm's, at five minutes and by the hour, of all that is acknowledged; and 5-minute values of a device."""
        held: dict[int, list[int]] = {}
        for at_ms in self.acked:
            held.setdefault(at_ms // STEP_MS * STEP_MS, []).append(at_ms)
        wanted = {
            step: sum(sum(hashrate(key, at_ms) for at_ms in times) / len(times) for key in KEYS) for step, times in held.items()
        }
        found = await self.telemetry.aggregate("farm", "hashrate_hs", "sum", BEGUN_MS, to_ms, STEP_MS, limit=20_000)
        (farm,) = found.groups
        for at_ms, value in zip(found.at_ms.tolist(), farm.values.tolist(), strict=True):
            assert math.isclose(value, wanted[at_ms]) if at_ms in wanted else math.isnan(value), (at_ms, value, wanted.get(at_ms))
        hours = await self.telemetry.aggregate("farm", "hashrate_hs", "sum", BEGUN_MS, to_ms, HOUR_MS)
        for at_ms, value in zip(hours.at_ms.tolist(), hours.groups[0].values.tolist(), strict=True):
            steps = [wanted[step] for step in wanted if step // HOUR_MS == at_ms // HOUR_MS and step < to_ms]
            assert math.isclose(value, sum(steps) / len(steps)) if steps else math.isnan(value), at_ms
        device = await self.telemetry.chart(KEYS[0], {("hashrate_hs", "")}, BEGUN_MS, to_ms, STEP_MS, limit=20_000)
        assert list(device.lines[0].stats["count"]) == [len(held.get(at_ms, [])) for at_ms in device.at_ms.tolist()]


def damaged(folder: Path) -> list[str | None]:
    return [db.damage(path) for path in sorted(folder.glob("*.db"))]


def hashrate(key: int, at_ms: int) -> int:
    return 10**14 + (at_ms // 1000 * 7_919 + key * 104_729) % 10**13


def body(at_ms: int) -> bytes:
    return pack(
        LAYOUT,
        [
            Sample(
                key,
                at_ms,
                {
                    ("hashrate_hs", ""): hashrate(key, at_ms),
                    ("accepted", ""): at_ms // 1000,
                    ("power_w", ""): 3_000 + hashrate(key, at_ms) % 999 / 10,
                    ("temp_c", ""): 60 + hashrate(key, at_ms) % 99 / 10,
                },
            )
            for key in KEYS
        ],
    )


@contextlib.asynccontextmanager
async def post_at(folder: Path, clock: ManualClock) -> AsyncIterator[Post]:
    async def groups() -> AsyncIterator[tuple[int, tuple[Group, ...]]]:
        for key in KEYS:
            yield key, (FARM,)

    telemetry = await Telemetry.open(folder, clock, commit_every_ms=1)
    telemetry.follow(groups)
    try:
        await telemetry.learn_layout("s1", LAYOUT)
        yield Post(telemetry, clock)
    finally:
        await telemetry.close()


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
            for _ in range(11):  # what is live is sealed before it is too much for memory
                await post.telemetry.tidy()
                await post.live(2 * 60)
            assert not post.unsent
            post.clock.advance(3 * 3_600)
            fill(disk / "other", leave_bytes=64 << 10)
            await post.live(20)
            for _ in range(3):
                with pytest.raises(DiskFull):
                    await post.telemetry.tidy()
                fill(disk / "other")
                await post.live(10)
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
            acked, looks = post.acked, post.looks
        fill(disk / "other")
        with contextlib.suppress(Fault):
            async with post_at(disk / "history", clock) as post:
                post.acked = acked
                await post.all_is_there()
        (disk / "other").unlink()
        async with post_at(disk / "history", clock) as post:
            post.acked, post.looks = acked, looks
            await post.live(10)
            await post.all_is_there()
