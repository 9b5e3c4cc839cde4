"""Tests of commander.actions.rules: the life cycle as a table, and what may be ordered."""

from __future__ import annotations

import uuid
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.actions import rules
from commander.model import ActionRow, DeviceRow
from garrison.faults import BadInput, Conflict, Fault, NotSupported
from garrison.model import Report
from garrison.words import ActionKind, ActionState, DeviceState

S = ActionState
NOW_MS = 1_750_000_000_000
OPEN = [state for state in S if not state.final]
ENDS = [state for state in S if state.final]


def a_row(state: S = S.QUEUED, **other: object) -> ActionRow:
    plain = {
        "id": "a",
        "kind": ActionKind.REBOOT,
        "device_id": 1,
        "sentry_id": "s",
        "asked_by": "me",
        "created_ms": NOW_MS,
        "deadline_ms": NOW_MS + 300_000,
        "updated_ms": NOW_MS,
        "device": "rig-1",
        "identity": "machine:1",
    }
    return ActionRow(state=state, **{**plain, **other})  # type: ignore[arg-type]  # a shorthand of tests


def a_device(*capabilities: ActionKind, identity: str | None = "machine:1") -> DeviceRow:
    return DeviceRow(1, identity, 1, "s", "rig", "rig-1", DeviceState.MINING, capabilities=capabilities)


# ---- from state to state -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "by_sentry", "reported", "becomes"),
    [
        (S.SENT, False, S.ACCEPTED, S.ACCEPTED),
        (S.ACCEPTED, True, S.STARTED, S.STARTED),
        (S.STARTED, True, S.VERIFYING, S.VERIFYING),
        (S.VERIFYING, True, S.SUCCEEDED, S.SUCCEEDED),
        # steps may be missing: the backup was older, or the sentry refused at once
        (S.SENT, False, S.REFUSED, S.REFUSED),
        (S.SENT, False, S.SUCCEEDED, S.SUCCEEDED),
        (S.QUEUED, False, S.STARTED, S.STARTED),
        # out of order and repeated
        (S.VERIFYING, True, S.STARTED, None),
        (S.STARTED, True, S.ACCEPTED, None),
        (S.STARTED, True, S.STARTED, None),
        # a fact stays
        (S.SUCCEEDED, True, S.FAILED, None),
        (S.UNKNOWN, True, S.SUCCEEDED, None),
        (S.SUCCEEDED, True, S.VERIFYING, None),
        # what the commander had to assume gives way to what the sentry knows
        (S.UNKNOWN, False, S.SUCCEEDED, S.SUCCEEDED),
        (S.EXPIRED, False, S.FAILED, S.FAILED),
        (S.CANCELLED, False, S.SUCCEEDED, S.SUCCEEDED),
        (S.UNKNOWN, False, S.UNKNOWN, S.UNKNOWN),
        (S.UNKNOWN, False, S.STARTED, None),
        # a sentry has no say over what it has not got
        (S.SENT, False, S.QUEUED, None),
        (S.QUEUED, False, S.SENT, None),
    ],
)
def test_what_a_report_changes(state: S, by_sentry: bool, reported: S, becomes: S | None) -> None:
    """Reports move an order forward, never back; an end that a sentry reported never changes."""
    assert rules.after_report(state, by_sentry, reported) is becomes


@given(st.permutations([S.ACCEPTED, S.STARTED, S.VERIFYING, S.SUCCEEDED, S.ACCEPTED, S.STARTED]), st.sampled_from(OPEN[:2]))
def test_any_order_of_reports_ends_the_same(reports: list[S], state: S) -> None:
    """However reports are repeated or mixed up, the order ends where the sentry said it ended."""
    by_sentry = False
    for reported in reports:
        new = rules.after_report(state, by_sentry, reported)
        if new is not None:
            assert not state.final
            assert new > state
            state, by_sentry = new, True
    assert state is S.SUCCEEDED


def test_a_fact_never_changes() -> None:
    """No report of any kind moves an end that a sentry reported."""
    for state, reported in product(ENDS, S):
        assert rules.after_report(state, True, reported) is None


def test_every_open_state_can_end_in_every_way() -> None:
    """The table names every open state, and each can reach each end."""
    assert set(rules.REPORTED) == set(OPEN)
    for state in OPEN:
        assert rules.REPORTED[state] >= set(ENDS)


@pytest.mark.parametrize(
    ("row", "after_s", "becomes"),
    [
        (a_row(S.QUEUED), 299, None),
        (a_row(S.QUEUED), 300, S.EXPIRED),
        (a_row(S.SENT), 300, None),
        (a_row(S.SENT), 300 + rules.GRACE_S, S.UNKNOWN),
        (a_row(S.ACCEPTED), 300 + rules.GRACE_S, S.UNKNOWN),
        (a_row(S.STARTED), 300 + rules.GRACE_S, None),
        (a_row(S.STARTED), rules.RUN_S[ActionKind.REBOOT] + rules.GRACE_S, S.UNKNOWN),
        (a_row(S.VERIFYING), rules.RUN_S[ActionKind.REBOOT] + rules.GRACE_S, S.UNKNOWN),
        (a_row(S.SUCCEEDED), 10**6, None),
        (a_row(S.UNKNOWN), 10**6, None),
        (a_row(S.SENT), -(10**6), None),
    ],
)
def test_what_silence_means(row: ActionRow, after_s: int, becomes: S | None) -> None:
    """Only what was never sent expires here; what may have been carried out is unknown; neither too early."""
    assumed = rules.after_waiting(row, NOW_MS + after_s * 1000)
    assert (assumed[0] if assumed else None) is becomes


