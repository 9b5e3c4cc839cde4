"""Tests of series: looks, steps and rates, where a gap is a gap; reading across posts, layouts and time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from commander.telemetry import series
from commander.telemetry.series import Point, Rate, Step, chosen_step, rate_steps, rates, steps
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.faults import BadInput, TimedOut
from garrison.frame import Layout, Sample, pack

BOOT = bytes(16)


# ---- pure --------------------------------------------------------------------------------------------------


def test_steps() -> None:
    """Every step of the time is there; one without a value says nothing; looks without a value do not count."""
    points = [Point(1_000, 4), Point(5_000, 8), Point(9_999, 3), Point(20_000, None), Point(31_000, 7.5)]
    assert steps(points, 500, 40_000, 10_000) == [
        Step(0, 3, 5.0, 3, 8, 3),
        Step(10_000, 0, None, None, None, None),
        Step(20_000, 0, None, None, None, None),
        Step(30_000, 1, 7.5, 7.5, 7.5, 7.5),
    ]


def test_rates_across_a_reset_and_a_gap() -> None:
    """A counter that starts again rose from zero; over a gap, and at the first look, there is no rate; equal times have none."""
    points = [Point(0, 100), Point(10_000, 150), Point(20_000, 20), Point(30_000, None), Point(40_000, 40), Point(900_000, 90)]
    assert rates(points) == [
        Rate(0, None, 0),
        Rate(10_000, 5.0, 10_000),
        Rate(20_000, 2.0, 10_000),
        Rate(30_000, None, 0),
        Rate(40_000, 1.0, 20_000),
        Rate(900_000, None, 0),
    ]
    assert rates([Point(5, 1), Point(5, 2)]) == [Rate(5, None, 0), Rate(5, None, 0)]
    assert rates([]) == []
    every_5_min = [Point(i * 300_000, i * 300) for i in range(5)]
    assert [rate.value for rate in rates(every_5_min)] == [None, 1.0, 1.0, 1.0, 1.0]


def test_rate_steps_weigh_by_time() -> None:
    """The average of a step is what the counter rose by over the time that is covered."""
    rising = rates([Point(0, 0), Point(10_000, 10), Point(30_000, 90), Point(70_000, 90)])
    assert rate_steps(rising, 0, 120_000, 60_000) == [
        Step(0, 2, 90 / 30, 1.0, 4.0, 4.0),
        Step(60_000, 1, 0.0, 0.0, 0.0, 0.0),
    ]


def test_large_counters_are_exact() -> None:
    """No counter passes through a float: 2^62 + 1 stays itself, and its rise of one is seen."""
    large = 2**62
    assert steps([Point(0, large + 1)], 0, 1_000, 1_000)[0].last == large + 1
    assert [rate.value for rate in rates([Point(0, large), Point(1_000, large + 1)])] == [None, 1.0]


@pytest.mark.parametrize(
    ("days", "limit", "step_ms"), [(1, 2_000, 60_000), (1, 100, 1_800_000), (30, 2_000, 1_800_000), (9_000, 10, 900 * 86_400_000)]
)
def test_chosen_steps(days: int, limit: int, step_ms: int) -> None:
    """The smallest usual step within the limit of points."""
    assert chosen_step(0, days * 86_400_000, limit) == step_ms


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


async def test_a_device_that_moved(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """History is the device's: two posts and two layouts make one series, in order; times are [from, to); a look without
    the value is a point without one."""
    now_ms = clock.now_ms() - 3_600_000
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms + i * 10_000, {"hashrate_hs": i}) for i in range(5)])
    await _fill(telemetry, Layout.of([("look_ok", "")]), "s1", [(1, now_ms + 50_000, {"look_ok": 0})], 100)
    await _fill(telemetry, frames.layout, "s2", [(1, now_ms + i * 10_000, {"hashrate_hs": i}) for i in range(6, 8)])
    found = await telemetry.series(1, "hashrate_hs", "", now_ms + 10_000, now_ms + 70_000)
    assert [(p.at_ms - now_ms, p.value) for p in found.points] == [  # type: ignore[union-attr]  # looks
        (10_000, 1),
        (20_000, 2),
        (30_000, 3),
        (40_000, 4),
        (50_000, None),
        (60_000, 6),
    ]
    assert (found.unit, found.kind, found.step_ms, found.level, found.unreadable) == ("H/s", "gauge", None, "raw", 0)
    assert (await telemetry.series(12345, "hashrate_hs", "", now_ms, now_ms + 70_000)).points == []
    assert (await telemetry.series(1, "hashrate_hs", "board:1", now_ms, now_ms + 9_000)).points == [Point(now_ms, None)]


async def test_keys_of_all_sizes(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """Device keys are 64 bits without a sign."""
    for seq, key in enumerate((0, 2**63 - 1, 2**63, 2**64 - 1), start=1):
        await _fill(telemetry, frames.layout, "s1", [(key, clock.now_ms(), {"accepted": seq})], seq)
        found = await telemetry.series(key, "accepted", "", clock.now_ms(), clock.now_ms() + 1)
        assert found.points == [Point(clock.now_ms(), seq)]


async def test_more_looks_than_asked_for_become_steps(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """The limit of points holds, and the answer says which step it chose; a rate likewise."""
    now_ms = clock.now_ms()
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms - i * 10_000, {"accepted": 1000 - i}) for i in range(200)])
    found = await telemetry.series(1, "accepted", "", now_ms - 2_000_000, now_ms + 1, limit=50)
    assert found.step_ms == 60_000
    assert len(found.points) <= 51
    rate = await telemetry.series(1, "accepted", "", now_ms - 2_000_000, now_ms + 1, limit=50, rate=True)
    assert rate.unit == "1/s"
    assert {step.avg for step in rate.points if step.count} == {0.1}  # type: ignore[union-attr]  # steps


@pytest.mark.parametrize(
    "change",
    [{"metric": "no_such"}, {"metric": "power_w", "rate": True}, {"to_ms": 0}, {"step_ms": 10}, {"step_ms": 1_000, "to_ms": 10**9}],
)
async def test_impossible_questions(telemetry: Telemetry, change: dict[str, Any]) -> None:
    """Each is refused with what would be right."""
    asked: dict[str, Any] = {"key": 1, "metric": "accepted", "component": "", "from_ms": 0, "to_ms": 10_000} | change
    with pytest.raises(BadInput):
        await telemetry.series(**asked)


async def test_a_frame_harmed_on_disk_does_not_hide_the_others(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """It is counted in the answer; the rest is served, and the next start takes it too."""
    now_ms = clock.now_ms()
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms + i, {"accepted": i}) for i in range(3)])
    await telemetry.db.write(lambda c: c.execute("update hot set body = zeroblob(50) where seq = 2"))
    found = await telemetry.series(1, "accepted", "", now_ms, now_ms + 10)
    assert found.unreadable == 1
    assert [p.at_ms - now_ms for p in found.points] == [0, 2]
    assert telemetry.db.path.exists()


async def test_a_question_given_up_stops_reading(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """When its asker is gone, or it takes too long, a long read stops at the next frame."""
    now_ms = clock.now_ms()
    await _fill(telemetry, frames.layout, "s1", [(1, now_ms + i, {"accepted": i}) for i in range(3)])
    question = series.Question(1, "accepted", "", now_ms, now_ms + 10, None, False, 100)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TimedOut):
        await telemetry.db.read(lambda c: series.answer(c, question, stop))
