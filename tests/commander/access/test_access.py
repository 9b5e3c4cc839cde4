"""Sentries joining, renewing, recovering and being shut out; people's tokens; all over a real database and a real CA."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from commander.access import store
from commander.access.records import Issue
from commander.access.rules import RECOVERIES, judge_recovery
from commander.access.service import Access, Issued, Pending
from commander.access.setup import FIRST_LINK, InitResult
from commander.access.tokens import JoinRecord, judge_join
from commander.fleet import audit
from commander.model import Caller
from garrison.clock import ManualClock
from garrison.faults import (
    BadInput,
    CertificateExpired,
    CertificateRevoked,
    Conflict,
    DiskFull,
    Fault,
    NoCertificate,
    NotFound,
    TokenRefused,
    UnknownAuthority,
    WrongIdentity,
)
from garrison.join import JoinToken, fingerprint, read_token, secret_hash
from garrison.words import SentryState
from tests.commander.access.conftest import ADMIN, DAY_S, Machine, access_at, der_of

FACTS = {"hostname": "rig-7", "machine_id": "m1"}
ADDRESS = "10.0.0.7:40000"


async def token(access: Access, *, kind: str = "rig", uses: int = 1, ttl_s: int = 3600, approve: bool = True) -> JoinToken:
    text, _ = await access.new_join_token(ADMIN, kind, "hall", uses, ttl_s, approve)
    return read_token(text)


async def ask(access: Access, join: JoinToken, machine: Machine, kind: str = "rig", **facts: str) -> Issued | Pending:
    return await access.enrol(join.token_id, join.secret, kind, machine.csr(), {**FACTS, **facts}, ADDRESS)


async def enrolled(access: Access, machine: Machine, **facts: str) -> Issued:
    answer = await ask(access, await token(access), machine, **facts)
    assert isinstance(answer, Issued)
    return answer


async def recovered(access: Access, machine: Machine, issued: Issued, fresh: Machine) -> Issued | Pending:
    csr, at_ms = fresh.csr(), access.clock.now_ms()
    return await access.recover(der_of(issued.certificate_pem), csr, at_ms, machine.recovery(csr, at_ms), ADDRESS)


def on_disk(home: Path) -> bytes:
    """The database and what is still in its log."""
    return b"".join(path.read_bytes() for path in home.glob("fleet.db*"))


# ---- joining -------------------------------------------------------------------------------------------------------


async def test_token_string(access: Access) -> None:
    """Address, pin and a 160-bit secret in one string; of the secret only a hash is on disk."""
    text, record = await access.new_join_token(ADMIN, "rig", "hall", 2, 60, False)
    join = read_token(text)
    assert (join.address, join.pin, len(join.secret)) == ("127.0.0.1:8442", access.authority.pin, 20)
    assert record.hash == secret_hash(join.secret)
    assert join.secret not in on_disk(access.authority.folder.parent)
    access.enrol_address = ""
    with pytest.raises(Conflict, match=r"listen\.enrol"):
        await access.new_join_token(ADMIN, "rig", "", 1, 60, False)


@pytest.mark.parametrize(
    ("kind", "uses", "ttl_s"), [("robot", 1, 60), ("rig", 0, 60), ("rig", 10_001, 60), ("rig", 1, 0), ("rig", 1, 10**8)]
)
async def test_tokens_that_cannot_be(access: Access, kind: str, uses: int, ttl_s: int) -> None:
    """A token has a known kind, some uses, and an end."""
    with pytest.raises(BadInput):
        await access.new_join_token(ADMIN, kind, "", uses, ttl_s, False)


async def test_automatic_approval(access: Access) -> None:
    """A token that says so lets its sentry in at once, with the identity that we decided."""
    machine = Machine()
    issued = await enrolled(access, machine)
    peer = access.identify(issued.certificate_pem)
    assert peer.sentry_id == issued.sentry_id
    assert issued.farm_roots_pem == access.authority.roots_pem
    sentry = await access.fleet.sentry("rig-7")
    assert (sentry.id, sentry.kind, sentry.site, sentry.address) == (issued.sentry_id, "rig", "hall", ADDRESS)
    assert sentry.certificate_until_ms == issued.not_after_ms
    assert access.explain(der_of(issued.certificate_pem))[0] == "ok"


async def test_waiting_for_a_person(access: Access, clock: ManualClock) -> None:
    """Without the flag it waits, under the same fingerprint on both sides, however often it asks, even past the token's end."""
    machine, join = Machine(), await token(access, approve=False)
    first = await ask(access, join, machine)
    clock.advance(4000)  # the token has expired, but this key is bound to it
    second = await ask(access, join, machine)
    assert isinstance(first, Pending)
    assert first == second
    (waiting,) = await access.pending()
    assert (waiting.fingerprint, waiting.why, waiting.facts["hostname"]) == (first.fingerprint, "new", "rig-7")
    sentry = await access.fleet.sentry(waiting.sentry_id)
    assert (sentry.state, sentry.fingerprint) == (SentryState.PENDING, first.fingerprint)
    approved = await access.approve(ADMIN, "rig-7")
    assert approved.state is not SentryState.PENDING
    issued = await ask(access, join, machine)
    assert isinstance(issued, Issued)
    assert issued.sentry_id == sentry.id
    assert access.identify(issued.certificate_pem).sentry_id == sentry.id
    assert await access.pending() == []
    with pytest.raises(Conflict, match="does not wait"):
        await access.approve(ADMIN, "rig-7")


