"""The relay boards of the assignment: opened, looked at every few seconds, and lent to `power.py` one queue each.

A board is one device, `relay:<board id>`, its outlets are components. A board that does not answer has outlets of unknown
state: that is said in its sample too, so that nobody shows what was true a minute ago.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from garrison.clock import Clock
from garrison.faults import Fault, TimedOut, Unreachable, WrongPassword
from garrison.frame import Number, Sample, Series, device_key, quantise
from garrison.model import Board, Device
from garrison.words import DEVICE_STATE_CODES, POWER_STATE_CODES, DeviceState, PowerState
from rrc.board import BoardAddress, OutletReading
from rrc.queue import BoardQueue, QueueLimits, Stagger
from rrc.table import open_board
from sentry_core.post import Outbox

log = logging.getLogger(__name__)
POLL_S = 10.0
SPREAD_S = 2.0
STALE_S = 15.0
"""So old a state may be when looks come faster than this: a switching in progress delays them."""
_NO_SWITCHES = 0


@dataclass(slots=True)
class _Watched:
    board: Board
    queue: BoardQueue | None
    fault: Fault | None = None  # why it could not be opened
    told: Device | None = None  # as last put on the roster
    states: dict[str, PowerState] = field(default_factory=dict)
    seen_ms: int | None = None  # monotonic, of `states`


def identity_of(board_id: str) -> str:
    return f"relay:{board_id}"


def address_of(board: Board) -> BoardAddress:
    login = board.credentials
    user, word = (login.username, login.password) if login else ("", "")
    return BoardAddress(board.kind, board.address, board.outlets, user, word, board.options)


class Relays:
    """`switches(board, outlet)`: how often this sentry switched it. `poll_s`: our own pace, where the commander names none."""

    def __init__(
        self,
        clock: Clock,
        *,
        switches: Callable[[str, str], int] = lambda board, outlet: _NO_SWITCHES,
        poll_s: float = POLL_S,
        limits: QueueLimits | None = None,
    ) -> None:
        self._clock = clock
        self._switches = switches
        self._own_poll_s = self._poll_s = poll_s
        self._limits = limits or QueueLimits()
        self._stagger = Stagger(clock)
        self._watched: dict[str, _Watched] = {}
        self._gone: list[str] = []
        self._wake = asyncio.Event()

    async def assign(self, boards: Sequence[Board], stagger_ms: int = 2000, poll_every_ms: int = 0) -> None:
        """The boards to watch from now on. One that cannot be opened (unknown kind, bad option) is watched as faulty.
        `poll_every_ms` 0: our own pace."""
        self._poll_s = poll_every_ms / 1000 if poll_every_ms else self._own_poll_s
        self._stagger.every_s = stagger_ms / 1000
        wanted = {board.id: board for board in boards}
        for board_id in [b for b, w in self._watched.items() if wanted.get(b) != w.board]:
            old = self._watched.pop(board_id)
            if board_id not in wanted:
                self._gone.append(identity_of(board_id))
            if old.queue is not None:
                await old.queue.close()
        for board in boards:
            if board.id not in self._watched:
                self._watched[board.id] = self._open(board)
        self._wake.set()

    def open(self, board: Board) -> BoardQueue:
        """A queue for a board outside the assignment, on the same stagger. Raises as `open_board` does."""
        opened = open_board(address_of(board), self._clock)
        return BoardQueue(opened, self._clock, name=board.id, stagger=self._stagger, limits=self._limits)

    def board(self, board_id: str) -> Board | None:
        found = self._watched.get(board_id)
        return found.board if found else None

    def queue(self, board_id: str) -> BoardQueue | None:
        """None: not assigned, or it could not be opened (`fault` tells)."""
        found = self._watched.get(board_id)
        return found.queue if found else None

    def fault(self, board_id: str) -> str:
        found = self._watched.get(board_id)
        if found is None:
            return "it is not among the boards of this sentry"
        return str(found.fault) if found.fault else ""

    def known(self, identity: str) -> bool:
        return any(identity_of(board_id) == identity for board_id in self._watched)

    def state(self, board_id: str, outlet: str) -> PowerState:
        """As last read; unknown when that is more than three looks (and `STALE_S`) ago, or the last look failed."""
        found = self._watched.get(board_id)
        stale_ms = 1000 * max(STALE_S, 3 * self._poll_s)
        if found is None or found.seen_ms is None or self._clock.monotonic_ms() - found.seen_ms > stale_ms:
            return PowerState.UNKNOWN
        return found.states.get(outlet, PowerState.UNKNOWN)

    def look_soon(self) -> None:
        """Something was switched: the next look is due at once."""
        self._wake.set()

    def roster(self) -> list[Device]:
        return [w.told for w in self._watched.values() if w.told is not None]

    async def run(self, outbox: Outbox) -> None:
        """Looks until cancelled; then closes the boards."""
        try:
            while True:
                self._wake.clear()
                await self._round(outbox)
                await self._pause()
        finally:
            await self.close()

    async def close(self) -> None:
        for watched in self._watched.values():
            if watched.queue is not None:
                await watched.queue.close()

    async def look(self, board_id: str) -> tuple[Sample, Device]:
        """One look at one board: its sample and its roster entry."""
        watched = self._watched[board_id]
        began_ms = self._clock.monotonic_ms()
        readings: dict[str, OutletReading] = {}
        fault = watched.fault
        if watched.queue is not None:
            try:
                readings = dict(await watched.queue.read(tries=1))
                fault = None
            except Fault as found:
                fault = found
        now_ms = self._clock.monotonic_ms()
        watched.states = {outlet: reading.state for outlet, reading in readings.items()}
        watched.seen_ms = None if fault else now_ms
        state = state_for(fault)
        values = self._values(watched.board, state, readings, now_ms - began_ms)
        at_ms = self._clock.now_ms()
        return Sample(device_key(identity_of(board_id)), at_ms, values), _device(watched.board, state, fault, at_ms)

    # ---- parts ----

    def _open(self, board: Board) -> _Watched:
        try:
            return _Watched(board, self.open(board))
        except Fault as fault:
            log.warning("relay board cannot be used", extra={"board": board.id, "why": str(fault)})
            return _Watched(board, None, fault)

    async def _round(self, outbox: Outbox) -> None:
        gone, self._gone = self._gone, []
        looks = await asyncio.gather(*(self._spread(board_id) for board_id in list(self._watched)))
        seen = [look for look in looks if look is not None]
        if seen:
            await outbox.look([sample for sample, _ in seen])
        changed = [device for _, device in seen if self._is_news(device)]
        if changed or gone:
            outbox.roster(changed, gone)

    async def _spread(self, board_id: str) -> tuple[Sample, Device] | None:
        await self._clock.sleep(random.uniform(0, min(SPREAD_S, self._poll_s / 5)))
        return await self.look(board_id) if board_id in self._watched else None

    def _is_news(self, device: Device) -> bool:
        watched = self._watched.get(device.identity.removeprefix("relay:"))
        if watched is None:
            return False
        old, watched.told = watched.told, device
        return old is None or (old.state, old.fault, old.address) != (device.state, device.fault, device.address)

    async def _pause(self) -> None:
        waits = {asyncio.ensure_future(self._clock.sleep(self._poll_s)), asyncio.ensure_future(self._wake.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _values(self, board: Board, state: DeviceState, readings: dict[str, OutletReading], look_ms: int) -> dict[Series, Number]:
        told: dict[Series, Number | None] = {
            ("state", ""): DEVICE_STATE_CODES[state],
            ("look_ok", ""): int(bool(readings)),
            ("look_ms", ""): look_ms,
        }
        for number in range(1, board.outlets + 1):
            name = f"outlet:{number}"
            reading = readings.get(str(number), OutletReading(PowerState.UNKNOWN))
            told["outlet_state", name] = POWER_STATE_CODES[reading.state]
            if readings:
                told["outlet_switches", name] = self._switches(board.id, str(number))
                told["power_w", name] = reading.power_w
                told["voltage_v", name] = reading.voltage_v
                told["current_a", name] = reading.current_a
                told["energy_j", name] = None if reading.energy_j is None else round(reading.energy_j)
        rounded = ((series, None if value is None else quantise(series, value)) for series, value in told.items())
        return {series: value for series, value in rounded if value is not None}


def state_for(fault: Fault | None) -> DeviceState:
    """A board that answers is "idle": there is nothing it should be doing."""
    if fault is None:
        return DeviceState.IDLE
    if isinstance(fault, WrongPassword):
        return DeviceState.REFUSED
    if isinstance(fault, TimedOut):
        return DeviceState.SLOW
    return DeviceState.UNREACHABLE if isinstance(fault, Unreachable) else DeviceState.UNKNOWN


def _device(board: Board, state: DeviceState, fault: Fault | None, at_ms: int) -> Device:
    return Device(
        identity=identity_of(board.id),
        kind="relay",
        state=state,
        make=board.kind,
        address=board.address,
        simulated=board.simulated or board.kind == "fake",
        facts={"outlets": str(board.outlets)},
        fault=fault.code if fault else "",
        fault_text=str(fault) if fault else "",
        seen_ms=0 if fault else at_ms,
        components=tuple(f"outlet:{n}" for n in range(1, board.outlets + 1)),
    )
