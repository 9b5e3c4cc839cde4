"""Sealing: frames become chunks of two hours a device, and what they add to the totals of groups. The work of a thread.

A round reads some frames of one post, merges them with what is sealed already of those devices and hours, and is then
written in one transaction: chunks in, totals added, frames out. Whoever is killed before it finds the frames again; whoever
comes after it finds the same samples once more and changes nothing, because samples of one time are one sample.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from commander.telemetry import archive, block_store, hot, rollup, shares, store, totals_store
from commander.telemetry.block_store import Columns, Packed
from commander.telemetry.blocks import Grain
from commander.telemetry.columns import Flags, Ints, Look
from commander.telemetry.levels import DAY_MS, STEP_MS, WINDOW_MS, Level, file_at
from commander.telemetry.table import Odd, Table, empty, interned, merged, sorted_table
from commander.telemetry.totals_store import Group, Total
from garrison.faults import BadFrame, Broken
from garrison.frame import Series

log = logging.getLogger(__name__)

MOST_VALUES = 2_500_000
"""Of one round, and so 20 MB in memory, some times over while they are worked on."""

WINDOWS = 64
"""Chunks that are made together."""

_OLD_MS = 2 * DAY_MS
"""What comes so late may be of a time of which only steps are kept."""

Numbers = TypeVar("Numbers", Ints, Flags)
Window = tuple[int, int]
"""Device key and where its two hours begin."""


@dataclass(slots=True)
class Round:
    """What one transaction writes."""

    post: str
    until_ms: int
    last_id: int
    frames: list[int] = field(default_factory=list)  # that are wholly sealed
    packed: list[Packed] = field(default_factory=list)
    totals: list[Total] = field(default_factory=list)
    damaged: list[store.Damaged] = field(default_factory=list)
    more: bool = False

    @property
    def empty(self) -> bool:
        return not (self.frames or self.packed or self.damaged)


class Pace:
    """Lets the event loop have the interpreter: a thread that never waits takes it for 5 ms at a time."""

    def __init__(self, work_s: float = 0.004, rest_s: float = 0.001) -> None:
        self._work_s, self._rest_s = work_s, rest_s
        self._begun_s = time.perf_counter()

    def breathe(self) -> None:
        if time.perf_counter() - self._begun_s > self._work_s:
            time.sleep(self._rest_s)
            self._begun_s = time.perf_counter()


def prepare(
    c: sqlite3.Connection,
    folder: Path,
    post: str,
    until_ms: int,
    after_id: int,
    groups_during: Callable[[int, int, int], Sequence[tuple[int, int, Sequence[Group]]]],
    now_ms: int,
    pace: Pace,
) -> Round:
    """Reads a round: frames of the post behind `after_id` with samples before `until_ms`, a whole step."""
    done = Round(post, until_ms, after_id)
    looks: dict[int, list[Look]] = {}
    layouts = hot.Layouts(c)
    salt = store.salt_of(post)
    values = 0
    for kept in store.sealable(c, post, until_ms, after_id):
        if values >= MOST_VALUES:
            done.more = True
            break
        pace.breathe()
        done.last_id = kept.id
        try:
            look = hot.look(kept, layouts[kept.layout], salt)
        except BadFrame as fault:
            done.frames.append(kept.id)
            done.damaged.append(store.Damaged(now_ms, "hot.db", "frame", 0, kept.first_ms, fault.text, kept.body))
            continue
        except Broken as fault:  # its layout, not the frame: it waits for `commander history repair`
            log.warning("a frame cannot be sealed", extra={"text": fault.text})
            continue
        looks.setdefault(kept.layout, []).append(look)
        values += look.scaled.size
        if kept.last_ms < until_ms:
            done.frames.append(kept.id)
    fresh: dict[Window, list[Table]] = {}
    for layout in list(looks):
        for window, table in split(looks.pop(layout), until_ms, pace):
            fresh.setdefault(window, []).append(table)
    windows = sorted(fresh)
    made: list[_Made] = []
    with _Sealed(c, folder) as sealed:
        for first in range(0, len(windows), WINDOWS):
            some = windows[first : first + WINDOWS]
            for key, start_ms in some:
                next_ms = start_ms + WINDOW_MS
                follows = any(int(table.at_ms[0]) < next_ms + STEP_MS for table in fresh.get((key, next_ms), ()))
                made.append(_merged(done, sealed, key, start_ms, merged(fresh.pop((key, start_ms))), now_ms, pace, follows=follows))
            chunks = [(*window, one.chunk) for window, one in zip(some, made[first:], strict=True)]
            done.packed += block_store.packed_many(chunks, Grain.PLANE)
            pace.breathe()
    parts = [shares.Part(one.after, one.first_ms, one.end_ms) for one in made]
    before = shares.shares([shares.Part(one.before, one.first_ms, one.end_ms) for one in made])
    pace.breathe()
    after = shares.shares(parts)
    pace.breathe()
    done.totals = shares.totals(before, after, parts, lambda place, *span: groups_during(windows[place][0], *span))
    return done


def commit(c: sqlite3.Connection, done: Round, sealed_ms: int | None) -> None:
    """In one transaction of the writer. `sealed_ms`: what the post's samples are sealed until, from now on."""
    block_store.put(c, done.packed)
    totals_store.add(c, done.totals)
    store.put_damaged(c, done.damaged)
    store.remove_frames(c, done.frames)
    if sealed_ms is not None:
        store.set_sealed(c, done.post, sealed_ms)


