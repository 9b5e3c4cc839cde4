"""One miner process: started, watched, restarted within a budget, ended, and found again after a restart of the sentry.

Never two: what is started is written (synced) before it starts and again with its pid after, and every process carries
two variables in its environment. Whatever moment the sentry dies at, the next one finds what runs: the miner of the
record is adopted, anything else of ours is ended.

Called by: RigPost (`recover` once, `tend` all the time, `run_this`, `restart` and `halt` on orders).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from garrison import keyfile
from garrison.clock import Clock, SystemClock
from garrison.faults import Broken, Fault, Unavailable
from sentry_rig import process, record
from sentry_rig.aside import aside
from sentry_rig.process import Running
from sentry_rig.programs.program import Api
from sentry_rig.programs.table import program
from sentry_rig.rules import Budget, may_restart
from sentry_rig.settings import RigSettings

log = logging.getLogger(__name__)

_START_LIMIT_S = 60.0
_FIND_LIMIT_S = 20.0
_KILL_LIMIT_S = 10.0
_REAP_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What should run. `arguments` are complete but for our own API flags, which are new for every start."""

    program: str
    executable: Path
    arguments: tuple[str, ...]
    fingerprint: str
    sheet_id: str
    simulated: bool = False


class MinerRecord(msgspec.Struct, frozen=True):
    """On disk. `pid` 0: about to start, or just started: `start` tells which process it is."""

    start: str
    program: str
    argv: list[str]
    port: int
    token: str
    fingerprint: str
    started_ms: int
    boot: str
    simulated: bool = False
    pid: int = 0
    mark: str = ""


class Restarts(msgspec.Struct, frozen=True):
    """On disk. `restarts_ms`: of crashed miners, for the budget; `total`: all restarts ever."""

    restarts_ms: list[int] = []
    crashed_ms: int = 0
    total: int = 0
    held_told: bool = False


class Tell(Protocol):
    async def __call__(self, kind: str, text: str, *, severity: str = "info", detail: Mapping[str, str] | None = None) -> None: ...


