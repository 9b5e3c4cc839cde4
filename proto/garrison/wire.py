"""Messages of `garrison.v1` to plain data and back, for both ends of the link.

`*_from` take what a peer sent and are strict: BadInput for an unknown word, a number that is not finite, a text or list
longer than its limit. Whoever reads from the stream calls `checked` once a message; the functions below rely on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from garrison.catalogue import METRICS
from garrison.faults import BadInput
from garrison.frame import MAX_COLUMNS, Column, Layout, device_key
from garrison.model import (
    Archive,
    Assignment,
    Board,
    Condition,
    Credentials,
    Device,
    Event,
    Held,
    Order,
    Outlet,
    Pool,
    PoolOrder,
    PowerLimits,
    Report,
    SentryHello,
    Sheet,
    Target,
    Welcome,
)
from garrison.spans import Spans
from garrison.v1 import post_pb2 as pb
from garrison.words import MAX_POWER_LIMIT_W, ActionKind, ActionState, DeviceState, is_hostname, is_mode

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
MAX_MESSAGE = 16 * 1024 * 1024
MAX_TEXT = 16 * 1024
MAX_ITEMS = 20_000
"""Entries of one list or map: a roster of 10,000 devices fits."""

FRAMES = pb.LANE_FRAMES
RECORDS = pb.LANE_RECORDS

W = TypeVar("W", bound=StrEnum)
M = TypeVar("M", bound=Message)


def parsed(kind: type[M], body: bytes) -> M:
    """The message in `body`, checked. Raises BadInput."""
    try:
        message = kind.FromString(body)
    except DecodeError as error:
        raise BadInput(f"not a {kind.DESCRIPTOR.name} message: {error}") from error
    return checked(message)


def checked(message: M) -> M:
    """The same message, when no text, list or number in it leaves its limits. Raises BadInput."""
    _check(message, message.DESCRIPTOR.name, 0)
    return message


def _check(message: Message, where: str, depth: int) -> None:
    if depth > 6:
        raise BadInput(f"{where} is nested too deep")
    for field, value in message.ListFields():
        name = f"{where}.{field.name}"
        if isinstance(value, str | float | bool | int | bytes | Message):
            _check_one(field, value, name, depth)
            continue
        if len(value) > MAX_ITEMS:
            raise BadInput(f"{name} has {len(value)} entries, more than {MAX_ITEMS}")
        if isinstance(value, Mapping):
            for key, text in value.items():
                _check_one(field, key, name, depth)
                _check_one(field, text, name, depth)
        else:
            for item in value:
                _check_one(field, item, name, depth)


def _check_one(field: FieldDescriptor, value: object, name: str, depth: int) -> None:
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise BadInput(f"{name} is {len(value)} characters long, more than {MAX_TEXT}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BadInput(f"{name} is not a finite number")
    elif isinstance(value, Message):
        _check(value, name, depth + 1)


def _word(kind: type[W], text: str, name: str) -> W:
    try:
        return kind(text)
    except ValueError as error:
        raise BadInput(f"{name}: unknown word {text[:40]!r}", hint="the other side may be newer: update this one") from error


def _state(number: int) -> ActionState:
    try:
        return ActionState(number)
    except ValueError as error:
        raise BadInput(f"unknown action state {number}", hint="the other side may be newer: update this one") from error


def boot_of(boot: bytes) -> bytes:
    if len(boot) != 16:
        raise BadInput(f"a boot id has 16 bytes, not {len(boot)}")
    return boot


def _machine_of(machine: bytes) -> bytes:
    if len(machine) not in (0, 16):
        raise BadInput(f"a machine's hash has 16 bytes or none, not {len(machine)}")
    return machine


def seq_of(seq: int) -> int:
    if not 0 < seq < 2**63:
        raise BadInput(f"sequence number {seq}")
    return seq


# ---- delivery ----------------------------------------------------------------------------------------------


def mark_to(lane: pb.Lane.ValueType, boot: bytes, spans: Iterable[tuple[int, int]]) -> pb.Mark:
    return pb.Mark(lane=lane, boot=boot, spans=[pb.Span(first=first, last=last) for first, last in spans])


def marks_from(marks: Iterable[pb.Mark]) -> dict[tuple[int, bytes], Spans]:
    """(lane, boot) to sequence numbers."""
    found: dict[tuple[int, bytes], Spans] = {}
    for mark in marks:
        if mark.lane not in (FRAMES, RECORDS):
            raise BadInput(f"unknown lane {mark.lane}")
        spans = found.setdefault((mark.lane, boot_of(mark.boot)), Spans())
        for span in mark.spans:
            if span.last < span.first:
                raise BadInput(f"a span from {span.first} to {span.last}")
            spans.add(seq_of(span.first), seq_of(span.last))
    return found


def _held_to(lane: pb.Lane.ValueType, held: Iterable[Held]) -> list[pb.Mark]:
    spans: dict[bytes, list[tuple[int, int]]] = {}
    for one in held:
        spans.setdefault(one.boot, []).append((one.first, one.last))
    return [mark_to(lane, boot, Spans(found)) for boot, found in spans.items()]


def _held_from(lane: int, marks: Mapping[tuple[int, bytes], Spans]) -> tuple[Held, ...]:
    return tuple(Held(boot, s.first, s.last) for (its, boot), spans in marks.items() if its == lane for s in spans)


def hello_to(sentry_id: str, hello: SentryHello) -> pb.Hello:
    return pb.Hello(
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_MAX,
        sentry_id=sentry_id,
        kind=hello.kind,
        software=hello.software,
        boot=hello.boot,
        held=[*_held_to(FRAMES, hello.frames), *_held_to(RECORDS, hello.records)],
        capabilities=hello.capabilities,
        facts=hello.facts,
        highest_epoch=hello.highest_epoch,
        wall_ms=hello.wall_ms,
        frames_dropped=hello.frames_dropped,
        machine=hello.machine,
    )


def hello_from(m: pb.Hello, address: str) -> SentryHello:
    marks = marks_from(m.held)
    return SentryHello(
        kind=m.kind,
        software=m.software,
        boot=boot_of(m.boot),
        wall_ms=m.wall_ms,
        capabilities=tuple(m.capabilities),
        facts=dict(m.facts),
        highest_epoch=m.highest_epoch,
        frames_dropped=m.frames_dropped,
        frames=_held_from(FRAMES, marks),
        records=_held_from(RECORDS, marks),
        address=address,
        machine=_machine_of(m.machine),
    )


def welcome_to(welcome: Welcome) -> pb.Welcome:
    return pb.Welcome(
        protocol=PROTOCOL_MAX,
        durable=[*_held_to(FRAMES, welcome.frames), *_held_to(RECORDS, welcome.records)],
        epoch=welcome.epoch,
        reconnect_window_ms=welcome.reconnect_window_ms,
        wall_ms=welcome.wall_ms,
        farm=welcome.farm,
        backlog_window=welcome.backlog_window,
    )


def welcome_from(m: pb.Welcome) -> Welcome:
    marks = marks_from(m.durable)
    return Welcome(
        farm=m.farm,
        epoch=m.epoch,
        wall_ms=m.wall_ms,
        reconnect_window_ms=m.reconnect_window_ms,
        backlog_window=m.backlog_window,
        frames=_held_from(FRAMES, marks),
        records=_held_from(RECORDS, marks),
    )


# ---- telemetry ---------------------------------------------------------------------------------------------


def layout_to(layout: Layout) -> pb.Layout:
    columns = [pb.Column(metric=c.metric, component=c.component, unit=c.unit, decimals=c.decimals) for c in layout.columns]
    return pb.Layout(hash=layout.hash, columns=columns)


def layout_from(m: pb.Layout) -> Layout:
    """A metric we do not know (a newer sentry) is taken as it says itself; unit and decimals of ours must be ours."""
    if not 0 < len(m.columns) <= MAX_COLUMNS:
        raise BadInput(f"a layout of {len(m.columns)} columns")
    for c in m.columns:
        if c.decimals > 18 or not c.metric or len(c.metric) > 100 or len(c.component) > 200 or len(c.unit) > 20:
            raise BadInput(f"a layout with a column {c.metric[:40]!r} that makes no sense")
        if c.metric in METRICS and c.unit != METRICS[c.metric].unit:
            raise BadInput(f"metric {c.metric} is in {METRICS[c.metric].unit or 'no unit'}, not {c.unit[:20]!r}")
    layout = Layout(tuple(Column(c.metric, c.component, c.unit, c.decimals) for c in m.columns))
    if layout.hash != m.hash:
        raise BadInput("a layout that is not what its hash says")
    return layout


def _pool_to(pool: Pool) -> pb.Pool:
    return pb.Pool(
        url=pool.url,
        user=pool.user,
        state=pool.state or "",
        accepted=pool.accepted,
        rejected=pool.rejected,
        stale=pool.stale,
        priority=pool.priority,
        active=pool.active,
    )


def _pool_from(m: pb.Pool) -> Pool:
    return Pool(
        url=m.url,
        user=m.user,
        state=m.state or None,
        accepted=m.accepted if m.HasField("accepted") else None,
        rejected=m.rejected if m.HasField("rejected") else None,
        stale=m.stale if m.HasField("stale") else None,
        priority=m.priority,
        active=m.active if m.HasField("active") else None,
    )


def device_to(device: Device) -> pb.Device:
    return pb.Device(
        identity=device.identity,
        key=device_key(device.identity),
        target=device.target,
        kind=device.kind,
        name=device.name,
        make=device.make,
        model=device.model,
        firmware=device.firmware,
        address=device.address,
        mac=device.mac,
        serial=device.serial,
        simulated=device.simulated,
        mode=device.mode,
        pools=[_pool_to(pool) for pool in device.pools],
        conditions=[pb.Condition(code=c.code, text=c.text, severity=c.severity) for c in device.conditions],
        missing=device.missing,
        capabilities=device.capabilities,
        facts=device.facts,
        state=device.state,
        fault=device.fault,
        fault_text=device.fault_text,
        sheet_id=device.sheet_id,
        seen_ms=device.seen_ms,
        components=device.components,
    )


def device_from(m: pb.Device) -> Device:
    if not m.identity or len(m.identity) > 200:
        raise BadInput(f"a device with the identity {m.identity[:40]!r}")
    if m.key != device_key(m.identity):
        raise BadInput(f"device {m.identity} with the key of another")
    return Device(
        identity=m.identity,
        kind=m.kind,
        state=_word(DeviceState, m.state, f"state of {m.identity}"),
        target=m.target,
        name=m.name,
        make=m.make,
        model=m.model,
        firmware=m.firmware,
        address=m.address,
        mac=m.mac,
        serial=m.serial,
        simulated=m.simulated,
        mode=m.mode,
        pools=tuple(_pool_from(pool) for pool in m.pools),
        conditions=tuple(Condition(c.code, c.text, c.severity) for c in m.conditions),
        missing=tuple(m.missing),
        capabilities=tuple(_word(ActionKind, kind, f"capability of {m.identity}") for kind in m.capabilities),
        facts=dict(m.facts),
        fault=m.fault,
        fault_text=m.fault_text,
        sheet_id=m.sheet_id,
        seen_ms=m.seen_ms,
        components=tuple(m.components),
    )


def roster_to(devices: Iterable[Device], gone: Sequence[str], *, whole: bool) -> pb.Roster:
    return pb.Roster(whole=whole, devices=[device_to(device) for device in devices], gone=gone)


def event_to(event: Event, boot: bytes = b"", seq: int = 0) -> pb.Event:
    return pb.Event(
        boot=boot,
        seq=seq,
        at_ms=event.at_ms,
        kind=event.kind,
        device=event.device,
        severity=event.severity,
        text=event.text,
        detail=event.detail,
    )


def event_from(m: pb.Event) -> Event:
    return Event(m.at_ms, m.kind, m.text, m.device, m.severity, dict(m.detail))


# ---- what a post should do ---------------------------------------------------------------------------------


def _credentials_to(credentials: Credentials | None) -> pb.Credentials | None:
    return None if credentials is None else pb.Credentials(username=credentials.username, password=credentials.password)


def _credentials_from(m: pb.Target | pb.Board) -> Credentials | None:
    return Credentials(m.credentials.username, m.credentials.password) if m.HasField("credentials") else None


def _target_to(target: Target) -> pb.Target:
    return pb.Target(
        id=target.id,
        address=target.address,
        make=target.make,
        credentials=_credentials_to(target.credentials),
        simulated=target.simulated,
        expected_hashrate_hs=target.expected_hashrate_hs,
        name=target.name,
        maintenance=target.maintenance,
        http_port=target.http_port,
    )


def _target_from(m: pb.Target) -> Target:
    return Target(
        id=m.id,
        address=m.address,
        make=m.make,
        credentials=_credentials_from(m),
        simulated=m.simulated,
        expected_hashrate_hs=m.expected_hashrate_hs if m.HasField("expected_hashrate_hs") else None,
        name=m.name,
        maintenance=m.maintenance,
        http_port=m.http_port,
    )


def _board_to(board: Board) -> pb.Board:
    return pb.Board(
        id=board.id,
        kind=board.kind,
        address=board.address,
        outlets=board.outlets,
        credentials=_credentials_to(board.credentials),
        simulated=board.simulated,
        options=board.options,
    )


def _board_from(m: pb.Board) -> Board:
    return Board(m.id, m.kind, m.address, m.outlets, _credentials_from(m), m.simulated, dict(m.options))


def _outlet_to(o: Outlet) -> pb.Outlet:
    return pb.Outlet(board=o.board, outlet=o.outlet, device=o.device, target=o.target, circuit=o.circuit, protected=o.protected)


def _outlet_from(m: pb.Outlet) -> Outlet:
    return Outlet(m.board, m.outlet, m.device, m.target, m.circuit, m.protected)


def assignment_to(assignment: Assignment) -> pb.Assignment:
    power = assignment.power
    return pb.Assignment(
        revision=assignment.revision,
        targets=[_target_to(target) for target in assignment.targets],
        boards=[_board_to(board) for board in assignment.boards],
        outlets=[_outlet_to(outlet) for outlet in assignment.outlets],
        poll_every_ms=assignment.poll_every_ms,
        power=pb.PowerLimits(
            off_s=power.off_s,
            min_interval_s=power.min_interval_s,
            max_per_day=power.max_per_day,
            stagger_ms=power.stagger_ms,
        ),
    )


def assignment_from(m: pb.Assignment) -> Assignment:
    """Without power limits the defaults hold: absent is never "no limit"."""
    limits = m.power
    return Assignment(
        revision=m.revision,
        targets=tuple(_target_from(target) for target in m.targets),
        boards=tuple(_board_from(board) for board in m.boards),
        outlets=tuple(_outlet_from(outlet) for outlet in m.outlets),
        poll_every_ms=m.poll_every_ms,
        power=PowerLimits(limits.off_s, limits.min_interval_s, limits.max_per_day, limits.stagger_ms)
        if m.HasField("power")
        else PowerLimits(),
    )


def packed_assignment(assignment: Assignment) -> bytes:
    """As a sentry keeps it on disk. `unpacked_assignment` reads it back."""
    return assignment_to(assignment).SerializeToString()


def unpacked_assignment(data: bytes) -> Assignment:
    """Raises BadInput."""
    return assignment_from(parsed(pb.Assignment, data))


def _sheet_to(sheet: Sheet) -> pb.Sheet:
    archive = sheet.archive
    return pb.Sheet(
        id=sheet.id,
        name=sheet.name,
        coin=sheet.coin,
        algorithm=sheet.algorithm,
        pools=[pb.PoolOrder(url=pool.url, user=pool.user, password=pool.password) for pool in sheet.pools],
        wallet=sheet.wallet,
        worker=sheet.worker,
        program=sheet.program,
        version=sheet.version,
        arguments=sheet.arguments,
        archive=None
        if archive is None
        else pb.Archive(
            location=archive.location, sha256=archive.sha256, executable=archive.executable, simulated=archive.simulated
        ),
        verify_within_s=sheet.verify_within_s,
    )


def _sheet_from(m: pb.Sheet) -> Sheet:
    a = m.archive
    return Sheet(
        id=m.id,
        name=m.name,
        coin=m.coin,
        algorithm=m.algorithm,
        pools=tuple(PoolOrder(pool.url, pool.user, pool.password) for pool in m.pools),
        wallet=m.wallet,
        worker=m.worker,
        program=m.program,
        version=m.version,
        arguments=tuple(m.arguments),
        archive=Archive(a.location, a.sha256, a.executable, a.simulated) if m.HasField("archive") else None,
        verify_within_s=m.verify_within_s,
    )


# ---- orders ------------------------------------------------------------------------------------------------


def order_to(order: Order) -> pb.Action:
    """The argument message follows from the kind; what an order of that kind does not use is not sent."""
    message = pb.Action(
        id=order.id,
        kind=order.kind,
        device=order.device,
        not_after_ms=max(0, min(order.not_after_ms, 2**32 - 1)),
        epoch=order.epoch,
    )
    if order.kind is ActionKind.APPLY_FLIGHT_SHEET and order.sheet is not None:
        message.sheet.CopyFrom(_sheet_to(order.sheet))
    elif order.kind is ActionKind.POWER_CYCLE:
        message.power_cycle.CopyFrom(pb.PowerCycle(off_s=order.off_s, force=order.force))
    elif order.kind is ActionKind.LOCATE:
        message.locate.CopyFrom(pb.Locate(on=order.locate_on))
    elif order.kind is ActionKind.SET_POWER_MODE:
        message.power_mode.CopyFrom(pb.SetPowerMode(mode=order.power_mode))
    elif order.kind is ActionKind.SET_POWER_LIMIT:
        message.power_limit.CopyFrom(pb.SetPowerLimit(limit_w=order.power_limit_w))
    elif order.kind is ActionKind.SET_FAN:
        message.fan.CopyFrom(pb.SetFan(percent=order.fan_pct))
    elif order.kind is ActionKind.SET_HOSTNAME:
        message.hostname.CopyFrom(pb.SetHostname(hostname=order.hostname))
    return message


_ARGUMENTS = {
    ActionKind.APPLY_FLIGHT_SHEET: "sheet",
    ActionKind.POWER_CYCLE: "power_cycle",
    ActionKind.LOCATE: "locate",
    ActionKind.SET_POWER_MODE: "power_mode",
    ActionKind.SET_POWER_LIMIT: "power_limit",
    ActionKind.SET_FAN: "fan",
    ActionKind.SET_HOSTNAME: "hostname",
}


def order_from(m: pb.Action) -> Order:
    kind = _word(ActionKind, m.kind, "order")
    given, wanted = m.WhichOneof("arguments"), _ARGUMENTS.get(kind)
    if given != wanted:
        raise BadInput(f"an order {kind} with {given or 'no'} arguments, where it takes {wanted or 'none'}")
    if not m.id or len(m.id) > 64 or not m.device or len(m.device) > 200:
        raise BadInput("an order without a proper id and device")
    if (wrong := _wrong_setting(m)) is not None:
        raise BadInput(wrong)
    cycle, locate = kind is ActionKind.POWER_CYCLE, kind is ActionKind.LOCATE
    return Order(
        id=m.id,
        kind=kind,
        device=m.device,
        not_after_ms=m.not_after_ms,
        epoch=m.epoch,
        sheet=_sheet_from(m.sheet) if given == "sheet" else None,
        off_s=m.power_cycle.off_s if cycle else 0,
        force=m.power_cycle.force if cycle else False,
        locate_on=m.locate.on if locate else True,
        power_mode=m.power_mode.mode,
        power_limit_w=m.power_limit.limit_w,
        fan_pct=m.fan.percent if m.fan.HasField("percent") else None,
        hostname=m.hostname.hostname,
    )


def _wrong_setting(m: pb.Action) -> str | None:
    """What is wrong with the setting that an order brings."""
    match m.WhichOneof("arguments"):
        case "power_mode" if not is_mode(m.power_mode.mode):
            return f"an order to set the power mode {m.power_mode.mode[:80]!r}"
        case "power_limit" if not 0 < m.power_limit.limit_w <= MAX_POWER_LIMIT_W:
            return f"an order to limit the power to {m.power_limit.limit_w} W"
        case "fan" if m.fan.percent > 100:
            return f"an order to set the fan to {m.fan.percent} %"
        case "hostname" if not is_hostname(m.hostname.hostname):
            return f"an order to set the host name {m.hostname.hostname[:80]!r}"
    return None


def report_to(report: Report, boot: bytes = b"", seq: int = 0) -> pb.ActionReport:
    return pb.ActionReport(
        boot=boot,
        seq=seq,
        action_id=report.action_id,
        state=cast("pb.ActionState.ValueType", report.state.value),
        at_ms=report.at_ms,
        fault=report.fault,
        text=report.text,
        detail=report.detail,
    )


def report_from(m: pb.ActionReport) -> Report:
    return Report(m.action_id, _state(m.state), m.at_ms, m.fault, m.text, dict(m.detail))


# ---- refusals ----------------------------------------------------------------------------------------------

FAULT_KEY = "garrison-code"
"""The trailing metadata in which a refused call carries the fault's code; its text is in the status."""
