"""What simulated devices have in common: ports that keep their numbers over power cycles, and a miner that began at some time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Self


class HeldPort:
    """Port 0 is chosen when it is opened, and then kept: nobody else gets it while it is shut. `_serve` talks to one caller."""

    def __init__(self, host: str) -> None:
        self.host, self.port = host, 0
        self.now = self.most_at_once = 0
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self, *, hold: bool = True) -> None:
        """Refuses connections. `hold`: nobody else gets the port meanwhile."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [task for task in self._tasks if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._held is not None and not hold:
            self._held.close()
            self._held = None
        elif self._held is None and hold and self.port:
            self._held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind((self.host, self.port))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class Machine:
    """Open while the block lasts. The first of its ports is the one that it is named by; `_step` is what it does by itself."""

    def __init__(self, ports: Sequence[HeldPort], started_s_ago: float) -> None:
        self._ports = ports
        self._began_s = -started_s_ago
        self._step: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._began_s += asyncio.get_running_loop().time()
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._step is not None:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
        await self._shut(hold=False)

    @property
    def host(self) -> str:
        return self._ports[0].host

    @property
    def port(self) -> int:
        return self._ports[0].port

    async def _open(self) -> None:
        for port in self._ports:
            await port.open()

    async def _shut(self, *, hold: bool = True) -> None:
        for port in self._ports:
            await port.shut(hold=hold)
