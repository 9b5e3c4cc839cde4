"""What a Hammer, BlackMiner or VolcMiner says, from parsed JSON to readings. Pure: no socket, no clock.

Not believed: "Accepted" of `summary`, which shows the rejected ones ("Accepted": "  6.0000" beside 906 of its pool, foreman-apps),
and `chipTempN`, which reads past the end of its list ("[67.30, 0.00, …, -73364045383872769689863497711616.00]").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from garrison.model import Condition, Pool
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, parse_pools
from sentry_asic.models import unit_hs

_MAX_CHAIN, _MAX_FAN = 16, 8
_FIRST = re.compile(r"\s*\[?\s*(-?\d{1,9}(?:\.\d{1,6})?)")  # "490,fan_num=2,…", "[55, 57]": the script cuts too late
_FAN = re.compile(r"\bfan(\d)=(\d{1,6})\b")
_NOTE = re.compile(rb"(?m)^[ \t]*//[^\n]*\n?")


@dataclass(frozen=True, slots=True)
class Family:
    """`unit` of rates whose key states none, and of `ghs5s` of get_miner_status.cgi, whatever its name says."""

    unit: str
    algorithm: str = ""


FAMILIES = {"hammer": Family("MH", "scrypt"), "volcminer": Family("MH", "scrypt"), "blackminer": Family("GH")}
"""By the first word of the type: "Hammer D10", "Blackminer F1-MINI", "VolcMiner D1". A BlackMiner hashes what it is told to."""

_EXPECTED = {"HAMMER D10": (3, 108, 4)}  # boards, chips a board, fans (pyasic, a D10 with all of them)


def family_of(kind: str) -> str:
    """ "" for a type that is none of these."""
    first = kind.strip().lower().partition(" ")[0]
    return first if first in FAMILIES else ""


def without_notes(body: bytes) -> bytes:
    """Lines of comment that the script of a BlackMiner leaves in its answers (foreman-apps)."""
    return _NOTE.sub(b"", body)


def parse_seen(system: Mapping[str, Any], version: Mapping[str, Any], conf: Mapping[str, Any], make: str) -> Seen:
    """get_system_info.cgi, the row of `version`, get_miner_conf.cgi; empty where it did not answer."""
    kind = words(system.get("minertype")) or words(version.get("Type"))
    family = FAMILIES.get(family_of(kind))
    facts = {"algorithm": family.algorithm} if family and family.algorithm else {}
    for name, value in (
        ("coin", conf.get("coin-type")),
        ("api", version.get("API")),
        ("miner", version.get("Miner") or system.get("bb_hwv")),
        ("hostname", system.get("hostname")),
        ("ipaddress", system.get("ipaddress")),
        ("nettype", system.get("nettype")),
    ):
        if text := words(value):
            facts[name] = text
    firmware = words(system.get("system_filesystem_version")) or words(version.get("CompileTime"))
    return Seen(make, kind, firmware, mac_of(system.get("macaddr")), facts=facts)


# ---- port 4028 ---------------------------------------------------------------------------------------------


def parse_stats(sections: Sequence[Mapping[str, Any]], pools: tuple[Pool, ...] | None, repairs: int = 0) -> Reading:
    """The rows of STATS: a header with the type, and a body. The header alone: it starts."""
    kind = next((words(row.get("Type")) for row in sections if "Type" in row), "")
    row = next((row for row in sections if "Elapsed" in row or "chain_acn1" in row), None)
    if row is None:
        starts = bool(kind)
        return Reading(
            mining=False if starts else None,
            booting=starts,
            pools=pools,
            missing=() if starts else ("hashrate_hs", "uptime_s", "fans_rpm", "boards"),
            repairs=repairs,
        )
    family = FAMILIES.get(family_of(kind))
    unit = next((key[:2] for key in row if key in ("MHS 5s", "GHS 5s")), family.unit if family else "")
    scale = unit_hs(unit) if unit else None
    _, chips, _ = _EXPECTED.get(kind.upper(), (None, None, None))
    boards = [board for i in range(1, _MAX_CHAIN + 1) if (board := _board(row, i, scale, chips))]
    speeds = [whole(row.get(f"fan{i}")) for i in range(1, _MAX_FAN + 1)][: whole(row.get("fan_num")) or _MAX_FAN]
    return _reading(
        kind,
        rate_hs=_rate(row, ("MHS 5s", "GHS 5s"), scale),
        average_hs=_rate(row, ("MHS av", "GHS av"), scale),
        uptime_s=whole(row.get("Elapsed")),
        fans=tuple(rpm for rpm in speeds if rpm is not None),
        boards=boards,
        pools=pools,
        repairs=repairs,
    )


def _board(row: Mapping[str, Any], i: int, scale: float | None, chips_expected: int | None) -> BoardReading | None:
    """Chain `i` under the maker's own number; None where no board answers. The frequency is one for all."""
    chips, rate = whole(row.get(f"chain_acn{i}")), _rate(row, (f"chain_rate{i}",), scale)
    if not chips and not rate:
        return None
    return BoardReading(
        slot=i,
        hashrate_hs=rate,
        temp_c=_degrees(row.get(f"temp{i}")),
        chips=chips,
        chips_expected=chips_expected,
        frequency_mhz=number(row.get("frequency")) or None,
        hw_errors=whole(row.get(f"chain_hw{i}")),
    )


# ---- get_miner_status.cgi ----------------------------------------------------------------------------------


