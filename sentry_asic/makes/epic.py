"""ePIC's PowerPlay firmware (UMC boards, Antminers, Whatsminers): HTTP on port 4028, where others have the cgminer API.

Source: recorded answers of an S19 XP with PowerPlay-BMS 1.5.13 (reading); the maker's page on its API (epic-dashboard: orders
and what they answer, documented, not recorded). Everybody may read; an order has the password in it. Some orders answer only
when they are done, up to a minute later: whether one worked, a later look tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.faults import BadAnswer, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, parse, table, words
from sentry_asic.cgminer import PORT
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.epic_parse import (
    SLOTS,
    coin_for,
    is_capabilities,
    is_summary,
    parse_pool_orders,
    parse_reading,
    parse_seen,
)
from sentry_asic.order_rules import check_pools
from sentry_asic.web_login import check_order, told_by
from sentry_core.http import HttpClient

MAKE = "epic"
FACTORY = Credentials("", "letmein")  # it knows no users
_ANSWER_S = 6
_ORDER_S = 8
_LOOK = "look at its web page"


class Epic:
    """One device. Made by `identify` or `Epic(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = (
        ActionKind.REBOOT,
        ActionKind.RESTART_MINING,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
    )

    def __init__(self, place: Place) -> None:
        self._password = (place.credentials or FACTORY).password
        self._http = HttpClient(place.host, place.api_port or PORT, total_s=_ANSWER_S)
        self._capabilities: Mapping[str, Any] | None = None  # the hardware: asked with a slow look, None before

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        try:
            summary = await self._summary()
        except Refused as fault:  # it is there, and does not tell: while it starts, say
            return replace(parse_reading({}, {}), conditions=(Condition("not_told", fault.text, "warning"),))
        repairs = summary.repairs
        if slow or self._capabilities is None:
            told = await self._if_told("capabilities")
            repairs += told.repairs
            self._capabilities = table(told.value)
        return parse_reading(table(summary.value), self._capabilities, repairs)

    async def seen(self) -> Seen:
        told = table((await self._get("capabilities")).value)
        if not is_capabilities(told):
            raise BadAnswer(f"{self._http.where} does not answer like ePIC's firmware any more")
        network = table((await self._get("network")).value)  # without it there is no MAC, so no identity
        return parse_seen(told, table((await self._if_told("summary")).value), network, MAKE)

    async def _summary(self) -> Answer:
        answer = await self._get("summary")
        if not is_summary(table(answer.value)):
            raise BadAnswer(f"{self._http.where} answers summary without its state")
        return answer

    async def _get(self, name: str) -> Answer:
        """What it cannot tell now, it refuses: `{"result": false, "error": …}`."""
        answer = told_by(self._http.where, f"/{name}", await self._http.request("GET", f"/{name}"))
        told = table(answer.value)
        if told.get("result") is False:
            raise Refused(f"{self._http.where} does not tell {name}: {words(told.get('error')) or 'no reason given'}")
        return answer

    async def _if_told(self, name: str) -> Answer:
        """Empty when it could not be asked: the look goes on without."""
        try:
            return await self._get(name)
        except TimedOut:
            raise  # the rest would be as silent, and this look has its limit
        except (Unreachable, BadAnswer, Refused):
            return Answer({})

    # ---- orders ------------------------------------------------------------------------------------------

    async def _order(self, name: str, param: object) -> None:
        """Sends an order once. One whose answer does not come went out all the same."""
        path, json = f"/{name}", {"param": param, "password": self._password}
        try:
            answer = await self._http.request("POST", path, json=json, replay=False, total_s=_ORDER_S)
        except Unreachable:
            if self._http.delivered:
                return
            raise
        try:
            told = table(parse(answer.body).value)
        except BadAnswer:
            told = {}
        reason = words(told.get("error"))
        if answer.status in (401, 403) or (told.get("result") is False and "password" in reason.lower()):
            raise WrongPassword(f"{self._http.where} refuses this password")
        check_order(self._http.where, path, answer)
        if told.get("result") is False:
            raise Refused(f"{self._http.where} refuses {path}: {reason or 'no reason given'}")

    async def reboot(self) -> None:
        await self._order("reboot", 0)  # after so many seconds

    async def restart_mining(self) -> None:
        await self._order("softreboot", 0)

    async def pause(self) -> None:
        await self._order("miner", "Stop")

    async def resume(self) -> None:
        await self._order("miner", "Autostart")

    async def locate(self, on: bool) -> None:
        await self._order("identify", on)

    async def locating(self) -> bool | None:
        on = table(table((await self._summary()).value).get("Misc")).get("Locate Miner State")
        return on if isinstance(on, bool) else None

    async def pools(self) -> tuple[PoolOrder, ...]:
        return self._held(table((await self._summary()).value))

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """The order holds the coin and the unique names too: they stay as they are."""
        wanted = check_pools(pools, SLOTS)
        summary = table((await self._summary()).value)
        if self._held(summary) == wanted:
            return
        order = coin_for(summary, wanted)
        if order is None:
            text = f"{self._http.where} does not show its coin and whether names are made unique, so nothing was written"
            raise BadAnswer(text, hint=_LOOK)
        await self._order("coin", order)

    def _held(self, summary: Mapping[str, Any]) -> tuple[PoolOrder, ...]:
        held = parse_pool_orders(summary)
        if held is None:
            raise BadAnswer(f"{self._http.where} does not show its pools, so nothing was written", hint=_LOOK)
        return held


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Epic | None, str]:
    """A driver when this firmware answers here, else None and what was seen. Raises Unreachable when nothing answers.

    While it starts it may refuse to tell the one and tell the other.
    """
    driver = Epic(place)
    try:
        for name, is_ours in (("capabilities", is_capabilities), ("summary", is_summary)):
            try:
                told = table((await driver._get(name)).value)
            except Refused:
                continue
            if is_ours(told):
                return driver, words(told.get("Model")) or words(told.get("Software"))
            break
    except BadAnswer as fault:
        await driver.close()
        return None, f"port {place.api_port or PORT} speaks no HTTP like ePIC's ({fault.text})"
    except Unreachable:
        await driver.close()
        raise
    await driver.close()
    return None, "no ePIC (its `capabilities` does not say so)"
