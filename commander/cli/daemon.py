"""`commander init`, `run`, `config`, `backup`, `restore`, `service`: what belongs to the daemon's own machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from commander import settings
from commander.cli import shown
from commander.cli.client import Api, target_of
from commander.cli.devices import Json
from garrison import settings as toml


def add_to(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(run)
    app.command()(backup)
    app.command()(restore)
    config = typer.Typer(help="The settings file.", no_args_is_help=True)
    config.command("check")(config_check)
    config.command("example")(config_example)
    app.add_typer(config, name="config")
    authority = typer.Typer(help="The farm's certificate authority.", no_args_is_help=True)
    authority.command("export-root")(export_root)
    app.add_typer(authority, name="ca")
    service = typer.Typer(help="The commander as a system service.", no_args_is_help=True)
    service.command("install")(service_install)
    service.command("remove")(service_remove)
    service.command("status")(service_status)
    app.add_typer(service, name="service")


def init(
    context: typer.Context,
    farm: Annotated[str, typer.Option(help="The farm's name.")] = "farm",
    listen: Annotated[str, typer.Option(help="Address on which sentries reach it; 127.0.0.1 for this machine only.")] = "0.0.0.0",
    advertise: Annotated[str, typer.Option(help="The host name or address that sentries should dial.")] = "",
    post_port: Annotated[int, typer.Option(help="Port for sentries at work.", min=1, max=65535)] = 8441,
    enrol_port: Annotated[int, typer.Option(help="Port for new sentries.", min=1, max=65535)] = 8442,
    http_port: Annotated[
        int, typer.Option(help="Port of the HTTP API on loopback; 0: only the Unix socket.", min=0, max=65535)
    ] = 8440,
) -> None:
    """Makes a new farm: its certificate authority, its settings, and a one-time link for the first administrator."""
    from commander.setup import Addresses, make_farm

    for line in make_farm(target_of(context).home, farm, Addresses(listen, advertise, post_port, enrol_port, http_port)):
        typer.echo(line)


def run(context: typer.Context) -> None:
    """Runs the commander in the foreground until SIGTERM or Ctrl-C."""
    from commander.backup import finish_restore
    from commander.main import run as run_commander
    from garrison import logs

    home = target_of(context).home
    finish_restore(home)
    configured = settings.load(home)
    logs.start(configured.log.shape, configured.log.level)
    asyncio.run(run_commander(home, configured))


def config_check(context: typer.Context) -> None:
    """Reads the settings file, the files that it names, and the farm's certificate authority, and says what is wrong with them."""
    from commander.access.ca import Authority

    home = target_of(context).home
    settings.load(home)
    Authority.open(home / "ca")
    typer.echo(f"{home / settings.FILE} is good")
    typer.echo(f"{home / 'ca'} is good")


def config_example() -> None:
    """Prints a settings file with every key, its default and what it means."""
    typer.echo(toml.example(settings.Settings, settings.TITLE), nl=False)


def backup(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="A new file for the backup, on the commander's machine.")],
    json_: Json = False,
) -> None:
    """Backs the whole farm up while it runs, and checks the copy by opening it."""
    with Api(target_of(context), timeout_s=3600) as api:
        made = api.post("/backup", {"target": str(target.absolute())})
    shown.as_json(made) if json_ else typer.echo(f"{made['path']}: {made['bytes']} bytes, checked")


def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A backup.")],
) -> None:
    """Puts a backup in place of the farm's data; the commander must not run. What was there is kept aside."""
    from commander.backup import restore as put_back

    for line in put_back(source, target_of(context).home):
        typer.echo(line)


def export_root(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="A new file, on a stick that will lie in a safe.")],
) -> None:
    """Moves the root's key away; the farm goes on without it, and needs it back once a year for a new intermediate."""
    from commander.access.ca import Authority

    Authority.open(target_of(context).home / "ca").export_root(target)
    typer.echo(f"the root's key is in {target} and no longer here; keep it safe and offline")


def service_install(context: typer.Context) -> None:
    """Installs and starts the service."""
    from commander.service import DAEMON
    from sentry_core import service

    typer.echo(service.install(DAEMON, target_of(context).home.parent))


def service_remove(context: typer.Context) -> None:
    """Stops and removes the service. The farm's data stays."""
    from commander.service import DAEMON
    from sentry_core import service

    typer.echo(service.remove(DAEMON))


def service_status(context: typer.Context, json_: Json = False) -> None:
    """Whether it is installed and runs."""
    from commander.service import DAEMON
    from sentry_core import service

    found = service.status(DAEMON)
    shown.as_json(found.as_row()) if json_ else shown.facts(found.as_row())
