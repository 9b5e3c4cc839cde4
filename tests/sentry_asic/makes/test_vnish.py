"""The VNish driver against the simulated device, on real sockets: reading, states, orders, the settings, what goes wrong."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, NotFound, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import POWER_ACTIONS, ActionKind
from sentry_asic.make import Place
from sentry_asic.makes import braiins
from sentry_asic.makes.vnish import Vnish as Driver
from sentry_asic.makes.vnish import fingerprint
from sentry_asic.makes.vnish_parse import Answers, parse_pool_orders, parse_reading, parse_seen
from sentry_asic.order_rules import holds_pools, mines_on, restarted, sleeps
from sentry_asic.probe import probe
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.sentry_asic.makes.looks import is_unreachable, until_restarted
from tests.simulators.antminer import Antminer
from tests.simulators.vnish import BOARDS, CHIPS, Vnish

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+ssl://spare.invalid:443", "w"))
SET = "POST /api/v1/settings"
RECORDED = Path(__file__).parents[4] / "shared" / "recorded" / "vnish-s21pro"


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Vnish]:
    async with Vnish() as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Vnish) -> AsyncIterator[Driver]:
    made = driver_of(device)
    yield made
    await made.close()


def driver_of(device: Vnish, password: str | None = None) -> Driver:
    credentials = None if password is None else Credentials("", password)
    return Driver(Place(device.host, device.port, device.web.port, credentials))


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Vnish, driver: Driver) -> None:
    """In base units, by the unit that it states; the maker's own pool is none of ours; the preset is the mode."""
    seen = await driver.seen()
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.booting, reading.mode) == (True, False, False, "2800")
    assert (reading.missing, reading.conditions) == ((), ())
    assert reading.hashrate_hs == pytest.approx(190e12)
    assert reading.expected_hashrate_hs == pytest.approx(196e12)
    assert (reading.power_w, reading.power_source, reading.fan_pct, reading.hw_errors) == (2580, "miner", 90, 57)
    assert reading.fans_rpm == (5880, 5910, 5940, 5970)
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.chips_expected, b.frequency_mhz) for b in reading.boards] == [
        (i + 1, 50.0 + i, 64.0 + i, CHIPS, CHIPS, 495) for i in range(BOARDS)
    ]
    assert reading.uptime_s in range(3600, 3610)
    assert reading.system_uptime_s == 26 * 3600 + 300
    assert reading.pools is not None
    assert [(p.url, p.user, p.state, p.active) for p in reading.pools] == [("pool.invalid:3333", "factory.worker", "alive", True)]
    assert (reading.accepted, reading.rejected) == (reading.pools[0].accepted, 1)
    assert (seen.make, seen.model, seen.firmware, seen.mac, seen.serial) == ("vnish", "S21 Pro", "1.2.7-sim", device.mac, "")
    assert seen.facts["algorithm"] == "sha256"
    assert device.log_ins == 1


async def test_the_unit_is_the_one_it_states(device: Vnish, driver: Driver) -> None:
    """Scrypt machines state MH/s; where none is stated, the model's; never by size."""
    device.unit = "MH/s"
    assert (await driver.read(slow=True)).hashrate_hs == pytest.approx(190e9)
    device.unit = "N/A"
    assert (await driver.read(slow=True)).hashrate_hs == pytest.approx(190e12)
    device.without = {"info"}
    reading = await driver.read(slow=True)
    assert (reading.hashrate_hs, "hashrate_hs" in reading.missing, "info" in reading.missing) == (None, True, True)


@pytest.mark.parametrize(
    ("state", "mining", "asleep", "booting"),
    [
        ("auto-tuning", True, False, False),
        ("stopped", False, True, False),
        ("paused", False, True, False),
        ("initializing", False, False, True),
        ("shutting-down", False, False, False),
    ],
)
async def test_its_word_for_its_state_counts(
    device: Vnish, driver: Driver, state: str, mining: bool, asleep: bool, booting: bool
) -> None:
    """Asleep and starting, nothing is missing; a word that nobody knows leaves the rate to tell."""
    device.state = state
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.booting, reading.missing) == (mining, asleep, booting, ())
    assert reading.power_w == (2580 if mining else None), "0 is how it says that it does not know"


