"""The `commander` command: what it can do, and how its errors look."""

from __future__ import annotations

import sys
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
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def connect(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="The farm's folder.", envvar="GARRISON_HOME", show_default="./farm")] = None,
    url: Annotated[
        str, typer.Option(help="Another machine's commander, https://host:port; needs a token.", envvar="GARRISON_URL")
    ] = "",
    token_file: Annotated[Path | None, typer.Option(help="A file with the token (or set GARRISON_TOKEN).")] = None,
) -> None:
    context.obj = Target(home_of(home), url, token_from(token_file) if url else "")


for part in (overview, history, daemon):
    part.add_to(app)
app.add_typer(devices.app, name="devices")
app.add_typer(sentries.app, name="sentries")
app.add_typer(relays.app, name="relays")
app.add_typer(sheets.app, name="sheets")
app.add_typer(sheets.programs, name="programs")
app.add_typer(actions.app, name="actions")
app.command("order", help="Order devices to reboot, restart_mining, pause, resume or locate.")(actions.order)
app.add_typer(power.app, name="power")
app.add_typer(access.app, name="tokens")


def main() -> None:
    """Entry point. Every error is one line that says what was wrong, one that says what to do, and exit code 1."""
    try:
        app(standalone_mode=True)
    except Fault as fault:
        stderr(f"error: {fault.text}")
        if fault.hint:
            stderr(f"hint: {fault.hint}")
        sys.exit(1)
    except OSError as error:
        stderr(f"error: {error.filename or ''}: {error.strerror or error}".replace("error: :", "error:"))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
