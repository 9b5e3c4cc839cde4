"""One look at the miner: the three facts of health apart, and what its API said."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from garrison.faults import BadAnswer, Fault
from sentry_rig.aside import aside
from sentry_rig.programs.program import MinerReading, RawLook
from sentry_rig.programs.table import program
from sentry_rig.rules import Trial
from sentry_rig.supervisor import Supervisor

_KEEP_UNREADABLE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class MinerLook:
    """`alive`: the process runs. `api`: its API gave an answer we can read. `reading`: only with `api`."""

    alive: bool = False
    api: bool = False
    reading: MinerReading | None = None
    fault: Fault | None = None


async def look_at(supervisor: Supervisor) -> MinerLook:
    """Never raises a Fault: a deaf or unreadable API is a fact about the miner, not an error of ours."""
    running, api = supervisor.now_running, supervisor.api
    if running is None or api is None or not supervisor.alive:
        return MinerLook()
    driver = program(running.program)
    try:
        raw = await driver.read(api)
    except Fault as fault:
        return MinerLook(alive=supervisor.alive, fault=fault)
    try:
        return MinerLook(alive=True, api=True, reading=driver.parse(raw))
    except BadAnswer as fault:
        await _keep(supervisor.folder / "unreadable.bin", raw)
        return MinerLook(alive=True, fault=fault)


def trial(look: MinerLook, pools: tuple[str, ...], crashes: int, floor_hs: float, hashing_s: float, patience_s: float) -> Trial:
    """What `judge_trial` needs of a look."""
    reading = look.reading or MinerReading()
    return Trial(
        pools=pools,
        alive=look.alive,
        crashes=crashes,
        api=look.api,
        pool=reading.pool,
        connected=reading.connected,
        paused=reading.paused,
        hashrate_hs=reading.hashrate_hs,
        accepted=reading.accepted,
        rejected=reading.rejected,
        floor_hs=floor_hs,
        hashing_s=hashing_s,
        patience_s=patience_s,
    )


async def _keep(file: Path, raw: RawLook) -> None:
    """The last unreadable answer, for whoever mends the driver. Best effort: a full disk is told elsewhere."""

    def write() -> None:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, raw.main[:_KEEP_UNREADABLE_BYTES])
        finally:
            os.close(handle)

    with contextlib.suppress(OSError, Fault):
        await aside("keeping an unreadable answer", write, 5)
