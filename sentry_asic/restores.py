"""Promises to bring power back, and the one loop that keeps them.

`Power` writes a promise before it cuts; from then on only this loop switches the outlet on again: at the time due, or at
once when that is past, as often as it takes. It never switches anything off. After a restart it goes on with what is on
disk. When it is stopped, promises that are due soon are kept first; the others wait on disk for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from garrison.clock import Clock
from garrison.faults import Fault, Unavailable
from garrison.words import PowerState
from rrc.queue import BoardQueue, Effect
from sentry_asic.power_store import PowerStore, Restore
from sentry_asic.relays import Relays
from sentry_core.post import Outbox

log = logging.getLogger(__name__)
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
STOP_GRACE_S = 45.0
ADOPT_EVERY_S = 15.0
LOUD_AFTER_S = 15.0
LOUD_AGAIN_S = 3600.0
_BOARD_GRACE_MS = 3000  # a board's own timer may be a little late: we do not race it


@dataclass(frozen=True, slots=True)
class Restored:
    """Power is back: a read at `at_ms` says so. `sent`: we switched it on (False: it was on already)."""

    at_ms: int
    sent: bool
    reads: tuple[tuple[int, PowerState], ...]


@dataclass(slots=True)
class Pending:
    """A promise in memory. `armed`: the cutting is over, the loop may keep it."""

    entry: Restore
    done: asyncio.Future[Restored]
    armed: bool = False
    found: bool = False  # on disk at start, or left by another process
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Restores:
    def __init__(self, store: PowerStore, relays: Relays, clock: Clock, *, stop_grace_s: float = STOP_GRACE_S) -> None:
        self._store = store
        self._relays = relays
        self._clock = clock
        self._stop_grace_s = stop_grace_s
        self._pending: dict[tuple[str, str], Pending] = {}
        self._wake = asyncio.Event()
        self.running = False

    def pending(self) -> list[Pending]:
        return list(self._pending.values())

    async def resume(self) -> None:
        """Takes up what is on disk. `run` does it too; earlier, it makes the rules see it."""
        for entry in await self._store.restores():
            self._take_up(entry)

    def promise(self, entry: Restore) -> Pending:
        """A promise, before `PowerStore.begin` writes it. Not kept before `arm`; a stop waits for that. Unavailable: stopping."""
        if not self.running:
            raise Unavailable("the sentry is stopping, or not started", hint="nothing was switched; order it again")
        return self._add(entry)

    def arm(self, pending: Pending, entry: Restore | None = None) -> None:
        """The cutting is over, however it ended: keep the promise (`entry`: with its exact time)."""
        pending.entry = entry or pending.entry
        pending.armed = True
        self._wake.set()

    async def withdraw(self, key: tuple[str, str]) -> None:
        """Ends a promise: nothing was cut, or a person has ordered the outlet off. The store's row is the caller's."""
        pending = self._pending.pop(key, None)
        if pending is not None and pending.task is not None:
            pending.task.cancel()
            await asyncio.gather(pending.task, return_exceptions=True)

    async def run(self, outbox: Outbox) -> None:
        """Keeps promises until cancelled."""
        await self.resume()
        self.running = True
        try:
            while True:
                self._wake.clear()
                self._start_armed(outbox)
                await self._nap()
                await self._adopt()
        finally:
            self.running = False
            await self._finish(outbox)

    # ---- the loop's parts ----

    def _add(self, entry: Restore) -> Pending:
        pending = Pending(entry, asyncio.get_running_loop().create_future())
        self._pending[entry.key] = pending
        return pending

    def _take_up(self, entry: Restore) -> None:
        if entry.key not in self._pending:
            pending = self._add(entry)
            pending.found = True
            self.arm(pending)

    async def _adopt(self) -> None:
        """Promises another process left: overdue, so it is gone."""
        with contextlib.suppress(Fault):  # a busy disk: next time
            for entry in await self._store.restores():
                if self._clock.now_ms() > entry.due_ms + 1000 * ADOPT_EVERY_S:
                    self._take_up(entry)

    def _start_armed(self, outbox: Outbox) -> None:
        for pending in self.pending():
            if pending.armed and pending.task is None:
                pending.task = asyncio.get_running_loop().create_task(
                    self._keep(pending, outbox), name=f"restore {pending.entry.key}"
                )
            elif pending.task is not None and pending.task.done():
                pending.task.result()  # what we did not foresee ends the daemon; its next start takes the promise up again

    async def _nap(self) -> None:
        tasks = [pending.task for pending in self.pending() if pending.task is not None]
        waits = {asyncio.ensure_future(self._clock.sleep(ADOPT_EVERY_S)), asyncio.ensure_future(self._wake.wait())}
        try:
            await asyncio.wait({*waits, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _finish(self, outbox: Outbox) -> None:
        """Stopping: cuts in progress end, and what is due within the grace is kept first."""
        loop = asyncio.get_running_loop()
        until_ms, end = self._clock.now_ms() + 1000 * self._stop_grace_s, loop.time() + self._stop_grace_s
        try:
            while True:
                self._wake.clear()
                self._start_armed(outbox)
                wanted = [p for p in self.pending() if not p.armed or p.entry.due_ms <= until_ms]
                if not wanted or loop.time() >= end:
                    break
                wake = asyncio.ensure_future(self._wake.wait())
                tasks = {p.task for p in wanted if p.task is not None}
                await asyncio.wait({wake, *tasks}, timeout=end - loop.time(), return_when=asyncio.FIRST_COMPLETED)
                wake.cancel()
        finally:
            left = [p for p in self.pending() if p.task is not None]
            for pending in left:
                log.warning("power is not back yet; the next start goes on with it", extra={"outlet": "/".join(pending.entry.key)})
                if pending.task is not None:
                    pending.task.cancel()
            await asyncio.gather(*(p.task for p in left if p.task is not None), return_exceptions=True)

    # ---- one promise ----

    async def _keep(self, pending: Pending, outbox: Outbox) -> None:
        entry = pending.entry
        await self._until_due(entry)
        began_ms = self._clock.monotonic_ms()
        loud_ms: int | None = None
        attempt = 0
        while True:
            restored, why = await self._try(entry)
            if restored is not None:
                break
            now_ms = self._clock.monotonic_ms()
            if now_ms - (began_ms if loud_ms is None else loud_ms) >= 1000 * (LOUD_AFTER_S if loud_ms is None else LOUD_AGAIN_S):
                loud_ms = now_ms
                await self._tell(outbox, entry, "power_not_back", f"did not come back: {why}; trying on", "critical")
            await self._clock.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1
        if restored.sent:
            await self._insist(lambda: self._store.count_switch(*entry.key))
        await self._insist(lambda: self._store.finish(*entry.key))
        self._pending.pop(entry.key, None)
        pending.done.set_result(restored)
        self._relays.look_soon()
        if pending.found or loud_ms is not None:
            after = "after a restart of the sentry" if pending.found else "after several attempts"
            told = f"power is on again {after}" if restored.sent else f"power is on {after}, and was not switched"
            await self._tell(outbox, entry, "power_restored", told, "warning" if restored.sent else "info")

    async def _until_due(self, entry: Restore) -> None:
        """A wall clock that went back must not leave a device dark: never longer than the off time it was given."""
        grace_ms = _BOARD_GRACE_MS if entry.by_board else 0
        wait_ms = min(entry.due_ms - self._clock.now_ms(), 1000 * entry.off_s)
        await self._clock.sleep(max(0, wait_ms + grace_ms) / 1000)

    async def _try(self, entry: Restore) -> tuple[Restored | None, str]:
        mine: BoardQueue | None = None
        try:
            queue = self._relays.queue(entry.board.id)
            if queue is None:
                queue = mine = self._relays.open(entry.board)
            switched = await queue.switch(entry.outlet, True, circuit=entry.circuit)
            if switched.effect is Effect.CONFIRMED:
                return Restored(switched.at_ms, switched.sent, switched.reads), ""
            switched.check()
        except Fault as fault:
            return None, str(fault)
        finally:
            if mine is not None:
                await mine.close()
        return None, "it is not confirmed"

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        """A promise that was kept and stays on disk would switch on what a person has switched off since."""
        attempt = 0
        while True:
            try:
                await write()
                return
            except Fault as fault:
                log.warning("the kept promise cannot be struck off yet", extra={"why": str(fault)})
            await self._clock.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1

    async def _tell(self, outbox: Outbox, entry: Restore, kind: str, text: str, severity: str) -> None:
        place = {"board": entry.board.id, "outlet": entry.outlet, "due_ms": str(entry.due_ms), "action": entry.action_id}
        log.warning(text, extra=place)
        try:
            await outbox.event(
                kind, f"outlet {entry.outlet} of {entry.board.id}: {text}", device=entry.device, severity=severity, detail=place
            )
        except Fault as fault:  # telling comes after doing
            log.warning("the event could not be kept", extra={"why": str(fault)})
