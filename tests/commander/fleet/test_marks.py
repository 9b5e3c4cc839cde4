"""A record has its effect once, however often and in whatever order it comes."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.fleet import marks
from garrison.faults import BadInput
from garrison.spans import Spans

BOOT = b"b" * 16


def fresh() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    marks.create_table(connection)
    return connection


@given(st.lists(st.integers(min_value=1, max_value=60)))
def test_once_is_a_set(numbers: list[int]) -> None:
    """`once` says True exactly for what a set did not hold; what is durable is that set, in as few rows as it has runs."""
    connection, seen = fresh(), set[int]()
    for number in numbers:
        assert marks.once(connection, "s", BOOT, number) is (number not in seen)
        seen.add(number)
    expected = Spans((number, number) for number in seen)
    assert marks.durable(connection, "s", [(BOOT, 1, 100)]) == {BOOT: expected}
    assert connection.execute("select count(*) from record_marks").fetchone()[0] == len(list(expected))
    connection.close()


def test_apart() -> None:
    """Another sentry's record and another life of the journal are other records; only what is held is answered."""
    connection = fresh()
    for number in (1, 2, 3, 7):
        marks.once(connection, "s", BOOT, number)
    assert marks.once(connection, "t", BOOT, 1)
    assert marks.once(connection, "s", b"c" * 16, 1)
    assert marks.durable(connection, "s", [(BOOT, 2, 6), (b"d" * 16, 1, 9)]) == {BOOT: Spans([(2, 3)]), b"d" * 16: Spans()}
    connection.close()


@pytest.mark.parametrize(("boot", "seq"), [(b"short", 1), (BOOT, 0), (BOOT, -1), (BOOT, 1 << 63)])
def test_nonsense(boot: bytes, seq: int) -> None:
    """A record without a place is refused, not written."""
    connection = fresh()
    with pytest.raises(BadInput):
        marks.once(connection, "s", boot, seq)
    connection.close()
