"""Tests of ingest: acknowledged is on disk once, whatever comes twice, late, out of order, false, or onto a full disk."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from commander.telemetry import ingest as ingest_module
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.faults import BadInput, DiskFull, Unavailable
from garrison.frame import Column, Layout
from garrison.spans import Spans

BOOT = bytes(range(16))
OTHER = bytes(reversed(range(16)))
ROOT = Path(__file__).parents[3]


async def _hot(telemetry: Telemetry) -> list[tuple[str, bytes, int]]:
    rows = await telemetry.db.read(
        lambda c: c.execute(
            "select sentry, boot, seq from hot join posts on posts.no = hot.post join journals on journals.no = journal order by id"
        ).fetchall()
    )
    return [tuple(row) for row in rows]


async def test_done_means_on_disk(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """When `take` is done, another connection sees the frame, its layout and its mark; and the latest values show it."""
    await telemetry.learn_layout("s1", frames.layout)
    body = frames.body(clock.now_ms(), {7: {"hashrate_hs": 5, "power_w": 3.5}})
    await telemetry.take("s1", BOOT, 1, frames.layout.hash, body)
    assert await _hot(telemetry) == [("s1", BOOT, 1)]
    assert await telemetry.durable("s1", [(BOOT, 1, 9)]) == {BOOT: Spans([(1, 1)])}
    row = telemetry.latest([7, 8])
    assert row.keys() == {7}
    assert row[7].values == {("hashrate_hs", ""): 5, ("power_w", ""): 3.5}
    assert telemetry.counts.frames == telemetry.counts.samples == 1
    assert telemetry.counts.values == 2


async def test_a_frame_needs_no_durable_layout_first(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """A layout and the frames naming it may be handed in without waiting; they become durable together."""
    layout = telemetry.learn_layout("s1", frames.layout)
    jobs = [telemetry.take("s1", BOOT, seq, frames.layout.hash, frames.body(clock.now_ms(), {1: {"state": 1}})) for seq in (1, 2)]
    await asyncio.gather(layout, *jobs)
    assert len(await _hot(telemetry)) == 2
    assert telemetry.counts.commits == 1


async def test_a_repeated_frame_counts_once(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """While the first is on its way, and after: each asker is told when it is durable, the frame is there once."""
    await telemetry.learn_layout("s1", frames.layout)
    body = frames.body(clock.now_ms(), {1: {"state": 1}})
    first, second = (telemetry.take("s1", BOOT, 5, frames.layout.hash, body) for _ in range(2))
    first.cancel()
    await second
    await telemetry.take("s1", BOOT, 5, frames.layout.hash, body)
    await telemetry.take("s1", OTHER, 5, frames.layout.hash, body)
    await telemetry.take("s2", BOOT, 5, frames.layout.hash, body)
    assert await _hot(telemetry) == [("s1", BOOT, 5), ("s1", OTHER, 5), ("s2", BOOT, 5)]
    assert telemetry.counts.repeated == 2


async def test_a_lying_frame_is_set_aside_and_done(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """Cut, overlong, flipped, empty, of another layout, of an unknown layout: kept for people, acked, and not repeated."""
    await telemetry.learn_layout("s1", frames.layout)
    other = Layout.of([("state", "")])
    await telemetry.learn_layout("s1", other)
    good = frames.body(clock.now_ms(), {1: {"state": 1, "power_w": 3.5}})
    lies = [good[:-1], good + b"x", good[:30] + bytes([good[30] ^ 255]) + good[31:], b"", good]
    for seq, lie in enumerate(lies, start=1):
        await telemetry.take("s1", BOOT, seq, (other if lie is good else frames.layout).hash, lie)
    await telemetry.take("s1", BOOT, 6, bytes(16), good)
    assert await _hot(telemetry) == []
    aside = await telemetry.set_aside()
    assert [frame.seq for frame in aside] == [6, 5, 4, 3, 2, 1]
    assert all(frame.code == "bad_frame" and frame.text for frame in aside)
    assert telemetry.counts.set_aside == 6
    assert await telemetry.durable("s1", [(BOOT, 1, 6)]) == {BOOT: Spans([(1, 6)])}
    assert telemetry.latest([1]) == {}


async def test_what_is_set_aside_is_bounded(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentry gone mad fills neither the table nor the disk: the oldest go, long bodies are cut."""
    monkeypatch.setattr("commander.telemetry.store.SET_ASIDE_ROWS", 10)
    await asyncio.gather(*(telemetry.take("s1", BOOT, seq, bytes(16), bytes(100_000)) for seq in range(1, 51)))
    aside = await telemetry.set_aside()
    assert [frame.seq for frame in aside] == list(range(50, 40, -1))
    assert all(len(frame.body) <= 64 << 10 for frame in aside)


