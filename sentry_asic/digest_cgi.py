"""The CGI of Bitmain's web page and its many copies: GET for questions, JSON or a form for orders, a log-in with each.

Called by the drivers of such makes (antminer, elphapex, hammer). Orders are sent once: a connection that dies after the order
went out is no fault here, because these devices restart instead of answering; whether it worked, the caller reads later. Most
replace the whole configuration on a write, so a write begins with a read, and a read that failed or made no sense ends it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from garrison.faults import BadAnswer, BadInput, Conflict, NotSupported, Refused, Unreachable, WrongPassword
from garrison.model import PoolOrder
from sentry_asic.answers import excerpt, number, parse, rows, table, words
from sentry_core.http import HttpAnswer, HttpClient

SLOTS = 3
ORDER_S = 15  # old firmware restarts its miner before it answers
_EMPTY = {"url": "", "user": "", "pass": ""}


async def cgi(http: HttpClient, name: str, headers: Mapping[str, str] | None = None) -> Any:
    """What a read CGI answers. NotSupported when this firmware has none (404); WrongPassword; BadAnswer."""
    return _data(http, name, await http.request("GET", f"/cgi-bin/{name}.cgi", headers=headers))


async def cgi_bytes(http: HttpClient, name: str) -> bytes:
    """The same, as it came."""
    answer = await http.request("GET", f"/cgi-bin/{name}.cgi")
    _check(http, name, answer)
    return answer.body


async def order(
    http: HttpClient, name: str, *, json: object = None, form: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Any:
    """Sends an order once. None when the device took it and did not answer in words."""
    method = "GET" if json is None and form is None else "POST"
    kind = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"} if form is not None else {}
    try:
        answer = await http.request(
            method, f"/cgi-bin/{name}.cgi", json=json, body=form, headers={**kind, **(headers or {})}, replay=False, total_s=ORDER_S
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


def _check(http: HttpClient, name: str, answer: HttpAnswer) -> None:
    if answer.status == 404:
        raise NotSupported(f"{http.where} has no {name}.cgi")
    if answer.status == 401:
        raise WrongPassword(f"{http.where} refuses the log-in")
    if answer.status == 403:
        raise Refused(f"{http.where} forbids {name}.cgi")
    if answer.status != 200:
        raise BadAnswer(f"{http.where} answers {name}.cgi with HTTP {answer.status}")


def _data(http: HttpClient, name: str, answer: HttpAnswer) -> Any:
    _check(http, name, answer)
    return data(http, name, answer.body)


def data(http: HttpClient, name: str, body: bytes) -> Any:
    """The JSON of an answer, mended where it must be. Raises BadAnswer."""
    try:
        return parse(body).value
    except BadAnswer as fault:
        raise BadAnswer(f"{http.where} {name}.cgi: {fault.text}") from None


# ---- pools -------------------------------------------------------------------------------------------------


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


def slots(pools: Sequence[PoolOrder], make: str = "an Antminer") -> list[dict[str, str]]:
    """Exactly three slots. BadInput for none and for more."""
    if not 0 < len(pools) <= SLOTS:
        raise BadInput(f"{make} takes 1 to {SLOTS} pools, not {len(pools)}")
    for pool in pools:
        if not pool.url or re.search(r"[\x00-\x20\x7f]", pool.url + pool.user + pool.password):
            raise BadInput(f"a pool cannot be {pool.url!r} with user {pool.user!r}", hint="no spaces or control characters")
    given = [{"url": pool.url, "user": pool.user, "pass": pool.password} for pool in pools]
    return given + [dict(_EMPTY) for _ in range(SLOTS - len(given))]


def same_pools(conf: Mapping[str, Any], wanted: Sequence[Mapping[str, str]]) -> bool:
    held = [{name: words(pool.get(name), 4096) for name in _EMPTY} for pool in rows(conf["pools"])]
    held += [dict(_EMPTY) for _ in range(SLOTS - len(held))]
    return held == list(wanted)


def pool_orders(conf: Mapping[str, Any]) -> tuple[PoolOrder, ...]:
    """The configured pools with their passwords; empty slots left out."""
    held = [[words(pool.get(name), 4096) for name in ("url", "user", "pass")] for pool in rows(conf["pools"])]
    return tuple(PoolOrder(url, user, password) for url, user, password in held if url)


# ---- JSON orders -------------------------------------------------------------------------------------------


async def write_conf(http: HttpClient, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
    """The whole configuration. Answers `{"stats":"success","code":"M000"}`."""
    said = table(await order(http, "set_miner_conf", json=document, headers=headers))
    code = words(said.get("code"))
    if code not in ("", "M000") or words(said.get("stats")) == "error":
        raise Refused(f"{http.where} refuses the configuration: {words(said.get('msg')) or code}")


async def blink(http: HttpClient, on: bool, headers: Mapping[str, str] | None = None) -> None:
    """Answers `{"code":"B000"}` for on and B100 for off."""
    said = table(await order(http, "blink", json={"blink": on}, headers=headers))
    code = words(said.get("code"))
    if code not in ("", "B000", "B100"):
        raise Refused(f"{http.where} refuses to blink: {words(said.get('msg')) or code}")


async def blinking(http: HttpClient, headers: Mapping[str, str] | None = None) -> bool | None:
    try:
        said = table(await cgi(http, "get_blink_status", headers)).get("blink")
    except NotSupported:
        return None
    return said if isinstance(said, bool) else None


# ---- forms -------------------------------------------------------------------------------------------------

_KEPT_UNESCAPED = "!'()~"  # as a browser sends them: the scripts do not decode their escapes
_STORABLE = re.compile(r"[A-Za-z0-9_.\-~!'()#$&,+:;<=>?@^|/]*")


def pool_fields(prefix: str, pools: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """`_ant_pool1url`, `_ant_pool1user`, `_ant_pool1pw` and so on."""
    return [
        (f"{prefix}pool{slot}{field}", pool[name])
        for slot, pool in enumerate(pools, start=1)
        for field, name in (("url", "url"), ("user", "user"), ("pw", "pass"))
    ]


def encoded(fields: Sequence[tuple[str, str]]) -> bytes:
    """A form in this order: the devices' shell scripts count fields and ignore their names. BadInput for what they would spoil."""
    for field, value in fields:
        if not _STORABLE.fullmatch(value):
            shown = "its password" if field.endswith("pw") else repr(value)
            raise BadInput(f"this old firmware cannot store {shown}", hint="letters, digits and _ . - / : @ are safe")
    return "&".join(f"{field}={quote(value, safe=_KEPT_UNESCAPED)}" for field, value in fields).encode()


def check_settings(conf: Mapping[str, Any], carried: frozenset[str]) -> None:
    """Conflict when the configuration has a setting that a form cannot carry: what is not sent is gone."""
    strange = sorted(conf.keys() - carried)
    if strange:
        raise Conflict(
            f"the device has settings that would be lost: {', '.join(map(str, strange))}", hint="set its pools on its web page"
        )


def plain(value: object) -> str:
    """A setting as a form has it. Conflict for what is no plain value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if number(value) is not None:
        return str(value)
    raise Conflict(f"the device has a setting that is no plain value: {excerpt(repr(value).encode())}")
