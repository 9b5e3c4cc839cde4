"""Tables of access: tokens, one-time links, who waits to be let in, which keys and certificates we know."""

from __future__ import annotations

import json
import sqlite3

from commander.access.records import Issue, Waiting
from commander.access.tokens import JoinRecord, PeopleToken

_JOIN = "id, hash, kind, site, uses, used, approve, created_ms, expires_ms, created_by, revoked_ms"
_PEOPLE = "id, hash, name, role, created_ms, expires_ms, created_by"
_WAITING = "sentry_id, why, key_hash, csr, fingerprint, address, facts, asked_ms, approved_ms"


def create_tables(c: sqlite3.Connection) -> None:
    c.execute(
        "create table join_tokens (id text primary key, hash blob not null, kind text not null, site text not null,"
        " uses integer not null, used integer not null, approve integer not null, created_ms integer not null,"
        " expires_ms integer not null, created_by text not null, revoked_ms integer)"
    )
    c.execute(
        "create table people_tokens (id text primary key, hash blob not null unique, name text not null, role text not null,"
        " created_ms integer not null, expires_ms integer not null, created_by text not null)"
    )
    c.execute("create table setup_links (hash blob primary key, expires_ms integer not null, used_ms integer)")
    c.execute(
        "create table waiting (sentry_id text not null, why text not null, key_hash blob not null, csr blob not null,"
        " fingerprint text not null, address text not null, facts text not null, asked_ms integer not null, approved_ms integer,"
        " primary key (sentry_id, why))"
    )
    # Which key came with which token, and whom it became: a key that asks again is the same sentry.
    c.execute(
        "create table joined (token_id text not null, key_hash blob not null, sentry_id text not null,"
        " primary key (token_id, key_hash))"
    )
    c.execute(
        "create table certificates (id integer primary key autoincrement, serial text not null unique,"
        " sentry_id text not null, key_hash blob not null,"
        " issued_ms integer not null, not_after_ms integer not null, how text not null)"
    )
    c.execute("create index certificates_sentry on certificates (sentry_id, id)")
    c.execute("create table denied (sentry_id text primary key, at_ms integer not null, who text not null, reason text not null)")


# ---- join tokens -----------------------------------------------------------------------------------------------


def add_join(c: sqlite3.Connection, one: JoinRecord) -> None:
    c.execute(
        f"insert into join_tokens ({_JOIN}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # our own constant
        (
            one.id,
            one.hash,
            one.kind,
            one.site,
            one.uses,
            one.used,
            int(one.approve),
            one.created_ms,
            one.expires_ms,
            one.created_by,
            one.revoked_ms,
        ),
    )


def join(c: sqlite3.Connection, token_id: str) -> JoinRecord | None:
    row = c.execute(f"select {_JOIN} from join_tokens where id = ?", (token_id,)).fetchone()  # noqa: S608  # our own constant
    return None if row is None else _join_of(row)


def joins(c: sqlite3.Connection) -> list[JoinRecord]:
    return [_join_of(row) for row in c.execute(f"select {_JOIN} from join_tokens order by created_ms desc")]  # noqa: S608  # the same


def _join_of(row: sqlite3.Row) -> JoinRecord:
    return JoinRecord(*(*row[:6], bool(row[6]), *row[7:]))


def revoke_join(c: sqlite3.Connection, token_id: str, now_ms: int) -> bool:
    return c.execute("update join_tokens set revoked_ms = ? where id = ? and revoked_ms is null", (now_ms, token_id)).rowcount > 0


def use_join(c: sqlite3.Connection, token_id: str, key_hash: bytes, sentry_id: str) -> None:
    c.execute("insert into joined (token_id, key_hash, sentry_id) values (?, ?, ?)", (token_id, key_hash, sentry_id))
    c.execute("update join_tokens set used = used + 1 where id = ?", (token_id,))


def joined(c: sqlite3.Connection, token_id: str, key_hash: bytes) -> str | None:
    """The sentry that this key became with this token."""
    row = c.execute("select sentry_id from joined where token_id = ? and key_hash = ?", (token_id, key_hash)).fetchone()
    return None if row is None else str(row[0])


# ---- waiting ---------------------------------------------------------------------------------------------------


