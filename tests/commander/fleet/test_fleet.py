"""The fleet over a real database: what is reported, what people change, what a post is assigned, what survives a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from commander.fleet import audit, store
from commander.fleet.edits import DeviceChange, NewBoard, NewDevice
from commander.fleet.service import DeviceFilter, Fleet, FleetSettings
from commander.model import Caller
from garrison.clock import ManualClock
from garrison.faults import BadInput, Conflict, DiskFull, NotFound
from garrison.frame import Number, Series, device_key
from garrison.model import Credentials, Device, Event, Pool, PowerLimits, SentryHello
from garrison.spans import Spans
from garrison.words import POWER_STATE_CODES, ActionKind, DeviceState, PowerState, SentryState
from tests.commander.fleet.conftest import ASIC, ASIC2, RIG, fleet_at

PERSON = Caller("ada", "operator", "10.0.0.2")
BOOT = b"b" * 16
MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


def hello(fleet: Fleet, kind: str = "asic", **more: object) -> SentryHello:
    base = SentryHello(kind, "0.1.0", BOOT, fleet.clock.now_ms(), address="10.0.0.77:5000")
    return replace(base, **more)  # type: ignore[arg-type]  # named by the test


def miner(mac: str, target: str = "", state: DeviceState = DeviceState.MINING, **more: object) -> Device:
    base = Device(f"mac:{mac}", "asic", state, target=target, make="antminer", model="S19", mac=mac, seen_ms=5)
    return replace(base, **more)  # type: ignore[arg-type]  # named by the test


def rig(machine: str = "machine:m1", **more: object) -> Device:
    base = Device(machine, "rig", DeviceState.MINING, facts={"hostname": "worker\x1b-1"}, seen_ms=5)
    return replace(base, **more)  # type: ignore[arg-type]  # named by the test


async def connect(fleet: Fleet, *sentries: str) -> None:
    for sentry in sentries:
        await fleet.connected(sentry, hello(fleet))


async def kinds(fleet: Fleet) -> list[str]:
    return [event.kind for event in reversed(await fleet.events())]


# ---- what is reported ----------------------------------------------------------------------------------------------


async def test_a_rig_appears(fleet: Fleet) -> None:
    """A rig is there with its first roster, under a harmless name, and everything that it said is shown."""
    await connect(fleet, RIG)
    pool = Pool("stratum+tcp://p:1", "w.r", "alive", 5, 0, None)
    seen = rig(pools=(pool,), capabilities=(ActionKind.PAUSE,), components=("cpu=Ryzen",), simulated=True)
    await fleet.take_roster(RIG, True, [seen], [])
    (row,) = await fleet.devices()
    assert (row.name, row.kind, row.state, row.simulated) == ("worker-1", "rig", DeviceState.MINING, True)
    assert row.key == device_key("machine:m1")
    assert (row.pools, row.capabilities, row.components) == ((pool,), (ActionKind.PAUSE,), ("cpu=Ryzen",))
    assert (await fleet.device("worker-1")).id == row.id


async def test_a_target_gets_its_identity(fleet: Fleet) -> None:
    """An address that was added is a device at once, then the same row has the identity that was found there."""
    await connect(fleet, ASIC)
    added = await fleet.add_device(PERSON, NewDevice("10.0.0.5", "hall-a", credentials=Credentials("root", "s3cret")))
    assert (added.identity, added.name, added.state) == (None, "10.0.0.5", DeviceState.UNKNOWN)
    await fleet.take_roster(ASIC, True, [Device(f"target:{added.id}", "asic", DeviceState.UNREACHABLE, str(added.id))], [])
    assert (await fleet.device(added.id)).state is DeviceState.UNREACHABLE
    await fleet.take_roster(ASIC, False, [miner(MAC_A, str(added.id), address="10.0.0.5")], [])
    row = await fleet.device(MAC_A)
    assert (row.id, row.name, row.model, row.address) == (added.id, "antminer-00000a", "S19", "10.0.0.5")
    # it stops answering: what it is stays known
    await fleet.take_roster(ASIC, False, [Device(f"mac:{MAC_A}", "asic", DeviceState.UNREACHABLE, str(added.id))], [])
    row = await fleet.device(added.id)
    assert (row.state, row.model, row.mac) == (DeviceState.UNREACHABLE, "S19", MAC_A)


async def test_a_known_device_at_a_new_address(fleet: Fleet) -> None:
    """The row that has the identity takes the address, the outlet and the password over; the placeholder goes."""
    await connect(fleet, ASIC)
    first = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC, name="seven"))
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(first.id))], [])
    second = await fleet.add_device(PERSON, NewDevice("10.0.0.6", ASIC, credentials=Credentials("root", "other")))
    await fleet.add_board(PERSON, NewBoard("rack", "fake", "127.0.0.1:1", ASIC, outlets=4))
    await fleet.map_outlet(PERSON, "rack", "2", str(second.id))
    await fleet.take_roster(ASIC, False, [miner(MAC_A, str(second.id), address="10.0.0.6")], [])
    rows = await fleet.devices(DeviceFilter(kind="asic"))
    assert [(row.id, row.name, row.address) for row in rows] == [(first.id, "seven", "10.0.0.6")]
    given = await fleet.assignment(ASIC)
    assert [(one.id, one.address, one.credentials) for one in given.targets] == [
        (str(first.id), "10.0.0.6", Credentials("root", "other"))
    ]
    assert [(one.device, one.target) for one in given.outlets] == [(f"mac:{MAC_A}", str(first.id))]
    assert "device_moved" in await kinds(fleet)


async def test_two_devices_exchange_addresses(fleet: Fleet) -> None:
    """After DHCP gave A the address of B and B that of A, both keep their rows, in one roster or in two."""
    await connect(fleet, ASIC)
    one = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC))
    two = await fleet.add_device(PERSON, NewDevice("10.0.0.6", ASIC))
    a, b = str(one.id), str(two.id)
    await fleet.take_roster(ASIC, True, [miner(MAC_A, a, address="10.0.0.5"), miner(MAC_B, b, address="10.0.0.6")], [])
    swapped = [miner(MAC_B, a, address="10.0.0.5"), miner(MAC_A, b, address="10.0.0.6")]
    await fleet.take_roster(ASIC, False, swapped, [])
    await fleet.take_roster(ASIC, False, swapped[1:], [])  # the sentry has not heard of the new assignment yet
    assert {one.id: one.address for one in (await fleet.assignment(ASIC)).targets} == {a: "10.0.0.6", b: "10.0.0.5"}
    assert (await fleet.device(MAC_A)).id == one.id
    assert (await fleet.device(MAC_B)).id == two.id


async def test_a_stranger_at_a_known_address(fleet: Fleet) -> None:
    """A replaced miner is a new device; the old row stays, unknown and unwatched, and so does what its outlet feeds."""
    await connect(fleet, ASIC)
    old = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC, credentials=Credentials("root", "pw")))
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(old.id), address="10.0.0.5")], [])
    await fleet.add_board(PERSON, NewBoard("rack", "fake", "127.0.0.1:1", ASIC))
    await fleet.map_outlet(PERSON, "rack", "1", str(old.id))
    await fleet.take_roster(ASIC, False, [miner(MAC_B, str(old.id), address="10.0.0.5")], [])
    fresh, left = await fleet.device(MAC_B), await fleet.device(MAC_A)
    assert (left.id, left.state) == (old.id, DeviceState.UNKNOWN)
    assert fresh.id not in (old.id, left.id)
    given = await fleet.assignment(ASIC)
    assert [(one.id, one.credentials) for one in given.targets] == [(str(fresh.id), Credentials("root", "pw"))]
    assert [one.device for one in given.outlets] == [f"mac:{MAC_A}"]
    assert "device_replaced" in await kinds(fleet)


async def test_one_identity_on_two_sentries(fleet: Fleet) -> None:
    """A cloned disk: the device stays where it was, an event says so once; when the first is gone the second has it."""
    await connect(fleet, RIG, ASIC2)
    await fleet.take_roster(RIG, True, [rig()], [])
    for _ in range(3):
        await fleet.take_roster(ASIC2, True, [rig()], [])
    (row,) = await fleet.devices()
    assert row.sentry_id == RIG
    assert (await kinds(fleet)).count("device_conflict") == 1
    await fleet.disconnected(RIG, "gone")
    await fleet.take_roster(ASIC2, True, [rig()], [])
    assert (await fleet.device(row.id)).sentry_id == ASIC2


async def test_no_password_for_a_claim(fleet: Fleet) -> None:
    """A sentry that claims to see another's ASIC gets neither the device nor its password, though the other is silent."""
    await connect(fleet, ASIC)
    added = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC, credentials=Credentials("root", "pw")))
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(added.id))], [])
    await fleet.disconnected(ASIC, "gone")
    await connect(fleet, ASIC2)
    await fleet.take_roster(ASIC2, True, [miner(MAC_A), miner(MAC_A, str(added.id))], [])
    assert (await fleet.device(added.id)).sentry_id == ASIC
    assert (await fleet.assignment(ASIC2)).targets == ()


