"""Asks the network by mDNS for devices that run AxeOS (Bitaxe, NerdAxe): one question, whoever answers within a second or two.

AxeOS announces `_http._tcp` with the subtype `_axeos`: bitaxeorg/ESP-Miner #1240 and shufps/ESP-Miner-NerdQAxePlus #613, 2026;
not recorded by us. Older ones announce nothing: a scan finds those. We ask from a port of our own, so that the answers come
straight back (RFC 6762, 6.7). An answer is a hint: what is there is found out by looking.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from dataclasses import dataclass, field

SERVICE = "_axeos._sub._http._tcp.local"
GROUP = ("224.0.0.251", 5353)
MOST_BYTES = 9_000
MOST_RECORDS = 64
MOST_ANSWERS = 1_000
_A, _PTR, _IN, _RESPONSE = 1, 12, 1, 0x8000


class _Broken(ValueError):
    """Not a message that we can read."""


def question(service: str = SERVICE) -> bytes:
    """Who offers this? One question, with the number 0."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in service.split(".")) + b"\0"
    return struct.pack(">6H", 0, 0, 1, 0, 0, 0) + name + struct.pack(">2H", _PTR, _IN)


def addresses(data: bytes, source: str, service: str = SERVICE) -> tuple[str, ...]:
    """Where they are that the answer names; its sender when it names no address. Empty: it is no answer to our question."""
    try:
        records = _records(data)
    except (_Broken, struct.error, IndexError):
        return ()
    if not any(kind == _PTR and name == service for name, kind, _ in records):
        return ()
    told = tuple(str(ipaddress.IPv4Address(body)) for _, kind, body in records if kind == _A and len(body) == 4)
    return told or (source,)


def _records(data: bytes) -> list[tuple[str, int, bytes]]:
    """Name, type and body of each record that answers, of all three sections."""
    if len(data) > MOST_BYTES:
        raise _Broken("too long")
    _, flags, asked, *counts = struct.unpack_from(">6H", data)
    if not flags & _RESPONSE or asked + sum(counts) > MOST_RECORDS:
        raise _Broken("no answer, or too many records")
    at, found = 12, []
    for _ in range(asked):
        at = _name(data, at)[1] + 4
    for _ in range(sum(counts)):
        name, at = _name(data, at)
        kind, _, _, length = struct.unpack_from(">HHIH", data, at)
        at += 10
        if at + length > len(data):
            raise _Broken("cut off")
        found.append((name, kind, data[at : at + length]))
        at += length
    return found


def _name(data: bytes, at: int) -> tuple[str, int]:
    """A name in lower case, and where it ends. A pointer only ever leads back, so that there is an end."""
    labels: list[str] = []
    end: int | None = None
    while True:
        length = data[at]
        if length >= 0xC0:
            to = (length & 0x3F) << 8 | data[at + 1]
            end = at + 2 if end is None else end
            if to >= at:
                raise _Broken("a pointer forward")
            at = to
        elif length > 63 or len(labels) > 32:
            raise _Broken("no name")
        elif length == 0:
            return ".".join(labels), at + 1 if end is None else end
        else:
            labels.append(data[at + 1 : at + 1 + length].decode("ascii", "replace").lower())
            at += 1 + length


@dataclass(slots=True)
class _Answers(asyncio.DatagramProtocol):
    found: set[str] = field(default_factory=set)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(self.found) < MOST_ANSWERS:
            self.found.update(addresses(data, addr[0]))


async def ask(to: tuple[str, int] = GROUP, wait_s: float = 2.0) -> list[str]:
    """The addresses of those that answered, in order. OSError: the question could not be sent."""
    loop, answers = asyncio.get_running_loop(), _Answers()
    transport, _ = await loop.create_datagram_endpoint(lambda: answers, local_addr=("0.0.0.0", 0))
    try:
        transport.sendto(question(), to)
        await asyncio.sleep(wait_s)
    finally:
        transport.close()
    return sorted(answers.found, key=ipaddress.IPv4Address)
