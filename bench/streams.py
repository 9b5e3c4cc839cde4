"""Many light sentries in one process: own keys, own connections, the real wire, the product's rule for coming back.

`python -m bench.streams ADDRESS KEYS FIRST COUNT [--devices]`; then commands on stdin, each answered with one line of JSON:
    open N [SPREAD_S]   the first N of ours may connect, spread over that time
    state               since `mark`: {"open": [n], "failed": [n], "at": [seconds of CLOCK_MONOTONIC when each came back]}
    mark                forgets what was counted
Light: no journal, no rig. Each says Hello, reads its Welcome, with --devices tells a roster of one rig, and reads on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc

from garrison import wire
from garrison.clock import SystemClock
from garrison.model import Device, SentryHello
from garrison.v1 import post_pb2 as pb
from garrison.v1.post_pb2_grpc import PostStub
from garrison.words import DeviceState
from sentry_core.channel import CONNECT_S, post_channel
from sentry_core.session import WINDOW_S, next_wait_s

LONG_S = 10.0
FACTS = {"hostname": "rig", "os": "Linux", "machine_id": "bench"}


class Fleet:
    """All sentries of this process."""

    def __init__(self, address: str, *, devices: bool) -> None:
        self.address = address
        self.devices = devices
        self.open = self.failed = 0
        self.at: list[float] = []
        self.shut = False
        self._watching: asyncio.Task[None] | None = None

    async def sentry(self, who: dict[str, str], first_wait_s: float) -> None:
        """What sentry_core's session does, without the rest of a sentry."""
        boot, failures, window_s = os.urandom(16), 0, WINDOW_S
        keys = (who["roots"].encode(), who["key"].encode(), who["chain"].encode())
        await asyncio.sleep(first_wait_s)
        while True:
            opened_s: float | None = None
            if not self.shut:
                channel = post_channel(self.address, *keys)
                try:
                    call = PostStub(channel).Session()
                    async with asyncio.timeout(CONNECT_S):
                        window_s = await self._hello(call, who["id"], boot)
                    opened_s = time.monotonic()
                    self.open += 1
                    self.at.append(opened_s)
                    while await call.read() is not grpc.aio.EOF:
                        pass
                except (grpc.aio.AioRpcError, TimeoutError, asyncio.CancelledError) as error:
                    task = asyncio.current_task()
                    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                        raise
                    self.watch_port()
                finally:
                    await channel.close()
            if opened_s is None:
                self.failed += 1
                failures += 1
            else:
                self.open -= 1
                failures = 0 if time.monotonic() - opened_s >= LONG_S else 1
            await asyncio.sleep(next_wait_s(failures, window_s, random.random()))

    def watch_port(self) -> None:
        """A refused try costs a sentry's own machine some milliseconds and the commander's nothing. Here all share one processor:
        one looks for everybody whether the port is open, and while it is shut a try fails at no cost."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._until_open())

    async def _until_open(self) -> None:
        host, _, port = self.address.rpartition(":")
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                self.shut = True
            else:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                self.shut = False
                return
            await asyncio.sleep(0.1)

    async def _hello(self, call: Any, sentry_id: str, boot: bytes) -> float:
        hello = SentryHello("rig", "bench", boot, SystemClock().now_ms(), facts=FACTS)
        await call.write(pb.Up(hello=wire.hello_to(sentry_id, hello)))
        down = await call.read()
        if not isinstance(down, pb.Down) or not down.HasField("welcome"):
            raise TimeoutError
        if self.devices:
            device = Device(f"machine:{sentry_id}", "rig", DeviceState.IDLE, name=f"rig-{sentry_id[:8]}", facts=FACTS)
            await call.write(pb.Up(roster=wire.roster_to([device], (), whole=True)))
        return wire.welcome_from(down.welcome).reconnect_window_ms / 1000


async def serve(fleet: Fleet, who: list[dict[str, str]]) -> None:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    commands: asyncio.Queue[list[str]] = asyncio.Queue()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(commands.put_nowait, line.split())
        loop.call_soon_threadsafe(commands.put_nowait, [])

    threading.Thread(target=listen, daemon=True).start()
    while command := await commands.get():
        match command:
            case ["open", count, *spread]:
                spread_s = float(spread[0]) if spread else 0.0
                fresh = who[len(tasks) : int(count)]
                tasks += [asyncio.create_task(fleet.sentry(one, spread_s * place / len(fresh))) for place, one in enumerate(fresh)]
            case ["mark"]:
                fleet.failed = 0
                fleet.at.clear()
        told = {"open": [fleet.open], "failed": [fleet.failed], "at": fleet.at}
        print(json.dumps(told), flush=True)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    address, keys, first, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    lines = keys.read_text().splitlines()[first : first + count]
    asyncio.run(serve(Fleet(address, devices="--devices" in sys.argv), [json.loads(line) for line in lines]))


if __name__ == "__main__":
    main()
