"""Access over HTTP: join tokens, who waits, people's tokens, the first administrator, the audit, the farm's CA."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from commander.access import page
from commander.access.records import Waiting
from commander.access.service import Access
from commander.access.tokens import JoinRecord, PeopleToken
from commander.fleet import audit
from commander.fleet.api import caller_of, sentry_json


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class JoinTokenBody(_Body):
    kind: str = "rig"
    site: str = ""
    uses: int = 1
    ttl_s: int = 86_400
    approve: bool = Field(False, description="let them in without asking a person")


class RevokeBody(_Body):
    reason: str = Field("", max_length=400)


class PeopleTokenBody(_Body):
    name: str
    role: str = "viewer"
    ttl_s: int = 90 * 86_400


class SetupBody(_Body):
    secret: str = Field(max_length=200)
    name: str


def router(access: Access) -> APIRouter:
    routes = APIRouter()
    _setup(routes, access)
    _joining(routes, access)
    _people(routes, access)

    @routes.get("/api/v1/audit")
    async def audit_rows(before: int | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """Who changed what, newest first."""
        rows = await access.db.read(lambda c: audit.rows(c, before_id=before, limit=limit))
        return {
            "audit": [
                {
                    "id": row.id,
                    "at_ms": row.at_ms,
                    "who": row.who,
                    "address": row.address or None,
                    "what": row.what,
                    "object": row.object,
                    "detail": dict(row.detail),
                }
                for row in rows
            ]
        }

    @routes.get("/api/v1/ca")
    async def farm() -> dict[str, Any]:
        """The farm's root certificate: what sentries trust."""
        authority = access.authority
        return {
            "farm_id": authority.farm_id,
            "farm": authority.farm_name,
            "roots_pem": authority.roots_pem.decode(),
            "pin": authority.pin.hex(),
            "online_until_ms": authority.until_ms,
            "root_key_here": authority.root_key_here,
        }

    return routes


def _setup(routes: APIRouter, access: Access) -> None:
    @routes.get("/setup", response_class=HTMLResponse, include_in_schema=False)
    async def setup_page() -> HTMLResponse:
        return HTMLResponse(page.HTML, headers=page.HEADERS)

    @routes.post("/api/v1/setup", status_code=201)
    async def setup(body: SetupBody, request: Request) -> dict[str, Any]:
        """Exchanges the secret of a one-time link for an administrator's token."""
        address = request.client.host if request.client else ""
        token, record = await access.people.use_setup_link(body.secret, body.name, address)
        return {**_people_json(record), "token": token}

    @routes.post("/api/v1/setup/link", status_code=201)
    async def setup_link(request: Request) -> dict[str, Any]:
        return {"link": await access.people.new_setup_link(caller_of(request))}


def _joining(routes: APIRouter, access: Access) -> None:
    @routes.get("/api/v1/sentries/tokens")
    async def join_tokens() -> dict[str, Any]:
        """Without their secrets."""
        return {"tokens": [_join_json(one) for one in await access.join_tokens()]}

    @routes.post("/api/v1/sentries/tokens", status_code=201)
    async def new_join_token(body: JoinTokenBody, request: Request) -> dict[str, Any]:
        """The token is in this answer and nowhere else."""
        token, record = await access.new_join_token(caller_of(request), body.kind, body.site, body.uses, body.ttl_s, body.approve)
        return {**_join_json(record), "token": token}

    @routes.delete("/api/v1/sentries/tokens/{token_id}", status_code=204)
    async def revoke_join_token(token_id: str, request: Request) -> None:
        await access.revoke_join_token(caller_of(request), token_id)

    @routes.get("/api/v1/sentries/pending")
    async def pending() -> dict[str, Any]:
        """Who waits for a person: compare the fingerprint with the one that the sentry shows."""
        names = {one.id: one.name for one in await access.fleet.sentries()}
        return {"pending": [_waiting_json(one, names) for one in await access.pending()]}

    @routes.post("/api/v1/sentries/{sentry}/approve")
    async def approve(sentry: str, request: Request) -> dict[str, Any]:
        return sentry_json(await access.approve(caller_of(request), sentry))

    @routes.post("/api/v1/sentries/{sentry}/revoke")
    async def revoke(sentry: str, request: Request, body: RevokeBody | None = None) -> dict[str, Any]:
        """For ever; its streams are cut within seconds."""
        return sentry_json(await access.revoke(caller_of(request), sentry, body.reason if body else ""))


def _people(routes: APIRouter, access: Access) -> None:
    @routes.get("/api/v1/me")
    async def me(request: Request) -> dict[str, Any]:
        caller = caller_of(request)
        return {"name": caller.name, "role": caller.role, "address": caller.address or None, "local": caller.local}

    @routes.get("/api/v1/tokens")
    async def tokens() -> dict[str, Any]:
        """Without their secrets."""
        return {"tokens": [_people_json(one) for one in await access.people.tokens()]}

    @routes.post("/api/v1/tokens", status_code=201)
    async def new_token(body: PeopleTokenBody, request: Request) -> dict[str, Any]:
        """The token is in this answer and nowhere else."""
        token, record = await access.people.new_token(caller_of(request), body.name, body.role, body.ttl_s)
        return {**_people_json(record), "token": token}

    @routes.delete("/api/v1/tokens/{token_id}", status_code=204)
    async def remove_token(token_id: str, request: Request) -> None:
        """It is worth nothing from now on."""
        await access.people.remove_token(caller_of(request), token_id)


def _join_json(one: JoinRecord) -> dict[str, Any]:
    return {
        "id": one.id,
        "kind": one.kind,
        "site": one.site or None,
        "uses": one.uses,
        "used": one.used,
        "approve": one.approve,
        "created_ms": one.created_ms,
        "expires_ms": one.expires_ms,
        "created_by": one.created_by,
        "revoked_ms": one.revoked_ms,
    }


def _people_json(one: PeopleToken) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "role": one.role,
        "created_ms": one.created_ms,
        "expires_ms": one.expires_ms,
        "created_by": one.created_by,
    }


def _waiting_json(one: Waiting, names: dict[str, str]) -> dict[str, Any]:
    return {
        "id": one.sentry_id,
        "name": names.get(one.sentry_id, one.sentry_id),
        "why": one.why,
        "fingerprint": one.fingerprint,
        "address": one.address or None,
        "asked_ms": one.asked_ms,
        "facts": dict(one.facts),
    }
