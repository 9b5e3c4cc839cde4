"""Canaan Avalons, A10 to A15, Q, Nano and Mini: the cgminer API on port 4028 with everything about the machine in one string.

Source: the maker's A10 API manual, recorded answers of an A1246 and a Q, public source of monitors. The API has one thread and
takes one command a connection, one after another: a look is two questions with a rest between them. Reads are asked in JSON, or
in the old text form where the firmware speaks only that; orders always in text, as the manual writes them: some firmware
drops orders in JSON without a word. What `ascset` can do differs by model and firmware: the device is asked (`help`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from garrison.faults import BadAnswer, Conflict, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, Pool, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, parse, rows, table, words
from sentry_asic.cgminer import PORT, NoReply, ask, exchange, pools_of, section
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.avalon_parse import (
    Version,
    machine,
    missing_of,
    mode_of,
    modes_of,
    parse_options,
    parse_text,
    parse_version,
    reading_of,
    said_by,
    summary_rate,
)
from sentry_asic.order_rules import check_pools
from sentry_asic.settable import check_mode

MAKE = "avalon"
FACTORY = Credentials("root", "root")
FACTORY_HOME = Credentials("admin", "admin")  # Q, Nano, Mini (public clients of these models)
ANSWER_S = 5
ORDER_S = 10
REST_S = 0.1
LEAST_EVERY_S = 30  # its API has one thread beside the mining (A10 manual: one command, then the next)
SLOTS = 3
_AHEAD_S = 5  # `softoff` and `softon` name a time by the device's clock, a little ahead
_MANUAL = frozenset({"reboot", "led", "workmode", "setpool", "hashpower"})  # of the A10 manual, for firmware without `help`
_HOME = frozenset({"reboot", "workmode", "softoff", "softon"})  # the same for home models (the maker's support pages)
_FORBIDDEN = ',|[]\\"'  # what commands and answers are made of
_UNTOLD = "x"  # for a pool's password, where the firmware does not tell it


class Avalon:
    """One device. Made by `identify` or `Avalon(place)`; `close` it."""

    make = MAKE

    def __init__(self, place: Place) -> None:
        self._place = place
        self._port = place.api_port or PORT
        self._text = False  # this firmware speaks only the old form
        self._version = Version()
        self._product = ""
        self._stats = ""  # which of the three this firmware has
        self._options: frozenset[str] | None = None
        self._passwords: dict[tuple[str, str], str] = {}
        self._free_s = 0.0
        self.capabilities: tuple[ActionKind, ...] = (ActionKind.REBOOT, ActionKind.APPLY_FLIGHT_SHEET)

    async def close(self) -> None:
        """Nothing stays open between questions."""

    # ---- reading -------------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        answer = await self._machine()
        fields, uptime_s = machine(answer.value)
        repairs, rate = answer.repairs, None
        if "GHSspd" not in fields:
            found, more = await self._section("summary", "SUMMARY")
            rate, repairs = summary_rate(found or []), repairs + more
        pools, more = await self._section("pools", "POOLS")
        told = None if pools is None else pools_of(pools)
        reading = reading_of(fields, uptime_s, self._product, rate)
        reading = replace(
            reading,
            pools=told,
            accepted=_sum(pool.accepted for pool in told or ()),
            rejected=_sum(pool.rejected for pool in told or ()),
            stale=_sum(pool.stale for pool in told or ()),
            repairs=repairs + more,
        )
        return replace(reading, missing=tuple(missing_of(reading)))

    async def _machine(self) -> Answer:
        """The big string: `estats`, or where the firmware has none `stats` or, without chips, `litestats`."""
        fault: Exception = BadAnswer(f"{self._place.host} tells nothing of its machine")
        for command in (self._stats,) if self._stats else ("estats", "stats", "litestats"):
            try:
                answer = await self._ask(command)
                section(answer, "STATS")
            except (BadAnswer, Refused) as error:
                fault = error
                continue
            if machine(answer.value)[0]:
                self._stats = command
                return answer
        raise fault

    async def _ask(self, command: str) -> Answer:
        await self._rest()
        try:
            if self._text:
                raw = await exchange(self._place.host, self._port, command.encode(), total_s=ANSWER_S)
                return Answer(parse_text(raw))
            return await ask(self._place.host, command, port=self._port, total_s=ANSWER_S)
        finally:
            self._free_s = asyncio.get_running_loop().time() + REST_S

    async def _rest(self) -> None:
        await asyncio.sleep(max(0.0, self._free_s - asyncio.get_running_loop().time()))

    async def _section(self, command: str, name: str) -> tuple[list[Any] | None, int]:
        """The rows and the repairs; None when it could not be asked: the look goes on without."""
        try:
            answer = await self._ask(command)
            return list(section(answer, name)), answer.repairs
        except TimedOut:
            raise
        except (Unreachable, BadAnswer, Refused):
            return None, 0

    async def seen(self) -> Seen:
        version, self._version = self._version, Version()  # another device may answer here the next time
        if not version.product:
            version = parse_version((await self._ask("version")).value)
        if not version.product:
            raise BadAnswer(f"{self._place.host} does not call itself an Avalon any more")
        self._product = version.product
        await self._can()
        return Seen(MAKE, version.model, version.firmware, version.mac, version.serial, version.facts)

    # ---- orders --------------------------------------------------------------------------------------------

    async def _can(self) -> frozenset[str]:
        """What `ascset` of this firmware sets, and with it our capabilities."""
        options = self._options
        if options is None:
            said = await self._order("ascset|0,help")
            options = parse_options(said_by(said).text) or (_HOME if Version(self._product).home else _MANUAL)
            self._options = None if said is None else options  # silence may be chance: asked again
        can = [ActionKind.REBOOT, ActionKind.APPLY_FLIGHT_SHEET]
        if options & {"softoff", "hashpower"}:
            can += [ActionKind.PAUSE, ActionKind.RESUME]
        if "led" in options:
            can.append(ActionKind.LOCATE)
        if "workmode" in options:
            can.append(ActionKind.SET_POWER_MODE)
        self.capabilities = tuple(can)
        return options

    async def reboot(self) -> None:
        self._taken("reboot", await self._order("ascset|0,reboot,0"))

    async def restart_mining(self) -> None:
        raise NotSupported("an Avalon cannot restart only its miner", hint="`reboot` restarts all of it")

    async def pause(self) -> None:
        options = await self._can()
        if "softoff" in options:
            command = f"ascset|0,softoff,1:{await self._soon()}"
        elif "hashpower" in options:
            command = "ascset|0,hashpower,0"
        else:
            raise NotSupported("this Avalon cannot be put to sleep", hint="its power can be cut by a relay")
        self._taken("sleep", await self._order(command))

    async def resume(self) -> None:
        """Firmware without `softon` goes back to work by a reboot (A10 manual)."""
        options = await self._can()
        command = f"ascset|0,softon,1:{await self._soon()}" if "softon" in options else "ascset|0,reboot,0"
        self._taken("wake up", await self._order(command))

    async def _soon(self) -> int:
        when_s = said_by((await self._ask("version")).value).when_s
        if when_s is None:
            raise BadAnswer(f"{self._place.host} does not tell its time, so nothing was sent")
        return when_s + _AHEAD_S

    async def locate(self, on: bool) -> None:
        if "led" not in await self._can():
            raise NotSupported("this Avalon has no light that can be set", hint="look for its address on its display or in its app")
        self._taken("light", await self._order(f"ascset|0,led,1-{int(on)}"))

    async def locating(self) -> bool | None:
        if "led" not in await self._can():
            return None
        found = re.search(r"LED\[([01])\]", said_by(await self._order("ascset|0,led,1-255")).text)
        return found[1] == "1" if found else None

    async def power_mode(self) -> str | None:
        fields, _ = machine((await self._machine()).value)
        return mode_of(fields, self._product)

    async def set_power_mode(self, mode: str) -> None:
        """Home models want the word `set` in between, the others do not know it (A10 manual; the maker's page on the Q)."""
        modes = modes_of(self._product)
        place = modes.index(check_mode(mode, modes))
        command = f"workmode,set,{place}" if Version(self._product).home else f"workmode,{place}"
        self._taken("change its work mode", await self._order(f"ascset|0,{command}"))

    async def pools(self) -> tuple[PoolOrder, ...]:
        """Passwords where this firmware tells them or we wrote them, else "x"."""
        held = await self._held()
        return tuple(PoolOrder(pool.url, pool.user, password) for pool, password in held)

    async def _held(self) -> list[tuple[Pool, str]]:
        found = []
        for row in section(await self._ask("pools"), "POOLS"):
            for pool in pools_of([row]):
                ours = self._passwords.get((pool.url, pool.user), _UNTOLD)
                told = row.get("Password")
                found.append((pool, words(told, 4096) if isinstance(told, str) else ours))
        return sorted(found, key=lambda one: one[0].priority)

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """One command a slot, then a reboot, as the maker says. A10 to A15 set only the first pool; none can clear a slot."""
        wanted = check_pools(pools, SLOTS, forbidden=_FORBIDDEN)
        home = Version(self._product).home or "setpool" not in await self._can()
        held = await self.pools()
        if held == wanted:
            return
        if len(held) > len(wanted):
            hint = f"give {len(held)}, or clear them on its web page"
            raise Conflict(f"it has {len(held)} pools, and its firmware cannot clear a slot", hint=hint)
        if not home and wanted[1:] != held[1:]:
            raise NotSupported("this Avalon lets only its first pool be set", hint="set the others on its web page")
        for slot, pool in enumerate(wanted):
            if slot >= len(held) or held[slot] != pool:
                await self._set_pool(slot, pool, home=home)
        self._passwords |= {(pool.url, pool.user): pool.password for pool in wanted}
        await self.reboot()

    async def _set_pool(self, slot: int, pool: PoolOrder, *, home: bool) -> None:
        """Home models name the slot and take `setpool` as a command of its own."""
        log_in = self._place.credentials or (FACTORY_HOME if home else FACTORY)
        if re.search(rf"[\x00-\x20\x7f{re.escape(_FORBIDDEN)}]", log_in.username + log_in.password):
            hint = f"no spaces and none of {_FORBIDDEN}"
            raise WrongPassword(f"the log-in of {self._place.host} cannot be sent to an Avalon", hint=hint)
        who = f"{log_in.username},{log_in.password}"
        command = f"setpool|{who},{slot}" if home else f"ascset|0,setpool,{who}"
        value = await self._order(f"{command},{pool.url},{pool.user},{pool.password}")
        said = said_by(value)
        if value is None or (said.letter in ("S", "I") and re.search(r"success|reboot", said.text, re.IGNORECASE)):
            return
        if re.search(r"passw|user|auth|login", said.text, re.IGNORECASE):
            raise WrongPassword(f"{self._place.host} refuses the log-in", hint="give the user and password of its web page")
        raise Refused(f"{self._place.host} did not take the pool (code {said.code})")  # its words may hold passwords

    async def _order(self, command: str) -> Any:
        """The answer; None when it went out and got none: the device restarts instead, and the caller looks later."""
        await self._rest()
        try:
            raw = await exchange(self._place.host, self._port, command.encode(), total_s=ORDER_S)
        except (NoReply, TimedOut):
            return None
        finally:
            self._free_s = asyncio.get_running_loop().time() + REST_S
        return _either(raw)

    def _taken(self, what: str, value: Any) -> None:
        if value is None:
            return
        said = said_by(value)
        if said.letter not in ("S", "I", "W"):
            raise Refused(f"{self._place.host} refuses to {what}: {said.text or 'no reason given'} (code {said.code})")


def _either(raw: bytes) -> Any:
    """Some firmware answers a command in text with JSON."""
    return parse(raw).value if raw.lstrip()[:1] == b"{" else parse_text(raw)


def _sum(counts: Iterable[int | None]) -> int | None:
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Avalon | None, str]:
    """A driver when an Avalon answers here, else None and what was seen. Raises Unreachable when nothing answers."""
    driver = Avalon(place)
    try:
        value = (await driver._ask("version")).value
    except (NoReply, BadAnswer) as fault:
        if isinstance(fault, BadAnswer) and "STATUS=" not in fault.text:
            return None, fault.text
        driver._text = True  # it drops JSON, or answers it in text
        try:
            value = (await driver._ask("version")).value
        except BadAnswer as other:
            return None, other.text
    version = parse_version(value)
    if version.product:
        driver._version, driver._product = version, version.product
        return driver, version.product
    found = rows(table(value).get("VERSION"))
    kind = next((words(row.get("Type"), 64) or words(row.get("PROD"), 64) for row in found), "")
    return None, f"a miner that calls itself {kind}" if kind else "a miner that is no Avalon"
