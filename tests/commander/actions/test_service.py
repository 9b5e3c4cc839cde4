"""Tests of commander.actions: orders over a real database, with a sentry that is there, gone, late or lying."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commander.actions import api, rules, store
from commander.actions.service import Actions, Ordered, Ports
from commander.actions.store import Wanted
from commander.db import Database, Migration
from commander.fleet import audit, marks
from commander.model import ActionRow, Caller, DeviceRow
from garrison.clock import ManualClock
from garrison.faults import BadInput, Conflict, NotFound, RuleRefused, Unavailable
from garrison.model import Order, PoolOrder, Report, Sheet
from garrison.words import ActionKind, ActionState, DeviceState

S = ActionState
K = ActionKind
ME = Caller("ada", "operator", "127.0.0.1")
BOOT = bytes(16)
SHEET = Sheet("3.1", "btc", "BTC", "sha256", (PoolOrder("stratum+tcp://pool:3333", "w.rig", "hunter2"),), "w", "rig")


def _marks_and_audit(c: sqlite3.Connection) -> None:
    marks.create_table(c)
    audit.create_table(c)


MIGRATIONS = [Migration(1, "records", _marks_and_audit), Migration(2, "actions", store.create_tables)]


@dataclass
class Farm:
    """The other parts, as small as they can be."""

    devices: dict[str, DeviceRow] = field(default_factory=dict)
    connected: set[str] = field(default_factory=set)
    sent: list[tuple[str, Order]] = field(default_factory=list)
    cancelled: list[tuple[str, str]] = field(default_factory=list)
    deaf: bool = False  # looks connected, takes nothing

    def add(self, number: int, sentry_id: str = "s1", *capabilities: ActionKind) -> DeviceRow:
        takes = capabilities or (K.REBOOT, K.PAUSE, K.LOCATE, K.APPLY_FLIGHT_SHEET)
        name = f"rig-{number}"
        row = DeviceRow(number, f"machine:{number}", number, sentry_id, "rig", name, DeviceState.MINING, capabilities=takes)
        self.devices[str(number)] = self.devices[name] = row
        return row

    async def device(self, ref: str) -> DeviceRow:
        if ref not in self.devices:
            raise NotFound(f"there is no device {ref}")
        return self.devices[ref]

    def send(self, sentry_id: str, order: Order) -> bool:
        if self.deaf or sentry_id not in self.connected:
            return False
        self.sent.append((sentry_id, order))
        return True

    def cancel_at(self, sentry_id: str, action_id: str) -> bool:
        self.cancelled.append((sentry_id, action_id))
        return True

    async def render(self, sheet: str, device: DeviceRow) -> Sheet:
        if sheet != "btc":
            raise NotFound(f"there is no flight sheet {sheet}")
        return SHEET

    async def power_check(
        self, caller: Caller, kind: ActionKind, device: DeviceRow, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        if device.id == 9:
            raise RuleRefused("no outlet is mapped to rig-9")
        return {**arguments, "off_s": arguments.get("off_s") or 30, "sentry_id": "relays", "board": "b", "outlet": "1"}


@dataclass
class World:
    path: Path
    farm: Farm
    clock: ManualClock
    db: Database
    actions: Actions
    seq: int = 0

    async def order(self, kind: ActionKind, *devices: str, **arguments: Any) -> Ordered:
        return await self.actions.create(ME, kind, devices, arguments)

    async def one(self, kind: ActionKind, device: str = "rig-1", **arguments: Any) -> ActionRow:
        ordered = await self.order(kind, device, **arguments)
        assert not ordered.refused
        return ordered.actions[0]

    async def report(
        self, row: ActionRow, state: S, text: str = "", *, seq: int | None = None, sentry: str = "", **detail: str
    ) -> None:
        self.seq += 1
        told = Report(row.id, state, self.clock.now_ms(), "", text, detail)
        await self.actions.take_report(sentry or row.sentry_id, BOOT, seq or self.seq, told)

    async def state(self, row: ActionRow) -> S:
        return (await self.actions.get(row.id)).state

    async def restart(self) -> None:
        await self.db.close()
        self.db = await Database.open(self.path, MIGRATIONS)
        self.actions = make(self.db, self.farm, self.clock)


def make(db: Database, farm: Farm, clock: ManualClock) -> Actions:
    ports = Ports(
        device=farm.device,
        send=farm.send,
        cancel_at=farm.cancel_at,
        connected=lambda sentry_id: sentry_id in farm.connected,
        render=farm.render,
        power_check=farm.power_check,
    )
    return Actions(db, ports, clock, epoch=4)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    farm, clock = Farm(), ManualClock()
    for number in (1, 2, 3, 9):
        farm.add(number)
    farm.connected = {"s1", "relays"}
    db = await Database.open(tmp_path / "fleet.db", MIGRATIONS)
    made = World(tmp_path / "fleet.db", farm, clock, db, make(db, farm, clock))
    yield made
    made.actions.close()
    await made.db.close()


async def audited(world: World) -> list[audit.AuditRow]:
    return await world.db.read(lambda c: audit.rows(c))


# ---- giving orders -------------------------------------------------------------------------------------------


async def test_an_order_is_sent_and_followed(world: World) -> None:
    """Queued, sent, and what the sentry reports, to its end; each step durable and told to the hooks of its transaction."""
    seen: list[S] = []
    world.actions.within.append(lambda c, row: seen.append(row.state))
    row = await world.one(K.LOCATE, on=False)
    assert row.state is S.SENT
    ((sentry, order),) = world.farm.sent
    assert (sentry, order.id, order.device, order.epoch) == ("s1", row.id, "machine:1", 4)
    assert (order.locate_on, order.not_after_ms) == (False, 120_000)
    for state in (S.ACCEPTED, S.STARTED, S.VERIFYING):
        await world.report(row, state)
    await world.report(row, S.SUCCEEDED, "the light blinks", light="on")
    ended = await world.actions.get(row.id)
    assert (ended.state, ended.by_sentry, ended.text, ended.result) == (S.SUCCEEDED, True, "the light blinks", {"light": "on"})
    assert seen == [S.QUEUED, S.SENT, S.ACCEPTED, S.STARTED, S.VERIFYING, S.SUCCEEDED]
    assert [one.report.state for one in await world.actions.reports(row.id)] == [S.ACCEPTED, S.STARTED, S.VERIFYING, S.SUCCEEDED]


async def test_many_devices_in_one_request(world: World) -> None:
    """Each device gets its own order; those that cannot are named with their reason, and the others go on."""
    world.farm.add(4, "s1", K.LOCATE)
    ordered = await world.order(K.PAUSE, "rig-1", "2", "rig-4", "nowhere", "1")
    assert [row.device for row in ordered.actions] == ["rig-1", "rig-2"]
    assert len({row.batch for row in ordered.actions}) == 1
    assert [(one.device, one.code) for one in ordered.refused] == [("rig-4", "not_supported"), ("nowhere", "not_found")]
    assert [order.device for _, order in world.farm.sent] == ["machine:1", "machine:2"]


async def test_a_request_that_makes_no_sense_orders_nothing(world: World) -> None:
    """Wrong arguments or no devices refuse the whole request."""
    with pytest.raises(BadInput):
        await world.order(K.PAUSE, "rig-1", "rig-2", hard=True)
    with pytest.raises(BadInput):
        await world.order(K.PAUSE)
    assert await world.actions.find(Wanted()) == []


async def test_one_open_order_a_device(world: World) -> None:
    """The same order twice is one order; another one waits its turn, until the first has ended."""
    first = await world.one(K.PAUSE)
    again = await world.one(K.PAUSE)
    assert again.id == first.id
    assert len(world.farm.sent) == 1
    ordered = await world.order(K.REBOOT, "rig-1", "rig-2")
    assert [(one.device, one.code) for one in ordered.refused] == [("rig-1", "conflict")]
    assert first.id in ordered.refused[0].hint
    assert len(ordered.actions) == 1
    await world.report(first, S.SUCCEEDED)
    assert (await world.one(K.REBOOT)).state is S.SENT


async def test_two_at_the_same_moment_are_one(world: World) -> None:
    """Callers that ask together never get two open orders for one device."""
    both = await asyncio.gather(*(world.order(kind, "rig-1") for kind in (K.PAUSE, K.REBOOT, K.PAUSE, K.REBOOT)))
    ids = {row.id for ordered in both for row in ordered.actions}
    assert len(ids) == 1
    assert len(world.farm.sent) == 1


async def test_a_sheet_is_rendered_once(world: World) -> None:
    """What is stored is the rendered sheet, and exactly that is sent, also after a restart; its password is not shown."""
    world.farm.connected.clear()
    row = await world.one(K.APPLY_FLIGHT_SHEET, sheet="btc")
    assert row.state is S.QUEUED
    await world.restart()
    (order,) = await world.actions.open_orders("s1")
    assert order.sheet == SHEET
    assert "hunter2" not in str(api.shown(row))
    assert "hunter2" not in str([one.detail for one in await audited(world)])
    missing = await world.order(K.APPLY_FLIGHT_SHEET, "rig-2", sheet="nope")
    assert [one.code for one in missing.refused] == ["not_found"]


async def test_power_goes_to_the_board_and_its_rules_refuse(world: World) -> None:
    """The order goes to the sentry of the relay board; a rule that refuses is told, nothing is sent."""
    row = await world.one(K.POWER_CYCLE)
    assert row.sentry_id == "relays"
    ((sentry, order),) = world.farm.sent
    assert (sentry, order.device, order.off_s) == ("relays", "machine:1", 30)
    ordered = await world.order(K.POWER_CYCLE, "rig-9")
    assert [(one.code, one.text) for one in ordered.refused] == [("rule_refused", "no outlet is mapped to rig-9")]
    assert len(world.farm.sent) == 1


async def test_every_order_is_audited(world: World) -> None:
    """Who ordered what of which device, what was refused, and who called it back."""
    world.farm.connected.clear()
    row = await world.one(K.PAUSE)
    await world.order(K.POWER_CYCLE, "rig-9")
    await world.actions.cancel(Caller("bob", "operator"), row.id)
    assert [(one.who, one.what, one.object) for one in await audited(world)] == [
        ("bob", "order.cancel", "device 1"),
        ("ada", "order.power_cycle.refused", "device rig-9"),
        ("ada", "order.pause", "device 1"),
    ]


# ---- sentries that are not there -----------------------------------------------------------------------------


async def test_queued_orders_survive_a_restart_and_are_sent(world: World) -> None:
    """With the sentry away orders wait, through a commander restart too, and go out as stored with what is left of their time."""
    world.farm.connected.clear()
    first, second = await world.one(K.PAUSE), await world.one(K.LOCATE, "rig-2")
    assert (first.state, second.state) == (S.QUEUED, S.QUEUED)
    await world.restart()
    world.clock.advance(60)
    orders = await world.actions.open_orders("s1")
    assert [(one.id, one.not_after_ms) for one in orders] == [(first.id, 540_000), (second.id, 60_000)]
    assert await world.state(first) is S.SENT
    assert await world.actions.open_orders("another") == []


async def test_sent_is_durable_before_it_leaves(world: World) -> None:
    """When the stream gets an order, the database already says `sent`."""
    states: list[S] = []
    reading = sqlite3.connect(world.path)

    def send(sentry_id: str, order: Order) -> bool:
        states.append(S(reading.execute("select state from actions where id = ?", (order.id,)).fetchone()[0]))
        return True

    world.farm.send = send  # type: ignore[method-assign]  # a sentry that looks into the database
    world.actions = make(world.db, world.farm, world.clock)
    await world.one(K.PAUSE)
    reading.close()
    assert states == [S.SENT]


async def test_a_stream_that_takes_nothing_leaves_it_queued(world: World) -> None:
    """`send` says no: the order is queued again, and goes out at a later try, once."""
    world.farm.deaf = True
    row = await world.one(K.PAUSE)
    assert row.state is S.QUEUED
    world.farm.deaf = False
    await world.actions.tick()
    assert await world.state(row) is S.SENT
    await world.actions.tick()
    assert len(world.farm.sent) == 1


async def test_sent_and_not_heard_of_goes_again_under_its_id(world: World) -> None:
    """After a reconnect a sent order is sent again, the same; one that was accepted is not, nor one past its deadline."""
    row, other = await world.one(K.PAUSE), await world.one(K.PAUSE, "rig-2")
    await world.report(other, S.ACCEPTED)
    assert [one.id for one in await world.actions.open_orders("s1")] == [row.id]
    world.clock.advance(601)
    assert await world.actions.open_orders("s1") == []


async def test_an_order_that_got_lost_goes_again(world: World) -> None:
    """A sentry that was too busy to take it, in a session that goes on: the same id again, until it answers or time is up."""
    row = await world.one(K.REBOOT)
    await world.actions.tick()
    assert len(world.farm.sent) == 1
    for _ in range(2):
        world.clock.advance(30)
        await world.actions.tick()
    assert [order.id for _, order in world.farm.sent] == [row.id] * 3
    assert world.farm.sent[-1][1].not_after_ms == 240_000
    await world.report(row, S.ACCEPTED)
    world.clock.advance(60)
    await world.actions.tick()
    other = await world.one(K.REBOOT, "rig-2")
    world.clock.advance(301)
    await world.actions.tick()
    assert [order.id for _, order in world.farm.sent] == [row.id] * 3 + [other.id]


async def test_queued_expires_sent_becomes_unknown(world: World) -> None:
    """Only what was surely not sent expires here; a sent order without a word is unknown; neither is given again."""
    gone = world.farm.add(5, "s2")
    sent, queued = await world.one(K.REBOOT), await world.one(K.REBOOT, gone.name)
    world.clock.advance(301)
    await world.actions.tick()
    assert [await world.state(row) for row in (sent, queued)] == [S.SENT, S.EXPIRED]
    world.clock.advance(rules.GRACE_S)
    await world.actions.tick()
    row = await world.actions.get(sent.id)
    assert (row.state, row.by_sentry) == (S.UNKNOWN, False)
    assert "may have been carried out" in row.text
    world.farm.connected.add("s2")
    assert await world.actions.open_orders("s1") == await world.actions.open_orders("s2") == []
    assert len(world.farm.sent) == 1


async def test_late_truth_replaces_what_was_assumed(world: World) -> None:
    """Unknown to us, then the sentry comes back with the result: that is what counts, and it stays."""
    row = await world.one(K.REBOOT)
    world.clock.advance(400)
    await world.actions.tick()
    assert await world.state(row) is S.UNKNOWN
    for state in (S.ACCEPTED, S.STARTED, S.SUCCEEDED, S.FAILED):
        await world.report(row, state)
    assert await world.state(row) is S.SUCCEEDED


async def test_after_our_own_start_nobody_is_given_up_at_once(world: World) -> None:
    """A commander that was away itself waits for the sentries' reports before it calls an order unknown."""
    row = await world.one(K.REBOOT)
    world.clock.advance(10_000)
    await world.restart()
    await world.actions.tick()
    assert await world.state(row) is S.SENT
    world.clock.advance(100)
    await world.actions.tick()
    assert await world.state(row) is S.UNKNOWN


