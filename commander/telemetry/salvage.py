"""A file of the history that SQLite finds damaged, read as far as it goes into a new one. The work of a thread.

Rows are found by SQL, past every page that does not read, and those that are still missing on the leaf pages themselves. Only what
its own checksum or codec proves is kept of blocks, frames and layouts; a layout that does not read is taken from another file that
has it. Where the first page is lost, that of an empty file of ours takes its place in a copy: all our archive files begin alike.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from commander import db
from commander.telemetry import archive, block_store, pages, salvage_store, store, verify
from commander.telemetry.block_store import KnownColumns, Packed, Stored, columns_hash, columns_text
from commander.telemetry.levels import FileSpan
from commander.telemetry.salvage_store import Lost, Shape
from commander.telemetry.seal import Pace
from commander.telemetry.store import Damaged
from garrison.faults import BadFrame, BadInput, Broken, DiskFull, Unavailable
from garrison.frame import Layout

FOLDER = "damaged"
"""Beside the files of the history: what they were before they were repaired. Nobody removes it but a person."""

MOST_KEPT = 200
"""So many rows of one damaged file are set aside one by one: the whole file is kept too."""

_BATCH_ROWS = 200
_BATCH_BYTES = 32 << 20

Texts = Mapping[bytes, str]
"""A layout's hash to its text."""


@dataclass(slots=True)
class Salvaged:
    """`set_aside`: the first of what did not read; `bad`: how many that were."""

    blocks: int = 0
    frames: int = 0
    totals: int = 0
    bad: int = 0
    set_aside: list[Damaged] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.blocks or self.frames or self.totals)

    def put_aside(self, one: Damaged) -> None:
        self.bad += 1
        if len(self.set_aside) < MOST_KEPT:
            self.set_aside.append(one)


def layout_texts(folder: Path, layouts: Iterable[Layout], stop: threading.Event) -> dict[bytes, str]:
    """All layouts that any file has whole, and those given, by each of their two hashes."""
    found: dict[bytes, str] = {}
    for layout in layouts:
        _add(found, columns_text(layout.columns))
    for name in verify.files(folder):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(salvage_store.connected(folder / name, stop)) as c:
            for row in salvage_store.walk(c, salvage_store.LAYOUTS, Lost()):
                columns = verify.read_columns(row[3])
                if columns is not None and verify.whole_layout(row[2], row[3], frames=True):
                    _add(found, columns_text(columns))
    return found


def _add(found: dict[bytes, str], text: str) -> None:
    found[columns_hash(text)] = text
    columns = verify.read_columns(text)
    with contextlib.suppress(BadInput):  # thousands of columns, as steps may have, are no layout of frames
        found[Layout(columns or ()).hash] = text


# ---- a file of the archive ---------------------------------------------------------------------------------


def archive_file(path: Path, fresh: Path, span: FileSpan, texts: Texts, now_ms: int, stop: threading.Event, pace: Pace) -> Salvaged:
    """Writes `fresh` from what reads of `path`. DiskFull, Unavailable; `fresh` is then of no use."""
    room(path.parent, 2 * path.stat().st_size)
    remove(fresh)
    done = Salvaged()
    with _readable(path, stop) as source, contextlib.closing(salvage_store.connected(source, stop)) as c:
        known = _layouts(c, source, texts)
        packed = _packed(c, source, span, path.name, known, done, now_ms)
        for batch in _batches(packed):
            pace.breathe()
            _stop(stop)
            with archive.writing(fresh) as file:
                block_store.put(file, batch)
            done.blocks += len(batch)
        with archive.writing(fresh) as file:
            _archive_tables(c, file, done, now_ms)
    sync(fresh)
    return done


@contextlib.contextmanager
def _readable(path: Path, stop: threading.Event) -> Iterator[Path]:
    """The file itself, or where its first page is lost a copy with another one, for as long as it is needed."""
    with contextlib.closing(salvage_store.connected(path, stop)) as c:
        good = salvage_store.knows(c, ("layouts", "blocks", "lines", "totals", "applied"))
    if good:
        yield path
        return
    copy, empty = path.with_name(f".{path.name}.first.part"), path.with_name(f".{path.name}.empty.part")
    remove(copy)
    remove(empty)
    try:
        with archive.writing(empty):
            pass
        shutil.copyfile(path, copy)
        count = copy.stat().st_size // archive.PAGE_BYTES
        page = bytearray(empty.read_bytes()[: archive.PAGE_BYTES])
        page[28:32] = count.to_bytes(4, "big")  # pages of the file
        page[92:96] = page[24:28]  # so that SQLite believes it
        with copy.open("rb+") as file:
            file.write(page)
        yield copy
    finally:
        remove(copy)
        remove(empty)


