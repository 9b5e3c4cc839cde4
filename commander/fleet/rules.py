"""What the fleet decides: how a state is judged, which row a roster entry is about, what a post is assigned. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from commander.fleet.records import BoardRecord, DeviceRecord, OutletRecord, Standing
from garrison.faults import BadInput
from garrison.model import Assignment, Board, Credentials, Device, Outlet, PowerLimits, Target
from garrison.words import DeviceState, PowerState, SentryState

LAGGING_MS = 60_000
STALE_MS = 300_000
"""A state that no sample confirmed for this long is not known any more."""

NO_ANSWER = frozenset({DeviceState.UNREACHABLE, DeviceState.SLOW, DeviceState.UNKNOWN})
PLACEHOLDER = "target:"


# ---- states ------------------------------------------------------------------------------------------------


def judge_sentry(
    standing: Standing,
    *,
    stream_open: bool,
    backlog_ms: int | None = None,
    quiet_ms: int,
    since_start_ms: int,
    silent_after_ms: int,
    window_ms: int,
    ever_seen: bool,
) -> SentryState:
    """`quiet_ms`: without a stream, since our own start at most. `backlog_ms`: age of the oldest item it has not had acked.

    After our own start nobody is called silent before two reconnect windows have passed.
    """
    if standing == "revoked":
        return SentryState.REVOKED
    if standing == "pending":
        return SentryState.PENDING
    if stream_open:
        return SentryState.LAGGING if backlog_ms is not None and backlog_ms > LAGGING_MS else SentryState.CONNECTED
    if not ever_seen:
        return SentryState.SILENT
    early = since_start_ms < 2 * window_ms
    return SentryState.CONNECTED if early or quiet_ms < silent_after_ms else SentryState.SILENT


def judge_device(
    reported: DeviceState | None,
    *,
    sentry: SentryState,
    maintenance: bool = False,
    left: bool = False,
    outlet: PowerState | None = None,
    age_ms: int | None = None,
) -> DeviceState:
    """What is shown. `outlet`: the state of the outlet that feeds it, None or UNKNOWN when that is not known for certain.

    A silent sentry never makes a device look down, only unknown; but an outlet known to be off explains the silence of a
    device, and of a rig together with its sentry. `age_ms`: since its newest sample, None when not known.
    """
    if maintenance:
        return DeviceState.MAINTENANCE
    heard = sentry in (SentryState.CONNECTED, SentryState.LAGGING) and not left
    known = reported if heard and reported is not None else DeviceState.UNKNOWN
    if heard and age_ms is not None and age_ms > STALE_MS:
        known = DeviceState.UNKNOWN
    if outlet is PowerState.OFF and known in NO_ANSWER:
        return DeviceState.OFF
    return known


# ---- which row -----------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    IGNORE = "ignore"  # about a target that a person removed
    UPDATE = "update"
    ADOPT = "adopt"  # a target gets its identity
    NEW = "new"
    REPLACE = "replace"  # a stranger answers where another device was: it takes over the target
    TAKE_OVER = "take_over"  # a known device answers at a new target: it takes its address, the placeholder goes
    SWAP = "swap"  # two known devices have exchanged addresses
    CONFLICT = "conflict"  # another sentry sees the same device right now


@dataclass(frozen=True, slots=True)
class Resolution:
    """`row`: the one the entry is about, None when new. `other`: the one whose target it takes. `moved`: from another sentry."""

    verdict: Verdict
    row: int | None = None
    other: int | None = None
    moved: bool = False


def resolve(
    entry: Device, sentry_id: str, by_identity: DeviceRecord | None, by_target: DeviceRecord | None, *, rival_sees_it: bool
) -> Resolution:
    """Which row a roster entry is about. `by_target` must be a row of this sentry; `rival_sees_it`: the sentry that
    `by_identity` belongs to is another, has an open stream and still watches it.
    """
    if entry.identity.startswith(PLACEHOLDER):
        return Resolution(Verdict.UPDATE, by_target.id) if by_target else Resolution(Verdict.IGNORE)
    if by_identity is None:
        if by_target is None:
            return Resolution(Verdict.IGNORE) if entry.target else Resolution(Verdict.NEW)
        if by_target.identity is None:
            return Resolution(Verdict.ADOPT, by_target.id)
        return Resolution(Verdict.IGNORE) if _late(entry, by_target) else Resolution(Verdict.REPLACE, None, by_target.id)
    moved = by_identity.sentry_id != sentry_id
    # An ASIC is watched because a person said so: another sentry gets it by a target of its own, never by claiming to see it.
    claimed = by_target is None and bool(by_identity.watched_address)
    if moved and (rival_sees_it or claimed):
        return Resolution(Verdict.CONFLICT, by_identity.id, by_target.id if by_target else None)
    if by_target is None or by_target.id == by_identity.id:
        return Resolution(Verdict.UPDATE, by_identity.id, moved=moved)
    if by_target.identity is None:
        return Resolution(Verdict.TAKE_OVER, by_identity.id, by_target.id, moved)
    if _late(entry, by_target):
        return Resolution(Verdict.UPDATE, by_identity.id, moved=moved)
    return Resolution(Verdict.SWAP, by_identity.id, by_target.id, moved)


def _late(entry: Device, target: DeviceRecord) -> bool:
    """Whether the sentry still speaks of the target as it was before we gave it another address."""
    return bool(entry.address) and not same_place(entry.address, target.watched_address)


def same_place(one: str, other: str) -> bool:
    """Whether two addresses may be the same; one without a port is the same as with any."""
    if one == other:
        return True
    bare = {text: text.rpartition(":")[0] if text.count(":") == 1 or "]:" in text else text for text in (one, other)}
    return bare[one] == bare[other] and (bare[one] == one or bare[other] == other)


# ---- what a post should do -----------------------------------------------------------------------------------


def assignment(
    sentry_id: str,
    revision: int,
    devices: Iterable[DeviceRecord],
    boards: Iterable[BoardRecord],
    outlets: Iterable[OutletRecord],
    find: Callable[[int], DeviceRecord | None],
    open_sealed: Callable[[bytes, str], Credentials],
    *,
    poll_every_ms: int,
    power: PowerLimits,
) -> Assignment:
    """Targets and boards of this post, and the outlets of its boards. An outlet may feed a device of another sentry."""
    mine = sorted((board for board in boards if board.sentry_id == sentry_id), key=lambda board: board.id)
    ids = {board.id for board in mine}
    return Assignment(
        revision=revision,
        targets=tuple(
            Target(
                id=str(device.id),
                address=device.watched_address,
                make=device.make_hint,
                credentials=None if device.sealed is None else open_sealed(device.sealed, sealed_as_device(device.id)),
                simulated=device.simulated,
                expected_hashrate_hs=device.expected_hashrate_hs,
                name=device.name,
                maintenance=device.maintenance,
                http_port=device.http_port,
            )
            for device in sorted(devices, key=lambda device: device.id)
            if device.sentry_id == sentry_id and device.watched_address
        ),
        boards=tuple(
            Board(
                id=board.id,
                kind=board.kind,
                address=board.address,
                outlets=board.outlets,
                credentials=None if board.sealed is None else open_sealed(board.sealed, sealed_as_board(board.id)),
                simulated=board.simulated,
                options=dict(board.options),
            )
            for board in mine
        ),
        outlets=tuple(
            _outlet(outlet, find(outlet.device_id) if outlet.device_id is not None else None, sentry_id)
            for outlet in sorted(outlets, key=lambda outlet: (outlet.board_id, len(outlet.outlet), outlet.outlet))
            if outlet.board_id in ids
        ),
        poll_every_ms=poll_every_ms,
        power=power,
    )


def _outlet(outlet: OutletRecord, device: DeviceRecord | None, sentry_id: str) -> Outlet:
    return Outlet(
        board=outlet.board_id,
        outlet=outlet.outlet,
        device=(device.identity or "") if device else "",
        target=str(device.id) if device and device.sentry_id == sentry_id and device.watched_address else "",
        circuit=outlet.circuit,
        protected=outlet.protected,
    )


def sealed_as_device(device_id: int) -> str:
    """The row a sealed credential belongs to: it opens under no other name."""
    return f"devices/{device_id}/credentials"


def sealed_as_board(board_id: str) -> str:
    return f"boards/{board_id}/credentials"


def digest(given: Assignment) -> str:
    """Same digest, same assignment. The revision is not part of it."""
    return hashlib.sha256(msgspec.json.encode(replace(given, revision=0))).hexdigest()


def hidden_credentials(sealed: bytes, _row: str) -> Credentials:
    """Stands in for `open_sealed` where only the digest is wanted: a hash of passwords would be one to guess from."""
    return Credentials(hashlib.sha256(sealed).hexdigest(), "")


# ---- what people give ------------------------------------------------------------------------------------------

PRIVATE: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128")
)
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*\Z")
_TAG = re.compile(r"[a-z0-9][a-z0-9._:-]{0,39}\Z")
_MAC = re.compile(r"(?:[0-9a-f]{2}[:-]?){5}[0-9a-f]{2}\Z")


def checked_address(text: str, networks: Sequence[IPv4Network | IPv6Network] = PRIVATE) -> str:
    """host, IPv4, or [IPv6], each with :PORT or without; lower case. BadInput for all else, and for what no farm device has."""
    given = text.strip().lower()
    if given.startswith("["):
        host, bracket, rest = given[1:].partition("]")
        port = rest.removeprefix(":") if bracket and rest.startswith(":") else None
        if not bracket or (rest and port is None):
            raise BadInput(f"{text!r} is not an address", hint="[IPv6] or [IPv6]:PORT")
    elif given.count(":") > 1:
        host, port = given, None  # a bare IPv6
    else:
        host, colon, after = given.partition(":")
        port = after if colon else None
    if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise BadInput(f"{text!r}: {port!r} is not a port", hint="1 to 65535")
    shown = _checked_host(host, text, networks)
    return shown if port is None else f"{shown}:{int(port)}"


def _checked_host(host: str, text: str, networks: Sequence[IPv4Network | IPv6Network]) -> str:
    try:
        found: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        # All digits and dots is an address that somebody mistyped, and what resolvers make of it is a surprise.
        if not _HOST.match(host) or re.fullmatch(r"[0-9.]+|0x[0-9a-f]+", host):
            raise BadInput(
                f"{text!r} is not an address", hint="a host name or an IP address, with :PORT when it is unusual"
            ) from None
        return host
    if "%" in host:
        raise BadInput(f"{text!r}: link-local addresses are not taken")
    plain = found.ipv4_mapped if isinstance(found, IPv6Address) and found.ipv4_mapped else found
    if plain.is_multicast or plain.is_link_local or plain.is_unspecified or plain == IPv4Address("255.255.255.255"):
        raise BadInput(f"{text!r} is not the address of a device")
    if not any(plain.version == network.version and plain in network for network in networks):
        raise BadInput(
            f"{text!r} is outside the networks of this farm", hint="private addresses and loopback, unless settings allow more"
        )
    return f"[{plain}]" if isinstance(plain, IPv6Address) else str(plain)


def checked_name(text: str, what: str = "name") -> str:
    """1 to 64 printable characters, no slash: it is a part of addresses and tables. BadInput."""
    given = text.strip()
    if not 0 < len(given) <= 64 or "/" in given or any(unicodedata.category(one)[0] in "CZ" and one != " " for one in given):
        raise BadInput(f"{text[:80]!r} is no {what}", hint="1 to 64 printable characters without a slash")
    return given


def checked_tag(text: str) -> str:
    given = text.strip().lower()
    if not _TAG.match(given):
        raise BadInput(f"{text[:80]!r} is no tag", hint="a to z, 0 to 9, and . _ : - inside; up to 40 characters")
    return given


def told_name(text: str, otherwise: str) -> str:
    """A name that a device told us, made harmless; `otherwise` when nothing is left of it."""
    return told_text(text).replace("/", "-")[:64].strip() or otherwise


def told_text(text: str) -> str:
    """What a machine says about itself, without characters that move a cursor, 400 at most."""
    return "".join(one for one in text[:1000] if one == " " or unicodedata.category(one)[0] not in "CZ").strip()[:400]


def told_facts(facts: Mapping[str, str]) -> dict[str, str]:
    """The first 64, made harmless."""
    return {told_text(key)[:64]: told_text(value) for key, value in list(facts.items())[:64]}


def unique_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or with -2, -3 … behind it. `taken`: the names in use, case folded.

    The number is searched by halves: thousands of rigs from one image have one host name.
    """
    if wanted.casefold() not in taken:
        return wanted

    def used(number: int) -> bool:
        return f"{wanted[:60]}-{number}".casefold() in taken

    free = 2
    while used(free):
        free *= 2
    last = free // 2
    while free - last > 1:
        middle = (last + free) // 2
        if used(middle):
            last = middle
        else:
            free = middle
    return f"{wanted[:60]}-{free}"


