"""Tests of the HTTP side of the history, through the real application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import Request

from commander.api.app import application
from commander.telemetry.api import router, span_ms, time_of, while_asked
from commander.telemetry.members import FARM
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.faults import BadInput, NotFound
from garrison.frame import Layout, Sample, pack

BOOT = bytes(16)
NOW = 1_800_000_000_000


def ISO(at_ms: int) -> str:  # noqa: N802  # reads as what it gives
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


@pytest.fixture
async def client(telemetry: Telemetry, frames: Any, clock: ManualClock) -> Any:
    async def key_of(device: str) -> int:
        if device != "7":
            raise NotFound(f"no device {device}")
        return 77

    async def groups() -> AsyncIterator[tuple[int, tuple[tuple[str, str], ...]]]:
        yield 77, (FARM, ("rack", "A/1"))

    telemetry.follow(groups)
    await telemetry.tidy()
    await telemetry.learn_layout("s1", frames.layout)
    for i in range(10):
        body = frames.body(clock.now_ms(), {77: {"hashrate_hs": 100 + i, "accepted": 10 * i} if i != 5 else {"look_ok": 0}})
        await telemetry.take("s1", BOOT, i + 1, frames.layout.hash, body)
        clock.advance(10)
    app = application([router(telemetry, key_of, clock, lambda _: {77: (7, "seven")})], "test")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://commander/api/v1") as http:
        yield http


async def test_history_of_a_device(client: httpx.AsyncClient) -> None:
    """Looks as they were, null where a look gave nothing; and steps, rates, an end."""
    found = (await client.get("/devices/7/history", params={"metric": "hashrate_hs", "since": "1h"})).json()
    assert found["step_ms"] is None
    assert [point["value"] for point in found["points"]] == [100, 101, 102, 103, 104, None, 106, 107, 108, 109]
    assert found["points"][0]["at_ms"] == NOW
    assert (found["unit"], found["level"]) == ("H/s", "raw")
    asked = {"metric": "hashrate_hs", "since": "2min", "step": "50s", "until": "5s"}
    stepped = (await client.get("/devices/7/history", params=asked)).json()
    assert stepped["step_ms"] == 50_000
    assert [point["count"] for point in stepped["points"]] == [0, 5, 4]
    assert stepped["points"][0]["avg"] is None
    assert 0 < stepped["coverage"] < 1
    rated = (await client.get("/devices/7/history", params={"metric": "accepted", "since": "1h", "rate": "true"})).json()
    assert [point["value"] for point in rated["points"]] == [None, 1, 1, 1, 1, None, 1, 1, 1, 1]


async def test_several_metrics_as_columns(client: httpx.AsyncClient) -> None:
    """All series of a device at once; some of them; a part that is not there; steps by name; coverage of each."""
    found = (await client.get("/devices/7/series", params={"since": "1h"})).json()
    by_name = {line["metric"]: line for line in found["series"]}
    assert by_name["hashrate_hs"]["values"] == [100, 101, 102, 103, 104, None, 106, 107, 108, 109]
    assert by_name["look_ok"]["values"] == [None] * 5 + [0] + [None] * 4
    assert by_name["hashrate_hs"]["coverage"] < found["coverage"]
    asked = {"metrics": "accepted, hashrate_hs:board:1", "since": "1h", "step": "5min"}
    some = (await client.get("/devices/7/series", params=asked)).json()
    assert [(line["metric"], line["component"]) for line in some["series"]] == [("hashrate_hs", "board:1"), ("accepted", "")]
    assert sum(rise or 0 for rise in some["series"][1]["rise"]) == 90
    assert (some["level"], some["step_ms"]) == ("5min", 300_000)
    every = (await client.get("/devices/7/series", params={"since": "1h", "step": "raw", "points": 1})).json()
    assert (every["step_ms"], len(every["at_ms"])) == (None, 10)


async def test_latest_and_top(client: httpx.AsyncClient) -> None:
    """Columns of all devices that the fleet knows; the highest and the lowest of them."""
    found = (await client.get("/latest")).json()
    (block,) = found["blocks"]
    told = {column["metric"]: values for column, values in zip(block["columns"], block["values"], strict=True)}
    assert (block["devices"], block["names"], told["hashrate_hs"]) == ([7], ["seven"], [109])
    (block,) = (await client.get("/latest", params={"metrics": "accepted"})).json()["blocks"]
    assert [column["metric"] for column in block["columns"]] == ["accepted"]
    top = (await client.get("/top", params={"metric": "hashrate_hs"})).json()["devices"]
    assert top == [{"device": "seven", "id": 7, "component": "", "value": 109.0, "at_ms": NOW + 90_000}]
    assert (await client.get("/top", params={"metric": "temp_c"})).json()["devices"] == []


async def test_aggregate_and_energy(client: httpx.AsyncClient, telemetry: Telemetry, clock: ManualClock) -> None:
    """The farm's total with its coverage, alike before sealing and after; kWh by source, of a device and of the farm."""
    layout = Layout.of([("power_w", ""), ("power_source", "")])
    await telemetry.learn_layout("s1", layout)
    clock.advance(300 - clock.now_ms() // 1_000 % 300)
    begun_ms = clock.now_ms()
    for i in range(60):
        values = {("power_w", ""): 3_600.0, ("power_source", ""): 1 if i < 30 else 2}
        await telemetry.take("s1", BOOT, 100 + i, layout.hash, pack(layout, [Sample(77, begun_ms + i * 10_000, values)]))
        clock.advance(10)
    asked = {"metric": "power_w", "since": ISO(begun_ms), "until": ISO(begun_ms + 600_000), "step": "5min"}
    for _ in range(2):
        found = (await client.get("/history/aggregate", params=asked)).json()
        (group,) = found["groups"]
        assert (group["name"], group["values"], group["members"]) == ("", [3_600.0, 3_600.0], [1, 1])
        assert min(group["coverage"]) > 0.9
        used = (await client.get("/devices/7/energy", params={"since": ISO(begun_ms), "until": ISO(begun_ms + 600_000)})).json()
        assert (used["kwh"], used["measured_kwh"], used["reported_kwh"], used["coverage"]) == (0.6, 0.3, 0.3, 1.0)
        clock.advance(1_200)
        await telemetry.tidy()
    energy = (await client.get("/history/energy", params={"since": ISO(begun_ms), "until": ISO(begun_ms + 600_000)})).json()
    (group,) = energy["groups"]
    assert (round(group["measured_kwh"], 3), round(group["reported_kwh"], 3), group["estimated_kwh"]) == (0.3, 0.3, 0.0)


async def test_whoever_hangs_up_ends_the_work(telemetry: Telemetry, clock: ManualClock, frames: Any) -> None:
    """A question whose asker is gone is given up: the thread that reads for it is told to stop."""
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    messages: list[dict[str, Any]] = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    with pytest.raises(asyncio.CancelledError):
        await while_asked(Request({"type": "http", "headers": []}, receive), long())
    assert ended.is_set()


async def test_plan(client: httpx.AsyncClient) -> None:
    """What a farm will need is told before it is chosen, and grows with what is asked for."""
    small = (await client.get("/history/plan", params={"devices": 1_000, "every": "30s"})).json()
    large = (await client.get("/history/plan", params={"devices": 10_000, "every": "10s", "raw_days": 60})).json()
    assert small["bytes"] == sum(small[f"{part}_bytes"] for part in ("raw", "hot", "five_minute", "hour", "totals"))
    assert large["raw_bytes"] > 30 * small["raw_bytes"] * 60 / 37
    assert (large["raw_days"], small["raw_days"]) == (60, 30)


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("/devices/8/history", {"metric": "power_w"}, 404),
        ("/devices/7/history", {}, 400),
        ("/devices/7/history", {"metric": "x"}, 400),
        ("/devices/7/history", {"metric": "power_w", "since": "yesterday"}, 400),
        ("/devices/7/history", {"metric": "power_w", "since": "2000w"}, 400),
        ("/devices/7/history", {"metric": "power_w", "since": "99999999999999999w"}, 400),
        ("/devices/7/history", {"metric": "power_w", "since": "1900-01-01"}, 400),
        ("/devices/7/history", {"metric": "power_w", "since": "1h", "until": "2h"}, 400),
        ("/devices/7/history", {"metric": "power_w", "step": "0s"}, 400),
        ("/devices/7/history", {"metric": "power_w", "step": "1s"}, 400),
        ("/devices/7/history", {"metric": "power_w", "points": 10**9}, 400),
        ("/devices/8/series", {}, 404),
        ("/devices/7/series", {"metrics": "power_w,x"}, 400),
        ("/devices/7/series", {"metrics": "power_w", "rate": "true"}, 400),
        ("/devices/8/energy", {}, 404),
        ("/history/aggregate", {"by": "planet"}, 400),
        ("/history/aggregate", {"metric": "uptime_s"}, 400),
        ("/history/aggregate", {"fn": "median"}, 400),
        ("/history/aggregate", {"fn": "rate"}, 400),
        ("/history/aggregate", {"since": "2y"}, 400),
        ("/latest", {"metrics": "x"}, 400),
        ("/top", {"metric": "x"}, 400),
        ("/top", {"metric": "temp_c", "order": "up"}, 400),
        ("/top", {"metric": "temp_c", "n": 0}, 400),
        ("/history/plan", {"devices": 0}, 400),
        ("/history/plan", {"devices": 5, "every": "often"}, 400),
    ],
)
async def test_refused(client: httpx.AsyncClient, path: str, params: dict[str, Any], status: int) -> None:
    """Each bad question gets its status and words of ours."""
    answer = await client.get(path, params=params)
    assert answer.status_code == status
    assert answer.json()["text"]


