"""The listeners: the socket's mode, ports that are taken, TLS, and a stop that finishes what is in hand."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from commander.api import serving
from commander.cli.client import Api, Target
from garrison.faults import BadInput, Fault, IdentityRefused, Unavailable, Unreachable
from tests.certificates import self_signed

assert sys.platform != "win32"  # the socket is not there; mypy leaves out the rest


class App:
    """Answers {} as soon as it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})


@asynccontextmanager
async def served(app: App, listener: socket.socket, stop: asyncio.Event, *tls: Path) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(serving.serve(app, listener, stop, *map(str, tls)))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


def test_unix_socket(tmp_path: Path) -> None:
    """Mode 0600 from its first moment; the file of a dead daemon is replaced; a path that the system cannot take is refused."""
    path = tmp_path / "s.sock"
    path.write_text("left over")
    old = os.umask(0)
    try:
        with serving.unix_socket(path) as listener, socket.socket(socket.AF_UNIX) as caller:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            caller.connect(str(path))
            listener.accept()[0].close()
    finally:
        os.umask(old)
    assert [one.name for one in tmp_path.iterdir()] == ["s.sock"]
    with pytest.raises(BadInput, match="too long"):
        serving.unix_socket(tmp_path / ("x" * 200))
    with pytest.raises(Unavailable, match="cannot listen on"):
        serving.unix_socket(tmp_path / "missing" / "s.sock")


def test_taken_port() -> None:
    """Says which setting names it. Neither does a second commander share the port."""
    with serving.tcp_socket("127.0.0.1", 0, "listen.http") as first:
        with pytest.raises(Unavailable) as refused:
            serving.tcp_socket("127.0.0.1", first.getsockname()[1], "listen.http")
        assert "listen.http" in refused.value.hint
    with serving.tcp_socket("::1", 0, "listen.http") as six:
        assert six.family == socket.AF_INET6


async def test_stop_finishes_what_is_in_hand() -> None:
    """A request that was being answered is answered; new ones are not taken; then it ends."""
    app, stop = App(), asyncio.Event()
    listener = serving.tcp_socket("127.0.0.1", 0, "x")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with served(app, listener, stop) as task, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        asking = asyncio.create_task(http.get("/x"))
        await app.asked.wait()
        stop.set()
        await asyncio.sleep(0)
        assert not task.done()
        app.may_answer.set()
        assert (await asking).json() == {}
        await asyncio.wait_for(task, 20)


async def test_tls(tmp_path: Path) -> None:
    """With a certificate: who trusts its CA is answered, who does not says so and sends no token, plain HTTP is not spoken."""
    app, stop = App(), asyncio.Event()
    app.may_answer.set()
    certificate, key = self_signed(tmp_path, "commander")
    listener = serving.tcp_socket("127.0.0.1", 0, "x")
    port = listener.getsockname()[1]

    def ask(url: str, ca_file: Path | None) -> object:
        with Api(Target(tmp_path, url, "gsn-x", ca_file)) as api:
            return api.get("/status")

    async with served(app, listener, stop, certificate, key):
        url = f"https://127.0.0.1:{port}"
        with pytest.raises(IdentityRefused, match="not one that we trust"):
            await asyncio.to_thread(ask, url, None)
        with pytest.raises(BadInput, match="--ca-file"):
            await asyncio.to_thread(ask, url, tmp_path / "missing.pem")
        with pytest.raises(Unreachable):
            await asyncio.to_thread(ask, f"http://127.0.0.1:{port}", None)
        assert not app.asked.is_set()
        assert await asyncio.to_thread(ask, url, certificate) == {}


async def test_an_answer_of_somebody_else(tmp_path: Path) -> None:
    """What answers on that port is no commander: said so, whatever it sends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]

        def ask() -> object:
            with Api(Target(tmp_path, f"http://127.0.0.1:{port}", "gsn-x")) as api:
                return api.get("/status")

        with pytest.raises(Fault, match="unknown shape"):
            await asyncio.to_thread(ask)
