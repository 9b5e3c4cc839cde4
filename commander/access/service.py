"""Which sentries may come in: by token first, by certificate from then on. People are in `people.py`.

Called by: the link (identify, is_revoked, renew, enrol, recover, explain), the HTTP gate (caller_for_token), `api.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from commander.access import store
from commander.access.ca import Authority, Leaf, Signed
from commander.access.certificates import key_der, request_key, signature_fits
from commander.access.people import People
from commander.access.records import Issue, Waiting
from commander.access.rules import ASK_AGAIN_S, judge_recovery
from commander.access.tokens import JoinRecord, checked_join, judge_join, new_id, new_join_secret
from commander.db import Database
from commander.fleet.audit import record as audited
from commander.fleet.edits import find_sentry
from commander.fleet.records import EventRecord, SentryRecord
from commander.fleet.rules import checked_name, told_facts, told_name
from commander.fleet.service import Fleet
from commander.model import Caller, Sentry
from garrison.clock import Clock
from garrison.faults import CertificateRevoked, Conflict, IdentityRefused, NotFound, WrongIdentity
from garrison.join import RECOVER_SKEW_MS, JoinToken, fingerprint, recovery_message, secret_hash

log = logging.getLogger(__name__)
NOBODY = Caller("enrolment", "viewer")
"""Who enrols proves itself by a token or a key, and is no person."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a certificate says it is."""

    sentry_id: str
    serial: str
    not_after_ms: int


@dataclass(frozen=True, slots=True)
class Issued:
    """`certificate_pem`: the leaf, then the intermediate; `farm_roots_pem`: what to trust."""

    sentry_id: str
    certificate_pem: bytes
    farm_roots_pem: bytes
    not_after_ms: int


@dataclass(frozen=True, slots=True)
class Pending:
    """A person has to approve first; the same fingerprint is shown on both sides."""

    fingerprint: str
    ask_again_s: int = ASK_AGAIN_S


@dataclass(frozen=True, slots=True)
class _Request:
    """A certificate request whose signature was checked."""

    csr_der: bytes
    key_hash: bytes
    fingerprint: str


