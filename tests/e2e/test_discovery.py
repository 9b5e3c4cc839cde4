"""A real sentry looks through its range: what it finds is adopted by hand or by rule, and followed to a new address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hall import Hall
from tests.e2e.processes import Farm, farm_at, until
from tests.ports import free_ports
from tests.simulators.antminer import Antminer

pytestmark = pytest.mark.timeout(300)
HOSTS = [f"127.43.0.{last}" for last in (1, 2, 3)]
NEW_HOST = "127.43.0.8"


class Row(Hall):
    """Three miners, each on an address of its own, all on the same two ports, as in a real hall."""

    def __init__(self) -> None:
        super().__init__(())
        self.api_port, self.http_port = free_ports(2)

    async def _start(self) -> None:
        for number, host in enumerate(HOSTS, start=1):
            await self._place(host, f"02:5d:00:00:00:{number:02x}")
        await self.board.start()

    async def _place(self, host: str, mac: str) -> None:
        miner = Antminer("modern", host=host, api_port=self.api_port, http_port=self.http_port, mac=mac)
        await miner.start()
        self.miners.append(miner)

    def place(self, host: str, mac: str) -> None:
        self.do(self._place(host, mac))

    def at(self, host: str) -> str:
        return f"{host}:{self.api_port}"


@pytest.fixture
def row() -> Iterator[Row]:
    hall = Row()
    hall.start()
    try:
        yield hall
    finally:
        hall.stop()


def found(farm: Farm) -> dict[str, str | None]:
    return {one["address"]: one["mac"] for one in farm.get("/found")["found"]}


def test_found_adopted_followed(farm_of: tuple[Farm, Row]) -> None:
    """The hall is found and not watched; one is adopted by hand; its address changes and it stays the same device; a twin with
    its MAC is told and not adopted; with a rule the others follow without a person."""
    farm, row = farm_of
    macs = [miner.mac for miner in row.miners]
    until("all are found", lambda: found(farm) == dict(zip(map(row.at, HOSTS), macs, strict=True)))
    assert farm.json("devices", "list") == []
    assert "found" in farm.ask("commander", "devices", "found")
    assert "nothing was found" in farm.refused("commander", "devices", "adopt", "10.9.9.9")

    farm.ask("commander", "devices", "adopt", row.at(HOSTS[0]), "--name", "one")
    device = farm.until_device("one", "mining", "starting")
    assert (device["mac"], device["address"]) == (macs[0], row.at(HOSTS[0]))
    until("it is not listed as found any more", lambda: set(found(farm)) == {row.at(host) for host in HOSTS[1:]})

    row.power(1, False)
    farm.until_device("one", "unreachable")
    row.place(NEW_HOST, macs[0])
    until("the address follows the MAC", lambda: farm.get("/devices/one")["address"] == row.at(NEW_HOST))
    assert farm.until_device("one", "mining", "starting")["id"] == device["id"]

    row.power(1, True)
    told = until("a second one with its MAC is told", lambda: farm.get("/events", kind="device_duplicate")["events"])
    assert macs[0] in told[0]["text"]
    assert "MAC" in farm.refused("commander", "devices", "adopt", row.at(HOSTS[0]))
    assert len(farm.json("devices", "list")) == 1

    table = farm.home / "devices.csv"
    farm.ask("commander", "devices", "export", "--csv", "-o", str(table))
    heading, line = table.read_text().splitlines()
    again = ["commander", "devices", "import", "--csv", str(table)]
    assert "0 changed, 1 as they were" in farm.ask(*again)
    cells = dict(zip(heading.split(","), line.split(","), strict=True)) | {"rack": "r7", "position": "3", "tags": "new hot"}
    table.write_text(f"{heading}\n{','.join(cells.values())}\n,,,,,,,,10.0.0.300,,,,,,\n")
    assert f"{table}, line 3, address:" in farm.run(*again).stderr
    assert farm.get("/devices/one")["rack"] is None, "with one mistake nothing is changed"
    table.write_text(f"{heading}\n{','.join(cells.values())}\n")
    assert "1 would be changed" in farm.ask(*again, "--dry-run")
    assert farm.get("/devices/one")["rack"] is None
    farm.ask(*again)
    changed = farm.get("/devices/one")
    assert (changed["rack"], changed["position"], changed["tags"]) == ("r7", "3", ["hot", "new"])

    assert farm.stop("commander") == 0
    with (farm.home / "commander" / "commander.toml").open("a") as settings:
        settings.write('\n[discovery]\nadopt = ["make:antminer range:hall"]\n')
    farm.start_commander()
    rows = until(
        "the rule adopts the other two", lambda: [one for one in farm.json("devices", "list") if one["id"] != device["id"]]
    )
    until("both", lambda: len(farm.json("devices", "list")) == 3)
    assert {one["address"] for one in rows} <= {row.at(host) for host in HOSTS[1:]}
    assert list(found(farm)) == [row.at(HOSTS[0])], "never what is there twice"


@pytest.fixture
def farm_of(row: Row, tmp_path: Path) -> Iterator[tuple[Farm, Row]]:
    with farm_at(tmp_path) as farm:
        farm.enrol(
            "asic",
            f'[scan]\nranges = {{ hall = ["127.43.0.1-127.43.0.9"] }}\nevery_s = 1\napi_port = {row.api_port}\n'
            f"http_port = {row.http_port}\n",
        )
        farm.start_sentry("asic")
        yield farm, row
