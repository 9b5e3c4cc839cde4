"""The Goldshell driver against the simulated device, on real sockets: units, its token, both ports, orders, pools, faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, NotFound, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.goldshell import Goldshell as Driver
from sentry_asic.makes.goldshell import cipher_text
from sentry_asic.makes.goldshell_parse import (
    parse_algorithm,
    parse_plans,
    parse_pools,
    parse_reading,
    parts_of_api,
    parts_of_web,
    unit_of,
)
from sentry_asic.order_rules import mines_on, sleeps
from sentry_asic.table import identify
from tests.sentry_asic.makes.looks import is_unreachable, until_restarted
from tests.simulators.goldshell import Goldshell

POOLS = (PoolOrder("stratum+tcp://new.invalid:700", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:701", "w"))
SET_POOLS, SET = "PUT /mcb/pools", "PUT /mcb/setting"
PAUSES = {ActionKind.PAUSE, ActionKind.RESUME}


@pytest_asyncio.fixture(params=["new", "old", "box"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Goldshell]:
    async with Goldshell(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Goldshell) -> AsyncIterator[Driver]:
    made = Driver(place(device))
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rest between questions. A pace, not behaviour."""
    monkeypatch.setattr("sentry_asic.makes.goldshell._REST_S", 0.0)


def place(device: Goldshell, credentials: Credentials | None = None) -> Place:
    return Place(device.host, device.port, device.web.port, credentials)


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Goldshell, driver: Driver) -> None:
    """Rates by the unit of its algorithm, uptime by port 4028, boards from either port; power it does not tell."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (True, False, "plan 0", (), ())
    assert reading.hashrate_hs == pytest.approx(5.4e12)
    assert reading.hashrate_avg_hs == pytest.approx(5.4e12 * (1 if device.kind == "box" else 0.99))
    assert reading.uptime_s in range(3600, 3610)
    assert (reading.power_w, reading.fans_rpm, reading.accepted, reading.rejected) == (None, (2700, 2730), 2406, 4)
    assert [(b.slot, b.temp_c, b.hw_errors) for b in reading.boards] == [
        (i, 74.0 if device.kind == "box" else 80.0 + i, 3 + i) for i in range(4)
    ]
    assert reading.pools is not None
    assert [(p.url, p.user, p.state, p.active) for p in reading.pools] == [
        ("stratum+tcp://pool.invalid:700", "factory.worker", "alive", True)
    ]
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac, seen.firmware) == ("goldshell", "HS5", device.mac.lower(), "2.2.5")
    assert seen.facts["algorithm"] == "blake2b"
    assert device.log_ins == (0 if device.kind == "old" else 1), "one log-in for all questions, none where none is needed"
    assert device.web.most_at_once == 1


async def test_an_unknown_algorithm_has_no_rate(device: Goldshell, driver: Driver) -> None:
    """Millions of something: not known, named, and yet it mines; the question for its algorithm is not asked again at once."""
    device.algorithm = "zksnark(ALEO)"
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.hashrate_hs, reading.hashrate_avg_hs, reading.missing) == (True, None, None, ("hashrate_hs",))
    assert [board.hashrate_hs for board in reading.boards] == [None] * 4
    device.web.asked.clear()
    await driver.read(slow=False)
    assert set(device.web.asked) == {"GET /mcb/cgminer", "GET /mcb/pools"}


@pytest.mark.parametrize(
    ("algorithm", "model", "unit"),
    [
        ("blake2b", "", 1e6), ("scrypt", "HS5", 1e6), ("", "HS5", 1e6), ("", "CK-BOX", 1e6), ("", "Mini-DOGE II", 1e6),
        ("", "LT Lite", 1e6), ("zksnark", "HS5", None), ("", "AE-BOX", None), ("", "", None), ("", "X", None),
    ],
)  # fmt: skip
def test_units(algorithm: str, model: str, unit: float | None) -> None:
    """The algorithm that it names decides; only where it names none, its series."""
    assert unit_of(algorithm, model) == unit


async def test_without_port_4028(device: Goldshell, driver: Driver) -> None:
    """The page tells all but the uptime; where it has no boards either, there is nothing to tell."""
    await device.api.shut()
    if device.kind == "box":
        with pytest.raises(BadAnswer):
            await driver.read(slow=True)
        return
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.uptime_s, reading.missing) == (True, None, ("uptime_s",))


@pytest.mark.parametrize(("path", "name"), [("/mcb/pools", "pools"), ("/mcb/setting", ""), ("/mcb/algosetting", "")])
async def test_what_was_not_told_is_missing(device: Goldshell, driver: Driver, path: str, name: str) -> None:
    """One page is not there: what it had is None, the rest is read; without algorithm its series tells the unit."""
    device.without = {path}
    reading = await driver.read(slow=True)
    assert reading.missing == ((name,) if name else ())
    assert reading.hashrate_hs == pytest.approx(5.4e12)
    assert (reading.asleep is None) == (path == "/mcb/setting")


@pytest.mark.parametrize("device", ["new", "old"], indirect=True)  # a box has no boards on its page
async def test_its_own_faults_become_conditions(device: Goldshell, driver: Driver) -> None:
    """By the meanings of the maker's page."""
    device.board_states = {1: 3, 2: 1}
    assert [(c.code, c.severity) for c in (await driver.read(slow=False)).conditions] == [
        ("minerstatus:3:board:1", "critical"),
        ("minerstatus:1:board:2", "warning"),
    ]
    device.status = 1
    reading = await driver.read(slow=False)
    assert (reading.mining, reading.conditions[0].code) == (False, "status:1")


