"""The fleet's rows as they are kept, before anything is judged. `rules.py` decides over them, `store.py` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from garrison.model import Device

Standing = Literal["pending", "approved", "revoked"]


@dataclass(frozen=True, slots=True)
class SentryRecord:
    """A post. `revision` and `digest` are of the assignment it was last given. Times in ms since 1970 UTC; None: not yet."""

    id: str
    kind: str
    name: str
    standing: Standing
    fingerprint: str
    site: str = ""
    address: str | None = None
    software: str | None = None
    enrolled_ms: int | None = None
    seen_ms: int | None = None
    certificate_until_ms: int | None = None
    frames_dropped: int | None = None
    clock_skew_ms: int | None = None
    capabilities: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """A machine that uses a sentry's identity: its own ("main"), a second one beside it ("twin"), or one that was ("gone").

    `met`: it was heard at the same time as the main one, so the two are not one machine that was changed. `told_ms`: when
    people were told of it last; 0: never.
    """

    machine: bytes
    standing: Literal["main", "twin", "gone"]
    address: str = field(default="", compare=False)  # differs with each session
    met: bool = False
    told_ms: int = 0


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device: what people decided about it, and beside it what its sentry last said (`seen`; None: nothing yet)."""

    id: int
    identity: str | None
    sentry_id: str
    kind: str
    name: str
    added_ms: int
    named: bool = False  # by a person: never changed by what a device says
    watched_address: str = ""  # of the target in the assignment; empty: the sentry found it by itself, or it was displaced
    make_hint: str = ""
    http_port: int = 0
    expected_hashrate_hs: float | None = None
    sealed: bytes | None = field(default=None, repr=False)  # credentials
    simulated: bool = False  # said so when it was added
    maintenance: bool = False
    site: str = ""
    rack: str = ""
    position: str = ""
    tags: tuple[str, ...] = ()
    wanted_sheet_id: str = ""
    left: bool = False  # its sentry no longer watches it, or another device answers at its address
    seen: Device | None = None
    notes: str = ""


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A device that a sentry's scan found and nobody adopted: not watched, no orders. `seen` is what the scan was told.

    `dismissed`: a person does not want it. `told`: what is there twice, as far as people were told.
    """

    sentry_id: str
    address: str
    seen: Device
    first_ms: int
    seen_ms: int
    dismissed: bool = False
    told: tuple[str, ...] = ()
    identity: str = field(init=False)  # "mac:…" or "serial:…"; empty: it did not say

    def __post_init__(self) -> None:
        mac, serial = self.seen.mac.lower(), self.seen.serial
        object.__setattr__(self, "identity", f"mac:{mac}" if mac else f"serial:{self.seen.make}:{serial}" if serial else "")

    @property
    def key(self) -> tuple[str, str]:
        return self.sentry_id, self.address

    @property
    def range(self) -> str:
        return self.seen.facts.get("range", "")


@dataclass(frozen=True, slots=True)
class BoardRecord:
    id: str
    name: str
    sentry_id: str
    kind: str
    address: str
    outlets: int
    added_ms: int
    simulated: bool = False
    sealed: bytes | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutletRecord:
    board_id: str
    outlet: str
    device_id: int | None
    circuit: str = ""
    protected: bool = False


@dataclass(frozen=True, slots=True)
class EventRecord:
    """`id` 0: not written yet. `device` is the identity it came with, empty for the sentry itself or the farm. `devices`: id and
    name of each, when it is about several.
    """

    at_ms: int
    kind: str
    text: str
    severity: str = "info"
    sentry_id: str = ""
    device_id: int | None = None
    device: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)
    id: int = 0
    devices: tuple[tuple[int, str], ...] = ()
