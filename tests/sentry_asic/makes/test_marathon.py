"""The MaraFW driver against the simulated device, on real sockets: units, orders, the whole configuration, whose it is not."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes import antminer
from sentry_asic.makes.marathon import Marathon as Driver
from sentry_asic.makes.marathon import fingerprint
from sentry_asic.makes.marathon_parse import Answers, has_mark, is_brief, mode_before_sleep, parse_reading, parse_seen
from sentry_asic.order_rules import holds_pools, mines_on, restarted, sleeps
from sentry_asic.table import identify
from tests.sentry_asic.makes.looks import believes_no_rubbish, is_unreachable, until_restarted
from tests.simulators.antminer import Antminer
from tests.simulators.marathon import Marathon

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))
SET = "POST /kaonsu/v1/miner_config"


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Marathon]:
    async with Marathon() as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Marathon) -> AsyncIterator[Driver]:
    made = driver_of(device)
    yield made
    await made.close()


def driver_of(device: Marathon, password: str | None = None) -> Driver:
    credentials = None if password is None else Credentials("root", password)
    return Driver(Place(device.host, device.port, device.web.port, credentials))


# ---- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["", "GH/s"])
async def test_a_healthy_device_lacks_nothing(unit: str) -> None:
    """In base units, by the one that is stated, else by what older releases mean; the power that it tunes itself to."""
    async with Marathon(unit=unit) as device:
        driver = driver_of(device)
        reading = await driver.read(slow=True)
        assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (True, False, "auto", (), ())
        assert reading.hashrate_hs == pytest.approx(110e12)
        assert reading.expected_hashrate_hs == pytest.approx(110e12)
        assert (reading.power_w, reading.power_source, reading.power_limit_w) == (3250, "miner", 3300)
        assert reading.fans_rpm == (5500, 5510, 5520, 5530)
        assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.chips_expected, b.frequency_mhz) for b in reading.boards] == [
            (i, 60.0 + i, 74.5 + i, 114, 114, 675) for i in range(3)
        ]
        assert [b.hashrate_hs for b in reading.boards] == [pytest.approx(110e12 / 3)] * 3
        assert (reading.temp_c, reading.chip_temp_c, reading.rejected, reading.stale) == (62, 76.5, 1, 0)
        assert reading.uptime_s is not None
        assert reading.uptime_s >= 3600
        seen = await driver.seen()
        assert (seen.make, seen.model, seen.mac) == ("marathon", "S19 Pro", device.mac)
        assert (seen.firmware, seen.facts["algorithm"]) == ("rel 2.0.0-sim", "sha256")
        assert device.web.most_at_once == 1
        await driver.close()


async def test_answers_under_data(device: Marathon, driver: Driver) -> None:
    """Some releases wrap them."""
    device.wrapped = True
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.missing, len(reading.boards)) == (True, (), 3)
    assert (await driver.seen()).mac == device.mac
    assert len(await driver.pools()) == 1


@pytest.mark.parametrize(
    ("page", "name"), [("pools", "pools"), ("fans", "fans_rpm"), ("hashboards", "boards"), ("miner_config", "mode")]
)
async def test_what_was_not_told_is_missing(device: Marathon, driver: Driver, page: str, name: str) -> None:
    """One page fails: its value is None or empty and named, the rest is read."""
    device.without = {page}
    reading = await driver.read(slow=True)
    assert reading.missing == (name,)
    assert reading.mining is True


async def test_its_own_faults_become_conditions(device: Marathon, driver: Driver) -> None:
    """A board without chips, a fan that stands; a state that says that it failed is no mining, whatever the rate says."""
    boards: list[dict[str, object]] = [{"index": 0, "asic_num": 0, "asic_num_ideal": 92, "hashrate_average": 0}]
    boards += [
        {"index": i, "asic_num": 92, "asic_num_ideal": 92, "hashrate_average": 6400, "temperature_pcb": [70]} for i in (1, 2)
    ]
    device.more = {
        "hashboards": {"hashboards": boards, "hashboard_num_ideal": 3},
        "fans": {"fans": [{"current_speed": 0}, {"current_speed": 4000}]},
    }
    reading = await driver.read(slow=True)
    assert [(c.code, c.severity) for c in reading.conditions] == [("boards_missing", "critical"), ("fans_missing", "critical")]
    assert [(b.chips, b.hashrate_hs, b.temp_c) for b in reading.boards] == [(0, 0, None), (92, 6.4e12, 70), (92, 6.4e12, 70)]
    assert reading.missing == ()
    device.more = {"brief": {"status": "Failure", "status_long": "Failure: a board is too hot"}}
    reading = await driver.read(slow=True)
    assert (reading.mining, [(c.code, c.text) for c in reading.conditions]) == (False, [("status", "Failure: a board is too hot")])
    device.more = {"brief": {"status": "Starting", "hashrate_realtime": 0}}
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.booting, reading.asleep, reading.missing) == (False, True, False, ())


def test_units_and_odd_values() -> None:
    """A unit that we do not know makes a rate unknown; the rate's own unit before the shared one; nothing at all; wrong types."""
    told = {"status": "Mining", "hashrate_realtime": 20000, "hashrate_unit": "GH/s", "hashrate_ideal": 21000}
    reading = parse_reading(Answers(told))
    assert (reading.hashrate_hs, reading.expected_hashrate_hs) == (20e12, 21e12)
    assert parse_reading(Answers({**told, "hashrate_unit": "bushels"})).hashrate_hs is None
    own = {"hashrate_realtime_10m": 16000, "hashrate_realtime_10m_unit": "MH/s", "hashrate_unit": "GH/s", "status": "Mining"}
    assert parse_reading(Answers(own)).hashrate_hs == 16e9
    board = {"hashboards": [{"index": 0, "hashrate_realtime_10m": 6400}, {"index": 1, "hashrate_average": 6400}]}
    assert [b.hashrate_hs for b in parse_reading(Answers(told, hashboards=board)).boards] == [6.4e12, 6.4e12]
    nothing = parse_reading(Answers({}))
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.power_w, nothing.pools) == (None, None, None, None, None)
    assert set(nothing.missing) == {"pools", "hashrate_hs", "expected_hashrate_hs", "power_w", "uptime_s", "boards", "fans_rpm"}
    odd = {"hashboards": [{"index": -1, "temperature_pcb": {"a": "x", "b": 45}, "asic_num": "many"}, 3] * 50}
    reading = parse_reading(
        Answers({"status": 7, "elapsed": "nan"}, hashboards=odd, pools={"pools": [{"url": 3}, 4]}, fans={"fans": 3})
    )
    assert (len(reading.boards), reading.boards[0].slot, reading.boards[0].temp_c, reading.pools) == (16, 0, 45, ())
    assert (parse_seen({}, "marathon").model, has_mark({"MARAFW": 1}), has_mark("antMiner Configuration")) == ("", True, False)
    assert not is_brief({"status": "ok", "hashrate_average": 1}), "one name is no proof"
    assert mode_before_sleep({"a": 1}) == mode_before_sleep([7, {"a": [{"path": 3}]}]) == ""


