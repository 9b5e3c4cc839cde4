"""A port that speaks HTTP, for simulators: a method, a path and a form or JSON in, a status, headers and a body out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.simulators.machine import HeldPort


@dataclass(frozen=True)
class Request:
    """`path` without its query; `given` is the query and a form together, `json` a body that is one."""

    method: str
    path: str
    headers: Mapping[str, str]
    given: Mapping[str, str]
    json: Any = None

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Response:
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Reply = Response | None
"""None: the device carries the order out and closes without a word."""


@dataclass
class WebFaults:
    hung: bool = False  # accepts and says nothing
    endless: bool = False  # never stops talking
    html: bool = False  # every path is the same page of something else


def told(value: object, *, status: int = 200, cookie: str = "") -> Response:
    return Response(json.dumps(value).encode(), status, {"set-cookie": cookie} if cookie else {})


class WebPort(HeldPort):
    """Port 0 is chosen, and then kept over power cycles."""

    def __init__(self, answer: Callable[[Request], Reply], host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self._answer = answer
        self.faults = WebFaults()
        self.asked: list[str] = []  # "POST /path", in order

    def orders(self, *paths: str) -> list[str]:
        """Of what was asked, these."""
        return [asked for asked in self.asked if asked in paths]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            while (request := await _request(reader)) is not None:
                self.asked.append(f"{request.method} {request.path}")
                if self.faults.hung:
                    await asyncio.sleep(3600)
                if self.faults.endless:
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    while True:
                        writer.write(b"10000\r\n" + b"y" * 65536 + b"\r\n")
                        await writer.drain()
                page = Response(b"<!doctype html><html><head><title>Router</title></head></html>")
                said = page if self.faults.html else self._answer(request)
                if said is None:
                    break
                headers = "".join(f"{name}: {value}\r\n" for name, value in said.headers.items())
                writer.write(f"HTTP/1.1 {said.status} X\r\n{headers}Content-Length: {len(said.body)}\r\n\r\n".encode() + said.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, asyncio.CancelledError):
            pass  # the client left, the power did, or it spoke no HTTP
        finally:
            self.now -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


async def _request(reader: asyncio.StreamReader) -> Request | None:
    begin = await reader.readexactly(1)
    if not begin.isalpha():
        return None  # no HTTP: the length of a Whatsminer's question
    head = begin + await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    kind = headers.get("content-type", "")
    form = body.decode() if kind.startswith("application/x-www-form-urlencoded") else ""
    given = dict(parse_qsl(url.query, keep_blank_values=True)) | dict(parse_qsl(form, keep_blank_values=True))
    return Request(method, url.path, headers, given, json.loads(body) if body and "json" in kind else None)
