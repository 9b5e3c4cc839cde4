"""Tests of commander.power over a real database: facts gathered, history counted, each refusal with its rule."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from commander.db import Database, Migration
from commander.fleet.audit import COMMANDER
from commander.model import ActionRow, BoardRow, Caller, DeviceRow, OutletRow, Sentry
from commander.power import api, store
from commander.power.rules import Asked, Limits
from commander.power.service import Ports, Power
from garrison.clock import ManualClock
from garrison.faults import RuleRefused
from garrison.words import ActionKind, ActionState, DeviceState, SentryState

ME = Caller("ada", "operator")
K = ActionKind
S = ActionState


@dataclass
class Farm:
    devices: list[DeviceRow] = field(default_factory=list)
    boards: list[BoardRow] = field(default_factory=list)
    outlets: list[OutletRow] = field(default_factory=list)
    sentries: list[Sentry] = field(default_factory=list)


@dataclass
class World:
    farm: Farm
    clock: ManualClock
    db: Database
    power: Power
    orders: int = 0

    @property
    def asic(self) -> DeviceRow:
        return self.farm.devices[0]

    async def ask(self, kind: ActionKind, caller: Caller = ME, device: DeviceRow | None = None, **given: Any) -> dict[str, Any]:
        return dict(await self.power.arguments(caller, kind, device or self.asic, given))

    async def switched(self, kind: ActionKind, *states: ActionState, action: str = "", fault: str = "") -> str:
        """An order as the orders would write it."""
        self.orders += 1
        action_id = action or f"{self.orders:04}"
        now_ms = self.clock.now_ms()
        device = self.asic
        for state in states:
            row = ActionRow(action_id, kind, device.id, "s2", state, "ada", now_ms, now_ms, now_ms, {"board": "b1", "outlet": "1"})
            row = replace(row, identity=device.identity or "", fault=fault if state.final else "")
            await self.db.write(partial(self._within, row))
        return action_id

    def _within(self, row: ActionRow, c: sqlite3.Connection) -> None:
        self.power.within(c, row)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    farm, clock = Farm(), ManualClock()
    farm.devices = [DeviceRow(n, f"mac:{n}", n, "s1", "asic", f"asic-{n}", DeviceState.MINING, seen_ms=1) for n in range(1, 7)]
    farm.boards = [BoardRow("b1", "board", "s2", "fake", "127.0.0.1", 4)]
    farm.outlets = [OutletRow("b1", "1", 1), OutletRow("b1", "2", 2), OutletRow("b1", "3", None)]
    farm.sentries = [Sentry("s2", "asic", "hall", SentryState.CONNECTED, "f")]

    async def devices() -> list[DeviceRow]:
        return farm.devices

    async def outlets(device_id: int) -> list[OutletRow]:
        return [one for one in farm.outlets if one.device_id == device_id]

    async def boards() -> list[BoardRow]:
        return farm.boards

    async def sentries() -> list[Sentry]:
        return farm.sentries

    db = await Database.open(tmp_path / "fleet.db", [Migration(1, "power", store.create_tables)])
    yield World(farm, clock, db, Power(db, Ports(devices, outlets, boards, sentries), clock, Limits()))
    await db.close()


async def test_the_order_names_outlet_and_sentry(world: World) -> None:
    """The board's sentry, not the one that watches the device; the off time filled in."""
    where = {"sentry_id": "s2", "board": "b1", "outlet": "1", "force": False}
    assert await world.ask(K.POWER_CYCLE) == {**where, "off_s": 30}
    assert await world.ask(K.POWER_CYCLE, off_s=60, force=True) == {**where, "off_s": 60, "force": True}
    assert await world.ask(K.POWER_OFF) == where
    assert await world.ask(K.POWER_ON) == where


async def test_refusals_name_their_rules(world: World) -> None:
    """All that forbid it, in one fault, with what to do."""
    with pytest.raises(RuleRefused, match=r"rule unmapped: no outlet is mapped to asic-5 \(.*relays map"):
        await world.ask(K.POWER_CYCLE, device=world.farm.devices[4])
    world.farm.outlets[0] = replace(world.farm.outlets[0], protected=True)
    world.farm.sentries[0] = replace(world.farm.sentries[0], state=SentryState.SILENT)
    with pytest.raises(RuleRefused, match=r"rule protected: .*; rule sentry_silent: .*"):
        await world.ask(K.POWER_CYCLE, force=True)


async def test_two_outlets_are_refused(world: World) -> None:
    """A device that hangs on two outlets is not switched."""
    world.farm.outlets.append(OutletRow("b1", "4", 1))
    with pytest.raises(RuleRefused, match="one_outlet"):
        await world.ask(K.POWER_ON)


@pytest.mark.parametrize("state", [SentryState.SILENT, SentryState.PENDING, SentryState.REVOKED])
async def test_a_board_without_its_sentry(world: World, state: SentryState) -> None:
    """Nothing is left for later: a power order is not queued for a sentry that is away."""
    world.farm.sentries[0] = replace(world.farm.sentries[0], state=state)
    with pytest.raises(RuleRefused, match="sentry_silent"):
        await world.ask(K.POWER_OFF)


