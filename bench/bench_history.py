"""History: bytes, CPU, latency and memory of Garrison's history against VictoriaMetrics and Prometheus, with the same values.

`make bench-history`, or `python -m bench.bench_history [--devices 1000] [--hours 24] [--days 30] [--skip-prometheus] [--only day]`:
forty minutes on two processors, and 10 GB of disk. Less than the full size is printed and not written to bench/results.json.

The real commander takes frames of 250 devices over mutual TLS and acknowledges each after an fsync; then it seals and merges the
day, as it does at night. The peers take remote write of 10,000 series a request, and answer before they sync. What counts as CPU is
each server's own, all its threads and the processes it has started; its client is another process. Latencies are of HTTP over one
kept-alive TCP connection, until the whole answer is here, all sides in turns; every answer is held against the values that were
fed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import history_day, history_month, history_recorded, history_upkeep
from bench.history_archive import PATTERNS
from bench.history_farm import last_midnight_ms
from bench.history_figures import Figures, write
from bench.history_growth import DAYS, Growth
from bench.history_peers import PROMETHEUS_TSDB, VICTORIA_METRICS, Kind

DEVICES, HOURS, MONTH = 1_000, 24, 30
KINDS = (VICTORIA_METRICS, PROMETHEUS_TSDB)
QUARTER, TENFOLD = 4, 10


@dataclass(frozen=True, slots=True)
class Asked:
    """`home`: an empty folder."""

    home: Path
    devices: int
    hours: int
    days: int
    kinds: Sequence[Kind]

    def folder(self, name: str) -> Path:
        made = self.home / name
        made.mkdir()
        return made


def day(asked: Asked) -> list[Figures]:
    return [history_day.measure(asked.folder("day"), asked.devices, asked.hours, last_midnight_ms(), asked.kinds)]


def jitter(asked: Asked) -> list[Figures]:
    folder = asked.folder("jitter")
    return [history_day.measure_jitter(folder, asked.devices // QUARTER, asked.hours, last_midnight_ms(), asked.kinds)]


def recorded(asked: Asked) -> list[Figures]:
    return [history_recorded.measure(asked.folder("recorded"), asked.hours, last_midnight_ms(), asked.kinds[:1])]


def many(asked: Asked) -> list[Figures]:
    return [history_upkeep.measure_many(asked.folder("many"), asked.devices * TENFOLD, last_midnight_ms())]


def growth(asked: Asked) -> list[Figures]:
    """And the month, which is asked of the largest farm."""
    month, folder = Figures(""), asked.folder("growth")
    growing = Growth(folder, last_midnight_ms(), lambda corner: history_month.measure(month, corner, folder / "victoria-metrics"))
    sizes = (max(asked.devices // TENFOLD, PATTERNS), asked.devices, asked.devices * TENFOLD)
    return [growing.measure(sizes, [days for days in DAYS if days < asked.days] + [asked.days]), month]


PARTS: dict[str, Callable[[Asked], list[Figures]]] = {part.__name__: part for part in (day, jitter, recorded, many, growth)}


def main() -> None:
    parser = argparse.ArgumentParser(description="History against VictoriaMetrics and Prometheus.")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--hours", type=int, default=HOURS)
    parser.add_argument("--days", type=int, default=MONTH, help="of the largest histories")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--skip-prometheus", action="store_true", help="it takes a third of the time")
    asked = parser.parse_args()
    kinds = KINDS[:1] if asked.skip_prometheus else KINDS
    missing = [kind.name for kind in kinds if kind.installed() is None]
    if missing:
        packages = " ".join(kind.program for kind in kinds)
        print(f"not installed, so not compared: {', '.join(missing)}\nhint: apt-get install {packages}")
    full = (asked.devices, asked.hours, asked.days) == (DEVICES, HOURS, MONTH) and not asked.skip_prometheus and not missing
    for part in asked.only:
        # not in /tmp, which may be memory: an fsync must cost what it costs
        with tempfile.TemporaryDirectory(prefix=".bench-history-", dir=".") as home:
            figures = PARTS[part](Asked(Path(home).absolute(), asked.devices, asked.hours, asked.days, kinds))
        if full:
            write(figures)
    if not full:
        print("not the full size: nothing was written to bench/results.json")


if __name__ == "__main__":
    main()
