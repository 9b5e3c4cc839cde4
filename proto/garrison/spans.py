"""Sets of sequence numbers as ascending, disjoint spans: what is durable, what is missing.

Live frames travel ahead of the backlog, so what has arrived is not one number but a few spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX = 2**63 - 1
"""The greatest sequence number: what SQLite's integers hold."""


class Span(NamedTuple):
    """`first` and `last` are both included."""

    first: int
    last: int


class Spans:
    """A mutable set of positive integers, cheap when they come in runs."""

    __slots__ = ("_spans",)

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._spans: list[Span] = []
        for first, last in spans:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Raises ValueError when `first` is below 1 or above `last`, or `last` above MAX."""
        last = first if last is None else last
        if first < 1 or last < first or last > MAX:
            raise ValueError(f"no span: {first}..{last}")
        at = self._place(first - 1)
        end = at
        while end < len(self._spans) and self._spans[end].first <= last + 1:
            end += 1
        if end > at:
            first = min(first, self._spans[at].first)
            last = max(last, self._spans[end - 1].last)
        self._spans[at:end] = [Span(first, last)]

    def missing(self, first: int, last: int) -> Iterator[Span]:
        """The parts of first..last that are not in the set, ascending."""
        for at in range(self._place(first), len(self._spans)):
            span = self._spans[at]
            if span.first > last:
                break
            if span.first > first:
                yield Span(first, span.first - 1)
            first = span.last + 1
        if first <= last:
            yield Span(first, last)

    def copy(self) -> Spans:
        twin = Spans()
        twin._spans = self._spans[:]
        return twin

    def _place(self, number: int) -> int:
        """The index of the first span whose last is at or above `number`."""
        low, high = 0, len(self._spans)
        while low < high:
            middle = (low + high) // 2
            if self._spans[middle].last < number:
                low = middle + 1
            else:
                high = middle
        return low

    def __contains__(self, number: int) -> bool:
        at = self._place(number)
        return at < len(self._spans) and self._spans[at].first <= number

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def count(self) -> int:
        """How many numbers are in the set. Not `len`: `list(spans)` would make room for that many."""
        return sum(span.last - span.first + 1 for span in self._spans)

    def __bool__(self) -> bool:
        return bool(self._spans)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and self._spans == other._spans

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Spans({[tuple(span) for span in self._spans]})"
