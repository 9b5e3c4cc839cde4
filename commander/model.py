"""The commander's records as plain data. What also travels on the wire is in `garrison.model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from garrison.model import Condition, Credentials, Pool
from garrison.words import ActionKind, ActionState, DeviceState, PowerState, SentryState


@dataclass(frozen=True, slots=True)
class Sentry:
    """A post as the fleet knows it. Times in ms since 1970 UTC; None: not yet."""

    id: str
    kind: str
    name: str
    state: SentryState
    fingerprint: str  # of its key: "ab12 cd34 …", the same on both sides
    site: str = ""
    address: str | None = None  # of its last connection
    software: str | None = None
    enrolled_ms: int | None = None
    seen_ms: int | None = None
    certificate_until_ms: int | None = None
    frames_dropped: int | None = None
    clock_skew_ms: int | None = None
    capabilities: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    twin: str = ""  # where a second machine with the same identity calls from: no orders meanwhile


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as the fleet knows it, without its telemetry. `state` is already judged: a silent sentry makes it unknown."""

    id: int
    identity: str | None  # None: a target that has not been identified yet
    key: int | None
    sentry_id: str
    kind: str
    name: str
    state: DeviceState
    make: str = ""
    model: str = ""
    firmware: str = ""
    address: str = ""
    mac: str = ""
    serial: str = ""
    simulated: bool = False
    mode: str = ""
    tags: tuple[str, ...] = ()
    pools: tuple[Pool, ...] = ()
    conditions: tuple[Condition, ...] = ()
    missing: tuple[str, ...] = ()
    capabilities: tuple[ActionKind, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    fault_text: str = ""
    sheet_id: str = ""  # verified by the sentry
    wanted_sheet_id: str = ""  # what was last applied here
    seen_ms: int | None = None
    components: tuple[str, ...] = ()
    maintenance: bool = False
    site: str = ""
    rack: str = ""
    position: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class BoardRow:
    """A relay board. `seen_ms` and `outlets_state` come from its sentry's telemetry; None: never read."""

    id: str
    name: str
    sentry_id: str
    kind: str
    address: str
    outlets: int
    simulated: bool = False
    credentials: Credentials | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutletRow:
    """Which outlet feeds which device. `device_id` None: mapped to nothing, and so never switched automatically."""

    board_id: str
    outlet: str
    device_id: int | None
    circuit: str = ""
    protected: bool = False
    state: PowerState = PowerState.UNKNOWN
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class ActionRow:
    """An order to hardware. `arguments` and `result` are JSON objects; the life cycle is in docs/architecture.md."""

    id: str
    kind: ActionKind
    device_id: int
    sentry_id: str
    state: ActionState
    asked_by: str
    created_ms: int
    deadline_ms: int
    updated_ms: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    text: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""  # its name and identity when it was ordered
    identity: str = ""
    simulated: bool = False
    batch: str = ""  # the same for all orders of one request
    by_sentry: bool = False  # `state` is the sentry's own word; otherwise the commander's
    cancel_asked: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a person or token, with a role. `local` is the Unix socket: its file permissions are the login."""

    name: str
    role: str  # "viewer", "operator" or "administrator"
    address: str = ""
    local: bool = False
