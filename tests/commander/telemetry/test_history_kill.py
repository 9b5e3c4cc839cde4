"""kill -9 of a real history while it appends, seals, merges and removes: nothing that was acknowledged is lost, or there twice."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from tests.commander.telemetry import a_history
from tests.commander.telemetry.a_history import BEGUN_MS, HOUR_MS, SPANS, Life
from tests.commander.telemetry.history_ledger import Ledger, check_files, unread

ROOT = Path(__file__).parents[3]
WHILE_S = {"append": 0.2, "seal": 0.2, "merge": 0.3, "retire": 0.02, "start": 0.1}
"""About how long each takes: the kill comes within."""

LIVES_OF_A_BOOT = 5


@pytest.mark.timeout(120)
def test_eight_kills(tmp_path: Path) -> None:
    """Eight lives, at least one of which ends in each of the four."""
    kill_and_check(tmp_path, 8, random.randrange(2**32))


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_two_hundred_kills(tmp_path: Path) -> None:
    """Two hundred, for `make soak`: a year and more passes, so that files of all three levels come and go."""
    kill_and_check(tmp_path, 200, random.randrange(2**32))


def kill_and_check(home: Path, rounds: int, seed: int) -> None:
    """After each life a copy of what it left is opened and held against the ledger; the next life goes on with the original."""
    chance = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    folder, ledger, ends = home / "history", Ledger(), Counter[str]()
    begun_s = time.monotonic()
    number = 0
    while number < rounds or (min(ends[phase] for phase in WHILE_S) == 0 and number < 3 * rounds):
        aim = min(WHILE_S, key=lambda phase: (ends[phase], chance.random()))
        boot = 1 + number // LIVES_OF_A_BOOT
        ends[ledger.read(one_life(home, folder, life(ledger, boot, chance), aim, chance))] += 1
        copy = home / f"copy-{number}"
        shutil.copytree(folder, copy)
        asyncio.run(check(copy, ledger, boot))
        shutil.rmtree(copy)
        number += 1
    took_s, days = time.monotonic() - begun_s, (ledger.now_ms - BEGUN_MS) / a_history.DAY_MS
    print(f"{number} kills in {took_s:.0f} s: {dict(ends)}; {ledger.frames} frames in {days:.0f} days")  # noqa: T201  # the figures
    assert all(ends[phase] for phase in WHILE_S)


def life(ledger: Ledger, boot: int, chance: random.Random) -> Life:
    seqs = {post: max(span.last for span in spans) for (post, number), spans in ledger.sent.items() if number == boot}
    again = unread(ledger.open.values())
    return Life(chance.randrange(2**32), ledger.now_ms + HOUR_MS, boot, seqs, again)


def one_life(home: Path, folder: Path, given: Life, aim: str, chance: random.Random) -> str:
    """Until it is killed, at some moment of the phase that is aimed at; what it told."""
    (home / "life.json").write_bytes(msgspec.json.encode(given))
    command = [sys.executable, "-m", a_history.__name__, str(folder), str(home / "life.json")]
    told, errors = home / "told", home / "errors"
    with told.open("wb") as out, errors.open("wb") as err, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err) as process:
        try:
            wait_for(aim, 1 if aim == "start" else chance.randrange(1, 4), told, process)
            time.sleep(chance.uniform(0, WHILE_S[aim]))
            assert process.poll() is None, errors.read_text()[-3000:]
        finally:
            process.kill()
    return told.read_text()


def wait_for(phase: str, times: int, told: Path, process: subprocess.Popen[bytes]) -> None:
    """Until it has begun so often."""
    end_s = time.monotonic() + 30
    with told.open() as lines:
        while time.monotonic() < end_s and process.poll() is None:
            for line in lines:
                times -= line == f"phase {phase}\n"
                if times <= 0:
                    return
            time.sleep(0.002)


async def check(folder: Path, ledger: Ledger, boot: int) -> None:
    telemetry = await Telemetry.open(folder, ManualClock(ledger.now_ms), spans=SPANS)
    telemetry.follow(a_history.groups)
    try:
        await ledger.check(telemetry, boot)
    finally:
        await telemetry.close()
    check_files(folder, ledger.now_ms)
