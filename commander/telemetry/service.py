"""Telemetry: what the commander knows of its devices over time.

telemetry = await Telemetry.open(home / "history", clock, spans=Spans(raw_days=30), commit_every_ms=250)
await telemetry.take(sentry_id, boot, seq, layout_hash, body)      # from the link; done when durable
telemetry.latest(keys)                                             # from memory
await telemetry.chart(key, wanted, from_ms, to_ms)                 # from disk, in a thread
await telemetry.aggregate("rack", "hashrate_hs", "sum", from_ms, to_ms)
await telemetry.run()                                              # sealing, merging, retention, the nightly check
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from commander.db import CHECK_AT_OPEN_BYTES, Database
from commander.telemetry import aggregate as groups
from commander.telemetry import repair, rollup, series, start, store, totals_store
from commander.telemetry.apart import Apart
from commander.telemetry.archive import Files
from commander.telemetry.columns import Look
from commander.telemetry.ingest import Counts, Ingest
from commander.telemetry.latest import Latest, LatestRow
from commander.telemetry.levels import DAY_MS, HOUR_MS, STEP_MS, Level
from commander.telemetry.live import Live
from commander.telemetry.members import Members
from commander.telemetry.reading import Reader
from commander.telemetry.retention import Spans
from commander.telemetry.upkeep import Done, GroupsNow, Upkeep
from commander.telemetry.usage import Usage, of_folder
from garrison.clock import Clock
from garrison.faults import Broken, Fault, TimedOut
from garrison.frame import Layout, Series
from garrison.spans import Spans as Numbers

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE = "hot.db"
QUERY_S = 30.0
POINTS = 2_000
MOST_POINTS = 20_000
_STEP_EVERY_S = 5.0
_CHECK_EVERY_MS = 86_400_000
_ENERGY_OF_LOOKS_MS = 2 * DAY_MS


class Telemetry:
    """Opened with `open`, used on one event loop, closed with `close`."""

    def __init__(
        self, db: Database, clock: Clock, ingest: Ingest, latest: Latest, live: Live, members: Members, spans: Spans, upkeep: Upkeep
    ) -> None:
        self.db = db
        self.damaged: str | None = None
        """What the last check found wrong with the file; None: nothing, or not yet checked."""
        self.spans = spans
        self._clock = clock
        self._ingest = ingest
        self._latest = latest
        self._live = live
        self._members = members
        self._upkeep = upkeep
        self._files = upkeep.files

    @classmethod
    async def open(
        cls, folder: Path, clock: Clock, *, spans: Spans | None = None, commit_every_ms: int = 250, apart: bool = False
    ) -> Telemetry:
        """Opens or makes `folder`/hot.db and rebuilds from it what is kept in memory. `apart`: it seals and merges in a process of
        its own; `lock.held_alone` of the folder's home must be held. Broken, VersionMismatch, Unavailable, DiskFull."""
        spans = spans or Spans()
        try:
            db = await Database.open(folder / FILE, store.MIGRATIONS, readers=4)
        except Broken as fault:
            fault.hint = (
                "`commander history repair --offline` keeps what still reads; `commander restore` puts a backup in its place"
            )
            raise
        try:
            latest, live = Latest(), Live(await db.read(store.sealed))
            for look in await db.read(start.newest_looks):
                latest.take(look)
            for post, look in await db.read(start.unsealed_looks):
                live.take(post, look)
            members = Members(await db.read(totals_store.members))
            ingest = Ingest(
                db,
                clock,
                latest.take,
                live.take,
                commit_every_s=commit_every_ms / 1000,
                marks=await db.read(store.marks),
                seen=await db.read(store.seen),
                hashes=await db.read(store.layout_hashes),
            )

            def forget(before_ms: int) -> None:
                ingest.forget(before_ms)
                live.forget(latest.forget(before_ms))

            upkeep = Upkeep(
                db,
                clock,
                live,
                members,
                spans,
                received_bytes=lambda: ingest.counts.received_bytes,
                newest_sample_ms=latest.newest_ms,
                forget=forget,
                newest_received_ms=await db.read(store.newest_received_ms),
                apart=Apart(folder) if apart else None,
            )
            return cls(db, clock, ingest, latest, live, members, spans, upkeep)
        except BaseException:
            await db.close()
            raise

    def follow(self, now: GroupsNow) -> None:
        """From where the fleet's groups are read. Without it there are no totals of groups."""
        self._upkeep.groups = now

    # ---- from the link --------------------------------------------------------------------------------------

    def learn_layout(self, sentry_id: str, layout: Layout) -> asyncio.Future[None]:
        """Before the first frame of a session that names it; done when durable. See `Ingest.learn_layout`."""
        return self._ingest.learn_layout(layout)

    def take(self, sentry_id: str, boot: bytes, seq: int, layout_hash: bytes, body: bytes) -> asyncio.Future[None]:
        """A frame; done when durable, and may be acknowledged then. See `Ingest.take`."""
        return self._ingest.take(sentry_id, boot, seq, layout_hash, body)

    async def durable(self, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Numbers]:
        """Of the frames a sentry holds, as (boot, first, last), those that need not come again."""
        return await self._ingest.durable(sentry_id, held)

    # ---- questions ------------------------------------------------------------------------------------------

    def latest(self, keys: Iterable[int], metrics: Collection[str] | None = None) -> dict[int, LatestRow]:
        """The newest look at each device, from memory; devices never seen are left out. `metrics`: only these, which is
        much cheaper for a listing of thousands."""
        return self._latest.rows(keys, metrics)

    def latest_blocks(self, keys: Collection[int] | None, metrics: Collection[str] | None) -> list[Look]:
        """The same as arrays, one block a layout. `keys` None: all devices."""
        return self._latest.blocks(keys, metrics)

    def columns(self, key: int) -> tuple[Series, ...]:
        """Which metrics and components the newest look at a device has room for."""
        return self._latest.series(key)

    async def chart(
        self,
        key: int,
        wanted: Collection[Series] | None,
        from_ms: int,
        to_ms: int,
        step_ms: int | None = None,
        *,
        rate: bool = False,
        limit: int = POINTS,
    ) -> series.Answer:
        """Series of one device in [from_ms, to_ms), from the level that fits; `wanted` None: all there are. BadInput, TimedOut,
        Broken.
        Cancelling it stops the reading too."""
        some = None if wanted is None else frozenset(wanted)
        question = series.Question(key, some, from_ms, to_ms, step_ms, min(limit, MOST_POINTS), rate)
        horizons = self.horizons()
        return await self._asked(lambda reader: series.answer(reader, question, horizons))

    async def aggregate(
        self,
        by: str,
        metric: str,
        fn: str,
        from_ms: int,
        to_ms: int,
        step_ms: int | None = None,
        *,
        names: Collection[str] | None = None,
        limit: int = POINTS,
    ) -> groups.Answer:
        """Totals of all groups of a kind ("farm", "site", "rack", "model", "coin", "tag"). BadInput, TimedOut."""
        some = None if names is None else frozenset(names)
        question = groups.Question(by, metric, fn, from_ms, to_ms, step_ms, min(limit, MOST_POINTS), some)
        live = self._live.device_steps(metric, from_ms // STEP_MS * STEP_MS, to_ms)
        horizons, members = self.horizons(), self._members
        return await self._asked(lambda reader: groups.answer(reader.c, reader.files, question, horizons, live, members))

    async def energy(self, key: int, from_ms: int, to_ms: int) -> groups.Energy:
        """What one device used in [from_ms, to_ms), integrated from its power. BadInput, TimedOut."""
        series.check_time(from_ms, to_ms, None, 1)
        horizons = self.horizons()
        return await self._asked(lambda reader: _energy(reader, key, from_ms, to_ms, horizons))

    def horizons(self) -> series.Horizons:
        """How far back each level is promised to go."""
        now_ms = self._clock.now_ms()
        return series.Horizons(now_ms - self.spans.raw_days * DAY_MS, now_ms - self.spans.five_minute_days * DAY_MS)

    async def usage(self) -> Usage:
        """What the history takes on disk. Unavailable."""
        kept = await self.db.read(store.usage)
        return await asyncio.to_thread(of_folder, self.db.path.parent, kept, self.spans, self.damaged)

    async def set_aside(self, limit: int = 100) -> Sequence[store.SetAside]:
        """Frames that lied, the newest first."""
        return await self.db.read(lambda c: store.set_aside(c, limit))

    async def set_aside_blocks(self, limit: int = 100) -> Sequence[store.Damaged]:
        """What was on disk and does not read any more, the newest first."""
        return await self.db.read(lambda c: store.damaged(c, limit))

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
        """Until cancelled: seals, merges, removes what is too old, and reads the file through once a day (a large one also at
        the start)."""
        large = self.db.path.stat().st_size > CHECK_AT_OPEN_BYTES
        checked_ms = self._clock.monotonic_ms() - (_CHECK_EVERY_MS if large else 0)
        while True:
            try:
                await self._upkeep.step()
                if self._clock.monotonic_ms() - checked_ms >= _CHECK_EVERY_MS:
                    checked_ms = self._clock.monotonic_ms()
                    await self.check()
            except Fault as fault:  # a full or damaged disk: the next round tries again, ingest tells of it meanwhile
                log.warning("the history could not be tidied", extra={"fault": fault.code, "text": fault.text})
            await self._clock.sleep(_STEP_EVERY_S)

    async def tidy(self) -> Done:
        """Seals, merges and removes all that is due, now; what was done. DiskFull, Unavailable."""
        return await self._upkeep.tidy()

    async def check(self) -> str | None:
        """Reads the whole file through while work goes on; what is damaged, or None."""
        found = await self.db.check()
        if found is not None and found != self.damaged:
            log.error("the history is damaged", extra={"text": found, "file": str(self.db.path)})
        self.damaged = found
        return found

    @contextlib.asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """While inside, nothing is sealed, merged or removed; frames go on. For a backup: all its files are of one moment."""
        async with self._upkeep.held():
            yield

    async def mend(self, name: str, stop: threading.Event) -> repair.Mended:
        """Verifies one file of the history and repairs it, while frames go on. DiskFull, Unavailable."""
        loop = asyncio.get_running_loop()

        def write(work: Callable[[sqlite3.Connection], T]) -> T:
            return self.db.write_from_thread(work, loop)

        def unlearn(hashes: set[bytes]) -> None:
            loop.call_soon_threadsafe(self._ingest.unlearn, hashes)

        folder, now_ms = self.db.path.parent, self._clock.now_ms()
        hand = repair.Hand(folder, write, now_ms, stop, self._ingest.layouts, unlearn, self._files.closed)
        return await self._upkeep.alone(lambda _: repair.mend(hand, name))

    async def close(self) -> None:
        """Makes durable what is in hand, then closes."""
        await self._ingest.close()
        await self._upkeep.close()
        self._files.release()
        await self.db.close()

    async def _asked(self, work: Callable[[Reader], T]) -> T:
        """In a reader's thread, which stops when nobody waits any more or it takes too long."""
        stop = threading.Event()
        timer = asyncio.get_running_loop().call_later(QUERY_S, stop.set)
        try:
            return await self.db.read(lambda c: _answered(work, c, self._files, stop))
        finally:
            timer.cancel()
            stop.set()


def _answered(work: Callable[[Reader], T], c: sqlite3.Connection, files: Files, stop: threading.Event) -> T:
    c.set_progress_handler(lambda: int(stop.is_set()), 10_000)  # a single long statement looks at it too
    try:
        return work(Reader(c, files, stop))
    except sqlite3.OperationalError as error:
        if not stop.is_set():
            raise
        raise TimedOut("reading the history took too long", hint="ask for a shorter time") from error
    finally:
        c.set_progress_handler(None, 0)  # the connection is lent to the next question


def _energy(reader: Reader, key: int, from_ms: int, to_ms: int, horizons: series.Horizons) -> groups.Energy:
    if from_ms >= horizons.raw_ms and to_ms - from_ms <= _ENERGY_OF_LOOKS_MS:
        around_ms = 3 * STEP_MS  # a look before and one after
        looks = reader.raw(key, from_ms - around_ms, to_ms + around_ms, {rollup.POWER, rollup.SOURCE})
        joules, lasting_ms = rollup.energy_j(looks), rollup.power_covers_ms(looks)
        kwh, coverage = groups.energy_of_looks(looks.at_ms, joules, lasting_ms, from_ms, to_ms)
        return groups.Energy(kwh[0], kwh[1], kwh[2], round(coverage, 4), Level.RAW, reader.unreadable)
    level = Level.FIVE_MINUTES if from_ms >= horizons.five_minutes_ms and to_ms - from_ms <= 62 * DAY_MS else Level.HOUR
    step_ms = STEP_MS if level is Level.FIVE_MINUTES else HOUR_MS
    steps = reader.stepped(level, key, from_ms // step_ms * step_ms, to_ms, {rollup.POWER})
    kwh, coverage = rollup.energy_of_steps(steps, step_ms, from_ms, to_ms)
    return groups.Energy(kwh[0], kwh[1], kwh[2], round(coverage, 4), level, reader.unreadable)
