"""What a frame's clock is worth. Pure.

A sentry's wall clock may be wrong. Samples stamped in the past stay where they say they are: a backlog is in the past.
A frame with samples stamped more than `AHEAD_MS` after its arrival cannot be true: it is moved back by as much as the
sentry's clock is ahead, and flagged with that number. Nor can one be true that is older than `EARLIEST_MS`, as from a
machine whose clock has lost its battery: it is moved up to its arrival. The body is kept as received until it is sealed.

How far a clock is ahead is learned from a live frame. Live frames travel first, so frames with a lower sequence number
that come later are the backlog behind it: they are moved by the same amount and keep their spacing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commander.telemetry.columns import Ints
from commander.telemetry.levels import EARLIEST_MS

AHEAD_MS = 60_000
WIDE_MS = 3_600_000
"""A frame is one look, so its samples lie close together. Over a longer span the clock was set during the look."""


@dataclass(frozen=True, slots=True)
class Skew:
    """How far a journal's clock is ahead (behind: negative), as learned from the frame `seq`."""

    ahead_ms: int
    seq: int


def judge(latest_ms: int, received_ms: int, seq: int, known: Skew | None) -> Skew | None:
    """How far ahead the frame's clock is, or None when it may be right. `latest_ms`: of its last sample."""
    if EARLIEST_MS <= latest_ms <= received_ms + AHEAD_MS or received_ms < EARLIEST_MS <= latest_ms:
        return None  # also when it is our own clock that cannot be right
    if known is not None:
        moved_ms = latest_ms - known.ahead_ms
        if EARLIEST_MS <= moved_ms <= received_ms + AHEAD_MS and (seq < known.seq or moved_ms >= received_ms - AHEAD_MS):
            return Skew(known.ahead_ms, max(seq, known.seq))
    return Skew(max(latest_ms - received_ms, -(2**62)), seq)


def corrected(at_ms: Ints, received_ms: int, ahead_ms: int) -> Ints:
    """The times to believe. Where the clock was set during the look, only the samples that cannot be true are moved."""
    if ahead_ms:
        if int(at_ms.max()) - int(at_ms.min()) <= WIDE_MS:
            at_ms = at_ms - ahead_ms
        elif ahead_ms > 0:
            at_ms = np.where(at_ms > received_ms + AHEAD_MS, at_ms - ahead_ms, at_ms)
    if int(at_ms.min()) < EARLIEST_MS <= received_ms:
        at_ms = np.where(at_ms < EARLIEST_MS, received_ms, at_ms)
    return at_ms
