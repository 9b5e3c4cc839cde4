"""The Avalon driver against the simulated device, on real sockets: reading, identity, orders, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import parse
from sentry_asic.make import Place
from sentry_asic.makes import avalon
from sentry_asic.makes.avalon import Avalon as Driver
from sentry_asic.makes.avalon_parse import fields_of, machine, parse_options, parse_text, parse_version, reading_of, said_by
from sentry_asic.order_rules import mines_on, restarted, sleeps
from sentry_asic.table import identify
from tests.simulators.avalon import Avalon

RECORDED = Path(__file__).parents[4] / "shared" / "recorded" / "avalon"
KINDS = ["q", "a12", "a10"]
THREE = tuple(PoolOrder(f"stratum+tcp://new{i}.invalid:3333", f"wallet.rig-{i}", f"p{i}") for i in range(3))
ONE = THREE[:1]


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits, not behaviour."""
    monkeypatch.setattr(avalon, "ANSWER_S", 1.0)
    monkeypatch.setattr(avalon, "ORDER_S", 1.0)
    monkeypatch.setattr(avalon, "REST_S", 0.01)


@pytest_asyncio.fixture(params=KINDS)
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Avalon]:
    async with Avalon(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def q() -> AsyncIterator[Avalon]:
    async with Avalon("q") as simulated:
        yield simulated


@pytest_asyncio.fixture
async def a12() -> AsyncIterator[Avalon]:
    async with Avalon("a12") as simulated:
        yield simulated


async def found(device: Avalon, password: str = "") -> Driver:
    credentials = Credentials(device.spec.user, password) if password else None
    driver, what = await avalon.fingerprint(Place(device.host, device.api_port, 0, credentials))
    assert driver is not None, what
    return driver


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Avalon) -> None:
    """Everything its firmware gives is read, in base units; what it does not give (power on an A10) stays unknown."""
    driver = await found(device)
    reading = await driver.read(slow=True)
    spec = device.spec
    assert (reading.mining, reading.asleep, reading.booting) == (True, False, False)
    assert reading.hashrate_hs == pytest.approx(spec.nominal_ghs * 1.01e9)
    assert reading.hashrate_avg_hs == reading.expected_hashrate_hs == pytest.approx(spec.nominal_ghs * 1e9)
    assert (reading.power_w, reading.power_source) == ((None, None) if device.kind == "a10" else (spec.watts, "miner"))
    assert (reading.uptime_s, reading.fan_pct) == (3600, 72)
    assert reading.fans_rpm == (5301, 5302, 5303, 5304)
    assert reading.inlet_temp_c == (26 if device.kind == "q" else 30)
    assert reading.temp_c == (52 if device.kind == "q" else None)
    assert reading.chip_temp_c == 74 + spec.boards
    assert [(b.slot, b.chips, b.chips_expected, b.hw_errors) for b in reading.boards] == [
        (i, spec.chips, spec.chips, 4) for i in range(spec.boards)
    ]
    assert sum(b.hashrate_hs or 0 for b in reading.boards) == pytest.approx(spec.nominal_ghs * 1e9, rel=0.001)
    assert reading.pools is not None
    assert (reading.pools[0].url, reading.pools[0].user, reading.pools[0].state) == (
        "stratum+tcp://pool.invalid:3333",
        "factory.worker",
        "alive",
    )
    assert (reading.accepted, reading.rejected, reading.stale) == (720, 7, 0)
    assert reading.mode == {"q": "standard", "a12": "performance", "a10": "performance"}[device.kind]
    assert (reading.missing, reading.conditions) == ((), ())


