"""Tests of clocks and retention: what a wrong clock may move, and what it must never remove."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from commander.telemetry import archive, retention
from commander.telemetry.clocks import Skew, corrected, judge
from commander.telemetry.levels import Level
from commander.telemetry.series import RAW
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
        (1_000, 1, None, Skew(1_000 - NOW, 1)),  # 1970: moved up to now
        (31_000, 2, Skew(1_000 - NOW, 1), Skew(1_000 - NOW, 2)),
    ],
)
def test_how_far_a_clock_is_ahead(latest_ms: int, seq: int, known: Skew | None, expected: Skew | None) -> None:
    """Only stamps more than a minute after their arrival, or before there was mining, are disbelieved; live frames teach, the
    backlog follows."""
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
    assert retention.now_for_removal(judged, NOW, 1_000, NOW + 5) == NOW
    judged = retention.judge(judged, NOW + 10_000 + 3_000_000, 11_000)
    assert retention.now_for_removal(judged, NOW, 11_000, NOW) is not None
    for step in (YEARS, -YEARS, 6_700_000):
        stepped = retention.judge(judged, NOW + step, 21_000)
        assert retention.now_for_removal(stepped, NOW + step, 21_000, NOW + step) is None
        held = retention.judge(stepped, NOW + step + DAY - 1, 21_000 + DAY - 1)
        assert retention.now_for_removal(held, NOW + step, 21_000 + DAY - 1, NOW + step) is None
        assert retention.now_for_removal(held, NOW + step, 21_000 + DAY, NOW + step) == NOW + step
        # the step is never noticed by a person: what the sentries say still holds
        assert retention.now_for_removal(held, NOW + step, 21_000 + DAY, NOW) == min(NOW, NOW + step)


def test_retention_waits_after_a_long_time_off() -> None:
    """A start long after the newest frame: off for weeks, or a clock gone wrong. It cannot be told, so a day passes."""
    assert retention.now_for_removal(retention.begin(NOW, 0, None), NOW, 0, NOW) is not None
    assert retention.now_for_removal(retention.begin(NOW, 0, None), NOW, 0, None) is None
    judged = retention.begin(NOW, 0, NOW - 40 * DAY)
    assert retention.now_for_removal(judged, NOW, 0, NOW) is None
    assert retention.now_for_removal(judged, NOW + DAY, DAY, NOW + DAY) == NOW + DAY


async def test_what_is_too_old_goes_file_by_file(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """A week's file goes when all of it is more than 30 days old, with devices and journals last heard of then; 5-minute and
    hourly values stay; and a clock ten years ahead removes nothing, however long nobody notices."""
    await telemetry.learn_layout("s1", frames.layout)
    await telemetry.learn_layout("s2", frames.layout)

    async def send(sentry: str, seq: int, key: int, at_ms: int) -> None:
        await telemetry.take(sentry, BOOT, seq, frames.layout.hash, frames.body(at_ms, {key: {"accepted": seq}}))

    begun_ms = clock.now_ms()
    await send("s1", 1, 1, begun_ms)
    for day in range(45):
        await send("s2", day + 1, 2, clock.now_ms())
        clock.advance(86_400)
        await telemetry.tidy()
    raw = [span.from_ms for span in archive.existing(telemetry.db.path.parent, Level.RAW)]
    assert raw[0] > begun_ms
    assert clock.now_ms() - raw[0] < 38 * DAY
    assert telemetry.latest([1, 2]).keys() == {2}
    assert (await telemetry.usage()).kept.devices == 1
    marks = await telemetry.db.read(lambda c: c.execute("select first, last from marks").fetchall())
    assert [tuple(row) for row in marks] == [(1, 45)]
    assert len((await telemetry.chart(2, {("accepted", "")}, begun_ms, clock.now_ms(), RAW)).at_ms) >= 30
    hours = await telemetry.chart(1, {("accepted", "")}, begun_ms, begun_ms + DAY, 3_600_000)
    assert hours.lines[0].stats["last"][0] == 1
    clock.step_wall(YEARS / 1000)
    for day in range(45, 50):
        await send("s2", day + 1, 2, clock.now_ms() - YEARS)
        clock.advance(86_400)
        await telemetry.tidy()
    left = [span.from_ms for span in archive.existing(telemetry.db.path.parent, Level.RAW)]
    assert clock.now_ms() - YEARS - left[0] > 30 * DAY


async def test_a_machine_without_a_clock(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """A sentry that boots in 1970 (no clock battery): its looks count as taken when they arrived; their spacing holds."""
    await telemetry.learn_layout("s1", frames.layout)
    await telemetry.take("s1", BOOT, 1, frames.layout.hash, frames.body(1_000, {1: {"accepted": 1}}))
    clock.advance(10)
    await telemetry.take("s1", BOOT, 2, frames.layout.hash, frames.body(11_000, {1: {"accepted": 2}}))
    found = await telemetry.chart(1, {("accepted", "")}, NOW - DAY, NOW + DAY)
    assert found.at_ms.tolist() == [NOW, NOW + 10_000]
    assert list(found.lines[0].stats["value"]) == [1, 2]


async def test_a_sentry_ten_years_behind(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """Its looks stay where they say they are, and are kept for thirty days from their receipt."""
    await telemetry.learn_layout("s1", frames.layout)
    await telemetry.take("s1", BOOT, 1, frames.layout.hash, frames.body(NOW - YEARS, {1: {"accepted": 1}}))
    for seq in range(2, 31):
        clock.advance(86_400)
        await telemetry.take("s2", BOOT, seq, frames.layout.hash, frames.body(clock.now_ms(), {2: {"accepted": 1}}))
        await telemetry.tidy()
    found = await telemetry.chart(1, {("accepted", "")}, NOW - YEARS - 5, NOW - YEARS + 5, RAW)
    assert found.at_ms.tolist() == [NOW - YEARS]
