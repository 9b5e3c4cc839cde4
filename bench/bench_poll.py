"""Polling: CPU of the ASIC sentry per look at a device. `python -m bench.bench_poll`, under two minutes.

The real watcher, on its real schedule, looks at simulated Antminers in another process: two questions on port 4028, each on a
connection of its own, as cgminer wants it; the answers are parsed, judged, rounded, put on the roster and packed into frames.
Its floors ask the same devices the same questions and throw the bytes away: bare blocking sockets in Python, one device after
the other; and an epoll loop in C where there is a compiler. All three take turns, so that noise hits all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import results
from bench.measure import Measured
from garrison.clock import SystemClock
from garrison.frame import Sample, pack_look
from garrison.model import Device, Target
from sentry_asic.watch import Pace, Watcher
from tests.simulators.farm import allow_files

BENCH = "poll"
DEVICES = int(os.environ.get("BENCH_DEVICES", "400"))
EVERY_S = 1.0
"""400 looks a second: what 4,000 ASICs are, looked at every 10 s."""
WINDOW_S = 5.0
RUNS = 5
FLOOR_LOOKS = 800
FLOOR_AT_ONCE = 32
QUESTIONS = (b'{"command":"stats","new_api":true}', b'{"command":"pools"}')
GOAL_C = 7.0
"""Against an epoll loop in C: what the facts page asks for."""


@dataclass(frozen=True, slots=True)
class Place:
    host: str
    api_port: int
    http_port: int


@contextlib.contextmanager
def simulators(count: int = DEVICES, first: str = "127.40.0.1", *more: str) -> Iterator[list[Place]]:
    """In a process of their own: every fourth an old Antminer."""
    command = [sys.executable, "-m", "tests.simulators.farm", "--count", str(count), "--first", first, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            told = json.loads(process.stdout.readline() if process.stdout else b"{}")
            yield [Place(one["host"], one["api_port"], one["http_port"]) for one in told["devices"]]
        finally:
            process.terminate()
            process.wait(30)


# ---- ours --------------------------------------------------------------------------------------------------


class Gate(SystemClock):
    """A clock whose `sleep` waits while the gate is shut: the schedule stands still, looks under way end."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.open.wait()
        await super().sleep(seconds)


class Outbox:
    """Packs like the sentry's, and keeps nothing: the journal's cost is the ingest benchmark's and the disk's."""

    def __init__(self) -> None:
        self.looks = self.failed = 0
        self.warm = asyncio.Event()

    async def look(self, samples: Sequence[Sample]) -> None:
        self.looks += len(samples)
        self.failed += sum(1 for sample in samples if not sample.values.get(("look_ok", "")))
        pack_look(samples)
        if self.looks >= 2 * DEVICES:
            self.warm.set()

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None: ...

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None: ...


class Ours:
    """The watcher, warm: everything identified, the slow looks done."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._clock = Gate()
        self._outbox = Outbox()
        self._watcher = Watcher(self._clock, Pace(poll_every_s=EVERY_S, slow_every_s=3600))
        self._watcher.assign(
            Target(str(number), f"{place.host}:{place.api_port}", "antminer", http_port=place.http_port)
            for number, place in enumerate(places)
        )

    @contextlib.asynccontextmanager
    async def warm(self) -> Any:
        running = asyncio.create_task(self._watcher.run(self._outbox))
        self._clock.open.set()
        await asyncio.wait_for(self._outbox.warm.wait(), 60)
        self._outbox.failed = 0
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def window(self) -> float:
        """µs of CPU a look."""
        self._clock.open.set()
        await asyncio.sleep(EVERY_S)  # those that became due at the gate spread out again
        looks, cpu_s = self._outbox.looks, time.process_time()
        await asyncio.sleep(WINDOW_S)
        spent_s, count = time.process_time() - cpu_s, self._outbox.looks - looks
        self._clock.open.clear()
        await asyncio.sleep(0.5)
        if self._outbox.failed or not count:
            raise RuntimeError(f"{self._outbox.failed} looks failed, {count} done: nothing is measured on a machine this busy")
        return spent_s / count * 1e6


# ---- the floors --------------------------------------------------------------------------------------------


def blocking(places: Sequence[Place]) -> tuple[float, float]:
    """µs of CPU and bytes a look: connect, send, receive to the end, twice."""
    cpu_s, size = time.process_time(), 0
    for number in range(FLOOR_LOOKS):
        place = places[number % len(places)]
        for question in QUESTIONS:
            with socket.create_connection((place.host, place.api_port), 10) as link:
                link.sendall(question)
                while got := link.recv(65536):
                    size += len(got)
    return (time.process_time() - cpu_s) / FLOOR_LOOKS * 1e6, size / FLOOR_LOOKS


def compiled(folder: Path) -> Path | None:
    """The floor in C; None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "poll_floor"
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("poll_floor.c")], check=True)
    return program


def in_c(program: Path, places: Sequence[Place]) -> float:
    addresses = "".join(f"{place.host} {place.api_port}\n" for place in places)
    told = subprocess.run(
        [program, str(FLOOR_AT_ONCE), str(FLOOR_LOOKS)], input=addresses, capture_output=True, text=True, check=True, timeout=120
    )
    return float(told.stdout.split()[0])


# ---- all of it ---------------------------------------------------------------------------------------------


async def measure(places: Sequence[Place], program: Path | None) -> None:
    ours = Ours(places)
    rounds: list[tuple[float, float, float]] = []
    size = 0.0
    async with ours.warm():
        for _ in range(RUNS + 1):
            mine = await ours.window()
            bare, size = blocking(places)
            rounds.append((mine, bare, in_c(program, places) if program else 0.0))
    mine_runs, bare_runs, c_runs = (Measured(tuple(one[i] for one in rounds[1:])) for i in range(3))
    results.begin(BENCH)
    ratio = mine_runs.over(bare_runs)
    results.add(
        BENCH, "CPU per look at one ASIC: asked, parsed, judged, packed", mine_runs.median, "µs",
        ratio=ratio, against=f"bare blocking sockets in Python, the same {size:,.0f} bytes thrown away, {bare_runs} µs",
        runs=mine_runs.runs,
    )  # fmt: skip
    print(f"a look {mine_runs} µs; bare blocking sockets {bare_runs} µs, ratio {ratio:.2f}")
    results.add(BENCH, "ASICs looked at every 10 s by one core at 70 %", 0.7 * 10 / mine_runs.median * 1e6, "devices")
    if program:
        ratio = mine_runs.over(c_runs)
        results.add(
            BENCH, "CPU per look at one ASIC, against C", mine_runs.median, "µs",
            ratio=ratio, against=f"an epoll loop in C, the same bytes thrown away, {c_runs} µs",
            goal=f"≤ {GOAL_C:g} ×", ok=ratio <= GOAL_C, runs=mine_runs.runs,
        )  # fmt: skip
        print(f"epoll in C {c_runs} µs, ratio {ratio:.2f}")
    else:
        print("no C compiler: not compared with the floor in C")


def main() -> None:
    allow_files(4 * DEVICES + 1000)
    with tempfile.TemporaryDirectory() as folder, simulators() as places:
        asyncio.run(measure(places, compiled(Path(folder))))


if __name__ == "__main__":
    main()
