"""Tasmota: what it answers, what it gets wrong, and that its password never leaves us but on the wire."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
import traceback

import pytest

from garrison.clock import SystemClock
from garrison.faults import BadAnswer, Fault, NotSupported, TimedOut, WrongPassword
from garrison.words import PowerState
from rrc import tasmota
from rrc.board import BoardAddress
from rrc.tasmota import Tasmota
from tests.rrc.stands import FIXTURES
from tests.simulators.tasmota import Tasmota as Plug

ON, OFF, UNKNOWN = PowerState.ON, PowerState.OFF, PowerState.UNKNOWN


def recorded(name: str) -> bytes:
    return (FIXTURES / "tasmota" / name).read_bytes()


def board_at(plug: Plug, password: str = "") -> Tasmota:
    return Tasmota(BoardAddress("tasmota", plug.address, plug.outlets, password=password), SystemClock())


@pytest.mark.parametrize(
    ("file", "outlets", "states"),
    [
        ("status11-one-relay.json", 1, {"1": ON}),
        ("status11-one-relay.json", 2, {"1": ON, "2": UNKNOWN}),
        ("status11-four-relays.json", 4, {"1": ON, "2": OFF, "3": UNKNOWN, "4": UNKNOWN}),
    ],
)
def test_states(file: str, outlets: int, states: dict[str, PowerState]) -> None:
    """POWER and POWER1 are both the first relay; a relay that is not named, or says a strange word, is unknown, never off."""
    assert tasmota.parse_states(recorded(file), outlets) == states


@pytest.mark.parametrize("told", ['"OFF "', "true", "2", "null", "[]", "0.0", '"1"'])
def test_strange_states(told: str) -> None:
    """Only what the firmware says for on and off is on or off."""
    assert tasmota.parse_states(b'{"POWER":%s}' % told.encode(), 1) == {"1": UNKNOWN}


def test_energy() -> None:
    """Watts, volts, amperes, and the counter in joules."""
    energy = tasmota.parse_energy(recorded("status10-one-relay.json"))
    assert energy is not None
    reading = tasmota.meter({"1": ON}, energy)["1"]
    assert (reading.power_w, reading.voltage_v, reading.current_a) == (3248.0, 231.0, 14.287)
    assert reading.energy_j == 1842.417 * 3_600_000


def test_energy_of_several_outlets() -> None:
    """Lists are one value an outlet; one value for all outlets belongs to none of them, but the voltage is shared."""
    energy = tasmota.parse_energy(recorded("status10-two-meters.json"))
    assert energy is not None
    readings = tasmota.meter({"1": ON, "2": OFF, "3": ON}, energy)
    assert [r.power_w for r in readings.values()] == [1200.5, 0.0, None]
    assert [r.voltage_v for r in readings.values()] == [229.0] * 3
    assert tasmota.meter({"1": ON, "2": OFF}, {"Power": 100})["1"].power_w is None


@pytest.mark.parametrize("value", ["-5", "1e400", '"12"', "true", "null", "1e15"])
def test_strange_energy(value: str) -> None:
    """What is not a sensible number is not a value."""
    try:
        energy = tasmota.parse_energy(b'{"StatusSNS":{"ENERGY":{"Power":%s}}}' % value.encode()) or {}
    except BadAnswer:
        return
    assert tasmota.meter({"1": ON}, energy)["1"].power_w is None


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"<html>", b"[]", b"3", b'"x"', b"{", b"\xff\xfe", b"[" * 60_000, b'{"a":' * 9_000, b'{"POWER":NaN}', b"{}"],
)
def test_answers_that_are_none(body: bytes) -> None:
    """Garbage is BadAnswer: no crash, no state."""
    with pytest.raises(BadAnswer):
        tasmota.parse_states(body, 1)


def test_log_in_refused_in_words() -> None:
    """The firmware refuses a log-in with status 200 and a warning."""
    with pytest.raises(WrongPassword):
        tasmota.parse_states(recorded("wrong-password.json"), 1)


async def test_wrong_password_over_the_wire() -> None:
    """A wrong password is WrongPassword for reads and commands, and nothing moves."""
    async with Plug(password="right") as plug:
        for password in ("", "wrong"):
            board = board_at(plug, password)
            with pytest.raises(WrongPassword):
                await board.read()
            with pytest.raises(WrongPassword):
                await board.set("1", False)
            await board.close()
        assert plug.clicks == plug.commands == []


@pytest.mark.parametrize("mode", ["ok", "html", "huge", "empty", "lost", "stuck"])
async def test_password_stays_secret(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens, the password is in no log record at any level, no fault, no traceback, no repr."""
    secret = "Geheim-4711"
    caplog.set_level(logging.DEBUG)
    seen = ""
    async with Plug(password=secret, mode=mode) as plug:
        for password in (secret, secret + "x"):
            address = BoardAddress("tasmota", plug.address, 1, password=password)
            board = Tasmota(address, SystemClock())
            seen += repr(address) + repr(board)
            for call in (board.read, lambda board=board: board.set("1", False)):
                try:
                    await call()
                except Fault as fault:
                    seen += str(fault) + fault.hint + "".join(traceback.format_exception(fault))
            await board.close()
        port = plug.port
    board = Tasmota(BoardAddress("tasmota", f"127.0.0.1:{port}", 1, password=secret), SystemClock())
    with pytest.raises(Fault) as refusal:
        await board.read()
    await board.close()
    seen += "".join(traceback.format_exception(refusal.value)) + caplog.text
    assert secret not in seen
    assert "password=" not in seen


