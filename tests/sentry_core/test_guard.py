"""What the guard allows: a table of cases; and a file that cannot be read allows nothing."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from garrison import settings
from garrison.faults import GuardRefused
from garrison.model import Order, PoolOrder, Sheet
from garrison.words import ActionKind
from sentry_core import guard
from sentry_core.guard import HOUR_MS, Guard, Started, may

NOW = 1_700_000_000_000
DEVICE = "mac:aa"


def order(kind: ActionKind) -> Order:
    sheet = Sheet("1", "n", "BTC", "sha256d", (PoolOrder("stratum+tcp://p:1", "abc.w1"),), "abc", "w1")
    return Order("1", kind, DEVICE, 1000, 1, sheet=sheet if kind is ActionKind.APPLY_FLIGHT_SHEET else None)


def cycles(*ages_ms: int, device: str = DEVICE, kind: ActionKind = ActionKind.POWER_CYCLE) -> list[Started]:
    return [(kind, device, NOW - age) for age in ages_ms]


@pytest.mark.parametrize(
    ("rules", "kind", "payouts", "history", "allowed"),
    [
        pytest.param(Guard(), ActionKind.REBOOT, [], [], True, id="by default all is allowed"),
        pytest.param(Guard(actions=()), ActionKind.REBOOT, [], [], False, id="nothing is allowed"),
        pytest.param(Guard(actions=("pause",)), ActionKind.PAUSE, [], [], True, id="one kind is"),
        pytest.param(Guard(actions=("pause",)), ActionKind.RESUME, [], [], False, id="and no other"),
        pytest.param(Guard(), ActionKind.APPLY_FLIGHT_SHEET, ["x"], [], True, id="any payout"),
        pytest.param(Guard(payouts=("abc",)), ActionKind.APPLY_FLIGHT_SHEET, ["abc"], [], True, id="the payout"),
        pytest.param(
            Guard(payouts=("abc",)), ActionKind.APPLY_FLIGHT_SHEET, ["abc.w1", "abc/w1", "abc+5"], [], True, id="its workers"
        ),
        pytest.param(Guard(payouts=("abc",)), ActionKind.APPLY_FLIGHT_SHEET, ["abcd"], [], False, id="a longer address is another"),
        pytest.param(Guard(payouts=("abc",)), ActionKind.APPLY_FLIGHT_SHEET, ["ABC"], [], False, id="case counts"),
        pytest.param(Guard(payouts=("abc",)), ActionKind.APPLY_FLIGHT_SHEET, ["abc", "thief"], [], False, id="one thief of two"),
        pytest.param(Guard(payouts=("abc",)), ActionKind.APPLY_FLIGHT_SHEET, [], [], False, id="a sheet that hides whom it pays"),
        pytest.param(Guard(payouts=("",)), ActionKind.APPLY_FLIGHT_SHEET, [".x"], [], False, id="an empty entry allows nobody"),
        pytest.param(Guard(), ActionKind.POWER_CYCLE, [], cycles(1, 2, 3), True, id="three cycles in the hour"),
        pytest.param(Guard(), ActionKind.POWER_CYCLE, [], cycles(1, 2, 3, 4), False, id="four"),
        pytest.param(Guard(), ActionKind.POWER_OFF, [], cycles(1, 2, 3, 4), False, id="off counts as a cycle does"),
        pytest.param(Guard(), ActionKind.POWER_ON, [], cycles(1, 2, 3, 4), True, id="on is always allowed"),
        pytest.param(Guard(), ActionKind.POWER_CYCLE, [], cycles(1, 2, 3, HOUR_MS), True, id="the hour is over"),
        pytest.param(Guard(), ActionKind.POWER_CYCLE, [], cycles(1, 2, 3, 4, device="mac:bb"), True, id="of another device"),
        pytest.param(
            Guard(),
            ActionKind.POWER_CYCLE,
            [],
            cycles(1, 2, 3, 4, kind=ActionKind.POWER_ON),
            True,
            id="switching on does not count",
        ),
        pytest.param(Guard(max_power_cycles_per_hour=0), ActionKind.POWER_OFF, [], [], False, id="never"),
    ],
)
def test_may(rules: Guard, kind: ActionKind, payouts: list[str], history: list[Started], allowed: bool) -> None:
    """Refused in words that name the key to change."""
    refusal = may(rules, order(kind), payouts, history, NOW)
    assert (refusal is None) == allowed
    assert refusal is None or guard.FILE in refusal.hint


def test_the_default_file_says_what_the_defaults_are(tmp_path: Path) -> None:
    """It is written once, for its owner alone, and never overwritten."""
    assert guard.write_default(tmp_path)
    assert guard.load(tmp_path) == Guard()
    assert os.stat(tmp_path / guard.FILE).st_mode & 0o777 == 0o600  # noqa: PTH116  # the mode is what is tested
    (tmp_path / guard.FILE).write_text('actions = ["pause"]\n')
    assert not guard.write_default(tmp_path)
    assert guard.load(tmp_path).actions == ("pause",)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "actions = [",
        'action = ["pause"]',
        'actions = ["explode"]',
        "max_power_cycles_per_hour = -1",
        'payouts = "abc"',
    ],
)
def test_a_broken_guard_allows_nothing(tmp_path: Path, text: str | None) -> None:
    """Missing, not TOML, an unknown key, an unknown kind, a wrong value: refused, and it says why."""
    if text is not None:
        (tmp_path / guard.FILE).write_text(text)
    with pytest.raises(GuardRefused, match="guard"):
        guard.load(tmp_path)


def test_the_example_is_valid() -> None:
    """And has every key."""
    text = settings.example(Guard, guard.TITLE)
    assert settings.loads(text, Guard) == Guard()
    assert all(field.encode_name in text for field in msgspec.structs.fields(Guard))
