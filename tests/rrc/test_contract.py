"""What holds for every kind of board in the table. A kind without a fixture folder or a stand fails here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from garrison.faults import BadInput, NotSupported, TimedOut, Unreachable
from garrison.words import PowerState
from rrc.board import BoardAddress
from rrc.table import BOARDS, open_board
from tests.ports import closed_port
from tests.rrc.stands import FIXTURES, STANDS

KINDS = sorted(BOARDS)


def fixture_of(kind: str) -> dict[str, object]:
    file = FIXTURES / kind / "board.json"
    assert file.exists(), (
        f"{kind}: no fixture folder tests/fixtures/rrc/{kind}/ with board.json (docs/checklists/add-a-relay-board.md)"
    )
    found = json.loads(file.read_text())
    assert isinstance(found, dict)
    assert found["kind"] == kind
    return found


def address_of(kind: str) -> BoardAddress:
    told = fixture_of(kind)
    options = told["options"]
    assert isinstance(options, dict)
    return BoardAddress(kind, "127.0.0.1", int(str(told["outlets"])), password=str(told["password"]), options=options)


@pytest.mark.parametrize("kind", KINDS)
def test_has_fixture_and_stand(kind: str) -> None:
    """Every kind in the table comes with its fixture folder and something real to be tested against."""
    assert fixture_of(kind)
    assert kind in STANDS, f"{kind}: no stand in tests/rrc/stands.py"


@pytest.mark.parametrize("kind", KINDS)
async def test_switches_and_reads_back(kind: str, tmp_path: Path) -> None:
    """Every outlet can be read; setting one changes that one alone; setting what is so already is no error."""
    address = address_of(kind)
    names = [str(n + 1) for n in range(address.outlets)]
    async with STANDS[kind](address, tmp_path) as place:
        board = open_board(place)
        try:
            assert board.capabilities.outlets == address.outlets
            before = await board.read()
            assert list(before) == names
            assert {reading.state for reading in before.values()} == {PowerState.ON}
            await board.set(names[-1], False)
            after = await board.read(slow=False)
            assert after[names[-1]].state is PowerState.OFF
            assert {after[name].state for name in names[:-1]} <= {PowerState.ON}
            await board.set(names[-1], False)
            await board.set(names[-1], True)
            assert (await board.read())[names[-1]].state is PowerState.ON
        finally:
            await board.close()
            await board.close()
        assert (await board.read())["1"].state is PowerState.ON  # a closed board opens anew
        await board.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_says_what_it_can(kind: str, tmp_path: Path) -> None:
    """A meter reads watts where the capabilities say so; a timer switches off at once, or is NotSupported."""
    told = fixture_of(kind)
    async with STANDS[kind](address_of(kind), tmp_path) as place:
        board = open_board(place)
        try:
            assert board.capabilities.metering is told["metering"]
            watts = (await board.read(slow=True))["1"].power_w
            assert (watts is not None) is told["metering"]
            if told["cycle_s"] is None:
                assert board.capabilities.cycle_s is None
                with pytest.raises(NotSupported):
                    await board.cycle("1", 30)
            else:
                await board.cycle("1", int(str(told["cycle_s"])))
                assert (await board.read(slow=False))["1"].state is PowerState.OFF
        finally:
            await board.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outlet", ["0", "1025", "-1", "", "one", "01", "\N{ARABIC-INDIC DIGIT THREE}"])
async def test_refuses_an_outlet_it_has_not(kind: str, outlet: str, tmp_path: Path) -> None:
    """An outlet beyond the board is bad input, before anything is sent."""
    board = open_board(replace(address_of(kind), address="127.0.0.1:1"))
    with pytest.raises(BadInput):
        await board.set(outlet, False)
    await board.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fake"])
async def test_nothing_listens(kind: str) -> None:
    """Nobody at that port: Unreachable, and not TimedOut, which would mean that a command may have arrived."""
    board = open_board(replace(address_of(kind), address=f"127.0.0.1:{closed_port()}"))
    for call in (board.read, lambda: board.set("1", True)):
        with pytest.raises(Unreachable) as refusal:
            await call()
        assert not isinstance(refusal.value, TimedOut)
    await board.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fake"])
@pytest.mark.parametrize("strange", ["http://127.0.0.1/", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:x", "", "a b"])
def test_strange_addresses(kind: str, strange: str) -> None:
    """An address that is none is bad input with a hint, when the board is opened."""
    with pytest.raises(BadInput, match="not an address"):
        open_board(replace(address_of(kind), address=strange))


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_option(kind: str) -> None:
    """A misspelt option is refused by name, not ignored."""
    with pytest.raises(BadInput, match="'unti'"):
        open_board(replace(address_of(kind), options={"unti": "1"}))


def test_unknown_kind() -> None:
    """An unknown kind lists the kinds there are."""
    with pytest.raises(BadInput, match=r"'shely'.*fake, modbus, tasmota"):
        open_board(BoardAddress("shely", "127.0.0.1"))


@pytest.mark.parametrize("outlets", [0, -1, 1025])
def test_impossible_outlets(outlets: int) -> None:
    """A board has 1 to 1024 outlets."""
    with pytest.raises(BadInput):
        open_board(BoardAddress("fake", "x", outlets=outlets))
