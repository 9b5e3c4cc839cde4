"""What the tests of the rig sentry stand on: a place with short waits, an outbox that remembers, sheets of the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from garrison.clock import SystemClock
from garrison.frame import Sample
from garrison.model import Archive, Device, Event, Order, PoolOrder, Sheet
from garrison.words import ActionKind
from sentry_rig import process
from sentry_rig.host import Machine
from sentry_rig.post import RigPost
from sentry_rig.settings import RigSettings

SIMULATOR = Path(__file__).parents[1] / "simulators" / "xmrig.py"
MACHINE = Machine("machine:0123456789abcdef", "boot-1", {"hostname": "rig-under-test", "cpu": "Test CPU"})
SOON_S = 30.0
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # mypy reads the tests for Windows too


def quick(**changes: object) -> RigSettings:
    """Settings with short waits."""
    short = RigSettings(
        poll_every_s=0.3,
        stop_limit_s=3,
        restarts_max=3,
        restarts_window_s=600,
        restarts_hold_s=600,
        restart_backoff_s=0.05,
        reboot_command=["/bin/false"],
        reboot_within_s=1,
    )
    return msgspec.structs.replace(short, **changes)


def sheet(
    name: str, *hosts: str, within_s: int = 20, arguments: Sequence[str] = (), version: str = "6.26.0", sha256: str = ""
) -> Sheet:
    """A rendered sheet that runs the simulator on these pools."""
    pools = tuple(PoolOrder(f"stratum+tcp://{host}:3333", f"wallet.{name}") for host in hosts)
    pin = hashlib.sha256(SIMULATOR.read_bytes()).hexdigest()
    given = Archive(str(SIMULATOR), sha256 or pin, "", simulated=True)
    return Sheet(f"sheet-{name}", name, "XMR", "rx/0", pools, "wallet", name, "xmrig", version, tuple(arguments), given, within_s)


def order(kind: ActionKind, given: Sheet | None = None, number: int = 1) -> Order:
    return Order(f"order-{number}", kind, MACHINE.identity, 600_000, 1, given)


class Kept:
    """An outbox that keeps everything in memory."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.events: list[Event] = []
        self.devices: list[Device] = []
        self._news = asyncio.Event()

    async def look(self, samples: Sequence[Sample]) -> None:
        self.samples += samples
        self._news.set()

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None:
        self.events.append(Event(0, kind, text, device, severity, detail or {}))
        self._news.set()

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None:
        self.devices += devices
        self._news.set()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """Waits for the outbox to show it."""
        try:
            async with asyncio.timeout(SOON_S):
                while not true():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"never: {what}; events {self.kinds()}") from None


class Steps:
    """The progress of an order, remembered."""

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.notes: dict[str, str] = {}

    async def verifying(self, text: str) -> None:
        self.verified.append(text)

    async def note(self, key: str, value: str) -> None:
        self.notes[key] = value


@contextlib.asynccontextmanager
async def on_duty(
    state: Path, settings: RigSettings | None = None, machine: Machine = MACHINE
) -> AsyncIterator[tuple[RigPost, Kept]]:
    """A post that runs. Its miner lives on after it, as in life: `sweep` ends it."""
    post, outbox = RigPost(settings or quick(), state, SystemClock(), machine), Kept()
    duty = asyncio.create_task(post.run(outbox))
    try:
        await outbox.until(lambda: bool(outbox.samples), "a first look")
        yield post, outbox
    finally:
        duty.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await duty


def miners(state: Path) -> list[int]:
    """The processes of this state folder's miners, children included."""
    return sorted(process.find((state / "miner").resolve()))


def sweep(state: Path) -> None:
    """Ends every miner of this folder."""
    until = time.monotonic() + SOON_S
    while found := miners(state):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, KILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        assert time.monotonic() < until
        time.sleep(0.01)
