"""Tests of commander.flight_sheets.rules: what a sheet may say, what is rendered, when a device has drifted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.flight_sheets import rules
from commander.flight_sheets.records import Application, PoolTemplate, ProgramRow, SheetRow, Template
from commander.model import DeviceRow
from garrison.faults import BadInput, NotSupported
from garrison.model import Archive, Pool, PoolOrder
from garrison.words import DeviceState

PLAIN = Template("xmr", "XMR", "rx/0", (PoolTemplate("stratum+tcp://pool.example:3333"),), "4AbC.x")
RIG = Template(
    "xmr-rig",
    "XMR",
    "rx/0",
    (PoolTemplate("stratum+ssl://one.example:443", "s3cret"), PoolTemplate("tcp://[::1]:3333")),
    "4AbC",
    program="xmrig",
    version="6.26.0",
    arguments=("-o", "{pool}", "--url={pool2}", "-u", "{user}", "-p", "{password}", "--rig-id", "{worker}", "{{{coin}}}"),
)
PROGRAM = ProgramRow("xmrig", "6.26.0", "/opt/xmrig.tar.gz", "ab" * 32, "xmrig-6.26.0/xmrig", simulated=True)


def a_device(kind: str = "rig", name: str = "Rig 1", **other: Any) -> DeviceRow:
    return DeviceRow(12, "machine:1", 1, "s", kind, name, other.pop("state", DeviceState.MINING), **other)


def a_sheet(template: Template) -> SheetRow:
    return SheetRow(3, 2, template, 0, 0, "me")


# ---- what one may say ----------------------------------------------------------------------------------------


def test_good_sheets() -> None:
    """They come back as they are, a password that was left out as x."""
    assert rules.checked(PLAIN) == replace(PLAIN, pools=(PoolTemplate(PLAIN.pools[0].url, "x"),))
    tidy = rules.checked(RIG)
    assert [pool.password for pool in tidy.pools] == ["s3cret", "x"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": ""}, "name"),
        ({"name": "17"}, "number"),
        ({"name": "a/b"}, "name"),
        ({"coin": "-BTC"}, "coin"),
        ({"coin": ""}, "coin"),
        ({"algorithm": "--help"}, "algorithm"),
        ({"wallet": ""}, "wallet"),
        ({"wallet": "-o"}, "wallet"),
        ({"wallet": "4A bC"}, "wallet"),
        ({"wallet": "4A\nbC"}, "wallet"),
        ({"wallet": "4AbC\n"}, "wallet"),
        ({"wallet": "{device}"}, "wallet"),
        ({"wallet": "x" * 201}, "wallet"),
        ({"pools": ()}, "pools"),
        ({"pools": (PLAIN.pools[0],) * 11}, "pools"),
        ({"worker": "{wallet}"}, "placeholder"),
        ({"worker": "{}"}, "placeholder"),
        ({"worker": "-{device}"}, "worker"),
        ({"worker": "a b"}, "worker"),
        ({"worker": "{device"}, "single {"),
        ({"worker": "device}"}, "single }"),
        ({"worker": ""}, "worker"),
        ({"user": "-{wallet}"}, "user"),
        ({"user": "{password}"}, "placeholder"),
        ({"user": "{wallet} {worker}"}, "user"),
        ({"verify_within_s": 4}, "verify_within_s"),
        ({"arguments": ("{pool}",)}, "without a program"),
        ({"version": "1"}, "without a program"),
        ({"program": "xmrig", "arguments": ("{WALLET}",)}, "single"),
        ({"program": "xmrig", "arguments": ("{walet}",)}, "unknown placeholder {walet}"),
        ({"program": "xmrig", "arguments": ("{pool2}",)}, "unknown placeholder {pool2}"),
        ({"program": "xmrig", "arguments": ("a\0b",)}, "argument"),
        ({"program": "xmrig", "arguments": ("",)}, "argument"),
        ({"program": "xmrig", "arguments": ("x" * 1001,)}, "argument"),
        ({"program": "xmrig", "arguments": ("x",) * 101}, "arguments"),
        ({"pools": (PoolTemplate(PLAIN.pools[0].url, "-x"),)}, "password"),
        ({"pools": (PoolTemplate(PLAIN.pools[0].url, "a b"),)}, "password"),
        ({"pools": (PoolTemplate(PLAIN.pools[0].url, rules.HIDDEN),)}, "password"),
        ({"pools": (PoolTemplate(PLAIN.pools[0].url, user="{nobody}"),)}, "placeholder"),
    ],
)
def test_bad_sheets(change: dict[str, Any], word: str) -> None:
    """Each is refused with the name of what is wrong."""
    with pytest.raises(BadInput) as caught:
        rules.checked(replace(PLAIN, **change))
    assert word in str(caught.value)


def test_an_unknown_placeholder_names_those_there_are() -> None:
    """The list stands in the hint, with the numbered pools of this very sheet."""
    with pytest.raises(BadInput) as caught:
        rules.checked(replace(RIG, arguments=("{rig}",)))
    for name in (*rules.IN_ARGUMENTS, "pool1", "pool2"):
        assert f"{{{name}}}" in caught.value.hint
    assert "{pool3}" not in caught.value.hint


def test_passwords_left_out_stay() -> None:
    """A change that does not name a pool's password keeps it; a new pool gets x."""
    changed = replace(RIG, pools=(PoolTemplate(RIG.pools[0].url), PoolTemplate("tcp://new.example:1")))
    assert [pool.password for pool in rules.checked(changed, rules.checked(RIG)).pools] == ["s3cret", "x"]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("stratum+tcp://pool.example:3333", ("pool.example", 3333)),
        ("stratum+ssl://POOL.example:443", ("pool.example", 443)),
        ("tcp://127.0.0.1:1", ("127.0.0.1", 1)),
        ("ssl://[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ],
)
def test_pool_addresses(url: str, place: tuple[str, int]) -> None:
    """Scheme, host and port."""
    assert rules.host_port(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pool.example:3333",
        "http://pool.example:3333",
        "file:///etc/passwd",
        "stratum+tcp://pool.example",
        "stratum+tcp://pool.example:0",
        "stratum+tcp://pool.example:70000",
        "stratum+tcp://pool.example:port",
        "stratum+tcp://:3333",
        "stratum+tcp://me:secret@pool.example:3333",
        "stratum+tcp://pool.example:3333/path",
        "stratum+tcp://pool.example:3333?a=b",
        "stratum+tcp://pool.example:3333#a",
        "stratum+tcp://pool.example:3333#",
        "stratum+tcp://-pool.example:3333",
        "stratum+tcp://pool example:3333",
        "stratum+tcp://pool.example:3333 --donate",
        "stratum+tcp://[::1:3333",
        "-o",
        "stratum+tcp://pöol.example:3333",
        "stratum+tcp://pool.example:3333\n",
    ],
)
def test_what_is_no_pool_address(url: str) -> None:
    """Refused, and a password in it is not repeated."""
    with pytest.raises(BadInput) as caught:
        rules.host_port(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("location", ["/opt/xmrig.tar.gz", "C:\\miners\\x.zip", "https://example.org/xmrig.tar.gz"])
def test_good_programs(location: str) -> None:
    """An absolute path or an https address; the hash in lower case."""
    program = rules.checked_program(replace(PROGRAM, location=location, sha256="AB" * 32))
    assert (program.location, program.sha256) == (location, "ab" * 32)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../xmrig"},
        {"name": ""},
        {"version": "1..2"},
        {"version": "-1"},
        {"sha256": "ab" * 31},
        {"sha256": ""},
        {"location": ""},
        {"location": "xmrig.tar.gz"},
        {"location": "//host/share"},
        {"location": "http://example.org/x"},
        {"location": "https://me:secret@example.org/x"},
        {"location": "https://"},
        {"location": "https://[x/"},
        {"location": "/opt/a\nb"},
        {"executable": "/bin/sh"},
        {"executable": "../../bin/sh"},
        {"executable": "a//b"},
        {"executable": "a\\b"},
        {"executable": "C:b"},
    ],
)
def test_bad_programs(change: dict[str, str]) -> None:
    """Refused; an address with a password in it is not repeated."""
    with pytest.raises(BadInput) as caught:
        rules.checked_program(replace(PROGRAM, **change))  # type: ignore[arg-type]  # only text fields are changed
    assert "secret" not in str(caught.value)


