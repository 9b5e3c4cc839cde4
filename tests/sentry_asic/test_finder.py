"""The sentry's own scan of its ranges, against simulated devices on loopback addresses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from garrison.clock import SystemClock
from garrison.faults import GuardRefused
from garrison.model import Assignment, Target
from garrison.words import DeviceState
from sentry_asic.finder import MISSES, Finder
from sentry_asic.post import AsicPost
from sentry_asic.ranges import PRIVATE, Network
from sentry_asic.settings import AsicSettings, ScanSettings
from sentry_core import guard
from tests.ports import closed_port
from tests.sentry_asic.stand import FastClock, KeptOutbox, until
from tests.simulators.farm import Farm


class Stand:
    """A hall of four at `first`, its finder, and what that told. `scan`: in it is the range "hall" with eight addresses."""

    def __init__(self, net: int) -> None:
        self.first = f"127.{net}.0.1"
        self.api_port, self.http_port = closed_port(), closed_port()
        self.farm = Farm(4, first=self.first, api_port=self.api_port, http_port=self.http_port, mixed=False)
        ranges: dict[str, tuple[str, ...]] = {"hall": (f"127.{net}.0.1-127.{net}.0.8",)}
        ports = {"api_port": self.api_port, "http_port": self.http_port}
        self.scan = msgspec.structs.replace(ScanSettings(ranges, every_s=1, connects_per_s=5_000), **ports)
        self.box = KeptOutbox()
        self.finder = Finder(self.scan, lambda: PRIVATE, SystemClock())
        self.finder._outbox = self.box

    def at(self, place: int) -> str:
        return f"{self.farm.devices[place].host}:{self.api_port}"

    def target(self, place: int) -> Target:
        return Target(str(place), self.at(place), http_port=self.http_port)

    def found(self) -> set[str]:
        return {one.address for one in self.box.devices.values() if one.identity not in self.box.gone}


async def test_what_nobody_watches_is_found() -> None:
    """Make, MAC, the range's name; kind "found" under its address; what is watched is not asked; a wrong password is said."""
    stand = Stand(31)
    stand.farm.devices[2].password = "changed"
    async with stand.farm as farm:
        stand.finder.assign([stand.target(0)])
        await stand.finder.round()
        assert stand.found() == {stand.at(place) for place in (1, 2, 3)}
        one, refused = (stand.box.devices[f"found:{stand.at(place)}"] for place in (1, 2))
        assert (one.kind, one.make, one.mac, one.state) == ("found", "antminer", farm.devices[1].mac, DeviceState.UNKNOWN)
        assert (one.facts["range"], one.facts["http_port"], one.target) == ("hall", str(stand.http_port), "")
        assert (refused.state, refused.mac) == (DeviceState.REFUSED, "")
        assert farm.devices[0].most_asked_at_once == 0
        before = dict(stand.box.devices)
        await stand.finder.round()
        assert {name: one.seen_ms for name, one in before.items()}.keys() == stand.box.devices.keys(), "the same again"
        stand.finder.assign([stand.target(0), stand.target(1)])
        assert stand.box.gone == [f"found:{stand.at(1)}"], "adopted: not found any more"


async def test_gone_after_some_rounds_and_moved_at_once() -> None:
    """One that is silent stays found for a while; one that is met elsewhere in the range is not where it was."""
    stand = Stand(32)
    async with stand.farm as farm:
        await stand.finder.round()
        await farm.devices[0].power(False)
        for _ in range(MISSES - 1):
            await stand.finder.round()
        assert stand.at(0) in stand.found()
        await stand.finder.round()
        assert stand.found() == {stand.at(place) for place in (1, 2, 3)}
        await farm.devices[1].power(False)
        farm.devices[3].mac = farm.devices[1].mac
        await stand.finder.round()
        assert stand.found() == {stand.at(2), stand.at(3)}


async def test_one_mac_at_two_addresses_is_said_of_both() -> None:
    """As a condition of each that names the other; it ends when it ends."""
    stand = Stand(33)
    async with stand.farm as farm:
        own = farm.devices[1].mac
        farm.devices[1].mac = farm.devices[0].mac
        await stand.finder.round()
        told = {one.address: [(c.code, c.severity) for c in one.conditions] for one in stand.box.devices.values()}
        assert [place for place in range(4) if told[stand.at(place)]] == [0, 1]
        assert told[stand.at(0)] == [("duplicate_mac", "warning")]
        assert stand.at(1) in stand.box.devices[f"found:{stand.at(0)}"].conditions[0].text
        farm.devices[1].mac = own
        await stand.finder.round()
        assert [one.address for one in stand.box.devices.values() if one.conditions] == []


async def test_the_guard_is_asked_before_each_round() -> None:
    """What it does not allow is not asked, and the rounds go on: the file may be mended."""
    stand, allowed = Stand(34), [0]

    def networks() -> Sequence[Network]:
        allowed[0] += 1
        if allowed[0] < 3:
            raise GuardRefused("broken")
        return PRIVATE

    finder = Finder(stand.scan, networks, FastClock(50))
    async with stand.farm:
        task = asyncio.create_task(finder.run(stand.box))
        try:
            await until(lambda: len(stand.found()) == 4, 30)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("settings", [AsicSettings(), AsicSettings(scan=ScanSettings({"a": ("10.0.0.1",)}, every_s=0))])
async def test_without_ranges_nothing_is_looked_for(settings: AsicSettings, tmp_path: Path) -> None:
    """Nor with every_s = 0: then only the command does."""
    async with asyncio.timeout(5):
        await Finder(settings.scan, lambda: PRIVATE, SystemClock()).run(KeptOutbox())


async def test_the_post_runs_it(tmp_path: Path) -> None:
    """Beside the watch of what is assigned, with the guard of its own folder."""
    stand = Stand(35)
    guard.write_default(tmp_path)
    async with stand.farm as farm:
        post = AsicPost(AsicSettings(scan=stand.scan), tmp_path, FastClock(10))
        await post.assign(Assignment(1, targets=(stand.target(0),)))
        task = asyncio.create_task(post.run(stand.box))
        try:
            await until(lambda: f"mac:{farm.devices[0].mac}" in stand.box.devices and len(stand.found()) > 3, 30)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert stand.at(0) not in {one.address for one in stand.box.devices.values() if one.kind == "found"}
        assert not post.known(f"found:{stand.at(1)}"), "no orders for what is only found"
