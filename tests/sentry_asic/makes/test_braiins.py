"""The Braiins OS driver against the simulated device, on real sockets, with a REST API and without: reading, orders, pools,
log-ins, what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, NotFound, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import POWER_ACTIONS, SETTINGS, ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.braiins import Braiins as Driver
from sentry_asic.makes.braiins_old_parse import Answers as OldAnswers
from sentry_asic.makes.braiins_old_parse import error_of
from sentry_asic.makes.braiins_old_parse import parse_reading as parse_old
from sentry_asic.makes.braiins_parse import Answers, parse_groups, parse_reading, parse_seen
from sentry_asic.order_rules import holds_pools, mines_on, restarted, sleeps
from sentry_asic.probe import probe
from sentry_asic.table import identify
from tests.ports import closed_port
from tests.sentry_asic.makes.looks import is_unreachable
from tests.simulators.braiins import BOARDS, CHIPS, FIRMWARE, Braiins

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum2+tcp://spare.invalid:443/key", "w"))
WRITES = ("PUT /api/v1/pools/batch",)
RECORDED = Path(__file__).parents[4] / "shared" / "recorded" / "braiins-25.07"


@pytest_asyncio.fixture(params=["rest", "old"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Braiins]:
    async with Braiins(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Braiins) -> AsyncIterator[Driver]:
    made = driver_of(device)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def rest() -> AsyncIterator[Braiins]:
    async with Braiins("rest") as simulated:
        yield simulated


@pytest_asyncio.fixture
async def old() -> AsyncIterator[Braiins]:
    async with Braiins("old") as simulated:
        yield simulated


def driver_of(device: Braiins, password: str | None = None) -> Driver:
    credentials = None if password is None else Credentials("root", password)
    return Driver(Place(device.host, device.port, device.web.port, credentials))


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                if await done():
                    return
            except Unreachable:
                pass
            await asyncio.sleep(0.02)


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Braiins, driver: Driver) -> None:
    """The same by both ways, in base units, by the unit that each states."""
    seen = await driver.seen()
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.missing, reading.conditions) == (True, False, (), ())
    assert reading.hashrate_hs == pytest.approx(140e12)
    assert reading.expected_hashrate_hs == pytest.approx(142e12)
    assert (reading.power_w, reading.power_source, reading.power_limit_w) == (3010, "miner", 3000)
    assert reading.mode == ("power target" if device.kind == "rest" else "normal")
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.chips_expected) for b in reading.boards] == [
        (i + 1, 52.0 + i, 66.0 + i, CHIPS, CHIPS) for i in range(BOARDS)
    ]
    assert [b.hashrate_hs for b in reading.boards] == [pytest.approx(140e12 / 3)] * 3
    assert (reading.fans_rpm, reading.temp_c, reading.chip_temp_c) == ((5100, 5130, 5160, 5190), 54, 68)
    assert (reading.rejected, reading.stale) == (2, 1)
    assert reading.uptime_s in range(3600, 3610)
    assert reading.pools is not None
    assert [(p.url, p.user, p.state, p.active) for p in reading.pools] == [
        ("stratum+tcp://pool.invalid:3333", "factory.worker", "alive", True)
    ]
    assert (seen.make, seen.model, seen.mac, seen.firmware) == ("braiins", "S19 XP", device.mac, FIRMWARE[device.kind])
    assert seen.facts["algorithm"] == "sha256"
    if device.kind == "rest":
        assert (seen.serial, reading.inlet_temp_c, reading.outlet_temp_c) == (device.serial, 42, 56)
        assert reading.boards[0].frequency_mhz == pytest.approx(480)
        assert (device.log_ins, device.api.asked) == (1, []), "one log-in for all, and port 4028 left alone"


@pytest.mark.parametrize(
    ("path", "name"),
    [("miner/stats", "hashrate_hs"), ("miner/hw/hashboards", "boards"), ("cooling/state", "fans_rpm"), ("miner/errors", "errors")],
)
async def test_what_rest_did_not_tell_is_missing(rest: Braiins, path: str, name: str) -> None:
    """One path fails: named, and the rest is read."""
    rest.without = {path}
    driver = driver_of(rest)
    reading = await driver.read(slow=True)
    assert name in reading.missing
    assert reading.asleep is False
    await driver.close()


@pytest.mark.parametrize(("command", "name"), [("devs", "boards"), ("fans", "fans_rpm"), ("pools", "pools")])
async def test_what_port_4028_did_not_tell_is_missing(old: Braiins, command: str, name: str) -> None:
    """One command fails: named, and the rest is read."""
    old.without = {command}
    driver = driver_of(old)
    reading = await driver.read(slow=True)
    assert (reading.missing, reading.mining) == ((name,), True)
    await driver.close()


async def test_states_of_its_own(rest: Braiins) -> None:
    """Suspended is not asleep and not mining; a service that does not run is a fault, and on a fresh start none."""
    driver = driver_of(rest)
    rest.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, [c.code for c in reading.conditions]) == (False, False, ["suspended"])
    rest.stopped = True
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.booting, [c.code for c in reading.conditions]) == (False, False, ["miner_down"])
    rest._start_service()
    rest.stopped = True
    reading = await driver.read(slow=True)
    assert (reading.booting, reading.conditions) == (True, ())
    await driver.close()


async def test_errors_of_this_run_only(rest: Braiins) -> None:
    """Its list goes back for weeks: what was before its mining service began is no condition; each code once, the newest."""
    now = "2027-01-15T08:00:00Z"  # the second of the simulator's last share
    rest.errors = [
        {"timestamp": "2026-12-01T00:00:00Z", "message": "long ago", "error_codes": [{"code": "7", "reason": "old"}]},
        {"timestamp": "2027-01-15T07:30:00Z", "message": "first", "error_codes": [{"code": "9"}]},
        {"timestamp": now, "message": "again", "error_codes": [{"code": "9"}]},
        {"timestamp": now, "message": "no code", "error_codes": []},
        {"timestamp": "yesterday", "message": "undated"},
    ]
    driver = driver_of(rest)
    reading = await driver.read(slow=True)
    assert sorted((c.code, c.text, c.severity) for c in reading.conditions) == [
        ("9", "again", "warning"),
        ("error", "no code", "warning"),
    ]
    assert (await driver.read(slow=False)).conditions == ()
    await driver.close()


async def test_reads_over_port_4028_while_the_web_page_is_shut(old: Braiins) -> None:
    """Either may be down while the other is up."""
    driver = driver_of(old)
    await old.web.shut()
    assert (await driver.read(slow=True)).mining is True
    await driver.close()


def test_odd_values() -> None:
    """Nothing at all and wrong types: None, named, no exception."""
    nothing = parse_reading(Answers({}))
    assert (nothing.mining, nothing.asleep, nothing.hashrate_hs, nothing.power_w, nothing.mode) == (None, None, None, None, None)
    assert {"asleep", "pools", "hashrate_hs", "power_w", "uptime_s", "boards", "fans_rpm"} <= set(nothing.missing)
    odd = parse_reading(
        Answers(
            {"status": "2", "bosminer_uptime_s": "x", "miner_identity": []},
            stats={"miner_stats": {"real_hashrate": {"last_5s": {"megahash_per_second": 5.0}}}, "power_stats": 7},
            boards={"hashboards": [7, {"id": "two", "board_temp": {"degree_c": 0}, "chips_count": -1}, {"enabled": False}]},
            cooling={"fans": [{"rpm": "fast"}, {}]},
            pools=[{"pools": [{"url": ""}, {"url": "a", "alive": "yes", "enabled": False}]}, 7],
            tuner={"mode_state": None, "overall_tuner_state": 1},
            errors={"errors": ["x", {"timestamp": 7}]},
        )
    )
    assert odd.hashrate_hs == pytest.approx(5e6)
    assert [(b.slot, b.temp_c, b.chips) for b in odd.boards] == [(0, None, None)]
    assert (odd.fans_rpm, odd.mode, odd.pools and odd.pools[0].state) == ((), "tuner off", "disabled")
    assert parse_old(OldAnswers([])).mining is None
    for groups in (None, [7], [{"pools": [{"url": 1}]}]):
        assert parse_groups(groups, "strategy") is None
    assert error_of({"errors": [{}]}) == "no reason given"
    deep: dict[str, Any] = {"__typename": "SomeError", "message": "m"}
    for _ in range(30):
        deep = {"x": deep}
    assert (error_of(deep), error_of(None)) == ("", "")


async def test_identified_by_its_own_name(device: Braiins) -> None:
    """Among all makes, as no Antminer and no plain cgminer; also by its page alone; another page is not taken for it."""
    place = Place(device.host, device.port, device.web.port)
    found = await identify(place)
    assert found.make == "braiins"
    await found.close()
    found = await identify(Place(device.host, closed_port(), device.web.port))
    assert found.make == "braiins"
    await found.close()
    told = await probe(f"{device.host}:{device.port}", http_port=device.web.port)
    assert (told.ok, told.found["state"], told.found["mac"]) == (True, "mining", device.mac)
    device.web.faults.html = True
    with pytest.raises(NotFound):
        await identify(Place(device.host, closed_port(), device.web.port))


# ---- orders ------------------------------------------------------------------------------------------------


async def test_pause_really_stops_it(device: Braiins, driver: Driver) -> None:
    """Asleep by its own word, and awake again. Without REST nobody can tell an order from a crash, so it says so."""
    assert set(driver.capabilities) == set(ActionKind) - POWER_ACTIONS - SETTINGS
    await driver.pause()
    assert (ActionKind.SET_POWER_LIMIT in driver.capabilities) == (device.kind == "rest")
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    if device.kind == "rest":
        assert (reading.hashrate_hs, reading.mode, reading.missing, reading.conditions) == (0, "paused", (), ())
    else:
        assert (reading.hashrate_hs, reading.mode, [c.severity for c in reading.conditions]) == (None, "stopped", ["warning"])
    await driver.resume()
    reading = await driver.read(slow=True)
    assert (sleeps(reading, False), reading.missing) == (True, ())


async def test_locate(driver: Driver) -> None:
    """On and off, and read back."""
    for on in (True, False):
        await driver.locate(on)
        assert await driver.locating() is on


async def test_restart_and_reboot_once(device: Braiins, driver: Driver) -> None:
    """One order each, also when the connection dies instead of answering; the uptime begins anew."""
    device.drop_reply = True
    await driver.restart_mining()
    assert restarted(await driver.read(slow=True), since_order_s=2, was_away=False)
    await driver.reboot()
    assert (device.restarts, device.reboots) == (1, 1)
    await asyncio.sleep(0.05)

    async def back() -> bool:
        return restarted(await driver.read(slow=True), since_order_s=5, was_away=True)

    await until(back)
    assert device.reboots == 1


# ---- pools -------------------------------------------------------------------------------------------------


async def test_set_pools_and_back(device: Braiins, driver: Driver) -> None:
    """Exactly these with their passwords, in the group that there was; it mines there; the same are not written again."""
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "p"),)
    await driver.set_pools((PoolOrder("new.invalid:3333", "wallet.rig-1", "y"), POOLS[1]))
    assert await driver.pools() == POOLS
    assert (device.groups[0]["name"], device.groups[0]["quota"]) == ("farm", 2)
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    writes = len(device.web.asked)
    await driver.set_pools(POOLS)
    assert [asked for asked in device.web.asked[writes:] if asked in WRITES] == []
    assert device.restarts == (0 if device.kind == "rest" else 1), "REST applies them by itself"
    await driver.set_pools(before)
    assert holds_pools(await driver.pools(), before)


async def test_passwords_that_nobody_tells(rest: Braiins) -> None:
    """Not in the configuration: those that we wrote ourselves, else what pools take when they ask for none."""
    rest.tells_passwords = False
    driver = driver_of(rest)
    assert [pool.password for pool in await driver.pools()] == ["x"]
    await driver.set_pools(POOLS)
    assert await driver.pools() == POOLS
    await driver.close()


async def test_groups_that_share_the_work_are_left_alone(device: Braiins, driver: Driver) -> None:
    """Their shares would be lost: Conflict, and nothing is written. One without a pool that is enabled does not count."""
    other = {"url": "stratum+tcp://b.invalid:1", "user": "u", "password": "x", "enabled": False}
    device.groups = device.works_with = [*device.groups, {"name": "second", "quota": 1, "pools": [other]}]
    assert len(await driver.pools()) == 1
    other["enabled"] = True
    with pytest.raises(Conflict):
        await driver.set_pools(POOLS)
    assert len(device.groups) == 2


@pytest.mark.parametrize("spoilt", [{}, [7], [{"name": "g"}], [{"name": "g", "pools": [{"url": None, "user": 7}]}]])
async def test_no_write_after_a_read_that_failed(device: Braiins, driver: Driver, spoilt: object) -> None:
    """What it has now cannot be gone back to, so nothing is written; nor what makes no sense."""
    before = device.groups
    device.tells_passwords = False
    device.spoilt = {"pools": spoilt, "groups": spoilt}
    with pytest.raises(BadAnswer):
        await driver.set_pools(POOLS)
    device.spoilt = {}
    for pools in ((), (PoolOrder("stratum+tcp://a b:1", "u"),), POOLS * 5):
        with pytest.raises(BadInput):
            await driver.set_pools(pools)
    assert (device.groups, device.restarts) == (before, 0)


async def test_pools_behind_a_slash(rest: Braiins) -> None:
    """Some versions have the path with a slash at its end only."""
    rest.without = {"pools"}
    driver = driver_of(rest)
    reading = await driver.read(slow=True)
    assert (reading.pools, "pools" in reading.missing) == (None, True)
    assert rest.web.orders("GET /api/v1/pools", "GET /api/v1/pools/") == ["GET /api/v1/pools", "GET /api/v1/pools/"]
    await driver.close()


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_a_token_that_ended_costs_one_more_log_in(device: Braiins, driver: Driver) -> None:
    """In again once; the order that was refused for it is carried out once."""
    await driver.locate(True)
    log_ins = device.log_ins
    device.proof = "of-somebody-else"
    await driver.restart_mining()
    assert (device.log_ins, device.restarts) == (log_ins + 1, 1)


async def test_refusals_are_told_apart(device: Braiins, driver: Driver) -> None:
    """An order that it will not; a wrong password, in words without it. Without REST, reading needs none."""
    device.refuses = True
    with pytest.raises(Refused, match="not now"):
        await driver.restart_mining()
    other = driver_of(device, "hunter2")
    looks: list[Callable[[], Awaitable[object]]] = [other.pause, other.seen, lambda: other.set_pools(POOLS)]
    for look in looks:
        with pytest.raises(WrongPassword) as caught:
            await look()
        assert "hunter2" not in str(caught.value)
    if device.kind == "old":
        assert (await other.read(slow=True)).mining
    else:
        with pytest.raises(WrongPassword):
            await other.read(slow=True)
    assert (device.paused, device.stopped, len(device.groups)) == (False, False, 1)
    await other.close()


async def test_graphql_without_a_log_in_is_no_wrong_password(old: Braiins) -> None:
    """A schema that does not know the question is told as that; firmware without GraphQL can be read, and takes no orders."""
    old.no_log_in = True
    driver = driver_of(old)
    with pytest.raises(Refused, match="Unknown field") as caught:
        await driver.pause()
    assert not isinstance(caught.value, WrongPassword)
    old.no_graphql = True
    with pytest.raises(NotSupported):
        await driver.pause()
    assert (await driver.read(slow=True)).mining
    assert (old.stopped, (await driver.seen()).firmware) == (False, "boser-sim 0.1.0-0")
    await driver.close()


async def test_new_firmware_is_noticed(old: Braiins) -> None:
    """It was updated in place: the next identification finds the REST API."""
    driver = driver_of(old, "")
    assert (await driver.seen()).firmware == FIRMWARE["old"]
    old.kind = "rest"
    assert (await driver.seen()).serial == old.serial
    old.kind = "old"
    with pytest.raises((BadAnswer, Refused)):
        await driver.read(slow=True)
    assert (await driver.read(slow=True)).mining
    await driver.close()


async def test_dead_hung_and_strange_pools_are_told_apart(device: Braiins, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mining for somebody else; talking without end; a web page; silent; refused."""
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.api.faults.endless = device.web.faults.endless = True
    looks: list[Callable[[], Awaitable[object]]] = [lambda: driver.read(slow=True), driver.seen, driver.pools]
    for look in looks:
        with pytest.raises(BadAnswer):
            await look()
    device.api.faults.endless = device.web.faults.endless = False
    device.api.faults.html = device.web.faults.html = True
    for look in looks:
        with pytest.raises(BadAnswer):
            await look()
    device.api.faults.html = device.web.faults.html = False
    for module in ("braiins", "braiins_old"):
        monkeypatch.setattr(f"sentry_asic.makes.{module}.ANSWER_S", 0.3)  # a limit, not behaviour
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
def test_the_recorded_s19_xp() -> None:
    """A second opinion: a real device's answers. Its errors are all older than its mining service."""
    said = {path.stem: json.loads(path.read_text()) for path in RECORDED.glob("*.json")}
    seen = parse_seen(said["miner_details"], "braiins")
    assert (seen.model, seen.mac, seen.firmware) == ("S19 XP", "02:ee:da:a9:b6:4a", "2025-08-06-0-3881c51d-25.07-plus")
    reading = parse_reading(
        Answers(
            said["miner_details"],
            stats=said["miner_stats"],
            boards=said["miner_hw_hashboards"],
            cooling=said["cooling_state"],
            pools=said["pools"],
            tuner=said["performance_tuner_state"],
            errors=said["miner_errors"],
        )
    )
    assert (reading.mining, reading.asleep, reading.mode, reading.missing, reading.conditions) == (
        True, False, "power target", (), (),
    )  # fmt: skip
    assert reading.hashrate_hs == pytest.approx(141.46356540e12)
    assert reading.expected_hashrate_hs == pytest.approx(142.876598e12)
    assert (reading.power_w, reading.power_limit_w, reading.uptime_s, reading.system_uptime_s) == (3137, 3031, 69685, 69725)
    assert (reading.accepted, reading.rejected, reading.stale) == (10464, 18, 0)
    assert reading.fans_rpm == (5904, 5874, 5874, 5904)
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips) for b in reading.boards] == [
        (1, 55.5, 70.5, 110), (2, 52.0, 67.0, 110), (3, 54.0, 69.0, 110),
    ]  # fmt: skip
    assert reading.pools is not None
    assert [(p.state, p.active, p.accepted) for p in reading.pools] == [("alive", True, 10460), ("alive", False, 4)]
