"""Sets aside what `verify` finds, and keeps the rest. The work of one thread, while nobody else writes to the archive.

    mended = repair.mend(hand, "raw-2026-W48.db")          # each in the order of `verify.files`
    mended.whole, mended.did

Blocks and frames that do not read leave their file and go into the table `damaged` of hot.db. A file whose structure is
damaged is written anew from what reads, and takes the old one's place in one step; the old one is kept in `history/damaged/`. A
lost 5-minute day is made again from its looks, a lost hourly month from its 5-minute days; lost looks are lost. Whoever is killed
on the way finds the old file or the new one, and repairs again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from commander import db
from commander.telemetry import archive, block_store, merge, rollup, salvage, salvage_store, store, totals_store, verify
from commander.telemetry.block_store import Columns, Packed
from commander.telemetry.blocks import Grain
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, FileSpan, Level, file_named, files_between
from commander.telemetry.seal import Pace
from commander.telemetry.store import Damaged
from commander.telemetry.table import Table, merged
from commander.telemetry.verify import HOT, Report, Wrong
from garrison.faults import Broken, Unavailable
from garrison.frame import Layout

T = TypeVar("T")

_ROWS = 50
"""So many rows are set aside in one transaction."""

Writing = Callable[[Callable[[sqlite3.Connection], Any]], Any]
OFFLINE = "stop the commander, then: commander history repair --offline"


@dataclass(frozen=True, slots=True)
class Hand:
    """What a repair works with. `write`: runs work on hot.db, done when it is durable. `layouts`: of frames, as somebody in memory
    has them; `unlearn`: they are to be written again when they are announced. `closed`: while inside, nobody else has that
    file open. `alone`: no commander runs."""

    folder: Path
    write: Writing
    now_ms: int
    stop: threading.Event
    layouts: Sequence[Layout] = ()
    unlearn: Callable[[set[bytes]], None] = lambda _: None
    closed: Callable[[str], contextlib.AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
    alone: bool = False


@dataclass(slots=True)
class Mended:
    """Of one file. `did`: sentences. `kept_as`: where the old file is, from the history's folder. `whole`: it was verified
    afterwards; else `why` not."""

    file: str
    did: list[str] = field(default_factory=list)
    set_aside: int = 0
    made_again: int = 0
    kept_as: str = ""
    whole: bool = True
    why: str = ""


def mend(hand: Hand, name: str) -> Mended:
    """One file. DiskFull, Unavailable: it is as it was."""
    done = Mended(name)
    report = _look(hand, name)
    if not report.whole and not report.unchecked:
        span = file_named(name)
        if span is None:
            _mend_hot(hand, report, done)
        else:
            _mend_archive(hand, span, report, done)
        report = _look(hand, name) if (hand.folder / name).exists() else Report(name)
    done.whole, done.why = report.whole, done.why or why(report)
    return done


def why(report: Report) -> str:
    """Why a file is not whole, in words; empty: it is."""
    said = [report.unchecked] if report.unchecked else [*report.structure]
    if report.damaged:
        said.append(f"{len(report.damaged)} damaged, the first: {report.damaged[0].what}: {report.damaged[0].text}")
    return "; ".join(said)


def _look(hand: Hand, name: str) -> Report:
    return verify.file(hand.folder, name, hand.stop, Pace())


# ---- a file of the archive ---------------------------------------------------------------------------------


def _mend_archive(hand: Hand, span: FileSpan, report: Report, done: Mended) -> None:
    path = hand.folder / span.name
    lost_totals = bool(report.structure) or any(wrong.what == "totals" for wrong in report.damaged)
    if not report.structure and _restore_layouts(hand, path, report, done):
        report = _look(hand, span.name)
    if report.structure or len(report.damaged) > salvage.MOST_KEPT:
        _write_anew(hand, span, done)
    elif report.damaged:
        _take_out(hand, path, report, done)
    if span.level is Level.FIVE_MINUTES:
        done.made_again += _make_steps(hand, span)
    elif span.level is Level.HOUR:
        done.made_again += _make_hours(hand, span)
        if lost_totals:
            _make_hourly_totals(hand, span, done)
    if done.made_again:
        done.did.append(f"{_count(done.made_again, verify.BLOCK_OF[span.level])} made again from finer values")


def _write_anew(hand: Hand, span: FileSpan, done: Mended) -> None:
    path = hand.folder / span.name
    fresh = hand.folder / f".{span.name}.part"
    texts = salvage.layout_texts(hand.folder, hand.layouts, hand.stop)
    try:
        saved = salvage.archive_file(path, fresh, span, texts, hand.now_ms, hand.stop, Pace())
        with hand.closed(span.name):
            kept = salvage.keep(path, hand.now_ms)
            if saved.empty:
                salvage.remove(path)
            else:
                salvage.take_place(fresh, path)
    finally:
        salvage.remove(fresh)
    _tell_anew(hand, kept, done, saved)
    noted = [Damaged(hand.now_ms, span.name, "file", 0, span.from_ms, f"written anew, the old one is {done.kept_as}", b"")]
    hand.write(partial(store.put_damaged, found=[*noted, *saved.set_aside]))


def _tell_anew(hand: Hand, kept: Path, done: Mended, saved: salvage.Salvaged) -> None:
    done.set_aside += saved.bad
    done.kept_as = kept.relative_to(hand.folder).as_posix()
    frames = f", {_count(saved.frames, 'frame')}" if saved.frames else ""
    what = f"{_count(saved.blocks, 'block')}{frames} and {_count(saved.totals, 'total')} read and were kept"
    done.did.append("nothing of it reads" if saved.empty else what)
    if saved.bad:
        done.did.append(f"{saved.bad} more were found and do not read")
    done.did.append(f"the old file is {done.kept_as}")


def _take_out(hand: Hand, path: Path, report: Report, done: Mended) -> None:
    blocks = [wrong for wrong in report.damaged if wrong.what in _BLOCKS]
    for some in _parts(blocks):
        hand.write(partial(store.put_damaged, found=_damaged(hand, path, some)))
        with archive.writing(path) as file:
            block_store.remove(file, [wrong.row for wrong in some])
    with archive.writing(path) as file:
        totals = salvage_store.remove_odd_totals(file)
        salvage_store.remove_layouts(file, [wrong.row for wrong in report.damaged if wrong.what == "layout"])
        others = salvage_store.remove_dangling(file)
    _tell_out(done, len(blocks), totals + others)


_BLOCKS = frozenset({*verify.BLOCK_OF.values(), "newest look"})


def _tell_out(done: Mended, set_aside: int, removed: int) -> None:
    done.set_aside += set_aside
    if set_aside:
        done.did.append(f"{set_aside} that do not read were set aside")
    if removed:
        done.did.append(f"{_count(removed, 'row')} that made no sense removed")


def _damaged(hand: Hand, path: Path, some: Sequence[Wrong]) -> list[Damaged]:
    """With their bodies as they are on disk."""
    found = []
    with contextlib.closing(salvage_store.connected(path, hand.stop)) as c:
        for wrong in some:
            if wrong.what == "frame":
                body = salvage_store.frame_body(c, wrong.row)
            else:
                stored = salvage_store.block(c, wrong.row)
                body = b"" if stored is None else stored.body
            found.append(Damaged(hand.now_ms, path.name, wrong.what, wrong.key, wrong.at_ms, wrong.text, body))
    return found


def _restore_layouts(hand: Hand, path: Path, report: Report, done: Mended) -> bool:
    """A layout stands in many files: its hash finds its text in another one. Whether any was put right."""
    numbers = [wrong.row for wrong in report.damaged if wrong.what == "layout"]
    if not numbers:
        return False
    texts = salvage.layout_texts(hand.folder, hand.layouts, hand.stop)
    with contextlib.closing(salvage_store.connected(path, hand.stop)) as c:
        found = {number: texts[name] for number in numbers if (name := salvage_store.layout_hash(c, number)) in texts}
    if not found:
        return False

    def put(c: sqlite3.Connection) -> None:
        for number, text in found.items():
            salvage_store.put_layout_text(c, number, text)

    if path.name == HOT:
        hand.write(put)
    else:
        with archive.writing(path) as file:
            put(file)
    done.did.append(f"{_count(len(found), 'layout')} put right from elsewhere")
    return True


# ---- made again --------------------------------------------------------------------------------------------


def _make_steps(hand: Hand, span: FileSpan) -> int:
    """5-minute days of a month that are not there, from the looks of the day."""
    have = _pairs(hand.folder / span.name, span)
    made = 0
    for raw in archive.between(hand.folder, Level.RAW, span.from_ms, span.to_ms):
        missing = sorted(_pairs(hand.folder / raw.name, span) - have)
        for some in _parts(missing):
            rows = [_packed(key, start_ms, rollup.steps(looks, STEP_MS)) for key, start_ms, looks in _read(hand, raw, some)]
            made += _put(hand, span, rows)
    return made


def _make_hours(hand: Hand, span: FileSpan) -> int:
    """Hourly months of a year that are not there, from the 5-minute days."""
    have = _pairs(hand.folder / span.name, span)
    made = 0
    for month in files_between(Level.FIVE_MINUTES, span.from_ms, span.to_ms):
        days: dict[int, list[tuple[int, int]]] = {}
        for key, start_ms in sorted(_pairs(hand.folder / month.name, month)):
            if (key, month.from_ms) not in have:
                days.setdefault(key, []).append((key, start_ms))
        for some in _parts(sorted(days)):
            rows = []
            for key in some:
                steps = merged([table for _, _, table in _read(hand, month, days[key])])
                if len(steps):
                    rows.append(_packed(key, month.from_ms, rollup.coarser(steps, HOUR_MS)))
            made += _put(hand, span, rows)
    return made


def _make_hourly_totals(hand: Hand, span: FileSpan, done: Mended) -> None:
    """All of a year, from those of five minutes that are there: a few days at a time."""
    made = 0
    for month in archive.between(hand.folder, Level.FIVE_MINUTES, span.from_ms, span.to_ms):
        for from_ms in range(month.from_ms, month.to_ms, DAY_MS):
            with _reading(hand.folder / month.name) as c:
                steps = [] if c is None else totals_store.archived_between(c, from_ms, from_ms + DAY_MS)
            if steps:
                hours = merge.hourly(steps)
                made += len(hours)
                with archive.writing(hand.folder / span.name) as file:
                    totals_store.replace(file, hours)
    if made:
        done.did.append(f"{_count(made, 'hourly total')} made again")


def _pairs(path: Path, span: FileSpan) -> set[tuple[int, int]]:
    with _reading(path) as c:
        return set() if c is None else salvage_store.pairs(c, span.from_ms, span.to_ms)


def _read(hand: Hand, span: FileSpan, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, Table]]:
    """(key, start, table) of the blocks that read; keys as SQL has them."""
    with _reading(hand.folder / span.name) as c:
        columns = None if c is None else Columns(c)
        for key, start_ms in pairs if c is not None else ():
            if hand.stop.is_set():
                raise Unavailable("the repair was given up")
            stored = block_store.at(c, block_store.unsigned(key), start_ms) if c is not None else None
            if stored is not None and columns is not None:
                with contextlib.suppress(Broken):
                    yield key, start_ms, block_store.read(stored, columns)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """None: there is no such file, or it does not read: nothing can be made from it."""
    with contextlib.ExitStack() as stack:
        try:
            c = stack.enter_context(archive.reading(path))
            there = c is not None and "blocks" in salvage_store.tables(c)
        except (Broken, Unavailable, sqlite3.DatabaseError):
            there = False
        yield c if there else None


def _packed(key: int, start_ms: int, table: Table) -> Packed:
    return block_store.packed(block_store.unsigned(key), start_ms, table, Grain.COLUMN)


def _put(hand: Hand, span: FileSpan, rows: Sequence[Packed]) -> int:
    if rows:
        with archive.writing(hand.folder / span.name) as file:
            block_store.put(file, rows)
            archive.touch(file, hand.now_ms)
    return len(rows)


# ---- hot.db ------------------------------------------------------------------------------------------------


def _mend_hot(hand: Hand, report: Report, done: Mended) -> None:
    path = hand.folder / HOT
    if report.structure and salvage_store.only_indexes(report.structure):
        hand.write(salvage_store.reindex)
        done.did.append("its indexes were made anew")
        report = _look(hand, HOT)
    if report.structure:
        if hand.alone:
            _write_hot_anew(hand, path, done)
        else:
            done.why = f"{why(report)}; {OFFLINE}"
        return
    if _restore_layouts(hand, path, report, done):
        report = _look(hand, HOT)
    wrongs = [wrong for wrong in report.damaged if wrong.what in _BLOCKS or wrong.what == "frame"]
    if len(wrongs) > salvage.MOST_KEPT:  # more than the table of what is set aside may hold
        kept = salvage.free_name(path, hand.now_ms)
        db.copy_checked(path, kept, hand.stop.is_set)
        done.kept_as = kept.relative_to(hand.folder).as_posix()
        done.did.append(f"a copy of the old file is {done.kept_as}")
    for some in _parts(wrongs):
        hand.write(partial(_out_of_hot, some=some, found=_damaged(hand, path, some)))
    layouts = [wrong.row for wrong in report.damaged if wrong.what == "layout"]
    if layouts:
        with contextlib.closing(salvage_store.connected(path, hand.stop)) as c:
            hand.unlearn({name for number in layouts if (name := salvage_store.layout_hash(c, number)) is not None})
    removed = hand.write(partial(_sense_into_hot, layouts=layouts))
    _tell_out(done, len(wrongs), removed)


def _out_of_hot(c: sqlite3.Connection, some: Sequence[Wrong], found: Sequence[Damaged]) -> None:
    store.put_damaged(c, found)
    store.remove_frames(c, [wrong.row for wrong in some if wrong.what == "frame"])
    block_store.remove(c, [wrong.row for wrong in some if wrong.what != "frame"])


def _sense_into_hot(c: sqlite3.Connection, layouts: Sequence[int]) -> int:
    for number in layouts:
        name, text = salvage_store.layout_hash(c, number), salvage_store.layout_text(c, number)
        if not verify.whole_layout(name, text, frames=True):  # nobody has written it again meanwhile
            salvage_store.remove_layouts(c, [number])
    return salvage_store.remove_odd_totals(c) + salvage_store.remove_dangling(c)


def _write_hot_anew(hand: Hand, path: Path, done: Mended) -> None:
    fresh = path.with_name(f".{HOT}.part")
    texts = salvage.layout_texts(hand.folder, hand.layouts, hand.stop)
    try:
        saved = salvage.hot_file(path, fresh, texts, hand.now_ms, hand.stop, Pace())
        kept = salvage.keep(path, hand.now_ms)
        salvage.take_place(fresh, path)
    finally:
        salvage.remove(fresh)
    _tell_anew(hand, kept, done, saved)
    done.did.append("what its sentries still hold of the last day comes again")


# ---- no commander runs -------------------------------------------------------------------------------------


def mend_offline(folder: Path, now_ms: int) -> Iterator[Mended]:
    """All files, the newest state first. Only for who holds the home's lock."""
    path = folder / HOT

    def write(work: Callable[[sqlite3.Connection], Any]) -> Any:
        db.prepare(path, store.MIGRATIONS)
        with contextlib.closing(db.connect(path)) as c, salvage_store.transaction(c):
            return work(c)

    hand = Hand(folder, write, now_ms, threading.Event(), alone=True)
    for name in verify.files(folder):
        yield mend(hand, name)


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(rows), _ROWS):
        yield rows[first : first + _ROWS]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
