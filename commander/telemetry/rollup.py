"""From looks to steps, and from steps to longer steps. Pure.

A table of steps is a table whose rows are steps (`at_ms`: where one begins; steps without a look are not there) and whose
columns are named "hashrate_hs avg", "accepted rise", … Every step is made of its own looks alone, so that steps can be put
together in any order: a counter keeps its first and last value and its rise between them, and the rise from one step into
the next is found when they stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from commander.telemetry.columns import Flags, Ints
from commander.telemetry.table import Table, empty, interned, merged, place_of, united
from garrison.catalogue import METRICS
from garrison.frame import Column, Series

Stats = tuple[str, ...]
Floats = NDArray[np.float64]

GAP_MS = 60_000
"""Neighbours are at most this far apart, or three times their usual distance where that is more."""

AVG_DIGITS = 5
"""Averages are kept to 1 part in 10^5 of the largest of their block: more is noise that costs disk for years."""

COUNTER: Stats = ("count", "first", "last", "rise")
STATE: Stats = ("count", "last")
EVERY: Stats = ("count", "avg", "min", "max", "last")

LOOKS: Series = ("looks", "")
LOOKS_COUNT: Series = ("looks count", "")
POWER: Series = ("power_w", "")
SOURCE: Series = ("power_source", "")
ENERGY: Stats = ("measured_j", "reported_j", "estimated_j")
"""By the source of the power: an outlet's meter, the miner itself, a configured or nameplate value. Without a source it is the
miner's own word."""
ENERGY_OF_SOURCE = {1: 0, 2: 1, 3: 2, 4: 2}

_LARGEST = np.iinfo(np.int64).max
_SMALLEST = np.iinfo(np.int64).min


def kept_stats(column: Column) -> Stats:
    """What roll-ups keep of it."""
    metric = METRICS.get(column.metric)
    if metric is None:  # of a newer sentry
        return ("count", "avg", "min", "max")
    if metric.kind == "counter":
        return COUNTER
    return ("count", *(metric.parts if column.component else metric.roll_up))


def every_stat(column: Column) -> Stats:
    """What an answer made from looks can show of it."""
    metric = METRICS.get(column.metric)
    return (*EVERY, "first", "rise") if metric is not None and metric.kind == "counter" else EVERY


@lru_cache(50_000)
def stat_column(column: Column, stat: str) -> Column:
    if stat == "count":
        return Column(f"{column.metric} count", column.component, "1", 0)
    if stat == "avg":
        return Column(f"{column.metric} avg", column.component, column.unit, min(12, column.decimals + 1))
    return Column(f"{column.metric} {stat}", column.component, column.unit, column.decimals)


def ordered(series: Iterable[Series]) -> list[Series]:
    """As the catalogue orders them."""
    return sorted(series, key=place_of)


def looks(steps: Table) -> Ints:
    """Of how many each step was made."""
    found: Ints = steps.scaled[steps.places_of(LOOKS_COUNT)].sum(axis=0)
    return found


def fuller(known: Table, made: Table) -> Table:
    """Step by step the one that was made of more looks, and of as many the one made now. Where the looks of a time are kept no
    more, what comes late fills gaps and replaces nothing."""
    if not len(known) or not len(made):
        return merged([known, made])
    _, old, new = np.intersect1d(known.at_ms, made.at_ms, assume_unique=True, return_indices=True)
    fewer = looks(made)[new] < looks(known)[old]
    rest, fresh = np.ones(len(known), np.bool_), np.ones(len(made), np.bool_)
    rest[old[~fewer]] = False
    fresh[new[fewer]] = False
    return merged([known.chosen(np.flatnonzero(rest)), made.chosen(np.flatnonzero(fresh))])


# ---- from looks --------------------------------------------------------------------------------------------


