"""What is looked at to find damage, and read past it: all the SQL of verify and repair.

SQLite stops at the first page that does not read. `walk` goes on behind it: by the leading column, in leaps that double, and
then back to the first row that reads again.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commander.telemetry.block_store import Stored, from_row
from commander.telemetry.store import Kept

ROWS = 200
"""Of one statement: between two of them the writer may fold its WAL back."""

MOST_WORDS = 5
_LAST = 2**63 - 1
_STEPS = 10_000
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR})
"""The last one says that a table or column is not there: our statements fit, so it is the schema that was harmed."""

_OF_AN_INDEX = re.compile(r"(row \S+ )?(missing from index|wrong # of entries in index|non-unique entry in index|rowid not at end)")


@dataclass(frozen=True, slots=True)
class Shape:
    """A table: its leading column (ascending, an integer) and those that are copied."""

    name: str
    lead: str
    columns: tuple[str, ...]


HOT = (
    Shape("posts", "no", ("no", "sentry", "sealed_ms")),
    Shape("journals", "no", ("no", "post", "boot", "seen_ms")),
    Shape("marks", "rowid", ("journal", "first", "last")),
    Shape("presence", "rowid", ("key", "post", "first_ms", "last_ms")),
    Shape("lines", "no", ("no", "kind", "name", "metric")),
    Shape("batches", "no", ("no", "made_ms")),
    Shape("members", "key", ("key", "kind", "name", "from_ms", "to_ms")),
    Shape("set_aside", "id", ("received_ms", "sentry", "boot", "seq", "layout", "code", "text", "size", "body")),
    Shape("damaged", "id", ("found_ms", "file", "what", "key", "at_ms", "text", "size", "body")),
)
"""Of hot.db, with those first that others refer to. Layouts, frames, blocks and totals are looked at one by one."""

HOT_TOTALS = Shape("totals", "at_ms", ("line", "at_ms", "batch", "devices", "covered", "sum", "min", "max"))
TOTALS = Shape("totals", "at_ms", ("line", "at_ms", "devices", "covered", "sum", "min", "max"))
ARCHIVE = (
    Shape("meta", "rowid", ("name", "value")),
    Shape("lines", "no", ("no", "kind", "name", "metric")),
    Shape("applied", "batch", ("batch",)),
)
LAYOUTS = Shape("layouts", "no", ("no", "hash", "cast(columns as blob)"))
FRAMES = Shape(
    "hot",
    "id",
    ("id", "post", "journal", "seq", "layout", "first_ms", "last_ms", "wide", "received_ms", "ahead_ms", "body"),
)
BLOCKS = Shape("blocks", "id", ("id", "key", "start_ms", "layout", "rows", "first_ms", "last_ms", "crc", "body"))


def connected(path: Path, stop: threading.Event) -> sqlite3.Connection:
    """Read-only; also a file that was cut short, whose first pages still read. `stop` ends every statement."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("pragma query_only=1")
    connection.execute("pragma writable_schema=1")  # else a file shorter than it says is refused as a whole
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.set_progress_handler(lambda: int(stop.is_set()), _STEPS)
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Of the file, not of the statement."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


# ---- looking -----------------------------------------------------------------------------------------------


def tables(c: sqlite3.Connection) -> set[str]:
    return {row[0] for row in c.execute("select name from sqlite_master where type = 'table'")}


def schema_changed(c: sqlite3.Connection, create: Iterable[Callable[[sqlite3.Connection], None]]) -> bool:
    """Whether the file says something else of its tables, indexes and views than it was made with; what others added does not
    matter."""
    sql = "select type, name, tbl_name, sql from sqlite_master"
    with contextlib.closing(sqlite3.connect(":memory:")) as other:
        for part in create:
            part(other)
        right = {tuple(row) for row in other.execute(sql)}
    return not right <= {tuple(row) for row in c.execute(sql)}


def knows(c: sqlite3.Connection, names: Iterable[str]) -> bool:
    """Whether these tables can be asked: the schema reads."""
    try:
        for name in names:
            c.execute(f"select 1 from {name} limit 0")  # noqa: S608  # our own constants
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return False
    return True


