"""May mains be switched? Pure: every rule looks at the same facts and has a name that its refusal carries.

The sentry at the relay asks its own guard and its own history again: both must say yes. Sources of the figures: PSU repair
notes ask for 30 s without mains (a short dip leaves the latch set), miners need 10 to 15 min until they hash again, and
when many devices fall silent at once it is the network and not the miners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from commander.model import DeviceRow
from garrison.words import ActionKind, DeviceState

LEAST_OFF_S = 10
MOST_OFF_S = 600
DAY_MS = 86_400_000
SILENT = frozenset({DeviceState.UNREACHABLE, DeviceState.SLOW, DeviceState.UNKNOWN})
CUTS = frozenset({ActionKind.POWER_OFF, ActionKind.POWER_CYCLE})


@dataclass(frozen=True, slots=True)
class Limits:
    """`brake_share` of at least `brake_at_least` other devices silent: no cutting."""

    off_s: int = 30
    min_interval_s: int = 900
    max_per_day: int = 3
    brake_share: float = 0.3
    brake_at_least: int = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """`off_s` 0: the default. `person`: somebody asks for exactly this; otherwise the commander itself."""

    kind: ActionKind
    off_s: int = 0
    person: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True)
class Feed:
    """An outlet that feeds the device."""

    board: str
    outlet: str
    protected: bool = False
    sentry: str = ""
    sentry_connected: bool = True


@dataclass(frozen=True, slots=True)
class Switching:
    """An earlier order that has cut mains, or may have. Wall clock; one ahead of now (a clock was set back) counts as now."""

    kind: ActionKind
    at_ms: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """How many of the other devices that should answer do not: `who` says of whom."""

    who: str
    silent: int
    total: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about one device. `cuts`: of the last 24 h. `held`: in maintenance."""

    name: str
    now_ms: int
    feeds: tuple[Feed, ...]
    held: bool = False
    cuts: tuple[Switching, ...] = ()
    quiet: tuple[Quiet, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """`rule`: its name. `forcible`: a person may overrule it with `force`."""

    rule: str
    text: str
    hint: str = ""
    forcible: bool = False


def may_switch(asked: Asked, facts: Facts, limits: Limits) -> tuple[Refusal, ...]:
    """Why not, one refusal a rule that forbids it; empty: it may be switched."""
    found = (rule(asked, facts, limits) for rule in RULES)
    return tuple(one for one in found if one is not None and not (one.forcible and asked.force and asked.person))


def off_s(asked: Asked, limits: Limits) -> int:
    """How long mains stays off in a cycle; 0 for what is no cycle."""
    return (asked.off_s or limits.off_s) if asked.kind is ActionKind.POWER_CYCLE else 0


# ---- the rules -------------------------------------------------------------------------------------------------


def _unmapped(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    if facts.feeds:
        return None
    return Refusal("unmapped", f"no outlet is mapped to {facts.name}", "`commander relays map` says which outlet feeds it")


def _one_outlet(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    if len(facts.feeds) < 2:
        return None
    outlets = ", ".join(f"{feed.board}/{feed.outlet}" for feed in facts.feeds)
    return Refusal("one_outlet", f"{facts.name} hangs on {len(facts.feeds)} outlets ({outlets})", "unmap those that do not feed it")


def _protected(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    stray = next((feed for feed in facts.feeds if feed.protected), None)
    if stray is None:
        return None
    return Refusal("protected", f"outlet {stray.board}/{stray.outlet} is protected", "nobody switches it from here")


def _sentry_silent(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    gone = next((feed for feed in facts.feeds if not feed.sentry_connected), None)
    if gone is None:
        return None
    return Refusal("sentry_silent", f"the sentry {gone.sentry} at board {gone.board} is not connected", "it has to come back first")


def _off_time(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    if asked.kind is not ActionKind.POWER_CYCLE or LEAST_OFF_S <= off_s(asked, limits) <= MOST_OFF_S:
        return None
    return Refusal("off_time", f"mains must stay off for {LEAST_OFF_S} to {MOST_OFF_S} s, not {off_s(asked, limits)}")


def _held(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    """Somebody may have their hands in it: nothing switches it on. Cutting it stays a person's right."""
    if not facts.held or (asked.kind is ActionKind.POWER_OFF and asked.person):
        return None
    return Refusal("maintenance", f"{facts.name} is in maintenance", "end the maintenance first; a person may switch it off")


def _interval(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    cuts = _cuts(facts)
    if not _limited(asked) or not cuts:
        return None
    since_s = (facts.now_ms - max(cuts)) // 1000
    if since_s >= limits.min_interval_s:
        return None
    wait_s = limits.min_interval_s - since_s
    return Refusal(
        "min_interval",
        f"{facts.name} was cut {since_s} s ago, and there must be {limits.min_interval_s} s between two cuts",
        f"it may be cut again in {wait_s} s",
    )


def _day_cap(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    cuts = [at_ms for at_ms in _cuts(facts) if facts.now_ms - at_ms < DAY_MS]
    if not _limited(asked) or len(cuts) < limits.max_per_day:
        return None
    return Refusal(
        "day_cap",
        f"{facts.name} was cut {len(cuts)} times in 24 h, and {limits.max_per_day} are allowed",
        "somebody should look at it: a cut does not help it",
    )


def _off_long_enough(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    """A person's own off and on must not be a short dip either."""
    if asked.kind is not ActionKind.POWER_ON:
        return None
    offs = [min(cut.at_ms, facts.now_ms) for cut in facts.cuts if cut.kind is ActionKind.POWER_OFF]
    since_s = (facts.now_ms - max(offs)) // 1000 if offs else LEAST_OFF_S
    if since_s >= LEAST_OFF_S:
        return None
    return Refusal(
        "min_off",
        f"{facts.name} was switched off {since_s} s ago, and mains must stay off for {LEAST_OFF_S} s",
        f"try again in {LEAST_OFF_S - since_s} s",
    )


def _brake(asked: Asked, facts: Facts, limits: Limits) -> Refusal | None:
    if asked.kind not in CUTS:
        return None
    for quiet in facts.quiet:
        if quiet.silent >= limits.brake_at_least and quiet.silent >= limits.brake_share * quiet.total:
            return Refusal(
                "brake",
                f"{quiet.silent} of {quiet.total} other devices {quiet.who} are silent too: that looks like the network",
                "look at switches and uplinks; a person may insist with --force",
                forcible=True,
            )
    return None


def _limited(asked: Asked) -> bool:
    """Every cycle, and what the commander cuts by itself. A person may always switch off: there may be smoke."""
    return asked.kind is ActionKind.POWER_CYCLE or (asked.kind is ActionKind.POWER_OFF and not asked.person)


def _cuts(facts: Facts) -> list[int]:
    return [min(cut.at_ms, facts.now_ms) for cut in facts.cuts if cut.kind in CUTS]


RULES: tuple[Callable[[Asked, Facts, Limits], Refusal | None], ...] = (
    _unmapped,
    _one_outlet,
    _protected,
    _sentry_silent,
    _off_time,
    _held,
    _interval,
    _day_cap,
    _off_long_enough,
    _brake,
)


# ---- who is silent ---------------------------------------------------------------------------------------------


def how_quiet(device: DeviceRow, devices: Iterable[DeviceRow]) -> tuple[Quiet, ...]:
    """Of the other miners: those of the same sentry, and the whole farm. Who was never seen, is known to be off or is in
    maintenance says nothing either way.
    """
    others = [
        one
        for one in devices
        if one.id != device.id
        and one.kind != "relay"
        and one.seen_ms is not None
        and not one.maintenance
        and one.state not in (DeviceState.OFF, DeviceState.MAINTENANCE)
    ]
    near = [one for one in others if one.sentry_id == device.sentry_id]
    return (_quiet("of its sentry", near), _quiet("of the farm", others))


def _quiet(who: str, devices: list[DeviceRow]) -> Quiet:
    return Quiet(who, sum(one.state in SILENT for one in devices), len(devices))
