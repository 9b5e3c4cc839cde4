"""The LuxOS driver against the simulated device, on real sockets: reading, its one session, orders, pools, what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, Refused, TimedOut, Unreachable
from garrison.model import PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.makes.luxos import Luxos as Driver
from sentry_asic.order_rules import mines_on, restarted, sleeps
from sentry_asic.table import identify
from tests.simulators.luxos import Luxos

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "y"), PoolOrder("stratum+tcp://spare.invalid:443", "w"))


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Luxos]:
    async with Luxos() as simulated:
        yield simulated


@pytest.fixture
def driver(device: Luxos) -> Driver:
    return Driver(Place(device.host, device.port))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for the session in tenths of a second. A limit, not behaviour."""
    monkeypatch.setattr("sentry_asic.makes.luxos._SESSION_WAIT_S", 0.3)
    monkeypatch.setattr("sentry_asic.makes.luxos._SESSION_TRY_EVERY_S", 0.1)


def held(device: Luxos) -> list[tuple[str, str, str]]:
    return [(pool["URL"], pool["User"], pool["password"]) for pool in device.pools]


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Luxos, driver: Driver) -> None:
    """All that LuxOS tells, in base units; chip temperatures, which it only copies from the board's, are not known."""
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.booting, reading.mode) == (True, False, False, "normal")
    assert reading.hashrate_hs == pytest.approx(120e12)
    assert reading.expected_hashrate_hs == pytest.approx(120e12)
    assert (reading.power_w, reading.power_source) == (2760, "miner")
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.frequency_mhz) for b in reading.boards] == [
        (i, 52.0 + i, None, 77, 500) for i in range(3)
    ]
    assert (reading.temp_c, reading.inlet_temp_c, reading.outlet_temp_c, reading.chip_temp_c) == (54, 41, 54, None)
    assert reading.fans_rpm == (4200, 4260, 4320, 4380)
    assert (reading.rejected, reading.stale, reading.hw_errors, reading.missing, reading.conditions) == (2, 1, 5, (), ())
    assert reading.uptime_s is not None
    assert reading.uptime_s >= 3600
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac, seen.serial) == ("luxos", "S19k Pro", device.mac, device.serial)
    assert seen.facts["algorithm"] == "sha256"
    assert device.sessions == 0, "reading needs no session"
    assert device.api.most_at_once == 1


async def test_a_lost_board_shows(device: Luxos, driver: Driver) -> None:
    """Boards keep their numbers; the rate falls, and so does what it would do with them."""
    device.lost_boards = 1
    reading = await driver.read(slow=False)
    assert [b.slot for b in reading.boards] == [0, 1]
    assert reading.hashrate_hs == pytest.approx(80e12)


@pytest.mark.parametrize(
    ("command", "name"),
    [("devs", "boards"), ("fans", "fans_rpm"), ("power", "power_w"), ("pools", "pools"), ("config", "mode"), ("events", "errors")],
)
async def test_what_was_not_told_is_missing(device: Luxos, driver: Driver, command: str, name: str) -> None:
    """One command fails: its value is None and named, the rest is read."""
    device.without = {command}
    reading = await driver.read(slow=True)
    assert name in reading.missing
    assert reading.hashrate_hs == pytest.approx(120e12)
    if name in ("power_w", "pools", "mode"):
        assert getattr(reading, name) is None


async def test_events_become_conditions(device: Luxos, driver: Driver) -> None:
    """The maker's code with where it happened; what its owner did is no fault."""
    device.events = [
        {"Code": "BOARD_FAILURE", "Description": "no answer", "Target": "BOARD", "ID": 1},
        {"Code": "REBOOT_NOT_HASHING", "Description": "again", "Target": "MINER"},
        {"Code": "SHUTDOWN_USER", "Description": "by hand", "Target": "MINER"},
        {"no": "code"},
    ]
    reading = await driver.read(slow=True)
    assert [(c.code, c.severity) for c in reading.conditions] == [
        ("BOARD_FAILURE:BOARD:1", "critical"),
        ("REBOOT_NOT_HASHING:MINER", "warning"),
    ]


async def test_identified_by_its_own_name(device: Luxos) -> None:
    """It copies an Antminer's type: it is LuxOS all the same, and no plain cgminer."""
    assert (await identify(Place(device.host, device.port, device.port))).make == "luxos"


