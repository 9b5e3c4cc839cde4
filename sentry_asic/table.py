"""The makes this sentry drives, one line each, and how a device is told apart. Add a make: docs/checklists/add-an-asic-make.md."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from garrison.faults import BadInput, NotFound, TimedOut, Unreachable
from sentry_asic.cgminer import PORT, NoReply
from sentry_asic.first_look import HTTP_PORT, FirstLook, first_look
from sentry_asic.make import Driver, Place
from sentry_asic.makes import (
    antminer,
    auradine,
    avalon,
    bitaxe,
    braiins,
    cgminer,
    elphapex,
    epic,
    goldshell,
    hammer,
    iceriver,
    innosilicon,
    luxos,
    marathon,
    sealminer,
    vnish,
    whatsminer,
)

_KNOCK_S = 3
_API, _WEB, _BOTH = frozenset({"api"}), frozenset({"web"}), frozenset({"api", "web"})


@dataclass(frozen=True, slots=True)
class Make:
    """`fingerprint` looks cheaply: the driver, or None and what was seen instead. It raises Unreachable when nothing answers.

    `ports` are those it asks, "api" (4028), "web" (80) or another by its number: a make all of whose ports were found
    silent is not asked, so that a dead host is told dead after the first. `least_every_s`: longer than the pace's own
    for devices that do not bear to be asked often. `last_resort`: never asked before the others, whatever the hint.
    `names`: words, in small letters, by which its `version`, its page or its log-in gives it away: then it is asked first.
    """

    name: str
    driver: Callable[[Place], Driver]
    fingerprint: Callable[[Place], Awaitable[tuple[Driver | None, str]]]
    ports: frozenset[str] = _BOTH
    least_every_s: float = 0
    last_resort: bool = False
    names: tuple[str, ...] = ()


MAKES: tuple[Make, ...] = (  # asked in this order
    Make("antminer", antminer.Antminer, antminer.fingerprint),
    Make("whatsminer", whatsminer.Whatsminer, whatsminer.fingerprint, frozenset({"api", "4433"})),
    Make("avalon", avalon.Avalon, avalon.fingerprint, _API, least_every_s=avalon.LEAST_EVERY_S, names=("avalon",)),
    Make("luxos", luxos.Luxos, luxos.fingerprint, _API, names=("luxminer",)),
    Make("marathon", marathon.Marathon, marathon.fingerprint, names=("kaonsu", "marafw")),
    Make("epic", epic.Epic, epic.fingerprint, _API),
    Make("auradine", auradine.Auradine, auradine.fingerprint, frozenset({"api", "8080"}), names=("gcminer", "fluxos")),
    Make("braiins", braiins.Braiins, braiins.fingerprint, names=("bosminer", "boser", "braiins os")),
    Make("vnish", vnish.Vnish, vnish.fingerprint, names=("vnish", "anthillos")),
    Make("sealminer", sealminer.Sealminer, sealminer.fingerprint, _API, names=("bdminer",)),
    Make("hammer", hammer.Hammer, hammer.fingerprint, names=("blackminer", "volcminer", "hammer")),
    Make("elphapex", elphapex.Elphapex, elphapex.fingerprint, _WEB, names=("daoge", "elphapex")),
    Make(
        "bitaxe",
        bitaxe.Bitaxe,
        bitaxe.fingerprint,
        _WEB,
        least_every_s=bitaxe.LEAST_EVERY_S,
        names=("axeos", "nerdaxe", "nerdqaxe"),
    ),
    Make(
        "iceriver",
        iceriver.Iceriver,
        iceriver.fingerprint,
        _WEB,
        least_every_s=iceriver.LEAST_EVERY_S,
        names=("用户界面", "iceriver"),
    ),
    Make(
        "goldshell", goldshell.Goldshell, goldshell.fingerprint, _WEB, least_every_s=goldshell.LEAST_EVERY_S, names=("cloud-box",)
    ),
    Make("innosilicon", innosilicon.Innosilicon, innosilicon.fingerprint, _WEB, names=("dragonmint", "innosilicon")),
    Make("cgminer", cgminer.Cgminer, cgminer.fingerprint, _API, last_resort=True),  # takes what is left: stays last
)


def make_named(name: str) -> Make:
    """Raises BadInput."""
    for make in MAKES:
        if make.name == name:
            return make
    raise BadInput(f"no make {name!r}", hint=f"there are: {', '.join(make.name for make in MAKES)}")


def least_every_s(name: str) -> float:
    """The shortest time between two looks at a device of this make; 0: our own pace."""
    return next((make.least_every_s for make in MAKES if make.name == name), 0)


async def identify(place: Place, hint: str = "") -> Driver:
    """The driver for what answers at `place`; `hint` is a make to ask first.

    Raises Unreachable (refused, nothing there), TimedOut (it is there and silent), WrongPassword, and NotFound with what
    was seen when something answers that is no make we know.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    told = FirstLook("") if hint else await first_look(place)
    seen: list[str] = []
    silent, fault = told.silent, told.fault
    swallowed = bool(silent) and loop.time() - began_s >= _KNOCK_S  # connections are not even refused: nobody is there
    for make in sorted(MAKES, key=lambda make: make.last_resort or not (make.name == hint or _names_itself(make, told))):
        began_s = loop.time()
        if make.ports & silent and not make.ports <= silent and not (swallowed and silent >= _BOTH):
            # it may be dead: a knock costs less than all its questions
            silent |= {port for port in make.ports - silent if not await _opens(place, port)}
            swallowed = swallowed or loop.time() - began_s >= _KNOCK_S
        if make.ports <= silent or (swallowed and silent >= _BOTH):
            continue
        began_s = loop.time()
        try:
            driver, what = await make.fingerprint(place)
        except Unreachable as error:
            # "connected, then silence" says more than "refused", whichever came first
            fault = fault if isinstance(fault, TimedOut) else error
            if not isinstance(error, NoReply):  # that one is there, and did not understand the question
                silent |= make.ports
            swallowed = swallowed or loop.time() - began_s >= _KNOCK_S
            continue
        if driver is not None:
            return driver
        seen.append(what)
    if seen:
        raise NotFound(
            f"{place.host} is no device we know: {'; '.join(dict.fromkeys(seen))}",
            hint=f"{len(MAKES)} makes are known: docs/asic-support.md",
        )
    raise fault or NotFound(f"{place.host} is no device we know")


def _names_itself(make: Make, told: FirstLook) -> bool:
    return any(name in told.text for name in make.names)


async def _opens(place: Place, port: str) -> bool:
    number = {"api": place.api_port or PORT, "web": place.http_port or HTTP_PORT}.get(port) or int(port)
    try:
        async with asyncio.timeout(_KNOCK_S):
            _, writer = await asyncio.open_connection(place.host, number)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
