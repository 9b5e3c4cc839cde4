"""The benchmarks' book-keeping; the benchmarks themselves are run by `make bench`."""

import json
import math
from pathlib import Path

import pytest

from bench import report, results
from bench.measure import Measured, in_turns, repeat, repeat_async, stopwatch


def test_rows_have_exactly_these_keys_and_a_stable_order(tmp_path: Path) -> None:
    """Whatever the order they were added in; a figure measured again replaces the old one."""
    path = tmp_path / "results.json"
    results.add("poll", "b", 2.0, "µs", path=path)
    results.add("poll", "a", 1.23456789, "µs", ratio=1.5, against="a socket", goal="≤ 2×", ok=True, runs=[1.0, 2.0], path=path)
    results.add("ingest", "z", 1.0, "µs", path=path)
    results.add("poll", "b", 3.0, "µs", ok=False, path=path)
    rows = json.loads(path.read_text())
    found = [(row["bench"], row["figure"], row["value"]) for row in rows]
    assert found == [("ingest", "z", 1.0), ("poll", "a", 1.235), ("poll", "b", 3.0)]
    assert all(tuple(row) == results.KEYS for row in rows)
    results.begin("poll", path)
    assert [row["bench"] for row in results.read(path)] == ["ingest"]


def test_a_figure_that_is_none_is_refused(tmp_path: Path) -> None:
    """NaN would make the file no JSON."""
    with pytest.raises(ValueError, match="finite"):
        results.add("poll", "x", math.nan, "µs", path=tmp_path / "results.json")


def test_the_page_is_made_from_the_results() -> None:
    """docs/benchmarks.md in the repository is what bench/results.json gives."""
    assert report.PAGE.read_text(encoding="utf-8") == report.page(results.read())
    for row in results.read():
        assert tuple(row) == results.KEYS


def test_a_page(tmp_path: Path) -> None:
    """Median, range, ratio, goal; a goal missed stands out; a bar in a text does not break the table."""
    path = tmp_path / "results.json"
    results.add("poll", "CPU | device", 12345.0, "µs", ratio=2.5, against="x", goal="≤ 2×", ok=False, runs=[12e3, 13e3], path=path)
    text = report.page(results.read(path))
    assert "| CPU \\| device | 12,340 µs | 12,000 to 13,000 | 2 | 2.5× | x | ≤ 2× | **no** |" in text
    assert "Nothing was measured yet." in report.page([])


async def test_measuring() -> None:
    """Warm-ups do not count; pairs are measured in turns and compared run by run."""
    seen: list[str] = []
    numbers = iter([100.0, 3.0, 1.0, 2.0])
    assert repeat(lambda: next(numbers), runs=3).runs == (3.0, 1.0, 2.0)

    def note(who: str) -> float:
        seen.append(who)
        return len(seen)

    a, b = in_turns(lambda: note("a"), lambda: note("b"), runs=2, warm_up=0)
    assert seen == ["a", "b", "a", "b"]
    assert a.over(b) == pytest.approx((1 / 2 + 3 / 4) / 2)

    async def once() -> float:
        return 7.0

    assert (await repeat_async(once, runs=2)).median == 7.0
    assert str(Measured((9.0, 10.0, 11.0))) == "10 (±10%, 3 runs)"
    assert Measured((0.0, 0.0)).spread == 0.0
    with stopwatch() as watch:
        sum(range(10_000))
    assert watch.cpu_s >= 0
    assert watch.wall_s > 0
