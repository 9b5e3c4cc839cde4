"""The Innosilicon driver against the simulated device, on real sockets: units, a token that expires, orders, pools, faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, NotFound, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.innosilicon import Innosilicon as Driver
from sentry_asic.makes.innosilicon_parse import parse_pool_orders, parse_reading
from sentry_asic.order_rules import mines_on, restarted
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.sentry_asic.makes.looks import is_unreachable, until_restarted
from tests.simulators.innosilicon import Innosilicon

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))
SET, RESTART = "POST /api/updatePools", "POST /api/restartCgMiner"


@pytest_asyncio.fixture(params=["T3", "T1"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Innosilicon]:
    async with Innosilicon(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Innosilicon) -> AsyncIterator[Driver]:
    made = Driver(place(device))
    yield made
    await made.close()


def place(device: Innosilicon, credentials: Credentials | None = None) -> Place:
    return Place(device.host, closed_port(), device.port, credentials)


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Innosilicon, driver: Driver) -> None:
    """Each rate by its stated unit, a fan in percent, power where the firmware has it; one log-in, with either factory's."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.missing, reading.conditions) == (True, None, (), ())
    assert reading.hashrate_hs == pytest.approx(43e12)
    assert (reading.power_w, reading.power_source) == ((2100, "miner") if device.kind == "T3" else (None, None))
    assert (reading.fan_pct, reading.fans_rpm, reading.temp_c) == (60, (), 68)
    assert reading.uptime_s in range(3600, 3610)
    assert (reading.accepted, reading.rejected, reading.hw_errors) == (1350, 3, 12)
    assert [(b.slot, b.temp_c, b.chip_temp_c) for b in reading.boards] == [(i, 66.0 + i, None) for i in range(3)]
    assert reading.pools is not None
    assert [(p.url, p.user, p.state, p.active) for p in reading.pools] == [
        ("stratum+tcp://pool.invalid:3333", "factory.worker", "alive", True)
    ]
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac) == ("innosilicon", device.kind, device.mac.lower())
    assert (seen.firmware, seen.facts["algorithm"]) == ("t3_20200101_000000", "sha256")
    assert (device.log_ins, device.web.most_at_once) == (1, 1)


async def test_other_algorithms_by_their_stated_unit(device: Innosilicon) -> None:
    """An A9 counts kSol/s. One that states no unit has no rate: cgminer's MHS is not believed of it."""
    device.kind, device.unit, device.scale, device.rate_hs = "A9", "KSol/s", 1e3, 50e3
    device.password = "admin"
    driver = Driver(place(device))
    reading = await driver.read(slow=True)
    assert reading.hashrate_hs == pytest.approx(50e3)
    assert (reading.missing, "algorithm" in (await driver.seen()).facts) == ((), False)
    device.unit = "parsecs"
    told = device.summary()
    for row in told["DEVS"]:
        row.pop("Hash Rate H")
    reading = parse_reading(told, bitcoin=False)
    assert (reading.hashrate_hs, reading.mining, reading.missing) == (None, None, ("hashrate_hs",))
    await driver.close()


async def test_its_miner_is_down(device: Innosilicon, driver: Driver) -> None:
    """Its web server answers and its miner does not: not mining, not offline."""
    device.miner_down = True
    reading = await driver.read(slow=True)
    assert (reading.mining, [(c.code, c.severity) for c in reading.conditions]) == (False, [("miner_down", "critical")])


async def test_its_own_errors_become_conditions(device: Innosilicon, driver: Driver) -> None:
    """Where the firmware has them: its code, with its words."""
    device.error = ("21", "board 1 is lost")
    reading = await driver.read(slow=True)
    assert [(c.code, c.text) for c in reading.conditions] == ([] if device.kind == "T1" else [("21", "board 1 is lost")])


async def test_what_the_firmware_has_not_is_not_asked_again(device: Innosilicon, driver: Driver) -> None:
    """One question about all, or none."""
    await driver.read(slow=False)
    device.web.asked.clear()
    await driver.read(slow=False)
    assert device.web.asked == ["POST /api/summary", *(["POST /api/getAll"] if device.kind == "T3" else [])]


def test_odd_values() -> None:
    """Nothing, wrong types, more boards than there are; pools in the form of the oldest firmware."""
    nothing = parse_reading({"success": True}, bitcoin=True)
    assert (nothing.mining, nothing.hashrate_hs, nothing.pools, nothing.power_w, nothing.fan_pct) == (None, None, None, None, None)
    assert set(nothing.missing) == {"hashrate_hs", "uptime_s", "accepted", "pools", "temp_c", "boards"}
    odd = parse_reading({"DEVS": [{"Hash Rate": [], "Temperature": 0, "Accepted": -1}] * 99, "POOLS": ["x"]}, bitcoin=False)
    assert (len(odd.boards), odd.boards[0].temp_c, odd.accepted, odd.pools) == (16, None, None, ())
    oldest = {"pools": {"Pool1": "stratum+tcp://a.invalid:1", "UserName1": "u", "Password1": "p", "Pool2": ""}}
    assert parse_pool_orders(oldest) == (PoolOrder("stratum+tcp://a.invalid:1", "u", "p"),)
    assert parse_pool_orders({"pools": "x"}) is None


