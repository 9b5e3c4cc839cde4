"""`commander status` and `commander watch`."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from commander.cli import shown
from commander.cli.client import Api, target_of
from commander.cli.devices import COLUMNS, SPARE, Json
from garrison.faults import Unavailable, Unreachable

WATCHED: shown.Columns = {key: COLUMNS[key] for key in COLUMNS if key not in ("kind", "sentry")}

EVENTS: shown.Columns = {
    "at_ms": ("At", shown.day_and_time),
    "kind": ("What", shown.text),
    "severity": ("Severity", shown.text),
    "device_id": ("Device", shown.word),
    "text": ("", shown.text),
}


def add_to(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(watch)
    app.command()(events)


def status(context: typer.Context, json_: Json = False) -> None:
    """The farm in a few lines."""
    with Api(target_of(context)) as api:
        found = api.get("/status")
    shown.as_json(found) if json_ else shown.console().print(_summary(found))


def events(
    context: typer.Context,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    sentry: Annotated[str | None, typer.Option(help="Only of this sentry.")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=1000)] = 50,
    json_: Json = False,
) -> None:
    """What happened, the newest first."""
    with Api(target_of(context)) as api:
        rows = api.get("/events", device=device, sentry=sentry, limit=limit)["events"]
    shown.listing(rows, EVENTS, json_, "nothing happened yet", ("severity", "device_id"))


def watch(
    context: typer.Context,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.5)] = 2.0,
    rounds: Annotated[int, typer.Option(help="Stop after so many looks; 0: go on until Ctrl-C.", min=0)] = 0,
) -> None:
    """A live table of the farm. Ctrl-C ends it; without a terminal it prints one line a look."""
    screen = shown.console()
    target = target_of(context)
    done = 0
    live = Live(console=screen, auto_refresh=False, screen=False, transient=False) if screen.is_terminal else None
    with live or contextlib.nullcontext(), contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        while True:
            try:
                with Api(target) as api:
                    found, rows = api.get("/status"), api.get("/devices")["devices"]
                view: RenderableType = _view(found, rows, screen)
                line = _line(found)
            except (Unreachable, Unavailable) as fault:
                view, line = Text(f"{fault.text}; trying again", style="red"), f"{fault.text}; trying again"
            if live:
                live.update(view, refresh=True)
            else:
                typer.echo(line)
            done += 1
            if rounds and done >= rounds:
                return
            time.sleep(every)  # a person watches; nothing waits for this


def _view(found: dict[str, Any], rows: list[dict[str, Any]], screen: Console) -> RenderableType:
    parts: list[RenderableType] = [_summary(found), Text()]
    if rows:
        fitting = rows[: max(screen.height - 8, 5)]
        parts.append(shown.table(fitting, shown.fit(fitting, WATCHED, screen.width, SPARE)))
        if len(fitting) < len(rows):
            parts.append(Text(f"… and {len(rows) - len(fitting)} more: `commander devices list`", style="dim"))
    else:
        parts.append(Text("no devices yet"))
    return Group(*parts)


def _summary(found: dict[str, Any]) -> RenderableType:
    lines = [
        Text.assemble((found["farm"], "bold"), f"   commander {found['version']}, up {shown.duration(found['uptime_s'])}"),
        Text(f"Sentries   {_counts(found['sentries'])}"),
        Text(f"Devices    {_counts(found['devices'])}"),
        Text(
            f"Hashrate   {_by_coin(found['hashrate'])}     Power {shown.power(found['power_w'])} "
            f"(known for {found['power_known']} of {found['devices_total']})     Hottest {shown.temp(found['hottest_c'])}"
        ),
    ]
    if found.get("simulated"):
        lines.append(Text(f"{found['simulated']} of these devices are simulated", style="magenta"))
    return Group(*lines)


def _by_coin(rows: list[dict[str, Any]]) -> str:
    """Hashrates of different algorithms are never added up."""
    return ",  ".join(f"{shown.hashrate(row['hashrate_hs'])} {_of(row)}" for row in rows) or shown.NOT_KNOWN


def _of(row: dict[str, Any]) -> str:
    return shown.text(row["algorithm"]) if row["algorithm"] else f"(unknown algorithm, {row['devices']} devices)"


def _counts(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "none"


def _line(found: dict[str, Any]) -> str:
    return (
        f"sentries: {_counts(found['sentries'])}; devices: {_counts(found['devices'])}; "
        f"hashrate: {_by_coin(found['hashrate'])}; power: {shown.power(found['power_w'])}"
        + (f"; {found['simulated']} simulated" if found.get("simulated") else "")
    )
