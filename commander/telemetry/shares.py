"""What devices add to the totals of their groups, step by step. Pure.

All devices of a round are reckoned together: their looks lie one behind the other, and a segment is one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commander.telemetry import rollup
from commander.telemetry.columns import Ints
from commander.telemetry.levels import STEP_MS
from commander.telemetry.live import TOTALLED
from commander.telemetry.rollup import ENERGY, ENERGY_OF_SOURCE, GAP_MS, Floats
from commander.telemetry.table import Table
from commander.telemetry.totals_store import Group, Total
from garrison.catalogue import METRICS
from garrison.frame import Series

ENERGIES: tuple[str, ...] = tuple(f"power_w {stat}" for stat in ENERGY)
LINES: tuple[str, ...] = (*TOTALLED, *ENERGIES)
"""What totals are kept of: metrics of the catalogue, and energy by the source of the power."""

NEEDED: frozenset[Series] = frozenset({*((metric, "") for metric in TOTALLED), rollup.SOURCE})
_ROW = {(metric, ""): row for row, metric in enumerate((*TOTALLED, "power_source"))}
_POWER, _SOURCE = TOTALLED.index("power_w"), len(TOTALLED)
_TINY = 1e-9

Slots = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Part:
    """Looks of one device, and the whole steps in [first_ms, end_ms) that are asked for. The table may begin a step earlier: a
    counter rises across steps too."""

    table: Table
    first_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Shares:
    """A column for each device and step that has looks. `device`: place of its part. By lines: how much each adds. NaN in `min` and
    `max`: no value."""

    device: Slots
    at_ms: Ints
    devices: Floats
    covered: Floats
    sum: Floats
    min: Floats
    max: Floats


GroupsDuring = Callable[[int, int, int], Sequence[tuple[int, int, Sequence[Group]]]]
"""(place of the part, first_ms, end_ms) to the groups of its device in spans of that time."""


def shares(parts: Sequence[Part]) -> Shares:
    """Of all parts, each by itself."""
    values, at_ms, device = _joined(parts)
    size = values.shape[1]
    if not size:
        none = np.zeros((len(LINES), 0))
        return Shares(np.zeros(0, np.intp), np.zeros(0, np.int64), none, none, none, none, none)
    number = at_ms // STEP_MS
    starts = np.flatnonzero(np.concatenate([[True], (number[1:] != number[:-1]) | (device[1:] != device[:-1])]))
    step_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, size)))
    there = ~np.isnan(values)
    lasting_ms = covers_ms(at_ms, device)
    count = np.add.reduceat(there, starts, axis=1, dtype=np.float64)
    shape = (len(LINES), len(starts))
    devices, covered, total = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    gauges = [row for row, metric in enumerate(TOTALLED) if METRICS[metric].kind != "counter"]
    counters = [row for row, metric in enumerate(TOTALLED) if METRICS[metric].kind == "counter"]
    devices[: len(TOTALLED)] = count[: len(TOTALLED)] > 0
    covered[: len(TOTALLED)] = np.add.reduceat(there[: len(TOTALLED)] * lasting_ms, starts, axis=1) / STEP_MS
    known = np.where(there[gauges], values[gauges], 0.0)
    total[gauges] = np.add.reduceat(known, starts, axis=1) / np.maximum(count[gauges], 1)
    low[gauges] = np.fmin.reduceat(values[gauges], starts, axis=1)
    high[gauges] = np.fmax.reduceat(values[gauges], starts, axis=1)
    for row in counters:
        risen = _risen(values[row], there[row], number, device, step_of, len(starts))
        total[row] = risen
        low[row] = high[row] = np.where(devices[row] > 0, risen, np.nan)
    for line, (joules, powered_ms) in enumerate(_energy(values, at_ms, device, step_of, len(starts)), start=len(TOTALLED)):
        devices[line], covered[line], total[line] = joules > 0, powered_ms / STEP_MS, joules
        low[line] = high[line] = np.where(joules > 0, joules, np.nan)
    begins = number[starts] * STEP_MS
    of = device[starts]
    asked = (begins >= np.array([part.first_ms for part in parts])[of]) & (begins < np.array([part.end_ms for part in parts])[of])
    cut = [column[:, asked] for column in (devices, covered, total, low, high)]
    return Shares(of[asked], begins[asked], *cut)


def totals(before: Shares, after: Shares, parts: Sequence[Part], groups_during: GroupsDuring) -> list[Total]:
    """What changes in the totals when the parts' devices go from what they added before to what they add after."""
    names: dict[Group, int] = {}
    spans = [(place, *span) for place, part in enumerate(parts) for span in groups_during(place, part.first_ms, part.end_ms)]
    every = np.unique(np.concatenate([before.at_ms, after.at_ms]))
    changed: dict[str, Floats] = {}
    sides = [_grouped(side, spans, names, every) for side in (before, after)]
    size = len(names) * len(every)
    if not size:
        return []
    for stat in ("devices", "covered", "sum"):
        sums = [
            _summed(getattr(side, stat)[:, rows], slots, size) for side, (rows, slots) in zip((before, after), sides, strict=True)
        ]
        changed[stat] = sums[1] - sums[0]
    rows, slots = sides[1]
    low, high = np.full((len(LINES), size), np.nan), np.full((len(LINES), size), np.nan)
    for line in range(len(LINES)):
        np.fmin.at(low[line], slots, after.min[line, rows])
        np.fmax.at(high[line], slots, after.max[line, rows])
    moved = (np.abs(changed["devices"]) > _TINY) | (np.abs(changed["covered"]) > _TINY) | (np.abs(changed["sum"]) > _TINY)
    groups = list(names)
    found = []
    lines, where = np.nonzero(moved)
    columns = [changed[stat][lines, where].tolist() for stat in ("devices", "covered", "sum")]
    columns += [low[lines, where].tolist(), high[lines, where].tolist()]
    at_ms = every[where % len(every)].tolist()
    for line, slot, at, devices, covered, total, least, most in zip(lines.tolist(), where.tolist(), at_ms, *columns, strict=True):
        group = groups[slot // len(every)]
        known = least == least  # not NaN
        found.append(Total(group, LINES[line], at, devices, covered, total, least if known else None, most if known else None))
    return found


def covers_ms(at_ms: Ints, device: Slots) -> Ints:
    """As `rollup.covers_ms`, of each device by itself."""
    size = len(at_ms)
    last = np.concatenate([device[1:] != device[:-1], [True]])
    distance = np.zeros(size, np.int64)
    distance[:-1] = at_ms[1:] - at_ms[:-1]
    inner = np.flatnonzero(~last)
    # the median distance of each device: the middle ones when they are sorted within it
    order = inner[np.lexsort((distance[inner], device[inner]))]
    counts = np.bincount(device[inner], minlength=int(device[-1]) + 1)
    ends = np.cumsum(counts)
    begins = ends - counts
    some = counts > 0
    usual = np.full(len(counts), GAP_MS // 2, np.int64)
    upper, lower = begins + counts // 2, begins + (counts - 1) // 2
    usual[some] = (distance[order[upper[some]]] + distance[order[lower[some]]]) // 2
    mine = usual[device]
    longest = np.maximum(GAP_MS, 3 * mine)
    return np.where(last, mine, np.where(distance <= longest, distance, np.minimum(mine, longest)))


def _joined(parts: Sequence[Part]) -> tuple[Floats, Ints, Slots]:
    """Values by `_ROW` and looks of all parts; NaN where there is none."""
    tables = [part.table.between(part.first_ms - STEP_MS, part.end_ms) for part in parts]
    lengths = [len(table) for table in tables]
    values = np.full((len(_ROW), sum(lengths)), np.nan)
    at_ms = np.concatenate([table.at_ms for table in tables]) if tables else np.zeros(0, np.int64)
    where: dict[int, tuple[list[int], list[int], Floats]] = {}  # by identity: the tables hold the columns
    first = 0
    for table, length in zip(tables, lengths, strict=True):
        if id(table.columns) not in where:
            pairs = [(i, _ROW[c.metric, c.component]) for i, c in enumerate(table.columns) if (c.metric, c.component) in _ROW]
            units = np.array([[10.0 ** table.columns[i].decimals] for i, _ in pairs]).reshape(-1, 1)
            where[id(table.columns)] = [i for i, _ in pairs], [row for _, row in pairs], units
        places, rows, units = where[id(table.columns)]
        told = table.scaled[places] / units
        for (place, row), value in table.odd.items():
            if place in places:
                told[places.index(place), row] = value
        if table.valid is not None:
            told[~table.valid[places]] = np.nan
        if len(set(rows)) == len(rows):
            values[rows, first : first + length] = told
        else:  # one metric in two layouts of one device
            for row, line in zip(rows, told, strict=True):
                here = values[row, first : first + length]
                np.copyto(here, line, where=np.isnan(here))
        first += length
    return values, at_ms, np.repeat(np.arange(len(parts)), lengths)


def _risen(values: Floats, there: NDArray[np.bool_], number: Ints, device: Slots, step_of: Slots, steps: int) -> Floats:
    """Into each step: what a counter rose between looks of it, and from the step before, if that is its neighbour."""
    known = np.flatnonzero(there)
    before, after = known[:-1], known[1:]
    near = (device[before] == device[after]) & (number[after] - number[before] <= 1)
    before, after = before[near], after[near]
    risen = np.where(values[after] >= values[before], values[after] - values[before], values[after])
    return _counted(step_of[after], risen, steps)


def _energy(values: Floats, at_ms: Ints, device: Slots, step_of: Slots, steps: int) -> Iterable[tuple[Floats, Floats]]:
    """Joules, and for how long, of each source."""
    there = np.flatnonzero(~np.isnan(values[_POWER]))
    if not len(there):
        return [(np.zeros(steps), np.zeros(steps)) for _ in ENERGY]
    at_ms, device, watts = at_ms[there], device[there], values[_POWER, there]
    lasting_ms = covers_ms(at_ms, device)
    mean = watts.copy()
    beside = np.zeros(len(there), np.bool_)
    beside[:-1] = (device[1:] == device[:-1]) & (lasting_ms[:-1] == at_ms[1:] - at_ms[:-1])
    pairs = np.flatnonzero(beside)
    mean[pairs] = (watts[pairs] + watts[pairs + 1]) / 2
    source = np.full(len(there), ENERGY_OF_SOURCE[2], np.intp)
    for code, row in ENERGY_OF_SOURCE.items():
        source[values[_SOURCE, there] == code] = row
    joules = mean * lasting_ms / 1000
    found = []
    for row in range(len(ENERGY)):
        mine = source == row
        slots = step_of[there[mine]]
        found.append((_counted(slots, joules[mine], steps), _counted(slots, lasting_ms[mine].astype(np.float64), steps)))
    return found


def _grouped(
    side: Shares, spans: Sequence[tuple[int, int, int, Sequence[Group]]], names: dict[Group, int], every: Ints
) -> tuple[Slots, Slots]:
    """Columns of `side`, each as often as its device has groups, and where each counts: group times step."""
    devices = [place for place, *_ in spans]
    begins = np.searchsorted(side.device, devices).tolist()
    ends = np.searchsorted(side.device, devices, side="right").tolist()
    step = np.searchsorted(every, side.at_ms)
    rows: list[Slots] = []
    slots: list[Slots] = []
    for (_, from_ms, to_ms, groups), begin, end in zip(spans, begins, ends, strict=True):
        mine = np.arange(begin, end)
        at_ms = side.at_ms[begin:end]
        if len(mine) and (at_ms[0] < from_ms or at_ms[-1] >= to_ms):
            mine = mine[(at_ms >= from_ms) & (at_ms < to_ms)]
        for group in groups:
            number = names.setdefault(group, len(names))
            rows.append(mine)
            slots.append(step[mine] + number * len(every))
    none: Slots = np.zeros(0, np.intp)
    return (np.concatenate(rows), np.concatenate(slots)) if rows else (none, none)


def _summed(values: Floats, slots: Slots, size: int) -> Floats:
    return np.array([_counted(slots, line, size) for line in values])


def _counted(slots: Slots, values: Floats, size: int) -> Floats:
    found: Floats = np.bincount(slots, weights=values, minlength=size).astype(np.float64)
    return found
