"""What comes late, by minutes or by months: it is put where it belongs, and changes nothing that is not its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commander.telemetry import store
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, Level, file_at
from commander.telemetry.members import FARM
from commander.telemetry.retention import Spans
from commander.telemetry.service import Telemetry
from commander.telemetry.totals_store import Group
from commander.telemetry.upkeep import Done
from garrison.clock import ManualClock
from garrison.frame import Layout, Sample, pack

BEGUN_MS = 1_800_000_000_000 // DAY_MS * DAY_MS
MINUTE_MS = 60_000
LAYOUT = Layout.of([("hashrate_hs", ""), ("accepted", "")])
KEY = 7


@dataclass
class Miner:
    """One device before a history that keeps looks for 3 days, 5-minute values for 35 and hours for 400."""

    folder: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(BEGUN_MS))
    seq: int = 0
    history: Telemetry = field(init=False)

    async def open(self) -> None:
        async def groups() -> AsyncIterator[tuple[int, tuple[Group, ...]]]:
            yield KEY, (FARM,)

        spans = Spans(raw_days=3, five_minute_days=35, hour_days=400)
        self.history = await Telemetry.open(self.folder, self.clock, spans=spans, commit_every_ms=1)
        self.history.follow(groups)
        await self.history.learn_layout("s1", LAYOUT)

    async def restart(self) -> None:
        await self.history.close()
        await self.open()

    def look(self, at_ms: int, *, rate: int = 100, accepted: int | None = None) -> asyncio.Future[None]:
        self.seq += 1
        values = {("hashrate_hs", ""): rate} | ({} if accepted is None else {("accepted", ""): accepted})
        return self.history.take("s1", bytes(16), self.seq, LAYOUT.hash, pack(LAYOUT, [Sample(KEY, at_ms, values)]))

    async def until(self, at_ms: int, *, every_ms: int) -> None:
        """Live looks, and all that becomes due; the shares rise by ten a minute."""
        jobs = []
        while self.clock.now_ms() + every_ms <= at_ms:
            self.clock.advance(every_ms / 1000)
            now_ms = self.clock.now_ms()
            jobs.append(self.look(now_ms, accepted=(now_ms - BEGUN_MS) // 6_000))
            if now_ms % (2 * HOUR_MS) == 0:
                await asyncio.gather(*jobs)
                await self.history.tidy()

    async def farm(self, metric: str, from_ms: int, to_ms: int, step_ms: int) -> list[float]:
        found = await self.history.aggregate("farm", metric, "sum", from_ms, to_ms, step_ms, limit=20_000)
        assert found.unreadable == 0
        values: list[float] = found.groups[0].values.tolist()
        return values

    async def hourly(self, from_ms: int, to_ms: int) -> tuple[list[int], list[float]]:
        """Looks and average of the device in each hour."""
        found = await self.history.chart(KEY, {("hashrate_hs", "")}, from_ms, to_ms, HOUR_MS, limit=20_000)
        stats = found.lines[0].stats
        return [int(count or 0) for count in stats["count"]], [float(value or 0) for value in stats["avg"]]

    def files(self) -> set[str]:
        """Levels that are still kept of the first day."""
        return {level.value for level in (Level.RAW, Level.FIVE_MINUTES) if (self.folder / file_at(level, BEGUN_MS).name).exists()}


@pytest.fixture
async def miner(tmp_path: Path) -> AsyncIterator[Miner]:
    it = Miner(tmp_path)
    await it.open()
    yield it
    await it.history.close()


async def test_a_restart_shows_the_newest_look(miner: Miner) -> None:
    """Whatever came after it of a time before, sealed or not: the newest look is of yesterday and is merged."""
    await miner.until(BEGUN_MS + DAY_MS, every_ms=30 * MINUTE_MS)
    newest_ms = miner.clock.now_ms()
    miner.clock.advance(26 * 3_600)
    await miner.history.tidy()
    for late_ms in (newest_ms - 4 * HOUR_MS, newest_ms - 20 * MINUTE_MS, newest_ms - 40 * HOUR_MS):
        await miner.look(late_ms + 1, rate=1)
        await miner.restart()
        assert miner.history.latest([KEY])[KEY].at_ms == newest_ms, "not sealed"
        assert (await miner.history.tidy()).chunks
        await miner.restart()
        assert miner.history.latest([KEY])[KEY].at_ms == newest_ms, "merged"


async def test_a_restart_shows_the_newest_look_beside_a_late_chunk(miner: Miner) -> None:
    """The newest look is in the archive, and a chunk of an older day is not yet."""
    await miner.until(BEGUN_MS + DAY_MS, every_ms=30 * MINUTE_MS)
    newest_ms = miner.clock.now_ms()
    miner.clock.advance(26 * 3_600)
    await miner.history.tidy()
    await miner.look(newest_ms - 4 * HOUR_MS + 1, rate=1)
    await miner.history._upkeep._seal(Done())  # as when the merge is not due yet
    assert await miner.history.db.read(lambda c: c.execute("select count(*) from blocks where start_ms >= 0").fetchone()[0])
    assert not await miner.history.db.read(lambda c: list(store.sealable(c, "s1", 2**60, 0)))
    await miner.restart()
    assert miner.history.latest([KEY])[KEY].at_ms == newest_ms


@pytest.mark.parametrize("border_ms", [2 * HOUR_MS, 24 * HOUR_MS], ids=["chunk", "day"])
@pytest.mark.parametrize("merged", [False, True], ids=["sealed", "merged"])
async def test_late_looks_at_a_border_add_no_shares(miner: Miner, border_ms: int, merged: bool) -> None:
    """Chunks end every two hours and days at midnight, and counters rise across: looks that come late on either side, together or
    one by one, change in which step a rise is, and never how much it is."""
    border_ms += BEGUN_MS
    for at_ms in (-10, -8, -6, -4, 3, 5, 7, 9):
        miner.clock.advance((border_ms + at_ms * MINUTE_MS - miner.clock.now_ms()) / 1000)
        await miner.look(miner.clock.now_ms(), accepted=at_ms + 20)
    miner.clock.advance(50 * 3_600 if merged else 900)
    for late in ((-2, -1), (1, 2), (-3, 0)):
        await miner.history.tidy()
        for at_ms in late:
            await miner.look(border_ms + at_ms * MINUTE_MS, accepted=at_ms + 20)
    await miner.history.tidy()
    first_ms = border_ms - 2 * STEP_MS
    assert await miner.farm("accepted", first_ms, first_ms + 4 * STEP_MS, STEP_MS) == [4, 5, 4, 6]


async def test_late_looks_of_a_time_of_which_only_steps_are_kept(miner: Miner) -> None:
    """A sentry whose clock is weeks behind: in steps that are told already its looks change nothing, in a gap they are all there
    is; however often they come."""
    await miner.until(BEGUN_MS + DAY_MS, every_ms=2 * MINUTE_MS)
    before = await miner.farm("hashrate_hs", BEGUN_MS, BEGUN_MS + DAY_MS, STEP_MS)
    await miner.until(BEGUN_MS + 20 * DAY_MS, every_ms=12 * HOUR_MS)
    assert miner.files() == {"5min"}, "the looks are gone"
    for minute in (1, 3, 301):
        await miner.look(BEGUN_MS + 10 * HOUR_MS + minute * MINUTE_MS + 1_001, rate=500)
        await miner.history.tidy()
        counts, averages = await miner.hourly(BEGUN_MS, BEGUN_MS + DAY_MS)
        assert (counts[10], averages[10], counts[15], averages[15]) == (30, 100, 30, 100)
        assert await miner.farm("hashrate_hs", BEGUN_MS, BEGUN_MS + DAY_MS, STEP_MS) == before
        assert await miner.farm("hashrate_hs", BEGUN_MS + HOUR_MS, BEGUN_MS + DAY_MS, HOUR_MS) == [100] * 23
    gap_ms = BEGUN_MS - 2 * DAY_MS + 5 * HOUR_MS
    for minute in (1, 2):
        await miner.look(gap_ms + minute * MINUTE_MS, rate=500)
        await miner.history.tidy()
        assert await miner.farm("hashrate_hs", gap_ms, gap_ms + STEP_MS, STEP_MS) == [500]
    assert await miner.hourly(gap_ms, gap_ms + HOUR_MS) == ([2], [500])


async def test_late_looks_of_a_time_of_which_only_hours_are_kept(miner: Miner) -> None:
    """A sentry whose clock is months behind: hours that are told already stay as they are. And a question of hours that ends
    within a day, long ago, is answered to its end."""
    await miner.until(BEGUN_MS + DAY_MS, every_ms=2 * MINUTE_MS)
    await miner.until(BEGUN_MS + 90 * DAY_MS, every_ms=3 * DAY_MS)
    assert miner.files() == set(), "5-minute values are gone too"
    first_ms, end_ms = BEGUN_MS + HOUR_MS, BEGUN_MS + 23 * HOUR_MS
    for late in (None, 1, 3):
        if late is not None:
            await miner.look(BEGUN_MS + 10 * HOUR_MS + late * MINUTE_MS + 1_001, rate=500)
            await miner.history.tidy()
        assert await miner.hourly(first_ms, end_ms) == ([30] * 22, [100.0] * 22)
        assert await miner.farm("hashrate_hs", first_ms, end_ms, HOUR_MS) == [100] * 22
