"""How costs grow with devices and days: the real commander on histories that were written straight into its files.

For each number of devices one farm is written day by day, the last day first, and asked after one day, a week and a month. Looks of
now come over the wire, so that the latest values are there. Of a large farm only a part has raw looks on disk: a device's row is
read by its key, whatever else is there; roll-ups and totals are of all devices.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import history_data
from bench import history_truth as truth
from bench.history_archive import PATTERNS, Archive, Patterns, counts
from bench.history_data import COLUMNS, LAYOUT, STEP_MS, Data, Floats
from bench.history_farm import API, DAY_MS, HistoryFarm, feeder
from bench.history_figures import GROWTH, Figures
from bench.history_questions import (
    DEVICE,
    FIVE_MIN_MS,
    HASHRATE,
    LATEST_PATH,
    TOP,
    TOP_PATH,
    Question,
    farm_path,
    series_path,
    span,
    timed,
)
from bench.history_upkeep import tidied
from commander.telemetry.table import Table

DAYS = (1, 7, 30)
RAW_DEVICES = 1_000
LIVE_LOOKS = 10
HOW = "written straight into storage"


@dataclass(frozen=True, slots=True)
class Corner:
    """A farm of so many devices with so many days, up and running. The smallest is what the others are held against."""

    farm: HistoryFarm
    patterns: Patterns
    devices: int
    days: int
    live: Data

    @property
    def first_ms(self) -> int:
        return self.patterns.end_ms - self.days * DAY_MS

    def farm_hs(self, first_ms: int) -> Floats:
        """By steps of five minutes from then on, of the looks."""
        skipped = (first_ms - self.patterns.first_ms) // FIVE_MIN_MS
        told: Floats = counts(self.devices) @ self.patterns.hashrate_hs[:, skipped:]
        return told

    def questions(self) -> list[Question]:
        """Their figures do not name devices and days: they are the same for all corners."""
        end_ms = self.patterns.end_ms
        day_ms = end_ms - DAY_MS
        looks, live = self.patterns.kept, self.live
        day, all_days = looks.between(day_ms, end_ms), looks.between(self.first_ms, end_ms)
        last, last_ms = live.values[-1], live.at_ms[-1]
        return [
            _looks(f"one device, 24 h, {COLUMNS} metrics, raw", "all", day, day_ms, end_ms),
            _looks("one device, 24 h, one metric, raw", HASHRATE[0], day, day_ms, end_ms),
            _chart(f"chart of one device over all days, {COLUMNS} metrics", "all", all_days, self.first_ms, end_ms),
            _chart("chart of one device over all days, one metric", HASHRATE[0], all_days, self.first_ms, end_ms),
            Question(f"latest of all devices, {COLUMNS} metrics", LATEST_PATH,
                     lambda told: truth.latest(told, LAYOUT, last, last_ms)),
            Question("the ten hottest", TOP_PATH, lambda told: truth.top(told, LAYOUT, last, "chip_temp_c", TOP)),
            self._farm("hashrate of the farm, 5-minute steps, 24 h", day_ms),
            self._farm("hashrate of the farm, 5-minute steps, all days", self.first_ms),
        ]  # fmt: skip

    def _farm(self, figure: str, first_ms: int) -> Question:
        expected = self.farm_hs(first_ms)
        return Question(figure, farm_path(first_ms, self.patterns.end_ms), lambda told: truth.farm(told, expected))


def _expected(table: Table, metrics: str) -> dict[tuple[str, str], Floats]:
    every = [(column.metric, column.component) for column in table.columns]
    return {one: table.floats(table.places_of(one)[0]) for one in (every if metrics == "all" else [(metrics, "")])}


def _looks(figure: str, metrics: str, table: Table, first_ms: int, end_ms: int) -> Question:
    expected = _expected(table, metrics)
    path = series_path(DEVICE, f"{span(first_ms, end_ms)}&metrics={metrics}&step=raw")
    return Question(figure, path, lambda told: truth.looks(told, table.at_ms, expected))


def _chart(figure: str, metrics: str, table: Table, first_ms: int, end_ms: int) -> Question:
    expected = _expected(table, metrics)
    path = series_path(DEVICE, f"{span(first_ms, end_ms)}&metrics={metrics}")
    return Question(figure, path, lambda told: truth.steps(told, table.at_ms, expected))


# ---- measuring ---------------------------------------------------------------------------------------------


class Growth:
    """`at_largest`: called with the last corner while it is up."""

    def __init__(self, home: Path, end_ms: int, at_largest: Callable[[Corner], None]) -> None:
        self._home, self._at_largest = home, at_largest
        self.figures = Figures("", GROWTH)
        self._first: dict[str, float] = {}
        self._smallest = ""
        self._end_ms = end_ms

    def measure(self, sizes: Sequence[int], days: Sequence[int]) -> Figures:
        print(f"== growth: {sizes} devices, {days} days", flush=True)
        patterns = Patterns(max(days), self._end_ms, DEVICE % PATTERNS)
        for devices in sizes:
            self._measure_size(patterns, devices, days, last=devices == sizes[-1])
            shutil.rmtree(self._home / str(devices))
        return self.figures

    def _measure_size(self, patterns: Patterns, devices: int, days: Sequence[int], *, last: bool) -> None:
        home = self._home / str(devices)
        farm = HistoryFarm(home)
        home.mkdir(parents=True)
        farm.people(devices)
        now_ms = time.time_ns() // 1_000_000
        live = history_data.generate(home / "live", devices, LIVE_LOOKS, now_ms // STEP_MS * STEP_MS)
        raw_devices = min(devices, RAW_DEVICES)
        written = Archive(farm.history, patterns, devices, raw_devices, now_ms)
        asyncio.run(written.write_newest())
        there = 0
        for wanted in days:
            began_s = time.monotonic()
            written.write(patterns.days - wanted, patterns.days - there)
            there = wanted
            started_s = farm.start()
            print(f"{devices:,} devices, {wanted} days: written in {time.monotonic() - began_s - started_s:.1f} s", flush=True)
            try:
                if wanted == days[0]:
                    with feeder(farm) as sentries:
                        sentries.feed(home / "live", 0, LIVE_LOOKS)
                corner = Corner(farm, patterns, devices, wanted, live)
                self._ask(corner, started_s, raw_devices)
                if last and wanted == days[-1]:
                    self._at_largest(corner)
            finally:
                farm.stop()

    def _ask(self, corner: Corner, started_s: float, raw_devices: int) -> None:
        with corner.farm.link() as link:
            tidied(link)  # what it does by itself after a start is done then, and disturbs no question
            for question in corner.questions():
                told = timed(question, link)
                self._add(corner, question.figure, told.ours.median, "ms", told.ours.runs)
            usage = link.get(f"{API}/history/usage").json()["levels"]
        self._add(corner, "start of the commander, until it listens", started_s, "s")
        self._add(corner, "RSS of the commander when it has answered", corner.farm.memory_mb()[0], "MB")
        for level, what, devices in (
            ("raw", "raw looks", raw_devices),
            ("5min", "5-minute values and totals", corner.devices),
            ("1h", "hourly values and totals", corner.devices),
        ):
            size = usage[level]["bytes"] / devices / corner.days / 1000
            self._add(corner, f"disk for a device and day: {what}", size, "kB")

    def _add(self, corner: Corner, figure: str, value: float, unit: str, runs: Sequence[float] = ()) -> None:
        where = f"{corner.devices:,} devices, {corner.days} d"
        if corner.devices > RAW_DEVICES:
            where += f", raw looks of {RAW_DEVICES:,} of them"
        if figure not in self._first:
            self._smallest = where
            self.figures.add(f"{figure}, {HOW}: {where}", value, unit, runs=runs)
            self._first[figure] = value
        else:
            self.figures.add(
                f"{figure}, {HOW}: {where}", value, unit, runs=runs, ratio=value / self._first[figure], against=self._smallest
            )
