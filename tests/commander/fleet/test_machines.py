"""Two machines with one identity, as the fleet keeps and shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from commander import schema
from commander.db import Database
from commander.fleet import store
from commander.fleet.records import MachineRecord, SentryRecord
from commander.fleet.service import Fleet
from garrison.clock import ManualClock
from garrison.faults import NotFound
from garrison.model import Device, Event
from garrison.spans import Spans
from garrison.words import DeviceState
from tests.commander.fleet.conftest import ASIC, RIG, PlainVault, fleet_at

BOOT = b"b" * 16
MACHINES = (
    MachineRecord(b"a" * 16, "main", "10.0.0.5:1"),
    MachineRecord(b"c" * 16, "gone", "10.0.0.7:1"),
    MachineRecord(b"b" * 16, "twin", "10.0.0.6:1", met=True, told_ms=7),
)
TWIN = f"{RIG}#6262626262626262"


async def test_kept(fleet: Fleet, tmp_path: Path, clock: ManualClock) -> None:
    """In their order, over a restart; each write replaces what was there. Of a sentry that nobody knows: refused."""
    await fleet.keep_machines(RIG, MACHINES[:1])
    await fleet.keep_machines(RIG, MACHINES)
    await fleet.keep_machines(ASIC, MACHINES[:1])
    with pytest.raises(NotFound):
        await fleet.keep_machines("nobody", MACHINES)
    async with fleet_at(tmp_path / "fleet.db", clock) as again:
        found = await again.machines()
    assert found == {RIG: MACHINES, ASIC: MACHINES[:1]}
    assert [one.address for one in found[RIG]] == ["10.0.0.5:1", "10.0.0.7:1", "10.0.0.6:1"]


async def test_shown(fleet: Fleet) -> None:
    """Where the second one calls from, as long as there is one."""
    assert (await fleet.sentry(RIG)).twin == ""
    fleet.mark_twin(RIG, "10.0.0.6:1")
    assert {one.id: one.twin for one in await fleet.sentries() if one.twin} == {RIG: "10.0.0.6:1"}
    fleet.mark_twin(RIG, "")
    assert (await fleet.sentry(RIG)).twin == ""


async def test_a_twins_events(fleet: Fleet) -> None:
    """The same number from both is two events of this sentry; the twin's is not of the device that we know by that name."""
    await fleet.take_roster(RIG, True, [Device("machine:1", "rig", DeviceState.MINING)], [])
    event = Event(fleet.clock.now_ms(), "gpu_lost", "a card", "machine:1", "critical")
    for _ in range(2):
        await fleet.take_event(RIG, BOOT, 3, event)
        await fleet.take_event(RIG, BOOT, 3, event, twin=TWIN)
    found = await fleet.events(sentry_id=RIG, kinds=["gpu_lost"])
    assert sorted(one.device_id is None for one in found) == [False, True]
    assert await fleet.records_durable(RIG, [(BOOT, 1, 9)]) == {BOOT: Spans([(3, 3)])}
    assert await fleet.records_durable(TWIN, [(BOOT, 1, 9)]) == {BOOT: Spans([(3, 3)])}


async def test_a_farm_of_the_version_before(tmp_path: Path, clock: ManualClock) -> None:
    """Its database opens, with what was in it, and takes machines."""
    before = await Database.open(tmp_path / "fleet.db", schema.FLEET[:5])
    record = SentryRecord(RIG, "rig", "rig-1", "approved", "aaaa bbbb", seen_ms=5)
    await before.write(lambda c: store.apply(c, store.Changes(sentries={RIG: record})))
    await before.close()
    db = await Database.open(tmp_path / "fleet.db", schema.FLEET)
    try:
        fleet = await Fleet.open(db, clock, PlainVault())
        assert fleet.sentry_record(RIG) == record
        assert await fleet.machines() == {}
        await fleet.keep_machines(RIG, MACHINES)
        assert await fleet.machines() == {RIG: MACHINES}
    finally:
        await db.close()
