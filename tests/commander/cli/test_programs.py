"""All three programs: every command explains itself, completion works, settings are checked and shown by example."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from commander.cli.app import app as commander_app
from sentry_asic.cli import app as asic_app
from sentry_rig.cli import app as rig_app
from tests.commander.cli.conftest import Shell, short_folder
from tests.e2e.processes import Farm, farm_at

PROGRAMS: dict[str, typer.Typer] = {"commander": commander_app, "sentry-rig": rig_app, "sentry-asic": asic_app}


def group_of(app: typer.Typer) -> Any:
    """As the program builds it. Any: its classes have no public name."""
    return typer.main.get_command(app)


def commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands that do something, with the words that call them."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
    for name, one in (inner or {}).items():
        yield from commands(one, (*words, name))


ALL = [found for program, app in PROGRAMS.items() for found in commands(group_of(app), (program,))]


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_every_command_explains_itself(words: tuple[str, ...], command: Any) -> None:
    """It, each of its options and each of its arguments has a sentence."""
    assert command.help
    assert command.help.strip().endswith((".", "`")), command.help
    silent = [one.name for one in command.params if not getattr(one, "help", None)]
    assert silent == []


def test_every_list_has_json() -> None:
    """And everything that shows one thing, too."""
    showing = {"list", "show", "status", "check", "drift", "events", "probe", "scan", "hardware", "guard"}
    showing |= {"totals", "top", "energy", "plan", "usage", "verify", "repair"}
    without = [
        " ".join(words)
        for words, command in ALL
        if words[-1] in showing and "--json" not in {option for one in command.params for option in one.opts}
    ]
    assert [one for one in without if not one.endswith("config check")] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(nobody: Shell, program: str) -> None:
    """Its name and the version, in a place without a farm too."""
    assert re.fullmatch(rf"{program} \d+\.\d+\.\d+\S*\n", nobody.out("--version", program=program))


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(nobody: Shell, program: str) -> None:
    """Every group is listed; without words it is the same list."""
    told = nobody.out("--help", program=program, COLUMNS="80")
    for name in group_of(PROGRAMS[program]).commands:
        assert re.search(rf"\b{name}\b", told)
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize(
    ("shell_name", "program", "typed", "candidate"),
    [
        ("bash", "commander", "dev", "devices"),
        ("zsh", "commander", "devices li", "list"),
        ("fish", "commander", "devices list --st", "--state"),
        ("bash", "commander", "history pl", "plan"),
        ("zsh", "commander", "history rig-7 --me", "--metric"),
        ("bash", "commander", "history show rig-7 --ra", "--rate"),
        ("bash", "sentry-rig", "en", "enrol"),
        ("bash", "sentry-asic", "relay cy", "cycle"),
    ],
)
def test_completion(nobody: Shell, shell_name: str, program: str, typed: str, candidate: str) -> None:
    """The shell asks as it does on a tab, and gets the word."""
    words = f"{program} {typed}"
    asked = {
        f"_{program.replace('-', '_').upper()}_COMPLETE": f"complete_{shell_name}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(typed.split())),
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": typed.split()[-1],
    }
    done = nobody.run(program=program, **asked)
    assert done.returncode == 0, done.stderr
    assert candidate in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_config_example(nobody: Shell, program: str) -> None:
    """Valid TOML with a comment for every key."""
    text = nobody.out("config", "example", program=program)
    assert tomllib.loads(text)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ =", line):
            assert lines[number - 1].startswith("# "), line


def test_config_check(tmp_path: Path) -> None:
    """A good farm; an unknown key and a wrong value with their line; a certificate that is not there; no CA."""
    home = tmp_path / "farm"
    shell = Shell(Farm(home))
    shell.out("init", "--listen", "127.0.0.1")
    file = home / "commander" / "commander.toml"
    good = file.read_text()
    assert shell.out("config", "check").count("is good") == 2
    for wrong, said in {
        'farm = "x"\ncolour = "red"\n': "line 2: unknown key `colour`",
        "[power]\noff_s = 5\n": "line 2: `power.off_s`",
        '[listen]\npost = "127.0.0.1:1"\nhttp = "0.0.0.0:8440"\n': "in the clear",
        '[listen]\nhttp_certificate = "/nowhere/c.pem"\nhttp_key = "/nowhere/k.pem"\n': "listen.http_certificate",
        "farm = \n": "line 1",
    }.items():
        file.write_text(wrong)
        error = shell.refused("config", "check")
        assert said in error, error
        assert str(file) in error
    file.write_text(good)
    (home / "commander" / "ca" / "intermediate.pem").unlink()
    assert "intermediate.pem" in shell.refused("config", "check")


def test_the_root_goes_into_a_safe(tmp_path: Path) -> None:
    """The root's key leaves the machine whole and private, the farm's settings and CA stay good, and a second time is refused."""
    shell, away = Shell(Farm(tmp_path / "farm")), tmp_path / "stick" / "root.key"
    shell.out("init", "--listen", "127.0.0.1")
    key = (tmp_path / "farm" / "commander" / "ca" / "root.key").read_bytes()
    shell.out("ca", "export-root", str(away))
    assert away.read_bytes() == key
    assert away.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "farm" / "commander" / "ca" / "root.key").exists()
    assert shell.out("config", "check").count("is good") == 2
    assert "moved away before" in shell.refused("ca", "export-root", str(tmp_path / "again"))


def test_backup_and_restore(tmp_path: Path) -> None:
    """A farm comes back as it was: its CA, its tokens. What was there is kept aside; a running commander is not overwritten."""
    folders = short_folder()
    with farm_at(next(folders)) as farm:
        shell = Shell(farm)
        shell.out("tokens", "add", "before")
        target = tmp_path / "farm.tar"
        assert "checked" in shell.out("backup", str(target))
        assert target.stat().st_mode & 0o077 == 0
        assert "exists already" in shell.refused("backup", str(target))
        shell.out("tokens", "add", "after")
        assert "after" in shell.out("tokens", "list")
        assert "another commander works in" in shell.refused("restore", str(target))
        assert farm.stop("commander") == 0
        assert "nothing.tar" in shell.refused("restore", str(tmp_path / "nothing.tar"))
        said = shell.out("restore", str(target))
        assert "before-restore" in said
        farm.start_commander()
        names = shell.out("tokens", "list")
        assert "before" in names
        assert "after" not in names
    next(folders, None)
