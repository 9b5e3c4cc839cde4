"""Messages to plain data and back: what goes in comes out, and what makes no sense is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison import wire
from garrison.catalogue import METRICS
from garrison.faults import BadInput
from garrison.frame import Layout
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
from garrison.words import ActionKind, ActionState, DeviceState

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
number = st.integers(0, 2**32 - 1)
big = st.integers(0, 2**63 - 1)
signed = st.integers(-(2**63), 2**63 - 1)
details = st.dictionaries(text, text, max_size=4)
boots = st.binary(min_size=16, max_size=16)
flag = st.booleans()


def tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=3).map(tuple)


credentials = st.none() | st.builds(Credentials, text, text)
pools = st.builds(
    Pool,
    url=text,
    user=text,
    state=st.none() | name,
    accepted=st.none() | big,
    rejected=st.none() | big,
    stale=st.none() | big,
    priority=number,
    active=st.none() | flag,
)
devices = st.builds(
    Device,
    identity=name,
    kind=text,
    state=st.sampled_from(DeviceState),
    target=text,
    name=text,
    make=text,
    model=text,
    firmware=text,
    address=text,
    mac=text,
    serial=text,
    simulated=flag,
    mode=text,
    pools=tuples(pools),
    conditions=tuples(st.builds(Condition, text, text, text)),
    missing=tuples(text),
    capabilities=tuples(st.sampled_from(ActionKind)),
    facts=details,
    fault=text,
    fault_text=text,
    sheet_id=text,
    seen_ms=signed,
    components=tuples(text),
)
targets = st.builds(
    Target,
    id=text,
    address=text,
    make=text,
    credentials=credentials,
    simulated=flag,
    expected_hashrate_hs=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    name=text,
    maintenance=flag,
    http_port=number,
)
boards = st.builds(
    Board, id=text, kind=text, address=text, outlets=number, credentials=credentials, simulated=flag, options=details
)
outlets = st.builds(Outlet, board=text, outlet=text, device=text, target=text, circuit=text, protected=flag)
assignments = st.builds(
    Assignment,
    revision=big,
    targets=tuples(targets),
    boards=tuples(boards),
    outlets=tuples(outlets),
    poll_every_ms=number,
    power=st.builds(PowerLimits, number, number, number, number),
)
sheets = st.builds(
    Sheet,
    id=text,
    name=text,
    coin=text,
    algorithm=text,
    pools=tuples(st.builds(PoolOrder, text, text, text)),
    wallet=text,
    worker=text,
    program=text,
    version=text,
    arguments=tuples(text),
    archive=st.none() | st.builds(Archive, text, text, text, flag),
    verify_within_s=number,
)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    kind = draw(st.sampled_from(ActionKind))
    return Order(
        id=draw(name),
        kind=kind,
        device=draw(name),
        not_after_ms=draw(number),
        epoch=draw(big),
        sheet=draw(sheets) if kind is ActionKind.APPLY_FLIGHT_SHEET else None,
        off_s=draw(number) if kind is ActionKind.POWER_CYCLE else 0,
        force=draw(flag) if kind is ActionKind.POWER_CYCLE else False,
        locate_on=draw(flag) if kind is ActionKind.LOCATE else True,
        power_mode=draw(st.sampled_from(["low", "290MHz", "2550"])) if kind is ActionKind.SET_POWER_MODE else "",
        power_limit_w=draw(st.integers(1, 100_000)) if kind is ActionKind.SET_POWER_LIMIT else 0,
        fan_pct=draw(st.none() | st.integers(0, 100)) if kind is ActionKind.SET_FAN else None,
        hostname=draw(st.sampled_from(["a", "miner-7", "x" * 63])) if kind is ActionKind.SET_HOSTNAME else "",
    )


spans = st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 50)), max_size=5).map(lambda s: [(a, a + n) for a, n in s])


@st.composite
def helds(draw: st.DrawFn) -> tuple[Held, ...]:
    found = draw(st.dictionaries(boots, spans.filter(bool), max_size=2))
    return tuple(Held(boot, s.first, s.last) for boot, its in found.items() for s in Spans(its))


@given(devices)
def test_a_device_comes_back_as_it_went(device: Device) -> None:
    """Every field, None kept apart from 0 and from empty."""
    assert wire.device_from(wire.parsed(pb.Device, wire.device_to(device).SerializeToString())) == device


@given(assignments)
def test_an_assignment_comes_back_as_it_went(assignment: Assignment) -> None:
    """Credentials of None stay None; limits of 0 stay 0."""
    assert wire.assignment_from(wire.parsed(pb.Assignment, wire.assignment_to(assignment).SerializeToString())) == assignment


@given(orders())
def test_an_order_comes_back_as_it_went(order: Order) -> None:
    """With the arguments of its kind and no others."""
    assert wire.order_from(wire.parsed(pb.Action, wire.order_to(order).SerializeToString())) == order


@given(st.builds(Event, at_ms=signed, kind=text, text=text, device=text, severity=text, detail=details))
def test_an_event_comes_back_as_it_went(event: Event) -> None:
    """Events are records: nothing in them may change on the way."""
    assert wire.event_from(wire.event_to(event, b"b" * 16, 7)) == event


@given(st.builds(Report, action_id=text, state=st.sampled_from(ActionState), at_ms=signed, fault=text, text=text, detail=details))
def test_a_report_comes_back_as_it_went(report: Report) -> None:
    """The state keeps its meaning by number."""
    assert wire.report_from(wire.report_to(report)) == report


@given(
    st.builds(
        SentryHello,
        kind=text,
        software=text,
        boot=boots,
        wall_ms=signed,
        capabilities=tuples(text),
        facts=details,
        highest_epoch=big,
        frames_dropped=big,
        frames=helds(),
        records=helds(),
        address=st.just("127.0.0.1:5"),
        machine=boots | st.just(b""),
    )
)
def test_a_hello_comes_back_as_it_went(hello: SentryHello) -> None:
    """What the journal holds is the same on both sides, boot by boot and lane by lane."""
    back = wire.hello_from(wire.hello_to("s1", hello), hello.address)
    assert set(back.frames) == set(hello.frames)
    assert set(back.records) == set(hello.records)
    assert back.machine == hello.machine
    assert wire.hello_to("s1", back).SerializeToString(deterministic=True) == wire.hello_to("s1", hello).SerializeToString(
        deterministic=True
    )


@given(st.builds(Welcome, farm=text, epoch=big, wall_ms=signed, reconnect_window_ms=number, backlog_window=number, frames=helds()))
def test_a_welcome_comes_back_as_it_went(welcome: Welcome) -> None:
    """What is durable at the commander is what the sentry may forget."""
    back = wire.welcome_from(wire.welcome_to(welcome))
    assert set(back.frames) == set(welcome.frames)
    assert (back.farm, back.epoch, back.backlog_window) == (welcome.farm, welcome.epoch, welcome.backlog_window)


@given(st.sets(st.tuples(st.sampled_from(list(METRICS)), st.sampled_from(["", "board:0", "fan:1"])), min_size=1))
def test_a_layout_comes_back_as_it_went(series: set[tuple[str, str]]) -> None:
    """Its hash too: frames name it by that."""
    layout = Layout.of(series)
    assert wire.layout_from(wire.layout_to(layout)) == layout


@given(st.binary(max_size=300))
def test_noise_is_refused_or_read_but_never_breaks(noise: bytes) -> None:
    """Bytes from outside raise BadInput or make a message; nothing else."""
    for kind in (pb.Up, pb.Down):
        try:
            message: Any = wire.parsed(kind, noise)
            which = message.WhichOneof("message")
            reader: Any = {
                "roster": lambda m: [wire.device_from(d) for d in m.devices],
                "event": wire.event_from,
                "report": wire.report_from,
                "layout": wire.layout_from,
                "assignment": wire.assignment_from,
                "action": wire.order_from,
                "ack": lambda m: wire.marks_from(m.marks),
                "hello": lambda m: wire.hello_from(m, ""),
                "welcome": wire.welcome_from,
            }.get(which)
            if reader:
                reader(getattr(message, which))
        except BadInput:
            pass


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: wire.device_from(_device(state="dancing")), id="unknown state"),
        pytest.param(lambda: wire.device_from(_device(capabilities=["explode"])), id="unknown capability"),
        pytest.param(lambda: wire.device_from(_device(key=1)), id="the key of another device"),
        pytest.param(lambda: wire.device_from(_device(identity="")), id="no identity"),
        pytest.param(lambda: wire.order_from(pb.Action(id="1", kind="explode", device="d")), id="unknown order"),
        pytest.param(lambda: wire.order_from(pb.Action(id="1", kind="apply_flight_sheet", device="d")), id="no sheet"),
        pytest.param(
            lambda: wire.order_from(pb.Action(id="1", kind="reboot", device="d", locate=pb.Locate())), id="strange arguments"
        ),
        pytest.param(lambda: wire.order_from(pb.Action(kind="reboot", device="d")), id="no id"),
        pytest.param(lambda: wire.order_from(_setting(power_mode=pb.SetPowerMode(mode=" "))), id="a mode without a name"),
        pytest.param(lambda: wire.order_from(_setting(power_mode=pb.SetPowerMode(mode="x" * 65))), id="a mode too long"),
        pytest.param(lambda: wire.order_from(_setting(power_limit=pb.SetPowerLimit())), id="a limit of nothing"),
        pytest.param(lambda: wire.order_from(_setting(power_limit=pb.SetPowerLimit(limit_w=100_001))), id="a limit too high"),
        pytest.param(lambda: wire.order_from(_setting(fan=pb.SetFan(percent=101))), id="a fan too fast"),
        pytest.param(lambda: wire.order_from(_setting(hostname=pb.SetHostname(hostname="a b"))), id="two host names"),
        pytest.param(lambda: wire.order_from(_setting(hostname=pb.SetHostname(hostname="-a"))), id="a false host name"),
        pytest.param(lambda: wire.order_from(pb.Action(id="1", kind="set_fan", device="d")), id="a fan without a word"),
        pytest.param(lambda: wire.report_from(pb.ActionReport(action_id="1")), id="no state"),
        pytest.param(lambda: wire.checked(pb.Target(expected_hashrate_hs=math.nan)), id="not a number"),
        pytest.param(
            lambda: wire.checked(pb.Assignment(targets=[pb.Target(expected_hashrate_hs=math.inf)])), id="infinite, inside"
        ),
        pytest.param(lambda: wire.checked(pb.Event(text="x" * (wire.MAX_TEXT + 1))), id="a text too long"),
        pytest.param(lambda: wire.checked(pb.Event(detail={"k": "x" * (wire.MAX_TEXT + 1)})), id="a text too long in a map"),
        pytest.param(lambda: wire.checked(pb.Roster(gone=["x"] * (wire.MAX_ITEMS + 1))), id="a list too long"),
        pytest.param(lambda: wire.marks_from([pb.Mark(lane=pb.LANE_FRAMES, boot=b"short")]), id="a boot id too short"),
        pytest.param(lambda: wire.hello_from(pb.Hello(boot=b"b" * 16, machine=b"short"), ""), id="a machine too short"),
        pytest.param(lambda: wire.hello_from(pb.Hello(boot=b"b" * 16, machine=b"m" * 17), ""), id="a machine too long"),
        pytest.param(lambda: wire.marks_from([pb.Mark(boot=b"b" * 16)]), id="no lane"),
        pytest.param(
            lambda: wire.marks_from([pb.Mark(lane=pb.LANE_FRAMES, boot=b"b" * 16, spans=[pb.Span(first=3, last=2)])]),
            id="backwards",
        ),
        pytest.param(
            lambda: wire.marks_from([pb.Mark(lane=pb.LANE_FRAMES, boot=b"b" * 16, spans=[pb.Span(last=2)])]), id="number 0"
        ),
        pytest.param(lambda: wire.layout_from(pb.Layout()), id="an empty layout"),
        pytest.param(
            lambda: wire.layout_from(pb.Layout(hash=b"x" * 16, columns=[pb.Column(metric="power_w", unit="W")])), id="a false hash"
        ),
        pytest.param(lambda: wire.layout_from(pb.Layout(columns=[pb.Column(metric="power_w", unit="kW")])), id="another unit"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    """One case a rule: BadInput with a sentence."""
    with pytest.raises(BadInput) as refused:
        make()
    assert len(refused.value.text) > 5


def _device(**changes: Any) -> pb.Device:
    message = wire.device_to(Device("mac:aa", "asic", DeviceState.MINING))
    for field, value in changes.items():
        if isinstance(value, list):
            getattr(message, field).extend(value)
        else:
            setattr(message, field, value)
    return message


def _setting(**arguments: Any) -> pb.Action:
    (name,) = arguments
    return pb.Action(id="1", kind=f"set_{name}", device="d", **arguments)
