"""A whole farm as real processes on loopback, for the end-to-end tests.

What a test is about goes through the command line, as an owner would do it. What it only waits for is asked over the
Unix socket, because starting a program ten times a second is all that two cores could do.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
RIG_TOML = "[rig]\npoll_every_s = 1\n"

COMMANDER_TOML = """\
farm = "test farm"

[listen]
post = "127.0.0.1:{post}"
enrol = "127.0.0.1:{enrol}"
advertise = "127.0.0.1"
http = "127.0.0.1:{http}"

[history]
commit_every_ms = 50

[sessions]
reconnect_window_s = 1
silent_after_s = 5
poll_every_s = 1

[power]
off_s = 10
min_interval_s = 600
stagger_ms = 0
"""


def until(what: str, seen: Callable[..., Any], limit_s: float = 60.0) -> Any:
    """The first true thing that `seen` returns."""
    deadline = time.monotonic() + limit_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if found := seen():
                return found
        except AssertionError as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {limit_s:.0f} s{f' ({last})' if last else ''}")


class _Local(http.client.HTTPConnection):
    """To the commander's Unix socket. (httpx leaves a socket open when nobody listens; here that is an error.)"""

    def __init__(self, path: Path) -> None:
        super().__init__("commander", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Farm:
    """One farm in `home`. Every process it started ends with it."""

    home: Path
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "GARRISON_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "200"}

    # ---- commands ------------------------------------------------------------------------------------------

    def run(self, program: str, *arguments: str, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / program, *arguments], env=self.environment, capture_output=True, text=True, timeout=limit_s, check=False
        )

    def ask(self, program: str, *arguments: str, limit_s: float = 120) -> str:
        """The command's output; it must succeed."""
        done = self.run(program, *arguments, limit_s=limit_s)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def json(self, *arguments: str, limit_s: float = 120) -> Any:
        return json.loads(self.ask("commander", *arguments, "--json", limit_s=limit_s))

    def refused(self, program: str, *arguments: str) -> str:
        """What the command says on stderr; it must fail with code 1, in words and not in a traceback."""
        done = self.run(program, *arguments)
        assert done.returncode == 1, f"{program} {' '.join(arguments)}: code {done.returncode}\n{done.stdout}{done.stderr}"
        assert "error: " in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def all_ordered(self, *arguments: str, limit_s: float = 120) -> list[dict[str, Any]]:
        """The orders that the command gave, at their end, however they ended. `reports` are with each."""
        done = self.run("commander", *arguments, "--json", limit_s=limit_s)
        assert done.stdout, done.stderr
        rows = json.loads(done.stdout)["actions"]
        assert (done.returncode == 0) == all(row["state"] == "succeeded" for row in rows), f"code {done.returncode} for {rows}"
        return [dict(self.get(f"/actions/{row['id']}")) for row in rows]

    def ordered(self, *arguments: str, limit_s: float = 120) -> dict[str, Any]:
        """The one order that the command gave."""
        (row,) = self.all_ordered(*arguments, limit_s=limit_s)
        return row

    def get(self, path: str, **query: str) -> Any:
        """What the commander answers over its socket. AssertionError when it does not, so that `until` asks again."""
        link = _Local(self.home / "commander" / "commander.sock")
        try:
            link.request("GET", f"/api/v1{path}?{urlencode(query)}")
            reply = link.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise AssertionError(f"{path}: {error}") from error
        finally:
            link.close()
        assert reply.status == 200, f"{path}: {body.decode(errors='replace')}"
        return json.loads(body)

    # ---- processes -----------------------------------------------------------------------------------------

    def init(self) -> None:
        post, enrol, http = free_ports(3)
        self.ports = {"post": post, "enrol": enrol, "http": http}
        self.ask("commander", "init", "--farm", "test farm", "--listen", "127.0.0.1", "--advertise", "127.0.0.1")
        (self.home / "commander" / "commander.toml").write_text(COMMANDER_TOML.format(**self.ports))

    def start(self, name: str, arguments: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        log = (self.home / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                arguments, env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes[name] = process
        return process

    def start_commander(self) -> None:
        self.start("commander", [BIN / "commander", "run"])
        until("the commander answers", lambda: self.alive("commander") and self.get("/status"))

    def enrol(self, kind: str, settings: str = "") -> None:
        token = self.ask("commander", "sentries", "token", "--kind", kind, "--approve").strip()
        self.ask(f"sentry-{kind}", "enrol", token)
        if settings:
            (self.home / f"sentry-{kind}" / "sentry.toml").write_text(settings)

    def start_sentry(self, kind: str) -> None:
        """Until it has a session of its own: the commander may still believe in that of one that was killed."""
        name = f"sentry-{kind}"
        before = len(self.log(name)) if (self.home / f"{name}.log").exists() else 0
        self.start(name, [BIN / name, "run"])
        until(f"the {kind} sentry has a session", lambda: self.alive(name) and '"session open"' in self.log(name)[before:])
        until(f"the {kind} sentry is connected", lambda: self.alive(name) and self.sentry(kind)["state"] == "connected")

    def alive(self, name: str) -> bool:
        """Whether it runs. RuntimeError, with the end of its log, when it has ended: there is nothing to wait for."""
        code = self.processes[name].poll()
        if code is not None:
            raise RuntimeError(f"{name} ended with code {code}:\n{self.log(name)[-2000:]}")
        return True

    def kill(self, name: str) -> None:
        """SIGKILL: it has no time for anything."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str, limit_s: float = 30) -> int:
        """SIGTERM; the exit code."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    # ---- what it says --------------------------------------------------------------------------------------

    def sentry(self, kind: str) -> dict[str, Any]:
        rows = [row for row in self.get("/sentries")["sentries"] if row["kind"] == kind]
        assert rows, f"no {kind} sentry"
        return dict(rows[0])

    def device(self, name: str) -> dict[str, Any]:
        """By name, address or kind."""
        rows = [row for row in self.get("/devices")["devices"] if name in (row["name"], row["address"], row["kind"])]
        assert rows, f"no device {name}"
        return dict(rows[0])

    def until_device(self, name: str, *states: str, limit_s: float = 90) -> Any:
        """The device as soon as it is in one of these states."""

        def seen() -> dict[str, Any] | None:
            row = self.device(name)
            assert row["state"] in states, f"{name} is {row['state']}"
            return row

        return until(f"{name} is {' or '.join(states)}", seen, limit_s)

    def until_order(self, action: str, *states: str, limit_s: float = 90) -> Any:
        """The order as soon as it is in one of these states; with none: as soon as it has ended."""

        def seen() -> dict[str, Any] | None:
            row = dict(self.get(f"/actions/{action}"))
            assert row["state"] in states if states else row["final"], f"it is {row['state']}: {row['text']}"
            return row

        return until(f"order {action} is {' or '.join(states) or 'over'}", seen, limit_s)

    def end(self) -> None:
        for name in list(reversed(self.processes)):
            process = self.processes.pop(name)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextlib.contextmanager
def farm_at(home: Path) -> Iterator[Farm]:
    """A farm with a running commander."""
    farm = Farm(home)
    try:
        farm.init()
        farm.start_commander()
        yield farm
    finally:
        farm.end()
