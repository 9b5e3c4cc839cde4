"""What this machine's owner allows, whatever the commander says: `guard.toml`, which no order can change.

`may` decides (pure); `load` and `write_default` are for the daemon and the command line. The file is read anew for each
order, so a change counts at once; while it cannot be read, nothing is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from garrison import keyfile, settings
from garrison.faults import Fault, GuardRefused, NotFound
from garrison.model import Order
from garrison.words import ActionKind

FILE = "guard.toml"
TITLE = (
    "What the commander may order on this machine. The commander cannot read or change this file.\n"
    "# A change counts from the next order on."
)
HOUR_MS = 3_600_000
_ALL = tuple(str(kind) for kind in ActionKind)
_CUTS = (ActionKind.POWER_CYCLE, ActionKind.POWER_OFF)
_SEPARATORS = "./+:#"


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    actions: Annotated[tuple[str, ...], Meta(description=f"the kinds of order that are carried out; of {', '.join(_ALL)}")] = _ALL
    payouts: Annotated[
        tuple[str, ...],
        Meta(
            description="wallet addresses and pool accounts that may be mined to; empty: any.\n"
            '"abc" also allows the workers "abc.rig1", "abc/rig1", "abc+5000"'
        ),
    ] = ()
    max_power_cycles_per_hour: Annotated[
        int, Meta(ge=0, le=1000, description="how often one device may be switched off within an hour")
    ] = 4
    firmware: Annotated[bool, Meta(description="whether firmware may be flashed, once there are orders for it")] = False
    scan_networks: Annotated[
        tuple[str, ...],
        Meta(description='networks beside the private ones in which devices may be looked for, such as "198.18.0.0/24"'),
    ] = ()

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.actions if kind not in _ALL]
        if unknown:
            raise ValueError(f"unknown kind of order {unknown[0]!r}")
        for network in self.scan_networks:
            ip_network(network)  # ValueError says what is wrong with it


Started = tuple[ActionKind, str, int]
"""A power order that was started before: kind, device, when (ms)."""


def may(guard: Guard, order: Order, payouts: Sequence[str], history: Sequence[Started], now_ms: int) -> GuardRefused | None:
    """None: the guard has nothing against it. `payouts`: whatever the order would make a device mine to."""
    if order.kind not in guard.actions:
        return GuardRefused(f"the guard on this machine does not allow {order.kind}", hint=f"`actions` in {FILE}")
    if order.kind is ActionKind.APPLY_FLIGHT_SHEET and guard.payouts:
        if not payouts:
            return GuardRefused("the guard cannot see whom this flight sheet pays", hint=f"`payouts` in {FILE}")
        for payout in payouts:
            if not _allowed(payout, guard.payouts):
                return GuardRefused(
                    f"the guard on this machine does not allow mining to {payout[:100]}", hint=f"`payouts` in {FILE}"
                )
    if order.kind in _CUTS:
        cuts = sum(1 for kind, device, at_ms in history if kind in _CUTS and device == order.device and at_ms > now_ms - HOUR_MS)
        if cuts >= guard.max_power_cycles_per_hour:
            return GuardRefused(
                f"{order.device} was switched off {cuts} times within the hour; the guard allows {guard.max_power_cycles_per_hour}",
                hint=f"`max_power_cycles_per_hour` in {FILE}",
            )
    return None


def _allowed(payout: str, known: Sequence[str]) -> bool:
    """Case counts: in some coins it is part of the address."""
    return any(payout == one or (payout.startswith(one) and payout[len(one)] in _SEPARATORS) for one in known if one)


def load(state_dir: Path) -> Guard:
    """GuardRefused: missing or broken; then nothing is allowed. The owner's mistake must not become a permission."""
    path = state_dir / FILE
    try:
        return settings.load(path, Guard)
    except NotFound as error:
        raise GuardRefused(f"there is no guard file at {path}", hint="`guard --write` makes one with the defaults") from error
    except Fault as error:
        raise GuardRefused(f"the guard file makes no sense: {error.text}", hint=error.hint) from error


def write_default(state_dir: Path) -> bool:
    """With comments; an existing one is never touched. Returns whether it was written."""
    path = state_dir / FILE
    if path.exists():
        return False
    keyfile.write(path, settings.example(Guard, TITLE).encode())
    return True
