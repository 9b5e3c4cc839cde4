"""What the fleet decides, as tables of cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.fleet.records import BoardRecord, DeviceRecord, OutletRecord
from commander.fleet.rules import (
    Resolution,
    Verdict,
    assignment,
    checked_address,
    checked_name,
    checked_tag,
    digest,
    hidden_credentials,
    judge_device,
    judge_sentry,
    matches,
    plain_mac,
    resolve,
    same_place,
    told_name,
    unique_name,
)
from garrison.faults import BadInput
from garrison.model import Assignment, Credentials, Device, PowerLimits
from garrison.words import DeviceState as D
from garrison.words import PowerState as P
from garrison.words import SentryState as S

NORMAL = {"quiet_ms": 0, "since_start_ms": 10**9, "silent_after_ms": 30_000, "window_ms": 20_000, "ever_seen": True}


@pytest.mark.parametrize(
    ("standing", "given_", "state"),
    [
        ("approved", {"stream_open": True}, S.CONNECTED),
        ("approved", {"stream_open": True, "backlog_ms": 60_001}, S.LAGGING),
        ("approved", {"stream_open": True, "backlog_ms": 60_000}, S.CONNECTED),
        ("approved", {"stream_open": False, "quiet_ms": 29_999}, S.CONNECTED),
        ("approved", {"stream_open": False, "quiet_ms": 30_000}, S.SILENT),
        # after our own start nobody is called silent for two windows
        ("approved", {"stream_open": False, "quiet_ms": 39_999, "since_start_ms": 39_999}, S.CONNECTED),
        ("approved", {"stream_open": False, "quiet_ms": 40_000, "since_start_ms": 40_000}, S.SILENT),
        # it has never been here: there is nothing to hold on to
        ("approved", {"stream_open": False, "since_start_ms": 0, "ever_seen": False}, S.SILENT),
        ("pending", {"stream_open": False}, S.PENDING),
        ("revoked", {"stream_open": True}, S.REVOKED),
    ],
)
def test_sentry_state(standing: str, given_: dict[str, object], state: S) -> None:
    """Each word stands for one situation, and the grace after our own start holds."""
    assert judge_sentry(standing, **{**NORMAL, **given_}) is state  # type: ignore[arg-type]  # a table of cases


@pytest.mark.parametrize(
    ("reported", "given_", "state"),
    [
        (D.MINING, {"sentry": S.CONNECTED}, D.MINING),
        (D.MINING, {"sentry": S.LAGGING}, D.MINING),
        (D.MINING, {"sentry": S.SILENT}, D.UNKNOWN),
        (D.UNREACHABLE, {"sentry": S.SILENT}, D.UNKNOWN),
        (D.MINING, {"sentry": S.REVOKED}, D.UNKNOWN),
        (None, {"sentry": S.CONNECTED}, D.UNKNOWN),
        (D.MINING, {"sentry": S.CONNECTED, "left": True}, D.UNKNOWN),
        (D.MINING, {"sentry": S.CONNECTED, "age_ms": 300_001}, D.UNKNOWN),
        (D.MINING, {"sentry": S.CONNECTED, "age_ms": 300_000}, D.MINING),
        (D.UNREACHABLE, {"sentry": S.CONNECTED}, D.UNREACHABLE),
        (D.UNREACHABLE, {"sentry": S.CONNECTED, "outlet": P.OFF}, D.OFF),
        (D.SLOW, {"sentry": S.CONNECTED, "outlet": P.OFF}, D.OFF),
        # a rig that is switched off takes its own sentry with it
        (D.MINING, {"sentry": S.SILENT, "outlet": P.OFF}, D.OFF),
        # it answers, so the outlet cannot be what feeds it
        (D.MINING, {"sentry": S.CONNECTED, "outlet": P.OFF}, D.MINING),
        # unknown is never read as off
        (D.UNREACHABLE, {"sentry": S.CONNECTED, "outlet": P.UNKNOWN}, D.UNREACHABLE),
        (D.UNREACHABLE, {"sentry": S.CONNECTED, "outlet": P.CHANGING}, D.UNREACHABLE),
        (D.UNREACHABLE, {"sentry": S.CONNECTED, "maintenance": True}, D.MAINTENANCE),
        (D.MINING, {"sentry": S.SILENT, "maintenance": True}, D.MAINTENANCE),
    ],
)
def test_device_state(reported: D | None, given_: dict[str, object], state: D) -> None:
    """A silent sentry makes its devices unknown, never down; only an outlet known to be off makes a device off."""
    assert judge_device(reported, **given_) is state  # type: ignore[arg-type]  # a table of cases


def device(number: int, identity: str | None, sentry: str = "s1", watched: str = "10.0.0.1", **more: object) -> DeviceRecord:
    return DeviceRecord(number, identity, sentry, "asic", f"d{number}", 0, watched_address=watched, **more)  # type: ignore[arg-type]


def entry(identity: str, target: str = "", address: str = "") -> Device:
    return Device(identity, "asic", D.MINING, target=target, address=address)


A, B = "mac:02:00:00:00:00:0a", "mac:02:00:00:00:00:0b"


@pytest.mark.parametrize(
    ("given_", "by_identity", "by_target", "rival", "found"),
    [
        # before a target is identified
        (entry("target:1", "1"), None, device(1, None), False, Resolution(Verdict.UPDATE, 1)),
        (entry("target:1", "1"), None, device(1, A), False, Resolution(Verdict.UPDATE, 1)),
        (entry("target:9", "9"), None, None, False, Resolution(Verdict.IGNORE)),
        # identified
        (entry(A, "1"), None, device(1, None), False, Resolution(Verdict.ADOPT, 1)),
        (entry(A, "1"), device(1, A), device(1, A), False, Resolution(Verdict.UPDATE, 1)),
        (entry(A, "9"), None, None, False, Resolution(Verdict.IGNORE)),  # removed by a person meanwhile
        (entry("machine:x"), None, None, False, Resolution(Verdict.NEW)),
        # a known device answers at an address that was just added
        (entry(A, "2", "10.0.0.2"), device(1, A), device(2, None, watched="10.0.0.2"), False, Resolution(Verdict.TAKE_OVER, 1, 2)),
        # a stranger answers where A was
        (entry(B, "1", "10.0.0.1"), None, device(1, A), False, Resolution(Verdict.REPLACE, None, 1)),
        # A and B have exchanged addresses
        (entry(A, "2", "10.0.0.2"), device(1, A), device(2, B, watched="10.0.0.2"), False, Resolution(Verdict.SWAP, 1, 2)),
        # the same, told by a sentry that has not heard of the exchange yet
        (
            entry(A, "2", "10.0.0.2"),
            device(1, A, watched="10.0.0.2"),
            device(2, B, watched="10.0.0.1"),
            False,
            Resolution(Verdict.UPDATE, 1),
        ),
        (
            entry("mac:02:00:00:00:00:0c", "2", "10.0.0.2"),
            None,
            device(2, B, watched="10.0.0.1"),
            False,
            Resolution(Verdict.IGNORE),
        ),
        # from another sentry
        (entry(A), device(1, A, "s2"), None, True, Resolution(Verdict.CONFLICT, 1)),
        (entry(A, "2"), device(1, A, "s2"), device(2, None), True, Resolution(Verdict.CONFLICT, 1, 2)),
        (entry(A, "2"), device(1, A, "s2"), device(2, None), False, Resolution(Verdict.TAKE_OVER, 1, 2, moved=True)),
        (entry("machine:x"), device(1, "machine:x", "s2", ""), None, False, Resolution(Verdict.UPDATE, 1, moved=True)),
        # a sentry cannot get another's ASIC, and its password, by claiming to see it
        (entry(A), device(1, A, "s2"), None, False, Resolution(Verdict.CONFLICT, 1)),
    ],
)
def test_which_row(
    given_: Device, by_identity: DeviceRecord | None, by_target: DeviceRecord | None, rival: bool, found: Resolution
) -> None:
    """A roster entry belongs to one row: by identity first, by its target until it has one."""
    assert resolve(given_, "s1", by_identity, by_target, rival_sees_it=rival) == found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.168.1.10", "192.168.1.10"),
        (" 10.0.0.1:4028 ", "10.0.0.1:4028"),
        ("127.0.0.1:50123", "127.0.0.1:50123"),
        ("Miner-7.farm.lan", "miner-7.farm.lan"),
        ("miner:80", "miner:80"),
        ("fd00::1", "[fd00::1]"),
        ("[fd00::1]:4028", "[fd00::1]:4028"),
        ("::1", "[::1]"),
        ("100.64.3.4", "100.64.3.4"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)
def test_addresses_taken(text: str, shown: str) -> None:
    """A host or an address, with a port or without, comes out in one spelling."""
    assert checked_address(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8.8.8.8",
        "169.254.169.254",
        "169.254.1.1:80",
        "::ffff:169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "224.0.0.1",
        "ff02::1",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "10.0.0",
        "167772161",
        "0x7f000001",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:٣",
        "http://10.0.0.1",
        "10.0.0.1/24",
        "user@10.0.0.1",
        "a b",
        "-x",
        "[10.0.0.1",
        "[fd00::1]80",
        "x" * 300,
        "miner\n7",
    ],
)
def test_addresses_refused(text: str) -> None:
    """Public, link-local (the cloud's metadata), multicast, nonsense: refused before any sentry dials it."""
    with pytest.raises(BadInput):
        checked_address(text)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """Nothing but BadInput comes out, and what is taken is taken again, unchanged."""
    try:
        shown = checked_address(text)
    except BadInput:
        return
    assert checked_address(shown) == shown


def test_names_and_tags() -> None:
    """Names are printable and short, tags are plain; what a device tells us is made so."""
    assert checked_name("  Rig № 4 ") == "Rig № 4"
    assert checked_tag(" Rack-A ") == "rack-a"
    for bad in ("", " ", "a/b", "a\nb", "a\u202eb", "x" * 65, "a\x00"):
        with pytest.raises(BadInput):
            checked_name(bad)
    for bad in ("", "-a", "a b", "ä", "x" * 41, "a\nb"):
        with pytest.raises(BadInput):
            checked_tag(bad)
    assert told_name("a\x1b[2Jb/c\u202e", "rig") == "a[2Jb-c"
    assert told_name("\n", "rig") == "rig"
    assert unique_name("rig", {"rig", "rig-2"}) == "rig-3"


@given(st.text(max_size=200))
def test_any_told_name_is_a_name(text: str) -> None:
    """Whatever a device calls itself becomes a name that a person could have given."""
    assert checked_name(told_name(text, "rig"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1:4028", True),
        ("10.0.0.1:4028", "10.0.0.1", True),
        ("10.0.0.1:4028", "10.0.0.1:4029", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("[fd00::1]", "[fd00::1]:80", True),
        ("[fd00::1]", "[fd00::2]", False),
    ],
)
def test_same_place(one: str, other: str, same: bool) -> None:
    """An address without a port may be the one with any; two ports are two places."""
    assert same_place(one, other) is same


def test_matches() -> None:
    """A person may name a device by anything that it has, in any usual spelling."""
    one = device(7, A, watched="10.0.0.7:4028", seen=Device(A, "asic", D.MINING, mac="02:00:00:00:00:0a", serial="SN12"))
    for text in ("7", "D7", A, "02-00-00-00-00-0A", "02000000000a", "sn12", "10.0.0.7", "10.0.0.7:4028"):
        assert matches(text, one), text
    for text in ("", "8", "d", "10.0.0.70", "02:00:00:00:00:0b"):
        assert not matches(text, one), text
    assert plain_mac("zz") is None


def made(devices: list[DeviceRecord], boards: list[BoardRecord], outlets: list[OutletRecord], sentry: str = "s1") -> Assignment:
    return assignment(
        sentry,
        5,
        devices,
        boards,
        outlets,
        {one.id: one for one in devices}.get,
        lambda sealed, row: Credentials("root", f"{sealed.decode()}@{row}"),
        poll_every_ms=10_000,
        power=PowerLimits(),
    )


def test_assignment() -> None:
    """Targets and boards of this post only; an outlet names its device by identity, and by target where that is ours."""
    mine, foreign = device(1, A, sealed=b"x"), device(2, "machine:y", "s2", "")
    displaced = device(3, B, watched="")
    board = BoardRecord("b1", "rack", "s1", "fake", "10.0.0.9", 4, 0, sealed=b"y")
    other_board = BoardRecord("b2", "rack2", "s2", "fake", "10.0.0.8", 4, 0)
    outlets = [
        OutletRecord("b1", "10", 2),
        OutletRecord("b1", "2", 1, "c1", True),
        OutletRecord("b1", "3", None, "", True),
        OutletRecord("b2", "1", 1),
    ]
    given_ = made([foreign, mine, displaced], [other_board, board], outlets)
    assert [(one.id, one.address) for one in given_.targets] == [("1", "10.0.0.1")]
    assert given_.targets[0].credentials == Credentials("root", "x@devices/1/credentials")
    assert [one.id for one in given_.boards] == ["b1"]
    assert given_.boards[0].credentials == Credentials("root", "y@boards/b1/credentials")
    assert [(one.outlet, one.device, one.target) for one in given_.outlets] == [
        ("2", A, "1"),
        ("3", "", ""),
        ("10", "machine:y", ""),
    ]


def test_digest() -> None:
    """Same content, same digest whatever the revision; a new password is new content, and no password goes into it."""
    one, two = device(1, A, sealed=b"x"), device(1, A, sealed=b"z")
    assert digest(made([one], [], [])) != digest(made([two], [], []))
    assert digest(Assignment(1)) == digest(Assignment(2))
    assert "x" not in (hidden_credentials(b"x", "").username, hidden_credentials(b"x", "").password)
