"""The fleet as a table for spreadsheets, and back: names, positions, tags and notes. Passwords are never in it.

`parse` is pure. `bring_in` changes the book through a draft and takes all of it back when one line is wrong.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commander.fleet import edits
from commander.fleet.book import Book, Draft
from commander.fleet.edits import Allowed, DeviceChange, NewDevice
from commander.fleet.records import DeviceRecord
from commander.fleet.rules import checked_address, checked_tag, plain_mac
from garrison.faults import BadInput, Fault
from garrison.model import Device
from garrison.words import DeviceState

COLUMNS = (
    "id", "name", "kind", "make", "model", "mac", "serial", "sentry", "address", "site", "rack", "position", "tags", "notes",
    "expected_hashrate_hs",
)  # fmt: skip
TOLD = frozenset({"kind", "model", "mac", "serial"})
"""What devices say themselves. MAC and serial tell which device a line is about; none of them is changed by a file."""
CLEARED = frozenset({"site", "rack", "position", "tags", "notes"})
"""An empty cell clears these; of the others it says nothing."""
SECRET = frozenset({"password", "username", "passphrase", "pass", "user"})
MOST_MISTAKES = 200
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs cells that begin so. Names come from devices too."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """`line` counts from 1, the heading is line 1. `column`: its heading; empty: the whole line."""

    line: int
    column: str
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    cells: Mapping[str, str]


@dataclass(slots=True)
class Brought:
    """What a file did, or with mistakes: nothing."""

    added: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    unchanged: int = 0
    mistakes: list[Mistake] = field(default_factory=list)


# ---- out ---------------------------------------------------------------------------------------------------------


def written(records: Iterable[DeviceRecord], sentries: Mapping[str, str]) -> str:
    """CSV with a heading; `sentries`: names by id."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow([_safe(cell) for cell in _cells(record, sentries)])
    return out.getvalue()


def _cells(one: DeviceRecord, sentries: Mapping[str, str]) -> Sequence[str]:
    seen = one.seen or Device("", "", DeviceState.UNKNOWN)
    expected = "" if one.expected_hashrate_hs is None else f"{one.expected_hashrate_hs:.15g}"
    return (
        str(one.id), one.name, one.kind, seen.make or one.make_hint, seen.model, seen.mac, seen.serial,
        sentries.get(one.sentry_id, one.sentry_id), one.watched_address, one.site, one.rack, one.position, " ".join(one.tags),
        one.notes, expected,
    )  # fmt: skip


def _safe(cell: str) -> str:
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


# ---- in ----------------------------------------------------------------------------------------------------------


def parse(text: str) -> tuple[list[Line], list[Mistake]]:
    """Commas or semicolons, as spreadsheets of different countries write it."""
    text = text.removeprefix("\ufeff")
    heading = text.lstrip().partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=";" if heading.count(";") > heading.count(",") else ",", strict=True
    )
    lines: list[Line] = []
    mistakes: list[Mistake] = []
    names: list[str] | None = None
    start = 1
    try:
        for row in reader:
            here, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if names is None:
                names = [cell.strip().lower() for cell in row]
                mistakes += _heading(names)
                if mistakes:
                    break
            else:
                if len(row) > len(names) and any(cell.strip() for cell in row[len(names) :]):
                    mistakes.append(Mistake(here, "", f"{len(row)} cells under {len(names)} headings"))
                cells = {name: _plain(cell) for name, cell in zip(names, row, strict=False)}
                lines.append(Line(here, cells))
    except csv.Error as error:
        mistakes.append(Mistake(reader.line_num, "", f"this is no CSV: {error}"))
    if names is None:
        mistakes.append(Mistake(1, "", "the file is empty"))
    return lines, mistakes


def _heading(names: Sequence[str]) -> list[Mistake]:
    mistakes = []
    for place, name in enumerate(names):
        if name in SECRET:
            mistakes.append(Mistake(1, name, "passwords do not come from a table: `commander devices add --password-file`"))
        elif name not in COLUMNS:
            mistakes.append(Mistake(1, name or f"column {place + 1}", f"no such column; there are {', '.join(COLUMNS)}"))
        elif name in names[:place]:
            mistakes.append(Mistake(1, name, "this column is there twice"))
    return mistakes


def _plain(cell: str) -> str:
    given = cell.strip()
    return given[1:] if given[:1] == "'" and given.lstrip("'").startswith(_FORMULA) else given


def bring_in(book: Book, draft: Draft, lines: Sequence[Line], allowed: Allowed, now_ms: int) -> Brought:
    """All lines, in their order. With mistakes the draft is undone; the caller commits it otherwise."""
    brought = Brought()
    seen: dict[int, int] = {}  # device to line
    for line in lines:
        if len(brought.mistakes) >= MOST_MISTAKES:
            break
        _Row(book, draft, line, allowed, now_ms, brought, seen).take()
    if brought.mistakes:
        draft.undo()
        brought.added, brought.changed, brought.unchanged = [], [], 0
    return brought


