"""The Windows side behind its interface: a fake SCM notes what it is told. Nothing here was run on Windows."""

import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from garrison.faults import Fault, NotAllowed, NotFound, Unavailable
from sentry_core.service import Daemon
from sentry_core.service_windows import Registered, WindowsServices, attend, describe, told


@dataclass
class FakeScm:
    services: dict[str, Registered] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    did: list[str] = field(default_factory=list)

    def create(self, service: Registered) -> None:
        assert service.name not in self.running, "the program of a running service cannot be replaced"
        self.did.append("create")
        self.services[service.name] = service

    def grant(self, folder: Path, account: str) -> None:
        assert folder.is_dir()
        self.did.append(f"grant {folder.name} {account}")

    def start(self, name: str) -> None:
        self.query(name)
        self.did.append("start")
        self.running.add(name)

    def stop(self, name: str) -> None:
        self.query(name)
        self.did.append("stop")
        self.running.discard(name)

    def delete(self, name: str) -> None:
        assert name not in self.running
        self.did.append("delete")
        del self.services[name]

    def query(self, name: str) -> tuple[str, int | None]:
        if name not in self.services:
            raise NotFound(f"{name} is not installed")
        return ("running", 4711) if name in self.running else ("stopped", None)


RIG = Daemon("garrison-sentry-rig", "Garrison rig sentry", (sys.executable, "run"), "rig")


def test_install_status_remove(tmp_path: Path) -> None:
    """Registered, its folder given to its account, started; again: stopped first; removed: stopped, and the data stays."""
    scm = FakeScm()
    services = WindowsServices(scm)
    assert not services.status(RIG).installed
    services.install(RIG, tmp_path)
    found = services.status(RIG)
    assert (found.installed, found.running, found.pid) == (True, True, 4711)
    services.install(RIG, tmp_path)
    services.remove(RIG)
    account = "NT SERVICE\\garrison-sentry-rig"
    once = ["create", f"grant sentry-rig {account}", "start"]
    assert scm.did == [*once, "stop", *once, "stop", "delete"]
    assert (tmp_path / "sentry-rig").is_dir()
    with pytest.raises(NotFound):
        services.remove(RIG)


def test_what_is_registered(tmp_path: Path) -> None:
    """A virtual account and not LocalSystem, restarts after failures, and a command that names program, home and log."""
    service = describe(RIG, tmp_path / "my farm")
    assert service.account == "NT SERVICE\\garrison-sentry-rig"
    assert len(service.restart_after_ms) == 3
    assert f'"{tmp_path / "my farm"}"' in service.command
    assert "service.log" in service.command
    assert service.command.endswith(f"{sys.executable} run")
    assert "from sentry_core.windows_scm import host" in service.command


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [(5, NotAllowed, "administrator"), (1060, NotFound, "not installed"), (1053, Unavailable, "1053")],
)
def test_windows_errors_are_ours(number: int, kind: type[Fault], words: str) -> None:
    """One place translates them."""
    fault = told(number, "it did not answer", "x")
    assert type(fault) is kind
    assert words in str(fault)


# ---- the process that the SCM starts: `attend`, with real processes ----------------------------------------------


class Started:
    """A real process; SIGTERM stands in for Ctrl-Break."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        self.asked = self.killed = False

    def poll(self) -> int | None:
        return self.process.poll()

    def ask_to_stop(self) -> None:
        self.asked = True
        self.process.terminate()

    def kill(self) -> None:
        self.killed = True
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def ready(child: Started) -> None:
    assert child.process.stdout
    assert child.process.stdout.readline() == b"up\n"


@pytest.mark.parametrize(("code", "reported"), [("raise SystemExit(3)", 3), ("pass", 1)])
def test_a_run_that_ends_by_itself_is_a_failure(code: str, reported: int) -> None:
    """Also one that ends with 0: nobody asked for it, and the SCM restarts only failures."""
    child = Started(code)
    assert attend(child, threading.Event().wait) == reported
    assert not child.asked
    child.close()


def test_a_stop_is_asked_for_and_waited_for() -> None:
    """Then the report is 0."""
    child = Started("print('up', flush=True); import time; time.sleep(100)")
    ready(child)
    stop = threading.Event()
    stop.set()
    assert attend(child, stop.wait) == 0
    assert (child.asked, child.killed) == (True, False)
    child.close()


def test_a_run_that_does_not_stop_is_killed() -> None:
    """After the limit."""
    child = Started("import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(100)")
    ready(child)
    stop = threading.Event()
    stop.set()
    assert attend(child, stop.wait, limit_s=0.3) == 0
    assert (child.asked, child.killed) == (True, True)
    child.close()
