"""Whether an ASIC mines where it was told to, whether several devices changed alike, and what follows from it. Pure.

**Pools** are the same when host and port are, whatever the case and the scheme, and in the same order of priority. Slots
that are empty do not count, and a pool that is told twice counts once. One more, one less or another order is a difference.

**Users.** A device may show less than it was given, or put something behind it, and is not woken for:

- letters in another case: pools fold the names of accounts, and no wallet has a twin that differs only in case;
- no user at all, or one that the firmware hides ("bc1q***7f", "•••", "bc1q...7f"), as long as nothing that shows of it
  contradicts what was assigned;
- the account without its worker ("farm" for "farm.rig-1");
- something behind the assigned name: a worker (".rig-1", "/rig-1") where none was assigned, or, where one was, what
  firmware appends to it by itself (an address or a number, behind one of `. / _ - x`).

Another account is a difference, and so is another worker of the same account.

**Not known is no difference**: a device that does not answer, that tells no pools, that is being started and shows only
some of them, or that a person has put into maintenance.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from garrison.model import Pool, PoolOrder
from garrison.words import DeviceState

MAX_RESTORES = 2
"""Pools of a device are put right so often for what a person last ordered; whoever changes them a third time means it."""

JOIN_MS = 3_600_000
"""A device that changes alike so long after the others belongs to the same event."""
CALM_MS = 86_400_000
"""A device that changes again in this way after so long is news again. What was put right still counts."""

NAMES_TOLD = 20
MAX_SPELLED = 300

TELLS_NOTHING = frozenset({DeviceState.UNKNOWN, DeviceState.UNREACHABLE, DeviceState.OFF, DeviceState.REFUSED, DeviceState.SLOW})

_WORKER_ENDS = "./"
_APPENDED = "./_-x"
_MASK = re.compile(r"[*•●…]+|\.{3,}")

Place = tuple[str, str]
"""Where to and as whom: "host:port" and the user."""


# ---- the same or not -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """`strays`: told and not assigned. `gone`: assigned and not told. Neither: the same pools in another order."""

    told: tuple[Place, ...]
    assigned: tuple[Place, ...]
    strays: tuple[Place, ...] = ()
    gone: tuple[Place, ...] = ()

    @property
    def signature(self) -> str:
        """The same for devices that changed alike, whatever each was assigned and whatever its worker is called."""
        if self.strays:
            parts = ["stray", *sorted({f"{place} {account_of(user)}" for place, user in self.strays})]
        elif self.gone:
            parts = ["gone", *sorted({f"{place} {account_of(user)}" for place, user in self.gone})]
        else:
            parts = ["order", *(place for place, _ in self.told)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    @property
    def text(self) -> str:
        return f"its pools are {spelled(self.told)}; it was assigned {spelled(self.assigned)}"

    @property
    def change(self) -> str:
        """In words that hold for every device that changed alike."""
        if self.strays:
            return f"mines on a pool that nobody assigned: {spelled(_by_account(self.strays))}"
        if self.gone:
            return f"lacks a pool that it was assigned: {spelled(_by_account(self.gone))}"
        return f"has its pools in another order: {', '.join(place for place, _ in self.told)}"[:MAX_SPELLED]


def difference(assigned: Sequence[PoolOrder], told: Sequence[Pool]) -> Difference | None:
    """None: they are the same. Whether they are known at all is the caller's question."""
    right = _once((place, pool.user) for pool in assigned if (place := place_of(pool.url)) is not None)
    seen = _once(
        (place, pool.user) for pool in sorted(told, key=lambda one: one.priority) if (place := place_of(pool.url)) is not None
    )
    if len(seen) == len(right) and all(_same(one, other) for one, other in zip(seen, right, strict=True)):
        return None
    left, strays = list(right), []
    for one in seen:
        match = next((other for other in left if _same(one, other)), None)
        if match is None:
            strays.append(one)
        else:
            left.remove(match)
    return Difference(seen, right, tuple(strays), tuple(left))


class Look(StrEnum):
    RIGHT = "right"
    UNKNOWN = "unknown"  # nobody can tell now


def looked(assigned: Sequence[PoolOrder], told: Sequence[Pool], state: DeviceState) -> Difference | Look:
    """What the last look at a device says. No pools at all are pools that were not read."""
    if state in TELLS_NOTHING or state is DeviceState.MAINTENANCE or not told:
        return Look.UNKNOWN
    found = difference(assigned, told)
    if found is None:
        return Look.RIGHT
    return Look.UNKNOWN if state is DeviceState.STARTING and not found.strays else found


