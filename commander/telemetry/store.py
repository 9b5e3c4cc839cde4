"""`history/hot.db`: its tables and their SQL, but for blocks and totals, which the archive has too.

Frames are kept as received until they are sealed; what the commander knows about a frame's clock stands beside it. In one
transaction with the frames: which frames are durable (marks), and which devices a post has reported when (presence), so that
a device's history is found across posts without opening every frame.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from commander.db import Migration
from commander.telemetry import block_store, totals_store
from commander.telemetry.block_store import signed as _signed
from commander.telemetry.block_store import unsigned as _unsigned
from commander.telemetry.clocks import WIDE_MS
from garrison.faults import BadInput, Broken
from garrison.frame import Column, Layout
from garrison.spans import Span, Spans

SET_ASIDE_ROWS = 1_000
SET_ASIDE_BYTES = 64 << 10


def create_tables(c: sqlite3.Connection) -> None:
    for statement in (
        "create table posts (no integer primary key, sentry text not null unique)",
        """create table journals (no integer primary key, post integer not null references posts, boot blob not null,
            seen_ms integer not null, unique (post, boot))""",
        "create table layouts (no integer primary key, hash blob not null unique, columns text not null)",
        """create table hot (id integer primary key, post integer not null, journal integer not null, seq integer not null,
            layout integer not null, first_ms integer not null, last_ms integer not null, wide integer not null,
            received_ms integer not null, ahead_ms integer not null, body blob not null)""",
        "create index hot_by_time on hot (post, first_ms, last_ms)",
        "create index hot_wide on hot (post) where wide = 1",
        "create index hot_by_receipt on hot (received_ms)",
        """create table marks (journal integer not null references journals, first integer not null, last integer not null,
            primary key (journal, first))""",
        """create table presence (key integer not null, post integer not null references posts, first_ms integer not null,
            last_ms integer not null, primary key (key, post))""",
        """create table set_aside (id integer primary key, received_ms integer not null, sentry text not null,
            boot blob not null, seq integer not null, layout blob not null, code text not null, text text not null,
            size integer not null, body blob not null)""",
    ):
        c.execute(statement)


def create_sealed(c: sqlite3.Connection) -> None:
    """`sealed_ms`: samples of the post before it are in blocks and totals. `damaged`: what no longer reads, set aside."""
    c.execute("alter table posts add column sealed_ms integer not null default 0")
    block_store.create_tables(c)
    totals_store.create_hot_tables(c)
    c.execute(
        """create table damaged (id integer primary key, found_ms integer not null, file text not null, what text not null,
            key integer not null, at_ms integer not null, text text not null, size integer not null, body blob not null)"""
    )


MIGRATIONS = (Migration(1, "hot history", create_tables), Migration(2, "sealed history", create_sealed))


@dataclass(frozen=True, slots=True)
class Arrived:
    """A good frame. Times are corrected; `ahead_ms`: how far its clock is ahead, see `clocks`."""

    sentry: str
    boot: bytes
    seq: int
    layout: bytes
    first_ms: int
    last_ms: int
    received_ms: int
    ahead_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SetAside:
    """A frame that is not what it says. It counts as delivered, so that it does not come again."""

    sentry: str
    boot: bytes
    seq: int
    layout: bytes
    received_ms: int
    code: str
    text: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """A post has reported this device between these times (of samples)."""

    key: int
    sentry: str
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A frame read back."""

    id: int
    layout: int
    first_ms: int
    last_ms: int
    received_ms: int
    ahead_ms: int
    body: bytes


_KEPT = "id, layout, first_ms, last_ms, received_ms, ahead_ms, body"


@dataclass(frozen=True, slots=True)
class Damaged:
    """What was read and is not what was written. `what`: "frame", "chunk", "day", …; `key` 0: not known."""

    found_ms: int
    file: str
    what: str
    key: int
    at_ms: int
    text: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """`frames` counts the rows between the oldest and the newest; what was removed from the middle is counted too."""

    frames: int
    devices: int
    posts: int
    layouts: int
    set_aside: int
    oldest_ms: int | None
    newest_ms: int | None
    bytes_used: int
    bytes_free_inside: int


# ---- writing (inside one transaction of the writer) --------------------------------------------------------


