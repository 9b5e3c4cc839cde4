"""The simulated XMRig answers as the real one was seen to: rules of its token, its codes, its quirks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from garrison.faults import Conflict, WrongPassword
from sentry_core.http import HttpAnswer, HttpClient
from sentry_rig.programs.program import Api
from sentry_rig.programs.xmrig import XMRig, _order
from tests.ports import free_ports
from tests.sentry_rig.stands import SIMULATOR, SOON_S

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
POOL = ("-o", "pool.example:3333", "-u", "wallet", "-p", "x", "-a", "rx/0")


@contextmanager
def simulator(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    (port,) = free_ports(1)
    command = [sys.executable, str(SIMULATOR), *POOL, f"--http-port={port}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ends = time.monotonic() + SOON_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < ends
            time.sleep(0.02)
        yield port, process
    finally:
        process.kill()
        process.communicate()


async def ask(port: int, method: str, path: str, token: str | None = None, **more: object) -> HttpAnswer:
    async with HttpClient("127.0.0.1", port, bearer=token) as client:
        return await client.request(method, path, **more)  # type: ignore[arg-type]  # each test gives its own few


async def test_with_a_token_and_unrestricted() -> None:
    """401 without, 403 with a wrong one, 404 off the map, 204, 400 and 415 on the config, errors of JSON-RPC as 200."""
    with simulator("--http-access-token=t", "--http-no-restricted") as (port, process):
        assert (await ask(port, "GET", "/2/summary")).status == 401
        assert (await ask(port, "GET", "/2/summary", "wrong")).status == 403
        for path in ("/2/summary", "/1/summary", "/api.json", "/2/backends", "/1/config", "/2/config"):
            assert (await ask(port, "GET", path, "t")).status == 200
        for path in ("/", "/1/threads", "/2/nothing"):
            assert (await ask(port, "GET", path, "t")).status == 404
        good = {"pools": [{"url": "a:1"}]}
        assert (await ask(port, "PUT", "/1/config", "t", json=good)).status == 204
        assert (await ask(port, "PUT", "/1/config", "t", json={"pools": []})).status == 400
        typed = {"content-type": "application/json"}
        assert (await ask(port, "PUT", "/1/config", "t", body=b"{oops", headers=typed)).status == 400
        assert (await ask(port, "PUT", "/1/config", "t", body=b"{}", headers={"content-type": "text/plain"})).status == 415
        broken = await ask(port, "POST", "/json_rpc", "t", body=b"{", headers=typed)
        assert (broken.status, broken.json()["error"]["code"]) == (200, -32700)
        unknown = await ask(port, "POST", "/json_rpc", "t", json={"method": "dance", "id": 7})
        assert (unknown.status, unknown.json()["error"]["code"]) == (200, -32601)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON_S) == 0


async def test_restricted_or_without_a_token() -> None:
    """Restricted blocks control; without a token only restricted answers, and a header nobody asked for is refused."""
    with simulator("--http-access-token=t") as (port, _):
        assert (await ask(port, "GET", "/2/summary", "t")).json()["restricted"] is True
        assert (await ask(port, "GET", "/1/config", "t")).status == 403
        assert (await ask(port, "POST", "/json_rpc", "t", json={"method": "pause"})).status == 403
    with simulator() as (port, _):
        assert (await ask(port, "GET", "/2/summary")).status == 200
        assert (await ask(port, "GET", "/2/summary", "t")).status == 401
    with simulator("--http-no-restricted") as (port, _):
        assert (await ask(port, "GET", "/2/summary")).status == 401


async def test_the_driver_against_it() -> None:
    """Reads, pauses, resumes; a refused token and a refused order have their own faults."""
    driver = XMRig()
    with simulator("--http-access-token=t", "--http-no-restricted") as (port, _):
        api = Api(port, "t")
        assert driver.parse(await driver.read(api)).paused is False
        await driver.pause(api)
        assert driver.parse(await driver.read(api)).paused is True
        await driver.resume(api)
        reading = driver.parse(await driver.read(api))
        assert (reading.paused, reading.version, reading.parts) == (False, "6.26.0", ())
        with pytest.raises(WrongPassword):
            await driver.read(Api(port, "other"))
        with pytest.raises(Conflict, match="Method not found"):
            await _order(api, "dance")


def test_a_busy_port_leaves_it_mining_and_no_pool_ends_it() -> None:
    """As the real one: the log says so and it goes on; without pools it ends with code 2."""
    with simulator("--http-access-token=t") as (port, _):
        second = subprocess.Popen([sys.executable, str(SIMULATOR), *POOL, f"--http-port={port}"], stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert any("failed to start" in line for line in iter(second.stdout.readline, ""))
        assert second.poll() is None
        second.kill()
        second.communicate()
    alone = subprocess.run([sys.executable, str(SIMULATOR)], capture_output=True, text=True, timeout=60, check=False)
    assert alone.returncode == 2


def test_its_summary_has_the_shape_of_the_fixture() -> None:
    """The same fields as the fixture has: a simulator that drifts from the driver's fixtures proves nothing."""
    fixture = SIMULATOR.parents[1] / "fixtures" / "programs" / "xmrig" / "cpu_mining.main.json"
    command = [
        sys.executable,
        "-c",
        "import json, runpy, sys; m = runpy.run_path(sys.argv[1]); print(json.dumps(m['Miner'](sys.argv[2:]).summary()))",
    ]
    done = subprocess.run([*command, str(SIMULATOR), *POOL], capture_output=True, text=True, timeout=60, check=True)
    seen, wanted = json.loads(done.stdout), json.loads(fixture.read_bytes())
    for part in ("results", "connection", "hashrate", "resources"):
        assert seen[part].keys() == wanted[part].keys()
    assert seen.keys() == wanted.keys()
