"""SealMiners (Bitdeer): port 4028 for reading, the PHP pages of its web server for orders.

Source: asic-rs with the answers of an A2 in its tests (reading; light), bitcap-ipr and asic-rs (log-in, orders): documented, not
recorded. They differ in how a machine is put to sleep; taken is the web page's own `mining_setting`, whose answer says whether
it worked. What asic-rs does through port 4028 (`updatepools`, `ascset 0,suspend`) is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import rows, table, whole, words
from sentry_asic.cgminer import PORT, ask, pools_of, section
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.sealminer_parse import form_of, is_sealminer, parse_pool_orders, parse_reading, parse_seen
from sentry_asic.order_rules import check_pools
from sentry_asic.web_login import LOG_IN_AGAIN, WebLogin, check_order, cookie_header, told_by
from sentry_core.http import HttpAnswer, HttpClient

MAKE = "sealminer"
HTTP_PORT = 80
FACTORY = Credentials("seal", "seal")
_ANSWER_S = 6
_SLOTS = 3


class Sealminer:
    """One device. Made by `identify` or `Sealminer(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = (
        ActionKind.REBOOT,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
    )

    def __init__(self, place: Place) -> None:
        self._place = place
        self._port = place.api_port or PORT
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
        self._web = WebLogin(self._http, self._log_in, _ended)

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        stats, repairs = await self._rows("stats", "STATS")
        summary, more = await self._if_told("summary", "SUMMARY")
        pools, most = await self._if_told("pools", "POOLS")
        return parse_reading(
            stats[0] if stats else {},
            summary[0] if summary else None,
            None if pools is None else pools_of(pools),
            repairs + more + most,
        )

    async def seen(self) -> Seen:
        version, _ = await self._rows("version", "VERSION")
        if not version or not is_sealminer(version[0]):
            raise BadAnswer(f"{self._place.host} does not call itself a SealMiner any more")
        stats, _ = await self._rows("stats", "STATS")
        return parse_seen(version[0], stats[0] if stats else {}, MAKE)

    async def _rows(self, command: str, name: str) -> tuple[list[Mapping[str, Any]], int]:
        answer = await ask(self._place.host, command, port=self._port, total_s=_ANSWER_S)
        return section(answer, name), answer.repairs

    async def _if_told(self, command: str, name: str) -> tuple[list[Mapping[str, Any]] | None, int]:
        """The rows and the repairs; None when it could not be asked: the look goes on without."""
        try:
            return await self._rows(command, name)
        except TimedOut:
            raise  # the rest would be as silent, and this look has its limit
        except (Unreachable, BadAnswer, Refused):
            return None, 0

    # ---- the web page ------------------------------------------------------------------------------------

    async def _log_in(self) -> dict[str, str]:
        who = self._place.credentials or FACTORY
        path = _path("login")
        answer = await self._http.request("POST", path, form={"username": who.username, "origin_pwd": who.password})
        state = whole(table(told_by(self._http.where, path, answer).value).get("state"))
        if state is None:
            raise BadAnswer(f"{self._http.where} does not say whether it lets us in")
        if state != 0:
            raise WrongPassword(f"{self._http.where} refuses user {who.username!r} with this password")
        return cookie_header(answer)

    async def _page(self, name: str) -> Mapping[str, Any]:
        path = _path(name)
        return table(told_by(self._http.where, path, await self._web.ask("GET", path)).value)

    async def _order(self, name: str, *, form: Mapping[str, str] | None = None, json: object = None) -> None:
        """Returns when it was taken. Answers are `{"result": 0}`, for pools three that are true, or no JSON at all."""
        answer = await self._web.order("POST", _path(name), form=form, json=json)
        if answer is None:
            return
        check_order(self._http.where, _path(name), answer)
        try:
            told = table(told_by(self._http.where, _path(name), answer).value)
        except BadAnswer:
            return
        if (whole(told.get("result")) or 0) != 0 or any(told.get(name) is False for name in ("result", "api", "fileWrite")):
            reason = words(told.get("msg")) or "no reason given"
            raise Refused(f"{self._http.where} refuses {_path(name)}: {reason}")

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("reboot")

    async def restart_mining(self) -> None:
        raise NotSupported("a SealMiner's page cannot restart only its miner", hint="`reboot` restarts all of it")

    async def pause(self) -> None:
        await self._order("mining_setting", json={"params_data": 0})

    async def resume(self) -> None:
        await self._order("mining_setting", json={"params_data": 1})

    async def locate(self, on: bool) -> None:
        await self._order("led_conf", json={"key": "led", "value": "on" if on else "off"})

    async def locating(self) -> bool | None:
        led = words((await self._page("get_system_info")).get("led")).lower()
        return None if led not in ("on", "off") else led == "on"

    async def pools(self) -> tuple[PoolOrder, ...]:
        orders = parse_pool_orders(await self._page("get_miner_poolconf"))
        if orders is None:
            raise BadAnswer(f"{self._http.where} does not show its pools, so nothing was written", hint="look at its web page")
        return orders

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """The page that takes them keeps nothing else; it hands them to the running miner, and no restart is needed."""
        wanted = check_pools(pools, _SLOTS)
        if await self.pools() != wanted:
            await self._order("set_miner_poolconf", json=form_of(wanted, _SLOTS))


def _path(name: str) -> str:
    return f"/cgi-bin/{name}.php"


def _ended(answer: HttpAnswer) -> bool:
    """Its pages are JSON; without a session the page to log in comes instead."""
    return answer.status in LOG_IN_AGAIN or answer.body.lstrip()[:1] == b"<"


async def fingerprint(place: Place) -> tuple[Sealminer | None, str]:
    """A driver when a SealMiner answers here, else None and what was seen. Raises Unreachable when nothing answers."""
    try:
        answer = await ask(place.host, "version", port=place.api_port or PORT, total_s=_ANSWER_S)
    except BadAnswer as fault:
        return None, fault.text
    version = rows(table(answer.value).get("VERSION"))
    if version and is_sealminer(version[0]):
        return Sealminer(place), f"BDMiner {words(version[0].get('BDMiner'))}"
    return None, "no SealMiner (its `version` does not say BDMiner)"
