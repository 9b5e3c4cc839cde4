"""Listings that need more than one subject: devices with their latest values, and the farm in one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Query

from commander.model import DeviceRow, Sentry
from garrison.catalogue import METRICS
from garrison.clock import Clock
from garrison.frame import Number, Series
from garrison.logs import redact
from garrison.words import DeviceState

BLIND = frozenset({DeviceState.UNKNOWN, DeviceState.UNREACHABLE, DeviceState.OFF, DeviceState.REFUSED, DeviceState.SLOW})
"""States in which what was measured before says nothing about now."""


class Latest(Protocol):
    """The newest look at one device."""

    @property
    def at_ms(self) -> int: ...

    @property
    def values(self) -> Mapping[Series, Number]: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """What the listings are made of. `fresh_ms`: how old a value may be and still say something about now."""

    devices: Callable[[], Awaitable[Sequence[DeviceRow]]]
    device: Callable[[str], Awaitable[DeviceRow]]
    sentries: Callable[[], Awaitable[Sequence[Sentry]]]
    latest: Callable[[Sequence[int]], Mapping[int, Latest]]
    clock: Clock
    farm: str
    version: str
    started_ms: int
    fresh_ms: int


def router(sources: Sources) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        """The farm in one answer. Hashrates of different algorithms are never added up."""
        rows = [row for row in await _rows(sources) if row["kind"] != "relay"]
        sentries = await sources.sentries()
        now_ms = sources.clock.now_ms()
        powers = [row["power_w"] for row in rows if row["power_w"] is not None]
        temps = [row["temp_c"] for row in rows if row["temp_c"] is not None]
        return {
            "farm": sources.farm,
            "version": sources.version,
            "uptime_s": (now_ms - sources.started_ms) // 1000,
            "sentries": dict(Counter(sentry.state.value for sentry in sentries)),
            "devices": dict(Counter(row["state"] for row in rows)),
            "devices_total": len(rows),
            "simulated": sum(row["simulated"] for row in rows),
            "hashrate": _hashrates(rows),
            "power_w": sum(powers) if powers else None,
            "power_known": len(powers),
            "hottest_c": max(temps, default=None),
        }

    @routes.get("/devices")
    async def devices(
        state: DeviceState | None = None,
        kind: Annotated[Literal["rig", "asic", "relay"] | None, Query(description="left out: all but relay boards")] = None,
        tag: str | None = None,
    ) -> dict[str, Any]:
        """All devices with what they do now; what is not known is null."""
        rows = await _rows(sources)
        wanted = [
            row
            for row in rows
            if (state is None or row["state"] == state)
            and (row["kind"] == kind if kind else row["kind"] != "relay")
            and (tag is None or tag in row["tags"])
        ]
        return {"devices": wanted}

    @routes.get("/devices/{device}")
    async def device(device: str) -> dict[str, Any]:
        """One device with everything known of it."""
        row = await sources.device(device)
        names = await _sentry_names(sources)
        newest = sources.latest([row.key]).get(row.key) if row.key is not None else None
        return {
            **_row(row, newest, names, sources),
            "pools": [_pool(pool) for pool in row.pools],
            "notes": row.notes or None,
            "conditions": [{"code": c.code, "text": c.text, "severity": c.severity} for c in row.conditions],
            "missing": list(row.missing),
            "capabilities": [kind.value for kind in row.capabilities],
            "components": list(row.components),
            "facts": dict(row.facts),
            "fault": row.fault or None,
            "fault_text": row.fault_text or None,
            "sheet_id": row.sheet_id or None,
            "wanted_sheet_id": row.wanted_sheet_id or None,
            "latest_ms": None if newest is None else newest.at_ms,
            "latest": _values(newest),
        }

    return routes


async def _rows(sources: Sources) -> list[dict[str, Any]]:
    rows = await sources.devices()
    names = await _sentry_names(sources)
    latest = sources.latest([row.key for row in rows if row.key is not None])
    return [_row(row, latest.get(row.key) if row.key is not None else None, names, sources) for row in rows]


async def _sentry_names(sources: Sources) -> dict[str, str]:
    return {sentry.id: sentry.name for sentry in await sources.sentries()}


def _row(row: DeviceRow, newest: Latest | None, sentry_names: Mapping[str, str], sources: Sources) -> dict[str, Any]:
    age_ms = None if newest is None else max(0, sources.clock.now_ms() - newest.at_ms)
    speaks = newest is not None and age_ms is not None and age_ms <= sources.fresh_ms and row.state not in BLIND
    values = newest.values if newest is not None and speaks else {}
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "make": row.make or None,
        "model": row.model or None,
        "firmware": row.firmware or None,
        "state": row.state.value,
        "simulated": row.simulated,
        "address": row.address or None,
        "mac": row.mac or None,
        "serial": row.serial or None,
        "sentry": sentry_names.get(row.sentry_id, row.sentry_id),
        "hashrate_hs": values.get(("hashrate_hs", "")),
        "expected_hashrate_hs": values.get(("expected_hashrate_hs", "")),
        "algorithm": row.facts.get("algorithm"),
        "power_w": values.get(("power_w", "")),
        "temp_c": values.get(("temp_c", "")),
        "uptime_s": values.get(("uptime_s", "")),
        "age_s": None if age_ms is None else age_ms // 1000,
        "mode": row.mode or None,
        "tags": list(row.tags),
        "site": row.site or None,
        "rack": row.rack or None,
        "position": row.position or None,
        "maintenance": row.maintenance,
    }


def _hashrates(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A sum for each algorithm. Devices whose algorithm nobody said may not be alike: of several of them there is no sum."""
    found: dict[str | None, list[float]] = {}
    for row in rows:
        if row["hashrate_hs"] is not None:
            found.setdefault(row["algorithm"], []).append(row["hashrate_hs"])
    return [
        {"algorithm": algorithm, "hashrate_hs": sum(rates) if algorithm or len(rates) == 1 else None, "devices": len(rates)}
        for algorithm, rates in sorted(found.items(), key=lambda item: item[0] or "")
    ]


def _pool(pool: Any) -> dict[str, Any]:
    return {
        "url": redact(pool.url),
        "user": pool.user,
        "state": pool.state,
        "active": pool.active,
        "priority": pool.priority,
        "accepted": pool.accepted,
        "rejected": pool.rejected,
        "stale": pool.stale,
    }


def _values(newest: Latest | None) -> list[dict[str, Any]]:
    if newest is None:
        return []
    return [
        {"metric": metric, "component": component, "value": value, "unit": METRICS[metric].unit if metric in METRICS else ""}
        for (metric, component), value in newest.values.items()
    ]
