"""The machine itself, by psutil: who it is, and how it does. Every value is optional.

All of it is blocking and may hang with a hung disk: call it through `aside`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from garrison.frame import Number, Series
from sentry_rig.process import boot_id

T = TypeVar("T")

_MAX_TEMP_C = 120  # above it a sensor is broken, not hot
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "cpu-thermal")
_HOTTEST_FIRST = ("Package id 0", "Tctl", "Tdie")
_MAX_DISKS = 16
_MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while it runs. `identity` is "machine:…", `boot` changes with each start."""

    identity: str
    boot: str
    facts: Mapping[str, str] = field(default_factory=dict)


def identify(state_dir: Path) -> Machine:
    """Who this machine is. Without an id of the system one is made and kept in `state_dir`."""
    identity = machine_identity(_system_id() or _kept_id(state_dir / "machine-id"))
    return Machine(identity, boot_id(), facts())


def machine_identity(system_id: str) -> str:
    """The id is hashed: the systems' own say that the raw one is not to be given away."""
    return "machine:" + hashlib.sha256(b"garrison.machine\0" + system_id.encode()).hexdigest()[:32]


def facts() -> dict[str, str]:
    found = {
        "hostname": _maybe(socket.gethostname),
        "os": _maybe(_os_name),
        "kernel": _maybe(platform.release),
        "arch": _maybe(platform.machine),
        "cpu": _maybe(_cpu_model),
        "cores": _maybe(lambda: psutil.cpu_count(logical=False)),
        "threads": _maybe(lambda: psutil.cpu_count()),
        "memory_bytes": _maybe(lambda: psutil.virtual_memory().total),
    }
    return {name: str(value)[:256] for name, value in found.items() if value not in {None, ""}}


class HostLooks:
    """Looks at one machine. Processor use is counted between two looks; the first has none.

    psutil.cpu_percent cannot do that here: it remembers for each thread, and each look has a thread of its own.
    """

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def look(self) -> dict[Series, Number]:
        """Values by (metric, component): "" the machine, "cpu", "disk:/…". Blocking."""
        values: dict[Series, Number | None] = {}
        memory = _maybe(psutil.virtual_memory)
        values["cpu_pct", ""] = _maybe(self._cpu_pct)
        values["load1", ""] = _maybe(lambda: psutil.getloadavg()[0])
        values["memory_used_bytes", ""] = memory.total - memory.available if memory else None
        values["memory_total_bytes", ""] = memory.total if memory else None
        values["system_uptime_s", ""] = _maybe(lambda: max(0, round(time.time() - psutil.boot_time())))
        values["sentry_memory_bytes", ""] = _maybe(lambda: psutil.Process().memory_info().rss)
        values["temp_c", "cpu"] = _maybe(_cpu_temp_c)
        for mount in _maybe(_disks) or ():
            values |= _disk(mount)
        return {series: value for series, value in values.items() if value is not None}

    def _cpu_pct(self) -> float | None:
        times = psutil.cpu_times()
        # guest time is in user time already; waiting for disks is not work
        counted = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
        idle = times.idle + getattr(times, "iowait", 0)
        before, self._before = self._before, (counted, idle)
        if before is None or counted <= before[0]:
            return None
        return min(100.0, max(0.0, 100 * (1 - (idle - before[1]) / (counted - before[0]))))


def cpu_temp_c(sensors: Mapping[str, Sequence[Any]]) -> float | None:
    """The processor's temperature from psutil's table: the package if it has one, else the hottest core."""
    for name in _CPU_SENSORS:
        readings = [entry for entry in sensors.get(name, ()) if entry.current is not None and 0 < entry.current <= _MAX_TEMP_C]
        for label in _HOTTEST_FIRST:
            for entry in readings:
                if entry.label == label:
                    return float(entry.current)
        if readings:
            return max(float(entry.current) for entry in readings)
    return None


def _cpu_temp_c() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)  # psutil has none on Windows and macOS
    return cpu_temp_c(read()) if read is not None else None


def _disk(mount: str) -> dict[Series, Number | None]:
    usage = _maybe(lambda: psutil.disk_usage(mount))
    if usage is None:
        return {}
    return {("disk_used_bytes", f"disk:{mount}"): usage.used, ("disk_total_bytes", f"disk:{mount}"): usage.total}


def _disks() -> list[str]:
    """Mount points of local disks, each disk once. Network disks are left out: asking them can hang."""
    found: dict[str, str] = {}
    for part in psutil.disk_partitions(all=False):
        if "cdrom" in part.opts or not part.fstype or part.fstype in {"squashfs", "iso9660"}:
            continue
        if Path(part.mountpoint).is_dir():
            found.setdefault(part.device, part.mountpoint)
    return sorted(found.values())[:_MAX_DISKS]


def _maybe(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except (psutil.Error, OSError, AttributeError, ValueError, IndexError, NotImplementedError):
        return None  # this system does not tell; psutil has its own way to say so on each


def _os_name() -> str:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return f"{platform.system()} {platform.version()}"


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in _lines(Path("/proc/cpuinfo")):
            name, _, value = line.partition(":")
            if name.strip() in {"model name", "Model"}:
                return value.strip()
    return platform.processor()


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as source:
        yield from source


def _system_id() -> str:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography") as key:
                found = str(winreg.QueryValueEx(key, "MachineGuid")[0])
        except OSError:
            found = ""
    else:
        try:
            found = _MACHINE_ID.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            found = ""
    return "" if found == "uninitialized" else found


def _kept_id(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        made = uuid.uuid4().hex
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(file.name + ".new")
        with new.open("w", encoding="ascii") as target:
            target.write(made + "\n")
            target.flush()
            os.fsync(target.fileno())
        new.replace(file)
        return made
