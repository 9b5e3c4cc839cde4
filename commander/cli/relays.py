"""`commander relays …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commander.cli import shown
from commander.cli.client import Api, in_path, password_from, target_of
from commander.cli.devices import Json
from garrison.faults import BadInput

app = typer.Typer(help="Relay boards, and which outlet feeds which device.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="Id or name of the board.")]

COLUMNS: shown.Columns = {
    "id": ("ID", shown.text),
    "name": ("Name", shown.text),
    "kind": ("Kind", shown.text),
    "address": ("Address", shown.text),
    "sentry": ("Sentry", shown.text),
    "outlets": ("Outlets", shown.text),
    "simulated": ("", shown.flag),
}
OUTLETS: shown.Columns = {
    "outlet": ("Outlet", shown.text),
    "device": ("Feeds", shown.text),
    "state": ("State", shown.text),
    "power_w": ("Power", shown.power),
    "circuit": ("Circuit", shown.text),
    "protected": ("Protected", shown.text),
}


@app.command("list")
def list_(context: typer.Context, json_: Json = False) -> None:
    """All boards."""
    with Api(target_of(context)) as api:
        rows = api.get("/relays")["relays"]
    shown.listing(rows, COLUMNS, json_, "no relay boards yet: `commander relays add`", ("outlets", "sentry", "id"))


@app.command()
def show(context: typer.Context, board: Ref, json_: Json = False) -> None:
    """One board with its outlets."""
    with Api(target_of(context)) as api:
        row = api.get(f"/relays/{in_path(board)}")
    if json_:
        shown.as_json(row)
    else:
        outlets = row.pop("outlets_mapped", [])
        shown.facts(row)
        shown.console().print()
        shown.listing(outlets, OUTLETS, False, "no outlet is mapped: `commander relays map`")


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for people.")],
    board: Annotated[str, typer.Option(help="Kind of board: tasmota, modbus, fake.")],
    address: Annotated[str, typer.Option(help="host or host:port.")],
    sentry: Annotated[str, typer.Option(help="The ASIC sentry that drives it.")],
    outlets: Annotated[int, typer.Option(help="How many outlets it has.", min=1, max=512)] = 1,
    username: Annotated[str | None, typer.Option(help="Its login.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with its password (or GARRISON_DEVICE_PASSWORD).")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the driver, such as unit=2.")] = None,
    simulated: Annotated[bool, typer.Option(help="Mark it as simulated wherever it is shown.")] = False,
    json_: Json = False,
) -> None:
    """Adds a board."""
    options = dict(_pair(item) for item in option or [])
    body = {
        "name": name,
        "kind": board,
        "address": address,
        "sentry": sentry,
        "outlets": outlets,
        "username": username,
        "password": password_from(password_file),
        "options": options,
        "simulated": simulated,
    }
    with Api(target_of(context)) as api:
        row = api.post("/relays", {key: value for key, value in body.items() if value is not None})
    shown.as_json(row) if json_ else typer.echo(f"board {row['id']} ({row['name']})")


@app.command("map")
def map_(
    context: typer.Context,
    board: Ref,
    outlet: Annotated[str, typer.Argument(help="The outlet, as printed on the board.")],
    device: Annotated[str, typer.Argument(help="The device it feeds.")],
    circuit: Annotated[str, typer.Option(help="The circuit it hangs on; power-ons there are spread.")] = "",
    protected: Annotated[bool, typer.Option(help="Never switch it: it also feeds a sentry or a switch.")] = False,
) -> None:
    """Says which device an outlet feeds. Nothing unmapped is ever switched."""
    with Api(target_of(context)) as api:
        api.post(
            f"/relays/{in_path(board)}/outlets/{in_path(outlet)}", {"device": device, "circuit": circuit, "protected": protected}
        )
    typer.echo(f"outlet {outlet} of {board} feeds {device}")


@app.command()
def unmap(
    context: typer.Context, board: Ref, outlet: Annotated[str, typer.Argument(help="The outlet, as printed on the board.")]
) -> None:
    """Forgets what an outlet feeds."""
    with Api(target_of(context)) as api:
        api.delete(f"/relays/{in_path(board)}/outlets/{in_path(outlet)}")
    typer.echo(f"outlet {outlet} of {board} feeds nothing that we know")


@app.command()
def remove(context: typer.Context, board: Ref) -> None:
    """Removes a board."""
    with Api(target_of(context)) as api:
        api.delete(f"/relays/{in_path(board)}")
    typer.echo(f"board {board} is removed")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--option {text!r} is not KEY=VALUE")
    return key, value
