"""What groups of devices gave together: totals from hot.db, the archive and memory, put into steps.

A total says how much of the group it covers: half a rack's hashrate is not shown as the rack's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from commander.telemetry import archive, series, store, totals_store
from commander.telemetry.columns import Ints
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, STEP_OF, Level
from commander.telemetry.live import DeviceSteps
from commander.telemetry.members import KINDS, Members
from commander.telemetry.rollup import Floats
from commander.telemetry.series import Horizons
from commander.telemetry.shares import LINES
from garrison.catalogue import METRICS
from garrison.faults import BadInput, Broken

FUNCTIONS = ("sum", "avg", "min", "max", "devices", "rate")
Row = tuple[str, int, float, float, float, float | None, float | None]
"""Group, time, devices, covered, sum, min, max."""

_STEPS_AN_HOUR = HOUR_MS // STEP_MS


@dataclass(frozen=True, slots=True)
class Question:
    """`fn`: of the devices of a group; a counter's "sum" is what it rose in a step, "rate" that a second."""

    by: str
    metric: str
    fn: str
    from_ms: int
    to_ms: int
    step_ms: int | None
    limit: int
    names: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.by not in KINDS:
            raise BadInput(f"no groups by {self.by!r}", hint=f"one of {', '.join(KINDS)}")
        if self.metric not in LINES:
            raise BadInput(f"no totals are kept of {self.metric!r}", hint=f"one of {', '.join(LINES)}")
        counts = METRICS[self.metric].kind == "counter" if self.metric in METRICS else True
        if self.fn not in FUNCTIONS or (self.fn == "rate" and not counts):
            raise BadInput(
                f"{self.fn!r} is nothing to make of {self.metric}", hint=f"one of {', '.join(FUNCTIONS)}; rate is for counters"
            )
        series.check_time(self.from_ms, self.to_ms, self.step_ms, self.limit)


@dataclass(frozen=True, slots=True)
class GroupLine:
    """One group: a value a step (NaN: no device gave one), and how much of the group's devices and time it covers."""

    name: str
    values: Floats
    coverage: Floats
    devices: Floats
    members: Ints


@dataclass(frozen=True, slots=True)
class Answer:
    by: str
    metric: str
    fn: str
    unit: str
    from_ms: int
    to_ms: int
    step_ms: int
    level: Level
    coverage: float
    unreadable: int
    at_ms: Ints
    groups: Sequence[GroupLine]


