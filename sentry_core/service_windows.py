"""Windows: what we ask of the Service Control Manager (SCM). The SCM itself, by pywin32, is `windows_scm.py`, behind `Registry`.

NOT RUN on Windows by the authors, who had none: type-checked for win32, and tested against a fake SCM.

The service's program is the base interpreter with `python -c … host() NAME HOME LOG PROGRAM ARGUMENTS`: a virtual environment's
own python.exe is a launcher, and the SCM takes a connection only from the process that it started.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from garrison.faults import NotAllowed, NotFound, Unavailable
from sentry_core.service import FOLDERS, Daemon, ServiceStatus

RESTART_AFTER_MS = (5_000, 30_000, 60_000)
"""Failure actions: first, second, every later failure."""
FORGET_FAILURES_S = 3_600
STOP_LIMIT_S = 40.0


@dataclass(frozen=True, slots=True)
class Registered:
    """A service as it is given to the SCM."""

    name: str
    title: str
    text: str
    command: str
    account: str
    restart_after_ms: tuple[int, ...] = RESTART_AFTER_MS
    forget_failures_s: int = FORGET_FAILURES_S


class Registry(Protocol):
    """What we use of the SCM. Faults: NotAllowed, NotFound, Unavailable."""

    def create(self, service: Registered) -> None:
        """Delayed automatic start, failure actions also after an exit with an error. Replaces one of the same name."""
        ...

    def grant(self, folder: Path, account: str) -> None:
        """The account may change the folder and all below; others may not read it."""
        ...

    def start(self, name: str) -> None: ...

    def stop(self, name: str) -> None:
        """Waits until it has stopped. Stopped already: nothing to do."""
        ...

    def delete(self, name: str) -> None: ...

    def query(self, name: str) -> tuple[str, int | None]:
        """State ("running", "stopped", …) and process. NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class WindowsServices:
    registry: Registry

    def install(self, daemon: Daemon, home: Path) -> str:
        service = describe(daemon, home)
        state = home / FOLDERS[daemon.kind]
        state.mkdir(parents=True, exist_ok=True)
        self._stop(daemon.name)
        self.registry.create(service)
        self.registry.grant(state, service.account)
        self.registry.start(daemon.name)
        return f"{daemon.name} is installed and runs as {service.account}"

    def remove(self, daemon: Daemon) -> str:
        self.registry.query(daemon.name)
        self._stop(daemon.name)
        self.registry.delete(daemon.name)
        return f"{daemon.name} is removed; its data stays"

    def status(self, daemon: Daemon) -> ServiceStatus:
        try:
            state, pid = self.registry.query(daemon.name)
        except NotFound:
            return ServiceStatus(installed=False, running=False, state="not installed")
        return ServiceStatus(installed=True, running=state == "running", enabled=True, state=state, pid=pid)

    def _stop(self, name: str) -> None:
        try:
            self.registry.query(name)
        except NotFound:
            return
        self.registry.stop(name)


def describe(daemon: Daemon, home: Path) -> Registered:
    """A virtual account of its own, never LocalSystem: it owns its folder and nothing else."""
    base = str(getattr(sys, "_base_executable", sys.executable))
    packages = [path for path in sys.path if "site-packages" in path]
    start = f"import site; [site.addsitedir(p) for p in {packages!r}]; from sentry_core.windows_scm import host; host()"
    log = home / FOLDERS[daemon.kind] / "service.log"
    command = subprocess.list2cmdline([base, "-c", start, daemon.name, str(home), str(log), *daemon.command()])
    return Registered(daemon.name, daemon.description, f"{daemon.description} ({home})", command, f"NT SERVICE\\{daemon.name}")


# ---- the process that the SCM starts ---------------------------------------------------------------------------


class Child(Protocol):
    """A started `run`."""

    def poll(self) -> int | None: ...

    def ask_to_stop(self) -> None: ...

    def kill(self) -> None: ...


def attend(child: Child, stop_wanted: Callable[[float], bool], limit_s: float = STOP_LIMIT_S) -> int:
    """Until `run` ends or the SCM wants it to. The code to report: that of `run` when it ended by itself (0 is a failure too:
    nobody asked for it), else 0. `stop_wanted(seconds)` waits that long at most."""
    while not stop_wanted(0.5):
        code = child.poll()
        if code is not None:
            return code or 1
    child.ask_to_stop()
    deadline = time.monotonic() + limit_s
    while child.poll() is None and time.monotonic() < deadline:
        stop_wanted(0)
        time.sleep(0.05)
    if child.poll() is None:
        child.kill()
    return 0


def told(number: int, text: str, name: str) -> NotAllowed | NotFound | Unavailable:
    """Windows' error as ours."""
    if number == 5:  # ERROR_ACCESS_DENIED
        return NotAllowed("only an administrator may change services", hint="open the terminal with Run as administrator")
    if number == 1060:  # ERROR_SERVICE_DOES_NOT_EXIST
        return NotFound(f"{name} is not installed")
    return Unavailable(f"{name}: {text} (Windows error {number})", hint="the Windows event log may say why")