async def test_history_counts(world: World) -> None:
    """What was ordered counts until it surely was not done; started moves it to then; it counts across a restart."""
    action = await world.switched(K.POWER_CYCLE, S.QUEUED)
    with pytest.raises(RuleRefused, match="min_interval"):
        await world.ask(K.POWER_CYCLE)
    for state in (S.REFUSED, S.EXPIRED, S.CANCELLED):
        await world.switched(K.POWER_CYCLE, state, action=action)
        await world.ask(K.POWER_CYCLE)
    for state in (S.FAILED, S.UNKNOWN, S.SUCCEEDED):
        await world.switched(K.POWER_CYCLE, state, action=action)
        with pytest.raises(RuleRefused, match="min_interval"):
            await world.ask(K.POWER_CYCLE)
    world.clock.advance(100)
    await world.switched(K.POWER_CYCLE, S.STARTED, S.VERIFYING, action=action)
    world.clock.advance(890)
    with pytest.raises(RuleRefused, match="it may be cut again in 10 s"):
        await world.ask(K.POWER_CYCLE)
    world.clock.advance(10)
    await world.ask(K.POWER_CYCLE)


async def test_refused_in_the_middle_counts(world: World) -> None:
    """Started and then refused by the board counts: off may have been sent. Refused by a rule of the sentry does not."""
    await world.switched(K.POWER_CYCLE, S.QUEUED, S.SENT, S.STARTED, S.REFUSED, fault="rule_refused")
    await world.ask(K.POWER_CYCLE)
    await world.switched(K.POWER_CYCLE, S.QUEUED, S.SENT, S.REFUSED, fault="wrong_password")
    await world.ask(K.POWER_CYCLE)
    await world.switched(K.POWER_CYCLE, S.QUEUED, S.SENT, S.STARTED, S.REFUSED, fault="wrong_password")
    with pytest.raises(RuleRefused, match="min_interval"):
        await world.ask(K.POWER_CYCLE)


async def test_three_a_day(world: World) -> None:
    """The fourth in 24 h is refused, also when forced; a day after the first it may be again."""
    for _ in range(3):
        await world.ask(K.POWER_CYCLE)
        await world.switched(K.POWER_CYCLE, S.SUCCEEDED)
        world.clock.advance(3_600)
    with pytest.raises(RuleRefused, match="day_cap"):
        await world.ask(K.POWER_CYCLE, force=True)
    await world.ask(K.POWER_OFF)
    world.clock.advance(86_400 - 3 * 3_600)
    await world.ask(K.POWER_CYCLE)


async def test_history_follows_device_and_outlet(world: World) -> None:
    """A new row for the same device, or another device on the same outlet, does not start from nothing."""
    await world.switched(K.POWER_CYCLE, S.SUCCEEDED)
    world.farm.devices[0] = replace(world.asic, id=77)
    world.farm.outlets[0] = OutletRow("b1", "2", 77)
    with pytest.raises(RuleRefused, match="min_interval"):
        await world.ask(K.POWER_CYCLE)
    other = world.farm.devices[4]
    world.farm.outlets.append(OutletRow("b1", "1", other.id))
    with pytest.raises(RuleRefused, match="min_interval"):
        await world.ask(K.POWER_CYCLE, device=other)


async def test_a_clock_set_back_opens_no_door(world: World) -> None:
    """A cut that lies ahead of now counts as just done."""
    await world.switched(K.POWER_CYCLE, S.SUCCEEDED)
    world.clock.step_wall(-100_000)
    with pytest.raises(RuleRefused, match="min_interval"):
        await world.ask(K.POWER_CYCLE)


async def test_the_brake(world: World) -> None:
    """Many silent at once: neither the commander nor a person cuts, unless the person insists; the commander cannot."""
    for n in range(1, 5):
        world.farm.devices[n] = replace(world.farm.devices[n], state=DeviceState.UNREACHABLE)
    for caller in (ME, COMMANDER):
        with pytest.raises(RuleRefused, match="rule brake: 4 of 5 other devices of its sentry are silent"):
            await world.ask(K.POWER_CYCLE, caller)
    await world.ask(K.POWER_CYCLE, force=True)
    with pytest.raises(RuleRefused, match="brake"):
        await world.ask(K.POWER_CYCLE, COMMANDER, force=True)
    await world.ask(K.POWER_ON)


async def test_looking_does_nothing(world: World) -> None:
    """The check shows what would refuse, and leaves no trace."""
    asked = Asked(K.POWER_CYCLE)
    for _ in range(5):
        verdict = await world.power.judge(asked, world.asic)
    shown = api.shown(world.asic, api.Verb.CYCLE, verdict)
    assert (shown["allowed"], shown["off_s"], shown["cuts_in_24_h"], shown["last_cut_ms"]) == (True, 30, 0, None)
    assert shown["outlets"] == [{"board": "b1", "outlet": "1", "protected": False}]
    await world.switched(K.POWER_CYCLE, S.SUCCEEDED)
    shown = api.shown(world.asic, api.Verb.CYCLE, await world.power.judge(asked, world.asic))
    assert (shown["allowed"], shown["cuts_in_24_h"], shown["last_cut_ms"]) == (False, 1, world.clock.now_ms())
    assert [one["rule"] for one in shown["refusals"]] == ["min_interval"]
