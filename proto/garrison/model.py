"""What sentries and commander tell one another, as plain data. `garrison.wire` turns it into messages and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from garrison.words import ActionKind, ActionState, DeviceState


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pool:
    """What a device says of one pool. None: not said."""

    url: str
    user: str
    state: str | None = None
    accepted: int | None = None
    rejected: int | None = None
    stale: int | None = None
    priority: int = 0
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """A fault the device itself reports: the maker's code and text, our severity (info, warning, critical)."""

    code: str
    text: str
    severity: str


@dataclass(frozen=True, slots=True)
class Device:
    """A roster entry: what changes slowly. `identity` is "mac:…", "machine:…", "relay:…" or, before it is known, "target:ID"."""

    identity: str
    kind: str
    state: DeviceState
    target: str = ""
    name: str = ""
    make: str = ""
    model: str = ""
    firmware: str = ""
    address: str = ""
    mac: str = ""
    serial: str = ""
    simulated: bool = False
    mode: str = ""
    pools: tuple[Pool, ...] = ()
    conditions: tuple[Condition, ...] = ()
    missing: tuple[str, ...] = ()
    capabilities: tuple[ActionKind, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    fault_text: str = ""
    sheet_id: str = ""
    seen_ms: int = 0
    components: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """An ASIC to watch. `id` is the commander's; `address` is host or host:port."""

    id: str
    address: str
    make: str = ""
    credentials: Credentials | None = None
    simulated: bool = False
    expected_hashrate_hs: float | None = None
    name: str = ""
    maintenance: bool = False
    http_port: int = 0


@dataclass(frozen=True, slots=True)
class Board:
    """A relay board to drive. `kind` is a name of rrc's table."""

    id: str
    kind: str
    address: str
    outlets: int
    credentials: Credentials | None = None
    simulated: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outlet:
    """Which outlet feeds which device (by identity; by target before that is known)."""

    board: str
    outlet: str
    device: str
    target: str = ""
    circuit: str = ""
    protected: bool = False


@dataclass(frozen=True, slots=True)
class PowerLimits:
    off_s: int = 30
    min_interval_s: int = 900
    max_per_day: int = 3
    stagger_ms: int = 2000


@dataclass(frozen=True, slots=True)
class Assignment:
    """What this post should watch; whole, a newer revision replaces the older. Kept on disk by the sentry."""

    revision: int = 0
    targets: tuple[Target, ...] = ()
    boards: tuple[Board, ...] = ()
    outlets: tuple[Outlet, ...] = ()
    poll_every_ms: int = 0
    power: PowerLimits = PowerLimits()


@dataclass(frozen=True, slots=True)
class PoolOrder:
    url: str
    user: str
    password: str = "x"  # noqa: S105  # what pools take when they ask for none


@dataclass(frozen=True, slots=True)
class Archive:
    """Where a mining program comes from: a path or URL, pinned. `executable`: path inside the archive, empty when it is itself."""

    location: str
    sha256: str
    executable: str = ""
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A rendered flight sheet: no placeholder is left in it."""

    id: str
    name: str
    coin: str
    algorithm: str
    pools: tuple[PoolOrder, ...]
    wallet: str
    worker: str
    program: str = ""
    version: str = ""
    arguments: tuple[str, ...] = ()
    archive: Archive | None = None
    verify_within_s: int = 300


@dataclass(frozen=True, slots=True)
class Order:
    """An action as received. `not_after_ms` counts from receipt on our own monotonic clock."""

    id: str
    kind: ActionKind
    device: str
    not_after_ms: int
    epoch: int
    sheet: Sheet | None = None
    off_s: int = 0
    force: bool = False  # a person insists: overrules the brake for many silent devices, and nothing else
    locate_on: bool = True
    power_mode: str = ""  # the device's own name for it
    power_limit_w: int = 0
    fan_pct: int | None = None  # None: the device decides
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended: what a later read showed, not what a call returned."""

    state: ActionState
    text: str = ""
    fault: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, once. `device` is an identity, empty for the sentry itself."""

    at_ms: int
    kind: str
    text: str
    device: str = ""
    severity: str = "info"
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """Where an order stands at the sentry."""

    action_id: str
    state: ActionState
    at_ms: int
    fault: str = ""
    text: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """What a journal holds of one life of it (`boot`, 16 bytes), both ends included. Below `first` all is gone."""

    boot: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class SentryHello:
    """What a sentry says of itself when its session opens. `wall_ms` is its clock, to be compared on receipt."""

    kind: str
    software: str
    boot: bytes
    wall_ms: int
    capabilities: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    highest_epoch: int = 0
    frames_dropped: int = 0
    frames: tuple[Held, ...] = ()
    records: tuple[Held, ...] = ()
    address: str = ""  # host:port it calls from, as the commander sees it
    machine: bytes = b""  # 16 bytes, a hash of the hardware; empty: not known


@dataclass(frozen=True, slots=True)
class Welcome:
    """The commander's answer. `frames` and `records` name what of the sentry's journal is durable: (boot, first, last)."""

    farm: str
    epoch: int
    wall_ms: int
    reconnect_window_ms: int
    backlog_window: int
    frames: tuple[Held, ...] = ()
    records: tuple[Held, ...] = ()