# ---- reports -------------------------------------------------------------------------------------------------


async def test_a_report_has_its_effect_once(world: World) -> None:
    """The same record again is marked and changes nothing, not even the list of reports."""
    row = await world.one(K.PAUSE)
    await world.report(row, S.ACCEPTED, seq=1)
    await world.report(row, S.ACCEPTED, seq=1)
    assert len(await world.actions.reports(row.id)) == 1
    held = await world.db.read(lambda c: marks.durable(c, "s1", [(BOOT, 1, 5)]))
    assert list(held[BOOT]) == [(1, 1)]


async def test_reports_out_of_order(world: World) -> None:
    """The end arrives first: what comes behind it is kept and changes nothing."""
    row = await world.one(K.PAUSE)
    await world.report(row, S.SUCCEEDED, "paused")
    for state in (S.VERIFYING, S.ACCEPTED, S.FAILED):
        await world.report(row, state, "late")
    ended = await world.actions.get(row.id)
    assert (ended.state, ended.text) == (S.SUCCEEDED, "paused")
    assert len(await world.actions.reports(row.id)) == 4


async def test_a_sentry_has_no_say_over_another_ones_order(world: World) -> None:
    """A report on an order of another sentry, or on one nobody knows, is marked and set aside."""
    row = await world.one(K.PAUSE)
    await world.report(row, S.SUCCEEDED, sentry="s2")
    unknown = rules.Ids().next(1, bytes(8))
    await world.actions.take_report("s2", BOOT, 7, Report(unknown, S.FAILED, 1))
    assert await world.state(row) is S.SENT
    assert await world.actions.reports(row.id) == []
    kept = await world.db.read(lambda c: c.execute("select action_id, stray from action_reports order by id").fetchall())
    assert [tuple(one) for one in kept] == [(row.id, 1), (unknown, 1)]
    held = await world.db.read(lambda c: marks.durable(c, "s2", [(BOOT, 1, 9)]))
    assert list(held[BOOT]) == [(1, 1), (7, 7)]


