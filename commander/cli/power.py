"""`commander power …`: mains, through the relays."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from commander.cli import shown
from commander.cli.actions import Wait, ask
from commander.cli.client import Api, target_of
from commander.cli.devices import Json, Ref

app = typer.Typer(help="Switch a device's mains through its relay.", no_args_is_help=True)

Force = Annotated[bool, typer.Option(help="Also when so many devices are silent that it looks like the network.")]


@app.command()
def on(context: typer.Context, device: Ref, force: Force = False, wait: Wait = 120.0, json_: Json = False) -> None:
    """Mains on."""
    _switch(context, "on", device, {"force": force}, wait, json_)


@app.command()
def off(context: typer.Context, device: Ref, force: Force = False, wait: Wait = 120.0, json_: Json = False) -> None:
    """Mains off, until somebody switches it on."""
    _switch(context, "off", device, {"force": force}, wait, json_)


@app.command()
def cycle(
    context: typer.Context,
    device: Ref,
    off_s: Annotated[int | None, typer.Option(help="Seconds without mains, 10 to 600.", min=1)] = None,
    force: Force = False,
    wait: Wait = 900.0,
    json_: Json = False,
) -> None:
    """Mains off and on again; comes back even when the commander dies meanwhile."""
    _switch(context, "cycle", device, {"force": force, **({"off_s": off_s} if off_s is not None else {})}, wait, json_)


@app.command()
def check(
    context: typer.Context,
    device: Ref,
    kind: Annotated[str, typer.Option(help="on, off or cycle.")] = "cycle",
    json_: Json = False,
) -> None:
    """What would refuse it, without doing anything."""
    with Api(target_of(context)) as api:
        found = api.get("/power/check", device=device, kind=kind)
    shown.as_json(found) if json_ else shown.facts(found)


def _switch(context: typer.Context, verb: str, device: str, body: dict[str, Any], wait: float, json_: bool) -> None:
    ask(context, f"/power/{verb}", {"device": device, **body}, wait, json_)
