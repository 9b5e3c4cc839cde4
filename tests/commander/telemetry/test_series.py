"""Tests of series: looks, steps and rates, where a gap is a gap; reading across posts, layouts, levels and time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commander.telemetry import rollup, series
from commander.telemetry.archive import Files
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, Level
from commander.telemetry.reading import Reader
from commander.telemetry.series import RAW, Horizons, Line, Question, chosen_level, chosen_step
from commander.telemetry.service import Telemetry
from commander.telemetry.table import Table
from garrison.clock import ManualClock
from garrison.faults import BadInput, TimedOut
from garrison.frame import Column, Layout, Sample, pack

BOOT = bytes(16)
ACCEPTED = ("accepted", "")
HASHRATE = ("hashrate_hs", "")


def listed(values: Any) -> list[Any]:
    """Without NaN."""
    return [None if value is None or value != value else value for value in list(values)]


def table(column: Column, points: Sequence[tuple[int, int | None]]) -> Table:
    there = np.array([[value is not None for _, value in points]])
    scaled = np.array([[value or 0 for _, value in points]], np.int64)
    return Table((column,), np.array([at_ms for at_ms, _ in points], np.int64), scaled, None if there.all() else there)


def stats(steps: Table, *names: str) -> list[list[Any]]:
    """Columns by the name of their stat."""
    return [steps.numbers(next(i for i, c in enumerate(steps.columns) if c.metric.endswith(f" {name}"))) for name in names]


# ---- pure --------------------------------------------------------------------------------------------------

RATE = Column("hashrate_hs", "", "H/s", 0)
COUNT = Column("accepted", "", "1", 0)


def test_steps() -> None:
    """One that has looks is there; looks without a value do not count; its first look makes it, whatever its neighbours are."""
    made = rollup.steps(table(RATE, [(1_000, 4), (5_000, 8), (9_999, 3), (20_000, None), (31_000, 7)]), 10_000)
    assert made.at_ms.tolist() == [0, 20_000, 30_000]
    assert stats(made, "avg", "min", "max") == [[5.0, None, 7.0], [3, None, 7], [8, None, 7]]
    counts = {column.metric: made.numbers(place) for place, column in enumerate(made.columns)}
    assert (counts["looks count"], counts["hashrate_hs count"]) == ([3, 1, 1], [3, 0, 1])


def test_a_counter_keeps_what_makes_its_rise() -> None:
    """First, last and the rise between, across a reset inside the step; put together, steps rise into one another too."""
    points = [(0, 100), (10_000, 150), (20_000, 20), (40_000, 40), (300_000, 45), (310_000, 5)]
    made = rollup.steps(table(COUNT, points), STEP_MS)
    assert stats(made, "first", "last", "rise") == [[100, 45], [40, 5], [90, 5]]
    assert stats(rollup.coarser(made, HOUR_MS), "first", "last", "rise") == [[100], [5], [100]]
    assert stats(rollup.steps(table(COUNT, points), HOUR_MS), "first", "last", "rise") == [[100], [5], [100]]


def test_rates_across_a_reset_and_a_gap() -> None:
    """A counter that starts again rose from zero; over a gap, and at the first look, there is no rate; equal times have none."""
    at_ms = np.array([0, 10_000, 20_000, 30_000, 40_000, 900_000], np.int64)
    there = np.array([True, True, True, False, True, True])
    values, over_ms = series.rates(at_ms, np.array([100, 150, 20, 0, 40, 90], np.int64), there)
    assert listed(values) == [None, 5.0, 2.0, None, 1.0, None]
    assert over_ms.tolist() == [0, 10_000, 10_000, 0, 20_000, 0]
    every_5_min = np.arange(5, dtype=np.int64) * 300_000
    values, _ = series.rates(every_5_min, np.arange(5, dtype=np.int64) * 300, np.ones(5, np.bool_))
    assert listed(values) == [None, 1.0, 1.0, 1.0, 1.0]
    assert listed(series.rates(at_ms[:0], at_ms[:0], there[:0])[0]) == []


def test_large_counters_are_exact() -> None:
    """No counter passes through a float: 2^62 + 1 stays itself, and its rise of one is seen."""
    large = 2**62
    made = rollup.steps(table(COUNT, [(0, large), (1_000, large + 1)]), 10_000)
    assert stats(made, "last", "rise") == [[large + 1], [1]]
    values, _ = series.rates(np.array([0, 1_000]), np.array([large, large + 1]), np.ones(2, np.bool_))
    assert listed(values) == [None, 1.0]


@pytest.mark.parametrize(
    ("days", "limit", "step_ms"), [(1, 2_000, 60_000), (1, 100, 1_800_000), (30, 2_000, 1_800_000), (9_000, 10, 900 * 86_400_000)]
)
def test_chosen_steps(days: int, limit: int, step_ms: int) -> None:
    """The smallest usual step within the limit of points."""
    assert chosen_step(0, days * 86_400_000, limit) == step_ms


NOW = 1_000 * DAY_MS
HORIZONS = Horizons(NOW - 30 * DAY_MS, NOW - 730 * DAY_MS)


@pytest.mark.parametrize(
    ("days", "step_ms", "expected"),
    [
        (1, None, (Level.RAW, None)),
        (2, None, (Level.RAW, None)),
        (7, None, (Level.FIVE_MINUTES, 600_000)),
        (30, None, (Level.FIVE_MINUTES, 1_800_000)),
        (60, None, (Level.HOUR, HOUR_MS)),
        (700, None, (Level.HOUR, 43_200_000)),
        (999, None, (Level.HOUR, 43_200_000)),
        (1, 10_000, (Level.RAW, 10_000)),
        (1, STEP_MS, (Level.FIVE_MINUTES, STEP_MS)),
        (1, HOUR_MS, (Level.FIVE_MINUTES, HOUR_MS)),
        (30, HOUR_MS, (Level.HOUR, HOUR_MS)),
        (31, 10_000, (Level.FIVE_MINUTES, STEP_MS)),  # looks are no longer kept
        (999, STEP_MS, (Level.HOUR, HOUR_MS)),
        (40, RAW, (Level.RAW, None)),
    ],
)
def test_the_right_level_answers(days: int, step_ms: int | None, expected: tuple[Level, int | None]) -> None:
    """Without being told which: as fine as asked for or useful, and never one that does not go back so far."""
    assert chosen_level(NOW - days * DAY_MS, NOW, step_ms, 2_000, HORIZONS) == expected


# ---- from disk ---------------------------------------------------------------------------------------------


async def _fill(
    telemetry: Telemetry, layout: Layout, sentry: str, rows: list[tuple[int, int, dict[str, Any]]], first_seq: int = 1
) -> None:
    await telemetry.learn_layout(sentry, layout)
    jobs = [
        telemetry.take(
            sentry,
            BOOT,
            first_seq + i,
            layout.hash,
            pack(layout, [Sample(99, at_ms, {}), Sample(key, at_ms, {(metric, ""): value for metric, value in values.items()})]),
        )
        for i, (key, at_ms, values) in enumerate(rows)
    ]
    await asyncio.gather(*jobs)


def only(answer: series.Answer) -> Line:
    assert len(answer.lines) == 1
    return answer.lines[0]


async def test_a_device_that_moved(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """History is the device's: two posts and two layouts make one series, in order; times are [from, to); a look without
    the value is a point without one. The same once it is sealed, and once it is merged."""
    now_ms = clock.now_ms() - 3_600_000
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms + i * 10_000, {"hashrate_hs": i}) for i in range(5)])
    await _fill(telemetry, Layout.of([("look_ok", "")]), "s1", [(1, now_ms + 50_000, {"look_ok": 0})], 100)
    await _fill(telemetry, frames.layout, "s2", [(1, now_ms + i * 10_000, {"hashrate_hs": i}) for i in range(6, 8)])
    for _ in range(3):
        found = await telemetry.chart(1, {HASHRATE}, now_ms + 10_000, now_ms + 70_000)
        line = only(found)
        assert (found.at_ms - now_ms).tolist() == [10_000, 20_000, 30_000, 40_000, 50_000, 60_000]
        assert listed(line.stats["value"]) == [1, 2, 3, 4, None, 6]
        assert (line.unit, line.kind, found.step_ms, found.level, found.unreadable) == ("H/s", "gauge", None, "raw", 0)
        assert found.coverage == 1.0
        assert 0.8 < line.coverage < 0.9
        assert (await telemetry.chart(12345, {HASHRATE}, now_ms, now_ms + 70_000)).at_ms.tolist() == []
        absent = await telemetry.chart(1, {("hashrate_hs", "board:1")}, now_ms, now_ms + 9_000)
        assert (absent.at_ms.tolist(), listed(only(absent).stats["value"])) == ([now_ms], [None])
        await telemetry.tidy()
        clock.advance(86_400)


async def test_keys_of_all_sizes(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """Device keys are 64 bits without a sign, wherever their samples lie."""
    keys = (0, 2**63 - 1, 2**63, 2**64 - 1)
    at_ms = clock.now_ms()
    for seq, key in enumerate(keys, start=1):
        await _fill(telemetry, frames.layout, "s1", [(key, at_ms, {"accepted": seq})], seq)
    for _ in range(3):
        for seq, key in enumerate(keys, start=1):
            found = await telemetry.chart(key, {ACCEPTED}, at_ms, at_ms + 1)
            assert (found.at_ms.tolist(), listed(only(found).stats["value"])) == ([at_ms], [seq])
        await telemetry.tidy()
        clock.advance(86_400)


async def test_more_looks_than_asked_for_become_steps(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """The limit of points holds, and the answer says which step it chose; a rate likewise."""
    now_ms = clock.now_ms()
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms - i * 10_000, {"accepted": 1000 - i}) for i in range(200)])
    found = await telemetry.chart(1, {ACCEPTED}, now_ms - 2_000_000, now_ms + 1, limit=50)
    assert found.step_ms == 60_000
    assert len(found.at_ms) <= 51
    assert sum(rise for rise in only(found).stats["rise"] if rise is not None) == 199
    rate = await telemetry.chart(1, {ACCEPTED}, now_ms - 2_000_000, now_ms + 1, limit=50, rate=True)
    line = only(rate)
    assert line.unit == "1/s"
    assert {round(avg, 9) for avg, count in zip(line.stats["avg"], line.stats["count"], strict=True) if count} == {0.1}


async def test_rates_of_roll_ups(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """At every level a counter that rises once a second, with a reset in the middle, rises once a second; nothing is lost where
    steps, chunks or days meet."""
    begun_ms = clock.now_ms() // DAY_MS * DAY_MS - 2 * DAY_MS
    looks = [(1, begun_ms + i * 60_000, {"accepted": (i if i < 1_500 else i - 1_500) * 60}) for i in range(2_880)]
    await _fill(telemetry, frames.layout, "s1", looks)
    await telemetry.tidy()
    for step_ms, level in ((60_000, "raw"), (STEP_MS, "5min"), (HOUR_MS, "5min")):
        found = await telemetry.chart(1, {ACCEPTED}, begun_ms, begun_ms + 2 * DAY_MS, step_ms, rate=True, limit=5_000)
        told = [value for value in listed(only(found).stats["avg"]) if value is not None]
        assert found.level == level
        assert len(told) >= 2 * DAY_MS // step_ms - 1
        # the first step has nothing before its first look; at the reset nobody knows what was counted in between
        assert sum(abs(value - 1) < 0.01 for value in told) >= len(told) - 2
    hours = await telemetry.chart(1, {ACCEPTED}, begun_ms - 8 * DAY_MS, begun_ms + 2 * DAY_MS, HOUR_MS)
    assert hours.level == "1h"
    assert sum(rise or 0 for rise in only(hours).stats["rise"]) == 1_499 * 60 + 1_379 * 60


@pytest.mark.parametrize(
    "change",
    [
        {"wanted": {("no_such", "")}},
        {"wanted": {("power_w", "")}, "rate": True},
        {"to_ms": 0},
        {"step_ms": 10},
        {"step_ms": 1_000, "to_ms": 10**9},
    ],
)
async def test_impossible_questions(telemetry: Telemetry, change: dict[str, Any]) -> None:
    """Each is refused with what would be right."""
    asked: dict[str, Any] = {"key": 1, "wanted": {ACCEPTED}, "from_ms": 0, "to_ms": 10_000} | change
    with pytest.raises(BadInput):
        await telemetry.chart(**asked)


async def test_a_frame_harmed_on_disk_does_not_hide_the_others(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """It is counted in the answer; the rest is served, and the next start takes it too; sealing sets it aside."""
    now_ms = clock.now_ms()
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms + i, {"accepted": i}) for i in range(3)])
    await telemetry.db.write(lambda c: c.execute("update hot set body = zeroblob(50) where seq = 2"))
    found = await telemetry.chart(1, {ACCEPTED}, now_ms, now_ms + 10)
    assert found.unreadable == 1
    assert (found.at_ms - now_ms).tolist() == [0, 2]
    clock.advance(3_600)
    assert (await telemetry.tidy()).damaged == 1
    found = await telemetry.chart(1, {ACCEPTED}, now_ms, now_ms + 10)
    assert ((found.at_ms - now_ms).tolist(), found.unreadable) == ([0, 2], 0)
    assert [(one.what, len(one.body)) for one in await telemetry.set_aside_blocks()] == [("frame", 50)]


async def test_a_question_given_up_stops_reading(telemetry: Telemetry, frames: Any, clock: ManualClock, tmp_path: Path) -> None:
    """When its asker is gone, or it takes too long, a long read stops at the next frame, chunk or block."""
    now_ms = clock.now_ms()
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms + i, {"accepted": i}) for i in range(3)])
    question = Question(1, frozenset({ACCEPTED}), now_ms, now_ms + 10, None, 100)
    stop = threading.Event()
    stop.set()
    for _ in range(2):
        with pytest.raises(TimedOut):
            await telemetry.db.read(
                lambda c: series.answer(Reader(c, Files(telemetry.db.path.parent), stop), question, Horizons(0, 0))
            )
        clock.advance(3_600)
        await telemetry.tidy()


async def test_a_layout_that_changed(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """A firmware that adds a fan, and one that says a value finer: one history, with gaps where there was nothing to say."""
    old = Layout((Column("temp_c", "", "°C", 0),))
    new = Layout((Column("temp_c", "", "°C", 1), Column("fan_rpm", "fan:2", "rpm", 0)))
    at_ms = clock.now_ms()
    for seq, layout in ((1, old), (2, new)):
        await telemetry.learn_layout("s1", layout)
        values = {("temp_c", ""): 60 + seq / 2 if seq == 2 else 60} | ({("fan_rpm", "fan:2"): 4200} if seq == 2 else {})
        await telemetry.take("s1", BOOT, seq, layout.hash, pack(layout, [Sample(1, at_ms + seq * 1_000, values)]))
    for _ in range(3):
        found = await telemetry.chart(1, None, at_ms, at_ms + 5_000, RAW)
        by_name = {(line.metric, line.component): listed(line.stats["value"]) for line in found.lines}
        assert by_name == {("temp_c", ""): [60.0, 61.0], ("fan_rpm", "fan:2"): [None, 4200]}
        await telemetry.tidy()
        clock.advance(86_400)
