"""What is asked of each side in the history benchmark, and how it is timed.

A peer may have several ways to the same answer: all are timed, and the figure names each. The raw samples of a device, say, come
from VictoriaMetrics as a range query at the sampling step, which is what a graph asks, or as an export, which is faster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from bench import history_truth as truth
from bench.history_data import COLUMNS, STEP_MS, Data, Floats
from bench.history_farm import API, name
from bench.history_http import Answer, Link
from bench.history_peers import VICTORIA_METRICS, Peer
from bench.history_remote_write import FARM
from bench.measure import Measured
from garrison.frame import Series

ROUNDS = 9
WARM_UP = 2
DEVICE = 3
HASHRATE: Series = ("hashrate_hs", "")
FIVE_MIN_MS = 300_000
TOP = 10

Ask = Callable[[Peer, Link], Answer]


@dataclass(frozen=True, slots=True)
class Question:
    """`path`: ours. `ways`: of the peers, by what they are called. `goal`: ours over the first way of VictoriaMetrics.
    `ours_true` and `theirs_true` raise a RuntimeError over an answer that is not what was fed."""

    figure: str
    path: str
    ours_true: Callable[[Any], None]
    ways: Mapping[str, Ask] = field(default_factory=dict)
    theirs_true: Callable[[Any], None] = lambda _: None
    victoria_only: frozenset[str] = frozenset()
    goal: float | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """Milliseconds. `theirs`: by peer and way."""

    ours: Measured
    bytes: int
    theirs: Mapping[tuple[str, str], Measured]


def timed(question: Question, ours: Link, peers: Sequence[tuple[Peer, Link]] = ()) -> Timed:
    """All of them in turns, after each has told the truth."""
    first = ours.get(question.path)
    question.ours_true(first.json())
    askers: dict[tuple[str, str], Callable[[], Answer]] = {}
    for peer, link in peers:
        for way, ask in question.ways.items():
            if way not in question.victoria_only or peer.kind is VICTORIA_METRICS:
                askers[peer.kind.name, way] = lambda ask=ask, peer=peer, link=link: ask(peer, link)  # type: ignore[misc]  # bound by its defaults
    for (_, way), asker in askers.items():
        said = asker()
        question.theirs_true(_lines(said) if way in question.victoria_only else said.json())
    runs: dict[tuple[str, str], list[float]] = {key: [] for key in (("", ""), *askers)}
    for _ in range(WARM_UP + ROUNDS):
        runs["", ""].append(_ms(lambda: ours.get(question.path)))
        for key, asker in askers.items():
            runs[key].append(_ms(asker))
    measured = {key: Measured(tuple(every[WARM_UP:])) for key, every in runs.items()}
    return Timed(measured.pop(("", "")), len(first.body), measured)


def _ms(asked: Callable[[], Answer]) -> float:
    began_s = time.perf_counter()
    asked()
    return (time.perf_counter() - began_s) * 1000


def _lines(answer: Answer) -> Any:
    """An export in the shape of a range query."""
    found = [json.loads(line) for line in answer.body.splitlines()]
    return {
        "data": {
            "result": [
                {
                    "metric": one["metric"],
                    "values": [[at_ms / 1000, v] for at_ms, v in zip(one["timestamps"], one["values"], strict=True)],
                }
                for one in found
            ]
        }
    }


# ---- paths -------------------------------------------------------------------------------------------------


def span(first_ms: int, end_ms: int) -> str:
    return f"since={_iso(first_ms)}&until={_iso(end_ms)}"


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def series_path(number: int, asked: str) -> str:
    return f"{API}/devices/{name(number)}/series?{asked}"


def farm_path(first_ms: int, end_ms: int) -> str:
    return f"{API}/history/aggregate?by=farm&metric=hashrate_hs&fn=sum&{span(first_ms, end_ms)}&step=5min&points=20000"


LATEST_PATH = f"{API}/latest?metrics=all"
TOP_PATH = f"{API}/top?metric=chip_temp_c&n={TOP}"


def farm_ways(first_ms: int, end_ms: int) -> dict[str, Ask]:
    """A range selector holds what is at most so old: asked a millisecond before the end of a step it holds that step's looks."""
    return {
        "sum(avg_over_time(…[5m])), step 300": lambda peer, link: peer.ranged(
            link, 'sum(avg_over_time(hashrate_hs{component=""}[5m]))', first_ms + FIVE_MIN_MS - 1, end_ms - 1, 300
        )
    }


