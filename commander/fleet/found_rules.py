"""What is decided over devices that a scan found: whether one is known already, is there twice, or is adopted by a rule. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from commander.fleet.records import DeviceRecord, FoundRecord
from commander.fleet.rules import NO_ANSWER, same_place
from garrison.faults import BadInput
from garrison.words import DeviceState

PREFIX = "found:"
"""Of the identities under which a sentry tells what it found; behind it stands the address."""
KIND = "found"
SAME_ROUND = "duplicate_mac"
"""Condition: one round of a scan met this MAC at several addresses."""
KEPT_MS = 7 * 86_400_000
"""What no scan met for so long is no longer shown as found."""
_NOT_HEARD = NO_ANSWER | {DeviceState.OFF}
_NO_LINK = frozenset({"unreachable", "timed_out"})


@dataclass(frozen=True, slots=True)
class Twin:
    """Something with the same MAC, serial or address. `what`: which of them; `device_id` None: it is only found, too."""

    what: str
    text: str
    device_id: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Adopts what fits all that it names; nothing named: everything."""

    makes: frozenset[str] = frozenset()
    ranges: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Near:
    """What may be the same as a found device: devices and other finds with its MAC, serial or address."""

    devices: Sequence[DeviceRecord] = field(default=())
    finds: Sequence[FoundRecord] = field(default=())


def says_serial(serial: str) -> bool:
    """Whether it tells one device from another: some firmware says 0000000 or N/A."""
    return len(serial) >= 5 and len(set(serial.casefold())) > 2


def answers(record: DeviceRecord) -> bool:
    """Whether its sentry hears it where it is watched."""
    seen = record.seen
    if record.left or not record.watched_address or seen is None:
        return False
    return seen.state not in _NOT_HEARD and seen.fault not in _NO_LINK


def follows(found: FoundRecord, known: DeviceRecord | None) -> bool:
    """Whether a device that is watched, and not heard, is this one at a new address. A host name is for DNS to lead."""
    if known is None or known.kind != "asic" or known.sentry_id != found.sentry_id or answers(known):
        return False
    if SAME_ROUND in {condition.code for condition in found.seen.conditions}:
        return False
    if known.watched_address and (known.seen is None or not _is_number(known.watched_address)):
        return False  # nobody has looked there yet
    return not same_place(known.watched_address, found.address)


def twins(found: FoundRecord, near: Near) -> tuple[Twin, ...]:
    """What is there twice. A device that is not heard where it is watched, and is here, has moved: that is no twin."""
    told = [_twin_of(found, device) for device in near.devices]
    told += [_twin_found(found, other) for other in near.finds]
    return tuple(sorted({twin.text: twin for twin in told if twin is not None}.values(), key=lambda twin: (twin.what, twin.text)))


def _twin_of(found: FoundRecord, device: DeviceRecord) -> Twin | None:
    shown, where = f"device {device.id} ({device.name})", device.watched_address or "no address"
    if found.identity and device.identity == found.identity:
        return Twin("mac", f"{shown} at {where} has the same {_name_of(found)}", device.id) if answers(device) else None
    serial = found.seen.serial
    if device.seen is not None and says_serial(serial) and device.seen.serial.casefold() == serial.casefold():
        return Twin("serial", f"{shown} at {where} has the same serial {serial}", device.id)
    if device.watched_address and same_place(device.watched_address, found.address) and device.kind == "asic":
        return Twin("address", f"{shown} is watched at the same address", device.id)
    return None


def _twin_found(found: FoundRecord, other: FoundRecord) -> Twin | None:
    if other.key == found.key or other.dismissed:
        return None
    if found.identity and other.identity == found.identity:
        return Twin("mac", f"what was found at {other.address} has the same {_name_of(found)}")
    serial = found.seen.serial
    if says_serial(serial) and other.seen.serial.casefold() == serial.casefold():
        return Twin("serial", f"what was found at {other.address} has the same serial {serial}")
    return None


def _name_of(found: FoundRecord) -> str:
    return f"MAC {found.identity.removeprefix('mac:')}" if found.identity.startswith("mac:") else f"serial {found.seen.serial}"


def rules_of(texts: Iterable[str]) -> tuple[Rule, ...]:
    """ "all", "make:bitaxe", "range:hall-a", or both of these with a space between. BadInput."""
    found = []
    for text in texts:
        words = text.split()
        if words == ["all"]:
            found.append(Rule())
            continue
        pairs = [word.partition(":") for word in words]
        if not pairs or any(key not in ("make", "range") or not value for key, _, value in pairs):
            raise BadInput(f"{text!r} is no rule", hint='"all", "make:bitaxe", "range:hall-a" or "make:bitaxe range:hall-a"')
        makes, ranges = (frozenset(value for key, _, value in pairs if key == one) for one in ("make", "range"))
        found.append(Rule(makes, ranges))
    return tuple(found)


def adopts(rules: Sequence[Rule], found: FoundRecord, doubles: Sequence[Twin]) -> bool:
    """Never what nobody could tell apart later, what a person sent away, or what did not let us look."""
    if not found.identity or found.dismissed or doubles or found.seen.state is not DeviceState.UNKNOWN:
        return False
    return any(
        (not rule.makes or found.seen.make in rule.makes) and (not rule.ranges or found.range in rule.ranges) for rule in rules
    )


def _is_number(address: str) -> bool:
    host = (
        address[1:].partition("]")[0]
        if address.startswith("[")
        else address.partition(":")[0]
        if address.count(":") == 1
        else address
    )
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
