"""What scans found, over HTTP: listed, adopted, dismissed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from commander.fleet.api import Body, caller_of, credentials_of
from commander.fleet.found import FoundFilter, doubles_of, found_json
from commander.fleet.service import Fleet
from garrison.faults import BadInput, NotFound

MOST = 10_000


class FilterBody(Body):
    """All of these; empty: any."""

    sentry: str = ""
    make: str = ""
    range: str = ""


class AdoptBody(Body):
    """Either `devices` (address, MAC or serial each), or all that fit `filter`."""

    devices: list[str] = Field(default_factory=list, max_length=MOST)
    filter: FilterBody | None = None
    sentry: str = ""
    name: str = ""
    username: str | None = None
    password: str | None = None


class DismissBody(Body):
    devices: list[str] = Field(max_length=MOST)
    sentry: str = ""
    back: bool = False


def router(fleet: Fleet) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")

    @routes.get("/found")
    async def found(
        sentry: str = "",
        make: str = "",
        range_: Annotated[str, Query(alias="range", description="name of the range it was found in")] = "",
        dismissed: Annotated[bool, Query(description="also what was sent away")] = False,
    ) -> dict[str, Any]:
        """Devices that scans found and nobody adopted: not watched, and no orders go there."""
        return {"found": [found_json(fleet.book, one) for one in fleet.finds(FoundFilter(sentry, make, range_, dismissed))]}

    @routes.post("/found/adopt")
    async def adopt(body: AdoptBody, request: Request) -> dict[str, Any]:
        """Has them watched. Of a filter, what is there twice is left out and told; by name, what is known already is refused."""
        if bool(body.devices) == (body.filter is not None):
            raise BadInput("either devices or a filter", hint="an address, MAC or serial; or a filter, which may be empty for all")
        wanted, left_out = [(ref, body.sentry) for ref in body.devices], []
        if body.filter is not None:
            for one in fleet.finds(FoundFilter(body.filter.sentry or body.sentry, body.filter.make, body.filter.range)):
                doubles = doubles_of(fleet.book, one)
                left_out += [{"address": one.address, "why": twin.text} for twin in doubles[:1]]
                wanted += [] if doubles else [one.key[::-1]]
            if not wanted and not left_out:
                raise NotFound("nothing was found that fits", hint="`commander devices found` shows what was")
        if body.name and len(wanted) != 1:
            raise BadInput(f"one name for {len(wanted)} devices", hint="adopt that one alone")
        credentials = credentials_of(body.username, body.password)
        rows = await fleet.adopt(caller_of(request), wanted, body.name, credentials) if wanted else []
        names = {one.id: one.name for one in await fleet.sentries()}
        told = [{"id": row.id, "name": row.name, "address": row.address, "sentry": names.get(row.sentry_id)} for row in rows]
        return {"adopted": told, "left_out": left_out}

    @routes.post("/found/dismiss")
    async def dismiss(body: DismissBody, request: Request) -> dict[str, Any]:
        """Sends it away: no rule adopts it, and it is not listed. `back` undoes that."""
        records = await fleet.dismiss(caller_of(request), body.devices, body.sentry, back=body.back)
        return {"found": [found_json(fleet.book, one) for one in records]}

    return routes
