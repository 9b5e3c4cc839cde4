"""The Bitaxe driver against the simulated device, on real sockets: reading, peace and quiet, orders, pools, what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, NotFound, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.bitaxe import Bitaxe as Driver
from sentry_asic.makes.bitaxe_parse import parse_info, parse_pools, settings_for
from sentry_asic.order_rules import holds_pools, mines_on, restarted, sleeps
from sentry_asic.probe import probe
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.simulators.bitaxe import Bitaxe

POOLS = (PoolOrder("stratum+tcp://new.invalid:3334", "wallet.axe-1", "y"), PoolOrder("stratum+tcp://other.invalid:443", "w"))


@pytest_asyncio.fixture(params=["axeos", "old", "nerd"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Bitaxe]:
    async with Bitaxe(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def axeos() -> AsyncIterator[Bitaxe]:
    async with Bitaxe("axeos") as simulated:
        yield simulated


def place(device: Bitaxe) -> Place:
    return Place(device.host, closed_port(), device.port)


def driver_of(device: Bitaxe) -> Driver:
    return Driver(place(device))


async def until_back(device: Bitaxe, driver: Driver) -> None:
    """It went away and answers again."""
    async with asyncio.timeout(20):
        while True:
            try:
                if (await driver.read(slow=True)).uptime_s in range(5):
                    return
            except Unreachable:
                pass
            await asyncio.sleep(0.05)


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Bitaxe) -> None:
    """One answer has it all, in base units: GH/s are H/s, mV are V."""
    driver = driver_of(device)
    seen = await driver.seen()
    reading = await driver.read(slow=True)
    assert device.requests == ["GET /api/system/info"], "one look, one question"
    assert (reading.mining, reading.missing, reading.conditions) == (True, (), ())
    assert reading.hashrate_hs == pytest.approx(1.2015e12)
    assert (reading.power_w, reading.power_source, reading.fan_pct) == (18.2, "miner", 42)
    assert reading.chip_temp_c == (59.0 if device.kind == "nerd" else 58.5)
    assert reading.temp_c == 61
    assert reading.boards[0].frequency_mhz == 525
    assert reading.fans_rpm == ((4100, 4000) if device.kind == "nerd" else (4100,))
    assert reading.voltage_v == (None if device.kind == "nerd" else pytest.approx(5.12))
    assert reading.expected_hashrate_hs == (pytest.approx(1.071e12) if device.kind == "axeos" else None)
    assert reading.accepted
    assert (reading.rejected, reading.stale) == (2, None)
    assert reading.pools is not None
    assert [(p.url, p.user, p.active) for p in reading.pools] == [
        ("stratum+tcp://pool.invalid:3333", "factory.worker", True),
        ("stratum+tcp://spare.invalid:3333", "factory.worker", False),
    ]
    assert (seen.make, seen.mac, seen.firmware) == ("bitaxe", device.mac, "v2.12.0-sim")
    assert seen.model == ("NerdQAxe+" if device.kind == "nerd" else "BM1370")
    assert seen.facts["core_voltage_mv"] == "1146"


async def test_each_look_is_fresh_and_closes_its_connection(axeos: Bitaxe) -> None:
    """What a look has just read is shared only inside of it; no connection stays open, and there is never a second one."""
    driver = driver_of(axeos)
    await driver.read(slow=True)
    axeos.paused = True
    assert (await driver.read(slow=True)).asleep
    assert (axeos.connections, axeos.now, axeos.most_at_once) == (2, 0, 1)


async def test_the_fallback_in_use_is_told(device: Bitaxe) -> None:
    """Its first pool is dead: it mines on the second, and says so."""
    device.dead_pools.add("pool.")
    reading = await driver_of(device).read(slow=True)
    assert reading.pools is not None
    assert [p.active for p in reading.pools] == [False, True]
    assert reading.pools[1].state == "alive"
    assert [c.code for c in reading.conditions] == ["fallback_pool"]


async def test_its_own_faults_become_conditions(axeos: Bitaxe) -> None:
    """Overheated: critical."""
    axeos.overheated = 1
    reading = await driver_of(axeos).read(slow=True)
    assert [(c.code, c.severity) for c in reading.conditions] == [("overheat_mode", "critical")]


def test_odd_values() -> None:
    """Numbers as text, sensors that did not answer, a second fan that is not there, nothing at all."""
    reading = parse_info(
        {"hashRate": "431.5", "temp": -1, "vrTemp": 0, "fanrpm": 0, "fan2rpm": 0, "power": "inf", "uptimeSeconds": 7}
    )
    assert reading.hashrate_hs == pytest.approx(431.5e9)
    assert (reading.temp_c, reading.chip_temp_c, reading.fans_rpm, reading.power_w, reading.power_source) == (
        None,
        None,
        (0,),
        None,
        None,
    )
    assert reading.missing == ("power_w", "chip_temp_c", "accepted", "rejected", "pools")
    nothing = parse_info({})
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.pools, nothing.mode) == (None, None, None, None, None)
    assert "fans_rpm" in nothing.missing


def test_pools_as_people_write_them() -> None:
    """A scheme inside the host, TLS beside it, an empty second one; no shares yet: nothing proves that a pool is alive."""
    told = {
        "stratumURL": "stratum+tcp://a.invalid",
        "stratumPort": "3333",
        "stratumTLS": 1,
        "fallbackStratumURL": "",
        "hashRate": 9,
    }
    pools = parse_pools({**told, "sharesAccepted": 0, "isUsingFallbackStratum": 0})
    assert pools is not None
    assert [(p.url, p.state, p.active) for p in pools] == [("stratum+ssl://a.invalid:3333", None, True)]


async def test_found_without_port_4028(device: Bitaxe) -> None:
    """Nothing listens on 4028: it is identified by its HTTP answer, in few questions; a web page of something else is not."""
    driver = await identify(place(device))
    assert driver.make == "bitaxe"
    assert device.requests == ["GET /", "GET /api/system/info"]
    found = await probe(f"127.0.0.1:{closed_port()}", http_port=device.port)
    assert (found.ok, found.found["state"], found.found["mac"]) == (True, "mining", device.mac)
    device.faults.html = True
    with pytest.raises(NotFound, match="no device we know"):
        await identify(place(device))


# ---- orders ------------------------------------------------------------------------------------------------


async def test_capabilities_are_what_the_firmware_has(device: Bitaxe) -> None:
    """Pause, resume and locate with the firmware that has them; else NotSupported with what to do instead."""
    driver = driver_of(device)
    await driver.read(slow=False)
    more = {ActionKind.PAUSE, ActionKind.RESUME, ActionKind.LOCATE}
    always = {ActionKind.REBOOT, ActionKind.APPLY_FLIGHT_SHEET, ActionKind.SET_FAN, ActionKind.SET_HOSTNAME}
    assert set(driver.capabilities) - more == always
    assert (more <= set(driver.capabilities)) == (device.kind == "axeos")
    works: list[Callable[[], Awaitable[None]]] = [driver.restart_mining]
    if device.kind != "axeos":
        works += [driver.pause, driver.resume, lambda: driver.locate(True)]
    for work in works:
        with pytest.raises(NotSupported) as caught:
            await work()
        assert caught.value.hint
    assert not device.paused


async def test_pause_really_stops_it(axeos: Bitaxe) -> None:
    """No hash, asleep by its own word, and back."""
    driver = driver_of(axeos)
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.hashrate_hs, reading.mode, reading.missing) == (0, "paused", ())
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)


async def test_pause_by_the_other_path(axeos: Bitaxe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions have one path for both words."""
    real, asked = axeos._answer, []

    def other(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path in ("/api/system/pause", "/api/system/resume"):
            return 404, b'{"error":"unknown route"}'
        if path == "/api/system/mining":
            asked.append(body)
            return 200, b'{"paused":true}'
        return real(method, path, body)

    monkeypatch.setattr(axeos, "_answer", other)
    await driver_of(axeos).pause()
    assert asked == [b'{"pause":true}']


async def test_locate_turns_the_light_the_right_way(axeos: Bitaxe) -> None:
    """The order toggles: asking twice for on leaves it on. Whether it blinks, the device does not tell."""
    driver = driver_of(axeos)
    for on in (True, True, False, False):
        await driver.locate(on)
        assert axeos.blinking is on
    assert await driver.locating() is None


@pytest.mark.parametrize("drop", [False, True])
async def test_reboot(device: Bitaxe, drop: bool) -> None:
    """One order, one restart, also when the connection dies instead of answering; the uptime begins anew."""
    device.faults.drop_reply = drop
    driver = driver_of(device)
    await driver.reboot()
    assert device.restarts == 1
    await until_back(device, driver)
    assert restarted(await driver.read(slow=True), since_order_s=10, was_away=True)


# ---- pools -------------------------------------------------------------------------------------------------


async def test_set_pools(device: Bitaxe) -> None:
    """Both pools, then the restart that AxeOS needs; only then it is said to mine there; the rest of its settings stays."""
    device.stored["hostname"] = "mine"
    driver = driver_of(device)
    await driver.set_pools(POOLS)
    reading = await driver.read(slow=True) if device.kind == "nerd" else None
    if device.kind != "nerd":
        assert device.restarts == 1
        await until_back(device, driver)
    reading = await driver.read(slow=True)
    assert mines_on(reading, POOLS)[0]
    assert device.stored["stratumPassword"] == "y"
    assert device.stored["hostname"] == "mine"
    assert holds_pools(await driver.pools(), POOLS)


async def test_what_it_shows_before_its_restart_proves_nothing(axeos: Bitaxe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows new pools at once, and works with the old ones until it starts anew."""
    monkeypatch.setattr(axeos, "_restart", lambda: asyncio.sleep(0))  # it takes the order, and nothing happens
    driver = driver_of(axeos)
    await driver.set_pools(POOLS)
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert holds_pools(reading.pools, POOLS)
    assert [p.state for p in reading.pools] == [None, None]
    assert mines_on(reading, POOLS) == (False, "no pool is alive")


async def test_one_pool_clears_the_second(axeos: Bitaxe) -> None:
    """What is not wanted is not left behind as a fallback."""
    driver = driver_of(axeos)
    await driver.set_pools(POOLS[:1])
    await until_back(axeos, driver)
    assert [p.url for p in await driver.pools()] == [POOLS[0].url]


async def test_the_same_pools_are_not_written_again(axeos: Bitaxe) -> None:
    """A write restarts it: none when nothing changes."""
    driver = driver_of(axeos)
    await driver.set_pools(await driver.pools())
    assert [r for r in axeos.requests if not r.startswith("GET")] == []


@pytest.mark.parametrize("breakage", ["no pools", "html", "off"])
async def test_no_write_after_a_read_that_failed(axeos: Bitaxe, breakage: str) -> None:
    """What it has now cannot be gone back to, so nothing is written."""
    if breakage == "no pools":
        axeos.faults.no_pools = True
    elif breakage == "html":
        axeos.faults.html = True
    else:
        await axeos.power(False)
    with pytest.raises((BadAnswer, Unreachable)):
        await driver_of(axeos).set_pools(POOLS)
    assert [r for r in axeos.requests if not r.startswith("GET")] == []


@pytest.mark.parametrize(
    "pools",
    [
        (),
        POOLS * 2,
        (PoolOrder("stratum+tcp://no-port.invalid", "u"),),
        (PoolOrder("http://p.invalid:80", "u"),),
        (PoolOrder("stratum+tcp://a b:1", "u"),),
        (PoolOrder("stratum+ssl://tls.invalid:443", "u"),),
    ],
)
def test_pools_that_make_no_sense(pools: tuple[PoolOrder, ...]) -> None:
    """None, more than two, no port, no stratum, spaces, TLS where the firmware has none: BadInput."""
    with pytest.raises(BadInput):
        settings_for({"stratumURL": "x", "fallbackStratumURL": "y"}, pools)


def test_tls_where_the_firmware_has_it() -> None:
    """Set when asked for, cleared when not, in the type that this firmware uses; left alone when it is right."""
    pool = (PoolOrder("stratum+ssl://tls.invalid:443", "u"),)
    assert settings_for({"stratumURL": "x", "stratumTLS": 0}, pool)["stratumTLS"] == 1
    assert settings_for({"stratumURL": "x", "stratumTLS": False}, pool)["stratumTLS"] is True
    assert "stratumTLS" not in settings_for({"stratumURL": "x", "stratumTLS": 2}, pool)
    assert settings_for({"stratumURL": "x", "stratumTLS": 1}, (POOLS[0],))["stratumTLS"] == 0


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_refusals_are_told_apart(device: Bitaxe) -> None:
    """A one-time password for changes; an address that it does not let in; a setting that it does not take."""
    device.faults.otp = True
    with pytest.raises(WrongPassword, match="one-time password"):
        await driver_of(device).set_pools(POOLS)
    assert (await driver_of(device).read(slow=True)).mining, "reading needs none"
    device.faults.otp, device.faults.refuse = False, True
    with pytest.raises(Refused, match="Wrong API input"):
        await driver_of(device).set_pools(POOLS)
    device.faults.locked_out = True
    with pytest.raises(Refused, match="private addresses"):
        await driver_of(device).read(slow=True)
    assert device.stored["stratumURL"] == "pool.invalid"
    assert device.restarts == 0


async def test_dead_hung_and_strange_pools_are_told_apart(device: Bitaxe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mining for somebody else; no pool alive; talking without end; silent; refused."""
    monkeypatch.setattr("sentry_asic.makes.bitaxe._ANSWER_S", 2)  # a limit, not behaviour
    driver = driver_of(device)
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools |= {"pool.", "spare."}
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep or False) == (False, False)
    device.faults.endless = True
    with pytest.raises(BadAnswer):
        await driver.read(slow=True)
    device.faults.endless, device.faults.hung = False, True
    with pytest.raises(TimedOut):
        await driver.read(slow=True)
    device.faults.hung = False
    await device.power(False)
    for work in (driver.read(slow=True), driver.reboot()):
        with pytest.raises(Unreachable) as caught:
            await work
        assert not isinstance(caught.value, TimedOut)
