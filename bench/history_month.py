"""The farm's hashrate in steps of five minutes over a month, against VictoriaMetrics.

VictoriaMetrics gets one value of each device in five minutes, a tenth of what it would hold at a look every 30 s: feeding it
the whole month takes hours. What it takes for the answer is a lower bound, measured and not scaled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench import history_truth as truth
from bench.history_archive import PATTERNS, counts
from bench.history_data import Data, Ints
from bench.history_farm import DAY_MS
from bench.history_figures import Figures
from bench.history_growth import HOW, Corner
from bench.history_peers import VICTORIA_METRICS, Peer
from bench.history_questions import FIVE_MIN_MS, HASHRATE, Question, farm_path, farm_ways, timed
from bench.history_remote_write import Feed
from garrison.frame import Layout

GOAL = 0.05
_CENT_HS = 10_000_000
_DAY_STEPS = DAY_MS // FIVE_MIN_MS


def measure(figures: Figures, corner: Corner, home: Path) -> None:
    """Where VictoriaMetrics is not installed: nothing."""
    program = VICTORIA_METRICS.installed()
    if program is None:
        return
    # as a device states it: an average of many digits would only cost VictoriaMetrics more
    given: Ints = np.rint(corner.patterns.hashrate_hs / _CENT_HS).astype(np.int64) * _CENT_HS
    peer = Peer(VICTORIA_METRICS, program, home)
    peer.start()
    try:
        _feed(peer, corner, given)
        peer.settle()
        end_ms = corner.patterns.end_ms
        ours, theirs = corner.farm_hs(corner.first_ms), counts(corner.devices) @ given[:, -corner.days * _DAY_STEPS :]
        ways = farm_ways(corner.first_ms, end_ms) | {
            "sum(…), step 300": lambda peer, link: peer.ranged(
                link, 'sum(hashrate_hs{component=""})', corner.first_ms + FIVE_MIN_MS - 1, end_ms - 1, 300
            )
        }
        question = Question(
            f"hashrate of the farm, 5-minute steps, {corner.days} days, {corner.devices:,} devices",
            farm_path(corner.first_ms, end_ms), lambda told: truth.farm(told, ours), ways,
            lambda told: truth.theirs_farm(told, theirs.astype(np.float64)),
        )  # fmt: skip
        with corner.farm.link() as link, peer.link() as theirs_link:
            told = timed(question, link, [(peer, theirs_link)])
    finally:
        peer.kill()
    for (name, way), measured in told.theirs.items():
        figure = f"{question.figure}, ours {HOW}, against {name}'s {way}"
        against = f"{name} with a value every 5 minutes, a tenth of all"
        figures.against(figure, told.ours, "ms", against, measured, GOAL)


def _feed(peer: Peer, corner: Corner, given: Ints) -> None:
    layout = Layout.of([HASHRATE])
    pattern = np.arange(corner.devices) % PATTERNS
    phase_ms = 1_000 * (np.arange(corner.devices, dtype=np.int64) % (FIVE_MIN_MS // 1_000))
    keys = np.arange(corner.devices, dtype=np.uint64)
    feed: Feed | None = None
    for day in range(corner.days):
        first = given.shape[1] - (corner.days - day) * _DAY_STEPS
        begin_ms = corner.first_ms + day * DAY_MS
        at_ms = begin_ms + FIVE_MIN_MS * np.arange(_DAY_STEPS, dtype=np.int64)[:, None] + phase_ms
        data = Data(given[pattern, first : first + _DAY_STEPS].T[:, None, :], at_ms, keys, layout)
        feed = Feed.of(data) if feed is None else Feed(data, feed.templates)
        feed.send(peer.write, 0, _DAY_STEPS)
