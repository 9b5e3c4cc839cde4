"""What `stats` of a stock Antminer (or Hiveon on one) says, from parsed JSON to a reading's values. Pure: no socket, no clock.

Shapes: (a) [header, body] with chain_acnN, chain_rateN, temp_chipN "40-38-60-58", fanN; (b) one object with `chain`; (c) an
empty list: asleep; (d) the header only: still booting. `parse_stats` knows all four.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from garrison.model import Pool
from sentry_asic.answers import number, rows, whole, words
from sentry_asic.make import BoardReading
from sentry_asic.makes.antminer_parse import MODES, model_name
from sentry_asic.models import Model, model_of, unit_hs

_MAX_CHAIN, _MAX_FAN = 16, 8
_SENSOR = re.compile(r"(?:^|(?<=-))-?\d+(?:\.\d+)?")  # "40-38--5-58": a minus behind a separator is a sign
_WATTS = re.compile(r"([\d.]{1,12})\s*(?:W(?:atts?)?)?\s*(?:\(AB\))?", re.IGNORECASE)  # "3250 W", Hiveon's "867.32 (AB)"


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
    fanless: bool = False
    """By its model, or because it says that it has 0 fans."""
    inlet_temp_c: float | None = None
    outlet_temp_c: float | None = None
    boards: tuple[BoardReading, ...] = ()
    mode: str | None = None


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
    return _legacy(bodies[0], model, words(head.get("CompileTime"))) if bodies else Stats(model=model, booting=True)


def _legacy(row: Mapping[str, Any], model: str, compiled: str) -> Stats:
    known = model_of(model)
    scale = _scale(row, known)
    total = _total_scale(scale, known, compiled)
    boards = [board for i in range(1, _MAX_CHAIN + 1) if (board := _legacy_board(row, i, scale, known))]
    fan_num = whole(row.get("fan_num"))
    return Stats(
        model=model,
        hashrate_hs=_rate(row, ("GHS 5s", "MHS 5s", "total_rate", "total rate"), total),
        hashrate_avg_hs=_rate(row, ("GHS av", "MHS av", "rate_30m"), total),
        expected_hashrate_hs=_rate(row, ("total_rateideal", "rate_ideal"), total) or None,
        uptime_s=whole(row.get("Elapsed")),
        power_w=_power(row),
        fans_rpm=_fans([whole(row.get(f"fan{i}")) for i in range(1, _MAX_FAN + 1)], fan_num, known),
        fanless=_fanless(fan_num, known),
        boards=tuple(boards),
        mode=_mode(row),
    )


def _scale(row: Mapping[str, Any], known: Model | None) -> float | None:
    """H/s of the numbers in this answer: as stated, else as the model means it, else as the keys say. None: not known.

    Keys lie only in one way: they say GHS, because nobody renamed them. One that says MHS was renamed.
    """
    if stated := words(row.get("rate_unit")):
        return unit_hs(stated)
    if any(key.startswith("MHS") for key in row):
        return unit_hs("MH")
    if known:
        return unit_hs(known.unit)
    return unit_hs("GH") if any(key.startswith("GHS") for key in row) else None


def _total_scale(scale: float | None, known: Model | None, compiled: str) -> float | None:
    """The Z11's firmware of October 2019 gives the boards in kSol/s and their sum in Sol/s (hiveos-asic)."""
    when, unit = known.total_unit if known else ("", "")
    return unit_hs(unit) if when and set(when.split()) <= set(compiled.split()) else scale


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
    temp = _hottest(row.get(f"temp_pcb{i}"), [row.get(f"temp_in_pcb_{i}"), row.get(f"temp_out_pcb_{i}")], row.get(f"temp{i}"))
    if not chips and not rate and temp is None:
        return None
    chip_temps = (
        row.get(f"temp_chip{i}"),
        [row.get(f"temp_in_chip_{i}"), row.get(f"temp_out_chip_{i}")],  # L9 and L11 of 2025
        row.get(f"temp2_{i}"),
    )
    return BoardReading(
        slot=i,
        hashrate_hs=rate,
        temp_c=temp,
        chip_temp_c=_hottest(*chip_temps),
        chips=chips,
        chips_expected=known.chips if known else None,
        frequency_mhz=number(row.get(f"freq_avg{i}")) or number(row.get(f"freq{i}")) or None,
        hw_errors=whole(row.get(f"chain_hw{i}")),
    )


