"""Tests of commander.flight_sheets.pool_watch over a real database: one event with its list, restores counted for good."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from commander import schema
from commander.db import Database
from commander.fleet import store as fleet_store
from commander.fleet.records import EventRecord
from commander.flight_sheets.pool_watch import AGAIN_MS, CHANGED, LEFT, RESTORER, PoolWatch, Ports
from commander.flight_sheets.records import PoolTemplate, Template
from commander.flight_sheets.rules import ASSIGNED
from commander.flight_sheets.service import FlightSheets
from commander.flight_sheets.service import Ports as SheetPorts
from commander.model import ActionRow, Caller, DeviceRow
from garrison.clock import ManualClock
from garrison.faults import BadInput, NotFound
from garrison.model import Pool
from garrison.words import ActionKind, ActionState, DeviceState

ME = Caller("ada", "operator")
BTC = Template("btc", "BTC", "sha256", (PoolTemplate("stratum+tcp://pool.example:3333"),), "farm")
THIEF = (Pool("stratum+tcp://thief.example:3333", "thief.x"),)
LOOK_S = 10.0
K, S = ActionKind, ActionState


@dataclass
class World:
    """`give` acts as the orders do; devices take every restore until `stubborn`."""

    db: Database
    clock: ManualClock
    sheets: FlightSheets
    devices: dict[int, DeviceRow] = field(default_factory=dict)
    switching: frozenset[int] = frozenset()
    asked: list[list[str]] = field(default_factory=list)
    refuses: bool = False
    meanwhile: Callable[[], Awaitable[None]] | None = None
    orders: int = 0
    restore: bool = True
    watch: PoolWatch = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """The commander anew, over what is on disk."""
        self.watch = PoolWatch(
            self.db, Ports(self._devices, self._switching, self._restore), self.clock, restore=self.restore, look_s=LOOK_S
        )

    async def _devices(self, ids: Sequence[int]) -> list[DeviceRow]:
        if self.meanwhile is not None:
            await self.meanwhile()
        return [self.devices[one] for one in ids if one in self.devices]

    async def _switching(self) -> frozenset[int]:
        return self.switching

    async def _restore(self, identities: Sequence[str]) -> list[str]:
        self.asked.append(list(identities))
        if self.refuses:
            return list(identities)
        for row in [row for row in self.devices.values() if row.identity in identities]:
            await self.give(row.id, ASSIGNED, RESTORER, S.QUEUED, S.SENT, S.SUCCEEDED)
        return []

    async def give(self, number: int, ref: str = "btc", caller: Caller = ME, *states: ActionState) -> None:
        """An order through its states; where it succeeds, the device has the pools."""
        self.orders += 1
        device = self.devices[number]
        sheet = await self.sheets.render(ref, device)
        row = ActionRow(
            f"{self.orders:04}",
            K.APPLY_FLIGHT_SHEET,
            number,
            "s",
            S.QUEUED,
            caller.name,
            1,
            2,
            3,
            {"sheet": msgspec.to_builtins(sheet)},
        )
        for state in states or (S.QUEUED, S.SENT, S.SUCCEEDED):
            now = replace(row, state=state)
            await self.db.write(partial(self._hooks, row=now))
            self.watch.changed(now)
            if state is S.SUCCEEDED:
                self.tell(number, tuple(Pool(pool.url, pool.user) for pool in sheet.pools))

    def _hooks(self, c: sqlite3.Connection, row: ActionRow) -> None:
        self.sheets.within(c, row)
        self.watch.within(c, row)

    def tell(self, number: int, pools: tuple[Pool, ...], **more: object) -> None:
        self.devices[number] = replace(self.devices[number], pools=pools, **more)  # type: ignore[arg-type]  # fields of it

    async def looks(self, count: int = 6) -> None:
        for _ in range(count):
            await self.watch.tick()
            self.clock.advance(LOOK_S)

    async def events(self, *kinds: str, device: int | None = None) -> list[EventRecord]:
        return await self.db.read(lambda c: fleet_store.events(c, kinds=kinds or (CHANGED, LEFT), device_id=device))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    db, clock = await Database.open(tmp_path / "fleet.db", schema.FLEET), ManualClock()

    async def nothing(*_: object) -> None: ...

    async def device(number: int) -> DeviceRow:
        return made.devices[number]

    async def devices() -> list[DeviceRow]:
        return list(made.devices.values())

    async def switching() -> frozenset[int]:
        return frozenset()

    made = World(db, clock, FlightSheets(db, SheetPorts(device, devices, nothing, switching), clock))
    await made.sheets.create(ME, BTC)
    for number in (1, 2, 3, 4):
        able = (K.APPLY_FLIGHT_SHEET,)
        made.devices[number] = DeviceRow(
            number, f"mac:{number}", number, "s", "asic", f"asic-{number}", DeviceState.MINING, capabilities=able
        )
        await made.give(number)
    await made.looks()
    assert await made.events() == []
    yield made
    await db.close()


async def test_one_event_put_right_twice_then_left_alone(world: World) -> None:
    """Three devices: one event names them all, also after each comes back to it; the third time is left, told once, for good.
    Starting anew in between forgets no restore."""
    for round_ in (1, 2):
        for number in (1, 2, 3):
            world.tell(number, THIEF)
        await world.looks()
        assert world.asked == [["mac:1", "mac:2", "mac:3"]] * round_
        world.start()
    for number in (1, 2, 3):
        world.tell(number, THIEF)
    await world.looks(20)
    world.start()
    await world.looks(20)
    assert len(world.asked) == 2
    (changed,), (left,) = await world.events(CHANGED), await world.events(LEFT)
    everyone = ((1, "asic-1"), (2, "asic-2"), (3, "asic-3"))
    assert (changed.severity, changed.devices, changed.device_id) == ("critical", everyone, None)
    assert "thief.example:3333 as thief" in changed.text
    assert "asic-1, asic-2, asic-3" in changed.text
    assert (left.severity, left.devices) == ("critical", everyone)
    assert "put right 2 times" in left.text
    assert changed.detail["assigned"] == "pool.example:3333 as farm.asic-1"


async def test_a_person_begins_anew(world: World) -> None:
    """What was put right counts for what a person ordered: another order of theirs, and it is put right twice again."""
    for _ in range(3):
        world.tell(1, THIEF)
        await world.looks()
    assert len(world.asked) == 2
    await world.give(1)
    await world.looks()
    world.tell(1, THIEF)
    await world.looks()
    assert len(world.asked) == 3
    assert len(await world.events(CHANGED)) == 2


async def test_who_follows_joins(world: World) -> None:
    """The list grows, and each device finds the event; another change is an event of its own."""
    world.restore = False
    world.start()
    world.tell(1, THIEF)
    await world.looks()
    (alone,) = await world.events()
    assert (alone.device_id, alone.devices, alone.text.partition(" ")[0]) == (1, ((1, "asic-1"),), "asic-1")
    world.tell(2, THIEF)
    world.tell(3, (Pool("stratum+tcp://other.example:1", "x"),))
    await world.looks()
    other, both = await world.events()
    assert (both.id, both.device_id, both.devices) == (alone.id, None, ((1, "asic-1"), (2, "asic-2")))
    assert [one.id for one in await world.events(device=2)] == [both.id]
    assert [one.id for one in await world.events(device=3)] == [other.id]
    assert await world.events(device=4) == []
    assert world.asked == []


@pytest.mark.parametrize(
    "more",
    [
        {"pools": ()},
        {"pools": THIEF, "state": DeviceState.UNKNOWN},
        {"pools": THIEF, "state": DeviceState.UNREACHABLE},
        {"pools": THIEF, "state": DeviceState.MAINTENANCE},
        {"pools": (Pool("tcp://POOL.example:3333", "Farm"),)},
    ],
)
async def test_no_false_alarm(world: World, more: dict[str, object]) -> None:
    """Not read, not heard, in a person's hands, or told in other words."""
    world.tell(1, **more)  # type: ignore[arg-type]  # pools are among them
    await world.looks()
    assert (await world.events(), world.asked) == ([], [])


