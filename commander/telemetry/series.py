"""One metric of one device over time: read from frames, and turned into steps and rates. The turning is pure.

A gap is a gap: a look that failed is a point without a value, a step without a look is a step without a value, and
nothing is ever drawn between two points that are not neighbours.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from commander.telemetry import clocks, columns, store
from garrison import frame
from garrison.catalogue import METRICS
from garrison.faults import BadFrame, BadInput, TimedOut
from garrison.frame import Layout, Number

STEPS_MS = (10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000)
"""Steps that are chosen when none is asked for."""

GAP_MS = 60_000
"""Neighbours of a counter are at most this far apart, or three times their usual distance where that is more."""


@dataclass(frozen=True, slots=True)
class Point:
    """A look. None: the look gave no such value."""

    at_ms: int
    value: Number | None


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a counter rose in the `over_ms` before `at_ms`. None: its neighbour before is too far away, or there is none."""

    at_ms: int
    value: float | None
    over_ms: int


@dataclass(frozen=True, slots=True)
class Step:
    """What was seen in [at_ms, at_ms + step). `count` of values; without any, all else is None."""

    at_ms: int
    count: int
    avg: float | None
    min: Number | None
    max: Number | None
    last: Number | None


@dataclass(frozen=True, slots=True)
class Answer:
    """`step_ms` None: `points` are looks (`Point`, or `Rate`), else steps. `unit` is per second for rates.

    `level`: which keeping of the history answered. `unreadable`: frames on disk that do not read any more.
    """

    metric: str
    component: str
    unit: str
    kind: str
    rate: bool
    from_ms: int
    to_ms: int
    step_ms: int | None
    level: str
    unreadable: int
    points: Sequence[Point] | Sequence[Rate] | Sequence[Step]


@dataclass(frozen=True, slots=True)
class Question:
    """Times in [from_ms, to_ms). `step_ms` None: looks as they are, or steps where there are more than `limit`."""

    key: int
    metric: str
    component: str
    from_ms: int
    to_ms: int
    step_ms: int | None
    rate: bool
    limit: int

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BadInput(f"no metric {self.metric!r}", hint=f"one of {', '.join(METRICS)}")
        if self.rate and METRICS[self.metric].kind != "counter":
            raise BadInput(f"{self.metric} is no counter, it has no rate")
        if self.from_ms >= self.to_ms:
            raise BadInput("the time ends before it begins")
        if self.step_ms is not None and self.step_ms < 1_000:
            raise BadInput("a step is at least a second")
        if self.step_ms is not None and (self.to_ms - self.from_ms) // self.step_ms > self.limit:
            least_s = (self.to_ms - self.from_ms) // self.limit // 1000 + 1
            raise BadInput(f"that would be more than {self.limit} steps", hint=f"a step of {least_s} s or more, or a shorter time")


def answer(c: sqlite3.Connection, question: Question, stop: threading.Event) -> Answer:
    """Reads and reduces. TimedOut when `stop` is set meanwhile."""
    points, unreadable = looks(c, question, stop)
    step_ms = question.step_ms
    if step_ms is None and len(points) > question.limit:
        step_ms = chosen_step(question.from_ms, question.to_ms, question.limit)
    shown: Sequence[Point] | Sequence[Rate] | Sequence[Step] = points
    if question.rate:
        rising = rates(points)
        shown = rising if step_ms is None else rate_steps(rising, question.from_ms, question.to_ms, step_ms)
    elif step_ms is not None:
        shown = steps(points, question.from_ms, question.to_ms, step_ms)
    metric = METRICS[question.metric]
    unit = f"{metric.unit}/s" if question.rate else metric.unit
    return Answer(
        question.metric,
        question.component,
        unit,
        metric.kind,
        question.rate,
        question.from_ms,
        question.to_ms,
        step_ms,
        "raw",
        unreadable,
        shown,
    )


# ---- reading -----------------------------------------------------------------------------------------------


