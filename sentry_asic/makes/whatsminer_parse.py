"""What Whatsminers say, from parsed JSON to readings. Pure: no socket, no clock.

V1 and V2 (port 4028) state MH/s in "MHS" and "HS RT" and GH/s in "Factory GHS"; V3 (port 4433) states TH/s throughout.
Source: recorded answers of an M30, the maker's API documents 2.0.5 and 3.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.model import Condition, Pool
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading
from sentry_asic.models import UNITS_HS

_GROUPS: dict[str, tuple[str, str]] = {
    "1": ("fan", "critical"),
    "2": ("power supply", "critical"),
    "3": ("temperature", "critical"),
    "4": ("EEPROM", "warning"),
    "5": ("hash board", "critical"),
    "6": ("surroundings", "warning"),
    "7": ("control board", "critical"),
    "8": ("checksum", "warning"),
    "20": ("pool", "warning"),
    "23": ("hashrate", "warning"),
    "50": ("water or voltage", "critical"),
    "51": ("frequency", "warning"),
}
"""What an error is about, and our severity. Three digits: by the first; more: by the first two, the rest names slot and chip."""
_NO_LIMIT_W = 100_000  # firmware says 2^31-1 for "none"
_MAX_ERRORS = 32


def of_v2(
    summary: Mapping[str, Any],
    devs: Sequence[Mapping[str, Any]] | None,
    pools: tuple[Pool, ...] | None,
    repairs: int = 0,
) -> Reading:
    """A look over port 4028. `devs` and `pools` None: could not be asked."""
    mh, gh = UNITS_HS["MH"], UNITS_HS["GH"]
    rate = _first(summary, ("HS RT", "MHS 5s", "MHS 1m"), mh)
    power = _first(summary, ("Power_RT", "Power"))
    fans = [whole(summary.get(name)) for name in ("Fan Speed In", "Fan Speed Out")]
    return _checked(
        Reading(
            mining=None if rate is None else rate > 0,
            asleep=False,
            hashrate_hs=rate,
            hashrate_avg_hs=_first(summary, ("MHS av",), mh),
            expected_hashrate_hs=_first(summary, ("Factory GHS",), gh) or None,
            power_w=power or None,
            power_source="miner" if power else None,
            power_limit_w=limit_of(summary.get("Power Limit")),
            uptime_s=whole(summary.get("Elapsed")),
            system_uptime_s=whole(summary.get("Uptime")),
            temp_c=_degrees(summary.get("Temperature")),
            chip_temp_c=_degrees(summary.get("Chip Temp Max")),
            inlet_temp_c=_degrees(summary.get("Env Temp")),
            accepted=whole(summary.get("Accepted")),
            rejected=whole(summary.get("Rejected")),
            stale=_sum(pool.stale for pool in pools or ()),
            hw_errors=whole(summary.get("Hardware Errors")),
            fans_rpm=tuple(rpm for rpm in fans if rpm is not None),
            boards=tuple(_board_v2(row, place) for place, row in enumerate(devs or ())),
            pools=pools,
            mode=words(summary.get("Power Mode"), 32).lower() or None,
            conditions=summary_errors(summary) or (),
            repairs=repairs,
        ),
        liquid=summary.get("Liquid Cooling") is True,
    )


def _board_v2(row: Mapping[str, Any], place: int) -> BoardReading:
    slot = next((n for name in ("Slot", "ASC") if (n := whole(row.get(name))) is not None), place)
    return BoardReading(
        slot=slot,
        hashrate_hs=_first(row, ("MHS 1m", "MHS 5s", "MHS av"), UNITS_HS["MH"]),
        temp_c=_degrees(row.get("Temperature")),
        chip_temp_c=_degrees(row.get("Chip Temp Max")),
        chips=whole(row.get("Effective Chips")),
        frequency_mhz=number(row.get("Chip Frequency")) or None,
        hw_errors=whole(row.get("Hardware Errors")),
    )


def of_v3(status: Mapping[str, Any]) -> Reading:
    """A look over port 4433: `msg` of get.miner.status with summary, pools and edevs. V3 tells no shares."""
    summary, th = table(status.get("summary")), UNITS_HS["TH"]
    rate = _first(summary, ("hash-realtime", "hash-1min"), th)
    power = _first(summary, ("power-realtime", "power-5min"))
    fans = [whole(summary.get(name)) for name in ("fan-speed-in", "fan-speed-out")]
    temps = summary.get("board-temperature")
    board_temps = [_degrees(told) for told in temps] if isinstance(temps, list) else []
    return _checked(
        Reading(
            mining=None if rate is None else rate > 0,
            asleep=False,
            hashrate_hs=rate,
            hashrate_avg_hs=_first(summary, ("hash-average",), th),
            expected_hashrate_hs=_first(summary, ("factory-hash",), th) or None,
            power_w=power or None,
            power_source="miner" if power else None,
            power_limit_w=limit_of(summary.get("power-limit")),
            uptime_s=whole(summary.get("elapsed")),
            system_uptime_s=whole(summary.get("bootup-time")),
            temp_c=max((told for told in board_temps if told is not None), default=None),
            chip_temp_c=_degrees(summary.get("chip-temp-max")),
            inlet_temp_c=_degrees(summary.get("environment-temperature")),
            fans_rpm=tuple(rpm for rpm in fans if rpm is not None),
            boards=tuple(_board_v3(row, place, board_temps) for place, row in enumerate(rows(status.get("edevs")))),
            pools=_pools_v3(rows(status.get("pools"))) if isinstance(status.get("pools"), list) else None,
        )
    )


def _board_v3(row: Mapping[str, Any], place: int, temps: Sequence[float | None]) -> BoardReading:
    slot = whole(row.get("slot"))
    slot = place if slot is None else slot
    return BoardReading(
        slot=slot,
        hashrate_hs=_first(row, ("hash-average",), UNITS_HS["TH"]),
        temp_c=temps[slot] if slot < len(temps) else None,
        chip_temp_c=_degrees(row.get("chip-temp-max")),
        chips=whole(row.get("effective-chips")),
        frequency_mhz=number(row.get("freq")) or None,
    )


def _pools_v3(sections: Sequence[Mapping[str, Any]]) -> tuple[Pool, ...]:
    found = []
    for place, row in enumerate(sections):
        if not (url := words(row.get("url"))):
            continue
        active = row.get("stratum-active")
        state = words(row.get("status"), 32).lower() or None
        found.append(
            Pool(url, words(row.get("account")), state, priority=place, active=active if isinstance(active, bool) else None)
        )
    return tuple(found)


# ---- errors ------------------------------------------------------------------------------------------------


def condition(code: str, reason: str = "") -> Condition:
    """The maker's code, its reason where it gives one, our severity."""
    kind, severity = _GROUPS.get(code[0] if len(code) == 3 else code[:2], ("unknown", "warning"))
    return Condition(code, reason or f"the device reports error {code} ({kind})", severity)


