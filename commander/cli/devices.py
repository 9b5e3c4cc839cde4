"""`commander devices …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from commander.cli import finds, inventory, shown
from commander.cli.client import Api, in_path, password_from, target_of

app = typer.Typer(help="Rigs and ASIC miners.", no_args_is_help=True)

app.command("found")(finds.found)
app.command("adopt")(finds.adopt)
app.command("dismiss")(finds.dismiss)
app.command("export")(inventory.export)
app.command("import")(inventory.import_)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ref = Annotated[str, typer.Argument(help="Id, name, MAC, serial or address.")]

COLUMNS: shown.Columns = {
    "id": ("ID", shown.text),
    "name": ("Name", shown.text),
    "kind": ("Kind", shown.text),
    "model": ("Model", shown.text),
    "state": ("State", shown.text),
    "hashrate_hs": ("Hashrate", shown.hashrate),
    "power_w": ("Power", shown.power),
    "temp_c": ("Temp", shown.temp),
    "uptime_s": ("Up", shown.duration),
    "age_s": ("Age", shown.duration),
    "address": ("Address", shown.text),
    "sentry": ("Sentry", shown.text),
    "simulated": ("", shown.flag),
}

SPARE = ("sentry", "address", "kind", "uptime_s", "model", "age_s", "power_w", "temp_c")
NONE = "no devices yet: `commander sentries token --kind rig` lets a rig join"


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only rig or asic.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    json_: Json = False,
) -> None:
    """All devices with what they do now."""
    with Api(target_of(context)) as api:
        rows = api.get("/devices", state=state, kind=kind, tag=tag)["devices"]
    shown.listing(rows, COLUMNS, json_, "no such devices" if state or kind or tag else NONE, SPARE)


@app.command()
def show(context: typer.Context, device: Ref, json_: Json = False) -> None:
    """One device with everything known, and what is not."""
    with Api(target_of(context)) as api:
        row = api.get(f"/devices/{in_path(device)}")
    if json_:
        shown.as_json(row)
    else:
        shown.facts({name: value for name, value in row.items() if name != "latest"})
        latest: list[dict[str, Any]] = row.get("latest") or []
        columns: shown.Columns = {
            "metric": ("Metric", shown.text),
            "component": ("Of", shown.word),
            "value": ("Value", shown.text),
            "unit": ("", shown.unit),
        }
        if latest:
            shown.console().print()
            shown.console().print(shown.table(latest, columns))


@app.command()
def add(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="Address of an ASIC: host or host:port of its API.")],
    sentry: Annotated[str, typer.Option(help="The ASIC sentry that shall watch it: id or name.")],
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    make: Annotated[str | None, typer.Option(help="The make, when it should not be found out.")] = None,
    username: Annotated[str | None, typer.Option(help="Login of its web interface, when not the factory's.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password (or GARRISON_DEVICE_PASSWORD).")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of its web interface, when not the usual one.")] = None,
    expected_hs: Annotated[float | None, typer.Option(help="Expected hashrate in H/s.")] = None,
    simulated: Annotated[bool, typer.Option(help="Mark it as simulated wherever it is shown.")] = False,
    json_: Json = False,
) -> None:
    """Has an ASIC watched."""
    body = {
        "address": address,
        "sentry": sentry,
        "name": name,
        "make": make,
        "username": username,
        "password": password_from(password_file),
        "http_port": http_port,
        "expected_hashrate_hs": expected_hs,
        "simulated": simulated,
    }
    with Api(target_of(context)) as api:
        row = api.post("/devices", {key: value for key, value in body.items() if value is not None})
    shown.as_json(row) if json_ else typer.echo(f"device {row['id']} ({row['name']}) will be watched by {row['sentry']}")


@app.command()
def name(context: typer.Context, device: Ref, new: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Gives a device a name."""
    _change(context, device, {"name": new})


@app.command()
def tag(
    context: typer.Context,
    device: Ref,
    tags: Annotated[list[str], typer.Argument(help="Tags to add; with a leading “no-”, to take away.")],
) -> None:
    """Adds tags, or takes them away: `commander devices tag 4 rack-a no-spare`."""
    add_tags = [item for item in tags if not item.startswith("no-")]
    remove = [item.removeprefix("no-") for item in tags if item.startswith("no-")]
    _change(context, device, {"add_tags": add_tags, "remove_tags": remove})


@app.command()
def note(context: typer.Context, device: Ref, text: Annotated[str, typer.Argument(help="The note; empty takes it away.")]) -> None:
    """Writes a note on a device, in place of the one it had."""
    _change(context, device, {"notes": text})


@app.command()
def place(
    context: typer.Context,
    device: Ref,
    site: Annotated[str | None, typer.Option(help="Its site.")] = None,
    rack: Annotated[str | None, typer.Option(help="Its rack.")] = None,
    position: Annotated[str | None, typer.Option(help="Its place in the rack.")] = None,
) -> None:
    """Says where a device stands. An empty text clears; what is not given stays."""
    given = {"site": site, "rack": rack, "position": position}
    _change(context, device, {key: value for key, value in given.items() if value is not None})


@app.command()
def maintenance(context: typer.Context, device: Ref, off: Annotated[bool, typer.Option("--off", help="End it.")] = False) -> None:
    """Puts a device into maintenance: it is left alone and nobody is alarmed."""
    _change(context, device, {"maintenance": not off})


@app.command()
def remove(context: typer.Context, device: Ref) -> None:
    """Stops watching a device. Its history stays."""
    with Api(target_of(context)) as api:
        api.delete(f"/devices/{in_path(device)}")
    typer.echo(f"device {device} is no longer watched")


def _change(context: typer.Context, device: str, change: dict[str, Any]) -> None:
    with Api(target_of(context)) as api:
        row = api.patch(f"/devices/{in_path(device)}", change)
    typer.echo(f"{row['id']}  {row['name']}  {' '.join(row.get('tags') or [])}".rstrip())