async def test_a_lost_reply(access: Access) -> None:
    """The same key asks again after its certificate got lost: the same sentry, no second use of the token."""
    machine, join = Machine(), await token(access)
    one, two = await ask(access, join, machine), await ask(access, join, machine)
    assert isinstance(one, Issued)
    assert isinstance(two, Issued)
    assert one.sentry_id == two.sentry_id
    assert len(await access.fleet.sentries()) == 1
    assert [(record.used, record.uses) for record in await access.join_tokens()] == [(1, 1)]


async def test_tokens_refused(access: Access, clock: ManualClock) -> None:
    """Unknown, wrong secret, used up, expired, taken back, another kind: each says which, and lets nobody in."""
    machine, join = Machine(), await token(access)
    await ask(access, join, machine)
    old = await token(access, ttl_s=60)
    back = await token(access)
    await access.revoke_join_token(ADMIN, back.token_id)
    with pytest.raises(NotFound):
        await access.revoke_join_token(ADMIN, back.token_id)
    asic = await token(access, kind="asic")
    clock.advance(61)
    cases = [
        (JoinToken("nosuch", b"x" * 20, b"", ""), "not known here"),
        (JoinToken(asic.token_id, b"x" * 20, b"", ""), "not known here"),
        (join, "used already, by another sentry"),
        (old, "expired"),
        (back, "taken back"),
        (asic, "kind asic, not rig"),
    ]
    for given, words in cases:
        with pytest.raises(TokenRefused, match=words):
            await ask(access, given, Machine())
    assert len(await access.fleet.sentries()) == 1


def test_judge_join_bound() -> None:
    """A bound key costs no use; past the token's end it may only fetch what it waits for."""
    record = JoinRecord("t", secret_hash(b"s"), "rig", "", 1, 1, False, 0, 100, "ada")
    assert judge_join(record, b"s", "rig", 50, bound=True) is record
    assert judge_join(record, b"s", "rig", 100, bound=True, waits=True) is record
    with pytest.raises(TokenRefused, match="expired"):
        judge_join(record, b"s", "rig", 100, bound=True)
    with pytest.raises(TokenRefused, match="used already"):
        judge_join(record, b"s", "rig", 50, bound=False)


