"""What the scans of sentries found, brought into the book: *found* until somebody, or a rule, adopts it; what moved is followed.

Each function raises BadInput, NotFound or Conflict before it changes anything. The service commits the drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from commander.fleet.book import Book, Draft
from commander.fleet.edits import Allowed, NewDevice, add_device, find_sentry
from commander.fleet.found_rules import KEPT_MS, KIND, PREFIX, SAME_ROUND, Near, Rule, Twin, adopts, answers, follows, twins
from commander.fleet.records import DeviceRecord, EventRecord, FoundRecord
from commander.fleet.roster import MOST_DEVICES, made_name
from commander.fleet.rules import same_place, unique_name
from garrison.faults import BadInput, Conflict, Fault, NotFound
from garrison.model import Credentials, Device

MOST_FOUND = 10_000
"""Of one sentry."""


@dataclass(frozen=True, slots=True)
class FoundFilter:
    """Empty: any. `dismissed`: those that were sent away, too."""

    sentry: str = ""
    make: str = ""
    range: str = ""
    dismissed: bool = False


class Finds:
    """Takes what a sentry found. `rules`: what is adopted without asking anybody."""

    def __init__(self, book: Book, rules: Sequence[Rule], allowed: Allowed) -> None:
        self._book, self._rules, self._allowed = book, rules, allowed

    def take(self, draft: Draft, sentry_id: str, entries: Sequence[Device], gone: Sequence[str], now_ms: int) -> None:
        book, sentry = self._book, self._book.sentries.get(sentry_id)
        if sentry is None or sentry.kind != "asic":
            return
        mine = {record.address: record for record in book.found.values() if record.sentry_id == sentry_id}
        for record in mine.values():
            lost = f"{PREFIX}{record.address}" in gone or now_ms - record.seen_ms > KEPT_MS
            if lost and not record.dismissed:
                draft.drop_found(record.key)
        fresh = []
        for entry in entries:
            if entry.kind != KIND or entry.identity != f"{PREFIX}{entry.address}" or not entry.address:
                continue
            if any(_watches(device, sentry_id, entry.address) for device in _at(book, entry.address)):
                draft.drop_found((sentry_id, entry.address))  # it has not heard yet that it is to watch this
                continue
            if entry.address in mine or len(mine) < MOST_FOUND:
                record, new = self._take(draft, sentry_id, entry, now_ms)
                mine[entry.address] = record
                fresh.append((record, new))
        for record, new in fresh:  # judged when all are in the book: one may be the twin of the next
            self._judge(draft, record, new, now_ms)

    def heard(self, draft: Draft, device: DeviceRecord, now_ms: int) -> None:
        """A watched device has a new state: what is not heard any more may have been found elsewhere already."""
        if device.identity is None or answers(device):
            return
        for key in sorted(self._book.found_named.get(device.identity, ())):
            if key in self._book.found and self._follow(draft, self._book.found[key], now_ms):
                return

    def _take(self, draft: Draft, sentry_id: str, entry: Device, now_ms: int) -> tuple[FoundRecord, bool]:
        """And whether it is new."""
        book = self._book
        before = book.found.get((sentry_id, entry.address))
        record, new = FoundRecord(sentry_id, entry.address, entry, now_ms, now_ms), True
        if before is not None and before.identity == record.identity:
            new, record = False, replace(before, seen=entry, seen_ms=now_ms)
        moved = SAME_ROUND not in {condition.code for condition in entry.conditions}
        for key in sorted(book.found_named.get(record.identity, ())) if record.identity and moved else ():
            if key[0] == sentry_id and key[1] != entry.address:  # the same device, at another address before
                new, past = False, book.found[key]
                record = replace(record, first_ms=past.first_ms, dismissed=past.dismissed)
                draft.drop_found(key)
        draft.put_found(record)
        return record, new

    def _judge(self, draft: Draft, record: FoundRecord, new: bool, now_ms: int) -> None:
        book = self._book
        if record.key not in book.found or self._follow(draft, record, now_ms):
            return
        doubles = twins(record, near(book, record))
        unknown = record.identity not in book.by_identity
        if unknown and adopts(self._rules, record, doubles) and self._adopted_by_rule(draft, record, now_ms):
            return
        sentry = book.sentries[record.sentry_id]
        if new and not record.dismissed:
            text = f"{sentry.name} found {_shown(record)}"
            draft.event(EventRecord(now_ms, "device_found", text, "info", record.sentry_id, None, record.identity))
        # A device that moved a moment ago is heard at its old address in the book: told when the next round says the same.
        sure = [one for one in doubles if not record.dismissed and (one.device_id is None or not new)]
        for double in sure:
            if double.text not in record.told:
                text = f"{_shown(record)}, which {sentry.name} found, is there twice: {double.text}"
                event = EventRecord(now_ms, "device_duplicate", text, "warning", sentry.id, double.device_id, record.identity)
                draft.event(replace(event, detail={"what": double.what, "address": record.address}))
        told = tuple(one.text for one in sure)
        if told != record.told:
            draft.put_found(replace(record, told=told))

    def _follow(self, draft: Draft, record: FoundRecord, now_ms: int) -> bool:
        """By MAC it is a device that is watched elsewhere and not heard there: it is watched here from now on."""
        book = self._book
        known = book.devices.get(book.by_identity.get(record.identity, 0))
        if known is None or not follows(record, known):
            return False
        text = f"{known.name} was found at {record.address}; it was at {known.watched_address or 'no known address'}"
        http_port = _http_port(record) or known.http_port
        draft.put_device(replace(known, watched_address=record.address, http_port=http_port, left=False))
        draft.drop_found(record.key)
        draft.event(EventRecord(now_ms, "device_moved", text, "warning", record.sentry_id, known.id, record.identity))
        return True

    def _adopted_by_rule(self, draft: Draft, record: FoundRecord, now_ms: int) -> bool:
        if len(self._book.of_sentry[record.sentry_id]) >= MOST_DEVICES:
            return False
        try:
            device = adopt(self._book, draft, record, "", None, self._allowed, now_ms)
        except Fault:
            return False  # such as outside the farm's networks; a person who adopts it is told why
        text = f"{device.name} was found at {record.address} and adopted by a rule"
        draft.event(EventRecord(now_ms, "device_adopted", text, "info", record.sentry_id, device.id, record.identity))
        return True


def near(book: Book, record: FoundRecord) -> Near:
    """What may be the same as this one."""
    serial = record.seen.serial.casefold()
    ids = {book.by_identity[record.identity]} if record.identity in book.by_identity else set()
    ids |= book.references.get(serial, set()) if serial else set()
    ids |= {device.id for device in _at(book, record.address) if _same_site(book, device.sentry_id, record.sentry_id)}
    keys = book.found_named.get(record.identity, set()) | book.found_named.get(f"serial {serial}", set())
    return Near([book.devices[one] for one in sorted(ids)], [book.found[key] for key in sorted(keys)])


def doubles_of(book: Book, record: FoundRecord) -> tuple[Twin, ...]:
    return twins(record, near(book, record))


def listed(book: Book, wanted: FoundFilter) -> list[FoundRecord]:
    """By sentry and address. NotFound: no such sentry."""
    sentry = find_sentry(book, wanted.sentry).id if wanted.sentry else ""
    return [
        record
        for key, record in sorted(book.found.items())
        if (not sentry or record.sentry_id == sentry)
        and (not wanted.make or record.seen.make == wanted.make.strip().lower())
        and (not wanted.range or record.range == wanted.range)
        and (wanted.dismissed or not record.dismissed)
    ]


def find_found(book: Book, text: str, sentry: str = "") -> FoundRecord:
    """By address, with or without its port, MAC or serial. NotFound; BadInput when several fit."""
    given = text.strip().casefold()
    fitting = [
        record
        for record in listed(book, FoundFilter(sentry, dismissed=True))
        if given in (record.address, record.address.partition(":")[0], record.seen.serial.casefold(), record.identity)
        or (record.seen.mac and given.replace("-", ":") == record.seen.mac)
    ]
    if not fitting or not given:
        raise NotFound(f"nothing was found at {text[:80]!r}", hint="`commander devices found` shows what was")
    if len(fitting) > 1:
        shown = ", ".join(f"{one.address} ({book.sentries[one.sentry_id].name})" for one in fitting[:8])
        raise BadInput(f"{text[:80]!r} fits {len(fitting)}: {shown}", hint="say it by address, and with --sentry")
    return fitting[0]


def adopt(
    book: Book, draft: Draft, record: FoundRecord, name: str, credentials: Credentials | None, allowed: Allowed, now_ms: int
) -> DeviceRecord:
    """Has it watched from now on; what is known already is not made a second time."""
    known = book.devices.get(book.by_identity.get(record.identity, 0))
    if known is not None and (answers(known) or known.sentry_id == record.sentry_id):
        what = "MAC" if record.seen.mac else "serial"
        raise Conflict(
            f"{record.address} is device {known.id} ({known.name}), or says so: it has its {what}",
            hint="`commander devices found` shows what is there twice",
        )
    asked = NewDevice(record.address, record.sentry_id, name, "", credentials, _http_port(record), simulated=record.seen.simulated)
    _, device = add_device(book, asked, allowed, now_ms, draft)
    if not name and record.seen.make:
        device = replace(device, name=unique_name(made_name(record.seen), book.names))
    if known is None and record.identity:
        device = replace(device, identity=record.identity)  # so that no second sentry's find becomes a second device
    draft.put_device(device)
    draft.drop_found(record.key)
    return device


def dismissed_as(device: DeviceRecord, now_ms: int) -> FoundRecord | None:
    """A device that a person removed is not to come back by itself; None: nobody would know it again."""
    seen = device.seen
    if device.kind != "asic" or device.identity is None or seen is None or not device.watched_address:
        return None
    entry = replace(seen, identity=f"{PREFIX}{device.watched_address}", kind=KIND, address=device.watched_address, target="")
    return FoundRecord(device.sentry_id, device.watched_address, entry, now_ms, now_ms, dismissed=True)


def found_json(book: Book, record: FoundRecord) -> dict[str, Any]:
    seen, sentry = record.seen, book.sentries.get(record.sentry_id)
    known = book.devices.get(book.by_identity.get(record.identity, 0))
    return {
        "address": record.address,
        "make": seen.make or None,
        "model": seen.model or None,
        "firmware": seen.firmware or None,
        "mac": seen.mac or None,
        "serial": seen.serial or None,
        "range": record.range or None,
        "sentry": sentry.name if sentry else record.sentry_id,
        "state": "dismissed" if record.dismissed else "found",
        "known": {"id": known.id, "name": known.name} if known is not None else None,
        "error": seen.fault_text or None,
        "duplicates": [
            {"what": one.what, "text": one.text, "device_id": one.device_id} for one in twins(record, near(book, record))
        ],
        "first_ms": record.first_ms,
        "seen_ms": record.seen_ms,
    }


def _at(book: Book, address: str) -> list[DeviceRecord]:
    ids = book.references.get(address, set()) | book.references.get(address.partition(":")[0], set())
    return [book.devices[one] for one in sorted(ids)]


def _same_site(book: Book, one: str, other: str) -> bool:
    """Halls of different sites may use the same private addresses."""
    sites = [book.sentries[sentry_id].site for sentry_id in (one, other) if sentry_id in book.sentries]
    return len(set(sites)) < 2


def _watches(device: DeviceRecord, sentry_id: str, address: str) -> bool:
    watched = device.watched_address
    return device.sentry_id == sentry_id and bool(watched) and same_place(watched, address)


def _http_port(record: FoundRecord) -> int:
    port = record.seen.facts.get("http_port", "")
    return int(port) if port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65_536 else 0


def _shown(record: FoundRecord) -> str:
    seen = record.seen
    return " ".join(word for word in (seen.make, seen.model, seen.mac or seen.serial) if word) + f" at {record.address}"
