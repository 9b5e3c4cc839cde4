"""Braiins OS: by its REST API where the firmware has one, else by port 4028 and GraphQL. Which, the log-in's answer tells.

Source: facts of the two ways stand in braiins_rest.py and braiins_old.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from garrison.faults import BadAnswer, NotSupported, TimedOut, Unreachable
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import rows, table, words
from sentry_asic.cgminer import PORT, ask
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.braiins_old import ANSWER_S, Old
from sentry_asic.makes.braiins_old_parse import is_braiins
from sentry_asic.makes.braiins_rest import MOST_POOLS, Rest
from sentry_asic.order_rules import check_pools
from sentry_core.http import HttpClient

MAKE = "braiins"
HTTP_PORT = 80
FACTORY_REST = Credentials("root", "root")
FACTORY_OLD = Credentials("root", "")
_PAGE = b"Braiins OS"


_ORDERS = (
    ActionKind.REBOOT,
    ActionKind.RESTART_MINING,
    ActionKind.PAUSE,
    ActionKind.RESUME,
    ActionKind.LOCATE,
    ActionKind.APPLY_FLIGHT_SHEET,
)


class Braiins:
    """One device. Made by `identify` or `Braiins(place)`; `close` it."""

    make = MAKE

    def __init__(self, place: Place) -> None:
        given = place.credentials
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=ANSWER_S)
        self._rest = Rest(self._http, given or FACTORY_REST)
        self._old = Old(place.host, place.api_port or PORT, self._http, given or FACTORY_OLD)
        self._found: Rest | Old | None = None
        self.capabilities: tuple[ActionKind, ...] = _ORDERS

    async def close(self) -> None:
        await self._http.close()

    async def _api(self) -> Rest | Old:
        if self._found is None:
            self._found = self._rest if await self._rest.answers() else self._old
            self.capabilities = (*_ORDERS, ActionKind.SET_POWER_LIMIT) if self._found is self._rest else _ORDERS
        return self._found

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        try:
            api = await self._api()
        except TimedOut:
            raise
        except Unreachable:
            return await self._old.read()  # the web page is shut: port 4028 may not be
        if isinstance(api, Old):
            return await api.read()
        try:
            return await api.read(slow=slow)
        except NotSupported as fault:
            self._found = None  # it has other firmware now
            raise BadAnswer(fault.text) from fault

    async def seen(self) -> Seen:
        self._found = None  # it may have been given other firmware
        return await (await self._api()).seen(MAKE)

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await (await self._api()).reboot()

    async def restart_mining(self) -> None:
        await (await self._api()).restart_mining()

    async def pause(self) -> None:
        await (await self._api()).pause()

    async def resume(self) -> None:
        await (await self._api()).resume()

    async def locate(self, on: bool) -> None:
        await (await self._api()).locate(on)

    async def locating(self) -> bool | None:
        return await (await self._api()).locating()

    async def pools(self) -> tuple[PoolOrder, ...]:
        return await (await self._api()).pools()

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = [_stored(pool) for pool in check_pools(pools, MOST_POOLS)]
        await (await self._api()).set_pools(wanted)

    async def power_limit_w(self) -> int | None:
        return await (await self._with_rest()).power_limit_w()

    async def set_power_limit(self, limit_w: int) -> None:
        await (await self._with_rest()).set_power_limit(limit_w)

    async def _with_rest(self) -> Rest:
        if isinstance(api := await self._api(), Rest):
            return api
        raise NotSupported("this Braiins OS has no order for that", hint="25.07 and later has; or its web page")


def _stored(pool: PoolOrder) -> PoolOrder:
    """With the scheme that says which protocol is spoken there."""
    return pool if "://" in pool.url else replace(pool, url=f"stratum+tcp://{pool.url}")


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Braiins | None, str]:
    """A driver when Braiins OS answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By `version` on port 4028, or where that tells none (the mining service is stopped) by the words on the web page.
    """
    fault: Unreachable | None = None
    try:
        answer = await ask(place.host, "version", port=place.api_port or PORT, total_s=ANSWER_S)
        for row in rows(table(answer.value).get("VERSION")):
            if is_braiins(row):
                return Braiins(place), next(words(text) for key, text in row.items() if is_braiins({key: text}))
            return None, f"no Braiins OS ({', '.join(map(str, row))})"
    except Unreachable as error:
        fault = error
    except BadAnswer as error:
        return None, error.text
    http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=ANSWER_S)
    try:
        page = await http.request("GET", "/")
    except (Unreachable, BadAnswer) as error:
        if fault is not None:
            raise fault if isinstance(fault, TimedOut) or not isinstance(error, TimedOut) else error from None
        return None, f"no Braiins OS on port 4028, and its web page: {error.text}"
    finally:
        await http.close()
    if page.status == 200 and _PAGE in page.body:
        return Braiins(place), _PAGE.decode()
    return None, f"a web page (HTTP {page.status}) that is not of Braiins OS"
