"""`commander history …` against a real commander that holds known values: what is shown, exported and repaired is them."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet
import pytest

from commander import settings
from commander.api import serving
from commander.cli import export
from commander.cli.history_disk import days_until_full, outlook
from commander.cli.history_farm import newest_whole
from commander.main import Commander, opened
from commander.setup import Addresses, make_farm
from garrison.clock import ManualClock
from garrison.faults import BadInput
from garrison.frame import Layout, Number, Sample, device_key, pack
from garrison.model import Device
from garrison.words import DeviceState
from tests.commander.cli.conftest import Shell, short_folder
from tests.commander.fleet.conftest import RIG, enrol
from tests.e2e.processes import Farm

T = TypeVar("T")
BEGUN_MS = 1_799_971_200_000  # midnight, 2027-01-15
MINUTE_MS = 60_000
RIG_7, MINER, PLAN = (f"mac:02:00:00:00:00:0{n}" for n in "123")
LAYOUT = Layout.of([("hashrate_hs", ""), ("power_w", ""), ("accepted", ""), ("temp_c", "board:1")])
RAW, FIVE, HOUR = "raw-2027-W02.db", "5min-2027-01.db", "1h-2027.db"


@dataclass
class Kept:
    """A farm whose commander runs in this process. `looks`: what went in, by device name and time."""

    shell: Shell
    home: Path
    looks: dict[str, dict[int, dict[tuple[str, str], Number]]]
    clock: ManualClock
    commander: Commander | None = None
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event | None = None
    thread: threading.Thread | None = None

    @property
    def history(self) -> Path:
        return self.home / "commander" / "history"

    def ask(self, work: Callable[[Commander], Coroutine[Any, Any, T]]) -> T:
        assert self.commander is not None
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work(self.commander), self.loop).result(60)

    def start(self) -> None:
        ready = threading.Event()

        async def serve() -> None:
            self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
            home = self.home / "commander"
            async with opened(home, settings.load(home), self.clock) as self.commander:
                door = serving.unix_socket(home / settings.SOCKET)
                serving_on = asyncio.create_task(serving.serve(self.commander.gate(local=True), door, self.stop))
                ready.set()
                await serving_on
            (home / settings.SOCKET).unlink()

        self.thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self.thread.start()
        assert ready.wait(30)

    def end(self) -> None:
        if self.thread is not None and self.thread.is_alive() and self.loop is not None and self.stop is not None:
            self.loop.call_soon_threadsafe(self.stop.set)
            self.thread.join(30)


def _values(minute: int, which: int) -> dict[tuple[str, str], Number]:
    """Of all sizes; what a look did not give is not there."""
    found: dict[tuple[str, str], Number] = {
        ("hashrate_hs", ""): 10**14 + minute * 10**9 + which,
        ("power_w", ""): 3000.5 + minute % 7,
        ("accepted", ""): 2**62 + minute if which == 0 else 5 * minute,
        ("temp_c", "board:1"): 60.1 + minute % 3 / 10 if minute % 50 else 1 / 3,
    }
    if minute % 11 == 0:
        del found["power_w", ""]
    return found


async def _fill(commander: Commander, kept: Kept, minutes: range) -> None:
    jobs = []
    for minute in minutes:
        kept.clock.advance(60)
        at_ms = BEGUN_MS + minute * MINUTE_MS
        samples = []
        for which, (name, identity) in enumerate({"rig-7": RIG_7, "miner-a": MINER, "plan": PLAN}.items()):
            if name == "miner-a" and minute % 4 > 1:
                continue  # half the time nobody looks
            if 300 <= minute < 420:
                continue
            values = _values(minute, which)
            kept.looks.setdefault(name, {})[at_ms + which] = values
            samples.append(Sample(device_key(identity), at_ms + which, values))
        if samples:
            jobs.append(commander.telemetry.take(RIG, bytes(16), minute + 1, LAYOUT.hash, pack(LAYOUT, samples)))
    await asyncio.gather(*jobs)


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    folders = short_folder()
    home = next(folders)
    make_farm(home / "commander", "kept", Addresses("127.0.0.1", "127.0.0.1", 18441, 18442, 18440))
    kept = Kept(Shell(Farm(home)), home, {}, ManualClock(BEGUN_MS - 600_000))
    kept.start()

    async def fill(commander: Commander) -> None:
        await enrol(commander.fleet, RIG, "asic", "hall-a")
        devices = [
            Device(identity, "asic", DeviceState.MINING, name=name, make="antminer", model=model, mac=identity[4:])
            for name, identity, model in (("rig-7", RIG_7, "S19"), ("miner-a", MINER, "S9"), ("plan", PLAN, "S9"))
        ]
        await commander.fleet.take_roster(RIG, True, devices, [])
        await commander.telemetry.tidy()
        kept.clock.advance(600)
        await commander.telemetry.learn_layout(RIG, LAYOUT)
        await _fill(commander, kept, range(30 * 60))
        await commander.telemetry.tidy()
        await _fill(commander, kept, range(30 * 60, 31 * 60))

    kept.ask(fill)
    yield kept
    kept.end()
    next(folders, None)


SPAN = ("--since", "2027-01-15T00:00Z", "--until", "2027-01-16T07:00Z")


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ---- one device --------------------------------------------------------------------------------------------


def test_a_device_first(kept: Kept) -> None:
    """`history DEVICE` is `history show DEVICE`, with options on either side; a device called like a command is shown by `show`."""
    asked = ("--metric", "power_w", *SPAN)
    whole = kept.shell.out("history", "show", "rig-7", *asked)
    assert kept.shell.out("history", "rig-7", *asked) == whole
    assert kept.shell.out("history", *asked, "rig-7") == whole
    assert kept.shell.out("history", "--json", "rig-7", *asked) == kept.shell.out("history", "show", "rig-7", *asked, "--json")
    assert "points" in json.loads(kept.shell.out("history", "show", "plan", *asked, "--json"))
    assert "--devices" in kept.shell.refused("history", "plan", code=2)
    assert "no device" in kept.shell.refused("history", "nobody")


def test_what_answered_is_said(kept: Kept) -> None:
    """Level, step and coverage; a gap stays a gap; what covers less than all is never "100 %"."""
    whole = kept.shell.out("history", "rig-7", *SPAN)
    assert "every look, 9" in whole
    bars = next(line for line in whole.splitlines() if "▁" in line)
    assert "  " in bars.strip()
    steps = kept.shell.out("history", "rig-7", *SPAN, "--step", "5min")
    assert "5min values, 93 % of the time covered" in steps
    assert "steps of 10 min made of 5min values" in kept.shell.out("history", "rig-7", *SPAN, "--step", "10min")
    assert "steps of 2 min made of looks" in kept.shell.out("history", "rig-7", *SPAN, "--step", "2min")
    day = kept.shell.out("history", "rig-7", "--since", "2027-01-15T08:00Z", "--until", "2027-01-15T20:00Z", "--step", "1h")
    assert re.search(r"100 % of the time covered", day)
    rate = json.loads(kept.shell.out("history", "miner-a", *SPAN, "-m", "accepted", "--rate", "--step", "1h", "--json"))
    assert all(point["avg"] == pytest.approx(5 / 60, rel=0.1) for point in rate["points"] if point["avg"])
    assert "1/s" in kept.shell.out("history", "miner-a", *SPAN, "-m", "accepted", "--rate")
    counter = kept.shell.out("history", "miner-a", *SPAN, "-m", "accepted", "--step", "1h")
    assert "rise" in counter
    assert "avg" not in counter  # nobody keeps it
    assert re.search(r"[▁▂▃▄▅▆▇█]", counter)
    assert "no counter" in kept.shell.refused("history", "miner-a", *SPAN, "-m", "power_w", "--rate")
    assert "nothing is known" in kept.shell.out("history", "rig-7", "--since", "2020-02-01", "--until", "2020-02-02")


EVERY_TABLE = [
    ("rig-7", *SPAN),
    ("rig-7", *SPAN, "--step", "5min"),
    ("rig-7", *SPAN, "-m", "accepted", "--step", "5min"),
    ("totals", "--by", "model", *SPAN),
    ("totals", "--by", "model", "-m", "power_w measured_j", *SPAN),
    ("top", "-m", "temp_c"),
    ("top", "-m", "hashrate_hs", "--lowest", "-n", "2"),
    ("energy", "rig-7", *SPAN),
    ("energy", "--by", "model", *SPAN),
    ("usage",),
    ("plan", "--devices", "10000"),
    ("verify",),
    ("repair",),
]


@pytest.mark.parametrize("words", EVERY_TABLE, ids=" ".join)
def test_tables_fit(kept: Kept, words: tuple[str, ...]) -> None:
    """80 columns; and the same as JSON."""
    said = kept.shell.out("history", *words, COLUMNS="80")
    assert max(map(len, said.splitlines())) <= 80
    assert json.loads(kept.shell.out("history", *words, "--json"))


# ---- groups ------------------------------------------------------------------------------------------------


def test_totals(kept: Kept) -> None:
    """The newest whole step of each group, how much of it is covered, and bars; what is missing can be seen."""
    found = json.loads(kept.shell.out("history", "totals", "--by", "model", *SPAN, "--step", "1h", "--json"))
    said = kept.shell.out("history", "totals", "--by", "model", *SPAN, "--step", "1h")
    (half,) = [line for line in said.splitlines() if line.startswith("S9")]
    (whole,) = [line for line in said.splitlines() if line.startswith("S19")]
    assert 60 < int(re.findall(r"(\d+) %", half)[0]) < 80  # one of two devices looks half the time
    assert int(re.findall(r"(\d+) %", whole)[0]) >= 99
    assert "2 of 2" in half
    assert re.search(r"[▁▂▃▄▅▆▇█]", half)
    assert found["coverage"] < 1
    assert f"{int(found['coverage'] * 100)} % of all devices and time covered" in said
    assert "TH/s" in whole
    assert "all" in kept.shell.out("history", "totals", *SPAN)
    assert "2" in kept.shell.out("history", "totals", "--by", "model", "--fn", "devices", *SPAN)
    assert "rate" in kept.shell.refused("history", "totals", "--fn", "rate")
    assert "nothing is known" in kept.shell.out("history", "totals", "--by", "coin", *SPAN)


def test_energy(kept: Kept) -> None:
    """Of a device and of groups, which add up; by where the power is known from."""
    one = json.loads(kept.shell.out("history", "energy", "rig-7", *SPAN, "--json"))
    assert one["kwh"] == pytest.approx(3.003 * 29, rel=0.02)  # two hours nobody looked
    assert one["reported_kwh"] == one["kwh"]
    sealed = (*SPAN[:3], "2027-01-16T05:00Z")
    one = json.loads(kept.shell.out("history", "energy", "rig-7", *sealed, "--json"))
    groups = json.loads(kept.shell.out("history", "energy", "--by", "model", *sealed, "--json"))["groups"]
    assert {group["name"] for group in groups} == {"S19", "S9"}
    assert next(group["kwh"] for group in groups if group["name"] == "S19") == pytest.approx(one["kwh"], rel=0.005)
    assert "S19" in kept.shell.out("history", "energy", "--by", "model", *SPAN)
    for wrong in ((), ("rig-7", "--by", "site")):
        assert "energy of what" in kept.shell.refused("history", "energy", *wrong)


def test_top(kept: Kept) -> None:
    """The highest first, or the lowest; with the part that has it."""
    rows = json.loads(kept.shell.out("history", "top", "-m", "hashrate_hs", "--json"))
    assert rows[0]["device"] == "plan"
    assert json.loads(kept.shell.out("history", "top", "-m", "hashrate_hs", "--lowest", "-n", "1", "--json"))[0]["device"] != "plan"
    assert "board:1" in kept.shell.out("history", "top")
    assert "no device tells" in kept.shell.out("history", "top", "-m", "fan_rpm")
    assert "hashrate_hs" in kept.shell.refused("history", "top", "-m", "mood")


# ---- disk --------------------------------------------------------------------------------------------------


def test_plan(kept: Kept, nobody: Shell) -> None:
    """With a commander as it is set; before anything is installed with the defaults, and that is said."""
    asked = ("history", "plan", "--devices", "10000", "--every", "10s")
    there = json.loads(kept.shell.out(*asked, "--json"))
    here = json.loads(nobody.out(*asked, "--json"))
    assert (there.pop("source"), here.pop("source")) == ("commander", "here")
    assert there == here
    assert there["bytes"] == sum(there[f"{part}_bytes"] for part in ("raw", "hot", "five_minute", "hour", "totals"))
    said = nobody.out(*asked)
    assert "computed here with the default days" in said
    assert "docs/benchmarks.md" in said
    assert "computed here" not in kept.shell.out(*asked)
    shorter = ("--raw-days", "1", "--five-minute-days", "2", "--hour-days", "3")
    assert "the days given" in nobody.out(*asked, *shorter)
    assert json.loads(nobody.out(*asked, *shorter, "--json"))["bytes"] < here["bytes"]
    assert "span of time" in nobody.refused(*asked[:-1], "often")
    assert "does not answer" in nobody.refused("--url", "https://127.0.0.1:1", *asked, GARRISON_TOKEN="gsn-x")


def test_usage(kept: Kept) -> None:
    """A row a level, with its days, files and bytes; the sum is what lies on disk."""
    found = json.loads(kept.shell.out("history", "usage", "--json"))
    on_disk = sum(path.stat().st_size for path in kept.history.iterdir() if path.is_file())
    assert found["file_bytes"] == pytest.approx(on_disk, rel=0.05)
    said = kept.shell.out("history", "usage")
    assert "30 days" in said
    assert "2027-01-1" in said
    assert "free; too young to say" in said


LEVEL = {"days": 30, "files": 1, "bytes": 10_000, "from_ms": 0, "to_ms": 100 * 86_400_000}


@pytest.mark.parametrize(
    ("free", "days", "said"),
    [
        (10**9, 10, "grows by 20.00 kB more, and that fits"),
        (5_000, 10, "full in 5 days"),
        (10**9, 1, "too young"),
        (9, 60, "grows by 0 B"),
    ],
)
def test_outlook(free: int, days: int, said: str) -> None:
    """A thousand bytes a day of thirty days: what is still to come is said, or when the disk is full, or nothing."""
    found = {"oldest_ms": 0, "newest_ms": days * 86_400_000, "free_bytes": free, "levels": {"raw": LEVEL}}
    assert said in outlook(found)


def test_days_until_full() -> None:
    """Ten days two levels grow, then one."""
    assert days_until_full({"raw": 100.0, "1h": 10.0}, {"raw": 10.0, "1h": 1000.0}, 1_200.0) == pytest.approx(10 + 100 / 10)
    assert days_until_full({"raw": 100.0}, {"raw": 10.0}, 50.0) == 0.5


def test_newest_whole_step() -> None:
    """The one that runs counts only when there is no other."""
    assert newest_whole([0, 10, 20], 10, 29) == 1
    assert newest_whole([0, 10, 20], 10, 30) == 2
    assert newest_whole([0], 10, 5) == 0
    assert newest_whole([], 10, 5) is None


# ---- export ------------------------------------------------------------------------------------------------


def went_in(kept: Kept, *names: str) -> dict[tuple[str, int, str, str], Number]:
    return {
        (name, at_ms, metric, component): value
        for name in names
        for at_ms, values in kept.looks[name].items()
        for (metric, component), value in values.items()
    }


def test_csv(kept: Kept, tmp_path: Path) -> None:
    """Every look of every device, each value once and as it was, from the archive, from chunks and from frames."""
    target = tmp_path / "all.csv"
    said = kept.shell.out("history", "export", "--all", *SPAN, "--output", str(target))
    rows = parsed(target.read_text())
    wanted = went_in(kept, "rig-7", "miner-a", "plan")
    assert f"{len(wanted)} rows of 3 devices" in said
    assert list(rows[0]) == ["at_ms", "at", "device_id", "device", "metric", "component", "unit", "value"]
    assert len(rows) == len(wanted)
    found = {(r["device"], int(r["at_ms"]), r["metric"], r["component"]): json.loads(r["value"]) for r in rows}
    assert found == wanted
    assert {datetime.fromisoformat(r["at"]) for r in rows} == {datetime.fromtimestamp(at / 1000, UTC) for _, at, _, _ in wanted}
    assert {r["unit"] for r in rows if r["metric"] == "temp_c"} == {"°C"}
    assert {path.name for path in tmp_path.iterdir()} == {"all.csv"}


def test_some_of_it_on_stdout(kept: Kept) -> None:
    """Some devices, some metrics: a metric with its parts, or one part alone."""
    asked = ("history", "export", "rig-7", "miner-a", *SPAN, "-o", "-")
    rows = parsed(kept.shell.out(*asked, "--metric", "temp_c", "-m", "power_w"))
    wanted = {key for key in went_in(kept, "rig-7", "miner-a") if key[2] in ("temp_c", "power_w")}
    assert {(r["device"], int(r["at_ms"]), r["metric"], r["component"]) for r in rows} == wanted
    rows = parsed(kept.shell.out(*asked, "-m", "temp_c:board:1"))
    assert {(r["metric"], r["component"]) for r in rows} == {("temp_c", "board:1")}
    assert len(rows) == sum(key[2] == "temp_c" for key in wanted)


def test_steps_as_csv(kept: Kept) -> None:
    """What the API says of each step; a step without a look has no row."""
    rows = parsed(kept.shell.out("history", "export", "rig-7", *SPAN, "--step", "5min", "-m", "accepted", "-o", "-"))
    told = json.loads(kept.shell.out("history", "rig-7", *SPAN, "--step", "5min", "-m", "accepted", "--json"))
    points = {point["at_ms"]: point for point in told["points"] if point["count"]}
    assert list(rows[0])[7:] == ["step_s", "count", "avg", "min", "max", "last", "rise"]
    assert {int(r["at_ms"]) for r in rows} == set(points)
    for row in rows:
        point = points[int(row["at_ms"])]
        assert row["step_s"] == "300"
        assert json.loads(row["last"]) == point["last"]
        assert int(row["count"]) == point["count"]
        assert row["avg"] == ""  # nobody keeps the average of a counter
    assert json.loads(rows[1]["rise"]) == points[int(rows[1]["at_ms"])]["rise"]


def test_parquet(kept: Kept, tmp_path: Path) -> None:
    """The same, with types: what no double holds stands beside it in words."""
    target = tmp_path / "all.parquet"
    kept.shell.out("history", "export", "--all", *SPAN, "--output", str(target))
    table = pyarrow.parquet.read_table(target)
    rows = table.to_pylist()
    wanted = went_in(kept, "rig-7", "miner-a", "plan")
    found = {
        (r["device"], r["at_ms"], r["metric"], r["component"]): int(r["exact"]) if r["exact"] is not None else r["value"]
        for r in rows
    }
    assert found == wanted
    assert len(rows) == len(wanted)
    assert all(r["at"] == datetime.fromtimestamp(r["at_ms"] / 1000, UTC) for r in rows)
    assert sum(r["exact"] is not None for r in rows) == len(kept.looks["rig-7"])
    kept.shell.out("history", "export", "rig-7", *SPAN, "--step", "1h", "--format", "parquet", "-o", str(tmp_path / "h"))
    steps = pyarrow.parquet.read_table(tmp_path / "h").to_pylist()
    hashrate = [r for r in steps if r["metric"] == "hashrate_hs"]
    assert len(hashrate) == 29
    assert {r["step_s"] for r in hashrate} == {3600}
    assert hashrate[0]["max"] == 10**14 + 59 * 10**9


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written as they come, so that memory does not grow with the export."""
    monkeypatch.setattr(export, "GROUP_ROWS", 1_000)
    sink = export._Parquet(tmp_path / "x.parquet", steps=False)
    for page in range(10):
        sink.write((1, "rig", "power_w", "", "W"), list(range(700)), {"value": [page * 0.5] * 700})
    sink.close()
    file = pyarrow.parquet.ParquetFile(tmp_path / "x.parquet")
    assert file.metadata.num_rows == 7_000
    assert max(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)) <= 2_000
    assert file.num_row_groups == 5