async def test_gone(fleet: Fleet) -> None:
    """What a whole roster leaves out, or a change names as gone, is unknown, and known again when it is back."""
    await connect(fleet, RIG)
    await fleet.take_roster(RIG, True, [rig(), rig("machine:m2")], [])
    await fleet.take_roster(RIG, True, [rig()], [])
    assert [row.state for row in await fleet.devices()] == [DeviceState.MINING, DeviceState.UNKNOWN]
    await fleet.take_roster(RIG, False, [], ["machine:m1"])
    assert [row.state for row in await fleet.devices()] == [DeviceState.UNKNOWN, DeviceState.UNKNOWN]
    await fleet.take_roster(RIG, False, [rig("machine:m2")], [])
    assert [row.state for row in await fleet.devices()] == [DeviceState.UNKNOWN, DeviceState.MINING]


async def test_events_once(fleet: Fleet) -> None:
    """An event sent again after a lost ack stands once; what is durable is told at the next connect."""
    await connect(fleet, RIG)
    await fleet.take_roster(RIG, True, [rig()], [])
    event = Event(fleet.clock.now_ms(), "miner_crashed", "XMRig ended with 1", "machine:m1", "warning", {"exit": "1"})
    for _ in range(2):
        await fleet.take_event(RIG, BOOT, 3, event)
    (device,) = await fleet.devices()
    (found,) = await fleet.events(kinds=["miner_crashed"])
    assert (found.device_id, found.severity, found.detail) == (device.id, "warning", {"exit": "1"})
    assert await fleet.records_durable(RIG, [(BOOT, 1, 9)]) == {BOOT: Spans([(3, 3)])}


