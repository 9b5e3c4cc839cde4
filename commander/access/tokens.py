"""Tokens and one-time links as plain decisions: their text, their hashes, whether one still counts. No clock, no database."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from commander.access.policy import role_named
from garrison.faults import BadInput, TokenRefused
from garrison.join import SECRET_BYTES, secret_hash

PEOPLE_PREFIX = "gsn_"
"""Known to leak scanners; the rest is 160 random bits."""

SETUP_LINK_MS = 24 * 3600 * 1000
LONGEST_JOIN_S = 30 * 86_400
LONGEST_PEOPLE_S = 3650 * 86_400
MOST_USES = 10_000
SENTRY_KINDS = ("rig", "asic")


@dataclass(frozen=True, slots=True)
class JoinRecord:
    """A join token without its secret. `approve`: who joins with it need not wait for a person."""

    id: str
    hash: bytes
    kind: str
    site: str
    uses: int
    used: int
    approve: bool
    created_ms: int
    expires_ms: int
    created_by: str
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True)
class PeopleToken:
    """A person's or program's token without its secret."""

    id: str
    hash: bytes
    name: str
    role: str
    created_ms: int
    expires_ms: int
    created_by: str


def new_id() -> str:
    return secrets.token_hex(5)


def new_join_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def new_secret_text() -> str:
    """160 random bits as 40 letters and digits, which need no quoting anywhere."""
    return secrets.token_hex(20)


def text_hash(text: str) -> bytes:
    """Of a people token or setup link. They are random, so one round is enough."""
    return hashlib.sha256(b"garrison-token" + text.encode("utf-8", "replace")).digest()


def is_people_token(text: str) -> bool:
    return re.fullmatch(PEOPLE_PREFIX + "[0-9a-f]{40}", text) is not None


def judge_join(record: JoinRecord | None, secret: bytes, kind: str, now_ms: int, *, bound: bool, waits: bool = False) -> JoinRecord:
    """The token, when it still lets this key in. `bound`: this key has used it before, which costs no use; `waits`: for a
    person's approval, or to fetch what was approved: that may take longer than the token lives.

    TokenRefused says which of: unknown, revoked, expired, for another kind, used up. A wrong secret is "unknown":
    who guesses ids learns nothing.
    """
    if record is None or not hmac.compare_digest(record.hash, secret_hash(secret)):
        raise TokenRefused("this join token is not known here", hint="make a new one: `commander sentries token`")
    if record.revoked_ms is not None:
        raise TokenRefused("this join token was taken back", hint="make a new one: `commander sentries token`")
    if record.kind != kind:
        raise TokenRefused(f"this join token is for a sentry of kind {record.kind}, not {kind[:20]}", hint="make one for this kind")
    if bound and waits:
        return record
    if now_ms >= record.expires_ms:
        raise TokenRefused("this join token has expired", hint="make a new one: `commander sentries token`")
    if record.used >= record.uses and not bound:
        often = "by another sentry" if record.uses == 1 else f"by {record.uses} sentries, as often as it may be"
        raise TokenRefused(
            f"this join token was used already, {often}", hint="make a new one; if that was not you, revoke the other"
        )
    return record


def checked_join(kind: str, uses: int, ttl_s: int) -> None:
    """BadInput for what no token can be."""
    if kind not in SENTRY_KINDS:
        raise BadInput(f"no kind of sentry {kind[:20]!r}", hint=f"one of {', '.join(SENTRY_KINDS)}")
    if not 1 <= uses <= MOST_USES:
        raise BadInput(f"a token is good for 1 to {MOST_USES} sentries, not {uses}")
    if not 1 <= ttl_s <= LONGEST_JOIN_S:
        raise BadInput(f"a join token lives 1 s to {LONGEST_JOIN_S // 86_400} days")


def checked_people(role: str, ttl_s: int) -> None:
    role_named(role)
    if not 1 <= ttl_s <= LONGEST_PEOPLE_S:
        raise BadInput(f"a token lives 1 s to {LONGEST_PEOPLE_S // 86_400} days")
