"""The real commander for the history benchmark, before a farm of ASICs that it knows, and the process that feeds it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from bench.history_data import identity
from bench.history_frames import DEVICES
from bench.history_http import Link
from bench.whole_farm import WholeFarm, children, free_port
from commander import schema
from commander.db import Database
from commander.fleet import store
from commander.fleet.records import DeviceRecord
from commander.telemetry import merge
from garrison.clock import SystemClock
from garrison.model import Device
from garrison.words import DeviceState

API = "/api/v1"
MODEL = "Antminer S19 Pro"
_RACK = 50
_PROBE_S = 0.005
DAY_MS = 86_400_000


def last_midnight_ms() -> int:
    """The end of the last day that the night merges now."""
    return (time.time_ns() // 1_000_000 - merge.AFTER_MS) // DAY_MS * DAY_MS


def name(number: int) -> str:
    return f"miner-{number:05}"


@dataclass(slots=True)
class HistoryFarm(WholeFarm):
    """Each sentry of kind asic with 250 devices, which were identified long ago."""

    http: int = field(default_factory=free_port)
    token: str = ""

    @property
    def history(self) -> Path:
        return self._folder / "history"

    @property
    def socket(self) -> Path:
        return self._folder / "commander.sock"

    def people(self, devices: int) -> None:
        """The farm, its sentries and their devices."""
        self.init()
        settings = self._folder / "commander.toml"
        settings.write_text(settings.read_text().replace('http = ""', f'http = "127.0.0.1:{self.http}"'))
        asyncio.run(self._people(devices))

    async def _people(self, devices: int) -> None:
        await self.enrol(-(-devices // DEVICES))
        ids = [json.loads(line)["id"] for line in self.keys.read_text().splitlines()]
        now_ms = SystemClock().now_ms()
        db = await Database.open(self._folder / "fleet.db", schema.FLEET)
        try:
            changes = store.Changes(counters={"device": devices})
            changes.sentries = {one.id: replace(one, kind="asic") for one in await db.read(store.sentries)}
            changes.devices = {number + 1: record(number, ids[number // DEVICES], now_ms) for number in range(devices)}
            await db.write(lambda c: store.apply(c, changes))
        finally:
            await db.close()

    def link(self) -> Link:
        """Over TCP and with a token, as a dashboard asks."""
        if not self.token:
            body = json.dumps({"name": "bench", "role": "administrator"}).encode()
            with Link(self.socket) as local:
                told = local.ask("POST", f"{API}/tokens", body, {"content-type": "application/json"}).json()
            self.token = told["token"]
        return Link(("127.0.0.1", self.http), {"authorization": f"Bearer {self.token}"})

    def files(self) -> dict[str, int]:
        """Bytes on disk by file of the history, with what belongs to it of WAL."""
        return {path.name: path.stat().st_size for path in sorted(self.history.iterdir()) if path.is_file()}

    def forget_peak(self) -> None:
        """From now on the most memory is the most since now."""
        for pid in (self.pid, *children(self.pid)):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def memory_mb(self) -> tuple[float, float]:
        """RSS now, and the most there was, of the commander and of the process that seals and merges for it, if there is one; what
        they share counts twice."""
        told = [_told_kb(pid) for pid in (self.pid, *children(self.pid))]
        return sum(one["VmRSS"] for one in told) / 1024, sum(one["VmHWM"] for one in told) / 1024


def _told_kb(pid: int) -> dict[str, int]:
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: int(value.split()[0]) for key, _, value in lines if value.endswith("kB")}


def record(number: int, sentry_id: str, now_ms: int) -> DeviceRecord:
    """A device of the fleet; its id is its number + 1."""
    rack, place = divmod(number, _RACK)
    who = identity(number)
    seen = Device(
        who, "asic", DeviceState.MINING, name=name(number), make="antminer", model=MODEL, mac=who.removeprefix("mac:"),
        address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:4028", facts={"algorithm": "sha256d"}, seen_ms=now_ms,
    )  # fmt: skip
    return DeviceRecord(
        number + 1, who, sentry_id, "asic", name(number), now_ms,
        site="hall", rack=f"rack {rack}", position=str(place), tags=("s19",), seen=seen,
    )  # fmt: skip


# ---- feeding it --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Feeder:
    """A process of `bench.history_feeder`: its CPU is not the commander's."""

    process: subprocess.Popen[str]

    def feed(self, folder: Path, first: int, last: int) -> dict[str, Any]:
        """Looks [first, last) of all devices in `folder`; back when the last frame is acknowledged as durable."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("no pipes")
        print("feed", folder, first, last, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the feeding process ended")
        told: dict[str, Any] = json.loads(line)
        return told


@contextlib.contextmanager
def feeder(farm: WholeFarm) -> Iterator[Feeder]:
    command = [sys.executable, "-m", "bench.history_feeder", farm.address, str(farm.keys)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Feeder(process)
        finally:
            process.kill()


# ---- how long its loop stands still ------------------------------------------------------------------------


@dataclass(slots=True)
class Probe:
    """Asks something cheap every 5 ms, from a thread of its own, for as long as the block lasts.

    A request that waits 100 ms stands for the twenty that would have been sent meanwhile: they are counted with what would have
    been left of the wait for them, so that a long stall weighs as much as it is long.
    """

    farm: HistoryFarm
    idle_s: float = 0.0
    """What a request takes while nothing else happens: median."""
    cpu_s: float = 0.0
    """What one costs the commander."""
    waits_s: list[float] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.waits_s.clear()
        self._done.clear()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def rest(self, seconds: float) -> None:
        before_s = self.farm.cpu_s()
        with self:
            time.sleep(seconds)
        self.cpu_s = (self.farm.cpu_s() - before_s) / len(self.waits_s)
        self.idle_s = statistics.median(self.waits_s)

    def excess_ms(self, share: float) -> float:
        """What this share of all moments waits above the idle median, at most."""
        every = sorted(left for wait_s in self.waits_s for left in _moments(wait_s))
        return max(0.0, every[min(int(len(every) * share), len(every) - 1)] - self.idle_s) * 1000

    def _ask(self) -> None:
        with self.farm.link() as link:
            while not self._done.is_set():
                began_s = time.perf_counter()
                link.get(f"{API}/me")
                took_s = time.perf_counter() - began_s
                self.waits_s.append(took_s)
                time.sleep(max(0.0, _PROBE_S - took_s))


def _moments(wait_s: float) -> Iterator[float]:
    while wait_s > 0:
        yield wait_s
        wait_s -= _PROBE_S