async def test_silence(fleet: Fleet, clock: ManualClock) -> None:
    """A sentry that fell silent makes its devices unknown, after 30 s, with one event; coming back is told too."""
    clock.advance(100)
    await connect(fleet, RIG)
    await fleet.take_roster(RIG, True, [rig()], [])
    await fleet.watch()
    await fleet.disconnected(RIG, "reset")
    clock.advance(29)
    await fleet.watch()
    assert (await fleet.sentry("rig-1")).state is SentryState.CONNECTED
    clock.advance(1)
    await fleet.watch()
    await fleet.watch()
    assert (await fleet.sentry("rig-1")).state is SentryState.SILENT
    assert (await fleet.device(1)).state is DeviceState.UNKNOWN
    await connect(fleet, RIG)
    fleet.mark_lag(RIG, 61_000)
    assert (await fleet.sentry("rig-1")).state is SentryState.LAGGING
    assert (await fleet.device(1)).state is DeviceState.MINING
    assert [kind for kind in await kinds(fleet) if kind.startswith("sentry_") and kind != "sentry_enrolled"] == [
        "sentry_connected",
        "sentry_silent",
        "sentry_connected",
    ]


async def test_two_streams(fleet: Fleet, clock: ManualClock) -> None:
    """The old stream of a sentry may end after the new one opened: it is still connected."""
    clock.advance(100)
    await connect(fleet, RIG, RIG)
    await fleet.disconnected(RIG, "the old one")
    clock.advance(60)
    assert (await fleet.sentry(RIG)).state is SentryState.CONNECTED