def test_calling_back() -> None:
    """A queued order ends at once, a sent one is the sentry's to decide, a started or ended one stays."""
    assert rules.recall(a_row(S.QUEUED)) is rules.Recall.AT_ONCE
    assert rules.recall(a_row(S.SENT)) is rules.Recall.ASK
    assert rules.recall(a_row(S.ACCEPTED)) is rules.Recall.ASK
    for state in (S.STARTED, S.VERIFYING, *ENDS):
        with pytest.raises(Conflict):
            rules.recall(a_row(state))


# ---- may it be ordered ---------------------------------------------------------------------------------------


def test_a_device_must_take_it() -> None:
    """What a device does not list is refused with what it does take; an unidentified one takes nothing; mains is not its own."""
    rules.check_device(ActionKind.PAUSE, a_device(ActionKind.PAUSE))
    rules.check_device(ActionKind.POWER_CYCLE, a_device())
    with pytest.raises(NotSupported, match=r"rig-1 does not take locate \(it takes pause, reboot\)"):
        rules.check_device(ActionKind.LOCATE, a_device(ActionKind.PAUSE, ActionKind.REBOOT))
    with pytest.raises(Conflict, match="not been identified"):
        rules.check_device(ActionKind.POWER_CYCLE, a_device(ActionKind.PAUSE, identity=None))


def test_one_open_order_a_device() -> None:
    """The very same order joins the open one; any other is refused with the open one's name."""
    is_open = a_row(S.STARTED, kind=ActionKind.LOCATE, arguments={"on": True})
    assert rules.check_open(a_row(kind=ActionKind.LOCATE, arguments={"on": True}), is_open)
    for other in (a_row(kind=ActionKind.LOCATE, arguments={"on": False}), a_row(kind=ActionKind.REBOOT)):
        with pytest.raises(Conflict, match=r"still has an order to locate \(started\).*cancel a"):
            rules.check_open(other, is_open)


@pytest.mark.parametrize(
    ("kind", "given", "complete"),
    [
        (ActionKind.REBOOT, {}, {}),
        (ActionKind.LOCATE, {}, {"on": True}),
        (ActionKind.LOCATE, {"on": False}, {"on": False}),
        (ActionKind.APPLY_FLIGHT_SHEET, {"sheet": "btc"}, {"sheet": "btc"}),
        (ActionKind.POWER_CYCLE, {"off_s": 60}, {"force": False, "off_s": 60}),
        (ActionKind.SET_POWER_MODE, {"mode": "290MHz"}, {"mode": "290MHz"}),
        (ActionKind.SET_POWER_LIMIT, {"limit_w": 3000}, {"limit_w": 3000}),
        (ActionKind.SET_FAN, {"percent": 0}, {"percent": 0}),
        (ActionKind.SET_FAN, {"percent": "auto"}, {"percent": "auto"}),
        (ActionKind.SET_HOSTNAME, {"hostname": "miner-7"}, {"hostname": "miner-7"}),
    ],
)
def test_arguments_are_completed(kind: ActionKind, given: dict[str, object], complete: dict[str, object]) -> None:
    """What was left out gets its default."""
    assert rules.checked_arguments(kind, given) == complete


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ActionKind.REBOOT, {"now": True}),
        (ActionKind.LOCATE, {"on": 1}),
        (ActionKind.POWER_CYCLE, {"off_s": True}),
        (ActionKind.POWER_CYCLE, {"off_s": -1}),
        (ActionKind.POWER_CYCLE, {"off_s": 1.5}),
        (ActionKind.APPLY_FLIGHT_SHEET, {}),
        (ActionKind.APPLY_FLIGHT_SHEET, {"sheet": ""}),
        (ActionKind.APPLY_FLIGHT_SHEET, {"sheet": 3}),
        (ActionKind.POWER_CYCLE, {"off_s": "30"}),
        (ActionKind.POWER_OFF, {"off_s": 30}),
        *((ActionKind.SET_POWER_MODE, {"mode": mode}) for mode in (None, "", " low", "a\nb", "x" * 65, 1)),
        *((ActionKind.SET_POWER_LIMIT, {"limit_w": limit}) for limit in (None, 0, -1, 100_001, 1.5, "3000", True)),
        *((ActionKind.SET_FAN, {"percent": percent}) for percent in (None, -1, 101, 50.5, "50", "", "automatic", True)),
        *((ActionKind.SET_HOSTNAME, {"hostname": name}) for name in (None, "", "a b", "a.b", "-a", "a-", "x" * 64, 7)),
        (ActionKind.SET_FAN, {}),
    ],
)
def test_wrong_arguments_are_refused(kind: ActionKind, given: dict[str, object]) -> None:
    """An unknown name, a missing one, or another type: refused, never guessed."""
    with pytest.raises(BadInput):
        rules.checked_arguments(kind, given)


