"""The ePIC driver against the simulated device, on real sockets: reading, states, orders, the whole coin order, what goes wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, NotFound, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.epic import Epic as Driver
from sentry_asic.makes.epic import fingerprint
from sentry_asic.makes.epic_parse import coin_for, parse_pool_orders, parse_reading, parse_seen
from sentry_asic.order_rules import holds_pools, mines_on, restarted, sleeps
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.sentry_asic.makes.looks import believes_no_rubbish, is_unreachable, until_restarted
from tests.simulators.api_port import ApiPort, invalid
from tests.simulators.epic import Epic

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))
SET = "POST /coin"
RECORDED = Path(__file__).parents[4] / "shared" / "recorded" / "epic-s19xp"


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Epic]:
    async with Epic() as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Epic) -> AsyncIterator[Driver]:
    made = Driver(Place(device.host, device.port))
    yield made
    await made.close()


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Epic, driver: Driver) -> None:
    """Two answers, in base units; what it should hash is what its boards say to be percent of; 0 V is not measured."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.booting, reading.missing, reading.conditions) == (True, False, False, (), ())
    assert reading.mode == "voltageoptimizer"
    assert reading.hashrate_hs == pytest.approx(141e12)
    assert reading.expected_hashrate_hs == pytest.approx(141e12 / 0.98)
    assert (reading.power_w, reading.power_source, reading.voltage_v) == (2900.5, "miner", None)
    assert (reading.fans_rpm, reading.fan_pct) == ((5710, 5720, 5730, 5740), 80)
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.chips_expected, b.frequency_mhz) for b in reading.boards] == [
        (i, 60.5 + i, None, None, 110, 487.5) for i in range(3)
    ]
    assert (reading.temp_c, reading.rejected) == (62.5, 2)
    assert reading.uptime_s is not None
    assert reading.uptime_s >= 3600
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac, seen.serial) == ("epic", "S19 XP", device.mac.lower(), "00EXAMPLE0081")
    assert (seen.firmware, seen.facts["algorithm"]) == ("PowerPlay-BMS v1.5.99-sim", "sha256")
    assert device.web.most_at_once == 1


async def test_the_hardware_is_asked_with_a_slow_look(device: Epic, driver: Driver) -> None:
    """A fast look is one question; on models whose sensors sit on chips they count as those; without it the look goes on."""
    device.hardware = {"Temp Sensor Info": {"Type": "Chip"}}
    assert (await driver.read(slow=True)).boards[0].chip_temp_c == 60.5
    device.web.asked.clear()
    reading = await driver.read(slow=False)
    assert device.web.asked == ["GET /summary"]
    assert (reading.boards[0].temp_c, reading.chip_temp_c, reading.missing) == (None, 62.5, ())
    device.untold = {"capabilities"}
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.boards[0].temp_c, reading.boards[0].chips_expected) == (True, 60.5, None)


async def test_its_own_faults_become_conditions(device: Epic, driver: Driver) -> None:
    """A board that is gone, one that is switched off, a fan that stands, an error."""
    boards = [{"Index": 0, "Detected": True, "Enabled": False}, {"Index": 1, "Detected": False}, {"Index": 2, "Detected": True}]
    device.more = {
        "HBStatus": boards,
        "HBs": [{"Index": 2, "Hashrate": [47e6, 100.0, 0.1], "Temperature": 66}],
        "Fans Rpm": {"Fans Speed 10": 5000, "Fans Speed 2": 0, "Fans Speed 1": 4000, "Fans Speed 3": None},
        "Status": {"Operating State": "Mining", "Last Error": "HB1 Over Temp"},
    }
    reading = await driver.read(slow=True)
    assert [(c.code, c.severity) for c in reading.conditions] == [
        ("boards_missing", "critical"),
        ("fans_missing", "critical"),
        ("board_disabled:0", "warning"),
        ("last_error", "warning"),
    ]
    assert reading.fans_rpm == (4000, 0, 5000)
    assert [(b.slot, b.chips, b.hashrate_hs) for b in reading.boards] == [(0, None, None), (1, 0, None), (2, None, 47e12)]
    assert (reading.hashrate_hs, reading.expected_hashrate_hs, reading.missing) == (47e12, 47e12, ())


