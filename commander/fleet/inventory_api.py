"""The fleet as a table, over HTTP: out, and changed back in."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from commander.fleet.api import Body, caller_of
from commander.fleet.service import Fleet


class TableBody(Body):
    csv: str
    dry_run: bool = False


def router(fleet: Fleet) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")

    @routes.get("/inventory", response_class=Response)
    async def table() -> Response:
        """CSV with a line for each device. Passwords are not in it."""
        return Response(fleet.table(), media_type="text/csv; charset=utf-8")

    @routes.post("/inventory")
    async def bring_in(body: TableBody, request: Request) -> dict[str, Any]:
        """Adds and changes devices as the table says. With one mistake nothing is changed, and `applied` is false."""
        brought = await fleet.bring_in(caller_of(request), body.csv, dry_run=body.dry_run)
        return {
            "applied": not brought.mistakes and not body.dry_run,
            "added": len(brought.added),
            "changed": len(brought.changed),
            "unchanged": brought.unchanged,
            "mistakes": [{"line": one.line, "column": one.column or None, "text": one.text} for one in brought.mistakes],
        }

    return routes
