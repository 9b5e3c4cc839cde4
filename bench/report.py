"""docs/benchmarks.md from bench/results.json: `python -m bench.report`, the last step of `make bench`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from bench import results

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

_HEAD = """\
# Benchmarks

<!-- Made by `make bench` from bench/results.json. Do not edit. -->

Medians, with the lowest and highest run beside them. Ratios are against something measured in the same minutes on the same
machine, ours over theirs: read those, because absolute figures are of whatever machine ran `make bench` last.
"""
_TITLES = {
    "ingest": "Ingest: from a sentry's frame to a durable ack, over gRPC",
    "poll": "Polling ASICs",
    "reconnect": "All sentries come back after a restart",
    "memory": "Memory",
    "history": "History",
    "history_growth": "History: growth with devices and days",
    "asic": "ASIC drivers",
    "rig": "Rig sentry",
    "rrc": "Relays",
    "dashboard": "Dashboard",
}


def page(rows: list[dict[str, Any]]) -> str:
    """The whole text."""
    parts = [_HEAD]
    if not rows:
        parts.append("\nNothing was measured yet.\n")
    for bench, group in groupby(rows, key=lambda row: str(row["bench"])):
        parts.append(f"\n## {_TITLES.get(bench, bench)}\n\n")
        parts.append(
            "| figure | median | lowest to highest | runs | ratio | against | goal | met |\n|---|---|---|---|---|---|---|---|\n"
        )
        parts += [_line(row) for row in group]
    return "".join(parts)


def _line(row: dict[str, Any]) -> str:
    runs: list[float] = row["runs"]
    cells = (
        row["figure"],
        f"{_number(row['value'])} {row['unit']}",
        f"{_number(min(runs))} to {_number(max(runs))}" if runs else "",
        str(len(runs)) if runs else "",
        "" if row["ratio"] is None else f"{_number(row['ratio'])}×",
        row["against"] or "",
        row["goal"] or "",
        {True: "yes", False: "**no**", None: ""}[row["ok"]],
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main() -> None:
    PAGE.write_text(page(results.read()), encoding="utf-8")
    print(f"{PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE} written")


if __name__ == "__main__":
    main()
