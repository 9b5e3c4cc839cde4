"""Which machine this is, by its hardware: what a copied disk does not carry along.

Called by `daemon.py` (`read`) at start. The commander tells two machines apart by it that call themselves one sentry.
Only a hash leaves this machine. It must not change by itself, so one kind of mark is taken, the first that is there:

1. the permanent MACs of built-in wired network cards: unique, and any user may read them;
2. the board's own id. Cheap boards share one made-up id, which is why it comes second, and only root may read it on a PC;
3. the MACs of what else is real: Wi-Fi, USB. These come and go.

None of them: not known.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BYTES = 16

_PLACEHOLDERS = frozenset(
    {
        "03000200040005000006000700080009",
        "00020003000400050006000700080009",
        "123456781234567890abcddeefaabbcc",
        "4c4c454400002010802080c04f202020",  # a Dell without its service tag
    }
)
"""Ids that makers left in many boards."""
_MAC_DIGITS, _ID_DIGITS = 12, 32
_ETHERNET = "1"  # ARPHRD_ETHER, Wi-Fi too


@dataclass(frozen=True, slots=True)
class Card:
    """A network card that is not made of software. `mac`: its permanent one, where the system tells."""

    mac: str
    fixed: bool = False  # built in and wired


def machine_of(cards: Sequence[Card], board_id: str) -> bytes:
    """16 bytes; empty when nothing here is known to be this machine's own."""
    fixed = _macs(card for card in cards if card.fixed)
    board = _digits(board_id)
    if fixed:
        marks = ["mac", *fixed]
    elif _is_id(board):
        marks = ["board", board]
    elif others := _macs(cards):
        marks = ["mac", *others]
    else:
        return b""
    return hashlib.blake2b("\0".join(marks).encode(), digest_size=BYTES, person=b"garrison.machine").digest()


def read() -> bytes:
    """Of this machine. Blocking, short."""
    if sys.platform == "linux":
        return read_linux(Path("/"), _permanent_mac)
    else:  # noqa: RET505  # with `else` mypy knows what belongs to which platform
        return machine_of(_cards_by_psutil(), "")


def read_linux(root: Path, permanent_mac: Callable[[str], str]) -> bytes:
    """`permanent_mac(name of a card)`: "" where its driver does not tell."""
    return machine_of(list(_linux_cards(root / "sys/class/net", permanent_mac)), _linux_board_id(root))


def _macs(cards: Iterator[Card] | Sequence[Card]) -> list[str]:
    digits = {_digits(card.mac) for card in cards}
    return sorted(one for one in digits if len(one) == _MAC_DIGITS and len(set(one)) > 1)  # not all 0, not all f


def _is_id(digits: str) -> bool:
    return len(digits) >= 8 and len(set(digits)) > 2 and digits not in _PLACEHOLDERS


def _digits(text: str) -> str:
    """The hexadecimal digits of an address or id, however it is written; empty for what is none."""
    plain = text.strip().strip("\0").lower().replace(":", "").replace("-", "")
    return plain if plain and len(plain) <= _ID_DIGITS and set(plain) <= set("0123456789abcdef") else ""


# ---- Linux ---------------------------------------------------------------------------------------------------


def _linux_cards(folder: Path, permanent_mac: Callable[[str], str]) -> Iterator[Card]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for card in found:
        device = card / "device"  # bridges, tunnels, veth, bonds and lo have none
        if not device.exists() or (device / "physfn").exists() or _line(card / "type") != _ETHERNET:
            continue
        on_usb = any(part.startswith("usb") for part in device.resolve().parts)
        wireless = (card / "wireless").exists() or (card / "phy80211").exists()
        # one that was set by software stands on the disk, and is copied with it
        mac = permanent_mac(card.name) or (_line(card / "address") if _line(card / "addr_assign_type") == "0" else "")
        yield Card(mac, fixed=not on_usb and not wireless)


def _linux_board_id(root: Path) -> str:
    """A PC's UUID (32 digits), or the serial number of a board with a device tree (16)."""
    pc = _line(root / "sys/class/dmi/id/product_uuid")
    return pc or _line(root / "sys/firmware/devicetree/base/serial-number")


def _line(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _permanent_mac(name: str) -> str:
    """What is burnt into the card, whatever address it uses now: the kernel's ETHTOOL_GPERMADDR. Any user may ask."""
    if sys.platform == "linux":
        import array
        import fcntl
        import socket
        import struct

        answer = array.array("B", struct.pack("II32x", 0x20, 32))
        request = struct.pack("16sP16x", name.encode()[:15], answer.buffer_info()[0])
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                fcntl.ioctl(asked, 0x8946, request)
        except OSError:
            return ""
        _, size = struct.unpack_from("II", answer)
        mac = bytes(answer[8 : 8 + size])
        return mac.hex() if size == 6 and any(mac) else ""
    else:  # noqa: RET505  # the same
        return ""


# ---- others --------------------------------------------------------------------------------------------------

_MADE_OF_SOFTWARE = (
    *("anpi", "ap", "awdl", "bridge", "llw", "lo", "utun", "vmnet"),  # macOS
    *("bluetooth", "local area connection*", "vethernet"),  # Windows
    *("npcap", "openvpn", "tailscale", "tap", "virtualbox", "vmware", "wireguard"),
)
"""How the names of such cards begin, in small letters."""


def _cards_by_psutil() -> list[Card]:
    """By name and address alone: of these the system tells no more to everybody."""
    import psutil

    found = []
    for name, addresses in psutil.net_if_addrs().items():
        if name.lower().startswith(_MADE_OF_SOFTWARE):
            continue
        for one in addresses:
            digits = _digits(one.address) if one.family == psutil.AF_LINK else ""
            if digits and not int(digits[:2], 16) & 2:  # with this bit it was made up
                found.append(Card(digits))
    return found
