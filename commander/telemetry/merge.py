"""The nightly merge: chunks of a day that is over become rows of the archive, and totals move there. The work of a thread.

Each file is written in a transaction of its own, the chunks are removed last. Whoever is killed on the way merges the same
chunks again, and gets the same rows. Late samples of a merged day come as chunks again: only the row of that device and day is
written anew.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from commander.telemetry import archive, block_store, rollup, store, totals_store
from commander.telemetry.block_store import Columns, Packed
from commander.telemetry.blocks import Grain
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, Level, block_start, file_at
from commander.telemetry.seal import Pace
from commander.telemetry.table import Table, merged
from commander.telemetry.totals_store import Group, Total
from garrison.catalogue import METRICS
from garrison.faults import Broken

AFTER_MS = HOUR_MS
"""So long after its end a day is merged: what comes within it needs no second merge."""

DEVICES = 50
"""Of one step: a transaction in each of three files."""

MOST_VALUES = 32_000_000
"""Of one device and day, 256 MB in memory. More is no device's day: its chunks stay where they are."""


@dataclass(slots=True)
class Merged:
    """What a step read and made. `chunks`: rows of hot.db that are in the archive once the files are written."""

    day_ms: int
    raw: list[Packed] = field(default_factory=list)
    steps: list[Packed] = field(default_factory=list)
    hours: list[Packed] = field(default_factory=list)
    newest: list[Packed] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    damaged: list[store.Damaged] = field(default_factory=list)
    too_large: int = 0


