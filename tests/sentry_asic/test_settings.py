"""Orders that set one thing, to a simulated device of each make that has it, the whole way: hold, read, act, read again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.clock import SystemClock
from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, Refused, TimedOut, Unreachable
from garrison.model import Order, Outcome, Target
from garrison.words import SETTINGS, ActionKind, ActionState
from sentry_asic.answers import table
from sentry_asic.make import Fan, FanControl, Hostname, Place, PowerLimit, PowerModes
from sentry_asic.makes import bitaxe_parse, braiins_parse, vnish_parse
from sentry_asic.makes.avalon import Avalon as AvalonDriver
from sentry_asic.orders import ACTED, DeviceOrders, Waits
from sentry_asic.settable import check_mode, check_within, setting_of
from sentry_asic.table import MAKES, Make, identify
from sentry_asic.watch import Pace, Watcher
from tests.ports import closed_port
from tests.sentry_asic.stand import until
from tests.sentry_asic.test_orders import Notes, Quiet
from tests.simulators.antminer import Antminer
from tests.simulators.avalon import Avalon
from tests.simulators.bitaxe import Bitaxe
from tests.simulators.braiins import Braiins
from tests.simulators.luxos import Luxos
from tests.simulators.vnish import Vnish
from tests.simulators.whatsminer import Whatsminer

K = ActionKind
QUICK = Waits(mode_s=10, look_every_s=0.05)
SHORT = replace(QUICK, mode_s=0.3)


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits and pauses, not behaviour."""
    monkeypatch.setattr("sentry_asic.makes.avalon.REST_S", 0.01)
    monkeypatch.setattr("sentry_asic.makes.avalon.ORDER_S", 1.0)
    monkeypatch.setattr("sentry_asic.watch.least_every_s", lambda make: 0.0)


def place_of(device: Any) -> Place:
    if isinstance(device, Whatsminer | Antminer):
        return Place(device.host, device.api_port, device.http_port)
    if isinstance(device, Bitaxe):
        return Place(device.host, closed_port(), device.port)
    if isinstance(device, Avalon):
        return Place(device.host, device.api_port, closed_port())
    return Place(device.host, device.port, device.web.port if isinstance(device, Braiins | Vnish) else closed_port())


@contextlib.asynccontextmanager
async def standing(device: Any, folder: Path, waits: Waits = QUICK) -> AsyncIterator[tuple[DeviceOrders, str]]:
    """Orders to one device that is watched, and its identity."""
    place, clock = place_of(device), SystemClock()
    watcher = Watcher(clock, Pace(poll_every_s=0.3, look_s=3, slow_look_s=4, back_off_s=0.5))
    target = Target("1", f"{place.host}:{place.api_port}", type(device).__name__.lower(), http_port=place.http_port)
    watcher.assign([target])
    task = asyncio.create_task(watcher.run(Quiet()))
    identity = f"mac:{device.mac}"
    try:
        await until(lambda: watcher.known(identity), 20)
        watcher.assign([target], 60_000)  # from now on it is looked at for orders alone
        yield DeviceOrders(watcher, clock, folder, waits), identity
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)  # what was under way is hung up on the other side as well


def order(kind: K, identity: str, **more: object) -> Order:
    return replace(Order("a1", kind, identity, 60_000, 1), **more)  # type: ignore[arg-type]  # fields of an order


async def done(device: Any, folder: Path, kind: K, waits: Waits = QUICK, **more: object) -> tuple[Outcome, Notes]:
    notes = Notes()
    async with standing(device, folder, waits) as (orders, identity):
        return await orders.perform(order(kind, identity, **more), notes), notes


@dataclass(frozen=True)
class Case:
    """`held`: what the device is set to, by its own book; `bad`: an order that it cannot take."""

    name: str
    device: Callable[[], Any]
    kind: K
    wanted: dict[str, object]
    held: Callable[[Any], object]
    after: object
    bad: dict[str, object]
    range: str


def holding_luxos() -> Luxos:
    device = Luxos()
    device.target_w = 3000
    return device


MODE, LIMIT, FAN, NAME = K.SET_POWER_MODE, K.SET_POWER_LIMIT, K.SET_FAN, K.SET_HOSTNAME


