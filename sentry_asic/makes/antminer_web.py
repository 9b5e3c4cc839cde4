"""The two ways stock Antminers take orders over HTTP: JSON (S19, S21, L7 and later) and forms (S9, S17, L3 and earlier).

Called by makes/antminer.py. Both replace the whole configuration on a write, so a write begins with a read, and a read
that failed or made no sense ends it. Orders are sent once: a connection that dies after the order went out is no fault
here, because these devices restart instead of answering; whether it worked, the caller reads later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, Refused, Unreachable, WrongPassword
from garrison.model import PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import excerpt, number, parse, rows, table, whole, words
from sentry_core.http import HttpAnswer, HttpClient

SLOTS = 3
ORDER_S = 15  # old firmware restarts its miner before it answers
_BOTH = (ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET)
_EMPTY = {"url": "", "user": "", "pass": ""}


class Web(Protocol):
    """Orders of one generation. Errors as sentry_asic.make.Driver says."""

    capabilities: tuple[ActionKind, ...]

    async def conf(self) -> dict[str, Any]:
        """The whole stored configuration, checked. BadAnswer when it makes no sense."""
        ...

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None: ...

    async def set_mode(self, mode: int) -> None: ...

    async def locate(self, on: bool) -> None: ...

    async def locating(self) -> bool | None: ...


async def cgi(http: HttpClient, name: str) -> Any:
    """What a read CGI answers. NotSupported when this firmware has none (404); WrongPassword; BadAnswer."""
    answer = await http.request("GET", f"/cgi-bin/{name}.cgi")
    return _data(http, name, answer)


async def order(http: HttpClient, name: str, *, json: object = None, form: bytes | None = None) -> Any:
    """Sends an order once. None when the device took it and did not answer in words."""
    method = "GET" if json is None and form is None else "POST"
    kind = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"} if form is not None else None
    try:
        answer = await http.request(
            method, f"/cgi-bin/{name}.cgi", json=json, body=form, headers=kind, replay=False, total_s=ORDER_S
        )
    except Unreachable:
        if http.delivered:
            return None
        raise
    try:
        return _data(http, name, answer)
    except (NotSupported, Refused):
        raise
    except BadAnswer:
        if answer.status == 200:
            return None  # "ok", an empty page, a page of HTML: taken
        raise


def _data(http: HttpClient, name: str, answer: HttpAnswer) -> Any:
    if answer.status == 404:
        raise NotSupported(f"{http.where} has no {name}.cgi")
    if answer.status == 401:
        raise WrongPassword(f"{http.where} refuses the log-in")
    if answer.status == 403:
        raise Refused(f"{http.where} forbids {name}.cgi")
    if answer.status != 200:
        raise BadAnswer(f"{http.where} answers {name}.cgi with HTTP {answer.status}")
    try:
        return parse(answer.body).value
    except BadAnswer as fault:
        raise BadAnswer(f"{http.where} {name}.cgi: {fault.text}") from None


def check_conf(conf: Any) -> dict[str, Any]:
    """The configuration when it is one: a list of pools with their fields, and settings beside it. Raises BadAnswer."""
    pools = conf.get("pools") if isinstance(conf, dict) else None
    whole_pools = isinstance(pools, list) and all(
        isinstance(pool, dict) and isinstance(pool.get("url"), str) and isinstance(pool.get("user"), str) for pool in pools
    )
    if not isinstance(conf, dict) or not whole_pools or len(conf) < 2:
        raise BadAnswer(
            "the configuration that the device shows makes no sense, so nothing was written", hint="look at its web page"
        )
    return conf


def slots(pools: Sequence[PoolOrder]) -> list[dict[str, str]]:
    """Exactly three slots. BadInput for none and for more."""
    if not 0 < len(pools) <= SLOTS:
        raise BadInput(f"an Antminer takes 1 to {SLOTS} pools, not {len(pools)}")
    for pool in pools:
        if not pool.url or re.search(r"[\x00-\x20\x7f]", pool.url + pool.user + pool.password):
            raise BadInput(f"a pool cannot be {pool.url!r} with user {pool.user!r}", hint="no spaces or control characters")
    given = [{"url": pool.url, "user": pool.user, "pass": pool.password} for pool in pools]
    return given + [dict(_EMPTY) for _ in range(SLOTS - len(given))]


def _same(conf: Mapping[str, Any], wanted: Sequence[Mapping[str, str]]) -> bool:
    held = [{name: words(pool.get(name), 4096) for name in _EMPTY} for pool in rows(conf["pools"])]
    held += [dict(_EMPTY) for _ in range(SLOTS - len(held))]
    return held == list(wanted)


# ---- S19, S21, L7 and later --------------------------------------------------------------------------------


class ModernWeb:
    """JSON in, `{"stats":"success","code":"M000"}` out. Sleep is `miner-mode` 1."""

    capabilities: tuple[ActionKind, ...] = (*_BOTH, ActionKind.PAUSE, ActionKind.RESUME)

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._awake_mode = 0  # what `pause` found, for `resume`

    async def conf(self) -> dict[str, Any]:
        return check_conf(await cgi(self._http, "get_miner_conf"))

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = slots(pools)
        conf = await self.conf()
        if not _same(conf, wanted):
            await self._write({**conf, "pools": wanted}, _mode_of(conf))

    async def set_mode(self, mode: int) -> None:
        """1: sleep. 0: awake, in the mode that a pause of ours interrupted."""
        conf = await self.conf()
        now = _mode_of(conf)
        if mode == 1 and now != 1:
            self._awake_mode = now
            await self._write(conf, 1)
        elif mode != 1 and now == 1:
            await self._write(conf, self._awake_mode)

    async def _write(self, conf: Mapping[str, Any], mode: int) -> None:
        """The configuration is read under one set of names and written under another; whatever else it has goes back as it was."""
        document = dict(conf)
        document["miner-mode"] = mode
        if "bitmain-work-mode" in document:
            document["bitmain-work-mode"] = str(mode) if isinstance(document["bitmain-work-mode"], str) else mode
        if "bitmain-freq-level" in document:
            document.setdefault("freq-level", document["bitmain-freq-level"])
        said = table(await order(self._http, "set_miner_conf", json=document))
        code = words(said.get("code"))
        if code not in ("", "M000") or words(said.get("stats")) == "error":
            raise Refused(f"{self._http.where} refuses the configuration: {words(said.get('msg')) or code}")

    async def locate(self, on: bool) -> None:
        said = table(await order(self._http, "blink", json={"blink": on}))
        code = words(said.get("code"))
        if code not in ("", "B000", "B100"):
            raise Refused(f"{self._http.where} refuses to blink: {words(said.get('msg')) or code}")

    async def locating(self) -> bool | None:
        try:
            blink = table(await cgi(self._http, "get_blink_status")).get("blink")
        except NotSupported:
            return None
        return blink if isinstance(blink, bool) else None


def _mode_of(conf: Mapping[str, Any]) -> int:
    for name in ("miner-mode", "bitmain-work-mode"):
        code = whole(conf.get(name))
        if code is not None:
            return code
    return 0


# ---- S9, S17, L3 and earlier -------------------------------------------------------------------------------

_FORM = (
    ("_ant_nobeeper", "bitmain-nobeeper", "false"),
    ("_ant_notempoverctrl", "bitmain-notempoverctrl", "false"),
    ("_ant_fan_customize_switch", "bitmain-fan-ctrl", "false"),
    ("_ant_fan_customize_value", "bitmain-fan-pwm", ""),
    ("_ant_freq", "bitmain-freq", ""),
    ("_ant_voltage", "bitmain-voltage", ""),
    ("_ant_work_mode", "bitmain-work-mode", None),
    ("_ant_multi_level", "bitmain-multi-level", None),
    ("_ant_force_tuning", "bitmain-force-tuning", None),
)
"""Behind the nine pool fields, in this order: the device's shell script counts fields and ignores their names.
None: sent only when the configuration has it or a later one."""

_WRITTEN_BY_THE_SCRIPT = frozenset(
    {"pools", "api-listen", "api-network", "api-groups", "api-allow", "bitmain-use-vil", "bitmain-ccdelay", "bitmain-pwth"}
)
_KEPT_UNESCAPED = "!'()~"  # as a browser sends them: the script does not decode their escapes
_STORABLE = re.compile(r"[A-Za-z0-9_.\-~!'()#$&,+:;<=>?@^|/]*")


class OldWeb:
    """Forms in, "ok" out, half a minute later. It cannot sleep."""

    capabilities: tuple[ActionKind, ...] = _BOTH

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def conf(self) -> dict[str, Any]:
        return check_conf(await cgi(self._http, "get_miner_conf"))

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = slots(pools)
        conf = await self.conf()
        if not _same(conf, wanted):
            await order(self._http, "set_miner_conf", form=old_form(conf, wanted))

    async def set_mode(self, mode: int) -> None:
        raise NotSupported(f"this Antminer cannot {'sleep' if mode == 1 else 'be woken'}", hint="its power can be cut by a relay")

    async def locate(self, on: bool) -> None:
        await order(self._http, "blink", form=f"action={'startBlink' if on else 'stopBlink'}".encode())

    async def locating(self) -> bool | None:
        try:
            said = table(await order(self._http, "blink", form=b"action=onPageLoaded"))
        except NotSupported:
            return None
        blinking = said.get("isBlinking")
        return blinking if isinstance(blinking, bool) else {"true": True, "false": False}.get(words(blinking))


def old_form(conf: Mapping[str, Any], pools: Sequence[Mapping[str, str]]) -> bytes:
    """The form that gives the device these pools and all its own settings back.

    Conflict when it has a setting that the form cannot carry; BadInput for text that its script would spoil.
    """
    strange = sorted(conf.keys() - _WRITTEN_BY_THE_SCRIPT - {key for _, key, _ in _FORM})
    if strange:
        raise Conflict(
            f"the device has settings that would be lost: {', '.join(map(str, strange))}", hint="set its pools on its web page"
        )
    fields = [
        (f"_ant_pool{slot}{field}", pool[name])
        for slot, pool in enumerate(pools, start=1)
        for field, name in (("url", "url"), ("user", "user"), ("pw", "pass"))
    ]
    last = max(place for place, (_, key, default) in enumerate(_FORM) if default is not None or key in conf)
    for field, key, default in _FORM[: last + 1]:
        fields.append((field, _plain(conf.get(key, default))))
    for field, value in fields:
        if not _STORABLE.fullmatch(value):
            shown = "its password" if field.endswith("pw") else repr(value)
            raise BadInput(f"this old firmware cannot store {shown}", hint="letters, digits and _ . - / : @ are safe")
    return "&".join(f"{field}={quote(value, safe=_KEPT_UNESCAPED)}" for field, value in fields).encode()


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if number(value) is not None:
        return str(value)
    raise Conflict(f"the device has a setting that is no plain value: {excerpt(repr(value).encode())}")


async def find_web(http: HttpClient) -> Web:
    """Which of the two this device has: only the newer has `get_blink_status.cgi` or `summary.cgi`."""
    for name in ("get_blink_status", "summary"):
        try:
            await cgi(http, name)
        except NotSupported:
            continue
        return ModernWeb(http)
    return OldWeb(http)
