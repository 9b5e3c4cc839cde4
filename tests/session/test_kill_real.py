"""kill -9 of the real commander and of a sentry at random moments: counted in the farm's own databases afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from garrison.clock import SystemClock
from garrison.model import Held
from garrison.words import ActionState
from sentry_core.journal import FRAMES, RECORDS, Journal
from tests.e2e.processes import Farm, farm_at, until
from tests.session.a_sentry import effects


def start_sentry(farm: Farm) -> None:
    farm.start("post", [sys.executable, "-m", "tests.session.a_sentry", "run", "--home", str(farm.home)])


@pytest.mark.timeout(300)
def test_four_kills_of_the_real_ones(tmp_path: Path) -> None:
    """Each look is in the history once, each event once, each order ended once; the sentry has nothing left to send."""
    kill_and_count(tmp_path, 4, random.randrange(2**32))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_of_the_real_ones(tmp_path: Path) -> None:
    """Fifty, for `make soak`."""
    kill_and_count(tmp_path, 50, random.randrange(2**32))


def kill_and_count(home: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    state = home / "sentry-test"
    with farm_at(home) as farm:
        token = farm.ask("commander", "sentries", "token", "--kind", "rig", "--approve").strip()
        command = [sys.executable, "-m", "tests.session.a_sentry", "enrol", token, "--home", str(home)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        (state / "sentry.toml").write_text("every_ms = 20\norder_ms = 300\n")
        start_sentry(farm)
        farm.until_device("test", "idle")
        orders = [one_round(farm, chance) for _ in range(rounds)]
        (state / "quiet").touch()
        wind_down(farm, [order for order in orders if order])
        assert farm.stop("post") == 0
        ends = {order: farm.get(f"/actions/{order}")["state"] for order in orders if order}
    asyncio.run(count(home, ends))


def one_round(farm: Farm, chance: random.Random) -> str | None:
    """An order, and a kill at some moment after it. None: the device was busy with the order before."""
    kind = chance.choice(["reboot", "pause"])
    done = farm.run("commander", "order", kind, "test", "--wait", "0", "--json")
    time.sleep(chance.uniform(0, 1))
    victims = chance.choice([["commander"], ["post"], ["post", "commander"]])
    for victim in victims:
        farm.kill(victim)
    for victim in victims:
        start_sentry(farm) if victim == "post" else farm.start_commander()
    rows = json.loads(done.stdout)["actions"] if done.stdout else []
    return str(rows[0]["id"]) if rows else None


def wind_down(farm: Farm, orders: list[str]) -> None:
    for order in orders:
        farm.until_order(order)
    before, since = (-1, -1), time.monotonic()

    def settled() -> bool:
        nonlocal before, since
        connected = False
        with contextlib.closing(sqlite3.connect(farm.home / "commander" / "history" / "hot.db")) as db:
            frames = one(db, "select count(*) from hot")
        with contextlib.closing(sqlite3.connect(farm.home / "commander" / "fleet.db")) as db:
            records = one(db, "select coalesce(sum(last - first + 1), 0) from record_marks")
        with contextlib.suppress(FileNotFoundError):  # it may wait for its turn to connect again
            connected = '"connected"' in (farm.home / "sentry-test" / "status.json").read_text()
        if (frames, records) != before or not connected:
            before, since = (frames, records), time.monotonic()
        return time.monotonic() - since > 4

    until("nothing new arrives", settled, 90)


async def count(home: Path, ends: dict[str, str]) -> None:
    state = home / "sentry-test"
    journal = await Journal.open(state / "journal.db", SystemClock())
    try:
        assert await journal.unsent(FRAMES, {}, 10) == []
        assert await journal.unsent(RECORDS, {}, 10) == []
        held = await journal.held()
        stored = {order: await journal.action(order) for order in ends}
    finally:
        await journal.close()
    (frames,), (records,) = held[FRAMES], held[RECORDS]
    in_the_history(home, frames)
    in_the_fleet(home, records)
    done = effects(state)
    assert len(done) == len(set(done)), "an order had its effect twice"
    assert ends
    for order, end in ends.items():
        known = stored[order]
        if known is not None:
            assert known.state.word == end, "both sides tell the same end"
        assert end != ActionState.SUCCEEDED.word or order in done


def in_the_history(home: Path, frames: Held) -> None:
    with contextlib.closing(sqlite3.connect(home / "commander" / "history" / "hot.db")) as db:
        journal = one(db, "select no from journals where boot = ?", frames.boot)
        seqs = [row[0] for row in db.execute("select seq from hot where journal = ? order by seq", (journal,))]
        assert seqs == list(range(1, frames.last + 1)), "each look is there, once"
        assert db.execute("select first, last from marks where journal = ?", (journal,)).fetchall() == [(1, frames.last)]
        assert one(db, "select count(*) from set_aside") == 0


def in_the_fleet(home: Path, records: Held) -> None:
    with contextlib.closing(sqlite3.connect(home / "commander" / "fleet.db")) as db:
        marks = db.execute("select first, last from record_marks where boot = ?", (records.boot,)).fetchall()
        assert marks == [(1, records.last)]
        texts = [row[0] for row in db.execute("select text from events where kind = 'twentieth'")]
        starts = one(db, "select count(*) from events where kind = 'started'")
        assert texts
        assert all(texts.count(text) <= starts for text in texts), "no event twice in one life of the sentry"


def one(db: sqlite3.Connection, query: str, *values: object) -> int:
    return int(db.execute(query, values).fetchone()[0] or 0)
