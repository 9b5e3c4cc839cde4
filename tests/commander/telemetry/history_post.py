"""A post of a dozen devices that journals its looks, before a real history: for the tests of what happens to disks and backups."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from commander import db
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS
from commander.telemetry.members import FARM
from commander.telemetry.series import RAW
from commander.telemetry.service import Telemetry
from commander.telemetry.totals_store import Group
from garrison.clock import ManualClock
from garrison.faults import DiskFull
from garrison.frame import Layout, Sample, pack

BEGUN_MS = 1_800_000_000_000 // DAY_MS * DAY_MS
LAYOUT = Layout.of([("hashrate_hs", ""), ("accepted", ""), ("power_w", ""), ("temp_c", "")])
KEYS = tuple(range(1, 13))
EVERY_MS = 150_000
BOOT = bytes(16)


@dataclass
class Post:
    """`journal`: number to time of every look. What is not acknowledged comes again."""

    telemetry: Telemetry
    clock: ManualClock
    journal: dict[int, int] = field(default_factory=dict)
    unsent: list[int] = field(default_factory=list)
    acked: set[int] = field(default_factory=set)

    async def live(self, minutes: int) -> None:
        for _ in range(minutes * 60_000 // EVERY_MS):
            self.clock.advance(EVERY_MS / 1000)
            self.look(self.clock.now_ms())
        await self.send()

    def look(self, at_ms: int) -> None:
        """Into the journal."""
        number = len(self.journal) + 1
        self.journal[number] = at_ms
        self.unsent.append(number)

    async def send(self) -> None:
        """What is not acknowledged. A full disk acknowledges nothing."""
        jobs = [self.telemetry.take("s1", BOOT, number, LAYOUT.hash, body(self.journal[number])) for number in self.unsent]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(result is None or isinstance(result, DiskFull) for result in results), results
        self.acked |= {number for number, result in zip(self.unsent, results, strict=True) if result is None}
        self.unsent = [number for number, result in zip(self.unsent, results, strict=True) if result is not None]

    async def meet(self, telemetry: Telemetry) -> set[int]:
        """The same commander with another history: what it has not comes again, as far as the journal still holds it, which is for
        a day. What is held."""
        self.telemetry = telemetry
        await telemetry.learn_layout("s1", LAYOUT)
        held = {number for number, at_ms in self.journal.items() if at_ms > self.clock.now_ms() - DAY_MS}
        marks = (await telemetry.durable("s1", [(BOOT, min(held), max(held))]))[BOOT]
        self.unsent = sorted(number for number in held if number not in marks)
        return held

    # ---- what must hold --------------------------------------------------------------------------------------

    @property
    def times(self) -> list[int]:
        return sorted(self.journal[number] for number in self.acked)

    async def all_is_there(self) -> None:
        """Every acknowledged look, once, with its values."""
        for key in (KEYS[0], KEYS[-1]):
            found = await self.telemetry.chart(key, {("hashrate_hs", "")}, BEGUN_MS, self.clock.now_ms() + 1, RAW)
            assert found.unreadable == 0
            assert found.at_ms.tolist() == self.times
            assert list(found.lines[0].stats["value"]) == [hashrate(key, at_ms) for at_ms in self.times]

    async def totals_are_right(self, to_ms: int) -> None:
        """The farm's, at five minutes and by the hour, of all that is acknowledged; and 5-minute values of a device."""
        held: dict[int, list[int]] = {}
        for at_ms in self.times:
            held.setdefault(at_ms // STEP_MS * STEP_MS, []).append(at_ms)
        wanted = {
            step: sum(sum(hashrate(key, at_ms) for at_ms in times) / len(times) for key in KEYS) for step, times in held.items()
        }
        found = await self.telemetry.aggregate("farm", "hashrate_hs", "sum", BEGUN_MS, to_ms, STEP_MS, limit=20_000)
        (farm,) = found.groups
        for at_ms, value in zip(found.at_ms.tolist(), farm.values.tolist(), strict=True):
            assert math.isclose(value, wanted[at_ms]) if at_ms in wanted else math.isnan(value), at_ms
        hours = await self.telemetry.aggregate("farm", "hashrate_hs", "sum", BEGUN_MS, to_ms, HOUR_MS)
        for at_ms, value in zip(hours.at_ms.tolist(), hours.groups[0].values.tolist(), strict=True):
            steps = [wanted[step] for step in wanted if step // HOUR_MS == at_ms // HOUR_MS and step < to_ms]
            assert math.isclose(value, sum(steps) / len(steps)) if steps else math.isnan(value), at_ms
        device = await self.telemetry.chart(KEYS[0], {("hashrate_hs", "")}, BEGUN_MS, to_ms, STEP_MS, limit=20_000)
        assert list(device.lines[0].stats["count"]) == [len(held.get(at_ms, [])) for at_ms in device.at_ms.tolist()]


@contextlib.asynccontextmanager
async def history_at(folder: Path, clock: ManualClock, *, apart: bool = False) -> AsyncIterator[Telemetry]:
    """A history that counts the farm of these devices."""

    async def groups() -> AsyncIterator[tuple[int, tuple[Group, ...]]]:
        for key in KEYS:
            yield key, (FARM,)

    telemetry = await Telemetry.open(folder, clock, commit_every_ms=1, apart=apart)
    telemetry.follow(groups)
    try:
        yield telemetry
    finally:
        await telemetry.close()


@contextlib.asynccontextmanager
async def post_at(folder: Path, clock: ManualClock, *, apart: bool = False) -> AsyncIterator[Post]:
    async with history_at(folder, clock, apart=apart) as telemetry:
        await telemetry.learn_layout("s1", LAYOUT)
        yield Post(telemetry, clock)


def damaged(folder: Path) -> list[str | None]:
    """What is wrong with each database."""
    return [db.damage(path) for path in sorted(folder.glob("*.db"))]


def hashrate(key: int, at_ms: int) -> int:
    return 10**14 + (at_ms // 1000 * 7_919 + key * 104_729) % 10**13


def body(at_ms: int) -> bytes:
    return pack(LAYOUT, [_sample(key, at_ms, hashrate(key, at_ms)) for key in KEYS])


def _sample(key: int, at_ms: int, rate: int) -> Sample:
    values = {("hashrate_hs", ""): rate, ("accepted", ""): at_ms // 1000}
    return Sample(key, at_ms, values | {("power_w", ""): 3_000 + rate % 999 / 10, ("temp_c", ""): 60 + rate % 99 / 10})
