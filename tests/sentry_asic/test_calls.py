"""Devices that call themselves: "IP report" buttons and mDNS, over loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest

from garrison.clock import ManualClock, SystemClock
from sentry_asic.finder import Finder, Ways
from sentry_asic.ip_reports import AGAIN_MS, MOST_A_MINUTE, Gate, Report, parse, reports
from sentry_asic.mdns import SERVICE, addresses, ask, question
from sentry_asic.ranges import PRIVATE
from sentry_asic.settings import ScanSettings
from tests.sentry_asic.stand import KeptOutbox, until
from tests.sentry_asic.test_finder import Stand

MAC = "02:5e:00:00:00:0a"


@pytest.mark.parametrize(
    ("make", "data", "told"),
    [
        ("antminer", b"10.0.0.9,02:5E:00:00:00:0A", True),
        ("antminer", b"10.0.0.9,02-5e-00-00-00-0a\0", True),
        ("antminer", b"[10.0.0.9/24,02:5e:00:00:00:0a", True),
        ("whatsminer", b"IP:10.0.0.9MAC:02:5E:00:00:00:0A\0", True),
        ("antminer", b"OK\0\0\0\0\0\0\0\0", False),
        ("antminer", b"10.0.0.8,02:5e:00:00:00:0a", False),  # speaks of another machine
        ("antminer", b"10.0.0.999,02:5e:00:00:00:0a", False),
        ("antminer", b"10.0.0.9,02:5e:00:00:00:0abb", False),
        ("antminer", b"10.0.0.9,02:5e:00:00:00:0a" + b"x" * 600, False),
        ("whatsminer", b"10.0.0.9,02:5e:00:00:00:0a", False),
        ("whatsminer", b"\xff\xfe" * 50, False),
        ("antminer", b"", False),
    ],
)
def test_reports_as_they_are_sent(make: str, data: bytes, told: bool) -> None:
    """Address and MAC, of the one that sent it; all else is nothing."""
    assert parse(data, make, "10.0.0.9") == (Report(make, "10.0.0.9", MAC) if told else None)


def test_a_button_is_told_once_and_a_flood_is_not() -> None:
    """The same again within ten seconds is the same press; beyond thirty a minute nothing is told."""
    clock = ManualClock()
    gate = Gate(clock)
    one = Report("antminer", "10.0.0.9", MAC)
    assert [gate.lets(one), gate.lets(one)] == [True, False]
    clock.advance(AGAIN_MS / 1000)
    assert gate.lets(one)
    told = sum(gate.lets(Report("antminer", f"10.0.1.{number}", MAC)) for number in range(200))
    assert told == MOST_A_MINUTE - 2
    clock.advance(60)
    assert gate.lets(one)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def send(source: str, port: int, data: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(data, ("127.0.0.1", port))


async def test_a_port_that_is_taken_hinders_no_other() -> None:
    """The maker's own tool may run on the same machine."""
    port = free_udp_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        ports = {taken.getsockname()[1]: "antminer", port: "whatsminer"}
        heard = reports(SystemClock(), ports, "127.0.0.1")
        first = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0.05)
        send("127.0.0.9", port, b"IP:127.0.0.9MAC:02:5E:00:00:00:0A\0")
        assert await asyncio.wait_for(first, 10) == Report("whatsminer", "127.0.0.9", MAC)
        await heard.aclose()


@contextlib.asynccontextmanager
async def running(finder: Finder, box: KeptOutbox) -> AsyncIterator[None]:
    task = asyncio.create_task(finder.run(box))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_pressed_button_is_told_and_looked_at() -> None:
    """An event for whoever pressed it, and a found device, that no round takes away; of a watched one the event only; an excluded
    one is not asked."""
    stand, port = Stand(36), free_udp_port()
    settings = msgspec.structs.replace(stand.scan, ranges={}, ip_reports=True, exclude=("127.36.0.3",))
    finder = Finder(settings, lambda: PRIVATE, SystemClock(), Ways(report_ports={port: "antminer"}, report_host="127.0.0.1"))
    finder.assign([stand.target(1)])
    async with stand.farm as farm, running(finder, stand.box):
        await asyncio.sleep(0.05)
        for device in farm.devices[:3]:
            send(device.host, port, f"{device.host},{device.mac}".encode())
        await until(lambda: len(stand.box.events) == 3 and stand.at(0) in stand.found(), 30)
        assert {(kind, device) for kind, _, device, _ in stand.box.events} == {
            ("ip_report", f"mac:{device.mac}") for device in farm.devices[:3]
        }
        await asyncio.sleep(0.2)
        assert stand.found() == {stand.at(0)}
        assert stand.box.devices[f"found:{stand.at(0)}"].mac == farm.devices[0].mac
        for _ in range(4):
            finder._end_round(set())
        assert stand.found() == {stand.at(0)}
        assert farm.devices[2].most_asked_at_once == 0


