"""What stock Antminers say, from parsed JSON to readings. Pure: no socket, no clock.

Shapes of `stats`: (a) [header, body] with chain_acnN, chain_rateN, temp_chipN "40-38-60-58", fanN; (b) one object with
`chain`; (c) an empty list: asleep; (d) the header only: still booting. `parse_stats` knows all four.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from garrison.model import Condition, Pool
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading
from sentry_asic.models import Model, model_of, unit_hs

MODES = {0: "normal", 1: "sleep", 3: "low"}
_MAX_CHAIN, _MAX_FAN = 16, 8
_SEVERITIES = {"fans": "critical", "temp": "critical"}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SENSOR = re.compile(r"(?:^|(?<=-))-?\d+(?:\.\d+)?")  # "40-38--5-58": a minus behind a separator is a sign
_OTHERS = ("vnish", "hiveon", "braiins", "bosminer", "luxos", "luxminer", "marafw", "kaonsu", "asicseer", "hashsource", "epic")
"""Firmware on Antminer hardware that copies its answers, but not its controls."""


@dataclass(frozen=True, slots=True)
class Stats:
    """One look at `stats`. Rates in H/s."""

    model: str = ""
    asleep: bool = False
    booting: bool = False
    modern: bool = False
    """The `chain` shape."""
    hashrate_hs: float | None = None
    hashrate_avg_hs: float | None = None
    expected_hashrate_hs: float | None = None
    uptime_s: int | None = None
    power_w: float | None = None
    fans_rpm: tuple[int, ...] = ()
    boards: tuple[BoardReading, ...] = ()
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """What `version` (or the header of `stats`) tells. `model` is "" when it does not."""

    model: str = ""
    firmware: str = ""
    stock: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)


def parse_version(row: Mapping[str, Any]) -> Version:
    """`stock` only for the maker's own firmware: others copy the type and the web realm."""
    kind = words(row.get("Type"))
    everything = " ".join(f"{k} {v}" for k, v in row.items() if isinstance(v, str | int | float)).lower()
    stock = kind.lower().startswith("antminer") and not any(name in everything for name in _OTHERS)
    told = {"miner": words(row.get("Miner")), "compiled": words(row.get("CompileTime")), "api": words(row.get("API"))}
    return Version(model_name(kind), told["miner"], stock, {k: v for k, v in told.items() if v})


def model_name(kind: str) -> str:
    """ "Antminer S19 Pro (88)" is the model "S19 Pro": the make stands elsewhere."""
    return re.sub(r"^antminer\s+", "", re.sub(r"\s*\([^)]*\)\s*$", "", kind.strip()), flags=re.IGNORECASE)


def mac_of(value: object) -> str:
    """ "aa:bb:cc:dd:ee:ff"; "" for what is none, and for all zeros or ones."""
    told = words(value).lower().replace("-", ":")
    return told if _MAC.fullmatch(told) and told not in ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff") else ""


# ---- stats -------------------------------------------------------------------------------------------------


def parse_stats(sections: Sequence[Mapping[str, Any]]) -> Stats:
    """The rows of STATS."""
    if not sections:
        return Stats(asleep=True)
    head = next((row for row in sections if "Type" in row), {})
    model = model_name(words(head.get("Type")))
    for row in sections:
        if isinstance(row.get("chain"), list):
            return _modern(row, model)
    bodies = [row for row in sections if any(key in row for key in ("Elapsed", "GHS 5s", "GHS av", "chain_acn1", "fan_num"))]
    return _legacy(bodies[0], model) if bodies else Stats(model=model, booting=True)


def _legacy(row: Mapping[str, Any], model: str) -> Stats:
    known = model_of(model)
    scale = _scale(row, known)
    boards = [board for i in range(1, _MAX_CHAIN + 1) if (board := _legacy_board(row, i, scale, known))]
    return Stats(
        model=model,
        hashrate_hs=_rate(row, ("GHS 5s", "MHS 5s", "total_rate", "total rate"), scale),
        hashrate_avg_hs=_rate(row, ("GHS av", "MHS av", "rate_30m"), scale),
        expected_hashrate_hs=_rate(row, ("total_rateideal", "rate_ideal"), scale) or None,
        uptime_s=whole(row.get("Elapsed")),
        power_w=_power(row),
        fans_rpm=_fans([whole(row.get(f"fan{i}")) for i in range(1, _MAX_FAN + 1)], whole(row.get("fan_num"))),
        boards=tuple(boards),
        mode=_mode(row),
    )


