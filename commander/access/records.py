"""What access keeps about sentries that want in, and about the certificates that it signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Waiting:
    """A key that asks for a certificate. `why`: "new", or "recover": its certificate expired.

    Once approved, it gets one when it asks again.
    """

    sentry_id: str
    why: str
    key_hash: bytes
    csr: bytes
    fingerprint: str
    address: str
    facts: Mapping[str, str] = field(default_factory=dict)
    asked_ms: int = 0
    approved_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Issue:
    """A certificate that we signed. `how`: "enrol", "renew", "recover", or "again" when the reply to that was lost."""

    serial: str
    sentry_id: str
    key_hash: bytes
    issued_ms: int
    not_after_ms: int
    how: str