def test_nothing_is_overwritten_nor_half_done(kept: Kept, tmp_path: Path) -> None:
    """A file that is there stays, unless forced; one that cannot be completed never appears."""
    target = tmp_path / "x.csv"
    target.write_text("mine")
    asked = ("history", "export", "rig-7", *SPAN, "-m", "power_w", "--output")
    assert "exists already" in kept.shell.refused(*asked, str(target))
    assert target.read_text() == "mine"
    kept.shell.out(*asked, str(target), "--force")
    assert len(parsed(target.read_text())) > 1_000
    assert "no folder" in kept.shell.refused(*asked, str(tmp_path / "no" / "x.csv"))
    assert "Parquet is written into a file" in kept.shell.refused(*asked, "-", "--format", "parquet")
    for words, said in {
        ("nobody",): "no device",
        (): "export of what",
        ("rig-7", "--all"): "export of what",
        ("rig-7", "--step", "7min"): "does not fit",
        ("rig-7", "-m", "mood"): "no metric",
        ("rig-7", "--since", "yesterday"): "24h",
    }.items():
        assert said in kept.shell.refused("history", "export", *words, "--output", str(tmp_path / "y.csv"))
    for kind in export.Format:
        with pytest.raises(KeyboardInterrupt):
            _interrupted(tmp_path / "y", kind)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def _interrupted(target: Path, kind: export.Format) -> None:
    with export._opened(target, kind, steps=False, force=False) as sink:
        sink.write((1, "rig", "power_w", "", "W"), [1], {"value": [1.5]})
        raise KeyboardInterrupt


