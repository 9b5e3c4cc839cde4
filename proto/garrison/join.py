"""What both ends must agree on when a sentry joins a farm: the token string, the fingerprint, what a recovery signs."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field

from garrison.faults import BadInput

SECRET_BYTES = 20
RECOVER_SKEW_MS = 10 * 60 * 1000
"""How far a recovery's time may be off the commander's."""

SERVER_NAME = "commander.garrison.internal"
"""A name in every server certificate of a commander: a sentry that trusts only its farm's root may check for this one, whatever
address it dialled (`grpc.ssl_target_name_override`)."""

_SHAPE = re.compile(r"gsj1-([0-9a-z]{6,32})-([a-z2-7]{32})-([0-9a-f]{64})@([^@\s/]{3,260})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """`address` is host:port of the enrolment port, `pin` the SHA-256 of the farm's root certificate (DER)."""

    token_id: str
    secret: bytes = field(repr=False)
    pin: bytes
    address: str

    def text(self) -> str:
        """One string that needs no quoting in any shell: gsj1-ID-SECRET-PIN@HOST:PORT."""
        secret = base64.b32encode(self.secret).decode().lower()
        return f"gsj1-{self.token_id}-{secret}-{self.pin.hex()}@{self.address}"


def read_token(text: str) -> JoinToken:
    """The token a person gave. Raises BadInput, without repeating the secret."""
    found = _SHAPE.fullmatch(text.strip())
    host, _, port = found[4].rpartition(":") if found else ("", "", "")
    if not found or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise BadInput("this is not a join token", hint="copy the whole line that `commander sentries token` printed")
    return JoinToken(found[1], base64.b32decode(found[2].upper()), bytes.fromhex(found[3]), found[4])


def pin_of(root_der: bytes) -> bytes:
    return hashlib.sha256(root_der).digest()


def secret_hash(secret: bytes) -> bytes:
    """All that the commander keeps of a token's secret. The secret is random, so one round is enough."""
    return hashlib.sha256(b"garrison-join" + secret).digest()


def fingerprint(public_key_der: bytes) -> str:
    """Of a sentry's key (SubjectPublicKeyInfo), as shown on both sides: "1a2b 3c4d …", 128 bits."""
    digest = hashlib.sha256(public_key_der).hexdigest()[:32]
    return " ".join(digest[at : at + 4] for at in range(0, 32, 4))


def recovery_message(at_ms: int, csr_der: bytes) -> bytes:
    """What the old key signs (ECDSA with SHA-256, or Ed25519) when an expired certificate asks for a new one."""
    return b"garrison-recover" + at_ms.to_bytes(8, "big", signed=True) + csr_der