async def test_its_own_faults_become_conditions(device: Vnish, driver: Driver) -> None:
    """A failure with its code and words; a board that is not there."""
    device.state, device.status_more = "failure", {"failure_code": 1002, "description": "bad configuration"}
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep) == (False, False)
    assert [(c.code, c.text, c.severity) for c in reading.conditions] == [("failure:1002", "bad configuration", "critical")]
    device.state, device.status_more = "mining", {}
    device.miner_more = {"chains": [{"id": 2, "status": {"state": "failure", "description": "no chips"}}]}
    reading = await driver.read(slow=True)
    assert [(c.code, c.text) for c in reading.conditions] == [("chain:2", "no chips")]
    assert "boards.2.hashrate_hs" in reading.missing


async def test_what_was_not_told_is_missing(device: Vnish, driver: Driver) -> None:
    """No preset; no port 4028: named, and the rest is read."""
    device.without = {"perf-summary"}
    await device.api.shut()
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.mode, reading.uptime_s, reading.missing) == (True, None, None, ("mode", "uptime_s"))


def test_odd_values() -> None:
    """Nothing at all and wrong types: None, named, no exception."""
    nothing = parse_reading(Answers({}))
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.power_w, nothing.mode) == (None, None, None, None, None)
    assert {"asleep", "pools", "hashrate_hs", "power_w", "uptime_s", "boards", "fans_rpm"} <= set(nothing.missing)
    miner: dict[str, Any] = {
        "hr_realtime": "inf", "chains": [7, {"id": "x", "chip_statuses": {"red": "many"}}], "pools": [{"url": 7}, "x"],
        "cooling": {"fans": {"rpm": 1}}, "miner_status": [], "power_consumption": -1,
    }  # fmt: skip
    odd = parse_reading(Answers({"miner": miner}, info={"system": {"uptime": "soon"}, "hr_measure": "GH/s"}))
    assert (odd.hashrate_hs, odd.pools, odd.fans_rpm, odd.system_uptime_s, odd.power_w) == (None, (), (), None, None)
    assert [(b.slot, b.chips) for b in odd.boards] == [(0, None)]
    documents: list[object] = [None, [], {"pools": [7]}, {"pools": {}}]
    for document in documents:
        assert parse_pool_orders({"miner": document}) is None


async def test_identified_by_its_own_name(device: Vnish) -> None:
    """Among all makes, as no Antminer and no plain cgminer; with its web page shut by what it calls itself."""
    place = Place(device.host, device.port, device.web.port)
    found = await identify(place)
    assert found.make == "vnish"
    await found.close()
    told = await probe(f"{device.host}:{device.port}", http_port=device.web.port)
    assert (told.ok, told.found["state"], told.found["mac"]) == (True, "mining", device.mac)
    await device.web.shut()
    found = await identify(place)
    assert found.make == "vnish"
    await found.close()
    await device.web.open()
    device.web.faults.html = True
    with pytest.raises(NotFound):
        await identify(Place(device.host, closed_port(), device.web.port))


@pytest.mark.parametrize("kind", ["modern", "old"])
async def test_a_stock_antminer_is_neither(kind: str) -> None:
    """The same hardware with its maker's firmware is no device of VNish or Braiins, and the other way round above."""
    async with Antminer(kind) as stock:
        place = Place(stock.host, stock.api_port, stock.http_port)
        for ask in (fingerprint, braiins.fingerprint):
            driver, what = await ask(place)
            assert (driver, bool(what)) == (None, True)


# ---- orders ------------------------------------------------------------------------------------------------


async def test_pause_really_stops_it(device: Vnish, driver: Driver) -> None:
    """Asleep by its own word, and awake again, whichever way it was put to sleep."""
    cannot = POWER_ACTIONS | {ActionKind.SET_POWER_LIMIT, ActionKind.SET_HOSTNAME}
    assert set(driver.capabilities) == set(ActionKind) - cannot
    await driver.pause()
    assert (device.state, sleeps(await driver.read(slow=True), True)) == ("stopped", True)
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    device.state = "paused"
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)


