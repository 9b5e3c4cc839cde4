"""The Auradine driver against the simulated device, on real sockets: both ports, the token, orders, what goes wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from garrison.faults import BadInput, NotSupported, Refused, TimedOut, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.auradine import Auradine as Driver
from sentry_asic.makes.auradine import fingerprint
from sentry_asic.makes.auradine_parse import Answers, is_ours, parse_reading, parse_seen
from sentry_asic.order_rules import holds_pools, mines_on, restarted, sleeps
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.sentry_asic.makes.looks import believes_no_rubbish, is_unreachable, until_restarted
from tests.simulators.auradine import Auradine
from tests.simulators.cgminer import Cgminer

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))
SET = "POST /updatepools"
RECORDED = Path(__file__).parents[4] / "shared" / "recorded" / "auradine"


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Auradine]:
    async with Auradine() as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Auradine) -> AsyncIterator[Driver]:
    made = Driver(Place(device.host, device.port, device.web.port))
    yield made
    await made.close()


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Auradine, driver: Driver) -> None:
    """From both ports, in base units, by one log-in; a sensor of 0 is none; the control board is no hash board."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (True, False, "normal", (), ())
    assert reading.hashrate_hs == pytest.approx(150e12)
    assert (reading.power_w, reading.power_source, reading.voltage_v, reading.power_limit_w) == (3452.5, "miner", 241, None)
    assert reading.fans_rpm == (7000, 7010, 7020, 7030)
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.chips_expected, b.frequency_mhz) for b in reading.boards] == [
        (i, 50.0 + i, 70.0 + i, None, 132, 300.5) for i in (1, 2, 3)
    ]
    assert (reading.temp_c, reading.chip_temp_c, reading.rejected, reading.hw_errors) == (53, 73, 3, 7)
    assert reading.uptime_s is not None
    assert reading.uptime_s >= 3600
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac, seen.serial) == ("auradine", "AT1500", device.mac, device.serial)
    assert (seen.firmware, seen.facts["algorithm"]) == ("2099-01.01", "sha256")
    assert (device.log_ins, device.api.most_at_once, device.web.most_at_once) == (1, 1, 1)


async def test_what_it_is_told_to_keep_to(device: Auradine, driver: Driver) -> None:
    """A power, or a rate; with both told, which of them it keeps to is not, so nothing is expected of it."""
    device.mode = {"Mode": "custom", "Power": 2000, "Ths": 160}
    reading = await driver.read(slow=False)
    assert (reading.mode, reading.power_limit_w, reading.expected_hashrate_hs) == ("custom", 2000, None)
    device.mode = {"Mode": "custom", "Ths": 160}
    reading = await driver.read(slow=False)
    assert (reading.power_limit_w, reading.expected_hashrate_hs) == (None, 160e12)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("pools", {"pools"}),
        ("psu", {"power_w"}),
        ("fan", {"fans_rpm"}),
        ("mode", {"mode"}),
        ("led", {"errors"}),
        ("temperature", set()),
    ],
)
async def test_what_was_not_told_is_missing(device: Auradine, driver: Driver, command: str, names: set[str]) -> None:
    """One command fails: its value is None and named, the rest is read. A board's temperature stands in two answers."""
    device.without = {command}
    reading = await driver.read(slow=True)
    assert set(reading.missing) == names
    assert reading.mining is True


async def test_its_own_faults_become_conditions(device: Auradine, driver: Driver) -> None:
    """What its lights show; not that they show where it stands."""
    device.led, device.led_message = 4, "Temperature too high"
    reading = await driver.read(slow=True)
    assert [(c.code, c.text, c.severity) for c in reading.conditions] == [("led:4", "Temperature too high", "warning")]
    device.led = 3
    assert (await driver.read(slow=True)).conditions == ()
    device.spoilt = {"devs": [{"ID": 1, "Status": "Dead"}, {"ID": 2, "Status": "Alive", "MHS 5s": 5e7}]}
    reading = await driver.read(slow=False)
    assert [(c.code, c.severity) for c in reading.conditions] == [("boards_missing", "critical")]