# ---- whose it is -------------------------------------------------------------------------------------------


async def test_identified_by_its_own_name(device: Marathon) -> None:
    """Among all makes, though its answers and its realm are those of an Antminer; and with its miner down by its web page."""
    place = Place(device.host, device.port, device.web.port)
    for hint in ("", "antminer"):
        found = await identify(place, hint)
        assert found.make == "marathon"
        await found.close()
    await device.api.shut()
    assert (await antminer.fingerprint(place))[0] is None
    for realm in ("antMiner Configuration", "MaraFW"):
        device.realm(realm)
        found = await identify(place)
        assert (found.make, (await found.read(slow=False)).mining) == ("marathon", True)
        await found.close()


@pytest.mark.parametrize("kind", ["modern", "old"])
async def test_a_stock_antminer_is_none(kind: str) -> None:
    """Neither by port 4028 nor, with its miner down, by the realm that both share."""
    async with Antminer(kind=kind) as stock:
        place = Place(stock.host, stock.api_port, stock.http_port)
        assert (await fingerprint(place))[0] is None
        stock.faults.api_down = True
        assert (await fingerprint(place))[0] is None
        found = await identify(place, "marathon")
        assert found.make == "antminer"
        await found.close()


async def test_a_password_goes_only_to_who_may_be_one(device: Marathon) -> None:
    """Another realm is another's; the right realm and the wrong password: it may be one, and that is said."""
    await device.api.shut()
    place = Place(device.host, device.port, device.web.port, Credentials("root", "hunter2"))
    with pytest.raises(WrongPassword) as caught:
        await fingerprint(place)
    assert "hunter2" not in str(caught.value)
    device.realm("blackMiner Configuration")
    driver, what = await fingerprint(place)
    assert driver is None
    assert "blackMiner" in what
    device.web.faults.html = True
    assert (await fingerprint(place))[0] is None


# ---- orders ------------------------------------------------------------------------------------------------


