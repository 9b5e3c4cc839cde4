"""The promise of delivery against a plain dictionary: whatever is repeated, reordered, replayed, refused by a full disk or
cut by a restart, every acknowledged frame is present once, and Welcome says exactly what is durable."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.faults import DiskFull
from garrison.frame import Layout, Sample, pack
from garrison.spans import Spans

LAYOUT = Layout.of([("accepted", ""), ("power_w", "")])
JOURNALS = [("s1", bytes(16)), ("s1", b"\x01" * 16), ("s2", bytes(16))]
Frame = tuple[int, int]  # journal, seq


@cache
def _body(frame: Frame) -> bytes:
    """More than a page of the database, so that a full disk is felt at once."""
    noise = random.Random(frame[0] * 1_000 + frame[1])
    samples = [Sample(key, 1_700_000_000_000 + frame[1], {("power_w", ""): noise.random()}) for key in range(400)]
    return pack(LAYOUT, samples)


class Delivery(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.acked: set[Frame] = set()
        self.settled: dict[int, int] = {}  # journal to the first number still held
        self.lied: set[Frame] = set()
        self.full = False
        self._open()

    def _open(self) -> None:
        async def opening() -> Telemetry:
            telemetry = await Telemetry.open(self.folder, self.clock, commit_every_ms=1)
            for sentry, _ in JOURNALS:
                await telemetry.learn_layout(sentry, LAYOUT)
            return telemetry

        self.telemetry = self.runner.run(opening())

    @rule(frames=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 25)), min_size=1, max_size=12), lie=st.integers(0, 30))
    def deliver(self, frames: list[Frame], lie: int) -> None:
        """Any frames in any order, also twice at once and again after their acknowledgement; now and then one that lies."""

        async def delivering() -> None:
            jobs = []
            for i, frame in enumerate(frames):
                self.clock.advance(1)
                body = _body(frame)
                if i == lie and frame not in self.acked and frames.count(frame) == 1:
                    self.lied.add(frame)
                    body = body[:-1]
                jobs.append(self.telemetry.take(*JOURNALS[frame[0]], frame[1], LAYOUT.hash, body))
            for frame, result in zip(frames, await asyncio.gather(*jobs, return_exceptions=True), strict=True):
                if result is None:
                    self.acked.add(frame)
                else:
                    assert isinstance(result, DiskFull)
                    assert self.full
                    self.lied.discard(frame)

        self.runner.run(delivering())

    @rule(journal=st.integers(0, 2), first=st.integers(1, 10))
    def hello(self, journal: int, first: int) -> None:
        """A session begins: what the sentry holds, from `first`, is answered exactly; what is below is settled for ever."""
        if self.full:
            return
        first = self.settled[journal] = max(first, self.settled.get(journal, 1))
        durable = self.runner.run(self.telemetry.durable(JOURNALS[journal][0], [(JOURNALS[journal][1], first, 25)]))
        expected = Spans((seq, seq) for seq in range(first, 26) if (journal, seq) in self.acked)
        assert durable == {JOURNALS[journal][1]: expected}
        self.acked |= {(journal, seq) for seq in range(1, first)}  # a late copy of such a frame is answered at once
        self.lied |= {(journal, seq) for seq in range(1, first) if (journal, seq) not in self._hot()}

    @rule()
    def restart(self) -> None:
        """An orderly stop and start; kill -9 has a test with real processes."""
        self.runner.run(self.telemetry.close())
        self.full = False
        self._open()

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        async def resizing() -> None:
            pages = await self.telemetry.db.read(lambda c: c.execute("pragma page_count").fetchone()[0])
            limit = pages if full else 1_000_000
            await self.telemetry.db.write(lambda c: c.execute(f"pragma max_page_count={limit}").fetchone())

        self.runner.run(resizing())
        self.full = full

    @invariant()
    def every_acknowledged_frame_is_there_once(self) -> None:
        rows = self._rows()
        assert len(rows) == len(set(rows))
        assert self.acked - self.lied <= set(rows)
        assert set(rows) <= self.acked
        assert not self.lied & set(rows)

    def _rows(self) -> list[Frame]:
        read = self.telemetry.db.read(
            lambda c: c.execute(
                """select sentry, boot, seq from hot join posts on posts.no = hot.post
                    join journals on journals.no = hot.journal"""
            ).fetchall()
        )
        return [(JOURNALS.index((sentry, boot)), seq) for sentry, boot, seq in self.runner.run(read)]

    def _hot(self) -> set[Frame]:
        return set(self._rows())

    def teardown(self) -> None:
        self.runner.run(self.telemetry.close())
        self.runner.close()
        shutil.rmtree(self.folder)


Delivery.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestDelivery = Delivery.TestCase
