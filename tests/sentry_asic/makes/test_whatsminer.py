"""The Whatsminer driver against the simulated device, on real sockets: reading, identity, orders, and all that goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Credentials, PoolOrder
from garrison.words import DeviceState
from sentry_asic.make import Place
from sentry_asic.makes import whatsminer
from sentry_asic.makes.whatsminer import Whatsminer as Driver
from sentry_asic.makes.whatsminer_crypt import decrypt, encrypt, md5_crypt, token_v2, token_v3
from sentry_asic.makes.whatsminer_parse import condition, listed_errors, of_v2
from sentry_asic.makes.whatsminer_v2 import V2, unwrapped
from sentry_asic.order_rules import mines_on, restarted, sleeps
from sentry_asic.readings import values_of
from sentry_asic.table import identify
from tests.simulators.whatsminer import Whatsminer

POOLS = (PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig-1", "x"), PoolOrder("stratum+tcp://spare.invalid:443", "w", "p"))
KINDS = ["v1", "v2", "v3"]


def place(device: Whatsminer, password: str = "") -> Place:
    return Place(device.host, device.api_port, device.http_port, Credentials("admin", password) if password else None)


@pytest_asyncio.fixture(params=KINDS)
async def device(request: pytest.FixtureRequest) -> AsyncIterator[Whatsminer]:
    async with Whatsminer(request.param) as simulated:
        yield simulated


@pytest_asyncio.fixture
async def v2() -> AsyncIterator[Whatsminer]:
    async with Whatsminer("v2") as simulated:
        yield simulated


@pytest_asyncio.fixture
async def v3() -> AsyncIterator[Whatsminer]:
    async with Whatsminer("v3") as simulated:
        yield simulated


async def found(device: Whatsminer, password: str = "") -> Driver:
    """As identification makes it, so that it knows the firmware."""
    driver, what = await whatsminer.fingerprint(place(device, password))
    assert driver is not None, what
    return driver


# ---- the arithmetic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "salt", "hashed"),
    [
        ("admin", "BQ5hoXV9", "RxmaDUO33TS7O26yeMHZ81"),
        ("password", "deadbeef", "Q7g0UO4hRC0mgQUQ/qkjZ0"),
        ("", "ab", "rn6aQS/o7141mj179E/zA."),
        ("a" * 40, "12345678", "beiWYJUUHF.ZVo9A4ag9w0"),
        ("a" * 40, "123456789", "beiWYJUUHF.ZVo9A4ag9w0"),
    ],
)
def test_md5_crypt_has_the_known_answers(word: str, salt: str, hashed: str) -> None:
    """What `openssl passwd -1` and libcrypt print; of the salt eight characters count."""
    assert md5_crypt(word, salt) == hashed


def test_tokens_have_the_known_answers() -> None:
    """As `openssl passwd`, `sha256sum` and `base64` make them. Neither shows itself in a traceback."""
    two = token_v2("admin", "BQ5hoXV9", "jbzkfQls", "5626")
    assert two.sign == "w.BNbkCV6n1aNWgiBWLzT/"
    assert two.key.hex() == "199e0a202039bb7b558db7a54697dca29cb278055b7e659a127fb844d5a2fbf6"
    assert token_v3("set.miner.service", "super", "px5hoXa9", 1692685512).sign == "3zEk5BCp"
    assert two.sign not in repr(two)


def test_the_cipher_has_the_known_answer() -> None:
    """As `openssl enc -aes-256-ecb` makes it."""
    assert encrypt(bytes(32), b"sixteen bytes ok") == "k/7qUmfC7iU9P9+ZhRbwMA=="


@pytest.mark.parametrize("text", [b"a", b"sixteen bytes ok", b'{"cmd":"reboot"}' * 9])
def test_what_is_encrypted_comes_back(text: bytes) -> None:
    key = bytes(range(32))
    assert decrypt(key, encrypt(key, text)) == text


@pytest.mark.parametrize("text", ["", "no base64!", "AAAA", "ä"])
def test_answers_that_cannot_be_decrypted(text: str) -> None:
    """Not base64, not whole blocks: BadAnswer, nothing else."""
    with pytest.raises(BadAnswer):
        decrypt(bytes(32), text)


@pytest.mark.parametrize("raw", [b'"half', b'{"enc":"!"}', b"<html>", b"", b'"' + b'\\"' * 3 + b'"'])
def test_replies_that_are_none(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        unwrapped(raw, bytes(32))


# ---- reading -----------------------------------------------------------------------------------------------


async def test_a_healthy_device_lacks_nothing(device: Whatsminer) -> None:
    """Everything its firmware gives is read, in base units, with both uptimes apart; nothing is missing."""
    device._booted_s -= 600
    driver = await found(device)
    reading = await driver.read(slow=True)
    assert (reading.mining, reading.asleep, reading.mode) == (True, False, "normal")
    assert reading.hashrate_hs == pytest.approx(device.rate_hs)
    assert reading.hashrate_avg_hs == pytest.approx(device.rate_hs * 0.99)
    assert reading.expected_hashrate_hs == pytest.approx(device.nominal_hs)
    assert (reading.power_w, reading.power_source, reading.power_limit_w) == (3310, "miner", 3500)
    assert (reading.uptime_s, reading.system_uptime_s) == (3600, 4200)
    assert (reading.temp_c, reading.chip_temp_c, reading.inlet_temp_c) == (71.5, 92.5, None if device.kind == "v1" else 31.5)
    assert reading.fans_rpm == (4980, 5070)
    assert [(b.slot, b.temp_c, b.chip_temp_c, b.chips, b.frequency_mhz) for b in reading.boards] == [
        (i, 70.0 + i, 90.0 + i, 105, 650) for i in range(3)
    ]
    assert sum(b.hashrate_hs or 0 for b in reading.boards) == pytest.approx(device.rate_hs, rel=0.01)
    assert reading.pools is not None
    assert [(p.url, p.user, p.state, p.active) for p in reading.pools] == [
        ("stratum+tcp://pool.invalid:3333", "factory.worker", "alive", True)
    ]
    assert (reading.accepted, reading.rejected, reading.stale) == (720, 7, 0)
    assert reading.missing == ()
    assert reading.conditions == ()
    assert values_of(reading, DeviceState.MINING, 1, 0)["power_limit_w", ""] == 3500
    assert device.most_asked_at_once == 1


async def test_v3_alone_is_read_in_tera(v3: Whatsminer) -> None:
    """Port 4028 is shut: TH/s, no shares, no limit where 2^31-1 is said, the serial and mode all the same."""
    await v3.shut_api()
    driver = await found(v3)
    reading = await driver.read(slow=True)
    assert reading.hashrate_hs == pytest.approx(v3.rate_hs)
    assert reading.expected_hashrate_hs == pytest.approx(v3.nominal_hs)
    assert (reading.power_w, reading.power_limit_w, reading.mode) == (3300, None, "normal")
    assert (reading.uptime_s, reading.system_uptime_s, reading.inlet_temp_c) == (3600, 3600, 31.5)
    assert (reading.accepted, reading.rejected) == (None, None)
    assert [(b.slot, b.temp_c, b.chips) for b in reading.boards] == [(0, 70.0, 105), (1, 71.0, 105), (2, 72.0, 105)]
    assert reading.missing == ()
    seen = await driver.seen()
    assert (seen.model, seen.firmware, seen.mac, seen.serial) == ("M50_VH30", v3.firmware, v3.mac, "SIM0001")


async def test_the_other_port_is_asked_when_one_shuts(v3: Whatsminer) -> None:
    """One API down and the other up is not "unreachable"."""
    driver = await found(v3)
    assert (await driver.read(slow=False)).accepted == 720
    await v3.shut_api()
    reading = await driver.read(slow=False)
    assert (reading.mining, reading.accepted) == (True, None)
    assert (await driver.seen()).mac == v3.mac


async def test_reported_errors_become_conditions(device: Whatsminer) -> None:
    """The maker's code, its reason where it gives one, our severity."""
    device.faults.errors = [110, 600, 2310]
    reading = await (await found(device)).read(slow=True)
    assert [(c.code, c.severity) for c in reading.conditions] == [("110", "critical"), ("600", "warning"), ("2310", "warning")]
    if device.kind != "v1":
        device.faults.odd_errors = True
        odd = await (await found(device)).read(slow=True)
        assert odd.conditions == reading.conditions
        assert odd.repairs > 0
    if device.kind == "v3":
        await device.shut_api()
        assert (await (await found(device)).read(slow=True)).conditions[0] == Condition("110", "reason 110.", "critical")


