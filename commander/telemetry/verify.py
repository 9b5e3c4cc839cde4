"""Reads the whole history through and says what is damaged: each block and frame, each file. The work of a thread.

    report = verify.file(folder, "raw-2026-W48.db", stop, Pace())
    report.whole, report.damaged, report.structure

Nothing is written. hot.db is read a few rows a statement while the writer goes on, a file of the archive in one snapshot. What is
checked: SQLite's own structure with every index; of a block its checksum, that it unpacks, that its times rise and lie in its
span, and its layout's hash; of a frame what its codec checks, and that its row tells its times; that totals are numbers with a
name.
Totals have no checksum: a number that became another number is not seen.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from commander.db import translated
from commander.telemetry import archive, block_store, hot, salvage_store, store
from commander.telemetry.block_store import NEWEST_MS, Columns, KnownColumns, Stored, columns_hash, columns_text
from commander.telemetry.levels import STEP_OF, WINDOW_MS, FileSpan, Level, block_end, block_start, file_named
from commander.telemetry.salvage_store import Lost
from commander.telemetry.seal import Pace
from commander.telemetry.store import Kept
from garrison.faults import BadFrame, BadInput, Broken, Fault, Unavailable
from garrison.frame import Column, Layout

HOT = "hot.db"
MOST_VERSIONS = 255
"""Of an archive file. A higher number is no version, but damage."""

BLOCK_OF = {None: "chunk", Level.RAW: "day", Level.FIVE_MINUTES: "5-minute day", Level.HOUR: "hourly month"}


@dataclass(frozen=True, slots=True)
class Wrong:
    """`what`: "frame", "chunk", "newest look", "day", "5-minute day", "hourly month", "layout", or the name of a table. `row`: its
    number there; 0: several. `key` 0: not known."""

    what: str
    row: int
    key: int
    at_ms: int
    text: str


@dataclass(slots=True)
class Report:
    """Of one file. `rows`: of the blocks, and samples of the frames. `structure`: what SQLite finds wrong; `unchecked`: why nobody
    looked, as with a file of a newer program."""

    file: str
    bytes: int = 0
    frames: int = 0
    blocks: int = 0
    rows: int = 0
    totals: int = 0
    damaged: list[Wrong] = field(default_factory=list)
    structure: list[str] = field(default_factory=list)
    unchecked: str = ""

    @property
    def whole(self) -> bool:
        return not (self.damaged or self.structure or self.unchecked)


def files(folder: Path) -> list[str]:
    """hot.db first: what moves to the archive meanwhile is then seen twice, and never missed. Then from fine to coarse: what
    is made again is made of what is whole."""
    archived = [span.name for level in Level for span in archive.existing(folder, level)]
    return [*([HOT] if (folder / HOT).exists() else []), *archived]


def file(folder: Path, name: str, stop: threading.Event, pace: Pace, report: Report | None = None) -> Report:
    """`report`: filled while it goes on, for whoever watches. Unavailable: `stop` was set, or the file went meanwhile."""
    report = report or Report(name)
    path = folder / name
    try:
        report.bytes = sum(one.stat().st_size for one in (path, path.with_name(f"{name}-wal")) if one.exists())
        with contextlib.closing(salvage_store.connected(path, stop)) as c:
            _read_through(c, path, report, pace)
    except sqlite3.Error as error:
        if stop.is_set():
            raise Unavailable("the reading was given up") from error
        if not path.exists():
            raise Unavailable(f"{name} is not there any more") from error
        if not salvage_store.is_damage(error):
            raise translated(error, path) from error
        report.structure = report.structure or [str(error)]
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}") from error
    if stop.is_set():
        raise Unavailable("the reading was given up")
    return report


def _read_through(c: sqlite3.Connection, path: Path, report: Report, pace: Pace) -> None:
    span = file_named(path.name)
    report.structure += filter(None, [salvage_store.opens(path)])
    if span is not None:
        version = archive.version(c)
        if archive.VERSION < version <= MOST_VERSIONS:
            report.unchecked = f"it was written by a newer Garrison (version {version}, this program knows {archive.VERSION})"
            return
        if not 0 <= version <= MOST_VERSIONS:
            report.structure.append(f"it says that its version is {version}")
        c.execute("begin")
    report.structure += salvage_store.structure(c)
    there = _tables(c)
    create: list[Callable[[sqlite3.Connection], None]] = [archive.create]
    if span is None:
        number = salvage_store.newest_migration(c) if "migrations" in there else 0
        create = [one.apply for one in store.MIGRATIONS[:number]]
        if number > len(store.MIGRATIONS):
            report.unchecked = f"it was written by a newer Garrison (version {number}, this program knows {len(store.MIGRATIONS)})"
            return
    if there and not report.structure and salvage_store.schema_changed(c, create):
        report.structure.append("its schema was changed")
    if not {"layouts", "blocks" if span is not None else "hot"} <= there:
        if there:  # an empty file is one that was never written: nothing is lost with it
            report.structure.append("tables are missing")
        return
    _tables_through(c, there, span, report, pace)


def _tables_through(c: sqlite3.Connection, there: set[str], span: FileSpan | None, report: Report, pace: Pace) -> None:
    lost = Lost()
    columns = Columns(c)
    for row in salvage_store.walk(c, salvage_store.LAYOUTS, lost):
        wrong = None if whole_layout(row[2], row[3], frames=span is None) else "its text is not what its hash says"
        if wrong is not None:
            report.damaged.append(Wrong("layout", row[0], 0, 0, wrong))
    if span is None:
        _frames(c, report, pace, lost)
    for row in salvage_store.walk(c, salvage_store.BLOCKS, lost) if "blocks" in there else ():
        pace.breathe()
        _block(block_store.from_row(row[1:]), columns, span, report)
    with _damage_ends(lost):
        report.totals, odd = salvage_store.totals(c) if "totals" in there else (0, 0)
        if odd:
            report.damaged.append(Wrong("totals", 0, 0, 0, f"{odd} rows are no numbers"))
    with _damage_ends(lost):
        for table, count in salvage_store.dangling(c).items():
            report.damaged.append(Wrong(table, 0, 0, 0, f"{count} rows refer to what is not there"))
    if lost.times:
        report.structure = report.structure or [lost.text]


def _tables(c: sqlite3.Connection) -> set[str]:
    try:
        return salvage_store.tables(c)
    except sqlite3.DatabaseError as error:
        if not salvage_store.is_damage(error):
            raise
        return set()


@contextlib.contextmanager
def _damage_ends(lost: Lost) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not salvage_store.is_damage(error):
            raise
        lost.met(error)


# ---- frames and layouts ------------------------------------------------------------------------------------


def _frames(c: sqlite3.Connection, report: Report, pace: Pace, lost: Lost) -> None:
    layouts = hot.Layouts(c)
    for row in salvage_store.walk(c, salvage_store.FRAMES, lost):
        pace.breathe()
        report.frames += 1
        try:
            kept = salvage_store.as_frame(row[1:])
        except TypeError as error:
            report.damaged.append(Wrong("frame", row[0], 0, 0, str(error)))
            continue
        try:
            report.rows += check_frame(kept, layouts[kept.layout])
        except (BadFrame, Broken) as fault:
            report.damaged.append(Wrong("frame", kept.id, 0, kept.first_ms, fault.text))


def check_frame(kept: Kept, layout: Layout) -> int:
    """How many samples it has. BadFrame: it is not what it was."""
    look = hot.look(kept, layout, 0)
    if (int(look.at_ms.min()), int(look.at_ms.max())) != (kept.first_ms, kept.last_ms):
        raise BadFrame("its samples are of other times than its row says")
    return len(look.keys)


def whole_layout(name: object, columns: object, *, frames: bool) -> bool:
    """Whether a layout's text is what its hash says: of blocks, or (in hot.db) of frames."""
    found = read_columns(columns)
    if found is None or not isinstance(name, bytes):
        return False
    if columns_hash(columns_text(found)) == name:
        return True
    try:
        return frames and Layout(found).hash == name
    except (BadInput, AttributeError, TypeError):
        return False