async def test_orders_that_look_first_do_without(device: Vnish, driver: Driver) -> None:
    """Firmware without the path that tells the state and the light: the orders are sent all the same."""
    device.without = {"status"}
    await driver.pause()
    await driver.resume()
    await driver.locate(True)
    assert (device.state, device.lit, await driver.locating()) == ("mining", True, None)


@pytest.mark.parametrize("ignores_on", [False, True])
async def test_locate_turns_the_light_the_right_way(device: Vnish, driver: Driver, ignores_on: bool) -> None:
    """Some versions turn it over whatever they are asked: the order is not sent when the light is right already."""
    device.ignores_on = ignores_on
    for on in (True, True, False, False):
        await driver.locate(on)
        assert (device.lit, await driver.locating()) == (on, on)
    assert len(device.web.orders("POST /api/v1/find-miner")) == 2


async def test_restart_and_reboot_once(device: Vnish, driver: Driver) -> None:
    """One order each, also when the connection dies instead of answering; the uptime begins anew."""
    device.drop_reply = True
    await driver.restart_mining()
    assert restarted(await driver.read(slow=True), since_order_s=2, was_away=False)
    await driver.reboot()
    await asyncio.sleep(0.05)
    await until_restarted(driver)
    assert (device.restarts, device.reboots) == (1, 1)


