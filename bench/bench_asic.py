"""ASIC drivers: CPU per look, against bare sockets and against pyasic and pyasic-rs. `make bench-asic`, below five minutes.

All ask the same simulated Antminers in another process, every fourth an old one, 32 at once, and take turns. Our look and theirs
of the same fields are compared, and so are our slow look and all that they can read: both also ask the web page, with a log-in.
What each read is held against what the devices are. The peers know only the makers' ports, so the devices listen on 4028 and 80.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import results
from bench.asic_peers import AT_ONCE, all_of
from bench.bench_poll import Place, blocking, compiled, in_c, simulators
from bench.measure import Measured
from sentry_asic import make
from sentry_asic.make import Reading
from sentry_asic.makes.antminer import Antminer
from tests.simulators.antminer_answers import SPECS
from tests.simulators.farm import allow_files

BENCH = "asic"
DEVICES = int(os.environ.get("BENCH_DEVICES", "1000"))
GOALS = {"pyasic": 0.05, "pyasic-rs": 1.0}
RUNS = 3
MOST_S = 240.0
"""No round begins after that."""
ROOT = Path(__file__).parents[1]
PEERS = {"pyasic": ROOT / ".bench-peers" / "pyasic", "pyasic-rs": ROOT / ".bench-peers" / "pyasic-rs"}


@dataclass(slots=True)
class Side:
    """One of those compared: µs a look of each run, and how its last readings were."""

    name: str
    looks: list[float] = field(default_factory=list)
    fulls: list[float] = field(default_factory=list)
    complete: dict[str, int] = field(default_factory=dict)
    correct: dict[str, int] = field(default_factory=dict)

    def took(self, word: str, cpu_s: float, readings: Sequence[dict[str, Any] | None]) -> None:
        (self.looks if word == "look" else self.fulls).append(cpu_s / DEVICES * 1e6)
        self.complete[word] = sum(is_complete(told) for told in readings)
        self.correct[word] = sum(is_correct(told, place) for place, told in enumerate(readings))


# ---- what was read -----------------------------------------------------------------------------------------


def is_complete(told: dict[str, Any] | None) -> bool:
    """Rate, uptime, fans, pools, and of each board its temperature and chips."""
    if told is None or told["hashrate_hs"] is None or told["uptime_s"] is None or not told["fans"] or not told["users"]:
        return False
    return bool(told["boards"]) and all(None not in board for board in told["boards"])


def is_correct(told: dict[str, Any] | None, place: int) -> bool:
    """Complete, and as the simulated device is: the farm makes every fourth an S9."""
    if told is None or not is_complete(told):
        return False
    spec = SPECS["S9" if place % 4 == 3 else "S19j Pro"]
    return bool(
        abs(told["hashrate_hs"] / spec.nominal_hs - 1) < 0.1
        and 3600 <= told["uptime_s"] < 3600 + DEVICES + 600
        and len(told["fans"]) == len(spec.fans)
        and all(rpm and rpm > 1000 for rpm in told["fans"])
        and [chips for _, chips in told["boards"]] == [spec.chips] * spec.boards
        and all(20 < temp < 100 for temp, _ in told["boards"])
        and told["users"][0] == "factory.worker"
    )


def told_by(reading: Reading) -> dict[str, Any]:
    return {
        "hashrate_hs": reading.hashrate_hs,
        "uptime_s": reading.uptime_s,
        "fans": list(reading.fans_rpm),
        "boards": [[board.temp_c, board.chips] for board in reading.boards],
        "users": [pool.user for pool in reading.pools or ()],
    }


# ---- the sides ---------------------------------------------------------------------------------------------


class Ours:
    """The driver alone: the watcher's part is the polling benchmark's."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._drivers = [Antminer(make.Place(place.host, place.api_port, place.http_port)) for place in places]

    async def ask(self, word: str, side: Side) -> None:
        readings, cpu_s = await all_of([functools.partial(driver.read, slow=word == "full") for driver in self._drivers])
        side.took(word, cpu_s, [None if reading is None else told_by(reading) for reading in readings])

    async def close(self) -> None:
        for driver in self._drivers:
            await driver.close()


