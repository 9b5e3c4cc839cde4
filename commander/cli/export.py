"""`commander history export`: values as CSV or Parquet, a row each, through the API.

The rows are long: one value of one metric of one device at one time. Looks have `value`; steps have `step_s` and `count, avg, min,
max, last, rise`, as far as they are kept. What was not read has no row. Rows come by device, then by time in pages of a day or
more, then by metric.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Protocol, TextIO

import typer

from commander.cli import shown
from commander.cli.client import Api, in_path, target_of
from commander.cli.history_farm import unreadable
from garrison.catalogue import METRICS
from garrison.faults import BadInput, NotFound, Unavailable

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
STEPS = 10_000
"""Of one page. The API gives no more than twice that."""

LEAST_MS = 60_000
"""A page of looks is halved where it holds too many values, but not below this."""

GROUP_ROWS = 500_000
"""Rows of Parquet that are written together, some 30 MB in memory."""

WHO = ("at_ms", "at", "device_id", "device", "metric", "component", "unit")
STATS = ("count", "avg", "min", "max", "last", "rise")
_EXACT = 2**53


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


def add_to(app: typer.Typer) -> None:
    app.command()(export)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `metrics`: "temp_c" (the device and its parts) or "temp_c:board:1"; empty: all. `step_ms` None: looks."""

    metrics: frozenset[str]
    from_ms: int
    to_ms: int
    step: str
    step_ms: int | None

    def takes(self, metric: str, component: str) -> bool:
        return not self.metrics or metric in self.metrics or f"{metric}:{component}" in self.metrics


@dataclass(slots=True)
class Told:
    """What came out."""

    rows: int = 0
    devices: int = 0
    unreadable: int = 0
    nothing: list[str] = field(default_factory=list)


class Sink(Protocol):
    """Where rows go."""

    def write(self, who: Sequence[Any], at_ms: Sequence[int], values: Mapping[str, Sequence[Any]]) -> None: ...

    def close(self) -> None:
        """All is there."""
        ...

    def abandon(self) -> None:
        """It will not be all: nothing of it is wanted."""
        ...


def export(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file, new; - for CSV on stdout.")],
    devices: Annotated[list[str] | None, typer.Argument(help="Devices: id, name, MAC, serial or address.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All devices.")] = False,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Only this one, such as temp_c or temp_c:board:1; repeat.")
    ] = None,
    since: Annotated[str, typer.Option(help="24h, 7d, 30min, or a time such as 2026-11-20T08:00.")] = "24h",
    until: Annotated[str | None, typer.Option(help="The end; left out: now.")] = None,
    step: Annotated[str, typer.Option(help="raw: every look; or one row per so much time, such as 5min or 1h.")] = "raw",
    format_: Annotated[Format | None, typer.Option("--format", help="Left out: as the file is called.")] = None,
    force: Annotated[bool, typer.Option("--force", help="In place of a file that is there.")] = False,
) -> None:
    """Writes values as CSV or Parquet, a row each: every look, or steps. The file appears when it is complete."""
    kind = format_ or (Format.PARQUET if output.suffix == ".parquet" else Format.CSV)
    names = _checked_metrics(metric or [])
    step_ms = _step(step)
    if bool(devices) == all_:
        raise BadInput("export of what?", hint="name devices, or --all")
    with Api(target_of(context), timeout_s=120) as api, _opened(output, kind, step_ms is not None, force) as sink:
        chosen = _devices(api, devices or [], all_)
        from_ms, to_ms = _times(api, since, until)
        told = _written(api, chosen, Wish(names, from_ms, to_ms, step, step_ms), sink, lenient=all_)
    _say(output, told)


def _written(api: Api, devices: Sequence[dict[str, Any]], wish: Wish, sink: Sink, *, lenient: bool) -> Told:
    """`lenient`: a device that was never identified, or that is gone meanwhile, is one of which nothing is known."""
    told = Told()
    pages = list(pages_of(wish.from_ms, wish.to_ms, wish.step_ms))
    with _Progress(len(devices) * len(pages)) as progress:
        for device in devices:
            rows = told.rows
            for from_ms, to_ms in pages:
                try:
                    _page(api, device, wish, from_ms, to_ms, sink, told)
                except NotFound:
                    if not lenient:
                        raise
                progress.step(device["name"])
            if told.rows > rows:
                told.devices += 1
            else:
                told.nothing.append(device["name"])
    return told


