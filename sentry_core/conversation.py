"""One stream to the commander, from Hello to its end.

Sent in this order: records (in theirs), the roster, live frames, then backlog, of which only a window may be unacknowledged,
so that catching up never delays what is new. `call.write` and `call.read` are used, not request iterators: these leave
thousands of "task destroyed" messages behind when streams break.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import grpc

from garrison import wire
from garrison.clock import Clock
from garrison.faults import BadInput, Conflict, Fault, Unavailable, Unreachable, VersionMismatch, from_wire
from garrison.model import Assignment, Order, Report, SentryHello, Welcome
from garrison.spans import Spans
from garrison.v1 import post_pb2 as pb
from garrison.v1.post_pb2_grpc import PostStub
from garrison.words import ActionState
from sentry_core.channel import CONNECT_S, cancelled_by_us, fault_of, post_channel
from sentry_core.identity import Identity
from sentry_core.journal import FRAMES, RECORDS, Frame, Journal, Record
from sentry_core.roster import Roster

log = logging.getLogger(__name__)

WRITE_S = 120.0
_LIVE = 64
_LIVE_BYTES = 4 * 1024 * 1024
_RECORDS_IN_FLIGHT = 256
_STEP = 16
_STEP_BYTES = 512 * 1024

Call = grpc.aio.StreamStreamCall[pb.Up, pb.Down]


class Dismissed(Exception):
    """The commander sent us away (it restarts, or its disk is full): not a failure."""

    def __init__(self, code: str, text: str, come_back_s: float) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.come_back_s = come_back_s


@dataclass(frozen=True, slots=True)
class About:
    """What Hello says of this sentry. `facts` and `capabilities` are asked anew for each session."""

    kind: str
    software: str
    capabilities: Callable[[], tuple[str, ...]]
    facts: Callable[[], Mapping[str, str]]
    machine: bytes = b""


@dataclass(slots=True)
class _Sent:
    """Of this stream only. `in_flight`: backlog frames, or records, that are not acknowledged yet."""

    spans: dict[bytes, Spans] = field(default_factory=dict)
    in_flight: set[tuple[bytes, int]] = field(default_factory=set)

    def add(self, item: Frame | Record, *, counted: bool) -> None:
        self.spans.setdefault(item.boot, Spans()).add(item.seq)
        if counted:
            self.in_flight.add((item.boot, item.seq))

    def has(self, item: Frame | Record) -> bool:
        return item.seq in self.spans.get(item.boot, ())

    def acked(self, boot: bytes, spans: Spans) -> None:
        self.in_flight -= {one for one in self.in_flight if one[0] == boot and one[1] in spans}


class Conversation:
    def __init__(self, identity: Identity, about: About, journal: Journal, roster: Roster, clock: Clock) -> None:
        self._identity = identity
        self._about = about
        self._journal = journal
        self._roster = roster
        self._clock = clock
        self._wake = asyncio.Event()
        self._live: deque[Frame] = deque()
        self._live_bytes = 0
        self._frames = _Sent()
        self._records = _Sent()
        self._announced: set[bytes] = set()
        self._backlog_left = True
        self._records_left = True
        self._welcome = Welcome("", 0, 0, 0, 1)
        self._ended: Fault | None = None
        self._call: Call

    # ---- from the session, in the loop ---------------------------------------------------------------------

    def offer(self, frame: Frame) -> None:
        """A frame that was just journalled. When the commander reads too slowly the oldest one becomes backlog."""
        self._live.append(frame)
        self._live_bytes += len(frame.body)
        while len(self._live) > _LIVE or self._live_bytes > _LIVE_BYTES:
            self._live_bytes -= len(self._live.popleft().body)
            self._backlog_left = True
        self._wake.set()

    def wake(self) -> None:
        """There are new records, or roster entries."""
        self._records_left = True
        self._wake.set()

    def end(self, fault: Fault) -> None:
        self._ended = fault
        self._wake.set()

    # ---- opening -------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Welcome]:
        """Connects, says Hello and takes the Welcome. Raises a Fault: the commander's words, or what kept us from it."""
        who = self._identity
        channel = post_channel(who.post_address, who.roots_pem, who.key_pem, who.chain_pem)
        try:
            self._call = PostStub(channel).Session()
            with self._translated():
                held = await self._journal.held()
                hello = SentryHello(
                    kind=self._about.kind,
                    software=self._about.software,
                    boot=self._journal.boot,
                    wall_ms=self._clock.now_ms(),
                    capabilities=self._about.capabilities(),
                    facts=self._about.facts(),
                    highest_epoch=await self._journal.epoch(),
                    frames_dropped=self._journal.frames_dropped,
                    frames=held[FRAMES],
                    records=held[RECORDS],
                    machine=self._about.machine,
                )
                async with asyncio.timeout(CONNECT_S):
                    await self._write(pb.Up(hello=wire.hello_to(who.sentry_id, hello)))
                    down = await self._read()
                self._welcome = await self._take_welcome(down)
            yield self._welcome
        finally:
            call = getattr(self, "_call", None)
            if call is not None:
                call.cancel()
            await channel.close()

    async def _take_welcome(self, down: pb.Down) -> Welcome:
        wire.checked(down)
        if down.WhichOneof("message") == "go_away":
            raise _dismissal(down.go_away)
        if down.WhichOneof("message") != "welcome":
            raise BadInput("the commander began with something else than a welcome")
        if not wire.PROTOCOL_MIN <= down.welcome.protocol <= wire.PROTOCOL_MAX:
            raise VersionMismatch(
                f"the commander speaks protocol {down.welcome.protocol}, this sentry {wire.PROTOCOL_MIN} to {wire.PROTOCOL_MAX}",
                hint="update the older of the two",
            )
        welcome = wire.welcome_from(down.welcome)
        highest = await self._journal.raise_epoch(welcome.epoch)
        if welcome.epoch < highest:
            raise Conflict(
                f"an older commander answered: its epoch is {welcome.epoch}, we know of {highest}",
                hint="another commander was promoted; switch this one off",
            )
        durable: dict[tuple[int, bytes], Spans] = {}
        for lane, held in ((FRAMES, welcome.frames), (RECORDS, welcome.records)):
            for one in held:
                durable.setdefault((lane, one.boot), Spans()).add(one.first, one.last)
        await self._journal.reconcile(durable)
        return welcome

    # ---- holding -------------------------------------------------------------------------------------------

    async def hold(
        self,
        take_order: Callable[[Order], None],
        cancel_order: Callable[[str], None],
        take_assignment: Callable[[Assignment], None],
    ) -> None:
        """Sends and receives until the stream ends. Raises Dismissed or a Fault, always."""
        writer = asyncio.create_task(self._send_on(), name="session writer")
        reader = asyncio.create_task(self._read_on(take_order, cancel_order, take_assignment), name="session reader")
        try:
            done, _ = await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            if reader not in done:  # the commander's last words may still be on their way
                done |= (await asyncio.wait((reader,), timeout=1.0))[0]
            with self._translated():
                for task in (reader, writer):  # the reader knows the reason when both ended
                    if task in done:
                        await task
        finally:
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _read_on(
        self,
        take_order: Callable[[Order], None],
        cancel_order: Callable[[str], None],
        take_assignment: Callable[[Assignment], None],
    ) -> None:
        while True:
            down = wire.checked(await self._read())
            match down.WhichOneof("message"):
                case "ack":
                    self._take_ack(down.ack)
                case "assignment":
                    take_assignment(wire.assignment_from(down.assignment))
                case "action":
                    await self._take_action(down.action, take_order)
                case "cancel":
                    cancel_order(down.cancel.id)
                case "go_away":
                    raise _dismissal(down.go_away)
                case other:
                    raise BadInput(f"the commander sent {other or 'an empty message'} in the middle of a session")

    async def _take_action(self, action: pb.Action, take_order: Callable[[Order], None]) -> None:
        try:
            take_order(wire.order_from(action))
        except BadInput as fault:  # a newer commander's order: it must learn that nothing will be done
            log.warning("an order that makes no sense to us", extra={"action": action.id, "text": fault.text})
            report = Report(action.id, ActionState.REFUSED, self._clock.now_ms(), fault.code, fault.text)
            await self._journal.append_report(report)

    def _take_ack(self, ack: pb.Ack) -> None:
        for (lane, boot), spans in wire.marks_from(ack.marks).items():
            self._journal.ack(lane, boot, spans)
            (self._frames if lane == FRAMES else self._records).acked(boot, spans)
        self._wake.set()

    async def _send_on(self) -> None:
        await self._write(pb.Up(roster=wire.roster_to(self._roster.whole(), (), whole=True)))
        while True:
            self._wake.clear()
            if self._ended is not None:
                raise self._ended
            if await self._send_records() or await self._send_roster() or await self._send_live() or await self._send_backlog():
                continue
            await self._wake.wait()

    async def _send_records(self) -> bool:
        room = _RECORDS_IN_FLIGHT - len(self._records.in_flight)
        if not self._records_left or room <= 0:
            return False
        self._records_left = False  # set again by `wake` while we read
        for item in await self._journal.unsent(RECORDS, _copied(self._records.spans), min(room, _STEP)):
            if isinstance(item, Record):
                self._records_left = True
                self._records.add(item, counted=True)
                await self._write(_record_message(item))
        return self._records_left

    async def _send_roster(self) -> bool:
        devices, gone = self._roster.changes()
        if not devices and not gone:
            return False
        await self._write(pb.Up(roster=wire.roster_to(devices, gone, whole=False)))
        return True

    async def _send_live(self) -> bool:
        if not self._live:
            return False
        frame = self._live.popleft()
        self._live_bytes -= len(frame.body)
        if not self._frames.has(frame):
            await self._send_frame(frame, counted=False)
        return True

    async def _send_backlog(self) -> bool:
        room = self._welcome.backlog_window - len(self._frames.in_flight)
        if not self._backlog_left or room <= 0:
            return False
        skip = _copied(self._frames.spans)
        for frame in self._live:
            skip.setdefault(frame.boot, Spans()).add(frame.seq)
        self._backlog_left = False  # set again by `offer` while we read
        for item in await self._journal.unsent(FRAMES, skip, min(room, _STEP), _STEP_BYTES):
            self._backlog_left = True
            while await self._send_records() or await self._send_live():
                pass  # what is new goes ahead
            if isinstance(item, Frame) and not self._frames.has(item):
                await self._send_frame(item, counted=True)
        return self._backlog_left

    async def _send_frame(self, frame: Frame, *, counted: bool) -> None:
        if frame.layout not in self._announced:
            layout = await self._journal.layout(frame.layout)
            if layout is None:
                log.error("a frame without its layout", extra={"seq": frame.seq})
                self._frames.add(frame, counted=False)
                return
            self._announced.add(frame.layout)
            await self._write(pb.Up(layout=wire.layout_to(layout)))
        self._frames.add(frame, counted=counted)
        await self._write(pb.Up(frame=pb.Frame(boot=frame.boot, seq=frame.seq, layout=frame.layout, body=frame.body)))

    # ---- the call ------------------------------------------------------------------------------------------

    async def _write(self, message: pb.Up) -> None:
        async with asyncio.timeout(WRITE_S):
            await self._call.write(message)

    async def _read(self) -> pb.Down:
        address = self._identity.post_address
        try:
            down = await self._call.read()
        except asyncio.CancelledError:
            if cancelled_by_us():
                raise
            raise Unreachable(f"the commander at {address} does not take what we send") from None
        if down is grpc.aio.EOF or not isinstance(down, pb.Down):
            raise Unreachable(f"the commander at {address} ended the session")
        return down

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """gRPC's and asyncio's errors as faults."""
        address = self._identity.post_address
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise fault_of(error, address) from error
        except TimeoutError as error:
            raise Unreachable(f"the commander at {address} does not answer") from error
        except asyncio.InvalidStateError as error:  # a write after the call ended; its status is the reader's to tell
            raise Unreachable(f"the session with {address} broke") from error


def _copied(spans: Mapping[bytes, Spans]) -> dict[bytes, Spans]:
    return {boot: its.copy() for boot, its in spans.items()}


def _record_message(record: Record) -> pb.Up:
    if record.kind == "event":
        event = pb.Event.FromString(record.body)
        event.boot, event.seq = record.boot, record.seq
        return pb.Up(event=event)
    report = pb.ActionReport.FromString(record.body)
    report.boot, report.seq = record.boot, record.seq
    return pb.Up(report=report)


def _dismissal(m: pb.GoAway) -> Exception:
    """ "drain" and what will pass is a dismissal; a refusal is the fault that it names."""
    fault = from_wire(m.code, m.text)
    if m.code == "drain" or isinstance(fault, Unavailable):
        return Dismissed(m.code, m.text, min(m.come_back_ms, 600_000) / 1000)
    return fault
