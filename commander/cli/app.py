"""The `commander` command: what it can do, and how its errors look."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from commander.cli import access, actions, daemon, devices, history, overview, power, relays, sentries, sheets
from commander.cli.client import Target, token_from
from commander.cli.shown import stderr
from commander.settings import home_of
from garrison.faults import Fault

app = typer.Typer(
    name="commander",
    help="Watch and control a mining farm. The commands speak to the running commander; `init` and `run` start one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"commander {version('garrison')}")
        raise typer.Exit


@app.callback()
def connect(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="The farm's folder.", envvar="GARRISON_HOME", show_default="./farm")] = None,
    url: Annotated[
        str, typer.Option(help="Another machine's commander, https://host:port; needs a token.", envvar="GARRISON_URL")
    ] = "",
    token_file: Annotated[Path | None, typer.Option(help="A file with the token (or set GARRISON_TOKEN).")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="With --url: a PEM file with the CA of its certificate, when the system does not know it.")
    ] = None,
    _: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)] = False,
) -> None:
    context.obj = Target(home_of(home), url, token_from(token_file) if url else "", ca_file)


for part in (overview, history, daemon):
    part.add_to(app)
app.add_typer(devices.app, name="devices")
app.add_typer(sentries.app, name="sentries")
app.add_typer(relays.app, name="relays")
app.add_typer(sheets.app, name="sheets")
app.add_typer(sheets.programs, name="programs")
app.add_typer(actions.app, name="actions")
app.command("order", help=f"Order devices to {actions.KINDS}.")(actions.order)
app.add_typer(power.app, name="power")
app.add_typer(access.app, name="tokens")


def main() -> None:
    """Entry point. Every error is one line that says what was wrong, one that says what to do, and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot draw a bar gets a "?"
    try:
        app(standalone_mode=True)
    except Fault as fault:
        _say(fault)
    except ExceptionGroup as group:
        faults = [one for one in leaves(group) if isinstance(one, Fault)]
        if not faults:
            raise
        _say(faults[0])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has seen enough
    except OSError as error:
        stderr(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error.strerror or error}")
    else:
        return
    sys.exit(1)


def _say(fault: Fault) -> None:
    stderr(f"error: {fault.text}")
    if fault.hint:
        stderr(f"hint: {fault.hint}")


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors themselves, of whatever depth."""
    return [leaf for one in group.exceptions for leaf in (leaves(one) if isinstance(one, BaseExceptionGroup) else [one])]
