"""`commander devices export` and `import`: the fleet as a table for spreadsheets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commander.cli import shown
from commander.cli.client import Api, secret_of, target_of
from garrison.faults import BadInput

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def export(
    context: typer.Context,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV, which is the only form so far.")] = True,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file, new; left out: stdout.")] = None,
) -> None:
    """Writes all devices as a table: names, sites, racks, positions, tags, addresses, notes. Passwords are not in it."""
    with Api(target_of(context)) as api:
        table = api.text("/inventory")
    if output is None:
        typer.echo(table, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8", newline="") as file:
            file.write(table)
    except FileExistsError:
        raise BadInput(f"{output} is there already", hint="name a new file") from None
    except OSError as error:
        raise BadInput(f"cannot write {output}: {error.strerror}") from error


def import_(
    context: typer.Context,
    csv: Annotated[Path, typer.Option("--csv", help="The table, with the headings that `export` writes; some may be missing.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    json_: Json = False,
) -> None:
    """Adds and changes devices as a table says. Read as a whole first: with one mistake nothing is changed.

    A line is about the device with its id, else MAC, serial or address; where there is none, a new one is watched. Empty cells
    clear site, rack, position, tags and notes. What a device says itself (kind, model, MAC, serial, make) is not changed.
    """
    table = secret_of(csv, "table")
    with Api(target_of(context), timeout_s=120) as api:
        told = api.post("/inventory", {"csv": table, "dry_run": dry_run})
    if json_:
        shown.as_json(told)
    elif told["mistakes"]:
        for one in told["mistakes"]:
            column = f", {one['column']}" if one["column"] else ""
            shown.stderr(shown.clean(f"{csv}, line {one['line']}{column}: {one['text']}"))
        shown.stderr("nothing was changed")
    else:
        would = "would be " if dry_run else ""
        typer.echo(f"{told['added']} {would}added, {told['changed']} {would}changed, {told['unchanged']} as they were")
    if told["mistakes"]:
        raise typer.Exit(1)
