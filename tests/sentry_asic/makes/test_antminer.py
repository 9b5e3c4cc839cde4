"""The Antminer driver against the simulated device, on real sockets: reading, identity, orders, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.make import Place, Reading
from sentry_asic.makes.antminer import Antminer as Driver
from sentry_asic.makes.antminer_parse import MAX_WARNINGS, parse_warnings
from sentry_asic.makes.antminer_stats import missing_fields, parse_stats
from sentry_asic.table import identify
from tests.simulators.antminer import Antminer

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "x"), PoolOrder("stratum+tcp://spare.invalid:443", "w", "p"))


def place(device: Antminer, password: str = "") -> Place:
    credentials = Credentials("root", password) if password else None
    return Place(device.host, device.api_port, device.http_port, credentials)


@pytest_asyncio.fixture(params=["modern", "old"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Antminer]:
    async with Antminer(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def modern() -> AsyncIterator[Antminer]:
    async with Antminer("modern") as simulated:
        yield simulated


@pytest_asyncio.fixture
async def old() -> AsyncIterator[Antminer]:
    async with Antminer("old") as simulated:
        yield simulated


@pytest_asyncio.fixture
async def driver(device: Antminer) -> AsyncIterator[Driver]:
    made = Driver(place(device))
    yield made
    await made.close()


@pytest_asyncio.fixture
async def driver_of() -> AsyncIterator[Callable[[Antminer], Driver]]:
    made: list[Driver] = []

    def make(device: Antminer) -> Driver:
        made.append(Driver(place(device)))
        return made[-1]

    yield make
    for driver in made:
        await driver.close()


async def with_driver(device: Antminer, work: Callable[[Driver], Awaitable[object]], password: str = "") -> object:
    made = Driver(place(device, password))
    try:
        return await work(made)
    finally:
        await made.close()


async def look(device: Antminer, *, slow: bool = False) -> Reading:
    made = Driver(place(device))
    try:
        return await made.read(slow=slow)
    finally:
        await made.close()


async def until(state: str, device: Antminer, within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while device.state != state:
        assert time.monotonic() < end, f"{device.state}, not {state}"
        await asyncio.sleep(0.02)


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Antminer, driver: Driver) -> None:
    """Everything its firmware gives is read, in base units; nothing is missing; stock firmware states no power."""
    reading = await driver.read(slow=True)
    nominal = device.spec.nominal_hs
    assert reading.mining is True
    assert reading.hashrate_hs == pytest.approx(nominal, rel=0.03)
    assert reading.uptime_s is not None
    assert reading.uptime_s >= 3600
    assert len(reading.boards) == device.spec.boards
    assert sum(b.hashrate_hs or 0 for b in reading.boards) == pytest.approx(nominal, rel=0.03)
    assert {b.chips for b in reading.boards} == {device.spec.chips} == {b.chips_expected for b in reading.boards}
    assert [rpm > 0 for rpm in reading.fans_rpm] == [True] * len(device.spec.fans)
    assert reading.power_w is None
    assert reading.power_source is None
    assert reading.pools is not None
    assert [(p.url, p.user, p.state) for p in reading.pools] == [("stratum+tcp://pool.invalid:3333", "factory.worker", "alive")]
    assert reading.accepted
    assert reading.temp_c is not None
    assert reading.chip_temp_c is not None
    assert reading.temp_c < reading.chip_temp_c
    assert reading.missing == ()
    assert reading.conditions == ()
    assert reading.mode == ("normal" if device.spec.modern else None)
    assert (reading.expected_hashrate_hs is not None) == device.spec.modern
    assert (reading.repairs > 0) == (not device.spec.modern), "old firmware leaves out commas"


async def test_old_chains_keep_the_makers_numbers(old: Antminer) -> None:
    """S9 boards are 6, 7 and 8, its fans 3 and 6: a board that vanishes does not renumber the others."""
    assert [b.slot for b in (await look(old)).boards] == [6, 7, 8]
    old.faults.lost_boards = 1
    reading = await look(old)
    assert [b.slot for b in reading.boards] == [6, 7]
    assert [c.code for c in reading.conditions] == ["boards_missing"]


async def test_known_liars_and_stated_power() -> None:
    """The L3+ says GHS and means MHS; the L7 states its unit; the S21 states its watts."""
    async with Antminer("old", model="L3+") as l3, Antminer(model="L7") as l7, Antminer(model="S21") as s21:
        assert (await look(l3)).hashrate_hs == pytest.approx(504e6, rel=0.03)
        assert (await look(l7)).hashrate_hs == pytest.approx(9.5e9, rel=0.03)
        reading = await look(s21)
        assert (reading.power_w, reading.power_source) == (3500, "miner")


@pytest.mark.parametrize(
    ("model", "rate_hs"), [("D3", 19.3e9), ("X3", 220e3), ("Z11", 135e3), ("Z11 2019", 135e3)], ids=lambda value: str(value)
)
async def test_what_old_firmware_calls_ghs(model: str, rate_hs: float) -> None:
    """MH/s, kH/s, kSol/s; the Z11 of October 2019 gives its total in Sol/s and its boards in kSol/s."""
    async with Antminer("old", model=model) as device:
        reading = await look(device)
    assert reading.hashrate_hs == pytest.approx(rate_hs, rel=0.03)
    assert reading.hashrate_avg_hs == pytest.approx(rate_hs, rel=0.01)
    assert sum(b.hashrate_hs or 0 for b in reading.boards) == pytest.approx(rate_hs, rel=0.03)
    assert reading.conditions == ()


def test_units_as_stated_before_as_known() -> None:
    """The L9 states MH; without a unit its GHS are true, as in its firmware of 2025, whose rates are JSON numbers."""
    head = {"Type": "Antminer L9"}
    assert parse_stats([head, {"GHS 5s": 16000, "rate_unit": "MH", "Elapsed": 1}]).hashrate_hs == pytest.approx(16e9)
    assert parse_stats([head, {"MHS 5s": "16000.5", "Elapsed": 1}]).hashrate_hs == pytest.approx(16.0005e9)
    told = {"GHS 5s": 16.1, "Elapsed": 1, "chain_acn1": 110, "chain_rate1": 4.02}
    temps = {"temp_in_pcb_1": "40-41", "temp_out_pcb_1": "55-56", "temp_in_chip_1": "50-51", "temp_out_chip_1": "70-71"}
    stats = parse_stats([head, told | temps])
    assert stats.hashrate_hs == pytest.approx(16.1e9)
    (board,) = stats.boards
    assert board.hashrate_hs == pytest.approx(4.02e9)
    assert (board.temp_c, board.chip_temp_c) == (56, 71)


async def test_each_board_is_told_apart(modern: Antminer) -> None:
    """Frequency, chips and hardware errors of each; their sum is the device's."""
    reading = await look(modern)
    assert [(b.slot, b.frequency_mhz, b.chips, b.hw_errors) for b in reading.boards] == [(i, 545, 126, 7 * i) for i in range(3)]
    assert reading.hw_errors == 21


