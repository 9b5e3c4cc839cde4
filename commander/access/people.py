"""People and programs that use the HTTP API: their tokens, and the one-time link for an administrator. No passwords."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from commander.access import setup, store
from commander.access.tokens import (
    PEOPLE_PREFIX,
    SETUP_LINK_MS,
    PeopleToken,
    checked_people,
    is_people_token,
    new_id,
    new_secret_text,
    text_hash,
)
from commander.db import Database
from commander.fleet.audit import record as audited
from commander.fleet.rules import checked_name
from commander.model import Caller
from garrison.clock import Clock
from garrison.faults import Conflict, NotFound, TokenRefused

SETUP_TOKEN_S = 365 * 86_400


@dataclass(slots=True)
class People:
    """Open with `People.open`. `http_url`: where a browser finds us, set by main; empty: nowhere."""

    db: Database
    clock: Clock
    http_url: str = ""
    _tokens: dict[bytes, PeopleToken] = field(default_factory=dict)  # by hash

    @classmethod
    async def open(cls, db: Database, clock: Clock, home: Path) -> People:
        """Takes over the link that `commander init` printed before there was a database."""
        people = cls(db, clock)
        people._tokens = {one.hash: one for one in await db.read(store.people)}
        first = setup.first_link(home)
        if first is not None:
            await db.write(lambda c: store.add_setup_link(c, first.hash, first.expires_ms))
            setup.forget_first_link(home)
        return people

    def caller_for_token(self, token: str) -> Caller | None:
        """Who it is; None: not known, or expired. From memory."""
        if not is_people_token(token):
            return None
        found = self._tokens.get(text_hash(token))
        if found is None or self.clock.now_ms() >= found.expires_ms:
            return None
        return Caller(found.name, found.role)

    async def new_token(self, caller: Caller, name: str, role: str, ttl_s: int) -> tuple[str, PeopleToken]:
        """The token, which is never shown again, and its record."""
        return await self._make_token(caller, name, role, ttl_s, lambda _: None)

    async def tokens(self) -> list[PeopleToken]:
        return sorted(self._tokens.values(), key=lambda one: one.created_ms)

    async def remove_token(self, caller: Caller, token_id: str) -> None:
        """At once."""
        found = next((one for one in self._tokens.values() if one.id == token_id), None)
        if found is None:
            raise NotFound(f"no token {token_id[:40]!r}", hint="`commander tokens list` shows them")
        now_ms = self.clock.now_ms()

        def work(c: sqlite3.Connection) -> None:
            store.drop_people(c, token_id)
            audited(c, now_ms, caller, "token.remove", f"token {token_id}", {"name": found.name})

        await self.db.write(work)
        self._tokens.pop(found.hash, None)

    async def new_setup_link(self, caller: Caller) -> str:
        """A one-time address where an administrator gets a token; the link before it stops working."""
        if not self.http_url:
            raise Conflict(
                "the HTTP API has no address for a browser",
                hint="set `listen.http`, or use `commander tokens add NAME --role administrator` on this machine",
            )
        secret, now_ms = new_secret_text(), self.clock.now_ms()

        def work(c: sqlite3.Connection) -> None:
            store.add_setup_link(c, text_hash(secret), now_ms + SETUP_LINK_MS)
            audited(c, now_ms, caller, "setup_link.make", "setup link")

        await self.db.write(work)
        return setup.link(self.http_url, secret)

    async def use_setup_link(self, secret: str, name: str, address: str) -> tuple[str, PeopleToken]:
        """Exchanges the link's secret for an administrator's token, once. TokenRefused says why not."""
        hash_, now_ms = text_hash(secret), self.clock.now_ms()

        def within(c: sqlite3.Connection) -> None:
            said = store.use_setup_link(c, hash_, now_ms)
            if said != "ok":
                words = {"unknown": "is not known here", "used": "was used already", "expired": "has expired"}[said]
                raise TokenRefused(
                    f"this setup link {words}", hint="`commander tokens link` on the commander's machine makes a new one"
                )

        return await self._make_token(Caller("setup link", "administrator", address), name, "administrator", SETUP_TOKEN_S, within)

    async def _make_token(
        self, caller: Caller, name: str, role: str, ttl_s: int, within: Callable[[sqlite3.Connection], None]
    ) -> tuple[str, PeopleToken]:
        checked_people(role, ttl_s)
        text, now_ms = PEOPLE_PREFIX + new_secret_text(), self.clock.now_ms()
        record = PeopleToken(new_id(), text_hash(text), checked_name(name), role, now_ms, now_ms + ttl_s * 1000, caller.name)

        def work(c: sqlite3.Connection) -> None:
            within(c)
            store.add_people(c, record)
            audited(c, now_ms, caller, "token.make", f"token {record.id}", {"name": record.name, "role": role, "ttl_s": ttl_s})

        await self.db.write(work)
        self._tokens[record.hash] = record
        return text, record