async def test_what_is_gone_soon_was_none(world: World) -> None:
    """A look on its way, or an order that is open: nothing is told."""
    for _ in range(5):
        world.tell(1, THIEF)
        await world.looks(2)
        world.tell(1, (Pool(BTC.pools[0].url, "farm.asic-1"),))
        await world.looks(1)
    world.tell(1, THIEF)
    world.switching = frozenset({1})
    await world.looks(20)
    assert (await world.events(), world.asked) == ([], [])


async def test_an_order_that_failed_is_not_repeated(world: World) -> None:
    """It never held there: told, and left to the person who ordered it. Once it held, it is put right."""
    before = world.devices[1].pools
    await world.sheets.create(ME, replace(BTC, name="two", pools=(PoolTemplate("stratum+tcp://two.example:1"),)))
    await world.give(1, "two", ME, S.QUEUED, S.SENT, S.FAILED)
    await world.looks(10)
    (event,) = await world.events()
    assert "never took what it was ordered" in event.text
    assert world.asked == []
    world.tell(1, (Pool("stratum+tcp://two.example:1", "farm.asic-1"),))
    await world.looks(1)
    world.tell(1, before)
    await world.looks()
    assert world.asked == [["mac:1"]]


async def test_a_refused_restore_is_tried_later_and_does_not_count(world: World) -> None:
    """Another order may be open. A device that takes no sheets is asked never, and left."""
    world.refuses = True
    world.tell(1, THIEF)
    world.tell(2, THIEF, capabilities=())
    await world.looks(6)
    assert world.asked == [["mac:1"]]
    assert [one.devices for one in await world.events(LEFT)] == [((2, "asic-2"),)]
    world.refuses = False
    world.clock.advance(AGAIN_MS / 1000)
    await world.looks(6)
    assert world.asked == [["mac:1"]] * 2
    world.tell(1, THIEF)
    await world.looks(6)
    assert world.asked == [["mac:1"]] * 3