async def test_reports_are_bounded(world: World) -> None:
    """A sentry that repeats itself for ever does not fill the disk."""
    row = await world.one(K.PAUSE)
    for _ in range(store.REPORTS_PER_ORDER + 20):
        await world.report(row, S.ACCEPTED)
    assert len(await world.actions.reports(row.id)) == store.REPORTS_PER_ORDER

    def strays(c: sqlite3.Connection) -> int:
        for number in range(store.STRAY_REPORTS + 20):
            store.add_report(c, "s1", 1, Report(f"x{number}", S.FAILED, 1), stray=True)
        return int(c.execute("select count(*) from action_reports where stray = 1").fetchone()[0])

    assert await world.db.write(strays) == store.STRAY_REPORTS


async def test_a_failing_effect_leaves_no_mark(world: World) -> None:
    """Mark and effect are one transaction: when the effect fails the report is not durable, and may come again."""
    row = await world.one(K.PAUSE)

    def fails(c: sqlite3.Connection, row: ActionRow) -> None:
        raise Unavailable("not now")

    world.actions.within.append(fails)
    with pytest.raises(Unavailable):
        await world.report(row, S.SUCCEEDED, seq=1)
    world.actions.within.clear()
    assert await world.state(row) is S.SENT
    await world.report(row, S.SUCCEEDED, seq=1)
    assert await world.state(row) is S.SUCCEEDED


