"""How a device is told apart, whatever listens there: nobody, somebody silent, a web page; and how long that may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from garrison.faults import NotFound, TimedOut, Unreachable
from sentry_asic import table
from sentry_asic.first_look import FirstLook
from sentry_asic.make import Driver, Place
from sentry_asic.table import MAKES, identify, least_every_s
from tests.ports import closed_port
from tests.simulators.bitaxe import Bitaxe
from tests.simulators.cgminer import Cgminer

Fingerprint = Callable[[Place], Awaitable[tuple[Driver | None, str]]]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The makes as they are asked."""
    asked: list[str] = []

    def counting(name: str, ask: Fingerprint) -> Fingerprint:
        async def fingerprint(place: Place) -> tuple[Driver | None, str]:
            asked.append(name)
            return await ask(place)

        return fingerprint

    monkeypatch.setattr(table, "MAKES", tuple(replace(m, fingerprint=counting(m.name, m.fingerprint)) for m in MAKES))
    return asked


@pytest.mark.parametrize("hint", ["", *(make.name for make in MAKES)])
async def test_a_dead_host_is_told_dead_after_the_first(hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ports refuse: Unreachable, without asking one make after the other."""
    asked = watched(monkeypatch)
    with pytest.raises(Unreachable) as caught:
        await identify(Place("127.0.0.1", closed_port(), closed_port()), hint)
    assert not isinstance(caught.value, TimedOut)
    assert len(asked) <= 2
    assert "bitaxe" not in asked or hint == "bitaxe"


async def test_a_host_that_swallows_connections_is_not_knocked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody even refuses: no further port is tried, so it takes no longer than the first look."""
    knocks: list[str] = []

    async def nobody(place: Place) -> FirstLook:
        await asyncio.sleep(0.05)
        return FirstLook("", frozenset({"api", "web"}), Unreachable("no connection within 3 s"))

    async def knock(place: Place, port: str) -> bool:
        knocks.append(port)
        return False

    monkeypatch.setattr(table, "_KNOCK_S", 0.04)
    monkeypatch.setattr(table, "_opens", knock)
    monkeypatch.setattr(table, "first_look", nobody)
    asked = watched(monkeypatch)
    with pytest.raises(Unreachable):
        await identify(Place("127.0.0.1"))
    assert (knocks, asked) == ([], [])


async def test_silence_is_said_of_a_silent_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts on 4028 and says nothing, its web page is shut: TimedOut, and after one limit, not after one for each make."""
    monkeypatch.setattr("sentry_asic.first_look._ANSWER_S", 0.4)  # a limit, not behaviour
    asked = watched(monkeypatch)
    async with Cgminer() as device:
        device.api.faults.hung = True
        with pytest.raises(TimedOut):
            await identify(Place(device.host, device.port, closed_port()))
    assert asked == []


async def test_a_web_page_and_nothing_else_is_no_device_we_know() -> None:
    """In words: what was seen, and what we know."""
    async with Bitaxe() as page:
        page.faults.html = True
        with pytest.raises(NotFound, match="no device we know") as caught:
            await identify(Place("127.0.0.1", closed_port(), page.port))
    assert "docs/asic-support.md" in caught.value.hint


def test_the_last_resort_is_last_and_peace_is_by_make() -> None:
    """It takes what is left, so nothing may follow it; who is unknown has no claim to be left in peace."""
    assert [make.name for make in MAKES if make.last_resort] == [MAKES[-1].name] == ["cgminer"]
    assert (least_every_s("bitaxe"), least_every_s("antminer"), least_every_s("no such make")) == (30, 0, 0)
