"""The SealMiner driver against the simulated device, on real sockets: reading, its page, orders, pools, what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.sealminer import Sealminer as Driver
from sentry_asic.makes.sealminer_parse import parse_pool_orders, parse_reading
from sentry_asic.order_rules import mines_on, sleeps
from sentry_asic.table import identify
from tests.sentry_asic.makes.looks import is_unreachable, until_restarted
from tests.simulators.sealminer import Sealminer

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))
SET = "POST /cgi-bin/set_miner_poolconf.php"


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Sealminer]:
    async with Sealminer() as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Sealminer) -> AsyncIterator[Driver]:
    made = Driver(Place(device.host, device.port, device.web.port))
    yield made
    await made.close()


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Sealminer, driver: Driver) -> None:
    """All by port 4028, in base units, without any log-in; a sensor of 0 is none."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (True, False, "normal", (), ())
    assert reading.hashrate_hs == pytest.approx(220e12)
    assert reading.expected_hashrate_hs == pytest.approx(230e12)
    assert (reading.power_w, reading.power_source, reading.power_limit_w, reading.voltage_v) == (3504, "miner", 3500, 246)
    assert reading.fans_rpm == (3720, 3750, 3780, 3810)
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.frequency_mhz) for b in reading.boards] == [
        (i, 70.0 + i, None, 153, 346) for i in range(3)
    ]
    assert (reading.temp_c, reading.rejected, reading.stale, reading.hw_errors) == (72, 3, 1, 54)
    assert reading.uptime_s is not None
    assert (reading.uptime_s >= 3600, reading.system_uptime_s) == (True, reading.uptime_s + 60)
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac, seen.serial) == ("sealminer", "A2", device.mac, device.serial)
    assert (seen.firmware, seen.facts["algorithm"]) == ("2025010101", "sha256")
    assert (device.web.asked, device.api.most_at_once) == ([], 1)


@pytest.mark.parametrize(("command", "name"), [("summary", "accepted"), ("pools", "pools")])
async def test_what_was_not_told_is_missing(device: Sealminer, driver: Driver, command: str, name: str) -> None:
    """One command fails: its value is None and named, the rest is read."""
    device.without = {command}
    reading = await driver.read(slow=True)
    assert reading.missing == (name,)
    assert getattr(reading, name) is None
    assert reading.mining is True


async def test_its_own_faults_become_conditions(device: Sealminer, driver: Driver) -> None:
    """A lost board, its power supply, bad chips; an error code alone is a note, for it stands on machines that are well."""
    device.stats = {"Error Code": "602, 0"}
    assert [(c.code, c.severity) for c in (await driver.read(slow=False)).conditions] == [("602", "info")]
    device.stats = {"1 Online": False, "PSU Error": "0x00000010", "Bad Chip Count": 2, "2 Bad Chip Count": 2, "Error Code": "701"}
    reading = await driver.read(slow=False)
    assert [(c.code, c.severity) for c in reading.conditions] == [
        ("boards_missing", "critical"),
        ("psu:0x00000010", "warning"),
        ("bad_chips", "warning"),
        ("701", "warning"),
    ]
    assert [board.chips for board in reading.boards] == [153, 0, 151]


def test_odd_values() -> None:
    """Nothing at all, wrong types, endless numbers of parts: bounded, None, named."""
    nothing = parse_reading({}, None, None)
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.power_w, nothing.mode) == (None, None, None, None, None)
    assert set(nothing.missing) == {
        "accepted", "pools", "hashrate_hs", "power_w", "uptime_s", "temp_c", "boards", "fans_rpm",
    }  # fmt: skip
    odd = parse_reading({"Board Count": 10**9, "Fan Count": "x", "PM State": 7, "MHS(30s)": "inf", "Liquid Cooling": True}, {}, ())
    assert (len(odd.boards), odd.fans_rpm, odd.hashrate_hs) == (16, (), None)
    assert "fans_rpm" not in odd.missing
    assert parse_pool_orders(["x"]) is None


async def test_identified_by_its_own_name(device: Sealminer) -> None:
    """Among all makes, and as no plain cgminer."""
    found = await identify(Place(device.host, device.port, device.web.port))
    assert found.make == "sealminer"
    await found.close()


