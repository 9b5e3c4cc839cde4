"""Plugs and boards with Tasmota, over HTTP.

`GET /cm?cmnd=…`. Commands are absolute (`Power1 On`), never TOGGLE. A one-relay device answers "POWER", others "POWER1", …
Log-in is `user` and `password` in the query: no URL of ours may reach a log, a fault or a screen. A refused log-in is
status 200 with a "WARNING" (firmware up to 14, read in its source), or 401.

Its own timer: `Backlog PowerN Off; Delay tenths; PowerN On`. The backlog is in the plug's memory: a plug that reboots in
between forgets it, and what the relay does then is its `PowerOnState`. So the timer is used, because it covers the loss of
the network and of the sentry, and whoever uses it still keeps the order to restore power and looks at the time due.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from garrison.clock import Clock
from garrison.faults import BadAnswer, BadInput, NotSupported, TimedOut, Unavailable, Unreachable, WrongPassword
from garrison.words import PowerState
from rrc.board import BoardAddress, Capabilities, OutletReading, check_options, host_and_port, outlet_number

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 64 * 1024  # `Status 0`, the longest answer there is, has about 4 kB
CONNECT_S = 3.0
ANSWER_S = 5.0
CYCLE_S = (1, 360)  # Delay takes 2 to 3600 tenths of a second
_JOULE_PER_KWH = 3_600_000
_STATES = {"ON": PowerState.ON, "OFF": PowerState.OFF, 1: PowerState.ON, 0: PowerState.OFF}


class Tasmota:
    def __init__(self, address: BoardAddress, clock: Clock) -> None:
        check_options(address, frozenset())
        host, port = host_and_port(address.address, 80)
        self._url = f"http://[{host}]:{port}/cm" if ":" in host else f"http://{host}:{port}/cm"
        self._shown = address.address
        self._outlets = address.outlets
        self._login = {"user": address.username or "admin", "password": address.password} if address.password else {}
        self._energy_status: str | None = "10"  # older firmware: 8; None: this one has no meter
        self._client: httpx.AsyncClient | None = None
        self.capabilities = Capabilities(CYCLE_S, metering=True, outlets=address.outlets)

    async def read(self, *, slow: bool = True) -> Mapping[str, OutletReading]:
        states = parse_states(await self._ask("Status 11"), self._outlets)
        if not slow or self._energy_status is None:
            return {outlet: OutletReading(state) for outlet, state in states.items()}
        energy = parse_energy(await self._ask(f"Status {self._energy_status}"))
        if energy is None:
            self._energy_status = "8" if self._energy_status == "10" else None
        return meter(states, energy or {})

    async def set(self, outlet: str, on: bool) -> None:
        number = outlet_number(outlet, self._outlets)
        parse_accepted(await self._ask(f"Power{number} {'On' if on else 'Off'}"))

    async def cycle(self, outlet: str, off_s: int) -> None:
        number = outlet_number(outlet, self._outlets)
        if not CYCLE_S[0] <= off_s <= CYCLE_S[1]:
            raise NotSupported(f"Tasmota's timer covers {CYCLE_S[0]} to {CYCLE_S[1]} s, not {off_s} s")
        parse_accepted(await self._ask(f"Backlog Power{number} Off; Delay {off_s * 10}; Power{number} On"))

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _ask(self, command: str) -> bytes:
        """The body of the answer. Every httpx error is translated here, without its text where that could hold the URL."""
        httpx = _httpx()
        client = self._client = self._client or _client(httpx)
        try:
            async with asyncio.timeout(CONNECT_S + ANSWER_S):
                async with client.stream("GET", self._url, params={"cmnd": command, **self._login}) as answer:
                    body = bytearray()
                    async for part in answer.aiter_raw():
                        body += part
                        if len(body) > MAX_BYTES:
                            raise BadAnswer(f"{self._shown} answers more than {MAX_BYTES} bytes", hint="is it a Tasmota device?")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(f"{self._shown} cannot be reached: {type(error).__name__}") from None
        except (TimeoutError, httpx.TimeoutException):
            raise TimedOut(f"{self._shown} took the request and did not answer in {ANSWER_S:.0f} s") from None
        except httpx.TransportError as error:
            raise TimedOut(f"{self._shown} broke off its answer: {type(error).__name__}") from None
        except (httpx.InvalidURL, UnicodeError):
            raise BadInput(f"not an address: {self._shown!r}") from None
        if answer.status_code in (401, 403):
            raise WrongPassword(f"{self._shown} refuses the log-in", hint="the web password of the plug; user is mostly admin")
        if answer.status_code != 200:
            raise BadAnswer(f"{self._shown} answers with HTTP status {answer.status_code}", hint="is it a Tasmota device?")
        return bytes(body)


def _httpx() -> Any:
    try:
        import httpx  # a sentry without such a board does not load it
    except ImportError:
        raise Unavailable("relay boards over HTTP need the package httpx", hint="pip install 'garrison[asic]'") from None
    return httpx


def _client(library: Any) -> httpx.AsyncClient:
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs each URL, and ours hold the password
    client: httpx.AsyncClient = library.AsyncClient(
        timeout=library.Timeout(ANSWER_S, connect=CONNECT_S),
        limits=library.Limits(max_connections=1, max_keepalive_connections=0),  # it serves one client at a time, and closes
        headers={"Connection": "close", "Accept-Encoding": "identity"},
        trust_env=False,  # a proxy of the machine is none of a relay's business
        follow_redirects=False,
    )
    return client


# ---- parsing: bytes in, plain data out ----------------------------------------------------------------------


def parse_object(body: bytes) -> dict[str, Any]:
    """The answer as an object. WrongPassword, BadAnswer."""
    if body.lstrip()[:1] == b"<":
        raise BadAnswer("a web page instead of Tasmota's JSON", hint="is it a Tasmota device, with its HTTP API switched on?")
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadAnswer("not Tasmota's JSON" if body.strip() else "an empty answer", hint="is it a Tasmota device?") from None
    if not isinstance(found, dict):
        raise BadAnswer("not Tasmota's JSON", hint="is it a Tasmota device?")
    warning = found.get("WARNING")
    if isinstance(warning, str) and "user=" in warning:
        raise WrongPassword("the plug refuses the log-in", hint="the web password of the plug; user is mostly admin")
    return found


def parse_accepted(body: bytes) -> None:
    """Whether it took the command, as far as it says. BadAnswer when it does not know it."""
    answer = parse_object(body)
    if answer.get("Command") in ("Unknown", "Error"):
        raise BadAnswer("the plug does not know the command", hint="has it that many relays?")


def parse_states(body: bytes, outlets: int) -> dict[str, PowerState]:
    """The relays of `Status 11`. One it does not name is unknown."""
    answer = parse_object(body)
    status = answer.get("StatusSTS", answer)
    if not isinstance(status, dict) or not any(isinstance(key, str) and key.startswith("POWER") for key in status):
        raise BadAnswer("the answer names no relay", hint="is it a Tasmota device with a relay?")
    return {str(n): _state(status, n) for n in range(1, outlets + 1)}


def _state(status: Mapping[str, Any], number: int) -> PowerState:
    told = status.get(f"POWER{number}", status.get("POWER") if number == 1 else None)
    if isinstance(told, bool | float | list | dict) or told is None:
        return PowerState.UNKNOWN
    return _STATES.get(told.upper() if isinstance(told, str) else told, PowerState.UNKNOWN)


def parse_energy(body: bytes) -> dict[str, Any] | None:
    """The ENERGY object of `Status 10` or `Status 8`; None when there is none: no meter, or another firmware age."""
    answer = parse_object(body)
    for name in ("StatusSNS", "StatusPWR"):
        section = answer.get(name)
        if isinstance(section, dict):
            energy = section.get("ENERGY", section if name == "StatusPWR" else None)
            if isinstance(energy, dict):
                return energy
    return None


def meter(states: Mapping[str, PowerState], energy: Mapping[str, Any]) -> dict[str, OutletReading]:
    """States with the meter's values. Lists are one value an outlet; one value for several outlets is nobody's, but volts."""
    readings = {}
    for place, (outlet, state) in enumerate(states.items()):
        alone = len(states) == 1
        kwh = _value(energy.get("Total"), place, alone)
        readings[outlet] = OutletReading(
            state,
            power_w=_value(energy.get("Power"), place, alone),
            voltage_v=_value(energy.get("Voltage"), place, True),
            current_a=_value(energy.get("Current"), place, alone),
            energy_j=None if kwh is None else round(kwh * _JOULE_PER_KWH, 3),
        )
    return readings


def _value(told: Any, place: int, shared: bool) -> float | None:
    if isinstance(told, list):
        told = told[place] if place < len(told) else None
    elif not shared:
        return None
    if isinstance(told, bool) or not isinstance(told, int | float) or not math.isfinite(told):
        return None
    return float(told) if 0 <= told < 1e12 else None
