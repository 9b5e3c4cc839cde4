"""Anything else that speaks the cgminer API on port 4028: watched, and nothing more. Asked last.

Source: cgminer's own API document; recorded answers of makes without a driver. Every rate is taken by the unit that its
key states. Power and the rate that there should be are not part of this API: they stay unknown. What each firmware takes
as an order differs, so none is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable
from garrison.model import PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.cgminer import PORT, ask, section
from sentry_asic.make import BoardReading, Place, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, model_name, parse_pools, parse_version
from sentry_asic.makes.luxos_parse import is_luxos
from sentry_asic.models import unit_hs

MAKE = "cgminer"
_ANSWER_S = 6
_RATE = re.compile(r"([KMGTPE]?HS) (5s|1m|5m|av)")
_NOW, _LONG = ("5s", "1m", "5m"), ("av",)
_HINT = "there is no driver for its firmware: use its own web page, or cut its power with a relay"


class Cgminer:
    """One device. Made by `identify` or `Cgminer(place)`; `close` it."""

    make = MAKE
    capabilities: tuple[ActionKind, ...] = ()

    def __init__(self, place: Place) -> None:
        self._place = place

    async def close(self) -> None:
        """Each question has a connection of its own."""

    # ---- reading -----------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        answer = await ask(self._place.host, "summary", port=self._place.api_port or PORT, total_s=_ANSWER_S)
        summary = section(answer, "SUMMARY")
        pools, pool_repairs = await self._section("pools", "POOLS")
        devs, dev_repairs = await self._section("devs", "DEVS")
        repairs = answer.repairs + pool_repairs + dev_repairs
        return parse_reading(summary[0] if summary else {}, pools, devs or [], repairs)

    async def _section(self, command: str, name: str) -> tuple[list[Mapping[str, Any]] | None, int]:
        """The rows and the repairs; None when it could not be asked: the look goes on without."""
        try:
            answer = await ask(self._place.host, command, port=self._place.api_port or PORT, total_s=_ANSWER_S)
            return section(answer, name), answer.repairs
        except TimedOut:
            raise
        except (Unreachable, BadAnswer, Refused):
            return None, 0

    async def seen(self) -> Seen:
        version, _ = await self._section("version", "VERSION")
        stats, _ = (None, 0) if version and any(_model(row) for row in version) else await self._section("stats", "STATS")
        return parse_seen([*(version or []), *(stats or [])])

    # ---- orders ------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        raise _not_supported("be rebooted")

    async def restart_mining(self) -> None:
        raise _not_supported("restart its miner")

    async def pause(self) -> None:
        raise _not_supported("be paused")

    async def resume(self) -> None:
        raise _not_supported("be woken")

    async def locate(self, on: bool) -> None:
        raise _not_supported("blink")

    async def locating(self) -> bool | None:
        return None

    async def pools(self) -> tuple[PoolOrder, ...]:
        raise _not_supported("be given pools")

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        raise _not_supported("be given pools")


def _not_supported(what: str) -> NotSupported:
    return NotSupported(f"a device known by its cgminer API only cannot {what}", hint=_HINT)


# ---- parsing -----------------------------------------------------------------------------------------------


def parse_reading(
    summary: Mapping[str, Any], pools: list[Mapping[str, Any]] | None, devs: Sequence[Mapping[str, Any]], repairs: int = 0
) -> Reading:
    rate = rate_hs(summary, _NOW)
    boards = tuple(_board(row, place) for place, row in enumerate(devs))
    owed = {
        "hashrate_hs": rate,
        "uptime_s": whole(summary.get("Elapsed")),
        "accepted": whole(summary.get("Accepted")),
        "pools": pools,
    }
    return Reading(
        mining=None if rate is None else rate > 0,
        hashrate_hs=rate,
        hashrate_avg_hs=rate_hs(summary, _LONG),
        uptime_s=whole(summary.get("Elapsed")),
        temp_c=max((board.temp_c for board in boards if board.temp_c is not None), default=None),
        accepted=whole(summary.get("Accepted")),
        rejected=whole(summary.get("Rejected")),
        stale=whole(summary.get("Stale")),
        hw_errors=whole(summary.get("Hardware Errors")),
        boards=boards,
        pools=None if pools is None else parse_pools(pools),
        missing=tuple(name for name, value in owed.items() if value is None),
        repairs=repairs,
    )


def parse_seen(told: Sequence[Mapping[str, Any]]) -> Seen:
    """From the rows of `version`, and of `stats` where that names no model."""
    model = next((name for row in told if (name := _model(row))), "")
    firmware = next((f"{key} {value}" for row in told for key, value in _programs(row)), "")
    mac = next((found for row in told if (found := mac_of(row.get("MAC")))), "")
    facts = {}
    for name, key in (("api", "API"), ("compiled", "CompileTime")):
        if text := next((text for row in told if (text := words(row.get(key)))), ""):
            facts[name] = text
    return Seen(MAKE, model, firmware, mac, facts=facts)


def rate_hs(row: Mapping[str, Any], windows: Sequence[str]) -> float | None:
    """The rate over the first of these windows that is told, by the unit of its key: "GHS 5s", "MHS 5s"."""
    told: dict[str, float] = {}
    for key, value in row.items():
        found, rate = _RATE.fullmatch(key), number(value)
        if found and rate is not None and rate >= 0 and (unit := unit_hs(found[1])) is not None:
            told.setdefault(found[2], rate * unit)
    return next((told[window] for window in windows if window in told), None)


def _board(row: Mapping[str, Any], place: int) -> BoardReading:
    slots = (whole(row.get(key)) for key in ("ID", "ASC", "PGA", "GPU"))
    temp = number(row.get("Temperature"))
    return BoardReading(
        slot=next((slot for slot in slots if slot is not None), place),
        hashrate_hs=rate_hs(row, _NOW),
        temp_c=temp if temp and -60 <= temp <= 200 else None,  # 0: no sensor
        hw_errors=whole(row.get("Hardware Errors")),
    )


def _model(row: Mapping[str, Any]) -> str:
    return next((model_name(text) for key in ("Type", "PROD", "MODEL", "Model") if (text := words(row.get(key)))), "")


def _programs(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """ "CGMiner": "4.11.1" and its like: the program under its own name."""
    return [
        (key, text) for key, value in row.items() if key.lower().endswith("miner") and key != "Miner" and (text := words(value))
    ]


# ---- fingerprints ------------------------------------------------------------------------------------------


async def fingerprint(place: Place) -> tuple[Cgminer | None, str]:
    """A driver when something speaks this API and no make of ours names itself, else None and what was seen.

    Raises Unreachable when nothing answers. A make with a driver that was not known a moment ago (it starts, one answer
    was spoilt) is not taken: it would be watched without its orders.
    """
    port = place.api_port or PORT
    try:
        version = await ask(place.host, "version", port=port, total_s=_ANSWER_S)
        for row in rows(table(version.value).get("VERSION")):
            if parse_version(row).stock or is_luxos(row) or "avalon" in words(row.get("PROD")).lower():
                return None, f"{_model(row)} that did not answer as one; try again"
        summary = await ask(place.host, "summary", port=port, total_s=_ANSWER_S)
    except BadAnswer as fault:
        return None, fault.text
    found = rows(table(summary.value).get("SUMMARY"))
    if found and "HS RT" in found[0]:  # the maker's own name for it
        return None, "a Whatsminer that did not answer as one; try again"
    if found and ("Elapsed" in found[0] or rate_hs(found[0], (*_NOW, *_LONG)) is not None):
        return Cgminer(place), _model(found[0])
    return None, f"port {port} does not speak the cgminer API (its `summary` has no SUMMARY)"
