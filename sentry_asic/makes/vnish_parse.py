"""What VNish (AnthillOS) says over its REST API, from parsed JSON to readings. Pure: no socket, no clock.

Source: recorded answers of an S21 Pro with 1.2.7; a public page on the API of 1.2.6; asic-rs (states, pools). Rates are in
the unit that `/info` states as `hr_measure`, W and °C elsewhere; 0 is a temperature or a power that was not measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Fan, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, model_name
from sentry_asic.models import model_of, unit_hs

SLOTS = 3
MINING = frozenset({"mining", "auto-tuning", "auto_tuning", "tuning"})
ASLEEP = frozenset({"stopped", "paused", "sleeping"})
_BOOTING = frozenset({"initializing", "starting", "restarting"})
_FAILED = frozenset({"failure", "failed", "broken", "error"})
_STATES = {"active": ("alive", True), "working": ("alive", False), "offline": ("dead", False), "dead": ("dead", False)}
"""Of a pool, and whether it is the one in use: "working" had no share in the recording while "active" had them all."""
_UPTIME = re.compile(r"(?:(\d{1,5})\s*days?,?\s*)?(?:(\d{1,2}):(\d{2}))?")


@dataclass(frozen=True, slots=True)
class Answers:
    """None: failed to ask, or not asked in this look."""

    summary: Any
    info: Any = None
    perf: Any = None
    elapsed_s: int | None = None  # of the mining program, by port 4028
    failed: tuple[str, ...] = ()
    repairs: int = 0


def is_vnish(info: Any) -> bool:
    return "vnish" in words(table(info).get("fw_name")).lower() or "anthill" in words(table(info).get("fw_name")).lower()


def parse_seen(info: Mapping[str, Any], make: str) -> Seen:
    network = table(table(info.get("system")).get("network_status"))
    model = model_name(words(info.get("miner")) or words(info.get("model")))
    row = model_of(model)
    facts = {}
    for name, told in (
        ("hostname", network.get("hostname")),
        ("ipaddress", network.get("ip")),
        ("platform", info.get("platform")),
        ("build", info.get("build_name")),
        ("compiled", info.get("build_time")),
    ):
        if text := words(told):
            facts[name] = text
    if row:
        facts["algorithm"] = row.algorithm
    serial = words(info.get("serial"))
    firmware = words(info.get("fw_version"))
    return Seen(make, model, firmware, mac_of(network.get("mac")), "" if serial == "N/A" else serial, facts)


def parse_reading(told: Answers, refused: str = "") -> Reading:
    """`refused`: the password was, so that it can be watched and not commanded."""
    miner = table(table(told.summary).get("miner"))
    state = words(table(miner.get("miner_status")).get("miner_state")).lower()
    scale = _scale(table(told.info))
    rate = _rate(miner.get("hr_realtime"), scale)
    asleep = state in ASLEEP if state else None
    boards = parse_boards(miner, table(told.info), scale)
    pools = parse_pools(miner.get("pools"))
    power = _positive(miner.get("power_consumption", miner.get("power_usage")))
    fans = [whole(row.get("rpm")) for row in rows(table(miner.get("cooling")).get("fans"))]
    reading = Reading(
        mining=_mines(state, rate),
        asleep=asleep,
        booting=state in _BOOTING,
        hashrate_hs=rate,
        hashrate_avg_hs=_rate(miner.get("hr_average"), scale),
        expected_hashrate_hs=_rate(miner.get("hr_nominal"), scale) or None,
        power_w=power,
        power_source=None if power is None else "miner",
        uptime_s=told.elapsed_s,
        system_uptime_s=_uptime(table(table(told.info).get("system")).get("uptime")),
        temp_c=_highest(miner.get("pcb_temp")),
        chip_temp_c=_highest(miner.get("chip_temp")),
        accepted=_sum(pools, "accepted"),
        rejected=_sum(pools, "rejected"),
        stale=_sum(pools, "stale"),
        hw_errors=whole(miner.get("hw_errors")),
        fans_rpm=tuple(rpm for rpm in fans if rpm is not None),
        fan_pct=number(table(miner.get("cooling")).get("fan_duty")),
        boards=boards,
        pools=pools,
        mode=words(table(table(told.perf).get("current_preset")).get("name"), 64) or None,
        conditions=(*_conditions(miner, state), *([Condition("wrong_password", refused, "warning")] if refused else [])),
        repairs=told.repairs,
    )
    return _with_missing(reading, told, state)


def _mines(state: str, rate: float | None) -> bool | None:
    """Its word counts; a word that we do not know leaves the rate to tell."""
    if state in ASLEEP or state in _BOOTING or state in _FAILED:
        return False
    return None if rate is None else rate > 0


def parse_boards(miner: Mapping[str, Any], info: Mapping[str, Any], scale: float | None) -> tuple[BoardReading, ...]:
    model = model_of(words(info.get("miner")) or re.sub(r"\s*\(.*", "", words(miner.get("miner_type"))))
    found = []
    for place, row in enumerate(rows(miner.get("chains"))):
        slot = whole(row.get("id"))
        counts = [whole(count) for count in table(row.get("chip_statuses")).values()]
        found.append(
            BoardReading(
                slot=place if slot is None else slot,
                hashrate_hs=_rate(row.get("hashrate_rt"), scale),
                temp_c=_highest(row.get("pcb_temp")),
                chip_temp_c=_highest(row.get("chip_temp")),
                chips=sum(filter(None, counts)) if counts and None not in counts else None,  # by colour, each once
                chips_expected=model.chips if model else None,
                frequency_mhz=_positive(row.get("frequency")),
                hw_errors=whole(row.get("hw_errors")),
            )
        )
    return tuple(found)


def parse_pools(told: Any) -> tuple[Pool, ...] | None:
    """Those of the owner: the maker's own for its fee is not configured by anybody, and left out."""
    if not isinstance(told, list):
        return None
    found: list[Pool] = []
    for row in rows(told):
        if not (url := words(row.get("url"))) or words(row.get("pool_type")) == "DevFee":
            continue
        stated = words(row.get("status")).lower()
        state, active = _STATES.get(stated, (stated or None, None))
        found.append(
            Pool(
                url=url,
                user=words(row.get("user")),
                state=state,
                accepted=whole(row.get("accepted")),
                rejected=whole(row.get("rejected")),
                stale=whole(row.get("stale")),
                priority=len(found),
                active=active,
            )
        )
    return tuple(found)


