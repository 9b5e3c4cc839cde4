"""The Elphapex driver against the simulated device, on real sockets: reading, its three doors, orders, pools, what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.elphapex import Elphapex as Driver
from sentry_asic.makes.elphapex import fingerprint
from sentry_asic.makes.elphapex_parse import parse_reading
from sentry_asic.order_rules import mines_on, sleeps
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.sentry_asic.makes.looks import is_unreachable, until_restarted
from tests.simulators.elphapex import Elphapex

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))


def place(device: Elphapex, credentials: Credentials | None = None) -> Place:
    return Place(device.web.host, closed_port(), device.web.port, credentials)


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Elphapex]:
    async with Elphapex() as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Elphapex) -> AsyncIterator[Driver]:
    made = Driver(place(device))
    yield made
    await made.close()


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Elphapex, driver: Driver) -> None:
    """MH/s as stated, chips in thousandths of a degree; what is the same on every board is not believed."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (True, False, "normal", (), ())
    assert reading.hashrate_hs == pytest.approx(14e9)
    assert reading.expected_hashrate_hs == pytest.approx(14.229e9)
    assert [(b.slot, b.chips, b.chips_expected, b.chip_temp_c) for b in reading.boards] == [
        (i, 204, 204, 56 + i / 8) for i in range(4)
    ]
    assert sum(b.hashrate_hs or 0 for b in reading.boards) == pytest.approx(14e9)
    assert {(b.temp_c, b.frequency_mhz, b.hw_errors) for b in reading.boards} == {(None, None, None)}
    assert (reading.temp_c, reading.chip_temp_c, reading.hw_errors, reading.power_w) == (None, 56.375, None, None)
    assert (reading.fans_rpm, reading.rejected, reading.stale) == ((5400,) * 4, 3, 0)
    assert reading.uptime_s is not None
    assert reading.uptime_s >= 3600
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac, seen.serial) == ("elphapex", "DG1+", device.mac, "EXAMPLE0071")
    assert (seen.firmware, seen.facts["algorithm"], seen.facts["hostname"]) == ("DG1+_SW_V9", "scrypt", "simulated")
    assert device.web.most_at_once == 1


@pytest.mark.parametrize(("page", "name"), [("pools", "pools"), ("get_miner_conf", "mode"), ("summary", "errors")])
async def test_what_was_not_told_is_missing(device: Elphapex, driver: Driver, page: str, name: str) -> None:
    """One page fails: its value is None and named, the rest is read."""
    device.without = {page}
    reading = await driver.read(slow=True)
    assert (reading.missing, reading.mining) == ((name,), True)


async def test_faults_become_conditions(device: Elphapex, driver: Driver) -> None:
    """A lost board by its chips; its own lamps with the maker's code and words."""
    device.lost_boards, device.lamps = 1, {"network": "no pool"}
    reading = await driver.read(slow=True)
    assert [(c.code, c.text) for c in reading.conditions] == [
        ("network:3", "no pool"),
        ("boards_missing", "3 of 4 hash boards answer"),
    ]
    assert [b.slot for b in reading.boards] == [0, 1, 2]
    assert [c.code for c in (await driver.read(slow=False)).conditions] == ["boards_missing"]


@pytest.mark.parametrize("mode", [-1000, "-1000", 1])
async def test_asleep_by_its_mode(device: Elphapex, driver: Driver, mode: object) -> None:
    """However it was put to sleep: told as that, and nothing is missed."""
    device.conf["fc-work-mode"] = mode
    for slow in (True, False):
        reading = await driver.read(slow=slow)
        assert sleeps(reading, True)
        assert (reading.mining, reading.mode, reading.missing, reading.conditions) == (False, "sleep", (), ())


def test_odd_values() -> None:
    """Nothing at all, wrong types, no unit, endless boards: bounded, None, named."""
    nothing = parse_reading({}, None, None, None)
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.pools, nothing.mode) == (None, False, None, None, None)
    assert set(nothing.missing) == {
        "pools", "hashrate_hs", "expected_hashrate_hs", "uptime_s", "fans_rpm", "boards", "mode", "errors",
    }  # fmt: skip
    chain = [{"asic_num": 1, "temp_chip": "x", "hashrate": [1]}] * 1000
    odd = parse_reading({"STATS": [{"rate_5s": 7, "chain": chain, "fan": "5400"}]}, {"POOLS": 7}, {"fc-work-mode": "x"}, {})
    assert (odd.hashrate_hs, len(odd.boards), odd.fans_rpm, odd.pools, odd.mode) == (None, 8, (), None, None)


# ---- the door ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["digest", "basic", ""])
async def test_each_of_its_doors(way: str) -> None:
    """Known among all makes, read and ordered about, whatever way it lets us in."""
    async with Elphapex(way=way) as device:
        found = await identify(place(device))
        assert found.make == "elphapex"
        assert (await found.read(slow=True)).missing == ()
        await found.locate(True)
        assert await found.locating() is True
        await found.set_pools(POOLS)
        assert len(device.writes) == 1
        await found.close()


