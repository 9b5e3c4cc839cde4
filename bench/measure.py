"""Repeated measuring on a noisy machine: medians with spread, and two things measured in turns so that noise hits both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """All runs, in one unit."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Highest minus lowest, as a share of the median; 0 where the median is."""
        return (max(self.runs) - min(self.runs)) / self.median if self.median else 0.0

    def over(self, other: Measured) -> float:
        """The median of the ratios run by run: both of a pair were measured in the same minute."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.runs, other.runs, strict=True))

    def __str__(self) -> str:
        return f"{self.median:.4g} (±{self.spread / 2:.0%}, {len(self.runs)} runs)"


def repeat(once: Callable[[], float], runs: int = 5, warm_up: int = 1) -> Measured:
    """`once` measures and returns its figure. The warm-up runs do not count."""
    for _ in range(warm_up):
        once()
    return Measured(tuple(once() for _ in range(runs)))


async def repeat_async(once: Callable[[], Awaitable[float]], runs: int = 5, warm_up: int = 1) -> Measured:
    for _ in range(warm_up):
        await once()
    return Measured(tuple([await once() for _ in range(runs)]))


def in_turns(ours: Callable[[], float], theirs: Callable[[], float], runs: int = 5, warm_up: int = 1) -> tuple[Measured, Measured]:
    """A, B, A, B, …"""
    for _ in range(warm_up):
        ours()
        theirs()
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return Measured(tuple(a for a, _ in pairs)), Measured(tuple(b for _, b in pairs))


@dataclass(slots=True)
class Stopwatch:
    """`cpu_s`: of all threads of this process; `wall_s`: may include others' work on a shared machine."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Filled when the block ends."""
    watch = Stopwatch()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    yield watch
    watch.cpu_s, watch.wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
