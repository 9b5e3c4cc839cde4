"""Totals of groups: the group a device was in at that time, coverage, late looks, two posts that see one device, and rows that
any SQLite tool reads."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from commander.telemetry import archive, block_store
from commander.telemetry.aggregate import Answer
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, Level
from commander.telemetry.members import Members
from commander.telemetry.series import RAW
from commander.telemetry.service import Telemetry
from commander.telemetry.totals_store import Group, Membership
from garrison.clock import ManualClock
from garrison.frame import Layout, Sample, pack

LAYOUT = Layout.of([("hashrate_hs", ""), ("accepted", ""), ("power_w", ""), ("power_source", "")])
FARM: Group = ("farm", "")


class Hall:
    """A farm whose groups a test changes, read every ten seconds."""

    def __init__(self, telemetry: Telemetry, clock: ManualClock) -> None:
        self.telemetry, self.clock = telemetry, clock
        self.groups: dict[int, tuple[Group, ...]] = {}
        self.seq = 0
        self.looks = 0
        telemetry.follow(self._groups)

    async def _groups(self) -> AsyncIterator[tuple[int, tuple[Group, ...]]]:
        for key, groups in self.groups.items():
            yield key, groups

    async def runs(self, minutes: int, hashrates: Mapping[int, int], post: str = "s1") -> None:
        """Each device at its hashrate, 3,600 W; a share each look."""
        await self.telemetry.learn_layout(post, LAYOUT)
        for _ in range(minutes * 6):
            self.looks += 1
            samples = [
                Sample(
                    key, self.clock.now_ms(), {("hashrate_hs", ""): rate, ("accepted", ""): self.looks, ("power_w", ""): 3_600.0}
                )
                for key, rate in hashrates.items()
            ]
            self.seq += 1
            await self.telemetry.take(post, bytes(16), self.seq, LAYOUT.hash, pack(LAYOUT, samples))
            self.clock.advance(10)

    async def total(self, by: str, metric: str, from_ms: int, minutes: int, fn: str = "sum", step_ms: int = STEP_MS) -> Answer:
        return await self.telemetry.aggregate(by, metric, fn, from_ms, from_ms + minutes * 60_000, step_ms)


@pytest.fixture
async def hall(telemetry: Telemetry, clock: ManualClock) -> Hall:
    clock.advance(300 - clock.now_ms() // 1_000 % 300)
    return Hall(telemetry, clock)


def shown(answer: Answer) -> dict[str, list[float | None]]:
    return {group.name: [None if value != value else value for value in group.values.tolist()] for group in answer.groups}


async def later(hall: Hall, seconds: int) -> None:
    hall.clock.advance(seconds)
    await hall.telemetry.tidy()


async def test_a_moved_device_counts_where_it_was(hall: Hall) -> None:
    """Before the move in one rack, after it in the other, renamed or not, live, sealed and merged; the farm has both."""
    begun_ms = hall.clock.now_ms()
    hall.groups = {1: (FARM, ("rack", "A")), 2: (FARM, ("rack", "B"))}
    await hall.telemetry.tidy()
    await hall.runs(10, {1: 100, 2: 7})
    hall.groups[1] = (FARM, ("rack", "B"))
    await hall.telemetry.tidy()
    await hall.runs(10, {1: 100, 2: 7})
    for wait in (0, 1_800, 100_000):
        racks = shown(await hall.total("rack", "hashrate_hs", begun_ms, 20))
        assert racks["A"] == [100, 100, None, None]
        assert racks["B"] == [7, 7, 107, 107]
        assert shown(await hall.total("farm", "hashrate_hs", begun_ms, 20)) == {"": [107] * 4}
        await later(hall, wait)


async def test_a_retired_device_stays_in_the_past(hall: Hall) -> None:
    """Its group's totals of its time are kept, and nobody waits for it any more: coverage is of who was there."""
    begun_ms = hall.clock.now_ms()
    hall.groups = {1: (FARM,), 2: (FARM,)}
    await hall.telemetry.tidy()
    await hall.runs(10, {1: 100, 2: 7})
    del hall.groups[2]
    await hall.telemetry.tidy()
    await hall.runs(10, {1: 100})
    await later(hall, 1_800)
    found = await hall.total("farm", "hashrate_hs", begun_ms, 20)
    assert shown(found) == {"": [107, 107, 100, 100]}
    assert found.groups[0].members.tolist() == [2, 2, 1, 1]
    assert found.groups[0].coverage.min() > 0.95


