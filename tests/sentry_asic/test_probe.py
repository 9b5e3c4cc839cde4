"""`sentry-asic probe` and `scan` as a person runs them, against simulated devices on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from garrison.faults import BadInput
from sentry_asic.probe import place_of, probe
from tests.ports import closed_port
from tests.simulators.antminer import Antminer

KEYS = [
    "address", "make", "model", "firmware", "mac", "serial", "state", "hashrate_hs", "expected_hashrate_hs", "power_w",
    "power_source", "uptime_s", "fans_rpm", "boards", "pools", "mode", "errors", "missing",
]  # fmt: skip
ROOT = Path(__file__).parents[2]


async def command(*arguments: str, password: str = "") -> tuple[int, str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "GARRISON_DEVICE_PASSWORD"}
    if password:
        environment["GARRISON_DEVICE_PASSWORD"] = password
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sentry_asic.cli", *arguments,
        cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def at(device: Antminer) -> str:
    return f"{device.host}:{device.api_port}"


async def test_one_object_with_the_keys_in_order() -> None:
    """The keys as documented, in that order, for old and modern; nested ones too; unknown is null; exit code 0."""
    for kind in ("modern", "old"):
        async with Antminer(kind) as device:
            code, out, err = await command("probe", at(device), "--http-port", str(device.http_port), "--json")
            assert (code, err) == (0, "")
            found = json.loads(out)
            assert list(found) == KEYS
            assert list(found["boards"][0]) == ["slot", "hashrate_hs", "temp_c", "chip_temp_c", "chips"]
            assert list(found["pools"][0]) == ["url", "user", "state", "accepted", "rejected", "stale"]
            assert (found["address"], found["state"], found["mac"]) == (at(device), "mining", device.mac)
            assert (found["power_w"], found["power_source"], found["missing"]) == (None, None, [])


async def test_a_table_for_people() -> None:
    """Without --json: a table; text of the device is not markup and moves no cursor."""
    async with Antminer() as device:
        device.conf["pools"][0]["user"] = "[bold]me[/bold]\x1b[2J"
        code, out, _ = await command("probe", at(device), "--http-port", str(device.http_port))
        assert code == 0
        assert "[bold]me[/bold]" in out
        assert "\x1b" not in out
        assert "TH/s" in out


@contextlib.asynccontextmanager
async def talking(said: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1024)
            writer.write(said)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_what_cannot_be_read_is_told() -> None:
    """Closed ports, a web page, 10 MB: an object with address, state and error, exit code 1; no traceback."""
    code, out, err = await command("probe", f"127.0.0.1:{closed_port()}", "--http-port", str(closed_port()), "--json")
    assert code == 1
    assert list(json.loads(out)) == ["address", "state", "error"]
    assert json.loads(out)["state"] == "unreachable"
    assert err == ""
    for said in (b"<html><body>hello</body></html>", b'{"x":"' + b"y" * 10_000_000, b""):
        async with talking(said) as port:
            answer = await probe(f"127.0.0.1:{port}", http_port=closed_port())
            assert (answer.ok, list(answer.found)) == (False, ["address", "state", "error"])
            assert len(answer.found["error"]) < 400


async def test_silence_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and says nothing."""
    monkeypatch.setattr("sentry_asic.makes.antminer._ANSWER_S", 0.5)  # a limit, not behaviour
    async with Antminer() as device:
        device.hang()
        answer = await probe(at(device), http_port=device.http_port)
        assert (answer.ok, answer.found["state"]) == (False, "slow")


async def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    """State refused and an error that says what to give; the right one by file or environment reads all."""
    async with Antminer() as device:
        device.password = "geheim"
        where = (at(device), "--http-port", str(device.http_port), "--json")
        code, out, _ = await command("probe", *where, password="nope")
        assert (code, json.loads(out)["state"]) == (1, "refused")
        assert "nope" not in out
        assert "--password-file" in json.loads(out)["error"]
        file = tmp_path / "password"
        file.write_text("geheim\n")
        for extra, password in ((["--username", "root", "--password-file", str(file)], ""), ([], "geheim")):
            code, out, _ = await command("probe", *where, *extra, password=password)
            assert (code, json.loads(out)["mac"]) == (0, device.mac)


@pytest.mark.parametrize(
    "arguments", [("probe", "not an address"), ("probe", "1.2.3.4:99999"), ("scan", "8.8.8.0/24"), ("scan", "x")]
)
async def test_bad_input_is_an_error_on_stderr(arguments: tuple[str, ...]) -> None:
    """One sentence and what to do, exit code 1, nothing on stdout."""
    code, out, err = await command(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")


async def test_other_firmware_is_not_taken_for_stock() -> None:
    """It copies the type and the realm; it takes other orders. What answers nothing but `version` is no plain cgminer either."""
    for row in (
        b'{"Type":"Antminer S21 Pro (Vnish 1.2.7)"}',
        b'{"Type":"Antminer S9","BMMiner":"2.0.0 rwglr"}',
    ):
        async with talking(b'{"STATUS":[{"STATUS":"S"}],"VERSION":[' + row + b"]}") as port:
            answer = await probe(f"127.0.0.1:{port}", http_port=closed_port())
            assert answer.found["state"] == "unknown"
            assert "other firmware" in answer.found["error"]


def test_addresses() -> None:
    """Host, host:port, IPv6 in brackets or bare."""
    assert (place_of("10.0.0.5").host, place_of("10.0.0.5").api_port) == ("10.0.0.5", 0)
    assert (place_of("miner-1:14028").host, place_of("miner-1:14028").api_port) == ("miner-1", 14028)
    assert (place_of("[fd00::5]:4028").host, place_of("[fd00::5]:4028").api_port) == ("fd00::5", 4028)
    assert place_of("fd00::5").host == "fd00::5"
    for bad in ("", "a b", "http://x/", "x:y", "user@host"):
        with pytest.raises(BadInput):
            place_of(bad)


def test_help_needs_no_network_code() -> None:
    """--help works without importing drivers: quick completion."""
    before = set(sys.modules)
    import sentry_asic.cli

    assert sentry_asic.cli.app.registered_commands
    assert "sentry_asic.table" not in set(sys.modules) - before
