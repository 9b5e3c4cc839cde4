"""Tests of commander.flight_sheets over a real database: sheets, programs, and which device should run what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from commander.db import Database, Migration
from commander.fleet import audit
from commander.flight_sheets import api, rules, store
from commander.flight_sheets.records import PoolTemplate, ProgramRow, Template
from commander.flight_sheets.service import FlightSheets, Ports
from commander.model import ActionRow, Caller, DeviceRow
from garrison.clock import ManualClock
from garrison.faults import BadInput, Conflict, NotFound, NotSupported, Unavailable
from garrison.words import ActionKind, ActionState, DeviceState

ME = Caller("ada", "operator")
SHA = "ab" * 32
BTC = Template("btc", "BTC", "sha256", (PoolTemplate("stratum+tcp://pool.example:3333", "hunter2"),), "bc1q")
XMR = Template(
    "xmr", "XMR", "rx/0", (PoolTemplate("tcp://pool.example:1"),), "4AbC", program="xmrig", arguments=("-p={password}", "--x")
)
MIGRATIONS = [Migration(1, "audit", audit.create_table), Migration(2, "sheets", store.create_tables)]


@dataclass
class Farm:
    devices: dict[int, DeviceRow] = field(default_factory=dict)
    told: list[tuple[int, str]] = field(default_factory=list)
    switching: frozenset[int] = frozenset()
    full: bool = False

    def add(self, number: int, kind: str = "asic", sheet_id: str = "") -> DeviceRow:
        row = DeviceRow(number, f"mac:{number}", number, "s", kind, f"{kind}-{number}", DeviceState.MINING, sheet_id=sheet_id)
        self.devices[number] = row
        return row

    async def device(self, number: int) -> DeviceRow:
        if number not in self.devices:
            raise NotFound(f"no device {number}")
        return self.devices[number]

    async def want(self, number: int, sheet_id: str) -> None:
        if self.full:
            raise Unavailable("no space")
        self.devices[number] = replace(await self.device(number), wanted_sheet_id=sheet_id)
        self.told.append((number, sheet_id))


@dataclass
class World:
    farm: Farm
    clock: ManualClock
    db: Database
    sheets: FlightSheets
    orders: int = 0

    async def order(self, device: DeviceRow, ref: str, state: ActionState = ActionState.QUEUED, *, action: str = "") -> str:
        """An order to apply a sheet, as the orders would write it."""
        self.orders += 1
        action_id = action or f"{self.orders:04}"
        rendered = await self.sheets.render(ref, device)
        arguments = {"sheet": msgspec.to_builtins(rendered)}
        row = ActionRow(action_id, ActionKind.APPLY_FLIGHT_SHEET, device.id, "s", state, "ada", 1, 2, 3, arguments)
        await self.db.write(lambda c: self.sheets.within(c, row))
        self.sheets.changed(row)
        return action_id

    async def wanted(self, device: DeviceRow) -> str | None:
        found = await self.sheets.wanted_of(device.id)
        return found.running_id if found else None

    async def until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not seen():  # noqa: ASYNC110  # nothing of what is waited for has an event
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    farm, clock = Farm(), ManualClock()

    async def devices() -> list[DeviceRow]:
        return list(farm.devices.values())

    async def switching() -> frozenset[int]:
        return farm.switching

    db = await Database.open(tmp_path / "fleet.db", MIGRATIONS)
    yield World(farm, clock, db, FlightSheets(db, Ports(farm.device, devices, farm.want, switching), clock))
    await db.close()


async def pin(world: World, version: str, sha256: str = SHA) -> ProgramRow:
    world.clock.advance(1)
    return await world.sheets.add_program(ME, ProgramRow("xmrig", version, "/opt/x.tar.gz", sha256, "x/xmrig"))


# ---- sheets --------------------------------------------------------------------------------------------------


async def test_a_sheet_is_kept(world: World) -> None:
    """By name in any case and by number, with its template; a second of the name is refused."""
    made = await world.sheets.create(ME, BTC)
    assert (made.revision, made.running_id, made.changed_by) == (1, f"{made.id}.1", "ada")
    assert await world.sheets.find("BTC") == await world.sheets.find(str(made.id)) == made
    with pytest.raises(Conflict):
        await world.sheets.create(ME, replace(BTC, name="Btc"))
    with pytest.raises(NotFound, match="sheets list"):
        await world.sheets.find("nope")
    with pytest.raises(BadInput):
        await world.sheets.create(ME, replace(BTC, name="x", wallet="-x"))
    assert [row.template.name for row in await world.sheets.sheets()] == ["btc"]


async def test_a_change_is_a_new_revision(world: World) -> None:
    """A change has a new running id; the same again changes nothing; a password left out stays."""
    made = await world.sheets.create(ME, BTC)
    no_password = (PoolTemplate(BTC.pools[0].url),)
    changed = await world.sheets.change(ME, "btc", replace(BTC, pools=no_password, wallet="bc1p"))
    assert (changed.id, changed.revision, changed.template.pools[0].password) == (made.id, 2, "hunter2")
    assert (await world.sheets.change(ME, "btc", replace(BTC, pools=no_password, wallet="bc1p"))).revision == 2
    await world.sheets.create(ME, replace(BTC, name="other"))
    with pytest.raises(Conflict):
        await world.sheets.change(ME, "btc", replace(BTC, name="OTHER"))
    assert (await world.sheets.change(ME, "btc", replace(BTC, name="BTC"))).template.name == "BTC"


async def test_numbers_are_never_given_again(world: World) -> None:
    """A rig may still run a sheet that was removed: its number means that sheet for ever, its name is free."""
    first = await world.sheets.create(ME, BTC)
    await world.sheets.remove(ME, "btc")
    with pytest.raises(NotFound):
        await world.sheets.find(str(first.id))
    assert (await world.sheets.create(ME, BTC)).id > first.id


async def test_a_sheet_in_use_stays(world: World) -> None:
    """It is not removed while a device should run it, or says it does; with the devices' names."""
    made = await world.sheets.create(ME, BTC)
    other = await world.sheets.create(ME, replace(BTC, name="other"))
    one = world.farm.add(1)
    await world.order(one, "btc")
    world.farm.add(2, sheet_id=f"{other.id}.1")
    with pytest.raises(Conflict, match="asic-1"):
        await world.sheets.remove(ME, "btc")
    with pytest.raises(Conflict, match="asic-2"):
        await world.sheets.remove(ME, "other")
    await world.order(one, "other")
    await world.sheets.remove(ME, str(made.id))
    del world.farm.devices[1], world.farm.devices[2]
    await world.sheets.remove(ME, "other")
    assert await world.sheets.sheets() == []