@dataclass(frozen=True)
class Look:
    at_ms: int
    values: Mapping[Series, Number]


async def test_off_by_its_outlet(fleet: Fleet, clock: ManualClock) -> None:
    """A silent device is off when its outlet is known to be off now; an old reading, or a silent relay sentry, proves nothing."""
    await connect(fleet, ASIC)
    added = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC))
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(added.id), DeviceState.UNREACHABLE)], [])
    board = await fleet.add_board(PERSON, NewBoard("rack", "fake", "127.0.0.1:1", ASIC, outlets=2))
    await fleet.map_outlet(PERSON, "rack", "2", str(added.id))
    looks = {
        device_key(f"relay:{board.id}"): Look(clock.now_ms(), {("outlet_state", "outlet:2"): POWER_STATE_CODES[PowerState.OFF]})
    }

    def latest(keys: Iterable[int], _: Collection[str] | None = None) -> Mapping[int, Look]:
        return {key: looks[key] for key in keys if key in looks}

    fleet.latest = latest
    assert (await fleet.device(added.id)).state is DeviceState.OFF
    assert [row.state for row in await fleet.outlets(device_id=added.id)] == [PowerState.OFF]
    clock.advance(121)
    assert (await fleet.device(added.id)).state is DeviceState.UNREACHABLE
    assert [row.state for row in await fleet.outlets(device_id=added.id)] == [PowerState.UNKNOWN]


async def test_run(fleet: Fleet, clock: ManualClock) -> None:
    """The fleet's own task notices silence, keeps when each sentry was heard, outlives a full disk, and ends when told to."""
    clock.advance(100)
    await connect(fleet, RIG)
    await fleet.disconnected(RIG, "gone")
    heard_ms = clock.now_ms()
    await fleet.db.write(lambda c: c.execute("pragma max_page_count=1").fetchall())
    task = asyncio.create_task(fleet.run())

    async def until(done: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await done():
                clock.advance(1)
                await asyncio.sleep(0.001)

    async def silent() -> bool:
        return (await fleet.sentry(RIG)).state is SentryState.SILENT and "sentry_silent" in await kinds(fleet)

    async def written() -> bool:
        stored = await fleet.db.read(store.sentries)
        return {one.id: one.seen_ms for one in stored}[RIG] == heard_ms

    await asyncio.sleep(0)
    await fleet.db.write(lambda c: c.execute("pragma max_page_count=1000000").fetchall())
    await until(silent)
    await until(written)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ---- assignments ------------------------------------------------------------------------------------------------------


async def test_revision_rises_only_on_change(fleet: Fleet, clock: ManualClock, tmp_path: Path) -> None:
    """Same content, same revision, also after a restart; a change is a higher one, announced once it is durable."""
    told: list[str] = []
    fleet.on_assignment_change.append(told.append)
    await connect(fleet, ASIC)
    assert (await fleet.assignment(ASIC)).poll_every_ms == 10_000
    told.clear()
    added = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC))
    assert told == [ASIC]
    first = await fleet.assignment(ASIC)
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(added.id))], [])  # its name follows the identity
    second = await fleet.assignment(ASIC)
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(added.id), DeviceState.IDLE)], [])
    await fleet.change_device(PERSON, MAC_A, DeviceChange(add_tags=["rack-a"]))
    assert await fleet.assignment(ASIC) == second
    assert second.revision > first.revision
    assert told == [ASIC, ASIC]
    await fleet.db.close()
    clock.advance(-3600)  # the machine came up with a wrong clock
    async with fleet_at(tmp_path / "fleet.db", clock) as again:
        assert await again.assignment(ASIC) == second
        await again.change_device(PERSON, MAC_A, DeviceChange(maintenance=True))
        third = await again.assignment(ASIC)
        assert third.revision > second.revision
    settings = FleetSettings(poll_every_ms=5_000, power=PowerLimits(off_s=60))
    async with fleet_at(tmp_path / "fleet.db", clock, settings) as again:
        fourth = await again.assignment(ASIC)
        assert (fourth.poll_every_ms, fourth.power.off_s, fourth.revision > third.revision) == (5_000, 60, True)


