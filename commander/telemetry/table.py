"""Samples of one device as arrays: columns by looks. Pure.

What frames, chunks and day blocks hold becomes this before anything is reduced or shown. Values stay scaled integers
(see `columns`), so that merging and writing again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from commander.telemetry.columns import Flags, Ints, number
from garrison.catalogue import ORDER
from garrison.frame import Column, Number, Series

Odd = dict[tuple[int, int], float]
"""(column, row) to the exact value, where scaling would have changed it."""

Array = NDArray[np.int64] | NDArray[np.float64] | list[Number | None]
"""One value a row, exact, in the cheapest form; NaN or None: there is none."""

_EXACT_FLOAT = 2**53
_MOST_KNOWN = 20_000


@dataclass(frozen=True, slots=True)
class Table:
    """`at_ms` rises strictly. `scaled` and `valid` are columns by rows; what is not valid holds anything."""

    columns: tuple[Column, ...]
    at_ms: Ints
    scaled: Ints
    valid: Flags | None = None  # None: every value is there
    odd: Odd = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.at_ms)

    @property
    def values(self) -> int:
        return self.scaled.size if self.valid is None else int(self.valid.sum())

    def between(self, from_ms: int, to_ms: int) -> Table:
        """The rows in [from_ms, to_ms)."""
        first, end = np.searchsorted(self.at_ms, (from_ms, to_ms)).tolist()
        if first == 0 and end == len(self.at_ms):
            return self
        return self.rows(first, end)

    def rows(self, first: int, end: int) -> Table:
        valid = None if self.valid is None else self.valid[:, first:end]
        odd = {(place, row - first): value for (place, row), value in self.odd.items() if first <= row < end}
        return Table(self.columns, self.at_ms[first:end], self.scaled[:, first:end], valid, odd)

    def chosen(self, rows: NDArray[np.intp]) -> Table:
        """These rows, which rise."""
        if len(rows) == len(self):
            return self
        row_of = {old: new for new, old in enumerate(rows.tolist())} if self.odd else {}
        odd = {(place, row_of[row]): value for (place, row), value in self.odd.items() if row in row_of}
        valid = None if self.valid is None else self.valid[:, rows]
        return Table(self.columns, self.at_ms[rows], self.scaled[:, rows], valid, odd)

    def places_of(self, series: Series) -> list[int]:
        """Mostly one; two when a metric changed its unit or decimals within the time."""
        return [place for place, column in enumerate(self.columns) if (column.metric, column.component) == series]

    def there(self, place: int) -> Flags:
        return np.ones(len(self), np.bool_) if self.valid is None else self.valid[place]

    def numbers(self, place: int) -> list[Number | None]:
        """One a row, as the sentry gave it; None where it is absent."""
        decimals = self.columns[place].decimals
        found: list[Number | None] = [number(one, decimals) for one in self.scaled[place].tolist()]
        if self.valid is not None:
            for row in np.flatnonzero(~self.valid[place]).tolist():
                found[row] = None
        for (column, row), value in self.odd.items():
            if column == place and found[row] is not None:
                found[row] = value
        return found

    def floats(self, place: int) -> NDArray[np.float64]:
        """One a row; NaN where it is absent. An integer above 2^53 is rounded."""
        found: NDArray[np.float64] = self.scaled[place] / 10 ** self.columns[place].decimals
        for (column, row), value in self.odd.items():
            if column == place:
                found[row] = value
        if self.valid is not None:
            found[~self.valid[place]] = np.nan
        return found

    def only(self, places: Sequence[int]) -> Table:
        """These columns, in this order."""
        row_of = {place: row for row, place in enumerate(places)}
        odd = {(row_of[place], row): value for (place, row), value in self.odd.items() if place in row_of}
        valid = None if self.valid is None else self.valid[list(places)]
        return Table(tuple(self.columns[place] for place in places), self.at_ms, self.scaled[list(places)], valid, odd)

    def column(self, place: int) -> Table:
        """One of them alone, without copying it."""
        odd = {(0, row): value for (column, row), value in self.odd.items() if column == place} if self.odd else {}
        valid = None if self.valid is None else self.valid[place : place + 1]
        return Table(self.columns[place : place + 1], self.at_ms, self.scaled[place : place + 1], valid, odd)

    def shown(self, place: int) -> Array:
        """One a row, exact, in the cheapest form that JSON can be made of."""
        column = self.columns[place]
        whole = column.decimals == 0 and not any(odd == place for odd, _ in self.odd)
        if whole and (self.valid is None or bool(self.valid[place].all())):
            return np.ascontiguousarray(self.scaled[place])
        there = self.scaled[place] if self.valid is None else self.scaled[place][self.valid[place]]
        if len(there) and max(int(there.max()), -int(there.min())) >= _EXACT_FLOAT:
            return self.numbers(place)
        return self.floats(place)


def empty(columns: tuple[Column, ...] = ()) -> Table:
    return Table(columns, np.empty(0, np.int64), np.empty((len(columns), 0), np.int64))


def sorted_table(columns: tuple[Column, ...], at_ms: Ints, scaled: Ints, valid: Flags | None, odd: Odd) -> Table:
    """Rows in any order, and of the same time any number: the later row wins, value by value."""
    table = Table(columns, at_ms, scaled, valid, odd)
    if len(at_ms) < 2 or bool((at_ms[1:] > at_ms[:-1]).all()):
        return table
    return _collapsed(_reordered(table, np.argsort(at_ms, kind="stable")))


def merged(tables: Sequence[Table]) -> Table:
    """All rows of all tables by time. Of values for one time and column that of the later table stays: the same sample again
    changes nothing."""
    tables = [table for table in tables if len(table)]
    if not tables:
        return empty()
    if len(tables) == 1:
        return tables[0]
    columns = tables[0].columns
    if any(table.columns is not columns and table.columns != columns for table in tables[1:]):
        columns = united(column for table in tables for column in table.columns)
    at_ms = np.concatenate([table.at_ms for table in tables])
    scaled = np.zeros((len(columns), len(at_ms)), np.int64)
    valid: Flags | None = None
    if any(table.valid is not None or table.columns != columns for table in tables):
        valid = np.zeros(scaled.shape, np.bool_)
    odd: Odd = {}
    place_of = {column: place for place, column in enumerate(columns)}
    first = 0
    for table in tables:
        end = first + len(table)
        if table.columns == columns:
            scaled[:, first:end] = table.scaled
            if valid is not None:
                valid[:, first:end] = True if table.valid is None else table.valid
            odd |= {(place, row + first): value for (place, row), value in table.odd.items()}
        else:
            places = [place_of[column] for column in table.columns]
            scaled[places, first:end] = table.scaled
            if valid is not None:
                valid[places, first:end] = True if table.valid is None else table.valid
            odd |= {(places[place], row + first): value for (place, row), value in table.odd.items()}
        first = end
    return sorted_table(columns, at_ms, scaled, valid, odd)


def united(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Each once, in the catalogue's order."""
    return tuple(sorted(set(columns), key=lambda c: (*place_of((c.metric, c.component)), c.unit, c.decimals)))


