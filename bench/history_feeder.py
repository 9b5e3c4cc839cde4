"""Sentries that send the frames of generated looks: `python -m bench.history_feeder ADDRESS KEYS`, with commands on stdin:
    feed FOLDER FIRST LAST   looks [FIRST, LAST) of all devices of `bench.history_data` in FOLDER, 250 devices a sentry and frame;
                             answered with {"frames", "bytes", "wall_s"} when the last frame is acknowledged as durable
Sessions are opened by the first command and stay open, as a sentry's does; all folders have the columns of the first. What goes
wrong ends the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import grpc

from bench.history_data import Data, opened
from bench.history_frames import DEVICES, Packer
from garrison import wire
from garrison.clock import SystemClock
from garrison.frame import Layout
from garrison.model import SentryHello
from garrison.v1 import post_pb2 as pb
from garrison.v1.post_pb2_grpc import PostStub
from sentry_core.channel import post_channel

WINDOW = 200
LIMIT_S = 120.0
"""Without room for a frame for so long, something is wrong."""


class Sender:
    """One sentry and its session."""

    def __init__(self, address: str, who: dict[str, str], number: int) -> None:
        self._devices = slice(number * DEVICES, (number + 1) * DEVICES)
        self._id = who["id"]
        self._boot = os.urandom(16)
        self._seq = 0
        self._room = asyncio.Semaphore(WINDOW)
        self._channel = post_channel(address, who["roots"].encode(), who["key"].encode(), who["chain"].encode())
        self._call: grpc.aio.StreamStreamCall[pb.Up, pb.Down] = PostStub(self._channel).Session()

    async def hello(self, layout: Layout) -> None:
        hello = SentryHello("asic", "bench", self._boot, SystemClock().now_ms())
        await self._call.write(pb.Up(hello=wire.hello_to(self._id, hello)))
        await self._call.write(pb.Up(layout=wire.layout_to(layout)))

    async def feed(self, data: Data, first: int, last: int) -> int:
        """Bytes of the frames."""
        packer = Packer(data.keys[self._devices], len(data.layout.columns))
        size = 0
        for look in range(first, last):
            if self._room.locked():
                async with asyncio.timeout(LIMIT_S):
                    await self._room.acquire()
            else:
                await self._room.acquire()
            self._seq += 1
            body = packer.pack(data.at_ms[look, self._devices], data.values[look, :, self._devices])
            size += len(body)
            await self._call.write(pb.Up(frame=pb.Frame(boot=self._boot, seq=self._seq, layout=data.layout.hash, body=body)))
        async with asyncio.timeout(LIMIT_S):
            for _ in range(WINDOW):  # all of it is free when nothing is on its way
                await self._room.acquire()
        for _ in range(WINDOW):
            self._room.release()
        return size

    async def read_acks(self) -> None:
        while True:
            down = await self._call.read()
            if not isinstance(down, pb.Down):
                raise RuntimeError(f"the commander ended the session: {await self._call.details()}")  # noqa: TRY004  # it is the end
            if down.HasField("go_away"):
                raise RuntimeError(f"the commander sent us away: {down.go_away.text}")
            for mark in down.ack.marks:
                for span in mark.spans:
                    for _ in range(span.first, span.last + 1):
                        self._room.release()


async def serve(address: str, who: list[dict[str, str]]) -> None:
    senders: list[Sender] = []
    async with asyncio.TaskGroup() as tasks:
        reading: list[asyncio.Task[None]] = []
        while line := await asyncio.to_thread(sys.stdin.readline):
            _, folder, first, last = line.split()
            data = opened(Path(folder))
            for number in range(len(senders), -(-data.devices // DEVICES)):
                senders.append(Sender(address, who[number], number))
                await senders[-1].hello(data.layout)
                reading.append(tasks.create_task(senders[-1].read_acks()))
            began_s = time.monotonic()
            sizes = await asyncio.gather(*(one.feed(data, int(first), int(last)) for one in senders))
            told = {"frames": (int(last) - int(first)) * len(senders), "bytes": sum(sizes), "wall_s": time.monotonic() - began_s}
            print(json.dumps(told), flush=True)
        for task in reading:
            task.cancel()


def main() -> None:
    address, keys = sys.argv[1], Path(sys.argv[2])
    asyncio.run(serve(address, [json.loads(line) for line in keys.read_text().splitlines()]))


if __name__ == "__main__":
    main()
