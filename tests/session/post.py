"""A sentry inside the test's own process: the real daemon with the made-up post."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from garrison.clock import Clock, SystemClock
from sentry_core import daemon, enrolment, guard
from sentry_core.identity import Identity
from tests.session.a_sentry import MadeUpPost, Settings


@dataclass
class Running:
    post: MadeUpPost
    stop: asyncio.Event
    task: asyncio.Task[None]


async def enrolled(home: Path, token: str, clock: Clock | None = None) -> Identity:
    """A new sentry's identity, in `home`."""
    joined = await enrolment.enrol(home / "identity", token, "rig", {"hostname": "test"}, clock or SystemClock())
    guard.write_default(home)
    return joined


@contextlib.asynccontextmanager
async def running(
    home: Path, settings: Settings | None = None, clock: Clock | None = None, machine: bytes | None = None
) -> AsyncIterator[Running]:
    """The daemon, until the end of the block; it must then stop cleanly. `machine` None: as the hardware says."""
    settings, clock, stop = settings or Settings(), clock or SystemClock(), asyncio.Event()
    post = MadeUpPost(settings, home, clock)
    task = asyncio.create_task(daemon.run(post, settings, home, clock, stop=stop, machine=machine))
    try:
        yield Running(post, stop, task)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await asyncio.gather(task)


async def until(true: Callable[[], bool | Awaitable[bool]], within_s: float = 30.0, what: str = "it") -> None:
    """Polls quickly; fails after `within_s`."""
    end = asyncio.get_running_loop().time() + within_s
    while True:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        assert asyncio.get_running_loop().time() < end, f"{what} did not come true within {within_s} s"
        await asyncio.sleep(0.02)
