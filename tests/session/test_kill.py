"""kill -9 of either side at random moments under load: nothing acknowledged is lost or counted twice, every order ends once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from pathlib import Path

import pytest

from garrison.clock import SystemClock
from garrison.model import Order
from garrison.words import ActionKind, ActionState
from sentry_core.journal import FRAMES, RECORDS, Journal
from tests.session.a_sentry import IDENTITY, effects
from tests.session.post import until
from tests.session.processes import FarmProcess, SentryProcess, both


@pytest.mark.timeout(300)
async def test_five_kills(tmp_path: Path) -> None:
    """Five kills, of a side chosen by chance."""
    await kill_and_count(tmp_path, 5, random.randrange(2**32))


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_sixty_kills(tmp_path: Path) -> None:
    """Sixty, for `make soak`."""
    await kill_and_count(tmp_path, 60, random.randrange(2**32))


async def kill_and_count(home: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    async with both(home) as (farm, sentry, sentry_id):
        orders: list[Order] = []
        for round_ in range(rounds):
            for n in range(2):
                kind = chance.choice([ActionKind.REBOOT, ActionKind.PAUSE])
                orders.append(Order(f"{round_:04}-{n}", kind, IDENTITY, 600_000, 1))
                await farm.order(sentry_id, orders[-1])
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            victims: list[FarmProcess | SentryProcess] = [farm, sentry]
            for victim in chance.choice([victims[:1], victims[1:], victims]):
                await victim.kill()
                if chance.random() < 0.5:
                    await asyncio.sleep(chance.uniform(0, 1))
                await victim.start()
        await wind_down(farm, sentry, orders)
        assert await sentry.stop() == 0
        await count(farm, sentry, orders)


async def wind_down(farm: FarmProcess, sentry: SentryProcess, orders: list[Order]) -> None:
    """Waits until the sentry has nothing left to say."""
    (sentry.state / "quiet").touch()
    before = (-1, -1)
    steady = 0

    def settled() -> bool:
        nonlocal before, steady
        with contextlib.closing(sqlite3.connect(farm.home / "farm.db")) as db:
            now = (one(db, "select count(*) from frames"), one(db, "select count(*) from records"))
            open_orders = one(db, "select count(*) from orders where state < ?", int(ActionState.SUCCEEDED))
        steady, before = (steady + 1 if now == before else 0), now
        return steady > 100 and not open_orders

    await until(settled, 90, f"the end of {len(orders)} orders and all frames")


async def count(farm: FarmProcess, sentry: SentryProcess, orders: list[Order]) -> None:
    journal = await Journal.open(sentry.state / "journal.db", SystemClock())
    try:
        boot = journal.boot
        held = await journal.held()
        assert journal.frames_dropped == 0
        assert await journal.unsent(FRAMES, {}, 10) == []
        assert await journal.unsent(RECORDS, {}, 10) == []
        ends = {order.id: await journal.action(order.id) for order in orders}
    finally:
        await journal.close()
    with contextlib.closing(sqlite3.connect(farm.home / "farm.db")) as db:
        for table, lane in (("frames", FRAMES), ("records", RECORDS)):
            (life,) = held[lane]
            assert life.boot == boot
            assert life.first == 1
            seqs = [row[0] for row in db.execute(f"select seq from {table} where boot = ? order by seq", (boot,))]  # noqa: S608  # our own names
            assert seqs == list(range(1, life.last + 1)), f"{table}: each journalled one is there, once"
        assert one(db, "select sum(samples) from frames") == held[FRAMES][0].last
        done = effects(sentry.state)
        assert len(done) == len(set(done)), "an order had its effect twice"
        for order in orders:
            state = ActionState(one(db, "select state from orders where id = ?", order.id))
            end = ends[order.id]
            assert end is not None
            assert end.state is state, "both sides tell the same end"
            assert state.final
            assert state is not ActionState.SUCCEEDED or order.id in done
            if order.kind is ActionKind.PAUSE and order.id in done:
                assert state is ActionState.SUCCEEDED, "a wanted state is read back"


def one(db: sqlite3.Connection, query: str, *values: object) -> int:
    return int(db.execute(query, values).fetchone()[0] or 0)
