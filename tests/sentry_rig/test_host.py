"""The machine: who it is, and how it does."""

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from garrison.catalogue import METRICS
from garrison.faults import TimedOut, Unavailable
from garrison.frame import quantise
from sentry_rig import aside as aside_module
from sentry_rig import host
from sentry_rig.aside import aside


def test_the_identity_is_a_hash_and_stays(tmp_path: Path) -> None:
    """The system's own id is not given away, and two looks give one answer."""
    first, second = host.identify(tmp_path), host.identify(tmp_path)
    assert first.identity == second.identity
    assert first.identity.startswith("machine:")
    assert len(first.identity) == len("machine:") + 32
    assert first.boot == second.boot
    machine_id = Path("/etc/machine-id")
    if machine_id.exists() and machine_id.read_text().strip():
        assert machine_id.read_text().strip() not in first.identity
    assert host.machine_identity("a") != host.machine_identity("b")


def test_a_machine_without_an_id_gets_one_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container image without /etc/machine-id is still one machine across restarts, and not its twin."""
    monkeypatch.setattr(host, "_MACHINE_ID", tmp_path / "none")
    first = host.identify(tmp_path / "state").identity
    assert host.identify(tmp_path / "state").identity == first
    assert host.identify(tmp_path / "other").identity != first


def test_facts_and_values_are_of_the_catalogue() -> None:
    """Each value has a metric, is finite, and what this system does not tell is not there."""
    facts = host.facts()
    assert facts["hostname"]
    assert int(facts["memory_bytes"]) > 0
    looks = host.HostLooks()
    assert ("cpu_pct", "") not in looks.look()  # nothing to count from yet
    ends = time.monotonic() + 10
    while ("cpu_pct", "") not in (values := looks.look()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert {metric for metric, _ in values} <= METRICS.keys()
    assert all(quantise(series, value) is not None for series, value in values.items())
    assert values["memory_used_bytes", ""] < values["memory_total_bytes", ""]
    assert values["sentry_memory_bytes", ""] > 1_000_000
    assert 0 <= values["cpu_pct", ""] <= 100
    assert values["system_uptime_s", ""] > 0


@pytest.mark.parametrize(
    ("sensors", "temp_c"),
    [
        ({}, None),
        ({"nvme": [("Composite", 44.0)]}, None),
        ({"coretemp": [("Core 0", 61.0), ("Package id 0", 63.0), ("Core 1", 70.0)]}, 63.0),
        ({"k10temp": [("Tccd1", 58.0), ("Tctl", 66.5)]}, 66.5),
        ({"cpu_thermal": [("", 51.0), ("", 52.0)]}, 52.0),
        ({"k10temp": [("Tctl", 511.0)]}, None),
        ({"k10temp": [("Tctl", None)]}, None),
        ({"k10temp": [("Tctl", 0.0)]}, None),
    ],
)
def test_cpu_temperature(sensors: dict[str, list[tuple[str, float | None]]], temp_c: float | None) -> None:
    """The package where there is one, else the hottest; a broken sensor is no value."""
    table = {
        name: [SimpleNamespace(label=label, current=current) for label, current in entries] for name, entries in sensors.items()
    }
    assert host.cpu_temp_c(table) == temp_c


async def test_a_call_that_hangs_is_left_behind() -> None:
    """At its deadline, without holding the loop; when too many hang nothing more is tried; an error comes through."""
    gate = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimedOut):
        await aside("a hung disk", gate.wait, 0.1)
    assert time.monotonic() - started < 5
    assert await aside("arithmetic", lambda: 6 * 7, 5) == 42
    with pytest.raises(ZeroDivisionError):
        await aside("arithmetic", lambda: 1 // 0, 5)
    for _ in range(aside_module._MAX_LEFT_BEHIND - 1):
        with pytest.raises(TimedOut):
            await aside("a hung disk", gate.wait, 0.02)
    with pytest.raises(Unavailable):
        await aside("one more", gate.wait, 0.02)
    gate.set()
    for thread in list(aside_module._left_behind):
        await asyncio.to_thread(thread.join, 10)
    assert await aside("arithmetic", lambda: 1, 5) == 1


async def test_processor_use_is_counted_across_threads() -> None:
    """Each look has a thread of its own, and still counts from the one before."""
    looks = host.HostLooks()
    await aside("a look", looks.look, 10)
    busy_until = time.process_time() + 0.3
    while time.process_time() < busy_until:
        pass
    values = await aside("a look", looks.look, 10)
    assert values["cpu_pct", ""] > 5
