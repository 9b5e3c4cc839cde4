"""`sentry-asic relay status|on|off|cycle`: one board, without a commander. What it prints is what the last read showed.

A cycle is guarded as far as it can be: by the board's own timer; by a promise in the sentry's `power.db` when its path is
given (the daemon adopts it when this process is gone); and by this process, which brings power back also when it is interrupted.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Literal

from garrison.clock import Clock, SystemClock
from garrison.faults import DidNotSwitch, Fault
from garrison.model import Board, Credentials, PowerLimits
from garrison.words import ActionKind, PowerState
from rrc.board import BoardAddress, OutletReading, outlet_number
from rrc.queue import BoardQueue, QueueLimits, Switched
from rrc.table import open_board
from sentry_asic import power_rules
from sentry_asic.power_rules import Cut, Refusal
from sentry_asic.power_store import PowerStore, Restore

log = logging.getLogger(__name__)
Verb = Literal["status", "on", "off", "cycle"]
TRY_ON_S = 300.0
BACKOFF_S = 5.0
_BOARD_GRACE_S = 3.0


async def relay(
    verb: Verb,
    address: BoardAddress,
    outlet: str = "",
    off_s: int = 0,
    *,
    journal: Path | None = None,
    clock: Clock | None = None,
    limits: QueueLimits | None = None,
) -> dict[str, object]:
    """What to print as JSON. `outlet`: empty for all (status only). `off_s`: 0 for the default of 30 s. Raises Fault."""
    clock = clock or SystemClock()
    if outlet or verb != "status":
        outlet_number(outlet, address.outlets)
    queue = BoardQueue(open_board(address, clock), clock, name=address.address, limits=limits)
    try:
        if verb == "status":
            readings = await queue.read()
            return {**_about(address), "outlets": [_shown(o, r) for o, r in readings.items() if outlet in ("", o)]}
        if verb == "cycle":
            return {**_about(address), **await _cycle(queue, address, outlet, off_s, journal, clock)}
        switched = await queue.switch(outlet, verb == "on")
        switched.check()
        return {**_about(address), **_told(switched)}
    finally:
        await queue.close()


async def _cycle(
    queue: BoardQueue, address: BoardAddress, outlet: str, asked_s: int, journal: Path | None, clock: Clock
) -> dict[str, object]:
    off_s = power_rules.off_time(asked_s, PowerLimits())
    if isinstance(off_s, Refusal):
        raise off_s.fault()
    before = (await queue.read(slow=False)).get(outlet, OutletReading(PowerState.UNKNOWN)).state
    if before is not PowerState.ON:
        raise Refusal("outlet_off", f"outlet {outlet} reads {before}, not on", "only what is on can be cycled").fault()
    by_board = queue.can_cycle(off_s)
    store = None if journal is None else await PowerStore.open(journal)
    try:
        entry = _promise(address, outlet, off_s, clock.now_ms(), by_board)
        if store is not None:
            await store.begin(Cut("", *entry.key, ActionKind.POWER_CYCLE, entry.cut_ms), entry)
        off: Switched | None = None
        try:
            off = await (queue.cycle(outlet, off_s) if by_board else queue.switch(outlet, False))
            await clock.sleep(off_s + (_BOARD_GRACE_S if by_board else 0.0))
        finally:
            # also when the command raised or was interrupted: the outlet may be off
            on = await asyncio.shield(asyncio.ensure_future(_back_on(queue, outlet, clock)))
            if store is not None:
                await store.finish(*entry.key)
        off.check()
    finally:
        if store is not None:
            await store.close()
    guarded = "board timer" if by_board else "journal" if journal else "this process"
    return {**_told(on), "off_s": off_s, "guarded_by": guarded, "off_seen_at_ms": off.at_ms, "on_seen_at_ms": on.at_ms}


async def _back_on(queue: BoardQueue, outlet: str, clock: Clock) -> Switched:
    """On and read back, for minutes if need be: a dark outlet is the worst end."""
    until_ms = clock.monotonic_ms() + round(1000 * TRY_ON_S)
    while True:
        try:
            switched = await queue.switch(outlet, True)
            switched.check()
            return switched
        except Fault as fault:
            log.warning("power is not back yet, trying on", extra={"outlet": outlet, "why": str(fault)})
            if clock.monotonic_ms() > until_ms:
                told = f"outlet {outlet} did not come back: {fault}"
                raise DidNotSwitch(told, hint="it may be off: go and look") from fault
        await clock.sleep(BACKOFF_S)


def _promise(address: BoardAddress, outlet: str, off_s: int, now_ms: int, by_board: bool) -> Restore:
    login = Credentials(address.username, address.password) if address.username or address.password else None
    board = Board(
        f"{address.kind}@{address.address}", address.kind, address.address, address.outlets, login, options=address.options
    )
    return Restore(board, outlet, "", "", "", now_ms, off_s, now_ms + 1000 * off_s, by_board)


def _about(address: BoardAddress) -> dict[str, object]:
    return {"board": address.kind, "address": address.address, "simulated": address.kind == "fake"}


def _shown(outlet: str, reading: OutletReading) -> dict[str, object]:
    return {
        "outlet": outlet,
        "state": reading.state.value,
        "power_w": reading.power_w,
        "voltage_v": reading.voltage_v,
        "current_a": reading.current_a,
        "energy_j": reading.energy_j,
    }


def _told(switched: Switched) -> dict[str, object]:
    return {
        "outlet": switched.outlet,
        "state": switched.state.value,
        "effect": switched.effect.value,
        "sent": switched.sent,
        "reads": [{"at_ms": at_ms, "state": state.value} for at_ms, state in switched.reads],
    }