@pytest.mark.parametrize(("boot", "seq"), [(BOOT, 0), (BOOT, -1), (BOOT, 2**63), (b"short", 1)])
async def test_impossible_numbers_are_refused(telemetry: Telemetry, boot: bytes, seq: int) -> None:
    """They can be neither stored nor acknowledged."""
    with pytest.raises(BadInput):
        await telemetry.take("s1", boot, seq, bytes(16), b"")
    with pytest.raises(BadInput):
        await telemetry.durable("s1", [(boot, seq, seq)])


async def test_layouts_in_memory_are_bounded(
    telemetry: Telemetry, frames: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many layouts there are, memory holds some, and the others are read from the database when they are named."""
    monkeypatch.setattr(ingest_module, "LAYOUTS", 3)
    await telemetry.learn_layout("s1", frames.layout)
    for i in range(10):
        await telemetry.learn_layout("s1", Layout((Column("later_metric", str(i), "x", 0),)))
    await telemetry.take("s1", BOOT, 1, frames.layout.hash, frames.body(clock.now_ms(), {1: {"state": 1}}))
    assert await _hot(telemetry) == [("s1", BOOT, 1)]


async def test_a_metric_of_a_newer_sentry_is_kept(telemetry: Telemetry, clock: ManualClock) -> None:
    """A layout may name metrics this catalogue does not know: nothing is lost, the latest values show them."""
    from garrison.frame import Sample, pack

    layout = Layout((Column("later_metric", "part:1", "x", 2),))
    await telemetry.learn_layout("s1", layout)
    await telemetry.take("s1", BOOT, 1, layout.hash, pack(layout, [Sample(1, clock.now_ms(), {("later_metric", "part:1"): 2.25})]))
    assert telemetry.latest([1])[1].values == {("later_metric", "part:1"): 2.25}


async def test_what_a_sentry_no_longer_holds_is_settled(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """After Hello all below the first held frame is forgotten, so that marks do not grow; it survives a restart."""
    await telemetry.learn_layout("s1", frames.layout)
    body = frames.body(clock.now_ms(), {1: {"state": 1}})
    for seq in (3, 5, 9, 10):
        await telemetry.take("s1", BOOT, seq, frames.layout.hash, body)
    assert await telemetry.durable("s1", [(BOOT, 8, 12), (OTHER, 4, 5)]) == {BOOT: Spans([(9, 10)]), OTHER: Spans()}
    marks = await telemetry.db.read(lambda c: c.execute("select first, last from marks order by journal, first").fetchall())
    assert [tuple(row) for row in marks] == [(1, 7), (9, 10), (1, 3)]


async def test_a_full_disk_acknowledges_nothing_and_recovers_alone(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """DiskFull to each asker, the live view goes on, reads go on; with room again the same frame is taken, once."""
    await telemetry.learn_layout("s1", frames.layout)
    pages = await telemetry.db.write(lambda c: c.execute("pragma page_count").fetchone()[0])
    await telemetry.db.write(lambda c: c.execute(f"pragma max_page_count={pages + 1}").fetchone())
    body = frames.body(clock.now_ms(), {key: {"state": 1, "hashrate_hs": key * 7**9} for key in range(1, 2000)})
    with pytest.raises(DiskFull):
        await asyncio.gather(*(telemetry.take("s1", BOOT, seq, frames.layout.hash, body) for seq in range(1, 9)))
    assert telemetry.latest([5])[5].values["hashrate_hs", ""] == 5 * 7**9
    assert await telemetry.durable("s1", [(BOOT, 1, 9)]) == {BOOT: Spans()}
    assert await _hot(telemetry) == []
    assert telemetry.waiting_bytes == 0
    await telemetry.db.write(lambda c: c.execute("pragma max_page_count=1000000").fetchone())
    await asyncio.gather(*(telemetry.take("s1", BOOT, seq, frames.layout.hash, body) for seq in range(1, 9)))
    assert [seq for _, _, seq in await _hot(telemetry)] == list(range(1, 9))


async def test_a_slow_disk_bounds_what_waits(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound frames are refused with "retry later"; nothing that was taken is lost."""
    monkeypatch.setattr(ingest_module, "QUEUE_BYTES", 1_000)
    jobs = [telemetry.take("s1", BOOT, seq, bytes(16), bytes(300)) for seq in range(1, 6)]
    done = await asyncio.gather(*jobs, return_exceptions=True)
    assert [isinstance(result, Unavailable) for result in done] == [False, False, False, True, True]


async def test_close_makes_durable_what_was_taken(tmp_path: Path, clock: ManualClock, frames: Any) -> None:
    """Nothing taken before `close` is lost; after it frames are refused; open again: the same marks and latest values."""
    telemetry = await Telemetry.open(tmp_path, clock, commit_every_ms=5_000)
    telemetry.learn_layout("s1", frames.layout)
    jobs = [
        telemetry.take("s1", BOOT, seq, frames.layout.hash, frames.body(clock.now_ms() + seq, {1: {"accepted": seq}}))
        for seq in range(1, 601)
    ]
    begun = time.monotonic()
    await telemetry.close()
    assert time.monotonic() - begun < 4.5
    await asyncio.gather(*jobs)
    with pytest.raises(Unavailable):
        await telemetry.take("s1", BOOT, 601, frames.layout.hash, b"")
    telemetry = await Telemetry.open(tmp_path, clock, commit_every_ms=10)
    assert await telemetry.durable("s1", [(BOOT, 1, 700)]) == {BOOT: Spans([(1, 600)])}
    assert telemetry.latest([1])[1].values == {("accepted", ""): 600}
    await telemetry.close()


async def test_a_flood_does_not_stall_the_loop(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """While thousands of frames are decoded and committed, the event loop stays responsive."""
    await telemetry.learn_layout("s1", frames.layout)
    body = frames.body(clock.now_ms(), {key: {"state": 1, "hashrate_hs": key * 7**9} for key in range(1, 251)})
    jobs = [telemetry.take("s1", BOOT, seq, frames.layout.hash, body) for seq in range(1, 3001)]
    waited = asyncio.gather(*jobs)
    stalls = []
    while not waited.done():
        begun = time.monotonic()
        await asyncio.sleep(0.002)
        stalls.append(time.monotonic() - begun)
    await waited
    stalls.sort()
    assert stalls[len(stalls) * 95 // 100] < 0.25  # generous: the box is slow and shared


WRITER = """
import asyncio, sys
from pathlib import Path
from commander.telemetry.service import Telemetry
from garrison.clock import SystemClock
from garrison.frame import Layout, Sample, pack

async def main(folder, life):
    clock = SystemClock()
    telemetry = await Telemetry.open(folder, clock, commit_every_ms=20)
    layout = Layout.of([("state", ""), ("accepted", "")])
    telemetry.learn_layout("s1", layout)
    async def send(seq):
        body = pack(layout, [Sample(k, clock.now_ms(), {("accepted", ""): seq}) for k in range(20)])
        await telemetry.take("s1", bytes(15) + bytes([life]), seq, layout.hash, body)
        print(life, seq, flush=True)
    for first in range(1, 10**9, 50):
        await asyncio.gather(*(send(seq) for seq in range(first, first + 50)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


async def test_kill_9_loses_and_doubles_nothing_acknowledged(tmp_path: Path, clock: ManualClock) -> None:
    """A real process killed in the middle of ingest, several times on one file: every frame it acknowledged is there once,
    and what the marks call durable is exactly what is there."""
    acked: set[tuple[int, int]] = set()
    for life in range(3):
        with subprocess.Popen(  # noqa: ASYNC220  # a test alone on its loop
            [sys.executable, "-c", WRITER, str(tmp_path), str(life)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(0.15 + 0.1 * life)  # noqa: ASYNC251  # the moment of the kill
            writer.kill()
            lines = (first + writer.stdout.read()).rpartition("\n")[0].splitlines()
        acked |= {(int(line.split()[0]), int(line.split()[1])) for line in lines}
    assert len(acked) > 50
    with closing(sqlite3.connect(tmp_path / "hot.db")) as c:
        rows = c.execute("select boot, seq from hot join journals on journals.no = journal").fetchall()
    there = [(boot[-1], seq) for boot, seq in rows]
    assert len(there) == len(set(there))
    assert acked <= set(there)
    telemetry = await Telemetry.open(tmp_path, clock)
    for life in range(3):
        boot = bytes(15) + bytes([life])
        held = [seq for which, seq in there if which == life]
        marks = (await telemetry.durable("s1", [(boot, 1, max(held))]))[boot]
        assert marks == Spans((seq, seq) for seq in held)
    await telemetry.close()