@pytest.mark.parametrize(("model", "chip_temp_c"), [("S21+ Hyd.", 66), ("S21 XP Hyd.", None)])
async def test_hydro_has_water_and_no_fans(model: str, chip_temp_c: float | None) -> None:
    """Its coolant is read where this model shows it, and nothing that a cooling by air has is missed."""
    async with Antminer(model=model) as device:
        reading = await look(device, slow=True)
    assert (reading.inlet_temp_c, reading.outlet_temp_c, reading.temp_c, reading.chip_temp_c) == (31, 42, 52, chip_temp_c)
    assert (reading.fans_rpm, reading.missing, reading.conditions) == ((), (), ())


def test_hydro_of_other_shapes() -> None:
    """Four fans that stand still, as the S21 XP Hyd. tells on port 4028; a model we do not know, that says it has none."""
    still = {"Elapsed": 9, "GHS 5s": 4.7e5, "rate_unit": "GH", "fan_num": 4} | {f"fan{i}": 0 for i in range(1, 5)}
    board = {"chain_acn1": 160, "chain_rate1": "161794.68", "temp_pcb1": "38-48-47-52", "temp_chip1": "63-59-56-61"}
    stats = parse_stats([{"Type": "Antminer S21 XP Hyd."}, still | board])
    assert (stats.fans_rpm, stats.inlet_temp_c, stats.boards[0].chip_temp_c) == ((), None, 63)
    assert missing_fields(stats, ()) == []
    chain = {"index": 0, "rate_real": 1, "asic_num": 84, "temp_pcb": [44, 44, 52, 52], "temp_chip": [44, 44, 56, 56]}
    row = {"chain": [chain], "rate_5s": 1, "rate_ideal": 1, "elapsed": 1, "rate_unit": "GH", "fan_num": 0, "fan": [], "watt": 5525}
    for model, missed in (("S99 Hyd.", []), ("S23 Hydro", []), ("S21", ["fans_rpm"])):
        stats = parse_stats([{"Type": f"Antminer {model}"} | row])
        assert missing_fields(stats, ()) == missed
        assert (stats.power_w, stats.inlet_temp_c) == (5525, None)


