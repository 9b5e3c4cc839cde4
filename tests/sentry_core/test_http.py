"""The device HTTP client against a scripted server on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from garrison.faults import BadAnswer, BadInput, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials
from sentry_core.http import HttpClient, challenges

Reply = Callable[["Request"], Awaitable[bytes | None] | bytes | None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ME = Credentials("root", 'se"cret')


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Script:
    """Answers each request with what `reply` returns; None: closes without a word."""

    reply: Reply
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    close_after_each: bool = False
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")[:-2]
                method, path, _ = first.split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                request = Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
                self.requests.append(request)
                answer = self.reply(request)
                if answer is not None and not isinstance(answer, bytes):
                    answer = await answer
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if self.close_after_each:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def server(reply: Reply, close_after_each: bool = False) -> AsyncIterator[Script]:
    script = Script(reply, close_after_each=close_after_each)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(script.serve(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    script.port = listening.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class DigestServer:
    """Checks proofs as RFC 7616 says; forgets its nonces when told."""

    def __init__(self, algorithm: str = "MD5", password: str = ME.password, announce: bool = True) -> None:
        self.algorithm, self.password, self.announce = algorithm, password, announce
        self.nonce, self.stale = "n1", False
        self.counts: list[str] = []

    def renew(self, nonce: str, *, stale: bool) -> None:
        self.nonce, self.stale, self.counts = nonce, stale, []

    def hash(self, text: str) -> str:
        kind = hashlib.sha256 if self.algorithm == "SHA-256" else hashlib.md5
        return kind(text.encode()).hexdigest()

    def __call__(self, request: Request) -> bytes:
        said = dict(re.findall(r'(\w+)="?((?:[^",\\]|\\.)*)"?', request.headers.get("authorization", "")))
        if said and said["nonce"] == self.nonce:
            assert said["nc"] not in self.counts, "a nonce count is never used twice"
            self.counts.append(said["nc"])
            a1 = self.hash(f"root:antMiner Configuration:{self.password}")
            a2 = self.hash(f"{request.method}:{said['uri']}")
            if said["response"] == self.hash(f"{a1}:{self.nonce}:{said['nc']}:{said['cnonce']}:auth:{a2}"):
                return OK
        stale = ", stale=true" if said and self.stale else ""
        algorithm = f", algorithm={self.algorithm}" if self.announce else ""
        challenge = f'Digest realm="antMiner Configuration", nonce="{self.nonce}", qop="auth"{algorithm}{stale}'
        return f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode()


async def test_one_connection_is_reused() -> None:
    """Several requests, one connection; JSON and forms go out with their content type."""
    async with server(lambda _: OK) as script, HttpClient("127.0.0.1", script.port) as client:
        assert (await client.request("GET", "/a")).text() == "ok"
        await client.request("POST", "/b", json={"x": 1})
        await client.request("POST", "/c", form={"a b": "1&2"})
        assert script.connections == 1
        assert [r.body for r in script.requests] == [b"", b'{"x":1}', b"a+b=1%262"]
        assert [r.headers.get("content-type") for r in script.requests[1:]] == [
            "application/json",
            "application/x-www-form-urlencoded",
        ]
        assert script.requests[0].headers["host"] == f"127.0.0.1:{script.port}"


async def test_reopens_once_when_the_peer_had_closed() -> None:
    """A connection closed between requests is no fault: the request goes out again on a fresh one."""
    async with server(lambda _: OK, close_after_each=True) as script, HttpClient("127.0.0.1", script.port) as client:
        for _ in range(3):
            assert (await client.request("GET", "/")).status == 200
        assert script.connections == 3


async def test_an_order_is_never_sent_twice() -> None:
    """`replay=False`: the connection dies after the order: Unreachable, one request, and `delivered` says it went out."""
    answers = iter([OK, None, OK])
    async with server(lambda _: next(answers)) as script, HttpClient("127.0.0.1", script.port) as client:
        await client.request("GET", "/")
        with pytest.raises(Unreachable, match="without an answer"):
            await client.request("GET", "/reboot", replay=False)
        assert client.delivered
        assert [r.path for r in script.requests] == ["/", "/reboot"]


@pytest.mark.parametrize(("algorithm", "announce"), [("MD5", True), ("MD5", False), ("SHA-256", True)])
async def test_digest_nonce_is_kept(algorithm: str, announce: bool) -> None:
    """The first request costs two rounds, each later one a single round with a counted nonce."""
    gate = DigestServer(algorithm, announce=announce)
    async with server(gate) as script, HttpClient("127.0.0.1", script.port, digest=ME) as client:
        for _ in range(3):
            assert (await client.request("POST", "/x", json={"keep": "me"})).status == 200
        assert len(script.requests) == 4
        assert gate.counts == ["00000001", "00000002", "00000003"]
        assert script.requests[-1].body == b'{"keep":"me"}'


@pytest.mark.parametrize("stale", [True, False])
async def test_digest_nonce_expires(stale: bool) -> None:
    """A nonce the server has forgotten, whether it says stale or not: the body is sent again with the new one."""
    gate = DigestServer()
    async with server(gate) as script, HttpClient("127.0.0.1", script.port, digest=ME) as client:
        await client.request("GET", "/")
        gate.renew("n2", stale=stale)
        assert (await client.request("POST", "/x", json=[1], replay=False)).status == 200
        assert script.requests[-1].body == b"[1]"


async def test_wrong_password_is_told_without_the_secret() -> None:
    """A proof made with a good nonce and refused is WrongPassword, and says no secret."""
    async with server(DigestServer(password="another")) as script, HttpClient("127.0.0.1", script.port, digest=ME) as client:
        with pytest.raises(WrongPassword) as caught:
            await client.request("GET", "/")
        assert ME.password not in str(caught.value)
        assert len(script.requests) == 2
        assert not client.delivered
        with pytest.raises(WrongPassword):
            await client.request("GET", "/")


async def test_a_server_that_calls_everything_stale_is_left() -> None:
    """No endless log-in rounds."""

    def reply(_: Request) -> bytes:
        return (
            b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="r", nonce="n", qop="auth", stale=true\r\nContent-Length: 0\r\n\r\n'
        )

    async with server(reply) as script, HttpClient("127.0.0.1", script.port, digest=ME) as client:
        with pytest.raises(BadAnswer, match="stale"):
            await client.request("GET", "/")
        assert len(script.requests) < 6


async def test_401_without_credentials_is_an_answer() -> None:
    """Identification reads the realm from it."""
    async with server(DigestServer()) as script, HttpClient("127.0.0.1", script.port) as client:
        answer = await client.request("GET", "/")
        assert answer.status == 401
        assert challenges(answer.headers["www-authenticate"])[0].parameters["realm"] == "antMiner Configuration"


async def test_bearer_token_and_redirects() -> None:
    """The token is sent; a redirect is an answer, never followed."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with server(lambda _: moved) as script, HttpClient("127.0.0.1", script.port, bearer="abc") as client:
        assert (await client.request("GET", "/")).status == 302
        assert script.requests[0].headers["authorization"] == "Bearer abc"
        assert script.connections == 1


ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "announces 99999999 bytes"),
        (ENDLESS, "more than the 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000, "does not speak HTTP"),
        (b"SSH-2.0-dropbear\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "does not speak HTTP"),
    ],
)
async def test_hostile_answers_are_bad_answers(answer: bytes, words: str) -> None:
    """Too much, too long headers, another protocol, a cut body: BadAnswer, and the next request starts afresh."""
    answers = iter([answer, OK])
    async with (
        server(lambda _: next(answers), close_after_each=True) as script,
        HttpClient("127.0.0.1", script.port, max_bytes=1000) as client,
    ):
        with pytest.raises(BadAnswer, match=words):
            await client.request("GET", "/")
        assert (await client.request("GET", "/")).body == b"ok"


