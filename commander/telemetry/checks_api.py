"""HTTP: verify and repair. The answer is a line of JSON for each file, as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from commander.telemetry.checks import Checks, Row


def router(checks: Checks) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")

    @routes.post("/history/verify")
    async def verify() -> StreamingResponse:
        """Reads the whole history through while work goes on. Lines of JSON: `progress` now and then, `file` for each file, at last
        `summary`; `fault` where it ends before that."""
        return StreamingResponse(_lines(checks.verify()), media_type="application/x-ndjson")

    @routes.post("/history/repair")
    async def repair() -> StreamingResponse:
        """Sets aside what does not read and keeps the rest. Lines of JSON as `verify` gives, with `repaired` for each file."""
        return StreamingResponse(_lines(checks.repair()), media_type="application/x-ndjson")

    return routes


async def _lines(rows: AsyncIterator[Row]) -> AsyncIterator[bytes]:
    async for row in rows:
        yield orjson.dumps(row) + b"\n"