def steps(table: Table, step_ms: int, stats_of: Callable[[Column], Stats] = kept_stats, digits: int | None = AVG_DIGITS) -> Table:
    """The steps that these looks make, which begin at whole multiples of the step. `digits`: of averages; None: as many as there
    are."""
    if not len(table):
        return empty()
    number = table.at_ms // step_ms
    starts = _starts(number)
    made: dict[Column, tuple[Ints, Flags | None]] = {}
    cover_ms = covers_ms(table.at_ms)
    made[Column("looks count", "", "1", 0)] = np.diff(np.append(starts, len(table))), None
    made[Column("looks covered_ms", "", "ms", 0)] = np.add.reduceat(cover_ms, starts), None
    scaled, valid = _settled(table)
    for stats in sorted({stats_of(column) for column in table.columns}):
        places = [place for place, column in enumerate(table.columns) if stats_of(column) == stats]
        found = _reduced(scaled[places], None if valid is None else valid[places], starts, stats, digits)
        for row, place in enumerate(places):
            for stat, (values, there) in found.items():
                made[stat_column(table.columns[place], stat)] = (values[row], None if there is None else there[row])
    for stat, joules in zip(ENERGY, energy_j(table), strict=True):
        if joules.any():
            made[Column(f"power_w {stat}", "", "J", 0)] = np.rint(np.add.reduceat(joules, starts)).astype(np.int64), None
    return _assembled(number[starts] * step_ms, made)


