"""A day of a farm in the history benchmark: fed to the commander and to the peers, kept by each, and asked back."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import history_data, history_frames
from bench.history_data import STEP_MS, Data
from bench.history_farm import API, HistoryFarm, feeder
from bench.history_figures import Figures, one
from bench.history_peers import BLOCKS, PROMETHEUS_TSDB, STOPPED, VICTORIA_METRICS, Kind, Peer
from bench.history_questions import questions, timed
from bench.history_remote_write import Feed
from bench.history_upkeep import Tidied, idle, tidy
from bench.measure import Measured

PARTS = 6
"""Of what is fed: each is a run of the figure of CPU."""
GARRISON = "Garrison"
BYTES_GOALS = {(VICTORIA_METRICS.name, STOPPED): 0.55, (PROMETHEUS_TSDB.name, BLOCKS): 0.25}
CPU_GOALS = {VICTORIA_METRICS.name: 0.25}
Goals = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Fed:
    """µs of CPU a value: of each part until its last answer, with what the server did besides; and of all with the work that they
    left behind. `taken`: bytes a value on disk, by what."""

    parts: Measured
    whole_us: float
    taken: dict[str, float]
    tidied: Tidied = field(default_factory=Tidied)


def fed(who: str, data: Data, cpu_s: Callable[[], float], feed: Callable[[int, int], object]) -> Measured:
    share = -(-data.looks // PARTS)
    began_s, runs = time.monotonic(), []
    for first in range(0, data.looks, share):
        last, before_s = min(first + share, data.looks), cpu_s()
        feed(first, last)
        runs.append((cpu_s() - before_s) / ((last - first) * data.count / data.looks) * 1e6)
    wall_s, measured = time.monotonic() - began_s, Measured(tuple(runs))
    print(
        f"{who}: {data.count:,} values in {wall_s:.1f} s, {data.count / wall_s / 1e6:.2f} M a s, {measured} µs of CPU each",
        flush=True,
    )
    return measured


def feed_ours(farm: HistoryFarm, folder: Path, data: Data) -> Fed:
    """The day, then its night."""
    farm.start()
    probe = idle(farm)
    with feeder(farm) as sentries:
        before_s = farm.cpu_s()
        parts = fed(GARRISON, data, farm.cpu_s, lambda first, last: sentries.feed(folder, first, last))
        rss_mb, _ = farm.memory_mb()
        tidied = tidy(farm, probe)
        used_s = farm.cpu_s() - before_s - tidied.asking_s
    print(f"{GARRISON}: RSS {rss_mb:.0f} MB when fed, now and at most {farm.memory_mb()} MB")
    with farm.link() as link:
        usage = link.get(f"{API}/history/usage").json()
    farm.stop()
    files = farm.files()
    print(f"{GARRISON}: {json.dumps(usage)}\n{GARRISON}: on disk when stopped {json.dumps(files)}")
    if usage["frames"] or usage["set_aside"] or usage["damaged"]:
        raise RuntimeError("not all frames were sealed")
    if usage["levels"]["raw"]["bytes"] != sum(count for name, count in files.items() if name.startswith("raw-")):
        raise RuntimeError("the commander tells another size of its files than they have")
    taken = {level: told["bytes"] for level, told in usage["levels"].items()} | {"hot": usage["hot_bytes"]}
    by_value = {name: count / data.count for name, count in taken.items()}
    return Fed(parts, used_s / data.count * 1e6, by_value, tidied)


def feed_peer(peer: Peer, data: Data) -> Fed:
    """Then it may finish what it has begun, and is stopped."""
    peer.start()
    feed, before_s = Feed.of(data), peer.cpu_s()
    parts = fed(peer.kind.name, data, peer.cpu_s, lambda first, last: feed.send(peer.write, first, last))
    rss_mb = peer.rss_mb()
    peer.settle()
    whole_us = (peer.cpu_s() - before_s) / data.count * 1e6
    taken = peer.kind.taken(peer, data.count)
    print(f"{peer.kind.name}: {whole_us:.3f} µs a value in all, RSS {rss_mb:.0f} MB, B a value {taken}", flush=True)
    return Fed(parts, whole_us, taken)


# ---- what it tells -----------------------------------------------------------------------------------------


def tell_of_bytes(figures: Figures, ours: Fed, peers: Mapping[str, Fed], goals: Goals) -> None:
    figure = "bytes a value on disk"
    for kind_name, theirs in peers.items():
        kind = next(kind for kind in (VICTORIA_METRICS, PROMETHEUS_TSDB) if kind.name == kind_name)
        for what in kind.compared:
            against = f"{kind.name} {what}"
            name = f"{figure}, raw after the nightly merge, against {against}"
            figures.against(name, one(ours.taken["raw"]), "B", against, one(theirs.taken[what]), goals.get((kind.name, what)))
    figures.add(f"{figure}: 5-minute values and totals besides, for each raw value", ours.taken["5min"], "B")
    figures.add(f"{figure}: hourly values and totals besides, for each raw value", ours.taken["1h"], "B")
    figures.add(f"{figure}: hot.db after the nightly merge, with the room it keeps for the next day", ours.taken["hot"], "B")


def tell_of_cpu(figures: Figures, ours: Fed, peers: Mapping[str, Fed], goals: Mapping[str, float]) -> None:
    for peer, theirs in peers.items():
        goal = goals.get(peer)
        figures.against(f"CPU a value until it is acknowledged, against {peer}", ours.parts, "µs", peer, theirs.parts, goal)
        figures.against(
            f"CPU a value with sealing and merging, against {peer}", one(ours.whole_us), "µs", f"{peer} with its merges",
            one(theirs.whole_us), goal,
        )  # fmt: skip


def ask_all(figures: Figures, farm: HistoryFarm, peers: Sequence[Peer], data: Data) -> None:
    """All servers up, nothing being fed."""
    with contextlib.ExitStack() as stack:
        farm.start()
        stack.callback(farm.stop)
        for peer in peers:
            peer.start()
            stack.callback(peer.stop)
            peer.settle()
        ours = stack.enter_context(farm.link())
        links = [(peer, stack.enter_context(peer.link())) for peer in peers]
        for question in questions(data):
            told = timed(question, ours, links)
            fastest = {
                name: min((m.median, way) for (who, way), m in told.theirs.items() if who == name)[1] for name, _ in told.theirs
            }
            for (peer_name, way), theirs in told.theirs.items():
                first = way == next(iter(question.ways)) and peer_name == VICTORIA_METRICS.name
                if first or way == fastest[peer_name]:
                    figure = f"{question.figure}, against {peer_name}'s {way}"
                    figures.against(figure, told.ours, "ms", peer_name, theirs, question.goal if first else None)
            print(f"({told.bytes:,} bytes of ours)")


# ---- all of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Day:
    """One farm of data and all that keep it."""

    farm: HistoryFarm
    peers: Sequence[Peer]
    folder: Path
    data: Data
    figures: Figures

    @classmethod
    def of(cls, home: Path, folder: Path, scale: str, kinds: Sequence[Kind]) -> Day:
        """Of the data in `folder`."""
        data = history_data.opened(folder)
        history_frames.check(data)
        bits = history_data.entropy_bits(data, range(min(data.devices, 40)))
        print(f"== {scale}: {data.count:,} values, {bits:.2f} bits of entropy each from look to look", flush=True)
        farm = HistoryFarm(home / "farm")
        farm.home.mkdir()
        farm.people(data.devices)
        peers = [Peer(kind, program, home / kind.program) for kind in kinds if (program := kind.installed())]
        return cls(farm, peers, folder, data, Figures(scale))

    def fed(self) -> tuple[Fed, dict[str, Fed]]:
        """Ours and the peers, one after the other."""
        ours = feed_ours(self.farm, self.folder, self.data)
        return ours, {peer.kind.name: feed_peer(peer, self.data) for peer in self.peers}

    def kill(self) -> None:
        self.farm.kill()
        for peer in self.peers:
            peer.kill()


def measure(home: Path, devices: int, hours: int, end_ms: int, kinds: Sequence[Kind]) -> Figures:
    """Looks exactly a step apart, each device at a whole second of its own."""
    history_data.generate(home / "data", devices, hours * 3_600_000 // STEP_MS, end_ms)
    day = Day.of(home, home / "data", f"{devices:,} devices, {hours} h", kinds)
    try:
        ours, theirs = day.fed()
        tell_of_bytes(day.figures, ours, theirs, BYTES_GOALS)
        tell_of_cpu(day.figures, ours, theirs, CPU_GOALS)
        ours.tidied.tell(day.figures)
        ask_all(day.figures, day.farm, day.peers, day.data)
    finally:
        day.kill()
    return day.figures


def measure_jitter(home: Path, devices: int, hours: int, end_ms: int, kinds: Sequence[Kind]) -> Figures:
    """The same farm as a poller of devices sees it: no two looks are exactly a step apart. Peers keep the time of every value, ours
    is kept once for all values of a look. Bytes only, which hardly depend on how many devices there are."""
    jitter_ms = history_data.JITTER_MS
    history_data.generate(home / "data", devices, hours * 3_600_000 // STEP_MS, end_ms, jitter_ms)
    day = Day.of(home, home / "data", f"{devices:,} devices, {hours} h, looks up to {jitter_ms} ms late", kinds)
    try:
        tell_of_bytes(day.figures, *day.fed(), {})
    finally:
        day.kill()
    return day.figures
