"""The history against a plain dictionary: whatever is appended, repeated, late, sealed, merged, retired, refused by a full disk
or cut by
a restart, every acknowledged sample is there once with its values, and totals are what the samples add up to."""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS
from commander.telemetry.members import FARM
from commander.telemetry.retention import Spans
from commander.telemetry.series import RAW
from commander.telemetry.service import Telemetry
from commander.telemetry.upkeep import GRACE_MS
from garrison.clock import ManualClock
from garrison.faults import DiskFull
from garrison.frame import Layout, Number, Sample, Series, pack

BEGUN_MS = 1_800_000_000_000 // DAY_MS * DAY_MS
LAYOUTS = (
    Layout.of([("hashrate_hs", ""), ("accepted", ""), ("temp_c", "")]),
    Layout.of([("hashrate_hs", ""), ("accepted", ""), ("temp_c", ""), ("fan_rpm", "fan:2")]),
    Layout.of([("look_ok", "")]),
)
KEYS = (1, 2, 2**63 + 3)
EVERY_MS = 30_000
LARGEST_HS = 10**14


class History(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.clock = ManualClock(BEGUN_MS)
        self.rng = random.Random(0)
        self.seq = 0
        self.full = False
        self.odd_ms = 0
        self.model: dict[int, dict[int, dict[Series, Number]]] = {key: {} for key in KEYS}
        self.sent: list[tuple[int, bytes, list[Sample]]] = []  # layout, body, samples of frames that were acknowledged
        self.counter = dict.fromkeys(KEYS, 0)
        self._open()

    def _open(self) -> None:
        async def opening() -> Telemetry:
            telemetry = await Telemetry.open(self.folder, self.clock, spans=Spans(raw_days=400), commit_every_ms=1)

            async def groups() -> AsyncIterator[tuple[int, tuple[tuple[str, str], ...]]]:
                for key in KEYS:
                    yield key, (FARM, ("rack", f"r{key % 2}"))

            telemetry.follow(groups)
            for layout in LAYOUTS:
                await telemetry.learn_layout("s1", layout)
            return telemetry

        self.telemetry = self.runner.run(opening())

    # ---- what may happen -----------------------------------------------------------------------------------

    @rule(looks=st.integers(1, 60), kind=st.integers(0, 2), devices=st.sets(st.sampled_from(KEYS), min_size=1), reset=st.booleans())
    def append(self, looks: int, kind: int, devices: set[int], reset: bool) -> None:
        """A post reports for a while, live."""
        if reset:
            self.counter = dict.fromkeys(KEYS, 0)
        frames = []
        for _ in range(looks):
            self.clock.advance(EVERY_MS / 1000)
            frames.append(self._frame(kind, sorted(devices), self.clock.now_ms()))
        self._deliver("s1", frames)

    @rule(ago=st.integers(1, 3 * DAY_MS // EVERY_MS), looks=st.integers(1, 40), key=st.sampled_from(KEYS), kind=st.integers(0, 2))
    def late(self, ago: int, looks: int, key: int, kind: int) -> None:
        """A sentry that was away delivers what it journalled, in any order."""
        self.odd_ms += 1  # no device says two things of the same moment
        first_ms = self.clock.now_ms() - ago * EVERY_MS + self.odd_ms
        frames = [
            self._frame(kind, [key], first_ms + i * EVERY_MS) for i in range(looks) if first_ms + i * EVERY_MS < self.clock.now_ms()
        ]
        self.rng.shuffle(frames)
        self._deliver("s2", frames)

    @precondition(lambda self: self.sent)
    @rule(again=st.lists(st.integers(0, 10**6), max_size=10))
    def repeat(self, again: list[int]) -> None:
        """The same samples come again in other frames: a commander restored from a backup is refilled."""
        self._deliver("s3", [self.sent[i % len(self.sent)] for i in again])

    @rule(hours=st.sampled_from([0, 1, 3, 26]))
    def tidy(self, hours: int) -> None:
        """Sealing, and after a day the merge."""
        self.clock.advance(hours * 3600)
        try:
            self.runner.run(self.telemetry.tidy())
        except DiskFull:
            assert self.full

    @rule()
    def restart(self) -> None:
        self.runner.run(self.telemetry.close())
        self.full = False
        self._open()

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        async def resizing() -> None:
            pages = await self.telemetry.db.read(lambda c: c.execute("pragma page_count").fetchone()[0])
            limit = pages if full else 1_000_000
            await self.telemetry.db.write(lambda c: c.execute(f"pragma max_page_count={limit}").fetchone())

        self.runner.run(resizing())
        self.full = full

    # ---- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def every_sample_is_there_once(self) -> None:
        for key in KEYS:
            found = self.runner.run(self.telemetry.chart(key, None, BEGUN_MS - 5 * DAY_MS, self.clock.now_ms() + 1, RAW))
            wanted = self.model[key]
            assert found.at_ms.tolist() == sorted(wanted)
            assert found.unreadable == 0
            for line in found.lines:
                values = [None if v is None or v != v else v for v in list(line.stats["value"])]
                assert values == [wanted[at_ms].get((line.metric, line.component)) for at_ms in sorted(wanted)]

    @invariant()
    def steps_are_what_samples_give(self) -> None:
        """Of five minutes and of an hour, wherever they come from."""
        for key in KEYS:
            for step_ms in (STEP_MS, HOUR_MS):
                series = {("hashrate_hs", ""), ("accepted", "")}
                from_ms = BEGUN_MS - 5 * DAY_MS
                found = self.runner.run(self.telemetry.chart(key, series, from_ms, self.clock.now_ms() + 1, step_ms, limit=20_000))
                lines = {line.metric: line for line in found.lines}
                held: dict[int, list[Number]] = defaultdict(list)
                for at_ms in sorted(self.model[key]):
                    value = self.model[key][at_ms].get(("hashrate_hs", ""))
                    if value is not None:
                        held[at_ms // step_ms * step_ms].append(value)
                for place, at_ms in enumerate(found.at_ms.tolist()):
                    values = held.get(at_ms, [])
                    assert lines["hashrate_hs"].stats["count"][place] == len(values)
                    if values:
                        avg = float(lines["hashrate_hs"].stats["avg"][place] or 0)
                        assert math.isclose(avg, sum(values) / len(values), rel_tol=0, abs_tol=LARGEST_HS * 5e-5)
                        assert lines["hashrate_hs"].stats["min"][place] == min(values)
                        assert lines["hashrate_hs"].stats["max"][place] == max(values)

    @invariant()
    def the_farm_is_the_sum_of_its_devices(self) -> None:
        """Of all that is sealed, exactly; what came late is in it with the next sealing, and a full disk may have put that off."""
        if self.full:
            return
        self.runner.run(self.telemetry.tidy())
        from_ms, to_ms = BEGUN_MS - 5 * DAY_MS, (self.clock.now_ms() - GRACE_MS) // STEP_MS * STEP_MS
        if to_ms <= from_ms:
            return
        found = self.runner.run(self.telemetry.aggregate("farm", "hashrate_hs", "sum", from_ms, to_ms, STEP_MS, limit=20_000))
        held: dict[int, dict[int, list[Number]]] = defaultdict(lambda: defaultdict(list))
        for key, samples in self.model.items():
            for at_ms, values in samples.items():
                if ("hashrate_hs", "") in values:
                    held[at_ms // STEP_MS * STEP_MS][key].append(values["hashrate_hs", ""])
        told = dict(zip(found.at_ms.tolist(), found.groups[0].values.tolist(), strict=True)) if found.groups else {}
        for at_ms in found.at_ms.tolist():
            wanted = sum(sum(values) / len(values) for values in held[at_ms].values()) if held[at_ms] else math.nan
            shown = told.get(at_ms, math.nan)
            assert math.isclose(shown, wanted, rel_tol=1e-9) or (math.isnan(shown) and math.isnan(wanted)), (at_ms, shown, wanted)

    # ---- how -----------------------------------------------------------------------------------------------

    def _frame(self, kind: int, devices: list[int], at_ms: int) -> tuple[int, bytes, list[Sample]]:
        samples = []
        for key in devices:
            values: dict[Series, Number] = {}
            for column in LAYOUTS[kind].columns:
                if column.metric == "accepted":
                    self.counter[key] += self.rng.randrange(9)
                    values[column.metric, column.component] = self.counter[key]
                elif column.metric == "look_ok":
                    values[column.metric, column.component] = 0
                elif self.rng.random() < 0.9:
                    scale = {"hashrate_hs": LARGEST_HS, "temp_c": 80, "fan_rpm": 5_000}[column.metric]
                    value = self.rng.random() * scale
                    values[column.metric, column.component] = round(value, 1) if column.decimals else round(value)
            samples.append(Sample(key, at_ms, values))
        return kind, pack(LAYOUTS[kind], samples), samples

    def _deliver(self, post: str, frames: list[tuple[int, bytes, list[Sample]]]) -> None:
        async def delivering() -> list[BaseException | None]:
            jobs = []
            for kind, body, _ in frames:
                self.seq += 1
                jobs.append(self.telemetry.take(post, bytes(16), self.seq, LAYOUTS[kind].hash, body))
            return await asyncio.gather(*jobs, return_exceptions=True)

        for frame, result in zip(frames, self.runner.run(delivering()), strict=True):
            if result is not None:
                assert isinstance(result, DiskFull)
                assert self.full
                continue
            self.sent.append(frame)
            for sample in frame[2]:
                self.model[sample.key].setdefault(sample.at_ms, {}).update(sample.values)

    def teardown(self) -> None:
        self.runner.run(self.telemetry.close())
        self.runner.close()
        shutil.rmtree(self.folder)


History.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
TestHistory = History.TestCase
