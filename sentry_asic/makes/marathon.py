"""MaraFW (Marathon, "kaonsu") on Antminer hardware: a JSON API behind the digest log-in of its web page.

Source: pyasic and asic-rs (paths, log-in, what is read, orders; the pause was tried by its author): documented, not recorded.
Its log-in may carry stock firmware's realm, so it is known by its own name on port 4028, or by what its `brief` answers.
`miner_config` is one document: what is written is what was read, with other pools or another mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, Conflict, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, parse, rows, table, words
from sentry_asic.cgminer import PORT, ask
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.marathon_parse import (
    SLEEP,
    SLOTS,
    Answers,
    has_mark,
    is_brief,
    is_config,
    is_split,
    mode_before_sleep,
    parse_pool_orders,
    parse_reading,
    parse_seen,
    payload,
    sleeps,
    with_mode,
    with_pools,
    work_mode,
)
from sentry_asic.order_rules import check_pools
from sentry_asic.web_login import check_order, told_by
from sentry_core.http import HttpClient, challenges

MAKE = "marathon"
HTTP_PORT = 80
FACTORY = Credentials("root", "root")
_ANSWER_S = 6
_ORDER_S = 10
_ROOT = "/kaonsu/v1/"
_HISTORY = "log?type=miner_config_history"
_FAST, _SLOW = ("hashboards", "fans", "pools"), ("miner_config",)
_LOOK = "look at its web page"


class Marathon:
    """One device. Made by `identify` or `Marathon(place)`; `close` it."""

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
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S, digest=place.credentials or FACTORY)
        self._awake_mode = ""  # what `pause` found, for a `resume` without the device's own log

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        brief = await self._get("brief")
        if not is_brief(brief.value):
            raise BadAnswer(f"{self._http.where} answers brief without its rates")
        told: dict[str, Any] = {"brief": brief.value}
        repairs, failed = brief.repairs, []
        for page in (*_FAST, *(_SLOW if slow else ())):
            try:
                answer = await self._get(page)
                told[page] = answer.value if page == "pools" else table(answer.value)
                repairs += answer.repairs
            except TimedOut:
                raise  # the rest would be as silent, and this look has its limit
            except (Unreachable, BadAnswer, Refused):
                failed.append(page)
        return parse_reading(Answers(**told, failed=tuple(failed), repairs=repairs))

    async def seen(self) -> Seen:
        overview = table((await self._get("overview")).value)
        if not words(overview.get("mac")) and not words(overview.get("version_firmware")):
            raise BadAnswer(f"{self._http.where} answers overview without who it is")
        return parse_seen(overview, MAKE)

    async def _get(self, page: str) -> Answer:
        path = f"{_ROOT}{page}"
        answer = await self._http.request("GET", path)
        if answer.status == 404:
            raise NotSupported(f"{self._http.where} has no {path}")
        told = told_by(self._http.where, path, answer)
        return Answer(payload(told.value), told.repairs)

    # ---- orders ------------------------------------------------------------------------------------------

    async def _order(self, page: str, json: object) -> Mapping[str, Any]:
        """Sends an order once. Empty when the device took it and did not answer in words: it restarts instead."""
        path = f"{_ROOT}{page}"
        try:
            answer = await self._http.request("POST", path, json=json, replay=False, total_s=_ORDER_S)
        except Unreachable:
            if self._http.delivered:
                return {}
            raise
        check_order(self._http.where, path, answer)
        try:
            said = table(parse(answer.body).value)
        except BadAnswer:
            return {}
        if said.get("error") not in (None, False, ""):
            reason = words(said.get("msg")) or words(said.get("error")) or "no reason given"
            raise Refused(f"{self._http.where} refuses {path}: {reason}")
        return said

    async def reboot(self) -> None:
        await self._order("maintenance", {"type": "reboot"})

    async def restart_mining(self) -> None:
        await self._order("maintenance", {"type": "reload"})

    async def pause(self) -> None:
        config = await self._config()
        if not sleeps(now := work_mode(config)):
            self._awake_mode = now
            await self._order("miner_config", with_mode(config, SLEEP))

    async def resume(self) -> None:
        """To the mode that it was put to sleep from, whoever did that."""
        config = await self._config()
        if sleeps(work_mode(config)):
            await self._order("miner_config", with_mode(config, await self._mode_before() or self._awake_mode or "Stock"))

    async def _mode_before(self) -> str:
        try:
            return mode_before_sleep((await self._get(_HISTORY)).value)
        except (NotSupported, BadAnswer):
            return ""

    async def locate(self, on: bool) -> None:
        said = (await self._order("locate_miner", {"blinking": on})).get("blinking")
        if isinstance(said, bool) and said is not on:
            raise Refused(f"{self._http.where} says that it {'blinks' if said else 'does not blink'} after all")

    async def locating(self) -> bool | None:
        on = table((await self._get("locate_miner")).value).get("blinking")
        return on if isinstance(on, bool) else None

    async def pools(self) -> tuple[PoolOrder, ...]:
        return parse_pool_orders(await self._config())

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = check_pools(pools, SLOTS)
        config = await self._config()
        if is_split(config):
            raise Conflict(
                "the device shares its work out between groups of pools, and that would be lost",
                hint="leave one group on its web page, then try again",
            )
        if parse_pool_orders(config) != wanted:
            await self._order("miner_config", with_pools(config, wanted))

    async def _config(self) -> Mapping[str, Any]:
        """The whole document, checked: an order is made of it."""
        told = (await self._get("miner_config")).value
        if not is_config(told):
            raise BadAnswer(f"the configuration that {self._http.where} shows makes no sense, so nothing was written", hint=_LOOK)
        return table(told)


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Marathon | None, str]:
    """A driver when MaraFW answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By its name on port 4028; where that is shut, by its web page.
    """
    try:
        answer = await ask(place.host, "version", port=place.api_port or PORT, total_s=_ANSWER_S)
    except BadAnswer as error:
        return None, error.text
    except Unreachable as error:
        return await _by_web(place, error)
    told = table(answer.value)
    if any(has_mark(row) for row in (*rows(told.get("VERSION")), *rows(told.get("STATUS")))):
        return Marathon(place), "MaraFW"
    return None, "no MaraFW (its `version` does not say so)"


async def _by_web(place: Place, fault: Unreachable) -> tuple[Marathon | None, str]:
    """The password goes only to who asks for it as stock firmware or MaraFW does, and then what `brief` tells decides."""
    http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
    try:
        answer = await http.request("GET", f"{_ROOT}brief")
    except (Unreachable, BadAnswer) as error:
        if isinstance(error, BadAnswer):
            return None, f"no MaraFW ({error.text})"
        raise fault if isinstance(fault, TimedOut) or not isinstance(error, TimedOut) else error from None
    finally:
        await http.close()
    realm = " ".join(c.parameters.get("realm", "") for c in challenges(answer.headers.get("www-authenticate", "")))[:80]
    if answer.status == 401 and has_mark(realm):
        return Marathon(place), realm
    if answer.status not in (200, 401) or (answer.status == 401 and "antminer" not in realm.lower()):
        return None, f"no MaraFW (HTTP {answer.status}{f', realm {realm!r}' if realm else ''})"
    driver = Marathon(place)
    try:
        found = is_brief((await driver._get("brief")).value)
    except WrongPassword:
        await driver.close()
        raise  # it may be one: only with the right password does it tell
    except (BadAnswer, NotSupported) as error:
        await driver.close()
        return None, f"no MaraFW ({error.text})"
    except BaseException:
        await driver.close()
        raise
    if found:
        return driver, "MaraFW"
    await driver.close()
    return None, "no MaraFW (its `brief` is another's)"
