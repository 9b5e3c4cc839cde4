"""What a sentry must not forget: frames and records until they are acknowledged, orders and how they ended.

Everything is synced to disk before a call returns; only what is synced is sent. One thread owns the file; calls that
wait together share one commit. Frames may be dropped (oldest first, at the cap, and counted), records never are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from garrison import wire
from garrison.clock import Clock
from garrison.faults import Broken, DiskFull, Fault, Unavailable
from garrison.frame import Layout
from garrison.model import Event, Held, Order, Report
from garrison.spans import Spans
from garrison.words import ActionKind, ActionState
from sentry_core.journal_file import DAY_MS, FRAMES, RECORDS, Action, Frame, JournalFile, Record, translated

__all__ = ["FRAMES", "RECORDS", "Action", "Frame", "Journal", "Record"]

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[JournalFile], T]
_RETRY_S = 1.0


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Journal:
    """`boot` names the life of the file. `on_frame` and `on_records` are called in the loop after the commit."""

    def __init__(self, file: JournalFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work_on, name="journal", daemon=True)
        self._closed = False
        self._losing = False
        self._loop = asyncio.get_running_loop()
        self.boot = file.boot
        self.on_frame: Callable[[Frame], None] = lambda _: None
        self.on_records: Callable[[], None] = lambda: None
        self.on_new_boot: Callable[[], None] = lambda: None

    @property
    def frames_dropped(self) -> int:
        """That were never acknowledged, since this journal began: at the cap, or on a full disk."""
        return self._file.dropped

    @classmethod
    async def open(
        cls,
        path: Path,
        clock: Clock,
        *,
        cap_bytes: int = 1 << 30,
        keep_acked_ms: int = DAY_MS,
        min_free_bytes: int = 0,
        machine: bytes = b"",
    ) -> Journal:
        """Raises Unavailable, DiskFull, VersionMismatch. A damaged file is set aside, and says so in an event; one that comes
        from another `machine` begins a new boot.
        """
        file = JournalFile(path, cap_bytes, keep_acked_ms, min_free_bytes, machine)
        await asyncio.to_thread(file.open, clock.now_ms())
        journal = cls(file, clock)
        journal._thread.start()
        if file.set_aside is not None:
            await journal._tell_damage(file.set_aside)
        elif file.moved:
            log.warning("this disk was in another machine before: the journal goes on under a new boot id")
        return journal

    async def close(self) -> None:
        """Finishes what was asked, then closes."""
        if self._closed:
            return
        with contextlib.suppress(Fault):
            await self._do(lambda f: f.flush_acks())
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # ---- writing -------------------------------------------------------------------------------------------

    async def append_frame(self, layout: Layout, body: bytes) -> Frame | None:
        """Durable when it returns. None: the disk is full; the frame is dropped and counted."""
        now_ms = self._clock.now_ms()
        try:
            frame = await self._do(lambda f: f.add_frame(layout, body, now_ms))
        except DiskFull as fault:
            if not self._losing:
                log.warning("looks are lost until there is space", extra={"fault": fault.code, "text": fault.text})
            self._losing = True
            await self._do(lambda f: f.count_unwritable())
            return None
        self._losing = False
        self.on_frame(frame)
        return frame

    async def append_event(self, event: Event) -> None:
        """Durable when it returns; waits as long as the disk is full."""
        body = wire.event_to(event).SerializeToString()
        await self._insist(lambda f: f.add_record("event", body, event.at_ms))
        self.on_records()

    async def append_report(self, report: Report) -> None:
        """A report on an order that we do not keep. Durable when it returns."""
        body = wire.report_to(report).SerializeToString()
        await self._insist(lambda f: f.add_record("report", body, report.at_ms))
        self.on_records()

    async def accept(self, order: Order) -> tuple[Action, bool]:
        """The action and whether it is new: ACCEPTED and its report are durable. DiskFull: it is not accepted."""
        now_ms = self._clock.now_ms()
        found = await self._do(lambda f: f.accept(order, now_ms))
        self.on_records()
        return found

    async def advance(
        self, action_id: str, report: Report, *, started: bool = False, only_from: tuple[ActionState, ...] = ()
    ) -> Action | None:
        """The new state and its report, durable; waits as long as the disk is full. None: it was final or not in `only_from`."""
        action = await self._insist(lambda f: f.advance(action_id, report, started=started, only_from=only_from))
        self.on_records()
        return action

    async def report_again(self, action_id: str) -> Action | None:
        now_ms = self._clock.now_ms()
        action = await self._insist(lambda f: f.report_again(action_id, now_ms))
        self.on_records()
        return action

    async def note(self, action_id: str, key: str, value: str) -> None:
        await self._insist(lambda f: f.note(action_id, key, value))

    async def raise_epoch(self, epoch: int) -> int:
        """Remembers the highest epoch seen, and returns it."""
        return await self._insist(lambda f: f.raise_epoch(epoch))

    def ack(self, lane: int, boot: bytes, spans: Spans) -> None:
        """Does not wait: an ack that a crash forgets costs a resend."""
        now_ms = self._clock.now_ms()
        self._submit(lambda f: f.ack(lane, boot, spans, now_ms)).add_done_callback(_look_at)

    async def reconcile(self, durable: Mapping[tuple[int, bytes], Spans]) -> None:
        """After a Welcome: exactly this is acknowledged."""
        now_ms = self._clock.now_ms()
        await self._insist(lambda f: f.reconcile(durable, now_ms))

    # ---- reading -------------------------------------------------------------------------------------------

    async def held(self) -> dict[int, tuple[Held, ...]]:
        return await self._do(lambda f: f.held())

    async def unsent(self, lane: int, skip: Mapping[bytes, Spans], limit: int, max_bytes: int = 1 << 20) -> list[Frame | Record]:
        """The oldest items that are neither acknowledged nor in `skip`."""
        return await self._do(lambda f: f.unsent(lane, skip, limit, max_bytes))

    async def layout(self, layout_hash: bytes) -> Layout | None:
        return await self._do(lambda f: f.layout(layout_hash))

    async def action(self, action_id: str) -> Action | None:
        return await self._do(lambda f: f.action(action_id))

    async def open_actions(self) -> list[Action]:
        return await self._do(lambda f: f.open_actions())

    async def power_history(self, since_ms: int) -> list[tuple[ActionKind, str, int]]:
        return await self._do(lambda f: f.power_history(since_ms))

    async def epoch(self) -> int:
        return await self._do(lambda f: f.epoch())

    async def used_bytes(self) -> int:
        return await self._do(lambda f: f.used_bytes())

    # ---- the thread ----------------------------------------------------------------------------------------

    async def _do(self, work: Work[T]) -> T:
        return await self._submit(work)

    async def _insist(self, work: Work[T]) -> T:
        told = False
        while True:
            try:
                return await self._do(work)
            except DiskFull as fault:
                if not told:
                    log.warning("waiting for space on the disk", extra={"fault": fault.code, "text": fault.text})
                    told = True
                with contextlib.suppress(DiskFull):
                    await self._do(lambda f: f.free_some())
                await self._clock.sleep(_RETRY_S)

    def _submit(self, work: Work[T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        if self._closed:
            job.done.set_exception(Unavailable("the journal is closed"))
        else:
            self._jobs.put(job)
        return job.done

    def _work_on(self) -> None:
        stop = False
        while not stop:
            first = self._jobs.get()
            if first is None:
                break
            jobs = [first]
            while len(jobs) < 1000:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    stop = True
                    break
                jobs.append(job)
            self._commit(jobs)
        self._file.close()

    def _commit(self, jobs: list[_Job]) -> None:
        fault = self._try(jobs)
        if isinstance(fault, Broken):
            fault = self._begin_anew(fault) or self._try(jobs)
        for job in jobs:
            job.error = job.error or fault
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                job.loop.call_soon_threadsafe(_settle, job)

    def _try(self, jobs: list[_Job]) -> Fault | None:
        """All jobs in one transaction, or none. Returns what stopped it."""
        try:
            self._file.begin()
            for job in jobs:
                job.result = job.work(self._file)
            self._file.commit()
        except (sqlite3.Error, Broken) as error:
            self._file.rollback()
            fault = translated(error, self._file.path)
            # it was open for writing: whatever it is now, it is treated as a disk that takes nothing for a while
            return DiskFull(fault.text, hint=fault.hint) if isinstance(fault, Unavailable) else fault
        except Exception as error:  # carried to whoever waits; the thread must live
            self._file.rollback()
            if len(jobs) == 1:
                jobs[0].error = error
            else:  # one that fails takes no other with it
                for job in jobs:
                    job.error = self._try([job]) or job.error
        return None

    def _begin_anew(self, fault: Broken) -> Fault | None:
        log.error("the journal is damaged", extra={"text": fault.text})
        try:
            self._file.begin_anew(self._clock.now_ms())
        except (Fault, OSError) as error:
            return error if isinstance(error, Fault) else Unavailable(f"cannot set the journal aside: {error}")
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed_boot)
        return None

    def _changed_boot(self) -> None:
        self.boot = self._file.boot
        self.on_new_boot()
        if self._file.set_aside is not None:
            self._telling = asyncio.ensure_future(self._tell_damage(self._file.set_aside))

    async def _tell_damage(self, aside: Path) -> None:
        text = f"the journal was damaged and is set aside as {aside.name}; what could be read was taken over"
        log.error(text)
        await self.append_event(Event(self._clock.now_ms(), "journal_damaged", text, severity="critical"))


def _settle(job: _Job) -> None:
    if job.done.done():
        return
    if job.error is not None:
        job.done.set_exception(job.error)
    else:
        job.done.set_result(job.result)


def _look_at(done: asyncio.Future[Any]) -> None:
    """An ack that could not be written is logged once by whoever writes next; here it only must not go unseen."""
    if not done.cancelled() and (error := done.exception()) is not None:
        log.debug("an ack was not kept", extra={"text": str(error)})