async def test_bytes_behind_an_answer_are_not_the_next_answer() -> None:
    """A smuggled second answer is thrown away with its connection."""
    answers = iter([OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK])
    async with server(lambda _: next(answers)) as script, HttpClient("127.0.0.1", script.port) as client:
        await client.request("GET", "/")
        assert (await client.request("GET", "/")).body == b"ok"
        assert script.connections == 2


async def test_silence_and_drip_feed_end_in_time() -> None:
    """`total_s` bounds a server that says nothing."""

    async def silent(_: Request) -> bytes:
        await asyncio.sleep(60)
        return OK

    async with server(silent) as script, HttpClient("127.0.0.1", script.port, total_s=0.2) as client:
        with pytest.raises(TimedOut):
            await client.request("GET", "/")


async def test_refused_connection() -> None:
    """Nobody listens: Unreachable, in words."""
    async with server(lambda _: OK) as script:
        port = script.port
    client = HttpClient("127.0.0.1", port)
    with pytest.raises(Unreachable, match="refuses connections"):
        await client.request("GET", "/")
    assert not client.delivered


async def test_a_request_that_is_none() -> None:
    """Line breaks in a path or header never reach the wire."""
    async with server(lambda _: OK) as script, HttpClient("127.0.0.1", script.port) as client:
        with pytest.raises(BadInput):
            await client.request("GET", "/a b\r\nX: y")
        with pytest.raises(BadInput):
            await client.request("GET", "/", headers={"x": "a\r\nb: c"})
        with pytest.raises(BadInput):
            await client.request("GET", "/ü")
        assert script.requests == []


async def test_requests_of_several_tasks_queue() -> None:
    """One in flight at a time, on one connection."""
    async with server(lambda _: OK) as script, HttpClient("127.0.0.1", script.port) as client:
        answers = await asyncio.gather(*(client.request("GET", f"/{i}") for i in range(10)))
        assert {a.status for a in answers} == {200}
        assert script.connections == 1


def test_challenges_of_several_schemes() -> None:
    """Basic and digest in one header, quotes, commas inside quotes."""
    header = 'Basic realm="a, b", Digest realm="x \\"y\\"", nonce="n=", qop="auth,auth-int", algorithm=MD5'
    basic, digest = challenges(header)
    assert (basic.scheme, basic.parameters["realm"]) == ("basic", "a, b")
    assert digest.parameters == {"realm": 'x "y"', "nonce": "n=", "qop": "auth,auth-int", "algorithm": "MD5"}
