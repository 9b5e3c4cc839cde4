"""What the link needs of the rest of the commander. `main.py` passes the services; tests pass a small farm of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from garrison.frame import Layout
from garrison.model import Assignment, Device, Event, Order, Report, SentryHello
from garrison.spans import Spans


class Peer(Protocol):
    """Who a certificate says it is."""

    @property
    def sentry_id(self) -> str: ...

    @property
    def not_after_ms(self) -> int: ...


@runtime_checkable
class Issued(Protocol):
    """A fresh certificate: the leaf, then the intermediate; and what to trust."""

    @property
    def sentry_id(self) -> str: ...

    @property
    def certificate_pem(self) -> bytes: ...

    @property
    def farm_roots_pem(self) -> bytes: ...

    @property
    def not_after_ms(self) -> int: ...


class Pending(Protocol):
    """A person has to approve first; the same fingerprint is shown on both sides."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def ask_again_s(self) -> int: ...


class Access(Protocol):
    def identify(self, certificate_pem: bytes) -> Peer:
        """Raises a kind of IdentityRefused."""
        ...

    def is_revoked(self, sentry_id: str) -> bool:
        """From memory: asked for every open stream every two seconds."""
        ...

    async def renew(self, sentry_id: str, csr_der: bytes) -> Issued: ...

    async def enrol(
        self, token_id: str, token_secret: bytes, kind: str, csr_der: bytes, facts: Mapping[str, str], address: str
    ) -> Issued | Pending: ...

    async def recover(
        self, certificate_der: bytes, csr_der: bytes, at_ms: int, signature: bytes, address: str
    ) -> Issued | Pending: ...

    def explain(self, certificate_der: bytes) -> tuple[str, str]:
        """("ok" or a fault's code, text)."""
        ...


class Telemetry(Protocol):
    def learn_layout(self, sentry_id: str, layout: Layout) -> asyncio.Future[None]: ...

    def take(self, sentry_id: str, boot: bytes, seq: int, layout_hash: bytes, body: bytes) -> asyncio.Future[None]:
        """Done means durable. DiskFull: not taken, send it again later."""
        ...

    async def durable(self, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> Mapping[bytes, Spans]: ...


class Fleet(Protocol):
    async def connected(self, sentry_id: str, hello: SentryHello) -> None: ...

    async def disconnected(self, sentry_id: str, reason: str) -> None: ...

    async def take_roster(self, sentry_id: str, whole: bool, devices: Sequence[Device], gone: Sequence[str]) -> None: ...

    async def take_event(self, sentry_id: str, boot: bytes, seq: int, event: Event) -> None: ...

    async def assignment(self, sentry_id: str) -> Assignment: ...

    async def records_durable(self, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> Mapping[bytes, Spans]: ...

    def mark_seen(self, sentry_id: str, now_ms: int) -> None: ...

    def mark_lag(self, sentry_id: str, backlog_ms: int | None) -> None:
        """For how long it has been catching up; None: it has not."""
        ...


class Actions(Protocol):
    async def take_report(self, sentry_id: str, boot: bytes, seq: int, report: Report) -> None: ...

    async def open_orders(self, sentry_id: str) -> Sequence[Order]:
        """What is not known to have ended, each with what is left of its time."""
        ...

    async def sent(self, action_id: str) -> None: ...


class ServerKeys(Protocol):
    """For TLS. The chain ends with the root, so that a newcomer can compare it with its pin."""

    @property
    def key_pem(self) -> bytes: ...

    @property
    def chain_pem(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """The services that the link stands before."""

    access: Access
    telemetry: Telemetry
    fleet: Fleet
    actions: Actions


@dataclass(frozen=True, slots=True)
class Terms:
    """What a Welcome says, and the limits of one stream. `epoch` rises when another commander takes over the farm."""

    farm: str
    epoch: int = 1
    reconnect_window_ms: int = 20_000
    backlog_window: int = 32
    frames_in_flight: int = 256
    bytes_in_flight: int = 8 * 1024 * 1024
    disk_full_come_back_ms: int = 5_000


@dataclass(slots=True)
class SessionInfo:
    """One open session, as it is now."""

    sentry_id: str
    address: str
    since_ms: int
    software: str = ""
    last_message_ms: int = 0
    frames: int = 0
    frame_bytes: int = 0
    in_flight: int = field(default=0)