@pytest.mark.parametrize(
    ("told", "codes"),
    [
        ([], []),
        (None, []),
        (["530", 0, "0"], ["530"]),
        ([{"531": "2025-03-12 14:52:35", "reason": "Slot1 not found."}], ["531"]),
        ([{"x": 1}, {}, 7, [], None], ["7"]),
    ],
)
def test_lists_of_errors(told: object, codes: list[str]) -> None:
    """All shapes that were seen; what is none says nothing."""
    assert [c.code for c in listed_errors(told)] == codes


def test_longer_codes_are_told_by_their_first_two_digits() -> None:
    assert [condition(code).severity for code in ("50071", "51000", "99")] == ["critical", "warning", "warning"]


async def test_sleep_a_dead_pool_and_a_dead_miner_are_three_things(device: Whatsminer) -> None:
    """Asleep by order; hashing nothing for want of a pool; the mining process silent: each is told."""
    driver = await found(device)
    device.dead_pools = {"pool.invalid"}
    idle = await driver.read(slow=False)
    assert (idle.mining, idle.asleep, idle.hashrate_hs) == (False, False, 0.0)
    assert idle.pools is not None
    assert idle.pools[0].state == "dead"
    device.mining = False
    asleep = await driver.read(slow=True)
    assert (asleep.mining, asleep.asleep, asleep.missing) == (False, True, ())
    device.faults.no_summary = True
    assert (await driver.read(slow=False)).asleep is True
    device.mining = True
    down = await driver.read(slow=False)
    assert (down.mining, down.asleep, [c.code for c in down.conditions]) == (False, False, ["miner_down"])


