"""The heavy duties of the upkeep as orders: plain data that may be given to another process, and so are the answers.

`carry_out` reads, makes and writes; whoever calls it lends a `Hand`. One at a time: nobody else seals, merges or moves meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from commander.telemetry import merge, seal, store, totals_store
from commander.telemetry.members import Members
from commander.telemetry.seal import Pace

T = TypeVar("T")


class Seal(msgspec.Struct, frozen=True, tag=True):
    """A round of a post's frames behind `after_id`. `sealed_ms`: what counts as sealed of the post once it is written; None: as
    before. `members`: which state of the memberships it is to count by."""

    post: str
    until_ms: int
    after_id: int
    sealed_ms: int | None
    now_ms: int
    members: int


class Merge(msgspec.Struct, frozen=True, tag=True):
    """A day of some devices."""

    day_ms: int
    keys: list[int]
    now_ms: int


class Move(msgspec.Struct, frozen=True, tag=True):
    """A closed batch of totals, with its first and last time."""

    batch: int
    first_ms: int
    last_ms: int
    now_ms: int


Order = Seal | Merge | Move


class Damage(msgspec.Struct, frozen=True):
    """What was set aside."""

    file: str
    what: str
    at_ms: int
    text: str


class Carried(msgspec.Struct, frozen=True):
    """What was done. `written`: anything at all. `last_id` and `more`: of a round, where the next one begins."""

    written: bool = True
    frames: int = 0
    chunks: int = 0
    days: int = 0
    too_large: int = 0
    last_id: int = 0
    more: bool = False
    damaged: list[Damage] = []


class Write(Protocol):
    def __call__(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs it in one transaction on hot.db, durable when it returns. DiskFull, Unavailable, Broken."""
        ...


@dataclass(frozen=True, slots=True)
class Hand:
    """`c` reads hot.db in `folder`. `members`: by the number of the state."""

    c: sqlite3.Connection
    folder: Path
    write: Write
    members: Callable[[int], Members]
    pace: Pace


def carry_out(hand: Hand, order: Order) -> Carried:
    """DiskFull, Unavailable, Broken: what was not written is still to be done."""
    match order:
        case Seal():
            return _seal(hand, order)
        case Merge():
            return _merge(hand, order)
        case Move():
            merge.move_totals(hand.c, hand.folder, order.batch, order.first_ms, order.last_ms, order.now_ms)
            hand.write(partial(totals_store.drop_batch, batch=order.batch))
            return Carried()


def _seal(hand: Hand, order: Seal) -> Carried:
    during = hand.members(order.members).groups_during
    made = seal.prepare(hand.c, hand.folder, order.post, order.until_ms, order.after_id, during, order.now_ms, hand.pace)
    if not made.empty:
        hand.write(lambda c: seal.commit(c, made, order.sealed_ms))
    return Carried(
        not made.empty, len(made.frames), len(made.packed), last_id=made.last_id, more=made.more, damaged=_told(made.damaged)
    )


def _merge(hand: Hand, order: Merge) -> Carried:
    made = merge.merge(hand.c, hand.folder, order.day_ms, order.keys, order.now_ms, hand.pace)
    hand.write(partial(merge.finish, done=made))
    return Carried(days=len(made.raw), too_large=made.too_large, damaged=_told(made.damaged))


def _told(damaged: Iterable[store.Damaged]) -> list[Damage]:
    return [Damage(one.file, one.what, one.at_ms, one.text) for one in damaged]
