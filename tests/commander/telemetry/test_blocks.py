"""Blocks: what goes in comes out, whatever the numbers; bytes that were changed are found, never believed."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.telemetry import block_store, blocks, rollup
from commander.telemetry.blocks import Grain
from commander.telemetry.levels import HOUR_MS, STEP_MS
from commander.telemetry.table import Table, equal, merged, sorted_table
from garrison.faults import Broken
from garrison.frame import Column

COLUMNS = (
    Column("hashrate_hs", "", "H/s", 0),
    Column("hashrate_hs", "board:1", "H/s", 0),
    Column("hashrate_hs", "board:2", "H/s", 0),
    Column("accepted", "", "1", 0),
    Column("temp_c", "", "°C", 1),
)
INTS = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5) | st.integers(0, 2**39).map(lambda n: n * 10_000_000)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rows = draw(st.integers(1, 12))
    at_ms = np.array(sorted(draw(st.sets(st.integers(0, 2**45), min_size=rows, max_size=rows))), np.int64)
    scaled = np.array([draw(st.lists(INTS, min_size=rows, max_size=rows)) for _ in COLUMNS], np.int64)
    if draw(st.booleans()):
        scaled[0] = scaled[1] + scaled[2] + draw(st.integers(-1, 1))  # a miner's total, to a rounding; wraps like int64 does
    valid = None
    if draw(st.booleans()):
        valid = np.array([draw(st.lists(st.booleans(), min_size=rows, max_size=rows)) for _ in COLUMNS], np.bool_)
    places = st.tuples(st.integers(0, len(COLUMNS) - 1), st.integers(0, rows - 1))
    odd = draw(st.dictionaries(places, st.floats(allow_nan=False, allow_infinity=False), max_size=3))
    if valid is not None:
        odd = {place: value for place, value in odd.items() if valid[place]}
    return Table(COLUMNS, at_ms, scaled, valid, odd)


@given(st.lists(tables(), min_size=1, max_size=4), st.sampled_from(Grain))
def test_what_goes_in_comes_out(some: list[Table], grain: Grain) -> None:
    """Each table of several, all of it or some columns; the same bytes as when it is packed alone unpack to the same."""
    for table, body in zip(some, blocks.pack_many(some, grain), strict=True):
        assert equal(blocks.unpack(COLUMNS, body), table)
        assert equal(blocks.unpack(COLUMNS, blocks.pack(table, grain)), table)
        for wanted in ([0], [4, 3], []):
            assert equal(blocks.unpack(COLUMNS, body, wanted), table.only(sorted(wanted)))


@given(tables(), st.sampled_from(Grain), st.data())
def test_other_bytes_are_refused(table: Table, grain: Grain, data: st.DataObject) -> None:
    """Cut, lengthened or of another layout: Broken. A changed byte is Broken or gives a table, and the row's checksum has told
    of it before: here it must only not hang or crash."""
    body = blocks.pack(table, grain)
    for wrong in (body[: data.draw(st.integers(0, len(body) - 1))], body + b"x"):
        with pytest.raises(Broken):
            blocks.unpack(COLUMNS, wrong)
    with pytest.raises(Broken):
        blocks.unpack(COLUMNS[:-1], body)
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ data.draw(st.integers(1, 255))]) + body[place + 1 :]
    with contextlib.suppress(Broken):
        blocks.unpack(COLUMNS, changed)


def test_a_steady_device_takes_almost_nothing() -> None:
    """A day of a device that says the same all day fits a few hundred bytes; noise costs its own bits and no more."""
    rng = np.random.default_rng(0)
    at_ms = np.arange(2_880, dtype=np.int64) * 30_000 + 1_800_000_000_000
    steady = Table(COLUMNS, at_ms, np.full((len(COLUMNS), 2_880), 7, np.int64))
    assert len(blocks.pack(steady, Grain.COLUMN)) < 200
    boards = rng.integers(0, 2**12, (2, 2_880)) * 10_000_000
    noisy = steady.scaled.copy()
    noisy[1:3], noisy[0] = boards, boards.sum(axis=0)
    size = len(blocks.pack(Table(COLUMNS, at_ms, noisy), Grain.COLUMN))
    assert size < 2 * 2_880 * 12 / 8 * 1.1, "the boards' twelve bits, and nothing for their sum"


def test_a_row_that_changed_on_disk_is_broken() -> None:
    """Any byte of its body, its device, its times, its number of rows or its layout."""
    with closing(sqlite3.connect(":memory:")) as c:
        block_store.create_layouts(c)
        block_store.create_tables(c)
        table = Table(COLUMNS, np.array([5, 9], np.int64), np.ones((len(COLUMNS), 2), np.int64))
        block_store.put(c, [block_store.packed(2**63 + 7, 0, table, Grain.PLANE)])

        def read() -> Table:
            (stored,) = block_store.every(c)
            return block_store.read(stored, block_store.Columns(c))

        assert equal(read(), table)
        for change in (
            "update blocks set body = cast(substr(body, 1, 20) || x'ff' || substr(body, 22) as blob)",
            "update blocks set key = key + 1",
            "update blocks set start_ms = 1",
            "update blocks set first_ms = 4",
            "update blocks set rows = 3",
            "update layouts set columns = replace(columns, 'accepted', 'rejected')",
        ):
            c.execute("savepoint harm")
            assert c.execute(change).rowcount == 1
            with pytest.raises(Broken):
                read()
            c.execute("rollback to harm")
        assert equal(read(), table)


# ---- tables ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.none() | st.integers(0, 99)), max_size=40), st.integers(1, 5))
def test_merging_is_a_dictionary(points: list[tuple[int, int, int | None]], cuts: int) -> None:
    """Rows of any order and number, in tables with some of the columns: of one time and column the later value stays, an absent one
    replaces nothing; merging again changes nothing."""
    model: dict[tuple[int, int], int] = {}
    some: list[Table] = []
    for part in np.array_split(np.arange(len(points)), cuts):
        mine = [points[i] for i in part.tolist()]
        if not mine:
            continue
        places = sorted({place for _, place, _ in mine})
        scaled = np.zeros((len(places), len(mine)), np.int64)
        valid = np.zeros(scaled.shape, np.bool_)
        for row, (at_ms, place, value) in enumerate(mine):
            if value is not None:
                scaled[places.index(place), row], valid[places.index(place), row] = value, True
                model[at_ms, place] = value
        times = np.array([at_ms for at_ms, _, _ in mine], np.int64)
        some.append(sorted_table(tuple(COLUMNS[place] for place in places), times, scaled, valid, {}))
    whole = merged(some)
    assert whole.at_ms.tolist() == sorted({at_ms for at_ms, _, _ in points})
    found = {
        (at_ms, COLUMNS.index(column)): int(whole.scaled[row, i])
        for row, column in enumerate(whole.columns)
        for i, at_ms in enumerate(whole.at_ms.tolist())
        if whole.there(row)[i]
    }
    assert found == model
    assert equal(merged([whole, *some]), whole)


@given(tables())
def test_hours_of_steps_are_hours_of_looks(table: Table) -> None:
    """Counts, lowest, highest, first, last and rise are exact whichever way; an average to five digits."""
    table = Table(table.columns, table.at_ms % (5 * HOUR_MS), table.scaled % 2**40, table.valid)
    table = sorted_table(table.columns, table.at_ms, table.scaled, table.valid, {})
    hours, direct = rollup.coarser(rollup.steps(table, STEP_MS), HOUR_MS), rollup.steps(table, HOUR_MS)
    assert hours.at_ms.tolist() == direct.at_ms.tolist()
    assert hours.columns == direct.columns
    for place, column in enumerate(hours.columns):
        ours, theirs = hours.numbers(place), direct.numbers(place)
        if column.metric.endswith("avg"):
            told = [value for value in theirs if value is not None]
            digits = 1e-4 * float(np.abs(table.scaled).max()) + 1  # of the largest step: its digits are kept
            assert [value for value in ours if value is not None] == pytest.approx(told, rel=0, abs=digits)
        elif not column.metric.endswith("rise"):
            assert ours == theirs, column