def _modern(row: Mapping[str, Any], model: str) -> Stats:
    known = model_of(model)
    scale = unit_hs(words(row.get("rate_unit"))) if words(row.get("rate_unit")) else unit_hs(known.unit) if known else None
    chains = rows(row.get("chain"))[:_MAX_CHAIN]
    mode = _mode(row)
    fans, fan_num = row.get("fan"), whole(row.get("fan_num"))
    water = [_water(chain, known) for chain in chains]
    return Stats(
        model=model,
        asleep=mode == "sleep",
        modern=True,
        hashrate_hs=_rate(row, ("rate_5s",), scale),
        hashrate_avg_hs=_rate(row, ("rate_avg", "rate_30m"), scale),
        expected_hashrate_hs=_rate(row, ("rate_ideal",), scale) or None,
        uptime_s=whole(row.get("elapsed")),
        power_w=_power(row),
        fans_rpm=_fans([whole(fan) for fan in fans], fan_num, known) if isinstance(fans, list) else (),
        fanless=_fanless(fan_num, known),
        inlet_temp_c=max((inlet for inlet, _ in water if inlet is not None), default=None),
        outlet_temp_c=max((outlet for _, outlet in water if outlet is not None), default=None),
        boards=tuple(_modern_board(chain, place, scale, known) for place, chain in enumerate(chains)),
        mode=mode,
    )


def _modern_board(chain: Mapping[str, Any], place: int, scale: float | None, known: Model | None) -> BoardReading:
    slot = whole(chain.get("index"))
    temps, chip_temps = chain.get("temp_pcb"), chain.get("temp_chip")
    if known and known.coolant == "pcb" and (pcb := _four(temps)) and (pic := _four(chain.get("temp_pic"))):
        temps, chip_temps = [pcb[1], pcb[3], *pic[1:]], [pic[0]]
    elif known and known.coolant == "chip" and _water(chain, known) != (None, None):
        chip_temps = None
    return BoardReading(
        slot=place if slot is None else slot,
        hashrate_hs=_rate(chain, ("rate_real", "hashrate"), scale),
        temp_c=_hottest(temps),
        chip_temp_c=_hottest(chip_temps),
        chips=whole(chain.get("asic_num")),
        chips_expected=known.chips if known else None,
        frequency_mhz=number(chain.get("freq_avg")) or None,
        hw_errors=whole(chain.get("hw")),
    )


def _water(chain: Mapping[str, Any], known: Model | None) -> tuple[float | None, float | None]:
    """Of the coolant, in and out, where this model is known to show it among its other sensors (asic-rs, pyasic)."""
    if known and known.coolant == "pcb" and (pcb := _four(chain.get("temp_pcb"))):
        return _hottest(pcb[0]), _hottest(pcb[2])
    if known and known.coolant == "chip" and (chip := _four(chain.get("temp_chip"))) and number(chip[2]) == number(chip[3]) == 0:
        return _hottest(chip[0]), _hottest(chip[1])
    return None, None


def _four(value: object) -> list[Any] | None:
    return value if isinstance(value, list) and len(value) == 4 else None


def _mode(row: Mapping[str, Any]) -> str | None:
    code = whole(row.get("miner-mode", row.get("miner_mode")))
    return None if code is None else MODES.get(code, f"mode {code}")


def _power(row: Mapping[str, Any]) -> float | None:
    """Only where this firmware states it ("watt", "chain_power": "3250 W"); 0 is how others say "not measured"."""
    for name in ("watt", "wattage", "power", "total_power", "chain_power"):
        value = row.get(name)
        if isinstance(value, str):
            found = _WATTS.fullmatch(value.strip())
            value = found[1] if found else None
        watts = number(value)
        if watts is not None and 0 < watts < 100_000:
            return watts
    return None


def _fanless(told: int | None, known: Model | None) -> bool:
    return known.fans == 0 if known and known.fans is not None else told == 0


def _fans(speeds: Sequence[int | None], told: int | None, known: Model | None) -> tuple[int, ...]:
    """The fans that are there: the first `told` when all that turn are among them, else those that turn (S9: fan3 and fan6).

    A water-cooled one may tell of four that stand still: it has none.
    """
    if known and known.fans == 0:
        told = None
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


def missing_fields(stats: Stats, pools: tuple[Pool, ...] | None) -> list[str]:
    """Names of what this firmware gives when it mines, and did not now. Asleep and booting, nothing is owed."""
    if stats.asleep or stats.booting:
        return [] if pools is not None else ["pools"]
    known = model_of(stats.model)
    owed: dict[str, object] = {
        "hashrate_hs": stats.hashrate_hs,
        "expected_hashrate_hs": stats.expected_hashrate_hs if stats.modern else 0.0,  # older ones never told
        "uptime_s": stats.uptime_s,
        "fans_rpm": stats.fans_rpm or (0 if stats.fanless else None),
        "boards": stats.boards or None,
        "pools": pools,
    }
    gone = [name for name, value in owed.items() if value is None]
    shows_water = known is not None and known.coolant == "chip" and stats.inlet_temp_c is not None
    for board in stats.boards:
        told = {"hashrate_hs": board.hashrate_hs, "temp_c": board.temp_c, "chip_temp_c": board.chip_temp_c, "chips": board.chips}
        if shows_water:
            del told["chip_temp_c"]  # its place is taken
        gone += [f"boards.{board.slot}.{name}" for name, value in told.items() if value is None]
    return gone
