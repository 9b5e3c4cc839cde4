"""Modbus against servers we did not write: pymodbus', and libmodbus where its header and a C compiler are."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from garrison.clock import SystemClock
from garrison.faults import BadAnswer, BadInput, Fault, TimedOut, Unreachable
from garrison.words import PowerState
from rrc.board import BoardAddress
from rrc.modbus import Modbus
from rrc.queue import BoardQueue, Effect
from tests.rrc.stands import pymodbus_server

ON, OFF = PowerState.ON, PowerState.OFF
HAVE_LIBMODBUS = shutil.which("gcc") is not None and Path("/usr/include/modbus/modbus.h").exists()


def board_at(port: int, outlets: int, **options: str) -> Modbus:
    return Modbus(BoardAddress("modbus", f"127.0.0.1:{port}", outlets, options=options), SystemClock())


@pytest.mark.parametrize("framer", ["tcp", "rtu-over-tcp"])
async def test_pymodbus_server(framer: str) -> None:
    """Coils behind a base address and a unit id, in both framings."""
    async with pymodbus_server(7, 100, 16, {"tcp": "socket", "rtu-over-tcp": "rtu"}[framer]) as port:
        board = board_at(port, 16, unit="7", base="100", framer=framer)
        await board.set("16", False)
        await board.set("9", False)
        states = {outlet for outlet, reading in (await board.read()).items() if reading.state is OFF}
        assert states == {"9", "16"}
        await board.close()


@contextlib.asynccontextmanager
async def libmodbus_server(folder: Path, coils: int) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """Compiles and starts libmodbus_server.c; gives its port and what it prints."""
    program = folder / "libmodbus_server"
    source = Path(__file__).with_name("libmodbus_server.c")
    compiler = await asyncio.create_subprocess_exec(
        "gcc", "-Wall", "-Werror", "-I/usr/include/modbus", "-o", str(program), str(source), "-lmodbus"
    )
    assert await compiler.wait() == 0
    server = await asyncio.create_subprocess_exec(str(program), str(coils), stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    try:
        yield int(await asyncio.wait_for(server.stdout.readline(), 20)), server.stdout
    finally:
        server.kill()
        await server.wait()


@pytest.mark.skipif(not HAVE_LIBMODBUS, reason="gcc or libmodbus-dev is not installed: only pymodbus' own server was used")
async def test_libmodbus_server(tmp_path: Path) -> None:
    """Another implementation: reads, writes FF00 and 0000 to the right coil, and survives a reconnect."""
    async with libmodbus_server(tmp_path, 8) as (port, told):
        queue = BoardQueue(board_at(port, 8), SystemClock())
        assert {reading.state for reading in (await queue.read()).values()} == {OFF}
        assert (await queue.switch("3", True)).effect is Effect.CONFIRMED
        assert await asyncio.wait_for(told.readline(), 20) == b"5 2 1\n"
        await queue.close()
        again = BoardQueue(board_at(port, 8), SystemClock())
        assert (await again.read())["3"].state is ON
        assert (await again.switch("3", False)).effect is Effect.CONFIRMED
        assert await asyncio.wait_for(told.readline(), 20) == b"5 2 0\n"
        with pytest.raises(BadAnswer, match="no coil at that address"):
            await board_at_closed(board_at(port, 9), again)
        await again.close()


async def board_at_closed(board: Modbus, first: BoardQueue) -> None:
    """Reads with a board of its own; the server takes one connection at a time, so the other is closed before."""
    await first.close()
    try:
        await board.read()
    finally:
        await board.close()


async def test_no_such_coil_and_no_such_unit() -> None:
    """The server's exceptions come out as words."""
    async with pymodbus_server(1, 0, 4) as port:
        for board in (board_at(port, 64), board_at(port, 4, base="5000")):
            with pytest.raises(BadAnswer, match="no coil"):
                await board.read()
            await board.close()
        board = board_at(port, 4, unit="9")
        with pytest.raises(Fault):
            await board.read()
        await board.close()


GARBAGE = {
    "html": b"HTTP/1.1 200 OK\r\n\r\n<html>" + b"not a relay " * 50,
    "huge": b"\x00\x01\x00\x00\x00\xfe\x01\x01" * 1_300_000,
    "silent": b"",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("what", sorted(GARBAGE))
async def test_bad_answers(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web server, 10 MB of bytes, silence: a fault within the limit, the connection dropped, and no state."""
    monkeypatch.setattr("rrc.modbus.ANSWER_S", 1.0)

    serving: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
            writer.write(GARBAGE[what])
            await writer.drain()
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        board = board_at(server.sockets[0].getsockname()[1], 4)
        began = time.monotonic()
        with pytest.raises((TimedOut, BadAnswer)):
            await board.read()
        with pytest.raises((TimedOut, BadAnswer)):
            await board.set("1", False)
        assert time.monotonic() - began < 20
        await board.close()
        await asyncio.wait_for(asyncio.gather(*filter(None, serving)), 20)  # the driver has closed every connection


async def test_reconnects() -> None:
    """A board that restarts is read again by the next call, on a new connection."""
    async with pymodbus_server(1, 0, 4) as port:
        board = board_at(port, 4)
        await board.read()
    with contextlib.suppress(Unreachable):  # this one may find the old connection just closing
        await board.read()
    with pytest.raises(Unreachable):
        await board.read()
    async with pymodbus_server(1, 0, 4) as port:
        board._port = port
        assert (await board.read())["4"].state is ON
        await board.close()


@pytest.mark.parametrize("options", [{"unit": "256"}, {"unit": "-1"}, {"base": "x"}, {"framer": "ascii"}])
def test_strange_options(options: dict[str, str]) -> None:
    """Options outside their range are bad input that names the option."""
    with pytest.raises(BadInput, match=re.escape(next(iter(options)))):
        board_at(502, 4, **options)