def a_mode(
    name: str, device: Callable[[], Any], wanted: str, held: Callable[[Any], object], after: object, bad: str, has: str
) -> Case:
    return Case(f"{name}-mode", device, MODE, {"power_mode": wanted}, held, after, {"power_mode": bad}, has)


def a_limit(name: str, device: Callable[[], Any], wanted_w: int, held: Callable[[Any], object], bad_w: int, bounds: str) -> Case:
    return Case(f"{name}-limit", device, LIMIT, {"power_limit_w": wanted_w}, held, wanted_w, {"power_limit_w": bad_w}, bounds)


def work_mode(device: Avalon) -> int:
    return device.workmode


def of_vnish(part: str) -> Callable[[Vnish], object]:
    return lambda device: device.settings["miner"][part]


V2, V3 = partial(Whatsminer, "v2"), partial(Whatsminer, "v3")
THREE, TWO = "low, normal, high", "normal, performance"
CASES = [
    a_mode("whatsminer-v2", V2, "low", lambda d: d.power_mode, "Low", "eco", THREE),
    a_mode("whatsminer-v3", V3, "low", lambda d: d.power_mode, "Low", "eco", THREE),
    a_limit("whatsminer-v2", V2, 3000, lambda d: d.power_limit_w, 100_000, "to 99999 W"),
    a_limit("whatsminer-v3", V3, 3000, lambda d: d.power_limit_w, 100_000, "to 99999 W"),
    a_mode("luxos", Luxos, "450mhz", lambda d: d.profile, "450MHz", "low", "450MHz, 500MHz"),
    a_limit("luxos", holding_luxos, 2500, lambda d: d.target_w, 1999, "from 2000 W to 3500 W"),
    a_mode("avalon-q", partial(Avalon, "q"), "super", work_mode, 2, "turbo", "eco, standard, super"),
    a_mode("avalon-a12", partial(Avalon, "a12"), "normal", work_mode, 0, "eco", TWO),
    a_mode("avalon-a10", partial(Avalon, "a10"), "normal", work_mode, 0, "eco", TWO),
    a_mode("antminer", Antminer, "low", lambda d: d.conf["bitmain-work-mode"], "3", "high", "normal, low"),
    a_limit("braiins", partial(Braiins, "rest"), 2500, lambda d: d.target_w, 3801, "from 1200 W to 3800 W"),
    a_mode(
        "vnish", Vnish, "2550", of_vnish("overclock"), {"preset": "2550", "globals": {"freq": 495}}, "4100", "it has: 2550, 2800"
    ),
    Case(
        "vnish-fan",
        Vnish,
        FAN,
        {"fan_pct": 60},
        of_vnish("cooling"),
        {"mode": {"name": "manual", "param": 60}, "fan_min_count": 4},
        {"fan_pct": 9},
        "from 10 %",
    ),
]
RANGED = [pytest.param(case, id=case.name) for case in CASES]
PLAIN = [
    pytest.param(partial(Bitaxe, "axeos"), FAN, {"fan_pct": 60}, lambda d: d.stored["manualFanSpeed"], 60, id="bitaxe-fan"),
    pytest.param(partial(Bitaxe, "old"), FAN, {"fan_pct": 60}, lambda d: d.stored["fanspeed"], 60, id="old-bitaxe-fan"),
    pytest.param(partial(Bitaxe, "axeos"), NAME, {"hostname": "axe-1"}, lambda d: d.stored["hostname"], "axe-1", id="bitaxe-name"),
    pytest.param(
        Antminer,
        FAN,
        {"fan_pct": 60},
        lambda d: (d.conf["bitmain-fan-ctrl"], d.conf["bitmain-fan-pwm"]),
        (True, "60"),
        id="antminer-fan",
    ),
    pytest.param(V2, NAME, {"hostname": "wm-1"}, lambda d: d.hostname, "wm-1", id="whatsminer-v2-name"),
    pytest.param(V3, NAME, {"hostname": "wm-1"}, lambda d: d.hostname, "wm-1", id="whatsminer-v3-name"),
]
EVERY = [pytest.param(c.device, c.kind, c.wanted, c.held, c.after, id=c.name) for c in CASES] + PLAIN


