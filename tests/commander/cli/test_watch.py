"""`commander watch`: a line a look without a terminal, a live table on one, and Ctrl-C is how it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from struct import pack

from tests.commander.cli.conftest import Shell
from tests.e2e.processes import BIN

assert sys.platform != "win32"  # no pseudo terminals there; mypy leaves out the rest
LIMIT_S = 30


@contextmanager
def on_a_terminal(shell: Shell, *words: str, columns: int = 80) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a pseudo terminal of that width, and our end of it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, pack("HHHH", 30, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    env |= {"GARRISON_HOME": str(shell.farm.home), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [BIN / "commander", *words], env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: str) -> str:
    deadline, seen = time.monotonic() + LIMIT_S, b""
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                seen += os.read(terminal, 65_536)
            except OSError:  # the other end is closed
                break
        if wanted in seen.decode(errors="replace"):
            break
    text = seen.decode(errors="replace")
    assert wanted in text, text
    return text


def test_without_a_terminal(shell: Shell) -> None:
    """One line a look, each with the whole farm."""
    lines = shell.out("watch", "--rounds", "3", "--every", "0.5").splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.match(r"sentries: .*; devices: .*; hashrate: .*TH/s sha256; power: .*; 2 simulated$", line), line


def test_ctrl_c_without_a_terminal(shell: Shell) -> None:
    """It ends at once, with nothing said."""
    env = {**os.environ, "GARRISON_HOME": str(shell.farm.home), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [BIN / "commander", "watch"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("sentries: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0
        assert process.stderr.read() == ""


def test_on_a_terminal(shell: Shell) -> None:
    """A table that fits, drawn again and again in its place; Ctrl-C leaves the terminal as it was."""
    with on_a_terminal(shell, "watch", "--every", "0.5") as (process, terminal):
        seen = read_until(terminal, "miner-2")
        assert "miner-1" in seen
        seen += read_until(terminal, "miner-2")
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
        assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 80
        assert "simulated" in plain
        process.send_signal(signal.SIGINT)
        rest = read_until(terminal, "\x1b[?25h")  # the cursor is shown again
        assert "Traceback" not in rest
        assert process.wait(LIMIT_S) == 0


def test_ctrl_c_while_an_order_is_followed(shell: Shell) -> None:
    """Waiting ends, the order does not, and it is said so."""
    shell.farm.stop("sentry-asic")
    try:
        with on_a_terminal(shell, "order", "reboot", "miner-1") as (process, terminal):
            read_until(terminal, "queued")
            process.send_signal(signal.SIGINT)
            said = read_until(terminal, "goes on")
            assert process.wait(LIMIT_S) == 130
            action = re.search(r"actions show` ([0-9a-f-]{36})", re.sub(r"[\r\n]", "", said))
            assert action
        assert shell.farm.get(f"/actions/{action[1]}")["state"] == "queued"
        shell.out("actions", "cancel", action[1])
    finally:
        shell.farm.start_sentry("asic")
        shell.farm.until_device("miner-1", "mining")
