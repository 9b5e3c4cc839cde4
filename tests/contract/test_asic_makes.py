"""Every make in the table: it has fixtures, reads each of them over real sockets, and keeps to the driver's contract.

A fixture folder is tests/fixtures/asic/<make>/<device>/ with api/<command>.json (port 4028), web/<name>.json (CGI) and
expected.json: what `sentry-asic probe` must print, without the address. A driver without a fixture fails here.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from garrison.words import ActionKind
from sentry_asic.make import Driver, Place
from sentry_asic.probe import probe
from sentry_asic.table import MAKES, Make, make_named

FIXTURES = Path(__file__).parents[1] / "fixtures" / "asic"
RECORDED = Path(__file__).parents[3] / "shared" / "recorded"
DEVICES = [(make.name, path.name) for make in MAKES for path in sorted((FIXTURES / make.name).glob("*/"))]


@contextlib.asynccontextmanager
async def replay(api: dict[str, bytes], web: dict[str, bytes]) -> AsyncIterator[tuple[int, int]]:
    """Says what was recorded: `api` by command on one port, `web` by CGI name on the other."""

    async def on_api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = json.loads(await reader.read(4096))["command"]
        writer.write(api.get(command, b'{"STATUS":[{"STATUS":"E","Code":14,"Msg":"Invalid command"}]}') + b"\x00")
        await writer.drain()
        writer.close()

    async def on_web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = web.get(head.split(" ")[1].removeprefix("/cgi-bin/").removesuffix(".cgi"))
            status = "404 Not Found" if body is None else "200 OK"
            writer.write(
                f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body or b'')}\r\n\r\n".encode() + (body or b"")
            )
            await writer.drain()
        writer.close()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for serve in (on_api, on_web)]
    try:
        yield servers[0].sockets[0].getsockname()[1], servers[1].sockets[0].getsockname()[1]
    finally:
        for server in servers:
            server.close()


def answers(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in folder.glob("*.json")}


async def probed(api: dict[str, bytes], web: dict[str, bytes]) -> dict[str, object]:
    async with replay(api, web) as (api_port, http_port):
        found = await probe(f"127.0.0.1:{api_port}", http_port=http_port)
        return {key: value for key, value in found.found.items() if key != "address"}


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.name)
def test_every_make_has_fixtures_and_the_whole_contract(make: Make) -> None:
    """One folder of fixtures at least; every method of the protocol, with its parameters; its own name."""
    devices = [path for path in (FIXTURES / make.name).glob("*/") if (path / "expected.json").is_file()]
    assert devices, f"{make.name}: no device in {FIXTURES / make.name}"
    driver = make.driver(Place("127.0.0.1"))
    assert driver.make == make.name
    assert set(driver.capabilities) <= set(ActionKind)
    for name, method in inspect.getmembers(Driver, inspect.isfunction):
        if not name.startswith("_"):
            assert str(inspect.signature(getattr(type(driver), name))) == str(inspect.signature(method)), name
    assert make_named(make.name) is make


def test_every_fixture_belongs_to_a_make() -> None:
    """No folder is left behind when a make goes."""
    assert {path.name for path in FIXTURES.glob("*/")} == {make.name for make in MAKES}


@pytest.mark.parametrize(("make", "device"), DEVICES)
async def test_reads_every_fixture_as_expected(make: str, device: str) -> None:
    """The whole way: sockets, identification, parsing, judgement."""
    folder = FIXTURES / make / device
    expected = json.loads((folder / "expected.json").read_text())
    assert await probed(answers(folder / "api"), answers(folder / "web")) == expected


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
async def test_the_recorded_s19_pro() -> None:
    """A second opinion: a real device's answers."""
    said = answers(RECORDED / "antminer-s19pro")
    found = await probed({k: v for k, v in said.items() if k != "system_info"}, {"get_system_info": said["system_info"]})
    assert (found["make"], found["model"], found["serial"]) == ("antminer", "S19 Pro", "THQING0BDJAB024NF")
    assert found["mac"] is None, "its publisher made it no MAC"
    assert found["state"] == "mining"
    assert found["hashrate_hs"] == pytest.approx(110.56689e12)
    assert found["expected_hashrate_hs"] == pytest.approx(110e12)
    assert found["uptime_s"] == 50474
    assert found["fans_rpm"] == [6000, 5880, 5040, 5040]
    boards = found["boards"]
    assert isinstance(boards, list)
    assert [(b["slot"], b["temp_c"], b["chip_temp_c"], b["chips"]) for b in boards] == [
        (1, 73.0, 78.0, 114),
        (2, 66.0, 71.0, 114),
        (3, 64.0, 69.0, 114),
    ]
    pools = found["pools"]
    assert isinstance(pools, list)
    assert [(p["state"], p["accepted"], p["rejected"], p["stale"]) for p in pools] == [("alive", 4057, 11, 1)] + [
        ("alive", 0, 0, 0)
    ] * 2
    assert (found["power_w"], found["power_source"]) == (None, None)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
@pytest.mark.parametrize("other", ["luxos-s19kpro", "whatsminer-m30", "avalon", "vnish-s21pro", "auradine"])
async def test_other_makes_are_not_taken_for_ours(other: str) -> None:
    """Real answers of other firmware: not known, in words, and never read as a stock Antminer."""
    said = answers(RECORDED / other)
    api = {k.removeprefix("rpc_"): v for k, v in said.items()}
    found = await probed(api, {})
    assert found["state"] == "unknown"
    assert "error" in found
