"""Answers: every fault with its status and in one shape, bad requests in words, and a description of it all that is true."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from commander.access import policy
from commander.api.app import STATUS, application, status_of
from garrison.faults import BY_CODE, Fault
from tests.commander.api.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXPECTED = {
    "bad_input": 400,
    "bad_frame": 400,
    "bad_answer": 502,
    "did_not_switch": 502,
    "refused": 409,
    "not_allowed": 403,
    "guard_refused": 409,
    "rule_refused": 409,
    "wrong_password": 409,
    "not_supported": 409,
    "conflict": 409,
    "identity_refused": 401,
    "no_certificate": 401,
    "unknown_authority": 401,
    "certificate_expired": 401,
    "certificate_revoked": 401,
    "wrong_identity": 401,
    "token_refused": 401,
    "not_found": 404,
    "unreachable": 502,
    "timed_out": 504,
    "unavailable": 503,
    "disk_full": 507,
    "version_mismatch": 409,
    "broken": 500,
    "fault": 500,
}


async def test_every_fault_has_a_status() -> None:
    """The whole tree, so that a new fault is decided here."""
    assert {code: status_of(kind("x")) for code, kind in BY_CODE.items()} == EXPECTED
    assert set(STATUS) <= set(BY_CODE.values())


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=BY_CODE)
async def test_faults_as_answers(kind: type[Fault]) -> None:
    """`{"code", "text", "hint"}` with the fault's own words."""
    routes = APIRouter()

    @routes.get("/x")
    async def fail() -> None:
        raise kind("what was wrong", hint="what to do")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(application([routes], "0")), base_url="http://x") as http:
        reply = await http.get("/x")
    assert reply.status_code == EXPECTED[kind.code]
    assert reply.json() == {"code": kind.code, "text": "what was wrong", "hint": "what to do"}


async def test_what_we_did_not_think_of() -> None:
    """An error of our own is an answer of the same shape that tells nothing of our insides; the log gets it whole."""
    routes = APIRouter()

    @routes.get("/x")
    async def fail() -> None:
        raise RuntimeError("password=hunter2")

    transport = httpx.ASGITransport(application([routes], "0"), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        reply = await http.get("/x")
    assert reply.status_code == 500
    assert reply.json()["code"] == "fault"
    assert "hunter2" not in reply.text


@pytest.mark.parametrize(
    ("method", "path", "send", "status", "words"),
    [
        ("POST", "/api/v1/devices", {"content": "{bad", "headers": {"content-type": "application/json"}}, 400, "not JSON"),
        ("POST", "/api/v1/devices", {"content": '{"address": "10.0.0.1"}'}, 400, "JSON object"),
        ("POST", "/api/v1/devices", {"json": [1]}, 400, "JSON object"),
        ("POST", "/api/v1/devices", {"json": {}}, 400, "address: Field required"),
        ("POST", "/api/v1/devices", {"json": {"address": "10.0.0.1", "sentry": "x", "adress": 1}}, 400, "adress: Extra inputs"),
        ("POST", "/api/v1/tokens", {"json": {"name": "x", "ttl_s": "soon"}}, 400, "ttl_s"),
        ("POST", "/api/v1/tokens", {"json": {"name": "x", "ttl_s": 10**400}}, 400, "3650 days"),
        ("POST", "/api/v1/actions", {"json": {"kind": "explode", "devices": ["x"]}}, 400, "'reboot'"),
        ("POST", "/api/v1/actions", {"json": {"kind": "reboot", "devices": []}}, 400, "devices"),
        ("POST", "/api/v1/power/sideways", {"json": {"device": "x"}}, 400, "verb"),
        ("POST", "/api/v1/backup", {"json": {"target": "relative.tar"}}, 400, "absolute"),
        ("GET", "/api/v1/devices?state=nope", {}, 400, "'mining'"),
        ("GET", "/api/v1/devices?kind=nope", {}, 400, "'asic'"),
        ("GET", "/api/v1/actions?limit=0", {}, 400, "limit"),
        ("GET", "/api/v1/devices/nothing", {}, 404, "no device"),
        ("GET", "/api/v1/devices/nothing/history?metric=power_w&since=yesterday", {}, 400, "since"),
        ("GET", "/api/v1/nothing", {}, 404, "no such address"),
        ("GET", "/", {}, 404, "no such address"),
        ("GET", "/api/v1/devices/a/b/c", {}, 404, "no such address"),
        ("GET", "/api/v1/devices/", {}, 404, "no such address"),
        ("GET", "/../../etc/passwd", {}, 404, "no such address"),
        ("DELETE", "/api/v1/status", {}, 405, "no DELETE here"),
        ("BREW", "/api/v1/status", {}, 405, "no BREW here"),
    ],
)
async def test_bad_requests(api: Api, method: str, path: str, send: dict[str, Any], status: int, words: str) -> None:
    """Each has a status, a code and a sentence that says what was wrong."""
    async with api.local() as http:
        reply = await http.request(method, path, **send)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"code", "text", "hint"}
    assert words in reply.json()["text"], reply.text
    if status == 405:
        assert reply.headers["allow"] == "GET"


async def test_nonsense_on_the_wire(api: Api) -> None:
    """What is not HTTP gets 400 from the server below, and the next one is served."""
    for bytes_ in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\x00" * 70_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(bytes_ + b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    async with api.tcp("viewer") as http:
        assert (await http.get("/api/v1/status")).status_code == 200


async def test_a_backup_is_not_ordered_from_afar(api: Api) -> None:
    """It writes where it is told, with the commander's rights: only on its own machine."""
    async with api.tcp("administrator") as http:
        reply = await http.post("/api/v1/backup", json={"target": "/tmp/x.tar"})
    assert reply.status_code == 400
    assert "own machine" in reply.json()["text"]


# ---- the description ---------------------------------------------------------------------------------------


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_openapi(api: Api) -> None:
    """Without a token: OpenAPI 3.1 with exactly the /api routes of the policy, whole in itself, parameters as in the paths."""
    async with api.tcp() as http:
        reply = await http.get("/api/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    told = reply.json()
    assert re.fullmatch(r"3\.1\.\d+", told["openapi"])
    assert {"title", "version"} <= set(told["info"])
    described = {
        (method.upper(), path)
        for path, item in told["paths"].items()
        for method in item
        if method in ("get", "put", "post", "delete", "options", "head", "patch", "trace")
    }
    assert described == {row for row in policy.HTTP if row[1].startswith("/api/v1/")} | ({("GET", "/metrics")} & described)
    ids = [operation["operationId"] for item in told["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    for path, item in told["paths"].items():
        for operation in item.values():
            named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
            assert all(one["required"] for one in operation.get("parameters", []) if one["in"] == "path")
            assert operation["responses"]
            assert all(
                re.fullmatch(r"[1-5]\d\d|default", code) and one["description"] for code, one in operation["responses"].items()
            )
    for reference in references(told):
        found: Any = told
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert isinstance(found, dict), reference
    assert json.loads(json.dumps(told)) == told


async def test_faults_are_described(api: Api) -> None:
    """Every operation says in which shape it refuses."""
    async with api.local() as http:
        told = (await http.get("/api/openapi.json")).json()
    for path, item in told["paths"].items():
        for operation in item.values():
            assert "default" in operation["responses"], path
            assert "422" not in operation["responses"], path  # bad requests are 400 here, in the shape of every fault
    assert set(told["components"]["schemas"]["Fault"]["properties"]) == {"code", "text", "hint"}
