"""The life of an order at the sentry: what is written when, what stops it, what a crash leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from garrison.clock import SystemClock
from garrison.faults import BadAnswer, RuleRefused
from garrison.model import Assignment, Order, Outcome
from garrison.words import ActionKind, ActionState
from sentry_core import guard
from sentry_core.journal import Action, Journal
from sentry_core.orders import Orders
from sentry_core.post import Outbox, Progress
from tests.session.post import until

S = ActionState
DEVICE = "mac:aa"


@dataclass
class TablePost:
    """Does what the test says, and counts."""

    done: list[str] = field(default_factory=list)
    settled: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    outcome: Outcome | Exception = field(default_factory=lambda: Outcome(S.SUCCEEDED, "done"))
    hold: asyncio.Event | None = None
    devices: tuple[str, ...] = (DEVICE, "mac:bb")
    kind = "asic"

    def capabilities(self) -> tuple[ActionKind, ...]:
        return tuple(kind for kind in ActionKind if kind is not ActionKind.LOCATE)

    def facts(self) -> Mapping[str, str]:
        return {}

    async def run(self, outbox: Outbox) -> None:
        await asyncio.Event().wait()

    async def assign(self, assignment: Assignment) -> None: ...

    def known(self, device: str) -> bool:
        return device in self.devices

    def payouts(self, order: Order) -> Sequence[str]:
        return []

    async def perform(self, order: Order, progress: Progress) -> Outcome:
        self.done.append(order.id)
        await progress.note("step", "1")
        if self.hold is not None:
            await self.hold.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        await progress.verifying("looking")
        return self.outcome

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        self.settled.append((order.id, dict(notes)))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Desk:
    """A journal and the executor over a post."""

    def __init__(self, folder: Path, post: TablePost, journal: Journal, orders: Orders) -> None:
        self.folder = folder
        self.post = post
        self.journal = journal
        self.orders = orders

    async def ended(self, action_id: str) -> Action:
        async with asyncio.timeout(20):
            while True:
                action = await self.journal.action(action_id)
                if action is not None and action.state.final:
                    return action
                await asyncio.sleep(0.005)

    async def reached(self, action_id: str, state: ActionState) -> None:
        async def is_there() -> bool:
            action = await self.journal.action(action_id)
            return action is not None and action.state is state

        await until(is_there)


@contextlib.asynccontextmanager
async def desk(folder: Path, post: TablePost | None = None) -> AsyncIterator[Desk]:
    """Leaving the block is a crash for whoever is in the middle of something."""
    clock = SystemClock()
    guard.write_default(folder)
    journal = await Journal.open(folder / "journal.db", clock)
    post = post or TablePost()
    orders = Orders(post, journal, clock, folder)
    task = asyncio.create_task(orders.run())
    try:
        yield Desk(folder, post, journal, orders)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await journal.close()


def order(action_id: str = "1", kind: ActionKind = ActionKind.PAUSE, **changes: object) -> Order:
    values: dict[str, object] = {"id": action_id, "kind": kind, "device": DEVICE, "not_after_ms": 60_000, "epoch": 1}
    return Order(**(values | changes))  # type: ignore[arg-type]  # a test's own keywords


async def states(it: Desk) -> list[tuple[str, ActionState]]:
    from garrison import wire
    from garrison.v1 import post_pb2 as pb
    from sentry_core.journal import RECORDS, Record

    found = await it.journal.unsent(RECORDS, {}, 1000)
    reports = [
        wire.report_from(wire.parsed(pb.ActionReport, r.body)) for r in found if isinstance(r, Record) and r.kind == "report"
    ]
    return [(report.action_id, report.state) for report in reports]


async def test_the_whole_way(tmp_path: Path) -> None:
    """Each step is a record, in order, before the next begins."""
    async with desk(tmp_path) as it:
        it.orders.take(order())
        await it.ended("1")
        assert await states(it) == [("1", S.ACCEPTED), ("1", S.STARTED), ("1", S.VERIFYING), ("1", S.SUCCEEDED)]


async def test_a_known_id_has_one_effect(tmp_path: Path) -> None:
    """However often it comes, also after a restart; each time the stored result is told again."""
    post = TablePost()
    async with desk(tmp_path, post) as it:
        for _ in range(3):
            it.orders.take(order())
        await it.ended("1")
    async with desk(tmp_path, post) as it:
        it.orders.take(order())

        async def told_again() -> bool:
            return (await states(it)).count(("1", S.SUCCEEDED)) == 2

        await until(told_again)
    assert post.done == ["1"]


@pytest.mark.parametrize(
    ("asked", "state", "fault"),
    [
        pytest.param(order(not_after_ms=0), S.EXPIRED, "timed_out", id="too late"),
        pytest.param(order(kind=ActionKind.LOCATE), S.REFUSED, "not_supported", id="cannot"),
        pytest.param(order(kind=ActionKind.REBOOT), S.REFUSED, "guard_refused", id="guard"),
    ],
)
async def test_refused_before_anything_is_done(tmp_path: Path, asked: Order, state: ActionState, fault: str) -> None:
    """ACCEPTED, then the refusal with its code; STARTED is never written."""
    (tmp_path / guard.FILE).write_text('actions = ["pause", "locate"]\n')
    async with desk(tmp_path) as it:
        it.orders.take(asked)
        end = await it.ended("1")
        assert (end.state, end.fault) == (state, fault)
        assert end.started_ms is None
        assert it.post.done == []


async def test_a_device_that_is_not_ours(tmp_path: Path) -> None:
    """After the start's grace: refused as not found."""
    async with desk(tmp_path) as it:
        it.orders._grace_until_ms = 0  # as if we had been running for long
        it.orders.take(order(device="mac:zz"))
        assert (await it.ended("1")).fault == "not_found"


