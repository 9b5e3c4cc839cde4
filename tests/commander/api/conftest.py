"""A whole commander, opened as `commander run` opens it, and its HTTP listeners on loopback and on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from commander import settings
from commander.api import serving
from commander.main import Commander, opened
from commander.model import Caller
from commander.setup import Addresses, make_farm
from garrison.clock import SystemClock

ROLES = ("viewer", "operator", "administrator")
SETUP = Addresses("127.0.0.1", "127.0.0.1", 18441, 18442, 18440)  # written down, never opened here


@dataclass
class Api:
    """`tokens` by role."""

    commander: Commander
    port: int
    socket: Path
    tokens: dict[str, str]

    def tcp(self, role: str = "") -> httpx.AsyncClient:
        """Over TCP, as somebody with this role's token; "": without a token."""
        headers = {"authorization": f"Bearer {self.tokens.get(role, role)}"} if role else {}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, trust_env=False)

    def local(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(base_url="http://commander", transport=transport, trust_env=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    home = tmp_path_factory.mktemp("api") / "commander"
    make_farm(home, "test farm", SETUP)
    stop = asyncio.Event()
    async with opened(home, settings.load(home), SystemClock()) as commander:
        admin = Caller("test", "administrator", local=True)
        tokens = {role: (await commander.access.people.new_token(admin, role, role, 3600))[0] for role in ROLES}
        tcp, unix = serving.tcp_socket("127.0.0.1", 0, "listen.http"), serving.unix_socket(home / settings.SOCKET)
        doors = [
            asyncio.create_task(serving.serve(commander.gate(local=False), tcp, stop)),
            asyncio.create_task(serving.serve(commander.gate(local=True), unix, stop)),
        ]
        port = tcp.getsockname()[1]
        try:
            yield Api(commander, port, home / settings.SOCKET, tokens)
        finally:
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*doors)
