"""The fleet as a table and back: what is exported comes in unchanged, a mistake is told with its line and column."""

from __future__ import annotations

import csv
import io

import pytest

from commander.fleet.edits import DeviceChange, NewDevice
from commander.fleet.inventory import COLUMNS, Brought, Mistake, parse
from commander.fleet.service import Fleet
from commander.model import Caller
from garrison.model import Credentials, Device
from garrison.words import DeviceState
from tests.commander.fleet.conftest import ASIC, RIG, fleet_at

__all__ = ["fleet_at"]
PERSON = Caller("ann", "operator")
MAC = "02:5e:00:00:00:0a"


@pytest.fixture
async def hall(fleet: Fleet) -> Fleet:
    """A miner with everything, one that nobody has heard of yet, a rig."""
    one = await fleet.add_device(PERSON, NewDevice("10.0.0.5", ASIC, credentials=Credentials("root", "s3cret")))
    device = Device(
        f"mac:{MAC}", "asic", DeviceState.MINING, str(one.id), make="antminer", model="S19", address="10.0.0.5", mac=MAC
    )
    await fleet.take_roster(ASIC, False, [device], [])
    change = DeviceChange("=cmd()", ["b", "a"], site="north", rack="r1", position="3", notes="two\nlines, and a comma")
    await fleet.change_device(PERSON, str(one.id), change)
    await fleet.add_device(PERSON, NewDevice("10.0.0.6:4028", ASIC, expected_hashrate_hs=1.04e14))
    await fleet.take_roster(RIG, True, [Device("machine:m1", "rig", DeviceState.MINING, facts={"hostname": "rig-7"})], [])
    return fleet


async def take(fleet: Fleet, *lines: str, dry_run: bool = False) -> Brought:
    return await fleet.bring_in(PERSON, "\n".join(lines) + "\n", dry_run=dry_run)


def wrong(brought: Brought) -> list[tuple[int, str]]:
    return [(one.line, one.column) for one in brought.mistakes]


async def test_out_and_in_again_changes_nothing(hall: Fleet) -> None:
    """Every column, no password, nothing that a spreadsheet runs; the same file back leaves all as it was."""
    text = hall.table()
    assert "s3cret" not in text
    assert "root" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0] | {"id": ""} == {
        "id": "", "name": "'=cmd()", "kind": "asic", "make": "antminer", "model": "S19", "mac": MAC, "serial": "",
        "sentry": "hall-a", "address": "10.0.0.5", "site": "north", "rack": "r1", "position": "3", "tags": "a b",
        "notes": "two\nlines, and a comma",
        "expected_hashrate_hs": "",
    }  # fmt: skip
    assert [row["expected_hashrate_hs"] for row in rows] == ["", "104000000000000", ""]
    before = dict(hall.book.devices)
    brought = await hall.bring_in(PERSON, text, dry_run=False)
    assert (brought.added, brought.changed, brought.unchanged, brought.mistakes) == ([], [], 3, [])
    assert hall.book.devices == before
    semicolons = "\ufeff" + text.replace(",", ";").replace("lines; and", "lines, and").replace("\n", "\r\n")
    assert (await hall.bring_in(PERSON, semicolons, dry_run=False)).unchanged == 3, "as a spreadsheet saves it"
    assert hall.book.devices == before


