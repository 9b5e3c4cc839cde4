"""The Hammer, BlackMiner and VolcMiner driver against simulated devices, on real sockets: reading, forms, what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.hammer import Hammer as Driver
from sentry_asic.makes.hammer_forms import parse_more
from sentry_asic.makes.hammer_parse import family_of, parse_stats, parse_status
from sentry_asic.order_rules import mines_on
from sentry_asic.table import identify
from tests.sentry_asic.makes.looks import is_unreachable, until_restarted
from tests.simulators.hammer import Hammer

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))


def place(device: Hammer, password: str = "") -> Place:
    return Place("127.0.0.1", device.api.port, device.web.port, Credentials("root", password) if password else None)


@pytest_asyncio.fixture(params=["hammer", "blackminer", "volcminer"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Hammer]:
    async with Hammer(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture(params=["blackminer", "volcminer"])
async def settable(request: pytest.FixtureRequest) -> AsyncIterator[Hammer]:
    """Those whose form is known."""
    async with Hammer(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def volcminer() -> AsyncIterator[Hammer]:
    async with Hammer("volcminer") as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver_of() -> AsyncIterator[Callable[[Hammer], Driver]]:
    made: list[Driver] = []

    def make(device: Hammer) -> Driver:
        made.append(Driver(place(device)))
        return made[-1]

    yield make
    for driver in made:
        await driver.close()


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Hammer) -> None:
    """Known by its type; rates by the unit of their key, boards, fans, shares of the pools; the MAC from its page."""
    driver = await identify(place(device))
    assert driver.make == "hammer"
    reading, seen, spec = await driver.read(slow=True), await driver.seen(), device.spec
    rate_hs = spec.rate * (1e9 if spec.unit == "GHS" else 1e6)
    assert (reading.mining, reading.booting, reading.missing, reading.conditions) == (True, False, (), ())
    assert reading.hashrate_hs == pytest.approx(rate_hs)
    assert sum(b.hashrate_hs or 0 for b in reading.boards) == pytest.approx(rate_hs, rel=1e-4)
    assert [(b.slot, b.chips, b.temp_c, b.frequency_mhz, b.hw_errors) for b in reading.boards] == [
        (i, spec.chips, 40 + i, 810, 7 * i) for i in range(1, spec.boards + 1)
    ]
    assert (reading.fans_rpm, reading.chip_temp_c, reading.power_w) == ((4530, 4560, 4590, 4620), None, None)
    assert (reading.rejected, reading.stale) == (3, 0)
    assert reading.accepted
    assert reading.repairs > 0, "it leaves out commas"
    assert (seen.make, seen.model, seen.mac, seen.facts["coin"]) == ("hammer", spec.kind, device.mac, device.conf["coin-type"])
    assert seen.facts.get("algorithm") == (None if device.family == "blackminer" else "scrypt")
    assert (ActionKind.LOCATE in driver.capabilities) == (device.family == "volcminer")
    assert (ActionKind.APPLY_FLIGHT_SHEET in driver.capabilities) == (device.family != "hammer")
    await driver.close()


async def test_starting_lost_boards_and_lost_pools(device: Hammer, driver_of: Callable[[Hammer], Driver]) -> None:
    """Only a header: starting. A board that vanishes is told where it is known how many there are. No pools: missing."""
    driver = driver_of(device)
    device.lost_boards, device.without = 1, {"pools"}
    reading = await driver.read(slow=True)
    assert (len(reading.boards), reading.pools, reading.missing) == (device.spec.boards - 1, None, ("pools",))
    assert [c.code for c in reading.conditions] == (["boards_missing"] if device.family == "hammer" else [])
    device.booting = True
    assert (await driver.read(slow=True)).booting is True


async def test_a_shut_port_4028_is_read_by_its_page() -> None:
    """A newer VolcMiner: known by its realm, "18,500.50" is MH/s whatever it is called, fans behind the frequency."""
    async with Hammer("volcminer", shut_api=True) as device:
        driver = await identify(place(device))
        assert driver.make == "hammer"
        reading, seen = await driver.read(slow=True), await driver.seen()
        assert (reading.mining, reading.missing) == (True, ())
        assert reading.hashrate_hs == pytest.approx(15.5e9)
        assert [(b.slot, b.chips, b.temp_c, b.frequency_mhz) for b in reading.boards] == [(i, 105, 40 + i, 810) for i in (1, 2, 3)]
        assert reading.fans_rpm == (4530, 4560, 4590, 4620)
        assert reading.accepted
        assert reading.accepted >= 36000
        assert (seen.model, seen.mac) == ("VolcMiner D1", device.mac)
        await device.kill_miner()
        down = await driver.read(slow=True)
        assert (down.mining, [c.code for c in down.conditions]) == (False, ["miner_down"])
        await driver.close()


def test_odd_values() -> None:
    """Nothing at all, wrong types, endless lists, "Socket connect failed" for a number: bounded, None, named."""
    assert parse_stats([], None).missing == ("hashrate_hs", "uptime_s", "fans_rpm", "boards")
    odd = parse_stats([{"Elapsed": "x", "MHS 5s": [1], "fan_num": 10**9, "chain_acn1": 5, "temp1": {}}], ())
    assert (odd.hashrate_hs, odd.fans_rpm, odd.boards[0].temp_c, odd.uptime_s) == (None, (), None, None)
    assert parse_stats([{"Elapsed": 1, "total": 5}], ()).hashrate_hs is None, "no unit, no rate"
    assert parse_status({}, "VolcMiner D1") is None
    dev = {"temp": [10**9, "x", 55, None], "freq": "x", "chain_acn": "1,050"}
    told = parse_status(
        {"summary": {"elapsed": "42", "ghs5s": "18,500.5"}, "devs": [dev] * 1000, "fan1": "Socket connect failed"}, "x y"
    )
    assert told is not None
    assert (told.hashrate_hs, told.uptime_s, len(told.boards), told.fans_rpm) == (None, 42, 16, ())
    assert (told.boards[0].temp_c, told.boards[0].chips, told.boards[0].frequency_mhz) == (55, 1050, None)
    assert [family_of(kind) for kind in ("Hammer D10", "VOLCMINER D1 Mini", "Antminer L7", "hammerhead", "")] == [
        "hammer", "volcminer", "", "", "",
    ]  # fmt: skip


# ---- orders ------------------------------------------------------------------------------------------------


async def test_what_it_cannot(device: Hammer, driver_of: Callable[[Hammer], Driver]) -> None:
    """NotSupported with what to do instead, and nothing is written."""
    driver = driver_of(device)
    works = [driver.restart_mining(), driver.pause(), driver.resume()]
    works += [driver.locate(True)] if device.family != "volcminer" else []
    works += [driver.set_pools(POOLS)] if device.family == "hammer" else []
    for work in works:
        with pytest.raises(NotSupported) as caught:
            await work
        assert caught.value.hint
    assert (device.forms, await driver.locating()) == ([], None)


async def test_a_volcminer_blinks(volcminer: Hammer, driver_of: Callable[[Hammer], Driver]) -> None:
    driver = driver_of(volcminer)
    for on in (True, False):
        await driver.locate(on)
        assert volcminer.blinking is on


@pytest.mark.parametrize("drop", [False, True])
async def test_reboot_once(device: Hammer, driver_of: Callable[[Hammer], Driver], drop: bool) -> None:
    """One order, one restart, also without an answer; the uptime begins anew."""
    driver = driver_of(device)
    device.drop_reply = {"reboot"} if drop else set()
    await driver.reboot()
    await until_restarted(driver)
    assert device.reboots == 1


async def test_set_pools_and_back(settable: Hammer, driver_of: Callable[[Hammer], Driver]) -> None:
    """All fields of its form in their order, with its own settings; the old ones come back; the same are not written."""
    driver, before = driver_of(settable), await driver_of(settable).pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    black = {"nobeeper": "false", "notempoverctrl": "false", "fan_customize_switch": "false", "fan_customize_value": ""}
    volc = {"nobeeper": "false", "notempoverctrl": "false", "fan_customize_switch": "true"}
    volc |= {"fan_customize_value_front": "60", "fan_customize_value_back": "70", "freq": "810", "coin_type": "ltc"}
    volc |= {"runmode": "0", "voltage_customize_value": "1260", "ema": "3", "debug": "false"}
    wanted = volc if settable.family == "volcminer" else black | {"freq": "810", "coin_type": "ckb"}
    assert list(settable.forms[0].items())[9:] == [(f"_bb_{name}", value) for name, value in wanted.items()]
    assert list(settable.forms[0])[:3] == ["_bb_pool1url", "_bb_pool1user", "_bb_pool1pw"]
    await driver.set_pools(before)
    await driver.set_pools(before)
    assert await driver.pools() == before
    assert len(settable.forms) == 2


async def test_no_write_when_its_settings_could_not_be_kept(settable: Hammer, driver_of: Callable[[Hammer], Driver]) -> None:
    """No configuration, one without a setting, one with more than the form carries, pools and characters that it cannot hold."""
    driver, conf = driver_of(settable), dict(settable.conf)
    for broken in (b"<html>", b'{"pools": 7}', b'{"freq": "1"}'):
        settable.broken = {"get_miner_conf": broken}
        with pytest.raises(BadAnswer):
            await driver.set_pools(POOLS)
    settable.broken = {}
    for change, fault in (({"coin-type": ""}, BadAnswer), ({"tuning": "1"}, Conflict), ({"freq": [1]}, Conflict)):
        settable.conf = conf | change
        with pytest.raises(fault):
            await driver.set_pools(POOLS)
    settable.conf = conf
    for pools in ((), POOLS * 2, (PoolOrder("stratum+tcp://p:1", 'a"b'),), (PoolOrder("a b", "u"),)):
        with pytest.raises(BadInput):
            await driver.set_pools(pools)
    assert settable.forms == []


@pytest.mark.parametrize(
    "more",
    [b"", b"<html>", b"{}", b'{"data":"{"runmode":"0"}"}', b'{"runmode":{},"voltage":"1"}', b"[" * 100, b" " * 70_000],
    ids=len,
)
async def test_no_write_without_all_of_a_volcminers_settings(
    volcminer: Hammer, driver_of: Callable[[Hammer], Driver], more: bytes
) -> None:
    """Run mode and voltage stand on a page of their own: what it does not show cannot be kept."""
    volcminer.broken = {"get_miner_confV1": more}
    with pytest.raises(BadAnswer):
        await driver_of(volcminer).set_pools(POOLS)
    volcminer.broken, volcminer.without = {}, {"get_miner_confV1"}
    with pytest.raises(NotSupported) as caught:
        await driver_of(volcminer).set_pools(POOLS)
    assert caught.value.hint
    assert volcminer.forms == []


def test_objects_in_quotes() -> None:
    """Bare or nested, with and without the outer object."""
    assert parse_more(b'{"runmode":"-1","voltage":1245}') == {"runmode": "-1", "voltage": "1245", "bb_debug_enable": "false"}
    told = (
        b'{"data" : "{"cfgs":"[ {"pools":[{"pass":"x"}]} ]" , "debug":"{"bb_debug_enable":true}","runmode":"2","voltage":"1260"}"}'
    )
    assert parse_more(told) == {"runmode": "2", "voltage": "1260", "bb_debug_enable": "true"}


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_wrong_password(device: Hammer) -> None:
    """Reading goes on by port 4028; identity and orders are WrongPassword; both factory passwords are tried, in no words."""
    device.password = "changed"
    driver = await identify(place(device))
    for work in (driver.seen(), driver.pools(), driver.set_pools(POOLS), driver.reboot()):
        with pytest.raises(WrongPassword) as caught:
            await work
        assert "ltc@dog" not in str(caught.value)
    assert (await driver.read(slow=True)).mining
    assert (device.forms, device.reboots) == ([], 0)
    await driver.close()
    other = Driver(place(device, "changed"))
    assert (await other.seen()).mac == device.mac
    await other.close()


async def test_dead_hung_and_strange_pools_are_told_apart(volcminer: Hammer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mining for somebody else; no pool alive; talking without end; a web page; silent; refused; another device."""
    driver = await identify(place(volcminer))
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    volcminer.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, [p.state for p in reading.pools]) == (False, ["dead"])
    await driver.pools()
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.pools]
    for fault in ("endless", "html"):
        setattr(volcminer.api.faults, fault, True)
        setattr(volcminer.web.faults, fault, True)
        for look in looks:
            with pytest.raises(BadAnswer):
                await look()
        setattr(volcminer.api.faults, fault, False)
        setattr(volcminer.web.faults, fault, False)
    volcminer.broken = {"get_system_info": b'{"minertype": "Antminer L7"}'}
    with pytest.raises(BadAnswer):
        await driver.seen()
    monkeypatch.setattr("sentry_asic.makes.hammer._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(place(volcminer))
    volcminer.api.faults.hung = volcminer.web.faults.hung = True
    for look in (lambda: slow.read(slow=True), slow.pools):
        with pytest.raises(TimedOut):
            await look()
    volcminer.api.faults.hung = volcminer.web.faults.hung = False
    await volcminer.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot))
    await driver.close()
    await slow.close()
