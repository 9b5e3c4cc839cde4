"""The poll schedule against simulated farms on real sockets: who is looked at, when, and under which name."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from garrison.clock import SystemClock
from garrison.faults import Conflict, NotFound
from garrison.frame import Sample, device_key, pack_look, unpack
from garrison.model import Credentials, Device, Target
from garrison.words import DEVICE_STATES, ActionKind, DeviceState
from sentry_asic.makes.antminer_parse import parse_pools
from sentry_asic.watch import Pace, Watcher
from tests.simulators.antminer import Antminer
from tests.simulators.bitaxe import Bitaxe
from tests.simulators.farm import Farm

FAST = Pace(poll_every_s=0.2, slow_every_s=1, look_s=1, slow_look_s=2, back_off_s=1, batch_s=0.1)
S = DeviceState


@dataclass
class Box:
    """An outbox that remembers, and packs every look as the sentry does."""

    looks: list[list[Sample]] = field(default_factory=list)
    devices: dict[str, Device] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)

    async def look(self, samples: Sequence[Sample]) -> None:
        bodies = pack_look(samples)
        assert sum(len(unpack(layout, body)) for layout, body in bodies) == len(samples)
        self.looks.append(list(samples))

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None:
        self.events.append((kind, device))

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None:
        self.gone += gone
        for identity in gone:
            self.devices.pop(identity, None)
        self.devices |= {device.identity: device for device in devices}

    def of(self, identity: str) -> list[Sample]:
        return [sample for look in self.looks for sample in look if sample.key == device_key(identity)]

    def state(self, identity: str) -> DeviceState | None:
        samples = self.of(identity)
        return DEVICE_STATES[int(samples[-1].values["state", ""])] if samples else None


@contextlib.asynccontextmanager
async def watching(watcher: Watcher) -> AsyncIterator[Box]:
    box = Box()
    task = asyncio.create_task(watcher.run(box))
    try:
        yield box
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(true: Callable[[], object], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)


def target(device: Antminer, name: str = "1") -> Target:
    return Target(name, f"{device.host}:{device.api_port}", http_port=device.http_port, simulated=True, name=f"miner {name}")


async def test_devices_are_known_by_mac() -> None:
    """Old and modern: samples under their MAC with every part, a roster entry that says what the device can do."""
    watcher = Watcher(SystemClock(), FAST)
    async with Antminer("modern") as modern, Antminer("old") as old:
        watcher.assign([target(modern, "1"), target(old, "2")])
        async with watching(watcher) as box:
            await until(lambda: all(len(box.of(f"mac:{d.mac}")) > 3 for d in (modern, old)))
    values = box.of(f"mac:{modern.mac}")[-1].values
    assert values["hashrate_hs", ""] == pytest.approx(104e12, rel=0.03)
    assert values["look_ok", ""] == 1
    assert values["chips", "board:1"] == 126
    assert values["fan_rpm", "fan:4"] > 0
    assert values["accepted", "pool:0"] > 0
    assert ("power_w", "") not in values, "what is not known is absent"
    assert box.of(f"mac:{old.mac}")[-1].values["repairs", ""] >= 4
    device = box.devices[f"mac:{modern.mac}"]
    assert (device.target, device.make, device.model, device.state, device.simulated) == (
        "1",
        "antminer",
        "S19j Pro",
        S.MINING,
        True,
    )
    assert ActionKind.PAUSE in device.capabilities
    assert ActionKind.PAUSE not in box.devices[f"mac:{old.mac}"].capabilities
    assert set(box.devices) == {f"mac:{modern.mac}", f"mac:{old.mac}"}, "the placeholder names are gone"


async def test_one_question_at_a_time() -> None:
    """However fast the pace and whoever else asks: never two connections to a device's API."""
    watcher = Watcher(SystemClock(), replace(FAST, poll_every_s=0.05))
    async with Antminer() as device:
        device.faults.slow_s = 0.03
        watcher.assign([target(device)])
        identity = f"mac:{device.mac}"
        async with watching(watcher) as box:
            await until(lambda: box.of(identity))
            await asyncio.gather(*(watcher.look(identity) for _ in range(3)))
            await until(lambda: len(box.of(identity)) > 8)
        assert device.most_asked_at_once == 1


