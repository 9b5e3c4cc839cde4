"""Tests of clocks and retention: what a wrong clock may move, and what it must never remove."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from commander.telemetry import retention
from commander.telemetry.clocks import Skew, corrected, judge
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock

NOW = 1_800_000_000_000
DAY = 86_400_000
YEARS = 10 * 365 * DAY
BOOT = bytes(16)


@pytest.mark.parametrize(
    ("latest_ms", "seq", "known", "expected"),
    [
        (NOW, 1, None, None),
        (NOW + 60_000, 1, None, None),  # within tolerance
        (NOW - YEARS, 1, None, None),  # the past may be a backlog
        (NOW + 60_001, 5, None, Skew(60_001, 5)),
        (NOW + YEARS, 5, None, Skew(YEARS, 5)),
        (NOW + YEARS - 3_600_000, 4, Skew(YEARS, 5), Skew(YEARS, 5)),  # its backlog keeps its spacing
        (NOW + YEARS + 30_000, 6, Skew(YEARS, 5), Skew(YEARS, 6)),  # the same clock, some seconds of jitter
        (NOW + 3_600_000, 6, Skew(YEARS, 5), Skew(3_600_000, 6)),  # the clock was set, and is still ahead
        (NOW + 2 * YEARS, 6, Skew(YEARS, 5), Skew(2 * YEARS, 6)),
        (NOW + 5, 6, Skew(YEARS, 5), None),  # the clock was set right
    ],
)
def test_how_far_a_clock_is_ahead(latest_ms: int, seq: int, known: Skew | None, expected: Skew | None) -> None:
    """Only stamps more than a minute after their arrival are disbelieved; live frames teach, the backlog follows."""
    assert judge(latest_ms, NOW, seq, known) == expected


def test_corrected_times() -> None:
    """A look is moved as a whole; where the clock was set during it, only what cannot be true."""
    look = np.array([NOW + YEARS, NOW + YEARS - 900], np.int64)
    assert corrected(look, NOW, 0) is look
    assert corrected(look, NOW, YEARS).tolist() == [NOW, NOW - 900]
    assert corrected(np.array([NOW - 5, NOW + YEARS], np.int64), NOW, YEARS).tolist() == [NOW - 5, NOW]


def test_retention_waits_after_a_clock_was_set() -> None:
    """A step of an hour or more, either way, holds removal for a day; slewing and small steps do not."""
    judged = retention.begin(NOW, 1_000, NOW - 60_000)
    assert retention.remove_before(judged, NOW, 1_000, 30) == NOW - 30 * DAY
    judged = retention.judge(judged, NOW + 10_000 + 3_000_000, 11_000)
    assert retention.remove_before(judged, NOW, 11_000, 30) is not None
    for step in (YEARS, -YEARS, 6_700_000):
        stepped = retention.judge(judged, NOW + step, 21_000)
        assert retention.remove_before(stepped, NOW + step, 21_000, 30) is None
        held = retention.judge(stepped, NOW + step + DAY - 1, 21_000 + DAY - 1)
        assert retention.remove_before(held, NOW + step, 21_000 + DAY - 1, 30) is None
        assert retention.remove_before(held, NOW + step, 21_000 + DAY, 30) == NOW + step - 30 * DAY


def test_retention_waits_after_a_long_time_off() -> None:
    """A start long after the newest frame: off for weeks, or a clock gone wrong. It cannot be told, so a day passes."""
    assert retention.remove_before(retention.begin(NOW, 0, None), NOW, 0, 30) is not None
    judged = retention.begin(NOW, 0, NOW - 40 * DAY)
    assert retention.remove_before(judged, NOW, 0, 30) is None
    assert retention.remove_before(judged, NOW + DAY, DAY, 30) == NOW - 29 * DAY


async def test_old_frames_go_in_small_steps(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """What was received more than 30 days ago goes, with devices and journals last heard of then; the rest stays, and new
    frames are taken meanwhile."""
    await telemetry.learn_layout("s1", frames.layout)
    await telemetry.learn_layout("s2", frames.layout)

    async def send(sentry: str, seq: int, key: int) -> None:
        await telemetry.take(sentry, BOOT, seq, frames.layout.hash, frames.body(clock.now_ms(), {key: {"accepted": seq}}))

    for seq in range(1, retention.STEP_ROWS + 51):
        telemetry.take("s1", BOOT, seq, frames.layout.hash, frames.body(clock.now_ms(), {1: {"accepted": seq}}))
    await send("s1", 1_000, 1)
    for day in range(35):
        clock.advance(86_400)
        await telemetry.tidy()
        await send("s2", day + 1, 2)
    usage = await telemetry.usage()
    assert usage.kept.frames == 31
    assert usage.kept.devices == 1
    assert telemetry.latest([1, 2]).keys() == {2}
    marks = await telemetry.db.read(lambda c: c.execute("select first, last from marks").fetchall())
    assert [tuple(row) for row in marks] == [(1, 35)]
    clock.step_wall(YEARS / 1000)
    assert await telemetry.tidy() == 0
    await send("s2", 36, 2)
    assert (await telemetry.usage()).kept.frames == 32


async def test_the_past_stays_thirty_days_too(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """A sentry that boots in 1970 (no clock battery): its frames are kept as long as others from their receipt."""
    await telemetry.learn_layout("s1", frames.layout)
    await telemetry.take("s1", BOOT, 1, frames.layout.hash, frames.body(1_000, {1: {"accepted": 1}}))
    for _ in range(29):
        clock.advance(86_400)
        assert await telemetry.tidy() == 0
    clock.advance(2 * 86_400)
    assert await telemetry.tidy() == 1
