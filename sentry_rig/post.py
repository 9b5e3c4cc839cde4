"""The rig sentry's duty: looks at the machine and its miner, and carries out orders.

Called by: sentry_core's daemon (the methods of `Post`), `sentry-rig run`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from garrison.clock import Clock
from garrison.faults import Fault
from garrison.frame import Sample, device_key
from garrison.model import Assignment, Device, Order, Outcome
from garrison.words import ActionKind
from sentry_core.post import Outbox, Progress
from sentry_rig import host, miner_log
from sentry_rig.archives import Programs
from sentry_rig.aside import aside
from sentry_rig.host import HostLooks, Machine
from sentry_rig.miner_look import look_at
from sentry_rig.nvidia import CardsLook, NvidiaCards
from sentry_rig.orders import Orders
from sentry_rig.programs.table import program
from sentry_rig.readings import RigLook, SheetFacts, capabilities, device_of, values_of
from sentry_rig.settings import RigSettings
from sentry_rig.sheets import Kept, Sheets
from sentry_rig.supervisor import Supervisor

log = logging.getLogger(__name__)

_HOST_LIMIT_S = 5.0
_TEND_EVERY_S = 0.5
_OPEN_AGAIN_S = 5.0
_TURN_OVER_EVERY_MS = 10_000
_ROSTER_EVERY_MS = 60_000


class RigPost:
    """`state_dir` is the sentry's. `machine` is read from the system when not given."""

    kind = "rig"

    def __init__(self, settings: RigSettings, state_dir: Path, clock: Clock, machine: Machine | None = None) -> None:
        self._settings, self._clock = settings, clock
        self.machine = machine if machine is not None else host.identify(state_dir)
        self._key = device_key(self.machine.identity)
        self._outbox: Outbox | None = None
        self._waiting: list[tuple[str, str, str, Mapping[str, str] | None]] = []
        folder = state_dir / "miner"
        self._programs = Programs(state_dir / "programs", settings)
        self.supervisor = Supervisor(folder, clock, settings, self._tell)
        self.sheets = Sheets(folder / "sheets.json", clock, settings, self._programs, self.supervisor, self._tell)
        self._host = HostLooks()
        self._cards = NvidiaCards(clock, settings.nvml_deadline_s)
        self._orders = Orders(self.machine, clock, settings, self.sheets, self.supervisor, self._tell)
        self._opened = False
        self._opening = asyncio.Lock()
        self._looked = asyncio.Event()
        self._poll_every_s = settings.poll_every_s
        self._last_device: Device | None = None
        self._last_roster_ms = 0
        self._lost: frozenset[str] = frozenset()
        self._sensor_fault = ""
        self._complaint = ""

    # ---- what the daemon asks ------------------------------------------------------------------------------

    def capabilities(self) -> tuple[ActionKind, ...]:
        return capabilities(has_sheet=True)

    def facts(self) -> Mapping[str, str]:
        return {"machine_id": self.machine.identity, **self.machine.facts}

    def known(self, device: str) -> bool:
        return device == self.machine.identity

    def payouts(self, order: Order) -> Sequence[str]:
        """Exactly the users of the command line that would run. Raises BadInput, NotAllowed, NotSupported."""
        sheet = order.sheet
        if order.kind is not ActionKind.APPLY_FLIGHT_SHEET or sheet is None:
            return []
        driver = program(sheet.program)
        return driver.payouts(driver.arguments(sheet.arguments, sheet.pools, sheet.algorithm))

    async def assign(self, assignment: Assignment) -> None:
        self._poll_every_s = assignment.poll_every_ms / 1000 if assignment.poll_every_ms else self._settings.poll_every_s

    async def perform(self, order: Order, progress: Progress) -> Outcome:
        await self._open()
        try:
            return await self._orders.perform(order, progress)
        finally:
            self._looked.set()  # the next look shows what the order did

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        await self._open()
        return await self._orders.settle(order, notes)

    async def run(self, outbox: Outbox) -> None:
        self._outbox = outbox
        waiting, self._waiting = self._waiting, []
        for kind, text, severity, detail in waiting:
            await outbox.event(kind, text, device=self.machine.identity, severity=severity, detail=detail)
        try:
            await self._try_to_open()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look_forever(outbox), name="looks")
                tasks.create_task(self._tend_forever(), name="miner")
                tasks.create_task(self._end_trial(), name="trial")
        finally:
            self._programs.stop.set()
            self.supervisor.let_go()
            await self._cards.close()

    # ---- the miner -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Once: reads what is on disk and finds the miner that still runs."""
        async with self._opening:
            if self._opened:
                return
            await self.sheets.load()
            current = self.sheets.book.current
            await self.supervisor.recover(current.launch if current else None, paused=self.sheets.book.paused)
            self._opened = True

    async def _try_to_open(self) -> bool:
        """A full disk or a stray miner that cannot be ended must not keep the sentry from watching the machine."""
        try:
            await self._open()
        except (Fault, OSError) as fault:
            self._complain(f"cannot take the miner over: {fault}")
            return False
        return True

    async def _tend_forever(self) -> None:
        """Tends the miner; while what is on disk could not be read, tries that again."""
        turn_over = partial(miner_log.turn_over, self.supervisor.log, round(self._settings.log_max_mb * 1_000_000))
        turn_over_ms = 0
        while True:
            if not self._opened and not await self._try_to_open():
                await self._clock.sleep(_OPEN_AGAIN_S)
                continue
            try:
                await self.supervisor.tend()
                if self._clock.monotonic_ms() >= turn_over_ms:
                    turn_over_ms = self._clock.monotonic_ms() + _TURN_OVER_EVERY_MS
                    await aside("turning the miner's log over", turn_over, _HOST_LIMIT_S)
                self._complaint = ""
            except (Fault, OSError) as fault:  # a full disk must not end the watch over the miner
                self._complain(f"cannot tend the miner: {fault}")
            await self._clock.sleep(_TEND_EVERY_S)

    async def _end_trial(self) -> None:
        """A sheet that was on trial when the sentry ended."""
        while not self._opened:
            await self._clock.sleep(_TEND_EVERY_S)
        await self._orders.finish_trial()

    def _complain(self, text: str) -> None:
        """Once, not at every turn."""
        if text != self._complaint:
            self._complaint = text
            log.error(text)

    # ---- looks ---------------------------------------------------------------------------------------------

    async def _look_forever(self, outbox: Outbox) -> None:
        while True:
            started_ms = self._clock.monotonic_ms()
            self._looked.clear()
            look = await self.look()
            await outbox.look([Sample(self._key, look.at_ms, values_of(look))])
            self._announce(outbox, device_of(look, self.machine))
            await self._tell_changes(look.cards)
            if look.miner.reading is not None and look.miner.reading.paused is False:
                await self._orders.keep_paused()
            spent_s = (self._clock.monotonic_ms() - started_ms) / 1000
            await self._until_next(max(0.2, self._poll_every_s - spent_s))

    async def look(self) -> RigLook:
        """One look at everything. Never raises a Fault: what could not be read is absent."""
        at_ms, started_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        host_task = asyncio.create_task(self._look_at_host())
        cards_task = asyncio.create_task(self._cards.look())
        try:
            miner = await look_at(self.supervisor)
            values, host_fault = await host_task
            cards = await cards_task
        finally:
            host_task.cancel()
            cards_task.cancel()
        running, book = self.supervisor.now_running, self.sheets.book
        return RigLook(
            at_ms=at_ms,
            took_ms=self._clock.monotonic_ms() - started_ms,
            host=values,
            host_fault=host_fault,
            cards=cards,
            miner=miner,
            sheet=_facts_of(book.current),
            pause_wanted=book.paused,
            held=self.supervisor.held,
            since_start_s=self.supervisor.since_start_s(),
            restarts=self.supervisor.restarts_total,
            simulated=running.simulated if running else book.current is not None and book.current.launch.simulated,
            floor_hs=self._settings.hashrate_floor_hs,
            grace_s=self._settings.starting_grace_s,
        )

    async def _look_at_host(self) -> tuple[Mapping[tuple[str, str], int | float], str]:
        try:
            return await aside("reading the machine", self._host.look, _HOST_LIMIT_S), ""
        except Fault as fault:
            return {}, fault.text

    async def _until_next(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._looked.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _announce(self, outbox: Outbox, device: Device) -> None:
        """What is new; counters alone are not, they ride along once a minute."""
        plain = replace(device, seen_ms=0, pools=tuple(replace(pool, accepted=None, rejected=None) for pool in device.pools))
        now_ms = self._clock.monotonic_ms()
        if plain != self._last_device or now_ms - self._last_roster_ms >= _ROSTER_EVERY_MS:
            self._last_device, self._last_roster_ms = plain, now_ms
            outbox.roster([device])

    async def _tell_changes(self, cards: CardsLook) -> None:
        if not cards.fault:
            lost = {card.uuid: card for card in cards.cards if card.lost}
            for uuid, card in lost.items():
                if uuid not in self._lost:
                    await self._tell(
                        "gpu_lost",
                        f"{card.name or uuid} at {card.pci} fell off the bus",
                        severity="critical",
                        detail={"uuid": uuid},
                    )
            for uuid in self._lost - lost.keys():
                await self._tell("gpu_back", f"{uuid} answers again", detail={"uuid": uuid})
            self._lost = frozenset(lost)
        if cards.fault != self._sensor_fault:
            self._sensor_fault = cards.fault
            severity = "warning" if cards.fault else "info"
            await self._tell("gpu_sensors", cards.fault or "the NVIDIA cards can be read again", severity=severity)

    async def _tell(self, kind: str, text: str, *, severity: str = "info", detail: Mapping[str, str] | None = None) -> None:
        log.log({"critical": logging.ERROR, "warning": logging.WARNING}.get(severity, logging.INFO), text, extra={"event": kind})
        if self._outbox is None:
            self._waiting.append((kind, text, severity, detail))
        else:
            await self._outbox.event(kind, text, device=self.machine.identity, severity=severity, detail=detail)


def _facts_of(kept: Kept | None) -> SheetFacts | None:
    if kept is None:
        return None
    pools = tuple(program(kept.sheet.program).pools(kept.arguments))
    return SheetFacts(kept.sheet.id, kept.sheet.program, kept.sheet.version, kept.sheet.algorithm, pools)