class Peer:
    """A process in the peer's own virtual environment."""

    def __init__(self, name: str, places: Sequence[Place]) -> None:
        command = [str(PEERS[name] / "bin" / "python"), str(ROOT / "bench" / "asic_peers.py"), name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        told = self._say(json.dumps([place.host for place in places]))
        self.name = f"{name} {told['version']}"
        print(f"{self.name}: identified {told['found']} of {len(places)}, {told['cpu_s'] / len(places) * 1e6:,.0f} µs each")

    def _say(self, line: str) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        if not said:
            raise RuntimeError(f"it ended with {self._process.wait(10)}")
        return said

    def ask(self, word: str, side: Side) -> None:
        told = self._say(word)
        side.took(word, told["cpu_s"], told["readings"])

    def end(self) -> None:
        self._process.kill()
        self._process.wait(10)


@contextlib.contextmanager
def peers(places: Sequence[Place]) -> Iterator[list[Peer]]:
    """Those that are installed and start; of the others it is said why not."""
    started: list[Peer] = []
    try:
        for name, folder in PEERS.items():
            if not (folder / "bin" / "python").exists():
                print(f"{name} is not installed (make bench-asic does that): not compared with")
                continue
            try:
                started.append(Peer(name, places))
            except (OSError, RuntimeError, ValueError) as error:
                print(f"{name} does not run here ({error}): not compared with")
        yield started
    finally:
        for peer in started:
            peer.end()


# ---- all of it ---------------------------------------------------------------------------------------------


async def measure(places: Sequence[Place], program: Path | None, others: Sequence[Peer], path: Path) -> None:
    began_s = time.monotonic()
    ours, mine, sides = Ours(places), Side("ours"), [Side(peer.name) for peer in others]
    bare: list[float] = []
    floor: list[float] = []
    size = 0.0
    for number in range(RUNS + 1):
        if number > 1 and time.monotonic() - began_s > MOST_S * number / (number + 1):
            print(f"enough after {number - 1} runs: {time.monotonic() - began_s:.0f} s")
            break
        for word in ("look", "full"):
            await ours.ask(word, mine)
            for peer, side in zip(others, sides, strict=True):
                await asyncio.to_thread(peer.ask, word, side)
        took_us, size = blocking(places)
        bare.append(took_us)
        floor += [in_c(program, places)] if program else []
    await ours.close()
    report(mine, sides, (bare, floor, size), path)


def report(mine: Side, sides: Sequence[Side], floors: tuple[list[float], list[float], float], path: Path) -> None:
    """The first run of each warmed it up."""
    bare, floor, size = floors
    looks = Measured(tuple(mine.looks[1:]))
    results.begin(BENCH, path)
    compared = [(f"bare blocking sockets in Python, the same {size:,.0f} bytes thrown away", bare)]
    compared += [("an epoll loop in C, the same bytes thrown away", floor)] if floor else []
    for what, runs in compared:
        theirs = Measured(tuple(runs[1:]))
        figure = f"CPU per look of the driver, against {'C' if 'in C' in what else 'bare sockets'}"
        ratio = looks.over(theirs)
        results.add(
            BENCH, figure, looks.median, "µs", ratio=ratio, against=f"{what}, {theirs} µs", runs=looks.runs, path=path
        )  # fmt: skip
        print(f"{figure}: {looks} µs; {theirs} µs, ratio {ratio:.2f}")
    for side in sides:
        name = side.name.partition(" ")[0]
        for word, words, a, b in (("look", "look", mine.looks, side.looks), ("full", "slow look", mine.fulls, side.fulls)):
            ours, theirs = Measured(tuple(a[1:])), Measured(tuple(b[1:]))
            what = "the same fields" if word == "look" else "all that it can read"
            ratio, most = ours.over(theirs), GOALS[name]
            results.add(
                BENCH, f"CPU per {words} of the driver, against {name}", ours.median, "µs", ratio=ratio,
                against=f"{side.name}, {what}, {theirs} µs", goal=f"≤ {most:g} ×", ok=ratio <= most, runs=ours.runs, path=path,
            )  # fmt: skip
            print(f"{words}: {ours} µs; {side.name}, {what}: {theirs} µs, ratio {ratio:.3f}")
    for side in (mine, *sides):
        for word, words in (("look", "looks"), ("full", "slow looks")):
            count = side.correct[word]
            whole = f"{count} of {DEVICES} correct, {side.complete[word]} complete"
            figure = f"Correct readings of {DEVICES} devices by {side.name.partition(' ')[0]}, {words}"
            goal, ok = ("all", count == DEVICES) if side is mine else (None, None)
            results.add(BENCH, figure, count, "devices", against=f"{side.complete[word]} complete", goal=goal, ok=ok, path=path)
            print(f"{side.name}, {words}: {whole}")


def _ports() -> tuple[str, ...]:
    """The makers' own, where we may listen on them: the peers know no others."""
    try:
        with socket.create_server(("127.50.0.1", 80)):
            return ("--api-port", "4028", "--http-port", "80")
    except PermissionError:
        sys.exit("port 80 is not ours to listen on, and the peers know no other: run this as root")


def main() -> None:
    """`python -m bench.bench_asic [FILE]`: the figures go to FILE instead of bench/results.json."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else results.PATH
    allow_files(6 * DEVICES + 1000)
    with (
        tempfile.TemporaryDirectory() as folder,
        simulators(DEVICES, "127.50.0.1", *_ports()) as places,
        peers(places) as others,
    ):
        print(f"{len(places)} devices, {AT_ONCE} at once")
        asyncio.run(measure(places, compiled(Path(folder)), others, path))


if __name__ == "__main__":
    main()