def looks(c: sqlite3.Connection, question: Question, stop: threading.Event) -> tuple[list[Point], int]:
    """Every look at the device in the time, sorted, and how many frames do not read."""
    layouts: dict[int, tuple[Layout, int | None]] = {}
    wanted = (question.metric, question.component)
    found: list[Point] = []
    unreadable = 0
    for kept in store.frames_of_device(c, question.key, question.from_ms, question.to_ms):
        if stop.is_set():
            raise TimedOut("reading the history took too long", hint="ask for a shorter time")
        if kept.layout not in layouts:
            layout = store.layout(c, kept.layout)
            layouts[kept.layout] = (layout, layout.places.get(wanted))
        try:
            found += _looks_in(kept, *layouts[kept.layout], question)
        except BadFrame:
            unreadable += 1  # it was good when it came: the disk has harmed it
    found.sort(key=lambda point: point.at_ms)
    return found, unreadable


def _looks_in(kept: store.Kept, layout: Layout, place: int | None, question: Question) -> Iterable[Point]:
    raw = frame.parse(layout, kept.body)
    samples = np.flatnonzero(columns.keys(raw) == question.key).tolist()
    if not samples:
        return
    times = clocks.corrected(columns.times_ms(raw), kept.received_ms, kept.ahead_ms)
    for sample in samples:
        at_ms = int(times[sample])
        if question.from_ms <= at_ms < question.to_ms:
            yield Point(at_ms, None if place is None else columns.value_at(raw.columns[place], sample))


# ---- reducing: pure ----------------------------------------------------------------------------------------


def chosen_step(from_ms: int, to_ms: int, limit: int) -> int:
    """The smallest usual step that gives at most `limit` steps."""
    least = (to_ms - from_ms) / limit
    return next((step for step in STEPS_MS if step >= least), math.ceil(least / STEPS_MS[-1]) * STEPS_MS[-1])


def steps(points: Iterable[Point], from_ms: int, to_ms: int, step_ms: int) -> list[Step]:
    """All steps of the time, also those without a look. They begin at whole multiples of the step."""
    held: dict[int, list[Number]] = {}
    for point in points:
        if point.value is not None:
            held.setdefault(point.at_ms // step_ms, []).append(point.value)
    return [_step(number * step_ms, held.get(number, [])) for number in range(from_ms // step_ms, -(-to_ms // step_ms))]


def _step(at_ms: int, values: list[Number]) -> Step:
    if not values:
        return Step(at_ms, 0, None, None, None, None)
    return Step(at_ms, len(values), sum(values) / len(values), min(values), max(values), values[-1])


def rates(points: Sequence[Point]) -> list[Rate]:
    """How fast a counter rises, a second. After a reset (the value is lower) it rose from zero. Looks without a value stay."""
    known = [point for point in points if point.value is not None]
    longest_ms = gap_ms([point.at_ms for point in points])
    found: list[Rate] = [Rate(point.at_ms, None, 0) for point in points if point.value is None]
    for i, point in enumerate(known):
        before = known[i - 1] if i else None
        over_ms = point.at_ms - before.at_ms if before else 0
        if before is None or not 0 < over_ms <= longest_ms:
            found.append(Rate(point.at_ms, None, 0))
            continue
        assert point.value is not None and before.value is not None  # noqa: S101, PT018  # `known` holds no others
        risen = point.value - before.value if point.value >= before.value else point.value
        found.append(Rate(point.at_ms, risen / over_ms * 1000, over_ms))
    return sorted(found, key=lambda rate: rate.at_ms)


def rate_steps(rising: Iterable[Rate], from_ms: int, to_ms: int, step_ms: int) -> list[Step]:
    """As `steps`; the average is weighted by the time that each rate covers."""
    held: dict[int, list[Rate]] = {}
    for rate in rising:
        if rate.value is not None:
            held.setdefault(rate.at_ms // step_ms, []).append(rate)
    found = []
    for number in range(from_ms // step_ms, -(-to_ms // step_ms)):
        inside = held.get(number, [])
        values = [rate.value for rate in inside if rate.value is not None]
        plain = _step(number * step_ms, list(values))
        weight = sum(rate.over_ms for rate in inside)
        avg = sum(value * rate.over_ms for value, rate in zip(values, inside, strict=True)) / weight if weight else None
        found.append(Step(plain.at_ms, plain.count, avg, plain.min, plain.max, plain.last))
    return found


def gap_ms(times_ms: Sequence[int]) -> float:
    """Points further apart than this are no neighbours."""
    distances = [b - a for a, b in pairwise(times_ms) if b > a]
    return max(GAP_MS, 3 * median(distances)) if distances else GAP_MS