@pytest.mark.parametrize(("make", "kind", "wanted", "held", "after"), EVERY)
async def test_set_and_read_back(
    make: Callable[[], Any], kind: K, wanted: dict[str, object], held: Callable[[Any], object], after: object, tmp_path: Path
) -> None:
    """It is set, and the order says what a later read showed. Ordered again: nothing is sent. After a crash: read, not sent."""
    async with make() as device:
        assert held(device) != after
        async with standing(device, tmp_path) as (orders, identity):
            notes = Notes()
            outcome = await orders.perform(order(kind, identity, **wanted), notes)
            assert (outcome.state, outcome.detail) == (ActionState.SUCCEEDED, {"changed": "true"}), outcome
            assert held(device) == after
            assert ACTED in notes.notes
            assert notes.texts
            again = Notes()
            outcome = await orders.perform(order(kind, identity, **wanted), again)
            assert (outcome.state, outcome.detail) == (ActionState.SUCCEEDED, {"changed": "false"}), outcome
            assert again.notes == {}
            settled = await orders.settle(order(kind, identity, **wanted), {ACTED: "1"})
            assert settled.state is ActionState.SUCCEEDED
            never = await orders.settle(order(kind, identity, **wanted), {})
            assert never.state is ActionState.FAILED


@pytest.mark.parametrize("case", RANGED)
async def test_what_the_device_does_not_take(case: Case, tmp_path: Path) -> None:
    """A mode that it has not, a number beyond its range: BadInput with what it takes, and it is left as it was."""
    async with case.device() as device:
        before = case.held(device)
        with pytest.raises(BadInput) as refused:
            await done(device, tmp_path, case.kind, QUICK, **case.bad)
        assert case.range in refused.value.hint
        assert case.held(device) == before


@pytest.mark.parametrize("kind", ["v2", "v3"])
async def test_a_device_that_says_yes_and_does_nothing(kind: str, tmp_path: Path) -> None:
    """What a later read shows counts, also when it takes less than it was told; a lost answer is no failure."""
    async with Whatsminer(kind) as device:
        device.faults.ignore_settings = True
        outcome, _ = await done(device, tmp_path, MODE, SHORT, power_mode="low")
        assert (outcome.state, outcome.fault) == (ActionState.FAILED, "timed_out")
        assert "power mode is normal" in outcome.text
        device.faults.ignore_settings = False
        outcome, _ = await done(device, tmp_path, LIMIT, SHORT, power_limit_w=9000)
        assert (outcome.state, "power limit is 3600 W" in outcome.text) == (ActionState.FAILED, True), outcome
        device.faults.drop_reply = True
        outcome, _ = await done(device, tmp_path, MODE, power_mode="high")
        assert outcome.state is ActionState.SUCCEEDED, outcome
        assert device.orders.count("mode") == 2


async def test_a_device_that_does_not_tell(tmp_path: Path) -> None:
    """V1 has no word for its name: sent once, and nobody knows whether it helped."""
    async with Whatsminer("v1") as device:
        outcome, _ = await done(device, tmp_path, NAME, SHORT, hostname="wm-1")
        assert (outcome.state, device.orders) == (ActionState.UNKNOWN, ["hostname"])


async def test_a_device_that_goes_away_after_the_order(tmp_path: Path) -> None:
    """It took the order and does not come back: failed, in words; back in time: read."""
    async with Whatsminer("v2") as device, standing(device, tmp_path, SHORT) as (orders, identity):
        notes = Notes(on_note=lambda: None)

        async def cut(text: str) -> None:
            await device.power(False)

        notes.verifying = cut  # type: ignore[method-assign]  # the moment between the order and the first read
        outcome = await orders.perform(order(MODE, identity, power_mode="low"), notes)
        assert (outcome.state, outcome.fault) == (ActionState.FAILED, "timed_out"), outcome
        assert "not read again" in outcome.text


async def test_a_dead_device_gets_no_order(tmp_path: Path) -> None:
    """It cannot be read before: the fault, and nothing noted."""
    async with Luxos() as device, standing(device, tmp_path) as (orders, identity):
        await device.power(False)
        notes = Notes()
        with pytest.raises(Unreachable):
            await orders.perform(order(MODE, identity, power_mode="450MHz"), notes)
        assert notes.notes == {}


