"""Series that the ASIC sentry itself read, from the simulated farm of the tests, kept by the commander and by VictoriaMetrics.

Simulators mostly say constants, as real devices do not: this is no figure for a real farm, it is another kind of data.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.history_data import Data
from bench.history_day import Day, tell_of_bytes, tell_of_cpu
from bench.history_figures import Figures
from bench.history_peers import Kind

DEVICES, COPIES = 12, 20
"""A device is recorded once and kept under twenty names: no side looks across devices."""


def measure(home: Path, hours: int, end_ms: int, kinds: Sequence[Kind]) -> Figures:
    folder = home / "data"
    folder.mkdir()
    command = [sys.executable, "-m", "bench.history_recorder", *map(str, (folder, DEVICES, COPIES, hours, end_ms))]
    subprocess.run(command, check=True)
    scale = f"{DEVICES} simulated Antminers as the sentry read them, {hours} h"
    day = Day.of(home, folder, scale, kinds)
    try:
        ours, theirs = day.fed()
        tell_of_bytes(day.figures, ours, theirs, {})
        tell_of_cpu(day.figures, ours, theirs, {})
        constant = _constant(day.data)
        day.figures.add("series that never changed", constant * 100, "%")
    finally:
        day.kill()
    return day.figures


def _constant(data: Data) -> float:
    """As a share of all."""
    moved = (data.values != data.values[0]).any(axis=0)
    return 1 - float(np.mean(moved))
