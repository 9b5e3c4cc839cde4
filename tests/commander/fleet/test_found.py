"""What scans found: listed, adopted by hand or by rule, followed by MAC, and never merged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from commander import schema
from commander.db import Database
from commander.fleet import store
from commander.fleet.edits import NewDevice
from commander.fleet.found import FoundFilter, doubles_of, found_json
from commander.fleet.found_rules import KEPT_MS, Rule, rules_of
from commander.fleet.records import SentryRecord
from commander.fleet.service import Fleet, FleetSettings
from commander.model import Caller, DeviceRow
from garrison.clock import ManualClock
from garrison.faults import BadInput, Conflict, NotFound
from garrison.model import Condition, Device
from garrison.words import DeviceState
from tests.commander.fleet.conftest import ASIC, ASIC2, RIG, PlainVault, enrol, fleet_at

PERSON = Caller("ann", "operator")
MAC_A, MAC_B, MAC_C = (f"02:5e:00:00:00:0{digit}" for digit in "abc")
S = DeviceState


def found(address: str, mac: str = "", **facts: object) -> Device:
    base = Device(f"found:{address}", "found", S.UNKNOWN, make="antminer", model="S19", address=address, mac=mac)
    return replace(base, **{"facts": {"range": "hall"}, **facts})  # type: ignore[arg-type]  # fields of it


def heard(row: DeviceRow, mac: str, address: str, state: DeviceState = S.MINING, serial: str = "") -> Device:
    return Device(f"mac:{mac}", "asic", state, str(row.id), make="antminer", mac=mac, address=address, serial=serial, seen_ms=5)


async def watched(fleet: Fleet, address: str, mac: str, sentry: str = ASIC, serial: str = "") -> DeviceRow:
    row = await fleet.add_device(PERSON, NewDevice(address, sentry))
    await fleet.take_roster(sentry, False, [heard(row, mac, address, serial=serial)], [])
    return await fleet.device(row.id)


def listed(fleet: Fleet, **wanted: object) -> list[str]:
    return [one.address for one in fleet.finds(FoundFilter(**wanted))]  # type: ignore[arg-type]  # fields of it


def doubles(fleet: Fleet, address: str) -> list[str]:
    (record,) = [one for one in fleet.finds(FoundFilter(dismissed=True)) if one.address == address]
    return [twin.what for twin in doubles_of(fleet.book, record)]


async def kinds(fleet: Fleet) -> list[str]:
    return [one.kind for one in reversed(await fleet.events()) if one.kind.startswith("device_")]


@asynccontextmanager
async def ruled(path: Path, clock: ManualClock, *rules: str) -> AsyncIterator[Fleet]:
    async with fleet_at(path / "ruled.db", clock, FleetSettings(adopt=rules_of(rules))) as fleet:
        await enrol(fleet, ASIC, "asic", "hall-a")
        await enrol(fleet, ASIC2, "asic", "hall-b")
        yield fleet


async def test_found_is_not_watched(fleet: Fleet) -> None:
    """It is on a list of its own, in no listing of devices and no assignment, and told once; a rig sentry finds nothing."""
    for _ in range(2):
        await fleet.take_roster(ASIC, False, [found("10.0.0.9", MAC_A), found("10.0.0.8:4028")], [])
    await fleet.take_roster(RIG, False, [found("10.0.0.7", MAC_B)], [])
    assert listed(fleet) == ["10.0.0.8:4028", "10.0.0.9"]
    assert await fleet.devices() == []
    assert (await fleet.assignment(ASIC)).targets == ()
    with pytest.raises(NotFound):
        await fleet.device(MAC_A)
    assert await kinds(fleet) == ["device_found"] * 2
    told = found_json(fleet.book, fleet.finds(FoundFilter())[1])
    assert (told["state"], told["make"], told["mac"], told["range"], told["sentry"]) == (
        "found",
        "antminer",
        MAC_A,
        "hall",
        "hall-a",
    )


async def test_a_whole_roster_keeps_what_was_found_and_gone_takes_it_off(fleet: Fleet, clock: ManualClock) -> None:
    """A sentry that starts anew has not looked yet. What nobody met for a week is forgotten."""
    await fleet.take_roster(ASIC, False, [found("10.0.0.8"), found("10.0.0.9", MAC_A)], [])
    await fleet.take_roster(ASIC, True, [], [])
    await fleet.take_roster(ASIC, False, [], ["found:10.0.0.8"])
    assert listed(fleet) == ["10.0.0.9"]
    clock.advance(KEPT_MS / 1000 + 1)
    await fleet.take_roster(ASIC, False, [found("10.0.0.7", MAC_B)], [])
    assert listed(fleet) == ["10.0.0.7"]


async def test_adopted_by_a_person(fleet: Fleet) -> None:
    """It becomes a target of the sentry that found it, with its ports; by address, MAC or serial; a wrong one spoils all."""
    await fleet.take_roster(ASIC, False, [found("10.0.0.9", MAC_A, facts={"http_port": "8080"}), found("10.0.0.8", MAC_B)], [])
    with pytest.raises(NotFound):
        await fleet.adopt(PERSON, [("10.0.0.8", ""), ("10.0.0.1", "")])
    assert len(listed(fleet)) == 2
    (row,) = await fleet.adopt(PERSON, [(MAC_A.upper().replace(":", "-"), "")], "seven")
    assert (row.name, row.address, row.identity) == ("seven", "10.0.0.9", f"mac:{MAC_A}")
    (target,) = (await fleet.assignment(ASIC)).targets
    assert (target.address, target.http_port, target.name) == ("10.0.0.9", 8080, "seven")
    assert listed(fleet) == ["10.0.0.8"]
    await fleet.take_roster(ASIC, False, [found("10.0.0.9", MAC_A)], [])  # it has not heard of it yet
    assert listed(fleet) == ["10.0.0.8"]
    await fleet.take_roster(ASIC, True, [], [])  # of a sentry that has not heard of it yet
    await fleet.take_roster(ASIC, False, [heard(row, MAC_A, "10.0.0.9")], ["found:10.0.0.9"])
    assert [(one.id, one.state) for one in await fleet.devices()] == [(row.id, S.UNKNOWN)]  # its sentry has no stream here
    (second,) = await fleet.adopt(PERSON, [("10.0.0.8", ASIC)])
    assert second.name == f"antminer-{MAC_B.replace(':', '')[-6:]}"


async def test_rules_adopt(tmp_path: Path, clock: ManualClock) -> None:
    """By make, by range, by both; not what refused our log-in or did not say who it is."""
    async with ruled(tmp_path, clock, "make:bitaxe", "make:antminer range:hall") as fleet:
        entries = [
            found("10.0.0.1", MAC_A),
            found("10.0.0.2", MAC_B, facts={"range": "other"}),
            found("10.0.0.3", MAC_C, make="bitaxe", facts={}),
            found("10.0.0.4", "02:5e:00:00:00:04", state=S.REFUSED),
            found("10.0.0.5"),
            found("8.8.8.8", "02:5e:00:00:00:05"),
        ]
        await fleet.take_roster(ASIC, False, entries, [])
        assert sorted(row.address for row in await fleet.devices()) == ["10.0.0.1", "10.0.0.3"]
        assert listed(fleet) == ["10.0.0.2", "10.0.0.4", "10.0.0.5", "8.8.8.8"]
        assert (await kinds(fleet)).count("device_adopted") == 2
        await fleet.take_roster(ASIC2, False, [found("10.0.0.1", MAC_A)], [])
        assert len(await fleet.devices()) == 2, "another sentry's find is not a second device"


def test_rules_as_written() -> None:
    assert rules_of(["all", "make:a range:b"]) == (Rule(), Rule(frozenset("a"), frozenset("b")))
    for wrong in ("", "none", "make:", "model:S19", "all make:a"):
        with pytest.raises(BadInput, match="rule"):
            rules_of([wrong])


async def test_an_address_follows_the_mac(fleet: Fleet) -> None:
    """What is not heard where it was, and is found elsewhere, is watched there: the same row, its name and tags stay."""
    row = await watched(fleet, "10.0.0.5", MAC_A)
    await fleet.take_roster(ASIC, False, [heard(row, MAC_A, "10.0.0.5", S.UNREACHABLE)], [])
    await fleet.take_roster(ASIC, False, [found("10.0.0.77", MAC_A)], [])
    after = await fleet.device(row.id)
    assert (after.address, after.name, listed(fleet)) == ("10.0.0.77", row.name, [])
    assert [one.address for one in (await fleet.assignment(ASIC)).targets] == ["10.0.0.77"]
    assert (await kinds(fleet))[-1] == "device_moved"


async def test_found_first_and_silent_later(fleet: Fleet) -> None:
    """The scan was quicker than the watch: the address follows as soon as the old one is not heard."""
    row = await watched(fleet, "10.0.0.5", MAC_A)
    await fleet.take_roster(ASIC, False, [found("10.0.0.77", MAC_A)], [])
    assert "device_duplicate" not in await kinds(fleet), "it may have moved a moment ago"
    await fleet.take_roster(ASIC, False, [heard(row, MAC_A, "10.0.0.5", S.UNREACHABLE)], [])
    assert (await fleet.device(row.id)).address == "10.0.0.77"
    assert listed(fleet) == []


async def test_a_displaced_device_is_found_again(fleet: Fleet) -> None:
    """Another one took its address and its target; where the scan meets it, it is watched again."""
    row = await watched(fleet, "10.0.0.5", MAC_A)
    await fleet.take_roster(ASIC, False, [replace(heard(row, MAC_B, "10.0.0.5"), target=str(row.id))], [])
    assert (await fleet.device(f"mac:{MAC_B}")).address == "10.0.0.5"
    await fleet.take_roster(ASIC, False, [found("10.0.0.77", MAC_A)], [])
    assert (await fleet.device(f"mac:{MAC_A}")).address == "10.0.0.77"
    assert {one.address for one in (await fleet.assignment(ASIC)).targets} == {"10.0.0.5", "10.0.0.77"}


async def test_a_host_name_and_a_placeholder_are_not_followed(fleet: Fleet) -> None:
    """A name is for DNS to lead; nobody has looked at a device that was just added."""
    named = await watched(fleet, "miner-1.lan", MAC_A)
    await fleet.take_roster(ASIC, False, [heard(named, MAC_A, "miner-1.lan", S.UNREACHABLE)], [])
    await fleet.take_roster(ASIC, False, [found("10.0.0.77", MAC_A)], [])
    assert (await fleet.device(named.id)).address == "miner-1.lan"


async def test_one_mac_twice_is_told_and_never_merged(fleet: Fleet) -> None:
    """It answers where it is watched, and there is another with its MAC: a warning once, listed with why, not to be adopted."""
    row = await watched(fleet, "10.0.0.5", MAC_A)
    for _ in range(3):
        await fleet.take_roster(ASIC, False, [found("10.0.0.77", MAC_A)], [])
    assert (await fleet.device(row.id)).address == "10.0.0.5"
    assert doubles(fleet, "10.0.0.77") == ["mac"]
    assert (await kinds(fleet)).count("device_duplicate") == 1
    with pytest.raises(Conflict, match="MAC"):
        await fleet.adopt(PERSON, [("10.0.0.77", "")])


async def test_two_finds_with_one_mac(tmp_path: Path, clock: ManualClock) -> None:
    """One round met both: both stay, each told with the other, and a rule adopts neither."""
    both = (Condition("duplicate_mac", "also there", "warning"),)
    async with ruled(tmp_path, clock, "all") as fleet:
        one, two = found("10.0.0.1", MAC_A, conditions=both), found("10.0.0.2", MAC_A, conditions=both)
        await fleet.take_roster(ASIC, False, [one, two], [])
        assert listed(fleet) == ["10.0.0.1", "10.0.0.2"]
        assert doubles(fleet, "10.0.0.1") == doubles(fleet, "10.0.0.2") == ["mac"]
        assert (await kinds(fleet)).count("device_duplicate") == 2
        await fleet.take_roster(ASIC, False, [replace(two, conditions=())], ["found:10.0.0.1"])
        assert [row.address for row in await fleet.devices()] == ["10.0.0.2"]


async def test_one_serial_twice(fleet: Fleet) -> None:
    """With another MAC it is another device: adopted only by name, and told. Between watched devices too. 00000 is no serial."""
    await watched(fleet, "10.0.0.5", MAC_A, serial="HX12345")
    await fleet.take_roster(
        ASIC, False, [found("10.0.0.8", MAC_B, serial="hx12345"), found("10.0.0.9", MAC_C, serial="0000000")], []
    )
    assert doubles(fleet, "10.0.0.8") == ["serial"]
    assert doubles(fleet, "10.0.0.9") == []
    (row,) = await fleet.adopt(PERSON, [("10.0.0.8", "")])
    before = (await kinds(fleet)).count("device_duplicate")
    for _ in range(2):
        await fleet.take_roster(ASIC, False, [heard(row, MAC_B, "10.0.0.8", serial="HX12345")], [])
    assert (await kinds(fleet)).count("device_duplicate") == before + 1
    assert len(await fleet.devices()) == 2


async def test_one_address_twice(fleet: Fleet) -> None:
    """Two sentries of one site that reach the same address do the same work twice: told, adopted only by name."""
    await watched(fleet, "10.0.0.5", MAC_A)
    await fleet.take_roster(ASIC2, False, [found("10.0.0.5", MAC_B)], [])
    assert doubles(fleet, "10.0.0.5") == ["address"]


async def test_removed_and_dismissed_stay_away(tmp_path: Path, clock: ManualClock) -> None:
    """A rule does not bring back what a person removed or sent away, at another address neither; they are listed when asked for."""
    async with ruled(tmp_path, clock, "all") as fleet:
        await fleet.take_roster(ASIC, False, [found("10.0.0.1", MAC_A), found("10.0.0.2")], [])
        (row,) = await fleet.devices()
        await fleet.take_roster(ASIC, False, [heard(row, MAC_A, "10.0.0.1")], [])
        await fleet.remove_device(PERSON, str(row.id))
        await fleet.dismiss(PERSON, ["10.0.0.2"])
        await fleet.take_roster(ASIC, False, [found("10.0.0.9", MAC_A), found("10.0.0.2")], ["found:10.0.0.1"])
        assert (await fleet.devices(), listed(fleet)) == ([], [])
        assert listed(fleet, dismissed=True) == ["10.0.0.2", "10.0.0.9"]
        await fleet.dismiss(PERSON, ["10.0.0.2"], back=True)
        assert listed(fleet) == ["10.0.0.2"]
        (again,) = await fleet.adopt(PERSON, [(MAC_A, "")])
        assert again.address == "10.0.0.9"


async def test_it_outlives_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    """With what was told and what was dismissed."""
    async with ruled(tmp_path, clock) as fleet:
        await fleet.take_roster(ASIC, False, [found("10.0.0.1", MAC_A), found("10.0.0.2", MAC_B)], [])
        await fleet.dismiss(PERSON, ["10.0.0.2"])
    async with fleet_at(tmp_path / "ruled.db", clock) as fleet:
        assert listed(fleet) == ["10.0.0.1"]
        await fleet.take_roster(ASIC, False, [found("10.0.0.1", MAC_A), found("10.0.0.2", MAC_B)], [])
        assert listed(fleet) == ["10.0.0.1"]
        assert (await kinds(fleet)).count("device_found") == 2


async def test_a_farm_of_the_version_before(tmp_path: Path, clock: ManualClock) -> None:
    """Its database opens, with what was in it, and takes what is found."""
    last = next(one.number for one in schema.FLEET if one.name == "found devices")
    db = await Database.open(tmp_path / "fleet.db", schema.FLEET[: last - 1])
    sentry = SentryRecord(ASIC, "asic", "hall-a", "approved", "aaaa bbbb", seen_ms=5)
    await db.write(lambda c: store.apply(c, store.Changes(sentries={ASIC: sentry})))
    await db.close()
    db = await Database.open(tmp_path / "fleet.db", schema.FLEET)
    try:
        fleet = await Fleet.open(db, clock, PlainVault())
        assert [one.name for one in await fleet.sentries()] == ["hall-a"]
        await fleet.take_roster(ASIC, False, [found("10.0.0.1", MAC_A)], [])
        assert listed(fleet) == ["10.0.0.1"]
    finally:
        await db.close()


async def test_hostile_entries(fleet: Fleet) -> None:
    """Kinds and names that do not belong together are passed over; an absurd port is no port."""
    await fleet.take_roster(
        ASIC,
        False,
        [
            replace(found("10.0.0.1"), kind="asic"),
            replace(found("10.0.0.2"), address="10.0.0.3"),
            replace(found(""), identity="found:"),
            found("10.0.0.4", MAC_A, facts={"http_port": "99999999"}),
        ],
        [],
    )
    assert listed(fleet) == ["10.0.0.4"]
    await fleet.adopt(PERSON, [("10.0.0.4", "")])
    assert (await fleet.assignment(ASIC)).targets[0].http_port == 0