# ---- mDNS ----------------------------------------------------------------------------------------------------------


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def record(owner: bytes, kind: int, body: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, 120, len(body)) + body


def answer(*records: bytes, asked: bytes = b"", flags: int = 0x8400) -> bytes:
    return struct.pack(">6H", 0, flags, 1 if asked else 0, len(records), 0, 0) + asked + b"".join(records)


ASKED = question()[12:]
OWNER = struct.pack(">H", 0xC00C)  # the name of the question, pointed at
PTR = record(OWNER, 12, name("bitaxe-1._http._tcp.local"))


def test_what_answers_say() -> None:
    """Its sender, or the addresses in it; other services, questions and what is broken are nothing."""
    assert addresses(answer(PTR, asked=ASKED), "10.0.0.9") == ("10.0.0.9",)
    told = answer(PTR, record(name("bitaxe-1.local"), 1, bytes([10, 0, 0, 7])), asked=ASKED)
    assert addresses(told, "10.0.0.1") == ("10.0.0.7",)
    assert addresses(answer(record(name(SERVICE.upper()), 12, b"\0")), "10.0.0.9") == ("10.0.0.9",)
    assert addresses(answer(record(name("_http._tcp.local"), 12, b"\0")), "10.0.0.9") == ()
    assert addresses(question(), "10.0.0.9") == ()
    for broken in (b"", b"\0" * 11, told[:-1], told[:40], b"\xff" * 300, answer(record(struct.pack(">H", 0xC00C), 12, b""))):
        assert addresses(broken, "10.0.0.9") == ()
    itself = answer(PTR, asked=struct.pack(">H", 0xC00C) + b"\0\0\0\0")
    assert addresses(itself, "10.0.0.9") == ()
    for cut in range(len(told)):
        assert addresses(told[:cut] + bytes([told[cut] ^ 0xFF]) + told[cut + 1 :], "10.0.0.9") is not None


class Answering(asyncio.DatagramProtocol):
    """Answers each proper question with these."""

    def __init__(self, *replies: bytes) -> None:
        self.replies, self.asked = replies, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data == question():
            self.asked += 1
            for reply in self.replies:
                self.transport.sendto(reply, addr)


async def test_who_answers_is_looked_at() -> None:
    """Every round asks; a device that answers is found, also outside the ranges; one in no private network is never asked."""
    stand = Stand(37)
    away = answer(PTR, record(name("x.local"), 1, bytes([8, 8, 8, 8])), asked=ASKED)
    here = answer(PTR, record(name("y.local"), 1, bytes([127, 37, 0, 2])), asked=ASKED)
    async with stand.farm:
        loop = asyncio.get_running_loop()
        transport, responder = await loop.create_datagram_endpoint(lambda: Answering(here, away), local_addr=("127.0.0.1", 0))
        try:
            where = transport.get_extra_info("sockname")
            assert await ask(where, 0.2) == ["8.8.8.8", "127.37.0.2"]
            settings: ScanSettings = msgspec.structs.replace(stand.scan, ranges={}, mdns=True)
            finder = Finder(settings, lambda: PRIVATE, SystemClock(), Ways(mdns=where, mdns_wait_s=0.1))
            async with running(finder, stand.box):
                await until(lambda: bool(stand.found()) and responder.asked > 2, 30)
            assert stand.found() == {stand.at(1)}
        finally:
            transport.close()