async def test_uses_are_counted_in_a_race(access: Access) -> None:
    """Twenty machines at once with a token for five: five are let in."""
    join = await token(access, uses=5)
    answers = await asyncio.gather(*(ask(access, join, Machine()) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(one, Issued) for one in answers) == 5
    assert sum(isinstance(one, TokenRefused) for one in answers) == 15
    names = sorted(one.name for one in await access.fleet.sentries())
    assert names == ["rig-7", "rig-7-2", "rig-7-3", "rig-7-4", "rig-7-5"]


async def test_same_machine_again(access: Access) -> None:
    """A second enrolment of one machine is told as a warning: it may be a cloned disk."""
    await enrolled(access, Machine())
    await enrolled(access, Machine(), hostname="other", machine_id="m2")
    await enrolled(access, Machine())
    events = await access.fleet.events(kinds=["sentry_enrolled"])
    assert [one.severity for one in events] == ["warning", "info", "info"]
    assert "cloned disk" in events[0].text


async def test_hostile_facts(access: Access) -> None:
    """What a newcomer says about itself is cut and made harmless before it is kept or shown."""
    facts = {f"k{number}": "x" * 1000 for number in range(100)} | {"hostname": "a\x1b[31m/b\n"}
    issued = await ask(access, await token(access), Machine(), **facts)
    assert isinstance(issued, Issued)
    sentry = await access.fleet.sentry(issued.sentry_id)
    assert len(sentry.facts) <= 64
    assert max(len(value) for value in sentry.facts.values()) <= 400
    assert sentry.name.isprintable()


# ---- certificates at work ----------------------------------------------------------------------------------------------


async def test_identify_refuses(access: Access, clock: ManualClock, tmp_path: Path, made: InitResult) -> None:
    """Each reason has its own fault, and `explain` the same words for the other side."""
    good = await enrolled(access, Machine())
    revoked = await enrolled(access, Machine(), machine_id="m2")
    await access.revoke(ADMIN, revoked.sentry_id, "sold")
    unknown = access.authority.sign_sentry("00000000-0000-4000-8000-000000000000", Machine().csr(), clock.now_ms()).chain_pem
    server = access.authority.server_identity([], clock.now_ms()).chain_pem
    cases: list[tuple[bytes, type[Fault], str]] = [
        (b"", NoCertificate, "no certificate was shown"),
        (access.authority.roots_pem, UnknownAuthority, "another authority"),
        (server, WrongIdentity, "not for a sentry"),
        (unknown, WrongIdentity, "does not know"),
        (revoked.certificate_pem, CertificateRevoked, "revoked"),
    ]
    for certificate, fault, words in cases:
        with pytest.raises(fault, match=words) as caught:
            access.identify(certificate)
        assert access.explain(certificate and der_of(certificate)) == (fault.code, str(caught.value))
    clock.advance(8 * DAY_S)
    with pytest.raises(CertificateExpired):
        access.identify(good.certificate_pem)


async def test_renew(access: Access, clock: ManualClock) -> None:
    """A fresh key for the same identity; the fingerprint that people see follows it."""
    first = await enrolled(access, Machine())
    clock.advance(4 * DAY_S)
    fresh = Machine()
    second = await access.renew(first.sentry_id, fresh.csr())
    assert access.identify(second.certificate_pem).sentry_id == first.sentry_id
    assert second.not_after_ms > first.not_after_ms
    key = access.authority.verify_sentry(second.certificate_pem, clock.now_ms()).key_der
    assert (await access.fleet.sentry(first.sentry_id)).fingerprint == fingerprint(key)
    await access.revoke(ADMIN, first.sentry_id)
    with pytest.raises(CertificateRevoked):
        await access.renew(first.sentry_id, fresh.csr())
    with pytest.raises(BadInput):
        await access.renew(first.sentry_id, b"no request")


async def test_revocation_is_for_ever(access: Access, home: Path, clock: ManualClock) -> None:
    """Known at once, told to who cuts the streams, kept over a restart; the key cannot come back through any door."""
    told: list[str] = []
    access.on_revoked.append(told.append)
    machine, join = Machine(), await token(access, uses=2)
    issued = await ask(access, join, machine)
    assert isinstance(issued, Issued)
    sentry = await access.revoke(ADMIN, "rig-7", "stolen\x1b")
    assert sentry.state is SentryState.REVOKED
    assert told == [issued.sentry_id]
    assert access.is_revoked(issued.sentry_id)
    with pytest.raises(CertificateRevoked):
        await ask(access, join, machine)
    clock.advance(8 * DAY_S)
    with pytest.raises(CertificateRevoked):
        await recovered(access, machine, issued, Machine())
    with pytest.raises(Conflict):
        await access.approve(ADMIN, issued.sentry_id)
    await access.db.close()
    async with access_at(home, clock) as again:
        assert again.is_revoked(issued.sentry_id)


async def test_a_pending_one_is_turned_away(access: Access) -> None:
    """Revoking who waits ends the waiting."""
    machine, join = Machine(), await token(access, approve=False)
    await ask(access, join, machine)
    await access.revoke(ADMIN, "rig-7")
    assert await access.pending() == []
    with pytest.raises(CertificateRevoked):
        await ask(access, join, machine)


# ---- recovery ------------------------------------------------------------------------------------------------------


async def test_recovery(access: Access, clock: ManualClock) -> None:
    """A rig that was off for 60 days comes back by its known key, three times in 30 days; then a person decides."""
    machine = Machine()
    issued = await enrolled(access, machine)
    clock.advance(60 * DAY_S)
    for _ in range(RECOVERIES):
        fresh = Machine()
        answer = await recovered(access, machine, issued, fresh)
        assert isinstance(answer, Issued)
        assert access.identify(answer.certificate_pem).sentry_id == issued.sentry_id
        again = await recovered(access, machine, issued, fresh)  # the reply was lost: no further use
        assert isinstance(again, Issued)
        machine, issued = fresh, again
        clock.advance(8 * DAY_S)
    fresh = Machine()
    waits = await recovered(access, machine, issued, fresh)
    assert isinstance(waits, Pending)
    assert await recovered(access, machine, issued, fresh) == waits
    (waiting,) = await access.pending()
    assert (waiting.why, waiting.fingerprint) == ("recover", waits.fingerprint)
    assert len(await access.fleet.events(kinds=["sentry_waits"])) == 1
    assert (await access.fleet.sentry(issued.sentry_id)).state is not SentryState.PENDING
    await access.approve(ADMIN, issued.sentry_id)
    assert isinstance(await recovered(access, machine, issued, fresh), Issued)
    assert await access.pending() == []


async def test_recovery_refused(access: Access, clock: ManualClock) -> None:
    """Not with another key, not with a replayed or altered request, not with a clock far off, not with a stranger's certificate."""
    machine, thief = Machine(), Machine()
    issued = await enrolled(access, machine)
    clock.advance(8 * DAY_S)
    certificate, csr, at_ms = der_of(issued.certificate_pem), thief.csr(), clock.now_ms()
    with pytest.raises(WrongIdentity, match="not signed with the key"):
        await access.recover(certificate, csr, at_ms, thief.recovery(csr, at_ms), ADDRESS)
    good = machine.recovery(csr, at_ms)
    with pytest.raises(WrongIdentity, match="not signed with the key"):
        await access.recover(certificate, thief.csr(), at_ms, good, ADDRESS)
    with pytest.raises(WrongIdentity, match="not signed with the key"):
        await access.recover(certificate, csr, at_ms, b"", ADDRESS)
    clock.advance(601)
    with pytest.raises(WrongIdentity, match="clock is 10 minutes off"):
        await access.recover(certificate, csr, at_ms, good, ADDRESS)
    with pytest.raises(UnknownAuthority):
        await access.recover(b"".join([der_of(access.authority.roots_pem)]), csr, at_ms, good, ADDRESS)


async def test_an_old_copy_of_a_disk(access: Access, clock: ManualClock) -> None:
    """A key that was replaced twice comes from an old image: it waits for a person, and the real one works on."""
    old = Machine()
    first = await enrolled(access, old)
    newest = first
    for _ in range(2):
        clock.advance(4 * DAY_S)
        newest = await access.renew(first.sentry_id, Machine().csr())
    answer = await recovered(access, old, first, Machine())
    assert isinstance(answer, Pending)
    assert access.identify(newest.certificate_pem).sentry_id == first.sentry_id


THRICE = [("d", "recover", 3), ("c", "recover", 2), ("b", "recover", 1), ("a", "enrol", 0)]


@pytest.mark.parametrize(
    ("issued", "old", "new", "verdict"),
    [
        ([], b"a", b"x", "the key is not"),
        ([("a", "enrol", 0)], b"a", b"x", "recover"),
        ([("b", "renew", 1), ("a", "enrol", 0)], b"a", b"x", "recover"),
        ([("c", "renew", 2), ("b", "renew", 1), ("a", "enrol", 0)], b"a", b"x", "the key is not"),
        (
            [("d", "recover", 3), ("c", "recover", 2), ("b", "recover", 1), ("a", "enrol", 0)],
            b"d",
            b"x",
            "its certificate expired 3",
        ),
        ([("d", "recover", 3), ("c", "recover", 2), ("b", "recover", 1), ("a", "enrol", 0)], b"c", b"d", "again"),
        ([("d", "recover", 3), ("c", "recover", 2), ("b", "recover", -31 * DAY_S * 1000)], b"d", b"x", "recover"),
    ],
)
def test_judge_recovery(issued: list[tuple[str, str, int]], old: bytes, new: bytes, verdict: str) -> None:
    """The newest key or the one before, and not too often."""
    rows = [Issue(f"{number}", "s", key.encode(), at_ms, 0, how) for number, (key, how, at_ms) in enumerate(issued)]
    assert judge_recovery(rows, old, new, 10).startswith(verdict)


# ---- people ------------------------------------------------------------------------------------------------------------


async def test_people_tokens(access: Access, home: Path, clock: ManualClock) -> None:
    """Shown once, known by hash, with a role and an end; kept over a restart, gone at once when removed."""
    text, _ = await access.people.new_token(ADMIN, "grafana", "viewer", 3600)
    assert text.startswith("gsn_")
    assert access.caller_for_token(text) == Caller("grafana", "viewer")
    for wrong in ("", "gsn_", text[:-1], text.upper(), "gsn_" + "0" * 40, text + "\n", "\ud800"):
        assert access.caller_for_token(wrong) is None
    assert text.encode() not in on_disk(home)
    await access.db.close()
    async with access_at(home, clock) as again:
        assert again.caller_for_token(text) == Caller("grafana", "viewer")
        clock.advance(3600)
        assert again.caller_for_token(text) is None
        other, kept = await again.people.new_token(ADMIN, "ada", "administrator", 3600)
        await again.people.remove_token(ADMIN, kept.id)
        assert again.caller_for_token(other) is None
        with pytest.raises(NotFound):
            await again.people.remove_token(ADMIN, kept.id)
    for role, ttl_s in (("root", 60), ("viewer", 0), ("viewer", 10**10)):
        with pytest.raises(BadInput):
            await access.people.new_token(ADMIN, "x", role, ttl_s)


async def test_first_administrator(access: Access, made: InitResult, home: Path, clock: ManualClock) -> None:
    """The link that init printed makes one administrator, once, within a day; a new link ends the one before."""
    base, _, secret = made.setup_link.partition("#")
    assert base == "http://127.0.0.1:8440/setup"
    assert not (home / FIRST_LINK).exists()
    with pytest.raises(BadInput):
        await access.people.use_setup_link(secret, "", "")  # a mistyped name does not use it up
    text, _ = await access.people.use_setup_link(secret, "Ada", "10.0.0.2")
    assert access.caller_for_token(text) == Caller("Ada", "administrator")
    with pytest.raises(TokenRefused, match="used already"):
        await access.people.use_setup_link(secret, "Eve", "")
    with pytest.raises(TokenRefused, match="not known"):
        await access.people.use_setup_link("nonsense", "Eve", "")
    second, third = [(await access.people.new_setup_link(ADMIN)).partition("#")[2] for _ in range(2)]
    with pytest.raises(TokenRefused, match="not known"):
        await access.people.use_setup_link(second, "Eve", "")
    clock.advance(DAY_S)
    with pytest.raises(TokenRefused, match="expired"):
        await access.people.use_setup_link(third, "Eve", "")
    assert [one.name for one in await access.people.tokens()] == ["Ada"]


async def test_link_used_once_in_a_race(access: Access, made: InitResult) -> None:
    """Ten browsers at once: one gets a token."""
    secret = made.setup_link.partition("#")[2]
    tries = [access.people.use_setup_link(secret, f"p{number}", "") for number in range(10)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, tuple) for one in answers) == 1


