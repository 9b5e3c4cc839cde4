"""Switching the coin of ASICs, old and modern: pools are set after a good read, and believed after a later one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.hall import Hall, furnish, hall_of
from tests.e2e.processes import Farm, farm_at, until

pytestmark = pytest.mark.timeout(300)
KINDS = ("modern", "old")
NUMBERS = (1, 2)
POOLS = ["stratum+tcp://one.btc.invalid:3333", "stratum+tcp://one2.btc.invalid:3333"]
FACTORY = "stratum+tcp://pool.invalid:3333"


def sheet(farm: Farm, name: str, within_s: int, *hosts: str) -> None:
    what = ["--coin", "BTC", "--algorithm", "sha256", "--wallet", "account-1", "--verify-within-s", str(within_s)]
    pools = [word for host in hosts for word in ("--pool", f"stratum+tcp://{host}:3333")]
    farm.ask("commander", "sheets", "create", name, *what, *pools)


@pytest.fixture(scope="module")
def hall() -> Iterator[Hall]:
    with hall_of(*KINDS) as hall:
        yield hall


@pytest.fixture(scope="module")
def farm(hall: Hall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farm_at(tmp_path_factory.mktemp("asic")) as farm:
        furnish(farm, hall, board=False)
        sheet(farm, "one", 60, "one.btc.invalid", "one2.btc.invalid")
        sheet(farm, "three", 5, "three.btc.invalid")
        sheet(farm, "dead", 5, "dead.btc.invalid")
        yield farm


def test_coin_switch_and_a_dead_pool(farm: Farm, hall: Hall) -> None:
    """Applied to both at once: each device's own configuration holds the pools in their order, it mines there, and the order
    says so after reading it. Applied again: not a byte is written. A dead pool: each gets back the pools it had before."""
    names = [f"miner-{number}" for number in NUMBERS]
    assert all(farm.until_device(name, "mining", "starting")["simulated"] for name in names)
    assert [hall.conf_pools(number) for number in NUMBERS] == [[FACTORY], [FACTORY]]

    first = farm.all_ordered("sheets", "apply", "one", *names)
    for row, name, miner in zip(first, names, hall.miners, strict=True):
        assert (row["device"], row["state"]) == (name, "succeeded"), row
        assert "one.btc.invalid:3333" in row["text"]
        assert "verifying" in [report["state"] for report in row["reports"]]
        assert [pool["user"] for pool in miner.conf["pools"][:2]] == [f"account-1.{name}"] * 2
    assert [hall.conf_pools(number) for number in NUMBERS] == [POOLS, POOLS]
    for name in names:
        until("the fleet shows the new pools", lambda name=name: "one.btc" in farm.get(f"/devices/{name}")["pools"][0]["url"])

    writes = [len(miner.writes) for miner in hall.miners]
    for row in farm.all_ordered("sheets", "apply", "one", *names):
        assert row["state"] == "succeeded", row
        assert row["result"]["changed"] == "false"
    assert [len(miner.writes) for miner in hall.miners] == writes

    for row in farm.all_ordered("sheets", "apply", "dead", *names):
        assert row["state"] == "failed", row
        assert row["result"]["rolled_back"] == first[0]["arguments"]["sheet"]["id"]
        assert "went back" in row["text"]
    assert [hall.conf_pools(number) for number in NUMBERS] == [POOLS, POOLS]
    for name in names:
        farm.until_device(name, "mining", "starting")


def test_a_device_that_says_yes_and_does_nothing(farm: Farm, hall: Hall) -> None:
    """M000 and nothing changed is a failure: what a later read shows counts, not what the call returned."""
    before = hall.conf_pools(1)
    hall.miners[0].faults.ignore_orders = True
    try:
        row = farm.ordered("sheets", "apply", "three", "miner-1")
    finally:
        hall.miners[0].faults.ignore_orders = False
    assert row["state"] == "failed", row
    assert hall.conf_pools(1) == before


def test_wrong_password_fails_the_order_alone(farm: Farm, hall: Hall) -> None:
    """The password was changed by hand: an order fails with that fault and writes nothing; the device is still read and mines."""
    hall.miners[0].password = "changed-by-hand"
    writes = len(hall.miners[0].writes)
    try:
        row = farm.ordered("sheets", "apply", "three", "miner-1")
        assert row["state"] in ("failed", "refused"), row
        assert row["fault"] == "wrong_password"
        assert len(hall.miners[0].writes) == writes
        farm.until_device("miner-1", "mining", "starting")
    finally:
        hall.miners[0].password = "root"
