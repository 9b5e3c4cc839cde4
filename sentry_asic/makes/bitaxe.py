"""Bitaxes (ESP-Miner with AxeOS) and NerdAxes: one HTTP answer tells all; nothing listens on port 4028.

Source: a recorded answer of AxeOS 2; the firmware's handlers; the rest is documented, not recorded. The device is an
ESP32: its web server has been seen to die when polled every 15 s (ESP-Miner issues 356, 773, 1793), so it is asked over
one connection that is closed each time, and `table.py` says how seldom. There is no log-in; only private addresses are
let in, and NerdAxe can ask for a one-time password before it changes anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, Conflict, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, excerpt, parse, table, whole, words
from sentry_asic.make import Fan, Place, Reading, Seen
from sentry_asic.makes.bitaxe_parse import (
    can_pause,
    fan_settings,
    is_info,
    is_nerd,
    overheats,
    parse_fan,
    parse_info,
    parse_pool_orders,
    parse_seen,
    settings_for,
)
from sentry_core.http import HttpAnswer, HttpClient

MAKE = "bitaxe"
HTTP_PORT = 80
LEAST_EVERY_S = 30
INFO = "/api/system/info"
_ANSWER_S = 6
_SLACK_S = 2  # its clock and ours, in whole seconds
_SAME_LOOK_S = 2  # `seen` and `read` of one look share one answer
_ORDERS = (ActionKind.REBOOT, ActionKind.APPLY_FLIGHT_SHEET, ActionKind.SET_HOSTNAME)
_CLOSE = {"connection": "close"}


class Bitaxe:
    """One device. Made by `identify` or `Bitaxe(place)`; `close` it."""

    make = MAKE

    def __init__(self, place: Place) -> None:
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
        self._kept: tuple[Answer, float] | None = None
        self._old_run: tuple[int, float] | None = None  # its uptime, and when: new pools were written that want a restart
        self.capabilities: tuple[ActionKind, ...] = _ORDERS

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        answer, _ = await self._info()
        told = table(answer.value)
        reading = parse_info(told, old_run=self._runs_on(told), repairs=answer.repairs)
        self._learn(told)
        return reading

    async def seen(self) -> Seen:
        answer, asked_s = await self._info()
        self._kept = answer, asked_s
        self._learn(table(answer.value))
        return parse_seen(table(answer.value), MAKE)

    async def _info(self) -> tuple[Answer, float]:
        """The whole answer and when it was asked for: the one that this look already has, else a fresh one."""
        now_s = asyncio.get_running_loop().time()
        kept, self._kept = self._kept, None
        if kept is not None and now_s - kept[1] <= _SAME_LOOK_S:
            return kept
        answer = await self._http.request("GET", INFO, headers=_CLOSE)
        if answer.status == 401:
            raise Refused(f"{self._http.where} does not let this address in", hint="it serves private addresses only")
        if answer.status != 200:
            raise BadAnswer(f"{self._http.where} answers {INFO} with HTTP {answer.status}")
        try:
            told = parse(answer.body)
        except BadAnswer as fault:
            raise BadAnswer(f"{self._http.where} {INFO}: {fault.text}") from None
        if not is_info(table(told.value)):
            raise BadAnswer(f"{self._http.where} does not answer like a Bitaxe: {excerpt(answer.body)}")
        return told, now_s

    def _learn(self, told: Mapping[str, Any]) -> None:
        more = (ActionKind.PAUSE, ActionKind.RESUME, ActionKind.LOCATE) if can_pause(told) else ()
        fan = (ActionKind.SET_FAN,) if parse_fan(told) is not None else ()
        self.capabilities = (*_ORDERS, *more, *fan)

    def _runs_on(self, told: Mapping[str, Any]) -> bool:
        """It shows new pools at once, and works with them after its restart only."""
        if self._old_run is None:
            return False
        before_s, at_s = self._old_run
        uptime_s = whole(told.get("uptimeSeconds"))
        passed_s = asyncio.get_running_loop().time() - at_s
        if uptime_s is not None and uptime_s < before_s + passed_s - _SLACK_S:
            self._old_run = None
        return self._old_run is not None

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("POST", "/api/system/restart")

    async def restart_mining(self) -> None:
        raise NotSupported("a Bitaxe cannot restart only its miner", hint="`reboot` restarts all of it, in seconds")

    async def pause(self) -> None:
        await self._pause(True)

    async def resume(self) -> None:
        await self._pause(False)

    async def _pause(self, pause: bool) -> None:
        """Two versions of the same order: one path each, or one path with a word. The first is not there where the second is."""
        try:
            await self._order("POST", f"/api/system/{'pause' if pause else 'resume'}")
        except NotSupported:
            try:
                await self._order("POST", "/api/system/mining", {"pause": pause})
            except NotSupported as fault:
                hint = "newer AxeOS can; or its power can be cut by a relay"
                raise NotSupported(f"this firmware cannot {'pause' if pause else 'be woken'}", hint=hint) from fault

    async def locate(self, on: bool) -> None:
        """The order turns the light over, for 30 s, and its answer says which way: a wrong way is turned over again."""
        for _ in range(2):
            try:
                said = words(table(await self._order("POST", "/api/system/identify")).get("message")).lower()
            except NotSupported as fault:
                raise NotSupported("this firmware has no light to find it by", hint="newer AxeOS has") from fault
            now_on = False if "no longer" in said else True if "30" in said else None
            if now_on is None or now_on is on:
                return

    async def locating(self) -> bool | None:
        return None  # nothing in its answers tells

    async def pools(self) -> tuple[PoolOrder, ...]:
        answer, _ = await self._info()
        return self._pool_orders(table(answer.value))

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """AxeOS takes new pools when it starts, so it is restarted; NerdAxe reconnects by itself."""
        self._kept = None
        answer, _ = await self._info()
        told = table(answer.value)
        held = self._pool_orders(told)
        wanted = settings_for(told, pools)
        if held == tuple(pools):
            return
        uptime_s = whole(told.get("uptimeSeconds"))
        await self._order("PATCH", "/api/system", wanted)
        if not is_nerd(told):
            self._old_run = None if uptime_s is None else (uptime_s, asyncio.get_running_loop().time())
            await self._order("POST", "/api/system/restart")

    async def fan(self) -> Fan | None:
        answer, _ = await self._info()
        return parse_fan(table(answer.value))

    async def set_fan(self, fan: Fan) -> None:
        """Not while it holds itself back because it was too hot."""
        answer, _ = await self._info()
        told = table(answer.value)
        if overheats(told):
            hint = "let it cool, then clear that on its web page; nothing was sent"
            raise Conflict(f"{self._http.where} overheated and is held back by its firmware", hint=hint)
        await self._order("PATCH", "/api/system", fan_settings(told, fan))

    async def hostname(self) -> str | None:
        """What is stored: it goes by a new name after its restart."""
        answer, _ = await self._info()
        return words(table(answer.value).get("hostname"), 64) or None

    async def set_hostname(self, name: str) -> None:
        await self._order("PATCH", "/api/system", {"hostname": name})

    def _pool_orders(self, told: Mapping[str, Any]) -> tuple[PoolOrder, ...]:
        orders = parse_pool_orders(told)
        if orders is None:
            raise BadAnswer(
                f"{self._http.where} does not show its pools, so nothing was written", hint="look at the device's web page"
            )
        return orders

    async def _order(self, method: str, path: str, json: object = None) -> object:
        """Sends an order once. None when the device took it and did not answer in words: it restarts instead."""
        self._kept = None
        try:
            answer = await self._http.request(method, path, json=json, headers=_CLOSE, replay=False)
        except Unreachable:
            if self._http.delivered:
                return None
            raise
        return self._said(path, answer)

    def _said(self, path: str, answer: HttpAnswer) -> object:
        where = self._http.where
        if answer.status in (302, 404, 405):  # old firmware sends to its start page what it does not know
            raise NotSupported(f"{where} has no {path}")
        if answer.status == 401:
            raise WrongPassword(
                f"{where} refuses to be changed", hint="it asks for a one-time password, or lets private addresses in only"
            )
        if not 200 <= answer.status < 300:
            raise Refused(f"{where} refuses {path} (HTTP {answer.status}): {excerpt(answer.body) or 'no reason given'}")
        try:
            return parse(answer.body).value
        except BadAnswer:
            return None  # an empty page or words: taken


async def fingerprint(place: Place) -> tuple[Bitaxe | None, str]:
    """A driver when such a device answers here, else None and what was seen. Raises Unreachable when nothing answers."""
    driver = Bitaxe(place)
    try:
        seen_at = await driver._info()
    except (BadAnswer, Refused) as fault:
        await driver.close()
        return None, f"no Bitaxe ({fault.text})"
    except (TimedOut, Unreachable):
        await driver.close()
        raise
    driver._kept = seen_at
    driver._learn(table(seen_at[0].value))
    return driver, parse_seen(table(seen_at[0].value), MAKE).model
