"""systemd: the unit of each daemon, and putting it in place.

The unit is text made here, because `service install` must work from the installed wheel alone; `packaging/systemd/` shows what
comes out, and a test compares. docs/operations.md has the figure of `systemd-analyze security` for each.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from garrison.faults import BadInput, NotAllowed, NotFound, NotSupported, Unavailable
from sentry_core.service import FOLDERS, Daemon, Kind, ServiceStatus

assert sys.platform != "win32"  # noqa: S101  # what mypy understands: for win32 it leaves out the rest

_UNITS = Path("etc/systemd/system")
_RULES = Path("etc/polkit-1/rules.d")
_HOMES = ("/home", "/root", "/run/user")  # what ProtectHome= hides

_COMMON = """\
Type=notify
# A daemon that hangs is killed and started again; it must say that it lives every 30 s.
WatchdogSec=60
Restart=always
RestartSec=5
TimeoutStopSec=45
UMask=0077
LimitNOFILE=65536
# What it may not do. The figure of `systemd-analyze security` is in docs/operations.md.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
# AF_NETLINK: which addresses this machine has.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native
"""

_NETWORK_DAEMON = """\
RemoveIPC=yes
ProtectClock=yes
ProcSubset=pid
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
DevicePolicy=closed
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_SPECIAL: dict[Kind, str] = {
    "commander": _NETWORK_DAEMON
    + """\
TasksMax=512
MemoryMax=75%
""",
    "asic": _NETWORK_DAEMON
    + """\
TasksMax=256
MemoryMax=50%
""",
    "rig": """\
# Miners outlive the sentry: an update or a crash of ours costs no hashrate. The next sentry finds and adopts them.
# To stop them too: systemctl kill --kill-whom=all garrison-sentry-rig
KillMode=process
# A miner that is killed for memory is the sentry's business, not the end of the sentry.
OOMPolicy=continue
# Miners run inside these limits, so what they need is open: GPUs, writable and executable memory (RandomX and CUDA compile
# as they run), huge pages, locked memory, the machine's /proc (load, memory, temperatures), a /tmp that stays.
# No ProtectClock: it implies a list of allowed devices, with no GPU on it.
LimitMEMLOCK=infinity
ReadWritePaths=/tmp /var/tmp
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
TasksMax=8192
""",
}

_REBOOT_RULE = """\
// Written by `sentry-rig service install`: the order "reboot" goes through systemd, and the guard file on this rig decides first.
polkit.addRule(function(action, subject) {
    if (subject.user == "USER" && action.id.indexOf("org.freedesktop.login1.reboot") == 0) {
        return polkit.Result.YES;
    }
});
"""


def unit(daemon: Daemon, command: Sequence[str], home: Path, groups: Sequence[str] = ()) -> str:
    """The text of NAME.service. `groups`: those of the graphics devices that this machine has."""
    state = home / FOLDERS[daemon.kind]
    lines = [
        f"# Made by `{daemon.argv[0]} service install`. Your changes belong into {daemon.name}.service.d/.",
        "[Unit]",
        f"Description={_plain(daemon.description)}",
        "Wants=network-online.target",
        "After=network-online.target time-sync.target",
        "# Try for ever: nobody stands beside this machine.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"ExecStart={' '.join(_word(part) for part in command)}",
        f"Environment={_word(f'GARRISON_HOME={home}')}",
        f"User={daemon.name}",
        *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
        f"WorkingDirectory={_plain(str(state))}",
        f"ReadWritePaths={_word(str(state))}",
    ]
    return "\n".join(lines) + "\n" + _COMMON + _SPECIAL[daemon.kind] + "\n[Install]\nWantedBy=multi-user.target\n"


def _word(text: str) -> str:
    """As one argument of a unit's line: systemd unquotes, and expands % and $."""
    if any(ord(character) < 32 for character in text):
        raise BadInput(f"control characters in {text!r}")
    shown = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return shown if shown == text and " " not in text and "'" not in text and ";" not in text else f'"{shown}"'


def _plain(text: str) -> str:
    """As the rest of a unit's line, where nothing is unquoted."""
    return " ".join(text.split()).replace("%", "%%") if "/" not in text else text.replace("%", "%%")


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    text: str


def _run(argv: Sequence[str]) -> Ran:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=150, check=False)
    except FileNotFoundError as error:
        raise NotSupported(f"no {argv[0]} on this machine", hint="start `run` with what your system has") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(argv)} did not end in time") from error
    return Ran(done.returncode, (done.stdout + done.stderr).strip())


