"""What an order may be and how it moves from state to state. Pure.

    queued → sent → accepted → started → verifying → succeeded | failed | refused | expired | cancelled | unknown

An end that the sentry reported is a fact and never changes. An end that the commander had to assume (nobody answered in
time; expired or called back while it was surely not sent) gives way to what the sentry reports later: after a restore
from a backup even "surely not sent" can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec

from commander.model import ActionRow, DeviceRow
from garrison.faults import BadInput, Conflict, NotSupported
from garrison.model import Order, Report, Sheet
from garrison.words import MAX_POWER_LIMIT_W, POWER_ACTIONS, ActionKind, ActionState, is_hostname, is_mode

_ENDS = frozenset(state for state in ActionState if state.final)

REPORTED: dict[ActionState, frozenset[ActionState]] = {
    ActionState.QUEUED: frozenset({ActionState.ACCEPTED, ActionState.STARTED, ActionState.VERIFYING}) | _ENDS,
    ActionState.SENT: frozenset({ActionState.ACCEPTED, ActionState.STARTED, ActionState.VERIFYING}) | _ENDS,
    ActionState.ACCEPTED: frozenset({ActionState.STARTED, ActionState.VERIFYING}) | _ENDS,
    ActionState.STARTED: frozenset({ActionState.VERIFYING}) | _ENDS,
    ActionState.VERIFYING: _ENDS,
}
"""From an open state, the states that a report may lead to. A sentry never reports queued or sent; reports may be lost from
view by a restored backup, so every step may be skipped, and none is taken back."""

DEADLINE_S: dict[ActionKind, int] = {
    ActionKind.REBOOT: 300,
    ActionKind.RESTART_MINING: 300,
    ActionKind.PAUSE: 600,
    ActionKind.RESUME: 600,
    ActionKind.LOCATE: 120,
    ActionKind.APPLY_FLIGHT_SHEET: 3_600,
    ActionKind.POWER_ON: 120,
    ActionKind.POWER_OFF: 120,
    ActionKind.POWER_CYCLE: 120,
    ActionKind.SET_POWER_MODE: 600,
    ActionKind.SET_POWER_LIMIT: 600,
    ActionKind.SET_FAN: 600,
    ActionKind.SET_HOSTNAME: 600,
}
"""How long an order may wait to be started. What moves mains is not to surprise anybody later."""

MAX_DEADLINE_S = 7 * 86_400
MAX_POWER_DEADLINE_S = 600

RUN_S: dict[ActionKind, int] = {
    ActionKind.REBOOT: 1_800,
    ActionKind.RESTART_MINING: 900,
    ActionKind.PAUSE: 900,
    ActionKind.RESUME: 900,
    ActionKind.LOCATE: 120,
    ActionKind.APPLY_FLIGHT_SHEET: 7_200,  # a download, the trial of the new sheet and of the old one again
    ActionKind.POWER_ON: 1_800,
    ActionKind.POWER_OFF: 600,
    ActionKind.POWER_CYCLE: 3_600,  # off time, stagger, and the boot of the device
    ActionKind.SET_POWER_MODE: 1_800,  # many restart their miner for it, some the whole device
    ActionKind.SET_POWER_LIMIT: 1_800,
    ActionKind.SET_FAN: 900,
    ActionKind.SET_HOSTNAME: 900,
}
"""How long a started order may go without another word before nobody knows how it ended."""

GRACE_S = 90
"""Added to both: the last report has to travel, and a sentry that reconnects takes up to 60 s."""


MAX_TEXT = 2_000
MAX_DETAILS = 50


# ---- from state to state -------------------------------------------------------------------------------------


def after_report(state: ActionState, by_sentry: bool, reported: ActionState) -> ActionState | None:
    """The new state, or None when the report changes nothing (late, repeated, or out of order).

    `by_sentry`: whether `state` is the sentry's own word.
    """
    if not state.final:
        return reported if reported in REPORTED[state] else None
    if by_sentry or not reported.final:
        return None
    return reported


def after_waiting(row: ActionRow, now_ms: int) -> tuple[ActionState, str] | None:
    """What to assume of an order that nobody said anything about, with the words for it; None: wait on.

    Only what is still queued expires here. What was sent may have been carried out: that is unknown, and never sent
    again under another id.
    """
    if row.state.final:
        return None
    late_ms = now_ms - row.deadline_ms
    if row.state is ActionState.QUEUED:
        why = row.text or "its sentry was not connected in time"
        return (ActionState.EXPIRED, f"{why}; it was never sent") if late_ms >= 0 else None
    if row.state in (ActionState.SENT, ActionState.ACCEPTED):
        if late_ms < GRACE_S * 1000:
            return None
        return ActionState.UNKNOWN, "sent, and its sentry did not report in time: it may have been carried out"
    if now_ms - row.updated_ms < (RUN_S[row.kind] + GRACE_S) * 1000:
        return None
    return ActionState.UNKNOWN, "started, and its sentry never reported how it ended"


def bounded(report: Report) -> Report:
    """As much of it as is kept: a sentry's words must not fill the disk."""
    detail = dict(list(report.detail.items())[:MAX_DETAILS])
    return replace(
        report,
        fault=report.fault[:64],
        text=report.text[:MAX_TEXT],
        detail={key[:64]: value[:MAX_TEXT] for key, value in detail.items()},
    )


