"""Who gets in: every route and gRPC method against the policy, both ways, and every route as every kind of caller."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute

from commander.access import policy
from commander.access.policy import Role
from commander.api.app import application, route_templates
from commander.api.gate import MAX_BODY, MOST_TAKEN, Gate
from commander.model import Caller
from garrison.v1 import enrolment_pb2, post_pb2
from tests.commander.api.conftest import ROLES, Api

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_every_route_has_a_row_and_every_row_a_route(api: Api) -> None:
    """In the very list that answers requests."""
    routes = list(route_templates(api.commander.app.router.routes))
    assert len(routes) == len(set(routes))
    assert set(routes) == set(policy.HTTP)


async def test_every_grpc_method_has_a_row_and_every_row_a_method() -> None:
    """From the descriptors of all our protos."""
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in (enrolment_pb2, post_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == set(policy.GRPC)


async def test_what_no_row_names_is_there_for_nobody(api: Api) -> None:
    """A route that somebody adds without a row, a mounted app and a websocket: refused even to the local administrator."""
    extra = APIRouter()

    @extra.get("/api/v1/unnamed")
    async def unnamed() -> dict[str, str]:
        return {"secret": "told"}

    mounted = PlainTextResponse("told")
    app = application([extra], "0")
    app.router.routes += [Mount("/api/v1/status", mounted), WebSocketRoute("/ws", mounted)]
    assert {("GET", "/api/v1/unnamed"), ("*", "/api/v1/status"), ("*", "/ws")} <= set(route_templates(app.router.routes))
    gate = Gate(app, lambda _: Caller("x", "administrator"), local=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://commander") as http:
        reply = await http.get("/api/v1/unnamed")
        assert (reply.status_code, reply.json()["code"]) == (403, "not_allowed")
        for path in ("/api/v1/status", "/api/v1/status/x", "/ws"):
            assert (await http.get(path)).status_code == 404
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    await gate({"type": "websocket", "path": "/ws", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_route_by_role(api: Api) -> None:
    """Each row as nobody, with a wrong token and as each role, over TCP: 401, 401, and 403 below the role that the row names."""
    wrong: list[str] = []
    clients = {who: api.tcp(who) for who in ("", "gsn-wrong", *ROLES)}
    try:
        for (method, template), needed in policy.HTTP.items():
            path = template
            for part in ("{token_id}", "{sentry}", "{device}", "{board}", "{outlet}", "{action_id}", "{sheet}", "{program}"):
                path = path.replace(part, "nothing")
            path = path.replace("{version}", "0").replace("{verb}", "on")
            for who, http in clients.items():
                reply = await http.request(method, path, json=None if method == "GET" else {})
                if who == "gsn-wrong":
                    expected = reply.status_code == 401 and reply.json()["code"] == "identity_refused"
                elif needed is Role.ANYONE or (who and Role[who.upper()] >= needed):
                    expected = reply.status_code not in (401, 403, 405, 500)
                else:
                    expected = reply.status_code == (403 if who else 401)
                if reply.status_code == 401:
                    expected = expected and reply.headers["www-authenticate"] == "Bearer"
                if not expected:
                    wrong.append(f"{method} {path} as {who or 'nobody'}: {reply.status_code} {reply.text[:200]}")
    finally:
        for http in clients.values():
            await http.aclose()
    assert wrong == []


async def test_unix_socket(api: Api) -> None:
    """Mode 0600, and whoever may open it is the administrator, with no token at all, whatever the request claims."""
    mode = await asyncio.to_thread(api.socket.stat)
    assert stat.S_ISSOCK(mode.st_mode)
    assert stat.S_IMODE(mode.st_mode) == 0o600
    async with api.local() as http:
        me = (await http.get("/api/v1/me", headers={"authorization": "Bearer nonsense"})).json()
    assert (me["role"], me["local"], me["name"]) == ("administrator", True, "local")


async def test_a_page_elsewhere_gets_nothing(api: Api) -> None:
    """A browser that was led here by another name (DNS rebinding) has no token, and no answer says that others may read it."""
    async with api.tcp() as http:
        for host in ("evil.example", "127.0.0.1", "localhost"):
            headers = {"host": host, "origin": "http://evil.example"}
            refused = await http.get("/api/v1/devices", headers=headers)
            assert refused.status_code == 401
            page = await http.get("/setup", headers=headers)
            assert page.status_code == 200
            for reply in (refused, page):
                assert not [name for name in reply.headers if name.startswith("access-control")]
        preflight = await http.options("/api/v1/devices", headers={"origin": "http://evil.example"})
        assert preflight.status_code == 405


async def test_setup_works_once(api: Api) -> None:
    """A one-time link, ordered on the commander's machine, makes one administrator; a second use is refused in words."""
    async with api.local() as http:
        link = (await http.post("/api/v1/setup/link", json={})).json()["link"]
    async with api.tcp() as http:
        page = await http.get("/setup")
        policy_of_page = page.headers["content-security-policy"]
        assert policy_of_page.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy_of_page
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"
        body = {"secret": link.partition("#")[2], "name": "Ada"}
        first = await http.post("/api/v1/setup", json=body)
        assert first.status_code == 201, first.text
        again = await http.post("/api/v1/setup", json=body)
    assert (again.status_code, again.json()["code"]) == (401, "token_refused")
    assert "link" in again.json()["text"]
    async with api.tcp(first.json()["token"]) as http:
        assert (await http.get("/api/v1/me")).json()["role"] == "administrator"


