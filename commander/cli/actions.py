"""`commander actions …` and `commander order …`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from commander.cli import shown
from commander.cli.client import Api, Target, in_path, target_of
from commander.cli.devices import Json
from garrison.faults import Fault, from_wire

app = typer.Typer(help="Every order to hardware, and how it ended.", no_args_is_help=True)

KINDS = "reboot, restart_mining, pause, resume, locate, set_power_mode, set_power_limit, set_fan or set_hostname"
Wait = Annotated[float, typer.Option(help="Seconds to wait for the end; 0: do not wait.", min=0)]

COLUMNS: shown.Columns = {
    "id": ("ID", shown.text),
    "kind": ("Order", shown.text),
    "device": ("Device", shown.text),
    "state": ("State", shown.text),
    "asked_by": ("Asked by", shown.text),
    "created_ms": ("At", shown.day_and_time),
    "simulated": ("", shown.flag),
    "text": ("", shown.word),
}
SPARE = ("asked_by", "created_ms")
NOT_DONE = ("failed", "refused", "expired", "cancelled", "unknown")


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only this state.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=1000)] = 50,
    json_: Json = False,
) -> None:
    """The newest orders."""
    with Api(target_of(context)) as api:
        rows = api.get("/actions", state=state, device=device, limit=limit)["actions"]
    _listing(rows, json_)


@app.command()
def show(
    context: typer.Context, action: Annotated[str, typer.Argument(help="Its id, or how it ends.")], json_: Json = False
) -> None:
    """One order with what was observed."""
    with Api(target_of(context)) as api:
        row = api.get(f"/actions/{in_path(action)}")
    shown.as_json(row) if json_ else shown.facts(row)


@app.command()
def cancel(context: typer.Context, action: Annotated[str, typer.Argument(help="Its id, or how it ends.")]) -> None:
    """Calls an order back, if it has not started."""
    with Api(target_of(context)) as api:
        row = api.post(f"/actions/{in_path(action)}/cancel")
    typer.echo(f"{row['id']}: {row['state']}")


def order(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help=f"{KINDS}.")],
    devices: Annotated[list[str], typer.Argument(help="Devices: id, name, MAC, serial or address.")],
    off: Annotated[bool, typer.Option("--off", help="With locate: the light off.")] = False,
    mode: Annotated[str | None, typer.Option(help="With set_power_mode: the device's own name for it.")] = None,
    limit_w: Annotated[int | None, typer.Option(help="With set_power_limit: watts.")] = None,
    fan: Annotated[str | None, typer.Option(help="With set_fan: percent, or auto.")] = None,
    hostname: Annotated[str | None, typer.Option(help="With set_hostname: the new name, of one device.")] = None,
    wait: Wait = 60.0,
    json_: Json = False,
) -> None:
    kind = kind.replace("-", "_")
    percent = int(fan) if fan is not None and fan.isascii() and fan.isdecimal() else fan
    given = {"mode": mode, "limit_w": limit_w, "percent": percent, "hostname": hostname}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if kind == "locate" or off:
        arguments["on"] = not off
    ask(context, "/actions", {"kind": kind, "devices": devices, "arguments": arguments}, wait, json_)


def _listing(rows: list[dict[str, Any]], json_: bool) -> None:
    columns = {**COLUMNS, "id": ("ID", shown.ends(row["id"] for row in rows))}
    if not any(row["simulated"] for row in rows):
        del columns["simulated"]
    shown.listing(rows, columns, json_, "no orders", SPARE)


def ask(context: typer.Context, path: str, body: dict[str, Any], wait: float, json_: bool) -> None:
    """Sends an order, follows it to its end, and fails when one of them did not succeed."""
    target = target_of(context)
    with Api(target) as api:
        answer = api.post(path, body)
    try:
        rows = [_followed(target, row, wait, quiet=json_) for row in answer["actions"]]
    except KeyboardInterrupt:
        ids = ", ".join(row["id"] for row in answer["actions"])
        shown.stderr(f"no longer waiting, but what was ordered goes on: `commander actions show` {ids}")
        raise typer.Exit(130) from None
    refused: list[dict[str, Any]] = answer["refused"]
    if json_:
        shown.as_json({"actions": rows, "refused": refused})
    elif rows:
        _listing(rows, False)
    if refused and len(refused) + len(rows) == 1:
        fault = from_wire(refused[0]["code"], refused[0]["text"])
        fault.hint = refused[0]["hint"]
        raise fault
    failed = [row for row in rows if row["state"] in NOT_DONE]
    words = [f"{row['kind']} of {row['device']}: {row['state']}" + (f": {row['text']}" if row["text"] else "") for row in failed]
    words += [f"{item['device']} got no order: {item['text']}" for item in refused]
    if words:
        raise Fault("; ".join(words))


def _followed(target: Target, row: dict[str, Any], wait: float, *, quiet: bool) -> dict[str, Any]:
    last = ""
    left = wait
    while left > 0 and not row["final"]:
        if not quiet and row["state"] != last:
            last = row["state"]
            typer.echo(f"{row['kind']} of {row['device']}: {last}")
        step = min(left, 5.0)
        left -= step
        with Api(target, timeout_s=step + 30) as api:
            row = api.get(f"/actions/{row['id']}/wait", timeout_s=step)
    return row
