"""The queue: read-back, four states, what is sent twice and what never, stagger, one exchange at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

from garrison.clock import SystemClock
from garrison.faults import (
    BadAnswer,
    BadInput,
    DidNotSwitch,
    Fault,
    NotSupported,
    TimedOut,
    Unavailable,
    Unreachable,
    WrongPassword,
)
from garrison.words import PowerState
from rrc.board import BoardAddress, Capabilities, OutletReading
from rrc.queue import BoardQueue, Effect, QueueLimits, Stagger
from rrc.table import open_board
from tests.simulators.tasmota import Tasmota as Plug

ON, OFF, CHANGING, UNKNOWN = PowerState.ON, PowerState.OFF, PowerState.CHANGING, PowerState.UNKNOWN


class HurryClock:
    """Sleeping moves it on at once; other tasks get their turn."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)
        await asyncio.sleep(0)


class Scripted:
    """A board that plays back what each exchange does: a state, or a fault. It counts the commands."""

    capabilities = Capabilities(outlets=2)

    def __init__(self, reads: list[PowerState | Fault], sets: list[Fault | None]) -> None:
        self.reads = reads
        self.sets = sets
        self.sent: list[bool] = []
        self.busy = False

    async def read(self, *, slow: bool = True) -> Mapping[str, OutletReading]:
        await self._alone()
        told = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        if isinstance(told, Fault):
            raise told
        return {"1": OutletReading(told)}

    async def set(self, outlet: str, on: bool) -> None:
        await self._alone()
        self.sent.append(on)
        told = self.sets.pop(0) if self.sets else None
        if told is not None:
            raise told

    async def cycle(self, outlet: str, off_s: int) -> None:
        raise NotSupported("none")

    async def close(self) -> None:
        return

    async def _alone(self) -> None:
        assert not self.busy, "two exchanges at once"
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False


def queue_of(board: Scripted, clock: HurryClock | None = None) -> BoardQueue:
    return BoardQueue(board, clock or HurryClock(), name="b")


LOST, GONE, BUSY, HTML = TimedOut("silence"), Unreachable("gone"), Unavailable("busy"), BadAnswer("html")


@pytest.mark.parametrize(
    ("on", "reads", "sets", "effect", "sent"),
    [
        # plain
        (False, [ON, OFF], [None], Effect.CONFIRMED, [False]),
        (True, [OFF, ON], [None], Effect.CONFIRMED, [True]),
        # so already: nothing is sent
        (True, [ON], [], Effect.CONFIRMED, []),
        (False, [OFF], [], Effect.CONFIRMED, []),
        # unknown and changing are not off, nor on: the command is sent, and the read-back waits
        (False, [UNKNOWN, CHANGING, CHANGING, OFF], [None], Effect.CONFIRMED, [False]),
        (True, [UNKNOWN, ON], [None], Effect.CONFIRMED, [True]),
        (False, [ON, UNKNOWN], [None], Effect.UNREACHABLE, [False]),
        (True, [UNKNOWN], [None], Effect.UNREACHABLE, [True]),
        # taken, and nothing moves: sent once
        (False, [ON], [None], Effect.DID_NOT_SWITCH, [False]),
        (True, [OFF], [None], Effect.DID_NOT_SWITCH, [True]),
        (False, [ON, CHANGING], [None], Effect.DID_NOT_SWITCH, [False]),
        # cannot have arrived: sent again, both ways
        (False, [ON, OFF], [GONE, BUSY, None], Effect.CONFIRMED, [False] * 3),
        (True, [OFF, ON], [GONE, None], Effect.CONFIRMED, [True] * 2),
        (False, [ON], [GONE] * 9, Effect.UNREACHABLE, [False] * 3),
        # may have arrived: an off is only read, never sent again
        (False, [ON, ON, ON, OFF], [LOST], Effect.CONFIRMED, [False]),
        (False, [ON], [LOST], Effect.DID_NOT_SWITCH, [False]),
        (False, [ON, OFF], [HTML], Effect.CONFIRMED, [False]),
        # an on that got lost is sent once more when a read says off
        (True, [OFF, OFF, ON], [LOST, None], Effect.CONFIRMED, [True] * 2),
        (True, [OFF, ON], [LOST], Effect.CONFIRMED, [True]),
        (True, [OFF, UNKNOWN], [LOST], Effect.UNREACHABLE, [True]),
        # the board goes away in the middle, and comes back
        (False, [ON, GONE, GONE, OFF], [None], Effect.CONFIRMED, [False]),
        (False, [ON, GONE], [None], Effect.UNREACHABLE, [False]),
        (False, [GONE, OFF], [None], Effect.CONFIRMED, [False]),
        # the log-in is refused after the command was taken: not known, and no exception hides that it was sent
        (False, [ON, WrongPassword("changed")], [None], Effect.UNREACHABLE, [False]),
    ],
)
async def test_switch(
    on: bool, reads: list[PowerState | Fault], sets: list[Fault | None], effect: Effect, sent: list[bool]
) -> None:
    """Each way a board can behave has its result, and sends exactly so many commands."""
    clock = HurryClock()
    began_ms = clock.ms
    board = Scripted(list(reads), list(sets))
    result = await queue_of(board, clock).switch("1", on)
    assert result.effect is effect
    assert board.sent == sent
    assert (result.state is result.wanted) is (effect is Effect.CONFIRMED)
    assert clock.ms - began_ms <= 25_000
    if effect is Effect.CONFIRMED:
        result.check()
    else:
        with pytest.raises(Fault) as refusal:
            result.check()
        assert isinstance(refusal.value, DidNotSwitch) is (effect is Effect.DID_NOT_SWITCH)


