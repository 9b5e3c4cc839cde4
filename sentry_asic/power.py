"""Power at the ASIC sentry: power_on, power_off, power_cycle of the outlet that feeds a device.

Entry points: `perform` and `settle` for the post, `run` for the daemon, `state_of` for the watcher of miners.

A cycle: rules; promise on disk; off, read back; wait; on, read back (`restores.py`); the device answers again. What is
reported is what the last reads showed, as one of the words back, did not switch, did not come back, unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from garrison.clock import Clock
from garrison.faults import DidNotSwitch, Fault
from garrison.model import Board, Order, Outcome, Outlet, PowerLimits
from garrison.words import ActionKind, ActionState, PowerState
from rrc.queue import BoardQueue, Effect, Switched
from sentry_asic import power_rules
from sentry_asic.power_rules import DAY_MS, Busy, Cut, Refusal, Situation
from sentry_asic.power_store import PowerStore, Restore
from sentry_asic.relays import Relays
from sentry_asic.restores import Pending, Restored, Restores
from sentry_core.post import Outbox, Progress

log = logging.getLogger(__name__)
T = TypeVar("T")
BACK, DID_NOT_SWITCH, DID_NOT_COME_BACK, UNKNOWN = "back", "did not switch", "did not come back", "unknown"
NOTE = "switching"
"""The note a restart needs: JSON of board, outlet, wanted, at_ms; journalled before the first command."""

_MAX_READS_TOLD = 40
_LOOK_BEFORE_DUE_MS = 3000


@dataclass(frozen=True, slots=True)
class PowerWaits:
    """`answer_within_s`: for the device to answer once power is back. `report_after_s`: the order is reported so long past the
    time due; bringing power back goes on."""

    answer_within_s: float = 600.0
    answer_poll_s: float = 5.0
    report_after_s: float = 120.0


@dataclass(slots=True)
class _Claim:
    """An order in progress. `circuit` is given up when the switching is over; the outlet when the order is."""

    feed: Outlet
    what: str
    switching: bool = True


@dataclass(slots=True)
class _Run:
    """One order on its way: what it works with, and the detail of its outcome."""

    order: Order
    feed: Outlet
    board: Board
    queue: BoardQueue
    claim: _Claim
    detail: dict[str, str] = field(default_factory=dict)
    reads: list[tuple[int, PowerState]] = field(default_factory=list)

    def outcome(self, state: ActionState, text: str, fault: str = "", **told: str) -> Outcome:
        reads = ",".join(f"{at_ms}={power}" for at_ms, power in self.reads[-_MAX_READS_TOLD:])
        return Outcome(state, text, fault, {**self.detail, **told, "reads": reads})


class _NothingSent(Exception):
    """A fault that came before the first command."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


