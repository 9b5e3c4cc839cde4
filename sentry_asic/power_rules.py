"""When mains may be switched. Pure: plain data in, a refusal that names its rule, or None, out. `power.py` asks and acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from garrison.faults import RuleRefused
from garrison.model import Outlet, PowerLimits
from garrison.words import ActionKind, PowerState

MIN_OFF_S = 10
"""Shorter, and the supply of a miner stays latched in its protection: worse than not cycling at all."""

MAX_OFF_S = 3600
DAY_MS = 86_400_000
OVERDUE_MS = 120_000
"""So long after the time due, power that is not back is a fault, and a person may order the outlet off for good."""

BRAKE_SHARE = 0.25
BRAKE_LEAST = 3
"""That many silent devices, and that share of all: it is the network or the feed, not the miners."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """`rule` is a word for machines: it goes into the outcome's detail."""

    rule: str
    text: str
    hint: str = ""

    def fault(self) -> RuleRefused:
        return RuleRefused(f"refused by the rule {self.rule}: {self.text}", hint=self.hint)


@dataclass(frozen=True, slots=True)
class Cut:
    """One time this sentry took mains away from a device, or may have."""

    device: str
    board: str
    outlet: str
    kind: ActionKind
    at_ms: int


@dataclass(frozen=True, slots=True)
class Busy:
    """A switching in progress. `due_ms`: when power is to be back; None: no such promise."""

    board: str
    outlet: str
    circuit: str
    what: str
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a decision needs. `state`: a fresh read; `board_fault`: why there is none. `silent` of `watched` devices."""

    kind: ActionKind
    device: str
    feed: Outlet
    state: PowerState
    now_ms: int
    limits: PowerLimits
    board_fault: str = ""
    off_s: int = 0
    history: Sequence[Cut] = ()
    busy: Sequence[Busy] = ()
    silent: int = 0
    watched: int = 0
    force: bool = False  # a person insists, although so many are silent


def feed_of(device: str, target: str, outlets: Sequence[Outlet]) -> Outlet | Refusal:
    """The one outlet that feeds this device and nothing else, or why there is none."""
    wanted = {device} | ({f"target:{target}"} if target else set())

    def feeds(outlet: Outlet) -> str:
        return outlet.device or f"target:{outlet.target}"

    mine = {(o.board, o.outlet): o for o in outlets if feeds(o) in wanted}
    if not mine:
        return Refusal("unmapped", f"no outlet is known to feed {device}", "`commander relays` maps outlets to devices")
    if len(mine) > 1:
        places = ", ".join(f"{outlet} of {board}" for board, outlet in sorted(mine))
        return Refusal("ambiguous", f"several outlets feed {device}: {places}", "map one, or switch the others by hand")
    place, outlet = next(iter(mine.items()))
    others = sorted({feeds(o) for o in outlets if (o.board, o.outlet) == place} - wanted)
    if others:
        return Refusal(
            "shared_outlet", f"outlet {place[1]} of {place[0]} feeds {', '.join(others)} too", "each device needs its own outlet"
        )
    # protected by any of its entries is protected
    return replace(outlet, protected=any(o.protected for o in outlets if (o.board, o.outlet) == place))


def off_time(asked_s: int, limits: PowerLimits) -> int | Refusal:
    """Seconds to stay off: what was asked, else the default; refused outside what supplies stand."""
    off_s = asked_s or limits.off_s
    if off_s < MIN_OFF_S:
        return Refusal(
            "min_off_time", f"{off_s} s off is shorter than {MIN_OFF_S} s", "a short dip leaves a supply latched; 30 s is usual"
        )
    if off_s > MAX_OFF_S:
        return Refusal("max_off_time", f"{off_s} s off is longer than {MAX_OFF_S} s", "order power_off, and power_on later")
    return off_s


def may_switch(s: Situation) -> Refusal | None:
    """None: go. Otherwise the first rule that forbids it. Taking power away has more rules than giving it."""
    cuts = s.kind in (ActionKind.POWER_OFF, ActionKind.POWER_CYCLE)
    if cuts and s.feed.protected:
        return Refusal("protected", f"outlet {s.feed.outlet} of {s.feed.board} is protected", "it may be switched on, never off")
    return (
        _board_refuses(s, cuts) or _busy_refuses(s) or (_cycle_refuses(s) if s.kind is ActionKind.POWER_CYCLE else _on_refuses(s))
    )


def superseded(s: Situation) -> Busy | None:
    """The overdue promise to restore power that a person's power_off ends."""
    for busy in s.busy:
        overdue = busy.due_ms is not None and s.now_ms > busy.due_ms + OVERDUE_MS
        if s.kind is ActionKind.POWER_OFF and overdue and (busy.board, busy.outlet) == (s.feed.board, s.feed.outlet):
            return busy
    return None


