"""The fleet as the rest of the commander sees it: sentries, devices, boards, outlets, events.

Called by: the link (connected, disconnected, take_roster, take_event, assignment, records_durable, machines), the HTTP API
(people's changes), the other subjects (device, outlets, set_wanted_sheet), access (add_sentry, change_sentry).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Protocol

from commander.db import Database
from commander.fleet import edits, found, inventory, machines, marks, store
from commander.fleet.audit import record as audited
from commander.fleet.book import Also, Book, Draft, Vault
from commander.fleet.edits import Allowed, DeviceChange, NewBoard, NewDevice
from commander.fleet.found import Finds, FoundFilter
from commander.fleet.found_rules import PREFIX, Rule
from commander.fleet.records import DeviceRecord, EventRecord, FoundRecord, MachineRecord, OutletRecord, SentryRecord
from commander.fleet.roster import Roster
from commander.fleet.rows import differences, haystack, shown_board, shown_device, shown_sentry
from commander.fleet.rules import MINING_KINDS, PRIVATE, groups_of, judge_device, judge_sentry, told_facts, unique_name
from commander.model import BoardRow, Caller, DeviceRow, OutletRow, Sentry
from garrison.clock import Clock
from garrison.faults import Fault, NotFound
from garrison.frame import Number, Series, device_key
from garrison.model import Assignment, Credentials, Device, Event, PowerLimits, SentryHello
from garrison.spans import Spans
from garrison.words import POWER_STATE_CODES, DeviceState, PowerState, SentryState

log = logging.getLogger(__name__)
POWER_STATES = {code: state for state, code in POWER_STATE_CODES.items()}
GROUPS_AT_ONCE = 500
OUTLET_FRESH_MS = 120_000
"""An outlet's state that is older says nothing about now."""


class Latest(Protocol):
    """The newest look at one device, from telemetry."""

    @property
    def at_ms(self) -> int: ...

    @property
    def values(self) -> Mapping[Series, Number]: ...


@dataclass(frozen=True, slots=True)
class FleetSettings:
    board_kinds: frozenset[str] = frozenset({"tasmota", "modbus", "fake"})
    networks: tuple[IPv4Network | IPv6Network, ...] = PRIVATE
    poll_every_ms: int = 10_000
    power: PowerLimits = field(default_factory=PowerLimits)
    silent_after_ms: int = 30_000
    window_ms: int = 20_000
    adopt: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """Empty or None: any. `text`: anywhere in name, address, MAC, serial or identity."""

    sentry_id: str | None = None
    kind: str | None = None
    state: str | None = None
    tag: str | None = None
    text: str = ""


@dataclass(slots=True)
class _Line:
    """What we know of a sentry's stream, in memory only. Times on the monotonic clock."""

    streams: int = 0
    quiet_since_ms: int = 0
    backlog_ms: int | None = None
    twin: str = ""
    judged: SentryState | None = None


class LatestOf(Protocol):
    def __call__(self, keys: Iterable[int], metrics: Collection[str] | None = None, /) -> Mapping[int, Latest]:
        """The newest look at each of these devices; `metrics`: only these."""
        ...


def no_samples(_: Iterable[int], __: Collection[str] | None = None, /) -> Mapping[int, Latest]:
    return {}


