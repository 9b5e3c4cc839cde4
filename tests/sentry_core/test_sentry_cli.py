"""The commands that every sentry has, as a person meets them: what they print, and how they fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from garrison import settings
from sentry_core import cli, guard
from tests.session.a_sentry import Settings
from tests.session.farm import farm
from tests.session.processes import REPO, environment, python


def call(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.session.a_sentry", *words]
    if words[0] != "config" or words[1] == "check":
        command += ["--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPO, env=environment(), check=False)


async def test_enrol_status_and_check(tmp_path: Path) -> None:
    """Enrolling writes identity, settings and guard; status and check then tell of them; a second time is refused."""
    async with farm(tmp_path / "farm") as it:
        joined = await python(tmp_path, "tests.session.a_sentry", "enrol", it.token(), "--home", str(tmp_path))
        out, _ = await joined.communicate()
        assert joined.returncode == 0, (tmp_path / "log").read_text()
        assert b"enrolled as sentry" in out
        again = await python(tmp_path, "tests.session.a_sentry", "enrol", it.token(), "--home", str(tmp_path))
        await again.communicate()
        assert again.returncode == 1
    said = (tmp_path / "log").read_text()
    assert "error: this sentry is enrolled already" in said
    assert "hint: " in said
    assert "Traceback" not in said
    state = tmp_path / "sentry-test"
    assert settings.load(state / "sentry.toml", Settings) == Settings()
    assert guard.load(state) == guard.Guard()
    shown = json.loads(call(tmp_path, "status", "--json").stdout)
    assert shown["enrolled"] is True
    assert shown["running"] is False
    assert len(shown["fingerprint"]) == 39
    assert call(tmp_path, "config", "check").returncode == 0
    assert json.loads(call(tmp_path, "guard", "--json").stdout)["max_power_cycles_per_hour"] == 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run",), "error: this sentry is not enrolled in a farm"),
        (("enrol", "nonsense"), "error: this is not a join token"),
        (("config", "check"), "error: no settings at"),
        (("guard",), "error: there is no guard file"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    """One line what, one line what to do, exit code 1, no traceback."""
    done = call(tmp_path, *words)
    assert done.returncode == 1
    assert text in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_nobody(tmp_path: Path) -> None:
    """Not enrolled: exit code 1, and JSON with nulls."""
    done = call(tmp_path, "status", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["sentry"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("journal = [", "not valid TOML"),
        ("[journal]\ncap = 5", "line 2: unknown key `journal.cap`"),
        ("[journal]\ncap_mb = 1", "line 2"),
        ('[log]\nlevel = "loud"', "line 2"),
    ],
)
def test_broken_settings(tmp_path: Path, text: str, said: str) -> None:
    """`run` and `config check` name the file and the line."""
    (tmp_path / "sentry-test").mkdir()
    (tmp_path / "sentry-test" / "sentry.toml").write_text(text)
    for words in (("config", "check"), ("run",)):
        done = call(tmp_path, *words)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_the_example_is_complete(tmp_path: Path) -> None:
    """It can be read back, and is what the defaults are."""
    assert settings.loads(call(tmp_path, "config", "example").stdout, Settings) == Settings()


@pytest.mark.parametrize(
    ("argv", "home"),
    [
        (["run"], Path()),
        (["run", "--home", "/x"], Path("/x")),
        (["run", "--home=/x"], Path("/x")),
        (["run", "--home"], None),
        (["run", "--home="], None),
        (["run", "--help"], None),
        (["--help"], None),
        (["status"], None),
        (["enrol", "run"], None),
        ([], None),
    ],
)
def test_a_plain_run_is_known(argv: list[str], home: Path | None) -> None:
    """Without typer; all else is typer's to read."""
    assert cli.plain_run(argv) == home
