"""Tests of /metrics: names that Prometheus accepts, and numbers that follow what happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from commander.api.app import application
from commander.db import Database
from commander.metrics import LAG_EVERY_S, Metrics
from commander.telemetry.service import Telemetry
from garrison.clock import SystemClock
from garrison.frame import Layout, Sample, pack

LAYOUT = Layout.of([("accepted", ""), ("power_w", "")])


class _Link:
    refused = 3

    def sessions(self) -> Mapping[str, Any]:
        return {"s1": None, "s2": None}


async def _asked(metrics: Metrics, accept: str) -> httpx.Response:
    app = application([metrics.router()], "test")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://commander") as client:
        return await client.get("/metrics", headers={"accept": accept})


async def test_numbers_follow_what_happens(tmp_path: Path) -> None:
    """Frames, values, commits, refusals, sizes, log lines and lag; the same in both text formats, which both parse."""
    fleet = await Database.open(tmp_path / "fleet.db", [])
    telemetry = await Telemetry.open(tmp_path / "history", SystemClock(), commit_every_ms=5)
    metrics = Metrics(SystemClock(), telemetry, _Link(), fleet, tmp_path)
    running = asyncio.create_task(metrics.run())
    await telemetry.learn_layout("s1", LAYOUT)
    body = pack(LAYOUT, [Sample(key, 1, {("accepted", ""): 5, ("power_w", ""): 2.5}) for key in range(10)])
    for seq in (1, 2, 2):
        await telemetry.take("s1", bytes(16), seq, LAYOUT.hash, body)
    await telemetry.take("s1", bytes(16), 3, LAYOUT.hash, b"lie")
    logging.getLogger("somewhere").error("broken")
    await asyncio.sleep(LAG_EVERY_S * 1.5)
    text = await _asked(metrics, "")
    assert text.headers["content-type"].startswith("text/plain")
    found = {(s.name, *s.labels.values()): s.value for family in plain(text.text) for s in family.samples}
    assert found["garrison_sessions",] == 2
    assert found["garrison_sessions_refused_total",] == 3
    assert found["garrison_frames_total",] == 3
    assert found["garrison_samples_total",] == 20
    assert found["garrison_values_total",] == 40
    assert found["garrison_received_bytes_total",] == 2 * len(body) + 3
    assert found["garrison_frames_repeated_total",] == 1
    assert found["garrison_frames_set_aside_total",] == 1
    assert found["garrison_devices",] == 10
    assert found["garrison_commits_total", "history"] >= 3
    assert found["garrison_database_writable", "history"] == 1
    assert found["garrison_database_bytes", "fleet"] > 0
    assert found["garrison_disk_free_bytes",] > 0
    assert found["garrison_commit_wait_seconds_count",] >= 3
    assert found["garrison_loop_lag_seconds_count",] >= 1
    assert found["garrison_log_lines_total", "error"] == 1
    assert found["process_resident_memory_bytes",] > 0
    open_text = await _asked(metrics, "application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics(open_text.text)}  # type: ignore[no-untyped-call]  # theirs is untyped
    assert {"garrison_frames", "garrison_loop_lag_seconds"} <= names
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await telemetry.close()
    await fleet.close()