async def test_usage_and_set_aside(client: httpx.AsyncClient, telemetry: Telemetry) -> None:
    """What is kept and what it takes; and what was set aside, without its body."""
    await telemetry.take("s1", BOOT, 11, bytes(16), b"nonsense")
    usage = (await client.get("/history/usage")).json()
    assert (usage["frames"], usage["devices"], usage["set_aside"], usage["damaged"]) == (10, 1, 1, None)
    assert usage["file_bytes"] > 0
    aside = (await client.get("/history/set-aside")).json()["frames"]
    assert [(frame["sentry"], frame["seq"], frame["code"]) for frame in aside] == [("s1", 11, "bad_frame")]


def test_times_as_people_write_them() -> None:
    """Spans back from now, and ISO times; without a zone UTC is meant."""
    assert time_of("24h", NOW, "since") == NOW - 86_400_000
    assert time_of(" 30 min ", NOW, "since") == NOW - 1_800_000
    assert time_of("2027-01-15T08:00:00Z", 0, "since") == NOW
    assert time_of("2027-01-15T08:00", 0, "since") == NOW
    assert time_of("2027-01-15T10:00+02:00", 0, "since") == NOW
    assert time_of("2027-01-15", 0, "since") == NOW - 8 * 3_600_000
    assert span_ms("5MIN", "step") == 300_000
    for wrong in ("", "h", "5", "5 parsecs", "-5h", "1e9h"):
        with pytest.raises(BadInput):
            span_ms(wrong, "step")