def split(looks: list[Look], until_ms: int, pace: Pace) -> Iterator[tuple[Window, Table]]:
    """Looks of one layout, in the order of arrival, as tables of each device and two hours; only samples before `until_ms`."""
    keys = np.concatenate([look.keys for look in looks])
    at_ms = np.concatenate([look.at_ms for look in looks])
    order = np.lexsort((at_ms, keys))
    order = order[at_ms[order] < until_ms]
    if not len(order):
        return
    odd = _odd(looks, order)
    columns = interned(looks[0].layout.columns)
    scaled = _ordered([look.scaled for look in looks], order, pace)
    valid = None
    if any(look.valid is not None for look in looks):
        every = [np.ones(look.scaled.shape, np.bool_) if look.valid is None else look.valid for look in looks]
        valid = _ordered(every, order, pace)
    looks.clear()  # they are as large as what was made of them
    keys, at_ms = keys[order], at_ms[order]
    windows = at_ms // WINDOW_MS
    cuts = np.flatnonzero((keys[1:] != keys[:-1]) | (windows[1:] != windows[:-1])) + 1
    for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(order)], strict=True):
        mine = {(place, row - first): value for (place, row), value in odd.items() if first <= row < end} if odd else {}
        part = None if valid is None else valid[:, first:end]
        table = sorted_table(columns, at_ms[first:end], scaled[:, first:end], part, mine)
        yield (int(keys[first]), int(windows[first]) * WINDOW_MS), table


def _ordered(parts: Sequence[Numbers], order: NDArray[np.intp], pace: Pace) -> Numbers:
    """Side by side, and then in that order: a column at a time, because numpy gives nobody a turn in the middle of one."""
    found = np.empty((len(parts[0]), len(order)), parts[0].dtype)
    for place in range(len(found)):
        np.take(np.concatenate([part[place] for part in parts]), order, out=found[place])
        pace.breathe()
    return found


def _odd(looks: Sequence[Look], order: NDArray[np.intp]) -> Odd:
    if not any(look.odd for look in looks):
        return {}
    row_of = {old: new for new, old in enumerate(order.tolist())}
    found: Odd = {}
    first = 0
    for look in looks:
        for (place, sample), value in look.odd.items():
            if first + sample in row_of:
                found[place, row_of[first + sample]] = value
        first += len(look.keys)
    return found


@dataclass(frozen=True, slots=True)
class _Made:
    """A window of a device. `before` and `after`: looks around what changes, for the totals of [first_ms, end_ms)."""

    chunk: Table
    before: Table
    after: Table
    first_ms: int
    end_ms: int


