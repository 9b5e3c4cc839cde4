"""A small keep-alive HTTP/1.1 client for devices and local APIs: one connection, hard limits, digest or bearer login.

Called by: the ASIC drivers (digest CGI), the mining programs (bearer token on 127.0.0.1).
Device answers are hostile: time, header and body size are capped, redirects are never followed, and nothing secret
is put into a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import h11
import msgspec

from garrison.faults import BadAnswer, BadInput, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials

MAX_HEADER_BYTES = 32 * 1024
_READ_BYTES = 64 * 1024
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]*)\s+(?=[A-Za-z0-9_-]+\s*=)")
_PARAMETER = re.compile(r"""(?<![A-Za-z0-9_-])([A-Za-z0-9_-]++)\s*+=\s*(?:"((?:[^"\\]++|\\.)*+)"|([^\s,"]+))""")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Header names are lower case; of a repeated header the values are joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as strict JSON. Raises BadAnswer."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadAnswer(f"the answer is not JSON: {error}") from error


class _PeerClosed(Exception):
    """The peer ended the connection before the first byte of an answer."""


class HttpClient:
    """Requests to one host, one after another, over one connection that is kept and re-opened when needed.

    `total_s` bounds a whole request: connecting, log-in rounds, the last byte. Requests of several tasks queue.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connect_s: float = 3,
        total_s: float = 8,
        max_bytes: int = 1 << 20,
        digest: Credentials | None = None,
        bearer: str | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._connect_s, self._total_s, self._max_bytes = connect_s, total_s, max_bytes
        self._digest = _Digest(digest) if digest else None
        self._bearer = bearer
        self._link: _Link | None = None
        self._lock = asyncio.Lock()
        self.delivered = False
        """Whether the last request went out whole, with its log-in: after a fault the order may have been carried out."""

    @property
    def where(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        replay: bool = True,
        total_s: float | None = None,
    ) -> HttpAnswer:
        """One request, any status; one of `json`, `form`, `body`. `replay=False`: never sent twice (controls).

        Raises Unreachable, TimedOut, BadAnswer, WrongPassword (the log-in was refused); BadInput for a request that is
        none. A 401 is an answer like any other where there are no digest credentials.
        """
        content, kind = _content(json, form, body)
        given = {name.lower(): value for name, value in (headers or {}).items()}
        given.setdefault("host", self.where if self._port != 80 else self.where.rpartition(":")[0])
        given.setdefault("accept", "*/*")
        if kind:
            given.setdefault("content-type", kind)
        if content or method not in {"GET", "HEAD"}:
            given["content-length"] = str(len(content))
        if self._bearer is not None:
            given["authorization"] = f"Bearer {self._bearer}"
        limit_s = self._total_s if total_s is None else total_s
        async with self._lock:
            self.delivered = False
            try:
                async with asyncio.timeout(limit_s):
                    answer = await self._logged_in(method, path, given, content, replay)
            except TimeoutError:
                self._drop()
                raise TimedOut(f"{self.where} did not answer within {limit_s:g} s") from None
            except BaseException:
                self._drop()  # whatever is half read must not become the answer to the next request
                raise
            return answer

    async def close(self) -> None:
        async with self._lock:
            if self._link is not None:
                self._link.writer.close()
                with contextlib.suppress(OSError, TimeoutError):  # it is over either way
                    async with asyncio.timeout(1):
                        await self._link.writer.wait_closed()
                self._link = None

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _logged_in(self, method: str, path: str, headers: dict[str, str], body: bytes, replay: bool) -> HttpAnswer:
        if self._digest is None:
            return await self._exchange(method, path, headers, body, replay, counts=True)
        for _ in range(4):  # no nonce yet, an old one, one that went stale meanwhile
            proof = self._digest.proof(method, path)
            sent = {**headers, "authorization": proof} if proof else headers
            answer = await self._exchange(method, path, sent, body, replay, counts=proof is not None)
            if answer.status != 401:
                return answer
            self.delivered = False  # refused, so not carried out
            if not self._digest.challenged(answer.headers.get("www-authenticate", "")):
                raise WrongPassword(f"{self.where} refuses user {self._digest.username!r} with this password")
        raise BadAnswer(f"{self.where} calls every log-in stale")

    async def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, replay: bool, *, counts: bool
    ) -> HttpAnswer:
        if self._link is not None and (self._link.ended() or not replay):
            self._drop()  # an order goes out on a fresh connection, so that "the peer had closed it" is not in question
        for _ in range(2):
            reused = self._link is not None
            link = self._link = self._link or await self._connect()
            try:
                await link.send(method, path, headers, body)
                self.delivered = self.delivered or counts
                answer = await link.answer(self._max_bytes, head=method == "HEAD")
            except h11.LocalProtocolError as error:
                raise BadInput(f"not a request: {error}") from error
            except h11.RemoteProtocolError as error:
                raise BadAnswer(f"{self.where} does not speak HTTP: {error}") from error
            except (_PeerClosed, OSError) as error:
                self._drop()
                if reused and isinstance(error, _PeerClosed | ConnectionError):
                    continue
                raise Unreachable(f"{self.where} closed the connection without an answer") from None
            if reused and answer.status == 408:  # "you were idle", sent before our request
                self._drop()
                continue
            if not link.reusable():
                self._drop()
            return answer
        raise Unreachable(f"{self.where} keeps closing the connection")

    async def _connect(self) -> _Link:
        try:
            async with asyncio.timeout(self._connect_s):
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=_READ_BYTES)
        except TimeoutError:
            raise Unreachable(f"{self.where}: no connection within {self._connect_s:g} s") from None
        except ConnectionRefusedError:
            raise Unreachable(f"{self.where} refuses connections") from None
        except OSError as error:
            raise Unreachable(f"{self.where}: {error.strerror or error}") from error
        return _Link(reader, writer, self.where)

    def _drop(self) -> None:
        if self._link is not None:
            self._link.writer.transport.abort()
            self._link = None


