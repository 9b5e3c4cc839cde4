"""`commander sheets …` and `commander programs …`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from commander.cli import shown
from commander.cli.actions import Wait, ask
from commander.cli.client import Api, in_path, target_of
from commander.cli.devices import Json
from garrison.faults import BadInput

app = typer.Typer(help="Flight sheets: what to mine, where to, with which program.", no_args_is_help=True)
programs = typer.Typer(help="Mining programs, pinned by version and SHA-256. Nothing is downloaded unasked.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="Name or id of the sheet.")]

COLUMNS: shown.Columns = {
    "id": ("ID", shown.text),
    "name": ("Name", shown.text),
    "coin": ("Coin", shown.text),
    "algorithm": ("Algorithm", shown.text),
    "program": ("Program", shown.text),
    "version": ("Version", shown.text),
    "wallet": ("Wallet", shown.text),
}
PROGRAMS: shown.Columns = {
    "name": ("Program", shown.text),
    "version": ("Version", shown.text),
    "location": ("From", shown.text),
    "sha256": ("SHA-256", shown.text),
    "simulated": ("", shown.flag),
}

DRIFT: shown.Columns = {
    "device_id": ("ID", shown.text),
    "device": ("Device", shown.text),
    "state": ("State", shown.text),
    "wanted_name": ("Should run", shown.text),
    "wanted": ("Revision", shown.text),
    "running": ("Runs", shown.text),
    "simulated": ("", shown.flag),
    "text": ("Why", lambda value: shown.text(value) if value else "as it should"),
}


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name.")],
    coin: Annotated[str, typer.Option(help="Such as BTC or XMR.")],
    algorithm: Annotated[str, typer.Option(help="Such as sha256 or rx/0.")],
    pool: Annotated[list[str], typer.Option(help="stratum+tcp://host:port; repeat for fail-over, in order.")],
    wallet: Annotated[str, typer.Option(help="Payout address, or account at the pool.")],
    worker: Annotated[str, typer.Option(help="Template of the worker's name.")] = "{device}",
    user: Annotated[str | None, typer.Option(help="Template of the pool user.", show_default="{wallet}.{worker}")] = None,
    password: Annotated[str, typer.Option(help="Pool password; pools mostly want just x.")] = "x",  # noqa: S107  # not a secret
    program: Annotated[str | None, typer.Option(help="For rigs: NAME or NAME@VERSION of `commander programs`.")] = None,
    argument: Annotated[
        list[str] | None, typer.Option(help="For rigs: one argument of the program, may hold placeholders; repeat.")
    ] = None,
    verify_within_s: Annotated[int, typer.Option(help="How soon it must mine on the new pool.", min=5)] = 300,
    json_: Json = False,
) -> None:
    """Makes a flight sheet. An unknown {placeholder} is refused with the list of those there are."""
    program_name, _, version = (program or "").partition("@")
    body: dict[str, Any] = {
        "name": name,
        "coin": coin,
        "algorithm": algorithm,
        "pools": [{"url": url, "password": password} for url in pool],
        "wallet": wallet,
        "worker": worker,
        "verify_within_s": verify_within_s,
    }
    optional = {"user": user, "program": program_name or None, "version": version or None, "arguments": argument}
    body |= {key: value for key, value in optional.items() if value is not None}
    with Api(target_of(context)) as api:
        row = api.post("/sheets", body)
    shown.as_json(row) if json_ else typer.echo(f"flight sheet {row['name']} ({row['id']})")


@app.command("list")
def list_(context: typer.Context, json_: Json = False) -> None:
    """All flight sheets."""
    with Api(target_of(context)) as api:
        rows = api.get("/sheets")["sheets"]
    shown.listing(rows, COLUMNS, json_, "no flight sheets yet: `commander sheets create`", ("version", "program", "wallet"))


@app.command()
def show(
    context: typer.Context,
    sheet: Ref,
    device: Annotated[str | None, typer.Option(help="Also as it would be rendered for this device.")] = None,
    json_: Json = False,
) -> None:
    """One flight sheet: the template, and what becomes of it."""
    with Api(target_of(context)) as api:
        row = api.get(f"/sheets/{in_path(sheet)}", device=device)
    shown.as_json(row) if json_ else shown.facts(row)


@app.command()
def apply(
    context: typer.Context,
    sheet: Ref,
    devices: Annotated[list[str], typer.Argument(help="Devices: id, name, MAC, serial or address.")],
    wait: Wait = 600.0,
    json_: Json = False,
) -> None:
    """Has devices mine it. What does not mine on the new pool in time goes back to its last good sheet."""
    ask(context, f"/sheets/{in_path(sheet)}/apply", {"devices": devices}, wait, json_)


@app.command()
def remove(context: typer.Context, sheet: Ref) -> None:
    """Removes a sheet that no device uses."""
    with Api(target_of(context)) as api:
        api.delete(f"/sheets/{in_path(sheet)}")
    typer.echo(f"flight sheet {sheet} is gone")


@app.command()
def drift(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Also devices that run what they should.")] = False,
    json_: Json = False,
) -> None:
    """Devices that do not run what was last applied to them."""
    with Api(target_of(context)) as api:
        rows = api.get("/drift", all=all_)["devices"]
    shown.listing(rows, DRIFT, json_, "no device" if all_ else "every device runs what was applied to it", ("running", "wanted"))


@programs.command("add")
def add_program(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The program, such as xmrig.")],
    version: Annotated[str, typer.Argument(help="Its version.")],
    location: Annotated[str, typer.Option(help="Path on the rigs, or https address, of the archive.")],
    sha256: Annotated[str | None, typer.Option(help="Its SHA-256. Left out: taken from the file here.")] = None,
    executable: Annotated[str, typer.Option(help="Path of the program inside the archive; empty: the file itself.")] = "",
    simulated: Annotated[bool, typer.Option(help="Mark what runs it as simulated.")] = False,
) -> None:
    """Pins a mining program."""
    digest = sha256 or _digest(Path(location))
    body = {"name": name, "version": version, "location": location, "sha256": digest, "executable": executable}
    with Api(target_of(context)) as api:
        api.post("/programs", {**body, "simulated": simulated})
    typer.echo(f"{name} {version} is pinned to {digest}")


@programs.command("list")
def list_programs(context: typer.Context, json_: Json = False) -> None:
    """All pinned programs."""
    with Api(target_of(context)) as api:
        rows = api.get("/programs")["programs"]
    shown.listing(rows, PROGRAMS, json_, "no programs yet: `commander programs add`", ("sha256",))


@programs.command("remove")
def remove_program(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The program.")],
    version: Annotated[str, typer.Argument(help="Its version.")],
) -> None:
    """Removes a pinned program that no sheet names."""
    with Api(target_of(context)) as api:
        api.delete(f"/programs/{in_path(name)}/{in_path(version)}")
    typer.echo(f"{name} {version} is no longer pinned")


def _digest(path: Path) -> str:
    if not path.is_file():
        raise BadInput(f"there is no file {path} here", hint="give its --sha256")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
