"""Auradine's Teraflux miners (FluxOS): the cgminer API on port 4028 for rates, an HTTP API on 8080 with a token for the rest.

Source: recorded answers of an AT1500 (reading); pyasic and asic-rs (which port has what, log-in, orders: documented, not
recorded). Both say that the passwords of pools cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.faults import BadAnswer, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import parse, rows, table, whole, words
from sentry_asic.cgminer import PORT, ask, section
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.auradine_parse import LOCATE, NORMAL, Answers, Rows, is_ours, parse_pools, parse_reading, parse_seen
from sentry_asic.order_rules import check_pools
from sentry_asic.web_login import WebLogin, check_order, told_by
from sentry_core.http import HttpAnswer, HttpClient

MAKE = "auradine"
HTTP_PORT = 8080
FACTORY = Credentials("admin", "admin")
_ANSWER_S = 6
_SLOTS = 3
_API = {"devs": "DEVS", "pools": "POOLS"}
_API_SLOW = {"asccount": "ASCCount"}
_WEB = {"mode": "Mode", "psu": "PSU", "fan": "Fan", "temperature": "Temperature"}
_WEB_SLOW = {"frequency": "Frequency", "led": "LED"}
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_ENDED = re.compile(r"token|session|expired|unauthori[sz]ed", re.IGNORECASE)


class Auradine:
    """One device. Made by `identify` or `Auradine(place)`; `close` it."""

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
        self._place = place
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
        self._web = WebLogin(self._http, self._log_in, _ended)

    async def close(self) -> None:
        await self._http.close()

    async def _log_in(self) -> Mapping[str, str]:
        who = self._place.credentials or FACTORY
        json = {"command": "token", "user": who.username, "password": who.password}
        answer = await self._http.request("POST", "/token", json=json)
        if answer.status in (401, 403):
            raise WrongPassword(f"{self._http.where} refuses user {who.username!r} with this password")
        told = told_by(self._http.where, "/token", answer).value
        if _refusal(told):
            raise WrongPassword(f"{self._http.where} refuses user {who.username!r} with this password")
        found = rows(table(told).get("Token"))
        token = found[0].get("Token") if found else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise BadAnswer(f"{self._http.where} gives no token that can be used")
        return {"token": token}

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        """Port 4028 lets everybody read; what only the other one tells is missing when the password is wrong."""
        told: dict[str, Rows] = {}
        try:
            told["summary"], repairs = await self._api_rows("summary", "SUMMARY")
        except (TimedOut, BadAnswer, Refused):
            raise
        except Unreachable as fault:
            return await self._without_api(fault)
        failed: list[str] = []
        refused: WrongPassword | None = None
        for names, on_web in ((_API | (_API_SLOW if slow else {}), False), (_WEB | (_WEB_SLOW if slow else {}), True)):
            for command, name in names.items():
                try:
                    if refused is not None:
                        raise refused  # asked once with a look
                    told[command], more = await (self._web_rows if on_web else self._api_rows)(command, name)
                    repairs += more
                except TimedOut:
                    raise  # the rest would be as silent, and this look has its limit
                except (Unreachable, BadAnswer, Refused) as fault:
                    failed.append(command)
                    refused = fault if isinstance(fault, WrongPassword) else refused
        reading = parse_reading(Answers(**told, failed=tuple(failed), repairs=repairs))
        return reading if refused is None else with_condition(reading, Condition("wrong_password", refused.text, "warning"))

    async def _without_api(self, fault: Unreachable) -> Reading:
        """Port 4028 is shut. When the other one answers, the device is there and does not mine."""
        try:
            mode, repairs = await self._web_rows("mode", "Mode")
        except WrongPassword:
            mode, repairs = [], 0  # it is there, though it does not let us in
        except (Unreachable, BadAnswer, Refused):
            raise fault from None
        reading = parse_reading(Answers(mode=mode, repairs=repairs))
        if reading.asleep:
            return reading
        gone = Condition("miner_down", "its web port answers, its miner does not", "critical")
        return with_condition(reading, gone, mining=False)

    async def seen(self) -> Seen:
        """WrongPassword when port 8080 refuses us: without it there is no MAC, so no identity."""
        told, _ = await self._web_rows("ipreport", "IPReport")
        if not told:
            raise BadAnswer(f"{self._http.where} answers ipreport with nothing")
        return parse_seen(told[0], MAKE)

    async def _api_rows(self, command: str, name: str) -> tuple[list[Mapping[str, Any]], int]:
        answer = await ask(self._place.host, command, port=self._place.api_port or PORT, total_s=_ANSWER_S)
        return section(answer, name), answer.repairs

    async def _web_rows(self, command: str, name: str) -> tuple[list[Mapping[str, Any]], int]:
        """The sections of port 8080 are like those of 4028. Null is an empty one."""
        answer = told_by(self._http.where, f"/{command}", await self._web.ask("GET", f"/{command}"))
        told = table(answer.value)
        return ([], answer.repairs) if name in told and told[name] is None else (section(answer, name), answer.repairs)

    # ---- orders ------------------------------------------------------------------------------------------

    async def _order(self, name: str, **given: object) -> None:
        """Sends an order once. Returns when it was taken."""
        answer = await self._web.order("POST", f"/{name}", json={"command": name, **given})
        if answer is None:
            return
        check_order(self._http.where, f"/{name}", answer)
        try:
            told = parse(answer.body).value
        except BadAnswer:
            return
        if reason := _refusal(told):
            raise Refused(f"{self._http.where} refuses /{name}: {reason}")

    async def reboot(self) -> None:
        await self._order("restart")

    async def restart_mining(self) -> None:
        await self._order("restart", parameter="gcminer")

    async def pause(self) -> None:
        await self._order("mode", sleep="on")

    async def resume(self) -> None:
        await self._order("mode", sleep="off")

    async def locate(self, on: bool) -> None:
        await self._order("led", code=LOCATE if on else NORMAL)

    async def locating(self) -> bool | None:
        led, _ = await self._web_rows("led", "LED")
        code = whole(led[0].get("Code")) if led else None
        return None if code is None else code == LOCATE

    async def pools(self) -> tuple[PoolOrder, ...]:
        """Passwords, which it does not tell, come back as what pools take when they ask for none."""
        told, _ = await self._api_rows("pools", "POOLS")
        return tuple(PoolOrder(pool.url, pool.user) for pool in parse_pools(told) or ())

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """Sent also when the names are the same: it does not tell whether the passwords are."""
        wanted = check_pools(pools, _SLOTS)
        await self.pools()  # a device that does not show its pools is given none
        await self._order("updatepools", pools=[{"url": pool.url, "user": pool.user, "pass": pool.password} for pool in wanted])


def with_condition(reading: Reading, condition: Condition, **changed: Any) -> Reading:
    return replace(reading, conditions=(*reading.conditions, condition), **changed)


def _refusal(told: Any) -> str:
    """The device's own words when its status is an error; "" when it is none."""
    status = table(told).get("STATUS")
    for row in rows(status) or rows([status]):
        if words(row.get("STATUS")) in ("E", "F"):
            return words(row.get("Msg")) or "no reason given"
    return ""


