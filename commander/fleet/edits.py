"""What people change in the fleet, checked and brought into the book. The service commits the draft.

Each function raises BadInput, NotFound or Conflict before it changes anything.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from commander.fleet.book import Book, Draft
from commander.fleet.records import BoardRecord, DeviceRecord, OutletRecord, SentryRecord
from commander.fleet.rules import (
    PRIVATE,
    asked_as,
    checked_address,
    checked_name,
    checked_tag,
    same_place,
    sealed_as_board,
    sealed_as_device,
)
from garrison.faults import BadInput, Conflict, NotFound
from garrison.model import Credentials

T = TypeVar("T")
MOST_OUTLETS = 512
MOST_TAGS = 50
MOST_NOTES = 2_000


@dataclass(frozen=True, slots=True)
class NewDevice:
    """An ASIC to watch. `sentry`: id or name."""

    address: str
    sentry: str
    name: str = ""
    make: str = ""
    credentials: Credentials | None = None
    http_port: int = 0
    expected_hashrate_hs: float | None = None
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """None: as it was. An empty text clears."""

    name: str | None = None
    add_tags: Sequence[str] = ()
    remove_tags: Sequence[str] = ()
    maintenance: bool | None = None
    address: str | None = None
    credentials: Credentials | None = None
    expected_hashrate_hs: float | None = None
    site: str | None = None
    rack: str | None = None
    position: str | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class NewBoard:
    """A relay board. `sentry`: id or name of the ASIC sentry that drives it."""

    name: str
    kind: str
    address: str
    sentry: str
    outlets: int = 1
    credentials: Credentials | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the settings allow. `board_kinds`: the names of rrc's table."""

    board_kinds: frozenset[str]
    networks: tuple[IPv4Network | IPv6Network, ...] = PRIVATE


# ---- finding ---------------------------------------------------------------------------------------------------


def find_device(book: Book, text: str) -> DeviceRecord:
    """By id, name, identity, MAC, serial or address. NotFound; BadInput lists the candidates when several fit."""
    found = [book.devices[one] for one in sorted({one for name in asked_as(text) for one in book.references.get(name, ())})]
    if not found:
        raise NotFound(
            f"no device {text[:80]!r}", hint="`commander devices list` shows them; id, name, MAC, serial and address all work"
        )
    if len(found) > 1:
        listed = ", ".join(f"{record.id} ({record.name})" for record in sorted(found, key=lambda one: one.id)[:8])
        raise BadInput(f"{text[:80]!r} fits {len(found)} devices: {listed}", hint="say it by id, or by a name that only one has")
    return found[0]


def find_sentry(book: Book, text: str) -> SentryRecord:
    """By id, the beginning of an id, or name."""
    given = text.strip().casefold()
    if given in book.sentries:
        return book.sentries[given]
    found = [one for one in book.sentries.values() if one.name.casefold() == given]
    if not found and len(given) >= 6:
        found = [one for one in book.sentries.values() if one.id.startswith(given)]
    return _only(found, text, "sentry", "`commander sentries list`", lambda one: f"{one.id} ({one.name})")


def find_board(book: Book, text: str) -> BoardRecord:
    """By id or name."""
    given = text.strip().casefold()
    found = [one for one in book.boards.values() if given in (one.id, one.name.casefold())]
    return _only(found, text, "relay board", "`commander relays list`", lambda one: f"{one.id} ({one.name})")


def _only(found: list[T], text: str, what: str, listing: str, shown: Callable[[T], str]) -> T:
    if not found:
        raise NotFound(f"no {what} {text[:80]!r}", hint=f"{listing} shows them")
    if len(found) > 1:
        raise BadInput(f"{text[:80]!r} fits several: {', '.join(shown(one) for one in found[:8])}", hint="say it by id")
    return found[0]


# ---- devices ---------------------------------------------------------------------------------------------------