def parse_status(page: Mapping[str, Any], kind: str) -> Reading | None:
    """For firmware whose port 4028 is shut. None when the page makes no sense."""
    summary = table(page.get("summary"))
    if not summary or not isinstance(page.get("devs"), list):
        return None
    family = FAMILIES.get(family_of(kind))
    scale = unit_hs(family.unit) if family else None
    devs = rows(page["devs"])[:_MAX_CHAIN]
    uptime_s = _count(summary.get("elapsed"))
    if not devs and not uptime_s:  # what the script shows when its own question to port 4028 is refused
        down = Condition("miner_down", "its web page answers, its miner does not", "critical")
        missing = ("hashrate_hs", "uptime_s", "fans_rpm", "boards", "pools")
        return Reading(mining=False, conditions=(down,), missing=missing)
    fans = [whole(_count(page.get(f"fan{i}"))) for i in range(1, _MAX_FAN + 1)]
    if not any(fans) and devs:
        fans = [whole(rpm) for _, rpm in sorted(_FAN.findall(words(devs[0].get("freq"), 2048)))]
    return _reading(
        kind,
        rate_hs=_rate(summary, ("ghs5s",), scale),
        average_hs=_rate(summary, ("ghsav",), scale),
        uptime_s=uptime_s,
        fans=tuple(rpm for rpm in fans if rpm),
        boards=[_dev(dev, place, scale) for place, dev in enumerate(devs, start=1)],
        pools=_status_pools(page.get("pools")),
    )


def _dev(dev: Mapping[str, Any], place: int, scale: float | None) -> BoardReading:
    slot = _count(dev.get("index"))
    temps = dev.get("temp")
    return BoardReading(
        slot=place if slot is None else slot,
        hashrate_hs=_rate(dev, ("chain_rate",), scale),
        temp_c=max((d for t in temps[:16] if (d := _degrees(t))), default=None) if isinstance(temps, list) else _degrees(temps),
        chips=_count(dev.get("chain_acn")),
        frequency_mhz=_first(dev.get("freq")) or None,
        hw_errors=_count(dev.get("hw")),
    )


def _status_pools(value: object) -> tuple[Pool, ...] | None:
    if not isinstance(value, list):
        return None
    counts = ("accepted", "rejected", "stale", "priority")
    return parse_pools([{k: _count(v) if k in counts else v for k, v in row.items()} for row in rows(value)])


# ---- both --------------------------------------------------------------------------------------------------


def _reading(
    kind: str,
    *,
    rate_hs: float | None,
    average_hs: float | None,
    uptime_s: int | None,
    fans: tuple[int, ...],
    boards: Sequence[BoardReading],
    pools: tuple[Pool, ...] | None,
    repairs: int = 0,
) -> Reading:
    owed = {"hashrate_hs": rate_hs, "uptime_s": uptime_s, "fans_rpm": fans or None, "boards": boards or None, "pools": pools}
    gone = [name for name, value in owed.items() if value is None]
    gone += [f"boards.{board.slot}.chips" for board in boards if board.chips is None]
    return Reading(
        mining=None if rate_hs is None else rate_hs > 0,
        booting=False,
        hashrate_hs=rate_hs,
        hashrate_avg_hs=average_hs,
        uptime_s=uptime_s,
        temp_c=max((b.temp_c for b in boards if b.temp_c is not None), default=None),
        accepted=_sum(pool.accepted for pool in pools or ()),
        rejected=_sum(pool.rejected for pool in pools or ()),
        stale=_sum(pool.stale for pool in pools or ()),
        hw_errors=_sum(board.hw_errors for board in boards),
        fans_rpm=fans,
        boards=tuple(boards),
        pools=pools,
        conditions=tuple(_shortfalls(kind, boards, fans)),
        missing=tuple(gone),
        repairs=repairs,
    )


def _shortfalls(kind: str, boards: Sequence[BoardReading], fans: Sequence[int]) -> list[Condition]:
    """Boards and fans fewer than the model has. Codes and words are ours: the device only leaves them out."""
    expected, _, fans_expected = _EXPECTED.get(kind.upper(), (None, None, None))
    found, alive, turning = [], sum(1 for board in boards if board.chips), sum(1 for rpm in fans if rpm)
    if expected and alive < expected:
        found.append(Condition("boards_missing", f"{alive} of {expected} hash boards answer", "critical"))
    if fans_expected and fans and turning < fans_expected:
        found.append(Condition("fans_missing", f"{turning} of {fans_expected} fans turn", "critical"))
    return found


def _rate(row: Mapping[str, Any], names: Iterable[str], scale: float | None) -> float | None:
    for name in names:
        value = number(_bare(row.get(name)))
        if value is not None and scale is not None and value >= 0:
            return value * scale
    return None


def _bare(value: object) -> object:
    """ "18,500.5" is 18500.5."""
    return value.replace(",", "") if isinstance(value, str) and len(value) < 32 else value


def _count(value: object) -> int | None:
    return whole(_bare(value))


def _first(value: object) -> float | None:
    found = _FIRST.match(value) if isinstance(value, str) else None
    return number(found[1] if found else value)


def _degrees(value: object) -> float | None:
    told = _first(value)
    return told if told and -60 <= told <= 200 else None


def _sum(counts: Iterable[int | None]) -> int | None:
    told = [count for count in counts if count is not None]
    return sum(told) if told else None
