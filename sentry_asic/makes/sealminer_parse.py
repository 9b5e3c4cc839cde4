"""What SealMiners say on port 4028, from parsed JSON to readings. Pure: no socket, no clock.

Source: answers of an A2 that asic-rs keeps for its tests, and of a K10Pro in another public monitor: documented, not recorded by
us. `stats` is one flat object: "0 Speed" is the first fan's, "2 Temp 3" the fourth sensor of the third board. Rates are MH/s by
their keys. Whether a board's sensors sit on chips or on the board, it does not say: they count as the board's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of

_MH = 1e6
_MOST_PARTS = 16
_SENSORS = 4
_MOST_CODES = 8
_ASLEEP = re.compile(r"suspend|sleep|stop|standby", re.IGNORECASE)


def is_sealminer(version: Mapping[str, Any]) -> bool:
    """By the name of its mining program in `version`."""
    return any(key.lower() == "bdminer" for key in version)


def parse_seen(version: Mapping[str, Any], stats: Mapping[str, Any], make: str) -> Seen:
    facts = {"algorithm": "sha256"}  # all that this maker builds
    for name, told in (
        ("asic_model", stats.get("ASIC")),
        ("control_board", stats.get("Ctrl Board")),
        ("psu", stats.get("PSU Model")),
        ("ipaddress", stats.get("IP")),
        ("software_version", stats.get("Software Version")),
        ("api", version.get("API")),
    ):
        if text := words(told):
            facts[name] = text
    firmware = words(stats.get("Firmware")) or words(version.get("BDMiner"))
    return Seen(make, words(stats.get("Model")), firmware, mac_of(stats.get("MAC")), words(stats.get("Ctrl Board SN")), facts)


def parse_reading(
    stats: Mapping[str, Any], summary: Mapping[str, Any] | None, pools: tuple[Pool, ...] | None, repairs: int = 0
) -> Reading:
    """`summary` and `pools`: None when they could not be asked."""
    state = words(stats.get("PM State"))
    asleep = None if not state else True if _ASLEEP.search(state) else False if state.lower() == "running" else None
    rate = _first(stats, "MHS(30s)", "MHS(Sample)", "MHS(1m)")
    boards = tuple(_board(stats, slot) for slot in range(_count(stats, "Board Count")))
    temps = [board.temp_c for board in boards if board.temp_c is not None]
    fans = [whole(stats.get(f"{place} Speed")) for place in range(_count(stats, "Fan Count"))]
    power = number(stats.get("PSU Input Power"))
    power = power if power is not None and 0 <= power < 100_000 else None
    volts = number(stats.get("PSU Input Voltage"))
    counts = summary or {}
    reading = Reading(
        mining=False if asleep else None if rate is None else rate > 0,
        asleep=asleep,
        hashrate_hs=rate,
        hashrate_avg_hs=_first(stats, "MHS(Avg)"),
        expected_hashrate_hs=_first(stats, "MHS(Rated)", "MHS(Ideal)") or None,
        power_w=power,
        power_source=None if power is None else "miner",
        voltage_v=volts if volts is not None and 0 < volts < 1000 else None,
        power_limit_w=_positive(stats.get("Power Limit")),
        uptime_s=whole(stats.get("Elapsed")),
        system_uptime_s=whole(stats.get("System Uptime")),
        temp_c=max(temps, default=None),
        accepted=whole(counts.get("Accepted")),
        rejected=whole(counts.get("Rejected")),
        stale=whole(counts.get("Stale")),
        hw_errors=whole(counts.get("Hardware Errors")),
        fans_rpm=tuple(rpm for rpm in fans if rpm is not None),
        boards=boards,
        pools=pools,
        mode="sleep" if asleep else words(stats.get("Mining Mode")).lower() or None,
        conditions=tuple(_conditions(stats, boards)),
        repairs=repairs,
    )
    return _with_missing(reading, stats)


def _board(stats: Mapping[str, Any], slot: int) -> BoardReading:
    """Zero is a sensor that did not answer. A board that is not online is one without chips."""
    sensors = [number(stats.get(f"{slot} Temp {place}")) for place in range(_SENSORS)]
    temps = [degrees for degrees in sensors if degrees is not None and 0 < degrees <= 200]
    there, bad = whole(stats.get(f"{slot} Chip Count")), whole(stats.get(f"{slot} Bad Chip Count")) or 0
    chips = 0 if stats.get(f"{slot} Online") is False else None if there is None else max(0, there - bad)
    return BoardReading(
        slot=slot,
        hashrate_hs=_first(stats, f"{slot} MHS(Sample)"),
        temp_c=max(temps, default=None),
        chips=chips,
        chips_expected=there,
        frequency_mhz=_positive(stats.get(f"{slot} Freq")),
    )


def _conditions(stats: Mapping[str, Any], boards: Sequence[BoardReading]) -> list[Condition]:
    """Its error code stands also on machines that are well (a public monitor saw 602), so alone it is no more than a note."""
    gone = [slot for slot in range(len(boards)) if stats.get(f"{slot} Online") is False]
    found = []
    if gone:
        text = f"{len(boards) - len(gone)} of {len(boards)} hash boards answer"
        found.append(Condition("boards_missing", text, "critical"))
    psu = words(stats.get("PSU Error"), 32)
    if psu and re.sub(r"^0[xX]", "", psu).strip("0"):
        found.append(Condition(f"psu:{psu}", f"its power supply reports {psu}", "warning"))
    bad = whole(stats.get("Bad Chip Count"))
    if bad or (told := words(stats.get("Error Chip"))):
        found.append(Condition("bad_chips", f"{bad} bad chips" if bad else f"bad chips: {told}", "warning"))
    severity = "warning" if found else "info"
    codes = [code for code in re.split(r"[\s,;]+", words(stats.get("Error Code"))) if code.strip("0")]
    return found + [Condition(code, f"error code {code}", severity) for code in dict.fromkeys(codes[:_MOST_CODES])]


def _with_missing(reading: Reading, stats: Mapping[str, Any]) -> Reading:
    """Names of what this firmware gives, and did not. Asleep, boards and their values are not owed."""
    gone = [name for name in ("accepted", "pools") if getattr(reading, name) is None]
    if not reading.asleep:
        owed: dict[str, object] = {name: getattr(reading, name) for name in ("hashrate_hs", "power_w", "uptime_s", "temp_c")}
        owed |= {"boards": reading.boards or None}
        if stats.get("Liquid Cooling") is not True:
            owed["fans_rpm"] = reading.fans_rpm or None
        for board in reading.boards:
            if board.chips == 0:
                continue
            owed |= {f"boards.{board.slot}.{name}": getattr(board, name) for name in ("hashrate_hs", "temp_c", "chips")}
        gone += [name for name, value in owed.items() if value is None]
    return replace(reading, missing=tuple(gone))


# ---- web page ----------------------------------------------------------------------------------------------


def parse_pool_orders(told: Any) -> tuple[PoolOrder, ...] | None:
    """The configured pools of `get_miner_poolconf`, with passwords. None when it does not tell them."""
    if not isinstance(table(told).get("pools"), list):
        return None
    return tuple(
        PoolOrder(url, words(row.get("user"), 4096), words(row.get("pass"), 4096))
        for row in rows(table(told)["pools"])
        if (url := words(row.get("url"), 4096))
    )


def form_of(pools: Sequence[PoolOrder], slots: int) -> dict[str, str]:
    """What `set_miner_poolconf` takes: all slots, the empty ones too."""
    form: dict[str, str] = {}
    for place in range(slots):
        pool = pools[place] if place < len(pools) else PoolOrder("", "", "")
        form |= {f"poolurl{place + 1}": pool.url, f"pooluser{place + 1}": pool.user, f"poolpwd{place + 1}": pool.password}
    return form


def _count(stats: Mapping[str, Any], name: str) -> int:
    return min(whole(stats.get(name)) or 0, _MOST_PARTS)


def _first(row: Mapping[str, Any], *names: str) -> float | None:
    """The first of these rates that is told, in H/s."""
    for name in names:
        value = number(row.get(name))
        if value is not None and value >= 0:
            return value * _MH
    return None


def _positive(value: object) -> float | None:
    found = number(value)
    return found if found is not None and found > 0 else None
