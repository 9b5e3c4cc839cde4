"""`sentry-asic scan` and what it stands on: ranges, rate, simulated devices on loopback addresses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from garrison import settings as toml
from garrison.clock import SystemClock
from garrison.faults import BadInput, GuardRefused
from garrison.model import Credentials
from sentry_asic.discovery import Found, Manner, Pacer, scan
from sentry_asic.ranges import named, networks_of, order_of, plan
from sentry_asic.scan_command import allowed_networks
from sentry_asic.settings import AsicSettings
from sentry_core import guard
from tests.ports import closed_port
from tests.sentry_asic.test_probe import ROOT, command
from tests.simulators.farm import Farm

QUICK = Manner(connects_per_s=5_000)


async def found_in(text: str, api_port: int, http_port: int, credentials: Credentials | None = None) -> dict[str, Found]:
    scanned = scan(plan([text]), api_port=api_port, http_port=http_port, credentials=credentials, manner=QUICK)
    return {device.address.partition(":")[0]: device async for device in scanned}


def hosts(*texts: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return list(plan(texts, exclude).hosts())


def test_ranges_as_people_write_them() -> None:
    """Networks without their own address and broadcast, first-last, one address; each asked once, in order; some left alone."""
    assert hosts("10.0.0.0/30") == ["10.0.0.1", "10.0.0.2"]
    assert hosts("10.0.0.1/31") == ["10.0.0.0", "10.0.0.1"]
    assert hosts("10.0.0.9-10.0.0.11", "10.0.0.7") == ["10.0.0.7", "10.0.0.9", "10.0.0.10", "10.0.0.11"]
    assert hosts("10.0.0.250 - 10.0.1.2", "10.0.0.252-10.0.1.1") == hosts("10.0.0.250-10.0.1.2"), "overlaps are asked once"
    assert hosts("10.0.0.1-10.0.0.5", exclude=("10.0.0.2-10.0.0.3", "10.0.0.5", "fd00::1")) == ["10.0.0.1", "10.0.0.4"]
    assert hosts("fd00::10-fd00::11") == ["fd00::10", "fd00::11"]
    assert plan(["10.0.0.0/16"], ["10.0.0.0/17"]).count == (1 << 15) - 1
    assert hosts("10.0.0.4", exclude=("10.0.0.0/24",)) == []


@pytest.mark.parametrize(
    "text",
    [
        "8.8.8.0/24", "0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/24", "fd00::/64", "2001:db8::/120", "nonsense", "10.0.0.9-10.0.0.1",
        "10.0.0.1-fd00::1", "10.0.0.1-", "9.255.255.255-10.0.0.1", "192.168.255.255-192.169.0.0", "10.0.0.1-10.1.0.1", "",
    ],
)  # fmt: skip
def test_scans_stay_at_home(text: str) -> None:
    """Only private networks and loopback, and at most 65,536 addresses in one range."""
    with pytest.raises(BadInput):
        plan([text])


def test_the_guard_may_allow_more(tmp_path: Path) -> None:
    """A network in the guard file may be asked, and no address beside it; a guard that makes no sense allows no scan at all."""
    assert allowed_networks(tmp_path) == networks_of(())
    (tmp_path / guard.FILE).write_text('scan_networks = ["198.18.5.0/24"]\n')
    allowed = allowed_networks(tmp_path)
    assert plan(["198.18.5.7", "10.0.0.1"], (), allowed).count == 2
    for text in ("198.18.4.255-198.18.5.3", "198.18.0.0/16"):
        with pytest.raises(BadInput, match="guard"):
            plan([text], (), allowed)
    (tmp_path / guard.FILE).write_text('scan_networks = ["everywhere"]\n')
    with pytest.raises(GuardRefused):
        allowed_networks(tmp_path)


def test_names_stand_for_ranges() -> None:
    """A name of the settings is all its ranges; without words it is every name; wrong ones are refused with their line."""
    ranges = {"hall-a": ("10.0.0.0/24",), "hall-b": ("10.0.1.1", "10.0.1.9")}
    assert named(["hall-b", "10.0.3.0/24"], ranges) == ["10.0.1.1", "10.0.1.9", "10.0.3.0/24"]
    assert named([], ranges) == ["10.0.0.0/24", "10.0.1.1", "10.0.1.9"]
    with pytest.raises(BadInput, match="no range"):
        plan(named([], {}))
    found = toml.loads('[scan]\nranges = { a = ["10.0.0.1-10.0.0.3"] }\n', AsicSettings)
    assert found.scan.ranges == {"a": ("10.0.0.1-10.0.0.3",)}
    with pytest.raises(BadInput, match=r"(?s)scan.*10\.0\.0\.300"):
        toml.loads('[scan]\nranges = { a = ["10.0.0.300"] }\n', AsicSettings)


def test_addresses_are_sorted_as_people_count() -> None:
    given = ["10.0.0.10", "10.0.0.9:4028", "miner-1", "[fd00::2]:4028", "fd00::1", "10.0.0.9"]
    assert sorted(given, key=order_of) == ["10.0.0.9", "10.0.0.9:4028", "10.0.0.10", "fd00::1", "[fd00::2]:4028", "miner-1"]


async def test_scan_finds_them_all() -> None:
    """Every device of the network with make, model and MAC; the one with another password too; strangers not."""
    api_port, http_port = closed_port(), closed_port()
    async with Farm(12, first="127.20.0.1", api_port=api_port, http_port=http_port) as farm:
        farm.devices[3].password = "changed"
        await farm.devices[5].power(False)
        found = await found_in("127.20.0.0/27", api_port, http_port)
        assert set(found) == {d.host for i, d in enumerate(farm.devices) if i != 5}
        assert found[farm.devices[3].host].state == "refused"
        assert {d.seen.mac for d in found.values() if d.seen} == {d.mac for i, d in enumerate(farm.devices) if i not in (3, 5)}


async def test_no_more_connections_a_second_than_said() -> None:
    """60 silent addresses with two ports each at 200 a second take their 0.6 s, however many are asked at once."""
    asked = []
    began_s = time.monotonic()
    manner = Manner(connects_per_s=200, at_once=100)
    where = plan(["127.21.0.1-127.21.0.60"])
    scanned = scan(where, api_port=closed_port(), http_port=closed_port(), manner=manner, on_asked=lambda: asked.append(1))
    assert [device async for device in scanned] == []
    assert time.monotonic() - began_s >= 119 / 200
    assert len(asked) == where.count == 60


async def test_a_pause_is_not_saved_up() -> None:
    """Slots that nobody used are gone: after a quiet time there is no burst."""
    pacer = Pacer(SystemClock(), 100)
    await pacer.wait()
    began_s = time.monotonic()
    for _ in range(6):
        await pacer.wait()
    assert time.monotonic() - began_s >= 0.05


async def test_a_bar_for_whoever_looks_on(tmp_path: Path) -> None:
    """On a terminal stderr shows how far it is; stdout has the result alone. Without one there is no bar."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    words = ("scan", "127.23.0.1-127.23.0.40", "--port", str(closed_port()), "--http-port", str(closed_port()), "--rate", "200")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sentry_asic.cli", *words, "--home", str(tmp_path),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert process.returncode == 0
    assert out.decode().strip() == "no device found"
    assert re.search(r"asking.*/40", shown)
    assert (await command(*words, "--home", str(tmp_path)))[2] == ""


