"""Braiins OS by its REST API (25.07 and later): everything on one port, with a token that the log-in gives.

Called by makes/braiins.py. Source: recorded answers (reading); the maker's OpenAPI page and proto files, asic-rs (log-in,
orders): documented, not recorded. The token stands in `Authorization` as it is, without "Bearer".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from sentry_asic.answers import Answer, table, words
from sentry_asic.make import Reading, Seen
from sentry_asic.makes.braiins_parse import (
    Answers,
    Group,
    only_group,
    parse_groups,
    parse_reading,
    parse_seen,
    target_bounds,
    target_of,
)
from sentry_asic.settable import check_within
from sentry_asic.web_login import WebLogin, check_order, told_by
from sentry_core.http import HttpAnswer, HttpClient

MOST_POOLS = 8
_LOG_IN = "/api/v1/auth/login"
_FAST = {
    "stats": "miner/stats", "boards": "miner/hw/hashboards", "cooling": "cooling/state", "pools": "pools",
    "tuner": "performance/tuner-state",
}  # fmt: skip
_SLOW = {"errors": "miner/errors"}
_ELSEWHERE = (301, 302, 307, 308, 404, 405, 501)


class Rest:
    """One device. Errors as sentry_asic.make.Driver says."""

    def __init__(self, http: HttpClient, credentials: Credentials) -> None:
        self._http, self._credentials = http, credentials
        self._web = WebLogin(http, self._log_in, lambda answer: answer.status == 401)
        self._passwords: dict[tuple[str, str], str] = {}  # of pools that we wrote

    async def answers(self) -> bool:
        """Whether this firmware has the REST API. WrongPassword when it has, and does not let us in."""
        try:
            await self._ask("version")
        except NotSupported:
            return False
        return True

    async def _log_in(self) -> Mapping[str, str]:
        given = {"username": self._credentials.username, "password": self._credentials.password}
        answer = await self._http.request("POST", _LOG_IN, json=given)
        if answer.status in (401, 403):
            raise WrongPassword(f"{self._http.where} refuses user {self._credentials.username!r} with this password")
        try:
            token = words(table(told_by(self._http.where, _LOG_IN, answer).value).get("token"), 4096)
        except BadAnswer as fault:  # older firmware has no such path, or a page of its web server there
            if answer.status >= 500:
                raise
            raise NotSupported(f"{self._http.where} has no REST API ({fault.text})") from None
        if not token.isascii() or not token.isprintable() or not token:
            raise BadAnswer(f"{self._http.where} gives no token that can be used")
        return {"authorization": token}

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        details = await self._get("miner/details")
        told: dict[str, Any] = {"details": table(details.value)}
        repairs, failed = details.repairs, []
        for name, path in (_FAST | (_SLOW if slow else {})).items():
            try:
                answer = await (self._pools() if name == "pools" else self._get(path))
                told[name] = answer.value
                repairs += answer.repairs
            except TimedOut:
                raise  # the rest would be as silent, and this look has its limit
            except (Unreachable, BadAnswer, Refused):
                failed.append(path)
        return parse_reading(Answers(**told, failed=tuple(failed), repairs=repairs))

    async def seen(self, make: str) -> Seen:
        return parse_seen(table((await self._get("miner/details")).value), make)

    async def _get(self, path: str) -> Answer:
        answer = await self._ask(path)
        return told_by(self._http.where, path, answer)

    async def _ask(self, path: str) -> HttpAnswer:
        answer = await self._web.ask("GET", f"/api/v1/{path}")
        if answer.status in _ELSEWHERE:
            raise NotSupported(f"{self._http.where} has no {path}")
        return answer

    async def _pools(self) -> Answer:
        """The maker's page has the path with a slash behind, others have been answered without."""
        try:
            return await self._get("pools")
        except NotSupported:
            return await self._get("pools/")

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("actions/reboot")

    async def restart_mining(self) -> None:
        await self._order("actions/restart")

    async def pause(self) -> None:
        await self._order("actions/pause")

    async def resume(self) -> None:
        await self._order("actions/resume")

    async def locate(self, on: bool) -> None:
        await self._order("actions/locate", on)

    async def locating(self) -> bool | None:
        """A bare `true` or `false`."""
        return {b"true": True, b"false": False}.get((await self._ask("actions/locate")).body.strip()[:8])

    async def _order(self, path: str, json: object = None) -> None:
        answer = await self._web.order("PUT", f"/api/v1/{path}", json=json)
        if answer is not None:
            check_order(self._http.where, path, answer)

    async def pools(self) -> tuple[PoolOrder, ...]:
        """With their passwords where the configuration tells them, or we wrote them; else what pools take that ask for none."""
        return self._held_pools(await self._groups())

    async def set_pools(self, wanted: Sequence[PoolOrder]) -> None:
        """Replaces all groups, which makes the device reconnect by itself. The group keeps its name and its share."""
        groups = await self._groups()
        if self._held_pools(groups) == tuple(wanted):
            return
        name = groups[0].name if groups else ""
        strategy = groups[0].strategy if groups else {}
        group = {
            "name": name or "Default",
            "load_balance_strategy": dict(strategy) or {"quota": {"value": 1}},
            "pools": [{"url": pool.url, "user": pool.user, "password": pool.password} for pool in wanted],
        }
        await self._order("pools/batch", [group])
        self._passwords = {(pool.url, pool.user): pool.password for pool in wanted}

    async def power_limit_w(self) -> int | None:
        """Its power target; None while its tuner works to another kind of target, or is off."""
        return target_of((await self._get("performance/tuner-state")).value)

    async def set_power_limit(self, limit_w: int) -> None:
        """Its power target. The bounds are those that the device states for its model."""
        least, most = target_bounds((await self._get("configuration/constraints")).value)
        check_within(limit_w, least, most, "W", "power target")
        await self._order("performance/power-target", {"watt": limit_w})

    def _held_pools(self, groups: Sequence[Group]) -> tuple[PoolOrder, ...]:
        held = (pool for group in groups for pool in group.pools)
        return tuple(PoolOrder(p.url, p.user, self._passwords.get((p.url, p.user), p.password)) for p in held)

    async def _groups(self) -> tuple[Group, ...]:
        """The stored configuration where it tells pools (with their passwords), else what the device works with."""
        groups: tuple[Group, ...] | None = ()
        try:
            told = table((await self._get("configuration/miner")).value)
            groups = parse_groups(told.get("pool_groups"), "load_balance_strategy")
        except NotSupported:
            pass
        if not groups:
            groups = parse_groups((await self._pools()).value, "strategy")
        return only_group(groups, self._http.where)