# ---- rendering -----------------------------------------------------------------------------------------------


def test_rendered_for_a_rig() -> None:
    """Every placeholder is filled, each argument stays one, the program comes pinned."""
    sheet = rules.render(a_sheet(RIG), PROGRAM, a_device())
    assert (sheet.id, sheet.name, sheet.worker, sheet.program, sheet.version) == ("3.2", "xmr-rig", "Rig-1", "xmrig", "6.26.0")
    one, two = "stratum+ssl://one.example:443", "tcp://[::1]:3333"
    assert sheet.pools == (PoolOrder(one, "4AbC.Rig-1", "s3cret"), PoolOrder(two, "4AbC.Rig-1", "x"))
    assert sheet.arguments == (*("-o", one, f"--url={two}", "-u", "4AbC.Rig-1", "-p", "s3cret", "--rig-id", "Rig-1", "{XMR}"),)
    assert sheet.archive == Archive("/opt/xmrig.tar.gz", "ab" * 32, "xmrig-6.26.0/xmrig", simulated=True)


def test_rendered_for_an_asic() -> None:
    """Pools and users, no program; a user of a pool's own wins."""
    template = replace(PLAIN, pools=(PLAIN.pools[0], PoolTemplate("tcp://b.example:1", "x", "account.{device}")))
    sheet = rules.render(a_sheet(template), None, a_device("asic", "10.0.0.7:4028"))
    assert [pool.user for pool in sheet.pools] == ["4AbC.x.10-0-0-7-4028", "account.10-0-0-7-4028"]
    assert (sheet.program, sheet.arguments, sheet.archive) == ("", (), None)


