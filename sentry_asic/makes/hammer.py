"""Hammer, BlackMiner (HashAltCoin) and VolcMiner: one web page ("blackMiner Configuration"), one cgminer, three names.

Source: foreman-apps (answers of BlackMiners, their form), pyasic (answers of a Hammer D10), asic-rs and bitcap-ipr (VolcMiner D1):
documented, none recorded. Port 4028 is read where it is open; newer VolcMiners shut it, and get_miner_status.cgi is read instead.
Pools are set where two agree on the form, so not on a Hammer. How a VolcMiner is stopped (run mode -1) is only reported: not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, Pool, PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import Answer, rows, table, words
from sentry_asic.cgminer import PORT, ask, pools_of, section
from sentry_asic.digest_cgi import cgi_bytes, check_conf, data, order, pool_orders, same_pools, slots
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.hammer_forms import black_form, parse_more, volc_form
from sentry_asic.makes.hammer_parse import FAMILIES, family_of, parse_seen, parse_stats, parse_status, without_notes
from sentry_core.http import HttpClient, challenges

MAKE = "hammer"
HTTP_PORT = 80
FACTORY = (Credentials("root", "root"), Credentials("root", "ltc@dog"))  # the second a VolcMiner's
_REALM = "blackminer"
_ANSWER_S = 6
_CAPABILITIES: dict[str, tuple[ActionKind, ...]] = {
    "": (ActionKind.REBOOT,),
    "hammer": (ActionKind.REBOOT,),
    "blackminer": (ActionKind.REBOOT, ActionKind.APPLY_FLIGHT_SHEET),
    "volcminer": (ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET),
}


class Hammer:
    """One device. Made by `identify` or `Hammer(place)`; `close` it."""

    make = MAKE

    def __init__(self, place: Place, kind: str = "") -> None:
        """`kind`: its type where it is known already, "VolcMiner D1"."""
        self._place = place
        self._port = place.api_port or PORT
        self._http: HttpClient | None = None  # None: it was not found out yet which password opens it
        self._kind = kind
        self.capabilities = _CAPABILITIES[family_of(kind)]

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    # ---- the web page ------------------------------------------------------------------------------------

    async def _web(self) -> HttpClient:
        """With the password that it was given, else the first of the makers' own that opens it."""
        if self._http is None:
            ways = [self._place.credentials] if self._place.credentials else list(FACTORY)
            if family_of(self._kind) == "volcminer":
                ways.reverse()
            self._http = await self._opened(ways)
        return self._http

    async def _opened(self, ways: Sequence[Credentials]) -> HttpClient:
        refused: WrongPassword | None = None
        for who in ways:
            http = HttpClient(self._place.host, self._place.http_port or HTTP_PORT, total_s=_ANSWER_S, digest=who)
            try:
                self._is(table(await _page(http, "get_system_info")))
                return http
            except WrongPassword as fault:
                refused = fault
                await http.close()
            except BaseException:
                await http.close()
                raise
        raise refused or WrongPassword(f"{self._place.host} refuses the log-in")

    def _is(self, system: Mapping[str, Any]) -> None:
        kind = words(system.get("minertype"))
        if family_of(kind):
            self._kind, self.capabilities = kind, _CAPABILITIES[family_of(kind)]

    async def _family(self) -> str:
        await self._web()
        return family_of(self._kind)

    async def _conf(self) -> dict[str, Any]:
        return check_conf(await _page(await self._web(), "get_miner_conf"))

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        try:
            answer = await self._ask("stats")
            stats = section(answer, "STATS")
        except (TimedOut, BadAnswer, Refused):
            raise
        except Unreachable as fault:
            return await self._by_web(fault)
        pools, repairs = await self._pools()
        return parse_stats(stats, pools, answer.repairs + repairs)

    async def _ask(self, command: str) -> Answer:
        return await ask(self._place.host, command, port=self._port, total_s=_ANSWER_S)

    async def _pools(self) -> tuple[tuple[Pool, ...] | None, int]:
        """None when they could not be asked: the look goes on without."""
        try:
            answer = await self._ask("pools")
            return pools_of(section(answer, "POOLS")), answer.repairs
        except TimedOut:
            raise  # this look has its limit
        except (Unreachable, BadAnswer, Refused):
            return None, 0

    async def _by_web(self, fault: Unreachable) -> Reading:
        """Port 4028 is shut: the firmware has none, or its miner is down; its page tells which."""
        try:
            page = table(await _page(await self._web(), "get_miner_status"))
        except NotSupported:
            raise fault from None
        except Unreachable as error:
            raise error if isinstance(error, TimedOut) else fault from None
        reading = parse_status(page, self._kind)
        if reading is None:
            raise BadAnswer(f"{self._place.host} get_miner_status.cgi shows no miner")
        return reading

    async def seen(self) -> Seen:
        """WrongPassword when the web page refuses us: without it there is no MAC, so no identity."""
        http = await self._web()
        system = table(await _page(http, "get_system_info"))
        self._is(system)
        version = await self._version()
        try:
            conf: Mapping[str, Any] = await self._conf()
        except (NotSupported, BadAnswer):
            conf = {}
        seen = parse_seen(system, version, conf, MAKE)
        if not family_of(seen.model):
            raise BadAnswer(f"{self._place.host} calls itself {seen.model or 'nothing'}, and is none of {', '.join(FAMILIES)}")
        return seen

    async def _version(self) -> Mapping[str, Any]:
        try:
            found = section(await self._ask("version"), "VERSION")
        except (Unreachable, BadAnswer, Refused):
            return {}
        return found[0] if found else {}

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await order(await self._web(), "reboot")

    async def restart_mining(self) -> None:
        raise NotSupported("this firmware cannot restart only its miner", hint="`reboot` restarts all of it")

    async def pause(self) -> None:
        raise NotSupported("how this firmware is put to sleep is not known for certain", hint="its power can be cut by a relay")

    async def resume(self) -> None:
        raise NotSupported("how this firmware is woken is not known for certain", hint="wake it on its web page")

    async def locate(self, on: bool) -> None:
        """A VolcMiner's own page; what it shows cannot be read back (bitcap-ipr)."""
        if await self._family() != "volcminer":
            raise NotSupported("how this device is made to blink is not known", hint="its web page may have a button")
        await order(await self._web(), "post_led_onoff", form=b"_bb_type=rgOn" if on else b"_bb_type=rgOff")

    async def locating(self) -> bool | None:
        return None

    async def pools(self) -> tuple[PoolOrder, ...]:
        return pool_orders(await self._conf())

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = slots(pools, "this device")
        family = await self._family()
        if ActionKind.APPLY_FLIGHT_SHEET not in _CAPABILITIES[family]:
            raise NotSupported("what the form of this device takes is not known", hint="set its pools on its web page")
        conf = await self._conf()
        if same_pools(conf, wanted):
            return
        http = await self._web()
        if family == "volcminer":
            try:
                more = parse_more(await cgi_bytes(http, "get_miner_confV1"))
            except NotSupported as fault:
                raise NotSupported(
                    f"{fault.text}, so its settings could not be kept", hint="set its pools on its web page"
                ) from None
            form = volc_form(conf, more, wanted)
        else:
            form = black_form(conf, wanted)
        await order(http, "set_miner_conf", form=form)