def test_odd_values() -> None:
    """Temperatures of all shapes, sensors that did not answer, wrong types, nothing at all."""
    rows = [{"temp": "44.9°C"}, {"temp": "0.0 °C", "r_temp": "73.8 °C"}, {"temp": 7, "hashrate": "x", "fanspeed": ["2 rpm"]}, "x"]
    parts = parts_of_web({"data": rows})
    assert parts is not None
    reading = parse_reading(parts, 1e6, None)
    assert [board.temp_c for board in reading.boards] == [44.9, 73.8, None]
    assert (reading.mining, reading.hashrate_hs, reading.fans_rpm) == (None, None, ())
    assert set(reading.missing) == {"hashrate_hs", "uptime_s", "pools", "fans_rpm"}
    assert parts_of_web({"minfos": []}) is parts_of_web([]) is None
    assert len(parts_of_web({"data": [{}] * 99}) or ()) == 16
    assert parts_of_api([{"tstemp-0": "nan", "fan0": -1}])[0].fans == ()
    assert parse_algorithm({"algos": [{"id": 0}], "algo_select": None}) == parse_algorithm(7) == ""
    assert parse_pools({"pools": []}) is None
    assert parse_plans({}) is None


def test_plans_of_a_model_with_two_algorithms() -> None:
    """Its plans are those of the algorithm that runs; where that is not told, none are."""
    plans = [
        {"algo": "blake2bsha3(HNS)", "mode": [{"level": 0, "info": "750 MHz 0.41 V"}]},
        {"algo": "blake2b(SC)", "mode": [{"level": 0, "info": "850 MHz 0.44 V"}, {"level": 3, "info": "0 MHz 0 V"}]},
    ]
    told = parse_plans({"powerplans": plans, "select": 3, "algoname": "blake2b(SC)"})
    assert told is not None
    assert (told.asleep, told.idle, told.working) == (True, 3, 0)
    assert parse_plans({"powerplans": plans, "select": 3}) is None


def test_the_ciphered_password() -> None:
    """The factory's, as public clients write it out."""
    assert cipher_text("123456789") == "bbad7537f4c8b6ea31eea0b3d760e257"


# ---- who is it ---------------------------------------------------------------------------------------------


async def test_found_by_its_status(device: Goldshell) -> None:
    """Though it speaks the cgminer API too. A page of something else is nobody's, and is sent no password."""
    found = await identify(place(device))
    assert found.make == "goldshell"
    await found.close()
    await device.api.shut()
    device.web.faults.html = True
    device.web.asked.clear()
    with pytest.raises(NotFound, match="no device we know"):
        await identify(place(device))
    assert device.web.orders("GET /user/login") == []


# ---- orders ------------------------------------------------------------------------------------------------


async def test_capabilities_are_what_its_plans_allow(device: Goldshell, driver: Driver) -> None:
    """It can be stopped where it has a plan for that."""
    await driver.read(slow=True)
    assert set(driver.capabilities) == {ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET} | PAUSES
    device.setting["powerplans"].pop()
    await driver.read(slow=True)
    assert not PAUSES & set(driver.capabilities)
    for work in (driver.restart_mining(), driver.pause(), driver.resume()):
        with pytest.raises(NotSupported) as caught:
            await work
        assert caught.value.hint
    assert device.web.orders(SET) == []


@pytest.mark.parametrize("manual", [False, True])
async def test_pause_and_back_to_what_it_was(device: Goldshell, driver: Driver, manual: bool) -> None:
    """No hash, asleep by its own word; the plan it had before comes back, and the rest of its settings stays."""
    device.setting |= {"select": 1, "manual": manual}
    before = dict(device.setting)
    await driver.pause()
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.hashrate_hs, reading.mode, reading.missing) == (0, "sleep", ())
    await driver.resume()
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    assert device.setting == before
    assert len(device.web.orders(SET)) == 2, "what is so already is not written again"


