"""Tests of commander.power.rules: tables of cases. Each refusal names its rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.model import DeviceRow
from commander.power import rules
from commander.power.rules import Asked, Facts, Feed, Limits, Quiet, Switching, may_switch
from garrison.words import ActionKind, DeviceState

K = ActionKind
NOW_MS = 1_750_000_000_000
LIMITS = Limits()
FEED = Feed("b1", "1", sentry="s1")
FINE = Facts("asic-1", NOW_MS, (FEED,))
CYCLE, ON, OFF = Asked(K.POWER_CYCLE), Asked(K.POWER_ON), Asked(K.POWER_OFF)
STORM = (Quiet("of its sentry", 3, 10), Quiet("of the farm", 3, 1000))


def cut(ago_s: float, kind: ActionKind = K.POWER_CYCLE) -> Switching:
    return Switching(kind, NOW_MS - round(ago_s * 1000))


def by_itself(asked: Asked) -> Asked:
    return replace(asked, person=False)


def forced(asked: Asked) -> Asked:
    return replace(asked, force=True)


def names(asked: Asked, limits: Limits = LIMITS, **facts: Any) -> list[str]:
    return [one.rule for one in may_switch(asked, replace(FINE, **facts), limits)]


@pytest.mark.parametrize("asked", [CYCLE, ON, OFF, by_itself(CYCLE), forced(CYCLE)])
@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        ({"feeds": ()}, "unmapped"),
        ({"feeds": (FEED, replace(FEED, outlet="2"))}, "one_outlet"),
        ({"feeds": (replace(FEED, protected=True),)}, "protected"),
        ({"feeds": (replace(FEED, sentry_connected=False),)}, "sentry_silent"),
    ],
)
def test_nobody_overrules_these(asked: Asked, facts: dict[str, Any], rule: str) -> None:
    """Not mapped, on two outlets, protected, or no sentry at the board: never switched, forced or not, on or off."""
    assert names(asked, **facts) == [rule]


@pytest.mark.parametrize(
    ("asked", "facts", "refused"),
    [
        # nothing stands against it
        (CYCLE, {}, []),
        (ON, {}, []),
        (OFF, {}, []),
        (by_itself(CYCLE), {}, []),
        # off time
        (replace(CYCLE, off_s=10), {}, []),
        (replace(CYCLE, off_s=600), {}, []),
        (replace(CYCLE, off_s=9), {}, ["off_time"]),
        (replace(CYCLE, off_s=601), {}, ["off_time"]),
        (replace(CYCLE, off_s=-1), {}, ["off_time"]),
        (forced(replace(CYCLE, off_s=5)), {}, ["off_time"]),
        # maintenance: hands may be inside; a person may cut
        (CYCLE, {"held": True}, ["maintenance"]),
        (ON, {"held": True}, ["maintenance"]),
        (forced(ON), {"held": True}, ["maintenance"]),
        (OFF, {"held": True}, []),
        (by_itself(OFF), {"held": True}, ["maintenance"]),
        # interval
        (CYCLE, {"cuts": (cut(899),)}, ["min_interval"]),
        (CYCLE, {"cuts": (cut(900),)}, []),
        (CYCLE, {"cuts": (cut(0),)}, ["min_interval"]),
        (CYCLE, {"cuts": (cut(-3600),)}, ["min_interval"]),
        (forced(CYCLE), {"cuts": (cut(10),)}, ["min_interval"]),
        (CYCLE, {"cuts": (cut(10, K.POWER_OFF),)}, ["min_interval"]),
        (CYCLE, {"cuts": (cut(10, K.POWER_ON),)}, []),
        (OFF, {"cuts": (cut(10),)}, []),
        (by_itself(OFF), {"cuts": (cut(10),)}, ["min_interval"]),
        (ON, {"cuts": (cut(20),)}, []),
        # day cap
        (CYCLE, {"cuts": (cut(80_000), cut(50_000), cut(1_000))}, ["day_cap"]),
        (forced(CYCLE), {"cuts": (cut(80_000), cut(50_000), cut(1_000))}, ["day_cap"]),
        (CYCLE, {"cuts": (cut(86_401), cut(50_000), cut(1_000))}, []),
        (CYCLE, {"cuts": (cut(80_000), cut(50_000), cut(10))}, ["min_interval", "day_cap"]),
        (OFF, {"cuts": (cut(80_000), cut(50_000), cut(1_000))}, []),
        (ON, {"cuts": (cut(80_000), cut(50_000), cut(1_000))}, []),
        # off long enough before on
        (ON, {"cuts": (cut(9, K.POWER_OFF),)}, ["min_off"]),
        (ON, {"cuts": (cut(10, K.POWER_OFF),)}, []),
        # the brake
        (CYCLE, {"quiet": STORM}, ["brake"]),
        (by_itself(CYCLE), {"quiet": STORM}, ["brake"]),
        (forced(CYCLE), {"quiet": STORM}, []),
        (forced(by_itself(CYCLE)), {"quiet": STORM}, ["brake"]),
        (OFF, {"quiet": STORM}, ["brake"]),
        (forced(OFF), {"quiet": STORM}, []),
        (ON, {"quiet": STORM}, []),
        (CYCLE, {"quiet": (Quiet("of its sentry", 2, 2),)}, []),  # a small farm: its hung miners may be cycled
        (CYCLE, {"quiet": (Quiet("of its sentry", 3, 11),)}, []),
        (CYCLE, {"quiet": (Quiet("of its sentry", 0, 10), Quiet("of the farm", 300, 1000))}, ["brake"]),
        (CYCLE, {"quiet": (Quiet("of its sentry", 0, 0),)}, []),
    ],
)
def test_what_refuses(asked: Asked, facts: dict[str, Any], refused: list[str]) -> None:
    """The rules that refuse, by name, and no other."""
    assert names(asked, **facts) == refused


def test_limits_are_the_owners() -> None:
    """Another interval, cap, off time and brake."""
    limits = Limits(off_s=60, min_interval_s=60, max_per_day=1, brake_share=1.0, brake_at_least=1)
    assert names(CYCLE, limits, cuts=(cut(70),)) == ["day_cap"]
    assert names(CYCLE, replace(limits, max_per_day=2), cuts=(cut(70),)) == []
    assert names(CYCLE, limits, quiet=(Quiet("of the farm", 9, 10),)) == []
    assert names(CYCLE, limits, quiet=(Quiet("of the farm", 10, 10),)) == ["brake"]
    assert rules.off_s(CYCLE, limits) == 60
    assert rules.off_s(replace(CYCLE, off_s=20), limits) == 20
    assert rules.off_s(OFF, limits) == 0


@pytest.mark.parametrize(
    "facts",
    [
        {"feeds": ()},
        {"feeds": (FEED, FEED)},
        {"feeds": (replace(FEED, protected=True),)},
        {"feeds": (replace(FEED, sentry_connected=False),)},
        {"held": True},
        {"cuts": (cut(10),)},
        {"cuts": (cut(80_000), cut(50_000), cut(1_000))},
        {"quiet": STORM},
    ],
)
def test_refusals_speak(facts: dict[str, Any]) -> None:
    """Each says what stands against it and what to do; only the brake can be overruled."""
    (refusal,) = may_switch(CYCLE, replace(FINE, **facts), LIMITS)
    assert refusal.text
    assert refusal.hint
    assert refusal.forcible == (refusal.rule == "brake")


@given(
    st.lists(
        st.builds(Switching, st.sampled_from([K.POWER_ON, K.POWER_OFF, K.POWER_CYCLE]), st.integers(NOW_MS - 10**8, NOW_MS + 10**8))
    ),
    st.booleans(),
    st.booleans(),
    st.integers(0, 700),
    st.builds(Quiet, st.just("of the farm"), st.integers(0, 50), st.integers(0, 50)),
)
def test_no_request_gets_around_the_limits(cuts: list[Switching], person: bool, force: bool, off_s: int, quiet: Quiet) -> None:
    """Whatever happened before and however it is asked: a cycle that may be never breaks off time, interval or cap."""
    asked = Asked(K.POWER_CYCLE, off_s, person, force)
    if may_switch(asked, replace(FINE, cuts=tuple(cuts), quiet=(quiet,)), LIMITS):
        return
    assert 10 <= rules.off_s(asked, LIMITS) <= 600
    ages_ms = [NOW_MS - cut.at_ms for cut in cuts if cut.kind is not K.POWER_ON]
    assert all(age_ms > 899_000 for age_ms in ages_ms)
    assert sum(age_ms < rules.DAY_MS for age_ms in ages_ms) < 3


# ---- who is silent -------------------------------------------------------------------------------------------


def a_device(number: int, state: DeviceState = DeviceState.MINING, sentry_id: str = "s1", **other: Any) -> DeviceRow:
    plain: dict[str, Any] = {"kind": "asic", "seen_ms": 1, **other}
    return DeviceRow(number, f"mac:{number}", number, sentry_id, plain.pop("kind"), f"asic-{number}", state, **plain)


def test_who_is_silent() -> None:
    """The others of its sentry and of the farm. The device itself, relays, what was never seen, what is off or in
    maintenance say nothing.
    """
    target = a_device(1, DeviceState.UNREACHABLE)
    devices = [
        target,
        a_device(2, DeviceState.UNREACHABLE),
        a_device(3, DeviceState.SLOW),
        a_device(4),
        a_device(5, DeviceState.IDLE, "s2"),
        a_device(6, DeviceState.UNKNOWN, "s2", kind="rig"),
        a_device(7, DeviceState.OFF),
        a_device(8, DeviceState.UNREACHABLE, seen_ms=None),
        a_device(9, DeviceState.UNREACHABLE, kind="relay"),
        a_device(10, DeviceState.MAINTENANCE, maintenance=True),
        a_device(11, DeviceState.REFUSED),  # it answers
    ]
    assert rules.how_quiet(target, devices) == (Quiet("of its sentry", 2, 4), Quiet("of the farm", 3, 6))
