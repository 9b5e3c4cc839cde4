"""The `sentry-asic` command. Each command imports what it needs when it runs, so that --help and completion are quick."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from garrison.faults import BadInput, Fault

if TYPE_CHECKING:
    from garrison.model import Credentials
    from sentry_asic.discovery import Found

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
    cidr: Annotated[str, typer.Argument(metavar="CIDR", help="A private network of at most a /16, such as 192.168.1.0/24.")],
    port: Annotated[int, typer.Option("--port", help="Port of the devices' API.", min=0, max=65535)] = 0,
    http_port: HttpPort = 0,
    username: Username = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Find devices in a network."""
    credentials = _credentials(username, password_file)
    found = _run(_scan(cidr, port, http_port, credentials))
    rows = [
        {
            "address": device.address,
            "make": device.seen.make if device.seen else None,
            "model": (device.seen.model or None) if device.seen else None,
            "mac": (device.seen.mac or None) if device.seen else None,
            "firmware": (device.seen.firmware or None) if device.seen else None,
            "serial": (device.seen.serial or None) if device.seen else None,
            "state": device.state,
            "error": device.error,
        }
        for device in found
    ]
    if as_json:
        _print_json(rows)
    else:
        from sentry_asic.show import print_scan

        print_scan(rows)


async def _scan(cidr: str, port: int, http_port: int, credentials: Credentials | None) -> list[Found]:
    from sentry_asic.discovery import scan as search

    found = [device async for device in search(cidr, api_port=port, http_port=http_port, credentials=credentials)]
    return sorted(found, key=lambda device: [part.rjust(5, "0") for part in device.address.replace(":", ".").split(".")])


def main() -> NoReturn:
    """The console script. Faults are a line or two on stderr and exit code 1."""
    try:
        app()
    except Fault as fault:
        sys.stderr.write(f"error: {fault.text}\n")
        if fault.hint:
            sys.stderr.write(f"hint: {fault.hint}\n")
        raise SystemExit(1) from None
    raise SystemExit(0)  # not reached: the app ends the process itself


def _credentials(username: str, password_file: Path | None) -> Credentials | None:
    """None: the maker's factory log-in. The password is never an argument: those are seen by every user of the machine."""
    from garrison.model import Credentials

    password = os.environ.get("GARRISON_DEVICE_PASSWORD")
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read the password from {password_file}: {error}") from error
    if password is None and not username:
        return None
    if password is None:
        raise BadInput("a user name without a password", hint="give --password-file or GARRISON_DEVICE_PASSWORD")
    return Credentials(username or "root", password)


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
