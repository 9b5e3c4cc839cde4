"""A sentry with a made-up post: looks often, and writes each effect of an order to a file, so that tests can count them.

python -m tests.session.a_sentry enrol|run|status …, like any other sentry. It stops looking while HOME/quiet exists.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from garrison import logs
from garrison.catalogue import METRICS
from garrison.clock import Clock, SystemClock
from garrison.faults import BadAnswer
from garrison.frame import Sample, device_key
from garrison.model import Assignment, Device, Order, Outcome
from garrison.words import ActionKind, ActionState, DeviceState
from sentry_core import cli, daemon
from sentry_core.post import Outbox, Progress
from sentry_core.settings import SentrySettings

IDENTITY = "machine:test"


class Settings(SentrySettings, frozen=True, forbid_unknown_fields=True):
    every_ms: Annotated[int, msgspec.Meta(description="how often to look")] = 20
    order_ms: Annotated[int, msgspec.Meta(description="how long an order takes")] = 100


class MadeUpPost:
    """Orders: `reboot` (a pulse) and `pause` (a wanted state). An order for "machine:odd" fails."""

    kind = "rig"

    def __init__(self, settings: Settings, home: Path, clock: Clock) -> None:
        self.settings = settings
        self.home = home
        self.clock = clock
        self.assigned: list[Assignment] = []
        self.looks = 0

    def capabilities(self) -> tuple[ActionKind, ...]:
        return (ActionKind.REBOOT, ActionKind.PAUSE, ActionKind.APPLY_FLIGHT_SHEET, ActionKind.POWER_CYCLE)

    def facts(self) -> Mapping[str, str]:
        return {"hostname": "test", "machine_id": IDENTITY}

    async def run(self, outbox: Outbox) -> None:
        device = Device(IDENTITY, "rig", DeviceState.IDLE, name="test", simulated=True, capabilities=self.capabilities())
        outbox.roster([device])
        await outbox.event("started", "the made-up post looks around")
        quiet = self.home / "quiet"
        while True:
            if not quiet.exists():
                self.looks += 1
                values: dict[tuple[str, str], int | float] = {("look_ok", ""): 1, ("state", ""): 3}
                values[("hashrate_hs", "")] = METRICS["hashrate_hs"].quantise(self.looks * 1000) or 0
                await outbox.look([Sample(device_key(IDENTITY), self.clock.now_ms(), values)])
                if self.looks % 20 == 0:
                    await outbox.event("twentieth", f"look {self.looks}", device=IDENTITY)
            await self.clock.sleep(self.settings.every_ms / 1000)

    async def assign(self, assignment: Assignment) -> None:
        self.assigned.append(assignment)

    def known(self, device: str) -> bool:
        return device in (IDENTITY, "machine:odd")

    def payouts(self, order: Order) -> Sequence[str]:
        return [order.sheet.wallet] if order.sheet else []

    async def perform(self, order: Order, progress: Progress) -> Outcome:
        await progress.note("asked", "yes")
        self.act(order.id)
        await self.clock.sleep(self.settings.order_ms / 1000)
        if order.device == "machine:odd":
            raise BadAnswer("it answered HTML")
        await progress.verifying("waiting for the effect")
        return Outcome(ActionState.SUCCEEDED, "done", detail={"seen": "yes"})

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        if order.kind is ActionKind.PAUSE and order.id in effects(self.home):
            return Outcome(ActionState.SUCCEEDED, "settled: it is paused")
        return Outcome(ActionState.UNKNOWN, f"interrupted; asked: {notes.get('asked', 'no')}")

    def act(self, action_id: str) -> None:
        """The effect: a synced line."""
        descriptor = os.open(self.home / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{action_id}\n".encode())
        os.fsync(descriptor)
        os.close(descriptor)


def effects(home: Path) -> list[str]:
    try:
        return (home / "effects").read_text().split()
    except FileNotFoundError:
        return []


def make_post(settings: Any, home: Path, clock: Clock) -> MadeUpPost:
    return MadeUpPost(settings, home, clock)


KIND = cli.Kind("rig", "sentry-test", lambda: Settings, make_post)
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
cli.commands(app, KIND)


@app.command()
def run_as(
    machine: Annotated[str, typer.Argument(help="Which machine it says it is, hexadecimal.")], home: cli.Home = None
) -> None:
    """As `run`, on made-up hardware."""
    state_dir, clock = KIND.state_dir(home), SystemClock()
    settings = KIND.load(state_dir)
    logs.start("plain")
    asyncio.run(daemon.run(make_post(settings, state_dir, clock), settings, state_dir, clock, machine=bytes.fromhex(machine)))


if __name__ == "__main__":
    cli.main(app)
