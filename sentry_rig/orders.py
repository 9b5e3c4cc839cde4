"""Orders to the rig: each acts, and then looks until it sees the effect. One at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from subprocess import DEVNULL, PIPE, STDOUT

from garrison.clock import Clock
from garrison.faults import BadInput, Conflict, Fault, NotSupported, Refused, Unavailable
from garrison.logs import redact
from garrison.model import Order, Outcome
from garrison.words import ActionKind, ActionState
from sentry_core.post import Progress
from sentry_rig.host import Machine
from sentry_rig.miner_look import look_at
from sentry_rig.process import boot_id
from sentry_rig.programs.program import MinerReading
from sentry_rig.programs.table import program
from sentry_rig.rules import fingerprint
from sentry_rig.settings import RigSettings
from sentry_rig.sheets import Book, Kept, Sheets
from sentry_rig.supervisor import Supervisor, Tell

log = logging.getLogger(__name__)

_PAUSE_LIMIT_S = 20.0
_REBOOT_COMMAND_LIMIT_S = 60.0
_LOOK_EVERY_S = 0.5


class Orders:
    def __init__(
        self, machine: Machine, clock: Clock, settings: RigSettings, sheets: Sheets, supervisor: Supervisor, tell: Tell
    ) -> None:
        self._machine, self._clock, self._settings = machine, clock, settings
        self._sheets, self._supervisor, self._tell = sheets, supervisor, tell
        self._lock = asyncio.Lock()

    async def perform(self, order: Order, progress: Progress) -> Outcome:
        """Raises NotSupported, Conflict, BadInput, and what programs and archives raise; then nothing was changed."""
        async with self._lock:
            await self._sheets.finish_trial()
            match order.kind:
                case ActionKind.APPLY_FLIGHT_SHEET:
                    return await self._apply(order, progress)
                case ActionKind.RESTART_MINING:
                    return await self._restart(progress)
                case ActionKind.PAUSE:
                    return await self._pause(progress)
                case ActionKind.RESUME:
                    return await self._resume(progress)
                case ActionKind.REBOOT:
                    return await self._reboot(progress)
                case _:
                    raise NotSupported(f"a rig cannot {order.kind.value.replace('_', ' ')}")

    async def finish_trial(self) -> None:
        """A sheet that was on trial when the sentry ended: proved or taken back. Faults are told, not raised."""
        async with self._lock:
            try:
                await self._sheets.finish_trial()
            except Fault as fault:
                await self._tell("sheet_trial", f"the trial of a sheet could not be ended: {fault.text}", severity="critical")

    async def keep_paused(self) -> None:
        """A miner that was asked to pause and hashes again was started anew, or resumed by somebody else: asked again."""
        if self._lock.locked():
            return  # an order is at work; the next look tells
        async with self._lock:
            running, api = self._supervisor.now_running, self._supervisor.api
            if not self._sheets.book.paused or running is None or api is None:
                return
            try:
                await program(running.program).pause(api)
            except Fault as fault:
                log.warning("cannot keep the miner paused", extra={"why": fault.text})

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        """After a crash in the middle. Nothing is repeated; a trial that was on is watched to its end."""
        async with self._lock:
            match order.kind:
                case ActionKind.APPLY_FLIGHT_SHEET:
                    return await self._settle_sheet(order)
                case ActionKind.PAUSE | ActionKind.RESUME:
                    return await self._settle_pause(order.kind is ActionKind.PAUSE)
                case ActionKind.RESTART_MINING:
                    return await self._settle_restart(notes)
                case ActionKind.REBOOT:
                    return self._settle_reboot(notes)
                case _:
                    return Outcome(ActionState.UNKNOWN, "not an order for a rig")

    # ---- flight sheets --------------------------------------------------------------------------------------

    async def _apply(self, order: Order, progress: Progress) -> Outcome:
        if order.sheet is None:
            raise BadInput("the order holds no flight sheet")
        if self._sheets.book.paused:
            raise Conflict("the rig is paused", hint="resume it first")
        return await self._sheets.apply(order.sheet, progress.verifying)

    async def _settle_sheet(self, order: Order) -> Outcome:
        sheet = order.sheet
        if sheet is None or sheet.archive is None:
            return Outcome(ActionState.FAILED, "the order holds no flight sheet", "bad_input")
        await self._sheets.finish_trial()
        try:
            arguments = program(sheet.program).arguments(sheet.arguments, sheet.pools, sheet.algorithm)
        except Fault as fault:
            return Outcome(ActionState.FAILED, fault.text, fault.code)
        mark = fingerprint(sheet.program, sheet.version, sheet.archive.sha256, sheet.archive.executable, arguments)
        book = self._sheets.book
        if book.good is not None and (book.good.fingerprint, book.good.sheet.id) == (mark, sheet.id):
            mines, why, _ = await self._sheets.watch(book.good, sheet.verify_within_s)
            return Outcome(ActionState.SUCCEEDED if mines else ActionState.FAILED, why, "" if mines else "unavailable")
        if book.failed is not None and (book.failed.fingerprint, book.failed.sheet_id) == (mark, sheet.id):
            detail = {"rolled_back": book.failed.rolled_back, "why": book.failed.text}
            return Outcome(
                ActionState.FAILED,
                f"{book.failed.text}; went back to {book.failed.rolled_back or 'nothing'}",
                "unavailable",
                detail,
            )
        still = book.good.sheet.id if book.good else "nothing"
        return Outcome(ActionState.FAILED, f"the sentry ended before the sheet was applied; the rig runs {still}", "unavailable")

    # ---- restart, pause, resume ------------------------------------------------------------------------------

    async def _restart(self, progress: Progress) -> Outcome:
        kept = self._running_sheet()
        if self._sheets.book.paused:
            raise Conflict("the rig is paused", hint="resume it first")
        before = self._supervisor.now_running
        await progress.note("was", before.start if before else "")
        if self._supervisor.wanted is None:
            self._supervisor.want(kept.launch)
        await self._supervisor.restart()
        await progress.verifying("started again, watching that it mines")
        return await self._mines(kept)

    async def _settle_restart(self, notes: Mapping[str, str]) -> Outcome:
        running, kept = self._supervisor.now_running, self._sheets.book.current
        if "was" not in notes or kept is None or running is None or running.start == notes["was"]:
            return Outcome(ActionState.UNKNOWN, "the sentry ended while it restarted the miner, and cannot tell whether it did")
        outcome = await self._mines(kept)
        return outcome if outcome.state is ActionState.SUCCEEDED else Outcome(ActionState.UNKNOWN, outcome.text)

    async def _mines(self, kept: Kept) -> Outcome:
        mines, why, _ = await self._sheets.watch(kept, kept.sheet.verify_within_s)
        return Outcome(ActionState.SUCCEEDED if mines else ActionState.FAILED, why, "" if mines else "unavailable")

    async def _pause(self, progress: Progress) -> Outcome:
        self._running_sheet()
        await self._want_paused(True)
        self._supervisor.leave_down()
        running, api = self._supervisor.now_running, self._supervisor.api
        if running is not None and api is not None and self._supervisor.alive:
            with contextlib.suppress(Fault):  # then it is ended instead
                await program(running.program).pause(api)
                await progress.verifying("asked the miner to pause")
                if await self._reads(paused=True):
                    return Outcome(ActionState.SUCCEEDED, "the miner says that it is paused", detail={"how": "api"})
        await self._supervisor.halt()
        return Outcome(ActionState.SUCCEEDED, "the miner did not pause, so it was ended", detail={"how": "stopped"})

    async def _resume(self, progress: Progress) -> Outcome:
        kept = self._running_sheet()
        await self._want_paused(False)
        running, api = self._supervisor.now_running, self._supervisor.api
        if running is not None and api is not None and self._supervisor.alive:
            self._supervisor.want(kept.launch)
            with contextlib.suppress(Fault):  # then it is started anew
                await program(running.program).resume(api)
                await progress.verifying("asked the miner to resume")
                if await self._reads(paused=False):
                    return Outcome(ActionState.SUCCEEDED, "the miner says that it is not paused", detail={"how": "api"})
        await self._supervisor.run_this(kept.launch)
        await progress.verifying("started the miner")
        outcome = await self._mines(kept)
        return Outcome(outcome.state, outcome.text, outcome.fault, {"how": "started"})

    async def _settle_pause(self, paused: bool) -> Outcome:
        word = "paused" if paused else "not paused"
        if self._sheets.book.paused == paused:
            running = self._supervisor.alive
            if (paused and not running) or await self._reads(paused=paused):
                return Outcome(ActionState.SUCCEEDED, f"the miner is {word}")
        return Outcome(ActionState.FAILED, f"the sentry ended before the miner was {word}", "unavailable")

    async def _reads(self, *, paused: bool) -> bool:
        """Whether the miner comes to say so within the limit. Nothing that runs says "not paused"."""
        until_ms = self._clock.monotonic_ms() + round(_PAUSE_LIMIT_S * 1000)
        while True:
            look = await look_at(self._supervisor)
            if (look.reading or MinerReading()).paused is paused:
                return True
            if not look.alive or self._clock.monotonic_ms() >= until_ms:
                return False
            await self._clock.sleep(_LOOK_EVERY_S)

    def _running_sheet(self) -> Kept:
        kept = self._sheets.book.current
        if kept is None:
            raise Conflict("the rig has no flight sheet, so nothing mines", hint="apply one first")
        return kept

    async def _want_paused(self, paused: bool) -> None:
        book = self._sheets.book
        await self._sheets.write(Book(good=book.good, trying=book.trying, trying_since_ms=book.trying_since_ms, paused=paused))

    # ---- reboot ------------------------------------------------------------------------------------------------

    async def _reboot(self, progress: Progress) -> Outcome:
        """A machine that reboots takes us with it: `settle` reports after the start, by the boot id."""
        command = self._settings.reboot_command
        await progress.note("boot", self._machine.boot)
        try:
            helper = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
        except OSError as error:
            raise Refused(f"cannot run {command[0]}: {error.strerror}", hint="reboot_command in the settings") from error
        try:
            async with asyncio.timeout(_REBOOT_COMMAND_LIMIT_S):
                said, _ = await helper.communicate()
        except TimeoutError:
            helper.kill()
            await helper.wait()
            raise Unavailable(f"{command[0]} did not end within {_REBOOT_COMMAND_LIMIT_S:g} s") from None
        if helper.returncode:
            told = redact(said.decode("utf-8", "replace")[-300:]).strip()
            return Outcome(ActionState.FAILED, f"{command[0]} ended with {helper.returncode}: {told}", "unavailable")
        await progress.verifying("the machine is told to reboot")
        await self._clock.sleep(self._settings.reboot_within_s)
        return Outcome(
            ActionState.FAILED, f"the machine still runs {self._settings.reboot_within_s:g} s after the command", "timed_out"
        )

    def _settle_reboot(self, notes: Mapping[str, str]) -> Outcome:
        if not notes.get("boot"):
            return Outcome(ActionState.FAILED, "the sentry ended before the reboot was begun", "unavailable")
        if self._machine.boot != notes["boot"]:
            return Outcome(ActionState.SUCCEEDED, "the machine started anew", detail={"boot": self._machine.boot})
        return Outcome(ActionState.UNKNOWN, "the sentry started anew, the machine did not (yet)", detail={"boot": boot_id()})