def test_a_host_name_is_for_one_device() -> None:
    """Two devices of one name find nobody."""
    rules.check_count(ActionKind.SET_FAN, 100)
    rules.check_count(ActionKind.SET_HOSTNAME, 1)
    with pytest.raises(BadInput, match="for one device"):
        rules.check_count(ActionKind.SET_HOSTNAME, 2)


def test_deadlines() -> None:
    """Every kind has one; mains never waits long; what makes no sense is refused."""
    assert set(rules.DEADLINE_S) == set(ActionKind) == set(rules.RUN_S)
    assert rules.deadline_ms(ActionKind.REBOOT, 1000, None) == 301_000
    assert rules.deadline_ms(ActionKind.POWER_CYCLE, 0, 600) == 600_000
    for kind, seconds in ((ActionKind.POWER_CYCLE, 601), (ActionKind.REBOOT, 4), (ActionKind.REBOOT, 10**9)):
        with pytest.raises(BadInput):
            rules.deadline_ms(kind, 0, seconds)


# ---- for the wire --------------------------------------------------------------------------------------------


def test_an_order_has_what_is_left_of_its_time() -> None:
    """Never more than it had when a clock was set back, and never 0."""
    row = a_row(S.SENT)
    assert rules.order_of(row, NOW_MS + 100_000, 7).not_after_ms == 200_000
    assert rules.order_of(row, NOW_MS - 10**9, 7).not_after_ms == 300_000
    assert rules.order_of(row, NOW_MS + 10**9, 7).not_after_ms == 1
    assert rules.order_of(row, NOW_MS, 7).epoch == 7


@pytest.mark.parametrize(
    ("kind", "arguments", "name", "value"),
    [
        (ActionKind.SET_POWER_MODE, {"mode": "eco"}, "power_mode", "eco"),
        (ActionKind.SET_POWER_LIMIT, {"limit_w": 3000}, "power_limit_w", 3000),
        (ActionKind.SET_FAN, {"percent": 60}, "fan_pct", 60),
        (ActionKind.SET_FAN, {"percent": "auto"}, "fan_pct", None),
        (ActionKind.SET_HOSTNAME, {"hostname": "m"}, "hostname", "m"),
    ],
)
def test_a_setting_goes_on_the_wire(kind: ActionKind, arguments: dict[str, object], name: str, value: object) -> None:
    """As it was asked for."""
    assert getattr(rules.order_of(a_row(S.SENT, kind=kind, arguments=arguments), NOW_MS, 1), name) == value


def test_a_damaged_sheet_is_told() -> None:
    """A stored sheet that cannot be read is a fault, not an order without a sheet."""
    with pytest.raises(BadInput, match="cannot be read"):
        rules.order_of(a_row(kind=ActionKind.APPLY_FLIGHT_SHEET, arguments={"sheet": {"id": 1}}), NOW_MS, 1)


@given(st.lists(st.integers(1, (1 << 48) - 5_000), min_size=1, max_size=50), st.binary(min_size=8, max_size=8))
def test_ids_are_uuid7_and_ascend(times_ms: list[int], entropy: bytes) -> None:
    """Proper UUIDs of version 7, each behind the one before, also when the clock goes back."""
    ids = rules.Ids()
    made = [uuid.UUID(ids.next(at_ms, entropy)) for at_ms in times_ms]
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    assert [str(one) for one in made] == sorted({str(one) for one in made})
    assert made[0].int >> 80 == times_ms[0]


def test_ids_of_one_moment_ascend() -> None:
    """More of them in a millisecond than the counter holds."""
    ids = rules.Ids()
    made = [ids.next(5, bytes(8)) for _ in range(10_000)]
    assert made == sorted(set(made))


def test_reports_are_bounded() -> None:
    """A sentry's words are cut to what is kept."""
    long = Report("a", S.FAILED, 1, "x" * 1000, "y" * 100_000, {f"{n:05}{'k' * 100}": "v" * 9_000 for n in range(500)})
    kept = rules.bounded(long)
    assert len(kept.fault) == 64
    assert len(kept.text) == rules.MAX_TEXT
    assert len(kept.detail) == rules.MAX_DETAILS
    assert all(len(key) <= 64 and len(value) <= rules.MAX_TEXT for key, value in kept.detail.items())


def test_refusals_say_what_to_do() -> None:
    """Every refusal of an order carries a hint or a full reason."""
    for call in (
        lambda: rules.check_open(a_row(), a_row(S.STARTED, kind=ActionKind.PAUSE)),
        lambda: rules.recall(a_row(S.STARTED)),
        lambda: rules.check_device(ActionKind.PAUSE, a_device()),
    ):
        with pytest.raises(Fault) as caught:
            call()
        assert caught.value.hint