def covers_ms(at_ms: Ints) -> Ints:
    """For how long each look speaks: until the next, but over no gap; the last one for the usual time."""
    if len(at_ms) < 2:
        return np.full(len(at_ms), GAP_MS // 2, np.int64)
    distances = at_ms[1:] - at_ms[:-1]
    usual = middle(distances)
    longest = max(GAP_MS, 3 * usual)
    found = np.empty(len(at_ms), np.int64)
    np.copyto(found[:-1], distances)
    found[:-1][distances > longest] = min(usual, longest)
    found[-1] = usual
    return found


def middle(numbers: Ints) -> int:
    """The median, rounded down. As `np.median`, which takes five times as long for a day of looks."""
    half = len(numbers) // 2
    if len(numbers) % 2:
        return int(np.partition(numbers, half)[half])
    low, high = np.partition(numbers, (half - 1, half))[half - 1 : half + 1].tolist()
    return int((low + high) // 2)


def energy_j(table: Table) -> Floats:
    """Joules that begin with each look, by source: 3 x looks. Between neighbours power is taken to change evenly."""
    found = np.zeros((len(ENERGY), len(table)))
    places = table.places_of(POWER)
    if not places or not len(table):
        return found
    power = _joined(table, places)
    there = np.flatnonzero(~np.isnan(power))
    if not len(there):
        return found
    source = np.full(len(table), 1, np.intp)
    for place in table.places_of(SOURCE):
        told = table.there(place)
        for code, row in ENERGY_OF_SOURCE.items():
            source[told & (table.scaled[place] == code)] = row
    at_ms, watts = table.at_ms[there], power[there]
    lasting_ms = covers_ms(at_ms)
    neighbours = lasting_ms[:-1] == np.diff(at_ms)
    mean = watts.copy()
    mean[:-1][neighbours] = (watts[:-1][neighbours] + watts[1:][neighbours]) / 2
    found[source[there], there] = mean * lasting_ms / 1000
    return found


def power_covers_ms(table: Table) -> Ints:
    """For how long the power of each look counts; 0 where it has none."""
    found = np.zeros(len(table), np.int64)
    places = table.places_of(POWER)
    if places:
        there = np.flatnonzero(~np.isnan(_joined(table, places)))
        found[there] = covers_ms(table.at_ms[there])
    return found


def energy_of_steps(steps: Table, step_ms: int, from_ms: int, to_ms: int) -> tuple[list[float], float]:
    """(kWh by source, share of the time covered) of [from, to); of a step that lies within in part, that part."""
    begin, end = np.maximum(steps.at_ms, from_ms), np.minimum(steps.at_ms + step_ms, to_ms)
    share = np.maximum(end - begin, 0) / step_ms
    place_of = {(column.metric, column.component): place for place, column in enumerate(steps.columns)}
    kwh = []
    for stat in ENERGY:
        place = place_of.get((f"power_w {stat}", ""))
        joules = np.zeros(len(steps)) if place is None else np.nan_to_num(steps.floats(place))
        kwh.append(float((joules * share).sum()) / 3.6e6)
    covered, looks, powered = (
        place_of.get(name) for name in (("looks covered_ms", ""), ("looks count", ""), ("power_w count", ""))
    )
    if covered is None or looks is None or powered is None:
        return kwh, 0.0
    powered_share = steps.scaled[powered] / np.maximum(steps.scaled[looks], 1)
    covered_ms = float((steps.scaled[covered] * powered_share * share).sum())
    return kwh, min(1.0, covered_ms / (to_ms - from_ms))


def _joined(table: Table, places: Sequence[int]) -> Floats:
    power = table.floats(places[0])
    for place in places[1:]:
        also = table.floats(place)
        power = np.where(np.isnan(power), also, power)
    return power


def _settled(table: Table) -> tuple[Ints, Flags | None]:
    """Exact values that do not fit their column's decimals are rounded to them; what is too large is left out."""
    if not table.odd:
        return table.scaled, table.valid
    scaled = table.scaled.copy()
    valid = np.ones(scaled.shape, np.bool_) if table.valid is None else table.valid.copy()
    for (place, row), value in table.odd.items():
        rounded = value * 10 ** table.columns[place].decimals
        if abs(rounded) < 2**62:
            scaled[place, row] = round(rounded)
        else:
            valid[place, row] = False
    return scaled, valid


def _reduced(
    scaled: Ints, valid: Flags | None, starts: Ints, stats: Stats, digits: int | None
) -> dict[str, tuple[Ints, Flags | None]]:
    """Columns by steps for each stat."""
    rows = np.arange(scaled.shape[1])
    ends = np.append(starts[1:], len(rows))
    if valid is None:
        count = np.broadcast_to(ends - starts, (len(scaled), len(starts)))
        there = None
    else:
        count = np.add.reduceat(valid, starts, axis=1, dtype=np.int64)
        there = count > 0
    found: dict[str, tuple[Ints, Flags | None]] = {}
    for stat in stats:
        match stat:
            case "count":
                found[stat] = np.ascontiguousarray(count), None
            case "avg":
                known = scaled if valid is None else np.where(valid, scaled, 0)
                total = np.add.reduceat(known, starts, axis=1, dtype=np.float64)
                found[stat] = _rounded(total * 10 / np.maximum(count, 1), digits), there
            case "min":
                found[stat] = (
                    np.minimum.reduceat(scaled if valid is None else np.where(valid, scaled, _LARGEST), starts, axis=1),
                    there,
                )
            case "max":
                found[stat] = (
                    np.maximum.reduceat(scaled if valid is None else np.where(valid, scaled, _SMALLEST), starts, axis=1),
                    there,
                )
            case "first":
                found[stat] = _picked(scaled, valid, starts, rows, np.minimum, len(rows)), there
            case "last":
                chosen = scaled[:, ends - 1] if valid is None else _picked(scaled, valid, starts, rows, np.maximum, -1)
                found[stat] = chosen, there
            case "rise":
                found[stat] = _rises(scaled, valid, starts), there
    return found


def _picked(scaled: Ints, valid: Flags | None, starts: Ints, rows: Ints, choose: np.ufunc, none: int) -> Ints:
    """The first or last value there is in each step."""
    if valid is None:
        return scaled[:, starts]
    where = choose.reduceat(np.where(valid, rows, none), starts, axis=1)
    return np.take_along_axis(scaled, np.clip(where, 0, len(rows) - 1), axis=1)


def _rises(scaled: Ints, valid: Flags | None, starts: Ints) -> Ints:
    """By how much a counter rose between the looks of each step. One that starts again rose from zero."""
    found = np.zeros((len(scaled), len(starts)), np.int64)
    step_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, scaled.shape[1])))
    for place, values in enumerate(scaled):
        there = slice(None) if valid is None else np.flatnonzero(valid[place])
        known, step = values[there], step_of[there]
        risen = rise(known[:-1], known[1:])
        inside = step[1:] == step[:-1]
        np.add.at(found[place], step[1:][inside], risen[inside])
    return found


def rise(before: Ints, after: Ints) -> Ints:
    """Of a counter, across resets."""
    return np.where(after >= before, after - before, after)