async def test_the_device_is_left_in_peace(device: Avalon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions a look (three where the rate stands elsewhere), one after another, with a rest between them."""
    driver = await found(device)
    device.requests.clear()
    monkeypatch.setattr(avalon, "REST_S", 0.1)
    await driver.read(slow=False)
    began = time.monotonic()
    await driver.read(slow=True)
    assert time.monotonic() - began >= 0.1
    assert device.most_asked_at_once == 1
    assert len(device.requests) == 2 * (3 if device.kind == "a10" else 2)


async def test_sleep_and_a_dead_pool_are_two_things(device: Avalon) -> None:
    """Idle because it was told to be, and hashing nothing for want of a pool."""
    driver = await found(device)
    device.dead_pools = {"pool"}
    idle = await driver.read(slow=False)
    assert (idle.mining, idle.asleep, idle.hashrate_hs) == (False, False, 0)
    assert idle.pools is not None
    assert {p.state for p in idle.pools} == {"dead"}
    device.soft_off = 4
    asleep = await driver.read(slow=False)
    assert (asleep.mining, asleep.asleep, asleep.missing) == (False, True, ())
    assert {b.hashrate_hs for b in asleep.boards} == {None}, "an average that stays is no hashrate"


async def test_faults_become_conditions(device: Avalon) -> None:
    """The maker's codes, with the words of its manual."""
    device.faults.psu, device.faults.fan = 2049, 2
    reading = await (await found(device)).read(slow=False)
    assert [(c.code, c.severity) for c in reading.conditions] == [("psu:2049", "critical"), ("fan:2", "critical")]
    assert "input voltage low, fan failed" in reading.conditions[0].text


async def test_inf_and_nan_are_not_values(q: Avalon) -> None:
    """Not read is unknown and told as missing: never 0, never infinite."""
    q.faults.not_numbers = True
    reading = await (await found(q)).read(slow=False)
    assert (reading.hashrate_hs, reading.hashrate_avg_hs, reading.mining) == (None, None, None)
    assert "hashrate_hs" in reading.missing


async def test_pools_that_cannot_be_asked_are_missing_not_none(device: Avalon) -> None:
    device.faults.no_pools = True
    reading = await (await found(device)).read(slow=False)
    assert (reading.pools, reading.accepted, reading.missing) == (None, None, ("pools",))


def test_text_answers_are_read_like_json() -> None:
    """Commas and pipes inside brackets and words are not separators; what is neither form is BadAnswer."""
    raw = b"STATUS=I,When=7,Code=118,Msg=ASC 0 set info: help|led|reboot|,Description=cgminer 4.11.1|\x00"
    said = said_by(parse_text(raw))
    assert (said.letter, said.code, said.when_s, said.text) == ("I", 118, 7, "ASC 0 set info: help|led|reboot|")
    raw = b"STATUS=S,When=1|STATS=0,ID=AVA100,Elapsed=5,MM ID0=SYSTEMSTATU[Work: In Work, Hash Board: 3 ] HW[2],MM Count=1|\x00"
    fields, uptime_s = machine(parse_text(raw))
    assert (fields["SYSTEMSTATU"], fields["HW"], uptime_s) == ("Work: In Work, Hash Board: 3", "2", 5)
    for bad in (b"", b"<html>", b"\x00\x01", b"hello|world"):
        with pytest.raises(BadAnswer):
            parse_text(bad)


@pytest.mark.parametrize(
    ("text", "options"),
    [("ASC 0 set info: help|led|", {"help", "led"}), ("ASC 0 set OK", set()), ("", set()), ("Unknown option", set())],
)
def test_what_can_be_set(text: str, options: set[str]) -> None:
    assert parse_options(text) == options


@pytest.mark.parametrize("told", ["", "[", "]", "a[b", "Fan1[inf] PS[x 1] MGHS[1 nan 3] TMax[-273] Hash[1]", "PS[0 1 2]", "HW[-1]"])
def test_odd_strings_give_no_values(told: str) -> None:
    """Half brackets and numbers that are none: unknown, and no exception."""
    reading = reading_of(fields_of(told), None, "")
    assert (reading.hashrate_hs, reading.power_w, reading.chip_temp_c, reading.hw_errors, reading.fans_rpm) == (None,) * 4 + ((),)


# ---- who it is ---------------------------------------------------------------------------------------------


async def test_identity(device: Avalon) -> None:
    """Model without the make, a MAC in our form whatever its own, a serial; what it can do by its own list."""
    driver = await identify(Place(device.host, device.api_port))
    assert isinstance(driver, Driver)
    seen = await driver.seen()
    assert (seen.make, seen.mac, seen.serial) == ("avalon", device.mac, device.serial)
    assert seen.model == {"q": "Q", "a12": "1246-83", "a10": "1066"}[device.kind]
    assert seen.firmware == "24010101_sim"
    assert {ActionKind.PAUSE, ActionKind.RESUME, ActionKind.REBOOT} <= set(driver.capabilities)
    assert (ActionKind.LOCATE in driver.capabilities) == (device.kind != "q")
    assert ActionKind.RESTART_MINING not in driver.capabilities


async def test_a_fingerprint_is_two_questions_at_most(device: Avalon) -> None:
    await avalon.fingerprint(Place(device.host, device.api_port))
    assert len(device.requests) <= 2


@pytest.mark.parametrize(
    ("told", "model"),
    [
        ({"PROD": "AvalonMiner 1346-110"}, "1346-110"),
        ({"PROD": "AvalonNano3s"}, "Nano3s"),
        ({"PROD": "Avalon Mini3"}, "Mini3"),
        ({"PROD": "Antminer"}, ""),
        ({}, ""),
    ],
)
def test_products(told: dict[str, str], model: str) -> None:
    assert parse_version({"VERSION": [told]}).model == model


# ---- told apart --------------------------------------------------------------------------------------------


async def test_dead_silent_wrong_password_and_someone_elses_pool(q: Avalon) -> None:
    """Four things that an operator must not confuse: each has its own fault or words."""
    driver = await found(q)
    await driver.set_pools(THREE)
    q.pools[0] = {"url": "stratum+tcp://thief.invalid:3333", "user": "thief", "pass": "x"}
    assert mines_on(await driver.read(slow=False), THREE) == (False, "it still works with other pools")
    q.password = "changed"
    with pytest.raises(WrongPassword):
        await driver.set_pools(THREE)
    q.hung = True
    with pytest.raises(TimedOut):
        await driver.read(slow=False)
    await q.power(False)
    with pytest.raises(Unreachable) as caught:
        await driver.read(slow=False)
    assert not isinstance(caught.value, TimedOut)


async def test_a_hostile_device(device: Avalon) -> None:
    """Endless answers and web pages are BadAnswer, in no time."""
    driver = await found(device)
    began = time.monotonic()
    for name in ("endless", "html"):
        setattr(device.faults, name, True)
        with pytest.raises(BadAnswer):
            await driver.read(slow=False)
        setattr(device.faults, name, False)
    assert time.monotonic() - began < 10


# ---- orders ------------------------------------------------------------------------------------------------


async def test_pause_and_resume(device: Avalon) -> None:
    """It really stops hashing and really begins again, by the device's own clock; `softon` closes without a word."""
    driver = await found(device)
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert reading.hashrate_hs == 0
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    first, second = (order.split(",")[0] for order in device.orders)
    assert (first, second) == (("hashpower", "reboot") if device.kind == "a10" else ("softoff", "softon"))


async def test_reboot_begins_anew(device: Avalon) -> None:
    driver = await found(device)
    await driver.reboot()
    assert restarted(await driver.read(slow=False), since_order_s=1, was_away=False)
    assert device.reboots == 1
    with pytest.raises(NotSupported) as caught:
        await driver.restart_mining()
    assert "reboot" in caught.value.hint


async def test_the_light(device: Avalon) -> None:
    """Set and read back; a home model has none that can be set, and says so."""
    driver = await found(device)
    if device.kind == "q":
        assert await driver.locating() is None
        with pytest.raises(NotSupported):
            await driver.locate(True)
        return
    for on in (True, False):
        await driver.locate(on)
        assert device.blinking is on
        assert await driver.locating() is on


async def test_set_pools_of_a_home_model(q: Avalon) -> None:
    """Three slots, then a reboot; the same again writes nothing; what it had goes back."""
    driver = await found(q)
    before = await driver.pools()
    assert len(before) == 3
    await driver.set_pools(THREE)
    assert q.orders == ["setpool,0", "setpool,1", "setpool,2", "reboot,0"]
    assert await driver.pools() == THREE
    assert mines_on(await driver.read(slow=False), THREE)[0]
    await driver.set_pools(THREE)
    assert len(q.orders) == 4
    await driver.set_pools((THREE[0], before[1], THREE[2]))
    assert q.orders[4:] == ["setpool,1", "reboot,0"]


async def test_a_home_model_cannot_clear_a_slot(q: Avalon) -> None:
    """A left-over pool would get the hashes when ours fails: told, and nothing is written."""
    with pytest.raises(Conflict, match="cannot clear"):
        await (await found(q)).set_pools(ONE)
    assert q.orders == []


@pytest.mark.parametrize("kind", ["a12", "a10"])
async def test_set_pools_of_the_others(kind: str) -> None:
    """The first pool only; more is NotSupported with what to do instead."""
    async with Avalon(kind) as device:
        driver = await found(device)
        await driver.set_pools(ONE)
        assert device.orders == ["setpool,0", "reboot,0"]
        assert await driver.pools() == ONE
        assert mines_on(await driver.read(slow=False), ONE)[0]
        with pytest.raises(NotSupported) as caught:
            await driver.set_pools(THREE)
        assert "web page" in caught.value.hint
        assert device.orders == ["setpool,0", "reboot,0"]


async def test_pools_are_not_written_when_they_could_not_be_read(device: Avalon) -> None:
    driver = await found(device)
    device.faults.no_pools = True
    with pytest.raises((BadAnswer, Refused)):
        await driver.set_pools(THREE)
    assert device.orders == []


@pytest.mark.parametrize(
    "pool",
    [
        PoolOrder("stratum+tcp://a:1,b", "u"),
        PoolOrder("stratum+tcp://a:1", "u|ascset|0"),
        PoolOrder("stratum+tcp://a:1", "u", "p q"),
        PoolOrder("", "u"),
    ],
)
async def test_pools_that_would_be_another_command(q: Avalon, pool: PoolOrder) -> None:
    """Commas and pipes are what commands are made of: BadInput, and nothing is sent."""
    with pytest.raises(BadInput):
        await (await found(q)).set_pools((pool, *THREE[1:]))
    assert q.orders == []


async def test_wrong_password_and_the_right_one(device: Avalon) -> None:
    """Refused before any slot is written, without the password in the words."""
    device.password = "changed"
    wanted = THREE if device.kind == "q" else ONE
    with pytest.raises(WrongPassword) as caught:
        await (await found(device, "s3cret")).set_pools(wanted)
    assert "s3cret" not in str(caught.value)
    assert device.orders == []
    await (await found(device, "changed")).set_pools(wanted)
    assert device.reboots == 1
    with pytest.raises(WrongPassword):
        await (await found(device, "a,b")).set_pools(THREE[::-1] if device.kind == "q" else THREE[1:2])


async def test_refused_orders_are_told(a12: Avalon) -> None:
    driver = await found(a12)
    a12.faults.refuse_orders = True
    for order in (driver.pause, driver.resume, driver.reboot):
        with pytest.raises(Refused):
            await order()
    assert a12.orders == []


async def test_an_order_without_an_answer_is_no_fault_and_is_sent_once(device: Avalon) -> None:
    device.faults.drop_reply = True
    driver = await found(device)
    await driver.pause()
    assert len(device.orders) == 1
    assert (await driver.read(slow=False)).asleep


async def test_an_order_that_did_nothing_is_seen(a12: Avalon) -> None:
    """It says OK and does nothing: the caller's look finds it awake."""
    a12.faults.ignore_orders = True
    driver = await found(a12)
    await driver.pause()
    assert not sleeps(await driver.read(slow=False), True)


async def test_orders_to_a_dead_device(device: Avalon) -> None:
    """Nothing went out: Unreachable, not success."""
    driver = await found(device)
    await driver.seen()
    await device.power(False)
    for order in (driver.reboot, driver.pause, driver.resume):
        with pytest.raises(Unreachable):
            await order()
    assert device.orders == []


async def test_power_comes_back(q: Avalon) -> None:
    driver = await found(q)
    await q.power(False)
    await asyncio.sleep(0)
    await q.power(True)
    assert (await driver.read(slow=False)).uptime_s == 0


# ---- a second opinion --------------------------------------------------------------------------------------


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
def test_the_recorded_a1246() -> None:
    """A real device's string, mining on three boards."""
    value = parse((RECORDED / "avalon_a_stats.json").read_bytes()).value
    reading = reading_of(*machine(value), "AvalonMiner 1246-83")
    assert (reading.mining, reading.asleep, reading.uptime_s) == (True, False, 24684)
    assert reading.hashrate_hs == pytest.approx(81.07268e12)
    assert reading.expected_hashrate_hs == pytest.approx(83.92304e12)
    assert (reading.power_w, reading.inlet_temp_c, reading.chip_temp_c, reading.hw_errors) == (3504, 30, 77, 2735)
    assert reading.fans_rpm == (5344, 5392, 5349, 5309)
    assert [b.hashrate_hs for b in reading.boards] == pytest.approx([26.90701e12, 26.02506e12, 26.72456e12])
    assert [(b.chip_temp_c, b.chips, b.chips_expected, b.hw_errors) for b in reading.boards] == [
        (77, 120, 120, 999),
        (77, 120, 120, 697),
        (76, 120, 120, 1039),
    ]
    assert (reading.mode, reading.conditions) == ("performance", ())


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
def test_the_recorded_help_of_a_q() -> None:
    """A Q lists no light and no `setpool`, and both ways to sleep and wake."""
    options = parse_options(said_by(parse((RECORDED / "ascset_help.json").read_bytes()).value).text)
    assert {"reboot", "softon", "softoff", "workmode"} <= options
    assert not options & {"led", "setpool"}
