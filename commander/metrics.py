"""`/metrics`: the commander about itself, for Prometheus. (The farm's machines are another matter and another path.)

Names follow Prometheus' rules: one prefix, base units, `_total` for counters. Most are read from the parts when somebody
asks; only the two histograms and the count of log lines are gathered meanwhile.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from commander.db import Database
from commander.telemetry.service import Telemetry
from garrison.clock import Clock

LAG_EVERY_S = 0.5
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Link(Protocol):
    """Who is connected, and how many were turned away since the start."""

    refused: int

    def sessions(self) -> Mapping[str, Any]: ...


class Metrics:
    """Its own registry: nothing of another library slips in."""

    def __init__(self, clock: Clock, telemetry: Telemetry, link: Link, fleet_db: Database, home: Path) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._ack = Histogram(
            "garrison_commit_wait_seconds",
            "From the arrival of the first frame of a commit until it is durable and can be acknowledged",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._lag = Histogram(
            "garrison_loop_lag_seconds", "How late the event loop wakes up", registry=self.registry, buckets=_SECONDS
        )
        self._logged = Counter("garrison_log_lines", "Log lines by level", ["level"], registry=self.registry)
        for level in ("warning", "error", "critical"):
            self._logged.labels(level)
        telemetry.on_commit(self._ack.observe)
        self.registry.register(_Parts(telemetry, link, {"fleet": fleet_db, "history": telemetry.db}, home))
        ProcessCollector(registry=self.registry)

    def router(self) -> APIRouter:
        """GET /metrics, as text or OpenMetrics, as the asker prefers."""
        routes = APIRouter()

        @routes.get("/metrics")
        async def metrics(request: Request) -> Response:
            """The commander about itself, for Prometheus."""
            encode, kind = choose_encoder(request.headers.get("accept", ""))
            return Response(encode(self.registry), media_type=None, headers={"content-type": kind})

        return routes

    async def run(self) -> None:
        """Until cancelled: measures the event loop's lag and counts log lines."""
        handler = _Counting(self._logged)
        logging.getLogger().addHandler(handler)
        try:
            while True:
                before_ms = self._clock.monotonic_ms()
                await self._clock.sleep(LAG_EVERY_S)
                self._lag.observe(max(0.0, (self._clock.monotonic_ms() - before_ms) / 1000 - LAG_EVERY_S))
        finally:
            logging.getLogger().removeHandler(handler)


class _Counting(logging.Handler):
    def __init__(self, counter: Counter) -> None:
        super().__init__(logging.WARNING)
        self._counter = counter

    def emit(self, record: logging.LogRecord) -> None:
        self._counter.labels(record.levelname.lower()).inc()


class _Parts(Collector):
    """What the parts know of themselves, read when asked."""

    def __init__(self, telemetry: Telemetry, link: Link, databases: Mapping[str, Database], home: Path) -> None:
        self._telemetry = telemetry
        self._link = link
        self._databases = databases
        self._home = home

    def collect(self) -> Iterator[Metric]:
        counts = self._telemetry.counts
        yield GaugeMetricFamily("garrison_sessions", "Sentries connected now", value=len(self._link.sessions()))
        yield CounterMetricFamily("garrison_sessions_refused", "Streams turned away", value=self._link.refused)
        yield CounterMetricFamily("garrison_frames", "Frames made durable", value=counts.frames)
        yield CounterMetricFamily("garrison_samples", "Looks at devices in them", value=counts.samples)
        yield CounterMetricFamily("garrison_values", "Values in them", value=counts.values)
        yield CounterMetricFamily("garrison_received_bytes", "Bytes of frames as received", value=counts.received_bytes)
        yield CounterMetricFamily("garrison_frames_repeated", "Frames that came again", value=counts.repeated)
        yield CounterMetricFamily("garrison_frames_set_aside", "Frames that were not what they said", value=counts.set_aside)
        yield CounterMetricFamily("garrison_frames_ahead", "Frames of a clock that is ahead", value=counts.ahead)
        yield GaugeMetricFamily("garrison_waiting_bytes", "Frames not yet on disk", value=self._telemetry.waiting_bytes)
        yield GaugeMetricFamily("garrison_devices", "Devices with latest values", value=self._telemetry.devices)
        damaged = float(self._telemetry.damaged is not None)
        yield GaugeMetricFamily("garrison_history_damaged", "1: the last check found damage", value=damaged)
        yield from self._of_databases()
        free = shutil.disk_usage(self._home).free
        yield GaugeMetricFamily("garrison_disk_free_bytes", "Free where the commander keeps its data", value=free)

    def _of_databases(self) -> Iterator[Metric]:
        size = GaugeMetricFamily("garrison_database_bytes", "Size of a database with its WAL", labels=["database"])
        commits = CounterMetricFamily("garrison_commits", "Durable commits", labels=["database"])
        failed = CounterMetricFamily("garrison_commits_failed", "Commits that the disk refused", labels=["database"])
        writable = GaugeMetricFamily("garrison_database_writable", "0: the last commit failed", labels=["database"])
        for name, db in self._databases.items():
            size.add_metric([name], sum(path.stat().st_size for path in db.path.parent.glob(f"{db.path.name}*")))
            commits.add_metric([name], db.commits)
            failed.add_metric([name], db.failed)
            writable.add_metric([name], float(db.last_error is None))
        yield from (size, commits, failed, writable)