def test_nothing_known(kept: Kept, tmp_path: Path) -> None:
    """An empty export is a file with its head, and that is said."""
    target = tmp_path / "x.csv"
    done = kept.shell.run("history", "export", "rig-7", "--since", "2026-01-01", "--until", "2026-01-03", "-o", str(target))
    assert done.returncode == 0
    assert "nothing is known for that time of 1 devices: rig-7" in done.stderr
    assert "0 rows of 0 devices" in done.stdout
    assert len(target.read_text().splitlines()) == 1


def test_without_pyarrow(kept: Kept, tmp_path: Path) -> None:
    """What to install is said; CSV works."""
    (tmp_path / "pyarrow").mkdir()
    (tmp_path / "pyarrow" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'pyarrow'\", name='pyarrow')\n")
    asked = ("history", "export", "rig-7", *SPAN, "-m", "power_w", "--output")
    error = kept.shell.refused(*asked, str(tmp_path / "x.parquet"), PYTHONPATH=str(tmp_path))
    assert "pip install 'garrison[parquet]'" in error
    kept.shell.out(*asked, str(tmp_path / "x.csv"), PYTHONPATH=str(tmp_path))
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize(
    ("from_ms", "to_ms", "step_ms", "lengths"),
    [
        (0, 3 * 86_400_000, None, [86_400_000] * 3),
        (3_600_000, 86_400_000 + 5, None, [82_800_000, 5]),
        (0, 86_400_000, 1_000, [7_200_000] * 12),
        (0, 62 * 86_400_000, 3_600_000, [31 * 86_400_000] * 2),
        (5, 5, None, []),
    ],
)
def test_pages(from_ms: int, to_ms: int, step_ms: int | None, lengths: list[int]) -> None:
    """Days of looks; of steps so much that an answer holds it; without a gap, and no step in two pages."""
    found = list(export.pages_of(from_ms, to_ms, step_ms))
    assert [end - begin for begin, end in found] == lengths
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert all(end % (step_ms or 1) == 0 for _, end in found)


