"""A port that speaks the cgminer API, for simulators: one request, one answer, a NUL, and the device closes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulators.machine import HeldPort

Reply = dict[str, Any] | None
"""None: the device carries the order out and closes without a word."""


@dataclass
class PortFaults:
    hung: bool = False  # accepts and says nothing
    endless: bool = False  # never stops talking
    html: bool = False  # a web page on port 4028


class ApiPort(HeldPort):
    """`answer` gets the command and its parameter. Port 0 is chosen, and then kept over power cycles."""

    def __init__(self, answer: Callable[[str, str], Reply], host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self._answer = answer
        self.faults = PortFaults()
        self.asked: list[str] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            request = await reader.read(8192)
            if self.faults.hung:
                await asyncio.sleep(3600)
            while self.faults.endless:
                writer.write(b'{"x":"' + b"y" * 65536)
                await writer.drain()
            writer.write(self._bytes(request))
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the power did
        finally:
            self.now -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    def _bytes(self, request: bytes) -> bytes:
        if self.faults.html:
            return b"<html><head><title>404 Not Found</title></head></html>"
        try:
            asked = json.loads(request.rstrip(b"\x00\n"))
            command, parameter = str(asked["command"]), str(asked.get("parameter", ""))
        except (ValueError, KeyError, TypeError):
            return b"STATUS=E,When=1,Code=23,Msg=Invalid JSON|\x00"
        self.asked.append(command)
        said = self._answer(command, parameter)
        return b"" if said is None else json.dumps(said).encode() + b"\x00"


def status(code: int, message: str, *, kind: str = "S", program: str = "cgminer 4.11.1") -> dict[str, Any]:
    """An answer with nothing but its STATUS."""
    return {"STATUS": [{"STATUS": kind, "When": 1, "Code": code, "Msg": message, "Description": program}], "id": 1}


INVALID = 14


def invalid(program: str = "cgminer 4.11.1") -> dict[str, Any]:
    return status(INVALID, "Invalid command", kind="E", program=program)
