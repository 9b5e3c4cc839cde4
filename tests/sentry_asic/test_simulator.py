"""The simulated Antminers as processes of their own, as `make demo` and the end-to-end tests run them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sentry_asic.probe import probe
from sentry_core.http import HttpClient

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def running(module: str, *arguments: str) -> AsyncIterator[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.simulators.{module}", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, limit=1 << 22
    )
    assert process.stdout is not None
    try:
        yield json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0, "it ends cleanly when told to"


async def state_of(device: dict[str, Any]) -> str:
    found = await probe(f"{device['host']}:{device['api_port']}", http_port=device["http_port"])
    return str(found.found["state"])


async def test_power_and_faults_from_another_process() -> None:
    """Three devices on three addresses; one loses its power and gets it back; its sisters do not notice."""
    async with running("antminer", "--count", "3", "--kind", "mixed", "--host", "127.0.0.2", "--boot-s", "0.5") as told:
        devices = told["devices"]
        assert told["simulated"] is True
        assert [d["host"] for d in devices] == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
        async with HttpClient("127.0.0.1", int(told["control"].rpartition(":")[2])) as control:
            answer = await control.request("POST", "/1/power", json={"on": False})
            assert answer.json() == {"state": "off"}
            assert [await state_of(d) for d in devices] == ["mining", "unreachable", "mining"]
            await control.request("POST", "/1/power", json={"on": True})
            async with asyncio.timeout(20):
                while True:
                    if {d["state"] for d in (await control.request("GET", "/")).json()} == {"mining"}:
                        break
                    await asyncio.sleep(0.05)
            await control.request("POST", "/0/faults", json={"lost_boards": 1})
            assert await state_of(devices[0]) == "degraded"
            assert (await control.request("POST", "/0/nonsense", json={})).status == 404


async def test_a_farm_as_a_process() -> None:
    """Fixed ports on many addresses, told in one line."""
    async with running("farm", "--count", "40", "--first", "127.50.0.1") as told:
        assert len({d["mac"] for d in told["devices"]}) == 40
        assert await state_of(told["devices"][39]) == "mining"


@pytest.mark.parametrize("module", ["antminer", "farm"])
async def test_simulators_stay_on_loopback(module: str) -> None:
    """An address of a real network is refused."""
    option = "--host" if module == "antminer" else "--first"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.simulators.{module}", option, "192.168.1.2", cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode != 0
    assert b"loopback" in error
