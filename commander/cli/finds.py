"""`commander devices found`, `adopt` and `dismiss`: what the scans of sentries met."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from commander.cli import shown
from commander.cli.client import Api, password_from, target_of
from garrison.faults import BadInput

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Refs = Annotated[list[str], typer.Argument(help="Address, MAC or serial of what was found.")]
SomeRefs = Annotated[list[str] | None, typer.Argument(help="Address, MAC or serial of what was found.")]
Sentry = Annotated[str, typer.Option("--sentry", help="Only found by this one: id or name.")]
Make = Annotated[str, typer.Option("--make", help="Only this make.")]
Range = Annotated[str, typer.Option("--range", help="Only found in this range: its name in the sentry's settings.")]

COLUMNS: shown.Columns = {
    "address": ("Address", shown.text),
    "make": ("Make", shown.text),
    "model": ("Model", shown.text),
    "mac": ("MAC", shown.text),
    "serial": ("Serial", shown.text),
    "range": ("Range", shown.text),
    "sentry": ("Sentry", shown.text),
    "state": ("State", shown.text),
    "text": ("", shown.word),
}
SPARE = ("serial", "range", "sentry", "state")


def found(
    context: typer.Context,
    sentry: Sentry = "",
    make: Make = "",
    range_: Range = "",
    all_: Annotated[bool, typer.Option("--all", help="Also what was dismissed.")] = False,
    json_: Json = False,
) -> None:
    """Devices that the sentries' scans found and nobody adopted: not watched, and no orders go there."""
    with Api(target_of(context)) as api:
        rows = api.get("/found", sentry=sentry, make=make, range=range_, dismissed=all_)["found"]
    if not json_:
        for row in rows:
            told = [one["text"] for one in row["duplicates"]] + [row["error"]]
            if row["known"] and not row["duplicates"]:
                told.append(f"it is device {row['known']['id']} ({row['known']['name']}), which is not heard where it is watched")
            row["text"] = "; ".join(filter(None, told))
    shown.listing(rows, COLUMNS, json_, "nothing found that is not adopted: `scan.ranges` in a sentry's settings", SPARE)


def adopt(
    context: typer.Context,
    devices: SomeRefs = None,
    all_: Annotated[bool, typer.Option("--all", help="All that fit the filters; not what is there twice.")] = False,
    sentry: Sentry = "",
    make: Make = "",
    range_: Range = "",
    name: Annotated[str, typer.Option(help="A name for people, of one device.")] = "",
    username: Annotated[str | None, typer.Option(help="Login of its web interface, when not the factory's.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password (or GARRISON_DEVICE_PASSWORD).")] = None,
    json_: Json = False,
) -> None:
    """Has devices watched that were found: named ones, or with --all those that fit."""
    if bool(devices) == all_:
        raise BadInput("either devices or --all", hint="`commander devices found` shows what there is")
    if not all_ and (make or range_):
        raise BadInput("--make and --range choose among --all")
    body: dict[str, Any] = {"name": name, "username": username}
    body |= {"filter": {"sentry": sentry, "make": make, "range": range_}} if all_ else {"devices": devices, "sentry": sentry}
    body["password"] = password_from(password_file)
    with Api(target_of(context)) as api:
        told = api.post("/found/adopt", body)
    if json_:
        shown.as_json(told)
        return
    for row in told["adopted"]:
        typer.echo(shown.clean(f"device {row['id']} ({row['name']}) at {row['address']} will be watched by {row['sentry']}"))
    for row in told["left_out"]:
        typer.echo(shown.clean(f"left out: {row['address']}: {row['why']}"))


def dismiss(
    context: typer.Context,
    devices: Refs,
    sentry: Sentry = "",
    back: Annotated[bool, typer.Option("--back", help="Undo it.")] = False,
) -> None:
    """Sends away what was found: it is not listed, and no rule adopts it."""
    with Api(target_of(context)) as api:
        rows = api.post("/found/dismiss", {"devices": devices, "sentry": sentry, "back": back})["found"]
    for row in rows:
        typer.echo(shown.clean(f"{row['address']}: {row['state']}"))
