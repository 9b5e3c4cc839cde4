"""`sentry-rig` as a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def sentry_rig(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON")} | {
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-m", "sentry_rig.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60, check=False)


def test_hardware_as_json_and_as_a_table() -> None:
    """Facts, values by component and NVIDIA cards; one object, with null for what is not known."""
    done = sentry_rig("hardware", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["facts"]["hostname"]
    assert found["values"]["machine"]["memory_total_bytes"] > 0
    assert found["fault"] is None
    assert isinstance(found["nvidia"]["cards"], list)
    table = sentry_rig("hardware")
    assert table.returncode == 0
    assert found["facts"]["hostname"] in table.stdout


def test_log_shows_the_end_without_control_characters(tmp_path: Path) -> None:
    """A miner's output is a stranger's text: nothing in it reaches the terminal as a command."""
    folder = tmp_path / "sentry-rig" / "miner"
    folder.mkdir(parents=True)
    (folder / "miner.log").write_text("first\n\x1b[2Jsecond\nthird \x07\xff\n", encoding="latin-1")
    done = sentry_rig("log", "--home", str(tmp_path), "--lines", "2")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert [line.lstrip("�[2J") for line in done.stdout.splitlines()] == ["second", "third ��"]


@pytest.mark.parametrize(("arguments", "word"), [(("log",), "no mining program has run"), (("run",), "enrol")])
def test_errors_say_what_to_do(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    """On stderr, exit code 1, no traceback."""
    done = sentry_rig(*arguments, "--home", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_of_a_rig(tmp_path: Path) -> None:
    """The example is complete and good; an unknown key is refused with its line."""
    example = sentry_rig("config", "example").stdout
    assert "restarts_max = 5" in example
    (tmp_path / "sentry-rig").mkdir()
    file = tmp_path / "sentry-rig" / "sentry.toml"
    file.write_text(example.replace("restarts_max", "restart_max"))
    done = sentry_rig("config", "check", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "restart_max" in done.stderr
    assert "line" in done.stderr