async def test_locate(device: Goldshell, driver: Driver) -> None:
    """On and off, read back; the rest of its settings stays."""
    before = dict(device.setting)
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on
    assert device.setting == before


@pytest.mark.parametrize("drop", [False, True])
async def test_reboot(device: Goldshell, driver: Driver, drop: bool) -> None:
    """One order, one restart, also when the connection dies instead of answering; the uptime begins anew."""
    device.drop_reply = {"/mcb/restart"} if drop else set()
    await driver.reboot()
    assert device.restarts == 1
    await until_restarted(driver, BadAnswer)
    assert device.restarts == 1


async def test_set_pools_and_back(device: Goldshell, driver: Driver) -> None:
    """The whole list in its order, with passwords; it mines there; back the same way; the same are not written."""
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:700", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    await driver.set_pools(before)
    await driver.set_pools(before)
    assert await driver.pools() == before
    assert len(device.web.orders(SET_POOLS)) == 2


async def test_no_write_after_a_read_that_failed(device: Goldshell, driver: Driver) -> None:
    """What it has now cannot be gone back to, so nothing is written; nor what makes no sense."""
    device.without = {"/mcb/pools", "/mcb/setting"}
    works: list[Callable[[], Awaitable[None]]] = [
        lambda: driver.set_pools(POOLS), driver.pause, lambda: driver.locate(True)
    ]  # fmt: skip
    for work in works:
        with pytest.raises(BadAnswer):
            await work()
    device.without, device.setting = set(), {"name": device.mac}
    with pytest.raises(BadAnswer, match="nothing was written"):
        await driver.locate(True)
    with pytest.raises(BadInput):
        await driver.set_pools(POOLS * 2)
    assert device.web.orders(SET, SET_POOLS) == []


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_a_401_by_chance_is_not_believed(device: Goldshell, driver: Driver) -> None:
    """Its check of the token fails now and then (notes of owners): in again, once. An order that was not let in, too."""
    device.race = 1
    assert await driver.pools()
    device.race = 1
    await driver.locate(True)
    device.race = 1
    await driver.reboot()
    assert (device.setting["ledcontrol"], device.restarts) == (True, 1)


async def test_a_wrong_password_is_told(device: Goldshell) -> None:
    """For whatever wants the token; nothing is done, and the password is in no message."""
    driver = Driver(place(device, Credentials("admin", "hunter2")))
    works: list[Callable[[], Awaitable[object]]] = [driver.reboot, lambda: driver.set_pools(POOLS), lambda: driver.locate(True)]
    if device.kind != "old":
        works += [lambda: driver.read(slow=True), driver.seen, driver.pools]
    for work in works:
        with pytest.raises(WrongPassword) as caught:
            await work()
        assert "hunter2" not in str(caught.value)
    assert device.web.orders(SET, SET_POOLS) == []
    assert device.restarts == 0
    await driver.close()


async def test_an_order_that_it_will_not_do_is_refused(device: Goldshell, driver: Driver) -> None:
    """With the device's own words; one that its firmware has not is NotSupported."""
    device.refuses = True
    for work in (driver.reboot(), driver.locate(True), driver.set_pools(POOLS)):
        with pytest.raises(Refused, match="not now"):
            await work
    device.without = {"/mcb/restart"}
    with pytest.raises(NotSupported):
        await driver.reboot()


async def test_dead_hung_and_strange_pools_are_told_apart(
    device: Goldshell, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining for somebody else; no pool alive; talking without end; another's page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, reading.asleep, [p.active for p in reading.pools]) == (False, False, [False])
    looks: list[Callable[[], Awaitable[object]]] = [driver.seen, driver.pools, lambda: driver.set_pools(POOLS)]
    for fault in ("endless", "html"):
        setattr(device.api.faults, fault, True)
        setattr(device.web.faults, fault, True)
        for look in (lambda: driver.read(slow=True), *looks):
            with pytest.raises(BadAnswer):
                await look()
        setattr(device.api.faults, fault, False)
        setattr(device.web.faults, fault, False)
    monkeypatch.setattr("sentry_asic.makes.goldshell._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(place(device))
    device.api.faults.hung = device.web.faults.hung = True
    for look in (lambda: slow.read(slow=True), slow.reboot, slow.pause):
        with pytest.raises(TimedOut):
            await look()
    device.api.faults.hung = device.web.faults.hung = False
    await device.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot, *looks))
    await slow.close()
