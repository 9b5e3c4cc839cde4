"""What Goldshells say under `/mcb/` and on port 4028, from parsed JSON to readings. Pure: no socket, no clock.

Source: foreman's tests (answers of a CK5, an LT5, an HS5), pyasic, bitcap-ipr, the maker's own web page, notes of owners of an
SC-BOX and an SC Lite: documented and reported, not recorded. Rates state no unit: it is that of the algorithm, where a known
device's rates and its nameplate prove one. `time` of a board is not read: the maker's page shows it as minutes, others as seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of
from sentry_asic.makes.iceriver_parse import sum_told

_MOST_PARTS = 16
_TEMP = re.compile(r"(-?\d{1,4}(?:\.\d{1,4})?)\s*[^\s\d/]?\s*C\b")  # "83.0 °C / 73.8 °C"
_RPM = re.compile(r"(\d{1,6})\s*rpm", re.IGNORECASE)
_IDLE = re.compile(r"\s*0\s*MHz\b", re.IGNORECASE)
_UNITS_HS = {"blake2b": 1e6, "blake2bsha3": 1e6, "eaglesong": 1e6, "scrypt": 1e6, "blake2s": 1e6}
"""Of `hashrate`, by the algorithm as the device calls it: "blake2b(SC)"."""
_SERIES = {"hs": "blake2bsha3", "sc": "blake2b", "ck": "eaglesong", "lt": "scrypt", "minidoge": "scrypt", "kd": "blake2s"}
"""For firmware that has no `algosetting`. An HS mines either of two, with the same unit."""
_BOARD_STATES = {
    1: ("inactive", "warning"), 2: ("too hot", "critical"), 3: ("overheated", "critical"), 4: ("not legal", "warning")
}  # fmt: skip
"""Meanings by the maker's page, words our own."""


@dataclass(frozen=True, slots=True)
class Part:
    """One board, of either source. Rates in the unit of the algorithm."""

    slot: int
    rate: float | None = None
    average: float | None = None
    temps: tuple[float, ...] = ()
    fans: tuple[int, ...] = ()
    accepted: int | None = None
    rejected: int | None = None
    hw_errors: int | None = None
    frequency_mhz: float | None = None
    state: int | None = None


@dataclass(frozen=True, slots=True)
class Plans:
    """The power plans of `/mcb/setting`. `idle`: the number of the one that does not hash; None: it has none that we know."""

    selected: int | None = None
    manual: bool = False
    asleep: bool | None = None
    idle: int | None = None
    working: int | None = None


# ---- who is it ---------------------------------------------------------------------------------------------


def is_status(told: Any) -> bool:
    """Whether this is such a device's own answer: any server may have a page of that name."""
    status = table(told)
    return "goldshell" in words(status.get("model")).lower() or all(name in status for name in ("mcbversion", "firmware", "model"))


def parse_seen(status: Mapping[str, Any], setting: Mapping[str, Any], algorithm: str, make: str) -> Seen:
    facts = {}
    for name, told in (
        ("algorithm", algorithm),
        ("hardware", status.get("hardware")),
        ("control_board", status.get("mcbversion")),
    ):
        if text := words(told):
            facts[name] = text
    return Seen(make, model_of_status(status), words(status.get("firmware")), mac_of(setting.get("name")), facts=facts)


def model_of_status(status: Mapping[str, Any]) -> str:
    return re.sub(r"^goldshell[\s_-]*", "", words(status.get("model")), flags=re.IGNORECASE)


def parse_algorithm(told: Any) -> str:
    """The one in use by `/mcb/algosetting`, without its coin; "" when it does not tell."""
    chosen = whole(table(told).get("algo_select"))
    for row in rows(table(told).get("algos")):
        if chosen is not None and whole(row.get("id")) == chosen:
            return words(row.get("name"), 64).partition("(")[0].strip().lower()
    return ""


