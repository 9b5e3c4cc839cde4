"""Sealing and merging in the history benchmark: what they cost, how long the event loop stands still, and how large the
commander gets with many devices."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench import history_data
from bench.history_data import COLUMNS, STEP_MS
from bench.history_farm import API, HistoryFarm, Probe, feeder
from bench.history_figures import Figures
from bench.history_http import Link
from bench.whole_farm import machine_cpu_s

IDLE_S = 5.0
STALL_MS = 25.0
MEMORY_MB = 400.0
MANY_LOOKS, LIVE_LOOKS = 240, 10
"""Of yesterday and of now, for the figure of memory."""
_LAG = "garrison_loop_lag_seconds"


@dataclass(frozen=True, slots=True)
class Tidied:
    """Waits are those above the idle median; `late_ms` is as the commander counts it. `asking_s`: CPU that the asking cost it.
    `others`: processors that other programs took meanwhile."""

    asking_s: float = 0.0
    p99_ms: float = 0.0
    longest_ms: float = 0.0
    late_ms: float = 0.0
    others: float = 0.0

    def tell(self, figures: Figures) -> None:
        loop = "event loop while sealing and merging"
        figures.add(
            f"{loop}: a request's wait above the idle median, p99", self.p99_ms, "ms",
            goal=f"≤ {STALL_MS:g} ms", ok=self.p99_ms <= STALL_MS,
        )  # fmt: skip
        figures.add(f"{loop}: the longest wait", self.longest_ms, "ms")
        figures.add(f"{loop}: delays as the commander counts them, p99 at most", self.late_ms, "ms")
        figures.add(f"{loop}: processors of {os.cpu_count()} that other programs took meanwhile", self.others, "processors")


def idle(farm: HistoryFarm) -> Probe:
    """A probe that knows what a request takes of a commander without anything to do."""
    with farm.link() as link:
        tidied(link)
    probe = Probe(farm)
    probe.rest(IDLE_S)
    return probe


def tidy(farm: HistoryFarm, probe: Probe) -> Tidied:
    """Seals and merges all that is due, while the probe asks every 5 ms. What it has begun by itself is a part of it."""
    lag_before, began_s = farm.metrics(), time.monotonic()
    cpu_before_s = farm.cpu_s(), machine_cpu_s(), time.process_time()
    with farm.link() as link, probe:
        told = tidied(link)
    took_s, used_s = time.monotonic() - began_s, farm.cpu_s() - cpu_before_s[0]
    others = (machine_cpu_s() - cpu_before_s[1] - (time.process_time() - cpu_before_s[2]) - used_s) / took_s
    late_s, asking_s = late(lag_before, farm.metrics()), probe.cpu_s * len(probe.waits_s)
    print(f"sealed and merged in {took_s:.1f} s, {used_s - asking_s:.1f} s of CPU: {json.dumps(told)}", flush=True)
    if told["damaged"] or not told["days"] or not told["batches"]:
        raise RuntimeError("nothing was merged, or something was damaged")
    return Tidied(asking_s, probe.excess_ms(0.99), probe.excess_ms(1), late_s * 1000, others)


def tidied(link: Link) -> dict[str, int]:
    """What it did."""
    told: dict[str, int] = link.ask("POST", f"{API}/history/tidy", b"{}", {"content-type": "application/json"}).json()
    return told


def late(before: dict[str, float], after: dict[str, float], share: float = 0.99) -> float:
    """Upper end of the bucket below which this share of the loop's wake-ups between the two were late, in s; 10: or more."""
    count = after[f"{_LAG}_count"] - before[f"{_LAG}_count"]
    uppers = {
        float(key.partition('le="')[2].partition('"')[0]): value - before[key]
        for key, value in after.items()
        if key.startswith(f"{_LAG}_bucket") and "+Inf" not in key
    }
    return next((upper for upper, below in sorted(uppers.items()) if below >= share * count), 10.0)


def measure_many(home: Path, devices: int, end_ms: int) -> Figures:
    """The commander with many devices: two hours of yesterday and some minutes of now; then it seals and merges."""
    figures = Figures(f"{devices:,} devices")
    print(f"== {figures.scale}: memory", flush=True)
    history_data.generate(home / "many", devices, MANY_LOOKS, end_ms)
    farm = HistoryFarm(home / "farm")
    farm.home.mkdir()
    farm.people(devices)
    farm.start()
    try:
        probe = idle(farm)
        idle_mb, _ = farm.memory_mb()
        with feeder(farm) as sentries:
            sentries.feed(home / "many", 0, MANY_LOOKS)
            now_ms = time.time_ns() // 1_000_000
            history_data.generate(home / "live", devices, LIVE_LOOKS, now_ms // STEP_MS * STEP_MS)
            sentries.feed(home / "live", 0, LIVE_LOOKS)
            fed_mb, most_mb = farm.memory_mb()
            goal = f"≤ {MEMORY_MB:g} MB"
            figures.add(f"RSS of the commander, {COLUMNS} metrics each", fed_mb, "MB", goal=goal, ok=fed_mb <= MEMORY_MB)
            figures.add("RSS of the commander, at most while it was fed as fast as it took it", most_mb, "MB")
            figures.add("RSS of the commander before it was fed", idle_mb, "MB")
            farm.forget_peak()
            tidy(farm, probe).tell(figures)
            now_mb, most_mb = farm.memory_mb()
            figures.add("RSS of the commander after sealing", now_mb, "MB", goal=goal, ok=now_mb <= MEMORY_MB)
            figures.add("RSS of the commander, at most while it sealed", most_mb, "MB")
    finally:
        farm.stop()
    return figures
