"""Flight sheets at the rig: tried, proved or taken back, and the last good one kept on disk.

The book is written (synced) before anything is stopped or started, so that after a crash the sentry knows which sheet is
on trial and which one to go back to. With the commander gone the last good sheet simply goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from garrison.clock import Clock
from garrison.faults import BadInput, Broken, Fault
from garrison.logs import redact
from garrison.model import Outcome, Sheet
from garrison.words import ActionState
from sentry_rig import record
from sentry_rig.archives import Programs
from sentry_rig.aside import aside
from sentry_rig.miner_log import tail
from sentry_rig.miner_look import MinerLook, look_at, trial
from sentry_rig.programs.table import program
from sentry_rig.rules import fingerprint, hashing, judge_trial
from sentry_rig.settings import RigSettings
from sentry_rig.supervisor import Launch, Supervisor, Tell

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_DISK_LIMIT_S = 30.0
_RESUMED_TRIAL_S = 60.0
_LOG_LINES = 8


class Kept(msgspec.Struct, frozen=True):
    """A sheet with what it amounts to here: the program unpacked, the arguments complete."""

    sheet: Sheet
    executable: str
    arguments: list[str]
    fingerprint: str

    @property
    def launch(self) -> Launch:
        simulated = self.sheet.archive is not None and self.sheet.archive.simulated
        return Launch(self.sheet.program, Path(self.executable), tuple(self.arguments), self.fingerprint, self.sheet.id, simulated)

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(pool.place for pool in program(self.sheet.program).pools(self.arguments))


class Failed(msgspec.Struct, frozen=True):
    sheet_id: str
    fingerprint: str
    text: str
    rolled_back: str


class Book(msgspec.Struct, frozen=True):
    """On disk. `trying`: started and not yet proved. `paused`: somebody asked for no mining."""

    good: Kept | None = None
    trying: Kept | None = None
    trying_since_ms: int = 0
    paused: bool = False
    failed: Failed | None = None

    @property
    def current(self) -> Kept | None:
        return self.trying or self.good


class Sheets:
    """Not for two tasks at once: the post holds its lock over `apply`, `finish_trial` and `proved`."""

    def __init__(
        self, file: Path, clock: Clock, settings: RigSettings, programs: Programs, supervisor: Supervisor, tell: Tell
    ) -> None:
        self._file, self._clock, self._settings = file, clock, settings
        self._programs, self._supervisor, self._tell = programs, supervisor, tell
        self.book = Book()

    async def load(self) -> None:
        """Raises Unavailable. A damaged book is set aside: the rig is idle until a sheet is applied again."""
        try:
            found = await aside("reading the sheets", lambda: record.read(self._file, Book), _DISK_LIMIT_S)
            self.book = found if found is not None else Book()
        except Broken as fault:
            kept = record.set_aside(self._file)
            await self._tell("record_damaged", f"{fault.text}; set aside as {kept.name}", severity="critical")

    async def write(self, book: Book) -> None:
        """Raises DiskFull, Unavailable; then nothing has changed."""
        await aside("writing the sheets", lambda: record.write(self._file, book), _DISK_LIMIT_S)
        self.book = book

    async def prepare(self, sheet: Sheet) -> Kept:
        """Checks the arguments, gets and checks the program. Raises what driver and archives raise."""
        if not sheet.program:
            raise BadInput(f"sheet {sheet.name!r} names no mining program")
        if sheet.archive is None:
            raise BadInput(
                f"sheet {sheet.name!r} names no archive of {sheet.program}", hint="a path or https address, with its SHA-256"
            )
        driver = program(sheet.program)
        arguments = driver.arguments(sheet.arguments, sheet.pools, sheet.algorithm)
        archive = sheet.archive
        executable = await aside(
            f"installing {sheet.program} {sheet.version}",
            lambda: self._programs.install(sheet.program, sheet.version, archive, driver.set_aside),
            self._settings.download_within_s + 300,
        )
        mark = fingerprint(sheet.program, sheet.version, archive.sha256, archive.executable, arguments)
        return Kept(sheet, str(executable), arguments, mark)

    async def apply(self, sheet: Sheet, verifying: Callable[[str], Awaitable[None]]) -> Outcome:
        """Raises what `prepare` raises, before anything was changed."""
        kept = await self.prepare(sheet)
        good = self.book.good
        if self.book.trying is None and good is not None and good.fingerprint == kept.fingerprint:
            return await self._same(kept, verifying)
        await self.write(Book(good=good, trying=kept, trying_since_ms=self._clock.now_ms(), paused=self.book.paused))
        try:
            await self._supervisor.run_this(kept.launch)
        except Fault as fault:
            return await self._roll_back(kept, fault.text, fault.code)
        await verifying(f"started {sheet.program}, watching that it mines on the new pool")
        return await self._prove(kept, sheet.verify_within_s)

    async def finish_trial(self) -> None:
        """After a restart in the middle of a trial: watches on, or goes back. Nothing when none is on."""
        kept = self.book.trying
        if kept is None:
            return
        gone_s = max(0.0, (self._clock.now_ms() - self.book.trying_since_ms) / 1000)
        left_s = min(kept.sheet.verify_within_s, max(_RESUMED_TRIAL_S, kept.sheet.verify_within_s - gone_s))
        await self._prove(kept, left_s)

    async def watch(self, kept: Kept, limit_s: float) -> tuple[bool, str, MinerLook]:
        """Whether the miner mines as the sheet says within the limit, why (not), and the last look."""
        until_ms = self._clock.monotonic_ms() + round(limit_s * 1000)
        floor_hs, since_ms = self._settings.hashrate_floor_hs, None
        while True:
            await self._supervisor.tend()
            look = await look_at(self._supervisor)
            now_ms = self._clock.monotonic_ms()
            works = look.reading is not None and look.reading.connected and hashing(look.reading.hashrate_hs, floor_hs)
            since_ms = (now_ms if since_ms is None else since_ms) if works else None
            hashing_s = (now_ms - since_ms) / 1000 if since_ms is not None else 0.0
            verdict, why = judge_trial(trial(look, kept.places, self._supervisor.crashes, floor_hs, hashing_s, limit_s / 2))
            if verdict == "good":
                return True, why, look
            if verdict == "bad" or now_ms >= until_ms:
                return False, why, look
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _same(self, kept: Kept, verifying: Callable[[str], Awaitable[None]]) -> Outcome:
        await self.write(Book(good=kept, paused=self.book.paused))
        restarted = not self._supervisor.alive
        if restarted:
            await self._supervisor.run_this(kept.launch)
        else:
            self._supervisor.want(kept.launch)
        await verifying("the rig runs this already; watching that it mines")
        mines, why, look = await self.watch(kept, kept.sheet.verify_within_s)
        detail = _detail(look) | {"restarted": "yes" if restarted else "no", "changed": "no"}
        if mines:
            return Outcome(ActionState.SUCCEEDED, f"nothing to change: {why}", detail=detail)
        return Outcome(ActionState.FAILED, f"nothing to change, but {why}", "unavailable", detail)

    async def _prove(self, kept: Kept, limit_s: float) -> Outcome:
        mines, why, look = await self.watch(kept, limit_s)
        if not mines:
            return await self._roll_back(kept, why, "unavailable")
        await self.write(Book(good=kept, paused=self.book.paused))
        await self._tell("sheet_applied", f"{kept.sheet.name or kept.sheet.id}: {why}", detail={"sheet": kept.sheet.id})
        return Outcome(ActionState.SUCCEEDED, why, detail=_detail(look) | {"restarted": "yes", "changed": "yes"})

    async def _roll_back(self, kept: Kept, why: str, code: str) -> Outcome:
        good = self.book.good
        back = good.sheet.id if good is not None else ""
        await self.write(Book(good=good, paused=self.book.paused, failed=Failed(kept.sheet.id, kept.fingerprint, why, back)))
        text = (
            f"{why}; went back to {good.sheet.name or back}"
            if good is not None
            else f"{why}; there was no earlier sheet, so nothing runs"
        )
        last_words = await self._last_words()
        try:
            if good is not None:
                await self._supervisor.run_this(good.launch)
            else:
                await self._supervisor.halt()
        except Fault as fault:  # `tend` goes on trying
            text += f"; that failed at first: {fault.text}"
        detail = {"sheet": kept.sheet.id, "rolled_back": back, "log": last_words}
        await self._tell("sheet_rolled_back", text, severity="critical", detail=detail)
        return Outcome(ActionState.FAILED, text, code, {"rolled_back": back, "why": why})

    async def _last_words(self) -> str:
        """What the miner said at the end, for the event: the log goes on with another program's words."""
        try:
            lines = await aside("reading the miner's log", lambda: tail(self._supervisor.log, _LOG_LINES), _DISK_LIMIT_S)
        except (Fault, OSError):
            return ""  # the event matters more than its appendix
        return redact("\n".join(line[:200] for line in lines))


def _detail(look: MinerLook) -> dict[str, str]:
    reading = look.reading
    if reading is None:
        return {}
    told = {
        "pool": reading.pool,
        "hashrate_hs": None if reading.hashrate_hs is None else f"{reading.hashrate_hs:.0f}",
        "accepted": reading.accepted,
        "version": reading.version,
    }
    return {name: str(value) for name, value in told.items() if value not in {None, ""}}
