"""Tests of the latest values: newest wins, per look, exactly, also after a restart."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from commander.telemetry import columns
from commander.telemetry.latest import Latest
from commander.telemetry.series import RAW
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock
from garrison.frame import Layout, Number, Sample, Series, pack, parse

A: tuple[Series, ...] = (("state", ""), ("power_w", ""), ("accepted", ""))
B: tuple[Series, ...] = (("state", ""), ("look_ok", ""))
LAYOUTS = {"a": Layout.of(A), "b": Layout.of(B)}
NUMBERS: dict[str, st.SearchStrategy[Number]] = {
    "power_w": st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 50_000).map(lambda n: n / 10),
    "accepted": st.integers(0, 2**63 - 1),
    "state": st.integers(0, 10),
    "look_ok": st.integers(0, 1),
}
BOOT = bytes(16)


@st.composite
def looks(draw: st.DrawFn) -> tuple[str, list[Sample]]:
    name = draw(st.sampled_from(["a", "b"]))
    samples = []
    for _ in range(draw(st.integers(1, 6))):
        values: dict[Series, Number] = {}
        for series in A if name == "a" else B:
            if draw(st.integers(0, 3)):
                values[series] = draw(NUMBERS[series[0]])
        samples.append(Sample(draw(st.integers(0, 4)), draw(st.integers(0, 30)), values))
    return name, samples


@given(st.lists(looks(), max_size=15))
def test_as_a_dictionary_would(frames: list[tuple[str, list[Sample]]]) -> None:
    """Against a plain dictionary: any order of arrival, devices twice in a frame, absent values, values that do not fit
    their decimals, counters to 2^63. Of two looks of one time the later arrival wins."""
    latest = Latest()
    model: dict[int, Sample] = {}
    for name, samples in frames:
        latest.take(columns.look(parse(LAYOUTS[name], pack(LAYOUTS[name], samples))))
        for sample in samples:
            if sample.key not in model or sample.at_ms >= model[sample.key].at_ms:
                model[sample.key] = sample
    for _ in range(2):
        found = latest.rows(range(6))
        assert {key: (row.at_ms, row.values) for key, row in found.items()} == {k: (s.at_ms, s.values) for k, s in model.items()}
        some = latest.rows(range(6), {"power_w"})
        assert {key: row.values for key, row in some.items()} == {
            k: {s: v for s, v in sample.values.items() if s[0] == "power_w"} for k, sample in model.items()
        }
        latest.forget(15)
        model = {key: sample for key, sample in model.items() if sample.at_ms >= 15}


async def test_late_frames_do_not_overwrite(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """A backlog delivered after the live frame leaves the latest values alone, and is in the history."""
    await telemetry.learn_layout("s1", frames.layout)
    now_ms = clock.now_ms()
    await telemetry.take("s1", BOOT, 9, frames.layout.hash, frames.body(now_ms, {1: {"accepted": 9}}))
    await telemetry.take("s1", BOOT, 8, frames.layout.hash, frames.body(now_ms - 60_000, {1: {"accepted": 8}}))
    assert telemetry.latest([1])[1].values == {("accepted", ""): 9}
    found = await telemetry.chart(1, {("accepted", "")}, now_ms - 100_000, now_ms + 1)
    assert list(found.lines[0].stats["value"]) == [8, 9]


async def test_a_failed_look_knows_nothing_else(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """After a failed look the hashrate of the look before is not shown as if it were now."""
    await telemetry.learn_layout("s1", frames.layout)
    await telemetry.learn_layout("s1", LAYOUTS["b"])
    await telemetry.take("s1", BOOT, 1, frames.layout.hash, frames.body(clock.now_ms(), {1: {"hashrate_hs": 5, "look_ok": 1}}))
    failed = pack(LAYOUTS["b"], [Sample(1, clock.now_ms() + 10, {("look_ok", ""): 0})])
    await telemetry.take("s1", BOOT, 2, LAYOUTS["b"].hash, failed)
    assert telemetry.latest([1])[1].values == {("look_ok", ""): 0}


async def test_rebuilt_at_start(tmp_path: Path, clock: ManualClock) -> None:
    """After a restart the latest values are those of before: several posts, layouts, failed looks, devices gone for days,
    a backlog that came last."""
    rng = random.Random(3)
    telemetry = await Telemetry.open(tmp_path, clock, commit_every_ms=10)
    for layout in LAYOUTS.values():
        await telemetry.learn_layout("s1", layout)
    seq = 0
    for day in range(5):
        for look in range(30):
            at_ms = clock.now_ms() + rng.randrange(-3_000, 3_000) - (0 if look < 25 else 40_000_000)
            for post in ("s1", "s2"):
                name = rng.choice("ab")
                keys = [k for k in range(40) if (k % 2 == 0) == (post == "s1") and (k % 5 >= day or rng.random() < 0.1)]
                samples = [Sample(k << 58 | k, at_ms + k, {s: rng.randrange(9) for s in (A if name == "a" else B)}) for k in keys]
                seq += 1
                if samples:
                    await telemetry.take(post, BOOT, seq, LAYOUTS[name].hash, pack(LAYOUTS[name], samples))
            clock.advance(600)
        clock.advance(86_400 - 18_000)
    every = [k << 58 | k for k in range(40)]
    before = telemetry.latest(every)
    assert len(before) == 40
    await telemetry.close()
    telemetry = await Telemetry.open(tmp_path, clock)
    assert telemetry.latest(every) == before
    await telemetry.close()


async def test_a_clock_ten_years_ahead(telemetry: Telemetry, frames: Any, clock: ManualClock) -> None:
    """Samples of a sentry whose clock is far ahead are shown at about their arrival, keep their spacing, do not block later
    true ones, and are counted; the body stays as received."""
    await telemetry.learn_layout("s1", frames.layout)
    ahead_ms = 10 * 365 * 86_400_000
    now_ms = clock.now_ms()
    await telemetry.take("s1", BOOT, 30, frames.layout.hash, frames.body(now_ms + ahead_ms, {1: {"accepted": 30}}))
    assert telemetry.latest([1])[1].at_ms == now_ms
    backlog = [(20, 100_000), (21, 90_000), (22, 80_000)]
    for seq, ago_ms in backlog:
        body = frames.body(now_ms + ahead_ms - ago_ms, {1: {"accepted": seq}})
        await telemetry.take("s1", BOOT, seq, frames.layout.hash, body)
    clock.advance(10)
    await telemetry.take("s1", BOOT, 31, frames.layout.hash, frames.body(clock.now_ms(), {1: {"accepted": 31}}))
    assert telemetry.latest([1])[1].values == {("accepted", ""): 31}
    found = await telemetry.chart(1, {("accepted", "")}, now_ms - 3_600_000, clock.now_ms() + 1)
    assert list(zip((found.at_ms - now_ms).tolist(), found.lines[0].stats["value"], strict=True)) == [
        (-100_000, 20),
        (-90_000, 21),
        (-80_000, 22),
        (0, 30),
        (10_000, 31),
    ]
    assert telemetry.counts.ahead == 4


async def test_a_clock_set_during_a_look(telemetry: Telemetry, clock: ManualClock, tmp_path: Path) -> None:
    """A frame whose samples lie years apart is kept whole, found by a query at either end, and survives a restart."""
    layout = Layout.of([("accepted", "")])
    now_ms = clock.now_ms()
    old_ms = now_ms - 10 * 365 * 86_400_000
    samples = [Sample(1, old_ms, {("accepted", ""): 1}), Sample(2, now_ms, {("accepted", ""): 2})]
    await telemetry.learn_layout("s1", layout)
    await telemetry.take("s1", BOOT, 1, layout.hash, pack(layout, samples))
    for key, at_ms in ((1, old_ms), (2, now_ms)):
        found = await telemetry.chart(key, {("accepted", "")}, at_ms - 5, at_ms + 5, RAW)
        assert (found.at_ms.tolist(), list(found.lines[0].stats["value"])) == ([at_ms], [key])
    await telemetry.close()
    again = await Telemetry.open(tmp_path / "history", clock)
    assert {key: row.at_ms for key, row in again.latest([1, 2]).items()} == {1: old_ms, 2: now_ms}
    await again.close()
