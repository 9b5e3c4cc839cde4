"""The IceRiver driver against the simulated device, on real sockets: both ages of firmware, orders, pools, faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, NotFound, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.cgminer import MinerDown
from sentry_asic.make import Place
from sentry_asic.makes.iceriver import Iceriver as Driver
from sentry_asic.makes.iceriver_parse import model_of_panel, parse_pools, parse_reading, rate_hs, runtime_s
from sentry_asic.order_rules import mines_on, sleeps
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.sentry_asic.makes.looks import is_unreachable, until_restarted
from tests.simulators.iceriver import Iceriver

POOLS = (PoolOrder("stratum+tcp://new.invalid:5555", "kaspa:wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:1", "w"))


@pytest_asyncio.fixture(params=[False, True], ids=["cookie", "open"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Iceriver]:
    async with Iceriver(open_to_all=request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Iceriver) -> AsyncIterator[Driver]:
    made = Driver(place(device))
    yield made
    await made.close()


def place(device: Iceriver, credentials: Credentials | None = None) -> Place:
    return Place(device.host, closed_port(), device.port, credentials)


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Iceriver, driver: Driver) -> None:
    """Each rate by its own unit, days in the uptime, a fan that stands; power and chip temperatures it does not tell."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (True, False, "normal", (), ())
    assert reading.hashrate_hs == pytest.approx(9e12)
    assert reading.hashrate_avg_hs == pytest.approx(8.9705e12)
    assert reading.expected_hashrate_hs == pytest.approx(9.3e12)
    assert reading.uptime_s in range(5_379_456, 5_379_470)
    assert (reading.power_w, reading.chip_temp_c) == (None, None)
    assert reading.temp_c == pytest.approx(60.17)
    assert reading.fans_rpm == (4680, 4710, 5400, 0)
    assert [(b.slot, b.hashrate_hs, b.chips, b.chips_expected, b.hw_errors) for b in reading.boards] == [
        (i, 3e12, 76, None, 2) for i in (1, 2, 3)
    ]
    assert reading.pools is not None
    assert [(p.url, p.user, p.state, p.active) for p in reading.pools] == [
        ("stratum+tcp://pool.invalid:5555", "factory.worker", "alive", True)
    ]
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac, seen.facts["algorithm"]) == ("iceriver", "KS3", "02:00:5e:10:00:41", "kheavyhash")
    assert device.log_ins == (0 if device.open_to_all else 1), "one log-in for all questions, none where none is needed"
    assert device.web.most_at_once == 1


@pytest.mark.parametrize("name", ["rtpow", "runtime", "pools", "boards", "fans"])
async def test_what_was_not_told_is_missing(device: Iceriver, driver: Driver, name: str) -> None:
    """One field is not there: None and named, the rest is read."""
    device.without = {name}
    reading = await driver.read(slow=False)
    assert {"rtpow": "hashrate_hs", "runtime": "uptime_s", "fans": "fans_rpm"}.get(name, name) in reading.missing
    assert reading.accepted is not None or name == "pools"


async def test_its_miner_is_down(device: Iceriver) -> None:
    """Its web server answers and its miner does not: not mining, not offline; who it is it cannot tell."""
    device.open_to_all, device.miner_down = True, True
    driver = Driver(place(device))
    reading = await driver.read(slow=True)
    assert (reading.mining, [(c.code, c.severity) for c in reading.conditions]) == (False, [("miner_down", "critical")])
    with pytest.raises(MinerDown):
        await driver.seen()
    with pytest.raises(BadAnswer):
        await driver.set_pools(POOLS)
    await driver.close()


@pytest.mark.parametrize(
    ("text", "unit", "rate"),
    [
        ("12.3G", None, 12.3e9), ("121", "G", 121e9), (" 1.5 T ", "G", 1.5e12), ("98GH/s", None, 98e9), ("0G", None, 0.0),
        ("121", None, None), ("", "G", None), ("fast", "G", None), ("1.2.3G", None, None), ("-3G", None, None), (7, "G", None),
        ("9" * 30 + "G", None, None), ("5Q", None, None), ("5", "furlongs", None),
    ],
)  # fmt: skip
def test_rates(text: object, unit: object, rate: float | None) -> None:
    """The unit inside the value first, else that of the panel, else it is not known."""
    assert rate_hs(text, unit) == (None if rate is None else pytest.approx(rate))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("62:14:17:36", 5_408_256), ("00:00:00:09", 9), ("14:17:36", None), ("1:24:00:00", None), ("a:b:c:d", None), (None, None)],
)
def test_uptimes(text: object, seconds: int | None) -> None:
    """Days, hours, minutes, seconds, and nothing else."""
    assert runtime_s(text) == seconds