def place_of(url: str) -> str | None:
    """Host and port however the device spells them; None for an empty slot. Without a port it is a pool all the same."""
    rest = url.partition("://")[2] if "://" in url else url
    return rest.strip().partition("/")[0].rpartition("@")[2].casefold() or None


def same_user(told: str, assigned: str) -> bool:
    """By the rules above."""
    one, other = told.strip().casefold(), assigned.strip().casefold()
    if not one or one == other:
        return True
    if hidden := _MASK.search(one):
        return _fits(one[: hidden.start()], _MASK.split(one)[-1], other)
    if other.startswith(one) and other[len(one)] in _WORKER_ENDS:
        return True
    if one.startswith(other):
        return one[len(other)] in (_APPENDED if worker_of(other) else _WORKER_ENDS)
    return False


def account_of(user: str) -> str:
    """Folded, without the worker."""
    return re.split(r"[./]", user.strip().casefold(), maxsplit=1)[0]


def worker_of(user: str) -> str:
    return user.strip()[len(account_of(user)) + 1 :]


def _fits(head: str, tail: str, assigned: str) -> bool:
    """Whether what shows before and behind the mask is of this name, or of its account."""
    return assigned.startswith(head) and (assigned.endswith(tail) or account_of(assigned).endswith(tail))


def _same(told: Place, assigned: Place) -> bool:
    return told[0] == assigned[0] and same_user(told[1], assigned[1])


def _once(places: Iterable[Place]) -> tuple[Place, ...]:
    return tuple(dict.fromkeys(places))


def _by_account(places: Iterable[Place]) -> tuple[Place, ...]:
    return tuple(sorted({(place, account_of(user)) for place, user in places}))


def spelled(places: Sequence[Place]) -> str:
    return ", ".join(f"{place} as {user}" for place, user in places)[:MAX_SPELLED] or "none"


# ---- what follows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a device. `held`: it was seen with what a person last ordered, since that order.

    `restores`: orders that we gave since then. `event_id`, `left_event_id`: what people were told, None: nothing.
    `changed_ms`: when `drifting` last changed.
    """

    device_id: int
    held: bool = False
    restores: int = 0
    drifting: bool = False
    signature: str = ""
    event_id: int | None = None
    left_event_id: int | None = None
    changed_ms: int = 0


class Verdict(StrEnum):
    TELL = "tell"  # and no more
    RESTORE = "restore"
    LEAVE = "leave"  # and say that it is left


def verdict(record: Record, *, restore: bool, able: bool) -> Verdict:
    """Of a device that drifts. `able`: it takes flight sheets.

    A sheet that never came to hold there is not put right: its order has failed already, and a person was told why.
    """
    if not restore or (not record.held and not record.restores):
        return Verdict.TELL
    return Verdict.RESTORE if able and record.restores < MAX_RESTORES else Verdict.LEAVE


def open_event(signature: str, records: Iterable[Record], now_ms: int) -> int | None:
    """The event about devices that changed alike, which another one may join."""
    return max(
        (one.event_id for one in records if one.signature == signature and one.event_id and _fresh(one, now_ms, JOIN_MS)),
        default=None,
    )


def event_of(record: Record, signature: str, open_now: int | None, now_ms: int) -> int | None:
    """The event that this change belongs to: the device's own of before, else the open one; None: it is news."""
    if record.signature == signature and record.event_id is not None and _fresh(record, now_ms, CALM_MS):
        return record.event_id
    return open_now


def _fresh(record: Record, now_ms: int, within_ms: int) -> bool:
    return record.drifting or now_ms - record.changed_ms < within_ms


def told(names: Sequence[str], change: str) -> str:
    """The text of an event about one or many."""
    if len(names) == 1:
        return f"{names[0]} {change}"
    listed = ", ".join(sorted(names)[:NAMES_TOLD]) + (f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else "")
    return f"{len(names)} devices, each of them {change} ({listed})"


def left(names: Sequence[str], restores: int, *, able: bool) -> str:
    """The text when nothing more is done."""
    if able:
        return told(names, f"was put right {restores} times, differs again and is left alone")
    return told(names, "takes no flight sheets: it cannot be put right from here and is left alone")
