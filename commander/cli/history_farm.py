"""`commander history totals`, `top`, `energy`: groups of devices, and the devices at the top."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from commander.cli import shown
from commander.cli.client import Api, in_path, target_of
from commander.cli.devices import Json
from garrison.catalogue import METRICS
from garrison.faults import BadInput

Since = Annotated[str, typer.Option(help="24h, 7d, 30min, or a time such as 2026-11-20T08:00.")]
Until = Annotated[str | None, typer.Option(help="The end; left out: now.")]
By = Annotated[str, typer.Option(help="Which groups: farm, site, rack, model, coin, tag.")]

BARS = 24
SHAPES: dict[str, shown.Shape] = {"H/s": shown.hashrate, "W": shown.power, "°C": shown.temp, "s": shown.duration}


def add_to(app: typer.Typer) -> None:
    app.command()(totals)
    app.command()(top)
    app.command()(energy)


def totals(
    context: typer.Context,
    by: By = "farm",
    metric: Annotated[str, typer.Option("--metric", "-m", help="Such as hashrate_hs, power_w, accepted.")] = "hashrate_hs",
    fn: Annotated[str, typer.Option(help="sum, avg, min, max or devices; of counters also rate.")] = "sum",
    since: Since = "24h",
    until: Until = None,
    step: Annotated[str | None, typer.Option(help="One value per so much time, from 5min on; left out: chosen.")] = None,
    json_: Json = False,
) -> None:
    """What groups of devices gave together: the newest whole step, how much of the group it covers, and a line of bars."""
    asked = {"by": by, "metric": metric, "fn": fn, "since": since, "until": until, "step": step}
    with Api(target_of(context), timeout_s=120) as api:
        found = api.get("/history/aggregate", **asked)
    if json_:
        shown.as_json(found)
        return
    place = newest_whole(found["at_ms"], found["step_ms"], found["to_ms"])
    rows = [_row(group, place) for group in found["groups"]]
    if not rows:
        typer.echo("nothing is known for that time")
        return
    shape = _shape(metric, fn)
    columns: shown.Columns = {
        "name": (by.capitalize(), lambda value: shown.text(value) if value else "all"),
        "value": (fn if fn == "devices" else f"{fn} {metric}", shape),
        "coverage": ("Covered", shown.covered),
        "devices": ("Devices", shown.text),
        "mean": ("of all", shown.covered),
        "bars": ("", shown.word),
    }
    screen = shown.console()
    screen.print(shown.table(rows, shown.fit(rows, columns, screen.width, ("mean", "bars", "devices"))))
    at = "" if place is None else f"newest: {shown.when(found['at_ms'][place])}; "
    steps = f"steps of {shown.duration(found['step_ms'] / 1000)}"
    screen.print(f"{at}{steps}, {shown.covered(found['coverage'])} of all devices and time covered", markup=False)
    if found["unreadable"]:
        screen.print(unreadable(found["unreadable"]), markup=False)


def newest_whole(at_ms: list[int], step_ms: int, to_ms: int) -> int | None:
    """The last step that is over; the one that runs covers little by its nature. None: there is none."""
    return next(
        (place for place in reversed(range(len(at_ms))) if at_ms[place] + step_ms <= to_ms), len(at_ms) - 1 if at_ms else None
    )


def _row(group: dict[str, Any], place: int | None) -> dict[str, Any]:
    coverage: list[float] = group["coverage"]
    return {
        "name": group["name"],
        "value": None if place is None else group["values"][place],
        "coverage": None if place is None else coverage[place],
        "devices": None if place is None else f"{group['devices'][place]:.0f} of {group['members'][place]}",
        "mean": sum(coverage) / len(coverage) if coverage else None,
        "bars": shown.sparkline(group["values"], BARS),
    }


def _shape(metric: str, fn: str) -> shown.Shape:
    if fn in ("devices", "rate") or metric not in METRICS:
        return shown.number
    return SHAPES.get(METRICS[metric].unit, shown.number)


def top(
    context: typer.Context,
    metric: Annotated[str, typer.Option("--metric", "-m", help="Such as temp_c, hashrate_hs, power_w.")] = "temp_c",
    n: Annotated[int, typer.Option("-n", help="So many devices.", min=1, max=1000)] = 10,
    lowest: Annotated[bool, typer.Option("--lowest", help="Those with the lowest values.")] = False,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only rig or asic.")] = None,
    json_: Json = False,
) -> None:
    """The devices with the highest values now, and the part of each that has it."""
    if metric not in METRICS:
        raise BadInput(f"no metric {metric!r}", hint=f"one of {', '.join(METRICS)}")
    with Api(target_of(context)) as api:
        rows = api.get("/top", metric=metric, n=n, order="asc" if lowest else "desc", tag=tag, kind=kind)["devices"]
    columns: shown.Columns = {
        "id": ("ID", shown.text),
        "device": ("Device", shown.text),
        "component": ("Of", shown.word),
        "value": (metric, SHAPES.get(METRICS[metric].unit, shown.text)),
        "at_ms": ("At", shown.when),
    }
    shown.listing(rows, columns, json_, f"no device tells its {metric}", ("at_ms", "component"))


def energy(
    context: typer.Context,
    device: Annotated[str | None, typer.Argument(help="Id, name, MAC, serial or address; or groups with --by.")] = None,
    by: Annotated[str | None, typer.Option(help="Which groups: farm, site, rack, model, coin, tag.")] = None,
    since: Since = "24h",
    until: Until = None,
    json_: Json = False,
) -> None:
    """What was used, in kWh, by where the power is known from; how much of the time it is known."""
    if (device is None) == (by is None):
        raise BadInput("energy of what?", hint="a DEVICE, or --by farm, site, rack, model, coin or tag")
    with Api(target_of(context), timeout_s=120) as api:
        if device is not None:
            found = api.get(f"/devices/{in_path(device)}/energy", since=since, until=until)
            rows = [{"name": device, **found}]
        else:
            found = api.get("/history/energy", by=by, since=since, until=until)
            rows = [{**row, "name": row["name"] or "all"} for row in found["groups"]]
    if json_:
        shown.as_json(found)
        return
    columns: shown.Columns = {
        "name": ("Device" if by is None else by.capitalize(), shown.text),
        "kwh": ("kWh", shown.kwh),
        "measured_kwh": ("Measured", shown.kwh),
        "reported_kwh": ("Reported", shown.kwh),
        "estimated_kwh": ("Estimated", shown.kwh),
        "coverage": ("Covered", shown.covered),
    }
    shown.listing(rows, columns, False, "nothing is known for that time")
    if found["unreadable"]:
        typer.echo(unreadable(found["unreadable"]))


def unreadable(count: int) -> str:
    return f"{count} parts on disk did not read: `commander history verify` says which"