async def test_orders(device: Marathon, driver: Driver) -> None:
    """All that it can; the light on and off, and read back."""
    assert set(driver.capabilities) == {
        ActionKind.REBOOT, ActionKind.RESTART_MINING, ActionKind.PAUSE, ActionKind.RESUME, ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
    }  # fmt: skip
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on
    await driver.restart_mining()
    assert (device.reloads, device.reboots) == (1, 0)
    assert restarted(await driver.read(slow=False), since_order_s=5, was_away=False)


@pytest.mark.parametrize(("mode", "ours", "back_to"), [("Auto", True, "Auto"), ("Fixed", False, "Fixed"), ("Auto", None, "Stock")])
async def test_pause_and_resume(device: Marathon, mode: str, ours: bool | None, back_to: str) -> None:
    """Asleep by its own word; back to the mode that it was in, also when somebody else paused it and by its own log.
    Without either: as stock firmware. All else in the configuration stays, and no order is sent that changes nothing."""
    device.config["mode"]["work-mode-selector"] = mode
    before = copy.deepcopy(device.config)
    first, second = driver_of(device), driver_of(device)
    await first.pause()
    reading = await first.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.hashrate_hs, reading.mode, reading.missing) == (0, "sleep", ())
    await first.pause()
    if ours is None:
        device.without = {"log"}
    driver = first if ours else second
    await driver.resume()
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    before["mode"]["work-mode-selector"] = back_to
    assert device.config == before
    assert len(device.web.orders(SET)) == 2
    await first.close()
    await second.close()


async def test_reboot_once_also_without_an_answer(device: Marathon, driver: Driver) -> None:
    """One order, one restart; the uptime begins anew."""
    device.drop_reply = True
    await driver.reboot()
    await until_restarted(driver)
    assert device.reboots == 1


async def test_set_pools_and_back(device: Marathon, driver: Driver) -> None:
    """Exactly these with their passwords, in the group of those before; it mines there; all else stays; the old ones come back."""
    config = copy.deepcopy(device.config)
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    assert [pool["gid"] for pool in device.config["pools"]] == [0, 0]
    reading = await driver.read(slow=True)
    assert mines_on(reading, POOLS)[0]
    assert holds_pools(reading.pools or (), POOLS)
    asked = len(device.web.asked)
    await driver.set_pools(POOLS)
    assert device.web.asked[asked:] == ["GET /kaonsu/v1/miner_config"], "the same are not written"
    await driver.set_pools(before)
    assert device.config == config


async def test_no_write_after_a_read_that_failed(device: Marathon, driver: Driver) -> None:
    """Without a whole configuration nothing is written, by no order; nor over groups that share the work out."""
    wrong: tuple[dict[str, object], ...] = ({"mode": {}}, {"pools": None}, {"pools": [{"url": 3}]})
    for spoilt in wrong:
        device.more = {"miner_config": spoilt}
        for work in (driver.set_pools(POOLS), driver.pause(), driver.resume(), driver.pools()):
            with pytest.raises(BadAnswer, match="nothing was written"):
                await work
    second = {"url": "stratum+tcp://b.invalid:1", "user": "b", "pass": "x", "gid": 1}
    device.more = {"miner_config": {"pools": [*device.config["pools"], second]}}
    with pytest.raises(Conflict):
        await driver.set_pools(POOLS)
    device.without = {"miner_config"}
    with pytest.raises(NotSupported):
        await driver.pause()
    with pytest.raises(BadInput):
        await driver.set_pools(POOLS * 2)
    assert device.web.orders(SET) == []


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_refusals_are_told_apart(device: Marathon, driver: Driver) -> None:
    """An order that it will not; one that its firmware has not; a wrong password."""
    device.refuses = "license expired"
    with pytest.raises(Refused, match="license expired"):
        await driver.pause()
    device.refuses, device.without = "", {"maintenance"}
    with pytest.raises(NotSupported):
        await driver.reboot()
    other = driver_of(device, "hunter2")
    for work in (other.pause(), other.reboot(), other.seen(), other.set_pools(POOLS), other.read(slow=True)):
        with pytest.raises(WrongPassword) as caught:
            await work
        assert "hunter2" not in str(caught.value)
    assert (device.mode, device.reboots) == ("Auto", 0)
    await other.close()


async def test_dead_hung_and_strange_pools_are_told_apart(
    device: Marathon, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining for somebody else; no pool alive; talking without end; a web page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, reading.asleep, [p.state for p in reading.pools]) == (False, False, ["dead"])
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools]
    await believes_no_rubbish([device.web], looks)
    monkeypatch.setattr("sentry_asic.makes.marathon._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = driver_of(device)
    device.web.faults.hung = True
    with pytest.raises(TimedOut):
        await slow.read(slow=True)
    device.web.faults.hung = False
    await device.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot))
    await slow.close()
