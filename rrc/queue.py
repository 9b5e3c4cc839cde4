"""One queue per board: the only place with retries, read-back, stagger and reconnect.

Called by whoever holds a board (the ASIC sentry, `sentry-asic relay`). Exchanges with a board are one after another. A
switch is: read; command unless it is so already; read until it is so. What a person may rely on is the last read.

What is sent twice: a command that cannot have arrived (Unreachable, busy). An "on" that may have arrived, once a read says
that the outlet is off: power must come back. An "off" that may have arrived is never sent again: only read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from garrison.clock import Clock
from garrison.faults import BadAnswer, DidNotSwitch, Fault, NotSupported, TimedOut, Unavailable, Unreachable
from garrison.words import PowerState
from rrc.board import Board, Capabilities, OutletReading, outlet_number

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`exchange_s`: longest one exchange may take, over the driver's own limits. `confirm_within_s`: read-back after a command."""

    exchange_s: float = 15.0
    poll_s: float = 1.0
    confirm_within_s: float = 20.0
    tries: int = 3
    retry_after_s: float = 0.5


class Effect(StrEnum):
    CONFIRMED = "confirmed"
    DID_NOT_SWITCH = "did not switch"  # taken, and the last read still says otherwise
    UNREACHABLE = "unreachable"  # no read came through: on or off is not known


@dataclass(frozen=True, slots=True)
class Switched:
    """What became of one command. `sent`: it may have arrived (False: was so already, or nothing could be sent)."""

    outlet: str
    wanted: PowerState
    effect: Effect
    state: PowerState
    sent: bool
    at_ms: int
    reads: tuple[tuple[int, PowerState], ...] = ()
    fault: Fault | None = None

    def check(self) -> None:
        """Raises what kept it from being confirmed."""
        if self.effect is Effect.DID_NOT_SWITCH:
            told = f"the board took the command and outlet {self.outlet} did not switch: it reads {self.state}, not {self.wanted}"
            raise DidNotSwitch(told, hint="a stuck or worn relay, a locked outlet, or a board that only pretends")
        if self.effect is Effect.UNREACHABLE:
            raise self.fault or TimedOut(f"outlet {self.outlet}: the board stopped answering", hint="its state is not known")


class Stagger:
    """Turns for switching on: never two at once on one circuit, nor faster than one a second on one board."""

    def __init__(self, clock: Clock, every_s: float = 2.0, board_every_s: float = 1.0) -> None:
        self.every_s = every_s
        self._board_every_s = board_every_s
        self._clock = clock
        self._free_ms: dict[str, int] = {}

    async def turn(self, board: str, circuit: str = "") -> None:
        """Returns when it is this one's turn. An outlet without a named circuit counts as on a circuit of its board."""
        keys = {f"board {board}": self._board_every_s, f"circuit {circuit}" if circuit else f"circuit of {board}": self.every_s}
        now_ms = self._clock.monotonic_ms()
        start_ms = max([now_ms, *(self._free_ms.get(key, 0) for key in keys)])
        for key, every_s in keys.items():
            self._free_ms[key] = start_ms + round(every_s * 1000)
        await self._clock.sleep((start_ms - now_ms) / 1000)


@dataclass(slots=True)
class _Trail:
    """What was read while one command ran."""

    reads: list[tuple[int, PowerState]] = field(default_factory=list)
    fault: Fault | None = None


