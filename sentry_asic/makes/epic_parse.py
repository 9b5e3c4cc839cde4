"""What ePIC's PowerPlay firmware says, from parsed JSON to readings. Pure: no socket, no clock.

Source: recorded answers of an S19 XP with PowerPlay-BMS 1.5.13; the maker's page on its API (epic-dashboard). A board's
`Hashrate` is three numbers: MH/s (they add up to "Average MHs"), percent of what its clock should give, and its errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, model_name
from sentry_asic.models import unit_hs
from sentry_asic.order_rules import same_address

SLOTS = 3
_MH = 1e6
_MOST_PARTS = 16
_FAN = re.compile(r"Fans Speed (\d{1,2})")
_STARTS = re.compile(r"init|start|boot|calibrat|warm|ramp", re.IGNORECASE)
_OURS = ("Performance Estimator", "Psu Info", "Max HBs", "Presets", "Tune Presets", "Coins")


def is_capabilities(told: Mapping[str, Any]) -> bool:
    return bool(words(told.get("Model"))) and any(name in told for name in _OURS)


def is_summary(told: Mapping[str, Any]) -> bool:
    return bool(words(told.get("Software"))) and "Operating State" in table(told.get("Status"))


def parse_seen(told: Mapping[str, Any], summary: Mapping[str, Any], network: Mapping[str, Any], make: str) -> Seen:
    """`told` is `capabilities`. `network` has one part, named for how the address was got."""
    board = table(told.get("Control Board Version"))
    facts = {
        "algorithm": words(table(summary.get("Mining")).get("Algorithm")).lower().replace("-", ""),
        "asic_model": words(told.get("Chip Type")),
        "board_version": words(told.get("Model Subtype")),
        "control_board": words(board.get("cpuHardware")),
        "hostname": words(summary.get("Hostname")),
    }
    return Seen(
        make=make,
        model=model_name(words(told.get("Model"))),
        firmware=words(summary.get("Software")),
        mac=next((mac for part in network.values() if (mac := mac_of(table(part).get("mac_address")))), ""),
        serial=words(board.get("cpuSerial")),
        facts={name: text for name, text in facts.items() if text},
    )


def parse_reading(told: Mapping[str, Any], capabilities: Mapping[str, Any], repairs: int = 0) -> Reading:
    """`told` is `summary`. `capabilities`: empty when it could not be asked."""
    status, session = table(told.get("Status")), table(told.get("Session"))
    state = words(status.get("Operating State"))
    asleep = None if not state else state.lower().startswith("idl")
    booting = bool(_STARTS.search(state))
    boards = _boards(told, capabilities)
    rates = [board.hashrate_hs for board in boards if board.hashrate_hs is not None]
    rate = sum(rates) if rates else None
    power, volts = (_positive(table(told.get("Power Supply Stats")).get(f"Input {name}")) for name in ("Power", "Voltage"))
    hot = max((board.temp_c for board in boards if board.temp_c is not None), default=None)
    chip_hot = max((board.chip_temp_c for board in boards if board.chip_temp_c is not None), default=None)
    fans = _fans(told)
    reading = Reading(
        mining=False if asleep or booting else None if rate is None else rate > 0,
        asleep=asleep,
        booting=booting and not asleep,
        hashrate_hs=rate,
        hashrate_avg_hs=_scaled(session.get("Average MHs"), _MH),
        expected_hashrate_hs=_expected(told),
        power_w=power,
        power_source=None if power is None else "miner",
        voltage_v=volts if volts is not None and volts < 1000 else None,
        uptime_s=whole(session.get("Uptime")),
        temp_c=hot,
        chip_temp_c=chip_hot,
        accepted=whole(session.get("Accepted")),
        rejected=whole(session.get("Rejected")),
        fans_rpm=fans,
        fan_pct=number(table(told.get("Fans")).get("Fans Speed")),
        boards=boards,
        pools=parse_pools(told),
        mode=_mode(told, state),
        conditions=tuple(_conditions(told, fans, capabilities, asleep=bool(asleep), booting=booting)),
        repairs=repairs,
    )
    return _with_missing(reading, told)


def _boards(told: Mapping[str, Any], capabilities: Mapping[str, Any]) -> tuple[BoardReading, ...]:
    """Those that work, and those that are known and do not. What the one sensor of a board sits on, the model says."""
    on_chip = words(table(capabilities.get("Temp Sensor Info")).get("Type")).lower() == "chip"
    chips = whole(table(capabilities.get("Performance Estimator")).get("Chip Count")) or None
    found = {}
    for row in rows(told.get("HBStatus"))[:_MOST_PARTS]:
        if (slot := whole(row.get("Index"))) is not None and slot < _MOST_PARTS:
            found[slot] = BoardReading(slot=slot, chips=0 if row.get("Detected") is False else None, chips_expected=chips)
    for row in rows(told.get("HBs"))[:_MOST_PARTS]:
        if (slot := whole(row.get("Index"))) is None or slot >= _MOST_PARTS:
            continue
        degrees = number(row.get("Temperature"))
        degrees = degrees if degrees is not None and 0 < degrees <= 200 else None
        found[slot] = BoardReading(
            slot=slot,
            hashrate_hs=_scaled(_part(row, 0), _MH),
            temp_c=None if on_chip else degrees,
            chip_temp_c=degrees if on_chip else None,
            chips_expected=chips,
            frequency_mhz=_positive(row.get("Core Clock Avg")),
        )
    return tuple(found[slot] for slot in sorted(found))


def _part(row: Mapping[str, Any], place: int) -> object:
    rate = row.get("Hashrate")
    return rate[place] if isinstance(rate, list) and len(rate) > place else None


def _expected(told: Mapping[str, Any]) -> float | None:
    """By what its boards say to be percent of; else what its tuner aims at, in the unit that it states."""
    parts = [(_scaled(_part(row, 0), _MH), _positive(_part(row, 1))) for row in rows(told.get("HBs"))]
    full = [rate * 100 / percent for rate, percent in parts if rate and percent]
    if full and len(full) == len(parts):
        return sum(full)
    aim = _algorithm(told)
    scale = unit_hs(words(aim.get("Unit")))
    return None if scale is None else _scaled(aim.get("Throttle Target") or aim.get("Target"), scale) or None


def _algorithm(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the tuner works by, while it does: `{"VoltageOptimizer": {"Target": 143, "Unit": "TH/s"}}`."""
    tune = table(told.get("PerpetualTune"))
    found = [table(aim) for aim in table(tune.get("Algorithm")).values()]
    return found[0] if tune.get("Running") is True and found else {}


