"""`/api/v1/power`: mains on, off, cycle, and what would refuse it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from commander.model import Caller, DeviceRow
from commander.power.rules import Asked
from commander.power.service import Power, Verdict
from garrison.words import ActionKind

Give = Callable[[Caller, ActionKind, Sequence[str], Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""(caller, kind, devices, arguments): gives the orders; answers as `POST /api/v1/actions` does."""


class Verb(StrEnum):
    ON = "on"
    OFF = "off"
    CYCLE = "cycle"


KINDS = {Verb.ON: ActionKind.POWER_ON, Verb.OFF: ActionKind.POWER_OFF, Verb.CYCLE: ActionKind.POWER_CYCLE}


class SwitchBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    device: Annotated[str, Field(min_length=1, max_length=200, description="id, name, MAC, serial or address")]
    off_s: Annotated[int | None, Field(description="cycle: seconds without mains, 10 to 600")] = None
    force: Annotated[bool, Field(description="overrules the farm-wide brake, and nothing else")] = False


def router(power: Power, device: Callable[[str], Awaitable[DeviceRow]], give: Give) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/power")

    @routes.get("/check")
    async def check(device_ref: Annotated[str, Query(alias="device")], kind: Verb = Verb.CYCLE, off_s: int = 0) -> dict[str, Any]:
        """What would refuse it, without doing anything."""
        row = await device(device_ref)
        return shown(row, kind, await power.judge(Asked(KINDS[kind], off_s), row))

    @routes.post("/{verb}")
    async def switch(verb: Verb, body: SwitchBody, request: Request) -> dict[str, Any]:
        """An order to the sentry at the relay; answers as `POST /api/v1/actions` does."""
        arguments: dict[str, Any] = {"force": body.force}
        if body.off_s is not None:
            arguments["off_s"] = body.off_s
        return await give(request.state.caller, KINDS[verb], [body.device], arguments)

    return routes


def shown(device: DeviceRow, verb: Verb, verdict: Verdict) -> dict[str, Any]:
    return {
        "device": device.name,
        "device_id": device.id,
        "simulated": device.simulated,
        "kind": verb.value,
        "allowed": not verdict.refusals,
        "refusals": [{"rule": one.rule, "text": one.text, "hint": one.hint, "forcible": one.forcible} for one in verdict.refusals],
        "outlets": [{"board": feed.board, "outlet": feed.outlet, "protected": feed.protected} for feed in verdict.feeds],
        "off_s": verdict.off_s or None,
        "cuts_in_24_h": len(verdict.cuts),
        "last_cut_ms": max((cut.at_ms for cut in verdict.cuts), default=None),
    }