async def test_a_half_reported_rack_says_so(hall: Hall) -> None:
    """The total of the half that reports is shown with its coverage; nobody at all is a gap, not zero."""
    begun_ms = hall.clock.now_ms()
    hall.groups = dict.fromkeys(range(4), (FARM, ("rack", "A")))
    await hall.telemetry.tidy()
    await hall.runs(5, dict.fromkeys(range(4), 10))
    await hall.runs(5, dict.fromkeys(range(2), 10))
    hall.clock.advance(300)
    await hall.runs(5, dict.fromkeys(range(4), 10))
    for wait in (0, 1_800, 100_000):
        (rack,) = (await hall.total("rack", "hashrate_hs", begun_ms, 20)).groups
        assert [None if value != value else value for value in rack.values.tolist()] == [40, 20, None, 40]
        assert [round(share, 1) for share in rack.coverage.tolist()] == [1.0, 0.5, 0.0, 1.0]
        assert rack.devices.tolist() == [4, 2, 0, 4]
        await later(hall, wait)


async def test_functions(hall: Hall) -> None:
    """Sum, average, lowest, highest and number of devices; of a counter its rise and its rate."""
    begun_ms = hall.clock.now_ms()
    hall.groups = {1: (FARM,), 2: (FARM,)}
    await hall.telemetry.tidy()
    await hall.runs(10, {1: 100, 2: 50})
    await later(hall, 1_800)
    wanted = {"sum": 150, "avg": 75, "min": 50, "max": 100, "devices": 2}
    for fn, value in wanted.items():
        assert shown(await hall.total("farm", "hashrate_hs", begun_ms, 10, fn)) == {"": [value, value]}
    assert shown(await hall.total("farm", "accepted", begun_ms, 10)) == {"": [58, 60]}  # nothing rises into the first look
    assert shown(await hall.total("farm", "accepted", begun_ms, 10, "rate")) == {"": [58 / 300, 0.2]}
    assert shown(await hall.total("farm", "power_w reported_j", begun_ms, 10)) == {"": [2_160_000, 2_160_000]}


async def test_two_posts_that_see_one_device(hall: Hall) -> None:
    """It is one device in the total, before and after sealing."""
    begun_ms = hall.clock.now_ms()
    hall.groups = {1: (FARM,)}
    await hall.telemetry.tidy()
    await hall.runs(5, {1: 100})
    hall.clock.advance(-290)
    await hall.runs(5, {1: 100}, "s2")
    for _ in range(2):
        assert shown(await hall.total("farm", "hashrate_hs", begun_ms, 5)) == {"": [100]}
        await later(hall, 1_800)


async def test_late_looks_change_one_day_of_one_device(hall: Hall, telemetry: Telemetry, clock: ManualClock) -> None:
    """A sentry back after days: the merged row of that device and day is written anew, no other; series, roll-ups and totals
    follow."""
    begun_ms = clock.now_ms()
    hall.groups = {1: (FARM,), 2: (FARM,)}
    await telemetry.tidy()
    await hall.runs(30, {1: 100, 2: 50})
    await later(hall, 2 * 86_400)

    def rows() -> dict[int, tuple[int, bytes]]:
        with archive.reading(telemetry.db.path.parent / archive.existing(telemetry.db.path.parent, Level.RAW)[0].name) as c:
            assert c is not None
            return {stored.key: (stored.id, stored.body) for stored in block_store.every(c)}

    before = rows()
    samples = [Sample(1, begun_ms + 1_805_000 + i * 10_000, {("hashrate_hs", ""): 200}) for i in range(60)]
    for seq, sample in enumerate(samples, start=1):
        await telemetry.take("s9", bytes(16), seq, LAYOUT.hash, pack(LAYOUT, [sample]))
    await telemetry.tidy()
    after = rows()
    assert after[2] == before[2]
    assert after[1][0] == before[1][0]
    assert after[1][1] != before[1][1]
    assert len((await telemetry.chart(1, None, begun_ms, begun_ms + DAY_MS, RAW)).at_ms) == 180 + 60
    for step_ms, level in ((STEP_MS, Level.FIVE_MINUTES), (HOUR_MS, Level.HOUR)):
        since_ms = begun_ms if level is Level.FIVE_MINUTES else begun_ms - 10 * DAY_MS
        found = await telemetry.chart(1, {("hashrate_hs", "")}, since_ms, begun_ms + HOUR_MS, step_ms)
        assert found.level is level
        assert sum(found.lines[0].stats["count"]) == 240
    totals = shown(await hall.total("farm", "hashrate_hs", begun_ms, 40))[""]
    assert totals == [150] * 6 + [200] * 2