async def test_a_twins_report_changes_nothing(world: World) -> None:
    """A second machine with the sentry's identity tells of an order in the journal that it was copied with: kept beside, and
    the sentry's own report of the same number still counts.
    """
    row = await world.one(K.PAUSE)
    for _ in range(2):
        await world.actions.take_report("s1", BOOT, 1, Report(row.id, S.UNKNOWN, 1), twin="s1#62")
    assert await world.state(row) is S.SENT
    await world.report(row, S.SUCCEEDED, seq=1)
    assert await world.state(row) is S.SUCCEEDED
    kept = await world.db.read(lambda c: c.execute("select state, stray from action_reports order by id").fetchall())
    assert [tuple(one) for one in kept] == [(int(S.UNKNOWN), 1), (int(S.SUCCEEDED), 0)]


# ---- while it is not known which machine is meant ------------------------------------------------------------


async def test_held_orders_wait_and_say_why(world: World) -> None:
    """Nothing is sent, by no way; the text is there at once, and goes when the order goes. Other sentries get theirs."""
    before = await world.one(K.REBOOT, "rig-2")
    world.farm.sent.clear()
    world.actions.hold("s1", "two machines")
    row = await world.one(K.PAUSE)
    assert (row.state, row.text) == (S.QUEUED, "two machines")
    assert await world.actions.open_orders("s1") == []
    world.clock.advance(60)
    await world.actions.tick()
    assert not world.farm.sent, "what was sent before is not repeated either"
    await world.order(K.POWER_ON, "rig-3")
    assert [sentry_id for sentry_id, _ in world.farm.sent] == ["relays"]
    await world.report(before, S.SUCCEEDED)
    assert await world.state(before) is S.SUCCEEDED
    world.actions.hold("s1", "still two machines")
    await world.actions.tick()
    assert (await world.actions.get(row.id)).text == "still two machines"
    world.actions.hold("s1", "")
    await world.actions.tick()
    sent = await world.actions.get(row.id)
    assert (sent.state, sent.text) == (S.SENT, "")
    assert [order.id for sentry_id, order in world.farm.sent if sentry_id == "s1"] == [row.id]