# ---- pools -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wants", ["restart_required", "reboot_required", ""])
async def test_set_pools_and_back(device: Vnish, driver: Driver, wants: str) -> None:
    """Exactly these with their passwords, and all else in the document as it was; then what the device asks for, and no more."""
    device.wants = wants
    before, document = await driver.pools(), copy.deepcopy(device.settings)
    assert before == (PoolOrder("pool.invalid:3333", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert (device.restarts, device.reboots) == (int(wants == "restart_required"), int(wants == "reboot_required"))
    if wants == "reboot_required":
        return
    assert holds_pools(await driver.pools(), POOLS)
    assert [pool.password for pool in await driver.pools()] == ["y", "x"]
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    written = copy.deepcopy(device.settings)
    assert written["miner"].pop("pools")[2:] == [{"url": "", "user": "", "pass": ""}]
    document["miner"].pop("pools")
    assert written == document
    await driver.set_pools(POOLS)
    assert len(device.web.orders(SET)) == 1, "the same are not written again"
    await driver.set_pools(before)
    assert await driver.pools() == before


@pytest.mark.parametrize("spoilt", [{}, [], {"miner": {}}, {"miner": {"pools": [{"url": 7}]}}, {"miner": {"pools": "none"}}])
async def test_no_write_after_a_read_that_failed(device: Vnish, driver: Driver, spoilt: object) -> None:
    """What it has now cannot be gone back to, so nothing is written; nor what makes no sense."""
    device.spoilt = {"settings": spoilt}
    with pytest.raises(BadAnswer, match="nothing was written"):
        await driver.set_pools(POOLS)
    device.spoilt, device.without = {}, {"settings"}
    with pytest.raises(BadAnswer):
        await driver.set_pools(POOLS)
    device.without = set()
    for pools in ((), (PoolOrder("a b:1", "u"),), POOLS * 2):
        with pytest.raises(BadInput):
            await driver.set_pools(pools)
    assert device.web.orders(SET) == []


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_a_token_that_ended_costs_one_more_log_in(device: Vnish, driver: Driver) -> None:
    """In again once; the order that was refused for it is carried out once."""
    await driver.pause()
    device.token = "of-somebody-else"
    await driver.restart_mining()
    assert (device.log_ins, device.restarts) == (2, 1)


async def test_a_wrong_password_lets_it_be_watched_and_not_commanded(device: Vnish) -> None:
    """Read without a log-in, with a condition that says so, and not tried again at every look; no order, no secret in words."""
    other = driver_of(device, "hunter2")
    for slow in (True, False, False):
        reading = await other.read(slow=slow)
        assert (reading.mining, [c.code for c in reading.conditions]) == (True, ["wrong_password"])
    assert len(device.web.orders("POST /api/v1/unlock")) == 1
    works: list[Callable[[], Awaitable[object]]] = [other.pause, other.pools, lambda: other.set_pools(POOLS), other.reboot]
    for work in works:
        with pytest.raises(WrongPassword) as caught:
            await work()
        assert "hunter2" not in str(caught.value)
    assert (device.state, device.reboots, device.web.orders(SET)) == ("mining", 0, [])
    device.password = "hunter2"
    assert (await other.read(slow=True)).conditions == ()
    await other.close()


async def test_refusals_are_told_apart(device: Vnish, driver: Driver) -> None:
    """In its own words: not now, not at all, not so; an order that its firmware has not."""
    kinds: list[tuple[int, dict[str, Any], type[Exception]]] = [
        (409, {"err": "it starts"}, Conflict),
        (500, {"err": "Cgminer error"}, Refused),
        (200, {"err": "Cgminer error"}, Refused),
        (200, {"success": False}, Refused),
        (400, {}, Refused),
    ]
    for status, body, kind in kinds:
        device.err = (status, body)
        with pytest.raises(kind, match=body.get("err", "refuses")):
            await driver.pause()
    device.err, device.without = None, {"mining/stop"}
    with pytest.raises(NotSupported):
        await driver.pause()
    assert device.state == "mining"


async def test_dead_hung_and_strange_pools_are_told_apart(device: Vnish, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mining for somebody else; no pool alive; talking without end; a web page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, reading.asleep, [p.state for p in reading.pools]) == (False, False, ["dead"])
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools]
    device.web.faults.endless = True
    for look in looks:
        with pytest.raises(BadAnswer):
            await look()
    device.web.faults.endless, device.web.faults.html = False, True
    for look in looks:
        with pytest.raises(BadAnswer):
            await look()
    device.web.faults.html = False
    monkeypatch.setattr("sentry_asic.makes.vnish._ANSWER_S", 0.3)  # a limit, not behaviour
    silent = driver_of(device)
    device.api.faults.hung = device.web.faults.hung = True
    for look in (lambda: silent.read(slow=True), silent.pause):
        with pytest.raises(TimedOut):
            await look()
    device.api.faults.hung = device.web.faults.hung = False
    await device.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot))
    await silent.close()


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
def test_the_recorded_s21_pro() -> None:
    """A second opinion: a real device's answers, while it tunes itself."""
    said = {path.stem: json.loads(path.read_text()) for path in RECORDED.glob("*.json")}
    seen = parse_seen(said["web_info"], "vnish")
    assert (seen.model, seen.mac, seen.firmware, seen.serial) == ("S21 Pro", "02:95:23:b3:e0:79", "1.2.7", "")
    elapsed_s = said["rpc_summary"]["SUMMARY"][0]["Elapsed"]
    reading = parse_reading(Answers(said["web_summary"], info=said["web_info"], perf=said["web_perf-summary"], elapsed_s=elapsed_s))
    assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (True, False, "2800", (), ())
    assert reading.hashrate_hs == pytest.approx(173.87094e12)
    assert reading.expected_hashrate_hs == pytest.approx(196.51717e12)
    assert (reading.power_w, reading.uptime_s, reading.system_uptime_s) == (2583, 4423, 6900)
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips) for b in reading.boards] == [
        (1, 50.0, 65.0, 65), (2, 49.0, 64.0, 65), (3, 49.0, 64.0, 65),
    ]  # fmt: skip
    assert reading.pools is not None
    assert [(p.state, p.active, p.accepted, p.rejected) for p in reading.pools] == [
        ("alive", True, 1599, 9), ("alive", False, 0, 0),
    ]  # fmt: skip
    orders = parse_pool_orders(said["web_settings"])
    assert orders is not None
    assert [(pool.url, pool.password) for pool in orders] == [("stratum.braiins.com:3333", "x")] * 2
