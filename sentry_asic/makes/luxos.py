"""LuxOS on Antminer hardware: port 4028 for everything, and one session at a time for whoever changes something.

Source: recorded answers of an S19k Pro (reading); the maker's API documentation and its own tools (orders: documented,
not recorded). There is no password. A session is no lock against anybody, it is how those who change the device keep out
of each other's way: it is taken for an order, given back at its end whatever happened, and never another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, Conflict, Fault, NotSupported, Refused, TimedOut, Unreachable
from garrison.model import PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, rows, table, whole, words
from sentry_asic.cgminer import PORT, NoReply, ask, section
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.luxos_parse import Answers, blinks, is_luxos, is_split, parse_reading, parse_seen
from sentry_asic.order_rules import check_pools
from sentry_asic.settable import check_mode, check_within

log = logging.getLogger(__name__)

MAKE = "luxos"
_ANSWER_S = 6  # of one question: a look is several, and has 10 s in all
_SESSION_TAKEN = 402
_SESSION_WAIT_S = 10  # others hold it for seconds; it ends by itself 60 s after its last use
_SESSION_TRY_EVERY_S = 1
_LOGOFF_S = 3
_MOST_POOLS = 8
_PLACE = re.compile(r"[0-3]|[+-].*|[\d.]+(?:THs|k?W)", re.IGNORECASE)  # what `profileset` takes for something else than a name
_PARTS = ",\\|"  # part its parameters, or escape in cgminer's own API
_SECTIONS = {
    "summary": "SUMMARY", "devs": "DEVS", "stats": "STATS", "fans": "FANS", "power": "POWER", "pools": "POOLS",
    "temps": "TEMPS", "config": "CONFIG", "events": "EVENTS",
}  # fmt: skip
_FAST = ("devs", "stats", "fans", "power", "pools")
_SLOW = ("temps", "config", "events")


_ORDERS = (
    ActionKind.REBOOT,
    ActionKind.RESTART_MINING,
    ActionKind.PAUSE,
    ActionKind.RESUME,
    ActionKind.LOCATE,
    ActionKind.APPLY_FLIGHT_SHEET,
    ActionKind.SET_POWER_MODE,
)


class Luxos:
    """One device. Made by `identify` or `Luxos(place)`; `close` it."""

    make = MAKE

    def __init__(self, place: Place) -> None:
        self._place = place
        self.capabilities: tuple[ActionKind, ...] = _ORDERS
        self._port = place.api_port or PORT

    async def close(self) -> None:
        """Each question has a connection of its own."""

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        answer = await self._ask("summary")
        told: dict[str, list[Mapping[str, Any]] | None] = {"summary": section(answer, "SUMMARY")}
        repairs, failed = answer.repairs, []
        for command in (*_FAST, *(_SLOW if slow else ())):
            try:
                answer = await self._ask(command)
                told[command] = section(answer, _SECTIONS[command])
                repairs += answer.repairs
            except TimedOut:
                raise  # the rest would be as silent, and this look has its limit
            except (Unreachable, BadAnswer, Refused):
                failed.append(command)
        return parse_reading(Answers(**told, failed=tuple(failed), repairs=repairs))

    async def _ask(self, command: str, parameter: str | None = None, total_s: float | None = None) -> Answer:
        limit_s = _ANSWER_S if total_s is None else total_s
        return await ask(self._place.host, command, port=self._port, parameter=parameter, total_s=limit_s)

    async def _config(self) -> Mapping[str, Any]:
        found = section(await self._ask("config"), "CONFIG")
        return found[0] if found else {}

    async def seen(self) -> Seen:
        version = section(await self._ask("version"), "VERSION")
        self._learn(await self._thermal())
        return parse_seen(version[0] if version else {}, await self._config(), MAKE)

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._in_session("rebootdevice")

    async def restart_mining(self) -> None:
        await self._in_session("resetminer")

    async def pause(self) -> None:
        await self._in_session("curtail", "sleep")

    async def resume(self) -> None:
        await self._in_session("curtail", "wakeup")

    async def locate(self, on: bool) -> None:
        await self._in_session("ledset", "red", "blink" if on else "auto")

    async def locating(self) -> bool | None:
        return blinks(await self._config())

    async def pools(self) -> tuple[PoolOrder, ...]:
        """Passwords that the firmware does not tell come back as what pools take when they ask for none."""
        return tuple(_pool_order(row) for row in await self._pool_rows())

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """The new ones first, then away with the old: at no moment is it without a pool to work for."""
        wanted = [_stored(pool) for pool in check_pools(pools, _MOST_POOLS, forbidden=_PARTS)]
        async with self._session():
            held = await self._pool_rows()
            if is_split(held):
                raise Conflict(
                    "the device shares its work out between groups of pools, and that would be lost",
                    hint="leave one group on its web page, then try again",
                )
            if [_pool_order(row) for row in held] == wanted:
                return
            group = (whole(held[0].get("GROUP")) or 0) if held else 0
            before = [_number(row) for row in held]
            fresh = await self._add(wanted, group, before)
            await self._plain("switchpool", str(fresh[0]))  # a pool that works is not taken away
            for old in sorted(held, key=_number, reverse=True):  # from the end: whatever is renumbered, these are not
                await self._remove(old)

    async def power_mode(self) -> str | None:
        """The profile that it works with."""
        return words((await self._config()).get("Profile"), 64) or None

    async def set_power_mode(self, mode: str) -> None:
        """A profile by its name. Not while ATM moves it between profiles by temperature (maker's documentation)."""
        profiles = section(await self._ask("profiles"), "PROFILES")
        name = check_mode(mode, [words(row.get("Profile Name"), 64) for row in profiles])
        if _PLACE.fullmatch(name):
            raise NotSupported(f"the device would not take {name!r} for the name of a profile", hint="use its web page")
        config = await self._config()
        if config.get("IsAtmEnabled") is True:
            raise Conflict(
                "its ATM is on, and changes the profile by temperature",
                hint="turn ATM off on its web page, or set its highest profile",
            )
        await self._in_session("profileset", name)

    async def power_limit_w(self) -> int | None:
        return whole((await self._thermal()).get("PowerTarget")) or None

    async def set_power_limit(self, limit_w: int) -> None:
        """Its power target. What it can hold, it tells with it."""
        told = await self._thermal()
        check_within(limit_w, whole(told.get("PowerMin")), whole(told.get("PowerLimit")), "W", "power target")
        await self._in_session("powertargetset", f"power={limit_w}")

    async def _thermal(self) -> Mapping[str, Any]:
        """Of `atm`, which also has the power target on models that hold one. Nothing where it is not to be had."""
        try:
            found = section(await self._ask("atm"), "ATM")
        except TimedOut:
            raise
        except (Unreachable, BadAnswer, Refused):
            return {}
        return found[0] if found else {}

    def _learn(self, thermal: Mapping[str, Any]) -> None:
        more = (ActionKind.SET_POWER_LIMIT,) if whole(thermal.get("PowerTarget")) else ()
        self.capabilities = (*_ORDERS, *more)

    async def _add(self, wanted: Sequence[PoolOrder], group: int, before: Sequence[int]) -> list[int]:
        """The numbers of the pools that were added. When one is refused, those before it are taken away again."""
        try:
            for pool in wanted:
                parameters = (pool.url, pool.user, pool.password) + ((str(group),) if group else ())
                await self._plain("addpool", *parameters)
            fresh = [row for row in await self._pool_rows() if _number(row) not in before]
            if [_name(row) for row in fresh] != [(pool.url, pool.user) for pool in wanted]:
                raise BadAnswer("the device does not show the pools that it took")
        except Fault:
            with contextlib.suppress(Fault):  # the first fault is the one to tell
                for row in sorted(await self._pool_rows(), key=_number, reverse=True):
                    if _number(row) not in before:
                        await self._remove(row)
            raise
        return [_number(row) for row in fresh]

    async def _remove(self, row: Mapping[str, Any]) -> None:
        """Only while that number is still that pool."""
        now = {_number(held): held for held in await self._pool_rows()}.get(_number(row), {})
        if _name(now) != _name(row):
            raise BadAnswer(f"pool {_number(row)} of the device became another one meanwhile", hint="look at its web page")
        await self._plain("removepool", str(_number(row)))

    async def _pool_rows(self) -> list[Mapping[str, Any]]:
        found = section(await self._ask("pools"), "POOLS")
        held = [row for row in found if words(row.get("URL"))]
        if any(whole(row.get("POOL")) is None for row in held):
            raise BadAnswer("the pools that the device shows make no sense, so nothing was written", hint="look at its web page")
        return held

    async def _plain(self, command: str, *parameters: str) -> None:
        """A command that changes something, once. One whose answer is lost may have worked."""
        try:
            answer = await self._ask(command, ",".join(parameters) or None)
        except (NoReply, TimedOut):
            return
        _check(command, answer)

    async def _in_session(self, command: str, *parameters: str) -> None:
        async with self._session() as session:
            await self._plain(command, session, *parameters)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[str]:
        """The device's one session. Conflict when somebody else has it and keeps it."""
        session = await self._log_on()
        try:
            yield session
        finally:
            try:
                _check("logoff", await self._ask("logoff", session, _LOGOFF_S))
            except Fault as fault:  # it restarts, or it is gone: then the session ends by itself after a minute
                log.debug("session not given back", extra={"address": self._place.host, "why": fault.text})

    async def _log_on(self) -> str:
        tries = max(1, round(_SESSION_WAIT_S / _SESSION_TRY_EVERY_S))
        for left in range(tries, 0, -1):
            answer = await self._ask("logon")
            found = rows(table(answer.value).get("SESSION"))
            if found and (session := words(found[0].get("SessionID"))):
                return session
            if _code(answer) != _SESSION_TAKEN:
                _check("logon", answer)
                raise BadAnswer("the device opened a session and does not say which")
            if left > 1:
                await asyncio.sleep(_SESSION_TRY_EVERY_S)
        raise Conflict(
            "somebody else is changing this device: its one session is taken, and it does not tell by whom",
            hint="let the other program end, or wait: an unused session ends after a minute; nothing was sent",
        )


def _code(answer: Answer) -> int | None:
    status = rows(table(answer.value).get("STATUS"))
    return whole(status[0].get("Code")) if status else None


def _check(command: str, answer: Answer) -> None:
    """Raises Refused, with the device's own words."""
    for status in rows(table(answer.value).get("STATUS")):
        if words(status.get("STATUS")) in ("E", "F"):
            raise Refused(f"the device refuses {command}: {words(status.get('Msg')) or 'no reason given'} (code {_code(answer)})")


def _number(row: Mapping[str, Any]) -> int:
    return whole(row.get("POOL")) or 0


def _name(row: Mapping[str, Any]) -> tuple[str, str]:
    return words(row.get("URL"), 4096), words(row.get("User"), 4096)


def _pool_order(row: Mapping[str, Any]) -> PoolOrder:
    password = words(row.get("Password", row.get("Pass")), 4096)
    return PoolOrder(*_name(row), password) if password else PoolOrder(*_name(row))


def _stored(pool: PoolOrder) -> PoolOrder:
    """With the scheme that the device stores."""
    return pool if "://" in pool.url else PoolOrder(f"stratum+tcp://{pool.url}", pool.user, pool.password)


# ---- fingerprints ------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Luxos | None, str]:
    """A driver when LuxOS answers here, else None and what was seen. Raises Unreachable when nothing answers."""
    try:
        answer = await ask(place.host, "version", port=place.api_port or PORT, total_s=_ANSWER_S)
    except BadAnswer as fault:
        return None, fault.text
    version = rows(table(answer.value).get("VERSION"))
    if version and is_luxos(version[0]):
        return Luxos(place), words(version[0].get("Type"))
    return None, "no LuxOS (its `version` does not say LUXminer)"
