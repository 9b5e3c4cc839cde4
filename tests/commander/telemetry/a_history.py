"""A history as a process of its own that dies by kill -9. Its clock runs days in a second, so that all duties come due in a life.

python -m tests.commander.telemetry.a_history FOLDER LIFE.json tells on stdout, line by line:

    phase NAME                         what begins now: start, append, seal, merge, retire, remove (a file, within retire)
    now MS                             its clock
    sent POST BOOT SEQ KIND AT_MS KEYS a frame is handed in
    acked POST BOOT SEQ                it is durable, its sentry would be told

What a sample says is a pure function of its device and time (`values`), so that whoever reads those lines knows it.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from commander.telemetry import archive
from commander.telemetry.members import FARM
from commander.telemetry.retention import Spans
from commander.telemetry.service import Telemetry
from commander.telemetry.totals_store import Group
from commander.telemetry.upkeep import Done, Upkeep
from garrison.frame import Layout, Number, Sample, Series, pack

BEGUN_MS = 1_795_046_400_000
"""2026-11-19: a week, a month and a year end soon after."""

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SPANS = Spans(raw_days=3, five_minute_days=35, hour_days=60)
EVERY_MS = 150_000
LATE_MS = 2 * DAY_MS
"""The latest come so long after their time: their day's looks are still kept."""

LIFE_S = 60.0
"""Longer than any life: whoever is forgotten ends by itself."""

