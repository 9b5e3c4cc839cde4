"""What goes wrong on the command line: one line that says what, one that says what to do, on stderr, and never a traceback."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.commander.cli.conftest import Shell, short_folder
from tests.e2e.processes import Farm
from tests.ports import free_ports

assert sys.platform != "win32"  # the socket is not there; mypy leaves out the rest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("devices", "show", "nothing"), "no device 'nothing'"),
        (("devices", "show", "127.0.0.1"), "miner-2"),  # two devices have that address
        (("devices", "show", "a/b"), "no id and no name"),
        (("devices", "show", "x?y#z%2Fq"), "no device 'x?y#z%2Fq'"),
        (("devices", "list", "--state", "tired"), "'mining'"),
        (("devices", "list", "--kind", "cat"), "'asic'"),
        (("devices", "add", "no such host!", "--sentry", "vm"), "is not an address"),
        (("devices", "add", "127.0.0.9", "--sentry", "x", "--password-file", "/nowhere/pw"), "cannot read the password"),
        (("history", "miner-1", "--metric", "mood"), "hashrate_hs"),
        (("history", "miner-1", "--since", "yesterday"), "24h"),
        (("actions", "show", "0000000"), "no order"),
        (("order", "explode", "miner-1"), "'reboot'"),
        (("sheets", "show", "nothing"), "no flight sheet"),
        (("relays", "show", "nothing"), "no relay board"),
        (("relays", "add", "x", "--board", "fake", "--address", "a", "--sentry", "x", "--option", "unit"), "KEY=VALUE"),
        (("power", "check", "miner-1", "--kind", "sideways"), "'cycle'"),
        (("tokens", "add", "x", "--role", "king"), "administrator"),
        (("sentries", "token", "--kind", "cat"), "rig, asic"),
        (("backup", "/nowhere/at/all/x.tar"), "no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused_by_the_commander(shell: Shell, words: tuple[str, ...], said: str) -> None:
    """The sentence names what was wrong, or what there is instead."""
    error = shell.refused(*words)
    assert error.startswith("error: ")
    assert said in error, error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("devices", "list", "--colour"), "--colour"),
        (("devices", "explode"), "explode"),
        (("devices", "show"), "DEVICE"),
        (("tokens", "add", "x", "--days", "0"), "--days"),
        (("power", "cycle", "miner-1", "--off-s", "soon"), "--off-s"),
        (("watch", "--every", "0"), "--every"),
        (("init", "--post-port", "70000"), "--post-port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words(nobody: Shell, words: tuple[str, ...], said: str) -> None:
    """A usage error: code 2, the word that was wrong, and where the help is; nothing was asked of anybody."""
    error = nobody.refused(*words, code=2)
    assert said.lower() in error.lower()
    assert "--help" in error


@pytest.mark.parametrize("words", [("status",), ("watch", "--rounds", "1")])
def test_no_farm(nobody: Shell, words: tuple[str, ...]) -> None:
    """A wrong home: which it was, and how to name another."""
    error = nobody.refused(*words)
    assert f"there is no farm at {nobody.farm.home / 'commander'}" in error
    assert "GARRISON_HOME" in error


def test_no_farm_to_run_or_check(nobody: Shell) -> None:
    """`run` and `config check` say that nobody wrote settings there."""
    for words in (("run",), ("config", "check")):
        assert "no settings at" in nobody.refused(*words)


def test_not_running(tmp_path: Path) -> None:
    """A farm whose commander does not run: the hint says how to start it. `watch` keeps trying."""
    shell = Shell(Farm(tmp_path / "farm"))
    shell.out("init", "--listen", "127.0.0.1")
    for words in (("status",), ("sentries", "token")):
        error = shell.refused(*words)
        assert "does not answer" in error
        assert "commander run" in error
    assert "trying again" in shell.out("watch", "--rounds", "2", "--every", "0.5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_another_users_farm(shell: Shell) -> None:
    """The socket's mode is the login; who may not open it learns that, not that nobody runs."""
    socket = shell.farm.home / "commander" / "commander.sock"
    socket.chmod(0)
    try:
        assert "another user" in shell.refused("status")
    finally:
        socket.chmod(0o600)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://127.0.0.1:1", "does not answer"),
        ("http://10.1.2.3:8440", "in the clear"),
        ("commander.example", "not an address"),
        ("http://[::1", "not an address"),
        ("ftp://127.0.0.1", "not an address"),
    ],
)
def test_wrong_url(nobody: Shell, url: str, said: str) -> None:
    """What cannot be an address, what would send the token in the clear, and where nobody answers."""
    assert said in nobody.refused("--url", url, "status", GARRISON_TOKEN="gsn-x")


def test_token_troubles(nobody: Shell, tmp_path: Path) -> None:
    """No token, a file that cannot be read, one that is no text, one with two words."""
    url = ("--url", "http://127.0.0.1:1")
    assert "needs a token" in nobody.refused(*url, "status", GARRISON_TOKEN="")
    missing = tmp_path / "missing"
    assert f"cannot read the token from {missing}" in nobody.refused(*url, "--token-file", str(missing), "status")
    assert "cannot read the token" in nobody.refused(*url, "--token-file", str(tmp_path), "status")
    (binary := tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in nobody.refused(*url, "--token-file", str(binary), "status")
    (words := tmp_path / "words").write_text("not a token")
    assert "not a token" in nobody.refused(*url, "--token-file", str(words), "status")
    (empty := tmp_path / "empty").write_text("\n")
    assert "needs a token" in nobody.refused(*url, "--token-file", str(empty), "status")


def test_init(tmp_path: Path) -> None:
    """A second `init` changes nothing; one with an address that makes no sense makes nothing."""
    shell = Shell(Farm(tmp_path / "farm"))
    assert "is not host:port" in shell.refused("init", "--listen", "")
    assert not (tmp_path / "farm").exists()
    said = shell.out("init", "--farm", "north", "--listen", "127.0.0.1", "--http-port", "0")
    assert "north" in said
    home = tmp_path / "farm" / "commander"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert "there is a farm" in shell.refused("init", "--farm", "south")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert {path.stat().st_mode & 0o077 for path in [home, *home.rglob("*")]} == {0}
    assert "is good" in shell.out("config", "check")


def test_second_commander(shell: Shell) -> None:
    """Two on one farm would both give orders: the second does not start."""
    assert "another commander works in" in shell.refused("run")


def test_port_in_use(tmp_path: Path) -> None:
    """It says which setting to change; for each of its three ports."""
    folders = short_folder()
    shell = Shell(Farm(next(folders)))
    taken, free, other = free_ports(3)
    with socket.create_server(("127.0.0.1", taken)):
        for post, enrol, http, key in (
            (taken, free, other, "listen.post"),
            (free, taken, other, "listen.enrol"),
            (free, other, taken, "listen.http"),
        ):
            ports = ("--post-port", str(post), "--enrol-port", str(enrol), "--http-port", str(http))
            home = shell.farm.home / key
            shell.out("--home", str(home), "init", "--listen", "127.0.0.1", "--advertise", "127.0.0.1", *ports)
            done = shell.run("--home", str(home), "run")
            assert done.returncode == 1
            assert key in done.stderr
            assert str(taken) in done.stderr
            assert "Traceback" not in done.stderr
    next(folders, None)
