"""What `probe` and `scan` found, as tables for people. Text of devices is never taken as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PREFIXES = (("EH/s", 1e18), ("PH/s", 1e15), ("TH/s", 1e12), ("GH/s", 1e9), ("MH/s", 1e6), ("kH/s", 1e3))


def rate(value: float | None) -> str:
    """ "104.2 TH/s"; "-" when not known."""
    if value is None:
        return "-"
    for unit, size in _PREFIXES:
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g} H/s"


def duration(seconds: int | None) -> str:
    """ "3d 04:12"; "-" when not known."""
    if seconds is None:
        return "-"
    days, rest = divmod(seconds, 86400)
    return f"{days}d {rest // 3600:02}:{rest % 3600 // 60:02}" if days else f"{rest // 3600:02}:{rest % 3600 // 60:02}"


def print_probe(found: Mapping[str, Any], console: Console | None = None) -> None:
    console = console or Console()
    if "make" not in found:
        console.print(Text(f"{found['address']}: {found['state']}\n{found['error']}"))
        return
    facts = Table.grid(padding=(0, 2))
    power = "-" if found["power_w"] is None else f"{found['power_w']:.0f} W (by the {found['power_source']})"
    rows = {
        "device": f"{found['make']} {_text(found['model'])}",
        "firmware": _text(found["firmware"]),
        "MAC": _text(found["mac"]),
        "serial": _text(found["serial"]),
        "state": found["state"],
        "mode": _text(found["mode"]),
        "hashrate": f"{rate(found['hashrate_hs'])} of {rate(found['expected_hashrate_hs'])}",
        "power": power,
        "up": duration(found["uptime_s"]),
        "fans": ", ".join(f"{rpm} rpm" for rpm in found["fans_rpm"]) or "-",
        "missing": ", ".join(found["missing"]) or "nothing",
    }
    for name, value in rows.items():
        facts.add_row(Text(name), Text(value))
    console.print(facts)
    if found["boards"]:
        keys = ("slot", "hashrate_hs", "temp_c", "chip_temp_c", "chips")
        cells = [[rate(b[k]) if k == "hashrate_hs" else _text(b[k]) for k in keys] for b in found["boards"]]
        console.print(_table(["board", "hashrate", "°C", "chip °C", "chips"], cells))
    if found["pools"]:
        told = ("url", "user", "state", "accepted", "rejected", "stale")
        console.print(_table(["pool", *told[1:]], [[_text(pool[key]) for key in told] for pool in found["pools"]]))
    for error in found["errors"]:
        console.print(Text(f"{error['severity']}: {error['text']} ({error['code']})"))
    if "error" in found:
        console.print(Text(found["error"]))


def print_scan(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    console = console or Console()
    if not rows:
        console.print(Text("no device found"))
        return
    keys = ("address", "make", "model", "mac", "firmware", "error")
    cells = [[_text(row[key], "" if key == "error" else "-") for key in keys] for row in rows]
    console.print(_table([*keys[:-1], ""], cells))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _text(value: object, unknown: str = "-") -> str:
    return unknown if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def print_relay(found: Mapping[str, Any], console: Console | None = None) -> None:
    console = console or Console()
    mark = "  (simulated)" if found["simulated"] else ""
    console.print(Text(f"{found['board']} at {found['address']}{mark}"))
    if "outlets" in found:
        keys = ("outlet", "state", "power_w", "voltage_v", "current_a")
        console.print(_table(["outlet", "state", "W", "V", "A"], [[_text(o[k]) for k in keys] for o in found["outlets"]]))
    else:
        console.print(Text(f"outlet {found['outlet']} reads {found['state']}: {found['effect']}"))