@pytest.mark.parametrize(("mode", "fault"), [("html", BadAnswer), ("huge", BadAnswer), ("empty", BadAnswer)])
async def test_bad_answers(mode: str, fault: type[Fault]) -> None:
    """A web page, 10 MB, nothing in the answer: each its fault, soon, and the next good answer is read."""
    async with Plug(mode=mode) as plug:
        board = board_at(plug)
        began = time.monotonic()
        with pytest.raises(fault):
            await board.read()
        assert time.monotonic() - began < 5
        plug.mode = "ok"
        assert (await board.read())["1"].state is ON
        await board.close()


async def test_answer_lost() -> None:
    """A connection cut after the command was carried out is TimedOut: only a read tells."""
    async with Plug(mode="lost") as plug:
        board = board_at(plug)
        with pytest.raises(TimedOut):
            await board.set("1", False)
        assert (await board.read())["1"].state is OFF
        await board.close()


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug that takes the request and says nothing is TimedOut within the limit, not a wait for ever."""
    monkeypatch.setattr(tasmota, "ANSWER_S", 0.5)
    async with Plug(mode="silent") as plug:
        board = board_at(plug)
        with pytest.raises(TimedOut):
            await board.read()
        await board.close()


async def test_refuses_longer_cycles_than_the_timer() -> None:
    """Delay takes 3600 tenths of a second: longer is NotSupported, and nothing is sent."""
    async with Plug() as plug:
        board = board_at(plug)
        with pytest.raises(NotSupported):
            await board.cycle("1", 361)
        assert plug.commands == []
        await board.close()


async def test_own_timer_brings_power_back() -> None:
    """Backlog with Delay: one click off, and one click on a second later, without us."""
    back = asyncio.Event()
    async with Plug(on_switch=lambda outlet, on: back.set() if on else None) as plug:
        board = board_at(plug)
        await board.cycle("1", 1)
        await board.close()
        async with asyncio.timeout(20):
            await back.wait()
        assert [click.on for click in plug.clicks] == [False, True]
        assert plug.clicks[1].at_ms - plug.clicks[0].at_ms >= 900


async def test_meter_of_old_firmware_and_of_none() -> None:
    """`Status 10` without a meter is followed by `Status 8`, once; a plug without a meter is not asked for ever."""
    async with Plug(old_energy=True) as plug:
        board = board_at(plug)
        assert (await board.read())["1"].power_w is None
        assert (await board.read())["1"].power_w == plug.load_w
        await board.close()
    async with Plug(load_w=None) as plug:
        board = board_at(plug)
        for _ in range(3):
            await board.read()
        plug.requests = 0
        assert (await board.read())["1"].power_w is None
        assert plug.requests == 1
        await board.close()


def test_loads_neither_httpx_nor_pymodbus() -> None:
    """The table may be imported on a rig: the libraries are loaded by the first exchange only."""
    code = "import sys, rrc.table, rrc.queue; sys.exit(bool({'httpx', 'pymodbus'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
