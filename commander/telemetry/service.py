"""Telemetry: what the commander knows of its devices over time.

telemetry = await Telemetry.open(home / "history", clock, raw_days=30, commit_every_ms=250)
await telemetry.take(sentry_id, boot, seq, layout_hash, body)      # from the link; done when durable
telemetry.latest(keys)                                             # from memory
await telemetry.series(key, "hashrate_hs", "", from_ms, to_ms)     # from disk, in a thread
await telemetry.run()                                              # retention, and the nightly check of the file
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from commander.db import CHECK_AT_OPEN_BYTES, Database
from commander.telemetry import clocks, columns, retention, series, store
from commander.telemetry.columns import Look
from commander.telemetry.ingest import PRESENCE_MS, Counts, Ingest
from commander.telemetry.latest import Latest, LatestRow
from garrison import frame
from garrison.clock import Clock
from garrison.faults import BadFrame, Fault, Unavailable
from garrison.frame import Layout, Series
from garrison.spans import Spans

log = logging.getLogger(__name__)

FILE = "hot.db"
QUERY_S = 30.0
POINTS = 2_000
MOST_POINTS = 20_000
_TIDY_EVERY_S = 60.0
_CHECK_EVERY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Usage:
    """What the history takes. Bytes on disk with WAL; `free_bytes` of the file system."""

    kept: store.Usage
    file_bytes: int
    free_bytes: int
    raw_days: int
    damaged: str | None


class Telemetry:
    """Opened with `open`, used on one event loop, closed with `close`."""

    def __init__(self, db: Database, clock: Clock, ingest: Ingest, latest: Latest, raw_days: int, newest_ms: int | None) -> None:
        self.db = db
        self.damaged: str | None = None
        """What the last check found wrong with the file; None: nothing, or not yet checked."""
        self._clock = clock
        self._ingest = ingest
        self._latest = latest
        self._raw_days = raw_days
        self._judged = retention.begin(clock.now_ms(), clock.monotonic_ms(), newest_ms)

    @classmethod
    async def open(cls, folder: Path, clock: Clock, *, raw_days: int = 30, commit_every_ms: int = 250) -> Telemetry:
        """Opens or makes `folder`/hot.db and rebuilds the latest values from it. Broken, VersionMismatch, Unavailable, DiskFull."""
        db = await Database.open(folder / FILE, store.MIGRATIONS, readers=4)
        try:
            latest = Latest()
            looks = await db.read(newest_looks)
            for look in looks:
                latest.take(look)
            ingest = Ingest(
                db,
                clock,
                latest.take,
                commit_every_s=commit_every_ms / 1000,
                marks=await db.read(store.marks),
                seen=await db.read(store.seen),
                hashes=await db.read(store.layout_hashes),
            )
            return cls(db, clock, ingest, latest, raw_days, await db.read(store.newest_received_ms))
        except BaseException:
            await db.close()
            raise

    # ---- from the link --------------------------------------------------------------------------------------

    def learn_layout(self, sentry_id: str, layout: Layout) -> asyncio.Future[None]:
        """Before the first frame of a session that names it; done when durable. See `Ingest.learn_layout`."""
        return self._ingest.learn_layout(layout)

    def take(self, sentry_id: str, boot: bytes, seq: int, layout_hash: bytes, body: bytes) -> asyncio.Future[None]:
        """A frame; done when durable, and may be acknowledged then. See `Ingest.take`."""
        return self._ingest.take(sentry_id, boot, seq, layout_hash, body)

    async def durable(self, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Spans]:
        """Of the frames a sentry holds, as (boot, first, last), those that need not come again."""
        return await self._ingest.durable(sentry_id, held)

    # ---- questions ------------------------------------------------------------------------------------------

    def latest(self, keys: Iterable[int], metrics: Collection[str] | None = None) -> dict[int, LatestRow]:
        """The newest look at each device, from memory; devices never seen are left out. `metrics`: only these, which is
        much cheaper for a listing of thousands."""
        return self._latest.rows(keys, metrics)

    def columns(self, key: int) -> tuple[Series, ...]:
        """Which metrics and components the newest look at a device has room for."""
        return self._latest.series(key)

    async def series(
        self,
        key: int,
        metric: str,
        component: str,
        from_ms: int,
        to_ms: int,
        step_ms: int | None = None,
        *,
        rate: bool = False,
        limit: int = POINTS,
    ) -> series.Answer:
        """One metric of one device in [from_ms, to_ms). BadInput, TimedOut, Broken. Cancelling it stops the reading too."""
        question = series.Question(key, metric, component, from_ms, to_ms, step_ms, rate, min(limit, MOST_POINTS))
        stop = threading.Event()
        timer = asyncio.get_running_loop().call_later(QUERY_S, stop.set)
        try:
            return await self.db.read(lambda c: series.answer(c, question, stop))
        finally:
            timer.cancel()
            stop.set()

    async def usage(self) -> Usage:
        kept = await self.db.read(store.usage)
        file_bytes, free_bytes = await asyncio.to_thread(self._disk)
        return Usage(kept, file_bytes, free_bytes, self._raw_days, self.damaged)

    async def set_aside(self, limit: int = 100) -> Sequence[store.SetAside]:
        """Frames that lied, the newest first."""
        return await self.db.read(lambda c: store.set_aside(c, limit))

    @property
    def counts(self) -> Counts:
        return self._ingest.counts

    @property
    def waiting_bytes(self) -> int:
        """Of frames that are not yet on disk."""
        return self._ingest.waiting_bytes

    @property
    def devices(self) -> int:
        """With latest values."""
        return len(self._latest)

    def on_commit(self, told: Callable[[float], None]) -> None:
        """`told` gets, after each commit, the seconds from the arrival of its first frame until it was durable."""
        self._ingest.commit_s = told

    # ---- duty -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: removes what is too old, and reads the file through once a day (a large one also at the start)."""
        large = self.db.path.stat().st_size > CHECK_AT_OPEN_BYTES
        checked_ms = self._clock.monotonic_ms() - (_CHECK_EVERY_MS if large else 0)
        while True:
            try:
                await self.tidy()
                if self._clock.monotonic_ms() - checked_ms >= _CHECK_EVERY_MS:
                    checked_ms = self._clock.monotonic_ms()
                    await self.check()
            except Fault as fault:  # a full or damaged disk: the next round tries again, ingest tells of it meanwhile
                log.warning("the history could not be tidied", extra={"fault": fault.code, "text": fault.text})
            await self._clock.sleep(_TIDY_EVERY_S)

    async def tidy(self) -> int:
        """Removes frames received more than `raw_days` ago, a few at a time; how many."""
        wall_ms, monotonic_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        judged = retention.judge(self._judged, wall_ms, monotonic_ms)
        if judged.hold_until_ms > max(self._judged.hold_until_ms, monotonic_ms):
            log.warning("the wall clock was set: nothing is removed from the history for a day")
        self._judged = judged
        before_ms = retention.remove_before(judged, wall_ms, monotonic_ms, self._raw_days)
        if before_ms is None:
            return 0
        removed = 0
        while True:
            some = await self.db.write(lambda c: store.remove_received_before(c, before_ms, retention.STEP_ROWS))
            removed += some
            if some < retention.STEP_ROWS:
                break
            await self._clock.sleep(0)
        if removed:
            await self.db.write(lambda c: store.remove_traces(c, before_ms))
            self._ingest.forget(before_ms)
            self._latest.forget(before_ms)
        return removed

    async def check(self) -> str | None:
        """Reads the whole file through while work goes on; what is damaged, or None."""
        found = await self.db.check()
        if found is not None and found != self.damaged:
            log.error("the history is damaged", extra={"text": found, "file": str(self.db.path)})
        self.damaged = found
        return found

    async def close(self) -> None:
        """Makes durable what is in hand, then closes."""
        await self._ingest.close()
        await self.db.close()

    def _disk(self) -> tuple[int, int]:
        folder = self.db.path.parent
        used = sum(path.stat().st_size for path in folder.glob(f"{self.db.path.name}*"))
        try:
            return used, shutil.disk_usage(folder).free
        except OSError as error:
            raise Unavailable(f"cannot read {folder}: {error.strerror}") from error