async def test_the_command_is_repeatable(tmp_path: Path) -> None:
    """A line of JSON for each device, in order of address, the same when run again; named, excluded and overlapping ranges."""
    api_port, http_port = closed_port(), closed_port()
    (tmp_path / "sentry-asic").mkdir()
    (tmp_path / "sentry-asic" / "sentry.toml").write_text(
        '[scan]\nranges = { hall = ["127.22.0.9-127.22.0.12", "127.22.0.8/30"] }\nexclude = ["127.22.0.11"]\n'
        f"api_port = {api_port}\nhttp_port = {http_port}\nconnects_per_s = 2000\n"
    )
    async with Farm(4, first="127.22.0.9", api_port=api_port, http_port=http_port) as farm:
        first = await command("scan", "--json", "--home", str(tmp_path))
        again = await command("scan", "hall", "--json", "--home", str(tmp_path))
        fewer = await command("scan", "hall", "--exclude", "127.22.0.12", "--home", str(tmp_path))
        asked = [device.most_asked_at_once for device in farm.devices]
    assert first == again
    code, out, err = first
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [row["address"] for row in rows] == [f"127.22.0.{last}:{api_port}" for last in (9, 10, 12)]
    assert [row["mac"] for row in rows] == [farm.devices[place].mac for place in (0, 1, 3)]
    assert asked[2] == 0, "an excluded address is never asked"
    assert "127.22.0.12" not in fewer[1]
    assert "127.22.0.10" in fewer[1]