def opens(path: Path) -> str:
    """Why SQLite refuses the file as it is; empty: it does not."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as c:
            c.execute("select 1 from sqlite_master limit 1").fetchone()
    except UnicodeDecodeError:
        return "its schema was changed"
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return str(error)
    return ""


def structure(c: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with pages, tables and indexes; empty: nothing. More than quick_check: also that every index says
    what its table says."""
    try:
        told = [str(row[0]) for row in c.execute(f"pragma integrity_check({MOST_WORDS})")]
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return [str(error)]
    lines = [line.strip() for one in told for line in one.splitlines() if not line.startswith("***")]
    return [] if lines == ["ok"] else lines[:MOST_WORDS]


def only_indexes(structure: Iterable[str]) -> bool:
    """Whether making the indexes anew is all it takes."""
    return all(_OF_AN_INDEX.match(line) for line in structure)


def newest_migration(c: sqlite3.Connection) -> int:
    """Of hot.db; 0: it does not say."""
    try:
        found = c.execute("select max(number) from migrations").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return 0
    return found if isinstance(found, int) else 0


def dangling(c: sqlite3.Connection) -> dict[str, int]:
    """Rows that refer to what is not there, by table; blocks without a layout are found one by one."""
    found: dict[str, int] = {}
    for row in c.execute("pragma foreign_key_check"):
        if row[0] != "blocks":
            found[row[0]] = found.get(row[0], 0) + 1
    return found


def totals(c: sqlite3.Connection) -> tuple[int, int]:
    """(rows, rows that are no numbers)."""
    row = c.execute(f"select count(*), coalesce(sum({_ODD}), 0) from totals").fetchone()  # noqa: S608  # our own constant
    return int(row[0]), int(row[1])


_ODD = " or ".join(
    [
        *(f"typeof({name}) not in ('integer', 'real') or abs({name}) > 1e300" for name in ("devices", "covered", "sum")),
        *(f"typeof({name}) not in ('integer', 'real', 'null') or abs({name}) > 1e300" for name in ("min", "max")),
    ]
)


def pairs(c: sqlite3.Connection, from_ms: int, to_ms: int) -> set[tuple[int, int]]:
    """(key as SQL has it, start) of the blocks that start in [from, to)."""
    rows = c.execute("select key, start_ms from blocks where start_ms >= ? and start_ms < ?", (from_ms, to_ms))
    return {(row[0], row[1]) for row in rows}


def as_frame(row: Sequence[Any]) -> Kept:
    """Of a row of FRAMES; TypeError: it is none any more."""
    if not (isinstance(row[10], bytes) and all(isinstance(one, int) for one in row[:10])):
        raise TypeError("its row was changed on disk")
    return Kept(row[0], row[4], row[5], row[6], row[8], row[9], row[10])


# ---- reading past damage -----------------------------------------------------------------------------------


class Lost:
    """What a walk met."""

    def __init__(self) -> None:
        self.times = 0
        self.text = ""

    def met(self, error: sqlite3.Error) -> None:
        self.times += 1
        self.text = str(error)


