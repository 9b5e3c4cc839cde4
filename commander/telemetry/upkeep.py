"""What the history does by itself: sealing every quarter of an hour, the nightly merge, retention, following the fleet's groups.

What is heavy are orders (`duties`), carried out by a process of its own where there is one, else by a thread, a few devices a
step. What they made is written between two batches of frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from commander.db import Database, translated
from commander.telemetry import archive, block_store, duties, merge, retention, start, store, totals_store
from commander.telemetry.apart import Apart
from commander.telemetry.duties import Carried, Damage, Hand, Order
from commander.telemetry.levels import DAY_MS, STEP_MS
from commander.telemetry.live import Live
from commander.telemetry.members import Members
from commander.telemetry.retention import Spans
from commander.telemetry.seal import Pace
from commander.telemetry.totals_store import Group
from garrison.clock import Clock
from garrison.faults import Broken, Fault

log = logging.getLogger(__name__)
T = TypeVar("T")

SEAL_EVERY_MS = 3 * STEP_MS
GRACE_MS = 120_000
"""A step is sealed so long after its end: what comes within it is live, what comes later is late."""

SEAL_BYTES = 64 << 20
"""So many bytes of new frames are sealed at once: a backlog of days does not pile up."""

MERGE_EVERY_MS = 600_000
RETIRE_EVERY_MS = 60_000
FOLLOW_EVERY_MS = 60_000

GroupsNow = Callable[[], AsyncIterator[tuple[int, tuple[Group, ...]]]]
"""All devices of the fleet with their groups, in pieces, so that the event loop is not held."""


@dataclass(slots=True)
class Done:
    """What one tidying did."""

    frames: int = 0
    chunks: int = 0
    days: int = 0
    batches: int = 0
    files_removed: int = 0
    frames_removed: int = 0
    damaged: int = 0


class Upkeep:
    """`received_bytes`: of frames since the start. `forget`: called with the time before which traces of raw samples are gone."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        live: Live,
        members: Members,
        spans: Spans,
        *,
        received_bytes: Callable[[], int],
        newest_sample_ms: Callable[[], int | None],
        forget: Callable[[int], None],
        newest_received_ms: int | None,
        apart: Apart | None,
    ) -> None:
        self._apart = apart
        self._db = db
        self._clock = clock
        self._live = live
        self._members = members
        self._spans = spans
        self._received_bytes = received_bytes
        self._newest_sample_ms = newest_sample_ms
        self._forget = forget
        self.files = archive.Files(db.path.parent)
        """What questions read the archive over."""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._c: sqlite3.Connection | None = None  # of the worker's thread
        self._one = asyncio.Lock()
        self._judged = retention.begin(clock.now_ms(), clock.monotonic_ms(), newest_received_ms)
        self._must_spare = self._judged.hold_until_ms > clock.monotonic_ms()
        self._offset_ms = clock.now_ms() - clock.monotonic_ms()
        self._sealed_bytes = 0
        self._closed = False
        self._next_ms: dict[Callable[..., Awaitable[None]], int] = {}
        self.groups: GroupsNow | None = None
        """Set by main: without it no totals of groups are kept, not even the farm's."""

    @property
    def folder(self) -> Path:
        return self._db.path.parent

    # ---- the schedule ----------------------------------------------------------------------------------------

    async def step(self) -> None:
        """What is due now; called every few seconds."""
        done = Done()
        if self._received_bytes() - self._sealed_bytes >= SEAL_BYTES or self._clock_was_set():
            self._next_ms.pop(self._seal, None)
        for duty, every_ms in (
            (self._follow, FOLLOW_EVERY_MS),
            (self._seal, SEAL_EVERY_MS),
            (self._merge, MERGE_EVERY_MS),
            (self._retire, RETIRE_EVERY_MS),
        ):
            if self._clock.monotonic_ms() >= self._next_ms.get(duty, 0):
                async with self._one:
                    await duty(done)
                self._next_ms[duty] = self._clock.monotonic_ms() + every_ms

    async def tidy(self) -> Done:
        """All of it, now."""
        done = Done()
        for duty in (self._follow, self._seal, self._merge, self._retire):
            async with self._one:
                await duty(done)
        return done

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """While inside, nothing is sealed, merged or removed."""
        async with self._one:
            yield

    async def alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in the worker's thread between two duties: nobody else writes to the archive meanwhile."""
        async with self._one:
            return await self._work(work)

    async def close(self) -> None:
        """After the round in hand."""
        if self._closed:
            return
        self._closed = True
        if self._apart is not None:
            await self._apart.close()
        await asyncio.get_running_loop().run_in_executor(self._worker, self._close_connection)
        await asyncio.to_thread(self._worker.shutdown)

    # ---- duties ----------------------------------------------------------------------------------------------

    async def _follow(self, _: Done) -> None:
        """Memberships as the fleet has them now."""
        if self.groups is None:
            return
        now = {key: groups async for key, groups in self.groups()}
        now_ms = self._clock.now_ms()
        changed = await self._work(lambda _: self._members.follow(now, now_ms))  # ten thousand devices take 50 ms
        if changed:
            await self._db.write(lambda c: totals_store.put_members(c, changed))
            self._members.take(changed)

    async def _seal(self, done: Done) -> None:
        bytes_before = self._received_bytes()
        self._offset_ms = self._clock.now_ms() - self._clock.monotonic_ms()
        until_ms = (self._clock.now_ms() - GRACE_MS) // STEP_MS * STEP_MS
        sealed_ms = await self._set_back(until_ms)
        for post in await self._work(lambda c: store.posts_to_seal(c, until_ms)):
            await self._seal_post(done, post, until_ms, sealed_ms)
        self._sealed_bytes = bytes_before

    async def _set_back(self, until_ms: int) -> int:
        """What counts as sealed: `until_ms`. Where the clock was set back, the steps that the farm has lived already are in the
        totals too, and what comes for them now is late. Posts sealed for longer than that were sealed by a clock that was ahead."""
        sealed_ms = await self._work(lambda c: totals_store.end_of_farm(c, until_ms, until_ms + DAY_MS))
        if any(known_ms > sealed_ms for known_ms in (await self._work(store.sealed)).values()):
            for post, looks in await self._db.write(partial(start.set_back, sealed_ms=sealed_ms)):
                self._live.set_back(post, sealed_ms, looks)
        return sealed_ms

    def _clock_was_set(self) -> bool:
        """Since the last sealing: then what is live begins somewhere else."""
        return abs(self._clock.now_ms() - self._clock.monotonic_ms() - self._offset_ms) > GRACE_MS

    async def _seal_post(self, done: Done, post: str, until_ms: int, sealed_ms: int) -> None:
        after_id, first = 0, True
        while True:
            now_ms, members = self._clock.now_ms(), self._members.changes
            order = duties.Seal(post, until_ms, after_id, sealed_ms if first else None, now_ms, members)
            made = await self._carried(done, order)
            if made.written and first:
                self._live.sealed(post, sealed_ms)
                first = False
            after_id = made.last_id
            if not made.more:
                return

    async def _merge(self, done: Done) -> None:
        now_ms = self._clock.now_ms()
        for day_ms in await self._work(lambda c: merge.due_days(c, now_ms)):
            keys = await self._work(partial(block_store.keys_starting, from_ms=day_ms, to_ms=day_ms + DAY_MS))
            for first in range(0, len(keys), merge.DEVICES):
                made = await self._carried(done, duties.Merge(day_ms, keys[first : first + merge.DEVICES], now_ms))
                if made.too_large:
                    log.error("days of devices are too large to be merged", extra={"devices": made.too_large, "day_ms": day_ms})
        await self._move_totals(done, now_ms)

    async def _move_totals(self, done: Done, now_ms: int) -> None:
        while True:
            for batch, first_ms, last_ms in await self._work(totals_store.closed_batches):
                await self._carried(done, duties.Move(batch, first_ms, last_ms, now_ms))
                done.batches += 1
            due = await self._work(lambda c: merge.totals_due(c, now_ms))
            if due is None:
                return
            await self._db.write(partial(totals_store.close_batch, from_ms=due[0], to_ms=due[1], now_ms=now_ms))

    async def _retire(self, done: Done) -> None:
        """Removes what is too old: files as a whole, and frames that could never be sealed a few at a time."""
        wall_ms, monotonic_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        judged = retention.judge(self._judged, wall_ms, monotonic_ms)
        if judged.hold_until_ms > max(self._judged.hold_until_ms, monotonic_ms):
            log.warning("the wall clock was set: nothing is removed from the history for a day")
            self._must_spare = True
        self._judged = judged
        if self._must_spare:
            await self._work(lambda _: self._spare_files(wall_ms))
            self._must_spare = False
        now_ms = retention.now_for_removal(judged, wall_ms, monotonic_ms, self._newest_sample_ms())
        if now_ms is None:
            return
        done.files_removed += await self._work(lambda _: self._remove_files(now_ms))
        before_ms = now_ms - self._spans.raw_days * DAY_MS
        while True:
            some = await self._db.write(lambda c: store.remove_received_before(c, before_ms, retention.STEP_ROWS))
            done.frames_removed += some
            if some < retention.STEP_ROWS:
                break
            await self._clock.sleep(0)
        await self._db.write(lambda c: store.remove_traces(c, before_ms))
        self._forget(before_ms)

    def _spare_files(self, wall_ms: int) -> None:
        """After a step of the clock: files that are past their time only because of it are kept as if they were written now, and
        one that was written by a clock that was ahead is kept no longer than others. It holds over a restart."""
        for span in archive.existing(self.folder):
            path = self.folder / span.name
            try:
                with archive.reading(path) as c:
                    touched_ms = wall_ms if c is None else archive.touched_ms(c)
                if touched_ms > wall_ms or retention.past(span, self._spans, wall_ms, touched_ms):
                    with archive.writing(path) as c:
                        archive.touch(c, wall_ms)
            except Broken as fault:
                log.warning("a file of the history cannot be judged", extra={"file": span.name, "text": fault.text})

    def _remove_files(self, now_ms: int) -> int:
        removed = 0
        for span in retention.expired(archive.existing(self.folder), self._spans, now_ms):
            path = self.folder / span.name
            try:
                with archive.reading(path) as c:
                    touched_ms = 0 if c is None else archive.touched_ms(c)
                if retention.removable(span, self._spans, now_ms, touched_ms):
                    self.files.release(span.name)
                    archive.remove(path)
                    removed += 1
                    log.info("a file of the history is past its time", extra={"file": span.name})
            except PermissionError:  # Windows: somebody reads it; the next round tries again
                continue
            except (Fault, sqlite3.Error) as error:
                log.warning("a file of the history cannot be judged", extra={"file": span.name, "text": str(error)})
        return removed

    # ---- who carries it out ----------------------------------------------------------------------------------

    async def _carried(self, done: Done, order: Order) -> Carried:
        made = await (self._work(self._here(order)) if self._apart is None else self._apart.carry_out(order))
        done.frames += made.frames
        done.chunks += made.chunks
        done.days += made.days
        done.damaged += len(made.damaged)
        self._tell(made.damaged)
        return made

    def _here(self, order: Order) -> Callable[[sqlite3.Connection], Carried]:
        loop = asyncio.get_running_loop()

        def write(work: Callable[[sqlite3.Connection], T]) -> T:
            return self._db.write_from_thread(work, loop)

        return lambda c: duties.carry_out(Hand(c, self.folder, write, lambda _: self._members, Pace()), order)

    # ---- the worker's thread ---------------------------------------------------------------------------------

    async def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._with_connection, work)

    def _with_connection(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._c is None:
                self._c = self._db.reader()
            return work(self._c)
        except sqlite3.Error as error:
            raise translated(error, self._db.path) from error

    def _close_connection(self) -> None:
        if self._c is not None:
            self._c.close()
            self._c = None

    @staticmethod
    def _tell(damaged: Iterable[Damage]) -> None:
        for one in damaged:
            extra = {"file": one.file, "what": one.what, "at_ms": one.at_ms, "text": one.text}
            log.error("a part of the history does not read any more, and was set aside", extra=extra)