def _merged(
    done: Round, sealed: _Sealed, key: int, start_ms: int, fresh: Table, now_ms: int, pace: Pace, *, follows: bool
) -> _Made:
    """Merges what is new of a device and window with what is sealed. `follows`: there is something new in the first step of the
    next one too."""
    pace.breathe()
    chunk = sealed.chunk(key, start_ms, done, now_ms)
    known = [] if chunk is None else [chunk]
    whole = merged([*known, fresh])
    # The step behind the last changes too: a counter rises into it from what is new.
    first_ms = int(fresh.at_ms[0]) // STEP_MS * STEP_MS
    end_ms = (int(fresh.at_ms[-1]) // STEP_MS + 2) * STEP_MS
    next_ms = start_ms + WINDOW_MS
    if follows:
        end_ms = min(end_ms, next_ms)
    days = sealed.archived(key, first_ms - STEP_MS, end_ms)
    head = sealed.looks(key, next_ms, next_ms, end_ms) if end_ms > next_ms else []
    tail_before, tail_after = sealed.tail(key, start_ms) if first_ms == start_ms else ([], [])
    before = merged([*days, *tail_before, *known, *head]) if days or known or head else empty()
    after = merged([*days, *tail_after, *known, fresh, *head])
    if end_ms <= now_ms - _OLD_MS:
        told = sealed.told_by_more_looks(key, first_ms, end_ms, before)
        before, after = _without(before, told), _without(after, told)
    sealed.last = (key, start_ms, known, whole)
    return _Made(whole, before, after, first_ms, end_ms)


def _without(table: Table, steps: Ints) -> Table:
    return table.chosen(np.flatnonzero(~np.isin(table.at_ms // STEP_MS * STEP_MS, steps))) if len(steps) else table


class _Sealed:
    """What is sealed already, of the devices of a round."""

    def __init__(self, c: sqlite3.Connection, folder: Path) -> None:
        self._c = c
        self._folder = folder
        self._columns = Columns(c)
        self._files: dict[str, tuple[sqlite3.Connection, Columns] | None] = {}
        self._open = contextlib.ExitStack()
        self.last: tuple[int, int, list[Table], Table] | None = None
        """The window made before, mostly the one before of the same device: what there was of it, and what is not on disk yet."""

    def __enter__(self) -> _Sealed:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def chunk(self, key: int, start_ms: int, done: Round, now_ms: int) -> Table | None:
        """A chunk that does not read is set aside, and its samples with it."""
        stored = block_store.at(self._c, key, start_ms)
        if stored is None:
            return None
        try:
            return block_store.read(stored, self._columns)
        except Broken as fault:
            done.damaged.append(store.Damaged(now_ms, "hot.db", "chunk", key, start_ms, fault.text, stored.body))
            return None

    def tail(self, key: int, start_ms: int) -> tuple[list[Table], list[Table]]:
        """The last step before a window, from which counters rise, as it was and as it is now."""
        if self.last is not None and self.last[:2] == (key, start_ms - WINDOW_MS):
            _, _, before, whole = self.last
            return [table.between(start_ms - STEP_MS, start_ms) for table in before], [whole.between(start_ms - STEP_MS, start_ms)]
        found = self.looks(key, start_ms - WINDOW_MS, start_ms - STEP_MS, start_ms)
        return found, found

    def looks(self, key: int, start_ms: int, from_ms: int, to_ms: int) -> list[Table]:
        """Those of [from, to) in the chunk of a window. One that does not read is found when it is its turn."""
        stored = block_store.at(self._c, key, start_ms)
        if stored is None or stored.last_ms < from_ms or stored.first_ms >= to_ms:
            return []
        with contextlib.suppress(Broken):
            return [block_store.read(stored, self._columns, shares.NEEDED).between(from_ms, to_ms)]
        return []

    def archived(self, key: int, from_ms: int, to_ms: int) -> list[Table]:
        """What the archive has of [from, to): only of days that are over and came late."""
        return self._in_archive(Level.RAW, key, from_ms, to_ms, shares.NEEDED)

    def told_by_more_looks(self, key: int, from_ms: int, to_ms: int, before: Table) -> Ints:
        """Steps that were made of more looks than are kept of them: the looks of that time are gone, but the totals hold them."""
        found = [np.empty(0, np.int64)]
        for steps in self._in_archive(Level.FIVE_MINUTES, key, from_ms, to_ms, {rollup.LOOKS_COUNT}):
            kept = np.searchsorted(before.at_ms, steps.at_ms + STEP_MS) - np.searchsorted(before.at_ms, steps.at_ms)
            found.append(steps.at_ms[rollup.looks(steps) > kept])
        return np.concatenate(found)

    def _in_archive(self, level: Level, key: int, from_ms: int, to_ms: int, wanted: Collection[Series]) -> list[Table]:
        found = []
        for day_ms in range(from_ms // DAY_MS * DAY_MS, to_ms, DAY_MS):
            file = self._file(file_at(level, day_ms).name)
            if file is None:
                continue
            c, columns = file
            with contextlib.suppress(Broken, sqlite3.DatabaseError):  # verify tells of it; a total may then count a sample twice
                stored = block_store.at(c, key, day_ms)
                if stored is not None and stored.first_ms < to_ms and stored.last_ms >= from_ms:
                    found.append(block_store.read(stored, columns, wanted).between(from_ms, to_ms))
        return found

    def _file(self, name: str) -> tuple[sqlite3.Connection, Columns] | None:
        if name not in self._files:
            self._files[name] = None
            with contextlib.suppress(Broken):
                c = self._open.enter_context(archive.reading(self._folder / name)) if (self._folder / name).exists() else None
                self._files[name] = None if c is None else (c, Columns(c))
        return self._files[name]
