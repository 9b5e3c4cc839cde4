"""The makes this sentry drives, one line each, and how a device is told apart. Add a make: docs/checklists/add-an-asic-make.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from garrison.faults import BadInput, Fault, NotFound, Unreachable
from sentry_asic.make import Driver, Place
from sentry_asic.makes import antminer


@dataclass(frozen=True, slots=True)
class Make:
    """`fingerprint` looks cheaply: the driver, or None and what was seen instead. It raises Unreachable when nothing answers."""

    name: str
    driver: Callable[[Place], Driver]
    fingerprint: Callable[[Place], Awaitable[tuple[Driver | None, str]]]


MAKES: tuple[Make, ...] = (  # asked in this order
    Make("antminer", antminer.Antminer, antminer.fingerprint),
)


def make_named(name: str) -> Make:
    """Raises BadInput."""
    for make in MAKES:
        if make.name == name:
            return make
    raise BadInput(f"no make {name!r}", hint=f"there are: {', '.join(make.name for make in MAKES)}")


async def identify(place: Place, hint: str = "") -> Driver:
    """The driver for what answers at `place`; `hint` is a make to ask first.

    Raises Unreachable (refused, nothing there), TimedOut (it is there and silent), WrongPassword, and NotFound with what
    was seen when something answers that is no make we know.
    """
    ordered = sorted(MAKES, key=lambda make: make.name != hint)
    seen: list[str] = []
    fault: Fault | None = None
    for make in ordered:
        try:
            driver, what = await make.fingerprint(place)
        except Unreachable as error:
            fault = error
            continue
        if driver is not None:
            return driver
        seen.append(what)
    if seen:
        raise NotFound(
            f"{place.host} is no device we know: {'; '.join(seen)}", hint=f"known makes: {', '.join(m.name for m in MAKES)}"
        )
    raise fault or NotFound(f"{place.host} is no device we know")
