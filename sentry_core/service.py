"""`service install | remove | status` of all three daemons: systemd on Linux, the Service Control Manager on Windows.

Both start the same foreground `run`. Called by the command lines of `commander`, `sentry-rig` and `sentry-asic`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from garrison.faults import NotFound, NotSupported

Kind = Literal["commander", "rig", "asic"]

FOLDERS: dict[Kind, str] = {"commander": "commander", "rig": "sentry-rig", "asic": "sentry-asic"}
"""Where in the farm's home each keeps its state; all that its service may write."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """`name` is the service's. `argv[0]` without a slash is a program beside this interpreter, the rest its arguments."""

    name: str
    description: str
    argv: tuple[str, ...]
    kind: Kind

    def command(self) -> tuple[str, ...]:
        """`argv` with the whole path of the program. NotFound: it is not there."""
        program = Path(self.argv[0])
        if not program.is_absolute():
            program = Path(sys.executable).parent / (f"{program}.exe" if sys.platform == "win32" else program)
        if not program.is_file():
            raise NotFound(f"no program {program}", hint="install Garrison into a virtual environment and use its commands")
        return (str(program), *self.argv[1:])


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """`state` is the system's own word; None: not told."""

    installed: bool
    running: bool
    enabled: bool = False
    state: str = ""
    pid: int | None = None
    restarts: int | None = None
    text: str = ""

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


class Services(Protocol):
    """What a system offers. Messages are for a person. Faults: NotAllowed, NotSupported, NotFound, BadInput, Unavailable."""

    def install(self, daemon: Daemon, home: Path) -> str: ...

    def remove(self, daemon: Daemon) -> str: ...

    def status(self, daemon: Daemon) -> ServiceStatus: ...


def install(daemon: Daemon, home: Path) -> str:
    """Registers it to start with the machine, and starts it. Again: the same, with the present program and settings.

    `home` is the farm's home (GARRISON_HOME).
    """
    return _here().install(daemon, home)


def remove(daemon: Daemon) -> str:
    """Stops and unregisters it. Its data stays, and so does a mining program that it started."""
    return _here().remove(daemon)


def status(daemon: Daemon) -> ServiceStatus:
    return _here().status(daemon)


def _here() -> Services:
    if sys.platform == "win32":
        from sentry_core.service_windows import WindowsServices
        from sentry_core.windows_scm import registry  # pywin32 is imported there alone

        return WindowsServices(registry())
    elif sys.platform == "linux":  # noqa: RET505  # with `elif` mypy knows what belongs to which platform
        from sentry_core.service_systemd import Systemd  # `run` has no use for it

        return Systemd()
    else:
        raise NotSupported(f"no services on {sys.platform} yet", hint="start `run` with what your system has")
