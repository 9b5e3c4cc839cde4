"""The Service Control Manager by pywin32, and the process that it starts. Imported on Windows only, by `service.py`.

NOT RUN by the authors, who had no Windows: type-checked for win32. What it is asked to do is tested in `service_windows.py`.
`host` starts the same foreground `run` as on a terminal, and stops it with Ctrl-Break. Miners are in job objects of their own
and outlive it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from garrison.faults import Fault, Unavailable
from sentry_core.service_windows import STOP_LIMIT_S, Registered, Registry, attend, told

assert sys.platform == "win32"  # noqa: S101  # what mypy understands: elsewhere it leaves out the rest

import pywintypes  # noqa: E402  # not on other systems
import servicemanager  # noqa: E402  # the same
import win32console  # noqa: E402  # the same
import win32event  # noqa: E402  # the same
import win32service as w  # noqa: E402  # the same
import win32serviceutil  # noqa: E402  # the same


class _Run:
    """A started `run`; its output goes to a file in the daemon's folder."""

    def __init__(self, home: str, log_path: str, argv: Sequence[str]) -> None:
        with Path(log_path).open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                env={**os.environ, "GARRISON_HOME": home},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.CTRL_BREAK_EVENT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def host() -> None:
    """`python -c …` of `describe`: argv is NAME HOME LOG PROGRAM ARGUMENTS."""
    name, home, log_path, *argv = sys.argv[1:]

    class Service(win32serviceutil.ServiceFramework):  # type: ignore[misc]  # pywin32 has no types
        _svc_name_ = name
        _svc_display_name_ = name

        def __init__(self, args: Sequence[str]) -> None:
            super().__init__(args)
            self._stop = win32event.CreateEvent(None, True, False, None)

        def SvcStop(self) -> None:  # noqa: N802  # pywin32's name
            self.ReportServiceStatus(w.SERVICE_STOP_PENDING, waitHint=round(STOP_LIMIT_S * 1000))
            win32event.SetEvent(self._stop)

        def SvcDoRun(self) -> None:  # noqa: N802  # pywin32's name
            code = attend(_Run(home, log_path, argv), self._wanted)
            if code:
                # no report of SERVICE_STOPPED: only a process that dies without one is restarted by the SCM
                os._exit(code)

        def _wanted(self, seconds: float) -> bool:
            waited = win32event.WaitForSingleObject(self._stop, round(seconds * 1000))
            return bool(waited == win32event.WAIT_OBJECT_0)

    win32console.AllocConsole()  # Ctrl-Break travels by console, and a service has none
    servicemanager.Initialize(name, None)
    servicemanager.PrepareToHostSingle(Service)
    servicemanager.StartServiceCtrlDispatcher()


def registry() -> Registry:
    """The machine's own SCM."""
    return _Scm()


class _Scm:
    """pywin32's errors become ours in `_told`."""

    def create(self, service: Registered) -> None:
        try:
            manager = w.OpenSCManager(None, None, w.SC_MANAGER_ALL_ACCESS)
            try:
                try:
                    handle = w.OpenService(manager, service.name, w.SERVICE_ALL_ACCESS)
                    w.ChangeServiceConfig(
                        handle, w.SERVICE_NO_CHANGE, w.SERVICE_AUTO_START, w.SERVICE_NO_CHANGE, service.command,
                        None, False, None, service.account, None, service.title,
                    )  # fmt: skip
                except pywintypes.error as error:
                    if error.winerror != 1060:  # not installed yet
                        raise
                    handle = w.CreateService(
                        manager, service.name, service.title, w.SERVICE_ALL_ACCESS, w.SERVICE_WIN32_OWN_PROCESS,
                        w.SERVICE_AUTO_START, w.SERVICE_ERROR_NORMAL, service.command, None, False, None, service.account, None,
                    )  # fmt: skip
                try:
                    actions = [(w.SC_ACTION_RESTART, delay_ms) for delay_ms in service.restart_after_ms]
                    w.ChangeServiceConfig2(handle, w.SERVICE_CONFIG_DESCRIPTION, service.text)
                    w.ChangeServiceConfig2(handle, w.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, True)
                    w.ChangeServiceConfig2(
                        handle,
                        w.SERVICE_CONFIG_FAILURE_ACTIONS,
                        {"ResetPeriod": service.forget_failures_s, "RebootMsg": "", "Command": "", "Actions": actions},
                    )
                    w.ChangeServiceConfig2(handle, w.SERVICE_CONFIG_FAILURE_ACTIONS_FLAG, True)
                finally:
                    w.CloseServiceHandle(handle)
            finally:
                w.CloseServiceHandle(manager)
        except pywintypes.error as error:
            raise _told(error, service.name) from error

    def grant(self, folder: Path, account: str) -> None:
        # the two SIDs are Administrators and SYSTEM
        icacls = Path(os.environ["SYSTEMROOT"]) / "System32" / "icacls.exe"
        done = subprocess.run(
            [str(icacls), str(folder), "/inheritance:r", "/grant", f"{account}:(OI)(CI)M",
             "/grant", "*S-1-5-32-544:(OI)(CI)F", "/grant", "*S-1-5-18:(OI)(CI)F"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Unavailable(f"cannot give {folder} to {account}: {done.stdout.strip()}")

    def start(self, name: str) -> None:
        try:
            win32serviceutil.StartService(name)
            win32serviceutil.WaitForServiceStatus(name, 4, 60)  # SERVICE_RUNNING
        except pywintypes.error as error:
            raise _told(error, name) from error

    def stop(self, name: str) -> None:
        try:
            if self.query(name)[0] != "stopped":
                win32serviceutil.StopService(name)
                win32serviceutil.WaitForServiceStatus(name, 1, 60)  # SERVICE_STOPPED
        except pywintypes.error as error:
            raise _told(error, name) from error

    def delete(self, name: str) -> None:
        try:
            win32serviceutil.RemoveService(name)
        except pywintypes.error as error:
            raise _told(error, name) from error

    def query(self, name: str) -> tuple[str, int | None]:
        try:
            manager = w.OpenSCManager(None, None, w.SC_MANAGER_CONNECT)
            try:
                handle = w.OpenService(manager, name, w.SERVICE_QUERY_STATUS)
                try:
                    found = w.QueryServiceStatusEx(handle)
                finally:
                    w.CloseServiceHandle(handle)
            finally:
                w.CloseServiceHandle(manager)
        except pywintypes.error as error:
            raise _told(error, name) from error
        words = {1: "stopped", 2: "starting", 3: "stopping", 4: "running", 5: "continuing", 6: "pausing", 7: "paused"}
        return words.get(found["CurrentState"], "unknown"), found["ProcessId"] or None


def _told(error: pywintypes.error, name: str) -> Fault:
    return told(error.winerror, error.strerror, name)
