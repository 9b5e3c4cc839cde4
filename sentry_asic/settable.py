"""Orders that set one thing of an ASIC which the ASIC tells itself: how it is set, how it is read, when it is as wanted.

Called by orders.py. What a driver offers beyond the common protocol it names in its capabilities; see make.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from garrison.faults import BadInput, NotSupported
from garrison.model import Order
from garrison.words import ActionKind
from sentry_asic.make import Driver, Fan, FanControl, Hostname, PowerLimit, PowerModes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing of one device. `read` gives it in words, None when the device does not tell."""

    name: str
    wanted: str
    read: Callable[[], Awaitable[str | None]]
    act: Callable[[], Awaitable[None]]

    def is_held(self, held: str | None) -> bool:
        return held is not None and held.casefold() == self.wanted.casefold()


def setting_of(driver: Driver, order: Order) -> Setting:
    """Raises NotSupported when its driver does not offer it, whatever its capabilities say."""
    match order.kind:
        case ActionKind.SET_POWER_MODE if isinstance(driver, PowerModes):
            return Setting("power mode", order.power_mode, driver.power_mode, partial(driver.set_power_mode, order.power_mode))
        case ActionKind.SET_POWER_LIMIT if isinstance(driver, PowerLimit):
            act = partial(driver.set_power_limit, order.power_limit_w)
            return Setting("power limit", _watts(order.power_limit_w), _in_words(driver.power_limit_w, _watts), act)
        case ActionKind.SET_FAN if isinstance(driver, FanControl):
            fan = Fan(order.fan_pct)
            return Setting("fan", _of_fan(fan), _in_words(driver.fan, _of_fan), partial(driver.set_fan, fan))
        case ActionKind.SET_HOSTNAME if isinstance(driver, Hostname):
            return Setting("host name", order.hostname, driver.hostname, partial(driver.set_hostname, order.hostname))
    raise NotSupported(f"this {driver.make} cannot {order.kind.value.replace('_', ' ')}")


def _in_words(read: Callable[[], Awaitable[T | None]], words: Callable[[T], str]) -> Callable[[], Awaitable[str | None]]:
    async def told() -> str | None:
        value = await read()
        return None if value is None else words(value)

    return told


def _watts(limit_w: int) -> str:
    return f"{limit_w} W"


def _of_fan(fan: Fan) -> str:
    return "automatic" if fan.percent is None else f"{fan.percent} %"


# ---- for drivers -------------------------------------------------------------------------------------------


def check_mode(mode: str, modes: Sequence[str]) -> str:
    """The device's own writing of it. BadInput with what it has."""
    for known in modes:
        if known.casefold() == mode.casefold():
            return known
    raise BadInput(f"this device has no power mode {mode!r}", hint=f"it has: {', '.join(modes) or 'none that it tells'}")


def check_within(value: int, least: int | None, most: int | None, unit: str, what: str) -> None:
    """None: the device states no such bound. BadInput with the range that it states."""
    if (least is not None and value < least) or (most is not None and value > most):
        bounds = [f"{word} {bound} {unit}" for word, bound in (("from", least), ("to", most)) if bound is not None]
        raise BadInput(f"this device takes no {what} of {value} {unit}", hint=f"it takes {what}s {' '.join(bounds)}")
