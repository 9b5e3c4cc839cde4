"""Orders at the sentry: written down before anything is done, done at most once, reported until the commander has it.

ACCEPTED (synced) → epoch, deadline, guard, whose device → STARTED (synced) → act → VERIFYING → result (synced). A known
id gets its stored result. After a crash a STARTED order is never repeated: `Post.settle` reads what is. One order per device at
a time. The reports are records of the journal, so they are sent again until they are acknowledged.

Called by `daemon.py`: `run`; by the session: `take`, `cancel` (both return at once).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from garrison.clock import Clock
from garrison.faults import Conflict, DiskFull, Fault, NotFound, NotSupported, Refused
from garrison.model import Order, Outcome, Report
from garrison.words import PULSES, ActionState
from sentry_core import guard
from sentry_core.journal import Action, Journal
from sentry_core.post import Post

log = logging.getLogger(__name__)

MAX_WAITING = 1_000
KNOWN_WITHIN_MS = 30_000
_BEFORE_START = (ActionState.ACCEPTED,)


class Orders:
    """`run` is the daemon's; orders are carried out inside its TaskGroup, so that stopping ends them as a crash would."""

    def __init__(self, post: Post, journal: Journal, clock: Clock, state_dir: Path) -> None:
        self._post = post
        self._journal = journal
        self._clock = clock
        self._state_dir = state_dir
        self._inbox: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
        self._devices: dict[str, asyncio.Lock] = {}
        self._in_hand: set[str] = set()
        self._open = True
        self._grace_until_ms = clock.monotonic_ms() + KNOWN_WITHIN_MS

    # ---- from the session ----------------------------------------------------------------------------------

    def take(self, order: Order) -> None:
        """`not_after_ms` counts from now."""
        if not self._open or len(self._in_hand) >= MAX_WAITING:
            log.warning("an order is not taken", extra={"action": order.id, "waiting": len(self._in_hand)})
            return  # it stays open at the commander, which sends it with the next session
        if order.id not in self._in_hand:
            self._in_hand.add(order.id)
            self._inbox.put_nowait(self._carry_out(order, self._clock.monotonic_ms() + order.not_after_ms))

    def cancel(self, action_id: str) -> None:
        if self._open:
            self._inbox.put_nowait(self._cancel(action_id))

    async def run(self) -> None:
        """First settles what a crash left behind. Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            try:
                for action in await self._journal.open_actions():
                    self._in_hand.add(action.order.id)
                    tasks.create_task(self._resume(action), name=f"order {action.order.id}")
                while True:
                    tasks.create_task(await self._inbox.get())
            finally:
                self._open = False
                while not self._inbox.empty():
                    self._inbox.get_nowait().close()

    # ---- one order -----------------------------------------------------------------------------------------

    async def _carry_out(self, order: Order, deadline_ms: int) -> None:
        try:
            while True:
                try:
                    action, new = await self._journal.accept(order)
                    break
                except DiskFull as fault:  # nothing is done that was not written down
                    if self._clock.monotonic_ms() >= deadline_ms:
                        log.warning("an order expired before it could be written", extra={"action": order.id, "text": fault.text})
                        return
                    await self._clock.sleep(1.0)
            if not new:
                if action.state.final:
                    await self._journal.report_again(order.id)
                return
            log.info("order accepted", extra={"action": order.id, "kind": order.kind, "device": order.device})
            await self._start(order, deadline_ms)
        finally:
            self._in_hand.discard(order.id)

    async def _start(self, order: Order, deadline_ms: int) -> None:
        lock = self._devices.setdefault(order.device, asyncio.Lock())
        async with lock:
            reason = await self._reason_against(order, deadline_ms)
            if reason is not None:
                await self._finish(order.id, reason)
                return
            report = Report(order.id, ActionState.STARTED, self._clock.now_ms())
            if await self._journal.advance(order.id, report, started=True, only_from=_BEFORE_START) is None:
                return  # cancelled meanwhile
            await self._finish(order.id, await self._perform(order))

    async def _reason_against(self, order: Order, deadline_ms: int) -> Outcome | None:
        """Why it is not started; None: nothing is against it."""
        if self._clock.monotonic_ms() >= deadline_ms:
            return Outcome(ActionState.EXPIRED, "its time was over before it could be started", "timed_out")
        try:
            highest = await self._journal.raise_epoch(order.epoch)
            if order.epoch < highest:
                raise Conflict(f"it comes from an older commander (epoch {order.epoch}, we know of {highest})")
            if not await self._known(order.device, deadline_ms):
                raise NotFound(f"this sentry does not watch {order.device}")
            if order.kind not in self._post.capabilities():
                raise NotSupported(f"this sentry cannot {order.kind}")
            allowed = await asyncio.to_thread(guard.load, self._state_dir)
            now_ms = self._clock.now_ms()
            history = await self._journal.power_history(now_ms - guard.HOUR_MS)
            refusal = guard.may(allowed, order, self._post.payouts(order), history, now_ms)
            if refusal is not None:
                raise refusal
        except Fault as fault:
            return Outcome(ActionState.REFUSED, str(fault), fault.code)
        return None

    async def _known(self, device: str, deadline_ms: int) -> bool:
        """Just after the start a post may not have looked at its devices yet: then a device that it does not know is waited for."""
        while not self._post.known(device):
            if self._clock.monotonic_ms() >= min(self._grace_until_ms, deadline_ms):
                return False
            await self._clock.sleep(0.5)
        return True

    async def _perform(self, order: Order) -> Outcome:
        try:
            return await self._post.perform(order, _Progress(self._journal, self._clock, order.id))
        except Refused as fault:
            return Outcome(ActionState.REFUSED, str(fault), fault.code)
        except Fault as fault:
            return Outcome(ActionState.FAILED, str(fault), fault.code)
        except Exception as error:  # a bug of ours: the order is over, and what it did is not known
            log.exception("an order broke", extra={"action": order.id})
            return Outcome(ActionState.UNKNOWN, f"the sentry failed while carrying it out ({type(error).__name__})", "fault")

    async def _finish(self, action_id: str, outcome: Outcome) -> None:
        state = outcome.state if outcome.state.final else ActionState.UNKNOWN
        report = Report(action_id, state, self._clock.now_ms(), outcome.fault, outcome.text, dict(outcome.detail))
        await self._journal.advance(action_id, report)
        log.info("order ended", extra={"action": action_id, "state": state.word, "fault": outcome.fault, "text": outcome.text})

    async def _cancel(self, action_id: str) -> None:
        report = Report(action_id, ActionState.CANCELLED, self._clock.now_ms(), text="cancelled before it was started")
        done = await self._journal.advance(action_id, report, only_from=_BEFORE_START)
        log.info("order cancelled" if done else "too late to cancel", extra={"action": action_id})

    # ---- after a crash -------------------------------------------------------------------------------------

    async def _resume(self, action: Action) -> None:
        try:
            if action.state is ActionState.ACCEPTED:
                # The monotonic clock began anew, so only the wall clock can say what is left. Has it gone back: nothing is.
                passed_ms = self._clock.now_ms() - action.accepted_ms
                left_ms = action.order.not_after_ms - passed_ms if passed_ms >= 0 else 0
                await self._start(action.order, self._clock.monotonic_ms() + left_ms)
                return
            async with self._devices.setdefault(action.order.device, asyncio.Lock()):
                await self._finish(action.order.id, await self._settle(action))
        finally:
            self._in_hand.discard(action.order.id)

    async def _settle(self, action: Action) -> Outcome:
        log.warning("an order was interrupted", extra={"action": action.order.id, "kind": action.order.kind})
        await self._known(action.order.device, self._grace_until_ms)  # else it could not be read, only for having just started
        try:
            outcome = await self._post.settle(action.order, action.notes)
        except Fault as fault:
            return Outcome(ActionState.UNKNOWN, f"interrupted, and it cannot be read how it ended: {fault}", fault.code)
        except Exception as error:  # a bug of ours: what the order did is not known
            log.exception("an interrupted order could not be settled", extra={"action": action.order.id})
            return Outcome(ActionState.UNKNOWN, f"interrupted, and reading how it ended failed ({type(error).__name__})", "fault")
        if action.order.kind in PULSES and outcome.state is ActionState.SUCCEEDED and not outcome.text:
            return replace(outcome, text="interrupted; settled by what was read afterwards")
        return outcome


class _Progress:
    def __init__(self, journal: Journal, clock: Clock, action_id: str) -> None:
        self._journal = journal
        self._clock = clock
        self._action_id = action_id

    async def verifying(self, text: str) -> None:
        report = Report(self._action_id, ActionState.VERIFYING, self._clock.now_ms(), text=text)
        await self._journal.advance(self._action_id, report)

    async def note(self, key: str, value: str) -> None:
        await self._journal.note(self._action_id, key, value)
