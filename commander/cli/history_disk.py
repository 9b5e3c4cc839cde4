"""`commander history plan`, `usage`, `verify`, `repair`: the history on disk."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from commander.cli import shown
from commander.cli.client import Api, Target, target_of
from commander.cli.devices import Json
from garrison.faults import BadInput, Conflict, IdentityRefused, NotFound, Unreachable

DAY_MS = 86_400_000
LEVELS = {"raw": "every look", "5min": "5-minute values", "1h": "hourly values"}
MEASURED = "measured on simulated miners and rigs: docs/benchmarks.md"


def add_to(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(usage)
    app.command()(verify)
    app.command()(repair)


# ---- plan --------------------------------------------------------------------------------------------------


def plan(
    context: typer.Context,
    devices: Annotated[int, typer.Option(help="So many rigs and miners.", min=1, max=1_000_000)],
    every: Annotated[str, typer.Option(help="How often each is read.")] = "10s",
    metrics: Annotated[int, typer.Option(help="Of one device, with its parts.", min=1, max=2_000)] = 40,
    groups: Annotated[int, typer.Option(help="Sites, racks, models, coins and tags together.", min=1, max=1_000_000)] = 50,
    raw_days: Annotated[int | None, typer.Option(help="Days that every look is kept; left out: as set.", min=1, max=3_650)] = None,
    five_minute_days: Annotated[
        int | None, typer.Option(help="Days that 5-minute values are kept; left out: as set.", min=1, max=3_650)
    ] = None,
    hour_days: Annotated[
        int | None, typer.Option(help="Days that hourly values are kept; left out: as set.", min=1, max=36_500)
    ] = None,
    json_: Json = False,
) -> None:
    """The disk that a farm will need, before it is chosen: also where nothing is installed yet."""
    asked = {"devices": devices, "every": every, "metrics": metrics, "groups": groups}
    days = {"raw_days": raw_days, "five_minute_days": five_minute_days, "hour_days": hour_days}
    target = target_of(context)
    try:
        with Api(target, timeout_s=10) as api:
            found = {**api.get("/history/plan", **asked, **days), "source": "commander"}
    except (NotFound, Unreachable, IdentityRefused):
        if target.url:
            raise
        found = {**_planned_here(asked, days), "source": "here"}
    if json_:
        shown.as_json(found)
        return
    rows = [
        {"part": "every look", "days": found["raw_days"], "bytes": found["raw_bytes"]},
        {"part": "the last day, not yet merged", "days": None, "bytes": found["hot_bytes"]},
        {"part": "5-minute values", "days": found["five_minute_days"], "bytes": found["five_minute_bytes"]},
        {"part": "hourly values", "days": found["hour_days"], "bytes": found["hour_bytes"]},
        {"part": "totals of groups", "days": found["hour_days"], "bytes": found["totals_bytes"]},
        {"part": "sum", "days": None, "bytes": found["bytes"]},
    ]
    columns: shown.Columns = {
        "part": ("Part", shown.text),
        "days": ("Kept for", _days),
        "bytes": ("Disk", shown.size),
    }
    screen = shown.console()
    screen.print(shown.table(rows, columns))
    screen.print(f"a day of every look: {shown.size(found['day_bytes'])}; {MEASURED}", markup=False)
    if found["source"] == "here":
        left_out = [name for name, value in days.items() if value is None]
        what = "the default days" if left_out else "the days given"
        screen.print(f"computed here with {what}: there is no commander to ask", markup=False)


def _planned_here(asked: dict[str, Any], days: dict[str, int | None]) -> dict[str, Any]:
    # numpy and the history's own modules: only for who needs them
    from commander.telemetry import usage as rules
    from commander.telemetry.api import span_ms
    from commander.telemetry.retention import Spans
    from commander.telemetry.shares import LINES

    spans = Spans(**{name: value for name, value in days.items() if value is not None})
    every_s = span_ms(asked["every"], "every") / 1000
    found = rules.plan(asked["devices"], every_s, asked["metrics"], asked["groups"], len(LINES), spans)
    counts = {name: asked[name] for name in ("devices", "metrics", "groups")}
    return {"bytes": found.bytes, **asdict(found), **asdict(spans), **counts}


def _days(value: int | None) -> str:
    return "" if value is None else f"{value} days"


# ---- usage -------------------------------------------------------------------------------------------------


def usage(context: typer.Context, json_: Json = False) -> None:
    """What the history takes on disk, level by level, and whether it will fit."""
    with Api(target_of(context)) as api:
        found = api.get("/history/usage")
    if json_:
        shown.as_json(found)
        return
    rows = [{"part": "hot.db, not yet merged", "bytes": found["hot_bytes"]}]
    rows += [{"part": told, **found["levels"][level]} for level, told in LEVELS.items()]
    rows.append({"part": "sum", "bytes": found["file_bytes"]})
    columns: shown.Columns = {
        "part": ("Part", shown.text),
        "days": ("Kept for", _days),
        "files": ("Files", shown.word),
        "from_ms": ("From", _day),
        "to_ms": ("To", _day),
        "bytes": ("Disk", shown.size),
    }
    screen = shown.console()
    screen.print(shown.table(rows, columns))
    screen.print(f"{shown.size(found['free_bytes'])} free; {outlook(found)}", markup=False)
    if found["damaged"]:
        screen.print(f"damaged: {found['damaged']}: `commander history verify`", markup=False)


def _day(value: int | None) -> str:
    return "" if value is None else shown.when(value)[:10]


def outlook(found: dict[str, Any]) -> str:
    """Whether it will fit, as far as that can be told: each level grows as it did until its days are full. Not from less than
    two days."""
    oldest_ms, newest_ms = found["oldest_ms"], found["newest_ms"]
    rates: dict[str, float] = {}
    left: dict[str, float] = {}
    for level, one in found["levels"].items():
        if one["from_ms"] is None or oldest_ms is None or newest_ms is None:
            continue
        days = (min(newest_ms, one["to_ms"]) - max(oldest_ms, one["from_ms"])) / DAY_MS
        if days >= 2:
            rates[level], left[level] = one["bytes"] / days, max(0.0, one["days"] - days)
    if "raw" not in rates:
        return "too young to say how it will grow"
    needed = sum(rates[level] * left[level] for level in rates)
    if needed <= found["free_bytes"]:
        return f"if nothing changes it grows by {shown.size(needed)} more, and that fits"
    return f"if nothing changes the disk is full in {days_until_full(rates, left, found['free_bytes']):.0f} days"


def days_until_full(rates: dict[str, float], left: dict[str, float], free_bytes: float) -> float:
    """Levels stop growing one after the other, when their days are full."""
    day, free = 0.0, free_bytes
    for end in sorted(set(left.values())):
        a_day = sum(rates[level] for level in rates if left[level] >= end)
        if free <= a_day * (end - day):
            break
        free -= a_day * (end - day)
        day = end
    growing = sum(rates[level] for level in rates if left[level] > day)
    return day + free / growing if growing else day


# ---- verify and repair -------------------------------------------------------------------------------------


FILES: shown.Columns = {
    "file": ("File", shown.text),
    "blocks": ("Blocks", shown.text),
    "frames": ("Frames", shown.text),
    "rows": ("Rows", shown.text),
    "bytes": ("Disk", shown.size),
    "state": ("", shown.text),
}


def verify(context: typer.Context, json_: Json = False) -> None:
    """Reads the whole history through while the farm works, and says what is damaged. Exit code 1 when anything is."""
    with Api(target_of(context), timeout_s=120) as api:
        rows, summary = _watched(api.lines("/history/verify"), "file")
    if json_:
        shown.as_json({"files": rows, "summary": summary})
    else:
        told = [{**row, "state": "good" if row["whole"] else "not checked" if row["unchecked"] else "damaged"} for row in rows]
        screen = shown.console()
        screen.print(shown.table(told, shown.fit(told, FILES, screen.width, ("frames", "rows"))))
        for row in rows:
            _tell_damage(row)
        typer.echo(
            f"{summary['files']} files, {summary['blocks']} blocks, {summary['rows']} rows, {shown.size(summary['bytes'])}: "
            + ("all good" if summary["whole"] else f"{summary['damaged_files']} files are not: `commander history repair`")
        )
    if not summary["whole"]:
        raise typer.Exit(1)


def _tell_damage(row: dict[str, Any]) -> None:
    lines = [row["unchecked"]] if row["unchecked"] else [*row["structure"]]
    for one in row["list"]:
        who = f" of {one['device']}" if one["device"] else ""
        at = f" at {shown.when(one['at_ms'])}" if one["at_ms"] and one["at_ms"] > 0 else ""
        lines.append(f"{one['what']}{who}{at}: {one['text']}")
    more = row["damaged"] - len(row["list"])
    for line in [*lines, *([f"and {more} more"] if more else [])]:
        typer.echo(shown.clean(f"{row['file']}: {line}"))


def repair(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="When no commander runs: hot.db itself is damaged.")] = False,
    json_: Json = False,
) -> None:
    """Sets aside what does not read and keeps the rest; old files stay in history/damaged/. Exit code 0 when all is good then."""
    target = target_of(context)
    if offline:
        rows, summary = _offline(target)
    else:
        with Api(target, timeout_s=600) as api:
            rows, summary = _watched(api.lines("/history/repair"), "repaired")
    if json_:
        shown.as_json({"files": rows, "summary": summary})
    else:
        for row in rows:
            for line in row["did"]:
                typer.echo(f"{row['file']}: {line}")
            if not row["whole"]:
                typer.echo(shown.clean(f"{row['file']} is not good: {row['why']}"))
        typer.echo(
            f"{summary['files']} files, {summary['repaired']} repaired: " + ("all good" if summary["whole"] else "not all good")
        )
    if not summary["whole"]:
        raise typer.Exit(1)


def _offline(target: Target) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from commander.lock import held_alone
    from commander.telemetry.checks import summary_of
    from commander.telemetry.repair import Mended, mend_offline
    from garrison.clock import SystemClock

    if target.url:
        raise BadInput("--offline works on this machine's own farm", hint="leave out --url")
    folder = target.home / "history"
    if not folder.is_dir():
        raise NotFound(f"there is no history at {folder}", hint="--home or GARRISON_HOME names another farm")
    done: list[Mended] = []
    try:
        with held_alone(target.home):
            for one in mend_offline(folder, SystemClock().now_ms()):
                done.append(one)
                _progress(f"{one.file} done")
    except Conflict as fault:
        fault.hint = "stop it first, or leave out --offline: it repairs while it runs"
        raise
    _progress("")
    return [asdict(one) for one in done], summary_of(done)


def _watched(lines: Iterable[dict[str, Any]], kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(what was told of each file, the summary)."""
    rows: list[dict[str, Any]] = []
    for told in lines:
        if "progress" in told:
            _progress(f"{told['progress']['file']}: {told['progress']['blocks']} blocks")
        elif kind in told:
            rows.append(told[kind])
        elif "summary" in told:
            _progress("")
            return rows, told["summary"]
    raise Unreachable("the commander stopped before it was done", hint="its log says why")


def _progress(line: str) -> None:
    """On a terminal, in one line that is written over."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{shown.clean(line)[:76]}")
        sys.stderr.flush()