@pytest.mark.parametrize(
    ("told", "model"),
    [
        ({"model": "none", "softver1": "br_1.2_ks5lminer"}, "KS5L"), ({"model": "none", "softver1": "br_10306_miner"}, "AL3"),
        ({"model": "IceRiver KS2"}, "KS2"), ({"softver1": "miner"}, ""), ({"softver1": "2023-01-01"}, ""), ({}, ""),
        ({"softver1": ["x"]}, ""),
    ],
)  # fmt: skip
def test_models(told: dict[str, object], model: str) -> None:
    """From the end of its software's name, where it calls itself "none"."""
    assert model_of_panel(told) == model


def test_odd_values() -> None:
    """Nothing, wrong types, bad chips, chips that failed, more parts than there are: bounded, None."""
    nothing = parse_reading({}, None, slow=True)
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.pools, nothing.mode) == (None, None, None, None, None)
    assert set(nothing.missing) == {"hashrate_hs", "uptime_s", "pools", "boards", "fans_rpm", "mode"}
    boards = [{"no": 1, "chipnum": 76, "false": [20, 30]}, {"no": 2, "chipnum": 80, "chipsuc": 79}, {"intmp": 999}, *[{}] * 99]
    told = {"error": 0, "data": {"boards": boards, "fans": [1e99, "x", 5], "pools": ["x", {"addr": 7}]}}
    reading = parse_reading(told, {"mode": "1", "ratio": []}, slow=True)
    assert [(b.chips, b.chips_expected, b.temp_c) for b in reading.boards[:3]] == [
        (74, 76, None),
        (79, 80, None),
        (None, None, None),
    ]
    assert (len(reading.boards), reading.fans_rpm, reading.pools, reading.mode) == (16, (5,), (), "normal")
    assert parse_reading(told, {"mode": "?"}, slow=True).asleep is None, "an unknown mode is not sleep"


def test_pools_that_nobody_tried_are_not_dead() -> None:
    """The first works: the second is not known. None works: all are dead, if it is awake."""
    rows = [{"no": 1, "addr": "a:1", "connect": True, "state": 0}, {"no": 2, "addr": "b:1", "connect": False, "state": 0}]
    assert [p.state for p in parse_pools({"pools": rows}, awake=True) or ()] == ["alive", None]
    rows[0]["connect"] = False
    assert [p.state for p in parse_pools({"pools": rows}, awake=True) or ()] == ["dead", "dead"]
    assert [p.state for p in parse_pools({"pools": rows}, awake=False) or ()] == [None, None]


# ---- who is it ---------------------------------------------------------------------------------------------


async def test_found_by_the_title_of_its_page(device: Iceriver) -> None:
    """Nothing listens on 4028. Also in the encoding of an older page; not any page, and then nobody is sent a password."""
    for page in (device.page, device.page.decode().encode("gb18030")):
        device.page = page
        found = await identify(place(device))
        assert found.make == "iceriver"
        await found.close()
    device.page = b"<html><head><title>Router</title></head><body>not an IceRiver</body></html>"
    device.web.asked.clear()
    with pytest.raises(NotFound, match="no device we know"):
        await identify(place(device))
    assert device.web.orders("POST /user/loginpost") == []


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


async def test_pause_keeps_pools_and_fan(device: Iceriver, driver: Driver) -> None:
    """Asleep by its own word, nothing missing, and back; the rest of its form stays; taken once, by the number that it knows."""
    before = [dict(pool) for pool in device.pools]
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.hashrate_hs, reading.mode, reading.missing) == (0, "sleep", ())
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    assert (device.pools, device.ratio, device.restarts) == (before, 60, 2)
    assert {form["post"] for form in device.forms} == {"2" if device.open_to_all else "3"}


async def test_locate(driver: Driver) -> None:
    """On and off, and read back."""
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on