def parse_pool_orders(settings: Any) -> tuple[PoolOrder, ...] | None:
    """The configured pools with their passwords. None when the settings make no sense."""
    told = table(table(settings).get("miner")).get("pools")
    if not isinstance(told, list) or not all(_is_pool(row) for row in told):
        return None
    held = ([words(row.get(name), 4096) for name in ("url", "user", "pass")] for row in told)
    return tuple(PoolOrder(url, user, password) for url, user, password in held if url)


def settings_for(settings: Mapping[str, Any], wanted: Sequence[PoolOrder]) -> dict[str, Any]:
    """The whole document as it was read, with exactly these pools in its slots."""
    slots = [{"url": pool.url, "user": pool.user, "pass": pool.password} for pool in wanted]
    slots += [{"url": "", "user": "", "pass": ""} for _ in range(SLOTS - len(slots))]
    return with_part(settings, "pools", slots)


def with_part(settings: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """The whole document as it was read, with another part of what is the miner's: whether firmware keeps what a write leaves
    out is not known of all versions."""
    return {**settings, "miner": {**table(settings.get("miner")), name: value}}


def preset_of(settings: Mapping[str, Any]) -> str | None:
    return words(table(table(settings.get("miner")).get("overclock")).get("preset"), 64) or None


def presets_of(told: Any, settings: Mapping[str, Any]) -> list[str]:
    """The names of those that its power supply is fit for. "disabled" is none: then the stored voltage and frequencies count."""
    modded = table(table(settings.get("miner")).get("overclock")).get("modded_psu") is True
    fit = (row for row in rows(told) if modded or row.get("modded_psu_required") is not True)
    return [name for row in fit if (name := words(row.get("name"), 64)) and name != "disabled"]


def cooling_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return table(table(settings.get("miner")).get("cooling"))


def fan_of(settings: Mapping[str, Any]) -> Fan | None:
    """None for other ways of cooling than by its fans, such as immersion."""
    mode = table(cooling_of(settings).get("mode"))
    percent = whole(mode.get("param"))
    name = words(mode.get("name")).lower()
    return Fan(None) if name == "auto" else Fan(percent) if name == "manual" and percent is not None else None


def target_of(settings: Mapping[str, Any]) -> int | None:
    """The temperature in °C that it holds while it decides by itself."""
    mode = table(cooling_of(settings).get("mode"))
    return whole(mode.get("param")) if words(mode.get("name")).lower() == "auto" else None


def least_fan_of(settings: Mapping[str, Any]) -> int | None:
    return whole(table(table(table(settings.get("ui")).get("consts")).get("cooling")).get("min_fan_pwm"))


def _is_pool(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("url", "user"))


def _conditions(miner: Mapping[str, Any], state: str) -> list[Condition]:
    found = []
    status = table(miner.get("miner_status"))
    if state in _FAILED:
        code = whole(status.get("failure_code"))
        text = words(status.get("description")) or "it reports a failure without words"
        found.append(Condition(f"failure:{code}" if code else "failure", text, "critical"))
    for place, row in enumerate(rows(miner.get("chains"))):
        said = words(table(row.get("status")).get("state")).lower()
        if said in _FAILED or said == "disconnected":
            slot = whole(row.get("id"))
            text = words(table(row.get("status")).get("description")) or f"hash board {slot} is {said}"
            found.append(Condition(f"chain:{place + 1 if slot is None else slot}", text, "critical"))
    return found


def _with_missing(reading: Reading, told: Answers, state: str) -> Reading:
    """Names of what this firmware gives when it mines, and did not now."""
    gone = [{"info": "info", "perf": "mode"}[name] for name in told.failed]
    if not state:
        gone.append("asleep")
    if reading.pools is None:
        gone.append("pools")
    if state in MINING or not state:
        model = model_of(words(table(told.info).get("miner")))
        owed: dict[str, object] = {
            "hashrate_hs": reading.hashrate_hs,
            "expected_hashrate_hs": reading.expected_hashrate_hs,
            "power_w": reading.power_w,
            "uptime_s": reading.uptime_s,
            "fans_rpm": reading.fans_rpm or (0 if model and model.fans == 0 else None),
            "boards": reading.boards or None,
        }
        gone += [name for name, value in owed.items() if value is None]
        for board in reading.boards:
            values = {"hashrate_hs": board.hashrate_hs, "temp_c": board.temp_c, "chip_temp_c": board.chip_temp_c}
            gone += [f"boards.{board.slot}.{name}" for name, value in (values | {"chips": board.chips}).items() if value is None]
    return replace(reading, missing=tuple(gone))


def _scale(info: Mapping[str, Any]) -> float | None:
    """H/s of its numbers: as stated, else as its model means them. None: not known."""
    stated = words(info.get("hr_measure"))
    if stated and (scale := unit_hs(stated)) is not None:  # "N/A" is none
        return scale
    row = model_of(words(info.get("miner")))
    return unit_hs(row.unit) if row else None


def _rate(told: Any, scale: float | None) -> float | None:
    value = number(told)
    return value * scale if value is not None and scale is not None and value >= 0 else None


def _highest(told: Any) -> float | None:
    value = number(table(told).get("max"))
    return value if value and -60 <= value <= 200 else None


def _positive(told: Any) -> float | None:
    value = number(told)
    return value if value is not None and value > 0 else None


def _sum(pools: Sequence[Pool] | None, name: str) -> int | None:
    told = [count for pool in pools or () if (count := getattr(pool, name)) is not None]
    return sum(told) if told else None


def _uptime(told: Any) -> int | None:
    """ "1:55" and "10 days, 18:00" are hours and minutes."""
    found = _UPTIME.fullmatch(words(told, 64))
    if not found or not any(found.groups()):
        return None
    days, hours, minutes = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 3600 + minutes * 60
