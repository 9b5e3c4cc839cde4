"""`commander history DEVICE …` and what else there is to the history."""

from __future__ import annotations

import csv
import statistics
import sys
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from commander.cli import export, history_disk, history_farm, shown
from commander.cli.client import Api, in_path, target_of
from commander.cli.devices import Json, Ref
from garrison.catalogue import METRICS
from garrison.faults import BadInput

ROWS = 30
SHAPES: dict[str, shown.Shape] = {"H/s": shown.hashrate, "W": shown.power, "s": shown.duration}
GAP_MS = 60_000
MOST_MISSING = 100_000
SPARE = ("rise", "count", "last", "min", "max")


class _DeviceFirst(TyperGroup):
    """A first word that is no command is a device: `history rig-7` is short for `history show rig-7`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DeviceFirst,
    help="What was: of a device, of groups, on disk. `history DEVICE` is short for `history show DEVICE`.",
    no_args_is_help=True,
    subcommand_metavar="DEVICE | COMMAND [ARGS]...",
)


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(app, name="history")


@app.command()
def show(
    context: typer.Context,
    device: Ref,
    metric: Annotated[str, typer.Option("--metric", "-m", help="Such as hashrate_hs, power_w, temp_c.")] = "hashrate_hs",
    component: Annotated[str, typer.Option(help="Of a part: board:1, gpu:…, fan:2.")] = "",
    since: Annotated[str, typer.Option(help="24h, 7d, 30min, or a time such as 2026-11-20T08:00.")] = "24h",
    until: Annotated[str | None, typer.Option(help="The end; left out: now.")] = None,
    step: Annotated[str | None, typer.Option(help="One value per so much time, such as 5min; left out: chosen.")] = None,
    rate: Annotated[bool, typer.Option("--rate", help="Of a counter: how fast it rises, a second.")] = False,
    csv_: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_: Json = False,
) -> None:
    """One metric of one device over time: a table and a line of bars; a gap is a gap."""
    if metric not in METRICS:
        raise BadInput(f"no metric {metric!r}", hint=f"one of {', '.join(METRICS)}")
    asked = {"metric": metric, "component": component, "since": since, "until": until, "step": step, "rate": rate or None}
    with Api(target_of(context), timeout_s=120) as api:
        found = api.get(f"/devices/{in_path(device)}/history", **asked)
    if json_:
        shown.as_json(found)
    elif csv_:
        _csv(found["points"], metric)
    else:
        _table(found, metric)


def _csv(points: list[dict[str, Any]], metric: str) -> None:
    names = [name for name in (points[0] if points else {"at_ms": 0, "value": 0}) if name != "at_ms"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["at_ms", "at", *(f"{metric}_{name}" if name != "value" else metric for name in names)])
    for point in points:
        values = ["" if point[name] is None else point[name] for name in names]
        writer.writerow([point["at_ms"], datetime.fromtimestamp(point["at_ms"] / 1000, UTC).isoformat(), *values])


def _table(found: dict[str, Any], metric: str) -> None:
    points: list[dict[str, Any]] = found["points"]
    names = [name for name in (points[0] if points else ()) if name not in ("at_ms", "over_ms")]
    known = [name for name in names if name != "count" and any(point[name] is not None for point in points)]
    if not points or (not known and not found["looks_coverage"]):
        typer.echo("nothing is known for that time")
        return
    unit = found["unit"]
    shape = SHAPES.get(unit, shown.text)
    shown_points = points if len(points) <= ROWS else [points[i * (len(points) - 1) // (ROWS - 1)] for i in range(ROWS)]
    screen = shown.console()
    columns: shown.Columns = {
        "at_ms": ("At", shown.when),
        **{name: _column(name, unit, shape) for name in names if name in known or name == "count" or not known},
    }
    fitting = shown.fit(shown_points, columns, screen.width, SPARE)
    screen.print(shown.table(shown_points, fitting, title=f"{metric}: {len(points)} points"))
    middle = next((name for name in ("value", "avg", "rise", "last") if name in known), "")
    values = with_gaps(points, middle) if found["step_ms"] is None else [point.get(middle) for point in points]
    bars = shown.sparkline(values)
    screen.print(bars or "no look in that time gave a value", markup=False)
    screen.print(f"{values_of(found)}, {shown.covered(found['coverage'])} of the time covered", markup=False)
    if found["unreadable"]:
        screen.print(history_farm.unreadable(found["unreadable"]), markup=False)


def _column(name: str, unit: str, shape: shown.Shape) -> tuple[str, shown.Shape]:
    return (name, shown.text) if name == "count" else (f"{name} {shown.unit(unit)}".strip(), shape)


def with_gaps(points: list[dict[str, Any]], name: str) -> list[float | None]:
    """Values of looks, with as many that are missing as would fit where nobody looked."""
    distances = [later["at_ms"] - one["at_ms"] for one, later in pairwise(points)]
    usual = max(1, statistics.median(distances)) if distances else 1
    found: list[float | None] = []
    for point, distance in zip(points, [0, *distances], strict=True):
        if distance > max(GAP_MS, 3 * usual):
            found += [None] * min(MOST_MISSING, round(distance / usual) - 1)
        found.append(point.get(name))
    return found


def values_of(found: dict[str, Any]) -> str:
    """Which keeping of the history answered, and what was made of it."""
    step_ms = found["step_ms"]
    if step_ms is None:
        return "every look"
    source = "looks" if found["level"] == "raw" else f"{found['level']} values"
    if step_ms == {"5min": 300_000, "1h": 3_600_000}.get(found["level"]):
        return source
    return f"steps of {shown.duration(step_ms / 1000)} made of {source}"


history_farm.add_to(app)
history_disk.add_to(app)
export.add_to(app)
