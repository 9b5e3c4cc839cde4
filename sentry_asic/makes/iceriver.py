"""IceRivers: an HTTP server on port 80 whose paths take a number for what to do; nothing listens on port 4028.

Source: the web server of an early firmware, which is public (paths, numbers, fields, error codes); bitcap-ipr, pyasic, asic-rs
and PoPManager for newer ones (log-in with a cookie, orders): documented and reported, not recorded. Early firmware answers
everybody, so reading is tried without the log-in first. Each look costs the device memory that it never frees (its source;
PoPManager asks every 30 to 60 s for that reason), so `table.py` says how seldom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, BadInput, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, excerpt, parse, table, whole, words
from sentry_asic.cgminer import MinerDown
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.iceriver_parse import (
    flag,
    form_of,
    is_panel,
    model_of_panel,
    parse_pool_orders,
    parse_reading,
    parse_seen,
    parse_settings,
)
from sentry_asic.order_rules import check_pools
from sentry_asic.web_login import LOG_IN_AGAIN, WebLogin, check_order, cookie_header, told_by
from sentry_core.http import HttpAnswer, HttpClient

MAKE = "iceriver"
HTTP_PORT = 80
LEAST_EVERY_S = 30
FACTORY = Credentials("admin", "12345678")
PANEL, CONFIG, LOG_IN = "/user/userpanel", "/user/machineconfig", "/user/loginpost"
_ANSWER_S = 7  # a panel is eight questions from its web server to its miner
_DOWN = (1, 2, 3)  # its web server and its miner do not come together
_SLOTS = 3
_MOST_CHARS = 1500  # it writes all pools into a buffer of 2,048 bytes
_TITLE = re.compile(r"<title>[^<]{0,80}(?:\u7528\u6237\u754c\u9762|iceriver)", re.IGNORECASE)


class Iceriver:
    """One device. Made by `identify` or `Iceriver(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = (
        ActionKind.REBOOT,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
    )

    def __init__(self, place: Place) -> None:
        self._credentials = place.credentials or FACTORY
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
        self._web = WebLogin(self._http, self._log_in, _ended)

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        told = await self._panel()
        config = None
        if slow and not whole(table(told.value).get("error")):
            try:
                config = await self._config()
            except TimedOut:
                raise
            except (Unreachable, BadAnswer, Refused):
                config = None  # the look goes on without
        return parse_reading(table(told.value), config, slow=slow, repairs=told.repairs)

    async def seen(self) -> Seen:
        return parse_seen(await self._data(), MAKE)

    async def _panel(self) -> Answer:
        """The answer of a panel, or with an `error` of its own."""
        told = await self._told(PANEL, "4")
        if not is_panel(told.value) and not whole(table(told.value).get("error")):
            raise BadAnswer(f"{self._http.where} does not answer like an IceRiver any more")
        return told

    async def _data(self) -> Mapping[str, Any]:
        told = table((await self._panel()).value)
        if whole(told.get("error")):
            raise MinerDown(f"{self._http.where}: {words(told.get('message')) or 'the mining process is not running'}")
        return table(told["data"])

    async def _config(self) -> Mapping[str, Any]:
        told = table((await self._told(CONFIG, "1")).value)
        if code := whole(told.get("error")):
            raise BadAnswer(f"{self._http.where} does not tell its settings ({code}): {words(told.get('message'))}")
        return table(told.get("data"))

    async def _told(self, path: str, post: str) -> Answer:
        return told_by(self._http.where, path, await self._web.ask("POST", path, form={"post": post}, unproven=True))

    async def _log_in(self) -> dict[str, str]:
        """Codes by the firmware's source: 1001 user not exist, 1002 password error."""
        who = self._credentials
        answer = await self._http.request("POST", LOG_IN, form={"post": "6", "user": who.username, "pwd": who.password})
        told = table(told_by(self._http.where, LOG_IN, answer).value)
        code, cookie = whole(told.get("error")), cookie_header(answer)
        if code in _DOWN:
            raise MinerDown(f"{self._http.where}: {words(told.get('message')) or 'the mining process is not running'}")
        if code:
            raise WrongPassword(f"{self._http.where} refuses user {who.username!r} with this password")
        if code is None and not cookie:
            raise BadAnswer(f"{self._http.where} does not say whether it lets us in")
        return cookie

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order(PANEL, {"post": "3"})

    async def restart_mining(self) -> None:
        raise NotSupported("an IceRiver cannot restart only its miner", hint="`reboot` restarts all of it")

    async def pause(self) -> None:
        await self._set_mode("sleep")

    async def resume(self) -> None:
        await self._set_mode("normal")

    async def _set_mode(self, mode: str) -> None:
        """With the pools and the fan as they are. Newer firmware has a number for it; where that is not known (and so did
        nothing) the one for everything takes it too."""
        held, settings = await self._document()
        form = form_of(held, _SLOTS) | settings | {"fanmode": mode}
        if not await self._order(CONFIG, {"post": "3", **form}):
            await self._order(CONFIG, {"post": "2", **form})

    async def locate(self, on: bool) -> None:
        await self._order(PANEL, {"post": "5", "locate": str(int(on))})

    async def locating(self) -> bool | None:
        return flag((await self._data()).get("locate"))

    async def pools(self) -> tuple[PoolOrder, ...]:
        return self._orders_in(await self._config())

    def _orders_in(self, config: Mapping[str, Any]) -> tuple[PoolOrder, ...]:
        orders = parse_pool_orders(config)
        if orders is None:
            raise BadAnswer(f"{self._http.where} does not show its pools, so nothing was written", hint="look at its web page")
        return orders

    async def _document(self) -> tuple[tuple[PoolOrder, ...], dict[str, str]]:
        """All that the form holds: the pools, and the fan and the mode, which go back as they are."""
        config = await self._config()
        settings = parse_settings(config)
        if settings is None:
            raise BadAnswer(
                f"{self._http.where} does not tell its fan and mode, so nothing was written", hint="look at its web page"
            )
        return self._orders_in(config), settings

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        """One form for pools, fan and mode. Its web server builds JSON from it by hand: no quotes, not too long."""
        wanted = check_pools(pools, _SLOTS, forbidden='"\\')
        if sum(len(pool.url + pool.user + pool.password) for pool in wanted) > _MOST_CHARS:
            raise BadInput(f"an IceRiver keeps no more than {_MOST_CHARS} characters of pools")
        held, settings = await self._document()
        if held != wanted:
            await self._order(CONFIG, {"post": "2", **form_of(wanted, _SLOTS), **settings})

    async def _order(self, path: str, form: Mapping[str, str]) -> bool:
        """False: this firmware does not know the number, and did nothing. Then it names its page and no `error`."""
        answer = await self._web.order("POST", path, form=form)
        if answer is None:
            return True
        check_order(self._http.where, path, answer)
        try:
            told = table(parse(answer.body).value)
        except BadAnswer:
            return True  # it puts the miner's words into its JSON as they are
        if "error" not in told and isinstance(told.get("data"), str):
            return False
        if code := whole(told.get("error")):
            raise Refused(f"{self._http.where} refuses {path} ({code}): {words(told.get('message')) or 'no reason given'}")
        return True


def _ended(answer: HttpAnswer) -> bool:
    """Every page that we ask is JSON; without a log-in it is something else."""
    return answer.status in LOG_IN_AGAIN or (answer.status == 200 and answer.body.lstrip()[:1] != b"{")


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Iceriver | None, str]:
    """A driver when an IceRiver answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By the title of its page (pyasic), or where there is no page by its panel. The log-in is sent to nobody else.
    """
    driver = Iceriver(place)
    taken = False
    try:
        taken, what = await _looks_like_one(driver._http)
    except BadAnswer as fault:
        what = f"no IceRiver ({fault.text})"
    finally:
        if not taken:
            await driver.close()
    return (driver, what) if taken else (None, what)


async def _looks_like_one(http: HttpClient) -> tuple[bool, str]:
    answer = await http.request("GET", "/")
    if answer.status in LOG_IN_AGAIN and "/user/login" in answer.headers.get("location", ""):
        answer = await http.request("GET", "/user/login")
    elif answer.status == 404:
        answer = await http.request("POST", PANEL, form={"post": "4"})
        told = parse(answer.body).value if answer.status == 200 else None
        if is_panel(told):
            return True, model_of_panel(table(table(told)["data"])) or "an IceRiver"
    if answer.status == 200 and any(_TITLE.search(answer.body[:65536].decode(code, "replace")) for code in ("utf-8", "gb18030")):
        return True, "the page of an IceRiver"
    return False, f"a web page (HTTP {answer.status}: {excerpt(answer.body)})"
