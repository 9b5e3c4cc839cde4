"""Mains through a relay: a hung ASIC comes back; a refusal names its rule; a relay that lies is found out; whoever is killed
in the middle of a cycle, the contact clicks off once and on once, and ends on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.hall import BOARD, Hall, furnish, hall_of
from tests.e2e.processes import BIN, Farm, farm_at, until

pytestmark = pytest.mark.timeout(300)
OFF_ON = [False, True]
HUNG, COMMANDER, SENTRY, LIAR, SPARE, LATE = range(1, 7)
"""A miner for each test: one device is cut at most once in a while."""


@pytest.fixture(scope="module")
def hall() -> Iterator[Hall]:
    with hall_of("modern", "modern", "old", "modern", "old", "modern") as hall:
        yield hall


@pytest.fixture(scope="module")
def farm(hall: Hall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farm_at(tmp_path_factory.mktemp("power")) as farm:
        furnish(farm, hall)
        hall.miners[HUNG - 1].hang()  # here already, because it takes a while until a silent device counts as such
        yield farm


def outlet(farm: Farm, number: int) -> dict[str, Any]:
    (row,) = [row for row in farm.get(f"/relays/{BOARD}")["outlets_mapped"] if row["outlet"] == str(number)]
    return dict(row)


def begin_cycle(farm: Farm, hall: Hall, number: int) -> str:
    """Orders it without waiting, and returns its id when the contact is open."""
    told = json.loads(farm.ask("commander", "power", "cycle", f"miner-{number}", "--wait", "0", "--json"))
    (row,) = told["actions"]
    until("the contact opens", lambda: hall.clicks(number) == [False])
    return str(row["id"])


def test_off_is_shown_and_a_short_dip_refused(farm: Farm, hall: Hall) -> None:
    """A person switches off: the device is shown `off`, not silent, and it may not be switched on again at once."""
    cut(farm, hall, LATE)
    until("it is shown off", lambda: farm.device(f"miner-{LATE}")["state"] == "off")


def test_relay_that_takes_the_command_and_does_not_switch(farm: Farm, hall: Hall) -> None:
    """The board says yes and its contact is stuck: the order fails as "did not switch", nothing is shown as off, and the
    device mines on."""
    hall.board.mode = "stuck"
    try:
        order = farm.ordered("power", "off", f"miner-{LIAR}")
    finally:
        hall.board.mode = "ok"
    assert order["state"] == "failed", order
    assert order["fault"] == "did_not_switch"
    assert order["result"]["outcome"] == "did not switch"
    assert hall.clicks(LIAR) == []
    assert hall.commands(LIAR) == [False], "it was told more than once"
    farm.until_device(f"miner-{LIAR}", "mining", "starting")
    assert outlet(farm, LIAR)["state"] == "on"


def test_hung_asic_comes_back(farm: Farm, hall: Hall) -> None:
    """It accepts connections and says nothing: slow, then unreachable, never shown as mining. A power cycle: the contact
    clicks off once and on once, at least 10 s apart, nobody switches twice, it mines again, and the order says "back"."""
    before = len(hall.board.clicks)
    row = farm.until_device(f"miner-{HUNG}", "slow", "unreachable")
    assert row["hashrate_hs"] is None, "what a silent device did before is shown as if it were now"
    check = farm.json("power", "check", f"miner-{HUNG}")
    assert check["allowed"], check
    assert check["off_s"] == 10

    order = farm.ordered("power", "cycle", f"miner-{HUNG}")
    assert order["state"] == "succeeded", order
    assert order["result"]["outcome"] == "back"
    assert hall.clicks(HUNG) == OFF_ON
    assert hall.commands(HUNG) == OFF_ON
    off, on = (click.at_ms for click in hall.board.clicks if click.outlet == HUNG)
    assert on - off >= 10_000
    assert hall.miners[HUNG - 1].state in ("booting", "mining")
    farm.until_device(f"miner-{HUNG}", "mining", "starting")
    until("the outlet is shown on", lambda: outlet(farm, HUNG)["state"] == "on")
    assert {click.outlet for click in hall.board.clicks[before:]} == {HUNG}, "another outlet was switched"


def test_refusals_name_their_rule(farm: Farm, hall: Hall) -> None:
    """Unmapped, protected, too short a time off: each is refused by name, and no contact moves. `check`
    says the same beforehand."""
    clicks = len(hall.board.clicks)
    device = f"miner-{SPARE}"
    farm.ask("commander", "relays", "unmap", BOARD, str(SPARE))
    assert "unmapped" in farm.refused("commander", "power", "cycle", device)
    assert [one["rule"] for one in farm.json("power", "check", device)["refusals"]] == ["unmapped"]

    farm.ask("commander", "relays", "map", BOARD, str(SPARE), device, "--protected")
    for verb in ("cycle", "off"):
        assert "protected" in farm.refused("commander", "power", verb, device)
    farm.ask("commander", "relays", "map", BOARD, str(SPARE), device, "--circuit", f"circuit-{SPARE}")
    assert "off_time" in farm.refused("commander", "power", "cycle", device, "--off-s", "9")
    assert farm.json("power", "check", device)["allowed"]
    assert len(hall.board.clicks) == clicks


def test_on_again_and_too_soon_for_a_cycle(farm: Farm, hall: Hall) -> None:
    """After its time off it may be switched on, and mines. A cycle within the interval is refused by the rule min_interval."""
    device = f"miner-{LATE}"
    cut(farm, hall, LATE)
    until("it may be switched on", lambda: farm.run("commander", "power", "on", device).returncode == 0)
    assert hall.clicks(LATE) == OFF_ON
    assert "min_interval" in farm.refused("commander", "power", "cycle", device)
    assert "min_interval" in [one["rule"] for one in farm.json("power", "check", device)["refusals"]]
    farm.until_device(device, "mining", "starting")
    assert hall.clicks(LATE) == OFF_ON


def cut(farm: Farm, hall: Hall, number: int) -> None:
    """Switched off by a person, if it was not yet; on again at once is refused."""
    if not hall.clicks(number):
        off = farm.ordered("power", "off", f"miner-{number}")
        assert off["state"] == "succeeded", off
        early = farm.refused("commander", "power", "on", f"miner-{number}")
        assert "10 s" in early, early


def test_commander_killed_in_the_middle_of_a_cycle(farm: Farm, hall: Hall) -> None:
    """Kill -9 of the commander while mains is off: power comes back without it; started again it gets the result of the
    order, and does not order it anew: one click off, one click on."""
    order = begin_cycle(farm, hall, COMMANDER)
    farm.until_order(order, "started", "verifying")
    farm.kill("commander")
    until("power is back without a commander", lambda: hall.clicks(COMMANDER) == OFF_ON)
    farm.start_commander()
    row = farm.until_order(order)
    assert row["state"] == "succeeded", row
    assert row["result"]["outcome"] == "back"
    farm.until_device(f"miner-{COMMANDER}", "mining", "starting")
    assert hall.clicks(COMMANDER) == OFF_ON
    assert hall.commands(COMMANDER) == OFF_ON
    assert "min_interval" in farm.refused("commander", "power", "cycle", f"miner-{COMMANDER}"), "the cut was forgotten"


def test_sentry_killed_between_off_and_on(farm: Farm, hall: Hall) -> None:
    """Kill -9 of the sentry while mains is off, and it stays away past the time due: started again it brings power back by
    itself, never switches off a second time, and says that it cannot tell how the order went."""
    order = begin_cycle(farm, hall, SENTRY)
    farm.kill("sentry-asic")
    opened_ms = next(click.at_ms for click in hall.board.clicks if click.outlet == SENTRY)
    assert hall.clicks(SENTRY) == [False]
    farm.start("sentry-asic", [BIN / "sentry-asic", "run"])
    until("power is back", lambda: hall.clicks(SENTRY) == OFF_ON)
    closed_ms = [click.at_ms for click in hall.board.clicks if click.outlet == SENTRY][-1]
    assert closed_ms - opened_ms >= 9_900, "it came back too soon for its supply"
    row = farm.until_order(order)
    assert row["state"] == "unknown", row
    farm.until_device(f"miner-{SENTRY}", "mining", "starting")
    until("the outlet reads on", lambda: outlet(farm, SENTRY)["state"] == "on")
    events = farm.get("/events", kind="power_restored")["events"]
    assert [one["device_id"] for one in events] == [farm.device(f"miner-{SENTRY}")["id"]]
    assert hall.clicks(SENTRY) == OFF_ON
    assert hall.commands(SENTRY) == OFF_ON