def _scale(row: Mapping[str, Any], known: Model | None) -> float | None:
    """H/s of the numbers in this answer: as stated, else as the model means it, else as the keys say. None: not known."""
    if stated := words(row.get("rate_unit")):
        return unit_hs(stated)
    if known:
        return unit_hs(known.unit)
    if any(key.startswith("MHS") for key in row):
        return unit_hs("MH")
    return unit_hs("GH") if any(key.startswith("GHS") for key in row) else None


def _rate(row: Mapping[str, Any], names: Iterable[str], scale: float | None) -> float | None:
    for name in names:
        value = number(row.get(name))
        if value is not None and scale is not None and value >= 0:
            return value * scale
    return None


def _legacy_board(row: Mapping[str, Any], i: int, scale: float | None, known: Model | None) -> BoardReading | None:
    """Chain `i` under the maker's own number, which may begin at 1, 6 or elsewhere. None where no board sits."""
    chips = whole(row.get(f"chain_acn{i}"))
    rate = _rate(row, (f"chain_rate{i}",), scale)
    temp = _hottest(row.get(f"temp_pcb{i}"), row.get(f"temp{i}"))
    if not chips and not rate and temp is None:
        return None
    return BoardReading(
        slot=i,
        hashrate_hs=rate,
        temp_c=temp,
        chip_temp_c=_hottest(row.get(f"temp_chip{i}"), row.get(f"temp2_{i}")),
        chips=chips,
        chips_expected=known.chips if known else None,
        frequency_mhz=number(row.get(f"freq_avg{i}")) or number(row.get(f"freq{i}")) or None,
        hw_errors=whole(row.get(f"chain_hw{i}")),
    )


def _modern(row: Mapping[str, Any], model: str) -> Stats:
    known = model_of(model)
    scale = unit_hs(words(row.get("rate_unit"))) if words(row.get("rate_unit")) else unit_hs(known.unit) if known else None
    chains = rows(row.get("chain"))
    mode = _mode(row)
    rate = _rate(row, ("rate_5s",), scale)
    fans = row.get("fan")
    return Stats(
        model=model,
        asleep=mode == "sleep",
        modern=True,
        hashrate_hs=rate,
        hashrate_avg_hs=_rate(row, ("rate_avg", "rate_30m"), scale),
        expected_hashrate_hs=_rate(row, ("rate_ideal",), scale) or None,
        uptime_s=whole(row.get("elapsed")),
        power_w=_power(row),
        fans_rpm=_fans([whole(fan) for fan in fans], whole(row.get("fan_num"))) if isinstance(fans, list) else (),
        boards=tuple(_modern_board(chain, place, scale, known) for place, chain in enumerate(chains[:_MAX_CHAIN])),
        mode=mode,
    )


def _modern_board(chain: Mapping[str, Any], place: int, scale: float | None, known: Model | None) -> BoardReading:
    slot = whole(chain.get("index"))
    return BoardReading(
        slot=place if slot is None else slot,
        hashrate_hs=_rate(chain, ("rate_real", "hashrate"), scale),
        temp_c=_hottest(chain.get("temp_pcb")),
        chip_temp_c=_hottest(chain.get("temp_chip")),
        chips=whole(chain.get("asic_num")),
        chips_expected=known.chips if known else None,
        frequency_mhz=number(chain.get("freq_avg")) or None,
        hw_errors=whole(chain.get("hw")),
    )


def _mode(row: Mapping[str, Any]) -> str | None:
    code = whole(row.get("miner-mode", row.get("miner_mode")))
    return None if code is None else MODES.get(code, f"mode {code}")


def _power(row: Mapping[str, Any]) -> float | None:
    """Only where this firmware states it ("watt", "chain_power": "3250 W"); 0 is how others say "not measured"."""
    for name in ("watt", "wattage", "power", "chain_power"):
        value = row.get(name)
        watts = number(re.sub(r"\s*W(atts?)?$", "", value, flags=re.IGNORECASE) if isinstance(value, str) else value)
        if watts is not None and 0 < watts < 100_000:
            return watts
    return None


