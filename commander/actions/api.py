"""`/api/v1/actions`: orders over HTTP. What other subjects order (power, flight sheets) answers in the same form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from commander.actions.service import MAX_DEVICES, Actions, Ordered
from commander.actions.store import ReportRow, Wanted
from commander.model import ActionRow, Caller
from garrison.faults import BadInput
from garrison.words import ActionKind, ActionState

Give = Callable[[Caller, ActionKind, Sequence[str], Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""(caller, kind, devices, arguments): gives the orders and answers as `POST /api/v1/actions` does."""

HIDDEN = "•••"
PLAIN_PASSWORDS = frozenset({"", "x", "X"})
"""What pools take when they ask for none: worth seeing, and no secret."""


class NewOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: ActionKind
    devices: Annotated[list[str], Field(min_length=1, max_length=MAX_DEVICES, description="id, name, MAC, serial or address")]
    arguments: Annotated[
        dict[str, Any],
        Field(
            description="locate: on; apply_flight_sheet: sheet; power_*: force; power_cycle: off_s; set_power_mode: mode; "
            "set_power_limit: limit_w; set_fan: percent, a number or auto; set_hostname: hostname"
        ),
    ] = {}
    deadline_s: Annotated[int | None, Field(description="not started after this: cancelled by itself. Default by kind")] = None


def router(actions: Actions) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/actions")

    @routes.post("")
    async def create(body: NewOrder, request: Request) -> dict[str, Any]:
        """Orders one thing of many devices. `refused` names the devices that got no order, each with its reason."""
        caller: Caller = request.state.caller
        return shown_ordered(await actions.create(caller, body.kind, body.devices, body.arguments, deadline_s=body.deadline_s))

    @routes.get("")
    async def find(
        state: Annotated[str | None, Query(description="a state, or open, or ended")] = None,
        device: str | None = None,
        kind: ActionKind | None = None,
        since_ms: Annotated[int | None, Query(ge=0)] = None,
        batch: str | None = None,
        before: Annotated[str | None, Query(description="id of the last one seen: the next page")] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> dict[str, Any]:
        """The newest orders first."""
        device_id = None if device is None else await actions.device_id(device)
        rows = await actions.find(Wanted(states_named(state), device_id, kind, since_ms, batch, before, limit))
        return {"actions": [shown(row) for row in rows]}

    @routes.get("/{action_id}")
    async def get(action_id: str) -> dict[str, Any]:
        """One order, by its id or how that ends, with what its sentry reported."""
        row = await actions.get(await actions.id_of(action_id))
        return {**shown(row), "reports": [_report(one) for one in await actions.reports(row.id)]}

    @routes.get("/{action_id}/wait")
    async def wait(action_id: str, timeout_s: Annotated[float, Query(ge=0, le=60)] = 30.0) -> dict[str, Any]:
        """The order as soon as it has ended; as it stands when that takes longer."""
        return shown(await actions.wait(await actions.id_of(action_id), timeout_s))

    @routes.post("/{action_id}/cancel")
    async def cancel(action_id: str, request: Request) -> dict[str, Any]:
        """Calls it back, if it has not started."""
        return shown(await actions.cancel(request.state.caller, await actions.id_of(action_id)))

    return routes


def giving(actions: Actions) -> Give:
    """For the routes of other subjects that give orders."""

    async def give(caller: Caller, kind: ActionKind, devices: Sequence[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
        return shown_ordered(await actions.create(caller, kind, devices, arguments))

    return give


def states_named(word: str | None) -> tuple[ActionState, ...] | None:
    """One state, or all that are "open" or "ended". BadInput."""
    if word is None:
        return None
    if word in ("open", "ended"):
        return tuple(state for state in ActionState if state.final == (word == "ended"))
    for state in ActionState:
        if state.word == word:
            return (state,)
    raise BadInput(f"no state {word!r}", hint=f"open, ended, {', '.join(state.word for state in ActionState)}")


def shown_ordered(ordered: Ordered) -> dict[str, Any]:
    return {
        "actions": [shown(row) for row in ordered.actions],
        "refused": [{"device": one.device, "code": one.code, "text": one.text, "hint": one.hint} for one in ordered.refused],
    }


def shown(row: ActionRow) -> dict[str, Any]:
    """An order as JSON. Pool passwords are hidden."""
    return {
        "id": row.id,
        "batch": row.batch,
        "kind": row.kind.value,
        "device": row.device,
        "device_id": row.device_id,
        "simulated": row.simulated,
        "sentry_id": row.sentry_id,
        "state": row.state.word,
        "final": row.state.final,
        "by_sentry": row.by_sentry,
        "cancel_asked": row.cancel_asked,
        "asked_by": row.asked_by,
        "created_ms": row.created_ms,
        "deadline_ms": row.deadline_ms,
        "updated_ms": row.updated_ms,
        "arguments": without_passwords(row.arguments),
        "fault": row.fault,
        "text": row.text,
        "result": dict(row.result),
    }


def without_passwords(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments; the passwords of a sheet's pools hidden wherever they stand in it."""
    sheet = arguments.get("sheet")
    if not isinstance(sheet, Mapping):
        return dict(arguments)
    secrets = sorted({pool["password"] for pool in sheet.get("pools", ())} - PLAIN_PASSWORDS, key=len, reverse=True)
    pools = [{**pool, "password": HIDDEN if pool["password"] in secrets else pool["password"]} for pool in sheet.get("pools", ())]
    return {**arguments, "sheet": {**sheet, "pools": pools, "arguments": [_hidden(one, secrets) for one in sheet["arguments"]]}}


def _hidden(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _report(row: ReportRow) -> dict[str, Any]:
    report = row.report
    return {
        "at_ms": report.at_ms,
        "received_ms": row.received_ms,
        "state": report.state.word,
        "fault": report.fault,
        "text": report.text,
        "detail": dict(report.detail),
    }