async def test_removed_token(api: Api) -> None:
    """It is worth nothing at once."""
    async with api.local() as http:
        made = (await http.post("/api/v1/tokens", json={"name": "guest"})).json()
        async with api.tcp(made["token"]) as guest:
            assert (await guest.get("/api/v1/status")).status_code == 200
            assert (await http.delete(f"/api/v1/tokens/{made['id']}")).status_code == 204
            assert (await guest.get("/api/v1/status")).status_code == 401


async def test_head(api: Api) -> None:
    """HEAD is GET without a body: the same status and headers, and the same rights."""
    async with api.tcp("viewer") as http:
        head, got = await http.head("/api/v1/me"), await http.get("/api/v1/me")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]
        assert (await http.head("/api/v1/tokens")).status_code == 403
        assert (await http.head("/api/v1/nothing")).status_code == 404
    async with api.tcp() as http:
        assert (await http.head("/api/v1/me")).status_code == 401


async def test_websocket_is_refused(api: Api) -> None:
    """An upgrade is not taken; the request is answered as if it were plain HTTP."""
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with api.tcp() as http:
        assert (await http.get("/api/v1/status", headers=headers)).status_code == 401


@pytest.mark.parametrize("role", ["administrator", ""])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("size", [MAX_BODY + 1, 5 * MAX_BODY])
async def test_large_body(api: Api, size: int, sized: bool, role: str) -> None:
    """More than 1 MiB, declared or in chunks: an answer in words (401 for who has no token), not a connection that drops."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(0, size, 65_536):
            yield b"x" * 65_536

    async with api.tcp(role) as http:
        reply = await http.post("/api/v1/devices", content=b"x" * size if sized else chunks())
        assert reply.status_code == (413 if role else 401)
        assert set(reply.json()) == {"code", "text", "hint"}
        if role:
            assert f"larger than {MAX_BODY} bytes" in reply.json()["text"]
        # the same connection goes on
        assert (await http.get("/api/v1/me")).status_code == (200 if role else 401)


async def test_endless_body(api: Api) -> None:
    """Who never stops sending is cut off; the commander goes on."""
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"POST /api/v1/devices HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 1_000_000_000:
            writer.write(b"x" * 1_000_000)
            sent += 1_000_000
            await asyncio.wait_for(writer.drain(), 30)
    assert sent < 8 * MOST_TAKEN
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    async with api.tcp("viewer") as http:
        assert (await http.get("/api/v1/status")).status_code == 200


async def test_hang_up_in_the_middle(api: Api) -> None:
    """A caller that is gone before its request was whole: nothing happens, nothing is logged as our failure."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    token = api.tokens["administrator"]
    head = f"POST /api/v1/tokens HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"name": "half"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    async with api.local() as http:
        assert "half" not in (await http.get("/api/v1/tokens")).text
