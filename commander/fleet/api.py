"""The fleet over HTTP. Devices with their latest values are listed by `commander.api.overview`; what people change is here.

`sentries/tokens` and `sentries/pending` belong to access: its router must be included before this one.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from commander.fleet.edits import DeviceChange, NewBoard, NewDevice
from commander.fleet.records import EventRecord
from commander.fleet.service import Fleet
from commander.model import BoardRow, Caller, DeviceRow, OutletRow, Sentry
from garrison.faults import BadInput, NotAllowed
from garrison.model import Credentials


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # a password must not come back in an error


class SentryChangeBody(Body):
    name: str


class NewDeviceBody(Body):
    address: str
    sentry: str
    name: str = ""
    make: str = ""
    username: str | None = None
    password: str | None = None
    http_port: int = Field(0, ge=0, le=65_535)
    expected_hashrate_hs: float | None = None
    simulated: bool = False


class DeviceChangeBody(Body):
    """Only what is given is changed; an empty site, rack or position clears it."""

    name: str | None = None
    add_tags: list[str] = Field(default_factory=list, max_length=50)
    remove_tags: list[str] = Field(default_factory=list, max_length=50)
    maintenance: bool | None = None
    address: str | None = None
    username: str | None = None
    password: str | None = None
    expected_hashrate_hs: float | None = None
    site: str | None = None
    rack: str | None = None
    position: str | None = None
    notes: str | None = None


class NewBoardBody(Body):
    name: str
    kind: str
    address: str
    sentry: str
    outlets: int = 1
    username: str | None = None
    password: str | None = None
    options: dict[str, str] = Field(default_factory=dict)
    simulated: bool = False


class OutletBody(Body):
    """`device`: id, name, MAC, serial or address; null only for an outlet that is protected."""

    device: str | int | None = None
    circuit: str = ""
    protected: bool = False


def router(fleet: Fleet) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")
    _sentries(routes, fleet)
    _devices(routes, fleet)
    _relays(routes, fleet)

    @routes.get("/events")
    async def events(
        device: str | None = None,
        sentry: str | None = None,
        kind: Annotated[list[str] | None, Query()] = None,
        since_ms: int = 0,
        before: int | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """What happened, newest first. `before`: the id of the last one of the page before."""
        device_id = (await fleet.device(device)).id if device is not None else None
        sentry_id = (await fleet.sentry(sentry)).id if sentry is not None else None
        found = await fleet.events(
            device_id=device_id, sentry_id=sentry_id, kinds=kind or [], since_ms=since_ms, before_id=before, limit=limit
        )
        return {"events": [event_json(one) for one in found]}

    return routes


def _sentries(routes: APIRouter, fleet: Fleet) -> None:
    @routes.get("/sentries")
    async def sentries() -> dict[str, Any]:
        """All of them: those that wait, and those that were revoked, too."""
        return {"sentries": [sentry_json(one) for one in await fleet.sentries()]}

    @routes.get("/sentries/{sentry}")
    async def sentry(sentry: str) -> dict[str, Any]:
        return sentry_json(await fleet.sentry(sentry))

    @routes.patch("/sentries/{sentry}")
    async def change_sentry(sentry: str, body: SentryChangeBody, request: Request) -> dict[str, Any]:
        return sentry_json(await fleet.rename_sentry(caller_of(request), sentry, body.name))


def _devices(routes: APIRouter, fleet: Fleet) -> None:
    @routes.post("/devices", status_code=201)
    async def add_device(body: NewDeviceBody, request: Request) -> dict[str, Any]:
        """Has an ASIC watched by an ASIC sentry."""
        asked = NewDevice(
            body.address,
            body.sentry,
            body.name,
            body.make,
            credentials_of(body.username, body.password),
            body.http_port,
            body.expected_hashrate_hs,
            body.simulated,
        )
        return await _device_json(fleet, await fleet.add_device(caller_of(request), asked))

    @routes.patch("/devices/{device}")
    async def change_device(device: str, body: DeviceChangeBody, request: Request) -> dict[str, Any]:
        asked = DeviceChange(
            name=body.name,
            add_tags=body.add_tags,
            remove_tags=body.remove_tags,
            maintenance=body.maintenance,
            address=body.address,
            credentials=credentials_of(body.username, body.password),
            expected_hashrate_hs=body.expected_hashrate_hs,
            site=body.site,
            rack=body.rack,
            position=body.position,
            notes=body.notes,
        )
        return await _device_json(fleet, await fleet.change_device(caller_of(request), device, asked))

    @routes.delete("/devices/{device}", status_code=204)
    async def remove_device(device: str, request: Request) -> None:
        """Stops watching it; its history stays."""
        await fleet.remove_device(caller_of(request), device)


def _relays(routes: APIRouter, fleet: Fleet) -> None:
    @routes.get("/relays")
    async def relays() -> dict[str, Any]:
        names = await _sentry_names(fleet)
        return {"relays": [_board_json(one, names) for one in await fleet.boards()]}

    @routes.post("/relays", status_code=201)
    async def add_relay(body: NewBoardBody, request: Request) -> dict[str, Any]:
        asked = NewBoard(
            body.name,
            body.kind,
            body.address,
            body.sentry,
            body.outlets,
            credentials_of(body.username, body.password),
            body.options,
            body.simulated,
        )
        return _board_json(await fleet.add_board(caller_of(request), asked), await _sentry_names(fleet))

    @routes.get("/relays/{board}")
    async def relay(board: str) -> dict[str, Any]:
        """A board with its mapped outlets."""
        row = await fleet.board(board)
        outlets = await fleet.outlets(board_id=row.id)
        mapped = [await _outlet_json(fleet, one) for one in outlets]
        return {**_board_json(row, await _sentry_names(fleet)), "options": dict(row.options), "outlets_mapped": mapped}

    @routes.delete("/relays/{board}", status_code=204)
    async def remove_relay(board: str, request: Request) -> None:
        await fleet.remove_board(caller_of(request), board)

    @routes.post("/relays/{board}/outlets/{outlet}")
    async def map_outlet(board: str, outlet: str, body: OutletBody, request: Request) -> dict[str, Any]:
        """Says what an outlet feeds. Nothing unmapped, and nothing protected, is ever switched."""
        device = None if body.device is None else str(body.device)
        row = await fleet.map_outlet(caller_of(request), board, outlet, device, body.circuit, body.protected)
        return await _outlet_json(fleet, row)

    @routes.delete("/relays/{board}/outlets/{outlet}", status_code=204)
    async def unmap_outlet(board: str, outlet: str, request: Request) -> None:
        await fleet.unmap_outlet(caller_of(request), board, outlet)


def caller_of(request: Request) -> Caller:
    """Who asks, as the gate found. The policy lets nobody through to here without one."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        raise NotAllowed("this needs a token", hint="send it as `Authorization: Bearer …`")
    return caller


