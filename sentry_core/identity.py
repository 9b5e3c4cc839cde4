"""Who this sentry is: its own key, the certificate the farm gave it, and how it gets the next one.

`<state>/identity/`
    identity.pem   the key and the certificate chain, in one file so that a renewal replaces both or none; mode 0600
    roots.pem      the farm's CA: what we trust
    farm.json      our id and the commander's addresses
    next-key.pem   the key of a request that is still waiting for approval

Called by: `cli.py` (`enrol`), `session.py` (`renew`, `recover`, `diagnose`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import msgspec
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

from garrison import join, wire
from garrison.clock import Clock
from garrison.faults import (
    BadInput,
    Broken,
    CertificateExpired,
    Conflict,
    Fault,
    NoCertificate,
    NotFound,
    Unavailable,
    UnknownAuthority,
    Unreachable,
    from_wire,
)
from garrison.v1 import enrolment_pb2 as pb
from garrison.v1.enrolment_pb2_grpc import EnrolmentStub
from garrison.v1.post_pb2 import RenewRequest
from garrison.v1.post_pb2_grpc import PostStub
from sentry_core import keyfile
from sentry_core.channel import CONNECT_S, enrol_channel, fault_of, post_channel

log = logging.getLogger(__name__)

_X509_EXPIRED = 10  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True, slots=True)
class Identity:
    """All that is needed to open a session. `chain_pem`: our certificate, then the farm's intermediate."""

    sentry_id: str
    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    roots_pem: bytes
    post_address: str
    enrol_address: str

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain_pem)

    @property
    def certificate_der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def not_after_ms(self) -> int:
        return int(self.certificate.not_valid_after_utc.timestamp() * 1000)

    @property
    def renew_at_ms(self) -> int:
        """Half of its life."""
        certificate = self.certificate
        start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return int((start + end) * 500)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key_pem)


class _Farm(msgspec.Struct, frozen=True):
    sentry_id: str
    post_address: str
    enrol_address: str


# ---- on disk -----------------------------------------------------------------------------------------------


def load(folder: Path) -> Identity:
    """NoCertificate: not enrolled. BadInput: the key can be read by others. Broken: a file that is not what it should be."""
    try:
        both = keyfile.read(folder / "identity.pem")
        farm = msgspec.json.decode(keyfile.read(folder / "farm.json", private=False), type=_Farm)
        roots = keyfile.read(folder / "roots.pem", private=False)
        chain = x509.load_pem_x509_certificates(both)
        key = load_pem_private_key(both, None)
        x509.load_pem_x509_certificates(roots)
    except NotFound as error:
        raise NoCertificate(
            "this sentry is not enrolled in a farm", hint="run `enrol TOKEN`; `commander sentries token` makes one"
        ) from error
    except (ValueError, TypeError, msgspec.DecodeError) as error:
        raise Broken(f"the identity in {folder} is damaged: {error}", hint="enrol this sentry again") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or _public(key) != _public(chain[0]):
        raise Broken(f"the key in {folder} does not belong to its certificate", hint="enrol this sentry again")
    chain_pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    return Identity(farm.sentry_id, _key_pem(key), chain_pem, roots, farm.post_address, farm.enrol_address)


def save(folder: Path, identity: Identity) -> None:
    """The key last: until it is there, an older identity stays whole."""
    farm = _Farm(identity.sentry_id, identity.post_address, identity.enrol_address)
    keyfile.write(folder / "roots.pem", identity.roots_pem)
    keyfile.write(folder / "farm.json", msgspec.json.encode(farm))
    keyfile.write(folder / "identity.pem", identity.key_pem + identity.chain_pem)
    (folder / "next-key.pem").unlink(missing_ok=True)


def next_key(folder: Path) -> bytes:
    """The key of the request in hand, made when there is none: asking again must show the same fingerprint."""
    try:
        data = keyfile.read(folder / "next-key.pem")
        load_pem_private_key(data, None)
    except (NotFound, ValueError, TypeError):
        data = _key_pem(ec.generate_private_key(ec.SECP256R1()))
        keyfile.write(folder / "next-key.pem", data)
    return data


