"""How this sentry gets its certificate: the first one for a token, each next one at half life, one more after it expired.

Called by: `cli.py` (`enrol`, `fingerprint`), `session.py` (`renew`, `recover`), both when they need it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from garrison import join, keyfile, wire
from garrison.clock import Clock
from garrison.faults import Broken, Conflict, NotFound, UnknownAuthority
from garrison.v1 import enrolment_pb2 as pb
from garrison.v1.enrolment_pb2_grpc import EnrolmentStub
from garrison.v1.post_pb2 import RenewRequest
from garrison.v1.post_pb2_grpc import PostStub
from sentry_core.channel import answered, enrol_channel, post_channel
from sentry_core.identity import Identity, save, shown_chain


async def enrol(
    folder: Path,
    token_text: str,
    kind: str,
    facts: Mapping[str, str],
    clock: Clock,
    *,
    on_pending: Callable[[str], None] = lambda _: None,
) -> Identity:
    """Asks until a person approved. Conflict: enrolled already; TokenRefused; UnknownAuthority: not the farm of the token."""
    if (folder / "identity.pem").exists():
        raise Conflict("this sentry is enrolled already", hint=f"move {folder} away to enrol it anew")
    token = join.read_token(token_text)
    root_pem = await pinned_root(token.address, token.pin)
    key_pem = next_key(folder)
    request = pb.EnrolRequest(
        token_id=token.token_id, token_secret=token.secret, kind=kind, csr_der=csr(key_pem), facts=dict(facts)
    )
    async with enrol_channel(token.address, root_pem) as channel:
        reply = await _until_approved(lambda: EnrolmentStub(channel).Enrol(request, timeout=30), token.address, clock, on_pending)
    identity = _identity_of(reply, key_pem, token.address)
    save(folder, identity)
    return identity


async def renew(folder: Path, identity: Identity) -> Identity:
    """A fresh certificate for a fresh key, over the certificate that is still valid."""
    key_pem = _key_pem(ec.generate_private_key(ec.SECP256R1()))
    channel = post_channel(identity.post_address, identity.roots_pem, identity.key_pem, identity.chain_pem)
    async with channel:
        reply = await answered(PostStub(channel).Renew(RenewRequest(csr_der=csr(key_pem)), timeout=30), identity.post_address)
    return await _replace(folder, identity, wire.checked(reply), key_pem)


async def recover(
    folder: Path, identity: Identity, clock: Clock, *, on_pending: Callable[[str], None] = lambda _: None
) -> Identity:
    """For an expired certificate: proves that we still hold its key. Waits while the commander wants a person's click."""
    key_pem = next_key(folder)
    request_der = csr(key_pem)
    old_key = load_pem_private_key(identity.key_pem, None)
    if not isinstance(old_key, ec.EllipticCurvePrivateKey):
        raise Broken("the key of this sentry is not an elliptic curve key", hint="enrol this sentry again")
    async with enrol_channel(identity.enrol_address, identity.roots_pem) as channel:

        def ask() -> grpc.aio.UnaryUnaryCall[pb.RecoverRequest, pb.EnrolReply]:
            at_ms = clock.now_ms()
            signature = old_key.sign(join.recovery_message(at_ms, request_der), ec.ECDSA(hashes.SHA256()))
            request = pb.RecoverRequest(
                certificate_der=identity.certificate_der, csr_der=request_der, at_ms=at_ms, signature=signature
            )
            return EnrolmentStub(channel).Recover(request, timeout=30)

        reply = await _until_approved(ask, identity.enrol_address, clock, on_pending)
    return await _replace(folder, identity, reply, key_pem)


async def _until_approved(
    ask: Callable[
        [], grpc.aio.UnaryUnaryCall[pb.EnrolRequest, pb.EnrolReply] | grpc.aio.UnaryUnaryCall[pb.RecoverRequest, pb.EnrolReply]
    ],
    address: str,
    clock: Clock,
    on_pending: Callable[[str], None],
) -> pb.Certificate:
    told = ""
    while True:
        reply = wire.checked(await answered(ask(), address))
        if reply.WhichOneof("result") == "certificate":
            return reply.certificate
        if told != reply.pending.fingerprint:
            told = reply.pending.fingerprint
            on_pending(told)
        await clock.sleep(min(max(reply.pending.ask_again_s, 1), 300))


async def _replace(folder: Path, old: Identity, reply: pb.Certificate, key_pem: bytes) -> Identity:
    fresh = _identity_of(reply, key_pem, old.enrol_address)
    if fresh.sentry_id != old.sentry_id:
        raise Broken(
            "the commander gave us the certificate of another sentry", hint="nothing was changed; look at the commander's log"
        )
    fresh = replace(fresh, post_address=fresh.post_address or old.post_address)
    await asyncio.to_thread(save, folder, fresh)
    return fresh


def _identity_of(reply: pb.Certificate, key_pem: bytes, enrol_address: str) -> Identity:
    try:
        chain = x509.load_pem_x509_certificates(reply.certificate_pem)
        roots = x509.load_pem_x509_certificates(reply.farm_roots_pem)
    except ValueError as error:
        raise Broken("the commander sent something that is no certificate") from error
    key = load_pem_private_key(key_pem, None)
    if not roots or not isinstance(key, ec.EllipticCurvePrivateKey) or _public(chain[0]) != _public(key):
        raise Broken("the commander sent a certificate for another key", hint="nothing was changed; ask again")
    address = reply.post_address
    host, _, port = address.rpartition(":")
    if port and host in ("", "0.0.0.0", "[::]", "::"):  # what it listens on is not where we reach it
        address = f"{enrol_address.rpartition(':')[0]}:{port}"
    start, end = (int(at.timestamp() * 1000) for at in (chain[0].not_valid_before_utc, chain[0].not_valid_after_utc))
    chain_pem, roots_pem = (b"".join(one.public_bytes(Encoding.PEM) for one in found) for found in (chain, roots))
    return Identity(reply.sentry_id, key_pem, chain_pem, roots_pem, address, enrol_address, start, end)


async def pinned_root(address: str, pin: bytes) -> bytes:
    """The farm's root (PEM) as the commander shows it, when it is the one the token pins. UnknownAuthority, Unreachable."""
    for der in await asyncio.to_thread(shown_chain, address):
        if join.pin_of(der) == pin:
            return ssl.DER_cert_to_PEM_cert(der).encode()
    raise UnknownAuthority(
        f"the commander at {address} does not belong to the farm of this token (its CA does not match the pin)",
        hint="check the address; somebody may stand between, or the token is from another farm",
    )


# ---- keys ----------------------------------------------------------------------------------------------------


def next_key(folder: Path) -> bytes:
    """The key of the request in hand, made when there is none: asking again must show the same fingerprint."""
    try:
        data = keyfile.read(folder / "next-key.pem")
        load_pem_private_key(data, None)
    except (NotFound, ValueError, TypeError):
        data = _key_pem(ec.generate_private_key(ec.SECP256R1()))
        keyfile.write(folder / "next-key.pem", data)
    return data


def csr(key_pem: bytes) -> bytes:
    """DER. Its names are empty: the commander decides who we are."""
    key = load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Broken("the key of this sentry is not an elliptic curve key", hint="enrol this sentry again")
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def fingerprint(key_pem: bytes) -> str:
    """As the commander shows it, so that a person can compare."""
    key = load_pem_private_key(key_pem, None)
    return join.fingerprint(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _public(of: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
