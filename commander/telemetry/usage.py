"""What the history takes on disk, and what it will take."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from commander.telemetry import archive
from commander.telemetry.levels import DAY_MS, Level
from commander.telemetry.retention import Spans
from commander.telemetry.store import Usage as Kept
from garrison.faults import Unavailable


@dataclass(frozen=True, slots=True)
class LevelUsage:
    """`bytes` on disk, of `files`, for the time [from_ms, to_ms); None: there is nothing yet."""

    days: int
    files: int
    bytes: int
    from_ms: int | None
    to_ms: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk with WAL; `free_bytes` of the file system. `hot_bytes`: hot.db, frames and chunks of the last day."""

    kept: Kept
    hot_bytes: int
    file_bytes: int
    free_bytes: int
    levels: Mapping[Level, LevelUsage]
    damaged: str | None


def of_folder(folder: Path, kept: Kept, spans: Spans, damaged: str | None) -> Usage:
    """Raises Unavailable."""
    try:
        free_bytes = shutil.disk_usage(folder).free
        hot_bytes = _size(folder, "hot.db")
        levels = {}
        for level in Level:
            files = archive.existing(folder, level)
            size = sum(_size(folder, span.name) for span in files)
            first, last = (files[0].from_ms, files[-1].to_ms) if files else (None, None)
            levels[level] = LevelUsage(spans.days(level), len(files), size, first, last)
    except OSError as error:
        raise Unavailable(f"cannot read {folder}: {error.strerror}") from error
    return Usage(kept, hot_bytes, hot_bytes + sum(one.bytes for one in levels.values()), free_bytes, levels, damaged)


def _size(folder: Path, name: str) -> int:
    found = 0
    for end in ("", "-wal", "-shm"):
        try:
            found += (folder / f"{name}{end}").stat().st_size
        except FileNotFoundError:
            continue
    return found


# ---- what it will take: pure -------------------------------------------------------------------------------

LOOK_BYTES = 0.45
"""A value of a look, on disk in a merged day. Measured (docs/benchmarks.md), like the others here."""

STEP_BYTES = 370
"""A metric of a device and day at five minutes, however often it is read."""

HOUR_BYTES = 40
"""The same at an hour."""

TOTAL_BYTES = 75
"""A row of a group's totals."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes that each part takes once its span is full. `day_bytes`: of raw samples, a day."""

    raw_bytes: int
    hot_bytes: int
    five_minute_bytes: int
    hour_bytes: int
    totals_bytes: int
    day_bytes: int

    @property
    def bytes(self) -> int:
        return self.raw_bytes + self.hot_bytes + self.five_minute_bytes + self.hour_bytes + self.totals_bytes


def plan(devices: int, every_s: float, metrics: int, groups: int, lines: int, spans: Spans) -> Plan:
    """For so many devices of so many metrics, read every so many seconds."""
    looks = DAY_MS / 1000 / every_s
    day = devices * metrics * looks * LOOK_BYTES
    steps = devices * metrics * STEP_BYTES
    hours = devices * metrics * HOUR_BYTES
    totals = groups * lines * TOTAL_BYTES * (288 * spans.five_minute_days + 24 * spans.hour_days)
    # a week's file goes as a whole, so up to a week more is there; likewise a month and a year
    return Plan(
        raw_bytes=round(day * (spans.raw_days + 7)),
        hot_bytes=round(day * 1.5 * 1.25),
        five_minute_bytes=round(steps * (spans.five_minute_days + 31)),
        hour_bytes=round(hours * (spans.hour_days + 366)),
        totals_bytes=round(totals),
        day_bytes=round(day),
    )