@pytest.mark.parametrize("kind", sorted(SETTINGS))
async def test_what_a_device_cannot_is_refused_before_it_is_sent(kind: K, tmp_path: Path) -> None:
    """With what it can as the hint."""
    async with Braiins("old") as device, standing(device, tmp_path) as (orders, identity):
        notes = Notes()
        with pytest.raises(NotSupported) as refused:
            await orders.perform(order(kind, identity, power_mode="low", power_limit_w=1, hostname="x"), notes)
        assert "it can: reboot" in refused.value.hint
        assert notes.notes == {}


async def test_a_power_target_is_for_models_that_hold_one() -> None:
    """LuxOS tells by its `atm`."""
    async with Luxos() as device:
        for target_w in (0, 3000):
            device.target_w = target_w
            driver = await identify(place_of(device), "luxos")
            await driver.seen()
            assert (LIMIT in driver.capabilities) == bool(target_w)


async def test_busy_devices_refuse(tmp_path: Path) -> None:
    """LuxOS while ATM moves its profile, VNish while it is tuned, a Bitaxe that overheated: Conflict, and nothing is sent."""
    async with Luxos() as luxos:
        luxos.atm = True
        with pytest.raises(Conflict, match="ATM"):
            await done(luxos, tmp_path, MODE, power_mode="450MHz")
        assert (luxos.profile, luxos.sessions) == ("500MHz", 0)
        luxos.atm = False
        with pytest.raises(NotSupported, match="name of a profile"):
            await done(luxos, tmp_path, MODE, power_mode="2")
    async with Vnish() as vnish:
        vnish.state = "auto-tuning"
        with pytest.raises(Conflict, match="tuned"):
            await done(vnish, tmp_path, MODE, power_mode="2550")
        assert vnish.settings["miner"]["overclock"]["preset"] == "2800"
    async with Bitaxe("axeos") as bitaxe:
        bitaxe.overheated = 1
        with pytest.raises(Conflict, match="overheated"):
            await done(bitaxe, tmp_path, FAN, fan_pct=20)
        assert bitaxe.stored["autofanspeed"] == 1


async def test_a_sleeping_antminer_is_not_woken_by_a_mode(tmp_path: Path) -> None:
    """Sleep is one of its modes. A fan can be set: the mode goes back as it was read, and so do the pools."""
    async with Antminer() as device:
        device.conf["bitmain-work-mode"] = "1"
        before = device.conf["pools"]
        with pytest.raises(Conflict, match="sleeps"):
            await done(device, tmp_path, MODE, power_mode="low")
        assert device.writes == []
        outcome, _ = await done(device, tmp_path, FAN, fan_pct=30)
        assert outcome.state is ActionState.SUCCEEDED, outcome
        assert (device.conf["bitmain-work-mode"], device.conf["pools"], len(device.writes)) == ("1", before, 1)
        device.faults.broken_conf = True
        with pytest.raises(BadAnswer):
            await done(device, tmp_path, FAN, fan_pct=40)
        assert len(device.writes) == 1


async def test_refusals_of_the_device_are_told(tmp_path: Path) -> None:
    """Its own words, and that it is not so."""
    async with Avalon("q") as device:
        device.faults.refuse_orders = True
        with pytest.raises(Refused, match="work mode"):
            await done(device, tmp_path, MODE, power_mode="eco")


@pytest.mark.parametrize("kind", ["axeos", "old", "nerd"])
async def test_a_fan_goes_back_to_automatic(kind: str, tmp_path: Path) -> None:
    """By hand, and back."""
    async with Bitaxe(kind) as device, standing(device, tmp_path) as (orders, identity):
        for percent in (50, None):
            outcome = await orders.perform(order(FAN, identity, fan_pct=percent), Notes())
            assert outcome.state is ActionState.SUCCEEDED, outcome
            assert (device.stored["autofanspeed"] > 0) == (percent is None)


async def test_a_fan_that_holds_a_temperature(tmp_path: Path) -> None:
    """VNish: the temperature from before comes back."""
    async with Vnish() as device, standing(device, tmp_path) as (orders, identity):
        for percent in (50, None):
            assert (await orders.perform(order(FAN, identity, fan_pct=percent), Notes())).state is ActionState.SUCCEEDED
        assert device.settings["miner"]["cooling"]["mode"] == {"name": "auto", "param": 65}