def add_device(
    book: Book, asked: NewDevice, allowed: Allowed, now_ms: int, draft: Draft | None = None
) -> tuple[Draft, DeviceRecord]:
    """`draft`: of which it becomes a part."""
    sentry = asic_sentry(book, asked.sentry)
    address = checked_address(asked.address, allowed.networks)
    for other in _called(book, address):
        if other.sentry_id == sentry.id and other.watched_address == address:
            raise Conflict(f"{sentry.name} watches {address} already, as device {other.id} ({other.name})")
    name = _free_name(book, asked.name) if asked.name else ""
    if asked.make:
        checked_tag(asked.make)
    draft = book.draft() if draft is None else draft
    number = draft.number("device")
    record = DeviceRecord(
        id=number,
        identity=None,
        sentry_id=sentry.id,
        kind="asic",
        name=name or address,
        added_ms=now_ms,
        named=bool(name),
        watched_address=address,
        make_hint=asked.make.strip().lower(),
        http_port=asked.http_port,
        expected_hashrate_hs=_positive(asked.expected_hashrate_hs),
        sealed=book.seal(_whole(asked.credentials), sealed_as_device(number)) if asked.credentials else None,
        simulated=asked.simulated,
        site=sentry.site,
    )
    draft.put_device(record)
    draft.drop_found((sentry.id, address))
    return draft, record


def asic_sentry(book: Book, text: str) -> SentryRecord:
    """The sentry that is to watch an ASIC."""
    sentry = find_sentry(book, text)
    if sentry.standing != "approved":
        raise Conflict(f"sentry {sentry.name} is {sentry.standing}", hint="approve it first, or name another")
    if sentry.kind != "asic":
        raise BadInput(f"{sentry.name} is a {sentry.kind} sentry: it watches its own machine only", hint="name an ASIC sentry")
    return sentry


def change_device(
    book: Book, device_id: int, asked: DeviceChange, allowed: Allowed, draft: Draft | None = None
) -> tuple[Draft, DeviceRecord]:
    """`draft`: of which it becomes a part."""
    before = book.devices[device_id]
    record = before
    if asked.name is not None:
        record = replace(record, name=_free_name(book, asked.name, but=before), named=True)
    tags = {*before.tags, *(checked_tag(one) for one in asked.add_tags)} - {one.strip().lower() for one in asked.remove_tags}
    if len(tags) > MOST_TAGS:
        raise BadInput(f"{len(tags)} tags are too many", hint=f"up to {MOST_TAGS}")
    record = replace(record, tags=tuple(sorted(tags)))
    if asked.maintenance is not None:
        record = replace(record, maintenance=asked.maintenance)
    if asked.address is not None:
        record = replace(record, watched_address=_new_address(book, before, asked.address, allowed), left=False)
    if asked.credentials is not None:
        if not record.watched_address:
            raise Conflict(f"{record.name} is not watched over the network: it needs no password")
        record = replace(record, sealed=book.seal(_whole(asked.credentials), sealed_as_device(record.id)))
    if asked.expected_hashrate_hs is not None:
        record = replace(record, expected_hashrate_hs=_positive(asked.expected_hashrate_hs))
    record = replace(
        record,
        site=_place(asked.site, before.site, "site"),
        rack=_place(asked.rack, before.rack, "rack"),
        position=_place(asked.position, before.position, "position"),
        notes=before.notes if asked.notes is None else _notes(asked.notes),
    )
    draft = book.draft() if draft is None else draft
    draft.put_device(record)
    if record.watched_address != before.watched_address:
        draft.drop_found((record.sentry_id, record.watched_address))
    return draft, record


def _new_address(book: Book, before: DeviceRecord, text: str, allowed: Allowed) -> str:
    if before.kind != "asic":
        raise Conflict(f"{before.name} is a {before.kind}: it has no address to be watched at")
    address = checked_address(text, allowed.networks)
    for other in _called(book, address):
        if other.id != before.id and other.sentry_id == before.sentry_id and other.watched_address == address:
            raise Conflict(f"{address} is watched already, as device {other.id} ({other.name})")
    return address


