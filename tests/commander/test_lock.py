"""Tests of the lock: one commander a home, and none that died keeps it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from commander.lock import held_alone
from garrison.faults import Conflict, Unavailable

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from commander.lock import held_alone
with held_alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second holder is refused with words, also in this process; another home is another matter; afterwards it is free."""
    with held_alone(tmp_path / "commander"):
        with pytest.raises(Conflict, match="another commander works"), held_alone(tmp_path / "commander"):
            pass
        with held_alone(tmp_path / "other"):
            pass
    with held_alone(tmp_path / "commander"):
        pass
    assert (tmp_path / "commander.lock").stat().st_mode & 0o777 == 0o600


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    """Another process is named by its number; when it is killed the lock is free at once."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "commander")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Conflict, match=f"process {holder.pid}"), held_alone(tmp_path / "commander"):
            pass
        holder.kill()
        holder.wait()
    with held_alone(tmp_path / "commander"):
        pass


def test_a_place_that_cannot_be_locked(tmp_path: Path) -> None:
    """Unavailable names the file."""
    (tmp_path / "commander.lock").mkdir()
    with pytest.raises(Unavailable, match=r"commander\.lock"), held_alone(tmp_path / "commander"):
        pass