@dataclass(frozen=True, slots=True)
class Systemd:
    """`root`, `run` and `is_root` are those of the machine; a test brings its own."""

    root: Path = Path("/")
    run: Callable[[Sequence[str]], Ran] = _run
    is_root: Callable[[], bool] = lambda: os.geteuid() == 0

    def install(self, daemon: Daemon, home: Path) -> str:
        self._may(f"{daemon.argv[0]} service install")
        command = daemon.command()
        _check_places(Path(command[0]), home)
        self._user(daemon, home)
        self._give(home / FOLDERS[daemon.kind], daemon.name)
        path = self._path(daemon)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, unit(daemon, command, home, self._graphics() if daemon.kind == "rig" else ()))
        rules = self.root / _RULES
        if daemon.kind == "rig" and rules.is_dir():
            _write(rules / f"50-{daemon.name}.rules", _REBOOT_RULE.replace("USER", daemon.name))
        self._systemctl("daemon-reload")
        self._systemctl("enable", daemon.name)
        began = self.run(["systemctl", "restart", daemon.name])
        if began.code:
            raise Unavailable(f"{daemon.name} is installed and does not start", hint=f"journalctl -u {daemon.name} says why")
        return f"{daemon.name} is installed and runs: {path}"

    def remove(self, daemon: Daemon) -> str:
        self._may(f"{daemon.argv[0]} service remove")
        path = self._path(daemon)
        if not path.exists():
            raise NotFound(f"{daemon.name} is not installed")
        self._systemctl("disable", "--now", daemon.name)
        path.unlink()
        (self.root / _RULES / f"50-{daemon.name}.rules").unlink(missing_ok=True)
        self._systemctl("daemon-reload")
        return f"{daemon.name} is removed; its data stays"

    def status(self, daemon: Daemon) -> ServiceStatus:
        self._needs_systemd()
        wanted = ("LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "StatusText")
        shown = self.run(["systemctl", "show", daemon.name, f"--property={','.join(wanted)}"])
        if shown.code:
            raise Unavailable(f"systemctl does not answer: {shown.text}")
        said = dict(line.split("=", 1) for line in shown.text.splitlines() if "=" in line)
        pid, restarts = said.get("MainPID", ""), said.get("NRestarts", "")
        return ServiceStatus(
            installed=said.get("LoadState") == "loaded",
            running=said.get("ActiveState") == "active",
            enabled=said.get("UnitFileState") == "enabled",
            state=f"{said.get('ActiveState', '')} ({said.get('SubState', '')})",
            pid=int(pid) if pid.isdecimal() and int(pid) else None,
            restarts=int(restarts) if restarts.isdecimal() else None,
            text=said.get("StatusText", ""),
        )

    def _path(self, daemon: Daemon) -> Path:
        return self.root / _UNITS / f"{daemon.name}.service"

    def _needs_systemd(self) -> None:
        if not (self.root / "run/systemd/system").is_dir():
            raise NotSupported("systemd does not run this machine", hint="start `run` with what your system has")

    def _may(self, what: str) -> None:
        self._needs_systemd()
        if not self.is_root():
            raise NotAllowed("only root may change services", hint=f"sudo {what}")

    def _systemctl(self, *arguments: str) -> None:
        done = self.run(["systemctl", *arguments])
        if done.code:
            raise Unavailable(f"systemctl {' '.join(arguments)}: {done.text or done.code}")

    def _user(self, daemon: Daemon, home: Path) -> None:
        """A user of its own: a captured sentry must not read the farm's CA beside it."""
        line = f'u {daemon.name} - "{daemon.description}" {home / FOLDERS[daemon.kind]}'
        made = self.run(["systemd-sysusers", "--inline", line])
        if made.code:
            raise Unavailable(f"cannot make the user {daemon.name}: {made.text}")

    def _give(self, state: Path, user: str) -> None:
        """The daemon's folder and what root made in it (`init`, `enrol`, `restore`) belong to its user. Links are not followed."""
        state.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        state.mkdir(exist_ok=True, mode=0o700)
        try:
            uid, gid = pwd.getpwnam(user)[2:4]
        except KeyError as error:
            raise Unavailable(f"the user {user} was made and is not there") from error
        os.chown(state, uid, gid, follow_symlinks=False)
        for _, folders, files, at in os.fwalk(state, follow_symlinks=False):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):  # gone in the meantime
                    os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False)

    def _graphics(self) -> list[str]:
        """A group that does not exist would keep the unit from starting, so only those that do."""
        found = []
        for name in ("video", "render"):
            with contextlib.suppress(KeyError):
                found.append(grp.getgrnam(name).gr_name)
        return found


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o644)
    fresh.replace(path)


def _check_places(program: Path, home: Path) -> None:
    """The service's user must be able to reach both, whoever installed them."""
    for path, what, instead in (
        (program, "the program", "install Garrison into /opt/garrison (docs/operations.md)"),
        (program.resolve(), "the interpreter", "make the virtual environment with the system's own Python"),
        (home.resolve(), "the farm's home", "use GARRISON_HOME=/var/lib/garrison"),
    ):
        if any(str(path) == top or str(path).startswith(f"{top}/") for top in _HOMES):
            raise BadInput(f"{what} lies in a person's home: {path}", hint=f"a service may not look there; {instead}")
    for folder in program.resolve().parents:
        if not folder.stat().st_mode & 0o001:
            raise BadInput(
                f"other users may not enter {folder}, where the program lies", hint="install Garrison into /opt/garrison"
            )
