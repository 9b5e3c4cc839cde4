"""The plain cgminer against a simulated device: read, by the units that its keys state, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, NotFound, NotSupported, TimedOut, Unreachable
from garrison.model import PoolOrder
from sentry_asic.make import Place
from sentry_asic.makes.cgminer import Cgminer as Driver
from sentry_asic.makes.cgminer import rate_hs
from sentry_asic.order_rules import mines_on
from sentry_asic.table import identify
from tests.simulators.antminer import Antminer
from tests.simulators.cgminer import Cgminer


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Cgminer]:
    async with Cgminer() as simulated:
        yield simulated


def place(device: Cgminer) -> Place:
    return Place(device.host, device.port, device.port)  # its "web page" is the same port: it speaks no HTTP


@pytest.mark.parametrize("unit", ["K", "M", "G"])
async def test_rates_by_the_unit_of_their_key(unit: str) -> None:
    """The same device, told in KHS, MHS and GHS: the same H/s."""
    async with Cgminer(unit) as device:
        reading = await Driver(place(device)).read(slow=True)
    assert reading.hashrate_hs == pytest.approx(13e12)
    assert reading.hashrate_avg_hs == pytest.approx(12.87e12)
    assert [board.hashrate_hs for board in reading.boards] == pytest.approx([6.5e12] * 2)


@pytest.mark.parametrize(
    ("row", "rate"),
    [
        ({"MHS 5s": "1.5"}, 1.5e6),
        ({"GHS 1m": 2}, 2e9),
        ({"HS 5s": 7}, 7),
        ({"THS 5s": 1, "MHS av": 3}, 1e12),
        ({"HS RT": 5}, None),
        ({"MHS 5s": "inf"}, None),
        ({"MHS 5s": -1}, None),
        ({"rate_5s": 5}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_rate_without_a_stated_unit_is_none(row: dict[str, object], rate: float | None) -> None:
    """Only a unit in the key counts, and nothing is guessed from the size of a number."""
    assert rate_hs(row, ("5s", "1m")) == (None if rate is None else pytest.approx(rate))


async def test_what_it_tells_and_what_it_does_not(device: Cgminer) -> None:
    """Uptime, shares, boards, pools are told; power, the rate there should be, mode and sleep are not known, and not "missing"."""
    driver = Driver(place(device))
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.booting) == (True, None, None)
    assert reading.uptime_s is not None
    assert reading.uptime_s >= 3600
    assert (reading.rejected, reading.stale, reading.hw_errors, reading.temp_c) == (3, 1, 7, 62.0)
    assert (reading.power_w, reading.power_source, reading.expected_hashrate_hs, reading.mode) == (None,) * 4
    assert reading.pools is not None
    assert [(p.state, p.active) for p in reading.pools] == [("alive", True), ("dead", False)]
    assert reading.missing == ()
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.firmware, seen.mac) == ("cgminer", "Example Miner 13T", "CGMiner 4.11.1", "")


async def test_answers_that_fail_are_missing(device: Cgminer) -> None:
    """Without `pools` the look goes on and says so; without `version` it is a device without a name."""
    device.without = {"pools", "devs", "version", "stats"}
    driver = Driver(place(device))
    reading = await driver.read(slow=True)
    assert (reading.pools, reading.missing, reading.boards) == (None, ("pools",), ())
    assert (await driver.seen()).model == ""


async def test_it_takes_no_orders(device: Cgminer) -> None:
    """Everything is NotSupported with what to do instead, nothing is sent, and nothing is among the capabilities."""
    driver = Driver(place(device))
    assert driver.capabilities == ()
    orders = (
        driver.reboot(),
        driver.restart_mining(),
        driver.pause(),
        driver.resume(),
        driver.locate(True),
        driver.pools(),
        driver.set_pools((PoolOrder("stratum+tcp://p.invalid:1", "u"),)),
    )
    for order in orders:
        with pytest.raises(NotSupported) as caught:
            await order
        assert "web page" in caught.value.hint
    assert await driver.locating() is None
    assert device.api.asked == []


async def test_dead_hung_and_strange_pools_are_told_apart(device: Cgminer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused; silent; talking without end; mining for somebody else; no pool alive: five things."""
    monkeypatch.setattr("sentry_asic.makes.cgminer._ANSWER_S", 0.5)  # a limit, not behaviour
    driver = Driver(place(device))
    ours = (PoolOrder("stratum+tcp://ours.invalid:3333", "us"),)
    assert mines_on(await driver.read(slow=True), ours) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.hashrate_hs) == (False, 0)
    device.api.faults.endless = True
    with pytest.raises(BadAnswer):
        await driver.read(slow=True)
    device.api.faults.endless, device.api.faults.hung = False, True
    with pytest.raises(TimedOut):
        await driver.read(slow=True)
    device.api.faults.hung = False
    await device.api.shut()
    with pytest.raises(Unreachable) as caught:
        await driver.read(slow=True)
    assert not isinstance(caught.value, TimedOut)


async def test_it_is_asked_last_and_takes_no_other_makes_device(device: Cgminer) -> None:
    """It is found; a stock Antminer is not taken even when somebody says "cgminer"; what speaks no cgminer stays unknown."""
    assert (await identify(place(device))).make == "cgminer"
    async with Antminer() as other:
        driver = await identify(Place(other.host, other.api_port, other.http_port), "cgminer")
        assert driver.make == "antminer"
        await driver.close()
    device.without = {"summary"}
    with pytest.raises(NotFound, match="no device we know"):
        await identify(place(device))
    device.without = set()
    device.api.faults.html = True
    with pytest.raises(NotFound, match="no device we know"):
        await identify(place(device))


@pytest.mark.parametrize(
    "version",
    [
        {"Type": "Antminer S19", "BMMiner": "2.0.0"},
        {"LUXminer": "2025.1", "Type": "Antminer S19"},
        {"PROD": "AvalonMiner 1246", "CGMiner": "4.11.1"},
    ],
)
async def test_a_make_with_a_driver_that_stumbled_is_not_taken(version: dict[str, object], device: Cgminer) -> None:
    """It would be watched from then on without its orders: better unknown for a moment."""
    from sentry_asic.makes.cgminer import fingerprint

    device.version = version
    driver, what = await fingerprint(place(device))
    assert driver is None
    assert "try again" in what