async def test_changes_are_audited_without_passwords(world: World) -> None:
    """Who, before and after; no secret."""
    await pin(world, "1")
    await world.sheets.create(ME, BTC)
    await world.sheets.change(ME, "btc", replace(BTC, wallet="bc1p"))
    await world.sheets.remove(ME, "btc")
    rows = await world.db.read(lambda c: audit.rows(c))
    assert [row.what for row in rows] == ["sheet.remove", "sheet.change", "sheet.create", "program.add"]
    assert rows[1].detail["before"]["wallet"] == "bc1q"
    assert rows[1].detail["after"]["wallet"] == "bc1p"
    assert "hunter2" not in repr(rows)


async def test_what_is_shown_holds_no_secret(world: World) -> None:
    """Template and rendered result are both shown, passwords hidden in both."""
    await pin(world, "1")
    secret = replace(XMR, pools=(PoolTemplate("tcp://pool.example:1", "hunter2"),), arguments=("-p={password}", "-P", "hunter2"))
    row = await world.sheets.create(ME, secret)
    rendered = await world.sheets.render("xmr", world.farm.add(1, "rig"))
    assert rendered.arguments == ("-p=hunter2", "-P", "hunter2")
    shown = api.shown(row), api.shown_rendered(rendered)
    assert "hunter2" not in repr(shown)
    assert shown[0]["arguments"][0] == "-p={password}"
    assert shown[1]["arguments"][0] == f"-p={rules.HIDDEN}"


# ---- programs ------------------------------------------------------------------------------------------------


async def test_programs_are_pinned(world: World) -> None:
    """A sheet keeps the version it was made with; a version never changes its meaning; one in use is not removed."""
    with pytest.raises(NotFound, match="programs add"):
        await world.sheets.create(ME, XMR)
    await pin(world, "6.26.0")
    await pin(world, "6.25.0")
    assert (await world.sheets.create(ME, XMR)).template.version == "6.25.0"
    named = await world.sheets.create(ME, replace(XMR, name="named", version="6.26.0"))
    assert named.template.version == "6.26.0"
    await pin(world, "7.0.0")
    rendered = await world.sheets.render("xmr", world.farm.add(1, "rig"))
    assert (rendered.version, rendered.archive and rendered.archive.sha256) == ("6.25.0", SHA)
    assert (await pin(world, "7.0.0")).sha256 == SHA
    with pytest.raises(Conflict, match="never changes"):
        await pin(world, "7.0.0", "cd" * 32)
    with pytest.raises(Conflict, match="'named'"):
        await world.sheets.remove_program(ME, "xmrig", "6.26.0")
    await world.sheets.remove_program(ME, "xmrig", "7.0.0")
    with pytest.raises(NotFound):
        await world.sheets.remove_program(ME, "xmrig", "7.0.0")
    assert [row.version for row in await world.sheets.programs()] == ["6.25.0", "6.26.0"]