async def test_everything_survives_a_restart(fleet: Fleet, clock: ManualClock, tmp_path: Path) -> None:
    """Every field that people set or devices said is the same after the database is opened again."""
    await connect(fleet, ASIC, RIG)
    added = await fleet.add_device(
        PERSON, NewDevice("10.0.0.5:4028", ASIC, "seven", "antminer", Credentials("root", "pw"), 8080, 1e14, simulated=True)
    )
    pool = Pool("stratum+tcp://p:1", "w.r", "alive", 5, None, 1, 0, True)
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(added.id), pools=(pool,), facts={"k": "v"})], [])
    await fleet.change_device(
        PERSON, "seven", DeviceChange(add_tags=["b", "a"], site="hall", rack="r1", position="3", maintenance=True)
    )
    await fleet.set_wanted_sheet(added.id, "sheet-1")
    await fleet.add_board(PERSON, NewBoard("rack", "modbus", "10.0.0.9", ASIC, 8, Credentials("u", "p"), {"unit": "2"}, True))
    await fleet.map_outlet(PERSON, "rack", "7", "seven", "c1", True)
    await fleet.keep_seen()
    before = (
        await fleet.devices(),
        await fleet.sentries(),
        await fleet.boards(),
        await fleet.outlets(),
        await fleet.assignment(ASIC),
    )
    await fleet.db.close()
    async with fleet_at(tmp_path / "fleet.db", clock) as again:
        after = (
            await again.devices(),
            await again.sentries(),
            await again.boards(),
            await again.outlets(),
            await again.assignment(ASIC),
        )
        assert after == before
        removed = await again.add_device(PERSON, NewDevice("10.0.0.6", ASIC))
        await again.remove_device(PERSON, str(removed.id))
    async with fleet_at(tmp_path / "fleet.db", clock) as again:
        fresh = await again.add_device(PERSON, NewDevice("10.0.0.6", ASIC))
        assert fresh.id == removed.id + 1  # a number is never given twice: history hangs on it


async def test_renumber_after_restore(fleet: Fleet, clock: ManualClock, tmp_path: Path) -> None:
    """A commander restored from an older backup must not send assignments that look older than what sentries hold."""
    await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC))
    lost = (await fleet.assignment(ASIC)).revision
    clock.advance(86_400)
    now_ms = clock.now_ms()
    await fleet.db.write(lambda c: store.renumber(c, now_ms))
    await fleet.db.close()
    async with fleet_at(tmp_path / "fleet.db", clock) as again:
        assert (await again.assignment(ASIC)).revision == now_ms > lost


async def test_full_disk(fleet: Fleet) -> None:
    """A change that could not be written did not happen; a roster that could not be written is written with the next one."""
    await connect(fleet, RIG)
    pages = (await fleet.db.read(lambda c: c.execute("pragma page_count").fetchone()))[0]
    await fleet.db.write(lambda c: c.execute(f"pragma max_page_count={pages}").fetchall())
    big = rig(facts={str(number): "x" * 200 for number in range(2_000)})
    with pytest.raises(DiskFull):
        await fleet.take_roster(RIG, True, [big], [])
    with pytest.raises(DiskFull):
        await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC))
    assert [row.identity for row in await fleet.devices()] == ["machine:m1"]
    await fleet.db.write(lambda c: c.execute("pragma max_page_count=1000000").fetchall())
    await fleet.take_roster(RIG, True, [big], [])
    stored = await fleet.db.read(store.devices)
    assert [one.identity for one in stored] == ["machine:m1"]


