"""Whatsminers with the maker's firmware: API V1 and V2 on port 4028, V3 on port 4433.

Reads go over 4028 while it answers, because V3 tells no shares; orders go over V3 on firmware from November 2024, which
takes none over V2, and over V2 on all before. Either port may be shut while the other is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, Refused, TimedOut, Unreachable
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import rows, table, whole, words
from sentry_asic.cgminer import PORT, ask
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.whatsminer_parse import firmware_of, is_modern
from sentry_asic.makes.whatsminer_v2 import ANSWER_S, MOST_LIMIT_W, POWER_MODES, SLOTS, V2
from sentry_asic.makes.whatsminer_v3 import V3
from sentry_asic.order_rules import check_pools
from sentry_asic.settable import check_mode, check_within

MAKE = "whatsminer"
FACTORY_V2 = Credentials("admin", "admin")
FACTORY_V3 = Credentials("super", "super")
_UNTOLD = "x"  # the firmware never tells a pool's password: what pools take when they ask for none


class Whatsminer:
    """One device. Made by `identify` or `Whatsminer(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = (
        ActionKind.REBOOT,
        ActionKind.RESTART_MINING,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
        ActionKind.SET_POWER_MODE,
        ActionKind.SET_POWER_LIMIT,
        ActionKind.SET_HOSTNAME,
    )

    def __init__(self, place: Place) -> None:
        given = place.credentials
        old, new = given or FACTORY_V2, given or FACTORY_V3
        self._v2 = V2(place, old.password, factory=given is None)
        self._v3 = V3(place, new.username, new.password, factory=given is None)
        self._reads: V2 | V3 = self._v2
        self._model = self._firmware = ""
        self._passwords: dict[tuple[str, str], str] = {}  # of pools that we wrote

    async def close(self) -> None:
        """Nothing stays open between questions."""

    # ---- reading -------------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        try:
            return await self._reads.read(slow=slow)
        except TimedOut:
            raise
        except Unreachable as fault:
            other = self._other()
            try:
                reading = await other.read(slow=slow)
            except (Unreachable, BadAnswer, Refused):
                raise fault from None
            self._reads = other
            return reading

    async def seen(self) -> Seen:
        try:
            seen = await self._reads.seen(MAKE, self._model, self._firmware)
        except TimedOut:
            raise
        except Unreachable as fault:
            try:
                seen = await self._other().seen(MAKE, self._model, self._firmware)
            except (Unreachable, BadAnswer, Refused):
                raise fault from None
        self._model, self._firmware = "", seen.firmware  # another model may answer here the next time
        facts = dict(seen.facts) | ({"algorithm": "sha256"} if seen.model.startswith("M") else {})
        return Seen(seen.make, seen.model, seen.firmware, seen.mac, seen.serial, facts)

    def _other(self) -> V2 | V3:
        return self._v3 if self._reads is self._v2 else self._v2

    # ---- orders --------------------------------------------------------------------------------------------

    async def _orders(self) -> V2 | V3:
        if self._reads is self._v3:
            return self._v3
        if is_modern(self._firmware):
            try:
                await self._v3.info("salt")
            except TimedOut:
                raise
            except Unreachable:
                return self._v2
            return self._v3
        return self._v2

    async def reboot(self) -> None:
        await (await self._orders()).reboot()

    async def restart_mining(self) -> None:
        await (await self._orders()).restart()

    async def pause(self) -> None:
        await (await self._orders()).stop()

    async def resume(self) -> None:
        await (await self._orders()).start()

    async def locate(self, on: bool) -> None:
        await (await self._orders()).blink(on)

    async def locating(self) -> bool | None:
        return await self._reads.blinks()

    async def pools(self) -> tuple[PoolOrder, ...]:
        """Passwords are those we wrote ourselves, else "x": no Whatsminer tells them."""
        held = await self._reads.held_pools()
        return tuple(PoolOrder(p.url, p.user, self._passwords.get((p.url, p.user), _UNTOLD)) for p in held)

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = check_pools(pools, SLOTS)
        if await self.pools() == wanted:
            return
        await (await self._orders()).set_pools(wanted)
        self._passwords = {(pool.url, pool.user): pool.password for pool in wanted}

    async def power_mode(self) -> str | None:
        return (await self._reads.held_power())[0]

    async def set_power_mode(self, mode: str) -> None:
        """Restarts its miner."""
        await (await self._orders()).set_power_mode(check_mode(mode, POWER_MODES))

    async def power_limit_w(self) -> int | None:
        return (await self._reads.held_power())[1]

    async def set_power_limit(self, limit_w: int) -> None:
        """Restarts its miner. The most is what the model takes, and it does not tell how much that is."""
        check_within(limit_w, None, MOST_LIMIT_W, "W", "power limit")
        await (await self._orders()).set_power_limit(limit_w)

    async def hostname(self) -> str | None:
        return await self._reads.hostname()

    async def set_hostname(self, name: str) -> None:
        await (await self._orders()).set_hostname(name)


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Whatsminer | None, str]:
    """A driver when a Whatsminer answers here, else None and what was seen. Raises Unreachable when nothing answers."""
    try:
        answer = await ask(place.host, "get_version", port=place.api_port or PORT, total_s=ANSWER_S)
    except TimedOut:
        raise
    except Unreachable as fault:
        return await _by_v3(place, fault)
    except BadAnswer as fault:
        return None, fault.text
    said = table(answer.value)
    version = table(said.get("Msg"))
    firmware = firmware_of(version.get("fw_ver"))
    if firmware and whole(said.get("Code")) == 131:
        return _made(place, "", firmware), firmware
    try:
        answer = await ask(place.host, "devdetails", port=place.api_port or PORT, total_s=ANSWER_S)
    except (Unreachable, BadAnswer) as fault:
        if isinstance(fault, TimedOut):
            raise
        return None, fault.text
    return _by_details(place, rows(table(answer.value).get("DEVDETAILS")))


def _by_details(place: Place, details: Sequence[Mapping[str, Any]]) -> tuple[Whatsminer | None, str]:
    drivers = [words(row.get("Driver"), 32) for row in details]
    if "bitmicro" in drivers:
        model = words(details[drivers.index("bitmicro")].get("Model"), 64)
        return _made(place, model, ""), model
    return None, f"a miner with driver {drivers[0]!r}" if drivers and drivers[0] else "a miner that is no Whatsminer"


async def _by_v3(place: Place, fault: Unreachable) -> tuple[Whatsminer | None, str]:
    """Its mining process is down, or port 4028 is shut by its firmware."""
    try:
        told = await V3(place, "", "", factory=True).info()
    except TimedOut:
        raise
    except (Unreachable, BadAnswer, Refused):
        raise fault from None
    firmware = firmware_of(table(told.get("system")).get("fwversion"))
    if not firmware:
        raise fault
    driver = _made(place, words(table(told.get("miner")).get("type"), 64), firmware)
    driver._reads = driver._v3
    return driver, firmware


def _made(place: Place, model: str, firmware: str) -> Whatsminer:
    driver = Whatsminer(place)
    driver._model, driver._firmware = model, firmware
    return driver