def _layouts(c: sqlite3.Connection, path: Path, texts: Texts) -> KnownColumns:
    """Number to (hash, columns), of the layouts that read or that another file has."""
    lost = Lost()
    rows = [(row[1], row[2], row[3]) for row in _walk(c, salvage_store.LAYOUTS, lost)]
    rows += [(number, values[1], values[2]) for number, values in pages.rows(path, 3, archive.PAGE_BYTES)]
    found: dict[int, tuple[bytes, tuple[Any, ...]]] = {}
    for number, name, text in rows:
        if number in found or not isinstance(name, bytes):
            continue
        whole = text if verify.whole_layout(name, text, frames=True) else texts.get(name)
        columns = verify.read_columns(whole)
        if columns is not None:
            found[number] = name, columns
    return found


def _packed(
    c: sqlite3.Connection, path: Path, span: FileSpan | None, name: str, known: KnownColumns, done: Salvaged, now_ms: int
) -> Iterator[Packed]:
    """Blocks that are whole: by SQL, and then from the pages those that SQL does not find. Of those a page that is free may hold an
    older one: the longest counts."""
    lost = Lost()
    seen: set[tuple[int, int]] = set()
    for row in _walk(c, salvage_store.BLOCKS, lost):
        stored = block_store.from_row(row[1:])
        try:
            verify.check_block(stored, known, span)
        except Broken as fault:
            done.put_aside(verify.damaged_row(stored, verify.name_of(stored, span), name, fault.text, now_ms))
            continue
        except KeyError:
            done.put_aside(verify.damaged_row(stored, verify.name_of(stored, span), name, "its layout is lost", now_ms))
            continue
        if (stored.signed_key, stored.start_ms) not in seen:
            seen.add((stored.signed_key, stored.start_ms))
            yield _as_packed(stored, known)
    longest: dict[tuple[int, int], int] = {}
    for number, values in pages.rows(path, 9, archive.PAGE_BYTES):
        stored = block_store.from_row((number, *values[1:]))
        place = stored.signed_key, stored.start_ms
        if place in seen or longest.get(place, 0) >= stored.rows:
            continue
        try:
            verify.check_block(stored, known, span)
        except (Broken, KeyError):
            continue
        longest[place] = stored.rows
        yield _as_packed(stored, known)


def _as_packed(stored: Stored, known: KnownColumns) -> Packed:
    columns = known[stored.layout][1]
    return Packed(stored.key, stored.start_ms, columns, stored.rows, stored.first_ms, stored.last_ms, stored.body)


def _batches(packed: Iterable[Packed]) -> Iterator[list[Packed]]:
    batch: list[Packed] = []
    size = 0
    for one in packed:
        batch.append(one)
        size += len(one.body)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _archive_tables(c: sqlite3.Connection, file: sqlite3.Connection, done: Salvaged, now_ms: int) -> None:
    for shape in salvage_store.ARCHIVE:
        _copy(c, file, shape)
    if not archive.touched_ms(file):
        archive.touch(file, now_ms)
    done.totals += _copy_totals(c, file, salvage_store.TOTALS)


# ---- hot.db ------------------------------------------------------------------------------------------------


def hot_file(path: Path, fresh: Path, texts: Texts, now_ms: int, stop: threading.Event, pace: Pace) -> Salvaged:
    """The same of hot.db. A frame without its post is of nobody, and set aside; what its sentry still holds comes again."""
    room(path.parent, 2 * path.stat().st_size)
    remove(fresh)
    db.prepare(fresh, store.MIGRATIONS)
    done = Salvaged()
    with (
        contextlib.closing(salvage_store.connected(path, stop)) as c,
        contextlib.closing(db.connect(fresh)) as file,
    ):
        file.execute("pragma foreign_keys=off")
        known = _layouts(c, path, texts)
        with salvage_store.transaction(file):
            for shape in salvage_store.HOT:
                _copy(c, file, shape)
            rows = ((number, name, columns_text(columns)) for number, (name, columns) in known.items())
            salvage_store.insert(file, "layouts", ("no", "hash", "columns"), rows)
            done.totals += _copy_totals(c, file, salvage_store.HOT_TOTALS)
            salvage_store.remove_dangling(file)
        _hot_frames(c, file, known, done, now_ms, pace)
        for batch in _batches(_packed(c, path, None, verify.HOT, known, done, now_ms)):
            pace.breathe()
            _stop(stop)
            with salvage_store.transaction(file):
                block_store.put(file, batch)
            done.blocks += len(batch)
        with salvage_store.transaction(file):
            store.put_damaged(file, done.set_aside)
    sync(fresh)
    return done