# ---- the session -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work",
    [Driver.reboot, Driver.restart_mining, Driver.pause, Driver.resume, lambda d: d.locate(True), lambda d: d.set_pools(POOLS)],
    ids=["reboot", "restart_mining", "pause", "resume", "locate", "set_pools"],
)
async def test_a_session_of_somebody_else_is_respected(
    device: Luxos, driver: Driver, work: Callable[[Driver], Awaitable[None]]
) -> None:
    """Conflict with what to do, nothing changed, and the session is still theirs."""
    device.session = "theirs"
    before = (held(device), device.asleep, device.led, device.reboots, device.resets)
    with pytest.raises(Conflict) as caught:
        await work(driver)
    assert "a minute" in caught.value.hint
    assert "theirs" not in str(caught.value)
    assert (held(device), device.asleep, device.led, device.reboots, device.resets) == before
    assert device.session == "theirs"
    assert "kill" not in device.api.asked
    assert "session" not in device.api.asked, "whose it is concerns us not"


async def test_a_session_that_ends_in_time_is_waited_for(device: Luxos, driver: Driver) -> None:
    """Another tool is done in a moment."""
    device.session = "theirs"
    asyncio.get_running_loop().call_later(0.15, setattr, device, "session", "")
    await driver.pause()
    assert device.asleep
    assert device.session == ""


async def test_the_session_is_given_back_whatever_happens(device: Luxos, driver: Driver) -> None:
    """Order refused; order cut off by a limit; its answer lost: nobody is locked out afterwards."""
    device.refuses = {"curtail"}
    with pytest.raises(Refused, match="not now"):
        await driver.pause()
    assert device.session == ""
    device.refuses, device.drop_reply = set(), {"curtail"}
    await driver.pause()
    assert (device.asleep, device.session) == (True, "")
    device.api.asked.clear()
    cut_off = asyncio.create_task(driver._in_session("ledset", "red", "blink"))
    while "ledset" not in device.api.asked:  # noqa: ASYNC110  # the simulator has no event for it
        await asyncio.sleep(0)
    cut_off.cancel()
    await asyncio.gather(cut_off, return_exceptions=True)
    assert device.session == ""


# ---- orders ------------------------------------------------------------------------------------------------


async def test_pause_really_stops_it(device: Luxos, driver: Driver) -> None:
    """Asleep by its own word, no hash, nothing missing; awake again it starts anew."""
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert (reading.mining, reading.hashrate_hs, reading.mode, reading.missing) == (False, 0, "sleep", ())
    await driver.resume()
    reading = await driver.read(slow=True)
    assert sleeps(reading, False)
    assert reading.hashrate_hs == pytest.approx(120e12)


async def test_reboot_and_restart(device: Luxos, driver: Driver) -> None:
    """One order, one restart; the uptime begins anew; a lost answer is no failure."""
    await driver.restart_mining()
    assert (device.resets, device.reboots) == (1, 0)
    assert restarted(await driver.read(slow=False), since_order_s=1, was_away=False)
    device.drop_reply = {"rebootdevice"}
    await driver.reboot()
    assert device.reboots == 1
    while device.api.asked:  # until it is back
        try:
            reading = await driver.read(slow=False)
            if reading.uptime_s is not None and reading.uptime_s < 5:
                break
        except Unreachable:
            await asyncio.sleep(0.05)


async def test_locate(device: Luxos, driver: Driver) -> None:
    """The red light blinks, is read back, and is the device's own again; without that word it is not known."""
    assert await driver.locating() is False
    for on in (True, False):
        await driver.locate(on)
        assert device.led == ("blink" if on else "auto")
        assert await driver.locating() is on
    device.led = ""
    assert await driver.locating() is None


async def test_all_orders_are_among_its_capabilities(driver: Driver) -> None:
    """What it can, it says."""
    assert set(driver.capabilities) == {
        ActionKind.REBOOT,
        ActionKind.RESTART_MINING,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
        ActionKind.SET_POWER_MODE,
    }


# ---- pools -------------------------------------------------------------------------------------------------


