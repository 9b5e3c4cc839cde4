"""What a look means: a table of cases."""

from __future__ import annotations

import pytest

from garrison.faults import BadAnswer, Fault, NotFound, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Target
from garrison.words import DeviceState
from sentry_asic.make import BoardReading, Reading
from sentry_asic.rules import judge_state

TARGET = Target("1", "127.0.0.1")
OURS = Target("1", "127.0.0.1", expected_hashrate_hs=200.0)
HOT = (Condition("temp:1", "hot", "critical"),)
WARM = (Condition("network:1", "slow pool", "warning"),)
S = DeviceState


def mining(rate: float, **more: object) -> Reading:
    return Reading(mining=True, hashrate_hs=rate, expected_hashrate_hs=100.0, uptime_s=4000, **more)  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize(
    ("look", "target", "previous", "failures", "state"),
    [
        (mining(100), TARGET, S.UNKNOWN, 0, S.MINING),
        (mining(79), TARGET, S.MINING, 0, S.DEGRADED),
        (mining(82), TARGET, S.DEGRADED, 0, S.DEGRADED),
        (mining(82), TARGET, S.MINING, 0, S.MINING),
        (mining(86), TARGET, S.DEGRADED, 0, S.MINING),
        (mining(100), OURS, S.MINING, 0, S.DEGRADED),
        (mining(100, boards=(BoardReading(0, chips=62, chips_expected=63),)), TARGET, S.MINING, 0, S.DEGRADED),
        (mining(100, boards=(BoardReading(0, chips=63),)), TARGET, S.MINING, 0, S.MINING),
        (mining(100, conditions=HOT), TARGET, S.MINING, 0, S.DEGRADED),
        (mining(100, conditions=WARM), TARGET, S.MINING, 0, S.MINING),
        (Reading(mining=True, hashrate_hs=5.0, uptime_s=4000), TARGET, S.MINING, 0, S.MINING),
        (Reading(mining=True, hashrate_hs=5.0, expected_hashrate_hs=9.0, uptime_s=20), TARGET, S.STARTING, 0, S.STARTING),
        (Reading(mining=False, uptime_s=20), TARGET, S.MINING, 0, S.STARTING),
        (Reading(mining=False, uptime_s=4000), TARGET, S.MINING, 0, S.IDLE),
        (Reading(mining=False), TARGET, S.MINING, 0, S.IDLE),
        (Reading(mining=None), TARGET, S.MINING, 0, S.DEGRADED),
        (Reading(mining=False, asleep=True), TARGET, S.MINING, 0, S.PAUSED),
        (Reading(mining=False, booting=True), TARGET, S.UNREACHABLE, 0, S.STARTING),
        (WrongPassword("no"), TARGET, S.MINING, 1, S.REFUSED),
        (Refused("code 45"), TARGET, S.MINING, 1, S.REFUSED),
        (TimedOut("silence"), TARGET, S.MINING, 1, S.SLOW),
        (TimedOut("silence"), TARGET, S.SLOW, 2, S.SLOW),
        (TimedOut("silence"), TARGET, S.SLOW, 3, S.UNREACHABLE),
        (Unreachable("refused"), TARGET, S.MINING, 1, S.SLOW),
        (Unreachable("refused"), TARGET, S.UNREACHABLE, 50, S.UNREACHABLE),
        (BadAnswer("html"), TARGET, S.MINING, 2, S.SLOW),
        (NotFound("a printer"), TARGET, S.SLOW, 3, S.UNREACHABLE),
        (mining(100), Target("1", "127.0.0.1", maintenance=True), S.MINING, 0, S.MAINTENANCE),
        (TimedOut("x"), Target("1", "127.0.0.1", maintenance=True), S.MINING, 9, S.MAINTENANCE),
    ],
)
def test_judge_state(look: Reading | Fault, target: Target, previous: S, failures: int, state: S) -> None:
    """Slow, not mining, asleep, starting, refused and offline are different words; one bad look is never offline."""
    assert judge_state(look, target, previous, failures) is state
