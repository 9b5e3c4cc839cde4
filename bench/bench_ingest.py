"""Ingest: CPU of the commander per value, from a sentry's frame to a durable ack. `python -m bench.bench_ingest`, under a minute.

End to end: four sentries over mutual TLS send frames as fast as acks allow; each frame is checked, committed with fsync,
acknowledged, decoded once and in the latest values. What counts is the CPU of the commander's process, all threads.
The floor is a bare gRPC stream behind the same TLS, with the same messages, that throws them away. VictoriaMetrics, where it is
installed, gets the same values by remote write; unlike work in part: it parses labels, and does not sync before it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from bench import ingest_frames, ingest_victoria, results
from bench.ingest_server import SINK
from bench.measure import Measured, stopwatch
from commander.access import ca
from commander.telemetry.service import Telemetry
from garrison import wire
from garrison.clock import SystemClock
from garrison.model import SentryHello
from garrison.v1 import post_pb2 as pb
from garrison.v1.post_pb2_grpc import PostStub
from sentry_core import enrolment
from sentry_core.channel import post_channel

BENCH = "ingest"
SENTRIES = 4
WINDOW = 200
GOAL_US = 0.25
RUNS = 5
FLOOR = "a bare gRPC stream with the same messages"


@dataclass(frozen=True, slots=True)
class Load:
    """`frames` a run, of `devices` each."""

    devices: int
    frames: int

    @property
    def values(self) -> int:
        return self.frames * self.devices * len(ingest_frames.LAYOUT.columns)


LOADS = (Load(250, 800), Load(25, 2_000), Load(1, 3_000))


@dataclass(frozen=True, slots=True)
class Sentry:
    id: str
    key_pem: bytes
    chain_pem: bytes
    roots_pem: bytes

    def channel(self, port: int) -> grpc.aio.Channel:
        return post_channel(f"127.0.0.1:{port}", self.roots_pem, self.key_pem, self.chain_pem)


@dataclass(slots=True)
class Server:
    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def server(kind: str, home: Path) -> Iterator[Server]:
    """In a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.ingest_server", kind, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            told = process.stdout.readline() if process.stdout else b""
            yield Server(int(told), psutil.Process(process.pid))
        finally:
            process.communicate(timeout=30)


def sentries(home: Path) -> list[Sentry]:
    """A farm's CA in `home`/ca, and certificates of it."""
    now_ms = SystemClock().now_ms()
    authority = ca.create(home / "ca", "bench", "11111111-2222-4333-8444-555555555555", now_ms)
    made = []
    for number in range(SENTRIES):
        sentry_id = f"00000000-0000-4000-8000-{number:012}"
        folder = home / sentry_id
        folder.mkdir()
        key_pem = enrolment.next_key(folder)
        signed = authority.sign_sentry(sentry_id, enrolment.csr(key_pem), now_ms)
        made.append(Sentry(sentry_id, key_pem, signed.chain_pem, authority.roots_pem))
    return made


# ---- one run -----------------------------------------------------------------------------------------------


async def send(sentry: Sentry, port: int, bodies: list[bytes], count: int) -> None:
    """A session of `count` frames, until the last one is acknowledged as durable."""
    boot = os.urandom(16)
    async with sentry.channel(port) as channel:
        call = PostStub(channel).Session()
        hello = SentryHello("asic", "bench", boot, SystemClock().now_ms())
        await call.write(pb.Up(hello=wire.hello_to(sentry.id, hello)))
        await call.write(pb.Up(layout=wire.layout_to(ingest_frames.LAYOUT)))
        room = asyncio.Semaphore(WINDOW)
        reading = asyncio.create_task(_read_acks(call, count, room))
        for seq in range(1, count + 1):
            await room.acquire()
            frame = pb.Frame(boot=boot, seq=seq, layout=ingest_frames.LAYOUT.hash, body=bodies[seq % len(bodies)])
            await call.write(pb.Up(frame=frame))
        await asyncio.wait_for(reading, 60)
        await call.done_writing()


async def _read_acks(call: grpc.aio.StreamStreamCall[pb.Up, pb.Down], count: int, room: asyncio.Semaphore) -> None:
    acked = 0
    while acked < count:
        down = await call.read()
        if not isinstance(down, pb.Down):
            raise RuntimeError(f"the commander ended the session: {await call.details()}")  # noqa: TRY004  # it is the end
        if down.HasField("go_away"):
            raise RuntimeError(f"the commander sent us away: {down.go_away.text}")
        for mark in down.ack.marks:
            for span in mark.spans:
                acked += span.last - span.first + 1
                for _ in range(span.first, span.last + 1):
                    room.release()


