"""Spans behave as a set of numbers does, whatever is added in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.spans import MAX, Span, Spans

pieces = st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1]))


def numbers(spans: Spans) -> set[int]:
    return {n for first, last in spans for n in range(first, last + 1)}


@given(st.lists(pieces, max_size=30))
def test_as_a_set(added: list[tuple[int, int]]) -> None:
    """After each addition: the same members as a Python set; spans ascending, and never touching."""
    spans, model = Spans(), set[int]()
    for first, last in added:
        spans.add(first, last)
        model |= set(range(first, last + 1))
        assert numbers(spans) == model
        assert spans.count() == len(model)
        assert bool(spans) == bool(model)
        assert all(a.last + 1 < b.first for a, b in zip(list(spans), list(spans)[1:], strict=False))
    assert [n in spans for n in range(80)] == [n in model for n in range(80)]
    assert Spans(added) == spans == Spans(list(spans)) == Spans(reversed(added))


@given(st.lists(pieces, max_size=20), st.integers(1, 75), st.integers(1, 75))
def test_what_is_missing(added: list[tuple[int, int]], first: int, last: int) -> None:
    """`missing` gives exactly what the range has and the set has not, ascending and disjoint."""
    spans = Spans(added)
    gaps = list(spans.missing(first, last))
    flat = [n for gap in gaps for n in range(gap.first, gap.last + 1)]
    assert flat == sorted(set(range(first, last + 1)) - numbers(spans))
    for gap in gaps:
        spans.add(*gap)
    assert not list(spans.missing(first, last))


@given(st.lists(pieces, max_size=10))
def test_a_copy_is_its_own(added: list[tuple[int, int]]) -> None:
    """Changing the copy leaves the first as it was."""
    spans = Spans(added)
    twin = spans.copy()
    twin.add(1000)
    assert 1000 not in spans
    assert spans == Spans(added)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (-5, 5), (5, 4), (1, MAX + 1), (2**64, None)])
def test_what_is_no_span(first: int, last: int | None) -> None:
    """Sequence numbers are 1 to 2^63-1, as SQLite holds them; a peer that says otherwise is refused."""
    with pytest.raises(ValueError, match="no span"):
        Spans().add(first, last)


def test_the_largest() -> None:
    """The greatest number is a member like any other, and costs one span."""
    spans = Spans([(1, MAX - 1)])
    spans.add(MAX)
    assert list(spans) == [Span(1, MAX)]
    assert spans.count() == MAX