async def test_rendering_says_what_is_missing(world: World) -> None:
    """No such sheet; a sheet that is not for this kind of device."""
    await world.sheets.create(ME, BTC)
    with pytest.raises(NotFound):
        await world.sheets.render("nope", world.farm.add(1))
    with pytest.raises(NotSupported):
        await world.sheets.render("btc", world.farm.add(2, "rig"))


# ---- what runs where -----------------------------------------------------------------------------------------


async def test_the_newest_order_says_what_a_device_should_run(world: World) -> None:
    """Each order replaces the one before; one that came to nothing counts for nothing; one that failed does."""
    device = world.farm.add(1)
    one = await world.sheets.create(ME, replace(BTC, name="one"))
    two = await world.sheets.create(ME, replace(BTC, name="two"))
    first = await world.order(device, "one")
    assert await world.wanted(device) == one.running_id
    second = await world.order(device, "two")
    assert await world.wanted(device) == two.running_id
    for state in (ActionState.CANCELLED, ActionState.EXPIRED, ActionState.REFUSED):
        await world.order(device, "two", state, action=second)
        assert await world.wanted(device) == one.running_id
    await world.order(device, "two", ActionState.SUCCEEDED, action=second)  # expired to us, and the sentry had done it
    assert await world.wanted(device) == two.running_id
    await world.order(device, "two", ActionState.FAILED, action=second)
    assert await world.wanted(device) == two.running_id
    await world.order(device, "one", ActionState.SUCCEEDED, action=first)  # a late word on the older order
    assert await world.wanted(device) == two.running_id


async def test_other_orders_are_none_of_ours(world: World) -> None:
    """Only orders to apply a sheet are noted."""
    row = ActionRow("a", ActionKind.REBOOT, 1, "s", ActionState.QUEUED, "ada", 1, 2, 3)
    await world.db.write(lambda c: world.sheets.within(c, row))
    assert await world.sheets.wanted_of(1) is None


async def test_a_sheet_changed_later_changes_no_device(world: World) -> None:
    """What a device should run is what was rendered for it then; the new revision has to be applied."""
    device = world.farm.add(1)
    await world.sheets.create(ME, BTC)
    await world.order(device, "btc")
    await world.sheets.change(ME, "btc", replace(BTC, wallet="bc1p"))
    found = await world.sheets.wanted_of(1)
    assert found is not None
    assert (found.revision, found.rendered.wallet) == (1, "bc1q")


async def test_drift_is_shown(world: World) -> None:
    """Devices that run another sheet, those with an open order, and those that are right."""
    made = await world.sheets.create(ME, BTC)
    for number, running in ((1, made.running_id), (2, "99.1"), (3, "99.1")):
        await world.order(world.farm.add(number, sheet_id=running), "btc")
    world.farm.switching = frozenset({3})
    found = {one.device.id: one for one in await world.sheets.standings(made.id)}
    assert {number: one.drift and one.drift.kind for number, one in found.items()} == {1: None, 2: "sheet", 3: "switching"}
    assert api.shown_standing(found[2])["running"] == "99.1"
    assert await world.sheets.standings(made.id + 1) == []
    del world.farm.devices[2]
    assert {one.device.id for one in await world.sheets.standings()} == {1, 3}


async def test_the_fleet_is_told(world: World) -> None:
    """What a device should run is passed on: at start, when it changes, and again after a failure."""
    made = await world.sheets.create(ME, BTC)
    one, two = world.farm.add(1), world.farm.add(2)
    await world.order(one, "btc")
    running = asyncio.create_task(world.sheets.run())
    await world.until(lambda: len(world.farm.told) == 1)
    world.farm.full = True
    await world.order(two, "btc")
    await world.until(lambda: bool(world.clock._sleepers))
    world.farm.full = False
    world.clock.advance(10)
    await world.until(lambda: len(world.farm.told) == 2)
    assert world.farm.told == [(1, made.running_id), (2, made.running_id)]
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