@pytest.mark.parametrize("fault", [WrongPassword("no"), BadInput("no")])
async def test_refused_before_anything_is_sent(fault: Fault) -> None:
    """A refused log-in goes up as it is; no command was sent."""
    board = Scripted([fault], [])
    with pytest.raises(type(fault)):
        await queue_of(board).switch("1", False)
    assert board.sent == []


async def test_read_is_repeated() -> None:
    """Reads are safe: repeated, then the last fault goes up."""
    assert (await queue_of(Scripted([GONE, LOST, ON], [])).read())["1"].state is ON
    with pytest.raises(TimedOut):
        await queue_of(Scripted([GONE, GONE, LOST], [])).read()
    with pytest.raises(BadAnswer):
        await queue_of(Scripted([HTML, ON], [])).read()


async def test_one_exchange_at_a_time() -> None:
    """Reads and commands of many callers never overlap on the board's line."""
    board = Scripted([ON, OFF, ON, OFF, ON], [])
    queue = queue_of(board)
    await asyncio.gather(
        *(queue.read() for _ in range(5)), queue.switch("1", False), queue.switch("2", True), queue.switch("1", True)
    )


async def test_stagger() -> None:
    """Ten on at once: 2 s apart on one circuit; on other circuits at once, but 1 s apart on one board."""
    clock = HurryClock()
    began_ms = clock.ms
    turns: dict[str, list[int]] = {}
    stagger = Stagger(clock, 2.0)

    async def take(board: str, circuit: str) -> None:
        await stagger.turn(board, circuit)
        turns.setdefault(circuit or board, []).append(clock.ms - began_ms)

    for _ in range(3):
        await take("b1", "C1")
    assert turns["C1"] == [0, 2000, 4000]
    await take("b2", "C2")
    assert turns["C2"] == [4000]
    await take("b2", "C3")
    assert turns["C3"] == [5000]
    for _ in range(2):
        await take("b9", "")
    assert [b - a for a, b in itertools.pairwise(turns["b9"])] == [2000]


async def test_a_board_that_hangs_in_the_driver() -> None:
    """The queue's own limit ends an exchange whose driver forgot one."""

    class Hangs(Scripted):
        async def read(self, *, slow: bool = True) -> Mapping[str, OutletReading]:
            await asyncio.Event().wait()
            return {}

    queue = BoardQueue(Hangs([], []), HurryClock(), limits=QueueLimits(exchange_s=0.05, tries=1))
    with pytest.raises(TimedOut):
        await queue.read()


# ---- over real sockets ---------------------------------------------------------------------------------------


def plug_queue(plug: Plug, confirm_within_s: float = 1.5) -> BoardQueue:
    limits = QueueLimits(poll_s=0.05, confirm_within_s=confirm_within_s, retry_after_s=0.05)
    clock = SystemClock()
    return BoardQueue(open_board(BoardAddress("tasmota", plug.address, plug.outlets), clock), clock, name="plug", limits=limits)


async def test_plug_that_accepts_and_does_not_switch() -> None:
    """ "Taken and did not switch" has words of its own, one command, no click."""
    async with Plug(mode="stuck") as plug:
        queue = plug_queue(plug)
        result = await queue.switch("1", False)
        await queue.close()
        assert result.effect is Effect.DID_NOT_SWITCH
        with pytest.raises(DidNotSwitch, match="took the command and outlet 1 did not switch: it reads on, not off"):
            result.check()
        assert len(plug.commands) == 1
        assert plug.clicks == []


@pytest.mark.parametrize("on", [True, False])
async def test_answer_lost_after_the_click(on: bool) -> None:
    """The plug switches and its answer is lost: the read-back confirms it, and the contact moved once."""
    async with Plug(mode="lost") as plug:
        plug.on[1] = not on
        queue = plug_queue(plug)
        result = await queue.switch("1", on)
        await queue.close()
        assert (result.effect, result.sent) == (Effect.CONFIRMED, True)
        assert [click.on for click in plug.clicks] == [on]
        assert len(plug.commands) == 1


async def test_fake_that_is_slow(tmp_path: Path) -> None:
    """ "Changing" is waited for; it is neither on nor off."""
    options = {"state_file": str(tmp_path / "s.json"), "slow": "0.3"}
    clock = SystemClock()
    queue = BoardQueue(open_board(BoardAddress("fake", "x", 1, options=options), clock), clock, limits=QueueLimits(poll_s=0.05))
    result = await queue.switch("1", False)
    assert result.effect is Effect.CONFIRMED
    assert CHANGING in {state for _, state in result.reads}


async def test_cycle_by_the_boards_timer() -> None:
    """Confirmed off; a second later on again by the board, one click each way."""
    back = asyncio.Event()
    async with Plug(on_switch=lambda outlet, on: back.set() if on else None) as plug:
        queue = plug_queue(plug)
        assert queue.can_cycle(3)
        assert not queue.can_cycle(3600)
        result = await queue.cycle("1", 3)
        assert (result.effect, result.state) == (Effect.CONFIRMED, OFF)
        async with asyncio.timeout(30):
            await back.wait()
        await queue.close()
        assert [click.on for click in plug.clicks] == [False, True]
        with pytest.raises(NotSupported):
            await queue.cycle("1", 3600)