def append(c: sqlite3.Connection, layouts: Iterable[Layout], frames: Iterable[Arrived], set_aside: Iterable[SetAside]) -> None:
    """Frames, their layouts and their marks."""
    for layout in layouts:
        put_layout(c, layout)
    posts: dict[str, int] = {}
    journals: dict[tuple[str, bytes], int] = {}
    numbers: dict[bytes, int] = {}
    delivered: dict[int, Spans] = {}
    rows = []
    for frame in frames:
        journal = _journal(c, frame.sentry, frame.boot, frame.received_ms, posts, journals)
        if frame.layout not in numbers:
            numbers[frame.layout] = c.execute("select no from layouts where hash = ?", (frame.layout,)).fetchone()[0]
        rows.append(
            (
                posts[frame.sentry],
                journal,
                frame.seq,
                numbers[frame.layout],
                frame.first_ms,
                frame.last_ms,
                int(frame.last_ms - frame.first_ms > WIDE_MS),
                frame.received_ms,
                frame.ahead_ms,
                frame.body,
            )
        )
        delivered.setdefault(journal, Spans()).add(frame.seq)
    c.executemany(
        """insert into hot (post, journal, seq, layout, first_ms, last_ms, wide, received_ms, ahead_ms, body)
            values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        rows,
    )
    for wrong in set_aside:
        journal = _journal(c, wrong.sentry, wrong.boot, wrong.received_ms, posts, journals)
        _set_aside(c, wrong)
        delivered.setdefault(journal, Spans()).add(wrong.seq)
    for journal, spans in delivered.items():
        for span in spans:
            _mark(c, journal, span)


def put_layout(c: sqlite3.Connection, layout: Layout) -> None:
    columns = json.dumps([[x.metric, x.component, x.unit, x.decimals] for x in layout.columns], separators=(",", ":"))
    c.execute(block_store.PUT_LAYOUT, (layout.hash, columns))


def put_seen(c: sqlite3.Connection, seen: Iterable[Seen]) -> None:
    """Widens what is known; never narrows it."""
    c.executemany(
        """insert into presence (key, post, first_ms, last_ms) select ?, no, ?, ? from posts where sentry = ?
            on conflict (key, post) do update set
                first_ms = case when excluded.first_ms < first_ms then excluded.first_ms else first_ms end,
                last_ms = case when excluded.last_ms > last_ms then excluded.last_ms else last_ms end""",
        [(_signed(item.key), item.first_ms, item.last_ms, item.sentry) for item in seen],
    )


def settle_below(c: sqlite3.Connection, sentry: str, boot: bytes, below: int, now_ms: int) -> None:
    """Sequence numbers below `below` will never come (the sentry holds them no more): they count as delivered."""
    if below > 1:
        _mark(c, _journal(c, sentry, boot, now_ms, {}, {}), Span(1, below - 1))


def remove_received_before(c: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """Removes the oldest frames, at most `limit`; how many."""
    return c.execute(
        "delete from hot where id in (select id from hot where received_ms < ? order by received_ms limit ?)", (before_ms, limit)
    ).rowcount


def remove_traces(c: sqlite3.Connection, before_ms: int) -> None:
    """Devices and journals last heard of before then. A journal's frames were received no later than it was heard of, so
    they are gone already."""
    c.execute("delete from presence where last_ms < ?", (before_ms,))
    c.execute("delete from marks where journal in (select no from journals where seen_ms < ?)", (before_ms,))
    c.execute("delete from journals where seen_ms < ?", (before_ms,))
    c.execute("delete from set_aside where received_ms < ?", (before_ms,))


def _journal(
    c: sqlite3.Connection, sentry: str, boot: bytes, now_ms: int, posts: dict[str, int], journals: dict[tuple[str, bytes], int]
) -> int:
    found = journals.get((sentry, boot))
    if found is None:
        c.execute("insert into posts (sentry) values (?) on conflict (sentry) do nothing", (sentry,))
        posts[sentry] = c.execute("select no from posts where sentry = ?", (sentry,)).fetchone()[0]
        found = journals[sentry, boot] = c.execute(
            """insert into journals (post, boot, seen_ms) values (?, ?, ?)
                on conflict (post, boot) do update set seen_ms = excluded.seen_ms returning no""",
            (posts[sentry], boot, now_ms),
        ).fetchone()[0]
    return found


def _mark(c: sqlite3.Connection, journal: int, span: Span) -> None:
    """Adds a span, joined with those it touches."""
    touched = c.execute(
        "delete from marks where journal = ? and first <= ? and last >= ? returning first, last",
        (journal, span.last + 1, span.first - 1),
    ).fetchall()
    first = min([span.first, *(row[0] for row in touched)])
    last = max([span.last, *(row[1] for row in touched)])
    c.execute("insert into marks (journal, first, last) values (?, ?, ?)", (journal, first, last))


def _set_aside(c: sqlite3.Connection, frame: SetAside) -> None:
    c.execute(
        """insert into set_aside (received_ms, sentry, boot, seq, layout, code, text, size, body)
            values (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            frame.received_ms,
            frame.sentry,
            frame.boot,
            frame.seq,
            frame.layout,
            frame.code,
            frame.text,
            len(frame.body),
            frame.body[:SET_ASIDE_BYTES],
        ),
    )
    c.execute("delete from set_aside where id <= (select id from set_aside order by id desc limit 1 offset ?)", (SET_ASIDE_ROWS,))


