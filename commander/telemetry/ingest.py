"""From a sentry's frame to disk and memory, once.

Frames wait a moment for others and are committed together; the future that `take` gives is done when the commit is
durable, which is when the sentry may be told. Decoding happens in the writer thread, once, before the transaction; the
event loop only copies arrays into the latest values. While the disk is full the latest values go on: what was decoded is
shown, and nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from commander.db import Database
from commander.telemetry import clocks, columns, store
from commander.telemetry.clocks import Skew
from commander.telemetry.columns import Look
from garrison import frame
from garrison.clock import Clock
from garrison.faults import BadFrame, BadInput, Fault, Unavailable
from garrison.frame import Layout
from garrison.spans import Spans

log = logging.getLogger(__name__)

Journal = tuple[str, bytes]
"""Sentry id and boot."""

BATCH_FRAMES = 256
BATCH_BYTES = 1 << 20
"""What is committed at once: so much that a commit is cheap a frame, so little that nobody waits for it."""

QUEUE_BYTES = 256 << 20
"""More than this waiting for a slow disk is refused until some of it is written."""

LAYOUTS = 20_000
"""Layouts in memory, some kilobytes each; the others are read from the database when a frame names them."""

PRESENCE_MS = 600_000
"""Presence is kept in steps of this, so that it is written once in ten minutes and not with every look."""

_MAX_SEQ = 2**63 - 1


@dataclass(slots=True)
class Counts:
    """Since the start. `received_bytes` are bodies as they came; `ahead`: frames of a clock that is ahead."""

    frames: int = 0
    samples: int = 0
    values: int = 0
    received_bytes: int = 0
    repeated: int = 0
    set_aside: int = 0
    ahead: int = 0
    commits: int = 0
    failed_commits: int = 0


@dataclass(slots=True)
class _Arrival:
    sentry: str
    boot: bytes
    seq: int
    layout_hash: bytes
    layout: Layout | None
    body: bytes
    received_ms: int
    waiters: list[asyncio.Future[None]]
    look: Look | None = None
    wrong: Fault | None = None
    ahead_ms: int = 0


@dataclass(slots=True)
class _Batch:
    begun_s: float
    arrivals: list[_Arrival] = field(default_factory=list)
    layouts: dict[bytes, Layout] = field(default_factory=dict)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)  # of layouts
    bytes: int = 0
    presence: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)  # what this batch widens


class Ingest:
    """`marks`, `seen` and `hashes`: what the database holds already. `taken` is called on the loop with each new look, also
    while the
    disk is full; `kept` with its post and the look, once, when it is durable."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        taken: Callable[[Look], None],
        kept: Callable[[str, Look], None],
        *,
        commit_every_s: float,
        marks: dict[Journal, Spans],
        seen: Iterable[store.Seen],
        hashes: set[bytes],
    ) -> None:
        self.counts = Counts()
        self.waiting_bytes = 0
        self.commit_s: Callable[[float], None] = lambda _: None
        """Called after each commit with the seconds from the first frame's arrival to durable."""
        self._db = db
        self._clock = clock
        self._taken = taken
        self._kept = kept
        self._commit_every_s = commit_every_s
        self._marks = marks
        self._durable_layouts = hashes
        self._layouts: OrderedDict[bytes, Layout] = OrderedDict()  # the one that waited longest for use goes first
        self._presence = {(item.sentry, item.key): (item.first_ms, item.last_ms) for item in seen}
        self._skews: dict[Journal, Skew] = {}  # only the writer thread, one batch at a time
        self._in_hand: dict[tuple[str, bytes, int], _Arrival] = {}
        self._batches: list[_Batch] = []  # the last one is open
        self._flying: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # ---- from the link --------------------------------------------------------------------------------------

    def learn_layout(self, layout: Layout) -> asyncio.Future[None]:
        """Done when durable. DiskFull, Unavailable come through the future."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            done.set_exception(Unavailable("the history is closed"))
            return done
        self._layouts[layout.hash] = layout
        if len(self._layouts) > LAYOUTS:
            self._layouts.popitem(last=False)
        if layout.hash in self._durable_layouts:
            done.set_result(None)
            return done
        batch = self._open_batch()
        batch.layouts[layout.hash] = layout
        batch.waiters.append(done)
        self._arm()
        return done

    def take(self, sentry: str, boot: bytes, seq: int, layout_hash: bytes, body: bytes) -> asyncio.Future[None]:
        """Done when the frame is durable, at once when it was already. A frame that lies is set aside and is done too.

        DiskFull, Unavailable (retry later) and BadInput (an impossible number) come through the future.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not 0 < seq <= _MAX_SEQ or len(boot) != 16:
            done.set_exception(BadInput(f"frame {seq} of journal {boot.hex()}: no such number"))
            return done
        held = self._marks.get((sentry, boot))
        if held is not None and seq in held:
            self.counts.repeated += 1
            done.set_result(None)
            return done
        arrival = self._in_hand.get((sentry, boot, seq))
        if arrival is not None:
            self.counts.repeated += 1
            arrival.waiters.append(done)
            return done
        if self._closed or self.waiting_bytes + len(body) > QUEUE_BYTES:
            text = "the history is closed" if self._closed else "too many frames wait for the disk"
            done.set_exception(Unavailable(text, hint="it comes again"))
            return done
        layout = self._layouts.get(layout_hash)
        if layout is not None:
            self._layouts.move_to_end(layout_hash)
        arrival = _Arrival(sentry, boot, seq, layout_hash, layout, body, self._clock.now_ms(), [done])
        self._in_hand[sentry, boot, seq] = arrival
        batch = self._open_batch()
        batch.arrivals.append(arrival)
        if layout is not None and layout_hash not in self._durable_layouts:
            batch.layouts[layout_hash] = layout
        batch.bytes += len(body)
        self.waiting_bytes += len(body)
        self._arm()
        return done

    async def durable(self, sentry: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Spans]:
        """Of what the sentry holds, (boot, first, last) each, what is durable here. What it holds no more is settled."""
        found: dict[bytes, Spans] = {}
        for boot, first, last in held:
            if len(boot) != 16 or not 0 < first <= last <= _MAX_SEQ:
                raise BadInput(f"frames {first} to {last} of journal {boot.hex()}: no such span")
            marks = self._marks.setdefault((sentry, boot), Spans())
            if next(marks.missing(1, first - 1), None) is not None:
                await self._db.write(partial(_settle_below, sentry, boot, first, self._clock.now_ms()))
                marks.add(1, first - 1)
            found[boot] = _within(marks, first, last)
        return found

    async def close(self) -> None:
        """Refuses new frames and waits until those in hand are durable or have failed."""
        self._closed = True
        while self._batches or self._flying is not None:
            self._fly()
            if self._flying is not None:
                await asyncio.wait([self._flying])
                await asyncio.sleep(0)  # its callback settles it

    @property
    def layouts(self) -> list[Layout]:
        """Those in memory."""
        return list(self._layouts.values())

    def unlearn(self, hashes: set[bytes]) -> None:
        """They are no longer on disk as they should be: written again when they are announced."""
        self._durable_layouts -= hashes

    def forget(self, before_ms: int) -> None:
        """Follows `store.remove_traces`. Marks stay until the next start: a frame on its way may just have used them."""
        self._presence = {name: times for name, times in self._presence.items() if times[1] >= before_ms}

    # ---- batches --------------------------------------------------------------------------------------------

    def _open_batch(self) -> _Batch:
        if self._batches:
            last = self._batches[-1]
            if len(last.arrivals) < BATCH_FRAMES and last.bytes < BATCH_BYTES:
                return last
        batch = _Batch(asyncio.get_running_loop().time())
        self._batches.append(batch)
        return batch

    def _arm(self) -> None:
        """Commits at once what is full, else when the oldest frame has waited long enough."""
        if self._flying is not None or not self._batches:
            return
        first = self._batches[0]
        if len(self._batches) > 1 or len(first.arrivals) >= BATCH_FRAMES or first.bytes >= BATCH_BYTES:
            self._fly()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(first.begun_s + self._commit_every_s, self._fly)

    def _fly(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flying is not None or not self._batches:
            return
        batch = self._batches.pop(0)
        try:
            self._flying = self._db.submit(lambda c: self._write(c, batch))
        except Unavailable as fault:
            self._flying = asyncio.get_running_loop().create_future()
            self._flying.set_exception(fault)
        self._flying.add_done_callback(lambda flown: self._landed(batch, flown))

    def _landed(self, batch: _Batch, flown: asyncio.Future[None]) -> None:
        self._flying = None
        error = flown.exception()
        for arrival in batch.arrivals:
            self._in_hand.pop((arrival.sentry, arrival.boot, arrival.seq), None)
            if arrival.look is not None:
                self._taken(arrival.look)
                if error is None:
                    self._kept(arrival.sentry, arrival.look)
        self.waiting_bytes -= batch.bytes
        if error is None:
            self._commit_counts(batch)
            self.commit_s(asyncio.get_running_loop().time() - batch.begun_s)
        else:
            self.counts.failed_commits += 1
        waiters = [*batch.waiters, *(waiter for arrival in batch.arrivals for waiter in arrival.waiters)]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None) if error is None else waiter.set_exception(error)
        self._arm()

    def _commit_counts(self, batch: _Batch) -> None:
        self._durable_layouts |= batch.layouts.keys()
        self._presence |= batch.presence
        self.counts.commits += 1
        wrong = [arrival for arrival in batch.arrivals if arrival.wrong is not None]
        if wrong:  # one line a commit: a sentry gone mad must not fill the log
            first = {"sentry": wrong[0].sentry, "seq": wrong[0].seq, "text": str(wrong[0].wrong)}
            log.warning("frames were set aside", extra={"count": len(wrong), **first})
        for arrival in batch.arrivals:
            self._marks.setdefault((arrival.sentry, arrival.boot), Spans()).add(arrival.seq)
            self.counts.frames += 1
            self.counts.received_bytes += len(arrival.body)
            if arrival.look is None:
                self.counts.set_aside += 1
            else:
                self.counts.samples += len(arrival.look.keys)
                self.counts.values += arrival.look.values
                self.counts.ahead += arrival.ahead_ms != 0

    # ---- in the writer thread -------------------------------------------------------------------------------

    def _write(self, c: sqlite3.Connection, batch: _Batch) -> None:
        for arrival in batch.arrivals:
            if arrival.look is None and arrival.wrong is None:
                self._decode(arrival, c)
        good = [arrival for arrival in batch.arrivals if arrival.look is not None]
        for arrival in good:
            self._widen(batch, arrival)
        store.append(c, batch.layouts.values(), [_arrived(x) for x in good], [_set_aside(x) for x in batch.arrivals if x.wrong])
        store.put_seen(c, (store.Seen(key, sentry, *times) for (sentry, key), times in batch.presence.items()))

    def _decode(self, arrival: _Arrival, c: sqlite3.Connection) -> None:
        if arrival.layout is None:
            arrival.layout = store.layout_named(c, arrival.layout_hash)
        if arrival.layout is None:
            arrival.wrong = BadFrame(f"its layout {arrival.layout_hash.hex()} was not announced")
            return
        try:
            look = columns.look(frame.parse(arrival.layout, arrival.body), store.salt_of(arrival.sentry))
        except BadFrame as fault:
            arrival.wrong = fault
            return
        except Exception as error:  # a frame that breaks our own decoder must not stop the farm's history: kept for us to see
            log.exception("a frame that the decoder could not take", extra={"sentry": arrival.sentry, "seq": arrival.seq})
            arrival.wrong = BadFrame(f"the decoder failed: {error!r}")
            return
        journal = (arrival.sentry, arrival.boot)
        skew = clocks.judge(int(look.at_ms.max()), arrival.received_ms, arrival.seq, self._skews.get(journal))
        if skew is not None:
            if journal not in self._skews:
                log.warning("a sentry's clock is wrong", extra={"sentry": arrival.sentry, "ahead_ms": skew.ahead_ms})
            self._skews[journal] = skew
            arrival.ahead_ms = skew.ahead_ms
        arrival.look = look.at(clocks.corrected(look.at_ms, arrival.received_ms, arrival.ahead_ms))

    def _widen(self, batch: _Batch, arrival: _Arrival) -> None:
        assert arrival.look is not None  # noqa: S101  # the caller chose those
        first = int(arrival.look.at_ms.min()) // PRESENCE_MS * PRESENCE_MS
        last = (int(arrival.look.at_ms.max()) // PRESENCE_MS + 1) * PRESENCE_MS - 1
        for key in arrival.look.keys.tolist():
            name = (arrival.sentry, key)
            known = batch.presence.get(name) or self._presence.get(name)
            if known is None:
                batch.presence[name] = (first, last)
            elif first < known[0] or last > known[1]:
                batch.presence[name] = (min(first, known[0]), max(last, known[1]))


def _settle_below(sentry: str, boot: bytes, below: int, now_ms: int, c: sqlite3.Connection) -> None:
    store.settle_below(c, sentry, boot, below, now_ms)


def _arrived(arrival: _Arrival) -> store.Arrived:
    assert arrival.look is not None  # noqa: S101  # the caller chose those
    times = arrival.look.at_ms
    return store.Arrived(
        arrival.sentry,
        arrival.boot,
        arrival.seq,
        arrival.layout_hash,
        int(times.min()),
        int(times.max()),
        arrival.received_ms,
        arrival.ahead_ms,
        arrival.body,
    )


def _set_aside(arrival: _Arrival) -> store.SetAside:
    assert arrival.wrong is not None  # noqa: S101  # the caller chose those
    return store.SetAside(
        arrival.sentry,
        arrival.boot,
        arrival.seq,
        arrival.layout_hash,
        arrival.received_ms,
        arrival.wrong.code,
        arrival.wrong.text,
        arrival.body,
    )


def _within(marks: Spans, first: int, last: int) -> Spans:
    return Spans((max(span.first, first), min(span.last, last)) for span in marks if span.first <= last and span.last >= first)
