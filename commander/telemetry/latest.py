"""The newest look at every device, in memory.

One block of numbers a layout, columns by devices, so that a frame of many devices is copied in a few numpy calls and a
listing of ten thousand devices reads a handful of columns. All on the event loop: no locks.

A device's latest values are those of its newest look and no others: after a failed look its hashrate is not known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from commander.telemetry.columns import Flags, Ints, Keys, Look, number
from garrison.frame import Layout, Number, Series

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class LatestRow:
    """What the newest look at a device read. A value that was not read is not in `values`."""

    at_ms: int
    values: Mapping[Series, Number]


@dataclass(slots=True)
class _Block:
    """The newest look of each device in one layout; rows of devices whose newest look has another layout are stale."""

    layout: Layout
    scaled: Ints  # columns by rows
    valid: Flags | None = None  # None: every value is there
    odd: dict[tuple[int, int], float] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)  # slot to row


@dataclass(frozen=True, slots=True)
class _Current:
    """The devices whose newest look is in a block: their keys, slots and rows of the block."""

    keys: Keys
    slots: Places
    rows: Places

    def only(self, where: Flags) -> _Current:
        return self if where.all() else _Current(self.keys[where], self.slots[where], self.rows[where])


class Latest:
    """Device key to its newest look. Newest `at_ms` wins, whatever the order of arrival."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._at_ms: Ints = np.full(64, -1, np.int64)  # by slot; -1: nothing yet
        self._blocks: dict[bytes, _Block] = {}
        self._where: list[_Block | None] = []  # by slot
        self._listed: list[tuple[_Block, _Current]] | None = []  # None: a device came, or went to another block

    def __len__(self) -> int:
        return len(self._slots)

    def take(self, look: Look) -> None:
        """Late samples never overwrite newer ones; of two of the same time the later call wins."""
        slots = np.array([self._slot(key) for key in look.keys.tolist()], np.intp)
        newer = look.at_ms >= self._at_ms[slots]
        if not newer.any():
            return
        block = self._block(look.layout)
        rows = np.array([self._row(block, slot) for slot in slots.tolist()], np.intp)
        # a device twice in one frame: sorted by time, the last assignment is the newest
        chosen = None if newer.all() and len(set(slots.tolist())) == len(slots) else np.flatnonzero(newer)
        if chosen is not None:
            chosen = chosen[np.argsort(look.at_ms[chosen], kind="stable")]
            slots, rows = slots[chosen], rows[chosen]
        self._copy(block, rows, look, chosen)
        self._at_ms[slots] = look.at_ms if chosen is None else look.at_ms[chosen]
        for slot in slots.tolist():
            if self._where[slot] is not block:
                self._where[slot] = block
                self._listed = None

    def rows(self, keys: Iterable[int], metrics: Collection[str] | None = None) -> dict[int, LatestRow]:
        """The newest look at each of these devices; those never seen are left out. `metrics`: only these."""
        wanted: dict[int, list[int]] = {}
        blocks: dict[int, _Block] = {}
        for key in dict.fromkeys(keys):
            slot = self._slots.get(key)
            block = None if slot is None else self._where[slot]
            if block is not None:
                blocks[id(block)] = block
                wanted.setdefault(id(block), []).append(key)
        found: dict[int, LatestRow] = {}
        for name, block in blocks.items():
            found |= self._rows_of(block, wanted[name], metrics)
        return found

    def blocks(self, keys: Collection[int] | None = None, metrics: Collection[str] | None = None) -> list[Look]:
        """As `rows`, by layout and as arrays: what a screen of ten thousand devices is made of. `keys` None: all devices."""
        found = []
        for block, every in self._current():
            current = every
            if keys is not None:
                current = every.only(np.fromiter((key in keys for key in every.keys.tolist()), np.bool_, len(every.keys)))
            if len(current.keys):
                found.append(self._look(block, current, metrics))
        return found

    def newest_ms(self) -> int | None:
        """Of the newest look at all. None: there are no devices."""
        return int(self._at_ms[: len(self._where)].max()) if self._where else None

    def series(self, key: int) -> tuple[Series, ...]:
        """What the newest look at a device could have read: the columns of its layout."""
        slot = self._slots.get(key)
        block = None if slot is None else self._where[slot]
        return () if block is None else tuple((c.metric, c.component) for c in block.layout.columns)

    def forget(self, before_ms: int) -> set[int]:
        """Drops devices whose newest look is older, and what stale layouts still hold. The devices that went."""
        before = self._slots.keys()
        kept = Latest()
        for block, every in self._current():
            current = every.only(self._at_ms[every.slots] >= before_ms)
            if len(current.keys):
                kept.take(self._look(block, current))
        self._slots, self._at_ms, self._blocks, self._where = kept._slots, kept._at_ms, kept._blocks, kept._where
        self._listed = None
        return before - kept._slots.keys()

    # ---- places -------------------------------------------------------------------------------------------

    def _slot(self, key: int) -> int:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = len(self._where)
            self._where.append(None)
            if slot == len(self._at_ms):
                self._at_ms = np.concatenate([self._at_ms, np.full(slot, -1, np.int64)])
        return slot

    def _block(self, layout: Layout) -> _Block:
        block = self._blocks.get(layout.hash)
        if block is None:
            block = self._blocks[layout.hash] = _Block(layout, np.zeros((len(layout.columns), 1), np.int64))
        return block

    def _current(self) -> list[tuple[_Block, _Current]]:
        """By block, in the order in which the devices came."""
        if self._listed is None:
            by_block: dict[int, list[tuple[int, int]]] = {}
            for key, slot in self._slots.items():
                by_block.setdefault(id(self._where[slot]), []).append((key, slot))
            self._listed = []
            for block in self._blocks.values():
                mine = by_block.get(id(block), [])
                rows = np.array([block.rows[slot] for _, slot in mine], np.intp)
                current = _Current(
                    np.array([key for key, _ in mine], np.uint64), np.array([slot for _, slot in mine], np.intp), rows
                )
                self._listed.append((block, current))
        return self._listed

    @staticmethod
    def _row(block: _Block, slot: int) -> int:
        row = block.rows.get(slot)
        if row is None:
            row = block.rows[slot] = len(block.rows)
            if row == block.scaled.shape[1]:
                block.scaled = np.concatenate([block.scaled, np.zeros_like(block.scaled)], axis=1)
                if block.valid is not None:
                    block.valid = np.concatenate([block.valid, np.zeros_like(block.valid)], axis=1)
        return row

    @staticmethod
    def _copy(block: _Block, rows: Ints, look: Look, chosen: Ints | None) -> None:
        block.scaled[:, rows] = look.scaled if chosen is None else look.scaled[:, chosen]
        if look.valid is not None:
            if block.valid is None:
                block.valid = np.ones(block.scaled.shape, np.bool_)
            block.valid[:, rows] = look.valid if chosen is None else look.valid[:, chosen]
        elif block.valid is not None:
            block.valid[:, rows] = True
        if block.odd:
            overwritten = set(rows.tolist())
            block.odd = {place: value for place, value in block.odd.items() if place[1] not in overwritten}
        if look.odd:
            row_of = dict(enumerate(rows.tolist())) if chosen is None else dict(zip(chosen.tolist(), rows.tolist(), strict=True))
            newest = {row: sample for sample, row in row_of.items()}
            for (place, sample), value in look.odd.items():
                if sample in row_of and newest[row_of[sample]] == sample:
                    block.odd[place, row_of[sample]] = value

    def _rows_of(self, block: _Block, keys: list[int], metrics: Collection[str] | None) -> dict[int, LatestRow]:
        slots = [self._slots[key] for key in keys]
        rows = np.array([block.rows[slot] for slot in slots], np.intp)
        places = [i for i, column in enumerate(block.layout.columns) if metrics is None or column.metric in metrics]
        series = [(block.layout.columns[i].metric, block.layout.columns[i].component) for i in places]
        columns = [_numbers(block, i, rows) for i in places]
        times = self._at_ms[slots].tolist()
        if not columns:
            return {key: LatestRow(at_ms, {}) for key, at_ms in zip(keys, times, strict=True)}
        return {
            key: LatestRow(at_ms, {s: value for s, value in zip(series, values, strict=True) if value is not None})
            for key, at_ms, values in zip(keys, times, zip(*columns, strict=True), strict=True)
        }

    def _look(self, block: _Block, current: _Current, metrics: Collection[str] | None = None) -> Look:
        rows = current.rows
        sample_of = {row: i for i, row in enumerate(rows.tolist())} if block.odd else {}
        layout, places = block.layout, list(range(len(block.layout.columns)))
        if metrics is not None:
            places = [place for place in places if layout.columns[place].metric in metrics]
            layout = Layout(tuple(layout.columns[place] for place in places)) if places else layout
        grid = np.ix_(np.array(places, np.intp), rows)
        column_of = {place: i for i, place in enumerate(places)}
        return Look(
            layout=layout,
            keys=current.keys,
            at_ms=self._at_ms[current.slots],
            scaled=block.scaled[grid],
            valid=None if block.valid is None else block.valid[grid],
            missing=0,
            odd={
                (column_of[place], sample_of[row]): value
                for (place, row), value in block.odd.items()
                if row in sample_of and place in column_of
            },
        )


def _numbers(block: _Block, place: int, rows: Ints) -> list[Number | None]:
    decimals = block.layout.columns[place].decimals
    values: list[Number | None] = [number(scaled, decimals) for scaled in block.scaled[place, rows].tolist()]
    if block.valid is not None:
        for i in np.flatnonzero(~block.valid[place, rows]).tolist():
            values[i] = None
    if block.odd:
        for i, row in enumerate(rows.tolist()):
            if (place, row) in block.odd:
                values[i] = block.odd[place, row]
    return values
