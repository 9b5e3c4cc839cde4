"""`make run`: one command from nothing to a farm; Ctrl-C ends all of it; the next start goes on with the same farm."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.processes import ROOT, Farm, until
from tests.ports import free_ports

pytestmark = pytest.mark.timeout(300)
ON_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes standard input the terminal of the new session, so that a Ctrl-C typed there reaches the program."""


def test_run_stop_and_run_again(tmp_path: Path) -> None:
    """Without a terminal: a farm with this machine's rig sentry, until SIGTERM; with one: the live table, until Ctrl-C. Both
    end with code 0 and leave no process behind; the second start finds the same farm, sentry and device."""
    farm = Farm(tmp_path)
    command = [sys.executable, str(ROOT / "tools" / "quickstart.py"), "run", "--ports-from", str(free_ports(3)[0])]
    try:
        first = farm.start("quickstart", command)
        until("the farm runs", lambda: farm.alive("quickstart") and "the farm runs" in farm.log("quickstart"))
        rig = until("this machine is seen", lambda: farm.device("rig"))
        sentry = farm.sentry("rig")
        root = (tmp_path / "commander" / "ca" / "root.pem").read_bytes()
        children = psutil.Process(first.pid).children(recursive=True)
        assert len(children) == 2
        assert farm.stop("quickstart") == 0
        assert left(children) == []

        shown = on_terminal_until(farm, command, rig["name"])
        assert "error" not in shown
        assert (tmp_path / "commander" / "ca" / "root.pem").read_bytes() == root
        farm.start_commander()
        assert farm.sentry("rig")["id"] == sentry["id"]
        assert farm.device("rig")["id"] == rig["id"]
    finally:
        farm.end()


def on_terminal_until(farm: Farm, command: list[str], wanted: str) -> str:
    """What the program shows on a terminal until `wanted` is among it; then Ctrl-C is typed, and it must end in order."""
    ours, theirs = os.openpty()
    with contextlib.closing(os.fdopen(ours, "r+b", buffering=0)) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *command],
            env={**farm.environment, "TERM": "xterm", "LINES": "50"},
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        farm.processes["on a terminal"] = process
        shown = b""

        def read() -> bool:
            nonlocal shown
            while select.select([terminal], [], [], 0)[0]:
                try:
                    more = terminal.read(65_536)
                except OSError:  # the other side of the terminal is closed: the program is gone
                    return True
                shown += more or b""
            return wanted.encode() in shown

        until("the live table shows the rig", read)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 3, "commander, sentry and the live table"
        terminal.write(b"\x03")
        until("it ends", lambda: read() is not None and process.poll() is not None)
        read()
    farm.processes.pop("on a terminal")
    assert process.returncode == 0, shown.decode(errors="replace")
    assert left(children) == []
    return shown.decode(errors="replace")


def test_a_port_in_use_ends_it_with_a_reason(tmp_path: Path) -> None:
    """Another program sits on the port: an error that says which and where to set it, exit code 1, nothing left running."""
    first = free_ports(3)[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 1))
        taken.listen()
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "quickstart.py", "run", "--ports-from", str(first)],
            env=Farm(tmp_path).environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert f"127.0.0.1:{first + 1}" in done.stderr
    assert "listen.post" in done.stderr
    assert not [one for one in psutil.Process().children(recursive=True) if str(tmp_path) in _words(one)]


def _words(process: psutil.Process) -> str:
    """Its command line; of one that has ended nothing."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_ctrl_c_while_it_starts_and_then_again(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the first start, wherever it hits, ends all that was started; starting again makes one whole farm."""
    farm = Farm(tmp_path)
    command = [sys.executable, str(ROOT / "tools" / "quickstart.py"), "run", "--ports-from", str(free_ports(3)[0])]
    moments = {
        "init is at work": lambda: (tmp_path / "commander" / "commander.toml").exists(),
        "the commander starts": lambda: (tmp_path / "commander.lock").exists(),
        "the sentry asks to be let in": lambda: (tmp_path / "sentry-rig" / "identity").exists(),
    }
    try:
        for moment, reached in moments.items():
            process = farm.start("quickstart", command)
            until(moment, lambda reached=reached: farm.alive("quickstart") and reached())
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, farm.log("quickstart")
            assert left(children) == []
        farm.start("quickstart", command)
        until("the farm runs", lambda: farm.alive("quickstart") and "the farm runs" in farm.log("quickstart"))
        assert [row["state"] for row in farm.get("/sentries")["sentries"] if row["state"] != "pending"] == ["connected"]
        until("this machine is seen", lambda: farm.device("rig"))
        assert farm.stop("quickstart") == 0
    finally:
        farm.end()


def left(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. (What ended and was not yet reaped by the system has ended.)"""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
