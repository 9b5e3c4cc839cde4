"""When raw samples may go: by the time of receipt, a few rows a step, and never because a clock was set. Pure."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 86_400_000
STEP_ROWS = 200
"""So many frames are removed in one transaction: a few milliseconds in which new frames wait."""

STEPPED_MS = 3_600_000
HOLD_MS = DAY_MS


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is believed of the wall clock. `offset_ms`: wall minus monotonic; nothing goes before `hold_until_ms` (monotonic)."""

    offset_ms: int
    hold_until_ms: int


def begin(wall_ms: int, monotonic_ms: int, newest_received_ms: int | None) -> Judgement:
    """At the start. When the newest frame is more than a day old, the machine was off or its clock is wrong: which of the
    two cannot be told, so a day passes before anything is removed."""
    long_off = newest_received_ms is not None and wall_ms - newest_received_ms > DAY_MS
    return Judgement(wall_ms - monotonic_ms, monotonic_ms + HOLD_MS if long_off else monotonic_ms)


def judge(before: Judgement, wall_ms: int, monotonic_ms: int) -> Judgement:
    """At each step. A wall clock that was set by more than an hour stops removal for a day: time to set it right."""
    offset_ms = wall_ms - monotonic_ms
    stepped = abs(offset_ms - before.offset_ms) > STEPPED_MS
    return Judgement(offset_ms, monotonic_ms + HOLD_MS if stepped else before.hold_until_ms)


def remove_before(judged: Judgement, wall_ms: int, monotonic_ms: int, raw_days: int) -> int | None:
    """Frames received before this time go; None: nothing does now."""
    return None if monotonic_ms < judged.hold_until_ms else wall_ms - raw_days * DAY_MS
