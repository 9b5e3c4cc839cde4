"""What unsealed samples add to the totals of groups: per device and 5-minute step, in memory.

Sealing writes totals from the samples themselves and is exact; this is what a screen shows of the minutes before. Samples from
`sealed_ms` of their post on are here, earlier ones are in the totals or come into them with the next sealing, so that
nothing counts twice. Rebuilt from hot frames at the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from commander.telemetry.columns import Ints, Look
from commander.telemetry.levels import STEP_MS
from commander.telemetry.rollup import GAP_MS
from garrison.catalogue import METRICS
from garrison.frame import Layout

Floats = NDArray[np.float64]

TOTALLED: tuple[str, ...] = tuple(metric.name for metric in METRICS.values() if metric.totals)
_PLACE = {metric: place for place, metric in enumerate(TOTALLED)}
_COUNTERS = np.array([METRICS[metric].kind == "counter" for metric in TOTALLED])
MOST_STEPS = 12
"""Steps a post may have here, the newest: sealing comes four times in that hour. Of a backlog that is longer, or of a clock that
jumps about, the older ones are in the totals once they are sealed."""


@dataclass(slots=True)
class _Step:
    """Metrics by slots."""

    count: NDArray[np.int32]
    sum: Floats  # of a gauge's values; of what a counter rose
    min: Floats
    max: Floats
    covered_ms: Floats  # by slots


@dataclass(slots=True)
class _Post:
    sealed_ms: int
    slots: dict[int, int] = field(default_factory=dict)
    given: int = 0  # slots so far
    steps: dict[int, _Step] = field(default_factory=dict)
    last_ms: Ints = field(default_factory=lambda: np.full(16, -1, np.int64))
    last: Floats = field(default_factory=lambda: np.full((len(TOTALLED), 16), np.nan))  # of counters; NaN: none yet


@dataclass(frozen=True, slots=True)
class DeviceSteps:
    """One metric of the devices of a post in one step, copied: `count` 0 where a device gave no value."""

    post: str
    at_ms: int
    keys: tuple[int, ...]
    count: NDArray[np.int32]
    value: Floats  # average, or rise
    min: Floats
    max: Floats
    covered: Floats  # share of the step


class Live:
    """On the event loop only. `sealed_ms`: post to the time before which everything is sealed or will be."""

    def __init__(self, sealed_ms: Mapping[str, int]) -> None:
        self._posts = {post: _Post(at_ms) for post, at_ms in sealed_ms.items()}
        self._places: dict[bytes, tuple[list[int], list[int], Floats]] = {}

    def take(self, post: str, look: Look) -> None:
        """A durable look, once."""
        places, rows, units = self._places_in(look.layout)
        if not rows:
            return
        state = self._posts.setdefault(post, _Post(0))
        chosen = np.flatnonzero(look.at_ms >= state.sealed_ms)
        if not len(chosen):
            return
        slots = np.array([self._slot(state, key) for key in look.keys[chosen].tolist()], np.intp)
        numbers = look.at_ms[chosen] // STEP_MS
        for number in np.unique(numbers).tolist():
            here = numbers == number
            part, where = chosen[here], slots[here]
            while len(part):  # a device twice in one look: one after the other
                _, first = np.unique(where, return_index=True)
                self._add(state, number, look, part[first], where[first], (places, rows, units))
                rest = np.ones(len(part), np.bool_)
                rest[first] = False
                part, where = part[rest], where[rest]

    def sealed(self, post: str, until_ms: int) -> None:
        """The post's samples before `until_ms` are in the totals now."""
        state = self._posts.setdefault(post, _Post(0))
        state.sealed_ms = until_ms
        for number in [number for number in state.steps if number * STEP_MS < until_ms]:
            del state.steps[number]

    def set_back(self, post: str, sealed_ms: int, looks: Iterable[Look]) -> None:
        """The post's samples are in the totals only until then; `looks`: those since."""
        self._posts[post] = _Post(sealed_ms)
        for look in looks:
            self.take(post, look)

    def forget(self, keys: Iterable[int]) -> None:
        """Devices that are gone for good; their slots are not used again before the next start."""
        gone = set(keys)
        for state in self._posts.values():
            for key in gone & state.slots.keys():
                state.last[:, state.slots.pop(key)] = np.nan

    def device_steps(self, metric: str, from_ms: int, to_ms: int) -> list[DeviceSteps]:
        """Copies, so that another thread may work on them. Of a metric without totals there are none."""
        place = _PLACE.get(metric)
        found: list[DeviceSteps] = []
        if place is None:
            return found
        for post, state in self._posts.items():
            known = tuple(state.slots)
            slots = np.fromiter(state.slots.values(), np.intp, len(known))
            for number, step in state.steps.items():
                if from_ms <= number * STEP_MS < to_ms:
                    inside = slots[slots < step.count.shape[1]]
                    keys = known[: len(inside)]  # slots rise in the order of keys
                    count = step.count[place, inside]
                    value = step.sum[place, inside]
                    if not _COUNTERS[place]:
                        value = value / np.maximum(count, 1)
                    covered = np.minimum(step.covered_ms[inside] / STEP_MS, 1.0)
                    low, high = step.min[place, inside], step.max[place, inside]
                    found.append(DeviceSteps(post, number * STEP_MS, keys, count, value, low, high, covered))
        return found

    def _places_in(self, layout: Layout) -> tuple[list[int], list[int], Floats]:
        """Of the layout's columns those with totals: their places, our rows for them, what to multiply them with."""
        found = self._places.get(layout.hash)
        if found is None:
            pairs = [
                (i, _PLACE[c.metric], c.decimals) for i, c in enumerate(layout.columns) if not c.component and c.metric in _PLACE
            ]
            units = np.array([[10.0**-decimals] for _, _, decimals in pairs]).reshape(-1, 1)
            found = self._places[layout.hash] = [place for place, _, _ in pairs], [row for _, row, _ in pairs], units
            if len(self._places) > 20_000:
                self._places.clear()
        return found

    def _add(
        self,
        state: _Post,
        number: int,
        look: Look,
        samples: Ints,
        slots: NDArray[np.intp],
        where: tuple[list[int], list[int], Floats],
    ) -> None:
        step = self._step(state, number)
        if step is None:
            return
        places, rows, units = where
        at_ms = look.at_ms[samples]
        before_ms = state.last_ms[slots]
        fresh = at_ms != before_ms  # the same sample again
        samples, slots, at_ms, before_ms = samples[fresh], slots[fresh], at_ms[fresh], before_ms[fresh]
        if not len(samples):
            return
        grid = np.ix_(np.array(rows, np.intp), slots)
        source = np.ix_(np.array(places, np.intp), samples)
        values = look.scaled[source] * units
        there = np.ones(values.shape, np.bool_) if look.valid is None else look.valid[source]
        for (place, sample), exact in look.odd.items():
            if place in places and sample in samples:
                values[places.index(place), np.flatnonzero(samples == sample)] = exact
        newer = at_ms > before_ms
        counted = values
        if _COUNTERS[rows].any():
            last = state.last[grid]
            risen = np.where(values >= last, values - last, values)
            known = ~np.isnan(last) & newer & (before_ms > 0)
            counted = np.where(_COUNTERS[rows][:, None], np.where(known, risen, 0.0), values)
            state.last[grid] = np.where(there & newer, values, last)
        step.count[grid] += there
        step.sum[grid] += np.where(there, counted, 0.0)
        step.min[grid] = np.where(there, np.fmin(step.min[grid], counted), step.min[grid])
        step.max[grid] = np.where(there, np.fmax(step.max[grid], counted), step.max[grid])
        distance = at_ms - before_ms
        step.covered_ms[slots] += np.where((before_ms > 0) & newer & (distance <= max(GAP_MS, STEP_MS // 2)), distance, GAP_MS // 2)
        state.last_ms[slots] = np.maximum(before_ms, at_ms)

    @staticmethod
    def _step(state: _Post, number: int) -> _Step | None:
        step = state.steps.get(number)
        size = state.last.shape[1]
        if step is None:
            if len(state.steps) >= MOST_STEPS:
                oldest = min(state.steps)
                if number < oldest:
                    return None
                del state.steps[oldest]
            shape = (len(TOTALLED), size)
            step = _Step(np.zeros(shape, np.int32), np.zeros(shape), np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(size))
            state.steps[number] = step
        elif step.count.shape[1] < size:
            more = size - step.count.shape[1]
            step.count = np.pad(step.count, ((0, 0), (0, more)))
            step.sum = np.pad(step.sum, ((0, 0), (0, more)))
            step.min = np.pad(step.min, ((0, 0), (0, more)), constant_values=np.nan)
            step.max = np.pad(step.max, ((0, 0), (0, more)), constant_values=np.nan)
            step.covered_ms = np.pad(step.covered_ms, (0, more))
        return step

    @staticmethod
    def _slot(state: _Post, key: int) -> int:
        slot = state.slots.get(key)
        if slot is None:
            slot = state.slots[key] = state.given
            state.given += 1
            size = len(state.last_ms)
            if slot >= size:
                state.last_ms = np.pad(state.last_ms, (0, size), constant_values=-1)
                state.last = np.pad(state.last, ((0, 0), (0, size)), constant_values=np.nan)
        return slot