def remove_device(book: Book, device_id: int, *, sentry_live: bool) -> Draft:
    """Its history and its events stay. What a live sentry reports by itself would only come back: Conflict."""
    record = book.devices[device_id]
    if record.kind == "relay":
        raise Conflict(f"{record.name} is a relay board", hint="`commander relays remove` removes it")
    fed = sorted(book.feeds.get(device_id, ()))
    if fed:
        board, outlet = fed[0]
        raise Conflict(
            f"outlet {outlet} of {book.boards[board].name} feeds {record.name}",
            hint=f"`commander relays unmap {board} {outlet}` first",
        )
    if not record.watched_address and not record.left and sentry_live:
        raise Conflict(f"{record.name} is reported by its own sentry and would come back", hint="revoke the sentry instead")
    draft = book.draft()
    draft.drop_device(device_id)
    return draft


# ---- relays ----------------------------------------------------------------------------------------------------


def add_board(book: Book, asked: NewBoard, allowed: Allowed, now_ms: int) -> tuple[Draft, BoardRecord]:
    sentry = find_sentry(book, asked.sentry)
    if sentry.standing != "approved":
        raise Conflict(f"sentry {sentry.name} is {sentry.standing}", hint="approve it first, or name another")
    if sentry.kind != "asic":
        raise BadInput(f"{sentry.name} is a {sentry.kind} sentry: it drives no relays", hint="name an ASIC sentry")
    if asked.kind not in allowed.board_kinds:
        raise BadInput(f"no kind of board {asked.kind[:40]!r}", hint=f"one of {', '.join(sorted(allowed.board_kinds))}")
    if not 1 <= asked.outlets <= MOST_OUTLETS:
        raise BadInput(f"a board has 1 to {MOST_OUTLETS} outlets, not {asked.outlets}")
    name = checked_name(asked.name)
    address = checked_address(asked.address, allowed.networks)
    for other in book.boards.values():
        if other.name.casefold() == name.casefold():
            raise Conflict(f"there is a board {name!r} already, {other.id}")
        # One queue a board: two that drive the same one would work against one another. Modbus units differ by an option.
        if same_place(other.address, address) and other.kind == asked.kind and dict(other.options) == dict(asked.options):
            raise Conflict(f"board {other.id} ({other.name}) at {other.address} is the same one")
    if len(asked.options) > 20 or any(len(key) > 40 or len(value) > 200 for key, value in asked.options.items()):
        raise BadInput("too many or too long options for a board")
    draft = book.draft()
    board_id = f"b{draft.number('board')}"
    board = BoardRecord(
        id=board_id,
        name=name,
        sentry_id=sentry.id,
        kind=asked.kind,
        address=address,
        outlets=asked.outlets,
        added_ms=now_ms,
        simulated=asked.simulated,
        sealed=book.seal(_whole(asked.credentials), sealed_as_board(board_id)) if asked.credentials else None,
        options=dict(asked.options),
    )
    draft.put_board(board)
    draft.put_device(
        DeviceRecord(
            id=draft.number("device"),
            identity=f"relay:{board_id}",
            sentry_id=sentry.id,
            kind="relay",
            name=name,
            added_ms=now_ms,
            named=True,
            make_hint=asked.kind,
            simulated=asked.simulated,
            site=sentry.site,
        )
    )
    return draft, board


def remove_board(book: Book, board: BoardRecord) -> Draft:
    draft = book.draft()
    draft.drop_board(board.id)
    known = book.by_identity.get(f"relay:{board.id}")
    if known is not None:
        draft.drop_device(known)
    return draft