async def test_a_tender_device_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A make that says how seldom is never looked at sooner: not by the schedule, a nudge or a look for an order."""
    monkeypatch.setattr("sentry_asic.watch.least_every_s", lambda make: 1.0 if make == "bitaxe" else 0)
    watcher = Watcher(SystemClock(), replace(FAST, poll_every_s=0.05, slow_every_s=0.2))
    async with Bitaxe() as tender, Antminer() as other:
        name, quick = f"mac:{tender.mac}", f"mac:{other.mac}"
        watcher.assign([Target("1", f"{tender.host}:1", "bitaxe", http_port=tender.port), target(other, "2")])
        async with watching(watcher) as box:
            await until(lambda: box.of(name))
            tender.asked_s.clear()
            await watcher.look(name)
            watcher.nudge(name)
            await until(lambda: len(tender.asked_s) >= 4)
            assert len(box.of(quick)) > 2 * len(box.of(name)), "the others keep their pace"
        pauses = [b - a for a, b in itertools.pairwise(tender.asked_s)]
        assert min(pauses) > 0.5, "a question may arrive late on a busy machine, but ten times its pace it is not"
        assert tender.most_at_once == 1
        assert box.devices[name].make == "bitaxe"


async def test_a_hung_device_is_slow_then_unreachable_and_hinders_nobody() -> None:
    """Each failed look is a sample; three in a row before it is offline; the others keep their pace; it comes back."""
    watcher = Watcher(SystemClock(), FAST)
    async with Antminer() as hung, Antminer() as well:
        watcher.assign([target(hung, "1"), target(well, "2")])
        bad, good = f"mac:{hung.mac}", f"mac:{well.mac}"
        async with watching(watcher) as box:
            await until(lambda: box.of(bad) and box.of(good))
            hung.hang()
            await until(lambda: box.state(bad) is S.SLOW)
            assert box.of(bad)[-1].values["look_ok", ""] == 0
            assert ("hashrate_hs", "") not in box.of(bad)[-1].values
            before = len(box.of(good))
            await until(lambda: box.state(bad) is S.UNREACHABLE)
            assert box.devices[bad].fault == "timed_out"
            assert len(box.of(good)) >= before + 3
            failed = [s for s in box.of(bad) if not s.values["look_ok", ""]]
            assert [DEVICE_STATES[int(s.values["state", ""])] for s in failed[:3]] == [S.SLOW, S.SLOW, S.UNREACHABLE]
            await hung.power(False)
            await hung.power(True)
            await until(lambda: box.state(bad) in (S.STARTING, S.MINING))
            await until(lambda: box.devices[bad].fault == "")


async def test_dead_addresses_are_asked_less_and_less() -> None:
    """Back-off up to its cap, not beyond."""
    watcher = Watcher(SystemClock(), replace(FAST, poll_every_s=0.1, back_off_s=0.6))
    async with Antminer() as device:
        nobody = target(device)
    watcher.assign([nobody])
    async with watching(watcher) as box:
        await until(lambda: len(box.of("target:1")) >= 8)
    gaps = [b.at_ms - a.at_ms for a, b in zip(box.of("target:1"), box.of("target:1")[1:], strict=False)]
    assert min(gaps[5:]) > 400
    assert box.state("target:1") is S.UNREACHABLE


async def test_off_is_known_from_its_outlet() -> None:
    """Silent, and its outlet is known to be off: off, not unreachable."""
    off: set[str] = set()
    watcher = Watcher(SystemClock(), FAST, is_off=lambda identity: identity in off)
    async with Antminer() as device:
        watcher.assign([target(device)])
        identity = f"mac:{device.mac}"
        async with watching(watcher) as box:
            await until(lambda: box.of(identity))
            off.add(identity)
            await device.power(False)
            await until(lambda: box.state(identity) is S.OFF)


async def test_a_wrong_password_is_its_own_state() -> None:
    """It is watched under its target's name, refused; the right password makes it known."""
    watcher = Watcher(SystemClock(), FAST)
    async with Antminer() as device:
        device.password = "changed"
        watcher.assign([target(device)])
        async with watching(watcher) as box:
            await until(lambda: box.state("target:1") is S.REFUSED)
            assert box.of("target:1")[-1].values["hashrate_hs", ""] > 0
            assert box.devices["target:1"].fault == "wrong_password"
            watcher.assign([replace(target(device), credentials=Credentials("root", "changed"))])
            await until(lambda: box.state(f"mac:{device.mac}") is S.MINING)
            assert "target:1" not in box.devices
            assert "changed" not in repr(box.devices)


async def test_a_new_address_is_the_same_device() -> None:
    """DHCP gave it another address: the same key goes on, the old address says nothing more under it."""
    watcher = Watcher(SystemClock(), FAST)
    old = Antminer(mac="02:00:00:00:00:01", host="127.0.0.1")
    await old.start()
    watcher.assign([target(old, "1")])
    async with watching(watcher) as box:
        await until(lambda: box.of("mac:02:00:00:00:00:01"))
        await old.stop()
        async with Antminer(mac="02:00:00:00:00:01", host="127.0.0.2") as new:
            watcher.assign([target(old, "1"), target(new, "2")])
            await until(lambda: box.devices["mac:02:00:00:00:00:01"].target == "2")
            count = len(box.looks)
            await until(lambda: len(box.looks) > count + 10)
            later = [s for look in box.looks[count + 2 :] for s in look if s.key == device_key("mac:02:00:00:00:00:01")]
            assert later
            assert all(s.values["look_ok", ""] for s in later)
            assert box.devices["mac:02:00:00:00:00:01"].address == f"127.0.0.2:{new.api_port}"


