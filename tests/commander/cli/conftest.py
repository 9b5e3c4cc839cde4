"""One running farm for all tests of the command line: a commander, an ASIC sentry, two simulated miners behind a board."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hall import furnish, hall_of
from tests.e2e.processes import BIN, ROOT, Farm, farm_at, until


@dataclass
class Shell:
    """Runs our programs as a person would; `farm` is what they speak to."""

    farm: Farm

    def run(self, *words: str, program: str = "commander", stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """An empty value takes a variable out of the environment."""
        given = {"GARRISON_HOME": str(self.farm.home), "NO_COLOR": "1", "COLUMNS": "200", **environment}
        env = {key: value for key, value in {**os.environ, **given}.items() if value}
        return subprocess.run(
            [BIN / program, *words], env=env, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=100, check=False
        )

    def out(self, *words: str, **more: Any) -> str:
        done = self.run(*words, **more)
        assert done.returncode == 0, f"{words}: {done.returncode} {done.stderr}"
        assert done.stderr == ""
        return done.stdout

    def refused(self, *words: str, code: int = 1, **more: Any) -> str:
        """What it says on stderr. Nothing is on stdout, and nobody sees a traceback."""
        done = self.run(*words, **more)
        assert done.returncode == code, f"{words}: {done.returncode} {done.stdout} {done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout == ""
        return done.stderr


def short_folder() -> Iterator[Path]:
    """A Unix socket's path has room for 107 bytes, and pytest's own folders take most of them."""
    folder = Path(tempfile.mkdtemp(prefix="garrison-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    folders = short_folder()
    with hall_of("modern", "old") as hall, farm_at(next(folders)) as farm:
        furnish(farm, hall)
        until("there is some history", lambda: len(farm.get("/devices/miner-1/history", metric="hashrate_hs")["points"]) > 2)
        yield Shell(farm)
    next(folders, None)


@pytest.fixture
def nobody(tmp_path: Path) -> Shell:
    """A home without a farm."""
    return Shell(Farm(tmp_path / "nothing"))
