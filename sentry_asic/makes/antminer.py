"""Stock Antminers, old and modern: port 4028 for what changes fast, digest CGI for identity, mode and orders.

Source: recorded answers, the maker's own web pages, public source of monitors (facts page "ASIC miners: wire facts").
Port 4028 is up while the miner runs, the web page while the device does: the one without the other is "not mining",
not "offline". Stock firmware states no power until recently: then it stays unknown.

Hiveon ("Antminer S9 Hiveon") is a facet of this make and none of its own: it is the maker's firmware changed, with the same
`stats`, `pools` and CGI (answers in hiveos-asic, pyasic), and adds power. The form of its old generation is not known: that one
is given no pools.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Credentials, Pool, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, rows, table, words
from sentry_asic.cgminer import PORT, ask, section
from sentry_asic.digest_cgi import cgi, order, pool_orders
from sentry_asic.make import Fan, Place, Reading, Seen
from sentry_asic.makes.antminer_parse import (
    Version,
    conf_mode,
    info,
    mac_of,
    model_name,
    parse_conditions,
    parse_pools,
    parse_version,
    parse_warnings,
)
from sentry_asic.makes.antminer_stats import Stats, missing_fields, parse_stats
from sentry_asic.makes.antminer_web import ModernWeb, Web, find_web
from sentry_asic.models import model_of
from sentry_core.http import HttpClient, challenges

MAKE = "antminer"
HTTP_PORT = 80
FACTORY = Credentials("root", "root")
_ANSWER_S = 6  # of one question: a look is three, and has 10 s in all
T = TypeVar("T")


class Antminer:
    """One device. Made by `identify` or `Antminer(place)`; `close` it."""

    make = MAKE

    def __init__(self, place: Place) -> None:
        self._place = place
        self._api_port = place.api_port or PORT
        self._http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S, digest=place.credentials or FACTORY)
        self._web: Web | None = None
        self._version = Version()
        self._hiveon = False
        self._warns = True  # until it answers that it has no such page
        self.capabilities: tuple[ActionKind, ...] = (ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET)

    async def close(self) -> None:
        await self._http.close()

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        try:
            stats_answer = await self._ask("stats", {"new_api": True})
            stats = parse_stats(section(stats_answer, "STATS"))
        except (TimedOut, BadAnswer, Refused):
            raise
        except Unreachable as fault:
            return await self._without_api(fault)
        pool_rows, repairs = await self._section("pools", "POOLS")
        reading = _reading(stats, None if pool_rows is None else parse_pools(pool_rows), stats_answer.repairs + repairs)
        return await self._slow(reading) if slow else reading

    async def _ask(self, command: str, extra: Mapping[str, object] | None = None) -> Answer:
        return await ask(self._place.host, command, port=self._api_port, extra=extra, total_s=_ANSWER_S)

    async def _section(self, command: str, name: str) -> tuple[list[Mapping[str, Any]] | None, int]:
        """The rows and the repairs; None when it could not be asked: the look goes on without."""
        try:
            answer = await self._ask(command)
            return section(answer, name), answer.repairs
        except (Unreachable, BadAnswer, Refused):
            return None, 0

    async def _without_api(self, fault: Unreachable) -> Reading:
        """Port 4028 is shut. When the web page answers, the device is there and does not mine."""
        try:
            mode = conf_mode(table(await cgi(self._http, "get_miner_conf")))
        except WrongPassword:
            mode = None  # it is there, though it does not let us in
        except NotSupported:
            mode = None
        except (Unreachable, BadAnswer, Refused):
            raise fault from None
        text = "its web page answers, its miner does not"
        asleep = mode == "sleep"
        conditions = () if asleep else (Condition("miner_down", text, "critical"),)
        missing = ("hashrate_hs", "uptime_s", "fans_rpm", "boards", "pools")
        return Reading(mining=False, asleep=asleep, mode=mode, conditions=conditions, missing=missing)

    async def _slow(self, reading: Reading) -> Reading:
        """With what only the web page tells: the stored mode, and the faults that the device itself reports."""
        conditions, missing, mode = list(reading.conditions), list(reading.missing), reading.mode
        try:
            web = await self._dialect()
            if isinstance(web, ModernWeb):
                mode = await _or(lambda: self._conf_mode(web), mode, "mode", missing)
                conditions += await _or(self._lamps, [], "errors", missing)
                conditions += await _or(self._warnings, [], "warnings", missing)
        except WrongPassword as fault:
            conditions.append(Condition("wrong_password", fault.text, "warning"))
            missing += ["mode", "errors"]
        except (Unreachable, BadAnswer, Refused):
            missing += ["mode", "errors"]
        asleep = reading.asleep or (mode == "sleep" and not reading.mining)
        return replace(reading, mode=mode, asleep=asleep, conditions=tuple(conditions), missing=tuple(missing))

    async def _conf_mode(self, web: Web) -> str | None:
        return conf_mode(await web.conf())

    async def _lamps(self) -> list[Condition]:
        return list(parse_conditions(info(await cgi(self._http, "summary"))))

    async def _warnings(self) -> list[Condition]:
        try:
            return list(parse_warnings(table(await cgi(self._http, "warning")))) if self._warns else []
        except NotSupported:
            self._warns = False
            return []

    # ---- identity ----------------------------------------------------------------------------------------

    async def seen(self) -> Seen:
        """WrongPassword when the web page refuses us: without it there is no MAC, so no identity."""
        version = self._version if self._version.model else await self._ask_version()
        self._version = Version()  # another device may answer here the next time
        try:
            told = table(await cgi(self._http, "get_system_info"))
            self._hiveon = version.hiveon or parse_version({"Type": told.get("minertype")}).hiveon
            await self._dialect()
        except NotSupported:
            told = {}
        except (TimedOut, BadAnswer, Refused, Unreachable) as fault:
            if isinstance(fault, WrongPassword) or not version.model:
                raise
            told = {}
        firmware = words(told.get("system_filesystem_version")) or version.firmware
        facts = dict(version.facts) | ({"brand": "Hiveon"} if self._hiveon else {})
        for name in ("hostname", "ipaddress", "nettype", "firmware_type", "system_kernel_version"):
            if text := words(told.get(name)):
                facts[name] = text
        model = version.model or model_name(words(told.get("minertype")))
        if row := model_of(model):
            facts["algorithm"] = row.algorithm
        return Seen(
            make=MAKE,
            model=model,
            firmware=firmware,
            mac=mac_of(told.get("macaddr")),
            serial=words(told.get("serinum")) or words(told.get("serial_no")),
            facts=facts,
        )

    async def _ask_version(self) -> Version:
        """From `version`, or for firmware without a type there from the header of `stats`. Empty when 4028 is shut."""
        for command, name in (("version", "VERSION"), ("stats", "STATS")):
            found, _ = await self._section(command, name)
            for row in found or []:
                told = parse_version(row)
                if told.model:
                    return told
        return Version()

    async def _dialect(self) -> Web:
        if self._web is None:
            self._web = await find_web(self._http, known_form=not self._hiveon)
            self.capabilities = self._web.capabilities
        return self._web

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await order(self._http, "reboot")

    async def restart_mining(self) -> None:
        raise NotSupported("stock Antminer firmware cannot restart only its miner", hint="`reboot` restarts all of it")

    async def pause(self) -> None:
        await (await self._dialect()).set_mode(1)

    async def resume(self) -> None:
        await (await self._dialect()).set_mode(0)

    async def locate(self, on: bool) -> None:
        await (await self._dialect()).locate(on)

    async def locating(self) -> bool | None:
        return await (await self._dialect()).locating()

    async def pools(self) -> tuple[PoolOrder, ...]:
        return pool_orders(await (await self._dialect()).conf())

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        await (await self._dialect()).set_pools(pools)

    async def power_mode(self) -> str | None:
        return conf_mode(await (await self._dialect()).conf())

    async def set_power_mode(self, mode: str) -> None:
        await (await self._modern()).set_power_mode(mode)

    async def fan(self) -> Fan | None:
        return await (await self._modern()).fan()

    async def set_fan(self, fan: Fan) -> None:
        await (await self._modern()).set_fan(fan)

    async def _modern(self) -> ModernWeb:
        if isinstance(web := await self._dialect(), ModernWeb):
            return web
        raise NotSupported("this Antminer has no such setting that we could write alone", hint="use its web page")


async def _or(ask_for: Callable[[], Awaitable[T]], otherwise: T, name: str, missing: list[str]) -> T:
    try:
        return await ask_for()
    except WrongPassword:
        raise
    except (Unreachable, BadAnswer, Refused):
        missing.append(name)
        return otherwise


def _reading(stats: Stats, pools: tuple[Pool, ...] | None, repairs: int) -> Reading:
    """`summary` is not asked: what it has besides are the sums of these (shares of the pools, errors of the boards)."""
    rate = stats.hashrate_hs
    temps = [board.temp_c for board in stats.boards if board.temp_c is not None]
    chip_temps = [board.chip_temp_c for board in stats.boards if board.chip_temp_c is not None]
    return Reading(
        mining=False if stats.asleep or stats.booting else None if rate is None else rate > 0,
        asleep=stats.asleep,
        booting=stats.booting,
        hashrate_hs=rate,
        hashrate_avg_hs=stats.hashrate_avg_hs,
        expected_hashrate_hs=stats.expected_hashrate_hs,
        power_w=stats.power_w,
        power_source=None if stats.power_w is None else "miner",
        uptime_s=stats.uptime_s,
        inlet_temp_c=stats.inlet_temp_c,
        outlet_temp_c=stats.outlet_temp_c,
        temp_c=max(temps, default=None),
        chip_temp_c=max(chip_temps, default=None),
        accepted=_sum(pool.accepted for pool in pools or ()),
        rejected=_sum(pool.rejected for pool in pools or ()),
        stale=_sum(pool.stale for pool in pools or ()),
        hw_errors=_sum(board.hw_errors for board in stats.boards),
        fans_rpm=stats.fans_rpm,
        boards=stats.boards,
        pools=pools,
        mode=stats.mode or ("sleep" if stats.asleep else None),
        conditions=tuple(_shortfalls(stats)),
        missing=tuple(missing_fields(stats, pools)),
        repairs=repairs,
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """None when nothing is told."""
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def _shortfalls(stats: Stats) -> list[Condition]:
    """Boards and fans fewer than the model has. Codes and words are ours: the device only leaves them out."""
    model = model_of(stats.model)
    if model is None or stats.asleep or stats.booting:
        return []
    found = []
    boards = sum(1 for board in stats.boards if board.chips or board.hashrate_hs)
    if model.boards and stats.boards and boards < model.boards:
        found.append(Condition("boards_missing", f"{boards} of {model.boards} hash boards answer", "critical"))
    fans = sum(1 for rpm in stats.fans_rpm if rpm)
    if model.fans and stats.fans_rpm and fans < model.fans:
        found.append(Condition("fans_missing", f"{fans} of {model.fans} fans turn", "critical"))
    return found


# ---- fingerprints ------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Antminer | None, str]:
    """A driver when a stock Antminer answers here, else None and what was seen. Raises Unreachable when nothing answers."""
    port = place.api_port or PORT
    fault: Unreachable | None = None
    try:
        for command, name in (("version", "VERSION"), ("stats", "STATS")):
            answer = await ask(place.host, command, port=port, total_s=_ANSWER_S)
            for row in rows(table(answer.value).get(name)):
                told = parse_version(row)
                if told.stock:
                    driver = Antminer(place)
                    driver._version, driver._hiveon = told, told.hiveon
                    return driver, told.model
                if told.model:
                    return None, f"{words(row.get('Type'))} with other firmware ({', '.join(map(str, row))})"
    except Unreachable as error:
        fault = error
    except BadAnswer as error:
        return None, error.text
    return await _by_web(place, fault)


async def _by_web(place: Place, fault: Unreachable | None) -> tuple[Antminer | None, str]:
    """By the realm of its log-in, for a device whose miner is down, asleep or booting."""
    http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
    try:
        answer = await http.request("GET", "/")
    except (Unreachable, BadAnswer) as error:
        if fault is not None:
            raise fault if isinstance(fault, TimedOut) or not isinstance(error, TimedOut) else error from None
        return None, f"port {place.api_port or PORT} answers like no Antminer, its web page: {error.text}"
    finally:
        await http.close()
    realms = [c.parameters.get("realm", "") for c in challenges(answer.headers.get("www-authenticate", ""))]
    if answer.status == 401 and any("antminer" in realm.lower() for realm in realms):
        return await _confirmed(Antminer(place))
    return None, f"a web page (HTTP {answer.status}{', realm ' + repr(realms[0]) if realms else ''})"


async def _confirmed(driver: Antminer) -> tuple[Antminer | None, str]:
    """Other firmware shares the realm: only `minertype` tells."""
    try:
        told = table(await cgi(driver._http, "get_system_info"))
    except (NotSupported, BadAnswer) as fault:  # MaraFW has no such page
        await driver.close()
        return None, f"the realm of an Antminer, but {fault.text}"
    except BaseException:
        await driver.close()
        raise
    kind = words(told.get("minertype"))
    told_version = parse_version({"Type": kind})
    if told_version.stock:
        driver._hiveon = told_version.hiveon
        return driver, model_name(kind)
    await driver.close()
    return None, f"the realm of an Antminer, but it calls itself {kind or 'nothing'}"