@pytest.mark.parametrize("drop", [False, True])
async def test_reboot(device: Iceriver, driver: Driver, drop: bool) -> None:
    """One order, one restart, also when the connection dies instead of answering; the uptime begins anew."""
    device.drop_reply = {"/user/userpanel"} if drop else set()
    await driver.reboot()
    assert device.reboots == 1
    await until_restarted(driver)
    assert device.reboots == 1


# ---- pools -------------------------------------------------------------------------------------------------


async def test_set_pools_and_back(device: Iceriver, driver: Driver) -> None:
    """Exactly these with their passwords, fan and mode kept; it mines there; back the same way; the same are not written."""
    device.mode = 1
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:5555", "factory.worker", "p"),)
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    await driver.set_pools(before)
    await driver.set_pools(before)
    assert await driver.pools() == before
    assert (device.restarts, device.ratio, device.mode) == (2, 60, 1)


@pytest.mark.parametrize("without", ["pools", "ratio", "mode"])
async def test_no_write_after_a_read_that_made_no_sense(device: Iceriver, driver: Driver, without: str) -> None:
    """One form holds pools, fan and mode: what is not known would be lost, so nothing is written."""
    device.without = {without}
    for work in (driver.set_pools(POOLS), driver.pause()):
        with pytest.raises(BadAnswer, match="nothing was written"):
            await work
    assert device.forms == []


@pytest.mark.parametrize(
    "pools",
    [(), POOLS * 2, (PoolOrder("", "u"),), (PoolOrder('a"b:1', "u"),), (PoolOrder("a:1", "u\\"),), (PoolOrder("a:1", "u" * 1600),)],
)
async def test_pools_that_make_no_sense(device: Iceriver, driver: Driver, pools: tuple[PoolOrder, ...]) -> None:
    """None, too many, no URL, quotes, longer than its buffer: BadInput before anything is asked."""
    with pytest.raises(BadInput):
        await driver.set_pools(pools)
    assert device.web.asked == []


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told(device: Iceriver) -> None:
    """Where it asks for one even for reading, else for orders; nothing is done, and the password is in no message."""
    for who in (Credentials("admin", "hunter2"), Credentials("nobody", "hunter2")):
        driver = Driver(place(device, who))
        works: list[Callable[[], Awaitable[object]]] = [driver.reboot, driver.pause, partial(driver.locate, True)]
        if not device.open_to_all:
            works += [partial(driver.read, slow=True), driver.seen, driver.pools]
        for work in works:
            with pytest.raises(WrongPassword) as caught:
                await work()
            assert "hunter2" not in str(caught.value)
        await driver.close()
    assert (device.reboots, device.forms, device.blinks) == (0, [], False)


async def test_a_session_that_ended_costs_one_more_log_in(device: Iceriver, driver: Driver) -> None:
    """Its page comes instead of an answer: in again, and the look succeeds."""
    await driver.read(slow=False)
    device.cookie = "-http-session-=of-somebody-else" if device.cookie else ""
    assert (await driver.read(slow=False)).mining
    assert device.log_ins == (0 if device.open_to_all else 2)


async def test_an_order_that_it_will_not_do_is_refused(device: Iceriver, driver: Driver) -> None:
    """With the device's own words."""
    device.refuses = True
    for work in (driver.reboot(), driver.locate(True), driver.set_pools(POOLS)):
        with pytest.raises(Refused, match="not now"):
            await work
    assert (device.reboots, device.forms) == (0, [])


async def test_dead_hung_and_strange_pools_are_told_apart(
    device: Iceriver, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining for somebody else; no pool alive; talking without end; another's page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, reading.asleep, [p.state for p in reading.pools]) == (False, False, ["dead"])
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools, driver.reboot]
    for fault in ("endless", "html"):
        setattr(device.web.faults, fault, True)
        for look in looks:
            with pytest.raises(BadAnswer):
                await look()
        setattr(device.web.faults, fault, False)
    monkeypatch.setattr("sentry_asic.makes.iceriver._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(place(device))
    device.web.faults.hung = True
    for look in (lambda: slow.read(slow=True), slow.pause):
        with pytest.raises(TimedOut):
            await look()
    device.web.faults.hung = False
    await device.power(False)
    await is_unreachable(looks)
    await slow.close()
