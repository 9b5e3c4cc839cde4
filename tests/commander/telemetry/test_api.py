"""Tests of the HTTP side of the history, through the real application."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from commander.api.app import application
from commander.telemetry.api import router, span_ms, time_of
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.faults import BadInput, NotFound

BOOT = bytes(16)
NOW = 1_800_000_000_000


@pytest.fixture
async def client(telemetry: Telemetry, frames: Any, clock: ManualClock) -> Any:
    async def key_of(device: str) -> int:
        if device != "7":
            raise NotFound(f"no device {device}")
        return 77

    await telemetry.learn_layout("s1", frames.layout)
    for i in range(10):
        body = frames.body(clock.now_ms(), {77: {"hashrate_hs": 100 + i, "accepted": 10 * i} if i != 5 else {"look_ok": 0}})
        await telemetry.take("s1", BOOT, i + 1, frames.layout.hash, body)
        clock.advance(10)
    app = application([router(telemetry, key_of, clock)], "test")
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
    rated = (await client.get("/devices/7/history", params={"metric": "accepted", "since": "1h", "rate": "true"})).json()
    assert [point["value"] for point in rated["points"]] == [None, 1, 1, 1, 1, None, 1, 1, 1, 1]


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
