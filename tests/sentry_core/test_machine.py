"""Which machine this is: the same after every start, another one on other hardware, unknown rather than guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentry_core import machine
from sentry_core.machine import Card, machine_of, read_linux

BOARD = "4c4c4544-0036-3510-8052-b4c04f4c3233"
WIRED, SECOND = Card("02:42:1c:00:00:01", fixed=True), Card("02:42:1c:00:00:02", fixed=True)
STICK = Card("02:42:1c:00:00:03")
UNKNOWN = b""


@pytest.mark.parametrize(
    ("cards", "board", "same_as"),
    [
        pytest.param([SECOND, WIRED], BOARD, ([WIRED, SECOND], ""), id="in any order, and readable by root or not"),
        pytest.param([WIRED, STICK], "", ([WIRED], ""), id="a stick comes and goes"),
        pytest.param([Card("02421C000001", fixed=True)], "", ([WIRED], ""), id="however it is written"),
        pytest.param([WIRED, Card("", fixed=True)], "", ([WIRED], ""), id="a card that does not tell"),
        pytest.param([STICK], BOARD, ([], BOARD), id="the board before a stick"),
        pytest.param([STICK], "03000200-0400-0500-0006-000700080009", ([STICK], ""), id="a made-up board"),
        pytest.param([STICK], "00000000-0000-0000-0000-000000000000", ([STICK], ""), id="an empty board"),
        pytest.param([STICK], "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", ([STICK], ""), id="a blank board"),
        pytest.param([STICK], "To be filled by O.E.M.", ([STICK], ""), id="a board that says nothing"),
        pytest.param([Card("00:00:00:00:00:00", fixed=True)], BOARD, ([], BOARD), id="no address"),
        pytest.param([Card("ff:ff:ff:ff:ff:ff", fixed=True)], BOARD, ([], BOARD), id="everybody's address"),
    ],
)
def test_the_same(cards: list[Card], board: str, same_as: tuple[list[Card], str]) -> None:
    """What may change by itself counts for nothing while there is something better."""
    assert len(machine_of(cards, board)) == machine.BYTES
    assert machine_of(cards, board) == machine_of(*same_as)


def test_another() -> None:
    """Each of these is a machine of its own, and no address can be read from it."""
    found = [
        machine_of([WIRED], ""),
        machine_of([SECOND], ""),
        machine_of([WIRED, SECOND], ""),
        machine_of([], BOARD),
        machine_of([], "00000000c3f1d2a4"),
    ]
    assert len(set(found)) == len(found)
    assert not any(b"\x02\x42\x1c" in one for one in found)


@pytest.mark.parametrize("board", ["", "Default string", "03000200040005000006000700080009", "1", "\0"])
def test_not_known(board: str) -> None:
    """Nothing to go by is empty, never a constant."""
    assert machine_of([Card(""), Card("no mac"), Card("00:00:00:00:00:00")], board) == UNKNOWN


class Box:
    """A machine's /sys, as much of it as is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.permanent: dict[str, str] = {}

    def card(
        self,
        name: str,
        mac: str,
        where: str,
        *,
        wireless: bool = False,
        assigned: str = "0",
        type_: str = "1",
        virtual: bool = False,
    ) -> None:
        folder = self.root / "sys/class/net" / name
        folder.mkdir(parents=True)
        for file, text in (("address", mac), ("addr_assign_type", assigned), ("type", type_)):
            (folder / file).write_text(f"{text}\n")
        if not virtual:
            device = self.root / "sys/devices" / where
            device.mkdir(parents=True)
            (folder / "device").symlink_to(device)
        if wireless:
            (folder / "wireless").mkdir()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True)
        (self.root / path).write_text(text)

    def read(self) -> bytes:
        return read_linux(self.root, lambda name: self.permanent.get(name, ""))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_rig(box: Box) -> None:
    """The wired card of the board alone; not the bridge, the tunnel, the stick, the Wi-Fi, the part of a shared card."""
    box.card("eth0", "02:42:1c:00:00:01", "pci0000:00/0000:00:1f.6")
    box.card("docker0", "02:42:1c:00:00:11", "", virtual=True)
    box.card("wg0", "", "", virtual=True, type_="65534")
    box.card("eth1", "02:42:1c:00:00:12", "pci0000:00/0000:00:14.0/usb1/1-3/1-3:1.0")
    box.card("wlan0", "02:42:1c:00:00:13", "pci0000:00/0000:02:00.0", wireless=True)
    box.card("ib0", "02:42:1c:00:00:14", "pci0000:00/0000:03:00.0", type_="32")
    box.card("eth2", "02:42:1c:00:00:15", "pci0000:00/0000:04:00.1")
    (box.root / "sys/devices/pci0000:00/0000:04:00.1/physfn").mkdir()
    box.write("sys/class/dmi/id/product_uuid", f"{BOARD}\n")
    assert box.read() == machine_of([WIRED], "")


def test_an_address_from_the_disk(box: Box) -> None:
    """One that software has set is copied with the disk: what is burnt in counts, and without that nothing."""
    box.card("eth0", "02:42:1c:00:00:77", "pci0000:00/0000:00:1f.6", assigned="3")
    assert box.read() == UNKNOWN
    box.permanent["eth0"] = "02421c000001"
    assert box.read() == machine_of([WIRED], "")


def test_a_board_with_a_device_tree(box: Box) -> None:
    """A small one, whose only cards hang on USB."""
    box.card("eth0", "02:42:1c:00:00:03", "platform/soc/3f980000.usb/usb1/1-1/1-1.1")
    assert box.read() == machine_of([STICK], "")
    box.write("sys/firmware/devicetree/base/serial-number", "00000000c3f1d2a4\0")
    assert box.read() == machine_of([], "00000000c3f1d2a4")


def test_nothing_there(box: Box) -> None:
    """A container that sees no hardware."""
    assert box.read() == UNKNOWN


def test_this_machine() -> None:
    """Twice the same, and quickly enough for a start."""
    found = machine.read()
    assert found == machine.read()
    assert len(found) in (0, machine.BYTES)
