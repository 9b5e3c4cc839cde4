"""From a look to values and roster entry: pure, so tables of cases."""

from __future__ import annotations

from dataclasses import replace

from garrison.catalogue import METRICS
from garrison.faults import TimedOut
from garrison.model import Condition, Pool, Target
from garrison.words import ActionKind, DeviceState
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.readings import device_of, identity_of, merged, news, values_of, values_of_failure, with_slow

TARGET = Target("7", "10.0.0.7:4028", name="miner 7", simulated=True)
SEEN = Seen("antminer", "S19", "1.0", "aa:bb:cc:dd:ee:ff", "SN1")
POOLS = (Pool("stratum+tcp://p:1", "me", "alive", accepted=5, rejected=0),)
READING = Reading(
    mining=True, hashrate_hs=1.5e12, power_w=1200.04, power_source="miner", fans_rpm=(4000, 0), pools=POOLS,
    boards=(BoardReading(6, hashrate_hs=1e12, temp_c=61.26, chips=63),),
)  # fmt: skip


def test_identity() -> None:
    """MAC, else serial, else the target: never the address."""
    assert identity_of(SEEN, TARGET) == "mac:aa:bb:cc:dd:ee:ff"
    assert identity_of(replace(SEEN, mac=""), TARGET) == "serial:antminer:SN1"
    assert identity_of(replace(SEEN, mac="", serial=""), TARGET) == identity_of(None, TARGET) == "target:7"


def test_values_are_what_was_read_and_nothing_else() -> None:
    """Every series is in the catalogue, quantised; what is not known is absent; a fan that stands still is 0."""
    values = values_of(READING, DeviceState.MINING, 120, 3)
    assert {name for name, _ in values} <= METRICS.keys()
    assert values["temp_c", "board:6"] == 61.3
    assert values["power_w", ""] == 1200.0
    assert values["power_source", ""] == 2
    assert (values["fan_rpm", "fan:1"], values["fan_rpm", "fan:2"]) == (4000, 0)
    assert (values["accepted", "pool:0"], values["repairs", ""], values["look_ms", ""]) == (5, 3, 120)
    for absent in (("uptime_s", ""), ("stale", "pool:0"), ("expected_hashrate_hs", ""), ("chip_temp_c", "board:6")):
        assert absent not in values


def test_a_failed_look_has_no_other_values() -> None:
    """Only that it failed, how long it took, and the state."""
    assert values_of_failure(DeviceState.SLOW, 9) == {("look_ok", ""): 0, ("look_ms", ""): 9, ("state", ""): 7}


def test_a_device_that_claims_a_thousand_boards_is_not_believed() -> None:
    """The number of series that a device can make is bounded."""
    wild = Reading(boards=tuple(BoardReading(i, chips=1) for i in range(1000)), fans_rpm=(1,) * 1000, pools=POOLS * 1000)
    assert len(values_of(wild, DeviceState.IDLE, 1, 0)) < 150


def test_what_a_slow_look_said_holds() -> None:
    """Its faults, mode and sleep stay until the next one; what each look finds anew does not."""
    slow = Reading(
        mode="sleep", asleep=True, conditions=(Condition("temp:1", "hot", "critical"), Condition("fans_missing", "", "critical"))
    )
    fast = with_slow(Reading(mining=False), slow)
    assert [c.code for c in fast.conditions] == ["temp:1"]
    assert (fast.mode, fast.asleep) == ("sleep", True)
    assert not with_slow(Reading(mining=True), slow).asleep
    assert not with_slow(Reading(mining=False, booting=True), slow).asleep
    assert with_slow(READING, None) is READING
    assert len(merged(slow.conditions, slow.conditions)) == 2


def test_roster_entry() -> None:
    """The last good look, and the fault of the last one; news are not shares or time."""
    kinds = (ActionKind.REBOOT,)
    device = device_of(TARGET, "mac:x", SEEN, READING, DeviceState.SLOW, TimedOut("silence"), 5, kinds, "sheet")
    assert (device.make, device.model, device.target, device.simulated) == ("antminer", "S19", "7", True)
    assert (device.fault, device.fault_text, device.seen_ms, device.sheet_id) == ("timed_out", "silence", 5, "sheet")
    assert device.components == ("board:6=board 6",)
    later = replace(device, seen_ms=99, pools=(replace(POOLS[0], accepted=6),))
    assert not news(device, later)
    assert news(None, device)
    assert news(device, replace(device, state=DeviceState.MINING))
