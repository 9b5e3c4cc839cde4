"""`commander sentries …`."""

from __future__ import annotations

from typing import Annotated

import typer

from commander.cli import shown
from commander.cli.client import Api, in_path, target_of
from commander.cli.devices import Json

app = typer.Typer(help="The sentries: who may join, who is there, who is shut out.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="Id or name.")]

COLUMNS: shown.Columns = {
    "id": ("ID", shown.text),
    "name": ("Name", shown.text),
    "kind": ("Kind", shown.text),
    "state": ("State", shown.text),
    "fingerprint": ("Fingerprint", shown.text),
    "address": ("Address", shown.text),
    "software": ("Software", shown.text),
    "seen_ms": ("Last seen", shown.day_and_time),
}
SPARE = ("software", "address", "seen_ms", "id")


@app.command()
def token(
    context: typer.Context,
    kind: Annotated[str, typer.Option(help="rig or asic.")] = "rig",
    site: Annotated[str, typer.Option(help="The site it will belong to.")] = "",
    uses: Annotated[int, typer.Option(help="How many machines may join with it.", min=1)] = 1,
    ttl_h: Annotated[float, typer.Option(help="Hours until it expires.", min=0.01)] = 24,
    approve: Annotated[bool, typer.Option("--approve", help="Let them in without asking again.")] = False,
    json_: Json = False,
) -> None:
    """Makes a join token. It is shown once: `sentry-rig enrol TOKEN` takes it."""
    body = {"kind": kind, "site": site, "uses": uses, "ttl_s": round(ttl_h * 3600), "approve": approve}
    with Api(target_of(context)) as api:
        made = api.post("/sentries/tokens", body)
    shown.as_json(made) if json_ else typer.echo(made["token"])


@app.command("list")
def list_(context: typer.Context, json_: Json = False) -> None:
    """All sentries, those that wait for approval too."""
    with Api(target_of(context)) as api:
        rows = api.get("/sentries")["sentries"]
    columns = {**COLUMNS, "id": ("ID", shown.beginnings(row["id"] for row in rows))}
    if any(row["twin"] for row in rows):
        columns["twin"] = ("Clone at", shown.text)
    shown.listing(rows, columns, json_, "no sentries yet: `commander sentries token` lets one join", SPARE)


@app.command()
def show(context: typer.Context, sentry: Ref, json_: Json = False) -> None:
    """One sentry."""
    with Api(target_of(context)) as api:
        row = api.get(f"/sentries/{in_path(sentry)}")
    shown.as_json(row) if json_ else shown.facts(row)


@app.command()
def approve(context: typer.Context, sentry: Ref) -> None:
    """Lets a waiting sentry in. Compare the fingerprint with the one it shows first."""
    with Api(target_of(context)) as api:
        row = api.post(f"/sentries/{in_path(sentry)}/approve")
    typer.echo(f"{row['name']} ({row['id']}) may work: {row['fingerprint']}")


@app.command()
def revoke(
    context: typer.Context,
    sentry: Ref,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
) -> None:
    """Shuts a sentry out at once and for ever."""
    with Api(target_of(context)) as api:
        row = api.post(f"/sentries/{in_path(sentry)}/revoke", {"reason": reason})
    typer.echo(f"{row['name']} ({row['id']}) is revoked")


@app.command()
def name(context: typer.Context, sentry: Ref, new: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Gives a sentry a name."""
    with Api(target_of(context)) as api:
        row = api.patch(f"/sentries/{in_path(sentry)}", {"name": new})
    typer.echo(f"{row['id']}  {row['name']}")