async def test_another_device_at_a_known_address() -> None:
    """It is not taken for the first one, neither in samples nor by an order."""
    watcher = Watcher(SystemClock(), FAST)
    async with Antminer(mac="02:00:00:00:00:0a") as device:
        watcher.assign([target(device)])
        async with watching(watcher) as box:
            await until(lambda: box.of("mac:02:00:00:00:00:0a"))
            device.mac = "02:00:00:00:00:0b"
            with pytest.raises((Conflict, NotFound)):
                async with watcher.hold("mac:02:00:00:00:00:0a"):
                    pass
            await until(lambda: box.of("mac:02:00:00:00:00:0b"))
            assert ("device_replaced", "mac:02:00:00:00:00:0b") in box.events
            assert "mac:02:00:00:00:00:0a" in box.gone
            assert not watcher.known("mac:02:00:00:00:00:0a")


async def test_an_order_holds_the_device_alone() -> None:
    """While an order has the driver nobody looks; afterwards the looks go on."""
    watcher = Watcher(SystemClock(), FAST)
    async with Antminer() as device:
        watcher.assign([target(device)])
        identity = f"mac:{device.mac}"
        async with watching(watcher) as box:
            await until(lambda: box.of(identity))
            async with watcher.hold(identity) as driver:
                await driver.locate(True)
                asked = device.api_requests
                await asyncio.sleep(0.6)  # three looks would have been due
                assert device.api_requests == asked
            assert device.blinking
            watcher.nudge(identity)
            await until(lambda: device.api_requests > asked)
            assert (await watcher.look(identity)).mining
            with pytest.raises(NotFound):
                await watcher.look("mac:02:ff:ff:ff:ff:ff")


async def test_a_broken_driver_hurts_one_device(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours over one answer is a failed look of that device, logged, and the others go on."""

    def mistaken(rows: Sequence[Mapping[str, object]]) -> object:
        if rows[0]["User"] == "trouble":
            raise KeyError("oops")
        return parse_pools(rows)

    monkeypatch.setattr("sentry_asic.makes.antminer.parse_pools", mistaken)
    watcher = Watcher(SystemClock(), FAST)
    async with Antminer() as bad, Antminer() as good:
        bad.conf["pools"][0]["user"] = "trouble"
        watcher.assign([target(bad, "1"), target(good, "2")])
        async with watching(watcher) as box:
            await until(lambda: box.state(f"mac:{bad.mac}") is S.UNREACHABLE and len(box.of(f"mac:{good.mac}")) > 3)
    assert box.devices[f"mac:{bad.mac}"].fault == "bad_answer"
    assert "a driver failed" in caplog.text


async def test_slow_faults_hold_between_slow_looks() -> None:
    """What only the web page tells stays until the next slow look; maintenance is said at once."""
    watcher = Watcher(SystemClock(), replace(FAST, slow_every_s=3600))
    async with Antminer() as device:
        device.faults.lamps = {"network": "pool is slow"}
        identity = f"mac:{device.mac}"
        watcher.assign([target(device)])
        async with watching(watcher) as box:
            await until(lambda: len(box.of(identity)) > 5)
            assert [c.code for c in box.devices[identity].conditions] == ["network:1"]
            assert box.devices[identity].mode == "normal"
            watcher.assign([replace(target(device), maintenance=True)])
            await until(lambda: box.state(identity) is S.MAINTENANCE)
            watcher.assign([])
            await until(lambda: identity in box.gone)
            count = len(box.looks)
            await asyncio.sleep(0.5)  # nothing may come: nothing to wait for
            assert len(box.looks) <= count + 1


async def test_a_farm_is_spread_and_batched() -> None:
    """Two hundred devices: all looked at, few at once, about one frame a second and not one for each device."""
    watcher = Watcher(SystemClock(), Pace(poll_every_s=3, at_once=32))
    async with Farm(200, first="127.30.0.1", http_port=0) as farm:
        watcher.assign([target(device, str(i)) for i, device in enumerate(farm.devices)])
        async with watching(watcher) as box:
            await until(lambda: sum(map(len, box.looks)) >= 400, within_s=60)
        assert {d.identity for d in box.devices.values()} == {f"mac:{d.mac}" for d in farm.devices}
        assert all(sample.values["look_ok", ""] for look in box.looks for sample in look)
        assert len(box.looks) < 40
