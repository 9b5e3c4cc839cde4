"""Series of one device over time: which level answers, and how looks become steps and rates.

A gap is a gap: a look that failed is a point without a value, a step without a look is a step without a value, and nothing is
ever drawn between two points that are not neighbours. Which level answered, its step and how much of the time is covered are
part of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commander.telemetry import rollup
from commander.telemetry.columns import Flags, Ints
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, STEP_OF, Level
from commander.telemetry.reading import Reader
from commander.telemetry.rollup import Floats
from commander.telemetry.table import Array, Table, merged
from garrison.catalogue import METRICS
from garrison.faults import BadInput
from garrison.frame import Column, Series

STEPS_MS = (10_000, 30_000, 60_000, STEP_MS, 600_000, 1_800_000, HOUR_MS, 7_200_000, 21_600_000, 43_200_000, DAY_MS)
"""Steps that are chosen when none is asked for."""

Slots = NDArray[np.intp]

RAW_SPAN_MS = 2 * DAY_MS
"""Up to here looks are read and reduced when a step would be fine enough for it; a longer time is read at a coarser level."""

MOST_VALUES = 4_000_000
"""Of one answer made of looks: 40 metrics of a device at 10 s for eleven days."""

RAW = -1
"""As a step: looks as they are, however many."""


@dataclass(frozen=True, slots=True)
class Question:
    """Times in [from_ms, to_ms). `wanted` None: all series. `step_ms` None: looks as they are, or steps where there are more than
    `limit`; RAW: looks in any case. `rate`: how fast counters rise."""

    key: int
    wanted: frozenset[Series] | None
    from_ms: int
    to_ms: int
    step_ms: int | None
    limit: int
    rate: bool = False

    def __post_init__(self) -> None:
        for metric, _ in self.wanted or ():
            if metric not in METRICS:
                raise BadInput(f"no metric {metric!r}", hint=f"one of {', '.join(METRICS)}")
            if self.rate and METRICS[metric].kind != "counter":
                raise BadInput(f"{metric} is no counter, it has no rate")
        check_time(self.from_ms, self.to_ms, None if self.step_ms == RAW else self.step_ms, self.limit)


def check_time(from_ms: int, to_ms: int, step_ms: int | None, limit: int) -> None:
    """BadInput: no such time, or too many steps in it."""
    if from_ms >= to_ms:
        raise BadInput("the time ends before it begins")
    if step_ms is not None and step_ms < 1_000:
        raise BadInput("a step is at least a second")
    if step_ms is not None and (to_ms - from_ms) // step_ms > limit:
        least_s = (to_ms - from_ms) // limit // 1000 + 1
        raise BadInput(f"that would be more than {limit} steps", hint=f"a step of {least_s} s or more, or a shorter time")


@dataclass(frozen=True, slots=True)
class Line:
    """One series. Of looks: "value" (a rate has "over_ms" too); of steps: "count", "avg", "min", "max", "last" as far as the level
    keeps them, and of a counter "rise". NaN or None: nothing. `coverage`: of the time, how much has a value."""

    metric: str
    component: str
    unit: str
    kind: str
    coverage: float
    stats: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Answer:
    """`step_ms` None: `at_ms` are looks, else steps, all of them. `level`: which keeping of the history answered. `coverage`:
    for how
    much of the time there are looks. `unreadable`: frames and blocks on disk that do not read any more."""

    from_ms: int
    to_ms: int
    step_ms: int | None
    level: Level
    rate: bool
    coverage: float
    unreadable: int
    at_ms: Ints
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Horizons:
    """From when on there is each level."""

    raw_ms: int
    five_minutes_ms: int


# ---- which level: pure -------------------------------------------------------------------------------------


def chosen_step(from_ms: int, to_ms: int, limit: int) -> int:
    """The smallest usual step that gives at most `limit` steps."""
    least = (to_ms - from_ms) / limit
    return next((step for step in STEPS_MS if step >= least), math.ceil(least / STEPS_MS[-1]) * STEPS_MS[-1])


def chosen_level(from_ms: int, to_ms: int, step_ms: int | None, limit: int, horizons: Horizons) -> tuple[Level, int | None]:
    """The level and its step. A level that does not go back so far is not chosen; the step is then as fine as there is."""
    if step_ms == RAW:
        return Level.RAW, None
    asked = step_ms if step_ms is not None else chosen_step(from_ms, to_ms, limit)
    whole = asked % STEP_MS == 0
    has_raw, has_steps = from_ms >= horizons.raw_ms, from_ms >= horizons.five_minutes_ms
    if has_raw and (not whole or (step_ms is None and to_ms - from_ms <= RAW_SPAN_MS)):
        return Level.RAW, step_ms
    if asked % HOUR_MS == 0 and (not has_steps or to_ms - from_ms > 7 * DAY_MS):
        return Level.HOUR, asked
    if has_steps:
        return Level.FIVE_MINUTES, _multiple(asked, STEP_MS)
    return Level.HOUR, _multiple(asked, HOUR_MS)


def _multiple(step_ms: int, of_ms: int) -> int:
    return -(-step_ms // of_ms) * of_ms


# ---- answering ---------------------------------------------------------------------------------------------


def answer(reader: Reader, question: Question, horizons: Horizons) -> Answer:
    """Reads and reduces. TimedOut when the reader is told to stop."""
    q = question
    level, step_ms = chosen_level(q.from_ms, q.to_ms, q.step_ms, q.limit, horizons)
    if level is Level.RAW:
        looks = reader.raw(q.key, q.from_ms, q.to_ms, q.wanted)
        if looks.scaled.size > MOST_VALUES:
            raise BadInput(f"that are {looks.scaled.size} values", hint="ask for a shorter time, fewer metrics, or a step")
        if step_ms is None and q.step_ms != RAW and len(looks) > q.limit:
            step_ms = chosen_step(q.from_ms, q.to_ms, q.limit)
        if step_ms is None:
            return _of_looks(looks, q, reader.unreadable)
        if q.rate:
            return _rate_steps(looks, q, step_ms, reader.unreadable)
        return _of_steps(rollup.steps(looks, step_ms, rollup.every_stat), q, level, step_ms, reader.unreadable)
    first_ms = q.from_ms // STEP_OF[level] * STEP_OF[level]
    kept = reader.stepped(level, q.key, first_ms, q.to_ms, q.wanted)
    return _of_steps(rollup.coarser(kept, step_ms or STEP_OF[level]), q, level, step_ms or STEP_OF[level], reader.unreadable)


def _of_looks(looks: Table, q: Question, unreadable: int) -> Answer:
    covers = np.minimum(rollup.covers_ms(looks.at_ms), q.to_ms - looks.at_ms)
    coverage = _share(int(covers.sum()), q)
    lines = []
    for column, parts in _series(looks, q):
        told = METRICS.get(column.metric)
        kind = "gauge" if told is None else told.kind
        covered = coverage if parts.valid is None else _share(int(covers[parts.valid[0]].sum()), q)
        if q.rate:
            values, over_ms = rates(looks.at_ms, parts.scaled[0], parts.there(0))
            stats: dict[str, Array] = {"value": values / 10**column.decimals, "over_ms": over_ms}
            lines.append(Line(column.metric, column.component, f"{column.unit}/s", kind, covered, stats))
        else:
            lines.append(Line(column.metric, column.component, column.unit, kind, covered, {"value": parts.shown(0)}))
    return Answer(q.from_ms, q.to_ms, None, Level.RAW, q.rate, coverage, unreadable, looks.at_ms, lines)


def _series(looks: Table, q: Question) -> list[tuple[Column, Table]]:
    """One column for each series; one asked for and not there has no values. Of two columns of one series (its decimals changed)
    the
    values are joined in the finer one."""
    places: dict[Series, list[int]] = {}
    for place, column in enumerate(looks.columns):
        places.setdefault((column.metric, column.component), []).append(place)
    for series in sorted((q.wanted or frozenset()) - places.keys()):
        places[series] = []
    found = []
    for (metric, component), mine in places.items():
        if not mine:
            column = Column(metric, component, METRICS[metric].unit, METRICS[metric].decimals)
            absent = np.zeros((1, len(looks)), np.bool_)
            found.append((column, Table((column,), looks.at_ms, np.zeros((1, len(looks)), np.int64), absent)))
        elif len(mine) == 1:
            found.append((looks.columns[mine[0]], looks.column(mine[0])))
        else:
            found.append(_joined(looks, mine))
    return found


def _joined(looks: Table, places: list[int]) -> tuple[Column, Table]:
    finest = max((looks.columns[place] for place in places), key=lambda column: column.decimals)
    parts = []
    for place in places:
        one = looks.only([place])
        rows = np.flatnonzero(one.there(0))
        scaled = one.scaled[:, rows] * 10 ** (finest.decimals - looks.columns[place].decimals)
        parts.append(Table((finest,), one.at_ms[rows], scaled))
    absent = Table((finest,), looks.at_ms, np.zeros((1, len(looks)), np.int64), np.zeros((1, len(looks)), np.bool_))
    return finest, merged([absent, *parts])


def _of_steps(steps: Table, q: Question, level: Level, step_ms: int, unreadable: int) -> Answer:
    """Every step of the time, also those without a look. They begin at whole multiples of the step."""
    first, end = q.from_ms // step_ms, -(-q.to_ms // step_ms)
    at_ms = np.arange(first, end, dtype=np.int64) * step_ms
    place = {(column.metric, column.component): row for row, column in enumerate(steps.columns)}
    where = (steps.at_ms // step_ms - first).astype(np.intp)
    inside = (where >= 0) & (where < len(at_ms))
    where = where[inside]
    covered = place.get(("looks covered_ms", ""))
    covered_ms = np.zeros(len(steps)) if covered is None else steps.scaled[covered].astype(np.float64)
    looks_place = place.get(("looks count", ""))
    looks = np.ones(len(steps)) if looks_place is None else np.maximum(steps.scaled[looks_place], 1)
    coverage = _share(float(covered_ms[inside].sum()), q)
    lines = []
    known = {(metric.removesuffix(" count"), component) for metric, component in place if metric.endswith(" count")} - {
        rollup.LOOKS
    }
    for metric, component in rollup.ordered(known | (q.wanted or frozenset())):
        told = METRICS.get(metric)
        kind = "gauge" if told is None else told.kind
        unit = "" if told is None else told.unit
        counted = place.get((f"{metric} count", component))
        counts = np.zeros(len(steps), np.int64) if counted is None else np.where(steps.there(counted), steps.scaled[counted], 0)
        count = np.zeros(len(at_ms), np.int64)
        count[where] = counts[inside]
        mine_ms = np.minimum(covered_ms * counts / looks, step_ms)
        stats: dict[str, Array] = {"count": count}
        for stat in ("avg", "min", "max", "last", "rise"):
            row = place.get((f"{metric} {stat}", component))
            if row is not None:
                unit = unit if told is not None else steps.columns[row].unit
                exact = steps.shown(row) if stat in ("last", "rise") else steps.floats(row)
                stats[stat] = _spread(exact, where, inside, len(at_ms))
        if kind == "counter" and "rise" in stats:
            _from_before(steps, place, (metric, component), stats, where, inside)
        if q.rate:
            stats = _rate(stats, _summed(where, mine_ms[inside], len(at_ms)))
            unit = f"{unit}/s"
        lines.append(Line(metric, component, unit, kind, _share(float(mine_ms[inside].sum()), q), stats))
    return Answer(q.from_ms, q.to_ms, step_ms, level, q.rate, coverage, unreadable, at_ms, lines)


def _spread(values: Array, where: Slots, inside: Flags, length: int) -> Array:
    """Over all steps; None or NaN where there is none."""
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        found = np.full(length, np.nan)
        found[where] = values[inside]
        return found
    spread: list[int | float | None] = [None] * length
    told = values.tolist() if isinstance(values, np.ndarray) else values
    for place, value in zip(where.tolist(), np.array(told, object)[inside].tolist(), strict=True):
        spread[place] = value
    return spread


def _from_before(
    steps: Table,
    place: Mapping[Series, int],
    series: Series,
    stats: dict[str, Array],
    where: Slots,
    inside: Flags,
) -> None:
    """A counter also rises from one step into the next."""
    metric, component = series
    first, last = (place.get((f"{metric} {stat}", component)) for stat in ("first", "last"))
    if first is None or last is None:
        return
    rows = np.flatnonzero(inside & steps.there(first))
    if len(rows) < 2:
        return
    slot = np.full(len(steps), -1)
    slot[inside] = where
    beside = slot[rows[1:]] - slot[rows[:-1]] == 1
    risen = rollup.rise(steps.scaled[last, rows[:-1]], steps.scaled[first, rows[1:]])
    rise = list(stats["rise"])
    for row, more in zip(rows[1:][beside].tolist(), risen[beside].tolist(), strict=True):
        rise[slot[row]] = (rise[slot[row]] or 0) + more
    stats["rise"] = rise


def _rate(stats: Mapping[str, Array], covered_ms: Floats) -> dict[str, Array]:
    """A second. Of roll-ups only the average is known."""
    risen = np.array([np.nan if rise is None else rise for rise in stats.get("rise", [np.nan] * len(covered_ms))], np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"count": stats["count"], "avg": np.where(covered_ms > 0, risen / covered_ms * 1000, np.nan)}


# ---- rates: pure -------------------------------------------------------------------------------------------


def rates(at_ms: Ints, scaled: Ints, there: Flags) -> tuple[Floats, Ints]:
    """How fast a counter rose in the `over_ms` before each look, a second. After a reset (the value is lower) it rose from zero.
    NaN: the look has no value, or its neighbour before is too far away, or there is none."""
    values = np.full(len(at_ms), np.nan)
    over_ms = np.zeros(len(at_ms), np.int64)
    known = np.flatnonzero(there)
    if len(known) < 2:
        return values, over_ms
    distance = np.diff(at_ms[known])
    near = (distance > 0) & (distance <= gap_ms(at_ms))
    risen = rollup.rise(scaled[known[:-1]], scaled[known[1:]])
    rows = known[1:][near]
    values[rows] = risen[near] / distance[near] * 1000
    over_ms[rows] = distance[near]
    return values, over_ms


def gap_ms(at_ms: Ints) -> float:
    """Looks further apart than this are no neighbours."""
    distances = np.diff(at_ms)
    distances = distances[distances > 0]
    return max(float(rollup.GAP_MS), 3.0 * rollup.middle(distances)) if len(distances) else float(rollup.GAP_MS)


def _rate_steps(looks: Table, q: Question, step_ms: int, unreadable: int) -> Answer:
    """The average of a step is weighted by the time that each rate covers."""
    first, end = q.from_ms // step_ms, -(-q.to_ms // step_ms)
    at_ms = np.arange(first, end, dtype=np.int64) * step_ms
    where = (looks.at_ms // step_ms - first).astype(np.intp)
    lines = []
    for column, parts in _series(looks, q):
        values, over_ms = rates(looks.at_ms, parts.scaled[0], parts.there(0))
        values = values / 10**column.decimals
        known = ~np.isnan(values)
        slots, told, weight = where[known], values[known], over_ms[known]
        count = np.bincount(slots, minlength=len(at_ms))
        weights, total = _summed(slots, weight, len(at_ms)), _summed(slots, told * weight, len(at_ms))
        low, high, last = (np.full(len(at_ms), np.nan) for _ in range(3))
        np.fmin.at(low, slots, told)
        np.fmax.at(high, slots, told)
        last[slots] = told
        avg = np.where(weights > 0, total / np.maximum(weights, 1), np.nan)
        covered = _share(int(weight.sum()), q)
        stats: dict[str, Array] = {"count": count, "avg": avg, "min": low, "max": high, "last": last}
        lines.append(Line(column.metric, column.component, f"{column.unit}/s", "counter", covered, stats))
    coverage = _share(int(rollup.covers_ms(looks.at_ms).sum()), q)
    return Answer(q.from_ms, q.to_ms, step_ms, Level.RAW, True, coverage, unreadable, at_ms, lines)


def _summed(slots: Slots, weights: Floats | Ints, length: int) -> Floats:
    found: Floats = np.bincount(slots, weights=weights, minlength=length).astype(np.float64)
    return found


def _share(covered_ms: float, q: Question) -> float:
    return round(min(1.0, max(0.0, covered_ms / (q.to_ms - q.from_ms))), 4)