def _fans(speeds: Sequence[int | None], told: int | None) -> tuple[int, ...]:
    """The fans that are there: the first `told` when all that turn are among them, else those that turn (S9: fan3 and fan6)."""
    if told and told <= len(speeds) and not any(speeds[told:]) and all(speed is not None for speed in speeds[:told]):
        return tuple(speed for speed in speeds[:told] if speed is not None)
    return tuple(speed for speed in speeds if speed)


def _hottest(*told: object) -> float | None:
    """The highest of the sensors, in the first of the values that has any. 0 and "" are sensors that are not there."""
    for value in told:
        hottest: float | None = None
        for part in value if isinstance(value, list) else (value,):
            for degrees in map(float, _SENSOR.findall(part)) if isinstance(part, str) else (number(part),):
                if degrees and -60 <= degrees <= 200 and (hottest is None or degrees > hottest):
                    hottest = degrees
        if hottest is not None:
            return hottest
    return None


# ---- the other answers -------------------------------------------------------------------------------------


def parse_pools(sections: Sequence[Mapping[str, Any]]) -> tuple[Pool, ...]:
    """The rows of POOLS, from port 4028 or from CGI. Slots without a URL are no pools."""
    found = []
    for place, row in enumerate(sections):
        told = {key.lower(): value for key, value in row.items()}
        url = words(told.get("url"))
        if not url:
            continue
        active = told.get("stratum active")
        priority = whole(told.get("priority"))
        found.append(
            Pool(
                url=url,
                user=words(told.get("user")),
                state=words(told.get("status")).lower() or None,
                accepted=whole(told.get("accepted")),
                rejected=whole(told.get("rejected")),
                stale=whole(told.get("stale")),
                priority=place if priority is None else min(priority, 2**31),
                active=active if isinstance(active, bool) else None,
            )
        )
    return tuple(found)


def parse_conditions(summary: Mapping[str, Any]) -> tuple[Condition, ...]:
    """`status` of summary.cgi: what is not "s" (well) is a fault; an empty word says nothing."""
    found = []
    for row in rows(summary.get("status")):
        kind, state = words(row.get("type"), 32), words(row.get("status"), 16)
        if state in ("", "s"):
            continue
        code = whole(row.get("code"))
        text = words(row.get("msg")) or f"the device reports a fault of its {kind or 'hardware'}"
        name = kind or "status"
        found.append(Condition(f"{name}:{code}" if code else name, text, _SEVERITIES.get(kind, "warning")))
    return tuple(found)


def conf_mode(conf: Mapping[str, Any]) -> str | None:
    """The mode that the stored configuration asks for."""
    for name in ("miner-mode", "bitmain-work-mode"):
        code = whole(conf.get(name))
        if code is not None:
            return MODES.get(code, f"mode {code}")
    return None


def missing_fields(stats: Stats, pools: tuple[Pool, ...] | None) -> list[str]:
    """Names of what this firmware gives when it mines, and did not now. Asleep and booting, nothing is owed."""
    if stats.asleep or stats.booting:
        return [] if pools is not None else ["pools"]
    known = model_of(stats.model)
    owed: dict[str, object] = {
        "hashrate_hs": stats.hashrate_hs,
        "expected_hashrate_hs": stats.expected_hashrate_hs if stats.modern else 0.0,  # older ones never told
        "uptime_s": stats.uptime_s,
        "fans_rpm": stats.fans_rpm or (0 if known and known.fans == 0 else None),
        "boards": stats.boards or None,
        "pools": pools,
    }
    gone = [name for name, value in owed.items() if value is None]
    for board in stats.boards:
        told = {"hashrate_hs": board.hashrate_hs, "temp_c": board.temp_c, "chip_temp_c": board.chip_temp_c, "chips": board.chips}
        gone += [f"boards.{board.slot}.{name}" for name, value in told.items() if value is None]
    return gone


def info(value: object) -> Mapping[str, Any]:
    """The first row of SUMMARY in an answer of summary.cgi."""
    found = rows(table(value).get("SUMMARY"))
    return found[0] if found else {}
