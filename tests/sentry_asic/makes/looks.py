"""What tests of several makes do with a driver: wait until its device is back, see that it believes no rubbish and no dead host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest

from garrison.faults import BadAnswer, Fault, TimedOut, Unreachable
from sentry_asic.make import Driver
from sentry_asic.order_rules import restarted
from tests.simulators.api_port import ApiPort
from tests.simulators.web_port import WebPort

Look = Callable[[], Awaitable[object]]


async def until_restarted(driver: Driver, *meanwhile: type[Fault]) -> None:
    """A look says that it began anew. It may be unreachable until then, and `meanwhile`."""
    waits_through: tuple[type[Fault], ...] = (Unreachable, *meanwhile)
    async with asyncio.timeout(10):
        while True:
            try:
                if restarted(await driver.read(slow=True), since_order_s=5, was_away=True):
                    return
            except waits_through:
                pass
            await asyncio.sleep(0.02)


async def believes_no_rubbish(ports: Sequence[ApiPort | WebPort], looks: Iterable[Look]) -> None:
    """Talk without end, and a web page of something else, are BadAnswer to each look."""
    looks = list(looks)
    for name in ("endless", "html"):
        for port in ports:
            setattr(port.faults, name, True)
        for look in looks:
            with pytest.raises(BadAnswer):
                await look()
        for port in ports:
            setattr(port.faults, name, False)


async def is_unreachable(looks: Iterable[Look]) -> None:
    """Refused at once, which is not silence."""
    for look in looks:
        with pytest.raises(Unreachable) as caught:
            await look()
        assert not isinstance(caught.value, TimedOut)