def chosen(question: Question, horizons: Horizons) -> tuple[Level, int]:
    """Totals begin at five minutes."""
    q = question
    asked = q.step_ms if q.step_ms is not None else series.chosen_step(q.from_ms, q.to_ms, q.limit)
    step_ms = -(-asked // STEP_MS) * STEP_MS
    if q.from_ms < horizons.five_minutes_ms or (step_ms % HOUR_MS == 0 and q.to_ms - q.from_ms > 31 * DAY_MS):
        return Level.HOUR, -(-step_ms // HOUR_MS) * HOUR_MS
    return Level.FIVE_MINUTES, step_ms


def answer(
    c: sqlite3.Connection,
    files: archive.Files,
    question: Question,
    horizons: Horizons,
    live: Sequence[DeviceSteps],
    members: Members,
) -> Answer:
    """`live`: copied before this is called."""
    q = question
    level, step_ms = chosen(q, horizons)
    first_ms = q.from_ms // step_ms * step_ms
    at_ms = np.arange(first_ms, q.to_ms, step_ms, dtype=np.int64)
    rows, unreadable = _rows(c, files, q, level, first_ms, live, members)
    counts = members.counts(q.by, at_ms)
    names = sorted({row[0] for row in rows} or counts.keys())
    if q.names is not None:
        names = [name for name in names if name in q.names]
    by_name: dict[str, list[Row]] = {name: [] for name in names}
    for row in rows:
        if row[0] in by_name:
            by_name[row[0]].append(row)
    nobody = np.zeros(len(at_ms), np.int64)
    lines = [_line(name, by_name[name], q, level, step_ms, at_ms, counts.get(name, nobody)) for name in names]
    covered = float(np.mean([line.coverage.mean() for line in lines])) if lines else 0.0
    unit = METRICS[q.metric].unit if q.metric in METRICS else "J"
    unit = "1" if q.fn == "devices" else f"{unit}/s" if q.fn == "rate" else unit
    return Answer(q.by, q.metric, q.fn, unit, q.from_ms, q.to_ms, step_ms, level, round(covered, 4), unreadable, at_ms, lines)


def _rows(
    c: sqlite3.Connection,
    files: archive.Files,
    q: Question,
    level: Level,
    first_ms: int,
    live: Sequence[DeviceSteps],
    members: Members,
) -> tuple[list[Row], int]:
    """hot.db first, in one snapshot with what is sealed of each post; then the archive."""
    c.execute("begin")
    try:
        waiting = totals_store.hot_rows(c, q.by, q.metric, first_ms, q.to_ms)
        sealed = store.sealed(c)
    finally:
        c.execute("rollback")
    rows: list[Row] = []
    unreadable = 0
    applied: set[int] = set()
    parts = [(level, first_ms, q.to_ms)]
    if level is Level.HOUR:
        parts = _with_newer_days(files.folder, first_ms, q.to_ms, sorted({row[2] // DAY_MS * DAY_MS for row in waiting}))
    for part, from_ms, to_ms in parts:
        for span in archive.between(files.folder, part, from_ms, to_ms):
            try:
                with files.reading(span.name) as file:
                    if file is not None:
                        found = totals_store.archive_rows(file.c, q.by, q.metric, from_ms, to_ms)
                        applied |= totals_store.applied(file.c) if part is Level.FIVE_MINUTES else set()
                        rows += [(*row[:3], row[3] * _STEPS_AN_HOUR, *row[4:]) for row in found] if part is Level.HOUR else found
            except (sqlite3.DatabaseError, Broken):
                unreadable += 1
    rows += [row[1:] for row in waiting if row[0] not in applied]
    rows += _live_rows(live, q, sealed, members)
    return rows, unreadable


def _with_newer_days(folder: Path, from_ms: int, to_ms: int, days: Sequence[int]) -> list[tuple[Level, int, int]]:
    """Hours are made once a day. What is in hot.db, of these `days`, is newer than they are: of them the archive is read at five
    minutes, as far as that level goes back."""
    parts = []
    at_ms = from_ms
    for day_ms in days:
        begin, end = max(day_ms, at_ms), min(day_ms + DAY_MS, to_ms)
        if begin < end and archive.between(folder, Level.FIVE_MINUTES, begin, end):
            parts += [(Level.HOUR, at_ms, begin), (Level.FIVE_MINUTES, begin, end)]
            at_ms = end
    return [part for part in [*parts, (Level.HOUR, at_ms, to_ms)] if part[1] < part[2]]


def _live_rows(live: Sequence[DeviceSteps], q: Question, sealed: Mapping[str, int], members: Members) -> list[Row]:
    devices: dict[tuple[int, int], tuple[int, DeviceSteps]] = {}
    for steps in live:
        if steps.at_ms < sealed.get(steps.post, 0):
            continue
        for place in np.flatnonzero(steps.count).tolist():
            other = devices.get((steps.keys[place], steps.at_ms))
            if other is None or other[1].count[other[0]] < steps.count[place]:  # two posts see it: it is one device
                devices[steps.keys[place], steps.at_ms] = place, steps
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for (key, at_ms), (place, steps) in devices.items():
        told = tuple(float(part[place]) for part in (steps.covered, steps.value, steps.min, steps.max))
        for kind, name in members.groups_for(key, at_ms):
            if kind == q.by:
                found.setdefault((name, at_ms), []).append(told)
    rows: list[Row] = []
    for (name, at_ms), parts in found.items():
        covered, values, low, high = zip(*parts, strict=True)
        rows.append((name, at_ms, float(len(parts)), sum(covered), sum(values), min(low), max(high)))
    return rows


def _line(name: str, rows: Sequence[Row], q: Question, level: Level, step_ms: int, at_ms: Ints, members: Ints) -> GroupLine:
    size = len(at_ms)
    if not rows:
        return GroupLine(name, np.full(size, np.nan), np.zeros(size), np.zeros(size), members)
    _, times, *columns = zip(*rows, strict=True)
    # rows of one time are contributions (archive, hot.db, memory): they add up before steps are made of them
    unique, place = np.unique(np.array(times, np.int64), return_inverse=True)
    devices, covered, total = (np.bincount(place, np.array(column, np.float64), len(unique)) for column in columns[:3])
    where = ((unique - at_ms[0]) // step_ms).astype(np.intp)
    inside = (where >= 0) & (where < size)
    where, devices, covered, total = (part[inside] for part in (where, devices, covered, total))
    known = devices > 0.5
    adds_up = q.metric not in METRICS or METRICS[q.metric].kind == "counter"
    steps = np.maximum(np.bincount(where, weights=known, minlength=size), 1)
    most = np.zeros(size)
    np.maximum.at(most, where, np.rint(devices))
    seen = most > 0
    sums = np.bincount(where[known], weights=total[known], minlength=size)
    value = sums if adds_up else sums / steps
    match q.fn:
        case "avg":
            mean_devices = np.bincount(where[known], weights=devices[known], minlength=size) / steps
            value = value / np.maximum(mean_devices, 1)
        case "min" | "max":
            extreme, column = (np.fmin, columns[3]) if q.fn == "min" else (np.fmax, columns[4])
            known_rows = inside[place]
            slots = ((unique[place] - at_ms[0]) // step_ms)[known_rows]
            value = np.full(size, np.nan)
            extreme.at(value, slots, np.array(column, np.float64)[known_rows])  # None is NaN
        case "devices":
            value = most
        case "rate":
            value = value / (step_ms / 1000)
    share = np.bincount(where, weights=covered, minlength=size) * STEP_OF[Level.FIVE_MINUTES] / step_ms
    coverage = np.clip(share / np.maximum(np.maximum(members, most), 1), 0.0, 1.0)
    return GroupLine(name, np.where(seen, value, np.nan), coverage, most, members)


# ---- energy ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Energy:
    """In kWh: by an outlet's meter, by the miner itself, and estimated (configured or nameplate). `coverage`: of the time."""

    measured_kwh: float
    reported_kwh: float
    estimated_kwh: float
    coverage: float
    level: Level
    unreadable: int

    @property
    def kwh(self) -> float:
        return self.measured_kwh + self.reported_kwh + self.estimated_kwh


def energy_of_looks(at_ms: Ints, joules: Floats, lasting_ms: Ints, from_ms: int, to_ms: int) -> tuple[list[float], float]:
    """(kWh by source, share of the time covered) of [from, to): what a look stands for counts as far as it lies within."""
    begin, end = np.maximum(at_ms, from_ms), np.minimum(at_ms + lasting_ms, to_ms)
    inside = np.maximum(end - begin, 0)
    share = inside / np.maximum(lasting_ms, 1)
    kwh = [float((row * share).sum()) / 3.6e6 for row in joules]
    powered = joules.any(axis=0)
    return kwh, min(1.0, float(inside[powered].sum()) / (to_ms - from_ms))
