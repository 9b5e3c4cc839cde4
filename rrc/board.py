"""What a relay board can do, as its driver offers it.

A driver does one protocol exchange a call: no retries, no sleeps, no read-back. Those stand once, in `queue.py`.
Every call has its own limit in time and bytes. What a failed command means depends on which fault it is:

    Unreachable    nothing was sent: it may be sent again
    TimedOut       it may have been carried out: only a read tells
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from garrison.faults import BadInput
from garrison.words import PowerState


@dataclass(frozen=True, slots=True)
class BoardAddress:
    """How to reach a board. `address` is host or host:port; `outlets` how many it has; options are the driver's own."""

    kind: str
    address: str
    outlets: int = 1
    username: str = ""
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutletReading:
    """One outlet as the board states it. None: the board does not say. Units: W, V, A, J."""

    state: PowerState
    power_w: float | None = None
    voltage_v: float | None = None
    current_a: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`cycle_s`: shortest and longest off time the board's own timer can do; None: it has no timer."""

    cycle_s: tuple[int, int] | None = None
    metering: bool = False
    outlets: int = 1


class Board(Protocol):
    """Outlets are named "1", "2", … as printed on the board. Errors: Unreachable, TimedOut, WrongPassword, BadAnswer, BadInput."""

    capabilities: Capabilities

    async def read(self, *, slow: bool = True) -> Mapping[str, OutletReading]:
        """Every outlet. `slow`: also what takes another exchange (meters); without it only the states are sure."""
        ...

    async def set(self, outlet: str, on: bool) -> None:
        """One command. That it was accepted proves nothing: read."""
        ...

    async def cycle(self, outlet: str, off_s: int) -> None:
        """Off, and on again after `off_s` by the board's own timer. NotSupported where it has none."""
        ...

    async def close(self) -> None:
        """Lets go of connections. May be called twice; a later call opens anew."""
        ...


def outlet_number(outlet: str, outlets: int) -> int:
    """The outlet as a number from 1. Raises BadInput."""
    if not (outlet.isascii() and outlet.isdecimal()) or outlet.startswith("0") or not 1 <= int(outlet) <= outlets:
        raise BadInput(f"no outlet {outlet!r} on this board", hint=f"it has 1 to {outlets}")
    return int(outlet)


def host_and_port(address: str, port: int) -> tuple[str, int]:
    """Host and port of "host", "host:port", "[v6]" or "[v6]:port"; `port` where none is given. Raises BadInput."""
    host, given = address, ""
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        given = rest.removeprefix(":")
    elif address.count(":") == 1:
        host, _, given = address.partition(":")
    if (
        not host
        or any(c in host for c in "/?#@ \t\r\n\\")
        or (given and not (given.isascii() and given.isdecimal() and 0 < int(given) < 65536))
    ):
        raise BadInput(f"not an address: {address!r}", hint="host, host:port or [IPv6]:port, without http://")
    return host, int(given) if given else port


def whole_number(address: BoardAddress, option: str, default: int, least: int, most: int) -> int:
    """An option as a whole number. Raises BadInput."""
    text = address.options.get(option, str(default))
    if not (text.isascii() and text.isdecimal()) or not least <= int(text) <= most:
        raise BadInput(f"option {option} is {text!r}", hint=f"a whole number from {least} to {most}")
    return int(text)


def check_options(address: BoardAddress, known: frozenset[str]) -> None:
    """BadInput for an option this driver does not have."""
    unknown = sorted(address.options.keys() - known)
    if unknown:
        raise BadInput(f"{address.kind} has no option {unknown[0]!r}", hint=f"it has: {', '.join(sorted(known)) or 'none'}")
