"""What the ASIC sentry reads from simulated Antminers, recorded for the history benchmark, as fast as it goes:
`python -m bench.history_recorder FOLDER DEVICES COPIES HOURS END_MS`, which leaves the files of `bench.history_data` in FOLDER,
with each device as often as asked for.

The real watcher looks at the simulators over sockets on its real schedule, every 30 s. When no look is under way, its clock and
that of the simulators (the event loop's) jump to its next turn. Times and the length of looks are what this machine made of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench import history_data
from bench.history_data import STEP_MS, identity
from garrison.frame import Layout, Sample, Series, device_key
from garrison.model import Device, Target
from sentry_asic.watch import Pace, Watcher
from tests.simulators.farm import Farm

FIRST = "127.41.0.1"
_LOOK_S = 10.0


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its time is that of the machine, plus what was jumped over."""

    jumped_s = 0.0

    def time(self) -> float:
        return super().time() + self.jumped_s


class JumpingClock:
    """The wall clock shows `begin_ms` at first. `busy`: whether looks are under way."""

    def __init__(self, loop: JumpingLoop, begin_ms: int) -> None:
        self._loop, self._begin_ms, self._begin_s = loop, begin_ms, loop.time()
        self.busy: Callable[[], bool] = lambda: False

    def now_ms(self) -> int:
        return self._begin_ms + round((self._loop.time() - self._begin_s) * 1000)

    def monotonic_ms(self) -> int:
        return round(self._loop.time() * 1000)

    async def sleep(self, seconds: float) -> None:
        """Until no look is under way; then the rest of the time is jumped over."""
        end_s = self._loop.time() + seconds
        async with asyncio.timeout(_LOOK_S):
            await asyncio.sleep(0)  # looks that are due begin
            while self.busy():  # noqa: ASYNC110  # the watcher tells nobody when a look ends
                await asyncio.sleep(0)
        self._loop.jumped_s += max(0.0, end_s - self._loop.time())


class Recorder:
    """An outbox that keeps what it gets before `end_ms`, and then is full."""

    def __init__(self, end_ms: int) -> None:
        self._end_ms = end_ms
        self.samples: dict[int, list[Sample]] = {}
        self.full: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def look(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            if sample.at_ms < self._end_ms:
                self.samples.setdefault(sample.key, []).append(sample)
            elif not self.full.done():
                self.full.set_result(None)

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None: ...

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None: ...


async def record(loop: JumpingLoop, devices: int, begin_ms: int, end_ms: int) -> list[list[Sample]]:
    """By devices, of each the same number."""
    async with Farm(devices, first=FIRST, mixed=False) as farm:
        clock, recorder = JumpingClock(loop, begin_ms), Recorder(end_ms)
        watcher = Watcher(clock, Pace(poll_every_s=STEP_MS / 1000))
        clock.busy = lambda: watcher._flying > 0  # nothing else tells it
        watcher.assign(
            Target(str(number), f"{one.host}:{one.api_port}", "antminer", http_port=one.http_port)
            for number, one in enumerate(farm.devices)
        )
        running = asyncio.create_task(watcher.run(recorder))
        await asyncio.wait({running, recorder.full}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    if len(recorder.samples) != devices:
        raise RuntimeError(f"looks at {len(recorder.samples)} devices, not {devices}")
    looks = min(map(len, recorder.samples.values()))
    return [samples[:looks] for _, samples in sorted(recorder.samples.items())]


def keep(folder: Path, samples: Sequence[Sequence[Sample]], copies: int) -> None:
    """As `history_data` does. All looks must have given the same series."""
    series: set[Series] = set(samples[0][0].values)
    if any(set(sample.values) != series for device in samples for sample in device):
        raise RuntimeError("not all looks gave the same series")
    layout = Layout.of(series)
    values = np.empty((len(samples[0]), len(layout.columns), len(samples)), np.int64)
    for number, device in enumerate(samples):
        for place, column in enumerate(layout.columns):
            told = [sample.values[column.metric, column.component] for sample in device]
            values[:, place, number] = [round(value * 10**column.decimals) for value in told]
    at_ms = np.array([[sample.at_ms for sample in device] for device in samples], np.int64).T
    np.save(folder / "values.npy", np.tile(values, copies))
    np.save(folder / "at_ms.npy", np.tile(at_ms, copies))
    np.save(folder / "keys.npy", np.array([device_key(identity(number)) for number in range(len(samples) * copies)], np.uint64))
    history_data.name_columns(folder, layout)


def main() -> None:
    folder, devices, copies, hours, end_ms = Path(sys.argv[1]), *map(int, sys.argv[2:6])
    loop = JumpingLoop()
    try:
        samples = loop.run_until_complete(record(loop, devices, end_ms - hours * 3_600_000, end_ms))
    finally:
        loop.close()
    keep(folder, samples, copies)


if __name__ == "__main__":
    main()
