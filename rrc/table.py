"""The relay boards we can drive. A new board is one file, one line here and one folder in tests/fixtures/rrc/."""

from __future__ import annotations

from collections.abc import Callable

from garrison.clock import Clock, SystemClock
from garrison.faults import BadInput
from rrc.board import Board, BoardAddress
from rrc.fake import Fake
from rrc.modbus import Modbus
from rrc.tasmota import Tasmota

BOARDS: dict[str, Callable[[BoardAddress, Clock], Board]] = {
    "fake": Fake,
    "modbus": Modbus,
    "tasmota": Tasmota,
}
"""Kind, as the owner writes it, to what opens such a board. Opening sends nothing yet."""

MAX_OUTLETS = 1024


def open_board(address: BoardAddress, clock: Clock | None = None) -> Board:
    """A board of that kind. BadInput: no such kind, a strange address or option. Unavailable: an extra is not installed."""
    opener = BOARDS.get(address.kind)
    if opener is None:
        raise BadInput(f"no relay board of kind {address.kind!r}", hint=f"kinds: {', '.join(sorted(BOARDS))}")
    if not 1 <= address.outlets <= MAX_OUTLETS:
        raise BadInput(f"a board with {address.outlets} outlets", hint=f"1 to {MAX_OUTLETS}")
    return opener(address, clock or SystemClock())