@pytest.mark.parametrize(
    ("template", "program", "kind"),
    [
        (PLAIN, None, "rig"),
        (RIG, PROGRAM, "asic"),
        (PLAIN, None, "relay"),
        (replace(PLAIN, pools=(PLAIN.pools[0],) * 4), None, "asic"),
    ],
)
def test_sheets_that_are_not_for_this_device(template: Template, program: ProgramRow | None, kind: str) -> None:
    """A rig needs a program, an ASIC must not get one nor more pools than it keeps, a relay mines nothing."""
    with pytest.raises(NotSupported):
        rules.render(a_sheet(template), program, a_device(kind))


@pytest.mark.parametrize(
    ("name", "worker"),
    [
        ("rig-1", "rig-1"),
        ("Rig 1", "Rig-1"),
        ("--help", "help"),
        ("-o pool", "o-pool"),
        ("Größe", "Groe"),
        ("矿机", "d12"),
        ("../../x", "x"),
        ("a" * 60, "a" * 40),
    ],
)
def test_names_become_worker_names(name: str, worker: str) -> None:
    """Letters every pool takes; something is always left."""
    assert rules.worker_name(a_device(name=name)) == worker


@given(st.text(max_size=64), st.sampled_from(["{device}", "{worker}", "{user}", "x{device}", "{wallet}{device}"]))
def test_no_value_becomes_an_option(name: str, argument: str) -> None:
    """Whatever a device is called: as many arguments as there are templates, none begins with "-", none has a control character."""
    sheet = rules.render(a_sheet(replace(RIG, arguments=(argument,))), PROGRAM, a_device(name=name))
    (rendered,) = sheet.arguments
    assert not rendered.startswith("-")
    assert rendered.isascii()
    assert rendered.isprintable()
    assert " " not in rendered


@given(
    st.fixed_dictionaries(
        {
            "wallet": st.text(max_size=30),
            "coin": st.text(max_size=10),
            "algorithm": st.text(max_size=10),
            "worker": st.text(max_size=20),
            "user": st.text(max_size=20),
        }
    ),
    st.lists(st.text(max_size=30), max_size=4),
    st.text(max_size=20),
)
def test_any_sheet_is_refused_or_harmless(fields: dict[str, str], arguments: list[str], password: str) -> None:
    """Whatever is typed in: BadInput, or values that are never options, in exactly as many arguments."""
    template = replace(RIG, arguments=("{wallet}", "{worker}", "{user}", "{password}", *arguments), **fields)  # type: ignore[arg-type]  # text fields
    try:
        tidy = rules.checked(replace(template, pools=(PoolTemplate("tcp://a.example:1", password),)))
    except BadInput:
        return
    sheet = rules.render(a_sheet(tidy), PROGRAM, a_device())
    assert len(sheet.arguments) == 4 + len(arguments)
    assert not any(value.startswith("-") for value in (*sheet.arguments[:4], sheet.wallet, sheet.worker, sheet.pools[0].user))