def may_be_sent(row: ActionRow, now_ms: int) -> bool:
    """Whether an order that is marked sent may go on the stream, for the first time or again under its id."""
    return row.state is ActionState.SENT and row.deadline_ms > now_ms and not row.cancel_asked


class Recall(Enum):
    AT_ONCE = "at once"  # surely not sent: it ends here
    ASK = "ask"  # the sentry decides: it says cancelled, or that it has started


def recall(row: ActionRow) -> Recall:
    """How the order can be called back. Conflict: it cannot."""
    if row.state is ActionState.QUEUED:
        return Recall.AT_ONCE
    if row.state in (ActionState.SENT, ActionState.ACCEPTED):
        return Recall.ASK
    if row.state.final:
        raise Conflict(f"this order has ended already: {row.state.word}")
    raise Conflict(
        f"this order is being carried out ({row.state.word}) and cannot be called back",
        hint="wait for its end, then give the opposite order",
    )


# ---- may it be ordered ---------------------------------------------------------------------------------------


def check_device(kind: ActionKind, device: DeviceRow) -> None:
    """Whether the device can take such an order at all. Conflict, NotSupported.

    Mains is not the device's to take: power orders are judged by `commander.power`.
    """
    if device.identity is None:
        raise Conflict(
            f"{device.name} has not been identified yet, so nothing can be ordered",
            hint="it has to answer once; `commander devices show` says why it does not",
        )
    if kind in POWER_ACTIONS or kind in device.capabilities:
        return
    takes = ", ".join(one.value for one in device.capabilities)
    raise NotSupported(
        f"{device.name} does not take {kind.value}",
        hint=f"it takes {takes}" if takes else "its sentry names nothing that it takes",
    )


def check_open(wanted: ActionRow, is_open: ActionRow) -> bool:
    """One open order a device. True: it is the very same one, already under way. Conflict: another one."""
    if wanted.kind is is_open.kind and wanted.arguments == is_open.arguments:
        return True
    raise Conflict(
        f"{is_open.device} still has an order to {is_open.kind.value} ({is_open.state.word})",
        hint=f"wait for it, or `commander actions cancel {is_open.id}`",
    )


@dataclass(frozen=True, slots=True)
class Yes:
    default: bool


@dataclass(frozen=True, slots=True)
class Number:
    """Must be given when it has no default."""

    default: int | None
    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """Must be given."""

    most: int = 200
    fits: Callable[[str], bool] = bool
    what: str = "a text"


@dataclass(frozen=True, slots=True)
class Percent:
    """Must be given: a whole number of percent, or the word `auto`."""


AUTO = "auto"
Field = Yes | Number | Text | Percent
ARGUMENTS: dict[ActionKind, dict[str, Field]] = {
    ActionKind.LOCATE: {"on": Yes(True)},
    ActionKind.APPLY_FLIGHT_SHEET: {"sheet": Text()},
    ActionKind.POWER_ON: {"force": Yes(False)},
    ActionKind.POWER_OFF: {"force": Yes(False)},
    ActionKind.POWER_CYCLE: {"force": Yes(False), "off_s": Number(0, 86_400)},
    ActionKind.SET_POWER_MODE: {"mode": Text(64, is_mode, "the device's own name of a power mode")},
    ActionKind.SET_POWER_LIMIT: {"limit_w": Number(None, MAX_POWER_LIMIT_W, 1)},
    ActionKind.SET_FAN: {"percent": Percent()},
    ActionKind.SET_HOSTNAME: {"hostname": Text(63, is_hostname, "a name of letters, digits and hyphens")},
}
"""What a person may say with an order. Kinds that are not named take nothing."""