def put_waiting(c: sqlite3.Connection, one: Waiting) -> None:
    """A newer request of the same sentry takes the place of the older; an approval holds only for the key it was given to."""
    c.execute(
        f"insert into waiting ({_WAITING}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # our own constant
        " on conflict (sentry_id, why) do update set key_hash = excluded.key_hash, csr = excluded.csr,"
        " fingerprint = excluded.fingerprint, address = excluded.address, facts = excluded.facts, asked_ms = excluded.asked_ms,"
        " approved_ms = excluded.approved_ms",
        (
            one.sentry_id,
            one.why,
            one.key_hash,
            one.csr,
            one.fingerprint,
            one.address,
            json.dumps(dict(one.facts)),
            one.asked_ms,
            one.approved_ms,
        ),
    )


def waiting(c: sqlite3.Connection, sentry_id: str | None = None, *, open_only: bool = True) -> list[Waiting]:
    rows = c.execute(
        f"select {_WAITING} from waiting where (? is null or sentry_id = ?) order by asked_ms",  # noqa: S608  # our own constant
        (sentry_id, sentry_id),
    )
    found = [Waiting(*(*row[:6], json.loads(row[6]), row[7], row[8])) for row in rows]
    return [one for one in found if not open_only or one.approved_ms is None]


def approve_waiting(c: sqlite3.Connection, sentry_id: str, now_ms: int) -> int:
    return c.execute("update waiting set approved_ms = ? where sentry_id = ? and approved_ms is null", (now_ms, sentry_id)).rowcount


def drop_waiting(c: sqlite3.Connection, sentry_id: str) -> None:
    c.execute("delete from waiting where sentry_id = ?", (sentry_id,))


# ---- certificates ----------------------------------------------------------------------------------------------


def add_certificate(c: sqlite3.Connection, one: Issue) -> None:
    c.execute(
        "insert into certificates (serial, sentry_id, key_hash, issued_ms, not_after_ms, how) values (?, ?, ?, ?, ?, ?)",
        (one.serial, one.sentry_id, one.key_hash, one.issued_ms, one.not_after_ms, one.how),
    )
    # Recovery asks for the last few; the rest would only grow.
    c.execute(
        "delete from certificates where sentry_id = ? and id not in"
        " (select id from certificates where sentry_id = ? order by id desc limit 50)",
        (one.sentry_id, one.sentry_id),
    )


def certificates(c: sqlite3.Connection, sentry_id: str) -> list[Issue]:
    """Newest first."""
    rows = c.execute(
        "select serial, sentry_id, key_hash, issued_ms, not_after_ms, how from certificates where sentry_id = ? order by id desc",
        (sentry_id,),
    )
    return [Issue(*row) for row in rows]


def deny(c: sqlite3.Connection, sentry_id: str, now_ms: int, who: str, reason: str) -> None:
    c.execute(
        "insert into denied (sentry_id, at_ms, who, reason) values (?, ?, ?, ?) on conflict (sentry_id) do nothing",
        (sentry_id, now_ms, who, reason),
    )


def denied(c: sqlite3.Connection) -> set[str]:
    return {row[0] for row in c.execute("select sentry_id from denied")}


# ---- people ----------------------------------------------------------------------------------------------------


def add_people(c: sqlite3.Connection, one: PeopleToken) -> None:
    c.execute(
        f"insert into people_tokens ({_PEOPLE}) values (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # our own constant
        (one.id, one.hash, one.name, one.role, one.created_ms, one.expires_ms, one.created_by),
    )


def people(c: sqlite3.Connection) -> list[PeopleToken]:
    return [PeopleToken(*row) for row in c.execute(f"select {_PEOPLE} from people_tokens order by created_ms")]  # noqa: S608  # the same


def drop_people(c: sqlite3.Connection, token_id: str) -> bool:
    return c.execute("delete from people_tokens where id = ?", (token_id,)).rowcount > 0


def add_setup_link(c: sqlite3.Connection, hash_: bytes, expires_ms: int) -> None:
    """The older ones stop working: one link at a time."""
    c.execute("delete from setup_links where used_ms is null")
    c.execute("insert into setup_links (hash, expires_ms) values (?, ?) on conflict (hash) do nothing", (hash_, expires_ms))


def use_setup_link(c: sqlite3.Connection, hash_: bytes, now_ms: int) -> str:
    """ "ok" the first time; otherwise "unknown", "used" or "expired"."""
    row = c.execute("select expires_ms, used_ms from setup_links where hash = ?", (hash_,)).fetchone()
    if row is None:
        return "unknown"
    if row[1] is not None:
        return "used"
    if now_ms >= row[0]:
        return "expired"
    c.execute("update setup_links set used_ms = ? where hash = ?", (now_ms, hash_))
    return "ok"
