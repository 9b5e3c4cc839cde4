"""An event loop whose connections end in memory and whose clock runs ahead: a driver is asked in microseconds, limits and all.

Called by fuzz_asic. What a driver connects to, sends and waits for is as always; only the wire is not there.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any, Protocol


class Server(Protocol):
    """`answer` to one request at one port, after which the connection ends; None: silence."""

    def opens(self, port: int) -> bool: ...

    def answer(self, port: int, request: bytes) -> bytes | None: ...


class _AheadOfTime(selectors.SelectSelector):
    """Nothing ever arrives from outside, so every wait is over at once and counted."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("a driver waits for what never comes, without a limit")
        self.now_s += max(0.0, timeout)
        return []


class MemoryNetwork(asyncio.SelectorEventLoop):
    """`server` may be changed between runs. `asked` counts requests, `failed` is what a callback let out."""

    def __init__(self, server: Server) -> None:
        self._ahead = _AheadOfTime()
        super().__init__(self._ahead)
        self.server = server
        self.asked = 0
        self.failed: BaseException | None = None
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._ahead.now_s

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failed = self.failed or context.get("exception") or RuntimeError(context["message"])

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]  # the one form in use
        if not self.server.opens(int(port)):
            raise ConnectionRefusedError
        protocol = factory()
        transport = _Pipe(self, int(port), protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _Pipe(asyncio.Transport):
    """Each write is a whole request. The answer comes in two segments and ends with the connection."""

    def __init__(self, network: MemoryNetwork, port: int, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", port)})
        self._network, self._port, self._protocol = network, port, protocol
        self._closing = self._lost = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._network.asked += 1
        self._network.call_soon(self._answer, bytes(data))

    def _answer(self, request: bytes) -> None:
        said = self._network.server.answer(self._port, request)
        if said is None:
            return
        for part in (said[: len(said) // 2], said[len(said) // 2 :]):
            if part and not self._lost:
                self._protocol.data_received(part)
        if not self._lost:
            self._protocol.eof_received()
            self._end()

    def _end(self) -> None:
        if not self._lost:
            self._closing = self._lost = True
            self._protocol.connection_lost(None)

    def abort(self) -> None:
        self._closing = True
        self._network.call_soon(self._end)

    close = abort

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool:
        return not self._closing
