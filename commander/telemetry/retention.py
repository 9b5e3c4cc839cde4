"""What may go, and when: never because a clock was set. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commander.telemetry.levels import DAY_MS, FileSpan, Level

STEP_ROWS = 200
"""So many frames are removed in one transaction: a few milliseconds in which new frames wait."""

STEPPED_MS = 3_600_000
HOLD_MS = DAY_MS


@dataclass(frozen=True, slots=True)
class Spans:
    """For how many days each level is kept."""

    raw_days: int = 30
    five_minute_days: int = 730
    hour_days: int = 3_650

    def days(self, level: Level) -> int:
        return {Level.RAW: self.raw_days, Level.FIVE_MINUTES: self.five_minute_days, Level.HOUR: self.hour_days}[level]


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


def now_for_removal(judged: Judgement, wall_ms: int, monotonic_ms: int, newest_sample_ms: int | None) -> int | None:
    """The time that ages are counted from; None: nothing goes now. Our clock alone is not believed: while the sentries' samples are
    older, it is by theirs, so that a clock ten years ahead removes nothing, however long nobody notices."""
    if monotonic_ms < judged.hold_until_ms or newest_sample_ms is None:
        return None
    return min(wall_ms, newest_sample_ms)


def expired(files: Iterable[FileSpan], spans: Spans, now_ms: int) -> Sequence[FileSpan]:
    """Files whose time is over as a whole. Whether something was written into one lately is for the caller to see."""
    return [file for file in files if file.to_ms <= now_ms - spans.days(file.level) * DAY_MS]


def past(file: FileSpan, spans: Spans, now_ms: int, touched_ms: int) -> bool:
    """Its time is over, and nothing was written into it lately."""
    return bool(expired([file], spans, now_ms)) and removable(file, spans, now_ms, touched_ms)


def removable(file: FileSpan, spans: Spans, now_ms: int, touched_ms: int) -> bool:
    """A file of long ago that was written lately holds samples of a clock that is behind: they are kept for as long as others."""
    return touched_ms <= now_ms - spans.days(file.level) * DAY_MS