def walk(c: sqlite3.Connection, shape: Shape, lost: Lost, where: str = "", given: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
    """The rows that read, by the leading column, which is in front of the others. After damage some may come twice."""
    chosen = ", ".join((shape.lead, *shape.columns))
    also = f" and {where}" if where else ""
    after = f"select {chosen} from {shape.name} where {shape.lead} > ?{also} order by {shape.lead}"  # noqa: S608  # our own constants
    if shape.name not in ("members", "totals"):  # whose leading column is not unique
        after += f" limit {ROWS}"
    one = f"select {chosen} from {shape.name} where {shape.lead} = ?{also}"  # noqa: S608  # the same
    last = -(2**63)
    while True:
        count = 0
        try:
            for row in c.execute(after, (last, *given)):
                count += 1
                last = row[0] if isinstance(row[0], int) else last
                yield tuple(row)
            if count < ROWS or "limit" not in after:
                return
            continue
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            lost.met(error)
        behind = _behind(c, shape, also, given, last)
        if behind is None:
            return
        last = behind
        try:
            yield from [tuple(row) for row in c.execute(one, (behind, *given))]
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            lost.met(error)


def _behind(c: sqlite3.Connection, shape: Shape, also: str, given: Sequence[Any], last: int) -> int | None:
    """The first row behind `last` that can be found; None: there is none."""
    sql = f"select {shape.lead} from {shape.name} where {shape.lead} >= ?{also} order by {shape.lead} limit 1"  # noqa: S608  # the same

    def found(at: int) -> tuple[bool, int | None]:
        try:
            row = c.execute(sql, (at, *given)).fetchone()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return False, None
        return row is None or isinstance(row[0], int), None if row is None else row[0]

    failed, step = last, 1
    while True:
        at = min(failed + step, _LAST)
        good, row = found(at)
        if good:
            break
        if at == _LAST:
            return None
        failed, step = at, step * 2
    while at - failed > 1:
        middle = (at + failed) // 2
        better, other = found(middle)
        if better:
            at, row = middle, other
        else:
            failed = middle
    return row if row is None or row > last else None


def numbers_of(c: sqlite3.Connection, table: str, column: str) -> list[int]:
    """All values of a column of numbers, as far as they read."""
    lost = Lost()
    return [row[1] for row in walk(c, Shape(table, column, (column,)), lost) if isinstance(row[1], int)]


def columns_there(c: sqlite3.Connection, table: str) -> set[str]:
    """Of a table; empty: it is not there, or nothing can be found in this file."""
    try:
        return {row[1] for row in c.execute(f"pragma table_info({table})")}
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return set()


# ---- writing -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def transaction(c: sqlite3.Connection) -> Iterator[None]:
    c.execute("begin immediate")
    try:
        yield
    except BaseException:
        c.execute("rollback")
        raise
    c.execute("commit")


def insert(c: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Rows that fit in; how many. What cannot be (a NULL, a number that is there already) is left out."""
    marks = ", ".join("?" * len(columns))
    sql = f"insert or ignore into {table} ({', '.join(columns)}) values ({marks})"  # noqa: S608  # our own constants
    count = 0
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):  # it refers to what is not there
            count += max(0, c.execute(sql, tuple(row)).rowcount)
    return count


def put_layout_text(c: sqlite3.Connection, number: int, text: str) -> None:
    c.execute("update layouts set columns = ? where no = ?", (text, number))


def layout_hash(c: sqlite3.Connection, number: int) -> bytes | None:
    row = c.execute("select hash from layouts where no = ?", (number,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], bytes) else None


def layout_text(c: sqlite3.Connection, number: int) -> bytes | None:
    row = c.execute("select cast(columns as blob) from layouts where no = ?", (number,)).fetchone()
    return None if row is None else row[0]


def remove_layouts(c: sqlite3.Connection, numbers: Iterable[int]) -> None:
    c.executemany("delete from layouts where no = ?", [(one,) for one in numbers])


def remove_odd_totals(c: sqlite3.Connection) -> int:
    """Rows that are no numbers, or of a line that has no name any more."""
    return c.execute(f"delete from totals where {_ODD} or line not in (select no from lines)").rowcount  # noqa: S608  # our own constant


def remove_dangling(c: sqlite3.Connection) -> int:
    """Rows that refer to what is not there."""
    found = 0
    while True:  # what goes may have been referred to itself
        rows = [row for row in c.execute("pragma foreign_key_check").fetchall() if row[1] is not None and row[0] != "blocks"]
        for table, rowid, *_ in rows:
            c.execute(f"delete from {table} where rowid = ?", (rowid,))  # noqa: S608  # the file's own names
        found += len(rows)
        if not rows:
            return found


def reindex(c: sqlite3.Connection) -> None:
    c.execute("reindex")


def block(c: sqlite3.Connection, number: int) -> Stored | None:
    row = c.execute(f"select {', '.join(BLOCKS.columns)} from blocks where id = ?", (number,)).fetchone()  # noqa: S608  # our own constants
    return None if row is None else from_row(row)


def frame_body(c: sqlite3.Connection, number: int) -> bytes:
    row = c.execute("select body from hot where id = ?", (number,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], bytes) else b""
