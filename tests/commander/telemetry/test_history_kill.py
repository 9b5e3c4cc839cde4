"""kill -9 of a real history while it appends, seals, merges and removes: nothing that was acknowledged is lost, or there twice."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from commander.lock import held_by_worker
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from tests.commander.telemetry import a_history
from tests.commander.telemetry.a_history import BEGUN_MS, HOUR_MS, SPANS, Life
from tests.commander.telemetry.history_ledger import Ledger, check_files, unread

ROOT = Path(__file__).parents[3]
WHILE_S = {"append": 0.05, "seal": 0.4, "merge": 0.2, "retire": 0.001, "start": 0.08, "remove": 0.0003}
"""About how long each takes: the kill comes within. A file is removed once a week."""

LIVES_OF_A_BOOT = 5


@pytest.mark.timeout(120)
def test_eight_kills(tmp_path: Path) -> None:
    """Eight lives, at least one of which ends in each of the phases that come every day."""
    kill_and_check(tmp_path, 8, [phase for phase in WHILE_S if phase != "remove"], random.randrange(2**32))


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_two_hundred_kills(tmp_path: Path) -> None:
    """Two hundred, for `make soak`: a year and more passes, so that files of all three levels come and go."""
    kill_and_check(tmp_path, 200, list(WHILE_S), random.randrange(2**32))


def kill_and_check(home: Path, rounds: int, phases: Sequence[str], seed: int) -> None:
    """After each life a copy of what it left is opened and held against the ledger; the next life goes on with the original."""
    chance = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    folder, ledger, ends = home / "history", Ledger(), Counter[str]()
    begun_s = time.monotonic()
    number = 0
    while number < rounds or (min(ends[phase] for phase in phases) == 0 and number < 2 * rounds):
        aim = min(phases, key=lambda phase: (ends[phase], chance.random()))
        boot = 1 + number // LIVES_OF_A_BOOT
        ends[ledger.read(one_life(home, folder, life(ledger, boot, aim, chance)))] += 1
        copy = home / f"copy-{number}"
        shutil.copytree(folder, copy)
        asyncio.run(check(copy, ledger, boot))
        shutil.rmtree(copy)
        number += 1
    took_s, days = time.monotonic() - begun_s, (ledger.now_ms - BEGUN_MS) / a_history.DAY_MS
    print(f"{number} kills in {took_s:.0f} s: {dict(ends)}; {ledger.frames} frames in {days:.0f} days")  # noqa: T201  # the figures
    assert all(ends[phase] for phase in phases)


def life(ledger: Ledger, boot: int, aim: str, chance: random.Random) -> Life:
    """One that ends at some moment of the phase that is aimed at, or just after it."""
    seqs = {post: max(span.last for span in spans) for (post, number), spans in ledger.sent.items() if number == boot}
    nth = 1 if aim in ("start", "remove") else chance.randrange(1, 3)
    again = unread(ledger.open.values())
    after_s, apart = chance.uniform(0, WHILE_S[aim]), chance.random() < 0.5
    return Life(chance.randrange(2**32), ledger.now_ms + HOUR_MS, boot, seqs, again, aim, nth, after_s, apart)


def one_life(home: Path, folder: Path, given: Life) -> str:
    """What it told until it was killed."""
    (home / "life.json").write_bytes(msgspec.json.encode(given))
    command = [sys.executable, "-m", a_history.__name__, str(folder), str(home / "life.json")]
    told, errors = home / "told", home / "errors"
    with told.open("wb") as out, errors.open("wb") as err:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=err, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, errors.read_text()[-3000:]
    with held_by_worker(folder.parent):  # as whoever comes next: the process apart may have an order in hand
        pass
    return told.read_text()


async def check(folder: Path, ledger: Ledger, boot: int) -> None:
    telemetry = await Telemetry.open(folder, ManualClock(ledger.now_ms), spans=SPANS)
    telemetry.follow(a_history.groups)
    try:
        await ledger.check(telemetry, boot)
    finally:
        await telemetry.close()
    check_files(folder, ledger.now_ms)
