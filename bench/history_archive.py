"""Days of a large farm written straight into the history's files, as the nightly merge writes them: what cannot be fed in the time
that a benchmark has.

`PATTERNS` devices are generated; every other device says what one of these says, under its own key. Their days, roll-ups and
months are packed once, by the engine's own functions, and put for each device; totals of groups are made of the patterns' shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.history_data import LAYOUT, STEP_MS, Floats, Ints, identity, miner
from bench.history_farm import record
from commander.db import Database
from commander.fleet.rules import groups_of
from commander.telemetry import archive, block_store, merge, rollup, shares, store, totals_store
from commander.telemetry.block_store import Packed
from commander.telemetry.blocks import Grain
from commander.telemetry.levels import DAY_MS, HOUR_MS, Level, block_start, file_at
from commander.telemetry.levels import STEP_MS as FIVE_MIN_MS
from commander.telemetry.shares import LINES, Part, Shares
from commander.telemetry.table import Table, merged
from commander.telemetry.totals_store import Group, Total
from garrison.frame import device_key

PATTERNS = 20
_AT_ONCE = 2_000
"""Rows of a transaction."""


@dataclass(frozen=True, slots=True)
class PatternDay:
    """Rows without a device, and what one device adds to the totals of its groups: lines by steps."""

    raw: Packed
    steps: Packed
    hours: Table
    shares: Shares


class Patterns:
    """`days` days of each pattern that end at `end_ms`. About a second each for a month."""

    def __init__(self, days: int, end_ms: int, keep: int) -> None:
        """`keep`: the pattern whose looks are asked for."""
        self.days, self.end_ms = days, end_ms
        self.first_ms = end_ms - days * DAY_MS
        ticks_ms = np.arange(self.first_ms, end_ms, STEP_MS, dtype=np.int64)
        self._by_day: list[list[PatternDay]] = []
        self._last: list[Packed] = []
        means = []
        for number in range(PATTERNS):
            at_ms, scaled = miner(number, ticks_ms)
            table = Table(LAYOUT.columns, at_ms, scaled)
            if number == keep:
                self.kept = table
            self._last.append(block_store.packed(0, block_store.NEWEST_MS, table.rows(len(table) - 1, len(table)), Grain.PLANE))
            self._by_day.append([_packed(table, day_ms) for day_ms in range(self.first_ms, end_ms, DAY_MS)])
            looks = scaled[LAYOUT.places["hashrate_hs", ""]].reshape(-1, FIVE_MIN_MS // STEP_MS)
            means.append(looks.mean(axis=1))
        self.hashrate_hs: Floats = np.array(means)
        """[pattern, step]: averages of five minutes, from the looks and not from the engine."""

    def day(self, pattern: int, number: int) -> PatternDay:
        """`number`: 0 is the first."""
        return self._by_day[pattern][number]

    def last(self, pattern: int) -> Packed:
        """Its last look alone."""
        return self._last[pattern]

    def month(self, pattern: int, start_ms: int, first: int) -> Packed:
        """The hourly row of a month, of the days from `first` on."""
        days = [n for n in range(first, self.days) if block_start(Level.HOUR, self.first_ms + n * DAY_MS) == start_ms]
        hours = merged([self._by_day[pattern][n].hours for n in days])
        return block_store.packed(0, start_ms, hours, Grain.COLUMN)


def _packed(table: Table, day_ms: int) -> PatternDay:
    """As `merge` does."""
    day = table.between(day_ms, day_ms + DAY_MS)
    steps = rollup.steps(day, FIVE_MIN_MS)
    part = Part(table.between(day_ms - FIVE_MIN_MS, day_ms + DAY_MS), day_ms, day_ms + DAY_MS)
    return PatternDay(
        block_store.packed(0, day_ms, day, Grain.COLUMN),
        block_store.packed(0, day_ms, steps, Grain.COLUMN),
        rollup.coarser(steps, HOUR_MS),
        shares.shares([part]),
    )


# ---- the files ---------------------------------------------------------------------------------------------


class Archive:
    """The files of `devices` devices in `folder`, of which `raw_devices` have every look."""

    def __init__(self, folder: Path, patterns: Patterns, devices: int, raw_devices: int, now_ms: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._patterns, self._now_ms = folder, patterns, now_ms
        self._raw_devices = raw_devices
        self._keys = [device_key(identity(number)) for number in range(devices)]
        self._groups = _weights(devices, now_ms)

    def write(self, first: int, end: int) -> None:
        """Days [first, end) of the patterns; those behind `end` are there already."""
        for number in range(first, end):
            day_ms = self._patterns.first_ms + number * DAY_MS
            self._put(Level.RAW, day_ms, [self._patterns.day(p, number).raw for p in range(PATTERNS)], self._raw_devices)
            steps = [self._patterns.day(p, number).steps for p in range(PATTERNS)]
            self._put(Level.FIVE_MINUTES, day_ms, steps, len(self._keys))
            self._put_totals(day_ms, [self._patterns.day(p, number).shares for p in range(PATTERNS)])
        starts = {block_start(Level.HOUR, self._patterns.first_ms + number * DAY_MS) for number in range(first, end)}
        for start_ms in sorted(starts):
            months = [self._patterns.month(p, start_ms, first) for p in range(PATTERNS)]
            self._put(Level.HOUR, start_ms, months, len(self._keys))

    async def write_newest(self) -> None:
        """The last look of each device into hot.db, as `merge.finish` puts it."""
        last = [self._patterns.last(p) for p in range(PATTERNS)]
        db = await Database.open(self._folder / "hot.db", store.MIGRATIONS)
        try:
            for rows in self._rows(last, len(self._keys)):
                await db.write(lambda c, rows=rows: block_store.put(c, rows))  # type: ignore[misc]  # bound by its defaults
        finally:
            await db.close()

    def _put(self, level: Level, at_ms: int, rows: Sequence[Packed], devices: int) -> None:
        for some in self._rows(rows, devices):
            with archive.writing(self._folder / file_at(level, at_ms).name) as file:
                block_store.put(file, some)
                archive.touch(file, self._now_ms)

    def _rows(self, rows: Sequence[Packed], devices: int) -> Iterator[list[Packed]]:
        for first in range(0, devices, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, devices))
            yield [replace(rows[number % PATTERNS], key=self._keys[number]) for number in some]

    def _put_totals(self, day_ms: int, parts: Sequence[Shares]) -> None:
        totals = list(_totals(self._groups, parts))
        with archive.writing(self._folder / file_at(Level.FIVE_MINUTES, day_ms).name) as file:
            totals_store.replace(file, totals)
        with archive.writing(self._folder / file_at(Level.HOUR, day_ms).name) as file:
            totals_store.replace(file, merge.hourly(totals))


def counts(devices: int) -> Ints:
    """How many devices each pattern stands for."""
    return np.bincount(np.arange(devices) % PATTERNS, minlength=PATTERNS).astype(np.int64)


def _weights(devices: int, now_ms: int) -> dict[Group, Ints]:
    """Of each group: how many devices of each pattern."""
    found: dict[Group, Ints] = {}
    for number in range(devices):
        for group in groups_of(record(number, "", now_ms), {}):
            found.setdefault(group, np.zeros(PATTERNS, np.int64))[number % PATTERNS] += 1
    return found


def _totals(groups: dict[Group, Ints], parts: Sequence[Shares]) -> Iterator[Total]:
    """Of a day. Every pattern has looks in every step."""
    at_ms = parts[0].at_ms
    if any(not np.array_equal(part.at_ms, at_ms) for part in parts):
        raise RuntimeError("a pattern has a gap")
    added = {stat: np.array([getattr(part, stat) for part in parts]) for stat in ("devices", "covered", "sum")}
    lowest, highest = (np.array([getattr(part, stat) for part in parts]) for stat in ("min", "max"))
    for group, weights in groups.items():
        there = np.flatnonzero(weights)
        devices, covered, total = (np.tensordot(weights, added[stat], 1) for stat in ("devices", "covered", "sum"))
        for line, metric in enumerate(LINES):
            if not devices[line].any():
                continue
            columns = devices[line], covered[line], total[line], lowest[there, line].min(axis=0), highest[there, line].max(axis=0)
            for row in zip(at_ms.tolist(), *(column.tolist() for column in columns), strict=True):
                yield Total(group, metric, *row)