class Supervisor:
    """`folder` is ours alone: records, the log and the miner's working folder."""

    def __init__(self, folder: Path, clock: Clock, settings: RigSettings, tell: Tell) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "miner.log"
        self._work = self.folder / "work"
        self._record_file = self.folder / "miner.json"
        self._restarts_file = self.folder / "restarts.json"
        self._clock, self._settings, self._tell = clock, settings, tell
        self._budget = Budget(
            settings.restarts_max, settings.restarts_window_s, settings.restarts_hold_s, min(settings.restart_backoff_s, 600)
        )
        self._wanted: Launch | None = None
        self._record: MinerRecord | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._restarts = Restarts()
        self._started_mono_ms: int | None = None
        self._busy = asyncio.Lock()
        self.held = False
        self.crashes = 0
        """Since the last ordered start."""

    # ---- what is --------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        if self._record is None:
            return False
        if self._child is not None and self._child.poll() is not None:
            return False
        return process.alive(Running(self._record.pid, self._record.mark))

    @property
    def api(self) -> Api | None:
        return Api(self._record.port, self._record.token) if self._record is not None else None

    @property
    def now_running(self) -> MinerRecord | None:
        return self._record

    @property
    def wanted(self) -> Launch | None:
        return self._wanted

    @property
    def restarts_total(self) -> int:
        return self._restarts.total

    def since_start_s(self) -> float | None:
        if self._record is None:
            return None
        if self._started_mono_ms is not None:
            return (self._clock.monotonic_ms() - self._started_mono_ms) / 1000
        return max(0.0, (self._clock.now_ms() - self._record.started_ms) / 1000)  # adopted: only the wall clock knows

    # ---- after a start of the sentry ------------------------------------------------------------------

    async def recover(self, wanted: Launch | None, *, paused: bool = False) -> None:
        """Adopts what runs as it should, ends what should not, and leaves the rest to `tend`.

        `paused`: what runs is kept, and not started again when it ends. Raises DiskFull, Unavailable, TimedOut.
        """
        async with self._busy:
            self._wanted = None if paused else wanted
            await aside("making the miner's folder", self._make_folders, _START_LIMIT_S)
            self._restarts = await self._read(self._restarts_file, Restarts) or Restarts()
            noted = await self._read(self._record_file, MinerRecord)
            found = await aside("looking for running miners", lambda: process.find(self.folder), _FIND_LIMIT_S)
            kept = await aside("looking for the miner", lambda: _still_runs(noted, found), _FIND_LIMIT_S) if noted else None
            strays = [pid for pid, start in found.items() if kept is None or start != kept.start]
            if strays:
                await self._end(strays, None, "", spare=kept.start if kept else "")
                await self._tell("stray_ended", f"ended {len(strays)} stray miner process(es)", severity="warning")
            if kept is not None:
                await self._keep(kept, None)
                if wanted is None or kept.fingerprint != wanted.fingerprint:
                    await self._stop()
                else:
                    log.info("miner adopted", extra={"pid": kept.pid, "program": kept.program})
                    await self._tell(
                        "miner_adopted", f"{kept.program} still runs and is watched again", detail={"pid": str(kept.pid)}
                    )
            elif noted is not None:
                await self._forget()
                if self._wanted is not None and noted.boot == process.boot_id():
                    await self._crashed("it ended while the sentry was away")

    # ---- orders -----------------------------------------------------------------------------------------

    async def run_this(self, launch: Launch) -> None:
        """Ends what runs and starts this, with a fresh budget. Raises BadInput, DiskFull, Unavailable, TimedOut."""
        async with self._busy:
            self._wanted, self.crashes = launch, 0
            await self._stop()
            await self._fresh_budget()
            await self._start(launch)

    async def restart(self) -> None:
        """Ends the miner and starts it again. Raises as `run_this`."""
        launch = self._wanted
        if launch is not None:
            self._restarts = msgspec.structs.replace(self._restarts, total=self._restarts.total + 1)
            await self.run_this(launch)

    def leave_down(self) -> None:
        """What runs may go on (it is paused); when it ends it is not started again."""
        self._wanted = None

    def want(self, launch: Launch) -> None:
        """What runs is this, and is started again when it ends."""
        self._wanted = launch

    async def halt(self) -> None:
        """Ends the miner; nothing should run. Raises Unavailable when it cannot be ended."""
        async with self._busy:
            self._wanted = None
            await self._stop()

    def let_go(self) -> None:
        """The sentry ends; the miner stays."""
        if self._child is not None:
            process.let_go(self._child)
            self._child = None

    # ---- all the time -------------------------------------------------------------------------------------

    async def tend(self) -> None:
        """Notices that the miner ended and starts it again when the budget allows. Faults of a start are told, not raised."""
        if self._busy.locked():
            return
        async with self._busy:
            if self._record is not None and self.alive:
                return
            if self._wanted is None:
                if self._record is not None:
                    await self._clear_up()
                return
            if self._record is not None:
                code = await self._reap()
                await self._clear_up()
                await self._crashed("its exit code is not known" if code is None else f"exit code {code}")
            now_ms = self._clock.now_ms()
            verdict = may_restart(self._restarts.restarts_ms, self._restarts.crashed_ms, now_ms, self._budget)
            self.held = verdict.held
            if verdict.held and not self._restarts.held_told:
                await self._write_restarts(msgspec.structs.replace(self._restarts, held_told=True))
                text = f"{self._wanted.program} ended {len(self._restarts.restarts_ms)} times in a row and is held"
                await self._tell("miner_held", text, severity="critical", detail={"try_again_s": str(round(verdict.wait_s))})
            if verdict.held or verdict.wait_s > 0:
                return
            if self._restarts.crashed_ms:
                edge_ms = now_ms - round(self._budget.window_s * 1000)
                recent = [at for at in self._restarts.restarts_ms if edge_ms < at <= now_ms][-64:]
                await self._write_restarts(Restarts([*recent, now_ms], self._restarts.crashed_ms, self._restarts.total + 1))
            try:
                await self._start(self._wanted)
            except Fault as fault:
                await self._crashed(fault.text)

    # ---- inside --------------------------------------------------------------------------------------------

    async def _start(self, launch: Launch) -> None:
        leftover = await aside("looking for running miners", lambda: process.find(self.folder), _FIND_LIMIT_S)
        if leftover:
            await self._end(list(leftover), None, "")
        noted, child = await aside("starting the miner", lambda: self._launch(launch), _START_LIMIT_S)
        self._child, self._record, self._started_mono_ms = child, noted, self._clock.monotonic_ms()
        self.held = False
        log.info("miner started", extra={"pid": noted.pid, "program": launch.program, "sheet": launch.sheet_id})
        await self._tell("miner_started", f"{launch.program} started", detail={"pid": str(noted.pid), "sheet": launch.sheet_id})

    def _launch(self, launch: Launch) -> tuple[MinerRecord, subprocess.Popen[bytes]]:
        """In a thread. The record is on disk before the process is, and again with its pid after."""
        port = _free_port(self._settings.api_port_first, self._settings.api_port_last)
        api = Api(port, secrets.token_hex(16))
        argv = program(launch.program).command(launch.executable, launch.arguments, api)
        noted = MinerRecord(
            start=secrets.token_hex(16),
            program=launch.program,
            argv=argv,
            port=port,
            token=api.token,
            fingerprint=launch.fingerprint,
            started_ms=self._clock.now_ms(),
            boot=process.boot_id(),
            simulated=launch.simulated,
        )
        record.write(self._record_file, noted)
        child = process.start(argv, self._work, process.environment(self.folder, noted.start), self.log)
        noted = msgspec.structs.replace(noted, pid=child.pid, mark=process.mark_of(child.pid) or "")
        try:
            record.write(self._record_file, noted)
        except Fault:
            process.end([child.pid], child.pid, noted.start, hard=True)  # what is not on record must not run
            child.wait(_KILL_LIMIT_S)
            raise
        return noted, child

    async def _stop(self) -> None:
        if self._record is not None:
            leader = self._record.pid if self.alive else None
            found = await aside("looking for running miners", lambda: process.find(self.folder), _FIND_LIMIT_S)
            pids = set(found) | ({leader} if leader else set())
            if pids:
                await self._end(sorted(pids), leader, self._record.start)
                log.info("miner ended as ordered", extra={"pid": self._record.pid})
        await self._forget()

    async def _clear_up(self) -> None:
        """The process we started is gone; what it forked may not be."""
        found = await aside("looking for running miners", lambda: process.find(self.folder), _FIND_LIMIT_S)
        if found:
            await self._end(list(found), None, self._record.start if self._record else "")
        await self._forget()

    async def _end(self, pids: list[int], group: int | None, start_word: str, *, spare: str = "") -> None:
        """Asks, waits, makes. `spare`: the start that may live. Raises Unavailable when something of it still runs then."""
        for hard, limit_s in ((False, self._settings.stop_limit_s), (True, _KILL_LIMIT_S)):
            process.end(pids, group, start_word, hard=hard)
            until_ms = self._clock.monotonic_ms() + round(limit_s * 1000)
            while self._clock.monotonic_ms() < until_ms:
                if self._child is not None:
                    self._child.poll()  # or it stays a zombie
                if not any(process.mark_of(pid) for pid in pids):
                    found = await aside("looking for running miners", lambda: process.find(self.folder), _FIND_LIMIT_S)
                    left = [pid for pid, start in found.items() if start != spare]
                    if not left:
                        return
                    pids, group = left, None  # a child that came meanwhile
                    process.end(pids, group, start_word, hard=hard)
                await asyncio.sleep(0.05)
        raise Unavailable(
            f"the miner does not end: {len(pids)} process(es) still run after SIGKILL", hint="a driver hangs; only a reboot helps"
        )

    async def _crashed(self, why: str) -> None:
        self.crashes += 1
        name = self._wanted.program if self._wanted else "the miner"
        log.warning("miner ended by itself", extra={"why": why, "times": self.crashes})
        await self._write_restarts(msgspec.structs.replace(self._restarts, crashed_ms=self._clock.now_ms(), held_told=False))
        await self._tell("miner_crashed", f"{name} ended by itself: {why}", severity="warning")

    async def _keep(self, kept: MinerRecord, child: subprocess.Popen[bytes] | None) -> None:
        await aside("writing the miner's record", lambda: record.write(self._record_file, kept), _START_LIMIT_S)
        self._record, self._child, self._started_mono_ms = kept, child, None

    async def _reap(self) -> int | None:
        """The exit code of a child that ended. Its last threads may take a moment longer than itself."""
        child = self._child
        until_ms = self._clock.monotonic_ms() + round(_REAP_LIMIT_S * 1000)
        while child is not None and child.poll() is None and self._clock.monotonic_ms() < until_ms:  # noqa: ASYNC110  # the kernel has no Event
            await asyncio.sleep(0.02)
        return child.poll() if child is not None else None

    async def _forget(self) -> None:
        await self._reap()
        self.let_go()
        self._record, self._child, self._started_mono_ms = None, None, None
        await aside("removing the miner's record", lambda: self._record_file.unlink(missing_ok=True), _START_LIMIT_S)

    async def _fresh_budget(self) -> None:
        self.held = False
        await self._write_restarts(Restarts(total=self._restarts.total))

    async def _write_restarts(self, restarts: Restarts) -> None:
        self._restarts = restarts
        await aside("writing the restart budget", lambda: record.write(self._restarts_file, restarts), _START_LIMIT_S)

    async def _read(self, path: Path, kind: type[record.T]) -> record.T | None:
        try:
            return await aside(f"reading {path.name}", lambda: record.read(path, kind), _START_LIMIT_S)
        except Broken as fault:
            kept = record.set_aside(path)
            await self._tell("record_damaged", f"{fault.text}; set aside as {kept.name}", severity="warning")
            return None

    def _make_folders(self) -> None:
        try:
            self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise keyfile.disk_fault(error, f"cannot make {self._work}") from error


