"""HTTP: the history of a device, and what the history takes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from commander.telemetry.service import MOST_POINTS, POINTS, Telemetry
from garrison.clock import Clock
from garrison.faults import BadInput

_UNITS_MS = {"ms": 1, "s": 1_000, "sec": 1_000, "min": 60_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SPAN = re.compile(r"\s*(\d{1,12})\s*([a-z]+)\s*", re.IGNORECASE)
LONGEST_MS = 20 * 366 * 86_400_000


def router(telemetry: Telemetry, key_of: Callable[[str], Awaitable[int]], clock: Clock) -> APIRouter:
    """`key_of`: device key by id, name or MAC as people write it; NotFound when there is none."""
    routes = APIRouter(prefix="/api/v1")

    @routes.get("/devices/{device}/history")
    async def history(
        device: str,
        metric: str,
        component: str = "",
        since: Annotated[str, Query(description="24h, 7d, 30min, or a time such as 2026-11-20T08:00Z")] = "24h",
        until: Annotated[str | None, Query(description="as `since`; left out: now")] = None,
        step: Annotated[str | None, Query(description="one value per so much time, such as 5min; left out: every look")] = None,
        rate: Annotated[bool, Query(description="of a counter: how fast it rises, a second")] = False,
        points: Annotated[int, Query(ge=1, le=MOST_POINTS, description="at most so many; more looks become steps")] = POINTS,
    ) -> dict[str, Any]:
        """One metric over time. With `step_ms` null the points are looks: `at_ms, value` (a rate has `over_ms` too), where
        null is a look that gave no value. Else they are steps: `at_ms, count, avg, min, max, last`, null where nothing was seen."""
        now_ms = clock.now_ms()
        from_ms = time_of(since, now_ms, "since")
        to_ms = now_ms + 1 if until is None else time_of(until, now_ms, "until")
        if to_ms - from_ms > LONGEST_MS:
            raise BadInput("that is more than twenty years")
        step_ms = None if step is None else span_ms(step, "step")
        found = await telemetry.series(await key_of(device), metric, component, from_ms, to_ms, step_ms, rate=rate, limit=points)
        return {"device": device, **asdict(found)}

    @routes.get("/history/usage")
    async def usage() -> dict[str, Any]:
        """What the history takes on disk, and what it holds."""
        found = await telemetry.usage()
        return {
            **asdict(found.kept),
            "file_bytes": found.file_bytes,
            "free_bytes": found.free_bytes,
            "raw_days": found.raw_days,
            "damaged": found.damaged,
        }

    @routes.get("/history/set-aside")
    async def set_aside(limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> dict[str, Any]:
        """Frames that were not what they said, the newest first, without their bodies."""
        rows = await telemetry.set_aside(limit)
        return {
            "frames": [
                {
                    "sentry": r.sentry,
                    "boot": r.boot.hex(),
                    "seq": r.seq,
                    "received_ms": r.received_ms,
                    "code": r.code,
                    "text": r.text,
                }
                for r in rows
            ]
        }

    return routes


def time_of(text: str, now_ms: int, name: str) -> int:
    """Milliseconds UTC of "24h" (ago), or of an ISO time; one without a zone is UTC. BadInput."""
    if _SPAN.fullmatch(text):
        return now_ms - span_ms(text, name)
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise BadInput(f"`{name}`: {text!r} is neither a time nor a span", hint="24h, 7d, 30min, 2026-11-20T08:00Z") from error
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1000)


def span_ms(text: str, name: str) -> int:
    """Milliseconds of "5min", "90s", "1h". BadInput."""
    found = _SPAN.fullmatch(text)
    unit = _UNITS_MS.get(found[2].lower()) if found else None
    if found is None or unit is None or not 0 < int(found[1]) * unit <= LONGEST_MS:
        raise BadInput(f"`{name}`: {text!r} is not a span of time", hint="such as 90s, 5min, 24h, 7d")
    return int(found[1]) * unit