@dataclass(slots=True)
class _Row:
    book: Book
    draft: Draft
    line: Line
    allowed: Allowed
    now_ms: int
    brought: Brought
    seen: dict[int, int]

    def take(self) -> None:
        before = len(self.brought.mistakes)
        record, known = self._device(), True
        if record is None:
            if len(self.brought.mistakes) > before:
                return
            record, known = self._added(), False
            if record is None:
                return
        if record.id in self.seen:
            self._wrong("id" if self._cell("id") else "", f"this device stands in line {self.seen[record.id]} already")
            return
        self.seen[record.id] = self.line.number
        changed = self._changed(record, known)
        if not known:
            self.brought.added.append(record.id)
        elif changed:
            self.brought.changed.append(record.id)
        else:
            self.brought.unchanged += 1

    def _device(self) -> DeviceRecord | None:
        """By id, else MAC, else serial, else the address at its sentry. None: a new one, or a mistake that was told."""
        if number := self._cell("id"):
            found = self.book.devices.get(int(number)) if number.isascii() and number.isdecimal() and len(number) < 18 else None
            if found is None or found.kind == "relay":
                self._wrong("id", f"there is no device {number}; an empty cell makes a new one")
                return None
            return found
        if mac := self._cell("mac"):
            if plain_mac(mac) is None:
                self._wrong("mac", f"{mac!r} is no MAC")
                return None
            if (found := self.book.devices.get(self.book.by_identity.get(f"mac:{plain_mac(mac)}", 0))) is not None:
                return found
        for column in ("serial", "address"):
            if text := self._cell(column):
                fitting = self._fitting(column, text.casefold())
                if len(fitting) > 1:
                    self._wrong(
                        column, f"{len(fitting)} devices have it: {', '.join(str(one.id) for one in fitting[:8])}; give the id"
                    )
                    return None
                if fitting:
                    return fitting[0]
        return None

    def _fitting(self, column: str, text: str) -> list[DeviceRecord]:
        records = [self.book.devices[one] for one in sorted(self.book.references.get(text, ()))]
        if column == "serial":
            return [one for one in records if one.seen is not None and one.seen.serial.casefold() == text]
        sentry = self._cell("sentry").casefold()
        return [
            one
            for one in records
            if one.watched_address == text
            and (not sentry or sentry in (one.sentry_id, self.book.sentries[one.sentry_id].name.casefold()))
        ]

    def _added(self) -> DeviceRecord | None:
        address, make = self._cell("address"), self._cell("make")
        if not address:
            self._wrong("address", "a new device needs an address")
            return None
        if self._cell("kind") not in ("", "asic"):
            self._wrong("kind", "only ASICs are added by a table; rigs join with a token")
            return None
        for column, check in (
            ("sentry", lambda: edits.asic_sentry(self.book, self._sentry())),
            ("address", lambda: checked_address(address, self.allowed.networks)),
            ("make", lambda: checked_tag(make) if make else None),
        ):
            try:
                check()
            except Fault as fault:
                self._wrong(column, str(fault))
                return None
        try:
            asked = NewDevice(address, self._sentry(), make=make)
            return edits.add_device(self.book, asked, self.allowed, self.now_ms, self.draft)[1]
        except Fault as fault:
            self._wrong("address", str(fault))
            return None

    def _sentry(self) -> str:
        if given := self._cell("sentry"):
            return given
        ours = [one for one in self.book.sentries.values() if one.kind == "asic" and one.standing == "approved"]
        if len(ours) != 1:
            raise BadInput("a new device needs its sentry", hint="`commander sentries list` shows them")
        return ours[0].id

    def _changed(self, record: DeviceRecord, known: bool) -> bool:
        """A cell after the other, so that a mistake is told with its column."""
        before = record
        for column, text in self.line.cells.items():
            if column in TOLD or column in ("id", "make") or (not text and column not in CLEARED):
                continue
            try:
                change = self._change(record, column, text)
                if change is not None:
                    _, record = edits.change_device(self.book, record.id, change, self.allowed, self.draft)
            except Fault as fault:
                self._wrong(column, str(fault))
        return record != before

    def _change(self, record: DeviceRecord, column: str, text: str) -> DeviceChange | None:
        if column == "sentry":
            if edits.find_sentry(self.book, text).id != record.sentry_id:
                raise BadInput("a device is not given to another sentry by a table", hint="remove it there, and add it here")
            return None
        if column == "tags":
            wanted = set(text.lower().replace(",", " ").split())
            return (
                DeviceChange(add_tags=sorted(wanted), remove_tags=sorted(set(record.tags) - wanted))
                if wanted != set(record.tags)
                else None
            )
        if column == "expected_hashrate_hs":
            try:
                value = float(text)
            except ValueError:
                raise BadInput(f"{text!r} is no number of H/s", hint="such as 1.04e14") from None
            return (
                DeviceChange(expected_hashrate_hs=value) if f"{value:.15g}" != f"{record.expected_hashrate_hs or 0:.15g}" else None
            )
        held = record.watched_address if column == "address" else getattr(record, column)
        if column == "address":
            text = checked_address(text, self.allowed.networks)
        fields: dict[str, Any] = {column: text}
        return DeviceChange(**fields) if text != held else None

    def _cell(self, column: str) -> str:
        return self.line.cells.get(column, "")

    def _wrong(self, column: str, text: str) -> None:
        self.brought.mistakes.append(Mistake(self.line.number, column, text))
