"""The history of a real commander on a disk that fills up, and under a clock that is set; a real sentry journals meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from commander import db
from commander.telemetry.levels import DAY_MS, Level, file_at
from commander.telemetry.service import Telemetry
from garrison.clock import ManualClock, SystemClock
from garrison.frame import Layout, Sample, device_key, pack
from sentry_core.journal import FRAMES, Journal
from tests.e2e.processes import Farm, until
from tests.session.a_sentry import IDENTITY
from tests.small_disk import fill, free_bytes, small_disk

pytestmark = pytest.mark.timeout(300)
LAYOUT = Layout.of([("hashrate_hs", ""), ("temp_c", "")])
MINUTE_MS = 60_000
RECOVERED_S = 60
ALL = "7000d"
"""Also looks of a clock that was ten years back."""


def test_a_full_disk_and_then_not(tmp_path: Path) -> None:
    """While not a byte goes in, questions are answered, of now and of merged days, and the sentry keeps what it looks at; with
    space again all of it is there within a minute, once, and what was to be sealed and merged meanwhile is."""
    home = tmp_path / "farm"
    home.mkdir()
    farm = Farm(home)
    farm.init()
    with small_disk(home / "commander" / "history", 24) as history:
        today_ms = SystemClock().now_ms() // DAY_MS * DAY_MS
        merged_ms, waiting_ms = today_ms - 4 * DAY_MS, today_ms - 2 * DAY_MS
        asyncio.run(days_ago(history, merged_ms, waiting_ms))
        other = history / "other"
        fill(other, leave_bytes=400 << 10)
        try:
            farm.start_commander()
            until("the upkeep finds the disk full", lambda: "could not be tidied" in farm.log("commander"))
            a_sentry(farm)
            until("looks arrive", lambda: len(looks(farm)) > 20)
            fill(other)
            until("looks are shown that are not taken", lambda: newest_look(farm) > max(looks(farm)) + 100)
            assert free_bytes(history) < 4096
            before, newest = looks(farm), newest_look(farm)
            for _ in range(4):
                time.sleep(1)
                assert day_of(farm, merged_ms) == day_of(farm, waiting_ms) == 1_440
                assert farm_hs(farm, merged_ms) == [300] * 24
                assert looks(farm) == before, "nothing is taken"
            until("the live values go on", lambda: newest_look(farm) > newest + 100)
            newest = newest_look(farm)
            other.unlink()
            begun_s = time.monotonic()
            until("what was not taken is there", lambda: set(range(1, newest)) <= set(looks(farm)), RECOVERED_S)
            until("the day is merged", lambda: archived(history, waiting_ms), RECOVERED_S - (time.monotonic() - begun_s))
            print(f"recovered in {time.monotonic() - begun_s:.0f} s")  # noqa: T201  # the figure
            wind_down(farm)
            assert farm_hs(farm, waiting_ms) == [300] * 24
            assert day_of(farm, merged_ms) == day_of(farm, waiting_ms) == 1_440
            assert "Traceback" not in farm.log("commander")
        finally:
            farm.end()
        assert {path.name: db.damage(path) for path in history.glob("*.db") if db.damage(path) is not None} == {}


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3_600, id="hour on", marks=pytest.mark.slow),
        pytest.param(-3_600, id="hour back"),
        pytest.param(3_650 * 86_400, id="ten years on"),
        pytest.param(-3_650 * 86_400, id="ten years back", marks=pytest.mark.slow),
    ],
)
def test_the_commanders_clock_is_set(tmp_path: Path, seconds: int) -> None:
    """While a sentry looks, and right again after some seconds: every look that the sentry made is in the history once."""
    home = tmp_path / "farm"
    home.mkdir()
    farm = Farm(home)
    farm.init()
    clock = tmp_path / "clock"
    try:
        farm.start("commander", [sys.executable, "-m", "tests.e2e.a_commander", clock])
        until("the commander answers", lambda: farm.alive("commander") and farm.get("/status"))
        a_sentry(farm)
        until("looks arrive", lambda: len(looks(farm)) > 20)
        clock.write_text(str(seconds))
        time.sleep(7)  # longer than a step of the upkeep
        assert farm.get("/status")
        clock.write_text("0")
        wind_down(farm)
    finally:
        farm.end()


# ---- before the test -----------------------------------------------------------------------------------------


async def days_ago(history: Path, merged_ms: int, waiting_ms: int) -> None:
    """A day that is in the archive, and one in frames as they came, of the sentry's device and sixty others."""

    async def groups() -> Any:
        for key in keys:
            yield key, (("farm", ""),)

    keys = [device_key(IDENTITY), *range(60)]
    for begin_ms in (merged_ms, waiting_ms):
        clock = ManualClock(begin_ms + DAY_MS)
        telemetry = await Telemetry.open(history, clock, commit_every_ms=10)
        telemetry.follow(groups)
        await telemetry.learn_layout("old", LAYOUT)
        jobs = []
        for minute in range(1_440):
            at_ms = begin_ms + minute * MINUTE_MS
            samples = [
                Sample(key, at_ms, {("hashrate_hs", ""): 300 if key == keys[0] else 0, ("temp_c", ""): 40 + at_ms % 211 / 10})
                for key in keys
            ]
            jobs.append(telemetry.take("old", bytes(16), at_ms // MINUTE_MS, LAYOUT.hash, pack(LAYOUT, samples)))
        await asyncio.gather(*jobs)
        clock.advance(2 * 3_600)
        if begin_ms == merged_ms:
            assert (await telemetry.tidy()).days == len(keys)
        await telemetry.close()


def a_sentry(farm: Farm) -> None:
    token = farm.ask("commander", "sentries", "token", "--kind", "rig", "--approve").strip()
    sentry = [sys.executable, "-m", "tests.session.a_sentry"]
    subprocess.run([*sentry, "enrol", token, "--home", str(farm.home)], check=True, capture_output=True, timeout=60)
    (farm.home / "sentry-test" / "sentry.toml").write_text("every_ms = 20\n[journal]\nmin_free_mb = 0\n")
    farm.start("post", [*sentry, "run", "--home", str(farm.home)])
    farm.until_device("test", "idle")


# ---- what they say -------------------------------------------------------------------------------------------


def looks(farm: Farm, since: str = "1h") -> list[int]:
    """Numbers of looks of the made-up post that the history has, as they are in its hashrate."""
    found = farm.get(f"/devices/{farm.device('test')['id']}/series", metrics="hashrate_hs", since=since, step="raw")
    assert found["unreadable"] == 0
    return [value // 1000 for line in found["series"] for value in line["values"] if value != 300]


def newest_look(farm: Farm) -> int:
    """The number of the latest, durable or not."""
    (block,) = farm.get("/latest", metrics="hashrate_hs", text="test")["blocks"]
    (line,) = block["values"]
    return int(max(line)) // 1000


def day_of(farm: Farm, day_ms: int) -> int:
    """Looks of a day."""
    span = {"since": iso(day_ms), "until": iso(day_ms + DAY_MS)}
    found = farm.get(f"/devices/{farm.device('test')['id']}/history", metric="hashrate_hs", points="20000", **span)
    assert found["unreadable"] == 0
    return len([point for point in found["points"] if point["value"] == 300])


def farm_hs(farm: Farm, day_ms: int) -> list[float]:
    """The farm's hashrate by the hour."""
    found = farm.get("/history/aggregate", step="1h", since=iso(day_ms), until=iso(day_ms + DAY_MS))
    assert found["unreadable"] == 0
    (group,) = found["groups"]
    return [math.nan if value is None else value for value in group["values"]]


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")


def archived(history: Path, day_ms: int) -> bool:
    """Whether the day is in the archive, at all three levels."""
    for level in Level:
        path = history / file_at(level, day_ms).name
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as c:
            if not c.execute("select 1 from blocks where first_ms >= ? or last_ms >= ?", (day_ms, day_ms)).fetchone():
                return False
    return True


def wind_down(farm: Farm) -> None:
    """The sentry stops looking and has nothing left to send: then each of its looks is in the history, once."""
    (farm.home / "sentry-test" / "quiet").touch()
    counts: list[int] = []

    def settled() -> bool:
        counts.append(len(looks(farm, ALL)))
        return len(counts) > 30 and len(set(counts[-30:])) == 1 and farm.sentry("rig")["state"] == "connected"

    until("nothing new arrives", settled)
    last = asyncio.run(stopped(farm))
    assert sorted(looks(farm, ALL)) == list(range(1, last + 1))


async def stopped(farm: Farm) -> int:
    """The number of the sentry's last frame; it has no frame left that nobody acknowledged."""
    assert await asyncio.to_thread(farm.stop, "post") == 0
    journal = await Journal.open(farm.home / "sentry-test" / "journal.db", SystemClock())
    try:
        assert await journal.unsent(FRAMES, {}, 10) == []
        (held,) = (await journal.held())[FRAMES]
    finally:
        await journal.close()
    return held.last