@pytest.mark.parametrize("step", ["7min", "90min", "5h", "500ms", "2d", "soon"])
def test_steps_that_midnight_would_cut(step: str) -> None:
    """They are refused."""
    with pytest.raises(BadInput):
        export._step(step)


# ---- damage ------------------------------------------------------------------------------------------------


def test_verify_and_repair(kept: Kept) -> None:
    """Exit code 0 when all is good; 1 with the device and day when something is not; a repair mends it; offline too."""
    assert "all good" in kept.shell.out("history", "verify")
    with closing(sqlite3.connect(kept.history / FIVE)) as c:
        c.execute("update blocks set crc = crc + 1 where id = 1")
        c.commit()
    done = kept.shell.run("history", "verify")
    assert done.returncode == 1
    assert done.stderr == ""
    assert re.search(r"5min-2027-01.db: 5-minute day of (rig-7|miner-a|plan) at 2027-01-15 \S+: the checksum", done.stdout)
    assert "1 files are not: `commander history repair`" in done.stdout
    told = json.loads(kept.shell.run("history", "verify", "--json").stdout)
    assert [one["file"] for one in told["files"] if not one["whole"]] == [FIVE]
    assert "1 that do not read were set aside" in (said := kept.shell.out("history", "repair"))
    assert "1 5-minute day made again" in said
    assert "all good" in kept.shell.out("history", "verify")
    assert json.loads(kept.shell.out("history", "repair", "--json"))["summary"]["repaired"] == 0


