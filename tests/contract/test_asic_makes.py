"""Every make in the table: it has fixtures, reads each of them over real sockets, and keeps to the driver's contract.

A fixture folder is tests/fixtures/asic/<make>/<device>/ with api/<command>.json (port 4028; a path where that speaks HTTP),
web/<name>.json (CGI, or the path of a REST API with __ for its slashes and without its query; index.html: its page) and
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

from garrison.faults import Fault
from garrison.words import ActionKind
from sentry_asic.make import Driver, Place
from sentry_asic.probe import probe
from sentry_asic.table import MAKES, Make, make_named

FIXTURES = Path(__file__).parents[1] / "fixtures" / "asic"
RECORDED = Path(__file__).parents[3] / "shared" / "recorded"
DEVICES = [(make.name, path.name) for make in MAKES for path in sorted((FIXTURES / make.name).glob("*/"))]


def over_http(head: str, told: dict[str, bytes]) -> bytes:
    path = head.split(" ")[1].partition("?")[0]
    name = path[1:].replace("/", "__") or "index"
    body = told.get(path.removeprefix("/cgi-bin/").removesuffix(".cgi"), told.get(name))
    status = "404 Not Found" if body is None else "200 OK"
    return f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body or b'')}\r\n\r\n".encode() + (body or b"")


@contextlib.asynccontextmanager
async def replay(api: dict[str, bytes], web: dict[str, bytes]) -> AsyncIterator[tuple[int, int]]:
    """Says what was recorded: `api` by command on one port, `web` by CGI name or path on the other."""

    async def on_api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(4096)
        if request.startswith(b"GET "):  # HTTP on this port: ePIC
            writer.write(over_http(request.decode(), api))
            await writer.drain()
            writer.close()
            return
        command = json.loads(request)["command"] if request.startswith(b"{") else request.decode()  # the old form is text
        writer.write(api.get(command, b'{"STATUS":[{"STATUS":"E","Code":14,"Msg":"Invalid command"}]}') + b"\x00")
        await writer.drain()
        writer.close()

    async def on_web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            writer.write(over_http(head, web))
            await writer.drain()
        writer.close()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for serve in (on_api, on_web)]
    try:
        yield servers[0].sockets[0].getsockname()[1], servers[1].sockets[0].getsockname()[1]
    finally:
        for server in servers:
            server.close()


def answers(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in [*folder.glob("*.json"), *folder.glob("*.html")]}


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
async def test_the_recorded_luxos() -> None:
    """A second opinion: what LuxOS copies from stock firmware is not believed, what it says itself is."""
    found = await probed(answers(RECORDED / "luxos-s19kpro"), {})
    assert (found["make"], found["model"], found["serial"]) == ("luxos", "S19k Pro", "JYZZB0UBDJABF06RB")
    assert found["firmware"] == "2025.4.8.220305-57b389c7"
    assert (found["mac"], found["state"], found["mode"]) == ("62:f7:5e:b7:10:46", "mining", "normal")
    assert found["hashrate_hs"] == pytest.approx(59.75606e12)
    assert found["expected_hashrate_hs"] == pytest.approx(61.9542e12)
    assert (found["power_w"], found["power_source"], found["uptime_s"]) == (1051, "miner", 3453)
    assert found["fans_rpm"] == [1920, 1920, 2340, 2340]
    boards, pools, errors = found["boards"], found["pools"], found["errors"]
    assert isinstance(boards, list)
    assert isinstance(pools, list)
    assert isinstance(errors, list)
    assert [(b["slot"], b["temp_c"], b["chip_temp_c"], b["chips"]) for b in boards] == [(i, 47.0, None, 77) for i in range(3)]
    assert [(p["state"], p["accepted"], p["rejected"]) for p in pools[:3]] == [("alive", 724, 0), ("dead", 0, 0), ("alive", 759, 1)]
    assert [e["code"] for e in errors] == ["NOPIC_PROTECTION:MINER", "REBOOT_NOT_HASHING:BOARD:0"]
    assert found["missing"] == []


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
async def test_the_recorded_bitaxe() -> None:
    """A second opinion: GH/s, a fallback that is configured and not used, no expected rate in this version."""
    said = answers(RECORDED / "bitaxe-2.0")
    found = await probed({}, {"api__system__info": said["system_info"]})
    assert (found["make"], found["model"], found["mac"]) == ("bitaxe", "BM1368", "aa:bb:cc:dd:ee:ff")
    assert (found["firmware"], found["state"], found["uptime_s"]) == ("v2.4.5-3-gb5d1e36-dirty", "mining", 4)
    assert found["hashrate_hs"] == pytest.approx(1e12)
    assert found["expected_hashrate_hs"] is None
    assert found["power_w"] == pytest.approx(2.65)
    assert found["fans_rpm"] == [3517]
    pools, boards = found["pools"], found["boards"]
    assert isinstance(pools, list)
    assert isinstance(boards, list)
    assert [(p["url"], p["user"], p["state"]) for p in pools] == [
        ("stratum+tcp://btc.example.pool:3333", "asic-rs.test", None),
        ("stratum+tcp://btc2.example.pool:3333", "asic-rs.test", None),
    ], "four seconds after its start no share was accepted, so nothing proves a pool alive"
    assert (boards[0]["temp_c"], boards[0]["chip_temp_c"]) == (78, 59.875)
    assert found["missing"] == []


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
@pytest.mark.parametrize(
    ("recording", "own", "rate_hs"),
    [
        ("luxos-s19kpro", "luxos", 59.75606e12),
        ("whatsminer-m30", "whatsminer", None),
        ("avalon", "avalon", None),
        ("vnish-s21pro", "", 173.87094e12),
    ],
)
async def test_other_makes_are_not_taken_for_ours(recording: str, own: str, rate_hs: float | None) -> None:
    """Real answers of other firmware: by its own driver where it has one, else as a plain cgminer, and by no other make.

    A plain cgminer has no power, no expected rate and nothing that it could be told to do.
    """
    said = answers(RECORDED / recording)
    found = await probed({k.removeprefix("rpc_"): v for k, v in said.items()}, {})
    if own in {make.name for make in MAKES}:
        assert found["make"] == own
    else:
        assert found["make"] == "cgminer"
        assert (found["power_w"], found["expected_hashrate_hs"], found["mode"]) == (None, None, None)
        assert make_named("cgminer").driver(Place("127.0.0.1")).capabilities == ()
    assert rate_hs is None or found["hashrate_hs"] == pytest.approx(rate_hs)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
@pytest.mark.parametrize("other", ["braiins-25.07"])
async def test_what_speaks_no_cgminer_is_no_device_we_know(other: str) -> None:
    """Firmware that answers in another way than port 4028's: not known, in words, and not hidden behind the plain cgminer."""
    found = await probed({}, answers(RECORDED / other))
    assert found["state"] == "unknown"
    assert "no device we know" in str(found["error"])


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
@pytest.mark.parametrize(
    ("recording", "own"),
    [
        ("antminer-s19pro", "antminer"),
        ("whatsminer-m30", "whatsminer"),
        ("avalon", "avalon"),
        ("luxos-s19kpro", "luxos"),
        ("vnish-s21pro", ""),
        ("auradine", "auradine"),
    ],
)
async def test_no_make_takes_the_device_of_another(recording: str, own: str) -> None:
    """Whatever the order of asking: of all makes that name a maker, only a recording's own says it is its device."""
    api = {name.removeprefix("rpc_"): said for name, said in answers(RECORDED / recording).items()}
    taken = []
    for make in (make for make in MAKES if not make.last_resort):
        async with replay(api, {}) as (api_port, http_port):
            try:
                driver, _ = await make.fingerprint(Place("127.0.0.1", api_port, http_port))
            except Fault:
                continue
            if driver is not None:
                taken.append(make.name)
                await driver.close()
    assert taken == ([own] if own else [])


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
@pytest.mark.parametrize(("summary", "codes"), [("summary", []), ("summary_with_errors", ["110", "600"])])
async def test_the_recorded_m30(summary: str, codes: list[str]) -> None:
    """A second opinion: MH/s and GH/s in one answer, both uptimes, the quoted firmware, errors in the summary."""
    said = answers(RECORDED / "whatsminer-m30")
    found = await probed(said | {"summary": said[summary]}, {})
    assert (found["make"], found["firmware"], found["mac"]) == ("whatsminer", "20210322.22.REL", "c4:08:28:00:a4:19")
    assert found["hashrate_hs"] == pytest.approx(67.39480097e12)
    assert found["expected_hashrate_hs"] == pytest.approx(68.796e12)
    assert (found["power_w"], found["power_source"], found["uptime_s"], found["mode"]) == (3427, "miner", 10154, "normal")
    assert found["fans_rpm"] == [6450, 6480]
    boards, pools, errors = found["boards"], found["pools"], found["errors"]
    assert isinstance(boards, list)
    assert isinstance(pools, list)
    assert isinstance(errors, list)
    assert [(b["slot"], b["temp_c"], b["chip_temp_c"], b["chips"]) for b in boards] == [
        (0, 70.0, 90.0, 105),
        (1, 69.5, 90.11, 105),
        (2, 71.5, 92.5, 105),
    ]
    assert [(p["state"], p["accepted"]) for p in pools] == [("alive", 2338), ("alive", 0), ("alive", 0)]
    assert [error["code"] for error in errors] == codes
    assert found["missing"] == ["model"], "the recording has no devdetails"


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
async def test_the_recorded_avalon_q() -> None:
    """A second opinion: asleep, and the averages that it keeps showing are not taken for hashing."""
    found = await probed(answers(RECORDED / "avalon"), {})
    assert (found["make"], found["model"], found["mac"]) == ("avalon", "Q", "aa:bb:cc:dd:ee:ff")
    assert (found["firmware"], found["state"], found["mode"]) == ("25052801_14a19a2", "paused", "eco")
    assert (found["hashrate_hs"], found["uptime_s"], found["power_w"]) == (0, 37819, 146)
    assert found["expected_hashrate_hs"] == pytest.approx(55.03279e12)
    boards, pools = found["boards"], found["pools"]
    assert isinstance(boards, list)
    assert isinstance(pools, list)
    assert [(b["slot"], b["hashrate_hs"], b["temp_c"], b["chips"]) for b in boards] == [(0, None, 27.0, 160)]
    assert [(p["user"], p["state"], p["accepted"], p["rejected"]) for p in pools] == [("worker1", "alive", 890, 2)]
    assert found["missing"] == []


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
async def test_the_recorded_elphapex() -> None:
    """A second opinion: a DG-Home1 that does not hash, one board in four places, chips in thousandths of a degree."""
    said = answers(RECORDED / "elphapex-dg1home")
    found = await probed({}, said)
    assert (found["make"], found["model"], found["serial"]) == ("elphapex", "DG-Home1", "13HY24B056N300037C11B")
    assert (found["firmware"], found["mac"], found["mode"]) == ("DG-Home1_V1.0.5", "b8:4c:87:e0:66:b2", "normal")
    assert (found["hashrate_hs"], found["uptime_s"], found["fans_rpm"]) == (0, 0, [420, 420, 420, 1020])
    assert found["expected_hashrate_hs"] == pytest.approx(3.00375e9)
    assert found["boards"] == [{"slot": 3, "hashrate_hs": 0, "temp_c": None, "chip_temp_c": 25.687, "chips": 120}]
    pools = found["pools"]
    assert isinstance(pools, list)
    assert [(p["user"], p["state"], p["accepted"]) for p in pools] == [("worker", "dead", 0)] * 3
    assert (found["power_w"], found["errors"], found["missing"]) == (None, [], [])


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
async def test_the_recorded_epic() -> None:
    """A second opinion, over HTTP on port 4028: two of three boards work, and one fan stands."""
    found = await probed(answers(RECORDED / "epic-s19xp"), {})
    assert (found["make"], found["model"], found["mac"]) == ("epic", "S19 XP", "e6:d4:41:51:64:28")
    assert (found["firmware"], found["state"], found["uptime_s"]) == ("PowerPlay-BMS v1.5.13", "degraded", 23170)
    assert found["hashrate_hs"] == pytest.approx(99.365848e12)
    assert found["power_w"] == pytest.approx(2166.6174)
    assert found["missing"] == []


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
async def test_the_recorded_auradine() -> None:
    """A second opinion: rates from port 4028, the rest behind a token. Without its other port it is still known."""
    said = answers(RECORDED / "auradine")
    token = {"token": b'{"STATUS":[{"STATUS":"S"}],"Token":[{"Token":"example"}]}'}
    found = await probed(said, said | token)
    assert (found["make"], found["model"], found["serial"]) == ("auradine", "AT1500", "AU23200006")
    assert (found["mac"], found["state"], found["mode"]) == ("1c:00:00:0e:3b:2b", "mining", "custom")
    assert found["hashrate_hs"] == pytest.approx(20.599767e12)
    assert (found["power_w"], found["fans_rpm"], found["missing"]) == (58.94, [7080, 7020, 7100, 7020], [])
