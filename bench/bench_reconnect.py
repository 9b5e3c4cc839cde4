"""All sentries come back: N mutual-TLS streams, `kill -9` of the commander, and the time until everybody is back.

`python -m bench.bench_reconnect`, some four minutes; BENCH_STREAMS sets N (5,000). The real commander in a process of its own;
the sentries are light ones (bench/streams.py) in two other processes of the same machine, so what is measured includes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import results
from bench.measure import Measured
from bench.whole_farm import Streams, WholeFarm, allow_files, cpu_s, machine_cpu_s, memory_kb, streams
from sentry_core.session import WINDOW_S

BENCH = "reconnect"
STREAMS = int(os.environ.get("BENCH_STREAMS", "5000"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
PROCESSES = 2
GOAL_S = 2 * WINDOW_S
"""The commander calls nobody offline before two windows have passed."""
LIMIT_S = 180.0
HELD_S = 12.0
"""A session that held longer than 10 s is opened again at once when it breaks."""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds from the kill. `cpu_ms`: of the commander, a stream. `others`: processors that programs with no part in this took."""

    most_s: float
    all_s: float
    down_s: float
    failed: int
    lag_p99_s: float
    lag_max_s: float
    cpu_ms: float
    rss_kb: float
    others: float


def told(clients: Sequence[Streams], *words: object) -> tuple[int, int, list[float]]:
    """All processes together: open now, failed tries, when each came back."""
    answers = [one.ask(*words) for one in clients]
    opened, failed = (int(sum(answer[key][0] for answer in answers)) for key in ("open", "failed"))
    return opened, failed, sorted(at for answer in answers for at in answer["at"])


def until_all(clients: Sequence[Streams]) -> tuple[int, list[float]]:
    deadline = time.monotonic() + LIMIT_S
    while True:
        opened, failed, at = told(clients, "state")
        if opened == STREAMS:
            return failed, at
        if time.monotonic() > deadline:
            raise RuntimeError(f"{opened} of {STREAMS} streams after {LIMIT_S:.0f} s")
        time.sleep(0.5)


def connect(farm: WholeFarm, clients: Sequence[Streams]) -> float:
    """How long it takes from nothing, everybody in his part of one window."""
    began_s = time.monotonic()
    for one in clients:
        one.ask("open", STREAMS, WINDOW_S)
    failed, at = until_all(clients)
    print(f"{STREAMS} streams: all in {at[-1] - began_s:.1f} s, {failed} failed tries, commander {farm.cpu_s():.1f} s CPU")
    return at[-1] - began_s


def restart(farm: WholeFarm, clients: Sequence[Streams], idle_kb: int) -> Round:
    time.sleep(HELD_S)
    told(clients, "mark")
    killed_s, busy_s = time.monotonic(), machine_cpu_s() - sum(cpu_s(one.process.pid) for one in clients)
    farm.kill()
    farm.start()
    down_s = time.monotonic() - killed_s
    failed, at = until_all(clients)
    busy_s = machine_cpu_s() - sum(cpu_s(one.process.pid) for one in clients) - farm.cpu_s() - busy_s
    others = busy_s / (time.monotonic() - killed_s)
    time.sleep(2)
    done = Round(
        most_s=at[int(len(at) * 0.97)] - killed_s,
        all_s=at[-1] - killed_s,
        down_s=down_s,
        failed=failed,
        lag_p99_s=farm.loop_lag_s(0.99),
        lag_max_s=farm.loop_lag_s(1),
        cpu_ms=farm.cpu_s() / STREAMS * 1000,
        rss_kb=(memory_kb(farm.pid)["Rss"] - idle_kb) / STREAMS,
        others=others,
    )
    back = f"97 % back after {done.most_s:.1f} s, all after {done.all_s:.1f} s, {failed} failed tries"
    late = f"loop late p99 ≤ {done.lag_p99_s * 1000:g} ms, worst ≤ {done.lag_max_s * 1000:g} ms"
    cost = f"{done.cpu_ms:.1f} ms CPU, {done.rss_kb:.0f} kB a stream"
    print(f"kill -9, {done.down_s:.1f} s down: {back}; {late}; {cost}; others took {others:.2f} processors")
    return done


def tell(first_s: float, rounds: Sequence[Round]) -> None:
    def of(name: str) -> Measured:
        return Measured(tuple(float(getattr(one, name)) for one in rounds))

    results.begin(BENCH)
    many = f"{STREAMS:,} streams"
    everybody = of("all_s")
    goal = f"≤ {GOAL_S:g} s: two windows, before which nobody is called offline"
    results.add(
        BENCH, f"{many}, kill -9: all back", everybody.median, "s", goal=goal, ok=max(everybody.runs) <= GOAL_S, runs=everybody.runs
    )
    rest = (
        ("97 % back", "most_s", "s"),
        ("commander down", "down_s", "s"),
        ("failed tries", "failed", "tries"),
        ("delay of the commander's loop, p99, at most", "lag_p99_s", "s"),
        ("worst delay of the commander's loop, at most", "lag_max_s", "s"),
        ("CPU of the commander a stream, its start included", "cpu_ms", "ms"),
        ("RSS of the commander a stream, with its device", "rss_kb", "kB"),
        (f"processors of {os.cpu_count()} that other programs took meanwhile", "others", "processors"),
    )
    for words, name, unit in rest:
        results.add(BENCH, f"{many}, kill -9: {words}", of(name).median, unit, runs=of(name).runs)
    results.add(BENCH, f"{many}: all connect, spread over one window", first_s, "s", runs=[first_s])


async def prepare(farm: WholeFarm) -> None:
    farm.init()
    await farm.enrol(STREAMS)


def main() -> None:
    if allow_files(STREAMS + 2_000) < STREAMS + 500:
        raise SystemExit(f"error: {STREAMS} streams need as many open files\nhint: ulimit -n, or BENCH_STREAMS=1000")
    # not in /tmp, which may be memory: an fsync must cost what it costs
    with tempfile.TemporaryDirectory(prefix=".bench-reconnect-", dir=".") as home, contextlib.ExitStack() as stack:
        farm = WholeFarm(Path(home).absolute())
        began_s = time.monotonic()
        asyncio.run(prepare(farm))
        print(f"{STREAMS} sentries enrolled in {time.monotonic() - began_s:.1f} s")
        farm.start()
        stack.callback(farm.kill)
        share = -(-STREAMS // PROCESSES)
        clients = [
            stack.enter_context(streams(farm, first, min(share, STREAMS - first), devices=True))
            for first in range(0, STREAMS, share)
        ]
        told(clients, "state")
        time.sleep(2)
        idle_kb = memory_kb(farm.pid)["Rss"]
        first_s = connect(farm, clients)
        rounds = [restart(farm, clients, idle_kb) for _ in range(RUNS)]
        farm.stop()
    tell(first_s, rounds)


if __name__ == "__main__":
    main()