async def test_states(device: Epic, driver: Driver) -> None:
    """Not telling anything; starting up; idle by itself; a word that we do not know and no rates."""
    device.untold = {"summary"}
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, [c.code for c in reading.conditions]) == (None, None, ["not_told"])
    device.untold = set()
    device.state = "Initializing"
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.booting, reading.missing) == (False, False, True, ())
    device.more = {"Status": {"Operating State": "Idling", "Last Error": "Critical temp"}, "HBs": [], "Session": None}
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.hashrate_hs, reading.missing) == (False, True, None, ())
    assert [(c.code, c.severity) for c in reading.conditions] == [("last_error", "critical")]
    device.more = {"Status": {"Operating State": "Pondering"}, "HBs": None}
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.hashrate_hs) == (None, False, None)
    assert "hashrate_hs" in reading.missing


async def test_a_dead_pool_and_a_pool_that_is_none_of_ours(device: Epic, driver: Driver) -> None:
    """Not connected; and working for somebody who is not in its own list: told, and not taken for what was wanted."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    before = await driver.pools()
    assert mines_on(await driver.read(slow=True), before)[0]
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, [(p.state, p.active) for p in reading.pools]) == (False, [("dead", True)])
    device.dead_pools.clear()
    device.more = {"Stratum": {"Config Id": 0, "Current Pool": "other.invalid:3333", "Current User": "x", "IsPoolConnected": True}}
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert [(p.url, p.state, p.active) for p in reading.pools] == [
        ("stratum+tcp://pool.invalid:3333", None, False),
        ("other.invalid:3333", "alive", True),
    ]
    assert not mines_on(reading, before)[0]


def test_odd_values() -> None:
    """Nothing at all, wrong types, endless numbers of parts: bounded, None, named."""
    nothing = parse_reading({}, {})
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.power_w, nothing.pools) == (None, None, None, None, None)
    assert set(nothing.missing) == {"pools", "hashrate_hs", "power_w", "uptime_s", "accepted", "boards", "fans_rpm"}
    odd = {
        "Status": [], "HBs": [{"Index": i, "Hashrate": "x"} for i in range(999)], "HBStatus": [{"Index": -1}, 7, {"Index": 10**9}],
        "Fans Rpm": {"Fans Speed x": 1, "Fans Speed 1": -5}, "Session": {"Uptime": "soon", "Average MHs": "nan"}, "Stratum": 3,
        "StratumConfigs": [{"pool": "a:1", "login": "u"}],
        "PerpetualTune": {"Running": True, "Algorithm": {"A": {"Target": 5, "Unit": "?"}}},
    }  # fmt: skip
    reading = parse_reading(odd, {"Max HBs": "x"})
    assert (len(reading.boards), reading.hashrate_hs, reading.expected_hashrate_hs, reading.fans_rpm) == (16, None, None, ())
    assert reading.pools is not None
    assert [(p.state, p.active) for p in reading.pools] == [(None, None)]
    assert parse_pool_orders({"StratumConfigs": [{"pool": "a:1", "login": 7}]}) is None
    assert coin_for({"Mining": {"Coin": "BTC"}}, POOLS) is None
    assert parse_seen({}, {}, {"dhcp": 3}, "epic").mac == ""


async def test_identified_by_what_it_is_capable_of(device: Epic) -> None:
    """Among all makes, also while it refuses to tell the one; a cgminer on that port and another HTTP server are none."""
    place = Place(device.host, device.port, closed_port())
    found = await identify(place)
    assert found.make == "epic"
    await found.close()
    device.untold = {"capabilities"}
    driver, what = await fingerprint(place)
    assert driver is not None
    assert what == "PowerPlay-BMS v1.5.99-sim"
    await driver.close()
    device.untold = {"capabilities", "summary"}
    assert (await fingerprint(place))[0] is None
    device.web.faults.html = True
    assert (await fingerprint(place))[0] is None
    with pytest.raises(NotFound, match="no device we know"):
        await identify(place)
    cgminer = ApiPort(lambda command, parameter: invalid())
    await cgminer.open()
    assert (await fingerprint(Place(cgminer.host, cgminer.port)))[0] is None
    await cgminer.shut(hold=False)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
def test_the_recorded_device() -> None:
    """A second opinion: one board off, one fan standing, and the others read."""
    told = {path.stem: json.loads(path.read_bytes()) for path in RECORDED.glob("*.json")}
    seen = parse_seen(told["capabilities"], told["summary"], told["network"], "epic")
    assert (seen.model, seen.firmware, seen.mac) == ("S19 XP", "PowerPlay-BMS v1.5.13", "e6:d4:41:51:64:28")
    reading = parse_reading(told["summary"], told["capabilities"])
    assert (reading.mining, reading.uptime_s, reading.accepted, reading.fans_rpm) == (True, 23170, 1862, (5971, 0, 5942, 5745))
    assert reading.hashrate_hs == pytest.approx(99.365848e12)
    assert reading.power_w == pytest.approx(2166.6174)
    assert [(b.slot, b.hashrate_hs, b.temp_c) for b in reading.boards] == [
        (0, None, None),
        (1, pytest.approx(49.440724e12), 67.0),
        (2, pytest.approx(49.925124e12), 64.312),
    ]
    assert reading.pools is not None
    assert [(p.url, p.state, p.active) for p in reading.pools] == [("stratum+tcp://mine.ocean.xyz:3334", "alive", True)]
    assert [c.code for c in reading.conditions] == ["fans_missing", "board_disabled:0"]
    assert reading.missing == ()


# ---- orders ------------------------------------------------------------------------------------------------


async def test_orders(device: Epic, driver: Driver) -> None:
    """All that it can; asleep by its own word, and awake again; the light on and off, and read back."""
    assert set(driver.capabilities) == {
        ActionKind.REBOOT, ActionKind.RESTART_MINING, ActionKind.PAUSE, ActionKind.RESUME, ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
    }  # fmt: skip
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.mode, reading.missing) == ("sleep", ())
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on
    await driver.restart_mining()
    assert (device.restarts, device.reboots) == (1, 0)
    assert restarted(await driver.read(slow=False), since_order_s=5, was_away=False)


async def test_reboot_once_also_without_an_answer(device: Epic, driver: Driver) -> None:
    """One order, one restart; the uptime begins anew."""
    device.drop_reply = True
    await driver.reboot()
    await until_restarted(driver)
    assert (device.reboots, device.web.orders("POST /reboot")) == (1, ["POST /reboot"])


async def test_set_pools_and_back(device: Epic, driver: Driver) -> None:
    """Exactly these with their passwords; the coin and the unique names stay; the old ones come back; the same are not written."""
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    assert (device.coin, device.unique) == ("BTC", True)
    reading = await driver.read(slow=True)
    assert mines_on(reading, POOLS)[0]
    assert holds_pools(reading.pools or (), POOLS)
    await driver.set_pools(before)
    await driver.set_pools(before)
    assert await driver.pools() == before
    assert len(device.web.orders(SET)) == 2


async def test_no_write_after_a_read_that_failed(device: Epic, driver: Driver) -> None:
    """Without pools, coin, or whether names are unique nothing is written; nor what makes no sense."""
    wrong: tuple[dict[str, object], ...] = ({"StratumConfigs": None}, {"Mining": {}}, {"Stratum": {}})
    for more in wrong:
        device.more = more
        with pytest.raises(BadAnswer, match="nothing was written"):
            await driver.set_pools(POOLS)
    device.more = {}
    device.untold = {"summary"}
    with pytest.raises(Refused, match="not ready"):
        await driver.set_pools(POOLS)
    device.untold = set()
    with pytest.raises(BadInput):
        await driver.set_pools(POOLS * 2)
    assert device.web.orders(SET) == []


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_refusals_are_told_apart(device: Epic, driver: Driver) -> None:
    """A wrong password (and reading needs none); an order that it will not; one that its firmware has not."""
    device.refuses = "Miner is tuning"
    with pytest.raises(Refused, match="tuning"):
        await driver.pause()
    device.refuses, device.without = "", {"miner"}
    with pytest.raises(NotSupported):
        await driver.pause()
    other = Driver(Place(device.host, device.port, 0, Credentials("root", "hunter2")))
    for work in (other.resume(), other.reboot(), other.set_pools(POOLS)):
        device.without = set()
        with pytest.raises(WrongPassword) as caught:
            await work
        assert "hunter2" not in str(caught.value)
    assert (await other.read(slow=True)).mining
    assert (device.state, device.reboots) == ("Mining", 0)
    await other.close()


async def test_dead_hung_and_strange_are_told_apart(device: Epic, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Talking without end; a web page; silent; refused."""
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools, driver.locating]
    await believes_no_rubbish([device.web], looks)
    monkeypatch.setattr("sentry_asic.makes.epic._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(Place(device.host, device.port))
    device.web.faults.hung = True
    with pytest.raises(TimedOut):
        await slow.read(slow=True)
    device.web.faults.hung = False
    await device.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot))
    await slow.close()