def _rounded(values: Floats, digits: int | None) -> Ints:
    """To so many digits of the largest."""
    if digits is None:
        return np.rint(values).astype(np.int64)
    largest = np.abs(values).max(axis=-1, initial=0.0, keepdims=True)
    unit = 10.0 ** np.maximum(0, np.floor(np.log10(np.maximum(largest, 1))) + 1 - digits)
    rounded: Ints = (np.rint(values / unit) * unit).astype(np.int64)
    return rounded


# ---- from steps --------------------------------------------------------------------------------------------


def coarser(table: Table, step_ms: int) -> Table:
    """Longer steps out of shorter ones; `step_ms` is a multiple of theirs."""
    if not len(table):
        return table
    number = table.at_ms // step_ms
    starts = _starts(number)
    if len(starts) == len(table) and bool((table.at_ms == number * step_ms).all()):
        return table
    made: dict[Column, tuple[Ints, Flags | None]] = {}
    place_of = {column: place for place, column in enumerate(table.columns)}
    step_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(table))))
    for place, column in enumerate(table.columns):
        metric, _, stat = column.metric.rpartition(" ")
        valid = None if table.valid is None else table.valid[place : place + 1]
        values = table.scaled[place : place + 1]
        if stat in ("count", "covered_ms", *ENERGY):
            known = values if valid is None else np.where(valid, values, 0)
            made[column] = np.add.reduceat(known, starts, axis=1)[0], None
        elif stat == "avg":
            count = place_of.get(Column(f"{metric} count", column.component, "1", 0))
            made[column] = _weighed(values[0], valid, None if count is None else table.scaled[count], starts)
        elif stat == "rise":
            made[column] = _risen(table, place_of, column, step_of, len(starts))
        else:
            done, there = _reduced(values, valid, starts, (stat,), None)[stat]
            made[column] = done[0], None if there is None else there[0]
    return _assembled(number[starts] * step_ms, made)


def _weighed(values: Ints, valid: Flags | None, count: Ints | None, starts: Ints) -> tuple[Ints, Flags | None]:
    weight = np.ones(len(values)) if count is None else count.astype(np.float64)
    if valid is not None:
        weight = np.where(valid[0], weight, 0.0)
    weights = np.add.reduceat(weight, starts)
    total = np.add.reduceat(values * weight, starts)
    return _rounded(total / np.maximum(weights, 1e-9), AVG_DIGITS), None if valid is None else weights > 0


def _risen(
    table: Table, place_of: dict[Column, int], column: Column, step_of: NDArray[np.intp], count: int
) -> tuple[Ints, Flags | None]:
    """The rise within the steps and from each to the next."""
    metric = column.metric.removesuffix(" rise")
    place = place_of[column]
    there = np.arange(len(table)) if table.valid is None else np.flatnonzero(table.valid[place])
    found = np.zeros(count, np.int64)
    np.add.at(found, step_of[there], table.scaled[place, there])
    first, last = (
        place_of.get(Column(f"{metric} {stat}", column.component, column.unit, column.decimals)) for stat in ("first", "last")
    )
    if first is not None and last is not None:
        between = rise(table.scaled[last, there[:-1]], table.scaled[first, there[1:]])
        inside = step_of[there[1:]] == step_of[there[:-1]]
        np.add.at(found, step_of[there[1:]][inside], between[inside])
    if table.valid is None:
        return found, None
    seen = np.zeros(count, np.bool_)
    seen[step_of[there]] = True
    return found, seen


def _starts(number: Ints) -> Ints:
    return np.flatnonzero(np.append(True, number[1:] != number[:-1]))


@lru_cache(1_000)
def _united(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The same object for all devices that are read alike."""
    return interned(united(columns))


def _assembled(at_ms: Ints, made: dict[Column, tuple[Ints, Flags | None]]) -> Table:
    columns = _united(tuple(made))
    scaled = np.array([made[column][0] for column in columns], np.int64).reshape(len(columns), len(at_ms))
    valid: Flags | None = None
    if any(there is not None for _, there in made.values()):
        valid = np.ones(scaled.shape, np.bool_)
        for place, column in enumerate(columns):
            there = made[column][1]
            if there is not None:
                valid[place] = there
    return Table(columns, at_ms, scaled, valid)