LAYOUTS = (
    Layout.of([("hashrate_hs", ""), ("accepted", ""), ("temp_c", "")]),
    Layout.of([("hashrate_hs", ""), ("accepted", ""), ("temp_c", ""), ("fan_rpm", "fan:2")]),
    Layout.of([("look_ok", "")]),
)
LIVE = {"s1": (1, 2, 3), "s2": (4, 2**63 + 5)}
ONLY_LATE = 9
KEYS = (*LIVE["s1"], *LIVE["s2"], ONLY_LATE)


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One look at some devices."""

    post: str
    boot: int
    seq: int
    kind: int
    at_ms: int
    keys: tuple[int, ...]

    @property
    def body(self) -> bytes:
        return pack(LAYOUTS[self.kind], [Sample(key, self.at_ms, values(key, self.at_ms, self.kind)) for key in self.keys])


class Life(msgspec.Struct, frozen=True):
    """`apart`: it seals and merges in another process. `again`: frames of earlier lives that nobody acknowledged; their sentries
    send them again, with the same numbers. `seqs`: the last one of each post. It ends so long after the phase `ends_in` has begun
    for the nth time."""

    seed: int
    now_ms: int
    boot: int
    seqs: dict[str, int]
    again: list[Frame]
    ends_in: str
    nth: int
    after_s: float
    apart: bool


def boot_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def values(key: int, at_ms: int, kind: int) -> dict[Series, Number]:
    """What a look at the device at that time gives in one of `LAYOUTS`."""
    mixed = (at_ms // 7 * 2_654_435_761 ^ (key & 0xFFFF) * 40_503) % 1_000_003
    if kind == 2:
        return {("look_ok", ""): 0}
    found: dict[Series, Number] = {("accepted", ""): (at_ms - BEGUN_MS) // 1000 * 3 + mixed % 3 + 10**9}
    if mixed % 13:
        found["hashrate_hs", ""] = (90_000_000 + mixed) * 1_000_000 + mixed
    if mixed % 5:
        found["temp_c", ""] = 50 + mixed % 300 / 10
    if kind == 1:
        found["fan_rpm", "fan:2"] = 3_000 + mixed % 1_000
    return found


async def groups() -> AsyncIterator[tuple[int, tuple[Group, ...]]]:
    for key in KEYS:
        yield key, (FARM, ("rack", f"r{key % 2}"))


class FastClock:
    """Goes on when the feeder says so. To sleep takes a thousandth of the time."""

    def __init__(self, now_ms: int) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms - BEGUN_MS

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")  # in one piece: two threads say things
    sys.stdout.flush()


class Feeder:
    """The sentries of a farm: live looks, what came late, and the same again."""

    def __init__(self, telemetry: Telemetry, clock: FastClock, life: Life) -> None:
        self.telemetry = telemetry
        self.clock = clock
        self.life = life
        self.chance = random.Random(life.seed)
        self.seqs = dict(life.seqs)
        self.sent: list[Frame] = []

    async def run(self, may_go_on: Callable[[], bool]) -> None:
        for layout in LAYOUTS:
            await self.telemetry.learn_layout("s1", layout)
        await asyncio.gather(*(self._send(frame) for frame in self.life.again))
        while True:
            while not may_go_on():  # noqa: ASYNC110  # two look at one clock, and this is simpler than to tell each other
                await asyncio.sleep(0.002)
            jobs = [job for _ in range(HOUR_MS // EVERY_MS) for job in self._look()]
            if self.chance.random() < 0.4:
                jobs += self._late()
            if self.chance.random() < 0.2:
                jobs += self._repeated()
            await asyncio.gather(*jobs)

    def _look(self) -> list[asyncio.Future[None]]:
        self.clock.ms += EVERY_MS
        say("now", self.clock.ms)
        jobs = [self._send(self._frame(post, self._kind(), self.clock.ms, keys)) for post, keys in LIVE.items()]
        if self.chance.random() < 0.1:  # another post sees one of its devices too
            jobs.append(self._send(self._frame("s2", 0, self.clock.ms - 41_000, LIVE["s1"][-1:])))
        return jobs

    def _late(self) -> list[asyncio.Future[None]]:
        """A journal of some time ago, in any order; partly at the very times of live looks."""
        key = self.chance.choice(KEYS)
        apart_ms = self.chance.choice([0, 37_000])
        first_ms = self.clock.ms - self.chance.randrange(600_000, LATE_MS) // EVERY_MS * EVERY_MS - apart_ms
        times = [first_ms + i * EVERY_MS for i in range(10) if first_ms + i * EVERY_MS < self.clock.ms]
        self.chance.shuffle(times)
        return [self._send(self._frame("s3", self._kind(), at_ms, (key,))) for at_ms in times if at_ms >= BEGUN_MS]

    def _repeated(self) -> list[asyncio.Future[None]]:
        """The same samples in new frames; and the same frames, as after an acknowledgement that was lost."""
        lately = [frame for frame in self.sent if frame.at_ms > self.clock.ms - LATE_MS]
        some = self.chance.sample(lately, min(len(lately), 10))
        jobs = [self._send(self._frame("s3", frame.kind, frame.at_ms, frame.keys)) for frame in some]
        return jobs + [self._send(frame) for frame in some[:5]]

    def _kind(self) -> int:
        return self.chance.choices((0, 1, 2), (6, 3, 1))[0]

    def _frame(self, post: str, kind: int, at_ms: int, keys: Sequence[int]) -> Frame:
        self.seqs[post] = self.seqs.get(post, 0) + 1
        frame = Frame(post, self.life.boot, self.seqs[post], kind, at_ms, tuple(keys))
        self.sent = [*self.sent[-2_000:], frame]
        return frame

    def _send(self, frame: Frame) -> asyncio.Future[None]:
        say("sent", frame.post, frame.boot, frame.seq, frame.kind, frame.at_ms, ",".join(map(str, frame.keys)))
        done = self.telemetry.take(frame.post, boot_id(frame.boot), frame.seq, LAYOUTS[frame.kind].hash, frame.body)

        def tell(done: asyncio.Future[None]) -> None:
            done.result()
            say("acked", frame.post, frame.boot, frame.seq)

        done.add_done_callback(tell)
        return done


def kill_after(seconds: float) -> None:
    """SIGKILL, from a timer of the kernel: nobody outside would meet the milliseconds of some phases."""
    libc = ctypes.CDLL(None)
    event = struct.pack("=QiI48x", 0, signal.SIGKILL, 0)  # struct sigevent: the signal, to this process
    nanoseconds = max(round(seconds * 1e9), 1)
    when = struct.pack("=4q", 0, 0, *divmod(nanoseconds, 10**9))  # struct itimerspec: once
    timer = ctypes.c_void_p()
    if libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) or libc.timer_settime(timer, 0, when, None):
        raise OSError("no timer")


class Phases:
    """Tells them, and ends it all in the one that is chosen."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.left = life.nth

    def begin(self, name: str) -> None:
        say("phase", name)
        if name == self.life.ends_in:
            self.left -= 1
            if self.left == 0:
                kill_after(self.life.after_s)

    def listen(self) -> None:
        """Each duty of the upkeep says when it begins; what goes on beside it all the time is the appending."""
        for name in ("seal", "merge", "retire"):
            setattr(Upkeep, f"_{name}", self._told(name, getattr(Upkeep, f"_{name}")))
        real = archive.remove

        def remove(path: Path) -> None:
            self.begin("remove")
            real(path)
            self.begin("retire")

        archive.remove = remove

    def _told(self, name: str, real: Callable[[Upkeep, Done], Any]) -> Callable[[Upkeep, Done], Any]:
        async def duty(upkeep: Upkeep, done: Done) -> None:
            self.begin(name)
            try:
                await real(upkeep, done)
            finally:
                self.begin("append")

        return duty


async def live(folder: Path, life: Life) -> None:
    phases = Phases(life)
    phases.listen()
    phases.begin("start")
    clock = FastClock(life.now_ms)
    telemetry = await Telemetry.open(folder, clock, spans=SPANS, commit_every_ms=2, apart=life.apart)
    telemetry.follow(groups)
    phases.begin("append")
    tidied_ms = clock.ms
    # the clock waits for the upkeep: in no farm do three days pass while a step of it runs
    feeding = asyncio.create_task(Feeder(telemetry, clock, life).run(lambda: clock.ms < tidied_ms + DAY_MS))
    end_s = time.monotonic() + LIFE_S
    while time.monotonic() < end_s:
        begun_ms = clock.ms
        while clock.ms < begun_ms + 8 * HOUR_MS:
            await asyncio.sleep(0.002)
            if feeding.done():
                feeding.result()
        await telemetry.tidy()
        tidied_ms = clock.ms


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Life)))
