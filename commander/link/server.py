"""The link: both gRPC ports, who is connected, and the way to reach them.

Called by `main.py`: `Link(…)`, `open`, `serve`, `drain`; by the services, through `main.py`: `order`, `cancel`, `reassign`,
`cut`, `sessions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from commander.access import policy
from commander.link.enrolment import Enrolment, certificate_to
from commander.link.guard import PolicyGuard
from commander.link.machines import Machines
from commander.link.ports import Peer, Ports, ServerKeys, SessionInfo, Terms
from commander.link.refusal import Context, refuse
from commander.link.stream import Stream
from garrison import wire
from garrison.clock import Clock
from garrison.faults import CertificateRevoked, Fault, NoCertificate, Unavailable
from garrison.model import Order
from garrison.v1 import enrolment_pb2, post_pb2
from garrison.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from garrison.v1.post_pb2_grpc import PostServicer, add_PostServicer_to_server

log = logging.getLogger(__name__)

CHECK_S = 2.0
"""How often open streams are held against the list of revoked sentries."""
_KEYS_EVERY = 1800
_OPENING = 200

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second commander on this port must fail, not share it
    ("grpc.keepalive_time_ms", 12_000),
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 8_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE),
    ("grpc.max_send_message_length", wire.MAX_MESSAGE),
    ("grpc.tsi.max_frame_size", 2_048),  # TLS buffers of what we send, which is little: 7 kB less a stream
    ("grpc.max_concurrent_streams", 8),  # on one connection: a sentry has one session, and renews beside it
)


@dataclass(frozen=True, slots=True)
class Listen:
    """host:port; port 0 takes a free one. `enrol` empty: closed. `advertise`: host:port that certificates name for Post."""

    post: str
    enrol: str = ""
    advertise: str = ""


class Link(PostServicer):
    """`keys` and `roots` are asked at start and every half hour: a renewed certificate is used without a restart."""

    def __init__(
        self,
        ports: Ports,
        terms: Terms,
        listen: Listen,
        clock: Clock,
        *,
        keys: Callable[[], ServerKeys],
        roots: Callable[[], bytes],
    ) -> None:
        self._ports = ports
        self._terms = terms
        self._listen = listen
        self._clock = clock
        self._keys = keys
        self._roots = roots
        self._streams: dict[str, Stream] = {}  # by post: a sentry's id, or the name of a twin
        self._machines = Machines(ports, clock, terms.adopt_after_ms, self._streams.__contains__)
        self._opening = asyncio.Semaphore(_OPENING)
        self._draining: tuple[str, int] | None = None
        self._empty = asyncio.Event()
        self._post: grpc.aio.Server | None = None
        self._enrol: grpc.aio.Server | None = None
        self._configuration: dict[str, grpc.ServerCertificateConfiguration] = {}
        self.post_port = 0
        self.enrol_port = 0
        self.refused = 0

    # ---- for the rest of the commander ---------------------------------------------------------------------

    def order(self, sentry_id: str, order: Order) -> bool:
        """False: not connected, its queue is full, or two machines use its identity; the order stays where it is."""
        stream = self._streams.get(sentry_id)
        return stream is not None and not self._machines.held(sentry_id) and stream.order(order)

    def cancel(self, sentry_id: str, action_id: str) -> bool:
        stream = self._streams.get(sentry_id)
        return stream is not None and stream.cancel(action_id)

    def reassign(self, sentry_id: str) -> None:
        """Its assignment changed: it is sent anew."""
        if (stream := self._streams.get(sentry_id)) is not None:
            stream.reassign()

    def cut(self, sentry_id: str, fault: Fault) -> None:
        """Ends its session, with the reason; those of its twins too."""
        for stream in self._streams.values():
            if stream.info.sentry_id == sentry_id:
                stream.end(fault.code, str(fault))

    def sessions(self) -> dict[str, SessionInfo]:
        """By post."""
        return {post: stream.info for post, stream in self._streams.items()}

    def look_now(self) -> None:
        """Cuts the streams of revoked sentries, and says who is catching up."""
        for stream in self._streams.values():
            if self._ports.access.is_revoked(stream.info.sentry_id):
                stream.end(CertificateRevoked.code, REVOKED)
            if not stream.place.twin:
                self._ports.fleet.mark_lag(stream.info.sentry_id, stream.lag_ms())

    async def look_at_twins(self) -> None:
        """Tells of cloned disks; a machine whose predecessor fell silent comes again, and takes its place."""
        for post in await self._machines.tend(self.sessions):
            if (stream := self._streams.get(post)) is not None:
                stream.end("drain", "the machine before was silent for long: come again, and take its place")

    # ---- the two ports -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Binds and answers from now on. Unavailable: the port is in use."""
        try:
            await self._open()
        except BaseException:
            await self.close()  # a server left to the end of the interpreter complains there, under our error
            raise

    async def _open(self) -> None:
        await self._machines.load()
        self._post = grpc.aio.server(interceptors=[PolicyGuard(policy.SENTRY)], options=_OPTIONS)
        add_PostServicer_to_server(self, self._post)
        self.post_port = self._bind(self._post, self._listen.post, "listen.post", mutual=True)
        await self._post.start()
        if self._listen.enrol:
            self._enrol = grpc.aio.server(interceptors=[PolicyGuard(policy.ANYBODY)], options=_OPTIONS)
            advertised = self._listen.advertise or f":{self.post_port}"
            add_EnrolmentServicer_to_server(Enrolment(self._ports.access, self._clock, advertised), self._enrol)
            self.enrol_port = self._bind(self._enrol, self._listen.enrol, "listen.enrol", mutual=False)
            await self._enrol.start()
        log.info("listening", extra={"post": self.post_port, "enrol": self.enrol_port or "closed"})

    async def serve(self) -> None:
        """Opens the ports if that was not done, and looks after the sessions until cancelled; then closes all."""
        try:
            if self._post is None:
                await self.open()
            rounds = 0
            while True:
                await self._clock.sleep(CHECK_S)
                self.look_now()
                await self.look_at_twins()
                rounds += 1
                if rounds % _KEYS_EVERY == 0:
                    self._refresh_keys()
        finally:
            await self.close()

    async def drain(self, text: str, come_back_ms: int) -> None:
        """Takes nobody any more, acknowledges what was received, tells everybody when to come back."""
        self._draining = (text, come_back_ms)
        if not self._streams:
            self._empty.set()
        for stream in self._streams.values():
            stream.end("drain", text, come_back_ms)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await self._empty.wait()
        await self.close()

    async def close(self) -> None:
        post, enrol, self._post, self._enrol = self._post, self._enrol, None, None
        for server in (enrol, post):
            if server is not None:
                await server.stop(1.0)

    def _bind(self, server: grpc.aio.Server, address: str, key: str, *, mutual: bool) -> int:
        first = self._certificates()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            return self._configuration.pop(key, None)  # called by gRPC's threads at each handshake; None: as before

        credentials = grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=mutual)  # type: ignore[arg-type]  # None is allowed: gRPC's own text says so
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address}", hint=f"another program has the port, or the address is not ours: change `{key}`"
            ) from error
        if port == 0:
            raise Unavailable(f"cannot listen on {address}", hint=f"another program has the port: change `{key}`")
        return port

    def _certificates(self) -> grpc.ServerCertificateConfiguration:
        keys = self._keys()
        return grpc.ssl_server_certificate_configuration([(keys.key_pem, keys.chain_pem)], self._roots())

    def _refresh_keys(self) -> None:
        self._configuration = {"listen.post": self._certificates(), "listen.enrol": self._certificates()}

    # ---- Post ----------------------------------------------------------------------------------------------

    async def Session(self, _: object, context: Context) -> None:  # type: ignore[override]  # aio's read and write are used  # noqa: N802  # the proto's name
        sentry_id = ""
        try:
            if self._draining is not None:
                raise Unavailable(f"the commander is going down: {self._draining[0]}")
            sentry_id = self._identified(context).sentry_id
            stream = Stream(sentry_id, context, self._ports, self._terms, self._clock)
            async with self._opening:
                hello = await stream.hello()
                stream.place = await self._machines.place(sentry_id, hello)
                if not stream.place.twin:
                    await self._ports.fleet.connected(sentry_id, hello)
        except Fault as fault:
            self.refused += 1
            await refuse(context, fault, sentry_id)
        try:
            self._enter(stream)
            async with self._opening:
                await stream.welcome(hello)
            del hello  # the stream may live for weeks
            await stream.hold(orders=not self._machines.held(sentry_id))
        except Fault as fault:
            stream.end(fault.code, str(fault))
            await refuse(context, fault, sentry_id)
        except TimeoutError:
            stream.end(Unavailable.code, "the sentry did not read")
        finally:
            await self._leave(stream)

    async def Renew(self, request: post_pb2.RenewRequest, context: Context) -> enrolment_pb2.Certificate:  # noqa: N802  # the proto's name
        sentry_id = ""
        try:
            sentry_id = self._identified(context).sentry_id
            issued = await self._ports.access.renew(sentry_id, request.csr_der)
        except Fault as fault:
            await refuse(context, fault, sentry_id)
        log.info("certificate renewed", extra={"sentry": sentry_id})
        return certificate_to(issued, self._listen.advertise or f":{self.post_port}")

    def _identified(self, context: Context) -> Peer:
        """Who calls. TLS has checked the chain; whose it is, and whether it still may, is ours to say."""
        shown = context.auth_context().get("x509_pem_cert", ())
        if not shown:
            raise NoCertificate("no certificate was shown", hint="enrol this sentry with a join token")
        peer = self._ports.access.identify(bytes(next(iter(shown))))
        if self._ports.access.is_revoked(peer.sentry_id):
            raise CertificateRevoked(REVOKED)
        return peer

    def _enter(self, stream: Stream) -> None:
        """The newest session of a machine wins: the older one is mostly a dead link that nobody noticed yet."""
        who = {"sentry": stream.info.sentry_id, "address": stream.info.address}
        older = self._streams.get(stream.place.post)
        if older is not None:
            log.warning("a second session of the same sentry", extra={**who, "was": older.info.address})
            older.end("conflict", f"the same sentry opened a newer session from {stream.info.address}")
        self._streams[stream.place.post] = stream
        log.info("twin connected" if stream.place.twin else "sentry connected", extra=who)

    async def _leave(self, stream: Stream) -> None:
        who = {"sentry": stream.info.sentry_id, "address": stream.info.address}
        if self._streams.get(stream.place.post) is stream:
            del self._streams[stream.place.post]
            self._machines.left(stream.place.post)
        if not self._streams and self._draining is not None:
            self._empty.set()
        log.info("twin gone" if stream.place.twin else "sentry gone", extra={**who, "text": stream.reason})
        if stream.place.twin:
            return
        try:
            await self._ports.fleet.disconnected(stream.info.sentry_id, stream.reason)
        except Fault as fault:
            log.warning("its leaving could not be written", extra={**who, "text": str(fault)})


REVOKED = "this sentry was revoked by an administrator (enrol it anew with a fresh token, after `commander sentries` says it may)"