async def test_an_order_in_the_middle_of_a_look(world: World) -> None:
    """What was compared with the sheet of before says nothing of the new one: it is not told, and not taken for held."""
    await world.sheets.create(ME, replace(BTC, name="two", pools=(PoolTemplate("stratum+tcp://two.example:1"),)))
    world.tell(1, THIEF)
    await world.looks(3)

    async def order() -> None:
        for number in (1, 2):
            await world.give(number, "two", ME, S.QUEUED)

    world.meanwhile = order
    await world.looks(1)
    assert await world.events() == []
    world.meanwhile = None
    for number in (1, 2):
        await world.give(number, "two", ME, S.FAILED)
    await world.looks(8)
    assert world.asked == []
    assert all("never took" in one.text for one in await world.events())


async def test_restored_as_it_was_given(world: World) -> None:
    """In the revision it was given, not the newest. No sheet can take that name; who was given nothing has none."""
    await world.sheets.change(ME, "btc", replace(BTC, wallet="later"))
    assert (await world.sheets.render(ASSIGNED, world.devices[1])).pools[0].user == "farm.asic-1"
    with pytest.raises(BadInput):
        await world.sheets.create(ME, replace(BTC, name=ASSIGNED))
    with pytest.raises(NotFound):
        await world.sheets.render(ASSIGNED, replace(world.devices[1], id=99))


async def test_a_farm_of_before(tmp_path: Path) -> None:
    """A database without the lists gets them, and keeps its events."""
    event = EventRecord(5, "gpu_lost", "a card", "critical", "s", 4)
    old = await Database.open(tmp_path / "fleet.db", schema.FLEET[:6])
    await old.write(lambda c: fleet_store.add_event(c, event))
    await old.close()
    db = await Database.open(tmp_path / "fleet.db", schema.FLEET)
    assert [replace(one, id=0) for one in await db.read(lambda c: fleet_store.events(c, device_id=4))] == [event]
    await db.close()