@dataclass(slots=True)
class Access:
    """Open with `Access.open`. `enrol_address`: host:port that join tokens name, set by main; empty: the port is closed."""

    db: Database
    authority: Authority
    fleet: Fleet
    clock: Clock
    people: People
    enrol_address: str = ""
    on_revoked: list[Callable[[str], None]] = field(default_factory=list)
    _denied: set[str] = field(default_factory=set)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)  # a token is read, judged and used without another between

    @classmethod
    async def open(cls, db: Database, authority: Authority, fleet: Fleet, clock: Clock) -> Access:
        people = await People.open(db, clock, authority.folder.parent)
        access = cls(db, authority, fleet, clock, people)
        access._denied = await db.read(store.denied)
        return access

    # ---- sentries at work ------------------------------------------------------------------------------------------

    def identify(self, certificate_pem: bytes) -> Peer:
        """NoCertificate, UnknownAuthority, WrongIdentity, CertificateExpired, CertificateRevoked: each with its own words."""
        leaf = self.authority.verify_sentry(certificate_pem, self.clock.now_ms())
        self._must_be_known(leaf.sentry_id)
        return Peer(leaf.sentry_id, leaf.serial, leaf.not_after_ms)

    def is_revoked(self, sentry_id: str) -> bool:
        """From memory."""
        return sentry_id in self._denied

    def caller_for_token(self, token: str) -> Caller | None:
        """Who a person's token is; None: not known, or expired. From memory."""
        return self.people.caller_for_token(token)

    def explain(self, certificate_der: bytes) -> tuple[str, str]:
        """("ok" or a fault's code, words): what TLS cannot say."""
        try:
            peer = self.identify(certificate_der)
        except IdentityRefused as fault:
            return fault.code, str(fault)
        return "ok", f"this certificate is good: sentry {peer.sentry_id}"

    async def renew(self, sentry_id: str, csr_der: bytes) -> Issued:
        """For a sentry that has shown a good certificate. BadInput, CertificateRevoked, WrongIdentity."""
        request = _request(csr_der)
        self._must_be_known(sentry_id)
        return await self._issue(sentry_id, request, "renew")

    # ---- sentries that want in -------------------------------------------------------------------------------------

    async def enrol(
        self, token_id: str, token_secret: bytes, kind: str, csr_der: bytes, facts: Mapping[str, str], address: str
    ) -> Issued | Pending:
        """The first use binds the token to the key; the same key may ask again. TokenRefused, BadInput, CertificateRevoked."""
        request = _request(csr_der)
        async with self._one_at_a_time:
            token, bound = await self.db.read(lambda c: (store.join(c, token_id), store.joined(c, token_id, request.key_hash)))
            waiting = await self._waiting(bound) if bound else []
            now_ms = self.clock.now_ms()
            known = judge_join(token, token_secret, kind, now_ms, bound=bound is not None, waits=bool(waiting))
            if bound is None:
                return await self._join(known, request, told_facts(facts), address)
            self._must_be_known(bound, standing_too=False)
            if any(one.approved_ms is None for one in waiting):
                return Pending(request.fingerprint)
            return await self._issue(bound, request, "enrol")

    async def _join(self, token: JoinRecord, request: _Request, facts: Mapping[str, str], address: str) -> Issued | Pending:
        now_ms, sentry_id = self.clock.now_ms(), str(uuid4())
        record = SentryRecord(
            id=sentry_id,
            kind=token.kind,
            name=told_name(facts.get("hostname", ""), token.kind),
            standing="approved" if token.approve else "pending",
            fingerprint=request.fingerprint,
            site=token.site,
            address=address,
            enrolled_ms=now_ms if token.approve else None,
            facts=facts,
        )
        twin = self._same_machine(record)
        text = f"{record.name} ({request.fingerprint}) {'was let in by its token' if token.approve else 'waits for approval'}"
        if twin is not None:
            text += f"; it says that it is the machine of {twin.name}: a second enrolment, or a cloned disk"
        event = EventRecord(now_ms, "sentry_enrolled", text, "warning" if twin else "info", sentry_id)
        signed = self.authority.sign_sentry(sentry_id, request.csr_der, now_ms) if token.approve else None

        def also(c: sqlite3.Connection) -> None:
            store.use_join(c, token.id, request.key_hash, sentry_id)
            if signed is not None:
                store.add_certificate(c, _issue_of(signed, request, now_ms, "enrol"))
            else:
                store.put_waiting(c, _waits(sentry_id, "new", request, address, facts, now_ms))
            audited(
                c, now_ms, NOBODY, "sentry.enrol", f"sentry {sentry_id}", {"token": token.id, "fingerprint": request.fingerprint}
            )

        until_ms = signed.leaf.not_after_ms if signed else None
        await self.fleet.add_sentry(replace(record, certificate_until_ms=until_ms), event, also)
        log.info("sentry enrolled", extra={"sentry": sentry_id, "state": record.standing, "address": address})
        return self._issued(signed) if signed is not None else Pending(request.fingerprint)

    async def recover(self, certificate_der: bytes, csr_der: bytes, at_ms: int, signature: bytes, address: str) -> Issued | Pending:
        """An expired certificate of a key that we know: three times in 30 days at once, then when an operator approves."""
        leaf, _ = self.authority.recognise(certificate_der, self.clock.now_ms())
        self._must_hold_key(leaf, at_ms, csr_der, signature)
        request = _request(csr_der)
        async with self._one_at_a_time:
            self._must_be_known(leaf.sentry_id)
            issued = await self.db.read(lambda c: store.certificates(c, leaf.sentry_id))
            waiting = [one for one in await self._waiting(leaf.sentry_id) if one.key_hash == request.key_hash]
            now_ms, old_hash = self.clock.now_ms(), _hash(leaf.key_der)
            if any(one.approved_ms is not None for one in waiting):
                return await self._issue(leaf.sentry_id, request, "recover")
            verdict = judge_recovery(issued, old_hash, request.key_hash, now_ms)
            if verdict in ("recover", "again"):
                told = f"with its known key, from {address}" if verdict == "recover" else ""
                return await self._issue(leaf.sentry_id, request, verdict, told)
            if not waiting:
                await self._wait_for_recovery(leaf.sentry_id, request, address, verdict)
            return Pending(request.fingerprint)

    async def _wait_for_recovery(self, sentry_id: str, request: _Request, address: str, why: str) -> None:
        now_ms, sentry = self.clock.now_ms(), self.fleet.sentry_record(sentry_id)
        text = f"{sentry.name} wants a new certificate ({why}): compare {request.fingerprint}, then approve or revoke it"
        row = _waits(sentry_id, "recover", request, address, sentry.facts, now_ms)
        event = EventRecord(now_ms, "sentry_waits", text, "warning", sentry_id)
        await self.fleet.change_sentry(sentry, event, lambda c: store.put_waiting(c, row))

    # ---- what people do --------------------------------------------------------------------------------------------

    async def new_join_token(
        self, caller: Caller, kind: str, site: str, uses: int, ttl_s: int, approve: bool
    ) -> tuple[str, JoinRecord]:
        """The whole string, which is never shown again, and its record. Conflict: the enrolment port is closed."""
        checked_join(kind, uses, ttl_s)
        if not self.enrol_address:
            raise Conflict("the enrolment port is closed", hint="set `listen.enrol` in commander.toml and restart the commander")
        place = checked_name(site, "site") if site.strip() else ""
        secret, now_ms = new_join_secret(), self.clock.now_ms()
        record = JoinRecord(
            new_id(), secret_hash(secret), kind, place, uses, 0, approve, now_ms, now_ms + ttl_s * 1000, caller.name
        )
        detail = {"kind": kind, "site": place, "uses": uses, "ttl_s": ttl_s, "approve": approve}

        def work(c: sqlite3.Connection) -> None:
            store.add_join(c, record)
            audited(c, now_ms, caller, "join_token.make", f"token {record.id}", detail)

        await self.db.write(work)
        return JoinToken(record.id, secret, self.authority.pin, self.enrol_address).text(), record

    async def join_tokens(self) -> list[JoinRecord]:
        return await self.db.read(store.joins)

    async def revoke_join_token(self, caller: Caller, token_id: str) -> None:
        now_ms = self.clock.now_ms()

        def work(c: sqlite3.Connection) -> bool:
            gone = store.revoke_join(c, token_id, now_ms)
            if gone:
                audited(c, now_ms, caller, "join_token.revoke", f"token {token_id}")
            return gone

        if not await self.db.write(work):
            raise NotFound(f"no join token {token_id[:40]!r}", hint="or it was taken back before")

    async def pending(self) -> list[Waiting]:
        """Who waits for a person, oldest first."""
        return await self.db.read(store.waiting)

    async def approve(self, caller: Caller, ref: str) -> Sentry:
        """Lets in what waits: a new sentry, or one whose certificate expired too often. Conflict: nothing waits."""
        async with self._one_at_a_time:
            sentry = find_sentry(self.fleet.book, ref)
            waiting = [one for one in await self._waiting(sentry.id) if one.approved_ms is None]
            if not waiting or sentry.standing == "revoked":
                raise Conflict(f"{sentry.name} does not wait for approval: it is {(await self.fleet.sentry(sentry.id)).state}")
            now_ms = self.clock.now_ms()

            def also(c: sqlite3.Connection) -> None:
                store.approve_waiting(c, sentry.id, now_ms)
                audited(c, now_ms, caller, "sentry.approve", f"sentry {sentry.id}", {"fingerprint": waiting[0].fingerprint})

            event = EventRecord(now_ms, "sentry_approved", f"{sentry.name} was approved by {caller.name}", "info", sentry.id)
            approved = replace(sentry, standing="approved", enrolled_ms=sentry.enrolled_ms or now_ms)
            await self.fleet.change_sentry(approved, event, also)
        return await self.fleet.sentry(sentry.id)

    async def revoke(self, caller: Caller, ref: str, reason: str = "") -> Sentry:
        """For ever: its streams are cut, its certificates are worth nothing. Durable when it returns."""
        async with self._one_at_a_time:
            sentry = find_sentry(self.fleet.book, ref)
            now_ms, told = self.clock.now_ms(), told_name(reason, "")

            def also(c: sqlite3.Connection) -> None:
                store.deny(c, sentry.id, now_ms, caller.name, told)
                store.drop_waiting(c, sentry.id)
                audited(c, now_ms, caller, "sentry.revoke", f"sentry {sentry.id}", {"reason": told})

            text = f"{sentry.name} was revoked by {caller.name}{f': {told}' if told else ''}"
            event = EventRecord(now_ms, "sentry_revoked", text, "warning", sentry.id)
            await self.fleet.change_sentry(replace(sentry, standing="revoked"), event, also)
            self._denied.add(sentry.id)
        for listener in self.on_revoked:
            listener(sentry.id)
        return await self.fleet.sentry(sentry.id)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _must_be_known(self, sentry_id: str, *, standing_too: bool = True) -> None:
        if sentry_id in self._denied:
            raise CertificateRevoked("this sentry was revoked", hint="an administrator shut it out; it can only be enrolled anew")
        sentry = self.fleet.book.sentries.get(sentry_id)
        if sentry is None:
            raise WrongIdentity(
                "this commander does not know the sentry of this certificate",
                hint="was the commander restored from an older backup? Enrol it anew",
            )
        if standing_too and sentry.standing != "approved":
            raise WrongIdentity(f"this sentry is {sentry.standing}", hint="`commander sentries approve` lets it in")

    def _must_hold_key(self, leaf: Leaf, at_ms: int, csr_der: bytes, signature: bytes) -> None:
        off_ms = abs(at_ms - self.clock.now_ms())
        if off_ms > RECOVER_SKEW_MS:
            raise WrongIdentity(f"the sentry's clock is {off_ms // 60_000} minutes off ours", hint="set its clock, or ours")
        if not signature_fits(leaf.public_key, signature, recovery_message(at_ms, csr_der)):
            raise WrongIdentity("the request is not signed with the key of this certificate")

    def _same_machine(self, record: SentryRecord) -> SentryRecord | None:
        machine = record.facts.get("machine_id")
        same = (one for one in self.fleet.book.sentries.values() if one.kind == record.kind and one.standing != "revoked")
        return next((one for one in same if machine and one.facts.get("machine_id") == machine), None)

    async def _waiting(self, sentry_id: str) -> list[Waiting]:
        return await self.db.read(lambda c: store.waiting(c, sentry_id, open_only=False))

    async def _issue(self, sentry_id: str, request: _Request, how: str, told: str = "") -> Issued:
        """Signs, and is durable about it before the certificate leaves the house."""
        now_ms, sentry = self.clock.now_ms(), self.fleet.sentry_record(sentry_id)
        signed = self.authority.sign_sentry(sentry_id, request.csr_der, now_ms)

        def also(c: sqlite3.Connection) -> Any:
            store.add_certificate(c, _issue_of(signed, request, now_ms, how))
            if how != "renew":
                store.drop_waiting(c, sentry_id)
                audited(c, now_ms, NOBODY, f"sentry.{how}", f"sentry {sentry_id}", {"fingerprint": request.fingerprint})

        event = (
            EventRecord(now_ms, "sentry_recovered", f"{sentry.name} got a new certificate {told}", "info", sentry_id)
            if told
            else None
        )
        fresh = replace(sentry, fingerprint=request.fingerprint, certificate_until_ms=signed.leaf.not_after_ms)
        await self.fleet.change_sentry(fresh, event, also)
        return self._issued(signed)

    def _issued(self, signed: Signed) -> Issued:
        return Issued(signed.leaf.sentry_id, signed.chain_pem, self.authority.roots_pem, signed.leaf.not_after_ms)


def _request(csr_der: bytes) -> _Request:
    key = key_der(request_key(csr_der))
    return _Request(csr_der, _hash(key), fingerprint(key))


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _issue_of(signed: Signed, request: _Request, now_ms: int, how: str) -> Issue:
    return Issue(signed.leaf.serial, signed.leaf.sentry_id, request.key_hash, now_ms, signed.leaf.not_after_ms, how)


def _waits(sentry_id: str, why: str, request: _Request, address: str, facts: Mapping[str, str], now_ms: int) -> Waiting:
    return Waiting(sentry_id, why, request.key_hash, request.csr_der, request.fingerprint, address, facts, now_ms)