async def test_a_temperature_that_was_never_seen_is_not_guessed(tmp_path: Path) -> None:
    """VNish again, whose fan was set by hand before we came."""
    async with Vnish() as device:
        device.settings["miner"]["cooling"]["mode"] = {"name": "manual", "param": 50}
        with pytest.raises(Conflict, match="temperature"):
            await done(device, tmp_path, FAN, fan_pct=None)


# ---- the parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.name)
def test_capabilities_and_methods_agree(make: Make) -> None:
    """A driver that lists such an order has its methods, so that no order can end in an error of ours."""
    driver = make.driver(Place("127.0.0.1"))
    parts: dict[K, type] = {MODE: PowerModes, LIMIT: PowerLimit, FAN: FanControl, NAME: Hostname}
    for kind, part in parts.items():
        assert kind not in driver.capabilities or isinstance(driver, part)
        if not isinstance(driver, part):
            with pytest.raises(NotSupported):
                setting_of(driver, order(kind, "mac:x"))


def test_modes_are_found_whatever_their_case() -> None:
    """The device's own writing goes out; a device that tells none is told as such."""
    assert check_mode("LOW", ["Low", "High"]) == "Low"
    with pytest.raises(BadInput, match="none that it tells"):
        check_mode("low", [])


@pytest.mark.parametrize(
    ("value", "least", "most", "ok"),
    [(5, 5, 10, True), (10, 5, 10, True), (4, 5, 10, False), (11, 5, 10, False), (1, None, None, True), (11, None, 10, False)],
)
def test_ranges(value: int, least: int | None, most: int | None, ok: bool) -> None:
    """Both ends belong to it; a bound that the device does not state is none."""
    with contextlib.nullcontext() if ok else pytest.raises(BadInput):
        check_within(value, least, most, "W", "power limit")


KEYS = st.sampled_from(
    [
        "miner",
        "overclock",
        "preset",
        "cooling",
        "mode",
        "name",
        "param",
        "ui",
        "consts",
        "min_fan_pwm",
        "modded_psu",
        "manual",
        "auto",
        "modded_psu_required",
        "tuner_constraints",
        "power_target",
        "min",
        "max",
        "watt",
        "mode_state",
        "powertargetmodestate",
        "current_target",
        "autofanspeed",
        "manualFanSpeed",
        "fanspeed",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | KEYS | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)


@given(ANYTHING, ANYTHING)
def test_whatever_a_device_tells_is_read_or_not_told(told: object, other: object) -> None:
    """Wrong types, depths and numbers end in None, never in an error of ours."""
    settings = table(told)
    vnish_parse.preset_of(settings)
    assert all(isinstance(name, str) for name in vnish_parse.presets_of(other, settings))
    for value in (vnish_parse.least_fan_of(settings), vnish_parse.target_of(settings), *braiins_parse.target_bounds(told)):
        assert value is None or value >= 0
    assert (braiins_parse.target_of(told) or 1) >= 0
    for fan in (vnish_parse.fan_of(settings), bitaxe_parse.parse_fan(settings)):
        assert fan is None or fan.percent is None or fan.percent >= 0


async def test_what_is_read_is_put_in_words() -> None:
    """A fan that decides by itself is not 0 %, and a limit has its unit."""
    async with Whatsminer("v2") as device:
        driver = await identify(place_of(device), "whatsminer")
        setting = setting_of(driver, order(LIMIT, "mac:x", power_limit_w=3500))
        assert (await setting.read(), setting.wanted) == ("3500 W", "3500 W")
    async with Bitaxe("axeos") as bitaxe:
        driver = await identify(place_of(bitaxe), "bitaxe")
        assert isinstance(driver, FanControl)
        assert await driver.fan() == Fan(None)
        setting = setting_of(driver, order(FAN, "mac:x", fan_pct=None))
        assert (await setting.read(), setting.wanted) == ("automatic", "automatic")
        await driver.close()


async def test_silence_after_the_order_is_no_fault() -> None:
    """An Avalon that carries out the order and hangs up: looked at later, sent once."""
    async with Avalon("q") as device:
        driver = AvalonDriver(Place(device.host, device.api_port))
        await driver.seen()
        device.faults.drop_reply = True
        await driver.set_power_mode("eco")
        assert device.orders == ["workmode,set,0"]
        device.hung = True
        with pytest.raises(TimedOut):
            await driver.power_mode()