def plain_mac(text: str) -> str | None:
    """ "aa:bb:cc:dd:ee:ff" from any usual spelling; None when it is not a MAC."""
    given = text.strip().lower().replace("-", ":")
    if not _MAC.match(given):
        return None
    digits = given.replace(":", "")
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def matches(text: str, record: DeviceRecord) -> bool:
    """Whether a person may mean this device by `text`: id, name, identity, MAC, serial or address (with or without port)."""
    return not asked_as(text).isdisjoint(references(record))


def asked_as(text: str) -> set[str]:
    """What of `references` a person may mean by this."""
    given, mac = text.strip().casefold(), plain_mac(text)
    return ({given} if given else set()) | ({f"mac:{mac}"} if mac is not None else set())


def references(record: DeviceRecord) -> set[str]:
    """All that a device may be called by, folded: what `book` finds it by."""
    seen = record.seen
    addresses = {record.watched_address, seen.address if seen else ""}
    names = {str(record.id), record.name.casefold(), record.identity or "", (seen.serial if seen else "").casefold(), *addresses}
    names |= {address.partition(":")[0] for address in addresses if address.count(":") == 1}
    if seen is not None and seen.mac:
        names.add(f"mac:{seen.mac}")
    return names - {""}


# ---- groups --------------------------------------------------------------------------------------------------

MINING_KINDS = frozenset({"asic", "rig"})


def groups_of(record: DeviceRecord, coins: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The groups a device counts in, as (kind, name): the farm, and what is known of site, rack, model, coin and tags. A rack is
    named with its site: two halls may have a rack 1 each."""
    seen = record.seen
    found = [("farm", "")]
    if record.site:
        found.append(("site", record.site))
    if record.rack:
        found.append(("rack", f"{record.site}/{record.rack}" if record.site else record.rack))
    if seen is not None and seen.model:
        found.append(("model", seen.model))
    sheet = (seen.sheet_id if seen is not None else "").partition(".")[0]
    if sheet in coins:
        found.append(("coin", coins[sheet]))
    found += [("tag", tag) for tag in record.tags]
    return tuple(found)