# ---- people's changes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (NewDevice("8.8.8.8", ASIC), BadInput),
        (NewDevice("169.254.169.254", ASIC), BadInput),
        (NewDevice("10.0.0.5", RIG), BadInput),
        (NewDevice("10.0.0.5", "nobody"), NotFound),
        (NewDevice("10.0.0.4", ASIC), Conflict),
        (NewDevice("10.0.0.5", ASIC, name="Four"), Conflict),
        (NewDevice("10.0.0.5", ASIC, name="17"), BadInput),
        (NewDevice("10.0.0.5", ASIC, name="a\x1b"), BadInput),
        (NewDevice("10.0.0.5", ASIC, expected_hashrate_hs=float("inf")), BadInput),
        (NewDevice("10.0.0.5", ASIC, credentials=Credentials("a\n", "b")), BadInput),
        (NewDevice("10.0.0.5", ASIC, make="ant miner"), BadInput),
    ],
)
async def test_devices_refused(fleet: Fleet, asked: NewDevice, fault: type[Exception]) -> None:
    """Nothing is written for what makes no sense."""
    await fleet.add_device(PERSON, NewDevice("10.0.0.4", ASIC, name="four"))
    with pytest.raises(fault):
        await fleet.add_device(PERSON, asked)
    assert len(await fleet.devices()) == 1


async def test_found_by_anything(fleet: Fleet) -> None:
    """Several devices that fit are a fault that lists them; one that does not exist is not found."""
    await connect(fleet, ASIC)
    one = await fleet.add_device(PERSON, NewDevice("10.0.0.4:1", ASIC, name="four"))
    two = await fleet.add_device(PERSON, NewDevice("10.0.0.4:2", ASIC, name="five"))
    with pytest.raises(BadInput, match=rf"{one.id} \(four\), {two.id} \(five\)"):
        await fleet.device("10.0.0.4")
    with pytest.raises(NotFound):
        await fleet.device("six")
    with pytest.raises(NotFound):
        await fleet.device(99)
    assert (await fleet.device("10.0.0.4:2")).name == "five"
    assert [row.name for row in await fleet.devices(DeviceFilter(text="FIV"))] == ["five"]


async def test_remove(fleet: Fleet) -> None:
    """A device whose outlet is mapped, or that its own live sentry reports, is not removed; a removed target stays removed."""
    await connect(fleet, ASIC, RIG)
    added = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC, name="five"))
    await fleet.add_board(PERSON, NewBoard("rack", "fake", "127.0.0.1:1", ASIC))
    await fleet.map_outlet(PERSON, "rack", "1", "five")
    with pytest.raises(Conflict, match="outlet 1 of rack"):
        await fleet.remove_device(PERSON, "five")
    await fleet.unmap_outlet(PERSON, "rack", "1")
    await fleet.remove_device(PERSON, "five")
    await fleet.take_roster(ASIC, True, [miner(MAC_A, str(added.id))], [])  # on its way while it was removed
    with pytest.raises(NotFound):
        await fleet.device(MAC_A)
    await fleet.take_roster(RIG, True, [rig()], [])
    with pytest.raises(Conflict, match="come back"):
        await fleet.remove_device(PERSON, "machine:m1")


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (NewBoard("two", "toaster", "127.0.0.1:2", ASIC), BadInput),
        (NewBoard("two", "fake", "127.0.0.1:2", RIG), BadInput),
        (NewBoard("RACK", "fake", "127.0.0.1:2", ASIC), Conflict),
        (NewBoard("two", "fake", "127.0.0.1:1", ASIC), Conflict),
        (NewBoard("two", "fake", "127.0.0.1:2", ASIC, outlets=0), BadInput),
        (NewBoard("two", "fake", "8.8.8.8", ASIC), BadInput),
    ],
)
async def test_boards_refused(fleet: Fleet, asked: NewBoard, fault: type[Exception]) -> None:
    """Two queues to one board would work against one another; an unknown kind or a rig's sentry drives none."""
    await fleet.add_board(PERSON, NewBoard("rack", "fake", "127.0.0.1:1", ASIC))
    with pytest.raises(fault):
        await fleet.add_board(PERSON, asked)
    assert [row.name for row in await fleet.boards()] == ["rack"]