_KNOWN: dict[tuple[Column, ...], tuple[Column, ...]] = {}


def interned(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """One object for equal columns, wherever they were read: then most comparisons end at once."""
    if len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.clear()
    return _KNOWN.setdefault(columns, columns)


def place_of(series: Series) -> tuple[int, str, str]:
    """Sorts series, and columns of steps, as the catalogue does; what it does not know comes last."""
    return ORDER.get(series[0].partition(" ")[0], len(ORDER)), *series


def equal(one: Table, other: Table) -> bool:
    """Whether both say the same: absent values and the order of columns do not matter."""
    if not np.array_equal(one.at_ms, other.at_ms):
        return False
    columns = united([*one.columns, *other.columns])
    return all(_column(one, column) == _column(other, column) for column in columns)


def _column(table: Table, column: Column) -> list[Number | None]:
    return table.numbers(table.columns.index(column)) if column in table.columns else [None] * len(table)


def _reordered(table: Table, order: NDArray[np.intp]) -> Table:
    odd = table.odd
    if odd:
        row_of = {old: new for new, old in enumerate(order.tolist())}
        odd = {(place, row_of[row]): value for (place, row), value in odd.items()}
    valid = None if table.valid is None else table.valid[:, order]
    return Table(table.columns, table.at_ms[order], table.scaled[:, order], valid, odd)


def _collapsed(table: Table) -> Table:
    """Sorted rows, of the same time only one."""
    fresh = np.empty(len(table), np.bool_)
    fresh[0] = True
    np.not_equal(table.at_ms[1:], table.at_ms[:-1], out=fresh[1:])
    starts = np.flatnonzero(fresh)
    if len(starts) == len(table):
        return table
    rows = np.arange(len(table))
    if table.valid is None:
        last = np.append(starts[1:], len(table)) - 1
        chosen = np.broadcast_to(last, (len(table.columns), len(last)))
        valid = None
    else:
        chosen = np.maximum.reduceat(np.where(table.valid, rows, -1), starts, axis=1)
        valid = chosen >= 0
        chosen = np.maximum(chosen, 0)
    scaled = np.take_along_axis(table.scaled, chosen, axis=1)
    odd: Odd = {}
    group = np.cumsum(fresh) - 1
    for (place, row), value in table.odd.items():
        if int(chosen[place, group[row]]) == row:
            odd[place, int(group[row])] = value
    return replace(table, at_ms=table.at_ms[starts], scaled=scaled, valid=valid, odd=odd)
