"""What a look at an ASIC means. Pure: no clock, no socket."""

from __future__ import annotations

from garrison.faults import Fault, Refused
from garrison.model import Target
from garrison.words import DeviceState
from sentry_asic.make import Reading

OFFLINE_AFTER = 3
"""Failed looks in a row before a device is unreachable; until then it is slow."""

FLOOR = 0.8
"""Below this part of its expected hashrate a device is degraded …"""

RECOVERED = 0.85
"""… and above this one it is well again, so that a value at the edge does not flap."""

STARTING_S = 300
"""How long after its miner's start a device may hash too little without being degraded."""


def judge_state(
    look: Reading | Fault, target: Target, previous: DeviceState = DeviceState.UNKNOWN, failures: int = 0
) -> DeviceState:
    """The word for a device after this look. `failures`: failed looks in a row, this one included; 0 for a good look."""
    if target.maintenance:
        return DeviceState.MAINTENANCE
    if isinstance(look, Fault):
        return _of_fault(look, failures)
    if look.booting:
        return DeviceState.STARTING
    if look.asleep:
        return DeviceState.PAUSED
    starting = look.uptime_s is not None and look.uptime_s < STARTING_S
    if look.mining is False:
        return DeviceState.STARTING if starting else DeviceState.IDLE
    if look.mining is None:
        return DeviceState.DEGRADED  # it answers, and does not tell what it is there for
    if not weak(look, target, previous):
        return DeviceState.MINING
    return DeviceState.STARTING if starting else DeviceState.DEGRADED


def weak(look: Reading, target: Target, previous: DeviceState) -> bool:
    """Less than it should be: hashrate, chips, or a critical fault that it reports."""
    expected = target.expected_hashrate_hs or look.expected_hashrate_hs
    floor = RECOVERED if previous is DeviceState.DEGRADED else FLOOR
    if expected and look.hashrate_hs is not None and look.hashrate_hs < floor * expected:
        return True
    if any(b.chips is not None and b.chips_expected is not None and b.chips < b.chips_expected for b in look.boards):
        return True
    return any(condition.severity == "critical" for condition in look.conditions)


def _of_fault(fault: Fault, failures: int) -> DeviceState:
    if isinstance(fault, Refused):  # the wrong password among them
        return DeviceState.REFUSED
    return DeviceState.UNREACHABLE if failures >= OFFLINE_AFTER else DeviceState.SLOW