# ---- about a day -------------------------------------------------------------------------------------------


def questions(data: Data) -> list[Question]:
    """About the whole time of `data`."""
    first_ms = int(data.at_ms[0].min()) // STEP_MS * STEP_MS
    end_ms = first_ms + data.looks * STEP_MS
    device, hours = name(DEVICE), (end_ms - first_ms) // 3_600_000
    layout, last, last_ms = data.layout, data.values[-1], data.at_ms[-1]
    place, steps = layout.places[HASHRATE], FIVE_MIN_MS // STEP_MS
    farm: Floats = data.values[:, place].astype(np.float64).reshape(-1, steps, data.devices).mean(axis=1).sum(axis=1)
    every = f'{{device="{device}"}}'
    one = f'hashrate_hs{{device="{device}",component=""}}'
    return [
        _raw(f"one device, {hours} h, {COLUMNS} metrics, raw", "all", every, tuple(layout.places), data, 0.15),
        _raw(f"one device, {hours} h, one metric, raw", HASHRATE[0], one, (HASHRATE,), data, 1.0),
        Question(
            f"latest of all {data.devices:,} devices, {COLUMNS} metrics", LATEST_PATH,
            lambda told: truth.latest(told, layout, last, last_ms),
            {"instant query": lambda peer, link: peer.instant(link, f'{{farm="{FARM}"}}', end_ms - 1)},
            lambda told: truth.theirs_latest(told, layout, last), goal=0.05,
        ),
        Question(
            "the ten hottest", TOP_PATH, lambda told: truth.top(told, layout, last, "chip_temp_c", TOP),
            {"topk": lambda peer, link: peer.instant(link, f'topk({TOP}, chip_temp_c{{component=""}})', end_ms - 1)},
            lambda told: truth.theirs_top(told, layout, last, ("chip_temp_c", ""), TOP), goal=0.05,
        ),
        Question(
            f"hashrate of the farm, 5-minute steps, {hours} h", farm_path(first_ms, end_ms),
            lambda told: truth.farm(told, farm), farm_ways(first_ms, end_ms), lambda told: truth.theirs_farm(told, farm), goal=0.05,
        ),
    ]  # fmt: skip


def _raw(figure: str, metrics: str, selector: str, wanted: Sequence[Series], data: Data, goal: float) -> Question:
    at_ms = data.at_ms[:, DEVICE]
    expected = {series: data.series(DEVICE, series) for series in wanted}
    first_ms, end_ms = int(at_ms[0]), int(at_ms[-1]) + 1
    return Question(
        figure, series_path(DEVICE, f"{span(first_ms, end_ms)}&metrics={metrics}&step=raw"),
        lambda told: truth.looks(told, at_ms, expected),
        {
            # at the device's own second, so that every answer is a look
            "range query, step 30": lambda peer, link: peer.ranged(link, selector, first_ms, end_ms - 1, STEP_MS // 1000),
            "range selector": lambda peer, link: peer.instant(link, f"{selector}[{(end_ms - first_ms) // 1000 + 1}s]", end_ms - 1),
            "export": lambda peer, link: peer.export(link, selector, first_ms, end_ms - 1),
        },
        lambda told: truth.theirs_looks(told, at_ms, expected), frozenset({"export"}), goal,
    )  # fmt: skip
