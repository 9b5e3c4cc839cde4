"""The stream over real gRPC and mutual TLS, both ends in this process: what is sent, kept, sent again, and when it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from commander.link.ports import Terms
from garrison.clock import SystemClock
from garrison.faults import Conflict
from garrison.model import Order
from garrison.words import ActionKind, ActionState
from sentry_core.journal import FRAMES, RECORDS, Journal
from tests.session.a_sentry import IDENTITY, Settings
from tests.session.farm import Farm, farm
from tests.session.post import enrolled, running, until
from tests.session.proxy import proxy


async def left_in(home: Path) -> tuple[int, int]:
    """Frames and records of a stopped sentry that nobody has acknowledged."""
    journal = await Journal.open(home / "journal.db", SystemClock())
    try:
        return len(await journal.unsent(FRAMES, {}, 10_000)), len(await journal.unsent(RECORDS, {}, 10_000))
    finally:
        await journal.close()


async def goodbye(it: Farm, home: Path) -> None:
    """Drains the commander: all acks are sent before the goodbye, so the sentry has them when it knows of that."""
    await it.link.drain("the test ends", 60_000)
    await until(lambda: "the test ends" in (home / "status.json").read_text())


async def test_first_session(tmp_path: Path) -> None:
    """Frames, events, the whole roster and the assignment arrive; all is acknowledged; the end is clean on both sides."""
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s") as sentry:
            await until(lambda: len(it.telemetry.taken) > 30)
            await until(lambda: IDENTITY in it.fleet.devices and bool(sentry.post.assigned))
            assert sentry.post.assigned[0] == it.fleet.given
            assert it.link.sessions()[who.sentry_id].software.startswith("garrison")
            assert it.fleet.hellos[0].facts["hostname"] == "test"
            (tmp_path / "s" / "quiet").touch()

            async def all_there() -> bool:
                return await it.count("frames") == sentry.post.looks

            await until(all_there)
            await goodbye(it, tmp_path / "s")
        assert it.fleet.open[who.sentry_id] == 0
        assert await it.count("resent") == 0
    assert await left_in(tmp_path / "s") == (0, 0)


async def test_an_order_is_carried_out_once_and_reported(tmp_path: Path) -> None:
    """From accepted to succeeded; the same id again gets the stored result and no second effect."""
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s", Settings(order_ms=1)):
            await until(lambda: who.sentry_id in it.link.sessions())
            order = Order("0001", ActionKind.REBOOT, IDENTITY, 60_000, 1)
            assert await it.order(who.sentry_id, order)
            await until(lambda: ActionState.SUCCEEDED in [r.state for r in it.actions.reports])
            states = [r.state for r in it.actions.reports]
            assert states == [ActionState.ACCEPTED, ActionState.STARTED, ActionState.VERIFYING, ActionState.SUCCEEDED]
            assert it.link.order(who.sentry_id, order)
            await until(lambda: len(it.actions.reports) == 5)
            assert it.actions.reports[-1].state is ActionState.SUCCEEDED
            assert it.actions.reports[-1].detail == {"seen": "yes"}
        assert (tmp_path / "s" / "effects").read_text() == "0001\n"


async def test_an_order_waits_for_a_sentry_that_is_away(tmp_path: Path) -> None:
    """`order` says that it is not connected; the next session brings it."""
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        assert not await it.order(who.sentry_id, Order("0002", ActionKind.PAUSE, IDENTITY, 60_000, 1))
        async with running(tmp_path / "s", Settings(order_ms=1)):
            await until(lambda: ActionState.SUCCEEDED in [r.state for r in it.actions.reports])


async def test_live_goes_before_the_backlog(tmp_path: Path) -> None:
    """A commander that was away for long gets what is new at once, and the backlog in a window."""
    async with farm(tmp_path / "farm", terms=Terms("f", reconnect_window_ms=100, backlog_window=4)) as it:
        await enrolled(tmp_path / "s", it.token())
        journal = await Journal.open(tmp_path / "s" / "journal.db", SystemClock())
        from garrison.frame import Layout, Sample, pack

        layout = Layout.of([("power_w", "")])
        for at_ms in range(1, 401):
            await journal.append_frame(layout, pack(layout, [Sample(1, at_ms, {("power_w", ""): 1})]))
        await journal.close()
        async with running(tmp_path / "s", Settings(every_ms=5)):
            await until(lambda: any(seq > 400 for _, seq in it.telemetry.taken))
            first_live = next(place for place, (_, seq) in enumerate(it.telemetry.taken) if seq > 400)
            assert first_live < 100
            await until(lambda: {seq for _, seq in it.telemetry.taken} >= set(range(1, 401)))
            old = [seq for _, seq in it.telemetry.taken if seq <= 400]
            assert old == sorted(old)
        assert await it.count("resent") == 0


async def test_a_restored_commander_is_refilled(tmp_path: Path) -> None:
    """Frames and records that a commander lost after acknowledging them (an older backup) are sent again."""
    async with farm(tmp_path / "farm") as it:
        await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s"):
            await until(lambda: len(it.telemetry.taken) > 50)
    async with farm(tmp_path / "farm", post_port=it.link.post_port, enrol_port=it.link.enrol_port) as again:
        before = await again.count("frames")
        await again.db.write(lambda c: c.execute("delete from frames where seq > 10").rowcount)
        await again.db.write(lambda c: c.execute("delete from records").rowcount)
        (tmp_path / "s" / "quiet").touch()
        async with running(tmp_path / "s"):

            async def refilled() -> bool:
                return await again.count("frames") >= before and await again.count("records") >= 2

            await until(refilled)


async def test_a_full_disk_at_the_commander_loses_nothing(tmp_path: Path) -> None:
    """Nothing is acknowledged, the sentry is asked to come back, and then brings all of it."""
    terms = Terms("f", reconnect_window_ms=100, disk_full_come_back_ms=100)
    async with farm(tmp_path / "farm", terms=terms) as it:
        await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s") as sentry:
            await until(lambda: len(it.telemetry.taken) > 10)
            it.telemetry.full = True
            await until(lambda: len(it.fleet.reasons) > 1)
            it.telemetry.full = False
            (tmp_path / "s" / "quiet").touch()
            looks = sentry.post.looks

            async def all_there() -> bool:
                return await it.count("frames") >= looks

            await until(all_there)
            await goodbye(it, tmp_path / "s")
    assert await left_in(tmp_path / "s") == (0, 0)


async def test_drain(tmp_path: Path) -> None:
    """What was received is acknowledged before the goodbye; the sentry comes back to the restarted commander by itself."""
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s", Settings(every_ms=5)):
            await until(lambda: len(it.telemetry.taken) > 50)
            await it.link.drain("an update", 50)
            assert "an update" in it.fleet.reasons[0]
            async with farm(tmp_path / "farm", post_port=it.link.post_port, enrol_port=it.link.enrol_port) as again:
                await until(lambda: who.sentry_id in again.link.sessions())
                (tmp_path / "s" / "quiet").touch()
                assert await again.count("resent") == 0


async def test_the_newest_session_of_a_sentry_wins(tmp_path: Path) -> None:
    """The older one is told why; the count of open sessions stays right."""
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        from shutil import copytree

        copytree(tmp_path / "s", tmp_path / "copy")
        async with running(tmp_path / "s"):
            await until(lambda: who.sentry_id in it.link.sessions())
            async with running(tmp_path / "copy"):
                await until(lambda: any("newer session" in reason for reason in it.fleet.reasons))
        await until(lambda: it.fleet.open[who.sentry_id] == 0)


async def test_cut_says_why(tmp_path: Path) -> None:
    """`Link.cut` ends the session with the fault's own words, in the sentry's status too."""
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s"):
            await until(lambda: who.sentry_id in it.link.sessions())
            status = tmp_path / "s" / "status.json"
            await until(lambda: status.exists() and "connected" in status.read_text())
            it.link.cut(who.sentry_id, Conflict("the farm moves"))
            await until(lambda: "the farm moves" in status.read_text())


async def test_a_new_assignment_arrives_and_is_there_without_a_commander(tmp_path: Path) -> None:
    """`reassign` sends it; after a restart with no commander the post gets the stored one."""
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s") as sentry:
            await until(lambda: bool(sentry.post.assigned))
            from dataclasses import replace

            it.fleet.given = replace(it.fleet.given, revision=2, poll_every_ms=5000)
            it.link.reassign(who.sentry_id)
            await until(lambda: sentry.post.assigned[-1].revision == 2)
    async with running(tmp_path / "s") as alone:
        await until(lambda: bool(alone.post.assigned))
        assert alone.post.assigned[0].poll_every_ms == 5000
        assert (tmp_path / "s" / "assignment.bin").stat().st_mode & 0o077 == 0


async def test_a_cut_of_seconds(tmp_path: Path) -> None:
    """The network breaks, refuses for a while, and comes back: everything is there, and nothing twice."""
    async with farm(tmp_path / "farm") as it, proxy(it.link.post_port) as between:
        await enrolled(tmp_path / "s", it.token())
        settings = Settings(commander=f"127.0.0.1:{between.port}")
        async with running(tmp_path / "s", settings) as sentry:
            await until(lambda: len(it.telemetry.taken) > 20)
            between.refuse = True
            between.cut()
            await asyncio.sleep(2)
            between.refuse = False
            (tmp_path / "s" / "quiet").touch()
            looks = sentry.post.looks

            async def all_there() -> bool:
                return await it.count("frames") >= looks

            await until(all_there)
            assert await it.count("frames") == looks
            await goodbye(it, tmp_path / "s")
    assert await left_in(tmp_path / "s") == (0, 0)


@pytest.mark.parametrize("busy", [True, False])
async def test_a_half_open_link_is_found(tmp_path: Path, busy: bool) -> None:
    """The proxy swallows all bytes without closing: both sides notice in 20 s, and the sentry comes back."""
    async with farm(tmp_path / "farm") as it, proxy(it.link.post_port) as between:
        who = await enrolled(tmp_path / "s", it.token())
        async with running(tmp_path / "s", Settings(commander=f"127.0.0.1:{between.port}")):
            await until(lambda: len(it.telemetry.taken) > 20)
            if not busy:
                (tmp_path / "s" / "quiet").touch()
                await asyncio.sleep(0.5)
            between.swallow = True
            begun = asyncio.get_running_loop().time()
            await until(lambda: '"waiting"' in (tmp_path / "s" / "status.json").read_text(), 60)
            await until(lambda: who.sentry_id not in it.link.sessions(), 60)
            assert asyncio.get_running_loop().time() - begun < 25
            between.swallow = False
            between.cut()
            await until(lambda: who.sentry_id in it.link.sessions(), 60)
