"""`commander history DEVICE …`."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from commander.cli import shown
from commander.cli.client import Api, in_path, target_of
from commander.cli.devices import Json, Ref
from garrison.catalogue import METRICS
from garrison.faults import BadInput

ROWS = 30
SHAPES: dict[str, shown.Shape] = {"H/s": shown.hashrate, "W": shown.power, "s": shown.duration}


def add_to(app: typer.Typer) -> None:
    app.command("history")(history)


def history(
    context: typer.Context,
    device: Ref,
    metric: Annotated[str, typer.Option("--metric", "-m", help="Such as hashrate_hs, power_w, temp_c.")] = "hashrate_hs",
    component: Annotated[str, typer.Option(help="Of a part: board:1, gpu:…, fan:2.")] = "",
    since: Annotated[str, typer.Option(help="24h, 7d, 30min, or a time such as 2026-11-20T08:00.")] = "24h",
    until: Annotated[str | None, typer.Option(help="The end; left out: now.")] = None,
    step: Annotated[str | None, typer.Option(help="One value per so much time, such as 5min; left out: chosen.")] = None,
    csv_: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_: Json = False,
) -> None:
    """One metric of one device over time: a table and a line of bars; a gap is a gap."""
    if metric not in METRICS:
        raise BadInput(f"no metric {metric!r}", hint=f"one of {', '.join(METRICS)}")
    with Api(target_of(context), timeout_s=120) as api:
        found = api.get(
            f"/devices/{in_path(device)}/history", metric=metric, component=component, since=since, until=until, step=step
        )
    points: list[dict[str, Any]] = found["points"]
    if json_:
        shown.as_json(found)
    elif csv_:
        _csv(points, metric)
    else:
        _table(points, metric)


def _csv(points: list[dict[str, Any]], metric: str) -> None:
    names = [name for name in (points[0] if points else {"at_ms": 0, "value": 0}) if name != "at_ms"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["at_ms", "at", *(f"{metric}_{name}" if name != "value" else metric for name in names)])
    for point in points:
        values = ["" if point[name] is None else point[name] for name in names]
        writer.writerow([point["at_ms"], datetime.fromtimestamp(point["at_ms"] / 1000, UTC).isoformat(), *values])


def _table(points: list[dict[str, Any]], metric: str) -> None:
    if not points:
        typer.echo("nothing is known for that time")
        return
    unit = METRICS[metric].unit
    shape = SHAPES.get(unit, shown.text)
    names = [name for name in points[0] if name != "at_ms"]
    shown_points = points if len(points) <= ROWS else [points[i * (len(points) - 1) // (ROWS - 1)] for i in range(ROWS)]
    columns: shown.Columns = {"at_ms": ("At", shown.when), **{name: (f"{name} {unit}".strip(), shape) for name in names}}
    shown.console().print(shown.table(shown_points, columns, title=f"{metric}: {len(points)} points"))
    middle = "avg" if "avg" in names else names[0]
    bars = shown.sparkline([point[middle] for point in points])
    shown.console().print(bars or "no look in that time gave a value", markup=False)