def _mode(told: Mapping[str, Any], state: str) -> str | None:
    if state.lower().startswith("idl"):
        return "sleep"
    tune = table(told.get("PerpetualTune"))
    names = [words(name, 32) for name in table(tune.get("Algorithm"))]
    if tune.get("Running") is True and names:
        return names[0].lower()
    return "normal" if tune.get("Running") is False else None


def _fans(told: Mapping[str, Any]) -> tuple[int, ...]:
    """By their number. Null where no fan is wired; a fan that stands is 0."""
    found = {}
    for name, speed in table(told.get("Fans Rpm")).items():
        if (place := _FAN.fullmatch(str(name))) and (rpm := whole(speed)) is not None:
            found[int(place[1])] = rpm
    return tuple(found[place] for place in sorted(found))


def _conditions(
    told: Mapping[str, Any], fans: Sequence[int], capabilities: Mapping[str, Any], *, asleep: bool, booting: bool
) -> list[Condition]:
    found = []
    status = rows(told.get("HBStatus"))
    most = max(whole(capabilities.get("Max HBs")) or 0, len(status))
    there = sum(1 for row in status if row.get("Detected") is True)
    if status and there < most and not booting:
        found.append(Condition("boards_missing", f"{there} of {most} hash boards answer", "critical"))
    turning = sum(1 for rpm in fans if rpm)
    if 0 < turning < len(fans) and not asleep and not booting:  # none at all: immersed
        found.append(Condition("fans_missing", f"{turning} of {len(fans)} fans turn", "critical"))
    for row in status:
        if row.get("Detected") is True and row.get("Enabled") is False and (slot := whole(row.get("Index"))) is not None:
            text = f"hash board {slot} is switched off (by somebody, or by the device after it failed)"
            found.append(Condition(f"board_disabled:{slot}", text, "warning"))
    if error := words(table(told.get("Status")).get("Last Error")):
        found.append(Condition("last_error", error, "critical" if asleep else "warning"))
    if licence := words(told.get("Last License Error")):
        found.append(Condition("license", licence, "warning"))
    return found