async def test_a_held_order_expires_with_its_reason(world: World) -> None:
    """Also after a restart, which finds it held again."""
    world.actions.hold("s1", "two machines")
    row = await world.one(K.REBOOT)
    await world.restart()
    world.actions.hold("s1", "two machines")
    world.clock.advance(301)
    await world.actions.tick()
    ended = await world.actions.get(row.id)
    assert (ended.state, ended.text) == (S.EXPIRED, "two machines; it was never sent")


async def test_what_no_longer_holds_is_not_said(world: World) -> None:
    """The second machine is gone, and the sentry is away: it waits for that now."""
    world.farm.connected.clear()
    world.actions.hold("s1", "two machines")
    row = await world.one(K.REBOOT)
    world.actions.hold("s1", "")
    await world.actions.tick()
    assert (await world.actions.get(row.id)).text == ""
    world.clock.advance(301)
    await world.actions.tick()
    assert "not connected" in (await world.actions.get(row.id)).text


async def test_what_was_sent_can_be_called_back_while_held(world: World) -> None:
    """It went to the sentry before the second machine came: to stop it is the safe direction."""
    row = await world.one(K.REBOOT)
    world.actions.hold("s1", "two machines")
    await world.actions.cancel(ME, row.id)
    assert world.farm.cancelled == [("s1", row.id)]


