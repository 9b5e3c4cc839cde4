"""`sentry-asic scan`: finds devices in a network that is ours. Asks each address once, a bounded number at a time."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from garrison.faults import BadInput, Fault, NotFound, Refused, TimedOut
from garrison.model import Credentials
from sentry_asic.cgminer import PORT
from sentry_asic.make import Place, Seen
from sentry_asic.table import identify

HTTP_PORT = 80
CONNECT_S = 1.5
IDENTIFY_S = 12
AT_ONCE = 192
MAX_ADDRESSES = 1 << 16
_PRIVATE = "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 169.254.0.0/16 127.0.0.0/8 fc00::/7 ::1/128"
_OURS = [ipaddress.ip_network(net) for net in _PRIVATE.split()]


@dataclass(frozen=True, slots=True)
class Found:
    """A device, or something that answers like one and does not let us look: then `error` says why and `state` is a word."""

    address: str
    seen: Seen | None = None
    state: str | None = None
    error: str | None = None


def network_of(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Raises BadInput for what is no network, is not private, or is larger than /16."""
    try:
        network = ipaddress.ip_network(cidr.strip(), strict=False)
    except ValueError as error:
        raise BadInput(f"{cidr!r} is no network", hint="such as 192.168.1.0/24") from error
    if not any(isinstance(network, type(ours)) and network.subnet_of(ours) for ours in _OURS):  # type: ignore[arg-type]  # same version
        raise BadInput(f"{network} is not a private network", hint="a scan stays in your own networks")
    if network.num_addresses > MAX_ADDRESSES:
        raise BadInput(f"{network} has {network.num_addresses} addresses, more than {MAX_ADDRESSES}", hint="scan a /16 or smaller")
    return network


async def scan(
    cidr: str,
    *,
    api_port: int = 0,
    http_port: int = 0,
    credentials: Credentials | None = None,
    at_once: int = AT_ONCE,
    connect_s: float = CONNECT_S,
) -> AsyncIterator[Found]:
    """Each device as it is found, in no order. BadInput before anything is asked."""
    network = network_of(cidr)
    hosts: Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address] = iter(network.hosts())
    found: asyncio.Queue[Found | None] = asyncio.Queue()

    async def worker() -> None:
        for host in hosts:  # shared: each takes the next
            device = await look(Place(str(host), api_port, http_port, credentials), connect_s)
            if device is not None:
                await found.put(device)
        await found.put(None)

    workers = [asyncio.create_task(worker()) for _ in range(min(at_once, network.num_addresses))]
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


async def look(place: Place, connect_s: float = CONNECT_S) -> Found | None:
    """What is at one address; None when nothing answers there or it is no device we know."""
    if not (
        await _open(place.host, place.api_port or PORT, connect_s)
        or await _open(place.host, place.http_port or HTTP_PORT, connect_s)
    ):
        return None
    address = place.host if not place.api_port else f"{place.host}:{place.api_port}"
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


async def _open(host: str, port: int, connect_s: float) -> bool:
    try:
        async with asyncio.timeout(connect_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
