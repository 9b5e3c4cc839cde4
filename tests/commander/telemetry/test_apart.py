"""The process that seals and merges: what it makes, and what happens when it or the commander ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from commander.lock import held_alone
from commander.telemetry import apart
from commander.telemetry.apart import Apart
from commander.telemetry.duties import Move, Seal
from commander.telemetry.levels import DAY_MS
from commander.telemetry.members import FARM
from commander.telemetry.totals_store import Group
from garrison.clock import ManualClock
from garrison.faults import Unavailable
from tests.commander.telemetry.history_post import BEGUN_MS, KEYS, Post, damaged, history_at, post_at

assert sys.platform != "win32"  # it is killed by signals here

DAY_MINUTES = 26 * 60


@contextlib.asynccontextmanager
async def farm(folder: Path) -> AsyncIterator[Post]:
    """A day and more of looks that nobody has sealed."""
    async with post_at(folder, ManualClock(BEGUN_MS), apart=True) as post:
        await post.live(DAY_MINUTES)
        yield post


def process_of(post: Post) -> Apart:
    found = post.telemetry._upkeep._apart
    assert found is not None
    return found


async def test_it_seals_and_merges(tmp_path: Path) -> None:
    """What the process made is what a thread would have made; it goes when it is let go, and the next round starts another."""
    async with farm(tmp_path / "history") as post:
        assert not process_of(post).pids
        done = await post.telemetry.tidy()
        assert (done.days, done.batches, done.damaged) == (12, 1, 0)
        assert done.frames > 600
        assert done.chunks >= 12 * 12
        (first,) = process_of(post).pids
        await post.all_is_there()
        await post.totals_are_right(BEGUN_MS + DAY_MS)
        process_of(post)._let_go()
        await post.live(30)
        await post.telemetry.tidy()
        assert first not in process_of(post).pids
        await post.all_is_there()
    assert damaged(tmp_path / "history") == [None] * 4


async def test_it_counts_by_the_groups_of_now(tmp_path: Path) -> None:
    """Devices that are put into a rack between two rounds of one process are in the rack's totals after the second."""

    async def racked() -> AsyncIterator[tuple[int, tuple[Group, ...]]]:
        for key in KEYS:
            yield key, (FARM, ("rack", "r1"))

    async with farm(tmp_path / "history") as post:
        await post.telemetry.tidy()
        post.telemetry.follow(racked)
        await post.live(5)
        await post.telemetry.tidy()
        begun_ms = post.clock.now_ms()
        await post.live(60)
        await post.telemetry.tidy()
        found = await post.telemetry.aggregate("rack", "hashrate_hs", "devices", begun_ms, begun_ms + 1_800_000, 1_800_000)
        assert [(group.name, group.values.max()) for group in found.groups] == [("r1", 12.0)]


async def test_killed_in_the_middle(tmp_path: Path) -> None:
    """The order fails with what happened, the commander goes on, and the next round does it."""
    async with farm(tmp_path / "history") as post:
        tidying = asyncio.create_task(post.telemetry.tidy())
        while not process_of(post).pids:  # noqa: ASYNC110  # it is started by the tidying
            await asyncio.sleep(0.01)
        os.kill(process_of(post).pids[0], signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"seals and merges the history ended \(exit -9\)"):
            await tidying
        await post.live(10)
        await post.telemetry.tidy()
        await post.all_is_there()
        await post.totals_are_right(BEGUN_MS + DAY_MS)
    assert damaged(tmp_path / "history") == [None] * 4


async def test_only_the_commander_ends_it(tmp_path: Path) -> None:
    """SIGTERM and SIGINT, which systemd and a terminal send to all processes of a service, are the commander's to decide on."""
    async with farm(tmp_path / "history") as post:
        await post.telemetry.tidy()
        (pid,) = process_of(post).pids
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        await post.live(30)
        assert (await post.telemetry.tidy()).frames
        assert process_of(post).pids == [pid]


async def test_given_up_while_it_works(tmp_path: Path) -> None:
    """Who cancels does not leave an answer behind that the next order would take for its own; closing waits for the round."""
    async with farm(tmp_path / "history") as post:
        tidying = asyncio.create_task(post.telemetry.tidy())
        while not process_of(post).pids:  # noqa: ASYNC110  # it is started by the tidying
            await asyncio.sleep(0.01)
        tidying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tidying
        await post.telemetry.tidy()
        await post.all_is_there()
        pids = process_of(post).pids
        assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_faults_arrive_as_what_they_are(tmp_path: Path) -> None:
    """An order that cannot be carried out fails in the commander with its fault, and the process goes on."""
    async with history_at(tmp_path / "history", ManualClock(BEGUN_MS)):
        pass
    (tmp_path / "history" / "5min-2027-01.db").mkdir()
    worker = Apart(tmp_path / "history")
    try:
        with pytest.raises(Unavailable, match=r"5min-2027-01\.db"):
            await worker.carry_out(Move(1, BEGUN_MS, BEGUN_MS, BEGUN_MS))
        (pid,) = worker.pids
        assert not (await worker.carry_out(Seal("s1", BEGUN_MS, 0, None, BEGUN_MS, 0))).written
        assert worker.pids == [pid]
    finally:
        await worker.close()


def test_whoever_comes_next_waits(tmp_path: Path) -> None:
    """A commander that was killed leaves a process that still works: the home is taken when that has ended, not before."""
    home = tmp_path / "commander"
    asyncio.run(_made(home / "history"))
    with subprocess.Popen(
        [sys.executable, "-m", apart.__name__, str(home / "history"), "plain", "info"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as left:
        assert left.stdin is not None
        assert left.stdout is not None
        left.stdin.write(apart._framed(msgspec.msgpack.encode(Seal("s1", BEGUN_MS, 0, None, BEGUN_MS, 0))))
        left.stdin.flush()
        assert left.stdout.read(4)  # so it has the lock
        holding = subprocess.Popen(["/bin/sleep", "0.5"], stdin=left.stdin)  # its stdin ends when this does
        left.stdin.close()
        begun_s = time.monotonic()
        with held_alone(home):
            assert time.monotonic() - begun_s > 0.4
            assert left.wait(5) == 0
        assert holding.wait(5) == 0


async def _made(folder: Path) -> None:
    async with history_at(folder, ManualClock(BEGUN_MS)):
        pass
