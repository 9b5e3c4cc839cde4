"""Who is who over time, with a clock that the test moves: what happens after a disk was copied or moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from commander.fleet.records import EventRecord, MachineRecord
from commander.link.machines import KEPT, Machines, Place
from commander.link.ports import Ports, SessionInfo
from commander.link.rules import post_name
from garrison.clock import ManualClock
from garrison.faults import DiskFull
from garrison.model import SentryHello

A, B, C = (letter * 16 for letter in (b"a", b"b", b"c"))
MIN_10 = 600


@dataclass
class Rest:
    """The fleet and the orders, as far as machines need them; both at once."""

    kept: dict[str, Sequence[MachineRecord]] = field(default_factory=dict)
    notes: list[EventRecord] = field(default_factory=list)
    twins: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    writes: int = 0
    full: bool = False

    async def machines(self) -> Mapping[str, Sequence[MachineRecord]]:
        return dict(self.kept)

    async def keep_machines(self, sentry_id: str, machines: Sequence[MachineRecord]) -> None:
        if self.full:
            raise DiskFull("no space left")
        self.writes += 1
        self.kept[sentry_id] = tuple(machines)

    def mark_twin(self, sentry_id: str, address: str) -> None:
        self.twins[sentry_id] = address

    async def note(self, event: EventRecord) -> None:
        self.notes.append(event)

    def hold(self, sentry_id: str, why: str) -> None:
        self.held[sentry_id] = why

    @property
    def told(self) -> list[str]:
        return [note.kind for note in self.notes]


@dataclass
class World:
    clock: ManualClock = field(default_factory=ManualClock)
    rest: Rest = field(default_factory=Rest)
    sessions: dict[str, SessionInfo] = field(default_factory=dict)
    machines: Machines = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        rest = cast("Any", self.rest)
        self.sessions.clear()
        self.machines = Machines(Ports(rest, rest, rest, rest), self.clock, MIN_10 * 1000, self.sessions.__contains__)

    async def come(self, machine: bytes, address: str = "") -> Place:
        """A session of this machine opens; it speaks once."""
        address = address or f"10.0.0.{machine.decode()[:1] or '0'}:1"
        hello = SentryHello("rig", "test", b"b" * 16, self.clock.now_ms(), address=address, machine=machine)
        place = await self.machines.place("s1", hello)
        self.sessions[place.post] = SessionInfo("s1", address, self.clock.now_ms(), "rig")
        return place

    def go(self, post: str) -> None:
        del self.sessions[post]
        self.machines.left(post)

    async def after(self, seconds: float, *speaking: str) -> list[str]:
        self.clock.advance(seconds)
        for post in speaking:
            self.sessions[post].last_message_ms = self.clock.now_ms()
        return await self.machines.tend(lambda: self.sessions)

    def standing(self) -> dict[bytes, str]:
        return {one.machine: one.standing for one in self.rest.kept["s1"]}


@pytest.fixture
def world() -> World:
    return World()


TWIN = post_name("s1", B)


async def test_a_clone(world: World) -> None:
    """Apart from the first Hello on; told when both have spoken; over ten minutes after it was last heard."""
    assert await world.come(A) == Place("s1")
    assert await world.come(B) == Place(TWIN, twin=True)
    assert world.machines.held("s1")
    assert "another machine" in world.rest.held["s1"]
    assert await world.after(2, TWIN) == []
    assert world.rest.told == []
    await world.after(2, "s1", TWIN)
    assert world.rest.told == ["sentry_cloned"]
    assert "10.0.0.a:1" in world.rest.notes[0].text
    assert "10.0.0.b:1" in world.rest.notes[0].text
    assert "two machines" in world.rest.held["s1"]
    world.go(TWIN)
    await world.after(MIN_10)
    assert world.machines.held("s1")
    await world.after(1)
    assert not world.machines.held("s1")
    assert (world.rest.held["s1"], world.rest.twins["s1"]) == ("", "")
    assert world.rest.told == ["sentry_cloned", "sentry_clone_gone"]
    assert world.standing() == {A: "main", B: "gone"}


async def test_told_once_a_day(world: World) -> None:
    """However often it goes and comes, and over a restart."""
    await world.come(A)
    for _ in range(3):
        await world.come(B)
        await world.after(2, "s1")
        world.go(TWIN)
        await world.after(MIN_10 + 1, "s1")
        assert not world.machines.held("s1")
    world.restart()
    await world.machines.load()
    await world.come(A)
    await world.come(B)
    await world.after(2, "s1")
    assert world.rest.told.count("sentry_cloned") == 1
    await world.after(86_400, "s1", TWIN)
    assert world.rest.told.count("sentry_cloned") == 2


async def test_a_moved_disk(world: World) -> None:
    """Its session is asked to come again when the old machine was silent for ten minutes, and takes the place. No alarm."""
    await world.come(A)
    world.go("s1")
    world.clock.advance(60)
    assert (await world.come(B)).twin
    assert await world.after(MIN_10 - 60, TWIN) == []
    assert await world.after(1, TWIN) == [TWIN]
    world.go(TWIN)
    assert await world.come(B) == Place("s1")
    assert not world.machines.held("s1")
    assert world.rest.told == ["sentry_moved"]
    assert world.standing() == {A: "gone", B: "main"}
    assert await world.come(A) == Place(post_name("s1", A), twin=True)


async def test_moved_while_it_was_off(world: World) -> None:
    """The other machine comes after the silence: it takes the place at once."""
    await world.come(A)
    world.go("s1")
    world.clock.advance(MIN_10 + 1)
    assert await world.come(B) == Place("s1")
    assert world.rest.told == ["sentry_moved"]


async def test_an_adopted_clone_is_told_what_it_brought(world: World) -> None:
    """What was kept apart counts as there: in this session and the next. Of one that was alone it does not: it comes again."""
    await world.come(A)
    await world.come(B)
    await world.after(2, "s1", TWIN)
    world.go("s1")
    assert await world.after(MIN_10 + 1, TWIN) == [TWIN]
    world.go(TWIN)
    assert await world.come(B) == Place("s1", also=TWIN)
    world.restart()
    await world.machines.load()
    assert await world.come(B) == Place("s1", also=TWIN)


async def test_a_restart(world: World) -> None:
    """The own machine stays that, whoever comes first; orders wait at once; silence counts from our own start."""
    await world.come(A)
    await world.come(B)
    world.clock.advance(3_600)
    world.restart()
    await world.machines.load()
    assert world.machines.held("s1")
    assert (await world.come(B)).twin
    assert await world.come(A) == Place("s1")
    world.restart()
    await world.machines.load()
    await world.come(A)
    await world.after(MIN_10 + 1, "s1")
    assert not world.machines.held("s1"), "the other one never came"


async def test_an_open_session_is_heard(world: World) -> None:
    """A sentry that has nothing to say for an hour is not silent while its stream stands."""
    await world.come(A)
    world.clock.advance(3_600)
    assert (await world.come(B)).twin


async def test_the_wall_clock_counts_for_nothing(world: World) -> None:
    """A jump of years neither adopts nor lets orders go."""
    await world.come(A)
    world.go("s1")
    world.clock.step_wall(315_360_000)
    assert (await world.come(B)).twin
    world.clock.step_wall(-315_360_000)
    assert await world.after(5, TWIN) == []
    assert world.machines.held("s1")


async def test_of_three_one_is_adopted(world: World) -> None:
    """And the other stays a twin of it."""
    await world.come(A)
    await world.come(B)
    await world.come(C)
    world.go("s1")
    assert await world.after(MIN_10 + 1) == [TWIN]
    world.go(TWIN)
    assert await world.come(B) == Place("s1")
    assert world.machines.held("s1")
    assert world.standing() == {A: "gone", B: "main", C: "twin"}


async def test_writes(world: World) -> None:
    """One for each change, none for a session more; what a full disk did not take is written with the next Hello."""
    world.rest.full = True
    with pytest.raises(DiskFull):
        await world.come(A)
    world.rest.full = False
    await world.come(A)
    await world.come(A, "10.0.0.9:9")
    await world.come(b"")
    assert world.rest.writes == 1
    await world.come(B)
    await world.come(B, "10.0.0.8:8")
    assert world.rest.writes == 2
    assert world.rest.twins["s1"] == "10.0.0.8:8"
    world.rest.full = True
    await world.after(2, "s1", TWIN)
    world.rest.full = False
    await world.after(2, "s1", TWIN)
    assert world.rest.told == ["sentry_cloned"]
    assert [one.met for one in world.rest.kept["s1"]] == [False, True]


async def test_no_end_of_machines(world: World) -> None:
    """A sentry that calls itself another machine each time fills neither memory nor the table, and stays itself."""
    await world.come(A)
    for number in range(3 * KEPT):
        await world.come(b"%016d" % number)
    assert len(world.rest.kept["s1"]) == KEPT
    assert await world.come(A) == Place("s1")
