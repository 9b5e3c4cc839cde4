"""Wall clocks that are set, by an hour or by ten years, at the commander, at its sentries, or at both: nothing acknowledged goes,
and no total counts a device twice."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS
from commander.telemetry.members import FARM
from commander.telemetry.retention import Spans
from commander.telemetry.series import RAW
from commander.telemetry.service import Telemetry
from commander.telemetry.totals_store import Group
from commander.telemetry.upkeep import GRACE_MS
from garrison.clock import ManualClock
from garrison.frame import Layout, Sample, pack

BEGUN_MS = 1_800_000_000_000 // DAY_MS * DAY_MS + 20 * HOUR_MS
HOUR_S, YEARS_S = 3_600, 521 * 7 * 86_400
"""An hour; and ten years, in whole weeks, so that weeks end as at the true time."""

EVERY_MS = 150_000
LAYOUT = Layout.of([("hashrate_hs", ""), ("accepted", "")])
HASHRATE = {1: 100, 2: 200}
"""Of each device, always: so the farm is at 300 in every step in which it was seen, whatever clock the step is of."""

FARM_HS = 300


@dataclass
class World:
    """A commander and a post of two devices. True time is BEGUN_MS plus the clock's monotonic time."""

    folder: Path
    spans: Spans = field(default_factory=lambda: Spans(raw_days=30))
    clock: ManualClock = field(default_factory=lambda: ManualClock(BEGUN_MS))
    sentry_off_ms: int = 0
    looks: int = 0
    telemetry: Telemetry | None = None

    @property
    def history(self) -> Telemetry:
        assert self.telemetry is not None
        return self.telemetry

    @property
    def true_ms(self) -> int:
        return BEGUN_MS + self.clock.monotonic_ms()

    async def open(self) -> None:
        async def groups() -> AsyncIterator[tuple[int, tuple[Group, ...]]]:
            for key in HASHRATE:
                yield key, (FARM,)

        self.telemetry = await Telemetry.open(self.folder, self.clock, spans=self.spans, commit_every_ms=1)
        self.telemetry.follow(groups)
        await self.telemetry.learn_layout("s1", LAYOUT)

    async def restart(self) -> None:
        await self.history.close()
        await self.open()

    async def live(self, minutes: int, *, tidy_every: int = 10, every_ms: int = EVERY_MS) -> None:
        """Looks at both devices, numbered by their counter of shares, so that each can be found again. None is at the very
        millisecond of another when a clock is set by whole hours."""
        for begun in range(0, minutes, tidy_every):
            lasting = min(tidy_every, minutes - begun)
            jobs = []
            for _ in range(lasting * 60_000 // every_ms):
                self.clock.advance(every_ms / 1000)
                jobs.append(self._look())
            await asyncio.gather(*jobs)
            if lasting == tidy_every:
                await self.history.tidy()

    def _look(self) -> asyncio.Future[None]:
        self.looks += 1
        stamp_ms = self.true_ms + self.sentry_off_ms - self.looks % 997
        looks = {key: {("hashrate_hs", ""): rate, ("accepted", ""): self.looks} for key, rate in HASHRATE.items()}
        body = pack(LAYOUT, [Sample(key, stamp_ms, values) for key, values in looks.items()])
        return self.history.take("s1", bytes(16), self.looks, LAYOUT.hash, body)

    async def step(self, who: str, seconds: int) -> None:
        """The clocks are set; at both: one machine, or one wrong time server. `run` notices within seconds."""
        if who != "sentry":
            self.clock.step_wall(seconds)
        if who != "commander":
            self.sentry_off_ms += seconds * 1000
        await self.history.tidy()

    async def every_look_is_there_once(self) -> None:
        for key in HASHRATE:
            found = await self.history.chart(key, {("accepted", "")}, 0, 2**45, RAW)
            assert found.unreadable == 0
            assert sorted(found.lines[0].stats["value"]) == list(range(1, self.looks + 1))

    async def farm_at(self, from_ms: int, to_ms: int) -> dict[int, float]:
        """Every step of that time in which the farm has a total."""
        found = await self.history.aggregate("farm", "hashrate_hs", "sum", from_ms, to_ms, STEP_MS, limit=20_000)
        values = found.groups[0].values.tolist() if found.groups else []
        return {at_ms: value for at_ms, value in zip(found.at_ms.tolist(), values, strict=False) if not math.isnan(value)}

    async def no_total_counts_twice(self) -> None:
        """Around the true time, and around what the commander takes for it."""
        for now_ms in {self.true_ms, self.clock.now_ms(), self.true_ms + self.sentry_off_ms}:
            totals = await self.farm_at(now_ms - 2 * DAY_MS, now_ms + HOUR_MS)
            assert {at_ms: value for at_ms, value in totals.items() if not math.isclose(value, FARM_HS)} == {}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    it = World(tmp_path)
    await it.open()
    yield it
    await it.history.close()


WHO = ("commander", "sentry", "both")
STEPS_S = (HOUR_S, -HOUR_S, YEARS_S, -YEARS_S)


@pytest.mark.parametrize("restart", [False, True], ids=["", "restarted"])
@pytest.mark.parametrize("seconds", STEPS_S, ids=["hour on", "hour back", "ten years on", "ten years back"])
@pytest.mark.parametrize("who", WHO)
async def test_a_clock_is_wrong_for_a_while(world: World, who: str, seconds: int, restart: bool) -> None:
    """Wrong for three quarters of an hour and then right again: every look is there once, all the time; the totals of every step
    are those of two devices, all the time; and afterwards sealing and live totals go on at once. Only where the hour to come was
    lived already, by samples that were ahead, is a step shown once it is sealed."""
    await world.live(6 * 60, tidy_every=60)  # past midnight and the merge of the first day
    before = await world.farm_at(BEGUN_MS, BEGUN_MS + 4 * HOUR_MS)
    await world.step(who, seconds)
    for minutes in (5, 20, 20):
        await world.live(minutes)
        await world.every_look_is_there_once()
        await world.no_total_counts_twice()
        if restart:
            await world.restart()
            await world.no_total_counts_twice()
    await world.step(who, -seconds)
    right_ms = -(-world.true_ms // STEP_MS) * STEP_MS
    for minutes in (5, 10, 15, 65):
        if restart:
            await world.restart()
        await world.live(minutes)
        await world.no_total_counts_twice()
        to_ms = world.true_ms - (15 * 60_000 if (who, seconds) == ("both", HOUR_S) else 0)
        totals = await world.farm_at(right_ms, max(to_ms, right_ms + 1))
        assert totals.keys() >= set(range(right_ms, to_ms, STEP_MS)), "live totals go on"
    await world.every_look_is_there_once()
    assert await world.farm_at(BEGUN_MS, BEGUN_MS + 4 * HOUR_MS) == before
    await world.history.tidy()
    sealed = await world.history.db.read(lambda c: c.execute("select sealed_ms from posts").fetchone()[0])
    assert sealed == (world.true_ms - GRACE_MS) // STEP_MS * STEP_MS, "sealing goes on"


@pytest.mark.parametrize("seconds", STEPS_S, ids=["hour on", "hour back", "ten years on", "ten years back"])
@pytest.mark.parametrize("who", WHO)
async def test_a_clock_is_wrong_for_days(world: World, who: str, seconds: int) -> None:
    """Nobody notices from a Saturday to a Monday, which is longer than nothing is removed after a step; then it is set right, and
    as much time passes again: every look is still there."""
    often = {"tidy_every": 6 * 60, "every_ms": 2 * EVERY_MS}
    await world.live(6 * 60, **often)
    await world.step(who, seconds)
    await world.live(54 * 60, **often)
    await world.every_look_is_there_once()
    await world.step(who, -seconds)
    await world.live(54 * 60, **often)
    await world.every_look_is_there_once()
    totals = await world.farm_at(world.true_ms - DAY_MS, world.true_ms - HOUR_MS)
    assert len(totals) >= 276
    assert all(math.isclose(value, FARM_HS) for value in totals.values())


@pytest.mark.parametrize("restart", [False, True], ids=["", "restarted"])
async def test_both_clocks_are_ten_years_ahead_for_hours(world: World, restart: bool) -> None:
    """A commander and a rig on one machine: nobody's samples say that its clock is wrong. There is time to set it right, also when
    the commander is restarted meanwhile."""
    await world.live(60)
    world.clock.advance(10 * 86_400)
    await world.live(60)
    await world.step("both", YEARS_S)
    await world.live(60)
    for _ in range(2 if restart else 0):
        await world.restart()
        await world.live(60)
    await world.step("both", -YEARS_S)
    await world.live(60)
    await world.every_look_is_there_once()


async def test_a_step_is_noticed_within_seconds(world: World) -> None:
    """Posts that were sealed until a time to come, by a clock that was ahead, are set back by the next round of `run`, not by the
    next sealing: until then none of their samples would be live."""

    async def sealed_ms(like: Callable[[int], bool]) -> int:
        async with asyncio.timeout(10):
            while True:
                world.clock.advance(5)
                found = await world.history.db.read(lambda c: int(c.execute("select sealed_ms from posts").fetchone()[0]))
                if like(found):
                    return world.clock.monotonic_ms()
                await asyncio.sleep(0.02)

    await world.live(60)
    running = asyncio.create_task(world.history.run())
    try:
        for seconds in (YEARS_S, -YEARS_S):
            await sealed_ms(lambda found: found <= world.clock.now_ms())
            world.clock.step_wall(seconds)
            begun_ms = world.clock.monotonic_ms()
            noticed_ms = await sealed_ms(lambda found: abs(found - world.clock.now_ms()) < HOUR_MS)
            assert noticed_ms - begun_ms < 10 * 60_000
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_old_looks_go_again_after_a_step(world: World) -> None:
    """What holds removal back after a step does not hold it for ever."""
    await world.live(60)
    await world.step("commander", YEARS_S)
    await world.live(60)
    await world.step("commander", -YEARS_S)
    for _ in range(41):
        world.clock.advance(86_400)
        await world.live(10)
    found = await world.history.chart(1, {("accepted", "")}, BEGUN_MS - DAY_MS, BEGUN_MS + DAY_MS, RAW)
    assert len(found.at_ms) == 0
