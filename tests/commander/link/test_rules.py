"""Who is meant when one identity is used by two machines: a table."""

from __future__ import annotations

import pytest

from commander.link import rules
from commander.link.rules import Verdict, judge

A, B = b"a" * 16, b"b" * 16
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("main", "machine", "silent_ms", "expected"),
    [
        (b"", b"", 0, Verdict.SAME),
        (b"", A, 0, Verdict.FIRST),
        (b"", A, DAY_MS, Verdict.FIRST),
        (A, b"", 0, Verdict.SAME),
        (A, b"", DAY_MS, Verdict.SAME),
        (A, A, 0, Verdict.SAME),
        (A, A, DAY_MS, Verdict.SAME),
        (A, B, 0, Verdict.TWIN),
        (A, B, 599_999, Verdict.TWIN),
        (A, B, 600_000, Verdict.TWIN),
        (A, B, 600_001, Verdict.ADOPTED),
        (A, B, DAY_MS, Verdict.ADOPTED),
    ],
)
def test_judge(main: bytes, machine: bytes, silent_ms: int, expected: Verdict) -> None:
    """Unknown is never a twin; a machine that was just heard is never replaced."""
    assert judge(main, machine, silent_ms, 600_000) is expected


@pytest.mark.parametrize(
    ("told_ms", "now_ms", "due"),
    [(0, 5, True), (1, 2, False), (DAY_MS, 2 * DAY_MS - 1, False), (DAY_MS, 2 * DAY_MS, True), (9 * DAY_MS, DAY_MS, True)],
)
def test_once_a_day(told_ms: int, now_ms: int, due: bool) -> None:
    """A clock that was far ahead when people were told does not silence it for ever."""
    assert rules.is_due(told_ms, now_ms) is due


def test_names() -> None:
    """A twin's post never is a sentry's id, and no two machines share one."""
    assert rules.post_name("s1", A) == "s1#6161616161616161"
    assert rules.post_name("s1", A) != rules.post_name("s1", B)


def test_words() -> None:
    """They name both addresses and what to do."""
    text = rules.clone_text("10.0.0.5:1", "10.0.0.6:2", "sentry-asic")
    assert "10.0.0.5:1" in text
    assert "10.0.0.6:2" in text
    assert "`sentry-asic enrol`" in text
    assert "10 min" in rules.why_held("10.0.0.6:2", met=False, adopt_after_ms=600_000)
    assert "two machines" in rules.why_held("10.0.0.6:2", met=True, adopt_after_ms=600_000)
    assert "1.5 min" in rules.moved_text("10.0.0.6:2", 90_000)
