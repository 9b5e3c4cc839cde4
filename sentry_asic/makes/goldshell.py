"""Goldshells: an HTTP API under `/mcb/` on port 80 behind a token, and cgminer's API on port 4028 for what it does better.

Source: foreman and its tests, pyasic, bitcap-ipr, the maker's own web page, notes of owners of an SC-BOX and an SC Lite: documented
and reported, not recorded. Old firmware reads without the token; `/mcb/status` never wants it. On some models the page's
boards are an HTTP 500, then port 4028 is asked; the uptime comes from there always. About fifteen requests a second make its
web server fall over, so there is a rest between them. A write to `/mcb/setting` starts the fans anew: they are loud for minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, parse, table, whole, words
from sentry_asic.cgminer import PORT, ask, section
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.goldshell_parse import (
    Part,
    Plans,
    document_of,
    is_status,
    model_of_status,
    parse_algorithm,
    parse_plans,
    parse_pool_orders,
    parse_pools,
    parse_reading,
    parse_seen,
    parts_of_api,
    parts_of_web,
    unit_of,
)
from sentry_asic.order_rules import check_pools
from sentry_asic.web_login import WebLogin, bearer_header, check_order, told_by
from sentry_core.http import HttpAnswer, HttpClient

MAKE = "goldshell"
HTTP_PORT = 80
LEAST_EVERY_S = 30
FACTORY = Credentials("admin", "123456789")
STATUS, DEVS, POOLS = "/mcb/status", "/mcb/cgminer?cgminercmd=devs", "/mcb/pools"
SETTING, ALGORITHM, RESTART, LOG_IN = "/mcb/setting", "/mcb/algosetting", "/mcb/restart", "/user/login"
_ANSWER_S = 5
_API_S = 2  # beside the page's answers it has little of a look's time
_REST_S = 0.1
_SLOTS = 3
_ORDERS = (ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET)
_KEY, _IV = b"!" * 16, bytes(16)


class Goldshell:
    """One device. Made by `identify` or `Goldshell(place)`; `close` it."""

    make = MAKE

    def __init__(self, place: Place) -> None:
        self._place = place
        self._credentials = place.credentials or FACTORY
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
        self._web = WebLogin(self._http, self._log_in, _ended)
        self._free_s = 0.0
        self._unit: float | None = None
        self._looked = False  # for the unit
        self._before: Plans | None = None  # how it worked before it was paused
        self.capabilities: tuple[ActionKind, ...] = _ORDERS

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        parts, status, repairs = await self._parts()
        plans = await self._slow() if slow or not self._looked else None
        pools = await self._if_told(POOLS)
        return parse_reading(
            parts,
            self._unit,
            None if pools is None else parse_pools(pools.value),
            uptime_s=await self._uptime_s(),
            status=status,
            plans=plans,
            repairs=repairs + (pools.repairs if pools else 0),
        )

    async def _parts(self) -> tuple[tuple[Part, ...], int | None, int]:
        try:
            told = await self._told(DEVS)
            parts = parts_of_web(told.value)
            if parts is not None:
                return parts, whole(table(told.value).get("status")), told.repairs
            fault = BadAnswer(f"{self._http.where} tells no boards")
        except BadAnswer as error:
            fault = error
        try:
            answer = await self._api("devs")
            return parts_of_api(section(answer, "DEVS")), None, answer.repairs
        except (Unreachable, BadAnswer, Refused):
            raise fault from None

    async def _slow(self) -> Plans | None:
        """What changes rarely: the plans, and what rates are counted in."""
        setting, algorithm = await self._if_told(SETTING), await self._if_told(ALGORITHM)
        name = parse_algorithm(algorithm.value if algorithm else None)
        status = None if name else await self._if_told(STATUS)
        self._unit = unit_of(name, model_of_status(table(status.value)) if status else "")
        self._looked = True
        plans = parse_plans(table(setting.value)) if setting else None
        self._learn(plans)
        return plans

    def _learn(self, plans: Plans | None) -> None:
        can = plans is not None and plans.idle is not None and plans.working is not None
        self.capabilities = (*_ORDERS, *((ActionKind.PAUSE, ActionKind.RESUME) if can else ()))

    async def _uptime_s(self) -> int | None:
        try:
            rows = section(await self._api("summary"), "SUMMARY")
        except (Unreachable, BadAnswer, Refused):
            return None
        return whole(rows[0].get("Elapsed")) if rows else None

    async def seen(self) -> Seen:
        status = (await self._told(STATUS)).value
        if not is_status(status):
            raise BadAnswer(f"{self._http.where} does not answer like a Goldshell any more")
        setting = table((await self._told(SETTING)).value)
        algorithm = await self._if_told(ALGORITHM)
        self._learn(parse_plans(setting))
        return parse_seen(table(status), setting, parse_algorithm(algorithm.value if algorithm else None), MAKE)

    async def _api(self, command: str) -> Answer:
        return await ask(self._place.host, command, port=self._place.api_port or PORT, connect_s=_API_S, total_s=_API_S)

    async def _told(self, path: str) -> Answer:
        await asyncio.sleep(max(0.0, self._free_s - asyncio.get_running_loop().time()))
        try:
            return told_by(self._http.where, path, await self._web.ask("GET", path, unproven=True))
        finally:
            self._free_s = asyncio.get_running_loop().time() + _REST_S

    async def _if_told(self, path: str) -> Answer | None:
        """None when it could not be asked: the look goes on without."""
        try:
            return await self._told(path)
        except (TimedOut, WrongPassword):
            raise
        except (Unreachable, BadAnswer, Refused):
            return None

    async def _log_in(self) -> dict[str, str]:
        """The password as it is, and where that is an HTTP 500, as newer firmware wants it."""
        who = self._credentials
        for password, cipher in ((who.password, "false"), (cipher_text(who.password), "true")):
            query = urlencode({"username": who.username, "password": password, "cipher": cipher})
            answer = await self._http.request("GET", f"{LOG_IN}?{query}")
            if answer.status == 500:
                continue
            told = told_by(self._http.where, LOG_IN, answer).value
            if proof := bearer_header(table(told).get("JWT Token")):
                return proof
        raise WrongPassword(f"{self._http.where} refuses user {who.username!r} with this password")

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("PUT", RESTART)

    async def restart_mining(self) -> None:
        raise NotSupported("a Goldshell cannot restart only its miner", hint="`reboot` restarts all of it, in about a minute")

    async def pause(self) -> None:
        setting, plans = await self._plans()
        if plans.asleep:
            return
        self._before = plans
        await self._order("PUT", SETTING, {**setting, "select": plans.idle, "manual": False})

    async def resume(self) -> None:
        """To the plan that it had when we paused it, else to its first."""
        setting, plans = await self._plans()
        before = self._before or Plans(plans.working)
        if plans.asleep is not False:
            await self._order("PUT", SETTING, {**setting, "select": before.selected, "manual": before.manual})

    async def _plans(self) -> tuple[Mapping[str, Any], Plans]:
        setting = await self._setting()
        plans = parse_plans(setting)
        self._learn(plans)
        if plans is None or plans.idle is None or plans.working is None:
            raise NotSupported("this Goldshell has no power plan that stops it", hint="its power can be cut by a relay")
        return setting, plans

    async def _setting(self) -> Mapping[str, Any]:
        """The whole document: it goes back with one thing changed."""
        setting = table((await self._told(SETTING)).value)
        if "select" not in setting or "ledcontrol" not in setting:
            raise BadAnswer(f"{self._http.where} does not show its settings, so nothing was written", hint="look at its web page")
        return setting

    async def locate(self, on: bool) -> None:
        setting = await self._setting()
        if setting.get("ledcontrol") is not on:
            await self._order("PUT", SETTING, {**setting, "ledcontrol": on})

    async def locating(self) -> bool | None:
        led = table((await self._told(SETTING)).value).get("ledcontrol")
        return led if isinstance(led, bool) else None

    async def pools(self) -> tuple[PoolOrder, ...]:
        orders = parse_pool_orders((await self._told(POOLS)).value)
        if orders is None:
            raise BadAnswer(f"{self._http.where} does not show its pools, so nothing was written", hint="look at its web page")
        return orders

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """The whole list in one go: at no moment is it without a pool to work for."""
        wanted = check_pools(pools, _SLOTS)
        if await self.pools() != wanted:
            await self._order("PUT", POOLS, document_of(wanted))

    async def _order(self, method: str, path: str, json: object = None) -> None:
        await asyncio.sleep(max(0.0, self._free_s - asyncio.get_running_loop().time()))
        answer = await self._web.order(method, path, json=json)
        self._free_s = asyncio.get_running_loop().time() + _REST_S
        if answer is not None:
            check_order(self._http.where, path, answer)


def _ended(answer: HttpAnswer) -> bool:
    return answer.status in (401, 403)


def cipher_text(password: str) -> str:
    """AES-128-CBC under a key that is no secret, zero bytes up to the next block, in hex (notes of owners, bitcap-ipr)."""
    raw = password.encode()
    encryptor = Cipher(algorithms.AES(_KEY), modes.CBC(_IV)).encryptor()
    return (encryptor.update(raw + bytes(16 - len(raw) % 16)) + encryptor.finalize()).hex()


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Goldshell | None, str]:
    """A driver when a Goldshell answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By `/mcb/status`, or where that wants a log-in by the title of its page (pyasic). The log-in is sent to nobody else.
    """
    driver = Goldshell(place)
    taken = False
    try:
        taken, what = await _looks_like_one(driver._http)
    except BadAnswer as fault:
        what = f"no Goldshell ({fault.text})"
    finally:
        if not taken:
            await driver.close()
    return (driver, what) if taken else (None, what)


async def _looks_like_one(http: HttpClient) -> tuple[bool, str]:
    answer = await http.request("GET", STATUS)
    if answer.status == 200:
        told = parse(answer.body).value
        return is_status(told), words(table(told).get("model")) or "an answer that is no Goldshell's"
    if answer.status in (401, 403):
        page = await http.request("GET", "/")
        if page.status == 200 and b"cloud-box" in page.body[:65536]:
            return True, "the page of a Goldshell"
    return False, f"no Goldshell (HTTP {answer.status})"
