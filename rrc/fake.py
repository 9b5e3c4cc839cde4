"""A board without hardware: a real driver whose relays are bits in memory or in a file. For tests and demos.

Options:
    state_file    the relays are kept in this JSON file, so that they outlive the process
    start         "on" (default) or "off": the state of an outlet not in the file yet
    cycle         "10-600": the board has a timer of its own for that many seconds
    watts         what its meter shows for an outlet that is on
    stuck         "1,3" or "all": these accept a command and do not switch
    slow          seconds until a command takes effect; until then the outlet is "changing"
    unreachable   "yes": nothing answers

Beside the state file may lie `<state_file>.faults`, a JSON object of the last three options: it is read at each call and
wins over them, so that a test can break a board while it runs. The file keeps every click (a contact that moved) and every
command, with their times: {"outlets": {"1": {"on": true, …}}, "clicks": [[at_ms, "1", false], …], "commands": […]}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from garrison.clock import Clock
from garrison.faults import BadAnswer, BadInput, NotSupported, Unreachable
from garrison.words import PowerState
from rrc.board import BoardAddress, Capabilities, OutletReading, check_options, outlet_number

_OPTIONS = frozenset({"state_file", "start", "cycle", "watts", "stuck", "slow", "unreachable"})
_FAULTS = ("stuck", "slow", "unreachable")


class Relay(msgspec.Struct, omit_defaults=True):
    on: bool
    next_on: bool | None = None  # a command that has not taken effect yet
    next_at_ms: int = 0
    on_at_ms: int | None = None  # the board's own timer


class Bench(msgspec.Struct):
    """What the state file holds."""

    outlets: dict[str, Relay] = {}
    clicks: list[tuple[int, str, bool]] = []
    commands: list[tuple[int, str, bool]] = []


class Fake:
    def __init__(self, address: BoardAddress, clock: Clock) -> None:
        check_options(address, _OPTIONS)
        self._options = dict(address.options)
        self._outlets = address.outlets
        self._clock = clock
        self._file = Path(self._options["state_file"]) if self._options.get("state_file") else None
        self._bench = Bench()
        self._watts = _number(self._options.get("watts"), "watts")
        self._start_on = self._options.get("start", "on") != "off"
        self.capabilities = Capabilities(_span(self._options.get("cycle")), self._watts is not None, address.outlets)

    async def read(self, *, slow: bool = True) -> Mapping[str, OutletReading]:
        return await asyncio.to_thread(self._read, slow)

    async def set(self, outlet: str, on: bool) -> None:
        outlet_number(outlet, self._outlets)
        await asyncio.to_thread(self._command, outlet, on, None)

    async def cycle(self, outlet: str, off_s: int) -> None:
        outlet_number(outlet, self._outlets)
        span = self.capabilities.cycle_s
        if span is None or not span[0] <= off_s <= span[1]:
            raise NotSupported(f"this board has no timer for {off_s} s")
        await asyncio.to_thread(self._command, outlet, False, off_s)

    async def close(self) -> None:
        return

    # ---- in a thread: files block ----

    def _read(self, slow: bool) -> dict[str, OutletReading]:
        self._look()
        return {name: self._reading(relay, slow) for name, relay in self._bench.outlets.items()}

    def _reading(self, relay: Relay, slow: bool) -> OutletReading:
        if relay.next_on is not None:
            return OutletReading(PowerState.CHANGING)
        watts = None if self._watts is None or not slow else self._watts if relay.on else 0.0
        return OutletReading(PowerState.ON if relay.on else PowerState.OFF, power_w=watts)

    def _command(self, outlet: str, on: bool, off_s: int | None) -> None:
        faults = self._look()
        now_ms = self._clock.now_ms()
        self._bench.commands.append((now_ms, outlet, on))
        relay = self._bench.outlets[outlet]
        stuck = faults.get("stuck", "")
        if stuck != "all" and outlet not in stuck.split(","):
            delay_s = _number(faults.get("slow"), "slow") or 0.0
            relay.on_at_ms = now_ms + off_s * 1000 if off_s is not None else None
            if delay_s:
                relay.next_on, relay.next_at_ms = on, now_ms + round(delay_s * 1000)
            else:
                self._move(outlet, on, now_ms)
        self._save()

    def _look(self) -> Mapping[str, str]:
        """Loads the state, lets pass what is due, and returns the faults in force."""
        faults = self._faults()
        if faults.get("unreachable", "no") not in ("", "no"):
            raise Unreachable("the fake board is told not to answer")
        self._load()
        now_ms = self._clock.now_ms()
        moved = False
        for number in range(1, self._outlets + 1):
            relay = self._bench.outlets.setdefault(str(number), Relay(self._start_on))
            if relay.next_on is not None and now_ms >= relay.next_at_ms:
                self._move(str(number), relay.next_on, relay.next_at_ms)
                moved = True
            if relay.on_at_ms is not None and now_ms >= relay.on_at_ms:
                at_ms, relay.on_at_ms = relay.on_at_ms, None
                self._move(str(number), True, at_ms)
                moved = True
        if moved:
            self._save()
        return faults

    def _move(self, outlet: str, on: bool, at_ms: int) -> None:
        relay = self._bench.outlets[outlet]
        relay.next_on = None
        if relay.on != on:
            relay.on = on
            self._bench.clicks.append((at_ms, outlet, on))

    def _faults(self) -> Mapping[str, str]:
        told = {name: self._options[name] for name in _FAULTS if name in self._options}
        if self._file is not None:
            beside = self._file.with_name(self._file.name + ".faults")
            if beside.exists():
                told |= msgspec.json.decode(beside.read_bytes(), type=dict[str, str])
        return told

    def _load(self) -> None:
        if self._file is None or not self._file.exists():
            return
        try:
            self._bench = msgspec.json.decode(self._file.read_bytes(), type=Bench)
        except msgspec.DecodeError as error:
            raise BadAnswer(f"{self._file.name} is not the state of a fake board: {error}") from error

    def _save(self) -> None:
        if self._file is not None:
            new = self._file.with_name(self._file.name + ".new")
            new.write_bytes(msgspec.json.encode(self._bench))
            new.replace(self._file)


def _number(text: str | None, option: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"option {option} is {text!r}", hint="a number") from None


def _span(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    least, _, most = text.partition("-")
    if not (least.isdecimal() and most.isdecimal()):
        raise BadInput(f"option cycle is {text!r}", hint='shortest and longest off time, such as "10-600"')
    return int(least), int(most)
