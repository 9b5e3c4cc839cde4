"""VNish (AnthillOS) on Antminer hardware: a REST API on its web port, opened with a password; port 4028 for one number.

Source: recorded answers of an S21 Pro with 1.2.7 (reading, and what orders answer); a public page on the API of 1.2.6 and
asic-rs (paths, the light that toggles): documented. Its state is a word of its own, so a machine that is stopped, starts or
has failed is told apart. `/settings` is one document: new pools, a preset or a way of cooling go with all that was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.faults import BadAnswer, Conflict, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, excerpt, parse, rows, table, whole, words
from sentry_asic.cgminer import PORT, ask, section
from sentry_asic.make import Fan, Place, Reading, Seen
from sentry_asic.makes.vnish_parse import (
    SLOTS,
    Answers,
    cooling_of,
    fan_of,
    is_vnish,
    least_fan_of,
    parse_pool_orders,
    parse_reading,
    parse_seen,
    preset_of,
    presets_of,
    settings_for,
    target_of,
    with_part,
)
from sentry_asic.order_rules import check_pools
from sentry_asic.settable import check_mode, check_within
from sentry_asic.web_login import WebLogin, bearer_header, check_order, told_by
from sentry_core.http import HttpAnswer, HttpClient

MAKE = "vnish"
HTTP_PORT = 80
FACTORY = Credentials("", "admin")  # it asks for a password only
_ANSWER_S = 6
_ELAPSED_S = 2  # one number is not worth a longer wait
_UNLOCK = "/api/v1/unlock"
_LOOK = "look at its web page"


class Vnish:
    """One device. Made by `identify` or `Vnish(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = (
        ActionKind.REBOOT,
        ActionKind.RESTART_MINING,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.LOCATE,
        ActionKind.APPLY_FLIGHT_SHEET,
        ActionKind.SET_POWER_MODE,
        ActionKind.SET_FAN,
    )

    def __init__(self, place: Place) -> None:
        self._place = place
        self._credentials = place.credentials or FACTORY
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
        self._web = WebLogin(self._http, self._log_in, lambda answer: answer.status in (401, 403))
        self._target_c: int | None = None  # that it held before its fan was set by hand
        self._refused: WrongPassword | None = None  # reading goes on without a log-in; a slow look tries again

    async def close(self) -> None:
        await self._http.close()

    async def _log_in(self) -> Mapping[str, str]:
        answer = await self._http.request("POST", _UNLOCK, json={"pw": self._credentials.password})
        if answer.status in (401, 403):
            raise WrongPassword(f"{self._http.where} refuses this password")
        if not (proof := bearer_header(table(told_by(self._http.where, _UNLOCK, answer).value).get("token"))):
            raise BadAnswer(f"{self._http.where} gives no token that can be used")
        return proof

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        if slow:
            self._refused = None
        summary = await self._get("summary")
        if not isinstance(table(summary.value).get("miner"), dict):
            raise BadAnswer(f"{self._http.where} answers summary without its miner")
        told: dict[str, Any] = {"summary": summary.value}
        repairs, failed = summary.repairs, []
        for name, path in (("info", "info"), ("perf", "perf-summary")):
            try:
                answer = await self._get(path)
                told[name] = answer.value
                repairs += answer.repairs
            except TimedOut:
                raise  # the rest would be as silent, and this look has its limit
            except (Unreachable, BadAnswer, Refused):
                failed.append(name)
        answers = Answers(**told, elapsed_s=await self._elapsed(), failed=tuple(failed), repairs=repairs)
        return parse_reading(answers, self._refused.text if self._refused else "")

    async def _elapsed(self) -> int | None:
        """How long its mining program runs, which only port 4028 tells; shut while it does not."""
        try:
            answer = await ask(self._place.host, "summary", port=self._place.api_port or PORT, total_s=_ELAPSED_S)
            found = section(answer, "SUMMARY")
        except (Unreachable, BadAnswer, Refused):
            return None
        return whole(found[0].get("Elapsed")) if found else None

    async def _get(self, path: str) -> Answer:
        """With a log-in where the password is right (without one, some versions mask the users of pools), else without."""
        where = f"/api/v1/{path}"
        answer: HttpAnswer | None = None
        if self._refused is None:
            try:
                answer = await self._web.ask("GET", where)
            except WrongPassword as fault:
                self._refused = fault
        if answer is None:
            answer = await self._http.request("GET", where)
            if answer.status in (401, 403) and self._refused is not None:
                raise self._refused
        return told_by(self._http.where, where, answer)

    async def seen(self) -> Seen:
        info = (await self._get("info")).value
        if not is_vnish(info):
            raise BadAnswer(f"{self._http.where} does not call itself VNish any more")
        return parse_seen(info, MAKE)

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("system/reboot")

    async def restart_mining(self) -> None:
        await self._order("mining/restart")

    async def pause(self) -> None:
        await self._order("mining/stop")

    async def resume(self) -> None:
        """Two ways of sleeping, each with its own way back."""
        paused = words((await self._status()).get("miner_state")) == "paused"
        await self._order("mining/resume" if paused else "mining/start")

    async def locate(self, on: bool) -> None:
        """The order turns the light over, and its answer says which way: it is not sent when the light is right already."""
        for _ in range(2):
            if (await self._status()).get("find_miner") is on:
                return
            said = table(await self._order("find-miner", {"on": on})).get("on")
            if not isinstance(said, bool) or said is on:
                return

    async def locating(self) -> bool | None:
        on = (await self._status()).get("find_miner")
        return on if isinstance(on, bool) else None

    async def _status(self) -> Mapping[str, Any]:
        """Nothing where there is no such path: it was not always there."""
        try:
            return table((await self._get("status")).value)
        except BadAnswer:
            return {}

    async def pools(self) -> tuple[PoolOrder, ...]:
        return self._held(await self._settings())

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = tuple(_stored(pool) for pool in check_pools(pools, SLOTS))
        settings = await self._settings()
        if self._held(settings) == wanted:
            return
        await self._save(settings_for(settings, wanted))

    async def power_mode(self) -> str | None:
        """The stored preset: it works with it after the restart that it asks for."""
        return preset_of(await self._settings())

    async def set_power_mode(self, mode: str) -> None:
        """A preset by its name, without the voltage and frequencies of the old one: it brings its own (proto-fleet).

        One that was never tuned on this machine is tuned first, which takes hours.
        """
        path = "/api/v1/autotune/presets"
        told = told_by(self._http.where, path, await self._web.ask("GET", path)).value
        settings = await self._settings()
        name = check_mode(mode, presets_of(told, settings))
        state = words((await self._status()).get("miner_state")).lower()
        if "tuning" in state:
            raise Conflict(f"{self._http.where} is being tuned", hint="wait until it mines, or stop it first; nothing was sent")
        self._held(settings)  # with pools that make no sense nothing is written
        await self._save(with_part(settings, "overclock", {"preset": name}))

    async def fan(self) -> Fan | None:
        return fan_of(await self._settings())

    async def set_fan(self, fan: Fan) -> None:
        """By itself it holds a temperature, which it forgets while its fan is set by hand: then we must have seen it before."""
        settings = await self._settings()
        cooling = cooling_of(settings)
        if not cooling:
            raise BadAnswer(f"the settings that {self._http.where} shows make no sense, so nothing was written", hint=_LOOK)
        target_c = target_of(settings) or self._target_c
        if fan.percent is not None:
            check_within(fan.percent, least_fan_of(settings), 100, "%", "fan speed")
            self._target_c, mode = target_c, {"name": "manual", "param": fan.percent}
        elif target_c is None:
            raise Conflict(f"{self._http.where} does not tell which temperature it is to hold", hint="set that on its web page")
        else:
            mode = {"name": "auto", "param": target_c}
        self._held(settings)
        await self._save(with_part(settings, "cooling", {**cooling, "mode": mode}))

    async def _save(self, settings: Mapping[str, Any]) -> None:
        """The device says whether it wants to be restarted for it."""
        said = table(await self._order("settings", settings))
        if said.get("reboot_required") is True:
            await self.reboot()
        elif said.get("restart_required") is True:
            await self.restart_mining()

    async def _settings(self) -> Mapping[str, Any]:
        """The whole document. Without a log-in it is empty, so there is none without."""
        path = "/api/v1/settings"
        return table(told_by(self._http.where, path, await self._web.ask("GET", path)).value)

    def _held(self, settings: Mapping[str, Any]) -> tuple[PoolOrder, ...]:
        held = parse_pool_orders(settings)
        if held is None:
            raise BadAnswer(f"the settings that {self._http.where} shows make no sense, so nothing was written", hint=_LOOK)
        return held

    async def _order(self, name: str, json: object = None) -> object:
        """Sends an order once. None when the device took it and did not answer in words."""
        path = f"/api/v1/{name}"
        answer = await self._web.order("POST", path, json=json)
        if answer is None:
            return None
        try:
            said = table(parse(answer.body).value)
        except BadAnswer:
            said = {}
        reason = words(said.get("err")) or words(said.get("error"))
        if answer.status == 409:
            raise Conflict(f"{self._http.where} cannot do {name} now: {reason or excerpt(answer.body) or 'no reason given'}")
        if reason or said.get("success") is False:
            raise Refused(f"{self._http.where} refuses {name}: {reason or 'no reason given'}")
        check_order(self._http.where, path, answer)
        return said


def _stored(pool: PoolOrder) -> PoolOrder:
    """As the device stores it: plain stratum without its scheme."""
    return replace(pool, url=pool.url.removeprefix("stratum+tcp://"))


# ---- fingerprint -------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Vnish | None, str]:
    """A driver when VNish answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By its web page, or where that is shut to us by what it calls itself on port 4028.
    """
    http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
    fault: Unreachable | None = None
    try:
        answer = await http.request("GET", "/api/v1/info")
        if answer.status not in (401, 403):
            info = table(told_by(http.where, "/api/v1/info", answer).value)
            return (Vnish(place), words(info.get("miner"))) if is_vnish(info) else (None, "no VNish (its `info` does not say so)")
    except Unreachable as error:
        fault = error
    except BadAnswer as error:
        return None, f"no VNish ({error.text})"
    finally:
        await http.close()
    try:
        stats = await ask(place.host, "stats", port=place.api_port or PORT, total_s=_ANSWER_S)
    except (Unreachable, BadAnswer) as error:
        if fault is not None:
            raise fault if isinstance(fault, TimedOut) or not isinstance(error, TimedOut) else error from None
        return None, f"no VNish ({error.text})"
    kinds = [words(row.get("Type")) for row in rows(table(stats.value).get("STATS")) if "Type" in row]
    if any("vnish" in kind.lower() for kind in kinds):
        return Vnish(place), kinds[0]
    return None, "no VNish (its `stats` does not say so)"
