"""The HTTP listeners: the Unix socket, whose mode is the login, and TCP where it is configured."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from garrison.faults import BadInput, Unavailable

_LONGEST_PATH = 107  # sun_path holds 108 bytes with its NUL


class _Quiet(uvicorn.Server):
    """Signals belong to `main.py`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def unix_socket(path: Path) -> socket.socket:
    """A listening socket that only its owner may open (mode 0600). A stale file of a dead daemon is replaced."""
    if len(str(path).encode()) > _LONGEST_PATH:
        raise BadInput(f"the path of the socket is too long for the system: {path}", hint="choose a shorter GARRISON_HOME")
    listener = socket.socket(socket.AddressFamily["AF_UNIX"], socket.SOCK_STREAM)  # by name: Windows has none, and is not asked
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        listener.bind(str(fresh))
        fresh.chmod(0o600)
        listener.listen(128)
        fresh.replace(path)  # nobody ever sees it with another mode
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {path}: {error.strerror}") from error
    return listener


def tcp_socket(host: str, port: int, key: str) -> socket.socket:
    """A listening socket. Unavailable names the setting `key` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with its protocol: asyncio sets TCP_NODELAY only where it is named, and without it a short answer waits 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint=f"is another program using it? `{key}` in commander.toml sets it",
        ) from error
    return listener


async def serve(app: ASGIApp, listener: socket.socket, stop: asyncio.Event, certificate: str = "", key: str = "") -> None:
    """Serves until `stop`, then finishes what is in hand within 5 s."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,  # a screen that asks every 10 s, or every minute, keeps its connection; uvicorn's own is 5
        h11_max_incomplete_event_size=64 * 1024,
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
    )
    logging.getLogger("uvicorn.error").setLevel("WARNING")  # what it says at info, we say ourselves
    server = _Quiet(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        listener.close()
