"""`commander tokens …`: people and programs that use the HTTP API over TCP."""

from __future__ import annotations

from typing import Annotated

import typer

from commander.cli import shown
from commander.cli.client import Api, in_path, target_of
from commander.cli.devices import Json

app = typer.Typer(help="Tokens for people and programs; the farm has no passwords to guess.", no_args_is_help=True)

COLUMNS: shown.Columns = {
    "id": ("ID", shown.text),
    "name": ("Name", shown.text),
    "role": ("Role", shown.text),
    "created_ms": ("Made", shown.when),
    "expires_ms": ("Expires", shown.when),
}


@app.command("list")
def list_(context: typer.Context, json_: Json = False) -> None:
    """All tokens, without their secrets."""
    with Api(target_of(context)) as api:
        rows = api.get("/tokens")["tokens"]
    shown.listing(rows, COLUMNS, json_, "no tokens", ("created_ms",))


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    role: Annotated[str, typer.Option(help="viewer, operator or administrator.")] = "viewer",
    days: Annotated[int, typer.Option(help="Days until it expires.", min=1, max=3650)] = 90,
    json_: Json = False,
) -> None:
    """Makes a token. It is shown once."""
    with Api(target_of(context)) as api:
        made = api.post("/tokens", {"name": name, "role": role, "ttl_s": days * 86_400})
    shown.as_json(made) if json_ else typer.echo(made["token"])


@app.command()
def remove(context: typer.Context, token: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """Takes a token back at once."""
    with Api(target_of(context)) as api:
        api.delete(f"/tokens/{in_path(token)}")
    typer.echo(f"token {token} is gone")


@app.command()
def link(context: typer.Context) -> None:
    """A new one-time link for an administrator, when the first was lost."""
    with Api(target_of(context)) as api:
        made = api.post("/setup/link")
    typer.echo(made["link"])
