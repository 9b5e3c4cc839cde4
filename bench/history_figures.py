"""Figures of the history benchmark: printed as they come, written together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import results
from bench.measure import Measured

BENCH = "history"
GROWTH = "history_growth"


@dataclass(slots=True)
class Figures:
    """`scale`: of what, before each figure's name. A run that fails leaves the figures of the one before."""

    scale: str
    bench: str = BENCH
    rows: list[tuple[str, float, str, dict[str, Any]]] = field(default_factory=list)

    def add(self, figure: str, value: float, unit: str, **more: Any) -> None:
        """`more`: of `results.add`."""
        self.rows.append((f"{self.scale}: {figure}" if self.scale else figure, value, unit, more))
        ratio = f", {more['ratio']:.3g} × {more['against']}" if more.get("ratio") is not None else ""
        goal = f" ({more['goal']}: {'yes' if more['ok'] else 'NO'})" if more.get("goal") else ""
        print(f"{figure}: {value:.4g} {unit}{ratio}{goal}", flush=True)

    def against(self, figure: str, ours: Measured, unit: str, peer: str, theirs: Measured, goal: float | None = None) -> None:
        """`goal`: the ratio at most."""
        ratio = ours.over(theirs) if len(ours.runs) == len(theirs.runs) else ours.median / theirs.median
        told = theirs if len(theirs.runs) > 1 else f"{theirs.median:.4g}"
        self.add(
            figure, ours.median, unit, ratio=ratio, against=f"{peer}, {told} {unit}",
            goal=None if goal is None else f"≤ {goal:g} ×", ok=None if goal is None else ratio <= goal,
            runs=ours.runs if len(ours.runs) > 1 else (),
        )  # fmt: skip


def write(every: Sequence[Figures]) -> None:
    """Each in place of what an earlier run measured."""
    for figures in every:
        if figures.scale:
            results.begin(figures.bench, scale=figures.scale)
        for figure, value, unit, more in figures.rows:
            results.add(figures.bench, figure, value, unit, **more)


def one(value: float) -> Measured:
    return Measured((value,))