async def _page(http: HttpClient, name: str) -> Any:
    return data(http, name, without_notes(await cgi_bytes(http, name)))


# ---- fingerprints ------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Hammer | None, str]:
    """A driver when one of these answers here, else None and what was seen. Raises Unreachable when nothing answers.

    By the type on port 4028, or where that is shut by the realm of its log-in, which other makes do not use.
    """
    try:
        for command, name in (("version", "VERSION"), ("stats", "STATS")):
            answer = await ask(place.host, command, port=place.api_port or PORT, total_s=_ANSWER_S)
            told = rows(table(answer.value).get(name))
            kind = next((kind for row in told if (kind := words(row.get("Type")))), "")
            if family_of(kind):
                return Hammer(place, kind), kind
            if told:
                return None, f"no Hammer, BlackMiner or VolcMiner ({kind or 'it names no type'})"
    except BadAnswer as fault:
        return None, fault.text
    except TimedOut:
        raise
    except Unreachable as fault:
        return await _by_web(place, fault)
    return None, "no Hammer, BlackMiner or VolcMiner (it names no type)"


async def _by_web(place: Place, fault: Unreachable) -> tuple[Hammer | None, str]:
    http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
    try:
        answer = await http.request("GET", "/")
    except (Unreachable, BadAnswer) as error:
        raise (error if isinstance(error, TimedOut) else fault) from None
    finally:
        await http.close()
    realms = [c.parameters.get("realm", "") for c in challenges(answer.headers.get("www-authenticate", ""))]
    if answer.status == 401 and any(_REALM in realm.lower() for realm in realms):
        return Hammer(place), "a web page of BlackMiner's"
    return None, f"a web page (HTTP {answer.status}{', realm ' + repr(realms[0]) if realms else ''})"
