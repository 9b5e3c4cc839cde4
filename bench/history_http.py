"""HTTP as a measuring client wants it: one kept-alive connection over TCP or a Unix socket, the body taken in whole.

`http.client` reads a chunked answer line by line, which would be charged to whoever sends in chunks. Here the time of `ask` is
the server's and the kernel's; what the body says is looked at afterwards.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_MOST = 128 << 20
"""Of one answer. The memory is the system's until it is written to."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    raw: bytes
    chunked: bool

    @property
    def body(self) -> bytes:
        if not self.chunked:
            return self.raw
        parts: list[bytes] = []
        at = 0
        while True:
            end = self.raw.index(b"\r\n", at)
            size = int(self.raw[at:end], 16)
            if not size:
                return b"".join(parts)
            parts.append(self.raw[end + 2 : end + 2 + size])
            at = end + 2 + size + 2

    def json(self) -> Any:
        return json.loads(self.body)


class Link:
    """`where`: (host, port), or the path of a Unix socket. `headers`: of every request. RuntimeError: refused, or cut off."""

    def __init__(self, where: tuple[str, int] | Path, headers: Mapping[str, str] | None = None) -> None:
        self._where = where
        self._headers = [f"{name}: {value}" for name, value in (headers or {}).items()]
        if isinstance(where, Path):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.connect(str(where))
        else:
            self._socket = socket.create_connection(where)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._taken = bytearray(_MOST)
        self._view = memoryview(self._taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: bytes | memoryview = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Waits as long as it takes."""
        lines = [f"{method} {path} HTTP/1.1", "host: bench", *self._headers]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method != "GET":
            lines.append(f"content-length: {len(body)}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        if body:
            self._socket.sendall(body)
        answer = self._answer(f"{method} {path}")
        if answer.status // 100 != 2:
            raise RuntimeError(f"{self._where}: {method} {path[:200]}: {answer.status} {answer.body[:300]!r}")
        return answer

    def _answer(self, asked: str) -> Answer:
        have, end = 0, -1
        while end < 0:
            have = self._more(have, asked)
            end = self._taken.find(b"\r\n\r\n", 0, have)
        head, status, begin = bytes(self._view[: end + 2]), int(self._view[9:12]), end + 4
        length, chunked = _LENGTH.search(head), _CHUNKED.search(head) is not None
        if length:
            while have < begin + int(length[1]):
                have = self._more(have, asked)
        elif chunked:
            # an empty body is its last chunk alone
            while self._view[begin:have] != _LAST_CHUNK[2:] and self._view[have - len(_LAST_CHUNK) : have] != _LAST_CHUNK:
                have = self._more(have, asked)
        return Answer(status, bytes(self._view[begin:have]), chunked)

    def _more(self, have: int, asked: str) -> int:
        count = self._socket.recv_into(self._view[have:])
        if not count:
            raise RuntimeError(f"{self._where}: {asked[:200]}: the connection was closed, or the answer is too long")
        return have + count
