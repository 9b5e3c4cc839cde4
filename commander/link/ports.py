"""What the link needs of the rest of the commander. `main.py` passes the services; tests pass a small farm of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from commander.fleet.records import EventRecord, MachineRecord
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
    """`post` is a sentry's id, or the name of a twin of it: `rules.post_name`."""

    def learn_layout(self, post: str, layout: Layout) -> asyncio.Future[None]: ...

    def take(self, post: str, boot: bytes, seq: int, layout_hash: bytes, body: bytes) -> asyncio.Future[None]:
        """Done means durable. DiskFull: not taken, send it again later."""
        ...

    async def durable(self, post: str, held: Sequence[tuple[bytes, int, int]]) -> Mapping[bytes, Spans]: ...


class Fleet(Protocol):
    async def connected(self, sentry_id: str, hello: SentryHello) -> None: ...

    async def disconnected(self, sentry_id: str, reason: str) -> None: ...

    async def take_roster(self, sentry_id: str, whole: bool, devices: Sequence[Device], gone: Sequence[str]) -> None: ...

    async def take_event(self, sentry_id: str, boot: bytes, seq: int, event: Event, *, twin: str = "") -> None:
        """`twin`: the post it came from, when that is not the sentry itself."""
        ...

    async def assignment(self, sentry_id: str) -> Assignment: ...

    async def records_durable(self, post: str, held: Sequence[tuple[bytes, int, int]]) -> Mapping[bytes, Spans]: ...

    def mark_seen(self, sentry_id: str, now_ms: int) -> None: ...

    def mark_lag(self, sentry_id: str, backlog_ms: int | None) -> None:
        """For how long it has been catching up; None: it has not."""
        ...

    async def machines(self) -> Mapping[str, Sequence[MachineRecord]]:
        """What was kept, by sentry."""
        ...

    async def keep_machines(self, sentry_id: str, machines: Sequence[MachineRecord]) -> None:
        """These and no others; durable when it returns."""
        ...

    def mark_twin(self, sentry_id: str, address: str) -> None:
        """Where a second machine with its identity calls from; empty: there is none."""
        ...

    async def note(self, event: EventRecord) -> None: ...


class Actions(Protocol):
    async def take_report(self, sentry_id: str, boot: bytes, seq: int, report: Report, *, twin: str = "") -> None:
        """`twin`: the post it came from, when that is not the sentry itself: it is kept, and changes nothing."""
        ...

    async def open_orders(self, sentry_id: str) -> Sequence[Order]:
        """What is not known to have ended, each with what is left of its time."""
        ...

    async def sent(self, action_id: str) -> None: ...

    def hold(self, sentry_id: str, why: str) -> None:
        """Orders to it wait, for this reason; empty: no longer."""
        ...


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
    """What a Welcome says, and the limits of one stream. `epoch` rises when another commander takes over the farm.

    `adopt_after_ms`: for how long a sentry's machine must be silent before another one takes its place.
    """

    farm: str
    epoch: int = 1
    reconnect_window_ms: int = 20_000
    backlog_window: int = 32
    frames_in_flight: int = 256
    bytes_in_flight: int = 8 * 1024 * 1024
    disk_full_come_back_ms: int = 5_000
    adopt_after_ms: int = 600_000


@dataclass(slots=True)
class SessionInfo:
    """One open session, as it is now."""

    sentry_id: str
    address: str
    since_ms: int
    kind: str = ""
    software: str = ""
    last_message_ms: int = 0
    frames: int = 0
    frame_bytes: int = 0
    in_flight: int = field(default=0)
