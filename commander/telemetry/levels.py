"""The levels of the history: what is kept how fine, in which file, for how long. Pure.

    hot.db            frames as received, then chunks of two hours, until their day is merged
    raw-2026-W48.db   every look, a row for each device and day
    5min-2026-11.db   5-minute values, a row for each device and day; totals of groups
    1h-2026.db        hourly values, a row for each device and month; totals of groups

All spans are UTC. A file ends as a whole when its time is over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

SECOND_MS = 1_000
STEP_MS = 300_000
HOUR_MS = 3_600_000
WINDOW_MS = 7_200_000
DAY_MS = 86_400_000

EARLIEST_MS = 1_230_768_000_000
"""2009: nothing was mined before, so no sample is older. A machine whose clock has lost its battery often begins at 1970 or
2000."""


class Level(StrEnum):
    RAW = "raw"
    FIVE_MINUTES = "5min"
    HOUR = "1h"


STEP_OF = {Level.FIVE_MINUTES: STEP_MS, Level.HOUR: HOUR_MS}


@dataclass(frozen=True, slots=True)
class FileSpan:
    """One archive file and the time [from_ms, to_ms) that it is for."""

    level: Level
    name: str
    from_ms: int
    to_ms: int


_NAMES = {
    Level.RAW: re.compile(r"raw-(\d{4})-W(\d{2})\.db"),
    Level.FIVE_MINUTES: re.compile(r"5min-(\d{4})-(\d{2})\.db"),
    Level.HOUR: re.compile(r"1h-(\d{4})\.db"),
}


def file_at(level: Level, at_ms: int) -> FileSpan:
    """The file for this time."""
    return _file_of(level, at_ms // DAY_MS)


@lru_cache(4_096)
def _file_of(level: Level, day: int) -> FileSpan:
    at_ms = day * DAY_MS
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    match level:
        case Level.RAW:
            year, week, _ = at.isocalendar()
            first = datetime.fromisocalendar(year, week, 1).replace(tzinfo=UTC)
            return FileSpan(level, f"raw-{year:04}-W{week:02}.db", _ms(first), _ms(first + timedelta(days=7)))
        case Level.FIVE_MINUTES:
            first, end = _month(at)
            return FileSpan(level, f"5min-{at.year:04}-{at.month:02}.db", _ms(first), _ms(end))
        case Level.HOUR:
            first, end = datetime(at.year, 1, 1, tzinfo=UTC), datetime(at.year + 1, 1, 1, tzinfo=UTC)
            return FileSpan(level, f"1h-{at.year:04}.db", _ms(first), _ms(end))


def file_named(name: str) -> FileSpan | None:
    """None: no file of the archive has such a name."""
    for level, pattern in _NAMES.items():
        found = pattern.fullmatch(name)
        if found is None:
            continue
        numbers = [int(part) for part in found.groups()]
        try:
            if level is Level.RAW:
                first = datetime.fromisocalendar(numbers[0], numbers[1], 1)
            else:
                first = datetime(numbers[0], numbers[1] if len(numbers) > 1 else 1, 1)  # noqa: DTZ001  # UTC is set below
        except ValueError:
            return None
        span = file_at(level, _ms(first.replace(tzinfo=UTC)))
        return span if span.name == name else None
    return None


def files_between(level: Level, from_ms: int, to_ms: int) -> Iterator[FileSpan]:
    """The files whose time meets [from_ms, to_ms), the oldest first."""
    at_ms = max(from_ms, EARLIEST_MS)
    while at_ms < to_ms:
        span = file_at(level, at_ms)
        yield span
        at_ms = span.to_ms


def block_start(level: Level, at_ms: int) -> int:
    """Where the block begins that holds this time: a day, or at the hourly level a month."""
    if level is Level.HOUR:
        return _ms(_month(datetime.fromtimestamp(at_ms / 1000, UTC))[0])
    return at_ms // DAY_MS * DAY_MS


def block_end(level: Level, start_ms: int) -> int:
    if level is Level.HOUR:
        return _ms(_month(datetime.fromtimestamp(start_ms / 1000, UTC))[1])
    return start_ms + DAY_MS


def _month(at: datetime) -> tuple[datetime, datetime]:
    first = datetime(at.year, at.month, 1, tzinfo=UTC)
    end = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return first, end


def _ms(at: datetime) -> int:
    return round(at.timestamp()) * 1000