async def test_without_its_miner_it_is_there_and_does_not_mine(device: Auradine, driver: Driver) -> None:
    """Port 4028 is shut: asleep by its other port's word, or down."""
    await device.api.shut()
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, [c.code for c in reading.conditions]) == (False, False, ["miner_down"])
    device.asleep = True
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.mode, reading.conditions) == (False, True, "sleep", ())


def test_odd_values() -> None:
    """Nothing at all, wrong types, endless numbers of parts: bounded, None, named."""
    nothing = parse_reading(Answers())
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.power_w, nothing.mode) == (None, None, None, None, None)
    assert set(nothing.missing) == {
        "accepted",
        "pools",
        "mode",
        "hashrate_hs",
        "power_w",
        "uptime_s",
        "temp_c",
        "boards",
        "fans_rpm",
    }
    odd = parse_reading(
        Answers(
            summary=[{"MHS 5s": "inf", "Elapsed": -4}],
            devs=[{"ID": "x", "Temperature": 999}] * 99,
            psu=[{"PowerIn": "58.94"}, {"PowerIn": 7}],
            temperature=[{"ID": 10**30, "BoardTemp": 3, "ChipTemp": None}],
            mode=[{"Sleep": "maybe", "Power": True}],
            fan=[],
        )
    )
    assert (len(odd.boards), odd.power_w, odd.hashrate_hs, odd.asleep, odd.power_limit_w) == (16, None, None, None, None)
    assert "fans_rpm" not in odd.missing, "it answered that it has none: cooled by water"
    assert (is_ours(["GCMiner"]), parse_seen({}, "auradine").model) == (False, "")


async def test_identified_by_the_name_of_its_program(device: Auradine) -> None:
    """Among all makes; also where 4028 is shut, by what the other port says to somebody without a token. A cgminer is none."""
    place = Place(device.host, device.port, device.web.port)
    found = await identify(place)
    assert found.make == "auradine"
    await found.close()
    await device.api.shut()
    driver, _ = await fingerprint(place)
    assert driver is not None
    assert "POST /token" not in device.web.asked, "the password is for those who are known"
    device.web.faults.html = True
    assert (await fingerprint(place))[0] is None
    async with Cgminer() as other:
        assert (await fingerprint(Place(other.host, other.port, closed_port())))[0] is None


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
def test_the_recorded_device() -> None:
    """A second opinion, of several versions at once."""
    told = {path.stem: json.loads(path.read_bytes()) for path in RECORDED.glob("*.json")}
    nameless = {name for name, answer in told.items() if not is_ours(answer)}
    assert nameless == {"temperature", "voltage", "frequency"}, "a newer version"
    sections = {
        name: next(v for k, v in answer.items() if k not in ("STATUS", "id"))
        for name, answer in told.items()
        if name not in ("version", "voltage")
    }
    seen = parse_seen(sections.pop("ipreport")[0], "auradine")
    assert (seen.model, seen.serial, seen.mac, seen.firmware) == ("AT1500", "AU23200006", "1c:00:00:0e:3b:2b", "2023-12.27")
    reading = parse_reading(Answers(**sections))
    assert (reading.mining, reading.asleep, reading.mode, reading.uptime_s) == (True, False, "custom", 56696)
    assert reading.hashrate_hs == pytest.approx(20.5997671774699e12)
    assert (reading.power_w, reading.voltage_v, reading.fans_rpm) == (58.94, 245, (7080, 7020, 7100, 7020))
    assert [(b.slot, b.hashrate_hs, b.temp_c, b.chips_expected) for b in reading.boards] == [
        (1, 6.8e12, 41.5, 132),
        (2, 6.9e12, 43.0, 132),
        (3, 7.0e12, 47.5, 132),
    ]
    assert reading.pools is not None
    assert [(p.state, p.accepted, p.active) for p in reading.pools] == [("alive", 10, True), ("dead", 0, False), ("dead", 0, False)]
    assert (reading.missing, reading.conditions) == ((), ())


# ---- orders ------------------------------------------------------------------------------------------------


