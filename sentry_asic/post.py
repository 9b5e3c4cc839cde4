"""The post of the ASIC sentry: miners watched, relay boards watched, orders carried out. `sentry_core.daemon` runs it."""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from garrison.clock import Clock
from garrison.faults import Fault
from garrison.model import Assignment, Order, Outcome
from garrison.words import POWER_ACTIONS, ActionKind, DeviceState, PowerState
from sentry_asic.finder import Finder
from sentry_asic.orders import DeviceOrders
from sentry_asic.power import Power
from sentry_asic.power_store import PowerStore
from sentry_asic.relays import Relays
from sentry_asic.scan_command import allowed_networks
from sentry_asic.settings import AsicSettings
from sentry_asic.watch import Pace, Watcher
from sentry_core.post import Outbox, Progress

SILENT = frozenset({DeviceState.SLOW, DeviceState.UNREACHABLE})


class AsicPost:
    """Implements `sentry_core.post.Post`. Opens its record of power promises with the first assignment, before anything else."""

    kind = "asic"

    def __init__(self, settings: AsicSettings, state_dir: Path, clock: Clock) -> None:
        self._state_dir, self._clock = state_dir, clock
        self._assignment = Assignment()
        self._own_poll_s = settings.poll.every_s
        pace = Pace(poll_every_s=settings.poll.every_s, slow_every_s=settings.poll.slow_every_s, at_once=settings.poll.at_once)
        self._orders: DeviceOrders | None = None
        self._watcher = Watcher(clock, pace, is_off=self._is_off, sheet_of=self._sheet_of)
        self._finder = Finder(settings.scan, lambda: allowed_networks(state_dir), clock)
        self._store: PowerStore | None = None
        self._relays: Relays | None = None
        self._power: Power | None = None

    def capabilities(self) -> tuple[ActionKind, ...]:
        return tuple(ActionKind)

    def facts(self) -> Mapping[str, str]:
        return {
            "hostname": socket.gethostname(),
            "os": platform.platform(terse=True),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }

    def known(self, device: str) -> bool:
        return self._watcher.known(device) or any(outlet.device == device for outlet in self._assignment.outlets)

    def payouts(self, order: Order) -> Sequence[str]:
        return [pool.user for pool in order.sheet.pools] if order.sheet is not None else []

    async def assign(self, assignment: Assignment) -> None:
        self._assignment = assignment
        power, relays = await self._open()
        await relays.assign(assignment.boards, assignment.power.stagger_ms, assignment.poll_every_ms)
        self._watcher.assign(assignment.targets, assignment.poll_every_ms)
        self._finder.assign(assignment.targets)
        await power.resume()

    async def run(self, outbox: Outbox) -> None:
        power, relays = await self._open()
        await power.resume()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(power.run(outbox), name="power promises")
                tasks.create_task(relays.run(outbox), name="relays")
                tasks.create_task(self._watcher.run(outbox), name="miners")
                tasks.create_task(self._finder.run(outbox), name="finder")
        finally:
            if self._store is not None:
                await self._store.close()

    async def perform(self, order: Order, progress: Progress) -> Outcome:
        power, _ = await self._open()
        if order.kind in POWER_ACTIONS:
            outcome = await power.perform(
                order, self._assignment.outlets, self._assignment.power, progress, target=self._target(order.device)
            )
            self._watcher.nudge(order.device)
            return outcome
        return await self._device_orders().perform(order, progress)

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        power, _ = await self._open()
        if order.kind in POWER_ACTIONS:
            return await power.settle(order, notes)
        return await self._device_orders().settle(order, notes)

    # ---- parts -------------------------------------------------------------------------------------------------

    async def _open(self) -> tuple[Power, Relays]:
        if self._power is None or self._relays is None:
            store = self._store = await PowerStore.open(self._state_dir / "power.db")
            self._relays = Relays(self._clock, switches=store.switches, poll_s=self._own_poll_s)
            self._power = Power(
                store, self._relays, self._clock, answers=self._answers, silence=self._silence, can_ask=self._watcher.known
            )
        return self._power, self._relays

    def _device_orders(self) -> DeviceOrders:
        if self._orders is None:
            self._orders = DeviceOrders(self._watcher, self._clock, self._state_dir)
        return self._orders

    def _sheet_of(self, identity: str) -> str:
        return self._device_orders().sheet_of(identity)

    def _target(self, identity: str) -> str:
        watched = self._watcher.state(identity)
        return watched.target.id if watched is not None else ""

    def _is_off(self, identity: str) -> bool:
        if self._power is None:
            return False
        state = self._power.state_of(identity, self._target(identity), self._assignment.outlets)
        return state is PowerState.OFF

    async def _answers(self, identity: str) -> bool:
        """Asks the device now."""
        try:
            await self._watcher.look(identity, slow=False)
        except Fault:
            return False
        return True

    def _silence(self) -> tuple[int, int]:
        """How many of the devices that should answer do not, and how many there are."""
        states = [state for state in self._watcher.states() if state not in (DeviceState.OFF, DeviceState.MAINTENANCE)]
        return sum(state in SILENT for state in states), len(states)