async def test_a_device_that_is_not_known_yet(tmp_path: Path) -> None:
    """Just after the start it is waited for."""
    post = TablePost(devices=())
    async with desk(tmp_path, post) as it:
        it.orders.take(order())
        await it.reached("1", S.ACCEPTED)
        post.devices = (DEVICE,)
        assert (await it.ended("1")).state is S.SUCCEEDED


async def test_an_older_commander(tmp_path: Path) -> None:
    """An epoch below the highest that was seen is refused, after a restart too."""
    async with desk(tmp_path) as it:
        it.orders.take(order("1", epoch=5))
        await it.ended("1")
    async with desk(tmp_path) as it:
        it.orders.take(order("2", epoch=4))
        end = await it.ended("2")
        assert (end.state, end.fault) == (S.REFUSED, "conflict")


async def test_one_order_per_device_at_a_time(tmp_path: Path) -> None:
    """The second waits; another device does not."""
    post = TablePost(hold=asyncio.Event())
    async with desk(tmp_path, post) as it:
        for action_id, device in (("1", DEVICE), ("2", DEVICE), ("3", "mac:bb")):
            it.orders.take(order(action_id, device=device))
        await it.reached("3", S.STARTED)
        await it.reached("2", S.ACCEPTED)
        assert sorted(post.done) == ["1", "3"]
        assert post.hold is not None
        post.hold.set()
        await it.ended("2")
        assert post.done[2] == "2"


async def test_cancelling(tmp_path: Path) -> None:
    """What waits can be cancelled; what was started cannot."""
    post = TablePost(hold=asyncio.Event())
    async with desk(tmp_path, post) as it:
        it.orders.take(order("1"))
        it.orders.take(order("2"))
        await it.reached("1", S.STARTED)
        await it.reached("2", S.ACCEPTED)
        it.orders.cancel("2")
        it.orders.cancel("1")
        it.orders.cancel("unknown")
        assert (await it.ended("2")).state is S.CANCELLED
        assert post.hold is not None
        post.hold.set()
        assert (await it.ended("1")).state is S.SUCCEEDED
        assert post.done == ["1"]


@pytest.mark.parametrize(
    ("raised", "state", "fault"),
    [
        (RuleRefused("too soon"), S.REFUSED, "rule_refused"),
        (BadAnswer("HTML"), S.FAILED, "bad_answer"),
        (ZeroDivisionError(), S.UNKNOWN, "fault"),
    ],
)
async def test_what_a_post_raises(tmp_path: Path, raised: Exception, state: ActionState, fault: str) -> None:
    """A refusal is REFUSED, a fault FAILED; a bug of ours is UNKNOWN, for nobody knows what it did."""
    async with desk(tmp_path, TablePost(outcome=raised)) as it:
        it.orders.take(order())
        end = await it.ended("1")
        assert (end.state, end.fault) == (state, fault)


async def test_a_crash_after_the_start_is_settled_and_never_repeated(tmp_path: Path) -> None:
    """The post reads what is, with the notes that it made."""
    post = TablePost(hold=asyncio.Event())
    async with desk(tmp_path, post) as it:
        it.orders.take(order())
        await it.reached("1", S.STARTED)

        async def noted() -> bool:
            action = await it.journal.action("1")
            return action is not None and bool(action.notes)

        await until(noted)
    post.hold = None
    async with desk(tmp_path, post) as it:
        assert (await it.ended("1")).state is S.SUCCEEDED
    assert post.done == ["1"]
    assert post.settled == [("1", {"step": "1"})]


async def test_a_crash_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    """Neither succeeded nor failed."""
    post = TablePost(hold=asyncio.Event())
    async with desk(tmp_path, post) as it:
        it.orders.take(order(kind=ActionKind.REBOOT))
        await it.reached("1", S.STARTED)
    post.outcome = BadAnswer("nothing")
    async with desk(tmp_path, post) as it:
        end = await it.ended("1")
        assert (end.state, end.fault) == (S.UNKNOWN, "bad_answer")


async def test_a_crash_before_the_start(tmp_path: Path) -> None:
    """What was only accepted is still done, when its time is not over by the wall clock."""
    post = TablePost(hold=asyncio.Event())
    async with desk(tmp_path, post) as it:
        it.orders.take(order("1"))
        it.orders.take(order("2"))
        it.orders.take(order("3", not_after_ms=1))
        await it.reached("2", S.ACCEPTED)
        await it.reached("3", S.ACCEPTED)
    post.hold = None
    await asyncio.sleep(0.01)
    async with desk(tmp_path, post) as it:
        assert (await it.ended("2")).state is S.SUCCEEDED
        assert (await it.ended("3")).state is S.EXPIRED
    assert post.done == ["1", "2"]


async def test_a_broken_guard_stops_every_order(tmp_path: Path) -> None:
    """And says so; mending the file counts at once."""
    async with desk(tmp_path) as it:
        (tmp_path / guard.FILE).write_text("oops")
        it.orders.take(order("1"))
        assert (await it.ended("1")).fault == "guard_refused"
        (tmp_path / guard.FILE).unlink()
        guard.write_default(tmp_path)
        it.orders.take(order("2"))
        assert (await it.ended("2")).state is S.SUCCEEDED
