"""Listens for the "IP report" buttons of miners: a person presses one, and the device calls its address into the network.

A report is a hint and no more: anybody can send one. It names an address to look at; who answers there is found out as ever.
Facts: Antminer (and makes that copied it) sends "IP,MAC" to UDP port 14235 and hears "OK" with zeros after it from the maker's
tool; Whatsminer sends "IP:…MAC:…" to 8888. Source: the listeners of pyasic and bitcap-ipr; not recorded by us.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from garrison.clock import Clock

log = logging.getLogger(__name__)

PORTS: Mapping[int, str] = {14235: "antminer", 8888: "whatsminer"}
"""UDP port to how its reports are written."""
MOST_BYTES = 512
AGAIN_MS = 10_000
"""A button sends its report several times."""
MOST_A_MINUTE = 30
_MAC = r"(?P<mac>(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2})"
_SHAPES = {
    "antminer": re.compile(rf"\[?(?P<ip>[0-9.]{{7,15}})(?:/[0-9]{{1,2}})?,{_MAC}(?![0-9A-Fa-f])"),
    "whatsminer": re.compile(rf"IP:(?P<ip>[0-9.]{{7,15}})MAC:{_MAC}(?![0-9A-Fa-f])"),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a button said: the address, and the MAC in our spelling."""

    make: str
    address: str
    mac: str


def parse(data: bytes, make: str, source: str) -> Report | None:
    """None: no report, or one that speaks of another machine than the one that sent it."""
    if len(data) > MOST_BYTES:
        return None
    found = _SHAPES[make].match(data.decode("ascii", "replace"))
    if found is None:
        return None
    try:
        address = str(ipaddress.IPv4Address(found["ip"]))
    except ValueError:
        return None
    return Report(make, address, found["mac"].lower().replace("-", ":")) if address == source else None


class Gate:
    """Lets the first of several equal reports through, and only so many a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: OrderedDict[str, int] = OrderedDict()
        self._times: deque[int] = deque()

    def lets(self, report: Report) -> bool:
        now_ms = self._clock.monotonic_ms()
        while self._times and now_ms - self._times[0] >= 60_000:
            self._times.popleft()
        last = self._last.get(report.address)
        if (last is not None and now_ms - last < AGAIN_MS) or len(self._times) >= MOST_A_MINUTE:
            return False
        self._times.append(now_ms)
        self._last[report.address] = now_ms
        self._last.move_to_end(report.address)
        while len(self._last) > MOST_A_MINUTE:
            self._last.popitem(last=False)
        return True


async def reports(clock: Clock, ports: Mapping[int, str] = PORTS, host: str = "0.0.0.0") -> AsyncGenerator[Report, None]:
    """Each report once, until cancelled. A port that somebody else has is told and left alone."""
    gate, queue = Gate(clock), asyncio.Queue[Report](MOST_A_MINUTE)

    def heard(data: bytes, make: str, source: str) -> None:
        report = parse(data, make, source)
        if report is not None and gate.lets(report):
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(report)

    loop, transports = asyncio.get_running_loop(), []
    try:
        for port, make in ports.items():
            try:
                transport, _ = await loop.create_datagram_endpoint(_protocol(make, heard), local_addr=(host, port))
            except OSError as error:
                log.warning("IP reports are not heard", extra={"port": port, "why": str(error)})
                continue
            transports.append(transport)
        while True:
            yield await queue.get()
    finally:
        for transport in transports:
            transport.close()


class _Heard(asyncio.DatagramProtocol):
    def __init__(self, make: str, heard: Callable[[bytes, str, str], None]) -> None:
        self._make, self._tell = make, heard

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._tell(data, self._make, addr[0])


def _protocol(make: str, heard: Callable[[bytes, str, str], None]) -> Callable[[], _Heard]:
    return lambda: _Heard(make, heard)