def test_repair_without_a_commander(kept: Kept, tmp_path: Path) -> None:
    """While one runs it is refused; when hot.db is damaged and nobody can start, it saves what reads, and the commander starts."""
    assert "it repairs while it runs" in _held(kept)
    kept.end()
    whole = kept.history / "hot.db"
    backup = tmp_path / "history"
    shutil.copytree(kept.history, backup)
    try:
        with closing(sqlite3.connect(whole)) as c:
            (page,) = c.execute("select rootpage from sqlite_master where name = 'marks'").fetchone()
        data = whole.read_bytes()
        whole.write_bytes(data[: (page - 1) * 4096] + b"\xff" * 4096 + data[page * 4096 :])
        (kept.history / RAW).write_bytes((kept.history / RAW).read_bytes()[:20_000])
        assert "repair --offline" in kept.shell.refused("run")
        assert "commander run" in kept.shell.refused("history", "repair")
        done = kept.shell.run("history", "repair", "--offline")
        assert done.returncode == 0, done
        assert "the old file is damaged/hot.db." in done.stdout
        assert f"the old file is damaged/{RAW}." in done.stdout
        assert json.loads(kept.shell.out("history", "repair", "--offline", "--json"))["summary"]["whole"] is True
        with contextlib.closing(sqlite3.connect(kept.history / FIVE)) as c:
            c.execute("pragma user_version = 2")
        told = kept.shell.run("history", "repair", "--offline")
        assert told.returncode == 1
        assert "newer Garrison" in told.stdout
    finally:
        shutil.rmtree(kept.history)
        shutil.copytree(backup, kept.history)
        kept.start()
    assert "all good" in kept.shell.out("history", "verify")


def _held(kept: Kept) -> str:
    from commander.lock import held_alone

    with held_alone(kept.home / "commander"):
        return kept.shell.refused("history", "repair", "--offline")


def test_offline_somewhere_else(nobody: Shell) -> None:
    """Where there is no history, and on another machine."""
    assert "no history at" in nobody.refused("history", "repair", "--offline")
    error = nobody.refused("--url", "https://127.0.0.1:1", "history", "repair", "--offline", GARRISON_TOKEN="gsn-x")
    assert "this machine" in error
