"""The words for states that both ends and every screen use, and their numbers on the wire and on disk.

The numbers are for ever: never renumber, only add.
"""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum


class DeviceState(StrEnum):
    MINING = "mining"
    DEGRADED = "degraded"  # below its expected hashrate, a board or GPU missing
    IDLE = "idle"  # answers, does not mine, and nobody asked for that
    PAUSED = "paused"  # asked to sleep or stop
    STARTING = "starting"
    REFUSED = "refused"  # wrong password or locked
    SLOW = "slow"  # connected, did not answer in time
    UNREACHABLE = "unreachable"
    OFF = "off"  # its outlet is known to be off
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"  # its sentry is silent


DEVICE_STATE_CODES: dict[DeviceState, int] = {
    DeviceState.UNKNOWN: 0,
    DeviceState.MINING: 1,
    DeviceState.DEGRADED: 2,
    DeviceState.IDLE: 3,
    DeviceState.PAUSED: 4,
    DeviceState.STARTING: 5,
    DeviceState.REFUSED: 6,
    DeviceState.SLOW: 7,
    DeviceState.UNREACHABLE: 8,
    DeviceState.OFF: 9,
    DeviceState.MAINTENANCE: 10,
}
"""The values of the metric `state`."""

DEVICE_STATES: dict[int, DeviceState] = {code: state for state, code in DEVICE_STATE_CODES.items()}


class SentryState(StrEnum):
    PENDING = "pending"
    CONNECTED = "connected"
    LAGGING = "lagging"
    SILENT = "silent"
    REVOKED = "revoked"


class PowerState(StrEnum):
    ON = "on"
    OFF = "off"
    CHANGING = "changing"
    UNKNOWN = "unknown"  # never read as off


POWER_STATE_CODES: dict[PowerState, int] = {
    PowerState.UNKNOWN: 0,
    PowerState.OFF: 1,
    PowerState.ON: 2,
    PowerState.CHANGING: 3,
}
"""The values of the metric `outlet_state`."""


class ActionKind(StrEnum):
    REBOOT = "reboot"
    RESTART_MINING = "restart_mining"
    PAUSE = "pause"
    RESUME = "resume"
    LOCATE = "locate"
    APPLY_FLIGHT_SHEET = "apply_flight_sheet"
    POWER_ON = "power_on"
    POWER_OFF = "power_off"
    POWER_CYCLE = "power_cycle"
    SET_POWER_MODE = "set_power_mode"
    SET_POWER_LIMIT = "set_power_limit"
    SET_FAN = "set_fan"
    SET_HOSTNAME = "set_hostname"


SETTINGS = frozenset({ActionKind.SET_POWER_MODE, ActionKind.SET_POWER_LIMIT, ActionKind.SET_FAN, ActionKind.SET_HOSTNAME})
"""Wanted states of an ASIC that it tells itself: read before, sent only when they differ, and read again."""

MAX_POWER_LIMIT_W = 100_000
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def is_hostname(text: str) -> bool:
    """One label of RFC 1123."""
    return _HOSTNAME.fullmatch(text) is not None


def is_mode(text: str) -> bool:
    """A name that a device may have for a power mode or a preset. Which it has, only the device knows."""
    return 0 < len(text) <= 64 and text.isprintable() and text == text.strip()


POWER_ACTIONS = frozenset({ActionKind.POWER_ON, ActionKind.POWER_OFF, ActionKind.POWER_CYCLE})

PULSES = frozenset({ActionKind.REBOOT, ActionKind.RESTART_MINING, ActionKind.POWER_CYCLE})
"""Orders without a wanted end state that can be read back: after a crash they are `unknown`, never repeated."""


class ActionState(IntEnum):
    """Numbers are those of garrison.v1.ActionState; words are `ActionState.word`."""

    QUEUED = 1
    SENT = 2
    ACCEPTED = 3
    STARTED = 4
    VERIFYING = 5
    SUCCEEDED = 6
    FAILED = 7
    REFUSED = 8
    EXPIRED = 9
    CANCELLED = 10
    UNKNOWN = 11

    @property
    def word(self) -> str:
        return self.name.lower()

    @property
    def final(self) -> bool:
        return self >= ActionState.SUCCEEDED
