"""Who is not let in: each in its own words, on both sides."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from commander.access import policy
from garrison import join, keyfile
from garrison.clock import ManualClock, SystemClock
from garrison.faults import BadInput, Conflict, NoCertificate, TokenRefused, UnknownAuthority, Unreachable
from garrison.frame import Layout
from garrison.v1 import enrolment_pb2, post_pb2
from garrison.v1.enrolment_pb2_grpc import EnrolmentStub
from garrison.v1.post_pb2_grpc import PostServicer, PostStub, add_PostServicer_to_server
from sentry_core import conversation, daemon, enrolment, identity
from sentry_core.channel import enrol_channel, fault_of, post_channel
from sentry_core.journal import Journal
from tests.session.a_sentry import MadeUpPost, Settings
from tests.session.farm import Farm, farm
from tests.session.post import enrolled, running, until
from tests.session.processes import FarmProcess

OTHER_FARM = "99999999-2222-4333-8444-555555555555"


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Farm]:
    async with farm(tmp_path / "farm") as opened:
        yield opened


async def refused(home: Path, code: str, within_s: float = 30) -> str:
    """Runs the sentry until its status says that it was refused; returns the words."""
    async with running(home, Settings()):
        said: dict[str, str] = {}

        def told() -> bool:
            try:
                said.update(json.loads((home / "status.json").read_text()))
            except FileNotFoundError:
                return False
            return said.get("fault") == code

        await until(told, within_s, f"{code} (it says {said})")
    return said["text"]


def commander_said(caplog: pytest.LogCaptureFixture, code: str) -> str:
    found = [r for r in caplog.records if r.name.startswith("commander.link") and getattr(r, "fault", "") == code]
    assert found, f"the commander logged nothing about {code}"
    return str(found[-1].__dict__["text"])


async def test_revoked(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A revoked sentry is refused when it opens a session; renewing is refused too."""
    who = await enrolled(tmp_path / "s", it.token())
    it.access.revoked.add(who.sentry_id)
    assert "revoked" in await refused(tmp_path / "s", "certificate_revoked")
    assert "revoked" in commander_said(caplog, "certificate_revoked")
    with pytest.raises(Exception, match="revoked"):
        await enrolment.renew(tmp_path / "s" / "identity", who)


async def test_an_open_stream_is_cut_when_its_sentry_is_revoked(it: Farm, tmp_path: Path) -> None:
    """Within five seconds."""
    who = await enrolled(tmp_path / "s", it.token())
    async with running(tmp_path / "s"):
        await until(lambda: who.sentry_id in it.link.sessions())
        it.access.revoked.add(who.sentry_id)
        await until(lambda: who.sentry_id not in it.link.sessions(), 5)
        await until(lambda: "certificate_revoked" in (tmp_path / "s" / "status.json").read_text())