def read_columns(text: object) -> tuple[Column, ...] | None:
    try:
        return tuple(Column(*one) for one in json.loads(text)) if isinstance(text, str | bytes) else None
    except (ValueError, TypeError):
        return None


# ---- blocks ------------------------------------------------------------------------------------------------


def _block(stored: Stored, columns: Columns, span: FileSpan | None, report: Report) -> None:
    report.blocks += 1
    try:
        report.rows += check_block(stored, columns, span)
    except Broken as fault:
        report.damaged.append(Wrong(name_of(stored, span), stored.id, stored.key, stored.start_ms, fault.text))


def name_of(stored: Stored, span: FileSpan | None) -> str:
    if span is None and stored.start_ms == NEWEST_MS:
        return "newest look"
    return BLOCK_OF[span.level if span is not None else None]


def check_block(stored: Stored, columns: Columns | KnownColumns, span: FileSpan | None) -> int:
    """How many rows it has. `span`: of its file; None: hot.db. Broken: it is not what was written, or not where it belongs."""
    table = block_store.read(stored, columns)
    at_ms = table.at_ms
    if (len(table), int(at_ms[0]), int(at_ms[-1])) != (stored.rows, stored.first_ms, stored.last_ms):
        raise Broken("a block holds other rows than its row says")
    if len(table) > 1 and not bool((np.diff(at_ms) > 0).all()):
        raise Broken("the times of a block do not rise")
    if span is None and stored.start_ms == NEWEST_MS:
        return len(table)
    if span is None:
        begins, ends = stored.start_ms // WINDOW_MS * WINDOW_MS, stored.start_ms + WINDOW_MS
    else:
        begins, ends = block_start(span.level, stored.start_ms), block_end(span.level, stored.start_ms)
    inside = span is None or span.from_ms <= begins < span.to_ms
    if begins != stored.start_ms or not inside or not begins <= stored.first_ms <= stored.last_ms < ends:
        raise Broken("a block lies at a time that is not its own")
    step_ms = None if span is None else STEP_OF.get(span.level)
    if step_ms is not None and bool((at_ms % step_ms).any()):
        raise Broken("the steps of a block begin between two steps")
    return len(table)


def damaged_row(stored: Stored, what: str, file_name: str, text: str, now_ms: int) -> store.Damaged:
    return store.Damaged(now_ms, file_name, what, stored.key, stored.start_ms, text, stored.body)


def words(fault: Fault) -> str:
    return f"{fault.text}: {fault.hint}" if fault.hint else fault.text
