"""What the tests of telemetry share: a clock, an open history, and frames of a small farm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.frame import Layout, Sample, Series, pack

settings.register_profile("garrison", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("garrison")

SERIES: tuple[Series, ...] = (("state", ""), ("look_ok", ""), ("hashrate_hs", ""), ("power_w", ""), ("accepted", ""))


class Frames:
    """Makes bodies of one layout."""

    def __init__(self, series: Iterable[Series] = SERIES) -> None:
        self.layout = Layout.of(series)

    def body(self, at_ms: int, looks: Mapping[int, Mapping[str, Any]]) -> bytes:
        """`looks`: device key to metric to value."""
        samples = [
            Sample(key, at_ms + i, {(metric, ""): value for metric, value in values.items()})
            for i, (key, values) in enumerate(looks.items())
        ]
        return pack(self.layout, samples)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000_000)


@pytest.fixture
def frames() -> Frames:
    return Frames()


@pytest.fixture
async def telemetry(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Telemetry]:
    opened = await Telemetry.open(tmp_path / "history", clock, commit_every_ms=10)
    yield opened
    await opened.close()