class _Link:
    """One TCP connection and where its conversation stands."""

    __slots__ = ("_h11", "_heard", "_reader", "_where", "writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str) -> None:
        self._reader, self.writer, self._where = reader, writer, where
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._heard = False

    def ended(self) -> bool:
        return self._reader.at_eof() or self.writer.is_closing()

    def reusable(self) -> bool:
        waste, _ = self._h11.trailing_data  # bytes behind an answer must not become the next one
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE and not waste:
            self._h11.start_next_cycle()
            return True
        return False

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        try:
            request = h11.Request(method=method, target=path, headers=list(headers.items()))
        except UnicodeEncodeError as error:
            raise BadInput("a request line and its headers are ASCII") from error
        parts = [self._h11.send(request), self._h11.send(h11.Data(data=body)) if body else b"", self._h11.send(h11.EndOfMessage())]
        self._heard = False
        self.writer.write(b"".join(part for part in parts if part))
        await self.writer.drain()

    async def answer(self, max_bytes: int, *, head: bool) -> HttpAnswer:
        response = await self._next()
        while isinstance(response, h11.InformationalResponse):
            response = await self._next()
        if not isinstance(response, h11.Response):
            raise BadAnswer(f"{self._where} does not speak HTTP")
        headers: dict[str, str] = {}
        for name, value in response.headers:
            key, said = name.decode("ascii", "replace"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {said}" if key in headers else said
        body = bytearray()
        told = headers.get("content-length", "")
        if not head and told.isdecimal() and int(told) > max_bytes:
            raise BadAnswer(f"{self._where} announces {told} bytes, more than the {max_bytes} allowed")
        while isinstance(event := await self._next(), h11.Data):
            body += event.data
            if len(body) > max_bytes:
                raise BadAnswer(f"{self._where} answers more than the {max_bytes} bytes allowed")
        return HttpAnswer(response.status_code, headers, bytes(body))

    async def _next(self) -> h11.Event:
        while not isinstance(event := self._h11.next_event(), h11.Event):  # else it wants data
            data = await self._reader.read(_READ_BYTES)
            if not data and not self._heard:
                raise _PeerClosed
            self._heard = True
            self._h11.receive_data(data)
        if isinstance(event, h11.ConnectionClosed):
            raise _PeerClosed
        return event


def _content(json: object, form: Mapping[str, str] | None, body: bytes | None) -> tuple[bytes, str]:
    if body is not None:
        return body, "application/octet-stream"
    if json is not None:
        return msgspec.json.encode(json), "application/json"
    if form is not None:
        return urlencode(form).encode(), "application/x-www-form-urlencoded"
    return b"", ""


# ---- digest (RFC 7616) -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way of logging in that a 401 offers. Parameter names are lower case."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(header: str) -> Sequence[Challenge]:
    """What a `WWW-Authenticate` header offers, in its order. `Digest realm="antMiner Configuration", nonce=…`."""
    starts = list(_SCHEME.finditer(header))
    found = []
    for at, start in enumerate(starts):
        end = starts[at + 1].start() if at + 1 < len(starts) else len(header)
        parameters = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
            for name, quoted, plain in _PARAMETER.findall(header[start.end() : end])
        }
        found.append(Challenge(start[1].lower(), parameters))
    return found


class _Digest:
    """The log-in of one user: the nonce is kept and counted, so that only the first request costs two rounds."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._challenge: Mapping[str, str] | None = None
        self._nonce, self._count = "", 0
        self._new = False  # the nonce in hand came with the last answer and has not been tried
        self._tried_new = False  # the last proof was made with such a nonce

    @property
    def username(self) -> str:
        return self._credentials.username

    def challenged(self, header: str) -> bool:
        """Takes the nonce of a 401. False: what we sent was made with a good nonce, so the password is wrong."""
        offered = [c.parameters for c in challenges(header) if c.scheme == "digest"]
        known = [p for p in offered if p.get("algorithm", "MD5").upper() in _HASHES and "nonce" in p]
        if not known:
            ways = ", ".join(sorted({c.scheme for c in challenges(header)})) or "nothing we know"
            raise BadAnswer(f"asks for a log-in by {ways}; we do digest with MD5 or SHA-256")
        best = max(known, key=lambda p: p.get("algorithm", "MD5").upper() == "SHA-256")
        if self._tried_new and best.get("stale", "").lower() != "true":
            self._tried_new = False
            self._challenge = None
            return False
        if best["nonce"] != self._nonce:  # a server may hand out the same one again: its count goes on
            self._nonce, self._count = best["nonce"], 0
        self._challenge, self._new = best, True
        return True

    def proof(self, method: str, path: str) -> str | None:
        """The Authorization header; None while there is no nonce."""
        if self._challenge is None:
            return None
        c, self._count = self._challenge, self._count + 1
        self._tried_new, self._new = self._new, False
        algorithm = c.get("algorithm", "MD5").upper()
        qop = "auth" if "auth" in re.split(r"[,\s]+", c.get("qop", "")) else ""
        realm, nonce = c.get("realm", ""), c["nonce"]
        client, count = secrets.token_hex(8), f"{self._count:08x}"
        secret = _hash(algorithm, f"{self.username}:{realm}:{self._credentials.password}")
        request = _hash(algorithm, f"{method}:{path}")
        middle = f"{nonce}:{count}:{client}:{qop}" if qop else nonce
        quoted = {
            "username": self.username,
            "realm": realm,
            "nonce": nonce,
            "uri": path,
            "response": _hash(algorithm, f"{secret}:{middle}:{request}"),
        }
        if "opaque" in c:
            quoted["opaque"] = c["opaque"]
        parts = [f'{name}="{_quote(value)}"' for name, value in quoted.items()]
        if "algorithm" in c:
            parts.append(f"algorithm={algorithm}")
        if qop:
            parts += [f"qop={qop}", f"nc={count}", f'cnonce="{client}"']
        return "Digest " + ", ".join(parts)


def _quote(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _hash(algorithm: str, text: str) -> str:
    return _HASHES[algorithm](text.encode(), usedforsecurity=False).hexdigest()