@given(st.text())
def test_filling_never_fails_otherwise(text: str) -> None:
    """Any text is filled or is BadInput; without braces it stays as it is."""
    try:
        filled = rules.filled(text, {"a": "b"}, ("a",), "argument")
    except BadInput:
        assert "{" in text or "}" in text
    else:
        assert filled == text or "{" in text or "}" in text


def test_a_value_that_would_be_an_option_is_refused() -> None:
    """The last gate, whatever came before it."""
    with pytest.raises(BadInput, match="must not begin with -"):
        rules.filled("{a}", {"a": "-x"}, ("a",), "argument")


def test_secrets_are_hidden_wherever_they_stand() -> None:
    """In the pools and inside arguments; what is no secret stays to be seen."""
    shown = rules.hidden(rules.render(a_sheet(replace(RIG, arguments=("-p={password}", "x"))), PROGRAM, a_device()))
    assert "s3cret" not in repr(shown)
    assert [pool.password for pool in shown.pools] == [rules.HIDDEN, "x"]
    assert shown.arguments == (f"-p={rules.HIDDEN}", "x")


# ---- does it run what it should ------------------------------------------------------------------------------

RIGHT = (Pool("stratum+tcp://pool.example:3333", "4AbC.x.a"),)
OTHER = (Pool("stratum+tcp://thief.example:3333", "4AbC.x.a"),)
OFFERED = (Pool("stratum+tcp://POOL.example:3333", "u", active=True), Pool("tcp://dead.example:1", "u", active=False))


def wanted(kind: str) -> Application:
    template, program = (RIG, PROGRAM) if kind == "rig" else (PLAIN, None)
    return Application("x", 12, 3, 2, 0, rules.render(a_sheet(template), program, a_device(kind, "a")))


@pytest.mark.parametrize(
    ("kind", "device", "order_open", "expected"),
    [
        ("asic", {"sheet_id": "3.2", "pools": RIGHT}, False, None),
        ("asic", {"sheet_id": "3.2", "pools": (*RIGHT, Pool("", "", priority=1))}, False, None),
        ("asic", {"sheet_id": "3.2"}, False, None),
        ("asic", {"pools": RIGHT}, False, None),
        ("asic", {"pools": RIGHT}, True, "switching"),
        ("asic", {}, False, "unknown"),
        ("asic", {"sheet_id": "3.1", "pools": RIGHT}, False, "sheet"),
        ("asic", {"sheet_id": "9.1", "pools": RIGHT}, False, "sheet"),
        ("asic", {"sheet_id": "3.2", "pools": OTHER}, False, "pools"),
        ("asic", {"sheet_id": "3.2", "pools": (*RIGHT, *OTHER)}, False, "pools"),
        ("asic", {"sheet_id": "3.2", "pools": (Pool(RIGHT[0].url, "thief"),)}, False, "pools"),
        ("asic", {"sheet_id": "9.1", "state": DeviceState.UNKNOWN}, False, "unknown"),
        ("asic", {"sheet_id": "3.2", "pools": RIGHT, "state": DeviceState.OFF}, False, "unknown"),
        ("rig", {"sheet_id": "3.2", "pools": (Pool("one.example:443", "u", active=True),)}, False, None),
        ("rig", {"sheet_id": "3.2", "pools": OFFERED}, False, "pools"),
        ("rig", {"sheet_id": "3.2"}, False, None),
        ("rig", {"sheet_id": ""}, False, "unknown"),
    ],
)
def test_drift(kind: str, device: dict[str, Any], order_open: bool, expected: str | None) -> None:
    """Another sheet, another pool or user is drift; who cannot be asked is unknown; an order under way is neither."""
    found = rules.drift(wanted(kind), a_device(kind, "a", **device), order_open=order_open)
    assert (found.kind if found else None) == expected


def test_drift_names_both_sides() -> None:
    """What it should run, and what it runs."""
    found = rules.drift(wanted("asic"), a_device("asic", "a", sheet_id="3.2", pools=OTHER), order_open=False)
    assert found is not None
    assert "thief.example:3333" in found.text
    assert "pool.example:3333" in found.text