# ---- reading -----------------------------------------------------------------------------------------------


def marks(c: sqlite3.Connection) -> dict[tuple[str, bytes], Spans]:
    """What is durable, by (sentry, boot)."""
    found: dict[tuple[str, bytes], Spans] = {}
    rows = c.execute(
        """select sentry, boot, first, last from marks join journals on journals.no = journal join posts on posts.no = post
            order by journal, first"""
    )
    for sentry, boot, first, last in rows:
        found.setdefault((sentry, boot), Spans()).add(first, last)
    return found


def seen(c: sqlite3.Connection) -> list[Seen]:
    """All devices at all posts."""
    rows = c.execute("select key, sentry, first_ms, last_ms from presence join posts on posts.no = post")
    return [Seen(_unsigned(key), sentry, first, last) for key, sentry, first, last in rows]


def layout(c: sqlite3.Connection, number: int) -> Layout:
    """Broken: it is not there, or was changed on disk. A frame read with it would give wrong values."""
    row = c.execute("select hash, cast(columns as blob) from layouts where no = ?", (number,)).fetchone()
    found = None if row is None else _layout(row[1])
    if row is None or found is None or found.hash != row[0]:
        raise Broken(f"the layout {number} of frames {'is missing' if row is None else 'was changed on disk'}")
    return found


def _layout(columns: bytes) -> Layout | None:
    try:
        return Layout(tuple(Column(*column) for column in json.loads(columns)))
    except (ValueError, TypeError, AttributeError, BadInput):
        return None


def layout_named(c: sqlite3.Connection, name: bytes) -> Layout | None:
    """By its hash."""
    row = c.execute("select cast(columns as blob) from layouts where hash = ?", (name,)).fetchone()
    found = None if row is None else _layout(row[0])
    return found if found is not None and found.hash == name else None


def layout_hashes(c: sqlite3.Connection) -> set[bytes]:
    """Of the layouts of frames. One that was changed on disk is not among them: it is written again when it is announced."""
    rows = c.execute("select hash, cast(columns as blob) from layouts")
    return {name for name, columns in rows if (found := _layout(columns)) is not None and found.hash == name}


