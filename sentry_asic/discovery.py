"""Looks for devices in a network that is ours. Asks each address once, politely: a bounded number at a time, and no more new
connections a second than was said.

Called by `sentry-asic scan` and, in a running sentry, by `finder.py`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from garrison.clock import Clock, SystemClock
from garrison.faults import Fault, NotFound, Refused, TimedOut
from garrison.model import Credentials
from sentry_asic.cgminer import PORT
from sentry_asic.make import Place, Seen
from sentry_asic.ranges import Plan
from sentry_asic.table import identify

log = logging.getLogger(__name__)
HTTP_PORT = 80
IDENTIFY_S = 12
IDENTIFY_CONNECTIONS = 8
"""What finding out the make takes at most of the rate: drivers open their connections themselves."""
_NOBODY = frozenset({errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH})
"""The network says that no machine is there: its other port need not be asked."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How politely. `connects_per_s`: new connections a second, all addresses together."""

    connects_per_s: float = 100
    at_once: int = 128
    connect_s: float = 1.5


@dataclass(frozen=True, slots=True)
class Found:
    """A device, or something that answers like one and does not let us look: then `error` says why and `state` is a word."""

    address: str
    seen: Seen | None = None
    state: str | None = None
    error: str | None = None


class Pacer:
    """Gives each connection its time. Evenly: a burst is what switches and cheap firewalls choke on."""

    def __init__(self, clock: Clock, per_s: float) -> None:
        self._clock, self._each_ms = clock, 1000 / per_s
        self._next_ms = 0.0

    async def wait(self, connections: int = 1) -> None:
        now_ms = self._clock.monotonic_ms()
        at_ms = max(self._next_ms, now_ms)
        self._next_ms = at_ms + connections * self._each_ms
        if at_ms > now_ms:
            await self._clock.sleep((at_ms - now_ms) / 1000)


async def scan(
    plan: Plan,
    *,
    api_port: int = 0,
    http_port: int = 0,
    credentials: Credentials | None = None,
    manner: Manner = Manner(),
    skip: Callable[[str], bool] = lambda _: False,
    on_asked: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
) -> AsyncIterator[Found]:
    """Each device as it is found, in no order. `skip`: addresses that need not be asked; `on_asked`: one more is done."""
    hosts = plan.hosts()
    pacer = Pacer(clock or SystemClock(), manner.connects_per_s)
    found: asyncio.Queue[Found | None] = asyncio.Queue()

    async def worker() -> None:
        for host in hosts:  # shared: each takes the next
            device = None if skip(host) else await look(Place(host, api_port, http_port, credentials), pacer, manner.connect_s)
            on_asked()
            if device is not None:
                await found.put(device)
        await found.put(None)

    workers = [asyncio.create_task(worker()) for _ in range(min(manner.at_once, plan.count))]
    try:
        ended = 0
        while ended < len(workers):
            device = await found.get()
            if device is None:
                ended += 1
            else:
                yield device
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def look(place: Place, pacer: Pacer, connect_s: float) -> Found | None:
    """What is at one address; None when nothing answers there or it is no device we know."""
    for port in (place.api_port or PORT, place.http_port or HTTP_PORT):
        await pacer.wait()
        opened = await _open(place.host, port, connect_s)
        if opened is None:
            return None
        if opened:
            break
    else:
        return None
    host = f"[{place.host}]" if ":" in place.host else place.host
    address = f"{host}:{place.api_port}" if place.api_port else host
    await pacer.wait(IDENTIFY_CONNECTIONS)
    try:
        async with asyncio.timeout(IDENTIFY_S):
            driver = await identify(place)
            try:
                return Found(address, await driver.seen())
            finally:
                await driver.close()
    except NotFound:
        return None
    except (TimedOut, TimeoutError):
        return Found(address, state="slow", error="something listens here and does not answer")
    except Refused as fault:
        return Found(address, state="refused", error=fault.text)
    except Fault:
        return None
    except Exception:  # a driver's own mistake over one hostile device must not end the scan of all others
        log.exception("a driver failed", extra={"address": address})
        return None


async def _open(host: str, port: int, connect_s: float) -> bool | None:
    """None: there is no such machine."""
    try:
        async with asyncio.timeout(connect_s):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:  # TimeoutError is one
        return None if error.errno in _NOBODY else False
    writer.transport.abort()
    return True
