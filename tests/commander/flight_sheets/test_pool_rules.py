"""Tests of commander.flight_sheets.pool_rules: which pools and users are the same, what is one change, what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from commander.flight_sheets import pool_rules as rules
from commander.flight_sheets.pool_rules import Difference, Look, Record, Verdict
from garrison.model import Pool, PoolOrder
from garrison.words import DeviceState

ONE = PoolOrder("stratum+tcp://one.example:3333", "farm.rig-1", "secret")
TWO = PoolOrder("stratum+ssl://two.example:443", "farm.rig-1")
THIEF = Pool("stratum+tcp://thief.example:3333", "thief.rig-1", priority=9)
EMPTY = Pool("", "", priority=2)
NOW = 10_000_000_000


def told(*pools: PoolOrder) -> tuple[Pool, ...]:
    return tuple(Pool(pool.url, pool.user, "alive", priority=place) for place, pool in enumerate(pools))


@pytest.mark.parametrize(
    ("shown", "assigned", "same"),
    [
        ("farm.rig-1", "farm.rig-1", True),
        ("FARM.Rig-1", "farm.rig-1", True),
        (" farm.rig-1 ", "farm.rig-1", True),
        ("", "farm.rig-1", True),  # this firmware shows none
        ("***", "farm.rig-1", True),
        ("bc1q***7f", "bc1qzzzz7f", True),
        ("bc1q...7f", "bc1qzzzz7f.rig-1", True),  # of the account
        ("bc1q•••.rig-1", "bc1qzzzz7f.rig-1", True),
        ("thief***", "farm.rig-1", False),  # what shows of it contradicts
        ("farm***rig-2", "farm.rig-1", False),
        ("farm", "farm.rig-1", True),  # without the worker
        ("fa", "farm.rig-1", False),
        ("me@farm.example", "me@farm.example.rig-1", True),
        ("farm.10x0x0x7", "farm", True),  # a worker where none was assigned
        ("farm/rig", "farm", True),
        ("farm-2", "farm", False),  # another account
        ("farm2", "farm", False),
        ("farm.rig-1.10x0x0x7", "farm.rig-1", True),
        ("farm.rig-1x7", "farm.rig-1", True),
        ("farm.rig-1_b", "farm.rig-1", True),
        ("farm.rig-12", "farm.rig-1", False),  # another worker
        ("farm.rig-2", "farm.rig-1", False),
        ("thief.rig-1", "farm.rig-1", False),
        ("thief", "farm.rig-1", False),
    ],
)
def test_users(shown: str, assigned: str, same: bool) -> None:
    """Case, hidden letters, and a worker that is left out or added are no difference; another account or worker is."""
    assert rules.same_user(shown, assigned) is same


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("stratum+tcp://One.Example:3333", "one.example:3333"),
        ("one.example:3333", "one.example:3333"),
        ("stratum+tcp://user:word@one.example:3333/path", "one.example:3333"),
        ("ssl://[fe80::1]:3333", "[fe80::1]:3333"),
        ("stratum+tcp://thief.example", "thief.example"),
        ("", None),
        ("stratum+tcp://", None),
        (" ", None),
    ],
)
def test_places(url: str, place: str | None) -> None:
    """Host and port; a pool without a port is one, an empty slot is none."""
    assert rules.place_of(url) == place


@pytest.mark.parametrize(
    ("pools", "strays", "gone"),
    [
        (told(ONE, TWO), None, None),
        ((*told(ONE, TWO), EMPTY), None, None),
        (tuple(reversed(told(ONE, TWO))), None, None),  # listed in another order, same priorities
        (told(ONE, ONE, TWO), None, None),
        (told(replace(ONE, url="tcp://ONE.example:3333"), TWO), None, None),
        (told(TWO, ONE), 0, 0),
        ((*told(ONE, TWO), THIEF), 1, 0),
        ((replace(THIEF, priority=-1), *told(ONE, TWO)), 1, 0),
        (told(ONE), 0, 1),
        ((THIEF,), 1, 2),
        (told(ONE, replace(TWO, user="thief")), 1, 1),
        (told(replace(ONE, url="stratum+tcp://one.example:3334"), TWO), 1, 1),
        ((EMPTY,), 0, 2),
    ],
)
def test_difference(pools: tuple[Pool, ...], strays: int | None, gone: int | None) -> None:
    """One more, one less, another place, another user, another order."""
    found = rules.difference((ONE, TWO), pools)
    assert (None if found is None else (len(found.strays), len(found.gone))) == (None if strays is None else (strays, gone))


@pytest.mark.parametrize(
    ("pools", "state", "expected"),
    [
        (told(ONE), DeviceState.MINING, Look.RIGHT),
        (told(ONE), DeviceState.PAUSED, Look.RIGHT),
        ((), DeviceState.MINING, Look.UNKNOWN),  # not read
        ((THIEF,), DeviceState.UNKNOWN, Look.UNKNOWN),
        ((THIEF,), DeviceState.UNREACHABLE, Look.UNKNOWN),
        ((THIEF,), DeviceState.SLOW, Look.UNKNOWN),
        ((THIEF,), DeviceState.REFUSED, Look.UNKNOWN),
        ((THIEF,), DeviceState.OFF, Look.UNKNOWN),
        ((THIEF,), DeviceState.MAINTENANCE, Look.UNKNOWN),
        ((EMPTY,), DeviceState.STARTING, Look.UNKNOWN),
        ((THIEF,), DeviceState.STARTING, Difference),
        ((THIEF,), DeviceState.IDLE, Difference),
        ((EMPTY,), DeviceState.IDLE, Difference),
    ],
)
def test_looked(pools: tuple[Pool, ...], state: DeviceState, expected: Look | type[Difference]) -> None:
    """Who cannot be asked, and who did not tell its pools, does not drift."""
    found = rules.looked((ONE,), pools, state)
    assert isinstance(found, Difference) if expected is Difference else found is expected


def test_one_change_on_many() -> None:
    """The same stray pool is the same change whatever was assigned and whatever the worker is called; another account is not."""

    def signature(assigned: PoolOrder, *pools: Pool) -> str:
        found = rules.difference((assigned,), pools)
        assert found is not None
        return found.signature

    first = signature(ONE, THIEF)
    assert signature(ONE, *told(ONE), replace(THIEF, user="thief.rig-7")) == first
    assert signature(TWO, replace(THIEF, user="THIEF")) == first
    assert signature(ONE, replace(THIEF, user="other.rig-1")) != first
    assert signature(ONE, EMPTY) != first


@pytest.mark.parametrize(
    ("record", "restore", "able", "expected"),
    [
        (Record(1, held=True), True, True, Verdict.RESTORE),
        (Record(1, held=True, restores=1), True, True, Verdict.RESTORE),
        (Record(1, held=True, restores=2), True, True, Verdict.LEAVE),
        (Record(1, held=True, restores=9), True, True, Verdict.LEAVE),
        (Record(1, restores=1), True, True, Verdict.RESTORE),
        (Record(1, held=True), True, False, Verdict.LEAVE),
        (Record(1, held=True), False, True, Verdict.TELL),
        (Record(1, held=True, restores=2), False, True, Verdict.TELL),
        (Record(1), True, True, Verdict.TELL),  # its order failed
        (Record(1), True, False, Verdict.TELL),
    ],
)
def test_verdict(record: Record, restore: bool, able: bool, expected: Verdict) -> None:
    """Put right at most twice, only where it held before, and only when the owner wants it."""
    assert rules.verdict(record, restore=restore, able=able) is expected


SAME = Record(2, drifting=True, signature="s", event_id=7, changed_ms=NOW - 2 * rules.CALM_MS)
OVER = Record(3, signature="s", event_id=8, changed_ms=NOW - rules.JOIN_MS - 1)


@pytest.mark.parametrize(
    ("record", "others", "event"),
    [
        (Record(1), [], None),
        (Record(1), [SAME], 7),
        (Record(1), [OVER], None),
        (Record(1), [replace(OVER, changed_ms=NOW - 1)], 8),
        (Record(1), [replace(SAME, signature="t")], None),
        (Record(1), [replace(SAME, event_id=None)], None),
        (Record(1, signature="s", event_id=4, changed_ms=NOW - rules.CALM_MS + 1), [SAME], 4),
        (Record(1, signature="s", event_id=4, changed_ms=NOW - rules.CALM_MS), [], None),
        (Record(1, signature="t", event_id=4, changed_ms=NOW), [], None),
    ],
)
def test_event_of(record: Record, others: list[Record], event: int | None) -> None:
    """Its own of the last day, else that of devices that changed alike within the hour."""
    assert rules.event_of(record, "s", rules.open_event("s", [record, *others], NOW), NOW) == event


def test_texts_are_bounded() -> None:
    """The first names and how many more; a long list of pools is cut."""
    text = rules.told([f"miner-{number:03}" for number in range(100)], "mines elsewhere")
    assert text.startswith("100 devices")
    assert "miner-019 and 80 more" in text
    assert len(rules.spelled([("p" * 200, "u" * 200)] * 9)) == rules.MAX_SPELLED
