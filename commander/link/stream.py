"""One stream of one sentry, from its Hello to its end. Two tasks: the call's own writes, another reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import grpc

from commander.link.machines import Place
from commander.link.ports import Ports, SessionInfo, Terms
from commander.link.refusal import Context, address_of
from garrison import wire
from garrison.clock import Clock
from garrison.faults import BadInput, DiskFull, Fault, Unavailable, VersionMismatch, WrongIdentity
from garrison.model import Held, Order, SentryHello, Welcome
from garrison.spans import Spans
from garrison.v1 import post_pb2 as pb

log = logging.getLogger(__name__)

HELLO_S = 10.0
WRITE_S = 60.0
LAST_ACK_S = 3.0
_ACK_AFTER_S = 0.05
_OUTBOX = 1_000
_CAUGHT_UP_MS = 5_000

Durable = Callable[[str, Sequence[tuple[bytes, int, int]]], Awaitable[Mapping[bytes, Spans]]]
"""(post, what its journal holds) to what of that is on disk here."""


class Stream:
    """`end` may be called at any time; the sentry is told why before the stream closes."""

    __slots__ = (
        "_acks",
        "_assignment_due",
        "_backlog_below",
        "_backlog_seen_ms",
        "_bytes_in_flight",
        "_clock",
        "_come_back_ms",
        "_context",
        "_ending",
        "_outbox",
        "_ports",
        "_reader",
        "_room",
        "_terms",
        "_timer",
        "_wake",
        "info",
        "place",
    )

    def __init__(self, sentry_id: str, context: Context, ports: Ports, terms: Terms, clock: Clock) -> None:
        self._context = context
        self._ports = ports
        self._terms = terms
        self._clock = clock
        self._outbox: list[Order | str] = []  # a deque takes 600 bytes when empty, and there are thousands of streams
        self._acks: dict[tuple[pb.Lane.ValueType, bytes], Spans] = {}
        self._assignment_due = True
        self._backlog_below: dict[bytes, int] = {}
        self._backlog_seen_ms: int | None = None
        self._bytes_in_flight = 0
        self._wake = asyncio.Event()
        self._room: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: tuple[str, str] | None = None
        self._come_back_ms = 0
        self._reader: asyncio.Task[None] | None = None
        self.info = SessionInfo(sentry_id, address_of(context), clock.now_ms())
        self.place = Place(sentry_id)
        """The link sets it, when it has heard the Hello."""

    # ---- from the link -------------------------------------------------------------------------------------

    def order(self, order: Order) -> bool:
        return self._put(order)

    def cancel(self, action_id: str) -> bool:
        return self._put(action_id)

    def reassign(self) -> None:
        self._assignment_due = True
        self._wake.set()

    def end(self, code: str, text: str, come_back_ms: int = 0) -> None:
        """`code`: "drain" or a fault's. The first reason stands."""
        if self._ending is None:
            self._ending, self._come_back_ms = (code, text), come_back_ms
        self._wake.set()
        self._there_is_room()

    def lag_ms(self) -> int | None:
        """For how long it has been sending what its journal held when it connected; None: it is not."""
        if self._backlog_seen_ms is None or self._clock.now_ms() - self._backlog_seen_ms > _CAUGHT_UP_MS:
            return None
        return self._clock.now_ms() - self.info.since_ms

    @property
    def reason(self) -> str:
        return self._ending[1] if self._ending else "the stream ended"

    def _put(self, item: Order | str) -> bool:
        if self._ending is not None or len(self._outbox) >= _OUTBOX:
            return False
        self._outbox.append(item)
        self._wake.set()
        return True

    # ---- opening -------------------------------------------------------------------------------------------

    async def hello(self) -> SentryHello:
        """Raises BadInput, VersionMismatch, WrongIdentity; TimedOut as Unavailable."""
        try:
            async with asyncio.timeout(HELLO_S):
                up = await self._context.read()
        except TimeoutError as error:
            raise Unavailable("the sentry opened a stream and said nothing") from error
        if not isinstance(up, pb.Up) or up.WhichOneof("message") != "hello":
            raise BadInput("a session begins with Hello")
        said = wire.checked(up).hello
        if said.protocol_min > wire.PROTOCOL_MAX or said.protocol_max < wire.PROTOCOL_MIN:
            raise VersionMismatch(
                f"this sentry speaks protocol {said.protocol_min} to {said.protocol_max}, "
                f"this commander {wire.PROTOCOL_MIN} to {wire.PROTOCOL_MAX}",
                hint="update the older of the two",
            )
        if said.sentry_id != self.info.sentry_id:
            raise WrongIdentity(
                f"a sentry that calls itself {said.sentry_id[:64]} showed the certificate of {self.info.sentry_id}",
                hint="a state folder was copied, or mixed up; enrol the one that is wrong anew",
            )
        hello = wire.hello_from(said, self.info.address)
        self.info.kind, self.info.software = hello.kind[:20], hello.software[:100]
        return hello

    async def welcome(self, hello: SentryHello) -> None:
        """Says what of the sentry's journal is durable here."""
        self._backlog_below = {boot: last for boot, _, last in _asked(hello.frames)}
        frames = await self._durable(self._ports.telemetry.durable, _asked(hello.frames))
        records = await self._durable(self._ports.fleet.records_durable, _asked(hello.records))
        welcome = Welcome(
            farm=self._terms.farm,
            epoch=self._terms.epoch,
            wall_ms=self._clock.now_ms(),
            reconnect_window_ms=self._terms.reconnect_window_ms,
            backlog_window=self._terms.backlog_window,
            frames=_held(frames),
            records=_held(records),
        )
        await self._write(pb.Down(welcome=wire.welcome_to(welcome)))

    async def _durable(self, ask: Durable, held: list[tuple[bytes, int, int]]) -> Mapping[bytes, Spans]:
        """What an adopted machine brought as a twin is there, and stays apart: it is not asked for again."""
        found = await ask(self.place.post, held)
        if not self.place.also:
            return found
        both = {boot: spans.copy() for boot, spans in found.items()}
        for boot, spans in (await ask(self.place.also, held)).items():
            for first, last in spans:
                both.setdefault(boot, Spans()).add(first, last)
        return both

    # ---- holding -------------------------------------------------------------------------------------------

    async def hold(self, *, orders: bool = True) -> None:
        """Until the sentry goes or `end` was called. `orders`: whether it gets those that wait for it."""
        self._assignment_due = not self.place.twin  # a twin goes on with what is on its disk
        self._reader = asyncio.create_task(self._read_on())
        self._reader.add_done_callback(lambda _: self._wake.set())
        try:
            for order in await self._ports.actions.open_orders(self.info.sentry_id) if orders else ():
                self._put(order)
            while self._ending is None and not self._reader.done():
                self._wake.clear()
                await self._send_what_is_due()
                await self._wake.wait()
            await self._say_goodbye()
        finally:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(self._reader, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()

    async def _send_what_is_due(self) -> None:
        if self._assignment_due:
            self._assignment_due = False
            assignment = await self._ports.fleet.assignment(self.info.sentry_id)
            await self._write(pb.Down(assignment=wire.assignment_to(assignment)))
        while self._outbox:
            item = self._outbox.pop(0)
            if isinstance(item, str):
                await self._write(pb.Down(cancel=pb.CancelAction(id=item)))
            else:
                await self._write(pb.Down(action=wire.order_to(item)))
                await self._ports.actions.sent(item.id)
        await self._send_acks()

    async def _send_acks(self) -> None:
        if self._acks:
            acks, self._acks = self._acks, {}
            marks = [wire.mark_to(lane, boot, spans) for (lane, boot), spans in acks.items()]
            await self._write(pb.Down(ack=pb.Ack(marks=marks)))

    async def _say_goodbye(self) -> None:
        """What was received is still made durable and acknowledged; then the reason."""
        if self._reader is not None and self._reader.done() and self._ending is None:
            return  # the sentry closed it
        code, text = self._ending or ("", "")
        if code != DiskFull.code:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_ACK_S):
                    while self.info.in_flight:
                        await self._wait_for_room()
        await self._send_acks()
        await self._write(pb.Down(go_away=pb.GoAway(code=code, text=text[:2000], come_back_ms=self._come_back_ms)))

    async def _write(self, message: pb.Down) -> None:
        async with asyncio.timeout(WRITE_S):
            await self._context.write(message)

    # ---- reading -------------------------------------------------------------------------------------------

    async def _read_on(self) -> None:
        try:
            while self._ending is None:
                up = await self._context.read()
                if up is grpc.aio.EOF or not isinstance(up, pb.Up):
                    return
                self._saw_it()
                await self._take(up)
        except Exception as error:  # a Fault is told to the sentry; a bug of ours is logged whole, and ends this stream alone
            self._fail(error)

    def _saw_it(self) -> None:
        now_ms = self._clock.now_ms()
        if now_ms - self.info.last_message_ms >= 1000 and not self.place.twin:
            self._ports.fleet.mark_seen(self.info.sentry_id, now_ms)
        self.info.last_message_ms = now_ms

    async def _take(self, up: pb.Up) -> None:
        match up.WhichOneof("message"):
            case "frame":
                await self._take_frame(up.frame)
            case "layout":
                layout = wire.layout_from(wire.checked(up.layout))
                self._ports.telemetry.learn_layout(self.place.post, layout).add_done_callback(self._learnt)
            case "roster":
                await self._take_roster(wire.checked(up.roster))
            case "event":
                await self._take_event(wire.checked(up.event))
            case "report":
                await self._take_report(wire.checked(up.report))
            case other:
                raise BadInput(f"the sentry sent {other or 'an empty message'} in the middle of a session")

    async def _take_frame(self, frame: pb.Frame) -> None:
        boot, seq, size = wire.boot_of(frame.boot), wire.seq_of(frame.seq), len(frame.body)
        while self._ending is None and (
            self.info.in_flight >= self._terms.frames_in_flight or self._bytes_in_flight > self._terms.bytes_in_flight
        ):
            await self._wait_for_room()  # we stop reading, and so the sentry stops sending
        self.info.in_flight += 1
        self._bytes_in_flight += size
        self.info.frames += 1
        self.info.frame_bytes += size
        if seq <= self._backlog_below.get(boot, 0):
            self._backlog_seen_ms = self.info.last_message_ms
        try:
            taken = self._ports.telemetry.take(self.place.post, boot, seq, frame.layout, frame.body)
        except Fault:
            self._landed(size)
            raise

        def done(future: asyncio.Future[None]) -> None:
            self._landed(size)
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                self._ack(wire.FRAMES, boot, seq)
            else:
                self._fail(error)

        taken.add_done_callback(done)

    def _landed(self, size: int) -> None:
        self.info.in_flight -= 1
        self._bytes_in_flight -= size
        self._there_is_room()

    async def _wait_for_room(self) -> None:
        if self._room is None:
            self._room = asyncio.Event()
        self._room.clear()
        await self._room.wait()

    def _there_is_room(self) -> None:
        if self._room is not None:
            self._room.set()

    def _learnt(self, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._fail(error)

    async def _take_roster(self, roster: pb.Roster) -> None:
        devices = [wire.device_from(device) for device in roster.devices]
        if self.place.twin:
            return  # the same identities as the sentry's own: its devices stay as it says they are
        await self._ports.fleet.take_roster(self.info.sentry_id, roster.whole, devices, list(roster.gone))

    async def _take_event(self, event: pb.Event) -> None:
        boot, seq = wire.boot_of(event.boot), wire.seq_of(event.seq)
        told = wire.event_from(event)
        if self.place.twin:
            told = replace(told, detail={**told.detail, "twin": self.info.address})
        await self._ports.fleet.take_event(self.info.sentry_id, boot, seq, told, twin=self._twin)
        self._ack(wire.RECORDS, boot, seq)

    async def _take_report(self, report: pb.ActionReport) -> None:
        boot, seq = wire.boot_of(report.boot), wire.seq_of(report.seq)
        await self._ports.actions.take_report(self.info.sentry_id, boot, seq, wire.report_from(report), twin=self._twin)
        self._ack(wire.RECORDS, boot, seq)

    @property
    def _twin(self) -> str:
        return self.place.post if self.place.twin else ""

    def _ack(self, lane: pb.Lane.ValueType, boot: bytes, seq: int) -> None:
        """Acks of one commit travel together."""
        self._acks.setdefault((lane, boot), Spans()).add(seq)
        if self._timer is None or self._timer.cancelled() or self._timer.when() < asyncio.get_running_loop().time():
            self._timer = asyncio.get_running_loop().call_later(_ACK_AFTER_S, self._wake.set)

    def _fail(self, error: BaseException) -> None:
        """What we could not take ends the stream: it is not acknowledged, so the sentry sends it again."""
        if isinstance(error, Unavailable):
            self.end(error.code, str(error), self._terms.disk_full_come_back_ms)
        elif isinstance(error, Fault):
            log.warning("a sentry was refused", extra={"sentry": self.info.sentry_id, "fault": error.code, "text": str(error)})
            self.end(error.code, str(error))
        else:
            log.error("a session failed", extra={"sentry": self.info.sentry_id}, exc_info=error)
            self.end("broken", "the commander failed on what this sentry sent; its log says more")


def _asked(held: Sequence[Held]) -> list[tuple[bytes, int, int]]:
    """One span a boot, whatever the sentry said."""
    found: dict[bytes, tuple[int, int]] = {}
    for one in held:
        first, last = found.get(one.boot, (one.first, one.last))
        found[one.boot] = (min(first, one.first), max(last, one.last))
    return [(boot, first, last) for boot, (first, last) in found.items()]


def _held(durable: Mapping[bytes, Spans]) -> tuple[Held, ...]:
    return tuple(Held(boot, first, last) for boot, spans in durable.items() for first, last in spans)