# ---- calling back, waiting, looking --------------------------------------------------------------------------


async def test_a_queued_order_is_called_back_at_once(world: World) -> None:
    """It ends as cancelled and is never sent."""
    world.farm.connected.clear()
    row = await world.one(K.PAUSE)
    assert (await world.actions.cancel(ME, row.id)).state is S.CANCELLED
    assert await world.actions.open_orders("s1") == []
    with pytest.raises(Conflict):
        await world.actions.cancel(ME, row.id)


async def test_a_sent_order_is_the_sentrys_to_call_back(world: World) -> None:
    """The sentry is asked, again until it answers; the order is not sent again; its answer decides."""
    row = await world.one(K.PAUSE)
    asked = await world.actions.cancel(ME, row.id)
    assert (asked.state, asked.cancel_asked) == (S.SENT, True)
    await world.actions.tick()
    assert world.farm.cancelled == [("s1", row.id)] * 2
    assert await world.actions.open_orders("s1") == []
    await world.report(row, S.CANCELLED)
    assert await world.state(row) is S.CANCELLED
    await world.actions.tick()
    assert len(world.farm.cancelled) == 2


async def test_a_started_order_is_not_called_back(world: World) -> None:
    """It says so."""
    row = await world.one(K.PAUSE)
    await world.report(row, S.STARTED)
    with pytest.raises(Conflict, match="being carried out"):
        await world.actions.cancel(ME, row.id)
    with pytest.raises(NotFound):
        await world.actions.cancel(ME, "nothing")


async def test_waiting_for_the_end(world: World) -> None:
    """Who waits gets the order when it ends, as it stands when time is up, and an answer when the commander stops."""
    row = await world.one(K.PAUSE)
    assert (await world.actions.wait(row.id, 0.01)).state is S.SENT
    waiting = [asyncio.create_task(world.actions.wait(row.id, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    await world.report(row, S.ACCEPTED)
    await world.report(row, S.FAILED, "no")
    assert {(await one).state for one in waiting} == {S.FAILED}
    assert (await world.actions.wait(row.id, 60)).state is S.FAILED
    other = await world.one(K.PAUSE, "rig-2")
    last = asyncio.create_task(world.actions.wait(other.id, 60))
    await asyncio.sleep(0)
    world.actions.close()
    assert (await last).state is S.SENT
    assert not world.actions._waiting
    with pytest.raises(NotFound):
        await world.actions.wait("nothing", 1)
    with pytest.raises(Unavailable):
        await world.order(K.REBOOT, "rig-3")


async def test_looking_for_orders(world: World) -> None:
    """By state, device, kind, time and page, newest first."""
    first = await world.one(K.PAUSE)
    await world.report(first, S.SUCCEEDED)
    world.clock.advance(10)
    second, third = (await world.order(K.LOCATE, "rig-1", "rig-2")).actions

    async def ids(**wanted: Any) -> Sequence[str]:
        return [row.id for row in await world.actions.find(Wanted(**wanted))]

    assert await ids() == [third.id, second.id, first.id]
    assert await ids(states=(S.SUCCEEDED,)) == [first.id]
    assert set(await ids(device_id=1)) == {first.id, second.id}
    assert await ids(kind=K.PAUSE) == [first.id]
    assert first.id not in await ids(since_ms=second.created_ms)
    assert set(await ids(batch=second.batch)) == {second.id, third.id}
    assert await ids(limit=1) == [third.id]
    assert await ids(before_id=third.id) == [second.id, first.id]


async def test_the_loop_ends_cleanly(world: World) -> None:
    """Cancelled, it lets go of everybody who waits."""
    running = asyncio.create_task(world.actions.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(Unavailable):
        await world.order(K.PAUSE, "rig-1")