def checked_arguments(kind: ActionKind, given: Mapping[str, Any]) -> dict[str, bool | int | str]:
    """Complete and of the right types. BadInput."""
    known = ARGUMENTS.get(kind, {})
    if stray := sorted(given.keys() - known.keys()):
        takes = ", ".join(known) or "nothing"
        raise BadInput(f"an order to {kind.value} does not take {stray[0]!r}", hint=f"it takes {takes}")
    return {name: _checked(kind, name, field, given.get(name)) for name, field in known.items()}


def check_count(kind: ActionKind, count: int) -> None:
    """What can be ordered of one device alone. BadInput."""
    if kind is ActionKind.SET_HOSTNAME and count > 1:
        raise BadInput(f"a host name is for one device, not for {count}", hint="give each its own")


def _checked(kind: ActionKind, name: str, field: Field, value: object) -> bool | int | str:
    match field, value:
        case Yes() | Number(), None if field.default is not None:
            return field.default
        case Yes(), bool():
            return value
        case Number(), int() if not isinstance(value, bool) and field.least <= value <= field.most:
            return value
        case Percent(), int() if not isinstance(value, bool) and 0 <= value <= 100:
            return value
        case Percent(), str() if value == AUTO:
            return value
        case Text(), str() if 0 < len(value) <= field.most and field.fits(value):
            return value
    raise BadInput(_wanted(kind, name, field))


def _wanted(kind: ActionKind, name: str, field: Field) -> str:
    match field:
        case Yes():
            return f"{name!r} of an order to {kind.value} must be true or false"
        case Number():
            return f"{name!r} of an order to {kind.value} must be a whole number, {field.least} to {field.most}"
        case Percent():
            return f"an order to {kind.value} needs {name!r}: a whole number, 0 to 100, or {AUTO}"
        case Text():
            return f"an order to {kind.value} needs {name!r}, {field.what}"


def deadline_ms(kind: ActionKind, now_ms: int, deadline_s: int | None) -> int:
    """When the order must have started, wall clock. BadInput."""
    most = MAX_POWER_DEADLINE_S if kind in POWER_ACTIONS else MAX_DEADLINE_S
    wanted = DEADLINE_S[kind] if deadline_s is None else deadline_s
    if not 5 <= wanted <= most:
        raise BadInput(f"an order to {kind.value} must have a deadline of 5 to {most} s, not {wanted}")
    return now_ms + wanted * 1000


# ---- for the wire --------------------------------------------------------------------------------------------


def order_of(row: ActionRow, now_ms: int, epoch: int) -> Order:
    """The stored order as it is sent. What is left of its time is never more than it had (a clock may be set back), and
    never 0. BadInput: its arguments cannot be read.
    """
    had_ms = row.deadline_ms - row.created_ms
    sheet, percent = row.arguments.get("sheet"), row.arguments.get("percent")
    try:
        rendered = msgspec.convert(sheet, Sheet) if sheet is not None else None
    except msgspec.ValidationError as error:
        raise BadInput(f"order {row.id} holds a sheet that cannot be read: {error}") from error
    return Order(
        id=row.id,
        kind=row.kind,
        device=row.identity,
        not_after_ms=max(1, min(row.deadline_ms - now_ms, had_ms)),
        epoch=epoch,
        sheet=rendered,
        off_s=row.arguments.get("off_s", 0),
        force=row.arguments.get("force", False),
        locate_on=row.arguments.get("on", True),
        power_mode=row.arguments.get("mode", ""),
        power_limit_w=row.arguments.get("limit_w", 0),
        fan_pct=None if percent == AUTO else percent,
        hostname=row.arguments.get("hostname", ""),
    )


class Ids:
    """UUIDs of version 7 (RFC 9562): 48 bits of time, a 12-bit counter, 62 random bits. Each sorts behind the one before,
    also when the clock is set back.
    """

    def __init__(self) -> None:
        self._ms, self._count = 0, -1

    def next(self, now_ms: int, entropy: bytes) -> str:
        """`entropy`: 8 fresh random bytes."""
        if now_ms > self._ms:
            self._ms, self._count = now_ms, 0
        elif self._count < 0xFFF:
            self._count += 1
        else:
            self._ms, self._count = self._ms + 1, 0
        random = int.from_bytes(entropy[:8], "big") >> 2
        number = self._ms << 80 | 0x7 << 76 | self._count << 64 | 0b10 << 62 | random
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