def due_days(c: sqlite3.Connection, now_ms: int) -> list[int]:
    """Days that are over and have chunks, the oldest first."""
    last_ms = (now_ms - AFTER_MS) // DAY_MS * DAY_MS
    return sorted({start // DAY_MS * DAY_MS for start in block_store.starts(c) if start < last_ms})


def merge(c: sqlite3.Connection, folder: Path, day_ms: int, keys: Iterable[int], now_ms: int, pace: Pace) -> Merged:
    """Of some devices: reads their chunks of the day and what the archive has of it, writes the archive. The caller then removes
    the
    chunks. DiskFull, Unavailable: nothing is lost, the next try does it."""
    done = Merged(day_ms)
    chunk_columns = Columns(c)
    with contextlib.ExitStack() as files:
        old = {level: files.enter_context(_opened(folder, level, day_ms)) for level in Level}
        for key in keys:
            pace.breathe()
            _merge_device(done, c, chunk_columns, old, key, now_ms)
    for level, rows in ((Level.RAW, done.raw), (Level.FIVE_MINUTES, done.steps), (Level.HOUR, done.hours)):
        if rows:
            with archive.writing(folder / file_at(level, day_ms).name) as file:
                block_store.put(file, rows)
                archive.touch(file, now_ms)
    return done


def finish(c: sqlite3.Connection, done: Merged) -> None:
    """In the writer, when the files are durable."""
    block_store.remove(c, done.chunks)
    block_store.put(c, done.newest)
    store.put_damaged(c, done.damaged)


class _Old:
    """What a file of the archive has already; None: there is no such file."""

    def __init__(self, c: sqlite3.Connection | None, level: Level, name: str) -> None:
        self._c, self._level, self.name = c, level, name
        self._columns = None if c is None else Columns(c)

    def table(self, done: Merged, key: int, now_ms: int) -> Table | None:
        """A row that does not read is set aside: what comes now takes its place."""
        if self._c is None or self._columns is None:
            return None
        stored = block_store.at(self._c, key, block_start(self._level, done.day_ms))
        if stored is None:
            return None
        try:
            return block_store.read(stored, self._columns)
        except Broken as fault:
            done.damaged.append(store.Damaged(now_ms, self.name, "day", key, done.day_ms, fault.text, stored.body))
            return None


@contextlib.contextmanager
def _opened(folder: Path, level: Level, day_ms: int) -> Iterator[_Old]:
    name = file_at(level, day_ms).name
    if not (folder / name).exists():
        yield _Old(None, level, name)
        return
    with archive.reading(folder / name) as c:
        yield _Old(c, level, name)


def _merge_device(done: Merged, c: sqlite3.Connection, columns: Columns, old: dict[Level, _Old], key: int, now_ms: int) -> None:
    chunks: list[Table] = []
    ids: list[int] = []
    for stored in block_store.of_device(c, key, done.day_ms, done.day_ms + DAY_MS, 1):
        ids.append(stored.id)
        try:
            chunks.append(block_store.read(stored, columns))
        except Broken as fault:
            done.damaged.append(store.Damaged(now_ms, "hot.db", "chunk", key, stored.start_ms, fault.text, stored.body))
    size = sum(len(chunk) for chunk in chunks) * len({column for chunk in chunks for column in chunk.columns})
    if size > MOST_VALUES:
        done.too_large += 1
        return
    done.chunks += ids
    fresh = merged(chunks)
    if not len(fresh):
        return
    known_newest = block_store.at(c, key, block_store.NEWEST_MS)
    if known_newest is None or known_newest.last_ms <= int(fresh.at_ms[-1]):
        done.newest.append(block_store.packed(key, block_store.NEWEST_MS, fresh.rows(len(fresh) - 1, len(fresh)), Grain.PLANE))
    before = old[Level.RAW].table(done, key, now_ms)
    day = fresh if before is None else merged([before, fresh])
    done.raw.append(block_store.packed(key, done.day_ms, day, Grain.COLUMN))
    steps = rollup.steps(day, STEP_MS)
    known = old[Level.FIVE_MINUTES].table(done, key, now_ms)
    if known is not None:
        steps = rollup.fuller(known, steps)
    done.steps.append(block_store.packed(key, done.day_ms, steps, Grain.COLUMN))
    hours = rollup.coarser(steps, HOUR_MS)
    month = old[Level.HOUR].table(done, key, now_ms)
    if month is not None:
        hours = rollup.fuller(month, hours)
    done.hours.append(block_store.packed(key, block_start(Level.HOUR, done.day_ms), hours, Grain.COLUMN))


# ---- totals ------------------------------------------------------------------------------------------------


def totals_due(c: sqlite3.Connection, now_ms: int) -> tuple[int, int] | None:
    """[from, to) of the oldest month's totals that no longer grow by live samples; None: there are none."""
    first_ms = totals_store.first_growing_ms(c)
    last_ms = (now_ms - AFTER_MS) // DAY_MS * DAY_MS
    if first_ms is None or first_ms >= last_ms:
        return None
    return first_ms, min(last_ms, file_at(Level.FIVE_MINUTES, first_ms).to_ms)


def move_totals(c: sqlite3.Connection, folder: Path, batch: int, first_ms: int, last_ms: int, now_ms: int) -> None:
    """A closed batch into the archive, once; the hours it touches are made anew. The caller then drops the batch. Hours whose steps
    are kept no more stay as they are, whatever comes late."""
    span = file_at(Level.FIVE_MINUTES, first_ms)
    rows = totals_store.of_batch(c, batch, first_ms, last_ms + 1)
    from_ms, to_ms = first_ms // HOUR_MS * HOUR_MS, (last_ms // HOUR_MS + 1) * HOUR_MS
    with archive.reading(folder / file_at(Level.HOUR, first_ms).name) as hours:
        alone = set() if hours is None else totals_store.times(hours, from_ms, to_ms)
    with archive.writing(folder / span.name) as file:
        alone -= {at_ms // HOUR_MS * HOUR_MS for at_ms in totals_store.times(file, from_ms, to_ms)}
        totals_store.apply(file, batch, [row for row in rows if row.at_ms // HOUR_MS * HOUR_MS not in alone])
        archive.touch(file, now_ms)
        steps = totals_store.archived_between(file, from_ms, to_ms)
    with archive.writing(folder / file_at(Level.HOUR, first_ms).name) as file:
        totals_store.replace(file, hourly(steps))
        archive.touch(file, now_ms)


def hourly(steps: Sequence[Total]) -> list[Total]:
    """Of a gauge: the mean of the steps that have it; of a counter and of energy: what all steps add up to."""
    groups: dict[tuple[Group, str, int], list[Total]] = {}
    for total in steps:
        groups.setdefault((total.group, total.metric, total.at_ms // HOUR_MS * HOUR_MS), []).append(total)
    found = []
    for (group, metric, at_ms), parts in groups.items():
        known = [part for part in parts if part.devices > 0]
        adds_up = metric not in METRICS or METRICS[metric].kind == "counter"
        added = sum(part.sum for part in known)
        lows = [part.min for part in known if part.min is not None]
        highs = [part.max for part in known if part.max is not None]
        found.append(
            Total(
                group,
                metric,
                at_ms,
                max((part.devices for part in known), default=0.0),
                sum(part.covered for part in parts) * STEP_MS / HOUR_MS,
                added if adds_up or not known else added / len(known),
                min(lows, default=None),
                max(highs, default=None),
            )
        )
    return found