async def test_expired_is_told_and_recovers(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The certificate ended while the sentry was off: both say so, and it gets a new one with the key that is known."""
    caplog.set_level(logging.INFO)
    it.access.life_ms = 1_500
    who = await enrolled(tmp_path / "s", it.token())
    await until(lambda: SystemClock().now_ms() > who.not_after_ms)
    it.access.life_ms = 7 * 86_400_000
    async with running(tmp_path / "s"):
        await until(lambda: who.sentry_id in it.link.sessions())
    assert "expired" in commander_said(caplog, "certificate_expired")
    assert any("expired" in str(r.__dict__.get("text")) for r in caplog.records if r.name == "sentry_core.session")
    assert identity.load(tmp_path / "s" / "identity").not_after_ms > SystemClock().now_ms()


async def test_expired_and_not_approved_waits(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the commander wants a person's click, the sentry shows the fingerprint and goes on once it was given."""
    it.access.life_ms = 1_500
    who = await enrolled(tmp_path / "s", it.token())
    await until(lambda: SystemClock().now_ms() > who.not_after_ms)
    it.access.approve, it.access.life_ms = False, 7 * 86_400_000
    async with running(tmp_path / "s"):
        await until(lambda: any("approve this sentry again" in r.message for r in caplog.records))
        assert who.sentry_id not in it.link.sessions()
        it.access.approve = True
        await until(lambda: who.sentry_id in it.link.sessions())


async def test_signed_by_another_farm(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate of another CA, shown to us by somebody who knows our root: TLS refuses it, both sides say why."""
    who = await enrolled(tmp_path / "s", it.token())
    async with farm(tmp_path / "other", farm_id=OTHER_FARM, name="other farm") as other:
        forged = other.access.issue(who.sentry_id, enrolment.csr(who.key_pem))
    identity.save(tmp_path / "s" / "identity", replace(who, chain_pem=forged.certificate_pem))
    assert "other farm" in await refused(tmp_path / "s", "unknown_authority")
    assert "other farm" in commander_said(caplog, "unknown_authority")
    assert not it.fleet.hellos


async def test_the_commander_belongs_to_another_farm(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sentry that is led to a strange commander refuses it, and tells that commander who knocked."""
    who = await enrolled(tmp_path / "s", it.token())
    async with farm(tmp_path / "other", farm_id=OTHER_FARM, name="other farm") as other:
        strange = replace(who, post_address=f"127.0.0.1:{other.link.post_port}", enrol_address=f"127.0.0.1:{other.link.enrol_port}")
        identity.save(tmp_path / "s" / "identity", strange)
        assert "another farm" in await refused(tmp_path / "s", "unknown_authority")
        assert "another authority" in commander_said(caplog, "unknown_authority")
        assert not other.fleet.hellos


async def test_another_sentrys_certificate(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Hello in the name of one sentry over the certificate of another."""
    one = await enrolled(tmp_path / "one", it.token())
    two = await enrolled(tmp_path / "two", it.token())
    identity.save(tmp_path / "one" / "identity", replace(two, sentry_id=one.sentry_id))
    assert two.sentry_id in await refused(tmp_path / "one", "wrong_identity")
    assert one.sentry_id in commander_said(caplog, "wrong_identity")
    assert not it.fleet.hellos


async def test_no_certificate(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sentry that was never enrolled does not start; a client without a certificate gets no call through TLS."""
    with pytest.raises(NoCertificate, match="not enrolled"):
        await daemon.run(MadeUpPost(Settings(), tmp_path, SystemClock()), Settings(), tmp_path, SystemClock())
    who = await enrolled(tmp_path / "s", it.token())
    async with enrol_channel(who.post_address, who.roots_pem) as channel:
        call = PostStub(channel).Renew(post_pb2.RenewRequest(), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await call
        assert isinstance(fault_of(broken.value, who.post_address), Unreachable)
    async with enrol_channel(who.enrol_address, who.roots_pem) as channel:
        reply = await EnrolmentStub(channel).Explain(enrolment_pb2.ExplainRequest(), timeout=10)
    assert reply.code == "no_certificate"
    assert "no certificate" in commander_said(caplog, "no_certificate")


async def test_the_pin_does_not_match(it: Farm, tmp_path: Path) -> None:
    """A token of another farm, or somebody between: nothing is sent, not even the secret."""
    token = join.read_token(it.token())
    with pytest.raises(UnknownAuthority, match="pin"):
        await enrolment.enrol(tmp_path / "i", replace(token, pin=b"x" * 32).text(), "rig", {}, SystemClock())
    assert not it.access.waiting
    assert not (tmp_path / "i" / "identity.pem").exists()


async def test_a_wrong_token(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused in the commander's words; the secret is in no log."""
    token = replace(join.read_token(it.token()), secret=b"S" * 20)
    with pytest.raises(TokenRefused, match="not known here"):
        await enrolment.enrol(tmp_path / "i", token.text(), "rig", {}, SystemClock())
    assert "not known" in commander_said(caplog, "token_refused")
    assert "SSSS" not in caplog.text


@pytest.mark.parametrize("text", ["", "gsj1", "gsj1-a-b-c@d", "hello", "gsj1-token1-" + "a" * 32 + "-" + "0" * 64 + "@host:99999"])
async def test_what_is_no_token(tmp_path: Path, text: str) -> None:
    """BadInput, before anything is dialled."""
    with pytest.raises(BadInput, match="not a join token"):
        await enrolment.enrol(tmp_path / "i", text, "rig", {}, SystemClock())


async def test_enrolling_waits_for_approval_with_one_key(it: Farm, tmp_path: Path) -> None:
    """While it waits it asks again with the same key; a second enrolment is refused."""
    it.access.approve = False
    shown: list[str] = []
    task = asyncio.create_task(
        enrolment.enrol(tmp_path / "i", it.token(), "rig", {}, SystemClock(), on_pending=lambda text: shown.append(text))
    )
    await until(lambda: bool(shown))
    it.access.approve = True
    joined = await asyncio.wait_for(task, 30)
    assert len(it.access.waiting) == 1
    assert (tmp_path / "i" / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "i" / "next-key.pem").exists()
    assert identity.load(tmp_path / "i") == joined
    with pytest.raises(Conflict, match="already"):
        await enrolment.enrol(tmp_path / "i", it.token(), "rig", {}, SystemClock())


async def test_renewal_at_half_life(it: Farm, tmp_path: Path) -> None:
    """In the background, with a fresh key, while the session goes on."""
    it.access.life_ms = 1_800_000  # it is backdated by an hour, so its half is over at once
    who = await enrolled(tmp_path / "s", it.token())
    it.access.life_ms = 7 * 86_400_000
    async with running(tmp_path / "s"):
        await until(lambda: who.sentry_id in it.link.sessions())
        await until(lambda: identity.load(tmp_path / "s" / "identity").not_after_ms > who.not_after_ms)
        assert identity.load(tmp_path / "s" / "identity").key_pem != who.key_pem
        assert len(it.fleet.hellos) == 1


async def test_a_key_that_others_can_read(it: Farm, tmp_path: Path) -> None:
    """The sentry does not start, and says what to do."""
    await enrolled(tmp_path / "s", it.token())
    (tmp_path / "s" / "identity" / "identity.pem").chmod(0o644)
    with pytest.raises(BadInput, match="can be read by others") as refusal:
        identity.load(tmp_path / "s" / "identity")
    assert "chmod 600" in refusal.value.hint


async def test_a_damaged_identity(it: Farm, tmp_path: Path) -> None:
    """A clear fault for each damage, never a traceback."""
    await enrolled(tmp_path / "s", it.token())
    folder = tmp_path / "s" / "identity"
    for name in ("identity.pem", "farm.json", "roots.pem"):
        whole = (folder / name).read_bytes()
        keyfile.write(folder / name, whole[: len(whole) // 2])
        with pytest.raises(Exception, match=r"enrol this sentry again|not enrolled"):
            identity.load(folder)
        keyfile.write(folder / name, whole)
    identity.load(folder)


async def test_versions(it: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sentry of the future is refused with both numbers, and hears them."""
    who = await enrolled(tmp_path / "s", it.token())
    async with post_channel(who.post_address, who.roots_pem, who.key_pem, who.chain_pem) as channel:
        call = channel.stream_stream(
            "/garrison.v1.Post/Session",
            request_serializer=post_pb2.Up.SerializeToString,
            response_deserializer=post_pb2.Down.FromString,
        )()
        await call.write(post_pb2.Up(hello=post_pb2.Hello(protocol_min=7, protocol_max=9, sentry_id=who.sentry_id, boot=b"b" * 16)))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.read()
    fault = fault_of(refusal.value, who.post_address)
    assert fault.code == "version_mismatch"
    assert "7 to 9" in fault.text
    assert "7 to 9" in commander_said(caplog, "version_mismatch")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (post_pb2.Up(roster=post_pb2.Roster()), "bad_input"),
        (post_pb2.Up(), "bad_input"),
        (post_pb2.Up(hello=post_pb2.Hello(protocol_min=1, protocol_max=1, sentry_id="x" * 20_000)), "bad_input"),
        (post_pb2.Up(hello=post_pb2.Hello(protocol_min=1, protocol_max=1, sentry_id="SELF", boot=b"short")), "bad_input"),
    ],
)
async def test_a_strange_beginning(it: Farm, tmp_path: Path, what: post_pb2.Up, code: str) -> None:
    """Each gets a fault; no session is entered."""
    who = await enrolled(tmp_path / "s", it.token())
    if what.hello.sentry_id == "SELF":
        what.hello.sentry_id = who.sentry_id
    async with post_channel(who.post_address, who.roots_pem, who.key_pem, who.chain_pem) as channel:
        call = channel.stream_stream(
            "/garrison.v1.Post/Session",
            request_serializer=post_pb2.Up.SerializeToString,
            response_deserializer=post_pb2.Down.FromString,
        )()
        await call.write(what)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.read()
    assert fault_of(refusal.value, "").code == code
    assert not it.fleet.hellos


class Deaf(PostServicer):
    """Says Welcome and then reads nothing any more, with a link that lives."""

    def __init__(self) -> None:
        self.calls = 0

    async def Session(self, _: object, context: Any) -> None:  # type: ignore[override]  # aio's read and write are used  # noqa: N802  # the proto's name
        self.calls += 1
        await context.read()
        await context.write(post_pb2.Down(welcome=post_pb2.Welcome(protocol=1, reconnect_window_ms=100, backlog_window=1000)))
        await asyncio.Event().wait()

    async def Renew(self, request: post_pb2.RenewRequest, context: Any) -> enrolment_pb2.Certificate:  # noqa: N802  # the proto's name
        raise NotImplementedError


async def test_a_commander_that_does_not_read(it: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write runs out of time. gRPC then cancels the call, which the reader sees as CancelledError: it must not be taken for
    the sentry's own end, which would leave it without a session for ever."""
    monkeypatch.setattr(conversation, "WRITE_S", 1.0)
    await enrolled(tmp_path / "s", it.token())
    journal = await Journal.open(tmp_path / "s" / "journal.db", SystemClock())
    for _ in range(60):
        await journal.append_frame(Layout.of([("power_w", "")]), os.urandom(200_000))
    await journal.close()
    authority, server, deaf = it.access.authority, grpc.aio.server(), Deaf()
    keys = authority.server_identity(["127.0.0.1"], SystemClock().now_ms())
    add_PostServicer_to_server(deaf, server)
    credentials = grpc.ssl_server_credentials([(keys.key_pem, keys.chain_pem)], authority.roots_pem, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        async with running(tmp_path / "s", Settings(commander=f"127.0.0.1:{port}")):
            await until(lambda: deaf.calls >= 2, 60)
    finally:
        await server.stop(0)


async def test_every_method_is_denied_unless_the_policy_names_it(it: Farm, tmp_path: Path) -> None:
    """From the descriptors, both ways; and on each port only what belongs there."""
    services = [*enrolment_pb2.DESCRIPTOR.services_by_name.values(), *post_pb2.DESCRIPTOR.services_by_name.values()]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods == set(policy.GRPC)
    who = await enrolled(tmp_path / "s", it.token())
    strange = {
        "/garrison.v1.Post/Shell",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    }
    ports = {
        policy.SENTRY: post_channel(who.post_address, who.roots_pem, who.key_pem, who.chain_pem),
        policy.ANYBODY: enrol_channel(who.enrol_address, who.roots_pem),
    }
    for kind, channel in ports.items():
        async with channel:
            for method in sorted(strange | {name for name, needed in policy.GRPC.items() if needed != kind}):
                with pytest.raises(grpc.aio.AioRpcError) as denied:
                    await channel.unary_unary(method, _plain, _plain)(b"", timeout=10)
                assert fault_of(denied.value, "").code == "not_allowed", method


def _plain(data: bytes) -> bytes:
    return data


async def test_only_tls_1_3(tmp_path: Path) -> None:
    """Neither port of a real commander process finishes a TLS 1.2 handshake; both take 1.3."""
    process = FarmProcess(tmp_path / "farm")
    await process.start()
    try:
        for port in (process.told["post"], process.told["enrol"]):
            assert await asyncio.to_thread(_handshake, port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
            with pytest.raises(OSError):  # noqa: PT011  # an alert or a plain end, as OpenSSL likes
                await asyncio.to_thread(_handshake, port, ssl.TLSVersion.TLSv1_2)
    finally:
        await process.kill()


def _handshake(port: int, version: ssl.TLSVersion) -> str | None:
    import socket

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as secure:
        return secure.version()


async def test_the_port_is_in_use(it: Farm, tmp_path: Path) -> None:
    """A second commander on the same port does not start, and says which setting to change."""
    with pytest.raises(Exception, match="cannot listen on"):
        async with farm(tmp_path / "second", post_port=it.link.post_port):
            pass


def test_reconnect_waits() -> None:
    """At once, then somewhere in the window, growing from the third failure, never above a minute."""
    from sentry_core.session import next_wait_s

    assert next_wait_s(0, 20, 1.0) == 0
    assert [next_wait_s(n, 20, 1.0) for n in (1, 2, 3, 4, 9)] == [20, 20, 40, 60, 60]
    assert next_wait_s(5, 20, 0.0) == 0
    assert next_wait_s(2000, 20, 0.5) == 30


def test_the_enrolment_port_is_rate_limited() -> None:
    """A burst passes, then a steady rate; one host does not use up what others have."""
    from commander.link.enrolment import Allowance

    clock = ManualClock()
    allowance = Allowance(clock)
    assert sum(allowance.take("10.0.0.1") for _ in range(500)) == 200
    assert allowance.take("10.0.0.2")
    clock.advance(1)
    assert sum(allowance.take("10.0.0.1") for _ in range(100)) == 20
