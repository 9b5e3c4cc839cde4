"""`bench/results.json`: what the benchmarks measured, one object a figure. `bench/report.py` makes docs/benchmarks.md of it.

from bench import results
results.begin("poll")                       # forgets what an earlier run of this benchmark said
results.add("poll", "CPU per device", 212.0, "µs", ratio=1.3, against="a bare socket read", goal="≤ 2×", ok=True, runs=[…])
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "results.json"
KEYS = ("bench", "figure", "value", "unit", "ratio", "against", "goal", "ok", "runs")


def read(path: Path = PATH) -> list[dict[str, Any]]:
    """The rows, in the file's order; none where there is no file."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def begin(bench: str, path: Path = PATH, *, scale: str = "") -> None:
    """Drops the rows of this benchmark, or of one of its scales: "1,000 devices, 24 h: …"."""
    _write([row for row in read(path) if row["bench"] != bench or not row["figure"].startswith(scale and f"{scale}: ")], path)


def add(
    bench: str,
    figure: str,
    value: float,
    unit: str,
    *,
    ratio: float | None = None,
    against: str | None = None,
    goal: str | None = None,
    ok: bool | None = None,
    runs: Sequence[float] = (),
    path: Path = PATH,
) -> None:
    """One figure, in place of an earlier one of the same name.

    `value` is the median of `runs`, which are the single measurements in the same unit. `ratio` is ours over that of `against`
    from the same run. `goal` is for a person ("≤ 60 MB"); `ok`: whether it was met, None where there is no goal.
    """
    numbers = [value, *runs, *([ratio] if ratio is not None else [])]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{bench}, {figure}: not a finite figure: {numbers}")
    row = {
        "bench": bench, "figure": figure, "value": _short(value), "unit": unit, "ratio": None if ratio is None else _short(ratio),
        "against": against, "goal": goal, "ok": ok, "runs": [_short(run) for run in runs],
    }  # fmt: skip
    others = [old for old in read(path) if (old["bench"], old["figure"]) != (bench, figure)]
    _write([*others, row], path)


def _short(number: float) -> float:
    """Four digits that count: more would only make the file differ."""
    return float(f"{number:.4g}")


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    rows = sorted(rows, key=lambda row: (row["bench"], row["figure"]))
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    lines = ",\n".join("  " + json.dumps({key: row[key] for key in KEYS}, ensure_ascii=False) for row in rows)
    fresh.write_text(f"[\n{lines}\n]\n" if rows else "[]\n", encoding="utf-8")
    fresh.replace(path)