def posts_of_device(c: sqlite3.Connection, key: int, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
    """(number, salt) of the posts that may have samples of the device in [from, to)."""
    rows = c.execute(
        "select no, sentry from presence join posts on posts.no = post where key = ? and first_ms < ? and last_ms >= ?",
        (_signed(key), to_ms, from_ms),
    )
    return [(row[0], salt_of(row[1])) for row in rows.fetchall()]


def frames_of_post(c: sqlite3.Connection, post: int, from_ms: int, to_ms: int) -> Iterator[Kept]:
    """Frames with samples in [from, to), by their first time; the wide ones, which are rare, first."""
    yield from wide_frames(c, post, from_ms, to_ms)
    rows = c.execute(
        f"select {_KEPT} from hot where post = ? and wide = 0"  # noqa: S608  # our own constant
        " and first_ms >= ? and first_ms < ? and last_ms >= ? order by first_ms",
        (post, from_ms - WIDE_MS, to_ms, from_ms),
    )
    yield from (Kept(*row) for row in rows)


def wide_frames(c: sqlite3.Connection, post: int, from_ms: int, to_ms: int) -> Iterator[Kept]:
    """Frames during which the sentry's clock was set."""
    rows = c.execute(
        f"select {_KEPT} from hot where post = ? and wide = 1 and first_ms < ? and last_ms >= ?",  # noqa: S608  # our own constant
        (post, to_ms, from_ms),
    )
    yield from (Kept(*row) for row in rows)


def newest_frames(c: sqlite3.Connection, post: int, until_ms: int) -> Iterator[Kept]:
    """Frames that begin at `until_ms` or before, the newest first, without the wide ones."""
    rows = c.execute(
        f"select {_KEPT} from hot where post = ? and wide = 0 and first_ms <= ? order by first_ms desc",  # noqa: S608  # our own constant
        (post, until_ms),
    )
    yield from (Kept(*row) for row in rows)


def post_numbers(c: sqlite3.Connection) -> dict[str, int]:
    return {row[0]: row[1] for row in c.execute("select sentry, no from posts")}


def newest_received_ms(c: sqlite3.Connection) -> int | None:
    """Also when all frames are sealed."""
    found: int | None = c.execute("select max(seen_ms) from journals").fetchone()[0]
    return found


def usage(c: sqlite3.Connection) -> Usage:
    pages, free, size = (c.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
    lowest, highest = c.execute("select (select min(id) from hot), (select max(id) from hot)").fetchone()
    return Usage(
        frames=0 if lowest is None else highest - lowest + 1,
        devices=_count(c, "select count(distinct key) from presence"),
        posts=_count(c, "select count(*) from posts"),
        layouts=_count(c, "select count(*) from layouts"),
        set_aside=_count(c, "select count(*) from set_aside"),
        oldest_ms=c.execute("select min(first_ms) from presence").fetchone()[0],
        newest_ms=c.execute("select max(last_ms) from presence").fetchone()[0],
        bytes_used=(pages - free) * size,
        bytes_free_inside=free * size,
    )


def set_aside(c: sqlite3.Connection, limit: int = 100) -> Sequence[SetAside]:
    """Frames set aside, the newest first; bodies may be cut to `SET_ASIDE_BYTES`."""
    rows = c.execute(
        "select sentry, boot, seq, layout, received_ms, code, text, body from set_aside order by id desc limit ?", (limit,)
    )
    return [SetAside(*row) for row in rows]


# ---- sealing -----------------------------------------------------------------------------------------------


def sealable(c: sqlite3.Connection, post: str, until_ms: int, after_id: int) -> Iterator[Kept]:
    """The post's frames with samples before `until_ms`, in the order of arrival."""
    rows = c.execute(
        f"select {_KEPT} from hot where post = (select no from posts where sentry = ?)"  # noqa: S608  # our own constant
        " and first_ms < ? and id > ? order by id",
        (post, until_ms, after_id),
    )
    yield from (Kept(*row) for row in rows)


def posts_to_seal(c: sqlite3.Connection, until_ms: int) -> list[str]:
    """Posts with frames that have samples before then."""
    rows = c.execute(
        "select sentry from posts where exists (select 1 from hot where hot.post = no and first_ms < ?) order by no", (until_ms,)
    )
    return [row[0] for row in rows]


def sealed(c: sqlite3.Connection) -> dict[str, int]:
    return {row[0]: row[1] for row in c.execute("select sentry, sealed_ms from posts")}


def set_sealed(c: sqlite3.Connection, post: str, sealed_ms: int) -> None:
    c.execute("update posts set sealed_ms = ? where sentry = ?", (sealed_ms, post))


def remove_frames(c: sqlite3.Connection, ids: Iterable[int]) -> None:
    c.executemany("delete from hot where id = ?", [(one,) for one in ids])


def put_damaged(c: sqlite3.Connection, found: Iterable[Damaged]) -> None:
    """Kept for a person to look at; bounded like what is set aside on arrival."""
    c.executemany(
        "insert into damaged (found_ms, file, what, key, at_ms, text, size, body) values (?, ?, ?, ?, ?, ?, ?, ?)",
        [(d.found_ms, d.file, d.what, _signed(d.key), d.at_ms, d.text, len(d.body), d.body) for d in found],
    )
    c.execute("delete from damaged where id <= (select id from damaged order by id desc limit 1 offset ?)", (SET_ASIDE_ROWS,))


def damaged(c: sqlite3.Connection, limit: int = 100) -> list[Damaged]:
    """The newest first."""
    rows = c.execute("select found_ms, file, what, key, at_ms, text, body from damaged order by id desc limit ?", (limit,))
    return [Damaged(row[0], row[1], row[2], _unsigned(row[3]), *row[4:]) for row in rows]


def salt_of(post: str) -> int:
    """A post named "sentry#machine" is a second machine with the identity of the first, a cloned disk. Its devices have the same
    keys, and another history: with this they become other keys. 0 for every other post."""
    if "#" not in post:
        return 0
    return int.from_bytes(hashlib.blake2b(post.encode(), digest_size=8, person=b"garrison.twin").digest(), "little")


def _count(c: sqlite3.Connection, sql: str) -> int:
    return int(c.execute(sql).fetchone()[0])