async def end_left_miner(folder: Path) -> bool:
    """Ends whatever a stopped sentry left running in `folder`; False when nothing did. Raises Unavailable, TimedOut."""
    if not await aside("looking for running miners", lambda: process.find(folder.resolve()), _FIND_LIMIT_S):
        return False

    async def tell(kind: str, text: str, *, severity: str = "info", detail: Mapping[str, str] | None = None) -> None:
        log.info(text, extra={"kind": kind, "severity": severity, "detail": detail})

    await Supervisor(folder, SystemClock(), RigSettings(), tell).recover(None)
    return True


def _still_runs(noted: MinerRecord, found: Mapping[int, str]) -> MinerRecord | None:
    """The miner of the record, with its pid, if it runs: by pid, start time and command line, or by what it carries."""
    if (
        noted.pid
        and process.alive(Running(noted.pid, noted.mark))
        and process.same_command(process.command_line(noted.pid), noted.argv)
    ):
        return noted
    if noted.pid:
        return None
    for pid, start in found.items():  # the sentry died between starting it and writing down its pid
        mark = process.mark_of(pid)
        if start == noted.start and mark and process.leads(pid) and process.same_command(process.command_line(pid), noted.argv):
            return msgspec.structs.replace(noted, pid=pid, mark=mark)
    return None


def _free_port(first: int, last: int) -> int:
    """A free port of the range on 127.0.0.1, tried from a random one so that a taken one is not met again and again."""
    count = last - first + 1
    offset = secrets.randbelow(max(count, 1))
    for step in range(count):
        port = first + (offset + step) % count
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable(f"no free port between {first} and {last} on 127.0.0.1", hint="widen api_port_first and api_port_last")
