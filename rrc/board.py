"""What a relay board can do, as its driver offers it.

A driver does one protocol exchange a call: no retries, no sleeps, no read-back. Those stand once, in `queue.py`.
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

    async def read(self) -> Mapping[str, OutletReading]:
        """Every outlet."""
        ...

    async def set(self, outlet: str, on: bool) -> None:
        """One command. That it was accepted proves nothing: read."""
        ...

    async def cycle(self, outlet: str, off_s: int) -> None:
        """Off, and on again after `off_s` by the board's own timer. NotSupported where it has none."""
        ...

    async def close(self) -> None: ...


def outlet_number(outlet: str, outlets: int) -> int:
    """The outlet as a number from 1. Raises BadInput."""
    if not outlet.isdecimal() or not 1 <= int(outlet) <= outlets:
        raise BadInput(f"no outlet {outlet!r} on this board", hint=f"it has 1 to {outlets}")
    return int(outlet)
