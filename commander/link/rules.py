"""Who is meant when one sentry's identity is used by two machines: a cloned disk, or one that was moved. Pure.

- The machine is not said, or is the sentry's own: the sentry itself.
- None is known yet: it is the sentry's from now on.
- Another one, and the sentry's own is silent: the disk was moved, and it takes that one's place.
- Another one, and the sentry's own was just heard: a twin. It is kept apart, and neither gets orders.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    SAME = "same"
    FIRST = "first"
    ADOPTED = "adopted"
    TWIN = "twin"


def judge(main: bytes, machine: bytes, silent_ms: int, adopt_after_ms: int) -> Verdict:
    """`main`: the sentry's own machine, empty when none is known. `silent_ms`: for how long we could have heard it and did not."""
    if not machine or machine == main:
        return Verdict.SAME
    if not main:
        return Verdict.FIRST
    return Verdict.ADOPTED if silent_ms > adopt_after_ms else Verdict.TWIN


def post_name(sentry_id: str, machine: bytes) -> str:
    """What a twin's frames and records are kept under, beside the sentry's own."""
    return f"{sentry_id}#{machine.hex()[:16]}"


def is_due(told_ms: int, now_ms: int) -> bool:
    """Once a day, however the clock was set meanwhile. `told_ms` 0: never."""
    return not told_ms or abs(now_ms - told_ms) >= 86_400_000


def why_held(address: str, *, met: bool, adopt_after_ms: int) -> str:
    """For the orders that wait. `met`: both machines were heard at the same time."""
    if met:
        return f"two machines use the identity of its sentry, the other one from {address}: orders wait until only one is left"
    return (
        f"its sentry came back from another machine ({address}): orders wait until the one before was silent for"
        f" {minutes(adopt_after_ms)}"
    )


def clone_text(main: str, twin: str, program: str) -> str:
    return (
        f"two machines use the identity of this sentry, {main} and {twin}: a cloned disk. Neither gets orders, and what the"
        f" second sees is kept apart. On the one that is to be another sentry: stop it, remove its folder {program}/, give it a"
        f" machine id of its own, and `{program} enrol` it with a fresh token"
    )


def moved_text(address: str, adopt_after_ms: int) -> str:
    return f"its disk runs in another machine now, {address}; the one before was silent for {minutes(adopt_after_ms)}"


def alone_text(address: str, adopt_after_ms: int) -> str:
    return f"the other machine with its identity ({address}) was silent for {minutes(adopt_after_ms)}: it gets orders again"


def minutes(ms: int) -> str:
    return f"{ms / 60_000:g} min"
