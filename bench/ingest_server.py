"""The servers of the ingest benchmark, each a process of its own: `python -m bench.ingest_server garrison|sink HOME`.

`garrison`: the commander's link (mutual TLS, policy) and its telemetry, before a fleet without devices.
`sink`: a bare gRPC stream behind the same TLS that counts messages and throws them away: the floor.
Prints its port, runs until its stdin closes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from commander.access.ca import Authority
from commander.fleet.records import EventRecord, MachineRecord
from commander.link.ports import Ports, Terms
from commander.link.server import Link, Listen
from commander.telemetry.service import Telemetry
from garrison.clock import SystemClock
from garrison.model import Assignment, Device, Event, Order, Report, SentryHello
from garrison.spans import Spans

SINK = "/bench.Sink/Take"
_LAST = b"last"


class _Access:
    """Certificates are checked for real; nobody enrols here."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def identify(self, certificate_pem: bytes) -> Any:
        return self._authority.verify_sentry(certificate_pem, SystemClock().now_ms())

    def is_revoked(self, sentry_id: str) -> bool:
        return False

    async def renew(self, sentry_id: str, csr_der: bytes) -> Any:
        raise NotImplementedError

    async def enrol(self, *_: object) -> Any:
        raise NotImplementedError

    async def recover(self, *_: object) -> Any:
        raise NotImplementedError

    def explain(self, certificate_der: bytes) -> tuple[str, str]:
        return "ok", ""


class _Fleet:
    """Knows nobody."""

    async def connected(self, sentry_id: str, hello: SentryHello) -> None: ...

    async def disconnected(self, sentry_id: str, reason: str) -> None: ...

    async def take_roster(self, sentry_id: str, whole: bool, devices: Sequence[Device], gone: Sequence[str]) -> None: ...

    async def take_event(self, sentry_id: str, boot: bytes, seq: int, event: Event, *, twin: str = "") -> None: ...

    async def assignment(self, sentry_id: str) -> Assignment:
        return Assignment(1)

    async def records_durable(self, post: str, held: Sequence[tuple[bytes, int, int]]) -> Mapping[bytes, Spans]:
        return {}

    def mark_seen(self, sentry_id: str, now_ms: int) -> None: ...

    def mark_lag(self, sentry_id: str, backlog_ms: int | None) -> None: ...

    async def machines(self) -> Mapping[str, Sequence[MachineRecord]]:
        return {}

    async def keep_machines(self, sentry_id: str, machines: Sequence[MachineRecord]) -> None: ...

    def mark_twin(self, sentry_id: str, address: str) -> None: ...

    async def note(self, event: EventRecord) -> None: ...


class _Actions:
    """Orders nothing."""

    async def take_report(self, sentry_id: str, boot: bytes, seq: int, report: Report, *, twin: str = "") -> None: ...

    async def open_orders(self, sentry_id: str) -> Sequence[Order]:
        return ()

    async def sent(self, action_id: str) -> None: ...

    def hold(self, sentry_id: str, why: str) -> None: ...


async def _garrison(home: Path, authority: Authority) -> None:
    clock = SystemClock()
    telemetry = await Telemetry.open(home / "history", clock)
    link = Link(
        Ports(_Access(authority), telemetry, _Fleet(), _Actions()),
        Terms("bench"),
        Listen("127.0.0.1:0"),
        clock,
        keys=lambda: authority.server_identity(["127.0.0.1"], clock.now_ms()),
        roots=lambda: authority.roots_pem,
    )
    await link.open()
    serving = asyncio.create_task(link.serve())
    await _until_told(link.post_port)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await telemetry.close()


class _Sink(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._take) if details.method == SINK else None

    async def _take(self, _: object, context: grpc.aio.ServicerContext[Any, bytes]) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            if message == _LAST:
                await context.write(_LAST)


async def _sink(authority: Authority) -> None:
    identity = authority.server_identity(["127.0.0.1"], SystemClock().now_ms())
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Sink(),))
    credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.chain_pem)], authority.roots_pem, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    await _until_told(port)
    await server.stop(1.0)


async def _until_told(port: int) -> None:
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    opened = Authority.open(Path(sys.argv[2]) / "ca")
    asyncio.run(_garrison(Path(sys.argv[2]), opened) if sys.argv[1] == "garrison" else _sink(opened))