async def test_mapping(fleet: Fleet) -> None:
    """One outlet feeds one device and one device has one outlet; a board is a device, and feeds none of its kind."""
    await connect(fleet, ASIC)
    await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC, name="five"))
    await fleet.add_device(PERSON, NewDevice("10.0.0.6", ASIC, name="six"))
    board = await fleet.add_board(PERSON, NewBoard("rack", "fake", "127.0.0.1:1", ASIC, outlets=4))
    assert (await fleet.device(f"relay:{board.id}")).kind == "relay"
    await fleet.map_outlet(PERSON, "rack", "01", "five", "c1")
    await fleet.map_outlet(PERSON, "rack", "1", "five", "c2")
    for outlet, device, protected, fault in (
        ("1", "six", False, Conflict),
        ("2", "five", False, Conflict),
        ("5", "six", False, BadInput),
        ("0", "six", False, BadInput),
        ("x", "six", False, BadInput),
        ("2", f"relay:{board.id}", False, BadInput),
        ("2", None, False, BadInput),
    ):
        with pytest.raises(fault):
            await fleet.map_outlet(PERSON, "rack", outlet, device, protected=protected)
    await fleet.map_outlet(PERSON, "rack", "4", None, protected=True)
    rows = await fleet.outlets(board_id=board.id)
    assert [(row.outlet, row.circuit, row.protected, row.state) for row in rows] == [
        ("1", "c2", False, PowerState.UNKNOWN),
        ("4", "", True, PowerState.UNKNOWN),
    ]
    await fleet.remove_board(PERSON, board.id)
    assert (await fleet.boards(), await fleet.outlets(), (await fleet.assignment(ASIC)).outlets) == ([], [], ())
    with pytest.raises(NotFound):
        await fleet.device(f"relay:{board.id}")


async def test_audit_without_secrets(fleet: Fleet) -> None:
    """Every change says who, what, before and after; a password stands nowhere in the database in the clear."""
    await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC, name="five", credentials=Credentials("root", "hunter2hunter2")))
    await fleet.change_device(PERSON, "five", DeviceChange(name="cinq", credentials=Credentials("root", "tr0ub4dor-canary")))
    await fleet.rename_sentry(PERSON, "hall-a", "hall-1")
    rows = await fleet.db.read(audit.rows)
    assert [(row.who, row.what) for row in rows] == [("ada", "sentry.rename"), ("ada", "device.change"), ("ada", "device.add")]
    assert rows[1].detail == {"name": {"before": "five", "after": "cinq"}, "credentials": "changed"}
    everything = json.dumps([list(row.detail.items()) for row in rows])
    assert "hunter2" not in everything
    assert "canary" not in everything
    assert "tr0ub4dor" not in repr(await fleet.device("cinq")) + repr(fleet.book.devices)


async def test_trim(fleet: Fleet, clock: ManualClock) -> None:
    """Events older than 400 days go, and so do the oldest above the count."""
    boot = BOOT
    for seq in range(1, 21):
        await fleet.take_event(RIG, boot, seq, Event(clock.now_ms(), "k", f"{seq}"))
    now_ms = clock.now_ms()
    assert await fleet.db.write(lambda c: store.trim_events(c, now_ms, kept=5)) > 0
    assert [event.text for event in await fleet.events()] == ["20", "19", "18", "17", "16"]
    later_ms = now_ms + store.EVENTS_KEPT_MS + 1
    await fleet.db.write(lambda c: store.trim_events(c, later_ms))
    assert await fleet.events() == []
