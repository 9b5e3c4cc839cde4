"""Time is passed in; only this file asks the system for it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970 UTC. May jump: never measure a duration with it."""
        ...

    def monotonic_ms(self) -> int:
        """Never goes back; for deadlines and durations."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that tests move by hand. `sleep` returns when `advance` has passed its end."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._mono_ms = 0
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ms(self) -> int:
        return self._mono_ms

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._mono_ms + round(seconds * 1000), done))
        await done

    def advance(self, seconds: float) -> None:
        self._now_ms += round(seconds * 1000)
        self._mono_ms += round(seconds * 1000)
        due = [item for item in self._sleepers if item[0] <= self._mono_ms]
        self._sleepers = [item for item in self._sleepers if item[0] > self._mono_ms]
        for _, done in sorted(due, key=lambda item: item[0]):
            if not done.done():
                done.set_result(None)

    def step_wall(self, seconds: float) -> None:
        """The wall clock jumps (NTP, a person); the monotonic clock does not."""
        self._now_ms += round(seconds * 1000)