async def test_orders(device: Auradine, driver: Driver) -> None:
    """All that it can; asleep by its own word, and awake again; the light on and off, and read back."""
    assert set(driver.capabilities) == {
        ActionKind.REBOOT, ActionKind.RESTART_MINING, ActionKind.PAUSE, ActionKind.RESUME, ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
    }  # fmt: skip
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.hashrate_hs, reading.mode, reading.missing) == (0, "sleep", ())
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on
    await driver.restart_mining()
    assert (device.restarts, device.reboots) == (1, 0)
    assert restarted(await driver.read(slow=False), since_order_s=5, was_away=False)


async def test_reboot_once_also_without_an_answer(device: Auradine, driver: Driver) -> None:
    """One order, one restart; the uptime begins anew, and so does the log-in."""
    device.drop_reply = True
    await driver.reboot()
    await until_restarted(driver)
    assert (device.reboots, device.web.orders("POST /restart")) == (1, ["POST /restart"])


async def test_set_pools(device: Auradine, driver: Driver) -> None:
    """Exactly these with their passwords, which it never tells; so the same names are sent too."""
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker"),)
    for _ in range(2):
        await driver.set_pools(POOLS)
    assert device.pools == [{"url": p.url, "user": p.user, "pass": p.password} for p in POOLS]
    assert holds_pools(await driver.pools(), POOLS)
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    assert len(device.web.orders(SET)) == 2


async def test_no_write_after_a_read_that_failed(device: Auradine, driver: Driver) -> None:
    """Without its pools nothing is written; nor what makes no sense."""
    device.without = {"pools"}
    with pytest.raises(Refused):
        await driver.set_pools(POOLS)
    device.without = set()
    with pytest.raises(BadInput):
        await driver.set_pools(POOLS * 2)
    assert device.web.orders(SET) == []


@pytest.mark.parametrize("in_words", [False, True])
async def test_a_token_that_ended_costs_one_more_log_in(device: Auradine, driver: Driver, in_words: bool) -> None:
    """By HTTP's status or in words: in again, once."""
    device.says_ended = in_words
    await driver.locating()
    await driver.locating()
    assert device.log_ins == 1
    device.token = "of.somebody.else"
    assert await driver.locating() is False
    assert device.log_ins == 2


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_refusals_are_told_apart(device: Auradine, driver: Driver) -> None:
    """An order that it will not; one that its firmware has not; a wrong password, with which the open port is still read."""
    device.refuses = "autotuning"
    with pytest.raises(Refused, match="autotuning"):
        await driver.pause()
    device.refuses, device.without = "", {"mode"}
    with pytest.raises(NotSupported):
        await driver.pause()
    device.without = set()
    other = Driver(Place(device.host, device.port, device.web.port, Credentials("admin", "hunter2")))
    for work in (other.pause(), other.seen(), other.set_pools(POOLS)):
        with pytest.raises(WrongPassword) as caught:
            await work
        assert "hunter2" not in str(caught.value)
    device.web.asked.clear()
    reading = await other.read(slow=True)
    assert (reading.mining, reading.power_w, [c.code for c in reading.conditions]) == (True, None, ["wrong_password"])
    assert {"power_w", "fans_rpm", "mode", "errors"} <= set(reading.missing)
    assert device.web.asked == ["POST /token"], "one try with a look: somebody may be counting"
    assert (device.asleep, device.web.orders(SET)) == (False, [])
    await other.close()


async def test_dead_hung_and_strange_pools_are_told_apart(
    device: Auradine, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining for somebody else; no pool alive; talking without end; a web page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert reading.pools is not None
    assert (reading.mining, reading.asleep, [p.state for p in reading.pools]) == (False, False, ["dead"])
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools]
    await believes_no_rubbish([device.api, device.web], looks)
    monkeypatch.setattr("sentry_asic.makes.auradine._ANSWER_S", 0.3)  # a limit, not behaviour
    slow = Driver(Place(device.host, device.port, device.web.port))
    for port in (device.api, device.web):
        port.faults.hung = True
        with pytest.raises(TimedOut):
            await slow.read(slow=True)
        port.faults.hung = False
    await device.power(False)
    await is_unreachable((lambda: driver.read(slow=True), driver.reboot))
    await slow.close()
