"""How values look to a person: prefixes, ages, tables; "?" is what we do not know."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

NOT_KNOWN = "?"
STATE_STYLE = {
    "mining": "green",
    "connected": "green",
    "succeeded": "green",
    "on": "green",
    "degraded": "yellow",
    "idle": "yellow",
    "slow": "yellow",
    "starting": "cyan",
    "lagging": "yellow",
    "pending": "cyan",
    "paused": "blue",
    "maintenance": "blue",
    "off": "blue",
    "refused": "red",
    "unreachable": "red",
    "failed": "red",
    "revoked": "red",
    "silent": "magenta",
    "unknown": "magenta",
}
"""The word stands in the cell as well: colour is never the only sign."""

Shape = Callable[[Any], str]
Columns = Mapping[str, tuple[str, Shape]]
"""Key in the row to (heading, how it looks)."""


def console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def as_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def listing(rows: Sequence[Mapping[str, Any]], columns: Columns, json_wanted: bool, nothing: str) -> None:
    """The rows as JSON, as a table, or the sentence `nothing` when there are none."""
    if json_wanted:
        as_json(rows)
    elif rows:
        console().print(table(rows, columns))
    else:
        typer.echo(nothing)


def table(rows: Iterable[Mapping[str, Any]], columns: Columns, title: str | None = None) -> Table:
    drawn = Table(title=title, box=None, header_style="bold", pad_edge=False)
    for key, (heading, shape) in columns.items():
        drawn.add_column(heading, justify="right" if shape in RIGHT else "left", no_wrap=key in ("id", "state"))
    for row in rows:
        drawn.add_row(*(_cell(key, row.get(key), shape) for key, (_, shape) in columns.items()))
    return drawn


def facts(value: Mapping[str, Any], title: str | None = None) -> None:
    """One object, a line a field."""
    drawn = Table(title=title, box=None, show_header=False, pad_edge=False)
    for key, item in value.items():
        drawn.add_row(f"[bold]{escape(key)}[/bold]", _cell(key, item, text if not isinstance(item, list | dict) else _nested))
    console().print(drawn)


def _cell(key: str, value: Any, shape: Shape) -> str:
    shown = escape(shape(value))
    style = STATE_STYLE.get(str(value)) if key == "state" else None
    return f"[{style}]{shown}[/{style}]" if style else shown


def _nested(value: Any) -> str:
    if not value:
        return NOT_KNOWN if value is None else "none"
    if isinstance(value, dict):
        return "\n".join(f"{name}: {text(item)}" for name, item in value.items())
    return "\n".join(_line(item) for item in value)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name}={text(item)}" for name, item in value.items() if item not in (None, "", [], {}))
    return text(value)


def text(value: Any) -> str:
    if value is None or value == "":
        return NOT_KNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(text(item) for item in value) or NOT_KNOWN
    return str(value)


def flag(value: Any) -> str:
    """True as the word "simulated", which must stand wherever such a device is shown."""
    return "simulated" if value else ""


def hashrate(value: float | None) -> str:
    return _prefixed(value, "H/s")


def power(value: float | None) -> str:
    return _prefixed(value, "W") if value is not None and value >= 10_000 else NOT_KNOWN if value is None else f"{value:.0f} W"


def temp(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:.0f} °C"


def percent(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value * 100:.0f} %"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOT_KNOWN
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def when(ms: int | None) -> str:
    """Local time of milliseconds since 1970."""
    if ms is None:
        return NOT_KNOWN
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _prefixed(value: float | None, unit: str) -> str:
    if value is None:
        return NOT_KNOWN
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.2f} {prefix}{unit}"
    return f"{value:.1f} {unit}" if value else f"0 {unit}"


RIGHT: frozenset[Shape] = frozenset({hashrate, power, temp, duration, percent})

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 60) -> str:
    """The values as bars; a gap stays a gap. More values than `width` are averaged in equal groups."""
    if len(values) > width:
        groups = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
        values = [_mean(group) for group in groups]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    reach = (high - low) or 1.0
    return "".join(" " if v is None else BARS[round((v - low) / reach * (len(BARS) - 1))] for v in values)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def stderr(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201  # typer's echo would need a context
