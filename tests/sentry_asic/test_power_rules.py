"""When mains may be switched: tables of cases, each refusal by its rule."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from garrison.faults import RuleRefused
from garrison.model import Outlet, PowerLimits
from garrison.words import ActionKind, PowerState
from sentry_asic.power_rules import DAY_MS, Busy, Cut, Refusal, Situation, brake, feed_of, may_switch, off_time, superseded

NOW = 1_800_000_000_000
ON, OFF, CYCLE = ActionKind.POWER_ON, ActionKind.POWER_OFF, ActionKind.POWER_CYCLE
MINER = "mac:aa:bb:cc:dd:ee:01"
FEED = Outlet("B1", "3", MINER, circuit="C1")
CALM = Situation(CYCLE, MINER, FEED, PowerState.ON, NOW, PowerLimits(), watched=100)


def cut(age_s: float, device: str = MINER, outlet: str = "3", kind: ActionKind = CYCLE) -> Cut:
    return Cut(device, "B1", outlet, kind, NOW - round(age_s * 1000))


def rule_of(refusal: Refusal | Outlet | int | None) -> str | None:
    return refusal.rule if isinstance(refusal, Refusal) else None


@pytest.mark.parametrize(
    ("outlets", "rule"),
    [
        ([FEED], None),
        ([Outlet("B1", "3", "", target="17")], None),
        ([Outlet("B1", "3", MINER, target="9")], None),  # the identity wins over an old target
        ([FEED, FEED], None),
        ([FEED, Outlet("B1", "3", "", target="17")], None),  # the same place, mapped twice for the same device
        ([], "unmapped"),
        ([Outlet("B1", "3", "mac:other")], "unmapped"),
        ([Outlet("B1", "3", "mac:other", target="17")], "unmapped"),
        ([FEED, Outlet("B1", "4", MINER)], "ambiguous"),
        ([FEED, Outlet("B2", "3", MINER)], "ambiguous"),
        ([FEED, Outlet("B1", "3", "mac:other")], "shared_outlet"),
        ([FEED, Outlet("B1", "3", "", target="18")], "shared_outlet"),
    ],
)
def test_feed(outlets: list[Outlet], rule: str | None) -> None:
    """Exactly one outlet, feeding exactly this device."""
    found = feed_of(MINER, "17", outlets)
    assert rule_of(found) == rule
    if rule is None:
        assert isinstance(found, Outlet)
        assert (found.board, found.outlet) == ("B1", "3")


def test_protected_by_any_entry() -> None:
    """One entry that says protected protects the outlet."""
    found = feed_of(MINER, "17", [FEED, Outlet("B1", "3", "", target="17", protected=True)])
    assert isinstance(found, Outlet)
    assert found.protected


@pytest.mark.parametrize(
    ("asked_s", "default_s", "result"),
    [
        (0, 30, 30),
        (10, 30, 10),
        (120, 30, 120),
        (3600, 30, 3600),
        (9, 30, "min_off_time"),
        (0, 5, "min_off_time"),
        (-1, 30, "min_off_time"),
        (3601, 30, "max_off_time"),
    ],
)
def test_off_time(asked_s: int, default_s: int, result: int | str) -> None:
    """What was asked, else the default; never below 10 s nor above an hour."""
    found = off_time(asked_s, PowerLimits(off_s=default_s))
    assert (found if isinstance(found, int) else found.rule) == result


CASES: list[tuple[str, dict[str, object], str | None]] = [
    ("calm", {}, None),
    ("protected", {"feed": replace(FEED, protected=True)}, "protected"),
    ("protected, off", {"feed": replace(FEED, protected=True), "kind": OFF}, "protected"),
    ("protected, on", {"feed": replace(FEED, protected=True), "kind": ON, "state": PowerState.OFF}, None),
    ("board silent", {"board_fault": "no answer", "state": PowerState.UNKNOWN}, "board_unreachable"),
    ("board silent, on", {"board_fault": "no answer", "state": PowerState.UNKNOWN, "kind": ON}, "board_unreachable"),
    ("unknown is not on", {"state": PowerState.UNKNOWN}, "outlet_unknown"),
    ("unknown is not off", {"state": PowerState.UNKNOWN, "kind": OFF}, "outlet_unknown"),
    ("unknown, on: gives power, takes none", {"state": PowerState.UNKNOWN, "kind": ON}, None),
    ("changing", {"state": PowerState.CHANGING, "kind": ON}, "outlet_changing"),
    ("cycle of what is off", {"state": PowerState.OFF}, "outlet_off"),
    ("off of what is off", {"state": PowerState.OFF, "kind": OFF}, None),
    ("too short", {"off_s": 5}, "min_off_time"),
    ("too long", {"off_s": 9999}, "max_off_time"),
    # limits
    ("14:59 ago", {"history": [cut(899)]}, "min_interval"),
    ("15:00 ago", {"history": [cut(900)]}, None),
    ("another device", {"history": [cut(60, "mac:other", "9")]}, None),
    ("the same outlet, mapped to another before", {"history": [cut(60, "mac:other")]}, "min_interval"),
    ("an off counts", {"history": [cut(60, kind=OFF)]}, "min_interval"),
    ("three today", {"history": [cut(80_000), cut(40_000), cut(1_000)]}, "max_per_day"),
    ("three, one of them yesterday", {"history": [cut(86_400), cut(40_000), cut(1_000)]}, None),
    ("off is not limited", {"history": [cut(60)] * 9, "kind": OFF}, None),
    ("on is not limited", {"history": [cut(60)] * 9, "kind": ON, "state": PowerState.OFF}, None),
    ("the clock went back a day", {"history": [cut(-DAY_MS / 1000)]}, "min_interval"),
    ("on 9 s after off", {"history": [cut(9, kind=OFF)], "kind": ON, "state": PowerState.OFF}, "min_off_time"),
    ("on 10 s after off", {"history": [cut(10, kind=OFF)], "kind": ON, "state": PowerState.OFF}, None),
    ("on of what is on", {"history": [cut(1)], "kind": ON}, None),
    # others at work
    ("same circuit", {"busy": [Busy("B2", "1", "C1", "cycle")]}, "circuit_busy"),
    ("other circuit, same board", {"busy": [Busy("B1", "1", "C2", "cycle")]}, None),
    ("same outlet", {"busy": [Busy("B1", "3", "C2", "cycle")]}, "circuit_busy"),
    (
        "no circuit named: the board is one",
        {"feed": replace(FEED, circuit=""), "busy": [Busy("B1", "1", "", "cycle")]},
        "circuit_busy",
    ),
    ("no circuit named, other board", {"feed": replace(FEED, circuit=""), "busy": [Busy("B2", "1", "", "cycle")]}, None),
    (
        "off while power is being brought back",
        {"kind": OFF, "busy": [Busy("B1", "3", "C1", "back", NOW - 119_000)]},
        "circuit_busy",
    ),
    ("off when it does not come back", {"kind": OFF, "busy": [Busy("B1", "3", "C1", "back", NOW - 121_000)]}, None),
    ("cycle when it does not come back", {"busy": [Busy("B1", "3", "C1", "back", NOW - 121_000)]}, "circuit_busy"),
    ("off when another does not come back", {"kind": OFF, "busy": [Busy("B1", "4", "C1", "back", NOW - 121_000)]}, "circuit_busy"),
    # the brake
    ("a quarter silent", {"silent": 25}, None),
    ("more than a quarter silent", {"silent": 26}, "network_suspected"),
    ("a person insists", {"silent": 26, "force": True}, None),
    ("on while all are silent", {"silent": 100, "kind": ON, "state": PowerState.OFF}, None),
]


@pytest.mark.parametrize(("change", "rule"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_may_switch(change: dict[str, object], rule: str | None) -> None:
    """Each case is refused by exactly this rule, or not at all."""
    refusal = may_switch(replace(CALM, **change))  # type: ignore[arg-type]  # a table of fields
    assert rule_of(refusal) == rule
    if refusal is not None:
        assert rule is not None
        assert isinstance(refusal.fault(), RuleRefused)
        assert rule in str(refusal.fault())
        json.dumps(refusal.text)


@pytest.mark.parametrize(
    ("silent", "watched", "braked"),
    [
        (0, 0, False),
        (1, 1, False),
        (1, 2, False),
        (2, 2, True),
        (2, 3, False),
        (3, 3, True),
        (3, 11, True),
        (3, 12, False),
        (2, 100, False),
    ],
)
def test_brake(silent: int, watched: int, braked: bool) -> None:
    """One hung miner of few is a miner; all of them, or three and more than a quarter, is the network."""
    assert brake(silent, watched) is braked


def test_only_an_off_ends_a_promise() -> None:
    """An on or a cycle never takes over a promise to bring power back."""
    overdue = [Busy("B1", "3", "C1", "back", NOW - 121_000)]
    for kind in (ON, OFF, CYCLE):
        assert (superseded(replace(CALM, kind=kind, busy=overdue)) is not None) is (kind is OFF)
