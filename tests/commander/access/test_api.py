"""Access and the fleet over HTTP, through the real gate: who may, what is answered, what is never answered."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from commander.access import api as access_api
from commander.access.service import Access, Issued
from commander.access.setup import InitResult
from commander.api.app import application
from commander.api.gate import Gate
from commander.fleet import api as fleet_api
from garrison.join import read_token
from tests.commander.access.conftest import ADMIN, Machine


@pytest.fixture
async def local(access: Access) -> AsyncIterator[httpx.AsyncClient]:
    """As on the Unix socket: an administrator."""
    async with client(access, local=True) as opened:
        yield opened


def client(access: Access, *, local: bool, token: str = "") -> httpx.AsyncClient:
    app = application([access_api.router(access), fleet_api.router(access.fleet)], "0")
    gate = Gate(app, access.caller_for_token, local=local)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://commander", headers=headers)


async def good(reply: httpx.Response) -> Any:
    assert reply.is_success, reply.text
    return reply.json() if reply.content else None


async def join(access: Access, http: httpx.AsyncClient, kind: str, **facts: str) -> Issued:
    made = await good(await http.post("/api/v1/sentries/tokens", json={"kind": kind, "approve": True}))
    token = read_token(made["token"])
    issued = await access.enrol(token.token_id, token.secret, kind, Machine().csr(), facts, "10.0.0.9:1")
    assert isinstance(issued, Issued)
    return issued


async def test_first_administrator_by_browser(access: Access, made: InitResult) -> None:
    """The page comes without a token and without outside assets, its policy lets only its own script run; then it works."""
    async with client(access, local=False) as http:
        page = await http.get("/setup")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        for tag in ("script", "style"):
            (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "http" not in re.sub(r"http-equiv", "", page.text)
        secret = made.setup_link.partition("#")[2]
        answer = await good(await http.post("/api/v1/setup", json={"secret": secret, "name": "Ada"}))
        assert (answer["role"], answer["name"]) == ("administrator", "Ada")
        again = await http.post("/api/v1/setup", json={"secret": secret, "name": "Eve"})
        assert (again.status_code, again.json()["code"]) == (401, "token_refused")
    async with client(access, local=False, token=answer["token"]) as http:
        assert (await good(await http.get("/api/v1/me")))["role"] == "administrator"


async def test_roles(access: Access) -> None:
    """A viewer sees, an operator changes devices, only an administrator lets people and sentries in; nobody without a token."""
    tokens = {role: (await access.people.new_token(ADMIN, role, role, 3600))[0] for role in ("viewer", "operator", "administrator")}
    asked: list[tuple[str, str, dict[str, Any], dict[str, int]]] = [
        ("GET", "/api/v1/sentries", {}, {"viewer": 200, "operator": 200, "administrator": 200}),
        ("POST", "/api/v1/devices", {"address": "10.0.0.1", "sentry": "x"}, {"viewer": 403, "operator": 404, "administrator": 404}),
        ("POST", "/api/v1/sentries/tokens", {}, {"viewer": 403, "operator": 403, "administrator": 201}),
        ("GET", "/api/v1/tokens", {}, {"viewer": 403, "operator": 403, "administrator": 200}),
        ("GET", "/api/v1/audit", {}, {"viewer": 403, "operator": 403, "administrator": 200}),
    ]
    for method, path, body, expected in asked:
        for role, status in expected.items():
            async with client(access, local=False, token=tokens[role]) as http:
                reply = await http.request(method, path, json=body or None if method == "GET" else body)
                assert reply.status_code == status, (method, path, role, reply.text)
        async with client(access, local=False) as http:
            assert (await http.request(method, path)).status_code == 401
        async with client(access, local=False, token="gsn_" + "0" * 40) as http:
            assert (await http.request(method, path)).status_code == 401


async def test_sentries_over_http(access: Access, local: httpx.AsyncClient) -> None:
    """Token, pending list with its fingerprint, approval, new name, revocation, as the command line uses them."""
    made = await good(await local.post("/api/v1/sentries/tokens", json={"kind": "asic", "site": "hall", "uses": 2, "ttl_s": 60}))
    token, machine = read_token(made["token"]), Machine()
    waits = await access.enrol(token.token_id, token.secret, "asic", machine.csr(), {"hostname": "post"}, "10.0.0.9:1")
    (row,) = (await good(await local.get("/api/v1/sentries/pending")))["pending"]
    assert not isinstance(waits, Issued)
    assert (row["name"], row["fingerprint"]) == ("post", waits.fingerprint)
    (listed,) = (await good(await local.get("/api/v1/sentries")))["sentries"]
    assert (listed["state"], listed["fingerprint"]) == ("pending", waits.fingerprint)
    approved = await good(await local.post("/api/v1/sentries/post/approve", json={}))
    assert approved["id"] == row["id"]
    renamed = await good(await local.patch("/api/v1/sentries/post", json={"name": "hall-a"}))
    assert renamed["name"] == "hall-a"
    revoked = await good(await local.post("/api/v1/sentries/hall-a/revoke", json={"reason": "sold"}))
    assert revoked["state"] == "revoked"
    listed_tokens = await local.get("/api/v1/sentries/tokens")
    assert [(one["used"], one["uses"]) for one in listed_tokens.json()["tokens"]] == [(1, 2)]
    assert made["token"].split("-")[2] not in listed_tokens.text
    await good(await local.delete(f"/api/v1/sentries/tokens/{made['id']}"))
    kinds = [one["kind"] for one in (await good(await local.get("/api/v1/events", params={"sentry": "hall-a"})))["events"]]
    assert kinds == ["sentry_revoked", "sentry_approved", "sentry_enrolled"]
    farm = await good(await local.get("/api/v1/ca"))
    assert (farm["farm"], farm["pin"], farm["root_key_here"]) == ("Nordfarm", token.pin.hex(), True)


async def test_devices_and_relays_over_http(access: Access, local: httpx.AsyncClient) -> None:
    """Add, change, map, unmap, remove, as the command line uses them; a password goes in and never comes out."""
    await join(access, local, "asic", hostname="hall-a")
    body = {
        "address": "10.0.0.5",
        "sentry": "hall-a",
        "name": "five",
        "username": "root",
        "password": "c4nary-one",
        "simulated": True,
    }
    answers = [await local.post("/api/v1/devices", json=body)]
    row = await good(answers[0])
    assert (row["name"], row["sentry"], row["simulated"]) == ("five", "hall-a", True)
    answers.append(await local.patch("/api/v1/devices/five", json={"name": "cinq", "add_tags": ["Rack-A"], "maintenance": True}))
    changed = await good(answers[-1])
    assert (changed["name"], changed["tags"], changed["state"]) == ("cinq", ["rack-a"], "maintenance")
    relay = {"name": "rack", "kind": "tasmota", "address": "10.0.0.9", "sentry": "hall-a", "outlets": 4, "password": "c4nary-two"}
    answers.append(await local.post("/api/v1/relays", json=relay))
    await good(answers[-1])
    mapped = {"device": "cinq", "circuit": "c1", "protected": False}
    await good(await local.post("/api/v1/relays/rack/outlets/3", json=mapped))
    answers.append(await local.get("/api/v1/relays/rack"))
    shown = await good(answers[-1])
    assert shown["outlets_mapped"] == [
        {
            "outlet": "3",
            "device_id": row["id"],
            "device": "cinq",
            "state": "unknown",
            "power_w": None,
            "circuit": "c1",
            "protected": False,
        }
    ]
    taken = await local.delete("/api/v1/devices/cinq")
    assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
    await good(await local.delete("/api/v1/relays/rack/outlets/3"))
    await good(await local.delete("/api/v1/devices/cinq"))
    await good(await local.delete("/api/v1/relays/rack"))
    answers += [await local.get("/api/v1/relays"), await local.get("/api/v1/audit"), await local.get("/api/v1/events")]
    for answer in answers:
        assert "c4nary" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/v1/devices", {"address": "10.0.0.5"}, 400),
        ("POST", "/api/v1/devices", {"address": "169.254.169.254", "sentry": "hall-a"}, 400),
        ("POST", "/api/v1/devices", {"address": "10.0.0.5", "sentry": "hall-a", "pasword": "c4nary"}, 400),
        ("POST", "/api/v1/devices", {"address": "10.0.0.5", "sentry": "hall-a", "password": ["c4nary"]}, 400),
        ("POST", "/api/v1/devices", {"address": "10.0.0.5", "sentry": "hall-a", "username": "root"}, 400),
        ("PATCH", "/api/v1/devices/nothing", {}, 404),
        ("POST", "/api/v1/relays/nothing/outlets/1", {"device": "x"}, 404),
        ("POST", "/api/v1/sentries/nothing/approve", {}, 404),
        ("POST", "/api/v1/tokens", {"name": "x", "role": "root"}, 400),
        ("GET", "/api/v1/events?limit=0", None, 400),
        ("GET", "/api/v1/nothing", None, 404),
    ],
)
async def test_bad_requests(
    access: Access, local: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    """Each is answered with a code and a sentence, and without repeating what may be a password."""
    await join(access, local, "asic", hostname="hall-a")
    reply = await local.request(method, path, json=body)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"code", "text", "hint"}
    assert "c4nary" not in reply.text