def unit_of(algorithm: str, model: str) -> float | None:
    """H/s of one unit of its rates; None when nothing proves it."""
    if not algorithm:
        series = re.match(r"minidoge|[a-z]{2}", re.sub(r"[\s_-]", "", model.lower()))
        algorithm = _SERIES.get(series[0], "") if series else ""
    return _UNITS_HS.get(algorithm)


# ---- boards ------------------------------------------------------------------------------------------------


def parts_of_web(told: Any) -> tuple[Part, ...] | None:
    """From `/mcb/cgminer?cgminercmd=devs`. None when it does not tell boards."""
    if not isinstance(table(told).get("data"), list):
        return None
    found = []
    for place, row in enumerate(rows(told["data"])[:_MOST_PARTS]):
        temps = [
            float(degrees)
            for name in ("temp", "l_temp", "m_temp", "r_temp", "t_temp")
            for degrees in _TEMP.findall(words(row.get(name)))
        ]
        found.append(
            Part(
                slot=_slot(row.get("id"), place),
                rate=_rate(row.get("hashrate")),
                average=_rate(row.get("av_hashrate")),
                temps=tuple(temps),
                fans=tuple(int(rpm) for rpm in _RPM.findall(words(row.get("fanspeed")))[:_MOST_PARTS]),
                accepted=whole(row.get("accepted")),
                rejected=whole(row.get("rejected")),
                hw_errors=whole(row.get("hwerrors")),
                state=whole(row.get("minerstatus")),
            )
        )
    return tuple(found)


