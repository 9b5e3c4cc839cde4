"""Decisions about a rig: plain data in, plain data out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from garrison.words import DeviceState

MAX_BACKOFF_S = 60.0


# ---- what state is the rig in ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RigFacts:
    """What one look showed. The three facts of health are apart: a deaf API is not a dead miner. None: not known."""

    has_sheet: bool
    pause_wanted: bool = False
    alive: bool = False
    held: bool = False  # crashed too often; waits for a person or the end of the hold
    api: bool = False
    paused: bool | None = None
    hashrate_hs: float | None = None
    floor_hs: float = 0
    since_start_s: float | None = None
    grace_s: float = 180
    cards_missing: bool = False


def hashing(hashrate_hs: float | None, floor_hs: float) -> bool | None:
    """Whether the hashrate is above its floor. None without a figure: "no data" is not zero."""
    return None if hashrate_hs is None else hashrate_hs > 0 and hashrate_hs >= floor_hs


def judge_state(facts: RigFacts) -> DeviceState:
    if not facts.has_sheet:
        return DeviceState.IDLE
    if facts.paused or (facts.pause_wanted and not facts.alive):
        return DeviceState.PAUSED
    if not facts.alive:
        return DeviceState.IDLE if facts.held else DeviceState.STARTING
    young = facts.since_start_s is not None and facts.since_start_s < facts.grace_s
    above = hashing(facts.hashrate_hs, facts.floor_hs) if facts.api else None
    if above:
        return DeviceState.DEGRADED if facts.cards_missing else DeviceState.MINING
    if young:
        return DeviceState.STARTING
    if not facts.api:
        return DeviceState.DEGRADED  # it runs, and we cannot hear it
    if facts.hashrate_hs:
        return DeviceState.DEGRADED  # hashes, below the floor
    return DeviceState.IDLE


# ---- may a crashed miner be restarted ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    restarts_max: int = 5
    window_s: float = 1800
    hold_s: float = 3600
    backoff_s: float = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wait_s`: until the restart may happen, 0 for now. `held`: the budget is spent."""

    wait_s: float
    held: bool


def may_restart(restarts_ms: Sequence[int], crashed_ms: int, now_ms: int, budget: Budget) -> Verdict:
    """`restarts_ms`: when crashed miners were restarted, wall clock. A time ahead of now (the clock was set) counts as now."""
    past = [min(at, now_ms) for at in restarts_ms]
    recent = sorted(at for at in past if now_ms - at < budget.window_s * 1000)
    since_crash_s = max(0.0, (now_ms - crashed_ms) / 1000)
    if len(recent) >= budget.restarts_max:
        left_s = budget.hold_s - since_crash_s
        return Verdict(max(0.0, left_s), held=left_s > 0)
    backoff_s = min(MAX_BACKOFF_S, budget.backoff_s * 2 ** min(len(recent), 16))
    return Verdict(max(0.0, backoff_s - since_crash_s), held=False)


# ---- does a new sheet work ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """What is seen of a miner that runs a new sheet. `pools` and `pool`: "host:port"."""

    pools: tuple[str, ...]
    alive: bool
    crashes: int = 0
    api: bool = False
    pool: str | None = None
    connected: bool | None = None
    paused: bool | None = None
    hashrate_hs: float | None = None
    accepted: int | None = None
    rejected: int | None = None
    floor_hs: float = 0
    hashing_s: float = 0  # how long it has been seen connected and hashing
    patience_s: float = 0  # how long a share may take before hashing alone will do


MAX_TRIAL_CRASHES = 3


def judge_trial(trial: Trial) -> tuple[Literal["good", "wait", "bad"], str]:
    """And in words why. `good` is what a read showed: connected to a pool of the sheet, hashing, a share accepted.

    On a small rig a share may take longer than anybody waits: then hashing for `patience_s` without a rejected one will do.
    """
    if trial.crashes >= MAX_TRIAL_CRASHES:
        return "bad", f"the miner ended by itself {trial.crashes} times"
    if not trial.alive:
        return "wait", "the miner does not run"
    if not trial.api:
        return "wait", "the miner runs, its API does not answer"
    if not trial.pool or not trial.connected:
        return "wait", "the miner has no connection to a pool"
    if trial.pool.casefold() not in {pool.casefold() for pool in trial.pools}:
        return "wait", f"the miner is connected to {trial.pool}, which is none of the sheet's pools"
    if trial.paused:
        return "wait", "the miner is paused"
    if not hashing(trial.hashrate_hs, trial.floor_hs):
        return "wait", "the miner is connected and does not hash"
    if trial.rejected and not trial.accepted:
        return "wait", f"the pool rejects every share ({trial.rejected} so far)"
    if not trial.accepted and trial.hashing_s < trial.patience_s:
        return "wait", "the miner hashes, and the pool has accepted no share yet"
    return "good", f"mines on {trial.pool}"


# ---- what a sheet amounts to -------------------------------------------------------------------------------


def fingerprint(program: str, version: str, sha256: str, executable: str, arguments: Sequence[str]) -> str:
    """The same for two sheets that would run the same thing: only a change of it restarts a miner."""
    digest = hashlib.sha256()
    for part in (program, version, sha256.lower(), executable, *arguments):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()
