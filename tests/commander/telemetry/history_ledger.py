"""What the sentries of `a_history` were told is durable, and what a history must therefore say, whoever was killed on the way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from commander import db
from commander.telemetry.levels import file_named
from commander.telemetry.series import RAW, Line
from commander.telemetry.service import Telemetry
from commander.telemetry.upkeep import GRACE_MS
from garrison.frame import Number, Series
from garrison.spans import Spans
from tests.commander.telemetry.a_history import BEGUN_MS, DAY_MS, HOUR_MS, KEYS, SPANS, Frame, boot_id, values

STEP_MS = 300_000
HASHRATE, ACCEPTED = ("hashrate_hs", ""), ("accepted", "")
REMEMBERED_MS = 20 * DAY_MS
"""Looks are gone from the history long before."""

RISES_MS = 15 * DAY_MS
"""Of these all looks are remembered, and no more come late."""

FINE_MS = 40 * DAY_MS
"""So are 5-minute values."""


@dataclass(slots=True)
class Stat:
    """Of the hashrate of one device in one step."""

    count: int = 0
    sum: int = 0
    min: int = 2**62
    max: int = 0

    def add(self, value: int) -> None:
        self.count += 1
        self.sum += value
        self.min, self.max = min(self.min, value), max(self.max, value)

    def join(self, other: Stat) -> None:
        self.count += other.count
        self.sum += other.sum
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)


@dataclass(slots=True)
class Ledger:
    """Fed with what `a_history` printed; `check` holds a history against it."""

    now_ms: int = BEGUN_MS
    open: dict[tuple[str, int, int], Frame] = field(default_factory=dict)  # handed in, and nobody was told
    sent: dict[tuple[str, int], Spans] = field(default_factory=lambda: defaultdict(Spans))
    acked: dict[tuple[str, int], Spans] = field(default_factory=lambda: defaultdict(Spans))
    samples: dict[int, dict[int, int]] = field(default_factory=lambda: {key: {} for key in KEYS})  # time to layouts, as bits
    steps: dict[int, dict[int, Stat]] = field(default_factory=dict)  # start to device
    hours: dict[int, dict[int, Stat]] = field(default_factory=dict)
    farm_hours: dict[int, list[float]] = field(default_factory=dict)  # the farm in each step that has a value
    frames: int = 0

    def read(self, text: str) -> str:
        """What one life told; the phase in which it ended."""
        phase = "start"
        for line in text.rpartition("\n")[0].splitlines():
            word, *rest = line.split()
            match word:
                case "phase":
                    phase = rest[0]
                case "now":
                    self.now_ms = int(rest[0])
                case "sent":
                    post, *numbers, keys = rest
                    boot, seq, kind, at_ms = (int(number) for number in numbers)
                    self.open[post, boot, seq] = Frame(post, boot, seq, kind, at_ms, tuple(int(key) for key in keys.split(",")))
                    self.sent[post, boot].add(seq)
                case "acked":
                    self.keep((rest[0], int(rest[1]), int(rest[2])))
                case _:
                    raise AssertionError(f"what is {line!r}?")
        self._forget()
        return phase

    def keep(self, name: tuple[str, int, int]) -> None:
        """The frame is durable: whoever sent it may forget it."""
        frame = self.open.pop(name, None)
        if frame is None:  # it was handed in twice at once
            assert name[2] in self.acked[name[:2]]
            return
        self.acked[name[:2]].add(frame.seq)
        self.frames += 1
        for key in frame.keys:
            known = self.samples[key].get(frame.at_ms, 0)
            self.samples[key][frame.at_ms] = known | 1 << frame.kind
            value = values(key, frame.at_ms, frame.kind).get(HASHRATE)
            if value is not None and not known & 0b11:
                step_ms = frame.at_ms // STEP_MS * STEP_MS
                self.steps.setdefault(step_ms, {}).setdefault(key, Stat()).add(int(value))

    def _forget(self) -> None:
        for key, samples in self.samples.items():
            self.samples[key] = {at_ms: kinds for at_ms, kinds in samples.items() if at_ms >= self.now_ms - REMEMBERED_MS}
        for step_ms in [step_ms for step_ms in self.steps if step_ms < self.now_ms - FINE_MS]:
            devices = self.steps.pop(step_ms)
            hour_ms = step_ms // HOUR_MS * HOUR_MS
            self.farm_hours.setdefault(hour_ms, []).append(_farm(devices))
            for key, stat in devices.items():
                self.hours.setdefault(hour_ms, {}).setdefault(key, Stat()).join(stat)

    # ---- what must hold ------------------------------------------------------------------------------------

    async def check(self, telemetry: Telemetry, boot: int) -> None:
        """Of a history opened again. What nobody was told is in it as a whole or not at all, and the marks say which."""
        for post, number in self.sent:
            await self._check_marks(telemetry, post, number, lately=number == boot)
        await self._check_looks(telemetry)
        self._check_latest(telemetry)
        done = await telemetry.tidy()
        assert done.damaged == 0
        await self._check_looks(telemetry)
        await self._check_steps(telemetry)
        await self._check_totals(telemetry)
        await self._check_rises(telemetry)
        await self._check_hours(telemetry)
        assert not await telemetry.set_aside()
        assert not await telemetry.set_aside_blocks()

    async def _check_marks(self, telemetry: Telemetry, post: str, boot: int, *, lately: bool) -> None:
        """`lately`: frames of this journal came within the time of which looks are kept. Marks of others go with time."""
        sent = self.sent[post, boot]
        last = max(span.last for span in sent)
        marks = (await telemetry.durable(post, [(boot_id(boot), 1, last)]))[boot_id(boot)]
        for span in self.acked[post, boot] if lately else ():
            assert not list(marks.missing(span.first, span.last)), "acknowledged and not marked"
        for span in marks:
            assert not list(sent.missing(span.first, span.last)), "marked and never sent"
        for name in [name for name in self.open if name[:2] == (post, boot)]:
            if name[2] in marks:
                self.keep(name)

    async def _check_looks(self, telemetry: Telemetry) -> None:
        """Within their time every look is there, once, with its values; older ones may be, and nothing else is."""
        for key, samples in self.samples.items():
            found = await telemetry.chart(key, None, self.now_ms - REMEMBERED_MS, self.now_ms + 1, RAW)
            assert found.unreadable == 0
            there = found.at_ms.tolist()
            kept_ms = self.now_ms - SPANS.raw_days * DAY_MS
            assert [at_ms for at_ms in there if at_ms >= kept_ms] == sorted(at_ms for at_ms in samples if at_ms >= kept_ms)
            assert len(set(there)) == len(there)
            wanted = [_look(key, at_ms, samples[at_ms]) for at_ms in there]
            series = {series for look in wanted for series in look}
            assert series <= {(line.metric, line.component) for line in found.lines}
            for line in found.lines:
                assert _column(line) == [look.get((line.metric, line.component)) for look in wanted]

    def _check_latest(self, telemetry: Telemetry) -> None:
        for key, row in telemetry.latest(KEYS).items():
            assert row.at_ms == max(self.samples[key], default=0)
        lately = {key for key, samples in self.samples.items() if max(samples, default=0) > self.now_ms - 2 * DAY_MS}
        assert lately <= telemetry.latest(KEYS).keys()

    async def _check_steps(self, telemetry: Telemetry) -> None:
        """5-minute values, also of days whose looks are gone."""
        from_ms = max(self.now_ms - SPANS.five_minute_days * DAY_MS, BEGUN_MS - 3 * DAY_MS) // STEP_MS * STEP_MS + STEP_MS
        for key in KEYS:
            found = await telemetry.chart(key, {HASHRATE}, from_ms, self.now_ms + 1, STEP_MS, limit=20_000)
            assert found.unreadable == 0
            wanted = {at_ms: self.steps[at_ms][key] for at_ms in found.at_ms.tolist() if key in self.steps.get(at_ms, {})}
            _compare(found.at_ms.tolist(), found.lines[0], wanted)

    async def _check_totals(self, telemetry: Telemetry) -> None:
        """Of all that is sealed, and everything is: what the farm's devices gave, exactly."""
        from_ms = max(self.now_ms - SPANS.five_minute_days * DAY_MS, BEGUN_MS - 3 * DAY_MS) // STEP_MS * STEP_MS + STEP_MS
        to_ms = (self.now_ms - GRACE_MS) // STEP_MS * STEP_MS
        if from_ms >= to_ms:
            return
        racks = {f"r{n}": {key for key in KEYS if key % 2 == n} for n in (0, 1)}
        for by, names in (("farm", {"": set(KEYS)}), ("rack", racks)):
            found = await telemetry.aggregate(by, HASHRATE[0], "sum", from_ms, to_ms, STEP_MS, limit=20_000)
            assert found.unreadable == 0
            for group in found.groups:
                for at_ms, shown, devices in zip(found.at_ms.tolist(), group.values.tolist(), group.devices.tolist(), strict=True):
                    held = {key: stat for key, stat in self.steps.get(at_ms, {}).items() if key in names[group.name]}
                    assert devices == len(held), (group.name, at_ms)
                    _same(shown, _farm(held) if held else math.nan, at_ms)

    async def _check_rises(self, telemetry: Telemetry) -> None:
        """By what the counters of the farm's devices rose in each step and into it, wherever what came late lies between."""
        from_ms = max(self.now_ms - RISES_MS, BEGUN_MS - 3 * DAY_MS) // STEP_MS * STEP_MS
        to_ms = (self.now_ms - GRACE_MS) // STEP_MS * STEP_MS
        if from_ms >= to_ms:
            return
        wanted: dict[int, float] = {}
        for key, samples in self.samples.items():
            before: tuple[int, int] | None = None
            for at_ms in sorted(at_ms for at_ms, kinds in samples.items() if kinds & 0b11):
                step, value = at_ms // STEP_MS, int(values(key, at_ms, 0)[ACCEPTED])
                risen = value - before[1] if before is not None and step - before[0] <= 1 else 0
                wanted[step * STEP_MS] = wanted.get(step * STEP_MS, 0) + risen
                before = step, value
        found = await telemetry.aggregate("farm", ACCEPTED[0], "sum", from_ms, to_ms, STEP_MS, limit=20_000)
        for at_ms, shown in zip(found.at_ms.tolist(), found.groups[0].values.tolist(), strict=True):
            _same(shown, wanted.get(at_ms, math.nan), at_ms)

    async def _check_hours(self, telemetry: Telemetry) -> None:
        """Hourly values of days whose 5-minute values are gone too."""
        first_ms = max(min(self.hours, default=self.now_ms) + HOUR_MS, self.now_ms - SPANS.hour_days * DAY_MS)
        from_ms, to_ms = first_ms // HOUR_MS * HOUR_MS + HOUR_MS, (self.now_ms - FINE_MS) // HOUR_MS * HOUR_MS
        if from_ms >= to_ms:
            return
        for key in KEYS:
            found = await telemetry.chart(key, {HASHRATE}, from_ms, to_ms, HOUR_MS, limit=20_000)
            wanted = {at_ms: self.hours[at_ms][key] for at_ms in found.at_ms.tolist() if key in self.hours.get(at_ms, {})}
            _compare(found.at_ms.tolist(), found.lines[0], wanted)
        farm = await telemetry.aggregate("farm", HASHRATE[0], "sum", from_ms, to_ms, HOUR_MS, limit=20_000)
        (group,) = farm.groups
        for at_ms, shown in zip(farm.at_ms.tolist(), group.values.tolist(), strict=True):
            parts = self.farm_hours.get(at_ms, [])
            _same(shown, sum(parts) / len(parts) if parts else math.nan, at_ms)