# ---- who is it ---------------------------------------------------------------------------------------------


async def test_found_by_the_title_of_its_page(device: Innosilicon) -> None:
    """Nothing on 4028. Another page is nobody's, and is sent no password."""
    found = await identify(place(device))
    assert found.make == "innosilicon"
    await found.close()
    device.title = "AsicMiner tips and DragonMint reviews"
    device.web.asked.clear()
    with pytest.raises(NotFound, match="no device we know"):
        await identify(place(device))
    assert device.web.orders("POST /api/auth") == []


# ---- orders ------------------------------------------------------------------------------------------------


async def test_capabilities_and_what_it_cannot(driver: Driver) -> None:
    """What it can, it says; what it cannot is NotSupported with what to do instead; whether it blinks it does not tell."""
    assert set(driver.capabilities) == {ActionKind.REBOOT, ActionKind.RESTART_MINING, ActionKind.APPLY_FLIGHT_SHEET}
    for work in (driver.pause(), driver.resume(), driver.locate(True)):
        with pytest.raises(NotSupported) as caught:
            await work
        assert caught.value.hint
    assert await driver.locating() is None


async def test_restart_and_reboot_once(device: Innosilicon, driver: Driver) -> None:
    """One order, one restart, also when the connection dies instead of answering; the uptime begins anew."""
    await driver.restart_mining()
    assert (device.restarts, device.reboots) == (1, 0)
    assert restarted(await driver.read(slow=False), since_order_s=1, was_away=False)
    device.drop_reply = {"reboot"}
    await driver.reboot()
    assert device.reboots == 1
    await until_restarted(driver)
    assert device.reboots == 1


async def test_set_pools_and_back(device: Innosilicon, driver: Driver) -> None:
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


async def test_no_write_after_a_read_that_failed(device: Innosilicon, driver: Driver) -> None:
    """Without its pools nothing is written; nor what it would drop without a word."""
    device.without = {"pools"}
    with pytest.raises(BadAnswer):
        await driver.set_pools(POOLS)
    device.without = set()
    for pools in (POOLS * 2, (PoolOrder("stratum+tcp://a.invalid:1", "u", ""),), (PoolOrder("stratum+tcp://a.invalid:1", ""),)):
        with pytest.raises(BadInput):
            await driver.set_pools(pools)
    assert device.web.orders(SET) == []


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_a_token_that_expired_costs_one_more_log_in(device: Innosilicon, driver: Driver) -> None:
    """It is said with HTTP 200: in again, once, and the look succeeds; an order has a fresh one."""
    await driver.read(slow=False)
    device.token = "a-newer-one"
    assert (await driver.read(slow=False)).mining
    assert device.log_ins == 2
    device.token = "a-newer-one"
    await driver.restart_mining()
    assert device.web.orders(RESTART) == [RESTART]


async def test_a_wrong_password_is_told(device: Innosilicon) -> None:
    """For everything; nothing is done, the password is in no message, and the factory's is not tried where one is given."""
    driver = Driver(place(device, Credentials("admin", "hunter2")))
    works: list[Callable[[], Awaitable[object]]] = [
        lambda: driver.read(slow=True), driver.seen, driver.pools, driver.reboot, lambda: driver.set_pools(POOLS)
    ]  # fmt: skip
    for work in works:
        with pytest.raises(WrongPassword) as caught:
            await work()
        assert "hunter2" not in str(caught.value)
    assert (device.log_ins, device.reboots, device.web.orders(SET)) == (0, 0, [])
    await driver.close()


async def test_an_order_that_it_will_not_do_is_refused(device: Innosilicon, driver: Driver) -> None:
    """With the device's own words."""
    device.refuses = True
    for work in (driver.reboot(), driver.restart_mining(), driver.set_pools(POOLS)):
        with pytest.raises(Refused, match="not now"):
            await work
    assert (device.reboots, device.restarts) == (0, 0)


async def test_dead_hung_and_strange_pools_are_told_apart(
    device: Innosilicon, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining for somebody else; no pool alive; talking without end; another's page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, [p.state for p in reading.pools]) == (False, ["dead"])
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools, driver.reboot]
    for fault in ("endless", "html"):
        setattr(device.web.faults, fault, True)
        for look in looks:
            with pytest.raises(BadAnswer):
                await look()
        setattr(device.web.faults, fault, False)
    monkeypatch.setattr("sentry_asic.makes.innosilicon._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(place(device))
    device.web.faults.hung = True
    for look in (lambda: slow.read(slow=True), slow.reboot):
        with pytest.raises(TimedOut):
            await look()
    device.web.faults.hung = False
    await device.power(False)
    await is_unreachable(looks)
    await slow.close()