def circuit_of(board: str, circuit: str) -> str:
    """An outlet without a named circuit counts as on the circuit of its board."""
    return f"circuit {circuit}" if circuit else f"board {board}"


def brake(silent: int, watched: int) -> bool:
    """Whether so many devices went silent at once that the network or the feed is suspected."""
    return watched >= 2 and (silent == watched or (silent >= BRAKE_LEAST and silent > BRAKE_SHARE * watched))


def _board_refuses(s: Situation, cuts: bool) -> Refusal | None:
    if s.board_fault:
        return Refusal("board_unreachable", f"relay board {s.feed.board} cannot be read: {s.board_fault}", "nothing was switched")
    if s.state is PowerState.CHANGING:
        return Refusal("outlet_changing", f"outlet {s.feed.outlet} of {s.feed.board} is just changing", "try again in a minute")
    if cuts and s.state is PowerState.UNKNOWN:
        told = f"relay board {s.feed.board} does not say whether outlet {s.feed.outlet} is on"
        return Refusal("outlet_unknown", told, "nothing is switched off on a guess")
    return None


def _busy_refuses(s: Situation) -> Refusal | None:
    ended = superseded(s)
    here = circuit_of(s.feed.board, s.feed.circuit)
    for busy in s.busy:
        same_outlet = (busy.board, busy.outlet) == (s.feed.board, s.feed.outlet)
        if busy is not ended and (same_outlet or circuit_of(busy.board, busy.circuit) == here):
            return Refusal(
                "circuit_busy", f"on {here}: {busy.what}", "one switching at a time on a circuit; try again when it is over"
            )
    return None


def _cycle_refuses(s: Situation) -> Refusal | None:
    if isinstance(time := off_time(s.off_s, s.limits), Refusal):
        return time
    if s.state is PowerState.OFF:
        told = f"outlet {s.feed.outlet} of {s.feed.board} is off already"
        return Refusal("outlet_off", told, "somebody switched it off; order power_on if it shall be on")
    if brake(s.silent, s.watched) and not s.force:
        told = f"{s.silent} of {s.watched} devices are silent at once"
        return Refusal("network_suspected", told, "look at the network and the feed first; a person may insist with --force")
    cuts = sorted(max(0, s.now_ms - cut.at_ms) for cut in _cuts_of(s))  # a clock that went back makes it just now
    if cuts and cuts[0] < s.limits.min_interval_s * 1000:
        wait_s = s.limits.min_interval_s - cuts[0] // 1000
        told = f"its power was cut {cuts[0] // 1000} s ago, and {s.limits.min_interval_s} s must lie between"
        return Refusal("min_interval", told, f"possible in {wait_s} s")
    today = sum(1 for age_ms in cuts if age_ms < DAY_MS)
    if today >= s.limits.max_per_day:
        told = f"its power was cut {today} times in 24 hours, and {s.limits.max_per_day} is the limit"
        return Refusal("max_per_day", told, "power does not cure it: look at the device")
    return None


def _on_refuses(s: Situation) -> Refusal | None:
    """Power that was just cut stays off for the shortest time a supply needs."""
    if s.kind is not ActionKind.POWER_ON or s.state is PowerState.ON:
        return None
    ages_ms = [s.now_ms - cut.at_ms for cut in _cuts_of(s)]
    youngest_ms = min((age for age in ages_ms if age >= 0), default=None)
    if youngest_ms is not None and youngest_ms < MIN_OFF_S * 1000:
        told = f"it was switched off {youngest_ms // 1000} s ago, and {MIN_OFF_S} s must lie between"
        return Refusal("min_off_time", told, "a short dip leaves a supply latched")
    return None


def _cuts_of(s: Situation) -> list[Cut]:
    return [c for c in s.history if c.device == s.device or (c.board, c.outlet) == (s.feed.board, s.feed.outlet)]