async def test_v3_at_rest_may_refuse_its_status(v3: Whatsminer) -> None:
    await v3.shut_api()
    driver = await found(v3)
    v3.mining, v3.faults.no_summary = False, True
    reading = await driver.read(slow=False)
    assert (reading.mining, reading.asleep, reading.missing) == (False, True, ("pools",))


async def test_pools_that_cannot_be_asked_are_missing_not_none(v2: Whatsminer) -> None:
    v2.faults.no_pools = True
    reading = await (await found(v2)).read(slow=False)
    assert (reading.pools, reading.missing) == (None, ("pools",))


def test_what_was_not_read_is_none() -> None:
    """An empty answer is no zeros."""
    reading = of_v2({}, None, None)
    told = (reading.mining, reading.hashrate_hs, reading.power_w, reading.power_limit_w, reading.accepted, reading.temp_c)
    assert told == (None,) * 6
    assert set(reading.missing) == {"hashrate_hs", "uptime_s", "fans_rpm", "boards", "pools"}
    assert of_v2({"Power Limit": 2**31 - 1}, None, None).power_limit_w is None
    assert of_v2({"Liquid Cooling": True}, None, None).missing == ("hashrate_hs", "uptime_s", "boards", "pools")


# ---- who it is ---------------------------------------------------------------------------------------------


async def test_identity(device: Whatsminer) -> None:
    """Model, firmware and MAC on every firmware; a serial where it has one."""
    driver = await identify(place(device))
    assert isinstance(driver, Driver)
    seen = await driver.seen()
    assert (seen.make, seen.model, seen.firmware, seen.mac) == ("whatsminer", "M50_VH30", device.firmware, device.mac)
    assert seen.serial == ("" if device.kind == "v1" else "SIM0001")
    assert seen.facts["algorithm"] == "sha256"


async def test_a_fingerprint_is_two_questions_at_most(device: Whatsminer) -> None:
    await whatsminer.fingerprint(place(device))
    assert len(device.requests) <= 2


async def test_identified_by_v3_alone() -> None:
    """Its own port, which no other make has: found though 4028 and 80 are shut."""
    async with Whatsminer("v3", host="127.91.7.33", http_port=4433) as device:
        await device.shut_api()
        assert isinstance(await identify(Place(device.host, device.api_port)), Driver)


# ---- told apart --------------------------------------------------------------------------------------------


