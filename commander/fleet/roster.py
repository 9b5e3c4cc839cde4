"""What a sentry reports of its devices, brought into the book: new ones, moved ones, and those that are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from commander.fleet.book import Book, Draft
from commander.fleet.found_rules import says_serial
from commander.fleet.records import DeviceRecord, EventRecord
from commander.fleet.rules import (
    NO_ANSWER,
    PLACEHOLDER,
    Resolution,
    Verdict,
    plain_mac,
    resolve,
    sealed_as_device,
    told_name,
    unique_name,
)
from garrison.model import Device

MOST_DEVICES = 10_000
"""Of one sentry. A sentry that reports more is lying or broken."""


class Roster:
    """Takes rosters for the service. `stream_open` says whether a sentry is connected right now."""

    def __init__(self, book: Book, stream_open: Callable[[str], bool]) -> None:
        self._book = book
        self._stream_open = stream_open
        self._twice: set[tuple[int, int]] = set()  # devices with one serial, told already
        self._told: set[tuple[str, str]] = set()  # conflicts that stand in the events already: (identity, sentry)

    def take(self, sentry_id: str, whole: bool, devices: Sequence[Device], gone: Sequence[str], now_ms: int) -> Draft:
        """`whole`: what is not in it is gone. The draft is for the service to commit."""
        draft = self._book.draft()
        for entry in devices:
            self._take(draft, sentry_id, entry, now_ms)
        if not whole and not gone:
            return draft
        here = {entry.identity for entry in devices} | {f"{PLACEHOLDER}{entry.target}" for entry in devices if entry.target}
        for device_id in list(self._book.of_sentry[sentry_id]):
            record = self._book.devices[device_id]
            names = {record.identity, f"{PLACEHOLDER}{record.id}"} - {None}
            missing = whole and not names & here
            # A target that was just added is not in the roster of a sentry that has not heard of it yet.
            if not record.left and record.seen is not None and (missing or names & set(gone)) and not names & here:
                draft.put_device(replace(record, left=True))
        return draft

    def _take(self, draft: Draft, sentry_id: str, entry: Device, now_ms: int) -> None:
        book = self._book
        known = book.by_identity.get(entry.identity)
        by_identity = book.devices[known] if known is not None else None
        target = book.devices.get(int(entry.target)) if entry.target.isascii() and entry.target.isdecimal() else None
        if entry.identity.startswith(PLACEHOLDER) and target is None:
            number = entry.identity.removeprefix(PLACEHOLDER)
            target = book.devices.get(int(number)) if number.isascii() and number.isdecimal() else None
        if target is not None and target.sentry_id != sentry_id:
            target = None
        found = resolve(entry, sentry_id, by_identity, target, rival_sees_it=self._rival_sees(by_identity, sentry_id))
        match found.verdict:
            case Verdict.IGNORE:
                pass
            case Verdict.NEW:
                self._add(draft, sentry_id, entry, now_ms)
            case Verdict.CONFLICT:
                self._conflict(draft, sentry_id, entry, found, now_ms)
            case Verdict.REPLACE:
                self._replace(draft, sentry_id, entry, found, now_ms)
            case _:
                self._update(draft, sentry_id, entry, found, now_ms)

    def _rival_sees(self, record: DeviceRecord | None, sentry_id: str) -> bool:
        if record is None or record.sentry_id == sentry_id or not self._stream_open(record.sentry_id):
            return False
        return not record.left and record.seen is not None and record.seen.state not in NO_ANSWER

    def _add(self, draft: Draft, sentry_id: str, entry: Device, now_ms: int) -> None:
        if entry.kind == "relay":
            return  # of a board that was removed; boards get their device when a person adds them
        if len(self._book.of_sentry[sentry_id]) >= MOST_DEVICES:
            self._tell_once(
                draft, sentry_id, "", now_ms, "device_limit", f"reports more than {MOST_DEVICES} devices: the rest is ignored"
            )
            return
        record = DeviceRecord(
            id=draft.number("device"),
            identity=entry.identity,
            sentry_id=sentry_id,
            kind=entry.kind,
            name=self._name_for(told_name(entry.name or entry.facts.get("hostname", ""), entry.kind)),
            added_ms=now_ms,
            simulated=entry.simulated,
            seen=entry,
        )
        draft.put_device(record)
        self._event(draft, record, now_ms, "device_found", f"{record.name} was found")

    def _replace(self, draft: Draft, sentry_id: str, entry: Device, found: Resolution, now_ms: int) -> None:
        """A stranger at a known device's address: it gets the target, and the other stays as a device nobody watches."""
        other = self._book.devices[found.other or 0]
        fresh = DeviceRecord(
            id=draft.number("device"),
            identity=entry.identity,
            sentry_id=sentry_id,
            kind=entry.kind,
            name=self._name_for(made_name(entry)),
            added_ms=now_ms,
            watched_address=other.watched_address,
            make_hint=other.make_hint,
            http_port=other.http_port,
            simulated=other.simulated,
            site=other.site,
            seen=entry,
        )
        draft.put_device(replace(fresh, sealed=self._resealed(other, fresh.id)))
        draft.put_device(replace(other, watched_address="", left=True))
        text = f"{fresh.name} answers at {other.watched_address}, where {other.name} was: check which outlet feeds which"
        self._event(draft, fresh, now_ms, "device_replaced", text, "warning")

    def _update(self, draft: Draft, sentry_id: str, entry: Device, found: Resolution, now_ms: int) -> None:
        book = self._book
        record = book.devices[found.row or 0]
        before, past_serial = record.sentry_id, record.seen.serial if record.seen else ""
        record = replace(record, seen=_kept(record, entry), left=False, sentry_id=sentry_id)
        if found.moved:
            # Its address and credentials were for the other sentry; this one gets only what a person gave it here.
            record = replace(record, watched_address="", sealed=None, make_hint="", http_port=0)
        if found.verdict is Verdict.ADOPT:
            name = record.name if record.named else self._name_for(made_name(entry), but=record)
            record = replace(record, identity=entry.identity, kind=entry.kind, name=name)
        elif found.verdict is Verdict.TAKE_OVER:
            record = self._take_over(draft, record, book.devices[found.other or 0])
        elif found.verdict is Verdict.SWAP:
            other = book.devices[found.other or 0]
            moved_to, record = other.watched_address, replace(record, watched_address=other.watched_address)
            draft.put_device(
                replace(other, watched_address=book.devices[record.id].watched_address if not found.moved else "", left=True)
            )
            text = f"{record.name} now answers at {moved_to}, where {other.name} was"
            self._event(draft, record, now_ms, "device_moved", text, "warning")
        draft.put_device(record)
        if entry.serial != past_serial:
            self._same_serial(draft, record, now_ms)
        if found.verdict is Verdict.ADOPT:
            self._event(draft, record, now_ms, "device_found", f"{record.name} was identified")
        elif found.moved:
            past = book.sentries[before].name if before in book.sentries else before
            self._event(
                draft, record, now_ms, "device_moved", f"{record.name} is now seen by another sentry than {past}", "warning"
            )
        elif found.verdict is Verdict.TAKE_OVER:
            self._event(draft, record, now_ms, "device_moved", f"{record.name} now answers at {record.watched_address}")
        self._told.discard((entry.identity, sentry_id))

    def _take_over(self, draft: Draft, record: DeviceRecord, placeholder: DeviceRecord) -> DeviceRecord:
        """The known row gets what the placeholder was given; the placeholder goes."""
        book = self._book
        outlets = sorted(book.feeds.get(placeholder.id, ()))
        fed = bool(book.feeds.get(record.id))
        named = placeholder.named and not record.named
        taken = replace(
            record,
            watched_address=placeholder.watched_address,
            make_hint=placeholder.make_hint,
            http_port=placeholder.http_port,
            simulated=placeholder.simulated,
            sealed=self._resealed(placeholder, record.id) or record.sealed,
            expected_hashrate_hs=placeholder.expected_hashrate_hs or record.expected_hashrate_hs,
            name=placeholder.name if named else record.name,
            named=record.named or named,
            tags=tuple(sorted({*record.tags, *placeholder.tags})),
        )
        if not fed:
            for key in outlets:
                draft.put_outlet(replace(book.outlets[key], device_id=record.id))
        draft.drop_device(placeholder.id)
        return taken

    def _same_serial(self, draft: Draft, record: DeviceRecord, now_ms: int) -> None:
        """Two devices that say one serial: a swapped control board, or firmware copied from one to the other."""
        serial = record.seen.serial if record.seen is not None else ""
        for other_id in sorted(self._book.references.get(serial.casefold(), ())) if says_serial(serial) else ():
            other, pair = self._book.devices[other_id], (min(other_id, record.id), max(other_id, record.id))
            if other_id == record.id or other.seen is None or other.seen.serial != serial or pair in self._twice:
                continue
            self._twice.add(pair)
            text = f"{record.name} and {other.name} both say that their serial is {serial}"
            self._event(draft, record, now_ms, "device_duplicate", text, "warning")

    def _conflict(self, draft: Draft, sentry_id: str, entry: Device, found: Resolution, now_ms: int) -> None:
        """The row stays with the sentry that has it; here at most the target's own row shows what it found."""
        book = self._book
        record = book.devices[found.row or 0]
        if found.other is not None:
            target = book.devices[found.other]
            if target.identity is None:
                draft.put_device(replace(target, seen=replace(entry, identity=f"{PLACEHOLDER}{target.id}"), left=False))
        holder = book.sentries[record.sentry_id].name if record.sentry_id in book.sentries else record.sentry_id
        text = f"also reports {record.name} ({entry.identity}), which {holder} watches: a cloned disk, or one device in two lists"
        self._tell_once(draft, sentry_id, entry.identity, now_ms, "device_conflict", text, record.id)

    def _tell_once(
        self, draft: Draft, sentry_id: str, identity: str, now_ms: int, kind: str, text: str, device_id: int | None = None
    ) -> None:
        if (identity, sentry_id) in self._told:
            return
        self._told.add((identity, sentry_id))
        sentry = self._book.sentries.get(sentry_id)
        draft.event(
            EventRecord(now_ms, kind, f"{sentry.name if sentry else sentry_id} {text}", "warning", sentry_id, device_id, identity)
        )

    def _event(self, draft: Draft, record: DeviceRecord, now_ms: int, kind: str, text: str, severity: str = "info") -> None:
        draft.event(EventRecord(now_ms, kind, text, severity, record.sentry_id, record.id, record.identity or ""))

    def _name_for(self, wanted: str, *, but: DeviceRecord | None = None) -> str:
        if but is not None and wanted.casefold() == but.name.casefold():
            return wanted
        return unique_name(wanted, self._book.names)

    def _resealed(self, record: DeviceRecord, device_id: int) -> bytes | None:
        if record.sealed is None:
            return None
        return self._book.seal(self._book.credentials(record.sealed, sealed_as_device(record.id)), sealed_as_device(device_id))


def made_name(entry: Device) -> str:
    """ "antminer-3c4d5e": short, and the same wherever it is plugged in."""
    mac = plain_mac(entry.mac) or ""
    tail = mac.replace(":", "")[-6:] or entry.serial[-6:] or entry.identity[-6:]
    return told_name(f"{entry.make or entry.kind}-{tail}", entry.kind)


def _kept(record: DeviceRecord, entry: Device) -> Device:
    """An ASIC that does not answer cannot say what it is: what it said before still holds."""
    past = record.seen
    if past is None or entry.kind != "asic" or entry.model:
        return entry
    return replace(
        entry,
        make=entry.make or past.make,
        model=past.model,
        firmware=entry.firmware or past.firmware,
        mac=entry.mac or past.mac,
        serial=entry.serial or past.serial,
        capabilities=entry.capabilities or past.capabilities,
        components=entry.components or past.components,
        facts=entry.facts or past.facts,
        sheet_id=entry.sheet_id or past.sheet_id,
        seen_ms=entry.seen_ms or past.seen_ms,
    )