def _hot_frames(
    c: sqlite3.Connection, file: sqlite3.Connection, known: KnownColumns, done: Salvaged, now_ms: int, pace: Pace
) -> None:
    posts = set(store.post_numbers(file).values())
    layouts: dict[int, Layout] = {}
    for number, (_, columns) in known.items():
        with contextlib.suppress(BadInput):
            layouts[number] = Layout(columns)
    rows: list[tuple[Any, ...]] = []
    for row in _walk(c, salvage_store.FRAMES, Lost()):
        pace.breathe()
        try:
            kept = salvage_store.as_frame(row[1:])
            if row[2] not in posts:
                raise BadFrame("its post is lost")
            verify.check_frame(kept, layouts[kept.layout])
        except (TypeError, KeyError, BadFrame) as error:
            text = error.text if isinstance(error, BadFrame) else "its row or its layout is lost"
            body = row[11] if isinstance(row[11], bytes) else b""
            done.put_aside(Damaged(now_ms, verify.HOT, "frame", 0, 0, text, body))
            continue
        rows.append(row[1:])
        if len(rows) >= _BATCH_ROWS:
            done.frames += _put_frames(file, rows)
            rows = []
    done.frames += _put_frames(file, rows)


def _put_frames(file: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> int:
    with salvage_store.transaction(file):
        return salvage_store.insert(file, "hot", salvage_store.FRAMES.columns, rows)


# ---- both --------------------------------------------------------------------------------------------------


def _walk(
    c: sqlite3.Connection, shape: Shape, lost: Lost, where: str = "", given: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    """Nothing, where there is no such table or none that can be found."""
    try:
        there = shape.name in salvage_store.tables(c)
    except sqlite3.DatabaseError as error:
        if not salvage_store.is_damage(error):
            raise
        there = False
    if there:
        yield from salvage_store.walk(c, shape, lost, where, given)


def _copy(c: sqlite3.Connection, file: sqlite3.Connection, shape: Shape) -> int:
    """As far as the old table has the columns."""
    there = salvage_store.columns_there(c, shape.name)
    columns = tuple(one for one in shape.columns if one in there)
    if not columns:
        return 0
    rows = (row[1:] for row in _walk(c, Shape(shape.name, shape.lead, columns), Lost()))
    return salvage_store.insert(file, shape.name, columns, rows)


def _copy_totals(c: sqlite3.Connection, file: sqlite3.Connection, shape: Shape) -> int:
    if not salvage_store.columns_there(c, shape.name):
        return 0
    copied = 0
    for line in salvage_store.numbers_of(file, "lines", "no"):
        rows = (row[1:] for row in _walk(c, shape, Lost(), "line = ?", (line,)) if row[1] == line)
        copied += salvage_store.insert(file, shape.name, shape.columns, rows)
    return copied - salvage_store.remove_odd_totals(file)


def free_name(path: Path, now_ms: int) -> Path:
    """Where the file may be kept in `damaged/`."""
    folder = path.parent / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    target, number = folder / f"{path.name}.{stamp}", 1
    while target.exists():
        number += 1
        target = folder / f"{path.name}.{stamp}-{number}"
    return target


def keep(path: Path, now_ms: int) -> Path:
    """The file under a second name in `damaged/`, with what SQLite had not folded into it yet; where that is."""
    try:
        target = free_name(path, now_ms)
        try:
            target.hardlink_to(path)
        except OSError:  # a file system without links
            shutil.copyfile(path, target)
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists() and not wal.stat().st_size:
            wal.unlink()  # left by whoever only read
        if wal.exists():  # of the old file: the new one must not find it
            wal.rename(target.with_name(f"{target.name}-wal"))
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
        sync(target.parent)
    except OSError as error:
        raise Unavailable(f"cannot keep {path} in {path.parent / FOLDER}: {error.strerror}") from error
    return target


def take_place(fresh: Path, path: Path) -> None:
    """`fresh` becomes `path` in one step. Unavailable: somebody reads the old one (Windows)."""
    try:
        fresh.replace(path)
    except OSError as error:
        raise Unavailable(f"cannot replace {path}: {error.strerror}", hint="somebody reads it; try again") from error
    sync(path.parent)


def remove(path: Path) -> None:
    for one in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        one.unlink(missing_ok=True)


def room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(f"{needed / 1e6:.0f} MB are needed in {folder} to write it anew, {free / 1e6:.0f} MB are free")


def sync(path: Path) -> None:
    """So that it survives a power cut. Windows has no such thing for folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stop(stop: threading.Event) -> None:
    if stop.is_set():
        raise Unavailable("the repair was given up")
