"""Orders, flight sheets and power connected as the commander connects them, over HTTP with the gate in front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import commander.actions.api
import commander.flight_sheets.api
import commander.power.api
from commander.access import policy
from commander.actions import store as actions_store
from commander.actions.service import Actions
from commander.actions.service import Ports as ActionPorts
from commander.actions.store import Wanted
from commander.api.app import application, route_templates
from commander.api.gate import Gate
from commander.db import Database, Migration
from commander.fleet import audit, marks
from commander.flight_sheets import store as sheets_store
from commander.flight_sheets.service import FlightSheets
from commander.flight_sheets.service import Ports as SheetPorts
from commander.model import BoardRow, Caller, DeviceRow, OutletRow, Sentry
from commander.power import store as power_store
from commander.power.rules import Limits
from commander.power.service import Ports as PowerPorts
from commander.power.service import Power
from garrison.clock import ManualClock
from garrison.faults import NotFound
from garrison.model import Order, Report
from garrison.words import ActionKind, ActionState, DeviceState, SentryState

BOOT = bytes(16)
K = ActionKind
ASIC = (K.REBOOT, K.PAUSE, K.LOCATE, K.APPLY_FLIGHT_SHEET)
MIGRATIONS = [
    Migration(1, "audit", audit.create_table),
    Migration(2, "marks", marks.create_table),
    Migration(3, "actions", actions_store.create_tables),
    Migration(4, "sheets", sheets_store.create_tables),
    Migration(5, "power", power_store.create_tables),
]
BTC = {
    "name": "btc",
    "coin": "BTC",
    "algorithm": "sha256",
    "pools": [{"url": "stratum+tcp://pool.example:3333", "password": "hunter2"}],
    "wallet": "bc1q",
}


@dataclass
class Farm:
    """The fleet and the link, as small as they can be."""

    devices: dict[int, DeviceRow] = field(default_factory=dict)
    sent: list[Order] = field(default_factory=list)
    silent: bool = False

    async def device(self, ref: str | int) -> DeviceRow:
        for row in self.devices.values():
            if str(ref) in (str(row.id), row.name):
                return row
        raise NotFound(f"there is no device {ref}")

    async def all(self) -> list[DeviceRow]:
        return list(self.devices.values())

    async def outlets(self, device_id: int) -> list[OutletRow]:
        return [OutletRow("b1", "1", 1)] if device_id == 1 else []

    async def boards(self) -> list[BoardRow]:
        return [BoardRow("b1", "board", "s1", "fake", "127.0.0.1", 4)]

    async def sentries(self) -> list[Sentry]:
        return [Sentry("s1", "asic", "hall", SentryState.SILENT if self.silent else SentryState.CONNECTED, "f")]

    async def want(self, device_id: int, sheet_id: str) -> None:
        self.devices[device_id] = replace(self.devices[device_id], wanted_sheet_id=sheet_id)

    def send(self, sentry_id: str, order: Order) -> bool:
        self.sent.append(order)
        return True


Http = Callable[..., Awaitable[Any]]


@dataclass
class World:
    farm: Farm
    actions: Actions
    app: Any
    sheets: FlightSheets
    seq: int = 0

    @asynccontextmanager
    async def client(self, role: str = "operator") -> AsyncIterator[httpx.AsyncClient]:
        gate = Gate(self.app, lambda token: Caller("ada", role) if token == "t" else None, local=False)
        headers = {"Authorization": "Bearer t"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://farm", headers=headers) as client:
            yield client

    async def ask(
        self, method: str, path: str, body: Any = None, *, role: str = "operator", status: int = 200, **query: Any
    ) -> Any:
        async with self.client(role) as client:
            answer = await client.request(method, f"/api/v1{path}", json=body, params=query or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def report(self, action_id: str, state: ActionState) -> None:
        self.seq += 1
        await self.actions.take_report("s1", BOOT, self.seq, Report(action_id, state, 1, "", state.word))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    farm, clock = Farm(), ManualClock()
    for n in (1, 2, 3):
        farm.devices[n] = DeviceRow(
            n, f"mac:{n}", n, "s1", "asic", f"asic-{n}", DeviceState.MINING, capabilities=ASIC, seen_ms=1, simulated=n == 3
        )
    db = await Database.open(tmp_path / "fleet.db", MIGRATIONS)
    power = Power(db, PowerPorts(farm.all, farm.outlets, farm.boards, farm.sentries), clock, Limits())

    async def switching() -> frozenset[int]:
        return await actions.busy(ActionKind.APPLY_FLIGHT_SHEET)

    sheets = FlightSheets(db, SheetPorts(farm.device, farm.all, farm.want, switching), clock)
    ports = ActionPorts(farm.device, farm.send, lambda *_: True, lambda _: not farm.silent, sheets.render, power.arguments)
    actions = Actions(db, ports, clock)
    actions.within += [sheets.within, power.within]
    actions.changed.append(sheets.changed)
    give = commander.actions.api.giving(actions)
    app = application(
        [
            commander.actions.api.router(actions),
            commander.flight_sheets.api.router(sheets, farm.device, give),
            commander.power.api.router(power, farm.device, give),
        ],
        "0",
    )
    yield World(farm, actions, app, sheets)
    actions.close()
    await db.close()


def test_every_route_has_a_policy(world: World) -> None:
    """No route of these subjects is without its row, and no row without its route."""
    routes = {pair for pair in route_templates(world.app.routes) if pair[1].startswith("/api/v1")}
    ours = ("/api/v1/actions", "/api/v1/sheets", "/api/v1/drift", "/api/v1/programs", "/api/v1/power")
    assert routes == {pair for pair in policy.HTTP if pair[1].startswith(ours)}


async def test_orders_over_http(world: World) -> None:
    """Given, listed, shown with reports, waited for; the shape that the command line reads."""
    answer = await world.ask("POST", "/actions", {"kind": "locate", "devices": ["asic-1", "3", "nope"], "arguments": {"on": False}})
    assert [(row["device"], row["state"], row["final"], row["simulated"]) for row in answer["actions"]] == [
        ("asic-1", "sent", False, False),
        ("asic-3", "sent", False, True),
    ]
    assert [(one["device"], one["code"]) for one in answer["refused"]] == [("nope", "not_found")]
    first = answer["actions"][0]["id"]
    assert (await world.ask("GET", f"/actions/{first}/wait", timeout_s=0))["state"] == "sent"
    await world.report(first, ActionState.SUCCEEDED)
    assert (await world.ask("GET", f"/actions/{first}/wait", timeout_s=30))["state"] == "succeeded"
    shown = await world.ask("GET", f"/actions/{first}", role="viewer")
    assert [one["state"] for one in shown["reports"]] == ["succeeded"]
    listed = await world.ask("GET", "/actions", role="viewer", state="open", device="3")
    assert [row["device"] for row in listed["actions"]] == ["asic-3"]
    assert (await world.ask("GET", "/actions", state="succeeded", limit=1))["actions"][0]["id"] == first
    cancelled = await world.ask("POST", f"/actions/{answer['actions'][1]['id']}/cancel")
    assert cancelled["cancel_asked"] is True
    await world.ask("POST", f"/actions/{first}/cancel", status=409)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/actions", {"kind": "format_disk", "devices": ["1"]}, 400),
        ("POST", "/actions", {"kind": "reboot", "devices": []}, 400),
        ("POST", "/actions", {"kind": "reboot", "devices": ["1"], "shell": "rm"}, 400),
        ("POST", "/actions", {"kind": "reboot", "devices": ["1"], "deadline_s": 1}, 400),
        ("POST", "/actions", {"kind": "reboot", "devices": ["1"], "arguments": {"x": 1}}, 400),
        ("GET", "/actions?state=lost", None, 400),
        ("GET", "/actions/nope", None, 404),
        ("GET", "/actions/nope/wait?timeout_s=1", None, 404),
        ("GET", "/actions?device=nope", None, 404),
        ("POST", "/actions/nope/cancel", None, 404),
        ("POST", "/power/explode", {"device": "1"}, 400),
        ("POST", "/power/off", {"device": "1", "off_s": 30}, 400),
        ("GET", "/power/check?device=nope", None, 404),
        ("POST", "/sheets", {**BTC, "worker": "{rig}"}, 400),
        ("POST", "/sheets", {**BTC, "extra": 1}, 400),
        ("GET", "/sheets/nope", None, 404),
        ("POST", "/sheets/nope/apply", {"devices": ["1"]}, 404),
        ("DELETE", "/sheets/nope", None, 404),
    ],
)
async def test_bad_requests(world: World, method: str, path: str, body: Any, status: int) -> None:
    """Each gets its status and words; nothing is ordered."""
    answer = await world.ask(method, path, body, status=status)
    assert answer["text"]
    assert world.farm.sent == []


async def test_who_may(world: World) -> None:
    """A viewer orders nothing; an operator pins no program."""
    for method, path, body in (
        ("POST", "/actions", {"kind": "reboot", "devices": ["1"]}),
        ("POST", "/power/cycle", {"device": "1"}),
        ("POST", "/sheets", BTC),
    ):
        await world.ask(method, path, body, role="viewer", status=403)
    program = {"name": "xmrig", "version": "6.26.0", "location": "/opt/x", "sha256": "ab" * 32}
    await world.ask("POST", "/programs", program, status=403)
    await world.ask("POST", "/programs", program, role="administrator")
    assert [row["version"] for row in (await world.ask("GET", "/programs", role="viewer"))["programs"]] == ["6.26.0"]
    await world.ask("DELETE", "/programs/xmrig/6.26.0", role="administrator")
    assert world.farm.sent == []


async def test_a_sheet_from_making_to_drift(world: World) -> None:
    """Made, shown rendered, applied, wanted at once, drifting until the device says it runs it; not removed meanwhile."""
    made = await world.ask("POST", "/sheets", BTC)
    shown = await world.ask("GET", "/sheets/btc", role="viewer", device="asic-1")
    assert shown["worker"] == "{device}"
    assert shown["rendered"]["pools"][0]["user"] == "bc1q.asic-1"
    assert "hunter2" not in str(shown)
    answer = await world.ask("POST", "/sheets/BTC/apply", {"devices": ["asic-1", "asic-2"]})
    assert "hunter2" not in str(answer)
    assert [order.sheet and order.sheet.pools[0].password for order in world.farm.sent] == ["hunter2"] * 2
    drift = await world.ask("GET", "/drift", role="viewer")
    assert {(one["device"], one["drift"]) for one in drift["devices"]} == {("asic-1", "switching"), ("asic-2", "switching")}
    for row in answer["actions"]:
        await world.report(row["id"], ActionState.SUCCEEDED)
    world.farm.devices[1] = replace(world.farm.devices[1], sheet_id=made["running_id"])
    world.farm.devices[2] = replace(world.farm.devices[2], sheet_id="99.1")
    drift = await world.ask("GET", "/drift")
    assert [(one["device"], one["drift"], one["running"]) for one in drift["devices"]] == [("asic-2", "sheet", "99.1")]
    assert len((await world.ask("GET", "/drift", all=True))["devices"]) == 2
    await world.ask("DELETE", "/sheets/btc", status=409)
    changed = await world.ask("PUT", "/sheets/btc", {**BTC, "wallet": "bc1p", "pools": [{"url": BTC["pools"][0]["url"]}]})  # type: ignore[index]
    assert (changed["revision"], changed["wallet"]) == (2, "bc1p")
    assert "hunter2" not in str(changed)
    listed = (await world.ask("GET", "/sheets"))["sheets"]
    assert [(row["name"], row["program"]) for row in listed] == [("btc", None)]


async def test_a_power_cycle_over_http(world: World) -> None:
    """Checked, ordered, refused the second time with the rule's name; a device without an outlet is refused too."""
    check = await world.ask("GET", "/power/check", role="viewer", device="asic-1", kind="cycle")
    assert (check["allowed"], check["refusals"]) == (True, [])
    answer = await world.ask("POST", "/power/cycle", {"device": "asic-1", "off_s": 15})
    assert [order.off_s for order in world.farm.sent] == [15]
    again = await world.ask("POST", "/power/cycle", {"device": "asic-1", "off_s": 15, "force": True})
    assert "rule min_interval" in again["refused"][0]["text"]
    await world.report(answer["actions"][0]["id"], ActionState.SUCCEEDED)
    check = await world.ask("GET", "/power/check", device="asic-1")
    assert [one["rule"] for one in check["refusals"]] == ["min_interval"]
    stray = await world.ask("POST", "/power/on", {"device": "asic-2"})
    assert [(one["code"], one["device"]) for one in stray["refused"]] == [("rule_refused", "asic-2")]
    assert len(world.farm.sent) == 1


async def test_no_power_order_waits_for_a_sentry(world: World) -> None:
    """With the board's sentry away a power order is refused, not queued."""
    world.farm.silent = True
    answer = await world.ask("POST", "/power/cycle", {"device": "asic-1"})
    assert "sentry_silent" in answer["refused"][0]["text"]
    assert await world.actions.find(Wanted()) == []