async def test_changes_and_new_ones(hall: Fleet) -> None:
    """By id, MAC and address; only the columns that are there; an empty cell clears places and tags, and leaves a name."""
    brought = await take(
        hall,
        "id,mac,name,rack,tags,address,sentry,notes",
        "1,,seven,r9,,,,",
        ",,,r8,hot new,10.0.0.6:4028,hall-a,under the stairs",
        "3,,,r7,,,,",
        ",,eight,,,10.0.0.8,hall-b,",
    )
    assert (brought.mistakes, len(brought.added), brought.changed) == ([], 1, [1, 2, 3])
    one, two, rig = [await hall.device(number) for number in (1, 2, 3)]
    assert (one.name, one.rack, one.tags, one.notes, one.site, one.address) == ("seven", "r9", (), "", "north", "10.0.0.5")
    assert (two.name, two.rack, two.tags, two.notes) == ("10.0.0.6:4028", "r8", ("hot", "new"), "under the stairs")
    assert rig.rack == "r7"
    assert (await hall.device("eight")).address == "10.0.0.8"
    assert (await take(hall, "mac,position", f"{MAC.upper().replace(':', '-')},12")).changed == [1]
    assert hall.book.devices[1].sealed is not None, "its password stays"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["id,nmae", "1,x"], [(1, "nmae")]),
        (["id,name,id", "1,x,1"], [(1, "id")]),
        (["id,password", "1,x"], [(1, "password")]),
        (["id,name", "99,x", "2,ok", "x,y"], [(2, "id"), (4, "id")]),
        (["id,name,rack", '1,"two', 'lines",a/b', "2,1234,r"], [(2, "name"), (2, "rack"), (4, "name")]),
        (["id,name", "1,same", "2,same"], [(3, "name")]),
        (["id,name", "1,a", "1,b"], [(3, "id")]),
        (["id,tags", "1,good b@d"], [(2, "tags")]),
        (["id,address", "2,10.0.0.5"], [(2, "address")]),
        (["id,address", "3,10.0.0.5"], [(2, "address")]),
        (["name,address", "x,10.0.0.300"], [(2, "sentry")]),
        (["address,sentry", "10.0.0.300,hall-a", "8.8.8.8,hall-a"], [(2, "address"), (3, "address")]),
        (["name,sentry", "z,hall-a"], [(2, "address")]),
        (["address,sentry", "10.0.0.9,hall-a", "10.0.0.10,rig-1", "10.0.0.11,nobody"], [(3, "sentry"), (4, "sentry")]),
        (["address,sentry,make", "10.0.0.9,hall-a,no make"], [(2, "make")]),
        (["address,sentry,kind", "10.0.0.9,hall-a,rig"], [(2, "kind")]),
        (["id,expected_hashrate_hs", "1,fast", "2,-1"], [(2, "expected_hashrate_hs"), (3, "expected_hashrate_hs")]),
        (["id,expected_hashrate_hs", "1,nan"], [(2, "expected_hashrate_hs")]),
        (["id,sentry", "1,hall-b"], [(2, "sentry")]),
        (["id,mac", ",02:5e"], [(2, "mac")]),
        (["id,name", "1,x,more"], [(2, "")]),
        (["id,name", '1,"x'], [(2, "")]),
        ([""], [(1, "")]),
    ],
)  # fmt: skip
async def test_a_mistake_is_told_and_nothing_is_changed(hall: Fleet, lines: list[str], expected: list[tuple[int, str]]) -> None:
    """Line and column of each; what was right in the file is not done either."""
    before, names = dict(hall.book.devices), dict(hall.book.names)
    brought = await take(hall, *lines)
    assert wrong(brought) == expected
    assert all(one.text for one in brought.mistakes)
    assert (brought.added, brought.changed) == ([], [])
    assert hall.book.devices == before
    assert dict(hall.book.names) == names


async def test_a_dry_run_changes_nothing(hall: Fleet) -> None:
    """It says what would be, mistakes too, and both memory and disk are as before."""
    before = dict(hall.book.devices)
    brought = await take(hall, "id,rack,address,sentry", "1,r9,,", ",r9,10.0.0.77,hall-a", dry_run=True)
    assert (len(brought.added), brought.changed, brought.mistakes) == (1, [1], [])
    assert wrong(await take(hall, "id,name", "9,x", dry_run=True)) == [(2, "id")]
    assert hall.book.devices == before
    await hall.book.load()
    assert hall.book.devices == before


async def test_one_revision_for_the_whole_file(hall: Fleet) -> None:
    """A thousand new devices are one change for the sentry, and quick."""
    told: list[str] = []
    hall.on_assignment_change.append(told.append)
    lines = [f"10.1.{number // 250}.{number % 250 + 1},hall-a,r{number}" for number in range(1000)]
    brought = await take(hall, "address,sentry,rack", *lines)
    assert len(brought.added) == 1000
    assert told == [ASIC]


def test_lines_count_as_in_an_editor() -> None:
    """A cell may have several lines, a line may be empty."""
    lines, mistakes = parse('id,notes\n1,"a\nb"\n\n2,c\n')
    assert ([line.number for line in lines], mistakes) == ([2, 5], [])
    assert parse("")[1] == [Mistake(1, "", "the file is empty")]
    assert parse("id\n" + "x" * 200_000 + "\n")[1][0].line == 2
