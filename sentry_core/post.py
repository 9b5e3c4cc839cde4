"""What one kind of sentry must offer, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from garrison.frame import Sample
from garrison.model import Assignment, Device, Order, Outcome
from garrison.words import ActionKind


class Outbox(Protocol):
    """Where a post leaves what it saw; everything is journalled before it is sent."""

    async def look(self, samples: Sequence[Sample]) -> None:
        """One look at many devices. Keys are `device_key(identity)`; values are quantised already."""
        ...

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None: ...

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None:
        """New or changed entries. The session sends the whole roster after each reconnect."""
        ...


class Progress(Protocol):
    """Given to an order while it runs."""

    async def verifying(self, text: str) -> None:
        """Acted; now watching for the effect."""
        ...

    async def note(self, key: str, value: str) -> None:
        """Journalled (synced) before it returns: what a restart must know, such as "off was sent"."""
        ...


class Post(Protocol):
    """What one kind of sentry does. `sentry_core.daemon` runs it."""

    kind: str
    """"rig" or "asic"."""

    def capabilities(self) -> tuple[ActionKind, ...]: ...

    def facts(self) -> Mapping[str, str]:
        """About this machine: hostname, os, machine_id, …"""
        ...

    async def run(self, outbox: Outbox) -> None:
        """Watches until cancelled. Whatever it started that should outlive it (miners) stays."""
        ...

    async def assign(self, assignment: Assignment) -> None:
        """A new assignment, or the stored one at start, before `run`."""
        ...

    def known(self, device: str) -> bool:
        """Whether an order for this identity is ours."""
        ...

    def payouts(self, order: Order) -> Sequence[str]:
        """Every payout address or pool user the order would make a device mine to: the guard checks them."""
        ...

    async def perform(self, order: Order, progress: Progress) -> Outcome:
        """Acts and verifies. A Fault it raises becomes FAILED, or REFUSED for `Refused`."""
        ...

    async def settle(self, order: Order, notes: Mapping[str, str]) -> Outcome:
        """After a crash in the middle of `perform`: read what is, never repeat. UNKNOWN when a read cannot tell."""
        ...