class Power:
    """`answers(identity)` asks the device now; `can_ask` is False for one that this sentry does not watch, such as a rig on
    its relay. `silence()`: how many of the devices we watch are silent, and how many there are."""

    def __init__(
        self,
        store: PowerStore,
        relays: Relays,
        clock: Clock,
        *,
        answers: Callable[[str], Awaitable[bool]],
        silence: Callable[[], tuple[int, int]],
        can_ask: Callable[[str], bool] = lambda _: True,
        waits: PowerWaits | None = None,
        restores: Restores | None = None,
    ) -> None:
        self._store = store
        self._relays = relays
        self._clock = clock
        self._answers = answers
        self._silence = silence
        self._can_ask = can_ask
        self._waits = waits or PowerWaits()
        self._restores = restores or Restores(store, relays, clock)
        self._claims: list[_Claim] = []

    async def resume(self) -> None:
        """Takes up promises on disk, so that the rules see them before `run` starts."""
        await self._restores.resume()

    async def run(self, outbox: Outbox) -> None:
        """Brings power back wherever it was promised, until cancelled. No cycle is begun while this does not run."""
        if self._store.set_aside is not None:
            told = "the record of power promises was damaged: check that every outlet is as it should be"
            await outbox.event("power_record_lost", told, severity="critical", detail={"file": self._store.set_aside.name})
        try:
            await self._restores.run(outbox)
        finally:
            await self._relays.close()  # the watcher closes them too, but bringing power back may end after it

    def promised(self) -> list[Restore]:
        """Outlets whose power is being brought back."""
        return [pending.entry for pending in self._restores.pending()]

    def state_of(self, device: str, target: str, outlets: Sequence[Outlet]) -> PowerState | None:
        """The state of the outlet that feeds it, as last read; None: no outlet does, or not one alone."""
        feed = power_rules.feed_of(device, target, outlets)
        return None if isinstance(feed, Refusal) else self._relays.state(feed.board, feed.outlet)

    async def perform(
        self, order: Order, outlets: Sequence[Outlet], limits: PowerLimits, progress: Progress, *, target: str = ""
    ) -> Outcome:
        """Carries out a power order. `target`: the device's target id, for outlets that were mapped before it was identified."""
        feed = power_rules.feed_of(order.device, target, outlets)
        if isinstance(feed, Refusal):
            return _refused(feed)
        situation = await self._look(order, feed, limits)
        refusal = power_rules.may_switch(replace(situation, busy=self._busy()))  # from here to the claim nobody else runs
        queue, board = self._relays.queue(feed.board), self._relays.board(feed.board)
        if refusal is not None or queue is None or board is None:
            return _refused(refusal or Refusal("board_unreachable", f"relay board {feed.board} cannot be used"))
        claim = _Claim(feed, f"{order.kind} of {order.device}")
        self._claims.append(claim)
        run = _Run(order, feed, board, queue, claim, {"board": feed.board, "outlet": feed.outlet})
        try:
            if order.kind is ActionKind.POWER_CYCLE:
                return await self._cycle(run, limits, progress)
            return await self._set(run, order.kind is ActionKind.POWER_ON, situation, progress)
        finally:
            self._claims.remove(claim)
            self._relays.look_soon()

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        """After a crash in the middle: reads, switches nothing. Power that was promised is `run`'s business."""
        if NOTE not in notes:
            return Outcome(ActionState.FAILED, "the sentry stopped before anything was switched", "unavailable")
        noted = msgspec.json.decode(notes[NOTE], type=dict[str, str])
        board, outlet = noted["board"], noted["outlet"]
        state, why = await self._read(board, outlet)
        detail = {"board": board, "outlet": outlet, "outlet_state": state.value, "read_at_ms": str(self._clock.now_ms())}
        shows = f"outlet {outlet} of {board} reads {state}" + (f" ({why})" if why else "")
        if order.kind is ActionKind.POWER_CYCLE:
            promised = any(entry.key == (board, outlet) for entry in self.promised())
            rest = "; power is being brought back" if promised else ""
            told = f"the sentry stopped in the middle of the cycle; {shows}{rest}"
            return Outcome(ActionState.UNKNOWN, told, detail={**detail, "outcome": UNKNOWN})
        if state not in (PowerState.ON, PowerState.OFF):
            return Outcome(ActionState.UNKNOWN, f"the sentry stopped in the middle; {shows}", detail={**detail, "outcome": UNKNOWN})
        if state.value == noted["wanted"]:
            return Outcome(ActionState.SUCCEEDED, f"the sentry stopped in the middle; {shows}, as ordered", detail=detail)
        told = f"the sentry stopped in the middle; {shows}: order it again"
        return Outcome(ActionState.FAILED, told, DidNotSwitch.code, {**detail, "outcome": DID_NOT_SWITCH})

    # ---- looking ----

    async def _look(self, order: Order, feed: Outlet, limits: PowerLimits) -> Situation:
        state, why = await self._read(feed.board, feed.outlet)
        now_ms = self._clock.now_ms()
        history = await self._store.cuts(now_ms - max(DAY_MS, 1000 * limits.min_interval_s))
        silent, watched = self._silence()
        return Situation(
            order.kind,
            order.device,
            feed,
            state,
            now_ms,
            limits,
            why,
            order.off_s,
            history,
            silent=silent,
            watched=watched,
            force=order.force,
        )

    async def _read(self, board: str, outlet: str) -> tuple[PowerState, str]:
        """The outlet's state now, and why it is not known."""
        queue = self._relays.queue(board)
        if queue is None:
            return PowerState.UNKNOWN, self._relays.fault(board)
        try:
            reading = (await queue.read(slow=False)).get(outlet)
        except Fault as fault:
            return PowerState.UNKNOWN, str(fault)
        return (PowerState.UNKNOWN, f"it has no outlet {outlet}") if reading is None else (reading.state, "")

    def _busy(self) -> list[Busy]:
        claimed = [
            Busy(
                c.feed.board,
                c.feed.outlet,
                c.feed.circuit if c.switching else f"(outlet {c.feed.outlet} of {c.feed.board})",
                c.what,
            )
            for c in self._claims
        ]
        promised = [
            Busy(*p.entry.key, p.entry.circuit, f"power of {p.entry.device} is being brought back", p.entry.due_ms)
            for p in self._restores.pending()
        ]
        return claimed + promised

    # ---- on and off ----

    async def _set(self, run: _Run, on: bool, situation: Situation, progress: Progress) -> Outcome:
        key = (run.feed.board, run.feed.outlet)
        if power_rules.superseded(replace(situation, busy=self._busy())) is not None:
            await self._restores.withdraw(key)
        cut_id = 0 if on else await self._store.begin(self._cut(run), None)
        await self._note(run, progress, PowerState.ON if on else PowerState.OFF)
        switched = await run.queue.switch(run.feed.outlet, on, circuit=run.feed.circuit)
        run.reads += switched.reads
        run.claim.switching = False
        if switched.sent:
            await self._store.count_switch(*key)
        elif not on:
            await self._store.undo(cut_id, None)
        if switched.effect is Effect.CONFIRMED:
            how = "" if switched.sent else " already"
            return run.outcome(ActionState.SUCCEEDED, f"outlet {run.feed.outlet} of {run.feed.board} reads {switched.state}{how}")
        return _not_switched(run, switched)

    async def _note(self, run: _Run, progress: Progress, wanted: PowerState) -> None:
        noted = {"board": run.feed.board, "outlet": run.feed.outlet, "wanted": wanted.value, "at_ms": str(self._clock.now_ms())}
        await progress.note(NOTE, msgspec.json.encode(noted).decode())

    def _cut(self, run: _Run) -> Cut:
        return Cut(run.order.device, run.feed.board, run.feed.outlet, run.order.kind, self._clock.now_ms())

    # ---- the cycle ----

    async def _cycle(self, run: _Run, limits: PowerLimits, progress: Progress) -> Outcome:
        off_s = power_rules.off_time(run.order.off_s, limits)
        if isinstance(off_s, Refusal):
            return _refused(off_s)
        pending, switched = await self._cut_power(run, off_s, progress)
        if pending is None or switched.effect is Effect.DID_NOT_SWITCH:
            return _not_switched(run, switched)
        run.detail |= {"due_ms": str(pending.entry.due_ms), "off_seen_at_ms": str(switched.at_ms)}
        answered_in_the_dark = switched.effect is Effect.CONFIRMED and await self._answers_in_the_dark(run, pending)
        restored = await self._restored(pending)
        run.claim.switching = False
        if restored is None:
            told = f"outlet {run.feed.outlet} of {run.feed.board} did not come back; the sentry goes on trying"
            return run.outcome(ActionState.FAILED, told, DidNotSwitch.code, outcome=DID_NOT_COME_BACK)
        run.reads += restored.reads
        run.detail["on_seen_at_ms"] = str(restored.at_ms)
        if switched.effect is not Effect.CONFIRMED:
            told = f"the board stopped answering when it was told to switch off; outlet {run.feed.outlet} reads on now"
            return run.outcome(ActionState.UNKNOWN, told, switched.fault.code if switched.fault else "", outcome=UNKNOWN)
        if answered_in_the_dark:
            told = f"{run.order.device} kept answering while outlet {run.feed.outlet} of {run.feed.board} read off"
            hint = ": the mapping is wrong, or a contact is welded"
            return run.outcome(ActionState.FAILED, told + hint, DidNotSwitch.code, outcome=DID_NOT_SWITCH)
        return await self._wait_for_device(run, progress)

    async def _cut_power(self, run: _Run, off_s: int, progress: Progress) -> tuple[Pending | None, Switched]:
        """Promise, then off. No promise is left only when nothing was sent."""
        by_board = run.queue.can_cycle(off_s)
        cut = self._cut(run)
        place = (run.feed.outlet, run.order.device, run.feed.circuit, run.order.id)
        entry = Restore(run.board, *place, cut.at_ms, off_s, cut.at_ms + 1000 * off_s, by_board)
        run.detail |= {"off_s": str(off_s), "by": "board timer" if by_board else "sentry", "cut_at_ms": str(cut.at_ms)}
        pending = self._restores.promise(entry)
        may_be_off, cut_id = False, 0
        try:
            cut_id = await self._store.begin(cut, entry)
            await self._note(run, progress, PowerState.ON)
            may_be_off = True
            switched = await self._off(run, off_s, by_board)
            may_be_off = switched.sent or switched.effect is Effect.CONFIRMED
            run.reads += switched.reads
            if may_be_off:
                entry = await self._exact(entry, switched)
        except _NothingSent as nothing:
            may_be_off = False
            raise nothing.fault from None
        finally:
            if may_be_off:
                self._restores.arm(pending, entry)
            else:
                try:
                    await self._store.undo(cut_id, entry)
                finally:
                    await self._restores.withdraw(entry.key)
        return (pending if may_be_off else None), switched

    async def _off(self, run: _Run, off_s: int, by_board: bool) -> Switched:
        try:
            if by_board:
                return await run.queue.cycle(run.feed.outlet, off_s)
            return await run.queue.switch(run.feed.outlet, False, circuit=run.feed.circuit)
        except Fault as fault:  # the queue raises only before anything was sent
            raise _NothingSent(fault) from None

    async def _exact(self, entry: Restore, switched: Switched) -> Restore:
        """The off time counts from when it was seen off. The promise on disk is only ever too early, never too late."""
        later = replace(entry, due_ms=switched.at_ms + 1000 * entry.off_s) if switched.effect is Effect.CONFIRMED else entry
        try:
            if switched.sent:
                await self._store.count_switch(*entry.key)
            await self._store.postpone(entry, later.due_ms)
        except Fault as fault:  # power is off: nothing may keep us from going on
            log.warning("the time due stays as first written", extra={"why": str(fault)})
        return later

    async def _answers_in_the_dark(self, run: _Run, pending: Pending) -> bool:
        """Whether the device answers while its outlet reads off, shortly before the end: then its power was never away."""
        dark_until_ms = pending.entry.cut_ms + 1000 * pending.entry.off_s  # a board's timer began at the cut, not when we saw it
        ask_at_ms = dark_until_ms - _LOOK_BEFORE_DUE_MS
        seen_off_ms = int(run.detail["off_seen_at_ms"])
        if ask_at_ms < seen_off_ms + _LOOK_BEFORE_DUE_MS:
            return False  # too short to tell
        await self._clock.sleep((ask_at_ms - self._clock.now_ms()) / 1000)
        asked = asyncio.ensure_future(_truth(self._answers(run.order.device)))
        return await self._within((dark_until_ms - self._clock.now_ms()) / 1000, asked) is True

    async def _restored(self, pending: Pending) -> Restored | None:
        left_s = (pending.entry.due_ms - self._clock.now_ms()) / 1000 + self._waits.report_after_s
        return await self._within(max(1.0, left_s), asyncio.shield(pending.done))

    async def _wait_for_device(self, run: _Run, progress: Progress) -> Outcome:
        await progress.verifying(f"outlet {run.feed.outlet} of {run.feed.board} reads on; waiting for the device to answer")
        until_ms = self._clock.monotonic_ms() + round(1000 * self._waits.answer_within_s)
        while self._clock.monotonic_ms() < until_ms:
            left_s = (until_ms - self._clock.monotonic_ms()) / 1000
            if not self._can_ask(run.order.device):
                told = f"outlet {run.feed.outlet} of {run.feed.board} reads on again; {run.order.device} cannot be asked from here"
                return run.outcome(ActionState.UNKNOWN, told, outcome=UNKNOWN)
            if await self._within(left_s, asyncio.ensure_future(_truth(self._answers(run.order.device)))):
                told = f"{run.order.device} answers again after {run.detail['off_s']} s without power"
                return run.outcome(ActionState.SUCCEEDED, told, outcome=BACK, answered_at_ms=str(self._clock.now_ms()))
            await self._clock.sleep(self._waits.answer_poll_s)
        told = f"outlet {run.feed.outlet} of {run.feed.board} reads on, but {run.order.device} has not answered since"
        return run.outcome(ActionState.FAILED, told, "timed_out", outcome=DID_NOT_COME_BACK)

    async def _within(self, seconds: float, wanted: asyncio.Future[T]) -> T | None:
        """The result, or None when it takes longer by our clock; `wanted` is cancelled then."""
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            both: set[asyncio.Future[Any]] = {timer, wanted}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return wanted.result() if wanted.done() else None
        finally:
            timer.cancel()
            wanted.cancel()
            await asyncio.gather(timer, wanted, return_exceptions=True)


async def _truth(answer: Awaitable[bool]) -> bool:
    """Whether it answers; failing to ask is no answer."""
    try:
        return await answer
    except Fault:
        return False


def _refused(refusal: Refusal) -> Outcome:
    fault = refusal.fault()
    return Outcome(ActionState.REFUSED, str(fault), fault.code, {"rule": refusal.rule})


def _not_switched(run: _Run, switched: Switched) -> Outcome:
    """The outcome of a command that was not confirmed."""
    try:
        switched.check()
    except Fault as fault:
        if switched.effect is Effect.DID_NOT_SWITCH:
            return run.outcome(ActionState.FAILED, str(fault), fault.code, outcome=DID_NOT_SWITCH)
        if not switched.sent:
            return run.outcome(ActionState.FAILED, f"nothing was switched: {fault}", fault.code, outcome=DID_NOT_SWITCH)
        told = f"the board stopped answering after the command: {fault}"
        return run.outcome(ActionState.UNKNOWN, told, fault.code, outcome=UNKNOWN)
    return run.outcome(ActionState.UNKNOWN, "it is not confirmed", outcome=UNKNOWN)