async def test_dead_silent_wrong_password_and_someone_elses_pool(v2: Whatsminer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four things that an operator must not confuse: each has its own fault or words."""
    monkeypatch.setattr("sentry_asic.makes.whatsminer_v2.ANSWER_S", 0.3)
    driver = await found(v2)
    await driver.set_pools(POOLS)
    v2.pools = [{"url": "stratum+tcp://thief.invalid:3333", "user": "thief", "pass": "x"}]
    assert mines_on(await driver.read(slow=False), POOLS) == (False, "it still works with other pools")
    v2.password = "changed"
    with pytest.raises(WrongPassword):
        await (await found(v2)).reboot()
    v2.hung = True
    with pytest.raises(TimedOut):
        await driver.read(slow=False)
    await v2.power(False)
    with pytest.raises(Unreachable) as caught:
        await driver.read(slow=False)
    assert not isinstance(caught.value, TimedOut)
    assert v2.reboots == 0


async def test_a_hostile_device(device: Whatsminer) -> None:
    """Endless answers and web pages are BadAnswer, in no time."""
    driver = await found(device)
    began = time.monotonic()
    device.faults.endless = True
    with pytest.raises(BadAnswer):
        await driver.read(slow=False)
    device.faults.endless, device.faults.html = False, True
    with pytest.raises(BadAnswer):
        await driver.read(slow=False)
    assert time.monotonic() - began < 10


async def test_v3_that_announces_too_much(v3: Whatsminer) -> None:
    await v3.shut_api()
    driver = await found(v3)
    v3.faults.endless = True
    with pytest.raises(BadAnswer):
        await driver.read(slow=False)


async def test_v3_hung(v3: Whatsminer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentry_asic.makes.whatsminer_v3.ANSWER_S", 0.3)
    await v3.shut_api()
    driver = await found(v3)
    v3.hung = True
    with pytest.raises(TimedOut):
        await driver.read(slow=False)


# ---- orders ------------------------------------------------------------------------------------------------


async def test_pause_and_resume(device: Whatsminer) -> None:
    """It really stops hashing, and really begins again."""
    driver = await found(device)
    await driver.pause()
    reading = await driver.read(slow=True)
    assert sleeps(reading, True)
    assert reading.hashrate_hs == 0
    await driver.resume()
    assert sleeps(await driver.read(slow=True), False)
    assert device.orders == ["stop", "start"]


async def test_restart_is_not_reboot(device: Whatsminer) -> None:
    """The miner's uptime begins anew; the machine's only on a reboot."""
    driver = await found(device)
    await driver.restart_mining()
    reading = await driver.read(slow=False)
    assert restarted(reading, since_order_s=1, was_away=False)
    assert reading.system_uptime_s == 3600
    await driver.reboot()
    assert (await driver.read(slow=False)).system_uptime_s == 0
    assert (device.restarts, device.reboots) == (1, 1)


async def test_the_light(device: Whatsminer) -> None:
    """Set, and read back where the firmware tells; V1 does not."""
    driver = await found(device)
    for on in (True, False):
        await driver.locate(on)
        assert device.blinking is on
        assert await driver.locating() is (None if device.kind == "v1" else on)


async def test_set_pools_replaces_all_and_is_not_repeated(device: Whatsminer) -> None:
    """All three slots as given; the same again writes nothing; what it had is what goes back."""
    driver = await found(device)
    before = await driver.pools()
    assert before == (PoolOrder("stratum+tcp://pool.invalid:3333", "factory.worker", "x"),)
    await driver.set_pools(POOLS)
    assert [p for p in device.pools if p["url"]] == [{"url": p.url, "user": p.user, "pass": p.password} for p in POOLS]
    assert await driver.pools() == POOLS
    await driver.set_pools(POOLS)
    assert device.orders == ["pools"]
    assert mines_on(await driver.read(slow=False), POOLS)[0]
    await driver.set_pools(before)
    assert [p["url"] for p in device.pools] == ["stratum+tcp://pool.invalid:3333", "", ""]


async def test_pools_are_not_written_when_they_could_not_be_read(v2: Whatsminer) -> None:
    """Nor is anything asked for the write."""
    driver = await found(v2)
    v2.faults.no_pools = True
    with pytest.raises((BadAnswer, Refused)):
        await driver.set_pools(POOLS)
    assert (v2.orders, v2.tokens_given) == ([], 0)


@pytest.mark.parametrize("pools", [(), POOLS * 2, (PoolOrder("stratum+tcp://a b", "u"),), (PoolOrder("", "u"),)])
async def test_pools_that_make_no_sense(v2: Whatsminer, pools: tuple[PoolOrder, ...]) -> None:
    with pytest.raises(BadInput):
        await (await found(v2)).set_pools(pools)
    assert v2.orders == []


async def test_one_token_serves_many_orders(v2: Whatsminer) -> None:
    """One address may hold 32: they are not spent one an order."""
    driver = await found(v2)
    for on in (True, False) * 20:
        await driver.locate(on)
    assert (v2.tokens_given, len(v2.orders)) == (1, 40)


async def test_a_dead_token_is_renewed_once(v2: Whatsminer) -> None:
    driver = await found(v2)
    await driver.locate(True)
    v2.faults.drop_tokens = 1
    await driver.locate(False)
    assert (v2.tokens_given, v2.orders) == (2, ["led", "led"])


@pytest.mark.parametrize("wrapped", ["plain", "encrypted", "twice"])
async def test_the_factory_password_is_tried_once(v2: Whatsminer, wrapped: str) -> None:
    """Refused once, told, and not tried again until its tokens are dead; the right one works at once."""
    v2.password = "changed"
    v2.faults.plain_errors, v2.faults.twice_encoded = wrapped != "encrypted", wrapped == "twice"
    driver = await found(v2)
    for _ in range(3):
        with pytest.raises(WrongPassword):
            await driver.reboot()
    assert v2.tokens_given == (1 if wrapped == "encrypted" else 2)
    await (await found(v2, "changed")).reboot()
    assert v2.reboots == 1


async def test_too_many_tokens_is_a_lock_out(v2: Whatsminer) -> None:
    """Told as what it is, and nothing more is asked."""
    v2.faults.too_many = True
    driver = await found(v2)
    for _ in range(3):
        with pytest.raises(Conflict, match="tokens"):
            await driver.reboot()
    assert (v2.tokens_given, v2.orders) == (1, [])


async def test_disabled_write_access_is_told_and_never_opened(device: Whatsminer) -> None:
    """The hint says what to do, with which tool; the device is sent nothing that would open it."""
    device.faults.write_disabled = True
    driver = await found(device)
    with pytest.raises(Refused, match="write access is disabled") as caught:
        await driver.pause()
    assert "WhatsMinerTool" in caught.value.hint
    assert device.orders == []
    assert not any("open" in request for request in device.requests)


async def test_v3_wrong_password(v3: Whatsminer) -> None:
    v3.password = "changed"
    driver = await found(v3)
    with pytest.raises(WrongPassword):
        await driver.set_pools(POOLS)
    assert v3.orders == []
    await (await found(v3, "changed")).set_pools(POOLS)
    assert v3.orders == ["pools"]


async def test_new_firmware_takes_orders_over_v3_only(v3: Whatsminer) -> None:
    """Though its port 4028 still answers: V2 orders would be refused."""
    driver = await found(v3)
    await driver.reboot()
    assert v3.reboots == 1
    assert v3.tokens_given == 0


async def test_an_order_without_an_answer_is_no_fault_and_is_sent_once(device: Whatsminer) -> None:
    device.faults.drop_reply = True
    driver = await found(device)
    await driver.pause()
    assert device.orders == ["stop"]
    assert (await driver.read(slow=False)).asleep


async def test_orders_to_a_dead_device(device: Whatsminer) -> None:
    """Nothing went out: Unreachable, not success."""
    driver = await found(device)
    await device.power(False)
    for order in (driver.reboot, driver.pause, driver.resume, driver.restart_mining):
        with pytest.raises(Unreachable):
            await order()
    assert device.orders == []


async def test_an_order_that_the_firmware_does_not_know(v2: Whatsminer) -> None:
    """NotSupported, not a failure of the device."""
    voice = V2(place(v2), "admin", factory=True)
    with pytest.raises(NotSupported):
        await voice._order("set_nothing")


async def test_power_comes_back(v2: Whatsminer) -> None:
    driver = await found(v2)
    await v2.power(False)
    await asyncio.sleep(0)
    await v2.power(True)
    assert (await driver.read(slow=False)).uptime_s == 0