def _with_missing(reading: Reading, told: Mapping[str, Any]) -> Reading:
    """Names of what this firmware gives, and did not. Asleep and starting, it has no session and no working boards."""
    gone = ["pools"] if reading.pools is None else []
    if not reading.asleep and not reading.booting:
        wired = isinstance(told.get("Fans Rpm"), dict)
        owed: dict[str, object] = {name: getattr(reading, name) for name in ("hashrate_hs", "power_w", "uptime_s", "accepted")}
        owed |= {"boards": reading.boards or None, "fans_rpm": reading.fans_rpm if wired else None}
        working = {whole(row.get("Index")) for row in rows(told.get("HBs"))}
        for board in reading.boards:
            if board.slot in working:
                owed[f"boards.{board.slot}.hashrate_hs"] = board.hashrate_hs
                owed[f"boards.{board.slot}.temp_c"] = board.temp_c if board.chip_temp_c is None else board.chip_temp_c
        gone += [name for name, value in owed.items() if value is None]
    return replace(reading, missing=tuple(gone))


# ---- pools -------------------------------------------------------------------------------------------------


def parse_pools(told: Mapping[str, Any]) -> tuple[Pool, ...] | None:
    """The configured pools, the one in use marked. A pool in use that is none of them (a shared hashrate) is told after them.

    Shares are counted for the device, not for a pool; who works for a pool that wants unique names has something appended.
    """
    orders = parse_pool_orders(told)
    if orders is None:
        return None
    stratum = table(told.get("Stratum"))
    current, place, connected = words(stratum.get("Current Pool")), whole(stratum.get("Config Id")), stratum.get("IsPoolConnected")
    state = None if not isinstance(connected, bool) else "alive" if connected else "dead"
    known = (
        place is not None and place < len(orders) and same_address(current or orders[place].url) == same_address(orders[place].url)
    )
    tells = known or bool(current)
    found = []
    for at, order in enumerate(orders):
        here = known and at == place
        found.append(Pool(order.url, order.user, state if here else None, priority=at, active=here if tells else None))
    if current and not known:
        found.append(Pool(current, words(stratum.get("Current User")), state, priority=len(found), active=True))
    return tuple(found)


def parse_pool_orders(told: Mapping[str, Any]) -> tuple[PoolOrder, ...] | None:
    """The configured pools with their passwords. None when it does not tell them, or not so that they can be gone back to."""
    held = told.get("StratumConfigs")
    if not isinstance(held, list) or any(not isinstance(table(row).get(n), str) for row in held for n in ("pool", "login")):
        return None
    orders = [(words(row.get("pool")), words(row.get("login"), 4096), words(row.get("password"), 4096)) for row in rows(held)]
    return tuple(PoolOrder(*order) for order in orders if order[0])


def coin_for(told: Mapping[str, Any], pools: Sequence[PoolOrder]) -> dict[str, Any] | None:
    """The whole order: these pools, and the coin and the unique names as they are. None when it does not tell those."""
    coin = words(table(told.get("Mining")).get("Coin"), 32)
    unique = table(told.get("Stratum")).get("Worker Unique Id", table(told.get("Misc")).get("Append Unique Id To Worker"))
    if not coin or not isinstance(unique, bool):
        return None
    configs = [{"pool": pool.url, "login": pool.user, "password": pool.password} for pool in pools]
    return {"coin": coin, "stratum_configs": configs, "unique_id": unique}


def _positive(value: object) -> float | None:
    """0 is how this firmware says "not measured"."""
    found = number(value)
    return found if found is not None and 0 < found < 1e6 else None


def _scaled(value: object, scale: float) -> float | None:
    found = number(value)
    return found * scale if found is not None and found >= 0 else None
