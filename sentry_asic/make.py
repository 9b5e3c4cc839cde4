"""What the driver of one ASIC make offers. Reading (I/O) and parsing (pure, takes bytes) are apart in each driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from garrison.model import Condition, Credentials, Pool, PoolOrder
from garrison.words import ActionKind

EVERY_LOOK = frozenset({"boards_missing", "fans_missing", "miner_down"})
"""Codes of conditions that every look finds anew; all others come from a slow look and hold until the next one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device answers and how we log in. Ports 0: the make's own (4028 and 80; the second of a Whatsminer is 4433)."""

    host: str
    api_port: int = 0
    http_port: int = 0
    credentials: Credentials | None = None  # None: the make's factory default


@dataclass(frozen=True, slots=True)
class Seen:
    """What identification found. `mac` and `serial` are empty when this firmware does not tell."""

    make: str
    model: str = ""
    firmware: str = ""
    mac: str = ""  # "aa:bb:cc:dd:ee:ff", lower case
    serial: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoardReading:
    """One hash board. Units: H/s, °C. None: not told."""

    slot: int
    hashrate_hs: float | None = None
    temp_c: float | None = None
    chip_temp_c: float | None = None
    chips: int | None = None
    chips_expected: int | None = None
    frequency_mhz: float | None = None
    hw_errors: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at one device. Every value is what the device said, in base units, or None."""

    mining: bool | None = None  # None: cannot tell
    asleep: bool | None = None
    booting: bool | None = None
    hashrate_hs: float | None = None
    hashrate_avg_hs: float | None = None
    expected_hashrate_hs: float | None = None
    power_w: float | None = None
    power_source: str | None = None  # "miner"
    voltage_v: float | None = None  # what the device is fed with
    power_limit_w: float | None = None
    uptime_s: int | None = None
    system_uptime_s: int | None = None
    temp_c: float | None = None
    chip_temp_c: float | None = None
    inlet_temp_c: float | None = None
    outlet_temp_c: float | None = None
    accepted: int | None = None
    rejected: int | None = None
    stale: int | None = None
    hw_errors: int | None = None
    fans_rpm: tuple[int, ...] = ()
    fan_pct: float | None = None
    boards: tuple[BoardReading, ...] = ()
    pools: tuple[Pool, ...] | None = None  # None: failed to ask; empty: it has none
    mode: str | None = None
    conditions: tuple[Condition, ...] = ()
    missing: tuple[str, ...] = ()
    repairs: int = 0  # answers that only parsed after repair


class Driver(Protocol):
    """One device of one make. At most one call runs at a time (the caller holds the device's lock).

    Every call may raise Unreachable, TimedOut, WrongPassword, BadAnswer; controls also NotSupported and Conflict.
    A control returns when the device took the order; whether it worked, the caller reads later.
    """

    make: str
    capabilities: tuple[ActionKind, ...]

    async def read(self, *, slow: bool) -> Reading:
        """A full look. `slow` also asks for what changes rarely (mode, conditions, configuration)."""
        ...

    async def seen(self) -> Seen:
        """Make, model, firmware, MAC, serial."""
        ...

    async def reboot(self) -> None: ...

    async def restart_mining(self) -> None: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def locate(self, on: bool) -> None: ...

    async def locating(self) -> bool | None:
        """Whether the light blinks; None: this firmware does not tell."""
        ...

    async def pools(self) -> tuple[PoolOrder, ...]:
        """The configured pools with their passwords, empty slots left out: what `set_pools` takes to go back."""
        ...

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """Reads the whole configuration first; a read that failed or made no sense is BadAnswer, and nothing is written."""
        ...

    async def close(self) -> None: ...


# What only some makes offer. A driver that does lists the kind of order in its capabilities; none has to have these.
# `set_…` raises BadInput with what the device takes when it cannot take that; the other method reads what it is set to.


@runtime_checkable
class PowerModes(Protocol):
    """SET_POWER_MODE. Names are the device's own, in lower case where it does not tell cases apart."""

    async def power_mode(self) -> str | None:
        """None: this firmware does not tell."""
        ...

    async def set_power_mode(self, mode: str) -> None: ...


@runtime_checkable
class PowerLimit(Protocol):
    """SET_POWER_LIMIT: at most so much, or for a device that takes a target so much."""

    async def power_limit_w(self) -> int | None:
        """None: it has none, or does not tell."""
        ...

    async def set_power_limit(self, limit_w: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Fan:
    """`percent` None: the device decides by its temperature."""

    percent: int | None


@runtime_checkable
class FanControl(Protocol):
    """SET_FAN."""

    async def fan(self) -> Fan | None:
        """None: this firmware does not tell."""
        ...

    async def set_fan(self, fan: Fan) -> None: ...


@runtime_checkable
class Hostname(Protocol):
    """SET_HOSTNAME."""

    async def hostname(self) -> str | None: ...

    async def set_hostname(self, name: str) -> None: ...