@pytest.mark.parametrize(
    ("told", "watts"),
    [
        ({"watt": 3500}, 3500),
        ({"watt": 0}, None),
        ({"watt": -5}, None),
        ({"watt": [3500]}, None),
        ({"chain_power": "3250 W"}, 3250),
        ({"chain_power": "867.32 (AB)"}, 867.32),
        ({"total_power": 1345, "chain_power1": 454}, 1345),
        ({"power": "x"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_power_is_as_stated_or_unknown(told: dict[str, object], watts: float | None) -> None:
    """Never 0, and never what one board takes."""
    assert parse_stats([{"Type": "Antminer S19"}, {"Elapsed": 1, "GHS 5s": 1} | told]).power_w == watts


async def test_low_power_is_a_mode(modern: Antminer) -> None:
    """It mines, in mode "low"; a pause in between leads back to it."""
    modern.conf["bitmain-work-mode"] = "3"

    async def work(driver: Driver) -> None:
        reading = await driver.read(slow=True)
        assert (reading.mining, reading.asleep, reading.mode) == (True, False, "low")
        await driver.pause()
        await until("sleeping", modern)
        await driver.resume()

    await with_driver(modern, work)
    assert modern.mode == 3


async def test_values_move_with_time(modern: Antminer) -> None:
    """Uptime and shares only grow while it mines."""
    first = await look(modern)
    modern._since -= 60
    second = await look(modern)
    assert first.uptime_s is not None
    assert first.accepted is not None
    assert second.uptime_s is not None
    assert second.accepted is not None
    assert second.uptime_s >= first.uptime_s + 60
    assert second.accepted > first.accepted


async def test_sleep_boot_and_a_dead_miner_are_three_things(modern: Antminer) -> None:
    """Empty arrays: asleep. Only a header: booting. Port 4028 shut and the web page there: not mining, not unreachable."""
    modern.conf["bitmain-work-mode"] = "1"
    modern._mine()
    asleep = await look(modern, slow=True)
    assert (asleep.asleep, asleep.mining, asleep.mode, asleep.missing) == (True, False, "sleep", ())
    modern._phase = "booting"
    booting = await look(modern)
    assert (booting.booting, booting.mining, booting.hashrate_hs) == (True, False, None)
    modern.conf["bitmain-work-mode"] = "0"
    modern.faults.api_down = True
    down = await look(modern)
    assert (down.mining, down.asleep) == (False, False)
    assert [c.code for c in down.conditions] == ["miner_down"]


async def test_reported_faults_become_conditions(modern: Antminer) -> None:
    """summary.cgi's lamps, with the maker's code and words."""
    modern.faults.lamps = {"temp": "chain 1 over 85C"}
    reading = await look(modern, slow=True)
    assert [(c.code, c.text, c.severity) for c in reading.conditions] == [("temp:1", "chain 1 over 85C", "critical")]


async def test_warnings_of_recent_firmware(modern: Antminer, driver_of: Callable[[Antminer], Driver]) -> None:
    """Each with the maker's code and words; firmware without that page is asked for it once."""
    driver = driver_of(modern)
    for _ in range(2):
        assert (await driver.read(slow=True)).conditions == ()
    assert modern.http_requests.count("GET /cgi-bin/warning.cgi") == 1
    modern.faults.warnings = [{"code": "P:2", "suggestion": "check the power supply", "timestamp": 1}, {"code": 17}, {"x": 1}]
    reading = await look(modern, slow=True)
    assert [(c.code, c.text, c.severity) for c in reading.conditions] == [
        ("warning:P:2", "check the power supply", "warning"),
        ("warning:17", "the device warns with code 17", "warning"),
    ]
    modern.faults.lamps, modern.faults.broken_warnings = {"fans": "fan 2 stands"}, True
    reading = await look(modern, slow=True)
    assert ([c.code for c in reading.conditions], reading.missing) == (["fans:1"], ("warnings",))


def test_warnings_are_bounded() -> None:
    """However many it lists, and whatever they are."""
    assert len(parse_warnings({"WARNING": [{"code": i} for i in range(1000)]})) == MAX_WARNINGS
    assert parse_warnings({"WARNING": "x", "WARNINGS": [7, None, [], {"msg": {}}]}) == ()


# ---- Hiveon ------------------------------------------------------------------------------------------------


async def test_hiveon_is_read_like_the_makers_own_and_states_power() -> None:
    """Its name is a facet: the same model and identity, its power, fans 5 and 6; what its old form takes is not known."""
    async with Antminer("old", model="S9 Hiveon") as device:
        driver = await identify(place(device))
        try:
            seen, reading = await driver.seen(), await driver.read(slow=True)
            assert (seen.make, seen.model, seen.mac, seen.facts["brand"]) == ("antminer", "S9", device.mac, "Hiveon")
            assert (reading.power_w, reading.power_source) == (1150.32, "miner")
            assert (reading.missing, reading.conditions, [b.slot for b in reading.boards]) == ((), (), [6, 7, 8])
            assert set(driver.capabilities) == {ActionKind.REBOOT, ActionKind.LOCATE}
            with pytest.raises(NotSupported) as caught:
                await driver.set_pools(POOLS)
            assert caught.value.hint
            assert device.writes == []
        finally:
            await driver.close()


@pytest.mark.parametrize(
    ("faults", "repaired"),
    [
        ({"until_eof": True}, False),
        ({"hold_open": True}, False),
        ({"no_nul": True}, False),
        ({"segments": True}, False),
        ({"slow_s": 0.3}, False),
        ({"malformed": "commas"}, True),
        ({"malformed": "inf"}, True),
        ({"malformed": "truncated"}, True),
    ],
    ids=str,
)
async def test_odd_answers_are_still_answers(modern: Antminer, faults: dict[str, object], repaired: bool) -> None:
    """Whatever way the answer ends or is spoilt, the hashrate is read or missing, never wrong."""
    for name, value in faults.items():
        setattr(modern.faults, name, value)
    reading = await look(modern)
    assert reading.hashrate_hs == pytest.approx(104e12, rel=0.03)
    assert (reading.repairs > 0) == repaired


async def test_a_pool_user_with_braces_survives_the_repair(modern: Antminer) -> None:
    """`}{` inside a string is the user's, not a missing comma, also in an answer that had to be mended."""
    modern.conf["pools"][0]["user"] = 'w}{1,}[,"'
    modern.faults.malformed = "control"
    reading = await look(modern)
    assert reading.pools is not None
    assert reading.pools[0].user.endswith('w}{1,}[,"')
    assert reading.repairs > 0


@pytest.mark.parametrize(
    ("faults", "fault"),
    [({"html": True}, BadAnswer), ({"huge": True}, BadAnswer)],
    ids=str,
)
async def test_hostile_answers(modern: Antminer, faults: dict[str, object], fault: type[Exception]) -> None:
    """HTML on 4028 and 10 MB are BadAnswer, in no time."""
    for name, value in faults.items():
        setattr(modern.faults, name, value)
    with pytest.raises(fault):
        await look(modern)


async def test_hung_and_off_are_two_things(modern: Antminer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepts and says nothing: TimedOut. Ports closed: Unreachable, and not TimedOut. Power brings it back."""
    monkeypatch.setattr("sentry_asic.makes.antminer._ANSWER_S", 0.5)  # a limit, not behaviour
    modern.hang()
    with pytest.raises(TimedOut):
        await look(modern)
    await modern.power(False)
    with pytest.raises(Unreachable) as caught:
        await look(modern)
    assert not isinstance(caught.value, TimedOut)
    await modern.power(True)
    await until("mining", modern)
    assert (await look(modern)).mining


# ---- identity ----------------------------------------------------------------------------------------------


async def test_identity(device: Antminer, driver: Driver) -> None:
    """Make, model, firmware and the MAC in lower case; the serial where the firmware has one."""
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.mac) == ("antminer", device.spec.model, device.mac)
    assert seen.firmware == f"sim-{device.spec.firmware}"
    assert seen.serial == (device.serial if device.spec.modern else "")
    assert seen.facts["hostname"] == "simulated"
    assert (ActionKind.PAUSE in driver.capabilities) == device.spec.modern


async def test_wrong_password(device: Antminer) -> None:
    """Reading goes on without the web page; identity and orders are WrongPassword, and nothing was written."""
    device.password = "changed"
    with pytest.raises(WrongPassword):
        await with_driver(device, lambda d: d.seen())
    with pytest.raises(WrongPassword):
        await with_driver(device, lambda d: d.set_pools(POOLS))
    reading = await look(device, slow=True)
    assert reading.mining
    assert "wrong_password" in [c.code for c in reading.conditions]
    assert device.writes == []
    assert (await with_driver(device, lambda d: d.seen(), password="changed")) is not None


async def test_an_unusable_mac_is_no_mac(modern: Antminer) -> None:
    """A MAC that is none is not told as one."""
    modern.mac = "02:55:97:22:3M:72"
    seen = await with_driver(modern, lambda d: d.seen())
    assert getattr(seen, "mac", None) == ""


# ---- orders ------------------------------------------------------------------------------------------------


async def test_set_pools_keeps_everything_else(device: Antminer, driver: Driver) -> None:
    """Three slots, in order; every other setting as it was; read back after the miner restarted."""
    before = {k: v for k, v in device.conf.items() if k != "pools"}
    await driver.set_pools(POOLS)
    held = device.conf["pools"]
    assert [p["url"] for p in held] == [POOLS[0].url, POOLS[1].url, ""]
    assert [p["user"] for p in held] == ["wallet.rig-1", "w", ""]
    assert {k: v for k, v in device.conf.items() if k in before} == before
    await until("mining", device)
    reading = await driver.read(slow=False)
    assert reading.pools is not None
    assert [p.url for p in reading.pools] == [POOLS[0].url, POOLS[1].url]


async def test_the_same_pools_are_not_written_again(device: Antminer, driver: Driver) -> None:
    """A write restarts the miner: none when nothing changes."""
    await driver.set_pools(POOLS)
    await driver.set_pools(POOLS)
    assert len(device.writes) == 1


@pytest.mark.parametrize("breakage", ["no pools", "unreachable", "html"])
async def test_no_write_after_a_read_that_failed(device: Antminer, driver: Driver, breakage: str) -> None:
    """The configuration is replaced as a whole: what was not read cannot be kept, so nothing is written."""
    if breakage == "no pools":
        device.faults.broken_conf = True
    elif breakage == "html":
        device.conf = {"pools": "none"}
    else:
        await device.power(False)
    with pytest.raises((BadAnswer, Unreachable)):
        await driver.set_pools(POOLS)
    assert device.writes == []


@pytest.mark.parametrize("pools", [(), POOLS * 2, (PoolOrder("stratum+tcp://a b", "u"),), (PoolOrder("", "u"),)])
async def test_pools_that_make_no_sense(driver: Driver, device: Antminer, pools: tuple[PoolOrder, ...]) -> None:
    """None, more than three, with spaces, without URL: BadInput before anything is asked."""
    with pytest.raises(BadInput):
        await driver.set_pools(pools)
    assert device.http_requests == [r for r in device.http_requests if "set_miner_conf" not in r]


async def test_old_firmware_cannot_store_everything(old: Antminer) -> None:
    """Its shell script spoils quotes and percent signs, and drops settings the form has no field for: refused."""
    with pytest.raises(BadInput, match="cannot store"):
        await with_driver(old, lambda d: d.set_pools((PoolOrder("stratum+tcp://p:1", 'a"b'),)))
    with pytest.raises(BadInput) as caught:
        await with_driver(old, lambda d: d.set_pools((PoolOrder("stratum+tcp://p:1", "ab", "s%c"),)))
    assert "s%c" not in str(caught.value)
    old.conf["bitmain-hashrate-percent"] = "80"
    with pytest.raises(Conflict, match="bitmain-hashrate-percent"):
        await with_driver(old, lambda d: d.set_pools(POOLS))
    assert old.writes == []


async def test_pause_and_resume(modern: Antminer) -> None:
    """Sleep is a mode of its configuration; pools and the rest stay; asking twice writes once."""
    pools = modern.conf["pools"]

    async def work(driver: Driver) -> None:
        await driver.pause()
        await driver.pause()
        await until("sleeping", modern)
        assert (await driver.read(slow=True)).asleep
        await driver.resume()
        await driver.resume()

    await with_driver(modern, work)
    await until("mining", modern)
    assert modern.conf["pools"] == pools
    assert modern.conf["bitmain-freq"] == "545"
    assert len(modern.writes) == 2


async def test_what_old_firmware_cannot(old: Antminer) -> None:
    """No sleep on old firmware, no restart of the miner alone on any: NotSupported, with what to do instead."""
    for call in (Driver.pause, Driver.resume, Driver.restart_mining):
        with pytest.raises(NotSupported):
            await with_driver(old, call)
    assert old.writes == []


async def test_locate(device: Antminer, driver: Driver) -> None:
    """The light goes on, is read back, and goes off."""
    for on in (True, False):
        await driver.locate(on)
        assert device.blinking is on
        assert await driver.locating() is on


@pytest.mark.parametrize("drop", [False, True])
async def test_reboot(device: Antminer, driver: Driver, drop: bool) -> None:
    """One order, one reboot, also when the connection dies instead of answering; the uptime begins anew."""
    device.faults.drop_reply = drop
    before = await driver.read(slow=False)
    await driver.reboot()
    assert device.reboots == 1
    await until("mining", device)
    after = await driver.read(slow=False)
    assert before.uptime_s is not None
    assert after.uptime_s is not None
    assert after.uptime_s < before.uptime_s


async def test_a_lost_reply_to_new_pools_is_no_failure(device: Antminer, driver: Driver) -> None:
    """The device applied them and hung up: the order returns, and is sent only once."""
    device.faults.drop_reply = True
    await driver.set_pools(POOLS)
    assert len(device.writes) == 1


async def test_a_reboot_that_never_reached_it_is_a_failure(device: Antminer, driver: Driver) -> None:
    """Nobody listens: Unreachable, not "taken"."""
    await device.power(False)
    with pytest.raises(Unreachable):
        await driver.reboot()


async def test_a_stale_nonce_costs_a_round_and_no_order(device: Antminer, driver: Driver) -> None:
    """The nonce runs out at every other request: each order still arrives once."""
    device.faults.nonce_uses = 1
    for on in (True, False, True):
        await driver.locate(on)
    await driver.set_pools(POOLS)
    assert len(device.writes) == 1
    assert device.blinking


async def test_a_refused_configuration_is_told(modern: Antminer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code M001: Refused, with the device's words."""
    monkeypatch.setattr(modern, "_asked_conf", lambda _: None)  # the simulator refuses
    with pytest.raises(Refused, match="Illegal request"):
        await with_driver(modern, lambda d: d.set_pools(POOLS))