def _page(api: Api, device: dict[str, Any], wish: Wish, from_ms: int, to_ms: int, sink: Sink, told: Told) -> None:
    asked = {"metrics": "all", "since": iso(from_ms), "until": iso(to_ms), "step": wish.step, "points": 2 * STEPS}
    if wish.metrics and all(":" in one for one in wish.metrics):
        asked["metrics"] = ",".join(sorted(wish.metrics))
    try:
        found = api.get(f"/devices/{in_path(str(device['id']))}/series", **asked)
    except BadInput:
        if wish.step_ms is not None or to_ms - from_ms <= LEAST_MS:
            raise
        middle = (from_ms + to_ms) // 2  # more values than one answer holds
        _page(api, device, wish, from_ms, middle, sink, told)
        _page(api, device, wish, middle, to_ms, sink, told)
        return
    told.unreadable += found["unreadable"]
    for line in found["series"]:
        if wish.takes(line["metric"], line["component"]):
            told.rows += _line(device, line, found, sink)


def _line(device: dict[str, Any], line: dict[str, Any], found: dict[str, Any], sink: Sink) -> int:
    at_ms: list[int] = found["at_ms"]
    who = (device["id"], device["name"], line["metric"], line["component"], line["unit"])
    if found["step_ms"] is None:
        there = [place for place, value in enumerate(line["values"]) if value is not None]
        columns = {"value": [line["values"][place] for place in there]}
    else:
        there = [place for place, count in enumerate(line["count"]) if count]
        columns = {"step_s": [found["step_ms"] // 1000] * len(there)}
        nothing = [None] * len(at_ms)
        columns |= {stat: [(line.get(stat) or nothing)[place] for place in there] for stat in STATS}
    if there:
        sink.write(who, [at_ms[place] for place in there], columns)
    return len(there)


# ---- what is asked for: pure -------------------------------------------------------------------------------


def pages_of(from_ms: int, to_ms: int, step_ms: int | None) -> Iterator[tuple[int, int]]:
    """The time in pieces that meet at midnight UTC, or at full hours where steps are short: no step lies in two of them."""
    length_ms = DAY_MS
    if step_ms is not None:
        unit_ms = DAY_MS if step_ms * STEPS >= DAY_MS else HOUR_MS
        length_ms = min(31 * DAY_MS, max(unit_ms, step_ms * STEPS // unit_ms * unit_ms))
    at_ms = from_ms
    while at_ms < to_ms:
        end_ms = min(to_ms, (at_ms // length_ms + 1) * length_ms)
        yield at_ms, end_ms
        at_ms = end_ms


def _step(step: str) -> int | None:
    """None: looks. BadInput: no span, or one that midnight would cut."""
    from commander.telemetry.api import span_ms

    if step.strip().lower() == "raw":
        return None
    step_ms = span_ms(step, "step")
    if step_ms < 1_000 or (HOUR_MS % step_ms and (step_ms % HOUR_MS or DAY_MS % step_ms)):
        raise BadInput(f"`step`: {step} does not fit", hint="raw, or what divides an hour or a day: 10s, 1min, 5min, 1h, 6h, 1d")
    return step_ms


def _checked_metrics(metrics: Sequence[str]) -> frozenset[str]:
    for one in metrics:
        name = one.partition(":")[0]
        if name not in METRICS:
            raise BadInput(f"no metric {name!r}", hint=f"one of {', '.join(METRICS)}")
    return frozenset(metrics)


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


# ---- who and when ------------------------------------------------------------------------------------------


def _devices(api: Api, names: Sequence[str], every: bool) -> list[dict[str, Any]]:
    if every:
        return list(api.get("/devices")["devices"])
    return [api.get(f"/devices/{in_path(name)}") for name in names]


def _times(api: Api, since: str, until: str | None) -> tuple[int, int]:
    """As the commander's clock says, the same for all devices."""
    found = api.get("/history/aggregate", by="farm", metric="hashrate_hs", since=since, until=until, points=1)
    return found["from_ms"], found["to_ms"]


# ---- where to ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(output: Path, kind: Format, steps: bool, force: bool) -> Iterator[Sink]:
    """The rows go to a file beside it, which gets its name when all is there."""
    if str(output) == "-":
        if kind is Format.PARQUET:
            raise BadInput("Parquet is written into a file", hint="--output NAME.parquet")
        yield _Csv(sys.stdout, steps)
        return
    if output.exists() and not force:
        raise BadInput(f"{output} exists already", hint="name a new file, or --force")
    if not output.parent.is_dir():
        raise BadInput(f"there is no folder {output.parent}", hint="make it, or name another")
    sink: Sink
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        sink = _Parquet(part, steps) if kind is Format.PARQUET else _Csv(part.open("w", encoding="utf-8", newline=""), steps)
        try:
            yield sink
            sink.close()
        except BaseException:
            sink.abandon()
            raise
        _published(part, output, force)
    except OSError as error:
        raise Unavailable(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _published(part: Path, output: Path, force: bool) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    if output.exists() and not force:  # it came meanwhile
        raise BadInput(f"{output} exists already", hint="name a new file, or --force")
    part.replace(output)


class _Csv:
    """Numbers as they are, whole ones without a point."""

    def __init__(self, file: TextIO, steps: bool) -> None:
        self._file = file
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow([*WHO, *(("step_s", *STATS) if steps else ("value",))])
        self._known: tuple[Sequence[int], list[str]] = ((), [])

    def write(self, who: Sequence[Any], at_ms: Sequence[int], values: Mapping[str, Sequence[Any]]) -> None:
        if self._known[0] != at_ms:  # mostly the same for all series of a page
            self._known = at_ms, [iso(one) for one in at_ms]
        rows = zip(at_ms, self._known[1], *values.values(), strict=True)
        self._writer.writerows((row[0], row[1], *who, *row[2:]) for row in rows)

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # what is in hand may not fit on the disk
            self._file.close()


class _Parquet:
    """`at` is a timestamp, `value` and the statistics are doubles. `exact`: a whole number that no double holds, in words."""

    def __init__(self, path: Path, steps: bool) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise BadInput(
                "Parquet needs the package pyarrow, which is not installed", hint="pip install 'garrison[parquet]'"
            ) from error
        self._pa: Any = pyarrow
        words = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        named = [("at_ms", pyarrow.int64()), ("at", pyarrow.timestamp("ms", "UTC")), ("device_id", pyarrow.int64())]
        named += [(name, words) for name in WHO[3:]]
        if steps:
            named += [("step_s", pyarrow.int64()), ("count", pyarrow.int64()), *((name, pyarrow.float64()) for name in STATS[1:])]
        else:
            named += [("value", pyarrow.float64()), ("exact", pyarrow.string())]
        self._schema: Any = pyarrow.schema(named)
        self._writer: Any = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._parts: list[Any] = []
        self._rows = 0

    def write(self, who: Sequence[Any], at_ms: Sequence[int], values: Mapping[str, Sequence[Any]]) -> None:
        pa = self._pa
        count = len(at_ms)
        times = pa.array(at_ms, pa.int64())
        columns = [times, times.cast(pa.timestamp("ms", "UTC")), pa.repeat(pa.scalar(who[0], pa.int64()), count)]
        nothing = pa.repeat(pa.scalar(0, pa.int32()), count)
        columns += [pa.DictionaryArray.from_arrays(nothing, pa.array([word], pa.string())) for word in who[1:]]
        for name, column in values.items():
            columns.append(pa.array(_as(self._schema.field(name).type, column, pa), self._schema.field(name).type))
        if "value" in values:
            exact = [str(one) if isinstance(one, int) and abs(one) > _EXACT else None for one in values["value"]]
            columns.append(pa.array(exact, pa.string()))
        self._parts.append(pa.record_batch(columns, schema=self._schema))
        self._rows += count
        if self._rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        self._parts.clear()
        with contextlib.suppress(OSError):
            self._writer.close()

    def _flush(self) -> None:
        if self._parts:
            table = self._pa.Table.from_batches(self._parts).unify_dictionaries()
            self._writer.write_table(table, row_group_size=2 * GROUP_ROWS)
        self._parts, self._rows = [], 0


def _as(kind: Any, column: Sequence[Any], pa: Any) -> Sequence[Any]:
    """Doubles of whole numbers: Arrow takes no larger ones as they are."""
    return [None if one is None else float(one) for one in column] if kind == pa.float64() else column


# ---- for people --------------------------------------------------------------------------------------------


class _Progress:
    """On a terminal, on stderr."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._wanted = sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def step(self, name: str) -> None:
        self._done += 1
        if self._wanted:
            share = f"{100 * self._done // max(1, self._total)} %"
            sys.stderr.write(f"\r\x1b[K{share}  {shown.clean(name)[:60]}")
            sys.stderr.flush()


def _say(output: Path, told: Told) -> None:
    """Where the rows themselves go to stdout, only what is wrong is said."""
    if told.nothing and (str(output) != "-" or not told.rows):
        some = ", ".join(shown.clean(name) for name in told.nothing[:5]) + (" …" if len(told.nothing) > 5 else "")
        shown.stderr(f"note: nothing is known for that time of {len(told.nothing)} devices: {some}")
    if told.unreadable:
        shown.stderr(f"note: {unreadable(told.unreadable)}")
    if str(output) != "-":
        typer.echo(f"{output}: {told.rows} rows of {told.devices} devices, {shown.size(output.stat().st_size)}")