class BoardQueue:
    """`name` is for logs and the stagger, such as the board's id."""

    def __init__(
        self, board: Board, clock: Clock, *, name: str = "", stagger: Stagger | None = None, limits: QueueLimits | None = None
    ) -> None:
        self.name = name
        self._board = board
        self._clock = clock
        self._stagger = stagger or Stagger(clock)
        self._limits = limits or QueueLimits()
        self._line = asyncio.Lock()
        self._switching: dict[str, asyncio.Lock] = {}

    @property
    def capabilities(self) -> Capabilities:
        return self._board.capabilities

    async def read(self, *, slow: bool = True, tries: int | None = None) -> Mapping[str, OutletReading]:
        """Every outlet. Reading is always safe to repeat. Raises the last fault."""
        left = self._limits.tries if tries is None else tries
        while True:
            left -= 1
            try:
                async with self._exchange():
                    return await self._board.read(slow=slow)
            except (Unreachable, Unavailable):
                if left <= 0:
                    raise
            await self._clock.sleep(self._limits.retry_after_s)

    async def switch(self, outlet: str, on: bool, *, circuit: str = "") -> Switched:
        """Sets the outlet and reads until it is so. Raises BadInput, WrongPassword, Unavailable: nothing was sent then."""
        outlet_number(outlet, self.capabilities.outlets)
        async with self._switching.setdefault(outlet, asyncio.Lock()):
            trail = _Trail()
            wanted = PowerState.ON if on else PowerState.OFF
            if await self._state(outlet, trail) is wanted:
                return self._switched(outlet, wanted, False, trail)
            if on:
                await self._stagger.turn(self.name, circuit)
            sent = await self._send(outlet, on, trail)
            if sent:
                await self._confirm(outlet, wanted, trail)
            return self._switched(outlet, wanted, sent, trail)

    async def cycle(self, outlet: str, off_s: int) -> Switched:
        """Off by the board's own timer, confirmed off; it comes back on by itself. The caller looks at the time due.

        Raises NotSupported when its timer cannot do `off_s`.
        """
        outlet_number(outlet, self.capabilities.outlets)
        if not self.can_cycle(off_s):
            raise NotSupported(f"this board has no timer for {off_s} s")
        async with self._switching.setdefault(outlet, asyncio.Lock()):
            trail = _Trail()
            sent = await self._send(outlet, False, trail, off_s)
            if sent:
                # off is over after off_s: a later read says nothing about it
                await self._confirm(outlet, PowerState.OFF, trail, within_s=max(0.0, off_s - 2.0))
            return self._switched(outlet, PowerState.OFF, sent, trail)

    def can_cycle(self, off_s: int) -> bool:
        span = self.capabilities.cycle_s
        return span is not None and span[0] <= off_s <= span[1]

    async def close(self) -> None:
        async with self._line:
            await self._board.close()

    # ---- the steps ----

    async def _send(self, outlet: str, on: bool, trail: _Trail, off_s: int | None = None) -> bool:
        """Whether the command may have arrived."""
        for left in reversed(range(self._limits.tries)):
            try:
                async with self._exchange():
                    await (self._board.set(outlet, on) if off_s is None else self._board.cycle(outlet, off_s))
                return True
            except (TimedOut, BadAnswer) as fault:
                trail.fault = fault
                return True
            except (Unreachable, Unavailable) as fault:
                trail.fault = fault
            if left:
                await self._clock.sleep(self._limits.retry_after_s)
        return False

    async def _confirm(self, outlet: str, wanted: PowerState, trail: _Trail, within_s: float | None = None) -> None:
        limit_s = self._limits.confirm_within_s if within_s is None else min(within_s, self._limits.confirm_within_s)
        until_ms = self._clock.monotonic_ms() + round(limit_s * 1000)
        lost = trail.fault is not None  # the command may have been lost on its way
        while True:
            state = await self._state(outlet, trail, sent=True)
            if state is wanted:
                return
            if lost and wanted is PowerState.ON and state is PowerState.OFF:
                lost = False
                await self._send_again(outlet, trail)
            if self._clock.monotonic_ms() >= until_ms:
                return
            await self._clock.sleep(self._limits.poll_s)

    async def _send_again(self, outlet: str, trail: _Trail) -> None:
        try:
            await self._send(outlet, True, trail)
        except Fault as fault:
            trail.fault = fault  # the first one may have arrived: the reads go on

    async def _state(self, outlet: str, trail: _Trail, *, sent: bool = False) -> PowerState:
        """One read; a fault is kept and is unknown. Until something was sent, those that no waiting heals go up."""
        try:
            async with self._exchange():
                readings = await self._board.read(slow=False)
        except Fault as fault:
            if not sent and not isinstance(fault, Unreachable | BadAnswer):
                raise
            trail.fault = fault
            trail.reads.append((self._clock.now_ms(), PowerState.UNKNOWN))
            return PowerState.UNKNOWN
        reading = readings.get(outlet)
        state = PowerState.UNKNOWN if reading is None else reading.state
        trail.reads.append((self._clock.now_ms(), state))
        return state

    def _switched(self, outlet: str, wanted: PowerState, sent: bool, trail: _Trail) -> Switched:
        state = trail.reads[-1][1] if trail.reads else PowerState.UNKNOWN
        effect = Effect.CONFIRMED if state is wanted else Effect.DID_NOT_SWITCH
        if state is PowerState.UNKNOWN or (not sent and state is not wanted):
            effect = Effect.UNREACHABLE
        fault = None if effect is Effect.CONFIRMED else trail.fault
        return Switched(outlet, wanted, effect, state, sent, self._clock.now_ms(), tuple(trail.reads), fault)

    @contextlib.asynccontextmanager
    async def _exchange(self) -> AsyncIterator[None]:
        async with self._line:
            try:
                async with asyncio.timeout(self._limits.exchange_s):
                    yield
            except TimeoutError:
                raise TimedOut(f"relay board {self.name} did not answer in {self._limits.exchange_s:.0f} s") from None
