"""The sentry is killed at any moment; the miner lives on, is adopted, and there are never two."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from garrison.words import DEVICE_STATE_CODES, DeviceState
from tests.sentry_rig.stands import SOON_S, miners

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the Windows side was not run")

ROOT = Path(__file__).parents[2]
MINING = DEVICE_STATE_CODES[DeviceState.MINING]


class Sentry:
    """A mini sentry as a process of its own."""

    def __init__(self, state: Path, *given: str) -> None:
        self._out = state.parent / f"out-{time.monotonic_ns()}"
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}"}
        with self._out.open("wb") as out:
            command = [sys.executable, "-m", "tests.sentry_rig.mini_sentry", str(state), *given]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=env)

    def said(self) -> list[dict[str, Any]]:
        lines = self._out.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def until(self, true: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        ends = time.monotonic() + 2 * SOON_S
        while time.monotonic() < ends:
            for line in self.said():
                if true(line):
                    return line
            assert self.process.poll() is None, f"ended before {what}: {self._out.read_text()}"
            time.sleep(0.05)
        raise AssertionError(f"never {what}: {self._out.read_text()}")

    def mining(self) -> None:
        self.until(lambda line: "look" in line and line["look"]["state"] == MINING, "mining")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def sentry(state: Path, *given: str) -> Iterator[Sentry]:
    made = Sentry(state, *given)
    try:
        yield made
    finally:
        made.kill()


def test_a_miner_outlives_its_sentry_and_is_adopted(state: Path) -> None:
    """kill -9 of the sentry: the same process mines on, unwatched, and the next sentry watches it again."""
    with sentry(state, "one", "pool.example") as first:
        first.until(lambda line: line.get("outcome") == "succeeded", "the sheet")
        first.mining()
        pid = miners(state)
        assert len(pid) == 1
    assert miners(state) == pid
    with sentry(state) as second:
        adopted = second.until(lambda line: line.get("event") == "miner_adopted", "adoption")
        assert adopted["pid"] == str(pid[0])
        second.mining()
        assert miners(state) == pid
        assert not [line for line in second.said() if line.get("event") == "miner_started"]


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_there_is_one_miner(state: Path, seed: int) -> None:
    """While it starts, applies and proves a sheet: whatever was on disk and running then, one miner mines in the end."""
    chance = random.Random(seed)
    with sentry(state, "one", "pool.example") as first:
        first.until(lambda line: line.get("outcome") == "succeeded", "the sheet")
    for turn in range(4):
        with sentry(state, f"turn-{turn}", f"pool-{turn}.example") as made:
            made.until(lambda line: "pid" in line, "a start")
            time.sleep(chance.uniform(0.2, 1.6))
        assert len(miners(state)) <= 1
    with sentry(state) as last:
        last.mining()
        assert len(miners(state)) == 1
