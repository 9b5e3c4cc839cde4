"""A device's history from wherever it lies: hot frames, chunks, the archive. Each kind of read is one snapshot, hot.db first:
what moves to the archive meanwhile is then seen twice and counted once, and never missed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from commander.telemetry import archive, block_store, hot, rollup
from commander.telemetry.block_store import Columns
from commander.telemetry.levels import DAY_MS, STEP_OF, WINDOW_MS, Level
from commander.telemetry.rollup import Stats
from commander.telemetry.table import Table, merged
from garrison.faults import Broken, TimedOut
from garrison.frame import Series

LONGEST = {Level.RAW: DAY_MS, Level.FIVE_MINUTES: DAY_MS, Level.HOUR: 31 * DAY_MS}
"""The longest time of a block of each level's files."""


@dataclass(slots=True)
class Reader:
    """For one question, in one thread. `stop`: set when nobody waits for the answer any more."""

    c: sqlite3.Connection
    files: archive.Files
    stop: threading.Event
    unreadable: int = 0
    """Frames and blocks that do not read any more: the rest is served."""

    def raw(self, key: int, from_ms: int, to_ms: int, wanted: Collection[Series] | None = None) -> Table:
        """Every look in [from, to). Values that stand in two places are one."""
        unsealed, unreadable = hot.rows_of(self.c, key, from_ms, to_ms, wanted, self.stop)
        self.unreadable += unreadable
        chunks = self._blocks(self.c, key, from_ms, to_ms, WINDOW_MS, wanted, Columns(self.c))
        days = self.archived(Level.RAW, key, from_ms, to_ms, wanted)
        return merged([*days, *chunks, unsealed]).between(from_ms, to_ms)

    def stepped(self, level: Level, key: int, from_ms: int, to_ms: int, wanted: Collection[Series] | None = None) -> Table:
        """Steps of the level in [from, to), as `rollup.steps` makes them. What is not merged yet is made of its looks."""
        step_ms = STEP_OF[level]
        named = None if wanted is None else stat_names(wanted)
        unsealed, unreadable = hot.rows_of(self.c, key, from_ms, to_ms, wanted, self.stop)
        self.unreadable += unreadable
        chunks = self._blocks(self.c, key, from_ms, to_ms, WINDOW_MS, wanted, Columns(self.c))
        kept = merged(self.archived(level, key, from_ms, to_ms, named)).between(from_ms, to_ms)
        waiting = merged([*chunks, unsealed]).between(from_ms, to_ms)
        if not len(waiting):
            return kept
        if not len(kept) or int(kept.at_ms[-1]) + step_ms <= int(waiting.at_ms[0]):
            return merged([kept, rollup.steps(waiting, step_ms)])
        return rollup.fuller(kept, self._remade(level, key, waiting, wanted))

    def archived(self, level: Level, key: int, from_ms: int, to_ms: int, wanted: Collection[Series] | None = None) -> list[Table]:
        """What the archive's files of one level hold. A damaged file is one that does not read: the others are served."""
        found: list[Table] = []
        for span in archive.between(self.files.folder, level, from_ms, to_ms):
            try:
                with self.files.reading(span.name) as file:
                    if file is not None:
                        found += self._blocks(file.c, key, from_ms, to_ms, LONGEST[level], wanted, file.columns)
            except (sqlite3.DatabaseError, Broken):
                self.unreadable += 1
        return found

    def _remade(self, level: Level, key: int, waiting: Table, wanted: Collection[Series] | None) -> Table:
        """Steps that late looks change, made again of all their looks, where the archive still has them."""
        step_ms = STEP_OF[level]
        found: list[Table] = []
        for start_ms in np.unique(waiting.at_ms // WINDOW_MS * WINDOW_MS).tolist():
            end_ms = start_ms + WINDOW_MS
            late = waiting.between(start_ms, end_ms)
            days = self.archived(Level.RAW, key, start_ms, end_ms, wanted)
            found.append(rollup.steps(merged([*(day.between(start_ms, end_ms) for day in days), late]), step_ms))
        return merged(found)

    def _blocks(
        self,
        c: sqlite3.Connection,
        key: int,
        from_ms: int,
        to_ms: int,
        longest_ms: int,
        wanted: Collection[Series] | None,
        columns: Columns,
    ) -> list[Table]:
        found = []
        for stored in block_store.of_device(c, key, from_ms, to_ms, longest_ms):
            if self.stop.is_set():
                raise TimedOut("reading the history took too long", hint="ask for a shorter time")
            try:
                found.append(block_store.read(stored, columns, wanted))
            except Broken:
                self.unreadable += 1
        return found


def stat_names(wanted: Collection[Series]) -> set[Series]:
    """The columns of steps that belong to these series."""
    stats: Stats = ("count", "avg", "min", "max", "first", "last", "rise", *rollup.ENERGY)
    return {(f"{metric} {stat}", component) for metric, component in wanted for stat in stats} | {
        ("looks count", ""),
        ("looks covered_ms", ""),
    }
