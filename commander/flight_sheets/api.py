"""`/api/v1/sheets`, `/api/v1/programs`, `/api/v1/drift`: what to mine, with what, and whether it is so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from commander.flight_sheets import rules
from commander.flight_sheets.records import PoolTemplate, ProgramRow, SheetRow, Template
from commander.flight_sheets.service import FlightSheets, Standing
from commander.model import Caller, DeviceRow
from garrison.model import Sheet
from garrison.words import ActionKind

Give = Callable[[Caller, ActionKind, Sequence[str], Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""(caller, kind, devices, arguments): gives the orders; answers as `POST /api/v1/actions` does."""

Text = Annotated[str, Field(max_length=300)]


class PoolBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Text
    password: Annotated[Text | None, Field(description="left out: x, or on a change the one there was")] = None
    user: Annotated[Text, Field(description="template; empty: the sheet's")] = ""


class SheetBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text
    coin: Text
    algorithm: Text
    pools: Annotated[list[PoolBody], Field(max_length=100)]
    wallet: Text
    worker: Annotated[Text, Field(description="template; may hold {device} {coin} {algorithm}")] = "{device}"
    user: Annotated[Text, Field(description="template; also {wallet} {worker}")] = "{wallet}.{worker}"
    program: Text = ""
    version: Annotated[Text, Field(description="left out: the one added last")] = ""
    arguments: Annotated[
        list[Annotated[str, Field(max_length=rules.MAX_ARGUMENT)]],
        Field(max_length=rules.MAX_ARGUMENTS, description="templates, one argument each; never a shell line"),
    ] = []
    verify_within_s: int = 300

    def template(self) -> Template:
        return Template(
            name=self.name,
            coin=self.coin,
            algorithm=self.algorithm,
            pools=tuple(PoolTemplate(pool.url, pool.password, pool.user) for pool in self.pools),
            wallet=self.wallet,
            worker=self.worker,
            user=self.user,
            program=self.program,
            version=self.version,
            arguments=tuple(self.arguments),
            verify_within_s=self.verify_within_s,
        )


class ProgramBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text
    version: Text
    location: Annotated[str, Field(max_length=2_000)]
    sha256: Text
    executable: Text = ""
    simulated: bool = False


class ApplyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    devices: Annotated[list[str], Field(min_length=1, max_length=10_000)]


def router(sheets: FlightSheets, device: Callable[[str], Awaitable[DeviceRow]], give: Give) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")

    @routes.get("/sheets")
    async def find() -> dict[str, Any]:
        """All sheets, by name."""
        return {"sheets": [shown(row) for row in await sheets.sheets()]}

    @routes.post("/sheets")
    async def create(body: SheetBody, request: Request) -> dict[str, Any]:
        """A new sheet. An unknown placeholder is refused with those there are."""
        return shown(await sheets.create(request.state.caller, body.template()))

    @routes.get("/sheets/{sheet}")
    async def get(
        sheet: str,
        for_device: Annotated[str | None, Query(alias="device", description="also rendered for this device")] = None,
    ) -> dict[str, Any]:
        """The template, what comes of it for a device, and which devices should run it."""
        row = await sheets.find(sheet)
        answer = shown(row)
        if for_device is not None:
            answer["rendered"] = shown_rendered(await sheets.render(str(row.id), await device(for_device)))
        answer["devices"] = [shown_standing(one) for one in await sheets.standings(row.id)]
        return answer

    @routes.put("/sheets/{sheet}")
    async def change(sheet: str, body: SheetBody, request: Request) -> dict[str, Any]:
        """A new revision; devices run it when it is applied again."""
        return shown(await sheets.change(request.state.caller, sheet, body.template()))

    @routes.delete("/sheets/{sheet}")
    async def remove(sheet: str, request: Request) -> dict[str, Any]:
        """Refused while a device runs it, or should."""
        return shown(await sheets.remove(request.state.caller, sheet))

    @routes.post("/sheets/{sheet}/apply")
    async def apply(sheet: str, body: ApplyBody, request: Request) -> dict[str, Any]:
        """One order a device; answers as `POST /api/v1/actions` does."""
        row = await sheets.find(sheet)
        return await give(request.state.caller, ActionKind.APPLY_FLIGHT_SHEET, body.devices, {"sheet": str(row.id)})

    @routes.get("/drift")
    async def drift(
        everything: Annotated[bool, Query(alias="all", description="also devices that run what they should")] = False,
    ) -> dict[str, Any]:
        """Devices that do not run what was last applied to them."""
        found = await sheets.standings()
        return {"devices": [shown_standing(one) for one in found if everything or one.drift is not None]}

    @routes.get("/programs")
    async def programs() -> dict[str, Any]:
        """All pinned programs."""
        return {"programs": [msgspec.to_builtins(row) for row in await sheets.programs()]}

    @routes.post("/programs")
    async def add_program(body: ProgramBody, request: Request) -> dict[str, Any]:
        """Pins a program. What a version means never changes."""
        program = ProgramRow(body.name, body.version, body.location, body.sha256, body.executable, body.simulated)
        added: dict[str, Any] = msgspec.to_builtins(await sheets.add_program(request.state.caller, program))
        return added

    @routes.delete("/programs/{program}/{version}")
    async def remove_program(program: str, version: str, request: Request) -> dict[str, Any]:
        """Refused while a sheet names it."""
        await sheets.remove_program(request.state.caller, program, version)
        return {"name": program, "version": version}

    return routes


def shown(row: SheetRow) -> dict[str, Any]:
    """The template as JSON; passwords that are secrets are hidden."""
    template = row.template
    passwords = [pool.password for pool in template.pools]
    return {
        "id": row.id,
        "revision": row.revision,
        "running_id": row.running_id,
        "name": template.name,
        "coin": template.coin,
        "algorithm": template.algorithm,
        "pools": [
            {
                "url": pool.url,
                "user": pool.user or template.user,
                "password": rules.hidden_password(pool.password or ""),
            }
            for pool in template.pools
        ],
        "wallet": template.wallet,
        "worker": template.worker,
        "user": template.user,
        "program": template.program or None,
        "version": template.version or None,
        "arguments": [rules.without(passwords, one) for one in template.arguments],
        "verify_within_s": template.verify_within_s,
        "created_ms": row.created_ms,
        "changed_ms": row.changed_ms,
        "changed_by": row.changed_by,
    }


def shown_rendered(sheet: Sheet) -> dict[str, Any]:
    rendered: dict[str, Any] = msgspec.to_builtins(rules.hidden(sheet))
    return rendered


def shown_standing(one: Standing) -> dict[str, Any]:
    return {
        "device": one.device.name,
        "device_id": one.device.id,
        "simulated": one.device.simulated,
        "state": one.device.state.value,
        "wanted": one.wanted.running_id,
        "wanted_name": one.wanted.rendered.name,
        "since_ms": one.wanted.at_ms,
        "action": one.wanted.action_id,
        "running": one.device.sheet_id or None,
        "drift": one.drift.kind if one.drift else None,
        "text": one.drift.text if one.drift else "",
    }
