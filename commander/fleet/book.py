"""The whole fleet in memory, and beside it the rows on disk.

A change is made in memory at once, through a `Draft`, and is durable when `commit` returns; so a roster of a thousand
devices needs no reads, and sentries that come back together share their commits. What could not be written (a full disk)
is written with the next commit.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from commander.db import Database
from commander.fleet import found_store, rules, store
from commander.fleet.records import BoardRecord, DeviceRecord, EventRecord, FoundRecord, OutletRecord, SentryRecord
from garrison.clock import Clock
from garrison.frame import device_key
from garrison.model import Assignment, Credentials, PowerLimits

Also = Callable[[sqlite3.Connection], Any]
EVENTS_WAITING = 1_000
"""The commander's own events that wait for a full disk."""


class Vault(Protocol):
    """Seals credentials at rest; what is sealed under one row's name opens under no other. `commander.access.secrets`."""

    def seal(self, plain: bytes, row: str) -> bytes: ...

    def open(self, sealed: bytes, row: str) -> bytes: ...


class Book:
    """Everything there is, by its id. Change it only through a Draft."""

    def __init__(self, db: Database, clock: Clock, vault: Vault, poll_every_ms: int, power: PowerLimits) -> None:
        self.sentries: dict[str, SentryRecord] = {}
        self.devices: dict[int, DeviceRecord] = {}
        self.by_identity: dict[str, int] = {}
        self.keys: dict[int, int] = {}  # in frames, of the devices that have an identity
        self.named: dict[int, tuple[int, str]] = {}  # by that key: id and name
        self.of_sentry: defaultdict[str, set[int]] = defaultdict(set)
        self.boards: dict[str, BoardRecord] = {}
        self.outlets: dict[tuple[str, str], OutletRecord] = {}
        self.feeds: defaultdict[int, set[tuple[str, str]]] = defaultdict(set)
        self.names: Counter[str] = Counter()  # of devices, case folded
        self.references: defaultdict[str, set[int]] = defaultdict(set)  # whatever a device may be called by, to those it may be
        self.found: dict[tuple[str, str], FoundRecord] = {}  # by sentry and address
        self.found_named: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)  # by identity, and by serial, folded
        self.counters: dict[str, int] = {}
        self.on_assignment_change: list[Callable[[str], None]] = []
        self._db, self._clock, self._vault = db, clock, vault
        self._poll_every_ms, self._power = poll_every_ms, power
        self._unwritten = Draft(self)

    async def load(self) -> None:
        def read(c: sqlite3.Connection) -> tuple[Any, ...]:
            return store.sentries(c), store.devices(c), store.boards(c), store.outlets(c), store.counters(c), found_store.found(c)

        sentries, devices, boards, outlets, self.counters, found = await self._db.read(read)
        self.sentries = {one.id: one for one in sentries}
        self.boards = {one.id: one for one in boards}
        for device in devices:
            self._place_device(device)
        for outlet in outlets:
            self._place_outlet(outlet)
        for one in found:
            self._place_found(one)

    def draft(self) -> Draft:
        return Draft(self)

    def credentials(self, sealed: bytes, row: str) -> Credentials:
        username, _, password = self._vault.open(sealed, row).decode().partition("\0")
        return Credentials(username, password)

    def seal(self, credentials: Credentials, row: str) -> bytes:
        return self._vault.seal(f"{credentials.username}\0{credentials.password}".encode(), row)

    def assignment(self, sentry_id: str) -> Assignment:
        """With its credentials in the clear: for the wire only."""
        return self._assignment(sentry_id, self.sentries[sentry_id].revision, self.credentials)

    def _assignment(self, sentry_id: str, revision: int, open_sealed: Callable[[bytes, str], Credentials]) -> Assignment:
        return rules.assignment(
            sentry_id,
            revision,
            [self.devices[one] for one in self.of_sentry[sentry_id]],
            self.boards.values(),
            self.outlets.values(),
            self.devices.get,
            open_sealed,
            poll_every_ms=self._poll_every_ms,
            power=self._power,
        )

    async def commit(self, draft: Draft, also: Also | None = None) -> Any:
        """Durable when it returns; `also` runs in the same transaction, and its result is returned."""
        late, self._unwritten = self._unwritten, Draft(self)
        draft.take(late)
        touched = self._number(draft)
        changes = draft.changes
        if not changes and also is None:
            return None

        def work(c: sqlite3.Connection) -> Any:
            store.apply(c, changes)
            return also(c) if also is not None else None

        try:
            result = await self._db.write(work)
        except BaseException:
            if also is not None:  # a person's change, which they are told has failed: its events did not happen
                draft.changes.events.clear()
            self._unwritten.take(draft)
            raise
        for sentry_id in sorted(touched):
            for listener in self.on_assignment_change:
                listener(sentry_id)
        return result

    async def settled(self) -> None:
        """Returns when everything in memory is durable."""
        if self._unwritten.changes:
            await self.commit(self.draft())
        else:
            await self._db.write(lambda _: None)

    def _number(self, draft: Draft) -> set[str]:
        """Gives a new revision to each touched assignment that really differs; later than any before, also after a restore."""
        changed = set()
        for sentry_id in draft.touched:
            sentry = self.sentries.get(sentry_id)
            if sentry is None:
                continue
            digest = rules.digest(self._assignment(sentry_id, 0, rules.hidden_credentials))
            if digest != sentry.digest:
                revision = max(sentry.revision + 1, self._clock.now_ms())
                draft.put_sentry(replace(sentry, revision=revision, digest=digest))
                changed.add(sentry_id)
        return changed | draft.announce

    # ---- memory ------------------------------------------------------------------------------------------------

    def _place_device(self, record: DeviceRecord) -> None:
        self._lift_device(record.id)
        self.devices[record.id] = record
        self.of_sentry[record.sentry_id].add(record.id)
        self.names[record.name.casefold()] += 1
        for name in rules.references(record):
            self.references[name].add(record.id)
        if record.identity is not None:
            self.by_identity[record.identity] = record.id
            key = self.keys[record.id] = device_key(record.identity)
            self.named[key] = record.id, record.name

    def _lift_device(self, device_id: int) -> None:
        old = self.devices.pop(device_id, None)
        if old is not None:
            self.of_sentry[old.sentry_id].discard(device_id)
            key = self.keys.pop(device_id, None)
            if key is not None and self.named.get(key, (None, ""))[0] == device_id:
                del self.named[key]
            for name in rules.references(old):
                self.references[name].discard(device_id)
                if not self.references[name]:
                    del self.references[name]
            self.names[old.name.casefold()] -= 1
            if not self.names[old.name.casefold()]:
                del self.names[old.name.casefold()]
            if old.identity is not None and self.by_identity.get(old.identity) == device_id:
                del self.by_identity[old.identity]

    def _place_outlet(self, record: OutletRecord) -> None:
        self._lift_outlet((record.board_id, record.outlet))
        self.outlets[record.board_id, record.outlet] = record
        if record.device_id is not None:
            self.feeds[record.device_id].add((record.board_id, record.outlet))

    def _lift_outlet(self, key: tuple[str, str]) -> None:
        old = self.outlets.pop(key, None)
        if old is not None and old.device_id is not None:
            self.feeds[old.device_id].discard(key)

    def _place_found(self, record: FoundRecord) -> None:
        self._lift_found(record.key)
        self.found[record.key] = record
        for name in _names_of(record):
            self.found_named[name].add(record.key)

    def _lift_found(self, key: tuple[str, str]) -> None:
        old = self.found.pop(key, None)
        for name in _names_of(old) if old is not None else ():
            self.found_named[name].discard(key)
            if not self.found_named[name]:
                del self.found_named[name]