# ---- orders ------------------------------------------------------------------------------------------------


async def test_capabilities_and_what_it_cannot(driver: Driver) -> None:
    """What it can, it says; what it cannot is NotSupported with what to do instead."""
    assert set(driver.capabilities) == {
        ActionKind.REBOOT,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
    }
    with pytest.raises(NotSupported) as caught:
        await driver.restart_mining()
    assert caught.value.hint


async def test_pause_really_stops_it(device: Sealminer, driver: Driver) -> None:
    """Asleep by its own word, no hash, nothing missing; awake again it hashes."""
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.hashrate_hs, reading.mode, reading.missing) == (0, "sleep", ())
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)


async def test_locate(driver: Driver) -> None:
    """On and off, and read back."""
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on


async def test_reboot_once_also_without_an_answer(device: Sealminer, driver: Driver) -> None:
    """One order, one restart; the uptime begins anew."""
    device.drop_reply = {"reboot"}
    await driver.reboot()
    assert device.reboots == 1
    await until_restarted(driver)
    assert device.web.orders("POST /cgi-bin/reboot.php") == ["POST /cgi-bin/reboot.php"]


async def test_set_pools_and_back(device: Sealminer, driver: Driver) -> None:
    """Exactly these with their passwords; it mines there; the old ones come back the same way; the same are not written."""
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    await driver.set_pools(before)
    await driver.set_pools(before)
    assert await driver.pools() == before
    assert len(device.web.orders(SET)) == 2


async def test_no_write_after_a_read_that_failed(device: Sealminer, driver: Driver) -> None:
    """Without its pools nothing is written; nor what makes no sense."""
    for without in ({"pools"}, {"get_miner_poolconf"}):
        device.without = without
        with pytest.raises(BadAnswer):
            await driver.set_pools(POOLS)
    with pytest.raises(BadInput):
        await driver.set_pools(POOLS * 2)
    assert device.web.orders(SET) == []


async def test_a_session_that_ended_costs_one_more_log_in(device: Sealminer, driver: Driver) -> None:
    """The page to log in comes instead of an answer: in again, once."""
    await driver.locating()
    await driver.pools()
    assert device.log_ins == 1
    device.cookie = "PHPSESSID=of-somebody-else"
    assert await driver.locating() is False
    assert device.log_ins == 2


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_refusals_are_told_apart(device: Sealminer, driver: Driver) -> None:
    """A wrong password (and reading needs none); an order that it will not; one that its firmware has not."""
    device.refuses = {"mining_setting"}
    with pytest.raises(Refused, match="not now"):
        await driver.pause()
    device.refuses, device.without = set(), {"mining_setting"}
    with pytest.raises(NotSupported):
        await driver.pause()
    other = Driver(Place(device.host, device.port, device.web.port, Credentials("seal", "hunter2")))
    for work in (other.pause(), other.pools(), other.set_pools(POOLS)):
        with pytest.raises(WrongPassword) as caught:
            await work
        assert "hunter2" not in str(caught.value)
    assert (await other.read(slow=True)).mining
    assert device.asleep is False
    await other.close()


async def test_dead_hung_and_strange_pools_are_told_apart(
    device: Sealminer, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining for somebody else; no pool alive; talking without end; a web page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, reading.asleep, [p.state for p in reading.pools]) == (False, False, ["dead"])
    device.api.faults.endless = device.web.faults.endless = True
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools]
    for look in looks:
        with pytest.raises(BadAnswer):
            await look()
    device.api.faults.endless = device.web.faults.endless = False
    device.api.faults.html = device.web.faults.html = True
    for look in looks:
        with pytest.raises(BadAnswer):
            await look()
    device.api.faults.html = device.web.faults.html = False
    monkeypatch.setattr("sentry_asic.makes.sealminer._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(Place(device.host, device.port, device.web.port))
    device.api.faults.hung = device.web.faults.hung = True
    for look in (lambda: slow.read(slow=True), slow.pause):
        with pytest.raises(TimedOut):
            await look()
    device.api.faults.hung = device.web.faults.hung = False
    await device.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot))
    await slow.close()
