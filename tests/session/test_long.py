"""Long troubles: an hour without a commander, in simulated time, and a journal at its cap."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from garrison.clock import ManualClock, SystemClock
from garrison.frame import Layout, Sample, pack
from garrison.model import Event
from sentry_core.journal import Journal
from sentry_core.settings import JournalSettings
from tests.session.a_sentry import Settings
from tests.session.farm import farm
from tests.session.post import enrolled, running, until

HOUR_S = 3600


@pytest.mark.timeout(300)
async def test_an_hour_without_a_commander(tmp_path: Path) -> None:
    """All looks of the hour arrive afterwards, each once; meanwhile it was tried again about once in half a minute."""
    async with farm(tmp_path / "farm") as it:
        await enrolled(tmp_path / "s", it.token())
        ports = (it.link.post_port, it.link.enrol_port)
    knocks = 0

    async def knocked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.transport.abort()

    clock = ManualClock(SystemClock().now_ms())
    settings = Settings(every_ms=10_000)
    async with running(tmp_path / "s", settings, clock) as sentry:
        closed = await asyncio.start_server(knocked, "127.0.0.1", ports[0])
        for _ in range(HOUR_S // 5):
            clock.advance(5)
            await asyncio.sleep(0.01)
        closed.close()
        await closed.wait_closed()
        assert sentry.post.looks >= HOUR_S // 10 - 20
        assert 20 <= knocks <= 1000, "neither given up nor a storm (a refused handshake is looked at a second time)"
        (tmp_path / "s" / "quiet").touch()
        async with farm(tmp_path / "farm", post_port=ports[0], enrol_port=ports[1]) as again:

            async def all_there() -> bool:
                clock.advance(5)
                await asyncio.sleep(0.02)
                return await again.count("frames") >= sentry.post.looks

            await until(all_there, 120)
            assert await again.count("frames") == sentry.post.looks
            assert await again.count("resent") == 0


async def test_a_journal_at_its_cap(tmp_path: Path) -> None:
    """The oldest looks are gone and counted, events are all there, and the commander is told how many looks are missing."""
    layout = Layout.of([("power_w", ""), ("hashrate_hs", "")])
    chance = [Sample(n, 1000 + n, {("power_w", ""): n % 7, ("hashrate_hs", ""): hash((n, "x")) % 10**15}) for n in range(9000)]
    async with farm(tmp_path / "farm") as it:
        who = await enrolled(tmp_path / "s", it.token())
        journal = await Journal.open(tmp_path / "s" / "journal.db", SystemClock(), cap_bytes=8 << 20)
        body = pack(layout, chance)
        written = 0
        while journal.frames_dropped < 5:
            await journal.append_frame(layout, body)
            await journal.append_event(Event(1, "k", f"event {written}"))
            written += 1
        dropped = journal.frames_dropped
        await journal.close()
        (tmp_path / "s" / "quiet").touch()
        settings = Settings(journal=JournalSettings(cap_mb=8, min_free_mb=0))
        async with running(tmp_path / "s", settings):
            await until(lambda: who.sentry_id in it.link.sessions())

            async def all_there() -> bool:
                return await it.count("frames") == written - dropped and await it.count("records") == written + 1

            await until(all_there)
            assert it.fleet.hellos[0].frames_dropped == dropped
            assert it.fleet.hellos[0].frames[0].first == dropped + 1