async def test_set_pools(device: Luxos, driver: Driver) -> None:
    """Exactly these, in order, with their passwords; at no moment none; it mines there; the old ones come back the same way."""
    device.add("stratum+tcp://old.invalid:3333", "old")
    before = await driver.pools()
    await driver.set_pools(POOLS)
    assert held(device) == [(p.url, p.user, p.password) for p in POOLS]
    assert device.session == ""
    assert mines_on(await driver.read(slow=True), POOLS)[0]
    await driver.set_pools(before)
    assert await driver.pools() == before


async def test_the_same_pools_are_not_written_again(device: Luxos, driver: Driver) -> None:
    """Nothing is sent when nothing changes."""
    await driver.set_pools(await driver.pools())
    assert "addpool" not in device.api.asked


async def test_a_new_first_pool_that_is_there_already(device: Luxos, driver: Driver) -> None:
    """Same address and user, other password and place: it is written anew, and not twice."""
    wanted = (POOLS[0], PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "z"))
    await driver.set_pools(wanted)
    assert held(device) == [(p.url, p.user, p.password) for p in wanted]


@pytest.mark.parametrize(
    "pools", [(), (PoolOrder("stratum+tcp://a b", "u"),), (PoolOrder("", "u"),), (PoolOrder("stratum+tcp://p:1", "a,b"),)]
)
async def test_pools_that_make_no_sense(device: Luxos, driver: Driver, pools: tuple[PoolOrder, ...]) -> None:
    """None, with spaces, without URL, with what parts its parameters: BadInput before anything is asked."""
    with pytest.raises(BadInput):
        await driver.set_pools(pools)
    assert device.api.asked == []


async def test_no_write_after_a_read_that_failed(device: Luxos, driver: Driver) -> None:
    """Without knowing its pools nothing is written; groups that share the work would be lost, so neither then."""
    device.without = {"pools"}
    with pytest.raises((BadAnswer, Refused)):
        await driver.set_pools(POOLS)
    device.without = set()
    device.add("stratum+tcp://other.invalid:3333", "other", group=1)
    with pytest.raises(Conflict, match="groups"):
        await driver.set_pools(POOLS)
    assert "addpool" not in device.api.asked
    assert device.session == ""


async def test_a_refused_pool_leaves_no_trace(device: Luxos, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused: the first is taken away again, and the old ones work on."""
    real = device._pool_order

    def only_one(command: str, given: list[str]) -> bool:
        return False if command == "addpool" and "spare" in given[0] else real(command, given)

    monkeypatch.setattr(device, "_pool_order", only_one)
    before = held(device)
    with pytest.raises(Refused):
        await driver.set_pools(POOLS)
    assert held(device) == before
    assert device.session == ""


async def test_a_lost_answer_to_a_pool_order_is_looked_up(device: Luxos, driver: Driver) -> None:
    """Each order is carried out without a word: each is sent once, and the result is right."""
    device.drop_reply = {"addpool", "removepool", "switchpool"}
    await driver.set_pools(POOLS)
    assert held(device) == [(p.url, p.user, p.password) for p in POOLS]
    assert device.api.asked.count("addpool") == 2


# ---- what goes wrong ---------------------------------------------------------------------------------------


async def test_dead_hung_and_strange_pools_are_told_apart(device: Luxos, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mining for somebody else; no pool alive; talking without end; silent; refused."""
    monkeypatch.setattr("sentry_asic.makes.luxos._ANSWER_S", 0.5)  # a limit, not behaviour
    assert mines_on(await driver.read(slow=True), POOLS) == (False, "it still works with other pools")
    device.dead_pools.add("pool.invalid")
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep) == (False, False)
    assert reading.pools is not None
    assert [p.state for p in reading.pools] == ["dead"]
    device.api.faults.endless = True
    with pytest.raises(BadAnswer):
        await driver.read(slow=True)
    device.api.faults.endless, device.api.faults.hung = False, True
    with pytest.raises(TimedOut):
        await driver.read(slow=True)
    with pytest.raises(TimedOut):
        await driver.pause()
    device.api.faults.hung = False
    await device.power(False)
    for work in (driver.read(slow=True), driver.reboot()):
        with pytest.raises(Unreachable) as caught:
            await work
        assert not isinstance(caught.value, TimedOut)