def map_outlet(
    book: Book, board: BoardRecord, outlet: str, device: DeviceRecord | None, circuit: str, protected: bool
) -> tuple[Draft, OutletRecord]:
    """One device has one outlet: a miner with two would be half on after a cycle of one."""
    number = outlet_number(board, outlet)
    if device is not None:
        if device.kind == "relay":
            raise BadInput(f"{device.name} is a relay board itself", hint="mark the outlet protected instead")
        others = [key for key in book.feeds.get(device.id, ()) if key != (board.id, number)]
        if others:
            there, which = others[0]
            raise Conflict(
                f"{device.name} is fed by outlet {which} of {book.boards[there].name} already",
                hint=f"`commander relays unmap {there} {which}` first",
            )
    known = book.outlets.get((board.id, number))
    if known is not None and known.device_id is not None and device is not None and known.device_id != device.id:
        raise Conflict(
            f"outlet {number} of {board.name} feeds {book.devices[known.device_id].name} already",
            hint=f"`commander relays unmap {board.id} {number}` first",
        )
    if device is None and not protected:
        raise BadInput("an outlet feeds a device, or is protected, or both", hint="`relays unmap` forgets what it feeds")
    record = OutletRecord(
        board.id,
        number,
        None if device is None else device.id,
        checked_name(circuit, "circuit") if circuit.strip() else "",
        protected,
    )
    draft = book.draft()
    draft.put_outlet(record)
    return draft, record


def unmap_outlet(book: Book, board: BoardRecord, outlet: str) -> Draft:
    number = outlet_number(board, outlet)
    if (board.id, number) not in book.outlets:
        raise NotFound(f"outlet {number} of {board.name} is not mapped")
    draft = book.draft()
    draft.drop_outlet((board.id, number))
    return draft


def outlet_number(board: BoardRecord, outlet: str) -> str:
    """ "7" for "7" and "07"; BadInput for what this board has not."""
    given = outlet.strip()
    if not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= board.outlets):
        raise BadInput(f"no outlet {outlet[:20]!r} on {board.name}", hint=f"it has 1 to {board.outlets}")
    return str(int(given))


def rename_sentry(book: Book, sentry: SentryRecord, name: str) -> tuple[Draft, SentryRecord]:
    wanted = checked_name(name)
    for other in book.sentries.values():
        if other.id != sentry.id and other.name.casefold() == wanted.casefold():
            raise Conflict(f"there is a sentry {wanted!r} already")
    draft = book.draft()
    record = replace(sentry, name=wanted)
    draft.put_sentry(record)
    return draft, record


def _free_name(book: Book, text: str, *, but: DeviceRecord | None = None) -> str:
    name = checked_name(text)
    if name.isdecimal():
        raise BadInput(f"{name!r} looks like an id", hint="a name has a letter in it")
    if (but is None or but.name.casefold() != name.casefold()) and name.casefold() in book.names:
        raise Conflict(f"there is a device {name!r} already")
    return name


def _place(text: str | None, before: str, what: str) -> str:
    if text is None:
        return before
    return checked_name(text, what) if text.strip() else ""


def _called(book: Book, address: str) -> list[DeviceRecord]:
    return [book.devices[one] for one in sorted(book.references.get(address, ()))]


def _notes(text: str) -> str:
    """Up to 2,000 characters, of several lines."""
    given = text.replace("\r\n", "\n").strip()
    if len(given) > MOST_NOTES or any(unicodedata.category(one)[0] == "C" and one != "\n" for one in given):
        raise BadInput("notes are too long, or have control characters in them", hint=f"up to {MOST_NOTES:,} characters")
    return given


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1e21:
        raise BadInput(f"{value} H/s is no hashrate")
    return value


def _whole(credentials: Credentials) -> Credentials:
    for text in (credentials.username, credentials.password):
        if len(text) > 200 or any(ord(one) < 32 or ord(one) == 127 for one in text):
            raise BadInput("a username or password is too long, or has control characters in it")
    return credentials
