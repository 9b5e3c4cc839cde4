"""Elphapex (DG1, DG1+, DG-Home): a web page in the manner of Bitmain's and no port 4028. Scrypt, MH/s.

Source: answers of a DG-Home1 (asic-rs, recorded) and of a DG1+ (pyasic), their drivers and bitcap-ipr's (orders: documented, not
recorded). Its door differs: digest with the realm "Daoge" (asic-rs), HTTP Basic (pyasic issue 428, bitcap-ipr), or none
(bitfarmer): it is asked once without a log-in, and answered as it wants. How newer firmware is put to sleep is only reported
(`setworkmode.cgi` under a path without a log-in): not used, but the mode -1000 that it leaves is told as asleep.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import table, words
from sentry_asic.digest_cgi import blink, blinking, cgi, check_conf, data, order, pool_orders, same_pools, slots, write_conf
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.elphapex_parse import is_elphapex, parse_reading, parse_seen
from sentry_core.http import HttpClient, challenges

MAKE = "elphapex"
HTTP_PORT = 80
FACTORY = Credentials("root", "root")
_REALM = "daoge"
_ANSWER_S = 4  # of one question: a look is four, and has 10 s in all
_HINT = "its power can be cut by a relay"


class Elphapex:
    """One device. Made by `identify` or `Elphapex(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = (ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET)

    def __init__(self, place: Place) -> None:
        self._place = place
        self._http: HttpClient | None = None  # None: it was not asked yet how it lets us in
        self._proof: Mapping[str, str] | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    # ---- the log-in --------------------------------------------------------------------------------------

    async def _door(self) -> HttpClient:
        """The client that gets in. Which of three ways that is, the first answer tells."""
        if self._http is None:
            who = self._place.credentials or FACTORY
            http = _client(self._place)
            try:
                answer = await http.request("GET", "/cgi-bin/get_system_info.cgi")
            except BaseException:
                await http.close()
                raise
            offered = {c.scheme for c in challenges(answer.headers.get("www-authenticate", ""))}
            if answer.status == 401 and "digest" in offered:
                await http.close()
                http = _client(self._place, who)
            elif answer.status == 401 and "basic" in offered:
                proof = base64.b64encode(f"{who.username}:{who.password}".encode()).decode()
                self._proof = {"authorization": f"Basic {proof}"}
            self._http = http
        return self._http

    async def _page(self, name: str) -> Mapping[str, Any]:
        return table(await cgi(await self._door(), name, self._proof))

    async def _if_told(self, name: str) -> Mapping[str, Any] | None:
        """None when it could not be asked: the look goes on without."""
        try:
            return await self._page(name)
        except (TimedOut, WrongPassword):
            raise  # the rest would be no better, and this look has its limit
        except (Unreachable, BadAnswer, Refused):
            return None

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        stats = await self._page("stats")
        pools, conf = await self._if_told("pools"), await self._if_told("get_miner_conf")
        summary = await self._if_told("summary") if slow else {}
        return parse_reading(stats, pools, conf, summary)

    async def seen(self) -> Seen:
        system = await self._page("get_system_info")
        if not is_elphapex(system):
            raise BadAnswer(f"{self._place.host} does not call itself an Elphapex any more")
        return parse_seen(system, await self._if_told("stats") or {}, MAKE)

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await order(await self._door(), "reboot", headers=self._proof)

    async def restart_mining(self) -> None:
        raise NotSupported("an Elphapex cannot restart only its miner", hint="`reboot` restarts all of it")

    async def pause(self) -> None:
        raise NotSupported("how an Elphapex is put to sleep is not known for certain", hint=_HINT)

    async def resume(self) -> None:
        raise NotSupported("how an Elphapex is woken is not known for certain", hint="wake it on its web page")

    async def locate(self, on: bool) -> None:
        await blink(await self._door(), on, self._proof)

    async def locating(self) -> bool | None:
        return await blinking(await self._door(), self._proof)

    async def pools(self) -> tuple[PoolOrder, ...]:
        return pool_orders(await self._conf())

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """What was read goes back as it was, with other pools: it is written under the names it is read with (bitcap-ipr)."""
        wanted = slots(pools, "an Elphapex")
        conf = await self._conf()
        if not same_pools(conf, wanted):
            await write_conf(await self._door(), {**conf, "pools": wanted}, self._proof)

    async def _conf(self) -> dict[str, Any]:
        return check_conf(await cgi(await self._door(), "get_miner_conf", self._proof))


def _client(place: Place, who: Credentials | None = None) -> HttpClient:
    return HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S, digest=who)


async def fingerprint(place: Place) -> tuple[Elphapex | None, str]:
    """A driver when an Elphapex answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By its realm, or where it lets everybody read by its type. No password goes to a door of another name.
    """
    http = _client(place)
    try:
        answer = await http.request("GET", "/cgi-bin/get_system_info.cgi")
        if answer.status == 401:
            realms = [c.parameters.get("realm", "") for c in challenges(answer.headers.get("www-authenticate", ""))]
            if any(_REALM in realm.lower() for realm in realms):
                return Elphapex(place), "an Elphapex (by its log-in)"
            return None, f"a web page that asks for a log-in{f' (realm {realms[0]!r})' if realms else ''}"
        told = table(data(http, "get_system_info", answer.body)) if answer.status == 200 else {}
    except BadAnswer as fault:
        return None, fault.text
    finally:
        await http.close()
    if is_elphapex(told):
        return Elphapex(place), words(told.get("minertype"))
    return None, f"no Elphapex (HTTP {answer.status})"