def parts_of_api(devs: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """From DEVS of port 4028, which has boards where the page answers with an error (SC-BOX)."""
    found = []
    for place, row in enumerate(devs[:_MOST_PARTS]):
        temps = [number(row.get(f"tstemp-{sensor}")) for sensor in range(3)]
        fans = [whole(row.get(f"fan{fan}")) for fan in range(_MOST_PARTS)]
        found.append(
            Part(
                slot=_slot(row.get("ID", row.get("PGA")), place),
                rate=_rate(row.get("MHS 20s")),
                average=_rate(row.get("MHS av")),
                temps=tuple(degrees for degrees in temps if degrees is not None),
                fans=tuple(rpm for rpm in fans if rpm is not None),
                accepted=whole(row.get("Accepted")),
                rejected=whole(row.get("Rejected")),
                hw_errors=whole(row.get("Hardware Errors")),
                frequency_mhz=number(row.get("clock")) or None,
            )
        )
    return tuple(found)


def parse_reading(
    parts: tuple[Part, ...],
    unit: float | None,
    pools: tuple[Pool, ...] | None,
    *,
    uptime_s: int | None = None,
    status: int | None = None,
    plans: Plans | None = None,
    repairs: int = 0,
) -> Reading:
    """`unit`: None when the algorithm is not known, and then no rate is. `plans`: None when they were not asked or not told."""
    rates = [part.rate for part in parts if part.rate is not None]
    averages = [part.average for part in parts if part.average is not None]
    boards = tuple(_board(part, unit) for part in parts)
    temps = [board.temp_c for board in boards if board.temp_c is not None]
    asleep = plans.asleep if plans else None
    mode = (
        None if plans is None or asleep is None else "sleep" if asleep else "manual" if plans.manual else f"plan {plans.selected}"
    )
    reading = Reading(
        mining=False if asleep or status in (0, 1) else sum(rates) > 0 if rates else None,
        asleep=asleep,
        hashrate_hs=sum(rates) * unit if rates and unit else None,
        hashrate_avg_hs=sum(averages) * unit if averages and unit else None,
        uptime_s=uptime_s,
        temp_c=max(temps, default=None),
        accepted=sum_told(part.accepted for part in parts),
        rejected=sum_told(part.rejected for part in parts),
        hw_errors=sum_told(part.hw_errors for part in parts),
        fans_rpm=next((part.fans for part in parts if part.fans), ()),  # the device's, told with each board
        boards=boards,
        pools=pools,
        mode=mode,
        conditions=tuple(_conditions(parts, status)),
        repairs=repairs,
    )
    owed: dict[str, object] = {name: getattr(reading, name) for name in ("hashrate_hs", "uptime_s", "pools")}
    if not asleep:
        owed |= {"boards": boards or None, "fans_rpm": reading.fans_rpm or None, "temp_c": reading.temp_c}
    return replace(reading, missing=tuple(name for name, value in owed.items() if value is None))


def _board(part: Part, unit: float | None) -> BoardReading:
    """What its temperatures are of, it does not say: they count as the board's. 0 and -150 are sensors that did not answer."""
    return BoardReading(
        slot=part.slot,
        hashrate_hs=None if part.rate is None or unit is None else part.rate * unit,
        temp_c=max((degrees for degrees in part.temps if 0 < degrees <= 200), default=None),
        frequency_mhz=part.frequency_mhz,
        hw_errors=part.hw_errors,
    )


def _conditions(parts: Sequence[Part], status: int | None) -> list[Condition]:
    found = []
    if status == 0:
        found.append(Condition("status:0", "none of its boards is connected", "critical"))
    elif status == 1:
        found.append(Condition("status:1", "its fans fail", "critical"))
    for part in parts:
        if part.state and part.state in _BOARD_STATES:
            text, severity = _BOARD_STATES[part.state]
            found.append(Condition(f"minerstatus:{part.state}:board:{part.slot}", f"board {part.slot} is {text}", severity))
    return found


# ---- pools and settings ------------------------------------------------------------------------------------


def parse_pools(told: Any) -> tuple[Pool, ...] | None:
    """None when it does not tell them. Which one it works with is told, not whether the others would answer."""
    if not isinstance(told, list):
        return None
    found = []
    for place, row in enumerate(_ranked(told)):
        active = row.get("active")
        active = active if isinstance(active, bool) else None
        found.append(
            Pool(words(row.get("url")), words(row.get("user")), "alive" if active else None, priority=place, active=active)
        )
    return tuple(found)


def parse_pool_orders(told: Any) -> tuple[PoolOrder, ...] | None:
    if not isinstance(told, list):
        return None
    return tuple(
        PoolOrder(words(row.get("url"), 4096), words(row.get("user"), 4096), words(row.get("pass"), 4096)) for row in _ranked(told)
    )


def document_of(pools: Sequence[PoolOrder]) -> list[dict[str, object]]:
    """What `PUT /mcb/pools` takes (foreman): the whole list."""
    return [
        {"url": pool.url, "legal": True, "active": False, "dragid": place, "user": pool.user, "pool-priority": place}
        | {"pass": pool.password}
        for place, pool in enumerate(pools)
    ]


def parse_plans(setting: Mapping[str, Any]) -> Plans | None:
    """None when it does not tell them. Models with two algorithms have a list of plans for each."""
    plans = rows(setting.get("powerplans"))
    if any("mode" in plan for plan in plans):
        name = words(setting.get("algoname"))
        plans = next((rows(plan.get("mode")) for plan in plans if name and words(plan.get("algo")) == name), [])
    told = {level: words(plan.get("info")) for plan in plans if (level := whole(plan.get("level"))) is not None}
    selected, manual = whole(setting.get("select")), setting.get("manual") is True
    if not told or selected is None:
        return None
    now = words(setting.get("manualPowerplan")) if manual else told.get(selected, "")
    idle = [level for level, info in told.items() if _IDLE.match(info)]
    working = [level for level, info in told.items() if info and not _IDLE.match(info)]
    asleep = bool(_IDLE.match(now)) if now else None
    return Plans(selected, manual, asleep, min(idle, default=None), min(working, default=None))


def _ranked(told: Sequence[Any]) -> list[Mapping[str, Any]]:
    found = [row for row in rows(list(told))[:_MOST_PARTS] if words(row.get("url"))]
    return sorted(found, key=lambda row: min(whole(row.get("pool-priority")) or 0, 2**31))


def _slot(told: object, place: int) -> int:
    slot = whole(told)
    return place if slot is None else min(slot, 2**15)


def _rate(value: object) -> float | None:
    found = number(value)
    return found if found is not None and found >= 0 else None
