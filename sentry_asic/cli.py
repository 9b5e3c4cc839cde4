"""The `sentry-asic` command. Each command imports what it needs when it runs, so that --help and completion are quick."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.faults import BadInput
from sentry_core.cli import Home, Kind, commands
from sentry_core.cli import main as run_app

if TYPE_CHECKING:
    from garrison.clock import Clock
    from garrison.model import Credentials
    from rrc.board import BoardAddress
    from sentry_asic.relay_command import Verb
    from sentry_core.post import Post
    from sentry_core.settings import SentrySettings

app = typer.Typer(name="sentry-asic", help="Stands beside ASIC miners and their relays.", no_args_is_help=True)

Username = Annotated[str, typer.Option("--username", help="Of the device's web page; the maker's factory name when not given.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the device's password. Also: GARRISON_DEVICE_PASSWORD.", dir_okay=False),
]
HttpPort = Annotated[int, typer.Option("--http-port", help="Port of the device's web page.", min=0, max=65535)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def probe(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS[:PORT]", help="The device, such as 192.168.1.20 or 192.168.1.20:4028.")
    ],
    http_port: HttpPort = 0,
    username: Username = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Identify and read one device, without any commander. Exit code 1 when it cannot be read."""
    from sentry_asic.probe import probe as look

    found = _run(look(address, http_port=http_port, credentials=_credentials(username, password_file)))
    if as_json:
        _print_json(found.found)
    else:
        from sentry_asic.show import print_probe

        print_probe(found.found)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def scan(
    ranges: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RANGE…",
            help="192.168.1.0/24, 10.0.0.10-10.0.0.90, an address, or a name in the settings; left out: all that are named there.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Addresses to leave alone, written so too; repeat.")
    ] = None,
    rate: Annotated[float, typer.Option("--rate", help="Most new connections a second; 0: as set.", min=0, max=10_000)] = 0,
    port: Annotated[int, typer.Option("--port", help="Port of the devices' API.", min=0, max=65535)] = 0,
    http_port: HttpPort = 0,
    username: Username = "",
    password_file: PasswordFile = None,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each device.")] = False,
) -> None:
    """Find devices in networks of ours. Reads only; the same again when run again."""
    from sentry_asic.scan_command import Asked
    from sentry_asic.scan_command import scan as search

    asked = Asked(ranges or [], exclude or [], rate, port, http_port, _credentials(username, password_file))
    state_dir = _KIND.state_dir(home)
    settings: Any = _KIND.load(state_dir)
    rows = _run(search(asked, settings, state_dir, progress=not as_json))
    if as_json:
        import json

        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        from sentry_asic.show import print_scan

        print_scan(rows)


relay_app = typer.Typer(help="One relay board, without a commander.", no_args_is_help=True)
app.add_typer(relay_app, name="relay")

BoardKind = Annotated[str, typer.Option("--board", help="Kind of board: tasmota, modbus, fake.")]
BoardAt = Annotated[str, typer.Option("--address", help="host or host:port of the board.")]
OutletName = Annotated[str, typer.Option("--outlet", help="The outlet, as printed on the board.")]
OutletCount = Annotated[int, typer.Option("--outlets", help="How many outlets the board has.", min=1, max=512)]
BoardOption = Annotated[list[str] | None, typer.Option("--option", help="KEY=VALUE for the driver, such as unit=2; repeat.")]


@relay_app.command()
def status(
    board: BoardKind,
    address: BoardAt,
    outlet: OutletName = "",
    outlets: OutletCount = 1,
    option: BoardOption = None,
    username: Username = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """What the outlets read now; all of them when none is named."""
    _relay("status", _board(board, address, outlet, outlets, option, username, password_file), outlet, 0, as_json)


@relay_app.command()
def on(
    board: BoardKind,
    address: BoardAt,
    outlet: OutletName,
    outlets: OutletCount = 1,
    option: BoardOption = None,
    username: Username = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Switch an outlet on, and read it back."""
    _relay("on", _board(board, address, outlet, outlets, option, username, password_file), outlet, 0, as_json)


@relay_app.command()
def off(
    board: BoardKind,
    address: BoardAt,
    outlet: OutletName,
    outlets: OutletCount = 1,
    option: BoardOption = None,
    username: Username = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Switch an outlet off, and read it back."""
    _relay("off", _board(board, address, outlet, outlets, option, username, password_file), outlet, 0, as_json)


@relay_app.command()
def cycle(
    board: BoardKind,
    address: BoardAt,
    outlet: OutletName,
    off_s: Annotated[int, typer.Option("--off-s", help="Seconds without power; 0: the usual 30.", min=0)] = 0,
    outlets: OutletCount = 1,
    option: BoardOption = None,
    username: Username = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Off, wait, on again, each read back. Power is brought back also when this is interrupted."""
    _relay("cycle", _board(board, address, outlet, outlets, option, username, password_file), outlet, off_s, as_json)


def _board(
    kind: str, address: str, outlet: str, outlets: int, options: list[str] | None, username: str, password_file: Path | None
) -> BoardAddress:
    from rrc.board import BoardAddress

    pairs = [item.partition("=") for item in options or []]
    if wrong := [key for key, equals, _ in pairs if not equals or not key]:
        raise BadInput(f"--option {wrong[0]!r} is not KEY=VALUE")
    count = max(outlets, int(outlet) if outlet.isdecimal() else 1)
    # without a name the driver takes the board's usual one
    password = _password(password_file) or ""
    return BoardAddress(kind, address, count, username, password, {key: value for key, _, value in pairs})


def _relay(verb: Verb, board: BoardAddress, outlet: str, off_s: int, as_json: bool) -> None:
    from sentry_asic.relay_command import relay

    # where a sentry has its state, a cut is promised to it first: it brings power back when this process dies
    state_dir = _KIND.state_dir(None)
    found = _run(relay(verb, board, outlet, off_s, journal=state_dir / "power.db" if state_dir.is_dir() else None))
    if as_json:
        _print_json(found)
    else:
        from sentry_asic.show import print_relay

        print_relay(found)


def _make_post(settings: Any, state_dir: Path, clock: Clock) -> Post:
    from sentry_asic.post import AsicPost

    return AsicPost(settings, state_dir, clock)


def _settings() -> type[SentrySettings]:
    from sentry_asic.settings import AsicSettings

    return AsicSettings


_KIND = Kind("asic", "sentry-asic", _settings, _make_post)
commands(app, _KIND)


def main() -> None:
    """The console script."""
    run_app(app)


def _credentials(username: str, password_file: Path | None) -> Credentials | None:
    """None: the maker's factory log-in."""
    from garrison.model import Credentials

    password = _password(password_file)
    if password is None and not username:
        return None
    if password is None:
        raise BadInput("a user name without a password", hint="give --password-file or GARRISON_DEVICE_PASSWORD")
    return Credentials(username or "root", password)


def _password(password_file: Path | None) -> str | None:
    """Never an argument: those are seen by every user of the machine."""
    if password_file is None:
        return os.environ.get("GARRISON_DEVICE_PASSWORD")
    try:
        return password_file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the password from {password_file}: {error}") from error


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _print_json(value: object) -> None:
    import json

    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
