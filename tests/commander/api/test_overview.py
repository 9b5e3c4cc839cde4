"""The farm in one answer: what is not known is null, what is old says nothing about now, unlike things are not added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from commander.api.app import application
from commander.api.overview import BLIND, Sources, router
from commander.model import DeviceRow, Sentry
from garrison.clock import ManualClock
from garrison.faults import NotFound
from garrison.frame import Number, Series
from garrison.model import Condition, Pool
from garrison.words import DeviceState, SentryState

NOW_MS = 1_800_000_000_000
FRESH_MS = 60_000
ISSUE_KEYS = (
    "id",
    "name",
    "kind",
    "make",
    "model",
    "state",
    "simulated",
    "address",
    "sentry",
    "hashrate_hs",
    "power_w",
    "temp_c",
    "uptime_s",
    "age_s",
)
VALUES: dict[Series, Number] = {("hashrate_hs", ""): 1e14, ("power_w", ""): 3000, ("temp_c", ""): 60.5, ("uptime_s", ""): 7}
MEASURED = ("hashrate_hs", "expected_hashrate_hs", "power_w", "temp_c", "uptime_s")


@dataclass
class Look:
    at_ms: int = NOW_MS - 5_000
    values: Mapping[Series, Number] = field(default_factory=lambda: VALUES)


@dataclass
class Farm:
    """What the listings are made of, as plain data."""

    devices: list[DeviceRow] = field(default_factory=list)
    looks: dict[int, Look] = field(default_factory=dict)

    async def rows(self) -> Sequence[DeviceRow]:
        return self.devices

    async def one(self, ref: str) -> DeviceRow:
        for row in self.devices:
            if row.name == ref:
                return row
        raise NotFound(f"no device {ref!r}")

    async def sentries(self) -> Sequence[Sentry]:
        return [Sentry("s-1", "asic", "hall", SentryState.CONNECTED, "ab"), Sentry("s-2", "rig", "rig", SentryState.SILENT, "cd")]

    def latest(self, keys: Sequence[int]) -> Mapping[int, Look]:
        return {key: self.looks[key] for key in keys if key in self.looks}

    async def get(self, path: str) -> Any:
        sources = Sources(
            self.rows, self.one, self.sentries, self.latest, ManualClock(NOW_MS), "farm", "1", NOW_MS - 90_000, FRESH_MS
        )
        transport = httpx.ASGITransport(application([router(sources)], "1"))
        async with httpx.AsyncClient(transport=transport, base_url="http://commander") as http:
            reply = await http.get(f"/api/v1{path}")
        assert reply.status_code == 200, reply.text
        return reply.json()


def device(number: int, state: DeviceState = DeviceState.MINING, **more: Any) -> DeviceRow:
    told: dict[str, Any] = {"sentry_id": "s-1", "kind": "asic", "identity": f"mac:{number}", "key": number} | more
    return DeviceRow(id=number, name=f"d{number}", state=state, **told)


async def test_a_device_of_which_nothing_is_known() -> None:
    """Every key of the issue is there; what is not known is null: not 0, not an empty word."""
    (row,) = (await Farm([device(1, DeviceState.UNKNOWN, identity=None, key=None)]).get("/devices"))["devices"]
    assert set(ISSUE_KEYS) <= set(row)
    known = {"id": 1, "name": "d1", "kind": "asic", "state": "unknown", "simulated": False, "sentry": "hall"}
    assert {key: row[key] for key in ISSUE_KEYS} == dict.fromkeys(ISSUE_KEYS) | known


async def test_a_device_with_values() -> None:
    """As its newest look read them, and how old that is. An integer stays one."""
    row = device(1, make="Antminer", model="S21", address="10.0.0.5", simulated=True, facts={"algorithm": "sha256"})
    (told,) = (await Farm([row], {1: Look()}).get("/devices"))["devices"]
    assert (told["make"], told["model"], told["address"], told["simulated"]) == ("Antminer", "S21", "10.0.0.5", True)
    assert (told["hashrate_hs"], told["power_w"], told["temp_c"], told["uptime_s"]) == (1e14, 3000, 60.5, 7)
    assert (told["age_s"], told["algorithm"], told["expected_hashrate_hs"]) == (5, "sha256", None)


@pytest.mark.parametrize("state", DeviceState)
async def test_states_in_which_old_values_say_nothing(state: DeviceState) -> None:
    """A device that does not answer shows no values of before, only how old the newest look is."""
    (row,) = (await Farm([device(1, state)], {1: Look()}).get("/devices"))["devices"]
    assert [row[name] is None for name in MEASURED] == ([True] * 5 if state in BLIND else [False, True, False, False, False])
    assert row["age_s"] == 5


async def test_the_blind_states() -> None:
    """Written out, so that a new state is decided."""
    assert {state.value for state in BLIND} == {"unknown", "unreachable", "off", "refused", "slow"}


@pytest.mark.parametrize(("age_ms", "known"), [(0, True), (FRESH_MS, True), (FRESH_MS + 1, False), (-5_000, True)])
async def test_stale_values(age_ms: int, known: bool) -> None:
    """Older than `fresh_ms` they are null; a clock that runs ahead makes no negative age."""
    (row,) = (await Farm([device(1)], {1: Look(NOW_MS - age_ms)}).get("/devices"))["devices"]
    assert (row["hashrate_hs"] is not None) is known
    assert row["age_s"] == max(0, age_ms) // 1000


async def test_filters() -> None:
    """By state, kind and tag; relay boards only when asked for."""
    farm = Farm([device(1), device(2, DeviceState.IDLE, tags=("a",)), device(3, kind="rig"), device(4, kind="relay")])
    for query, expected in {
        "": [1, 2, 3],
        "?state=idle": [2],
        "?kind=rig": [3],
        "?kind=relay": [4],
        "?tag=a": [2],
        "?tag=a&state=mining": [],
    }.items():
        assert [row["id"] for row in (await farm.get(f"/devices{query}"))["devices"]] == expected


async def test_hashrates_of_different_algorithms() -> None:
    """One sum an algorithm, never one over all; of several whose algorithm nobody said there is none."""
    sha, rx = {"algorithm": "sha256"}, {"algorithm": "rx/0"}
    farm = Farm([device(1, facts=sha), device(2, facts=sha), device(3, facts=rx), device(4), device(5, facts=rx)])
    farm.looks = {1: Look(), 2: Look(), 3: Look(values={("hashrate_hs", ""): 9_000.0}), 4: Look(values={("hashrate_hs", ""): 5.0})}
    assert (await farm.get("/status"))["hashrate"] == [
        {"algorithm": None, "hashrate_hs": 5.0, "devices": 1},
        {"algorithm": "rx/0", "hashrate_hs": 9_000.0, "devices": 1},
        {"algorithm": "sha256", "hashrate_hs": 2e14, "devices": 2},
    ]
    farm.devices.append(device(6))
    farm.looks[6] = Look()
    assert (await farm.get("/status"))["hashrate"][0] == {"algorithm": None, "hashrate_hs": None, "devices": 2}


async def test_status() -> None:
    """Counts by state, power of whom it is known, the hottest; relay boards are no miners."""
    farm = Farm([device(1), device(2, simulated=True), device(3, DeviceState.UNREACHABLE), device(4, kind="relay")])
    farm.looks = {1: Look(), 2: Look(values={("temp_c", ""): 71.0}), 3: Look(), 4: Look()}
    told = await farm.get("/status")
    assert (told["farm"], told["version"], told["uptime_s"]) == ("farm", "1", 90)
    assert told["sentries"] == {"connected": 1, "silent": 1}
    assert told["devices"] == {"mining": 2, "unreachable": 1}
    assert (told["devices_total"], told["simulated"]) == (3, 1)
    assert (told["power_w"], told["power_known"], told["hottest_c"]) == (3000, 1, 71.0)


async def test_status_of_an_empty_farm() -> None:
    """Nothing is known, and nothing is 0 W."""
    told = await Farm().get("/status")
    assert (told["devices_total"], told["devices"], told["hashrate"]) == (0, {}, [])
    assert (told["power_w"], told["power_known"], told["hottest_c"]) == (None, 0, None)


async def test_one_device() -> None:
    """All that is known: pools without passwords in URLs, its own faults, what it should have told, values with units."""
    row = replace(
        device(1),
        pools=(Pool("stratum+tcp://w:hunter2@a:1", "w.x", "alive", 5, None, None, 0, True),),
        conditions=(Condition("P:1", "fan", "warning"),),
        missing=("power_w",),
        fault="timed_out",
        fault_text="no answer",
        wanted_sheet_id="7.1",
    )
    told = await Farm([row], {1: Look()}).get("/devices/d1")
    assert set(ISSUE_KEYS) <= set(told)
    (pool,) = told["pools"]
    assert pool == {
        "url": "stratum+tcp://w:•••@a:1",
        "user": "w.x",
        "state": "alive",
        "active": True,
        "priority": 0,
        "accepted": 5,
        "rejected": None,
        "stale": None,
    }
    assert told["conditions"] == [{"code": "P:1", "text": "fan", "severity": "warning"}]
    assert (told["missing"], told["fault"], told["fault_text"]) == (["power_w"], "timed_out", "no answer")
    assert (told["sheet_id"], told["wanted_sheet_id"]) == (None, "7.1")
    assert {"metric": "power_w", "component": "", "value": 3000, "unit": "W"} in told["latest"]


async def test_the_latest_values_of_a_blind_device_have_their_time() -> None:
    """What was read last is shown beside when it was read; above it, where now is shown, stands null."""
    told = await Farm([device(1, DeviceState.UNREACHABLE)], {1: Look()}).get("/devices/d1")
    assert told["power_w"] is None
    assert told["latest_ms"] == NOW_MS - 5_000
    assert [one["value"] for one in told["latest"] if one["metric"] == "power_w"] == [3000]