def summary_errors(summary: Mapping[str, Any]) -> tuple[Condition, ...] | None:
    """ "Error Code 0": 110 and so on, in the summary of V1 and of some V2. None: this firmware tells them elsewhere."""
    count = whole(summary.get("Error Code Count"))
    if count is None:
        return None
    told = (whole(summary.get(f"Error Code {place}")) for place in range(min(count, _MAX_ERRORS)))
    return tuple(condition(str(code)) for code in told if code)


def listed_errors(told: object) -> tuple[Condition, ...]:
    """`error_code` of V2 and `error-code` of V3: a list of codes, or of {code: since when, "reason": …}."""
    found: list[Condition] = []
    for entry in told if isinstance(told, list) else []:
        given: Mapping[Any, Any] = entry if isinstance(entry, dict) else {str(entry): ""}
        reason = words(given.get("reason"))
        found += [condition(code, reason) for code in map(str, given) if code.isdecimal() and len(code) < 12 and int(code)]
    return tuple(found[:_MAX_ERRORS])


# ---- parts -------------------------------------------------------------------------------------------------


def firmware_of(told: object) -> str:
    """ "'20210322.22.REL'" is "20210322.22.REL": some firmware puts quotes around it."""
    return words(told).strip("'")


def is_modern(firmware: str) -> bool:
    """Firmware from November 2024 takes orders over V3 only (reported for V2 writes)."""
    date = firmware[:6]
    return date.isdecimal() and date >= "202411"


def is_yes(told: object) -> bool | None:
    """Firmware writes true and "true"."""
    return told if isinstance(told, bool) else {"true": True, "false": False}.get(words(told).lower())


def _checked(reading: Reading, *, liquid: bool = False) -> Reading:
    """With the names of what this make gives while it mines, and did not now."""
    owed: dict[str, object] = {
        "hashrate_hs": reading.hashrate_hs,
        "uptime_s": reading.uptime_s,
        "power_w": reading.power_w if reading.mining else 0.0,
        "fans_rpm": reading.fans_rpm or (0 if liquid else None),
        "boards": reading.boards or None,
        "pools": reading.pools,
    }
    gone = [name for name, value in owed.items() if value is None]
    for board in reading.boards:
        told = {"hashrate_hs": board.hashrate_hs, "temp_c": board.temp_c, "chip_temp_c": board.chip_temp_c, "chips": board.chips}
        gone += [f"boards.{board.slot}.{name}" for name, value in told.items() if value is None and reading.mining]
    return replace(reading, missing=tuple(gone))


def _first(row: Mapping[str, Any], names: Iterable[str], unit: float = 1.0) -> float | None:
    for name in names:
        value = number(row.get(name))
        if value is not None and value >= 0:
            return value * unit
    return None


def _degrees(told: object) -> float | None:
    """0 is a sensor that was not read."""
    value = number(told)
    return value if value and -60 <= value <= 200 else None


def limit_of(told: object) -> float | None:
    value = number(told)
    return value if value and 0 < value < _NO_LIMIT_W else None


def _sum(counts: Iterable[int | None]) -> int | None:
    told = [count for count in counts if count is not None]
    return sum(told) if told else None
