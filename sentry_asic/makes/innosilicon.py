"""Innosilicons and DragonMints: an HTTP API under `/api/` on port 80 behind a token that expires.

Source: the web server of DragonMint and of a later Innosilicon, which is public; dragon_rest, pyasic, foreman, ha-innosilicon:
documented and reported, not recorded. Everything is a POST, of a form (PHP reads nothing else). That the token has expired is said
with HTTP 200. It cannot be put to sleep: its `poweroff` wants a hand to wake it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, BadInput, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, excerpt, parse, table, words
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.innosilicon_parse import form_of, is_bitcoin, parse_pool_orders, parse_reading, parse_seen
from sentry_asic.order_rules import check_pools
from sentry_asic.web_login import LOG_IN_AGAIN, WebLogin, bearer_header, check_order, told_by
from sentry_core.http import HttpAnswer, HttpClient

MAKE = "innosilicon"
HTTP_PORT = 80
FACTORY = (Credentials("admin", "admin"), Credentials("admin", "dragonadmin"))  # Innosilicon's, DragonMint's
_ANSWER_S = 6
_SLOTS = 3
_TITLE = re.compile(rb"<title>\s*(DragonMint|AsicMiner)\s*</title>", re.IGNORECASE)


class Innosilicon:
    """One device. Made by `identify` or `Innosilicon(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = (ActionKind.REBOOT, ActionKind.RESTART_MINING, ActionKind.APPLY_FLIGHT_SHEET)

    def __init__(self, place: Place) -> None:
        self._log_ins = (place.credentials,) if place.credentials else FACTORY
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
        self._web = WebLogin(self._http, self._log_in, _ended)
        self._kind: str | None = None
        self._has_all = True  # newer firmware: all in one answer, the power too

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        if self._kind is None and (told := await self._if_told("type")) is not None:
            self._kind = words(told.get("type"), 64)
        summary = await self._told("summary")
        if not isinstance(table(summary.value).get("success"), bool):
            raise BadAnswer(f"{self._http.where} does not answer like an Innosilicon any more")
        everything = await self._if_told("getAll") if self._has_all else None
        self._has_all = everything is not None
        return parse_reading(
            table(summary.value),
            bitcoin=is_bitcoin(self._kind or ""),
            everything=None if everything is None else table(everything.get("all")),
            error=await self._if_told("getErrorDetail") if slow else None,
            repairs=summary.repairs,
        )

    async def seen(self) -> Seen:
        told = table((await self._told("overview")).value)
        if told.get("success") is not True:
            raise BadAnswer(f"{self._http.where} does not tell what it is")
        self._kind, self._has_all = words(told.get("type"), 64), True  # another device may answer here the next time
        return parse_seen(told, MAKE)

    async def _told(self, name: str) -> Answer:
        path = f"/api/{name}"
        return told_by(self._http.where, path, await self._web.ask("POST", path, form={}))

    async def _if_told(self, name: str) -> Mapping[str, Any] | None:
        """None when it could not be asked: the look goes on without."""
        try:
            told = table((await self._told(name)).value)
        except (TimedOut, WrongPassword):
            raise
        except (Unreachable, BadAnswer, Refused):
            return None
        return told if told.get("success") is True else None

    async def _log_in(self) -> dict[str, str]:
        for who in self._log_ins:
            answer = await self._http.request("POST", "/api/auth", form={"username": who.username, "password": who.password})
            if answer.status in (401, 403):
                continue
            told = table(told_by(self._http.where, "/api/auth", answer).value)
            if told.get("success") is True and (proof := bearer_header(told.get("jwt"))):
                return proof
            if not isinstance(told.get("success"), bool):
                raise BadAnswer(f"{self._http.where} does not say whether it lets us in")
        raise WrongPassword(f"{self._http.where} refuses user {self._log_ins[0].username!r} with this password")

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("reboot")

    async def restart_mining(self) -> None:
        await self._order("restartCgMiner")

    async def pause(self) -> None:
        raise _not_supported("be put to sleep", "its power can be cut by a relay")

    async def resume(self) -> None:
        raise _not_supported("be woken", "its power can be switched by a relay")

    async def locate(self, on: bool) -> None:
        raise _not_supported("blink", "find it by its address, on your switch")

    async def locating(self) -> bool | None:
        return None

    async def pools(self) -> tuple[PoolOrder, ...]:
        told = table((await self._told("pools")).value)
        orders = parse_pool_orders(told) if told.get("success") is True else None
        if orders is None:
            raise BadAnswer(f"{self._http.where} does not show its pools, so nothing was written", hint="look at its web page")
        return orders

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """It writes them and starts its miner anew. A pool without a user or a password it drops without a word (its source)."""
        wanted = check_pools(pools, _SLOTS)
        if any(not pool.user or not pool.password for pool in wanted):
            raise BadInput("a pool of an Innosilicon needs a user and a password", hint='most pools take "x" for a password')
        if await self.pools() != wanted:
            await self._order("updatePools", form_of(wanted, _SLOTS))

    async def _order(self, name: str, form: Mapping[str, str] | None = None) -> None:
        answer = await self._web.order("POST", f"/api/{name}", form=form or {})
        if answer is None:
            return
        check_order(self._http.where, f"/api/{name}", answer)
        try:
            told = table(parse(answer.body).value)
        except BadAnswer:
            return
        if told.get("success") is False:
            reason = words(told.get("message")) or words(told.get("msg")) or "no reason given"
            raise Refused(f"{self._http.where} refuses {name}: {reason}")


def _not_supported(what: str, hint: str) -> NotSupported:
    return NotSupported(f"an Innosilicon cannot {what}", hint=hint)


def _ended(answer: HttpAnswer) -> bool:
    if answer.status in LOG_IN_AGAIN:
        return True
    if b"expired" not in answer.body[:256]:
        return False
    try:
        return words(table(parse(answer.body).value).get("token")) == "expired"
    except BadAnswer:
        return False


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Innosilicon | None, str]:
    """A driver when such a device answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By the title of its page (dragon_rest): its API tells nothing without a log-in, and that is sent to nobody else.
    """
    driver = Innosilicon(place)
    found = None
    try:
        page = await driver._http.request("GET", "/")
        found = _TITLE.search(page.body[:65536]) if page.status == 200 else None
        what = f"the page of {found[1].decode()}" if found else f"a web page (HTTP {page.status}: {excerpt(page.body)})"
    except BadAnswer as fault:
        what = f"no Innosilicon ({fault.text})"
    finally:
        if found is None:
            await driver.close()
    return (driver, what) if found else (None, what)