async def pour(sentry: Sentry, port: int, bodies: list[bytes], count: int) -> None:
    """The same messages into the sink."""
    async with sentry.channel(port) as channel:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(SINK)()
        for seq in range(1, count + 1):
            frame = pb.Frame(boot=bytes(16), seq=seq, layout=ingest_frames.LAYOUT.hash, body=bodies[seq % len(bodies)])
            await call.write(pb.Up(frame=frame).SerializeToString())
        await call.write(b"last")
        await asyncio.wait_for(call.read(), 60)
        await call.done_writing()


async def run(kind: str, target: Server, load: Load, bodies: list[bytes], who: list[Sentry]) -> float:
    """CPU of the server, µs a value."""
    before_s = target.cpu_s()
    one = send if kind == "garrison" else pour
    await asyncio.gather(*(one(sentry, target.port, bodies, load.frames // len(who)) for sentry in who))
    return (target.cpu_s() - before_s) / load.values * 1e6


async def in_process(load: Load, bodies: list[bytes]) -> Measured:
    """`Telemetry.take` alone: to disk, acknowledged, decoded, in the latest values."""
    runs = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        telemetry = await Telemetry.open(Path(folder), SystemClock())
        await telemetry.learn_layout("bench", ingest_frames.LAYOUT)
        for number in range(RUNS + 1):
            boot = bytes([number] * 16)
            with stopwatch() as watch:
                taken = [
                    telemetry.take("bench", boot, seq, ingest_frames.LAYOUT.hash, bodies[seq % len(bodies)])
                    for seq in range(1, load.frames + 1)
                ]
                await asyncio.gather(*taken)
            runs.append(watch.cpu_s / load.values * 1e6)
        await telemetry.close()
    return Measured(tuple(runs[1:]))


# ---- all of it ---------------------------------------------------------------------------------------------


async def measure(home: Path) -> None:
    who = sentries(home)
    results.begin(BENCH)
    with server("garrison", home) as ours, server("sink", home) as floor:
        for load in LOADS:
            bodies = ingest_frames.bodies(load.devices, 4 if load.devices > 100 else 40)
            pairs = []
            for _ in range(RUNS + 1):
                mine = await run("garrison", ours, load, bodies, who)
                pairs.append((mine, await run("sink", floor, load, bodies, who)))
            mine_runs, theirs = (Measured(tuple(pair[i] for pair in pairs[1:])) for i in (0, 1))
            _tell(f"CPU per value, frames of {load.devices} devices, over mTLS to a durable ack", mine_runs, theirs, FLOOR, load)
            if load is LOADS[0]:
                _tell(
                    f"CPU per value, frames of {load.devices} devices, in process", await in_process(load, bodies), None, None, load
                )
                bytes_a_value = len(bodies[0]) / load.devices / len(ingest_frames.LAYOUT.columns)
                results.add(BENCH, "bytes per value on the wire and in hot history", bytes_a_value, "B")
                await _against_victoria(mine_runs)


async def _against_victoria(ours: Measured) -> None:
    theirs = await asyncio.to_thread(ingest_victoria.cpu_per_value_us, RUNS)
    if theirs is None:
        print("VictoriaMetrics is not installed (Debian: apt install victoria-metrics): not compared")
        return
    ratio = ours.median / theirs.median
    against = f"VictoriaMetrics, remote write of 250 devices a request, {theirs} µs"
    results.add(
        BENCH, "CPU per value, frames of 250 devices, against VictoriaMetrics", ours.median, "µs",
        ratio=ratio, against=against, goal="≤ 0.25 ×", ok=ratio <= 0.25, runs=ours.runs,
    )  # fmt: skip
    print(f"VictoriaMetrics: {theirs} µs a value; ours is {ratio:.2f} of it")


def _tell(figure: str, ours: Measured, theirs: Measured | None, against: str | None, load: Load) -> None:
    goal = load.devices == 250
    results.add(
        BENCH,
        figure,
        ours.median,
        "µs",
        ratio=ours.over(theirs) if theirs else None,
        against=against,
        goal=f"≤ {GOAL_US} µs" if goal else None,
        ok=ours.median <= GOAL_US if goal else None,
        runs=ours.runs,
    )
    print(f"{figure}: {ours} µs" + (f"; floor {theirs} µs, ratio {ours.over(theirs):.1f}" if theirs else ""))


def main() -> None:
    # not in /tmp, which may be memory: an fsync must cost what it costs
    with tempfile.TemporaryDirectory(prefix=".bench-ingest-", dir=".") as home:
        asyncio.run(measure(Path(home)))


if __name__ == "__main__":
    main()