async def test_totals_are_plain_rows(hall: Hall, telemetry: Telemetry) -> None:
    """`select * from group_totals` in hot.db, and after the merge in the files of five minutes and of an hour."""
    hall.groups = {1: (FARM, ("site", "hill"))}
    await telemetry.tidy()
    begun_ms = hall.clock.now_ms()
    await hall.runs(10, {1: 100})
    await later(hall, 1_800)
    folder = telemetry.db.path.parent

    def ask(name: str) -> list[Any]:
        with closing(sqlite3.connect(f"{(folder / name).as_uri()}?mode=ro", uri=True)) as c:
            return c.execute(
                "select kind, name, at_ms, devices, sum, min, max from group_totals where metric = 'hashrate_hs' and kind = 'site'"
            ).fetchall()

    wanted = [("site", "hill", begun_ms + i * STEP_MS, 1, 100, 100, 100) for i in range(2)]
    assert ask("hot.db") == wanted
    await later(hall, 100_000)
    assert ask("hot.db") == []
    (five,) = archive.existing(folder, Level.FIVE_MINUTES)
    (hour,) = archive.existing(folder, Level.HOUR)
    assert ask(five.name) == wanted
    assert ask(hour.name) == [("site", "hill", begun_ms // HOUR_MS * HOUR_MS, 1, 100, 100, 100)]
    long = await telemetry.aggregate("site", "hashrate_hs", "sum", begun_ms - 40 * DAY_MS, begun_ms + HOUR_MS, HOUR_MS)
    assert long.level is Level.HOUR
    assert [value for value in long.groups[0].values.tolist() if value == value] == [100]


async def test_a_restart_in_the_middle_of_a_step(hall: Hall, telemetry: Telemetry, clock: ManualClock) -> None:
    """What was not sealed is reckoned again from the frames: the live total is as before."""
    begun_ms = clock.now_ms()
    hall.groups = {1: (FARM,), 2: (FARM,)}
    await telemetry.tidy()
    await hall.runs(12, {1: 100, 2: 50})
    await telemetry.tidy()
    before = shown(await hall.total("farm", "hashrate_hs", begun_ms, 15))
    await telemetry.close()
    again = await Telemetry.open(telemetry.db.path.parent, clock, commit_every_ms=10)
    found = await again.aggregate("farm", "hashrate_hs", "sum", begun_ms, begun_ms + 900_000, STEP_MS)
    assert shown(found) == before == {"": [150, 150, 150]}
    await again.close()


# ---- members: pure -----------------------------------------------------------------------------------------


def test_members_over_time() -> None:
    """Moves count from the next whole step, what was before the first that is known counts as the first; counts at any time."""
    members = Members()
    first = members.follow({1: [("rack", "A")], 2: [("rack", "A")]}, 100 * STEP_MS + 5)
    members.take(first)
    assert {one.from_ms for one in first} == {100 * STEP_MS}
    assert members.follow({1: [("rack", "A")], 2: [("rack", "A")]}, 101 * STEP_MS) == []
    moved = members.follow({1: [("rack", "B")]}, 110 * STEP_MS + 1)
    members.take(moved)
    assert sorted(moved, key=lambda one: (one.key, one.group)) == [
        Membership(1, ("rack", "A"), 100 * STEP_MS, 111 * STEP_MS),
        Membership(1, ("rack", "B"), 111 * STEP_MS, None),
        Membership(2, ("rack", "A"), 100 * STEP_MS, 111 * STEP_MS),
    ]
    assert members.groups_for(1, 110 * STEP_MS) == [("rack", "A")]
    assert members.groups_for(1, 111 * STEP_MS) == [("rack", "B")]
    assert members.groups_for(1, 5 * STEP_MS) == [("rack", "A")]
    assert members.groups_for(2, 111 * STEP_MS) == []
    assert members.groups_during(1, 109 * STEP_MS, 113 * STEP_MS) == [
        (109 * STEP_MS, 111 * STEP_MS, [("rack", "A")]),
        (111 * STEP_MS, 113 * STEP_MS, [("rack", "B")]),
    ]