# ---- at start ----------------------------------------------------------------------------------------------


def newest_looks(c: sqlite3.Connection) -> list[Look]:
    """Looks that hold the newest sample of every device: a few frames a post, not the whole history."""
    layouts: dict[int, Layout] = {}
    posts = store.post_numbers(c)
    wanted: dict[int, dict[int, int]] = {}
    for item in store.seen(c):
        wanted.setdefault(posts[item.sentry], {})[item.key] = item.last_ms
    looks: list[Look] = []
    for post, devices in wanted.items():
        looks += _newest_at(c, post, devices, layouts)
        every = (min(devices.values()) - PRESENCE_MS, max(devices.values()) + 1)
        looks += filter(None, (_readable(c, kept, layouts) for kept in store.wide_frames(c, post, *every)))
    return looks


def _newest_at(c: sqlite3.Connection, post: int, devices: dict[int, int], layouts: dict[int, Layout]) -> list[Look]:
    """`devices`: key to the end of the last step of presence in which this post saw it."""
    looks: list[Look] = []
    for end_ms in sorted(set(devices.values()), reverse=True):
        here = {key for key, last_ms in devices.items() if last_ms == end_ms}
        for kept in store.newest_frames(c, post, end_ms):
            look = _readable(c, kept, layouts)
            held = here.intersection(look.keys.tolist()) if look is not None else None
            if held and look is not None:
                looks.append(look)
                here -= held
            if not here or kept.first_ms < end_ms - PRESENCE_MS - clocks.WIDE_MS:
                break
    return looks


def _readable(c: sqlite3.Connection, kept: store.Kept, layouts: dict[int, Layout]) -> Look | None:
    if kept.layout not in layouts:
        layouts[kept.layout] = store.layout(c, kept.layout)
    try:
        look = columns.look(frame.parse(layouts[kept.layout], kept.body))
    except BadFrame as fault:
        log.warning("a frame on disk does not read any more", extra={"text": fault.text})
        return None
    return look.at(clocks.corrected(look.at_ms, kept.received_ms, kept.ahead_ms))
