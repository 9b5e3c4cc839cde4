"""Starting, finding again and ending a mining program together with everything it forks.

A miner outlives the sentry, so nothing here depends on being its parent: a process is known by its pid, the moment it
started and its command line, and by two variables in its environment that every child of it inherits.

POSIX: its own session, so one signal reaches the whole group. Windows: a Job Object, behind the same functions
(type-checked and not run by the authors: they had no Windows).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from garrison.faults import BadInput, Unavailable

HOME_VARIABLE = "GARRISON_MINER_HOME"
"""In the environment of each miner: which sentry's it is (its miner folder)."""
START_VARIABLE = "GARRISON_MINER_START"
"""Which start it comes from: a random word, written to disk before the start."""

_KEPT = (
    ("LANG", "TZ", "LD_LIBRARY_PATH")
    if sys.platform != "win32"
    else ("SYSTEMROOT", "SYSTEMDRIVE", "TEMP", "TMP", "PATH", "PATHEXT")
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Running:
    """One process, for good: a pid alone is used again by the next one."""

    pid: int
    mark: str


def environment(home: Path, start: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a miner gets to see: nothing of the sentry's own but what programs need to run."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    if sys.platform != "win32":
        kept |= {"PATH": _PATH, "HOME": str(home)}
    # cards are joined by PCI address; CUDA's own order would differ from the driver's
    return kept | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | dict(extra or {}) | {HOME_VARIABLE: str(home), START_VARIABLE: start}


def mark_of(pid: int) -> str | None:
    """When the process of this pid started: together they name it for good. None when there is none, or only its remains."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform == "linux":
            # ticks since boot: unlike psutil's create_time it does not move when the wall clock is set
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            mark = f"{boot_id()}/{stat.rpartition(')')[2].split()[19]}"
        else:
            mark = f"{process.create_time():.2f}"
    except (psutil.Error, OSError, IndexError):
        return None  # gone, or not ours to see: then it is not the one we started
    return mark


def alive(running: Running) -> bool:
    return mark_of(running.pid) == running.mark


def boot_id() -> str:
    """Changes with every start of the machine."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"boot-{round(psutil.boot_time() / 60)}"  # to the minute: the wall clock is corrected now and then


def command_line(pid: int) -> list[str] | None:
    try:
        return psutil.Process(pid).cmdline()
    except (psutil.Error, OSError):
        return None


def same_command(seen: Sequence[str] | None, started: Sequence[str]) -> bool:
    """Whether `seen` is `started`. The interpreter of a script stands before it."""
    return seen is not None and len(started) > 0 and list(seen[-len(started) :]) == list(started)


def find(home: Path) -> dict[int, str]:
    """Every living process of this sentry's miners, with the start it belongs to."""
    found: dict[int, str] = {}
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environ = process.environ()
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or of another user: then not ours
        if environ.get(HOME_VARIABLE) == str(home) and START_VARIABLE in environ:
            found[process.pid] = environ[START_VARIABLE]
    return found


def leads(pid: int) -> bool:
    """Whether it is the process that we started, and not a child of it."""
    if sys.platform != "win32":
        try:
            return os.getpgid(pid) == pid
        except OSError:
            return False
    else:
        try:
            parent = psutil.Process(pid).parent()
        except psutil.Error:
            return False
        return parent is None or START_VARIABLE not in _environ(parent)


def start(argv: Sequence[str], folder: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts it apart from us: own group, no input, output appended to `log`. Raises BadInput, Unavailable."""
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise Unavailable(f"cannot open the miner's log {log}: {error.strerror}") from error
    try:
        if sys.platform == "win32":
            child = _start_in_job(argv, folder, env, output)
        else:
            child = subprocess.Popen(
                list(argv),
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o077,
            )
    except OSError as error:
        raise BadInput(f"cannot start {argv[0]}: {error.strerror or error}", hint="is it a program for this machine?") from error
    finally:
        os.close(output)
    return child


def end(pids: Sequence[int], group: int | None, start_word: str, *, hard: bool) -> None:
    """Asks (or, `hard`, makes) these processes and the group end. Those that ended already are fine."""
    if sys.platform == "win32":
        _end_job(pids, start_word, hard=hard)
    else:
        number = signal.SIGKILL if hard else signal.SIGTERM
        if group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def let_go(child: subprocess.Popen[bytes]) -> None:
    """The sentry ends and the miner stays: Popen must not complain about a child that still runs."""
    if child.poll() is None:
        child.returncode = 0


def _environ(process: psutil.Process) -> Mapping[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


if sys.platform == "win32":
    import pywintypes
    import win32job

    def _job_name(start_word: str) -> str:
        return f"Global\\GarrisonMiner-{start_word}"

    def _start_in_job(argv: Sequence[str], folder: Path, env: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
        """The job has no kill-on-close, for the miner outlives us. The miner inherits a handle to it, so that the name lives on."""
        job = win32job.CreateJobObject(None, _job_name(env[START_VARIABLE]))
        handle = int(job)
        os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO()
        startup.lpAttributeList = {"handle_list": [handle]}
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        child = subprocess.Popen(
            list(argv),
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            startupinfo=startup,
            creationflags=flags,
        )
        win32job.AssignProcessToJobObject(job, int(child._handle))  # type: ignore[attr-defined]  # the only way to its handle
        return child

    def _end_job(pids: Sequence[int], start_word: str, *, hard: bool) -> None:
        if not hard:
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.CTRL_BREAK_EVENT)
            return
        with contextlib.suppress(pywintypes.error):
            job = win32job.OpenJobObject(win32job.JOB_OBJECT_TERMINATE, False, _job_name(start_word))
            win32job.TerminateJobObject(job, 1)
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
