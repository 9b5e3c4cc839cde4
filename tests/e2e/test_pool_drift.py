"""Pools changed behind our back on three miners: one event with the list, put right twice, then left alone and reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.hall import Hall, furnish, hall_of
from tests.e2e.processes import Farm, farm_at, until

pytestmark = pytest.mark.timeout(300)
NAMES = ["miner-1", "miner-2", "miner-3"]
OURS = "stratum+tcp://ours.invalid:3333"
THIEF = "stratum+tcp://thief.invalid:3333"


@pytest.fixture
def hall() -> Iterator[Hall]:
    with hall_of("modern", "old", "modern") as hall:
        yield hall


@pytest.fixture
def farm(hall: Hall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farm_at(tmp_path_factory.mktemp("drift")) as farm:
        assert farm.stop("commander") == 0
        with (farm.home / "commander" / "commander.toml").open("a") as file:
            file.write("\n[pools]\nrestore_pools = true\n")
        farm.start_commander()
        furnish(farm, hall, board=False)
        yield farm


def steal(hall: Hall) -> None:
    """As malware does it: another pool before ours, on every miner."""

    async def change() -> None:
        for miner in hall.miners:
            pools = [{"url": THIEF, "user": "thief.x", "pass": "x"}, *miner.conf["pools"]]
            miner.conf = miner.conf | {"pools": pools[:3]}

    hall.do(change())


def orders(farm: Farm) -> list[dict[str, Any]]:
    """What the commander ordered by itself, when all of it is over."""
    rows = farm.get("/actions")["actions"]
    rows = [row for row in rows if row["asked_by"] == "commander/restore_pools"]
    assert all(row["final"] for row in rows)
    return rows


def events(farm: Farm, kind: str) -> list[dict[str, Any]]:
    return list(farm.get("/events", kind=kind)["events"])


def test_pools_are_put_right_twice(farm: Farm, hall: Hall) -> None:
    """The commander is killed between the two: it forgets neither the event nor what it has done."""
    what = ["--coin", "BTC", "--algorithm", "sha256", "--wallet", "farm", "--verify-within-s", "60"]
    farm.ask("commander", "sheets", "create", "ours", "--pool", OURS, *what)
    assert all(row["state"] == "succeeded" for row in farm.all_ordered("sheets", "apply", "ours", *NAMES))
    assert events(farm, "pools_changed") == []

    for round_ in (1, 2):
        steal(hall)
        until("it is put right", lambda count=3 * round_: len(orders(farm)) == count, limit_s=90)
        assert [hall.conf_pools(number) for number in (1, 2, 3)] == [[OURS]] * 3
        assert {row["state"] for row in orders(farm)} == {"succeeded"}
        until("nothing differs", lambda: farm.get("/drift")["devices"] == [])
        (event,) = events(farm, "pools_changed")
        assert event["severity"] == "critical"
        assert [one["name"] for one in event["devices"]] == NAMES
        assert "thief.invalid:3333 as thief" in event["text"]
        farm.kill("commander")
        farm.start_commander()
        for name in NAMES:
            farm.until_device(name, "mining", "starting")

    writes = [len(miner.writes) for miner in hall.miners]
    steal(hall)
    left = until("it is reported", lambda: (rows := events(farm, "pools_left_alone")) and len(rows[0]["devices"]) == 3 and rows)
    assert [(row["severity"], len(row["devices"])) for row in left] == [("critical", 3)]
    assert len(events(farm, "pools_changed")) == 1
    assert len(orders(farm)) == 6
    assert [len(miner.writes) for miner in hall.miners] == writes
    assert [hall.conf_pools(number)[0] for number in (1, 2, 3)] == [THIEF] * 3
    assert "miner-1, miner-2, miner-3" in farm.ask("commander", "events")
    (mine, *_) = farm.get("/events", device="miner-2", kind="pools_left_alone")["events"]
    assert mine["id"] == left[0]["id"]
