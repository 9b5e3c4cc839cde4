"""Port 4028 against servers that behave as real firmware does, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from garrison.faults import BadAnswer, Refused, TimedOut, Unreachable
from sentry_asic.answers import parse
from sentry_asic.cgminer import MinerDown, ask, section

GOOD = b'{"STATUS":[{"STATUS":"S"}],"SUMMARY":[{"Elapsed":5}],"id":1}'
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def device(serve: Serve) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(run(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*segments: bytes, hold: bool = False, until_eof: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (reader.read() if until_eof else reader.read(4096))
        for segment in segments:
            writer.write(segment)
            await writer.drain()
            await asyncio.sleep(0.01)
        if hold:
            await asyncio.sleep(60)

    return serve


@pytest.mark.parametrize(
    ("serve", "most_s"),
    [
        (says(GOOD + b"\x00"), 5),
        (says(GOOD), 5),
        (says(GOOD + b"\n"), 5),
        (says(*(GOOD[i : i + 5] for i in range(0, len(GOOD), 5))), 5),
        (says(GOOD + b"\x00", hold=True), 5),
        (says(GOOD, hold=True), 5),
        (says(GOOD, until_eof=True), 7),
    ],
    ids=["nul", "no nul", "newline", "segments", "nul and held open", "held open", "waits for our half-close"],
)
async def test_every_way_of_ending_is_an_answer(serve: Serve, most_s: float) -> None:
    """NUL or none, segments, a socket held open, a server that reads to our end of file: the same answer."""
    async with device(serve) as port:
        began = time.monotonic()
        answer = await ask("127.0.0.1", "summary", port=port)
        assert section(answer, "SUMMARY") == [{"Elapsed": 5}]
        assert answer.repairs == 0
        assert time.monotonic() - began < most_s


async def test_malformed_and_held_open() -> None:
    """`}{`, no NUL, no end of file: taken after a moment of quiet, and counted as repaired."""
    async with device(says(b'{"STATS":[{"a":1}{"b":2}]}', hold=True)) as port:
        answer = await ask("127.0.0.1", "stats", port=port)
        assert section(answer, "STATS") == [{"a": 1}, {"b": 2}]
        assert answer.repairs == 1


async def test_the_request_is_one_segment_of_json() -> None:
    """Servers that read once must see all of it."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(4096))
        writer.write(GOOD)

    async with device(serve) as port:
        await ask("127.0.0.1", "stats", port=port, parameter="0", extra={"new_api": True})
    assert parse(seen[0]).value == {"command": "stats", "parameter": "0", "new_api": True}


async def test_silence_is_timed_out() -> None:
    """Accepts and says nothing: TimedOut within the limit, not Unreachable."""
    async with device(says(hold=True)) as port:
        with pytest.raises(TimedOut):
            await ask("127.0.0.1", "summary", port=port, total_s=0.3)


async def test_a_closed_port_and_an_empty_answer_are_unreachable() -> None:
    """Refused connection, and closing without a byte."""
    async with device(says()) as port:
        with pytest.raises(Unreachable, match="without an answer"):
            await ask("127.0.0.1", "summary", port=port)
    with pytest.raises(Unreachable, match="refuses connections"):
        await ask("127.0.0.1", "summary", port=port)


async def test_ten_megabytes_are_cut_off() -> None:
    """The cap holds while bytes arrive, whatever they are."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(4096)
        for _ in range(160):
            writer.write(b'{"x":"' + b"y" * 65_530)
            await writer.drain()
            sent += 65_536

    async with device(serve) as port:
        with pytest.raises(BadAnswer, match="more than the"):
            await ask("127.0.0.1", "stats", port=port)
    assert sent < 10_000_000


async def test_html_and_the_proxy_of_a_dead_miner() -> None:
    """A web page is BadAnswer; the on-device proxy's text says that the miner is down."""
    async with device(says(b"<html><body>404</body></html>")) as port:
        with pytest.raises(BadAnswer, match="web page"):
            await ask("127.0.0.1", "stats", port=port)
    async with device(says(b"Socket connect failed: Connection refused\n")) as port:
        with pytest.raises(MinerDown):
            await ask("127.0.0.1", "stats", port=port)


def test_a_refusal_of_the_device_is_told() -> None:
    """Code 45 (access denied) and 14 (invalid command) are Refused with the device's words; a missing section BadAnswer."""
    refusal = parse(b'{"STATUS":[{"STATUS":"E","Code":45,"Msg":"Access denied to \'addpool\' command"}],"id":1}')
    with pytest.raises(Refused, match=r"Access denied.*45"):
        section(refusal, "POOLS")
    with pytest.raises(BadAnswer, match="without POOLS"):
        section(parse(GOOD), "POOLS")