@dataclass(slots=True)
class Fleet:
    """Open with `Fleet.open`. `latest` is telemetry's, set by main: without it no outlet is known to be off."""

    db: Database
    clock: Clock
    settings: FleetSettings
    book: Book
    latest: LatestOf = no_samples
    _lines: dict[str, _Line] = field(default_factory=dict)
    _seen_ms: dict[str, int] = field(default_factory=dict)
    _rows: dict[int, tuple[DeviceRecord, DeviceRow]] = field(default_factory=dict)
    _started_ms: int = 0
    _roster: Roster = field(init=False)
    _finds: Finds = field(init=False)

    def __post_init__(self) -> None:
        self._started_ms = self.clock.monotonic_ms()
        self._roster = Roster(self.book, self.stream_open)
        self._finds = Finds(self.book, self.settings.adopt, self._allowed())

    @classmethod
    async def open(cls, db: Database, clock: Clock, vault: Vault, settings: FleetSettings | None = None) -> Fleet:
        settings = settings or FleetSettings()
        book = Book(db, clock, vault, settings.poll_every_ms, settings.power)
        await book.load()
        return cls(db, clock, settings, book)

    @property
    def on_assignment_change(self) -> list[Callable[[str], None]]:
        """Called with the sentry's id, once its new assignment is durable."""
        return self.book.on_assignment_change

    async def run(self) -> None:
        """Until cancelled: notices sentries falling silent, keeps when each was seen, bounds the events."""
        rounds = 0
        while True:
            try:
                await self.watch()
                if rounds % 60 == 0:
                    await self.keep_seen()
                if rounds % 3600 == 0:
                    await self._trim()
            except Fault as fault:  # a full disk: memory goes on, and the next round tries again
                log.warning("fleet not written", extra={"fault": fault.code, "text": fault.text})
            rounds += 1
            await self.clock.sleep(1)

    # ---- the link ------------------------------------------------------------------------------------------------

    async def connected(self, sentry_id: str, hello: SentryHello) -> None:
        """A stream has opened. Raises NotFound for a sentry we do not have."""
        sentry = self.sentry_record(sentry_id)
        line = self._line(sentry_id)
        line.streams += 1
        line.backlog_ms = None
        now_ms = self.clock.now_ms()
        self.mark_seen(sentry_id, now_ms)
        told = replace(
            sentry,
            address=hello.address or sentry.address,
            software=hello.software,
            capabilities=tuple(hello.capabilities),
            facts=told_facts(hello.facts),
            frames_dropped=hello.frames_dropped,
            # Re-estimated at each connect; jitter of a second is no reason to write.
            clock_skew_ms=_steady(sentry.clock_skew_ms, hello.wall_ms - now_ms),
            seen_ms=sentry.seen_ms if sentry.seen_ms is not None else now_ms,
        )
        draft = self.book.draft()
        if told != sentry:
            draft.put_sentry(told)
        if sentry.seen_ms is None or line.judged is SentryState.SILENT:
            first = "for the first time" if sentry.seen_ms is None else "again"
            draft.event(EventRecord(now_ms, "sentry_connected", f"{sentry.name} is connected {first}", "info", sentry_id))
        line.judged = SentryState.CONNECTED
        await self.book.commit(draft)

    async def disconnected(self, sentry_id: str, reason: str) -> None:
        line = self._line(sentry_id)
        line.streams = max(0, line.streams - 1)
        if not line.streams:
            line.quiet_since_ms = self.clock.monotonic_ms()
            line.backlog_ms = None
        self.mark_seen(sentry_id, self.clock.now_ms())
        log.info("sentry disconnected", extra={"sentry": sentry_id, "reason": reason})

    def mark_seen(self, sentry_id: str, now_ms: int) -> None:
        """Heard from it; cheap, kept in memory and written once a minute."""
        self._seen_ms[sentry_id] = now_ms

    def mark_lag(self, sentry_id: str, backlog_ms: int | None) -> None:
        """Age of the oldest thing the sentry has not had acked; None: nothing waits."""
        self._line(sentry_id).backlog_ms = backlog_ms

    def stream_open(self, sentry_id: str) -> bool:
        line = self._lines.get(sentry_id)
        return line is not None and line.streams > 0

    async def machines(self) -> dict[str, tuple[MachineRecord, ...]]:
        """Which machines use which sentry's identity."""
        return await self.db.read(machines.kept)

    async def keep_machines(self, sentry_id: str, now: Sequence[MachineRecord]) -> None:
        """Durable when it returns. Raises NotFound for a sentry we do not have."""
        self.sentry_record(sentry_id)
        await self.db.write(lambda c: machines.keep(c, sentry_id, now))

    def mark_twin(self, sentry_id: str, address: str) -> None:
        """Where a second machine with its identity calls from; empty: there is none."""
        self._line(sentry_id).twin = address

    async def take_roster(self, sentry_id: str, whole: bool, devices: Sequence[Device], gone: Sequence[str]) -> None:
        """Durable when it returns. What two sentries report at once stays with the first, and is told as an event."""
        self.sentry_record(sentry_id)
        now_ms = self.clock.now_ms()
        watched = [one for one in devices if not one.identity.startswith(PREFIX)]
        left = [one for one in gone if not one.startswith(PREFIX)]
        draft = self._roster.take(sentry_id, whole, watched, left, now_ms)
        for device in list(draft.changes.devices.values()):
            self._finds.heard(draft, device, now_ms)
        if len(watched) < len(devices) or len(left) < len(gone):
            self._finds.take(draft, sentry_id, devices, gone, now_ms)
        await self.book.commit(draft)

    async def take_event(self, sentry_id: str, boot: bytes, seq: int, event: Event, *, twin: str = "") -> None:
        """Durable when it returns; the same (boot, seq) again changes nothing.

        `twin`: the post of a second machine with the sentry's identity. Its numbers are its own, and its devices are not those
        that we know by these names.
        """
        known = self.book.by_identity.get(event.device) if event.device and not twin else None
        text, kind = event.text[:2_000], event.kind[:100]
        record = EventRecord(event.at_ms, kind, text, event.severity, sentry_id, known, event.device, dict(event.detail))

        def work(c: sqlite3.Connection) -> None:
            if marks.once(c, twin or sentry_id, boot, seq):
                store.add_event(c, record)

        await self.db.write(work)

    async def records_durable(self, post: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Spans]:
        """Of the records a journal still holds ((boot, first, last) each), what had its effect here. `post`: a sentry or a twin."""
        return await self.db.read(lambda c: marks.durable(c, post, held))

    async def assignment(self, sentry_id: str) -> Assignment:
        """What this post should watch and drive; durable, so that a restart never takes back a revision that was sent."""
        sentry = self.sentry_record(sentry_id)
        draft = self.book.draft()
        draft.touched.add(sentry.id)  # settings may have changed since the last one
        await self.book.commit(draft)
        await self.book.settled()
        return self.book.assignment(sentry_id)

    # ---- what there is ---------------------------------------------------------------------------------------------

    async def sentries(self) -> list[Sentry]:
        """All of them, those that wait for approval and those revoked too, by name."""
        found = [self._shown_sentry(one) for one in self.book.sentries.values()]
        return sorted(found, key=lambda one: (one.name.casefold(), one.id))

    async def sentry(self, ref: str) -> Sentry:
        """By id or name. NotFound, BadInput."""
        return self._shown_sentry(edits.find_sentry(self.book, ref))

    def sentry_record(self, sentry_id: str) -> SentryRecord:
        found = self.book.sentries.get(sentry_id)
        if found is None:
            raise NotFound(f"no sentry {sentry_id}", hint="`commander sentries list` shows them")
        return found

    async def devices(self, wanted: DeviceFilter | None = None) -> list[DeviceRow]:
        """By id. States are judged now."""
        wanted = wanted or DeviceFilter()
        text = wanted.text.strip().casefold()
        records = [
            one
            for one in self.book.devices.values()
            if (wanted.sentry_id is None or one.sentry_id == wanted.sentry_id)
            and (wanted.kind is None or one.kind == wanted.kind)
            and (wanted.tag is None or wanted.tag in one.tags)
            and (not text or text in haystack(one))
        ]
        rows = [row for row in self._judged(records) if wanted.state is None or row.state.value == wanted.state]
        return sorted(rows, key=lambda row: row.id)

    async def some(self, ids: Iterable[int]) -> list[DeviceRow]:
        """Those of them that there are."""
        return self._judged([one for id_ in ids if (one := self.book.devices.get(id_)) is not None])

    async def device(self, ref: int | str) -> DeviceRow:
        """By id, name, identity, MAC, serial or address. NotFound; BadInput lists the candidates when several fit."""
        if isinstance(ref, int):
            found = self.book.devices.get(ref)
            if found is None:
                raise NotFound(f"no device {ref}", hint="`commander devices list` shows them")
        else:
            found = edits.find_device(self.book, ref)
        return self._judged([found])[0]

    def named(self, wanted: Mapping[str, str]) -> dict[int, tuple[int, str]]:
        """Key to id and name of the devices that fit `sentry` (id or name), `kind`, `tag` and `text`, as far as these are given.
        Without
        judging states: cheap for ten thousand. NotFound: no such sentry."""
        sentry = edits.find_sentry(self.book, wanted["sentry"]).id if wanted.get("sentry") else None
        kind, tag, text = wanted.get("kind"), wanted.get("tag"), wanted.get("text", "").strip().casefold()
        keys = self.book.keys
        if not any((sentry, kind, tag, text)):
            return dict(self.book.named)
        return {
            keys[one.id]: (one.id, one.name)
            for one in self.book.devices.values()
            if one.id in keys
            and (sentry is None or one.sentry_id == sentry)
            and (not kind or one.kind == kind)
            and (not tag or tag in one.tags)
            and (not text or text in haystack(one))
        }

    async def groups(self, coins: Mapping[str, str]) -> AsyncIterator[tuple[int, tuple[tuple[str, str], ...]]]:
        """Key and groups, as (kind, name), of each device that mines; in pieces, so that the loop goes on. `coins`: of each
        flight sheet."""
        for place, device_id in enumerate(list(self.book.devices)):
            if place % GROUPS_AT_ONCE == 0:
                await asyncio.sleep(0)
            record = self.book.devices.get(device_id)
            if record is not None and device_id in self.book.keys and record.kind in MINING_KINDS and not record.left:
                yield self.book.keys[device_id], groups_of(record, coins)

    def device_of(self, identity: str) -> int | None:
        """The id of the device with this identity; None when there is none."""
        return self.book.by_identity.get(identity)

    async def boards(self) -> list[BoardRow]:
        return [shown_board(one) for one in sorted(self.book.boards.values(), key=lambda one: int(one.id[1:]))]

    async def board(self, ref: str) -> BoardRow:
        """By id or name. NotFound, BadInput."""
        return shown_board(edits.find_board(self.book, ref))

    async def outlets(self, device_id: int | None = None, board_id: str | None = None) -> list[OutletRow]:
        """Mapped outlets with what is known of them now; UNKNOWN is what was not read in the last two minutes."""
        found = [
            one
            for one in self.book.outlets.values()
            if (device_id is None or one.device_id == device_id) and (board_id is None or one.board_id == board_id)
        ]
        latest = self.latest([_board_key(one.board_id) for one in found])
        rows = [self._shown_outlet(one, latest) for one in found]
        return sorted(rows, key=lambda row: (int(row.board_id[1:]), int(row.outlet)))

    async def events(self, **wanted: Any) -> list[EventRecord]:
        """Newest first; the arguments of `store.events`."""
        return await self.db.read(lambda c: store.events(c, **wanted))

    # ---- people's changes ------------------------------------------------------------------------------------------

    async def add_device(self, caller: Caller, asked: NewDevice) -> DeviceRow:
        draft, record = edits.add_device(self.book, asked, self._allowed(), self.clock.now_ms())
        detail = {"address": record.watched_address, "sentry": record.sentry_id, "name": record.name}
        await self._change(draft, caller, "device.add", f"device {record.id}", detail)
        return await self.device(record.id)

    async def change_device(self, caller: Caller, ref: str, asked: DeviceChange) -> DeviceRow:
        before = edits.find_device(self.book, ref)
        draft, after = edits.change_device(self.book, before.id, asked, self._allowed())
        await self._change(draft, caller, "device.change", f"device {after.id}", differences(before, after))
        return await self.device(after.id)

    async def remove_device(self, caller: Caller, ref: str) -> None:
        record = edits.find_device(self.book, ref)
        draft = edits.remove_device(self.book, record.id, sentry_live=self.stream_open(record.sentry_id))
        if (kept := found.dismissed_as(record, self.clock.now_ms())) is not None:
            draft.put_found(kept)
        detail = {"name": record.name, "identity": record.identity, "address": record.watched_address}
        await self._change(draft, caller, "device.remove", f"device {record.id}", detail)

    def finds(self, wanted: FoundFilter) -> list[FoundRecord]:
        """What scans found and nobody adopted, by sentry and address. NotFound: no such sentry."""
        return found.listed(self.book, wanted)

    async def adopt(
        self, caller: Caller, wanted: Sequence[tuple[str, str]], name: str = "", credentials: Credentials | None = None
    ) -> list[DeviceRow]:
        """Has what was found watched: all of these or, when one cannot be, none. Each by address, MAC or serial, and its sentry
        where that does not tell enough."""
        draft, now_ms, ids = self.book.draft(), self.clock.now_ms(), []
        try:
            for ref, sentry in wanted:
                record = found.find_found(self.book, ref, sentry)
                ids.append(found.adopt(self.book, draft, record, name, credentials, self._allowed(), now_ms).id)
        except BaseException:
            draft.undo()
            raise
        await self._change(draft, caller, "device.adopt", f"{len(ids)} found", {"devices": ids})
        return [await self.device(one) for one in ids]

    async def dismiss(self, caller: Caller, refs: Sequence[str], sentry: str = "", *, back: bool = False) -> list[FoundRecord]:
        """Not wanted: no rule adopts it and it is not listed. `back`: it is, again."""
        records = [replace(found.find_found(self.book, ref, sentry), dismissed=not back) for ref in refs]
        draft = self.book.draft()
        for record in records:
            draft.put_found(record)
        detail = {"addresses": [record.address for record in records], "back": back}
        await self._change(draft, caller, "device.dismiss", f"{len(records)} found", detail)
        return records

    def table(self) -> str:
        """The fleet as CSV, relay boards left out."""
        book = self.book
        records = [one for _, one in sorted(book.devices.items()) if one.kind != "relay"]
        return inventory.written(records, {one.id: one.name for one in book.sentries.values()})

    async def bring_in(self, caller: Caller, text: str, *, dry_run: bool) -> inventory.Brought:
        """What `table` wrote, changed by a person: all of it or, with one mistake, nothing. `dry_run`: nothing either way."""
        lines, mistakes = inventory.parse(text)
        draft = self.book.draft()
        brought = inventory.bring_in(self.book, draft, lines if not mistakes else (), self._allowed(), self.clock.now_ms())
        if mistakes:
            brought.mistakes = mistakes
        elif dry_run and not brought.mistakes:
            draft.undo()
        elif not brought.mistakes:
            detail = {"added": brought.added, "changed": brought.changed}
            await self._change(draft, caller, "inventory.import", f"{len(lines)} lines", detail)
        return brought

    async def add_board(self, caller: Caller, asked: NewBoard) -> BoardRow:
        draft, board = edits.add_board(self.book, asked, self._allowed(), self.clock.now_ms())
        detail = {"name": board.name, "kind": board.kind, "address": board.address, "sentry": board.sentry_id}
        await self._change(draft, caller, "relay.add", f"relay {board.id}", detail)
        return shown_board(board)

    async def remove_board(self, caller: Caller, ref: str) -> None:
        board = edits.find_board(self.book, ref)
        await self._change(edits.remove_board(self.book, board), caller, "relay.remove", f"relay {board.id}", {"name": board.name})

    async def map_outlet(
        self, caller: Caller, board_ref: str, outlet: str, device_ref: str | None, circuit: str = "", protected: bool = False
    ) -> OutletRow:
        """`device_ref` None: it feeds no device, but is protected."""
        board = edits.find_board(self.book, board_ref)
        device = edits.find_device(self.book, device_ref) if device_ref is not None else None
        draft, record = edits.map_outlet(self.book, board, outlet, device, circuit, protected)
        detail = {"device": record.device_id, "circuit": record.circuit, "protected": record.protected}
        await self._change(draft, caller, "outlet.map", f"relay {board.id} outlet {record.outlet}", detail)
        return self._shown_outlet(record, self.latest([_board_key(board.id)]))

    async def unmap_outlet(self, caller: Caller, board_ref: str, outlet: str) -> None:
        board = edits.find_board(self.book, board_ref)
        draft = edits.unmap_outlet(self.book, board, outlet)
        await self._change(draft, caller, "outlet.unmap", f"relay {board.id} outlet {outlet}", {})

    async def rename_sentry(self, caller: Caller, ref: str, name: str) -> Sentry:
        sentry = edits.find_sentry(self.book, ref)
        draft, after = edits.rename_sentry(self.book, sentry, name)
        await self._change(draft, caller, "sentry.rename", f"sentry {sentry.id}", {"before": sentry.name, "after": after.name})
        return self._shown_sentry(after)

    async def set_wanted_sheet(self, device_id: int, sheet_id: str, also: Also | None = None) -> None:
        """Which flight sheet was last applied here. `also` runs in the same transaction."""
        record = self.book.devices.get(device_id)
        if record is None:
            raise NotFound(f"no device {device_id}")
        draft = self.book.draft()
        draft.put_device(replace(record, wanted_sheet_id=sheet_id))
        await self._kept(draft, also or (lambda _: None))

    async def note(self, event: EventRecord) -> None:
        """An event of the commander's own."""
        draft = self.book.draft()
        draft.event(event)
        await self.book.commit(draft)

    # ---- access ----------------------------------------------------------------------------------------------------

    async def add_sentry(self, record: SentryRecord, event: EventRecord, also: Also) -> SentryRecord:
        """A new post, its name made unique. `also` runs in the same transaction; what it raises undoes all."""
        name = unique_name(record.name, {one.name.casefold() for one in self.book.sentries.values()})
        record = replace(record, name=name)
        draft = self.book.draft()
        draft.put_sentry(record)
        draft.event(event)
        await self._kept(draft, also)
        return record

    async def change_sentry(self, record: SentryRecord, event: EventRecord | None, also: Also) -> Any:
        """`record` replaces the one with its id. Returns what `also` returned."""
        draft = self.book.draft()
        draft.put_sentry(record)
        if event is not None:
            draft.event(event)
        return await self._kept(draft, also)

    # ---- inside ----------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """One round of noticing which sentries fell silent."""
        draft = self.book.draft()
        for sentry in self.book.sentries.values():
            line = self._line(sentry.id)
            state = self._state_of(sentry)
            if state is SentryState.SILENT and line.judged in (SentryState.CONNECTED, SentryState.LAGGING):
                log.warning("sentry is silent", extra={"sentry": sentry.id, "name_": sentry.name})
                draft.event(
                    EventRecord(
                        self.clock.now_ms(),
                        "sentry_silent",
                        f"{sentry.name} is silent: the states of its devices are not known",
                        "warning",
                        sentry.id,
                    )
                )
            line.judged = state
        await self.book.commit(draft)

    async def keep_seen(self) -> None:
        """Writes when each sentry was last heard; main calls it once more at the end."""
        seen, self._seen_ms = self._seen_ms, {}
        for sentry_id, at_ms in seen.items():
            if sentry_id in self.book.sentries:
                self.book.sentries[sentry_id] = replace(self.book.sentries[sentry_id], seen_ms=at_ms)
        if not seen:
            return
        try:
            await self.db.write(lambda c: store.set_seen(c, seen))
        except Fault:
            self._seen_ms = seen | self._seen_ms
            raise

    async def _trim(self) -> None:
        now_ms = self.clock.now_ms()
        while await self.db.write(lambda c: store.trim_events(c, now_ms)) >= 10_000:
            await self.clock.sleep(0.1)

    async def _change(self, draft: Draft, caller: Caller, what: str, object_: str, detail: Mapping[str, Any]) -> None:
        now_ms = self.clock.now_ms()
        await self._kept(draft, lambda c: audited(c, now_ms, caller, what, object_, detail))

    async def _kept(self, draft: Draft, also: Also) -> Any:
        try:
            return await self.book.commit(draft, also)
        except BaseException:
            draft.undo()
            raise

    def _allowed(self) -> Allowed:
        return Allowed(self.settings.board_kinds, self.settings.networks)

    def _line(self, sentry_id: str) -> _Line:
        line = self._lines.get(sentry_id)
        if line is None:
            line = self._lines[sentry_id] = _Line(quiet_since_ms=self._started_ms)
        return line

    def _state_of(self, sentry: SentryRecord) -> SentryState:
        now_ms = self.clock.monotonic_ms()
        line = self._line(sentry.id)
        return judge_sentry(
            sentry.standing,
            stream_open=line.streams > 0,
            backlog_ms=line.backlog_ms,
            quiet_ms=now_ms - line.quiet_since_ms,
            since_start_ms=now_ms - self._started_ms,
            silent_after_ms=self.settings.silent_after_ms,
            window_ms=self.settings.window_ms,
            ever_seen=sentry.seen_ms is not None,
        )

    def _shown_sentry(self, one: SentryRecord) -> Sentry:
        return shown_sentry(one, self._state_of(one), self._seen_ms.get(one.id), self._line(one.id).twin)

    def _judged(self, records: Sequence[DeviceRecord]) -> list[DeviceRow]:
        book, now_ms = self.book, self.clock.now_ms()
        states = {one: self._state_of(book.sentries[one]) for one in {one.sentry_id for one in records} if one in book.sentries}
        keys = book.keys
        feeding = {key for one in records for key in book.feeds.get(one.id, ())}
        mine = [keys[one.id] for one in records if one.id in keys]
        looked = self.latest(mine, ())  # when, and nothing else: of ten thousand devices all values take a second
        latest = self.latest({_board_key(board) for board, _ in feeding})
        outlets = {key: self._shown_outlet(book.outlets[key], latest).state for key in feeding}
        rows = []
        for one in records:
            key = keys.get(one.id)
            sample = looked.get(key) if key is not None else None
            fed = [outlets[place] for place in book.feeds.get(one.id, ())]
            state = judge_device(
                one.seen.state if one.seen else None,
                sentry=states.get(one.sentry_id, SentryState.SILENT),
                maintenance=one.maintenance,
                left=one.left,
                outlet=PowerState.OFF if fed and all(state is PowerState.OFF for state in fed) else None,
                age_ms=None if sample is None else now_ms - sample.at_ms,
            )
            rows.append(self._row(one, state))
        return rows

    def _row(self, one: DeviceRecord, state: DeviceState) -> DeviceRow:
        """Made once for each record and state: a list of ten thousand must not stall the loop."""
        known = self._rows.get(one.id)
        if known is not None and known[0] is one and known[1].state is state:
            return known[1]
        if len(self._rows) > 2 * len(self.book.devices) + 1000:
            self._rows.clear()  # of devices that were removed
        row = shown_device(one, self.book.keys.get(one.id), state)
        self._rows[one.id] = (one, row)
        return row

    def _shown_outlet(self, one: OutletRecord, latest: Mapping[int, Latest]) -> OutletRow:
        board = self.book.boards[one.board_id]
        sample = latest.get(_board_key(board.id))
        state, power_w = PowerState.UNKNOWN, None
        heard = self._state_of(self.book.sentries[board.sentry_id]) in (SentryState.CONNECTED, SentryState.LAGGING)
        if sample is not None and heard and self.clock.now_ms() - sample.at_ms <= OUTLET_FRESH_MS:
            code = sample.values.get(("outlet_state", f"outlet:{one.outlet}"))
            state = PowerState.UNKNOWN if code is None else POWER_STATES.get(int(code), PowerState.UNKNOWN)
            power_w = sample.values.get(("power_w", f"outlet:{one.outlet}"))
        return OutletRow(one.board_id, one.outlet, one.device_id, one.circuit, one.protected, state, power_w)


def _board_key(board_id: str) -> int:
    return device_key(f"relay:{board_id}")


def _steady(before_ms: int | None, now_ms: int) -> int:
    return before_ms if before_ms is not None and abs(before_ms - now_ms) < 1_000 else now_ms
