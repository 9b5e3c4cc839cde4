"""What Innosilicons and DragonMints say under `/api/`, from parsed JSON to readings. Pure: no socket, no clock.

Source: the web server of DragonMint and of a later Innosilicon, which is public; dragon_rest, pyasic, foreman, ha-innosilicon (A9):
documented and reported, not recorded. `summary` is cgminer's DEVS and POOLS with rates laid over them: "Hash Rate" with a "Unit",
"Hash Rate H". cgminer's own "MHS" is believed of Bitcoin machines only: others kept the name and count something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.model import Condition, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.cgminer import pools_of
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of
from sentry_asic.makes.cgminer import rate_hs
from sentry_asic.makes.iceriver_parse import sum_told
from sentry_asic.models import unit_hs

_MOST_PARTS = 16
_BITCOIN = re.compile(r"(?:DragonMint\s*)?T\d", re.IGNORECASE)  # T1, T2, T3


def is_bitcoin(kind: str) -> bool:
    """By its type: the maker's Bitcoin machines are T1 to T3."""
    return bool(_BITCOIN.match(kind))


def parse_seen(overview: Mapping[str, Any], make: str) -> Seen:
    version, kind = table(overview.get("version")), words(overview.get("type"), 64)
    facts = {}
    for name, told in (
        ("algorithm", "sha256" if is_bitcoin(kind) else ""),
        ("hardware", version.get("hwver")),
        ("ipaddress", table(overview.get("network")).get("ipaddress")),
    ):
        if text := words(told):
            facts[name] = text
    return Seen(make, kind, words(version.get("platform_v")), mac_of(version.get("ethaddr")), facts=facts)


def parse_reading(
    summary: Mapping[str, Any],
    *,
    bitcoin: bool,
    everything: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    repairs: int = 0,
) -> Reading:
    """`everything`: `getAll`, which has the power; `error`: `getErrorDetail`. None: not asked, or this firmware has none."""
    if summary.get("success") is False:
        down = Condition("miner_down", "its web page cannot ask the miner", "critical")
        return Reading(mining=False, conditions=(down, *_conditions(error)), repairs=repairs)
    devs = rows(summary.get("DEVS"))[:_MOST_PARTS]
    boards = tuple(_board(row, place, bitcoin) for place, row in enumerate(devs))
    rates = [board.hashrate_hs for board in boards if board.hashrate_hs is not None]
    rate = _rate(table(summary.get("TotalHash")), bitcoin)
    rate = (sum(rates) if rates else None) if rate is None else rate
    temps = [board.temp_c for board in boards if board.temp_c is not None]
    power = number(table(everything).get("power"))
    power = power if power is not None and 0 < power < 100_000 else None
    pools = pools_of(rows(summary.get("POOLS"))) if isinstance(summary.get("POOLS"), list) else None
    uptimes = [seconds for row in devs if (seconds := whole(row.get("Device Elapsed"))) is not None]
    reading = Reading(
        mining=None if rate is None else rate > 0,
        hashrate_hs=rate,
        power_w=power,
        power_source=None if power is None else "miner",
        uptime_s=max(uptimes, default=None),
        temp_c=max(temps, default=None),
        accepted=sum_told(whole(row.get("Accepted")) for row in devs),
        rejected=sum_told(whole(row.get("Rejected")) for row in devs),
        hw_errors=sum_told(whole(row.get("Hardware Errors")) for row in devs),
        fan_pct=number(table(summary.get("HARDWARE")).get("Fan duty")) or None,  # 0: none of its boards told it
        boards=boards,
        pools=pools,
        conditions=tuple(_conditions(error)),
        repairs=repairs,
    )
    owed: dict[str, object] = {name: getattr(reading, name) for name in ("hashrate_hs", "uptime_s", "accepted", "pools", "temp_c")}
    owed |= {"boards": boards or None}
    owed |= {f"boards.{board.slot}.hashrate_hs": board.hashrate_hs for board in boards if rate is not None}
    return replace(reading, missing=tuple(name for name, value in owed.items() if value is None))


def _board(row: Mapping[str, Any], place: int, bitcoin: bool) -> BoardReading:
    """The average of its sensors, and not which ones. 0 is none."""
    slot, temp = whole(row.get("ASC", row.get("ID"))), number(row.get("Temperature"))
    return BoardReading(
        slot=place if slot is None else min(slot, 2**15),
        hashrate_hs=_rate(row, bitcoin),
        temp_c=temp if temp is not None and 0 < temp <= 200 else None,
        hw_errors=whole(row.get("Hardware Errors")),
    )


def _rate(row: Mapping[str, Any], bitcoin: bool) -> float | None:
    """By the unit that is stated beside it, by that of its name, or by cgminer's where that is what it says."""
    value, unit = number(row.get("Hash Rate")), words(row.get("Unit"), 16)
    if value is not None and value >= 0 and unit and (scale := unit_hs(unit)) is not None:
        return value * scale
    value = number(row.get("Hash Rate H"))
    if value is not None and value >= 0:
        return value
    return rate_hs(row, ("5s", "1m", "5m", "av")) if bitcoin else None


def _conditions(error: Mapping[str, Any] | None) -> list[Condition]:
    code = words(table(error).get("code"), 32) or str(whole(table(error).get("code")) or "")
    if not code.strip("0"):
        return []
    return [Condition(code, words(table(error).get("errmsg")) or f"error {code}", "warning")]


def parse_pool_orders(told: Mapping[str, Any]) -> tuple[PoolOrder, ...] | None:
    """Of `pools`, with passwords, in the form of newer or of the oldest firmware. None when it does not tell them."""
    found = told.get("pools")
    listed: Sequence[Mapping[str, Any]]
    if isinstance(found, dict):
        listed = [
            {"url": found.get(f"Pool{i}"), "user": found.get(f"UserName{i}"), "pass": found.get(f"Password{i}")} for i in (1, 2, 3)
        ]
    elif isinstance(found, list):
        listed = rows(found)
    else:
        return None
    return tuple(
        PoolOrder(url, words(row.get("user"), 4096), words(row.get("pass"), 4096))
        for row in listed
        if (url := words(row.get("url"), 4096))
    )


def form_of(pools: Sequence[PoolOrder], slots: int) -> dict[str, str]:
    """What `updatePools` takes: all slots, the empty ones too."""
    form: dict[str, str] = {}
    for place in range(slots):
        pool = pools[place] if place < len(pools) else PoolOrder("", "", "")
        form |= {f"Pool{place + 1}": pool.url, f"UserName{place + 1}": pool.user, f"Password{place + 1}": pool.password}
    return form