def sentry_json(one: Sentry) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "kind": one.kind,
        "state": one.state.value,
        "fingerprint": one.fingerprint,
        "site": one.site or None,
        "address": one.address,
        "twin": one.twin or None,
        "software": one.software,
        "enrolled_ms": one.enrolled_ms,
        "seen_ms": one.seen_ms,
        "certificate_until_ms": one.certificate_until_ms,
        "frames_dropped": one.frames_dropped,
        "clock_skew_ms": one.clock_skew_ms,
        "capabilities": list(one.capabilities),
        "facts": dict(one.facts),
    }


def event_json(one: EventRecord) -> dict[str, Any]:
    return {
        "id": one.id,
        "at_ms": one.at_ms,
        "kind": one.kind,
        "severity": one.severity,
        "text": one.text,
        "sentry_id": one.sentry_id or None,
        "device_id": one.device_id,
        "devices": [{"id": device_id, "name": name} for device_id, name in one.devices],
        "detail": dict(one.detail),
    }


async def _device_json(fleet: Fleet, row: DeviceRow) -> dict[str, Any]:
    """What a change answers: what people decided, without values."""
    names = await _sentry_names(fleet)
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "state": row.state.value,
        "simulated": row.simulated,
        "address": row.address or None,
        "sentry": names.get(row.sentry_id, row.sentry_id),
        "tags": list(row.tags),
        "maintenance": row.maintenance,
        "site": row.site or None,
        "rack": row.rack or None,
        "position": row.position or None,
        "notes": row.notes or None,
    }


def _board_json(row: BoardRow, names: dict[str, str]) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "address": row.address,
        "sentry": names.get(row.sentry_id, row.sentry_id),
        "outlets": row.outlets,
        "simulated": row.simulated,
    }


async def _outlet_json(fleet: Fleet, row: OutletRow) -> dict[str, Any]:
    return {
        "outlet": row.outlet,
        "device_id": row.device_id,
        "device": (await fleet.device(row.device_id)).name if row.device_id is not None else None,
        "state": row.state.value,
        "power_w": row.power_w,
        "circuit": row.circuit or None,
        "protected": row.protected,
    }


async def _sentry_names(fleet: Fleet) -> dict[str, str]:
    return {one.id: one.name for one in await fleet.sentries()}


def credentials_of(username: str | None, password: str | None) -> Credentials | None:
    if username is None and password is None:
        return None
    if password is None:
        raise BadInput("a username without a password", hint='give both; an empty password is ""')
    return Credentials(username or "", password)
