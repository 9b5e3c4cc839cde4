"""Memory: an idle rig sentry, and the commander for each stream it holds. `python -m bench.bench_memory`, two minutes.

Both are the real programs as an owner starts them. The rig sentry of this machine is enrolled over mutual TLS and read after
half a minute of idling; the commander with 0, 1,000 and 2,000 streams of light sentries (bench/streams.py) without devices.
The goals are on RSS, as `top` shows it; what would be freed if the process ended (USS) is beside it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from pathlib import Path

from bench import results
from bench.measure import Measured
from bench.whole_farm import BIN, WholeFarm, allow_files, free_port, memory_kb, streams

BENCH = "memory"
IDLE_S = 30.0
SENTRY_RUNS = 3
SENTRY_MB = 60.0
STREAM_KB = 100.0
STREAMS = 1_000
STREAM_RUNS = 3


def uss_kb(told: dict[str, int]) -> int:
    return told["Private_Clean"] + told["Private_Dirty"]


# ---- a rig sentry ------------------------------------------------------------------------------------------


def idle_sentry() -> list[dict[str, int]]:
    """The same sentry, started anew for each run."""
    found = []
    with tempfile.TemporaryDirectory(prefix=".bench-memory-", dir=".") as home:
        farm = WholeFarm(Path(home).absolute())
        farm.init(enrol=free_port())
        farm.start()
        try:
            asked = subprocess.run(
                [BIN / "commander", "sentries", "token", "--kind", "rig", "--approve"],
                env=farm.environment, check=True, capture_output=True, text=True,
            )  # fmt: skip
            subprocess.run(
                [BIN / "sentry-rig", "enrol", asked.stdout.strip()], env=farm.environment, check=True, capture_output=True
            )
            found = [_read_idle(farm) for _ in range(SENTRY_RUNS)]
        finally:
            farm.stop()
    return found


def _read_idle(farm: WholeFarm) -> dict[str, int]:
    quiet = subprocess.DEVNULL
    with subprocess.Popen([BIN / "sentry-rig", "run"], env=farm.environment, stdin=quiet, stdout=quiet, stderr=quiet) as run:
        try:
            time.sleep(IDLE_S)
            standing = json.loads((farm.home / "sentry-rig" / "status.json").read_text())
            if run.poll() is not None or standing["state"] != "connected":
                raise RuntimeError(f"the sentry is not at work: {standing}")
            return memory_kb(run.pid)
        finally:
            run.terminate()


# ---- the commander -----------------------------------------------------------------------------------------


def commander() -> tuple[int, list[tuple[int, int]]]:
    """RSS in kB without streams; then of each run with STREAMS and with twice as many, each run a fresh commander."""
    runs, idle_kb = [], 0
    with tempfile.TemporaryDirectory(prefix=".bench-memory-", dir=".") as home:
        farm = WholeFarm(Path(home).absolute())
        farm.init()
        asyncio.run(farm.enrol(2 * STREAMS))
        for _ in range(STREAM_RUNS):
            farm.start()
            try:
                time.sleep(5)
                idle_kb = memory_kb(farm.pid)["Rss"]
                with streams(farm, 0, 2 * STREAMS) as clients:
                    held = []
                    for count in (STREAMS, 2 * STREAMS):
                        clients.ask("open", count, 10)
                        deadline = time.monotonic() + 90
                        while clients.ask("state")["open"][0] < count:
                            if time.monotonic() > deadline:
                                raise RuntimeError(f"not all of {count} streams")
                            time.sleep(0.5)
                        time.sleep(5)
                        held.append(memory_kb(farm.pid)["Rss"] - idle_kb)
                runs.append((held[0], held[1]))
            finally:
                farm.stop()
    return idle_kb, runs


# ---- all of it ---------------------------------------------------------------------------------------------


def main() -> None:
    allow_files(2 * STREAMS + 1_000)
    results.begin(BENCH)
    sentry = idle_sentry()
    rss, pss, uss = (
        Measured(tuple(kb / 1024 for kb in found))
        for found in ([one["Rss"] for one in sentry], [one["Pss"] for one in sentry], [uss_kb(one) for one in sentry])
    )
    results.add(
        BENCH, "idle rig sentry, RSS after 30 s", rss.median, "MB",
        goal=f"≤ {SENTRY_MB:g} MB", ok=max(rss.runs) <= SENTRY_MB, runs=rss.runs,
    )  # fmt: skip
    results.add(BENCH, "idle rig sentry, PSS: pages shared with other processes in parts", pss.median, "MB", runs=pss.runs)
    results.add(BENCH, "idle rig sentry, USS: its own alone", uss.median, "MB", runs=uss.runs)
    print(f"idle rig sentry: RSS {rss} MB, PSS {pss} MB, USS {uss} MB")

    idle_kb, held = commander()
    each = Measured(tuple((twice - once) / STREAMS for once, twice in held))
    first = Measured(tuple(once / STREAMS for once, _ in held))
    results.add(
        BENCH, f"commander, RSS a stream: from {STREAMS:,} to {2 * STREAMS:,} streams", each.median, "kB",
        goal=f"≤ {STREAM_KB:g} kB", ok=max(each.runs) <= STREAM_KB, runs=each.runs,
    )  # fmt: skip
    from_none = f"commander, RSS a stream: from none to {STREAMS:,} streams, with what grows only once"
    results.add(BENCH, from_none, first.median, "kB", runs=first.runs)
    results.add(BENCH, "commander, RSS without streams", idle_kb / 1024, "MB")
    print(f"commander {idle_kb / 1024:.0f} MB; a stream {each} kB, the first {STREAMS} {first} kB")


if __name__ == "__main__":
    main()