def _ended(answer: HttpAnswer) -> bool:
    """By HTTP's status, or by a refusal that speaks of the token."""
    if answer.status in (401, 403):
        return True
    try:
        return bool(_ENDED.search(_refusal(parse(answer.body).value)))
    except BadAnswer:
        return False


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Auradine | None, str]:
    """A driver when such a device answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By what port 4028 calls its program; where that is shut (a miner that is down), by the same name in what 8080 says to
    somebody without a token.
    """
    fault: Unreachable | None = None
    try:
        answer = await ask(place.host, "version", port=place.api_port or PORT, total_s=_ANSWER_S)
        return (Auradine(place), "FluxOS") if is_ours(answer.value) else (None, "no Auradine (its `version` does not say GCMiner)")
    except BadAnswer as error:
        return None, error.text
    except Unreachable as error:
        fault = error
    http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
    try:
        said = await http.request("GET", "/mode")
        told = parse(said.body).value
    except BadAnswer as error:
        return None, f"no Auradine ({error.text})"
    except Unreachable as error:
        raise fault if isinstance(fault, TimedOut) or not isinstance(error, TimedOut) else error from None
    finally:
        await http.close()
    return (Auradine(place), "FluxOS") if is_ours(told) else (None, "no Auradine (its `mode` does not say so)")
