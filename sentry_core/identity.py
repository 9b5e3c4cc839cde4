"""Who this sentry is: its own key and the certificate the farm gave it; and why a commander does not take it, in words.

`<state>/identity/`
    identity.pem   the key and the certificate chain, in one file so that a renewal replaces both or none; mode 0600
    roots.pem      the farm's CA: what we trust
    farm.json      our id, the commander's addresses, and how long the certificate is valid
    next-key.pem   the key of a request that is still waiting for approval

Getting a certificate is in `enrolment.py`: it needs `cryptography`, which costs 9 MB of memory that a running sentry
wants for days only. What is here does with the `ssl` of the standard library.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from garrison import join, keyfile, wire
from garrison.clock import Clock
from garrison.faults import (
    Broken,
    CertificateExpired,
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
from sentry_core.channel import CONNECT_S, answered, enrol_channel

log = logging.getLogger(__name__)

_X509_EXPIRED = 10  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN PRIVATE KEY-----.+?-----END PRIVATE KEY-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Identity:
    """All that is needed to open a session. `chain_pem`: our certificate, then the farm's intermediate."""

    sentry_id: str
    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    roots_pem: bytes
    post_address: str
    enrol_address: str
    not_before_ms: int
    not_after_ms: int

    @property
    def certificate_der(self) -> bytes:
        leaf = _CERTIFICATE.search(self.chain_pem)
        return ssl.PEM_cert_to_DER_cert(leaf[0].decode()) if leaf else b""

    @property
    def renew_at_ms(self) -> int:
        """Half of its life."""
        return (self.not_before_ms + self.not_after_ms) // 2


class _Farm(msgspec.Struct, frozen=True):
    sentry_id: str
    post_address: str
    enrol_address: str
    not_before_ms: int
    not_after_ms: int


# ---- on disk -----------------------------------------------------------------------------------------------


def load(folder: Path) -> Identity:
    """NoCertificate: not enrolled. BadInput: the key can be read by others. Broken: a file that is not what it should be."""
    try:
        both = keyfile.read(folder / "identity.pem")
        farm = msgspec.json.decode(keyfile.read(folder / "farm.json", private=False), type=_Farm)
        roots = keyfile.read(folder / "roots.pem", private=False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(folder / "identity.pem")  # also checks that they belong together
        context.load_verify_locations(cadata=roots.decode("ascii"))
    except NotFound as error:
        raise NoCertificate(
            "this sentry is not enrolled in a farm", hint="run `enrol TOKEN`; `commander sentries token` makes one"
        ) from error
    except (ssl.SSLError, ValueError, msgspec.DecodeError) as error:
        raise Broken(f"the identity in {folder} is damaged: {error}", hint="enrol this sentry again") from error
    key, chain = _KEY.search(both), b"".join(_CERTIFICATE.findall(both))
    if key is None or not chain:
        raise Broken(f"the identity in {folder} is damaged: not as we wrote it", hint="enrol this sentry again")
    return Identity(
        farm.sentry_id, key[0], chain, roots, farm.post_address, farm.enrol_address, farm.not_before_ms, farm.not_after_ms
    )


def save(folder: Path, identity: Identity) -> None:
    """The key last: until it is there, an older identity stays whole."""
    who = identity
    farm = _Farm(who.sentry_id, who.post_address, who.enrol_address, who.not_before_ms, who.not_after_ms)
    keyfile.write(folder / "roots.pem", identity.roots_pem)
    keyfile.write(folder / "farm.json", msgspec.json.encode(farm))
    keyfile.write(folder / "identity.pem", identity.key_pem + identity.chain_pem)
    (folder / "next-key.pem").unlink(missing_ok=True)


# ---- what TLS cannot say -----------------------------------------------------------------------------------


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
            call = EnrolmentStub(channel).Explain(request, timeout=CONNECT_S)
            reply = wire.checked(await answered(call, identity.enrol_address))
    except Fault:
        return None
    return None if reply.code == "ok" else from_wire(reply.code, reply.text)


async def _ask_stranger(identity: Identity) -> None:
    """Shows our certificate (which is no secret) to a commander we do not trust, for its log only."""
    try:
        chain = await asyncio.to_thread(shown_chain, identity.enrol_address)
        root = ssl.DER_cert_to_PEM_cert(chain[-1]).encode()
    except (Fault, ValueError, IndexError):
        return
    said = await explain(replace(identity, roots_pem=root))
    if said is not None:
        log.info("that commander says", extra={"text": said.text})


def shown_chain(address: str) -> list[bytes]:
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