@pytest.mark.parametrize("way", ["digest", "basic"])
async def test_wrong_password(way: str) -> None:
    """Known by its realm, and refused from then on: nothing is read, nothing written, no password in the words."""
    async with Elphapex(way=way) as device:
        found = await identify(place(device, Credentials("root", "hunter2")))
        for work in (
            found.read(slow=True),
            found.seen(),
            found.pools(),
            found.set_pools(POOLS),
            found.reboot(),
            found.locate(True),
        ):
            with pytest.raises(WrongPassword) as caught:
                await work
            assert "hunter2" not in str(caught.value)
        assert (device.writes, device.reboots, device.blinking) == ([], 0, False)
        await found.close()


async def test_no_password_goes_to_a_door_of_another_name() -> None:
    """A router that asks for basic is not ours, and is not told a password."""
    async with Elphapex(way="basic") as device:
        device.door.realm = "Router"
        found, what = await fingerprint(place(device))
        assert found is None
        assert "Router" in what
        assert device.web.asked == ["GET /cgi-bin/get_system_info.cgi"]


# ---- orders ------------------------------------------------------------------------------------------------


async def test_capabilities_and_what_it_cannot(device: Elphapex, driver: Driver) -> None:
    """What it can, it says; what it cannot is NotSupported with what to do instead."""
    assert set(driver.capabilities) == {ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET}
    for work in (driver.restart_mining(), driver.pause(), driver.resume()):
        with pytest.raises(NotSupported) as caught:
            await work
        assert caught.value.hint
    assert device.web.asked == []


async def test_locate(device: Elphapex, driver: Driver) -> None:
    """On and off, and read back; without its page it is not known."""
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on
    device.without = {"get_blink_status"}
    assert await driver.locating() is None


@pytest.mark.parametrize("drop", [False, True])
async def test_reboot_once(device: Elphapex, driver: Driver, drop: bool) -> None:
    """One order, one restart, also without an answer; the uptime begins anew."""
    device.drop_reply = {"reboot"} if drop else set()
    await driver.reboot()
    await until_restarted(driver)
    assert device.reboots == 1


@pytest.mark.parametrize("drop", [False, True])
async def test_set_pools_and_back(device: Elphapex, driver: Driver, drop: bool) -> None:
    """Exactly these; every other setting as it was; the old ones come back the same way; the same are not written."""
    device.drop_reply = {"set_miner_conf"} if drop else set()
    before, settings = await driver.pools(), {k: v for k, v in device.conf.items() if k != "pools"}
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    assert {k: v for k, v in device.conf.items() if k != "pools"} == settings
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    await driver.set_pools(before)
    await driver.set_pools(before)
    assert await driver.pools() == before
    assert len(device.writes) == 2


@pytest.mark.parametrize(
    "shown", [{"pools": 7}, {"pools": []}, {"algo": "ltc"}, [], {"pools": [{"url": 1}], "algo": "ltc"}], ids=str
)
async def test_no_write_after_a_read_that_made_no_sense(device: Elphapex, driver: Driver, shown: object) -> None:
    """The configuration is replaced as a whole: what was not read cannot be kept."""
    device.broken = {"get_miner_conf": shown}
    with pytest.raises(BadAnswer):
        await driver.set_pools(POOLS)
    with pytest.raises(BadInput):
        await driver.set_pools(POOLS * 2)
    assert device.writes == []


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_refusals_are_told(device: Elphapex, driver: Driver) -> None:
    """With its words; an order that this firmware has not."""
    device.refuses = {"set_miner_conf"}
    with pytest.raises(Refused, match="not now"):
        await driver.set_pools(POOLS)
    device.without = {"reboot"}
    with pytest.raises(NotSupported):
        await driver.reboot()
    device.broken = {"get_system_info": {"minertype": "Antminer L7"}}
    with pytest.raises(BadAnswer):
        await driver.seen()


async def test_dead_hung_and_strange_pools_are_told_apart(
    device: Elphapex, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining for somebody else; no pool alive; talking without end; a web page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, reading.asleep, [p.state for p in reading.pools]) == (False, False, ["dead"])
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools]
    for fault in ("endless", "html"):
        setattr(device.web.faults, fault, True)
        for look in looks:
            with pytest.raises(BadAnswer):
                await look()
        setattr(device.web.faults, fault, False)
    monkeypatch.setattr("sentry_asic.makes.elphapex._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(place(device))
    device.web.faults.hung = True
    for look in (lambda: slow.read(slow=True), slow.pools):
        with pytest.raises(TimedOut):
            await look()
    device.web.faults.hung = False
    await device.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot))
    await slow.close()
