"""HTTP: what belongs to keeping the commander itself: backups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from commander.backup import Made
from garrison.faults import BadInput


class BackupBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    target: str


def router(backup: Callable[[Path], Awaitable[Made]]) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")

    @routes.post("/backup", status_code=201)
    async def make(body: BackupBody, request: Request) -> dict[str, Any]:
        """Writes a backup to a new file on the commander's own machine, and checks it by reading it back."""
        if not request.state.caller.local:
            # it writes where it is told, with the commander's rights
            raise BadInput("a backup is ordered on the commander's own machine", hint="`commander backup` there")
        target = Path(body.target)
        if not target.is_absolute():
            raise BadInput(f"{body.target!r} is not an absolute path")
        made = await backup(target)
        return {"path": str(made.path), "bytes": made.bytes, "files": made.files, "left_out": list(made.left_out)}

    return routes