async def test_audit_and_secrets(access: Access, home: Path, made: InitResult) -> None:
    """Who did what is there; no secret of any token or link is, in the audit or anywhere in the database."""
    secret = made.setup_link.partition("#")[2]
    text, _ = await access.people.use_setup_link(secret, "Ada", "10.0.0.2")
    join = await token(access)
    issued = await ask(access, join, Machine())
    assert isinstance(issued, Issued)
    await access.revoke(ADMIN, issued.sentry_id, "test")
    rows = await access.db.read(audit.rows)
    assert [row.what for row in reversed(rows)] == ["token.make", "join_token.make", "sentry.enrol", "sentry.revoke"]
    everything = on_disk(home)
    for hidden in (text, text.removeprefix("gsn_"), secret, join.text().split("-")[2]):
        assert hidden.encode() not in everything


async def test_full_disk(access: Access) -> None:
    """An enrolment or a revocation that could not be written did not happen, and works once there is space."""
    join = await token(access)

    def fill(c: sqlite3.Connection) -> None:
        pages = c.execute("pragma page_count").fetchone()[0]
        c.execute(f"pragma max_page_count={pages}").fetchall()

    await access.db.write(fill)
    machine, big = Machine(), {f"k{number}": "x" * 400 for number in range(60)}
    with pytest.raises(DiskFull):
        await ask(access, join, machine, **big)
    assert await access.fleet.sentries() == []
    await access.db.write(lambda c: c.execute("pragma max_page_count=1000000").fetchall())
    assert isinstance(await ask(access, join, machine, **big), Issued)
    assert len(await access.fleet.sentries()) == 1
    assert len(await access.db.read(lambda c: store.joins(c))) == 1