class Draft:
    """Changes on their way to disk. They are in the book already; `undo` takes back what a failed write did not keep."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.changes = store.Changes()
        self.touched: set[str] = set()  # sentries whose assignment may have changed
        self.announce: set[str] = set()  # sentries whose assignment has changed and who were not told yet
        self._before: dict[tuple[str, object], Any] = {}

    def put_sentry(self, record: SentryRecord) -> None:
        self._remember("sentries", record.id, self._book.sentries.get(record.id))
        self._book.sentries[record.id] = record
        self.changes.sentries[record.id] = record

    def put_device(self, record: DeviceRecord) -> None:
        book, old = self._book, self._book.devices.get(record.id)
        if old == record:
            return
        self._remember("devices", record.id, old)
        if old is None or _assigned(old) != _assigned(record):
            self._touch_device(record)
            if old is not None:
                self._touch_device(old)
        book._place_device(record)
        self.changes.devices[record.id] = record
        self.changes.removed_devices.discard(record.id)

    def drop_device(self, device_id: int) -> None:
        """Outlets that fed it feed nothing that we know."""
        book = self._book
        old = book.devices.get(device_id)
        if old is None:
            return
        self._touch_device(old)
        for key in list(book.feeds.get(device_id, ())):
            self.put_outlet(replace(book.outlets[key], device_id=None))
        self._remember("devices", device_id, old)
        book._lift_device(device_id)
        self.changes.devices.pop(device_id, None)
        self.changes.removed_devices.add(device_id)

    def put_board(self, record: BoardRecord) -> None:
        self._remember("boards", record.id, self._book.boards.get(record.id))
        self._book.boards[record.id] = record
        self.changes.boards[record.id] = record
        self.touched.add(record.sentry_id)

    def drop_board(self, board_id: str) -> None:
        book = self._book
        for key in [key for key in book.outlets if key[0] == board_id]:
            self.drop_outlet(key)
        old = book.boards.pop(board_id, None)
        if old is not None:
            self._remember("boards", board_id, old)
            self.touched.add(old.sentry_id)
            self.changes.boards.pop(board_id, None)
            self.changes.removed_boards.add(board_id)

    def put_outlet(self, record: OutletRecord) -> None:
        key = (record.board_id, record.outlet)
        self._remember("outlets", key, self._book.outlets.get(key))
        self._book._place_outlet(record)
        self.changes.outlets[key] = record
        self.changes.removed_outlets.discard(key)
        self._touch_board(record.board_id)

    def drop_outlet(self, key: tuple[str, str]) -> None:
        if key in self._book.outlets:
            self._remember("outlets", key, self._book.outlets[key])
            self._book._lift_outlet(key)
            self.changes.outlets.pop(key, None)
            self.changes.removed_outlets.add(key)
            self._touch_board(key[0])

    def put_found(self, record: FoundRecord) -> None:
        self._remember("found", record.key, self._book.found.get(record.key))
        self._book._place_found(record)
        self.changes.found[record.key] = record
        self.changes.removed_found.discard(record.key)

    def drop_found(self, key: tuple[str, str]) -> None:
        if key in self._book.found:
            self._remember("found", key, self._book.found[key])
            self._book._lift_found(key)
            self.changes.found.pop(key, None)
            self.changes.removed_found.add(key)

    def number(self, counter: str) -> int:
        """The next number of this counter; never given again, whatever is removed."""
        following = self._book.counters.get(counter, 0) + 1
        self._book.counters[counter] = self.changes.counters[counter] = following
        return following

    def event(self, one: EventRecord) -> None:
        self.changes.events.append(one)

    def undo(self) -> None:
        """After a failed commit: memory is as before, where nobody changed it meanwhile."""
        book, changes = self._book, self.changes
        for (table, key), old in self._before.items():
            now: Any = getattr(book, table).get(key)
            made: Any = getattr(changes, table).get(key)
            if now is not made:
                continue
            if table == "devices":
                book._lift_device(key) if old is None else book._place_device(old)  # type: ignore[arg-type]  # of this table
            elif table == "outlets":
                book._lift_outlet(key) if old is None else book._place_outlet(old)  # type: ignore[arg-type]  # of this table
            elif table == "found":
                book._lift_found(key) if old is None else book._place_found(old)  # type: ignore[arg-type]  # of this table
            elif old is None:
                getattr(book, table).pop(key, None)
            else:
                getattr(book, table)[key] = old

    def take(self, other: Draft) -> None:
        """What `other` could not write, as it stands in memory now."""
        book, mine, theirs = self._book, self.changes, other.changes
        _freshen(theirs.sentries.keys(), book.sentries, mine.sentries, set())
        _freshen(theirs.devices.keys() | theirs.removed_devices, book.devices, mine.devices, mine.removed_devices)
        _freshen(theirs.boards.keys() | theirs.removed_boards, book.boards, mine.boards, mine.removed_boards)
        _freshen(theirs.outlets.keys() | theirs.removed_outlets, book.outlets, mine.outlets, mine.removed_outlets)
        _freshen(theirs.found.keys() | theirs.removed_found, book.found, mine.found, mine.removed_found)
        mine.counters.update({name: book.counters[name] for name in theirs.counters})
        mine.events[:0] = theirs.events[:EVENTS_WAITING]
        self.touched |= other.touched
        self.announce |= other.announce | other.touched

    def _remember(self, table: str, key: object, old: object) -> None:
        self._before.setdefault((table, key), old)

    def _touch_device(self, record: DeviceRecord) -> None:
        self.touched.add(record.sentry_id)
        for board_id, _ in self._book.feeds.get(record.id, ()):
            self._touch_board(board_id)

    def _touch_board(self, board_id: str) -> None:
        with contextlib.suppress(KeyError):  # the board is being removed: its sentry is touched by that
            self.touched.add(self._book.boards[board_id].sentry_id)


def _freshen(keys: Iterable[Any], now: dict[Any, Any], put: dict[Any, Any], removed: set[Any]) -> None:
    for key in keys:
        if key in now:
            put.setdefault(key, now[key])
        else:
            removed.add(key)


def _names_of(found: FoundRecord) -> set[str]:
    return {found.identity, f"serial {found.seen.serial.casefold()}" if found.seen.serial else ""} - {""}


def _assigned(record: DeviceRecord) -> tuple[object, ...]:
    """What of a device stands in an assignment."""
    return (
        record.identity,
        record.sentry_id,
        record.watched_address,
        record.name if record.watched_address else None,
        record.make_hint,
        record.http_port,
        record.expected_hashrate_hs,
        record.sealed,
        record.simulated,
        record.maintenance,
    )
