"""How values look to a person: prefixes, ages, tables; "?" is what we do not know."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.cells import cell_len
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

SENTENCES = frozenset({"text", "refusals", "location"})
"""Columns that are wrapped; all others are cut with … where the terminal is too narrow."""
SENTENCE_WIDTH = 24
NO_TERMINAL = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What ends a line or moves a terminal's cursor. Devices and their names tell us texts; none of them may draw."""


def console() -> Console:
    """As wide as the terminal; a file or a pipe gets whole lines, for whoever cuts and searches them."""
    sized = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return Console(highlight=False, soft_wrap=False, width=None if sized else NO_TERMINAL)


def as_json(value: Any) -> None:
    written = json.dumps(value, ensure_ascii=False, indent=2)
    typer.echo(re.sub(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", written))


def listing(
    rows: Sequence[Mapping[str, Any]], columns: Columns, json_wanted: bool, nothing: str, spare: Sequence[str] = ()
) -> None:
    """The rows as JSON, as a table, or the sentence `nothing` when there are none.

    `spare`: the columns that a narrow terminal does without, the first of them first.
    """
    if json_wanted:
        as_json(rows)
    elif rows:
        screen = console()
        fitting = fit(rows, columns, screen.width, spare)
        screen.print(table(rows, fitting))
        left_out = [heading for key, (heading, _) in columns.items() if key not in fitting and heading]
        if left_out:
            screen.print(f"[dim]too narrow for: {', '.join(left_out)} (--json has all)[/dim]")
    else:
        typer.echo(nothing)


def fit(rows: Iterable[Mapping[str, Any]], columns: Columns, width: int, spare: Sequence[str]) -> Columns:
    """The columns that have room. Columns of which no row knows anything go first."""
    rows = list(rows)
    widths = {key: _width(key, heading, [shape(row.get(key)) for row in rows]) for key, (heading, shape) in columns.items()}
    empty = [key for key in spare if all(row.get(key) in (None, "", []) for row in rows)]
    for key in [*empty, *(key for key in spare if key not in empty)]:
        if sum(widths.values()) + 2 * (len(widths) - 1) <= width:
            break
        widths.pop(key, None)
    return {key: columns[key] for key in columns if key in widths}


def _width(key: str, heading: str, cells: Iterable[str]) -> int:
    widest = max(cell_len(heading), *(cell_len(cell) for cell in cells)) if cells else cell_len(heading)
    return min(widest, SENTENCE_WIDTH) if key in SENTENCES else widest


def table(rows: Iterable[Mapping[str, Any]], columns: Columns, title: str | None = None) -> Table:
    drawn = Table(title=title, box=None, header_style="bold", pad_edge=False)
    for key, (heading, shape) in columns.items():
        drawn.add_column(heading, justify="right" if shape in RIGHT else "left", no_wrap=key not in SENTENCES)
    for row in rows:
        drawn.add_row(*(_cell(key, row.get(key), shape) for key, (_, shape) in columns.items()))
    return drawn


def facts(value: Mapping[str, Any], title: str | None = None) -> None:
    """One object, a line a field; the end of a field's name says its unit."""
    drawn = Table(title=title, box=None, show_header=False, pad_edge=False)
    for key, item in value.items():
        drawn.add_row(f"[bold]{escape(key)}[/bold]", _cell(key, item, _shape_of(key, item)))
    console().print(drawn)


def _shape_of(key: str, item: Any) -> Shape:
    if isinstance(item, list | dict):
        return _nested
    if isinstance(item, int | float) and not isinstance(item, bool):
        return next((shape for ending, shape in BY_ENDING.items() if key.endswith(ending)), text)
    return text


def _cell(key: str, value: Any, shape: Shape) -> str:
    shown = escape(shape(value))
    style = STATE_STYLE.get(str(value)) if key == "state" else None
    return f"[{style}]{shown}[/{style}]" if style else shown


def _nested(value: Any) -> str:
    if not value:
        return NOT_KNOWN if value is None else "none"
    if isinstance(value, dict):
        return "\n".join(f"{clean(str(name))}: {text(item)}" for name, item in value.items())
    return "\n".join(_line(item) for item in value)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name}={text(item)}" for name, item in value.items() if item not in (None, "", [], {}))
    return text(value)


def clean(value: str) -> str:
    """Without what could move a terminal's cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)


def text(value: Any) -> str:
    if value is None or value == "":
        return NOT_KNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(text(item) for item in value) or NOT_KNOWN
    return clean(str(value))


def beginnings(ids: Iterable[str], least: int = 8) -> Shape:
    """Shows so much of an id that it is one of its kind; the API takes that for the whole."""
    known = set(ids)
    length = least
    while len({one[:length] for one in known}) < len(known):
        length += 1
    return lambda value: text(value)[:length]


def ends(ids: Iterable[str], least: int = 8) -> Shape:
    """The same from the end: ids that begin with their time differ there."""
    known = set(ids)
    length = least
    while len({one[-length:] for one in known}) < len(known):
        length += 1
    return lambda value: text(value)[-length:]


def word(value: Any) -> str:
    """A text that may well be empty."""
    return "" if value in (None, "") else text(value)


def unit(value: Any) -> str:
    """Of plain numbers there is none."""
    return "" if value == "1" else word(value)


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


def covered(value: float | None) -> str:
    """A share that is all only when nothing is missing."""
    return NOT_KNOWN if value is None else f"{math.floor(value * 100 + 1e-9)} %"


def size(value: float | None) -> str:
    """Bytes."""
    return NOT_KNOWN if value is None else f"{value:.0f} B" if value < 1_000 else _prefixed(value, "B")


def kwh(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:.3f}" if value < 100 else f"{value:.1f}"


def number(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOT_KNOWN
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def day_and_time(ms: int | None) -> str:
    """The same without the year, for listings of the newest."""
    return NOT_KNOWN if ms is None else when(ms)[5:]


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


BY_ENDING: Mapping[str, Shape] = {"_hs": hashrate, "_w": power, "_c": temp, "_s": duration, "_ms": when}
RIGHT: frozenset[Shape] = frozenset({hashrate, power, temp, duration, percent, covered, size, kwh, number})

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
    print(clean(line), file=sys.stderr)  # noqa: T201  # typer's echo would need a context
