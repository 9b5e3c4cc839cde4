"""HTTP: latest values, the history of devices and groups, and what the history takes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response

from commander.telemetry import latest_shown, series, usage
from commander.telemetry.members import KINDS
from commander.telemetry.retention import Spans
from commander.telemetry.rollup import ENERGY
from commander.telemetry.service import MOST_POINTS, POINTS, Telemetry
from commander.telemetry.shares import LINES
from commander.telemetry.table import Array
from garrison.clock import Clock
from garrison.faults import BadInput
from garrison.frame import Series

T = TypeVar("T")
_UNITS_MS = {"ms": 1, "s": 1_000, "sec": 1_000, "min": 60_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SPAN = re.compile(r"\s*(\d{1,12})\s*([a-z]+)\s*", re.IGNORECASE)
LONGEST_MS = 20 * 366 * 86_400_000
_AT_ONCE = 200_000
"""Values written as JSON on the event loop: some two milliseconds."""

_AT_EASE_S = 0.05
"""An answer that comes sooner is not worth watching for a hang-up."""

Since = Annotated[str, Query(description="24h, 7d, 30min, or a time such as 2026-11-20T08:00Z")]
Until = Annotated[str | None, Query(description="as `since`; left out: now")]
Step = Annotated[str | None, Query(description="one value per so much time, such as 5min; left out: chosen")]
Points = Annotated[int, Query(ge=1, le=MOST_POINTS, description="at most so many; more looks become steps")]

Named = Mapping[int, tuple[int, str]]
"""Device key to its id and name."""


def router(
    telemetry: Telemetry,
    key_of: Callable[[str], Awaitable[int]],
    clock: Clock,
    named: Callable[[Mapping[str, str]], Named],
) -> APIRouter:
    """`key_of`: device key by id, name or MAC as people write it; NotFound when there is none. `named`: the devices of the fleet
    that fit
    `sentry`, `kind`, `tag` and `text`, as far as they are given."""
    routes = APIRouter(prefix="/api/v1")

    def times(since: str, until: str | None) -> tuple[int, int]:
        now_ms = clock.now_ms()
        from_ms = time_of(since, now_ms, "since")
        to_ms = now_ms + 1 if until is None else time_of(until, now_ms, "until")
        if to_ms - from_ms > LONGEST_MS:
            raise BadInput("that is more than twenty years")
        return from_ms, to_ms

    @routes.get("/devices/{device}/history")
    async def history(
        request: Request,
        device: str,
        metric: str,
        component: str = "",
        since: Since = "24h",
        until: Until = None,
        step: Annotated[str | None, Query(description="one value per so much time, such as 5min; left out: every look")] = None,
        rate: Annotated[bool, Query(description="of a counter: how fast it rises, a second")] = False,
        points: Points = POINTS,
    ) -> Response:
        """One metric over time. With `step_ms` null the points are looks: `at_ms, value` (a rate has `over_ms` too), where
        null is a look that gave no value. Else they are steps: `at_ms, count, avg, min, max, last`, null where nothing was seen or
        the level does not keep it. `coverage`: for how much of the time there is a value; `looks_coverage`: a look."""
        from_ms, to_ms = times(since, until)
        key = await key_of(device)
        asked = telemetry.chart(key, {(metric, component)}, from_ms, to_ms, step_of(step), rate=rate, limit=points)
        found = await while_asked(request, asked)
        line = found.lines[0]
        names = ("value", "over_ms") if found.step_ms is None else ("count", "avg", "min", "max", "last", "rise")
        columns = {name: _listed(line.stats[name]) for name in names if name in line.stats}
        if found.step_ms is not None:
            nothing = [None] * len(found.at_ms)
            columns = {name: columns.get(name, nothing) for name in ("count", "avg", "min", "max", "last")} | columns
        rows = zip(*columns.values(), strict=True)
        shown = [
            {"at_ms": at_ms, **dict(zip(columns, row, strict=True))} for at_ms, row in zip(found.at_ms.tolist(), rows, strict=True)
        ]
        told = {name: getattr(line, name) for name in ("metric", "component", "unit", "kind")}
        coverage = {"coverage": line.coverage, "looks_coverage": found.coverage}
        return _json({"device": device, **told, **_frame(found), **coverage, "points": shown})

    @routes.get("/devices/{device}/series")
    async def several(
        request: Request,
        device: str,
        metrics: Annotated[str, Query(description="`all`, or names with commas; of a part: hashrate_hs:board:1")] = "all",
        since: Since = "24h",
        until: Until = None,
        step: Annotated[str | None, Query(description="such as 5min; `raw`: every look; left out: chosen")] = None,
        rate: Annotated[bool, Query(description="how fast counters rise, a second; only counters may be asked for")] = False,
        points: Points = POINTS,
    ) -> Response:
        """Several metrics over time, as columns. With `step_ms` null each series has `values`, one a look (null: it gave none).
        Else
        it has `count` and, as far as the level keeps them, `avg, min, max, last, rise`, one a step."""
        from_ms, to_ms = times(since, until)
        key = await key_of(device)
        asked = telemetry.chart(key, series_of(metrics), from_ms, to_ms, step_of(step), rate=rate, limit=points)
        found = await while_asked(request, asked)
        lines = []
        for line in found.lines:
            told = {name: getattr(line, name) for name in ("metric", "component", "unit", "kind", "coverage")}
            lines.append(told | {"values" if stat == "value" else stat: values for stat, values in line.stats.items()})
        told = {"device": device, **_frame(found), "coverage": found.coverage, "at_ms": found.at_ms, "series": lines}
        return await _in_thread(lambda: _json(told)) if len(found.at_ms) * len(lines) > _AT_ONCE else _json(told)

    @routes.get("/devices/{device}/energy")
    async def energy(request: Request, device: str, since: Since = "24h", until: Until = None) -> dict[str, Any]:
        """What a device used, in kWh: measured by an outlet's meter, reported by the miner, or estimated."""
        from_ms, to_ms = times(since, until)
        found = await while_asked(request, telemetry.energy(await key_of(device), from_ms, to_ms))
        return {"device": device, "from_ms": from_ms, "to_ms": to_ms, "kwh": found.kwh, **asdict(found)}

    @routes.get("/history/aggregate")
    async def aggregate(
        request: Request,
        by: Annotated[str, Query(description=", ".join(KINDS))] = "farm",
        metric: str = "hashrate_hs",
        fn: Annotated[str, Query(description="sum, avg, min, max, devices; of counters rate")] = "sum",
        since: Since = "24h",
        until: Until = None,
        step: Step = None,
        points: Points = POINTS,
        name: Annotated[list[str] | None, Query(description="only these groups")] = None,
    ) -> Response:
        """Totals of groups over time: for each group `values` (null: no device gave one), `coverage` (how much of the group's
        devices
        and time), `devices` that gave a value, and `members`."""
        from_ms, to_ms = times(since, until)
        asked = telemetry.aggregate(by, metric, fn, from_ms, to_ms, step_of(step), names=name, limit=points)
        found = await while_asked(request, asked)
        groups = [
            {"name": g.name, "values": g.values, "coverage": np.round(g.coverage, 4), "devices": g.devices, "members": g.members}
            for g in found.groups
        ]
        told = {name: getattr(found, name) for name in ("by", "metric", "fn", "unit", "from_ms", "to_ms", "step_ms", "coverage")}
        return _json({**told, "level": found.level, "unreadable": found.unreadable, "at_ms": found.at_ms, "groups": groups})

    @routes.get("/history/energy")
    async def energies(
        request: Request,
        by: Annotated[str, Query(description=", ".join(KINDS))] = "farm",
        since: Since = "24h",
        until: Until = None,
    ) -> dict[str, Any]:
        """What groups used, in kWh, by where the power is known from. `coverage`: of the group's devices and time; what is not
        sealed yet, the last quarter of an hour, is not in it."""
        from_ms, to_ms = times(since, until)
        groups: dict[str, dict[str, float]] = {}
        level, unreadable = "", 0
        covered: dict[str, float] = {}
        for stat in ENERGY:
            found = await while_asked(request, telemetry.aggregate(by, f"power_w {stat}", "sum", from_ms, to_ms))
            level, unreadable = found.level, max(unreadable, found.unreadable)
            for group in found.groups:
                known = groups.setdefault(group.name, {})
                known[stat.replace("_j", "_kwh")] = float(np.nansum(group.values)) / 3.6e6
                covered[group.name] = covered.get(group.name, 0.0) + float(group.coverage.mean())
        shown = [
            {"name": name, "kwh": sum(parts.values()), **parts, "coverage": round(min(1.0, covered[name]), 4)}
            for name, parts in sorted(groups.items())
        ]
        return {"by": by, "from_ms": from_ms, "to_ms": to_ms, "level": level, "unreadable": unreadable, "groups": shown}

    @routes.get("/latest")
    async def latest(
        metrics: Annotated[str, Query(description="`all`, or names with commas")] = "all",
        sentry: str = "",
        kind: str = "",
        tag: str = "",
        text: Annotated[str, Query(description="anywhere in name, address, MAC, serial or identity")] = "",
    ) -> Response:
        """The newest look at each device, as columns: one block for all devices that are read alike. null: the look did not give
        it."""
        chosen = named({"sentry": sentry, "kind": kind, "tag": tag, "text": text})
        names = None if metrics.strip() == "all" else {one.strip() for one in metrics.split(",")}
        looks, now_ms = latest_shown.looks(telemetry, chosen, names), clock.now_ms()
        return await _in_thread(lambda: _json({"at_ms": now_ms, "blocks": latest_shown.blocks(looks, chosen)}))

    @routes.get("/top")
    async def top(
        metric: str,
        n: Annotated[int, Query(ge=1, le=1_000)] = 10,
        order: Annotated[str, Query(description="desc: the highest first; asc: the lowest")] = "desc",
        sentry: str = "",
        kind: str = "",
        tag: str = "",
        text: str = "",
    ) -> Response:
        """The devices with the highest values now, each with the component that has it."""
        if order not in ("asc", "desc"):
            raise BadInput(f"`order`: {order!r} is neither asc nor desc")
        chosen = named({"sentry": sentry, "kind": kind, "tag": tag, "text": text})
        return _json({"metric": metric, "devices": latest_shown.top(telemetry, chosen, metric, n, highest=order == "desc")})

    @routes.get("/history/usage")
    async def used() -> dict[str, Any]:
        """What the history takes on disk, and what it holds."""
        found = await telemetry.usage()
        levels = {level.value: asdict(one) for level, one in found.levels.items()}
        sizes = {"hot_bytes": found.hot_bytes, "file_bytes": found.file_bytes, "free_bytes": found.free_bytes}
        return {**asdict(found.kept), **sizes, "levels": levels, "raw_days": telemetry.spans.raw_days, "damaged": found.damaged}

    @routes.get("/history/plan")
    async def planned(
        devices: Annotated[int, Query(ge=1, le=1_000_000)],
        every: Annotated[str, Query(description="how often each is read, such as 10s")] = "10s",
        metrics: Annotated[int, Query(ge=1, le=2_000, description="of one device, with its parts")] = 40,
        groups: Annotated[int, Query(ge=1, le=1_000_000, description="sites, racks, models, coins and tags together")] = 50,
        raw_days: Annotated[int | None, Query(ge=1, le=3_650)] = None,
        five_minute_days: Annotated[int | None, Query(ge=1, le=3_650)] = None,
        hour_days: Annotated[int | None, Query(ge=1, le=36_500)] = None,
    ) -> dict[str, Any]:
        """The disk that a farm will need, once each span is full. Spans left out: as set."""
        now = telemetry.spans
        spans = Spans(raw_days or now.raw_days, five_minute_days or now.five_minute_days, hour_days or now.hour_days)
        found = usage.plan(devices, span_ms(every, "every") / 1000, metrics, groups, len(LINES), spans)
        return {"bytes": found.bytes, **asdict(found), **asdict(spans), "devices": devices, "metrics": metrics, "groups": groups}

    @routes.post("/history/tidy")
    async def tidy() -> dict[str, Any]:
        """Seals, merges and removes now what is due; otherwise it happens by itself."""
        return asdict(await telemetry.tidy())

    @routes.get("/history/set-aside")
    async def set_aside(limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> dict[str, Any]:
        """Frames that were not what they said, and what was on disk and does not read any more; the newest first, without
        bodies."""
        frames = [
            {"sentry": r.sentry, "boot": r.boot.hex(), "seq": r.seq, "received_ms": r.received_ms, "code": r.code, "text": r.text}
            for r in await telemetry.set_aside(limit)
        ]
        blocks = [
            {"found_ms": d.found_ms, "file": d.file, "what": d.what, "at_ms": d.at_ms, "text": d.text}
            for d in await telemetry.set_aside_blocks(limit)
        ]
        return {"frames": frames, "blocks": blocks}

    return routes


async def while_asked(request: Request, answer: Awaitable[T]) -> T:
    """The answer; given up when whoever asked has hung up, which is looked at when it takes longer."""
    work = asyncio.ensure_future(answer)
    watching: set[asyncio.Future[Any]] = set()
    try:
        done, _ = await asyncio.wait({work}, timeout=_AT_EASE_S)
        if not done:
            watching.add(asyncio.ensure_future(_hung_up(request)))
            await asyncio.wait({work, *watching}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        return await work
    finally:
        for one in (work, *watching):
            one.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _frame(found: series.Answer) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("rate", "from_ms", "to_ms", "step_ms", "level", "unreadable")}


async def _in_thread(work: Callable[[], Response]) -> Response:
    """What takes more than some milliseconds does not hold the event loop."""
    return await asyncio.to_thread(work)


def _json(content: Any) -> Response:
    """orjson writes arrays of numbers at some 10 ns each; NaN is null."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _listed(values: Array) -> list[Any]:
    if isinstance(values, list):
        return values
    if values.dtype == np.float64:
        return [None if value != value else value for value in values.tolist()]
    return list(values.tolist())


def series_of(text: str) -> frozenset[Series] | None:
    """ "power_w,hashrate_hs:board:1"; None for "all"."""
    if text.strip() == "all":
        return None
    parts = (one.strip().partition(":") for one in text.split(","))
    return frozenset((metric, component) for metric, _, component in parts)


def step_of(text: str | None) -> int | None:
    if text is None:
        return None
    return series.RAW if text.strip().lower() == "raw" else span_ms(text, "step")


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