# ---- getting a certificate ---------------------------------------------------------------------------------


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
        try:
            reply = await PostStub(channel).Renew(RenewRequest(csr_der=csr(key_pem)), timeout=30)
        except grpc.aio.AioRpcError as error:
            raise fault_of(error, identity.post_address) from error
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
        try:
            reply = wire.checked(await ask())
        except grpc.aio.AioRpcError as error:
            raise fault_of(error, address) from error
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
    return Identity(reply.sentry_id, key_pem, reply.certificate_pem, reply.farm_roots_pem, address, enrol_address)


# ---- what TLS cannot say -----------------------------------------------------------------------------------


async def pinned_root(address: str, pin: bytes) -> bytes:
    """The farm's root (PEM) as the commander shows it, when it is the one the token pins. UnknownAuthority, Unreachable."""
    for der in await asyncio.to_thread(_shown_chain, address):
        if join.pin_of(der) == pin:
            return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    raise UnknownAuthority(
        f"the commander at {address} does not belong to the farm of this token (its CA does not match the pin)",
        hint="check the address; somebody may stand between, or the token is from another farm",
    )


async def diagnose(folder: Path, identity: Identity, clock: Clock) -> Fault:
    """Why the commander's port did not take us: gRPC shows every failed handshake as "unavailable".

    Asks the commander through the enrolment port, so that it logs its own words too.
    """
    address = identity.post_address
    try:
        await asyncio.to_thread(_handshake, folder, identity, address)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _X509_EXPIRED:
            return CertificateExpired(f"the commander at {address} shows an expired certificate", hint="check both clocks")
        await _ask_stranger(identity)
        return UnknownAuthority(
            f"the commander at {address} belongs to another farm: its certificate is not signed by ours ({error.verify_message})",
            hint="check the address; to join that farm, enrol this sentry with one of its tokens",
        )
    except ssl.SSLError as error:
        broken = f"the commander at {address} broke the handshake ({error.reason or error})"
    except OSError as error:
        return Unreachable(f"no connection to the commander at {address}: {error.strerror or error}")
    else:  # a server that refuses our certificate may also simply close
        broken = f"the commander at {address} is there, but ended the connection"
    said = await explain(identity)
    if said is not None:
        return said
    if clock.now_ms() >= identity.not_after_ms:
        return CertificateExpired("our certificate has expired", hint="check the clock of this machine")
    return Unavailable(broken)


async def explain(identity: Identity) -> Fault | None:
    """What the commander says of our certificate; None: it is good, or the enrolment port does not answer."""
    try:
        async with enrol_channel(identity.enrol_address, identity.roots_pem) as channel:
            request = pb.ExplainRequest(certificate_der=identity.certificate_der)
            reply = wire.checked(await EnrolmentStub(channel).Explain(request, timeout=CONNECT_S))
    except (grpc.aio.AioRpcError, BadInput):
        return None
    return None if reply.code == "ok" else from_wire(reply.code, reply.text)


async def _ask_stranger(identity: Identity) -> None:
    """Shows our certificate (which is no secret) to a commander we do not trust, for its log only."""
    try:
        chain = await asyncio.to_thread(_shown_chain, identity.enrol_address)
        root = x509.load_der_x509_certificate(chain[-1]).public_bytes(Encoding.PEM)
    except (Fault, ValueError, IndexError):
        return
    said = await explain(replace(identity, roots_pem=root))
    if said is not None:
        log.info("that commander says", extra={"text": said.text})


def _shown_chain(address: str) -> list[bytes]:
    """The certificates (DER) a server shows, unverified, the leaf first. Unreachable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent before the chain was compared with the pin
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(address) as plain, context.wrap_socket(plain, server_hostname=join.SERVER_NAME) as secure:
            shown = secure._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # public as SSLSocket's own from 3.13
    except OSError as error:
        raise Unreachable(
            f"no connection to {address}: {error.strerror or error}", hint="check the address and the network"
        ) from error
    return [one if isinstance(one, bytes) else one.public_bytes(2) for one in shown or ()]  # 2: ssl's ENCODING_DER


def _handshake(folder: Path, identity: Identity, address: str) -> None:
    """A TLS handshake with our certificate, up to the first byte: in TLS 1.3 a refusal comes only then."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=identity.roots_pem.decode())
    context.load_cert_chain(folder / "identity.pem")
    context.set_alpn_protocols(["h2"])
    with _connected(address) as plain, context.wrap_socket(plain, server_hostname=join.SERVER_NAME) as secure:
        secure.recv(1)


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S)


# ---- keys --------------------------------------------------------------------------------------------------


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
