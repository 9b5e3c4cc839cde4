"""What the history benchmark rests on: its data, frames, files written straight into storage, and that wrong answers are seen."""

from pathlib import Path

import numpy as np
import pytest

from bench import history_data, history_frames, history_truth
from bench.history_archive import PATTERNS, Archive, Patterns, counts
from bench.history_data import LAYOUT, STEP_MS, identity
from bench.history_figures import Figures, one
from bench.history_recorder import JumpingLoop, keep, record
from bench.history_upkeep import late
from commander.telemetry import archive, block_store, totals_store
from commander.telemetry.levels import DAY_MS, Level, file_at
from garrison.frame import device_key

END_MS = 1_795_478_400_000
"""A midnight."""


@pytest.mark.parametrize("jitter_ms", [0, history_data.JITTER_MS])
def test_data(tmp_path: Path, jitter_ms: int) -> None:
    """The same each time. Without jitter looks are exactly a step apart, at whole seconds; frames of them are the product's own."""
    data = history_data.generate(tmp_path / "a", 5, 20, END_MS, jitter_ms)
    again = history_data.generate(tmp_path / "b", 5, 20, END_MS, jitter_ms)
    assert np.array_equal(data.values, again.values)
    assert data.layout == LAYOUT
    assert bool((np.diff(data.at_ms, axis=0) == STEP_MS).all()) is not bool(jitter_ms)
    assert bool((data.at_ms % 1000 == 0).all()) is not bool(jitter_ms)
    assert data.at_ms.max() < END_MS
    history_frames.check(data)


def test_written_straight_into_storage(tmp_path: Path) -> None:
    """Every device's row reads back as the looks of its pattern, and the farm's totals are those of all looks."""
    patterns, devices = Patterns(2, END_MS, 3), PATTERNS + 4
    written = Archive(tmp_path, patterns, devices, PATTERNS + 4, END_MS)
    written.write(1, 2)
    written.write(0, 1)
    key = device_key(identity(PATTERNS + 3))
    with archive.reading(tmp_path / file_at(Level.RAW, END_MS - DAY_MS).name) as c:
        assert c is not None
        stored = block_store.at(c, key, END_MS - DAY_MS)
        assert stored is not None
        looks = block_store.read(stored, block_store.Columns(c))
    expected = patterns.kept.between(END_MS - DAY_MS, END_MS)
    assert np.array_equal(looks.at_ms, expected.at_ms)
    assert np.array_equal(looks.scaled, expected.scaled)
    with archive.reading(tmp_path / file_at(Level.FIVE_MINUTES, END_MS - DAY_MS).name) as c:
        assert c is not None
        rows = totals_store.archive_rows(c, "farm", "hashrate_hs", END_MS - 2 * DAY_MS, END_MS)
    assert [row[2] for row in rows] == [devices] * 576
    assert np.allclose([row[4] for row in rows], counts(devices) @ patterns.hashrate_hs, rtol=1e-12)
    with archive.reading(tmp_path / file_at(Level.HOUR, END_MS - DAY_MS).name) as c:
        assert c is not None
        (month,) = [row for row in block_store.every(c) if row.key == key]
    assert month.rows == 48


def test_a_wrong_answer_is_seen(tmp_path: Path) -> None:
    """Each check lets the truth pass, and nothing else."""
    data = history_data.generate(tmp_path / "data", 2, 4, END_MS)
    series, at_ms = ("hashrate_hs", ""), data.at_ms[:, 1]
    values = data.series(1, series)
    told = {
        "step_ms": None,
        "at_ms": at_ms.tolist(),
        "series": [{"metric": "hashrate_hs", "component": "", "values": values.tolist()}],
    }
    history_truth.looks(told, at_ms, {series: values})
    for wrong in (values + 1, values[:-1]):
        with pytest.raises(RuntimeError, match="other values"):
            history_truth.looks(told, at_ms, {series: wrong})
    history_truth.farm({"groups": [{"values": values.tolist()}]}, values)
    with pytest.raises(RuntimeError, match="off by"):
        history_truth.farm({"groups": [{"values": (values * 1.00001).tolist()}]}, values)
    with pytest.raises(RuntimeError, match="1 of them empty"):
        history_truth.farm({"groups": [{"values": [*values[:-1].tolist(), None]}]}, values)


def test_recorded_looks(tmp_path: Path) -> None:
    """The sentry's own watcher looks at simulated miners every 30 s of a time that flies."""
    loop = JumpingLoop()
    try:
        samples = loop.run_until_complete(record(loop, 2, END_MS - 600_000, END_MS))
    finally:
        loop.close()
    keep(tmp_path, samples, 3)
    data = history_data.opened(tmp_path)
    assert data.devices == 6
    assert 18 <= data.looks <= 21
    assert abs(float(np.diff(data.at_ms[:, 0]).mean()) - STEP_MS) < 2_000
    assert data.series(5, ("look_ok", "")).tolist() == [1.0] * data.looks
    history_frames.check(data)


def test_lag_between_two_looks_at_a_histogram() -> None:
    """Only what was counted between them; beyond the last bucket it is ten seconds or more."""
    name = "garrison_loop_lag_seconds"
    before = {f'{name}_bucket{{le="0.01"}}': 90.0, f'{name}_bucket{{le="0.1"}}': 100.0, f"{name}_count": 100.0}
    after = {f'{name}_bucket{{le="0.01"}}': 98.0, f'{name}_bucket{{le="0.1"}}': 110.0, f"{name}_count": 110.0}
    assert late(before, after) == 0.1
    assert late(before, {**after, f"{name}_count": 200.0}) == 10.0


def test_figures() -> None:
    """A ratio is held against its goal; how often each side was measured may differ."""
    figures = Figures("10 devices")
    figures.against("x", one(1.0), "µs", "a peer", one(4.0), 0.25)
    figures.against("y", one(1.1), "µs", "a peer", one(4.0), 0.25)
    assert [(name, more["ok"]) for name, _, _, more in figures.rows] == [("10 devices: x", True), ("10 devices: y", False)]