def check_files(folder: Path, now_ms: int) -> None:
    """Every database is whole, nothing lies about, and what is past its time is gone."""
    names = {path.name for path in folder.iterdir()}
    for name in names:
        base = name.removesuffix("-wal").removesuffix("-shm")
        assert base == "hot.db" or file_named(base) is not None, f"{name} was left"
        assert base in names, f"{name} was left without its database"
    for name in names:
        if name.endswith(".db"):
            assert db.damage(folder / name) is None
        span = file_named(name)
        if span is not None:  # written last while its week was kept, and removed with the next round
            assert span.to_ms > now_ms - (2 * SPANS.days(span.level) + 3) * DAY_MS, f"{name} is kept for too long"


def _look(key: int, at_ms: int, kinds: int) -> dict[Series, Number]:
    found: dict[Series, Number] = {}
    for kind in range(3):
        if kinds >> kind & 1:
            found |= values(key, at_ms, kind)
    return found


def _column(line: Line) -> list[Number | None]:
    return [None if value is None or value != value else value for value in list(line.stats["value"])]


def _farm(devices: Mapping[int, Stat]) -> float:
    return sum(stat.sum / stat.count for stat in devices.values())


def _same(shown: float, wanted: float, at_ms: int) -> None:
    assert math.isclose(shown, wanted, rel_tol=1e-9) or (math.isnan(shown) and math.isnan(wanted)), (at_ms, shown, wanted)


def _compare(times: Sequence[int], line: Line, wanted: Mapping[int, Stat]) -> None:
    """Counts and extremes exactly, averages as fine as they are kept."""
    stats = {name: list(line.stats.get(name, [])) or [math.nan] * len(times) for name in ("count", "avg", "min", "max")}
    for place, at_ms in enumerate(times):
        stat = wanted.get(at_ms)
        told = [stats[name][place] for name in ("count", "min", "max", "avg")]
        if stat is None:
            assert told[0] in (0, None), (at_ms, told)
            continue
        assert told[:3] == [stat.count, stat.min, stat.max], (at_ms, told, stat)
        assert math.isclose(float(told[3] or 0), stat.sum / stat.count, rel_tol=1e-4), (at_ms, told, stat)


def unread(frames: Iterable[Frame]) -> list[Frame]:
    """In the order of their numbers, as a journal sends them."""
    return sorted(frames, key=lambda frame: (frame.post, frame.boot, frame.seq))
