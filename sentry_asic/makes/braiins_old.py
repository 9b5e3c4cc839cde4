"""Braiins OS without a REST API: port 4028 for reading, GraphQL on its web page for orders.

Called by makes/braiins.py. Source: the maker's page on the BOSminer API and recordings in public projects (asic-rs, a
monitor's `summary`), GraphQL as asic-rs, pyasic and four programs of their owners use it: documented, not recorded here.
`stop` ends the mining service, and that is the only way to sleep that can be read back: its uptime is then null, or the
question is answered with "unavailable". A service that crashed looks the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, Conflict, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Credentials, PoolOrder
from sentry_asic.answers import parse, rows, table, whole, words
from sentry_asic.cgminer import ask, section
from sentry_asic.make import Reading, Seen
from sentry_asic.makes.braiins_old_parse import Answers, error_of, parse_reading, parse_seen
from sentry_asic.makes.braiins_parse import Group, only_group, parse_groups
from sentry_asic.web_login import WebLogin, check_order, cookie_header, told_by
from sentry_core.http import HttpAnswer, HttpClient

ANSWER_S = 6
_GRAPHQL = "/graphql"
_LUCI = "/cgi-bin/luci"
_LUCI_AGENT = {"user-agent": "BTC Tools v0.1"}  # what asic-rs and pyasic call themselves there
_LOG_IN = "mutation($username:String!,$password:String!){auth{login(username:$username,password:$password){__typename}}}"
_SERVICE = "mutation{bosminer{%s{__typename ... on BosminerError{message}}}}"
_REBOOT = "mutation{bos{reboot{__typename ... on BosError{message}}}}"
_BLINK = "mutation($enable:Boolean!){bos{setFaultLight(enable:$enable){__typename}}}"
_GROUPS = (
    "{bosminer{config{... on BosminerConfig{groups{id name strategy{... on QuotaStrategy{quota}} "
    "pools{id url user password enabled}}}}}}"
)
_SET_GROUPS = (
    "mutation($groups:[Group!]!){bosminer{config{updateGroups(groups:$groups){__typename ... on GroupListError{message}}}}}"
)
_SECTIONS = {
    "devs": "DEVS", "temps": "TEMPS", "fans": "FANS", "tunerstatus": "TUNERSTATUS", "pools": "POOLS", "devdetails": "DEVDETAILS",
}  # fmt: skip


class _ServiceDown(Refused):
    """The web page answers, the mining service behind it does not."""


class Old:
    """One device. Errors as sentry_asic.make.Driver says."""

    def __init__(self, host: str, port: int, http: HttpClient, credentials: Credentials) -> None:
        self._host, self._port, self._http, self._credentials = host, port, http, credentials
        self._web = WebLogin(http, self._log_in, _ended)

    async def _log_in(self) -> Mapping[str, str]:
        given = {"username": self._credentials.username, "password": self._credentials.password}
        answer = await self._http.request("POST", _GRAPHQL, json={"query": _LOG_IN, "variables": given})
        if answer.status in (404, 405, 501):
            raise NotSupported(f"{self._http.where} has no GraphQL API", hint="use its web page")
        if answer.status in (401, 403):
            raise self._wrong()
        told = told_by(self._http.where, _GRAPHQL, answer).value
        if error := error_of(told):
            if "errors" in table(told) and not _is_of_log_in(error):
                raise Refused(f"{self._http.where} cannot log anybody in: {error}")
            raise self._wrong()
        return cookie_header(answer)

    def _wrong(self) -> WrongPassword:
        return WrongPassword(f"{self._http.where} refuses user {self._credentials.username!r} with this password")

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self) -> Reading:
        try:
            answer = await ask(self._host, "summary", port=self._port, total_s=ANSWER_S)
            told: dict[str, Any] = {"summary": section(answer, "SUMMARY")}
        except TimedOut:
            raise
        except (Unreachable, BadAnswer, Refused) as fault:
            return await self._without_service(fault)
        repairs, failed = answer.repairs, []
        for command, name in _SECTIONS.items():
            try:
                answer = await ask(self._host, command, port=self._port, total_s=ANSWER_S)
                told[command] = section(answer, name)
                repairs += answer.repairs
            except TimedOut:
                raise  # the rest would be as silent, and this look has its limit
            except (Unreachable, BadAnswer, Refused):
                failed.append(command)
        return parse_reading(Answers(**told, failed=tuple(failed), repairs=repairs))

    async def _without_service(self, fault: Unreachable | BadAnswer | Refused) -> Reading:
        """Port 4028 has nothing to tell. When the web page says that the service is stopped, then it is."""
        try:
            stopped = not await self._runs()
        except WrongPassword:
            raise
        except (Unreachable, BadAnswer, Refused):
            raise fault from None
        if not stopped:
            raise fault
        text = "its mining service is stopped: by an order or by a fault, this firmware does not tell which"
        condition = Condition("miner_down", text, "warning")
        return Reading(mining=False, asleep=True, mode="stopped", conditions=(condition,), missing=("pools",))

    async def _runs(self) -> bool:
        try:
            service = table((await self._query("{bosminer{uptime{durationS}}}")).get("bosminer"))
        except _ServiceDown:
            return False
        if "uptime" not in service:
            raise BadAnswer(f"{self._http.where} does not tell whether its mining service runs")
        return service["uptime"] is not None

    async def seen(self, make: str) -> Seen:
        """WrongPassword when the web page refuses us: without it there is no MAC, so no identity."""
        told: dict[str, Mapping[str, Any]] = {"version": {}, "devdetails": {}}
        for command, name in (("version", "VERSION"), ("devdetails", "DEVDETAILS")):
            try:
                found = section(await ask(self._host, command, port=self._port, total_s=ANSWER_S), name)
            except TimedOut:
                raise
            except (Unreachable, BadAnswer, Refused):
                continue  # the service may be stopped
            told[command] = found[0] if found else {}
        system: Mapping[str, Any] = {}
        try:
            system = table((await self._query("{bos{hostname info{version{full}}}}")).get("bos"))
        except WrongPassword:
            raise
        except (Unreachable, BadAnswer, Refused):
            if not told["version"]:
                raise
        return parse_seen(told["version"], told["devdetails"], system, await self._mac(), make)

    async def _mac(self) -> str:
        """Only LuCI tells it; "" where there is none."""
        form = {"luci_username": self._credentials.username, "luci_password": self._credentials.password}
        answer = await self._http.request("POST", _LUCI, form=form, headers=_LUCI_AGENT)
        if answer.status in (401, 403):
            raise self._wrong()
        path = f"{_LUCI}/admin/network/iface_status/lan"
        try:
            answer = await self._http.request("GET", path, headers=_LUCI_AGENT | cookie_header(answer))
            found = rows(told_by(self._http.where, path, answer).value)
        except BadAnswer:
            return ""
        return words(found[0].get("macaddr")) if found else ""

    async def _query(self, text: str) -> Mapping[str, Any]:
        """The `data` of an answer. _ServiceDown when it says so."""
        answer = await self._web.ask("POST", _GRAPHQL, json={"query": text}, unproven=True)
        if answer.status in (404, 405, 501):
            raise NotSupported(f"{self._http.where} has no GraphQL API", hint="use its web page")
        told = told_by(self._http.where, _GRAPHQL, answer).value
        if error := error_of(told):
            raise (_ServiceDown if "unavailable" in error.lower() else Refused)(f"{self._http.where} refuses: {error}")
        return table(table(told).get("data"))

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._mutate("reboot", _REBOOT)

    async def restart_mining(self) -> None:
        await self._mutate("restart", _SERVICE % "restart")

    async def pause(self) -> None:
        await self._mutate("stop", _SERVICE % "stop")

    async def resume(self) -> None:
        await self._mutate("start", _SERVICE % "start")

    async def locate(self, on: bool) -> None:
        await self._mutate("setFaultLight", _BLINK, {"enable": on})

    async def locating(self) -> bool | None:
        on = table((await self._query("{bos{faultLight}}")).get("bos")).get("faultLight")
        return on if isinstance(on, bool) else None

    async def pools(self) -> tuple[PoolOrder, ...]:
        return tuple(pool for group in await self._groups() for pool in group.pools)

    async def set_pools(self, wanted: Sequence[PoolOrder]) -> None:
        """Replaces all groups; the service works with them from its restart on."""
        groups = await self._groups()
        if tuple(pool for group in groups for pool in group.pools) == tuple(wanted):
            return
        quota = whole(groups[0].strategy.get("quota")) if groups else 1
        if quota is None:
            raise Conflict("the device's group of pools has no quota, and its share would be lost", hint="set one on its web page")
        pools = [{"url": pool.url, "user": pool.user, "password": pool.password} for pool in wanted]
        group = {"name": (groups[0].name if groups else "") or "Default", "quota": quota, "pools": pools}
        await self._mutate("updateGroups", _SET_GROUPS, {"groups": [group]})
        await self.restart_mining()

    async def _groups(self) -> tuple[Group, ...]:
        config = table(table((await self._query(_GROUPS)).get("bosminer")).get("config"))
        return only_group(parse_groups(config.get("groups"), "strategy"), self._http.where)

    async def _mutate(self, name: str, text: str, variables: Mapping[str, object] | None = None) -> None:
        """An order, once. One whose answer is lost or is no data may have worked."""
        answer = await self._web.order("POST", _GRAPHQL, json={"query": text, "variables": dict(variables or {})})
        if answer is None:
            return
        check_order(self._http.where, _GRAPHQL, answer)
        with contextlib.suppress(BadAnswer):
            if error := error_of(parse(answer.body).value):
                raise Refused(f"{self._http.where} refuses {name}: {error}")


def _ended(answer: HttpAnswer) -> bool:
    """Some versions say it with HTTP, some in the GraphQL answer."""
    if answer.status in (401, 403):
        return True
    if answer.status != 200 or b'"errors"' not in answer.body[:4096]:
        return False
    try:
        return _is_of_log_in(error_of(parse(answer.body).value))
    except BadAnswer:
        return False


def _is_of_log_in(error: str) -> bool:
    return any(word in error.lower() for word in ("unauthorized", "unauthenticated", "forbidden"))
