"""What Avalons say, from bytes to readings. Pure: no socket, no clock.

Everything about one machine stands in one string, `MM ID0`: `Ver[1246-83-…] Elapsed[24684] Fan1[5344] PS[0 1214 …] …`, on the home
models (Q, Nano, Mini) `MM ID0:Summary` with the chips in `HBinfo`. Rates in it are GH/s ("GHS", MGHS), those of `summary` MH/s.
Source: recorded answers of an A1246 and a Q, the maker's A10 API manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from garrison.faults import BadAnswer
from garrison.model import Condition
from sentry_asic.answers import clean, excerpt, number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading
from sentry_asic.makes.antminer_parse import mac_of
from sentry_asic.models import UNITS_HS

# none of these looks further than its own brackets: strings of a megabyte come, too
_PAIR = re.compile(r"(?<!\w)([A-Za-z][\w ]{0,63})\[([^\[\]]*)\]")
_FIELD = re.compile(r"(?:[^,\[]|\[[^\[\]]*\]|\[)+")  # no end is the comma of "SYSTEMSTATU[Work: In Work, Hash Board: 3 ]"
_PIPE = re.compile(r"\|(?=[A-Z]+[=,]|\s*\Z)")  # not those of "help|led|reboot|"
_BOARD = re.compile(r"Hash Board:\s*(\d+)")
_HB = re.compile(r"'HB(\d{1,4})'\s*:\s*\{([^{}]*)\}")
_MAX_BOARDS = 16
_MAX_FANS = 8
_GH = UNITS_HS["GH"]

HOME_MODES: dict[str, tuple[str, ...]] = {
    "avalon q": ("eco", "standard", "super"),
    "avalonnano": ("low", "medium", "high"),
    "avalon nano": ("low", "medium", "high"),
    "avalon mini": ("heater", "mining", "night"),
}
"""What WORKMODE[n] is called on the home models. All others: 0 normal, 1 performance (A10 manual)."""
_MODES = ("normal", "performance")

_PSU = {
    1: "input voltage low",
    2: "too hot (1)",
    4: "too hot (2)",
    8: "too hot (3)",
    16: "input over current",
    32: "output voltage low",
    64: "output over current",
    128: "CS error",
    256: "over current (IOSA)",
    512: "over current (IOSB)",
    1024: "over current (IOSC)",
    2048: "fan failed",
}
"""Bits of the first number of PS: appendix 1 of the A10 manual."""
_ECHU_QUIET = 512  # the manual's own example of a healthy machine shows it on every board


@dataclass(frozen=True, slots=True)
class Version:
    """What `version` tells. `product` is "" when it is no Avalon."""

    product: str = ""
    model: str = ""
    firmware: str = ""
    mac: str = ""
    serial: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> bool:
        return self.product.lower().startswith(tuple(HOME_MODES))


@dataclass(frozen=True, slots=True)
class Said:
    """STATUS of an answer: letter, code, words, and the device's own clock."""

    letter: str
    code: int | None
    text: str
    when_s: int | None


# ---- the two forms of answers ------------------------------------------------------------------------------


def parse_text(raw: bytes) -> dict[str, Any]:
    """ "STATUS=S,When=1,Code=22,…|VERSION,CGMiner=4.11.1,PROD=…|" as the JSON form would have it. Raises BadAnswer."""
    text = raw.decode("utf-8", "replace").strip("\x00 \r\n\t")
    found: dict[str, Any] = {}
    for part in filter(None, _PIPE.split(text)):
        fields = _FIELD.findall(part)
        name, has_value, first = fields[0].partition("=") if fields else ("", "", "")
        row: dict[str, Any] = {name: first} if has_value else {}
        for told in fields[1:]:
            key, _, value = told.partition("=")
            row[key.strip()] = {"true": True, "false": False}.get(value, value)
        found.setdefault(name if name.isupper() and len(name) < 32 else "", []).append(row)
    if "STATUS" not in found:
        raise BadAnswer(f"neither JSON nor the text of a miner: {excerpt(raw)}")
    for name in ("POOL", "ASC"):
        if name in found:
            found["POOLS" if name == "POOL" else "DEVS"] = found.pop(name)
    return found


def said_by(value: Any) -> Said:
    row = next(iter(rows(table(value).get("STATUS"))), {})
    return Said(words(row.get("STATUS"), 8), whole(row.get("Code")), words(row.get("Msg"), 4096), whole(row.get("When")))


def parse_version(value: Any) -> Version:
    for row in rows(table(value).get("VERSION")):
        product = words(row.get("PROD"), 64)
        if product.lower().startswith("avalon"):
            mac = words(row.get("MAC"), 32)
            if re.fullmatch(r"[0-9A-Fa-f]{12}", mac):
                mac = ":".join(mac[i : i + 2] for i in range(0, 12, 2))
            serial = words(row.get("DNA"), 64)
            told = {"hardware": row.get("HWTYPE"), "software": row.get("SWTYPE"), "api": row.get("API")}
            return Version(
                product,
                _model(product),
                next((v for name in ("VERSION", "LVERSION", "CGVERSION") if (v := words(row.get(name), 64))), ""),
                mac_of(mac),
                "" if not serial.strip("0") or "<" in serial else serial,
                {k: text for k, v in told.items() if (text := words(v, 64))} | {"algorithm": "sha256"},
            )
    return Version()


def _model(product: str) -> str:
    """ "AvalonMiner 1246-83" is the model "1246-83", "Avalon Q" is "Q", "AvalonNano3s" is "Nano3s": the make stands elsewhere."""
    return re.sub(r"^avalon(miner)?[\s_-]*", "", product, flags=re.IGNORECASE) or product


def parse_options(text: str) -> frozenset[str]:
    """Of "ASC 0 set info: help|voltage|reboot|softon|…": what `ascset` of this firmware can set. Empty: it does not tell."""
    told = re.sub(r"^.*?set info:", "", text).strip()
    return frozenset(filter(None, (name.strip().lower() for name in told.split("|")))) if "|" in told else frozenset()


# ---- MM ID0 ------------------------------------------------------------------------------------------------


def machine(value: Any) -> tuple[dict[str, str], int | None]:
    """The fields of `MM ID0`, chips included, and the uptime of the mining program. Empty when the answer has none."""
    for row in rows(table(value).get("STATS")):
        for key in ("MM ID0", "MM ID0:Summary"):
            told = row.get(key)
            if isinstance(told, str):
                fields = fields_of(told)
                if isinstance(info := row.get("HBinfo"), str):
                    for found in _HB.finditer(info):
                        chips = [v for k, v in fields_of(found[2]).items() if k.startswith("PVT_T")]
                        fields |= {f"PVT_T{found[1]}": chips[0]} if chips else {}
                uptime_s = whole(row.get("Elapsed"))
                return fields, whole(fields.get("Elapsed")) if uptime_s is None else uptime_s  # `litestats` has only the latter
    return {}, None


def fields_of(told: str) -> dict[str, str]:
    """The first of each name: `Ver[a] Elapsed[1]`."""
    fields: dict[str, str] = {}
    for found in _PAIR.finditer(told):
        fields.setdefault(found[1].strip(), clean(found[2], 16_384).strip())
    return fields


def reading_of(fields: Mapping[str, str], uptime_s: int | None, product: str, rate_hs: float | None = None) -> Reading:
    """Without pools. `rate_hs`: from `summary`, for firmware without GHSspd."""
    rate = _rate(fields.get("GHSspd"))
    rate = rate_hs if rate is None else rate
    state = fields.get("SYSTEMSTATU", "").lower()
    asleep, booting = _asleep(fields, state), "in init" in state
    mining = False if asleep or booting else None if rate is None else rate > 0
    power = _power(fields)
    boards = _boards(fields, mining is True)
    return Reading(
        mining=mining,
        asleep=asleep,
        booting=booting,
        hashrate_hs=rate,
        hashrate_avg_hs=_rate(fields.get("GHSavg")),
        expected_hashrate_hs=_rate(fields.get("GHSmm")) or None,
        power_w=power,
        power_source=None if power is None else "miner",
        uptime_s=uptime_s,
        temp_c=_hottest(fields.get(name) for name in ("HBITemp", "HBOTemp")),
        chip_temp_c=_degrees(fields.get("TMax")),
        inlet_temp_c=_hottest(fields.get(name) for name in ("ITemp", "Temp")),
        outlet_temp_c=_degrees(fields.get("OTemp")),
        hw_errors=whole(fields.get("HW")),
        fans_rpm=tuple(rpm for i in range(1, _MAX_FANS + 1) if (rpm := whole(fields.get(f"Fan{i}"))) is not None),
        fan_pct=number(fields.get("FanR", "").rstrip("%")),
        boards=boards,
        mode=mode_of(fields, product),
        conditions=tuple(_conditions(fields)),
    )


def missing_of(reading: Reading) -> list[str]:
    """What this firmware gives while it mines, and did not now."""
    if reading.asleep or reading.booting:
        return [] if reading.pools is not None else ["pools"]
    owed: dict[str, object] = {
        "hashrate_hs": reading.hashrate_hs,
        "expected_hashrate_hs": reading.expected_hashrate_hs if reading.mining else 0.0,
        "uptime_s": reading.uptime_s,
        "fans_rpm": reading.fans_rpm or None,
        "chip_temp_c": reading.chip_temp_c if reading.mining else 0.0,
        "boards": reading.boards or None,
        "pools": reading.pools,
    }
    gone = [name for name, value in owed.items() if value is None]
    for board in reading.boards if reading.mining else ():
        told = {"hashrate_hs": board.hashrate_hs, "chip_temp_c": board.chip_temp_c}
        gone += [f"boards.{board.slot}.{name}" for name, value in told.items() if value is None]
    return gone


def _asleep(fields: Mapping[str, str], state: str) -> bool:
    """Idle because it was told to be. SoftOFF 6 is idle at boot (reported); firmware without SoftOFF cuts its boards' power."""
    if "in idle" not in state:
        return False
    soft = whole(fields.get("SoftOFF"))
    if soft is not None:
        return soft not in (0, 6)
    supply = _numbers(fields.get("PS"))
    return len(supply) >= 5 and supply[3] == 0 and supply[4] == 0


def _boards(fields: Mapping[str, str], mining: bool) -> tuple[BoardReading, ...]:
    """Board 0 and up, as the maker counts. MGHS is an average that stays when the board stands still: then it is not told."""
    rates, temps, errors = (_numbers(fields.get(name)) for name in ("MGHS", "MTmax", "MH"))
    told = _BOARD.search(fields.get("SYSTEMSTATU", ""))
    count = min(max(len(rates), len(temps), int(told[1]) if told else 0), _MAX_BOARDS)
    chips_in_all = whole(fields.get("TA"))
    expected = chips_in_all // count if chips_in_all and count and chips_in_all % count == 0 else None
    boards = []
    for slot in range(count):
        hottest = _at(temps, slot) or (number(fields.get("TMax")) if count == 1 else None)
        chips = len(fields.get(f"PVT_T{slot}", "").split())
        errors_of = _at(errors, slot)
        rate = _at(rates, slot)
        boards.append(
            BoardReading(
                slot=slot,
                hashrate_hs=rate * _GH if rate is not None and mining else None,
                temp_c=_hottest(fields.get(name) for name in ("HBITemp", "HBOTemp")) if count == 1 else None,
                chip_temp_c=_degrees(hottest),
                chips=chips or None,
                chips_expected=expected if chips else None,
                frequency_mhz=number(fields.get("Freq")) or None,
                hw_errors=None if errors_of is None else whole(errors_of),
            )
        )
    return tuple(boards)


def _power(fields: Mapping[str, str]) -> float | None:
    """At the wall: WALLPOWER, else the seventh number of PS. Six numbers (A10) tell only what the hash boards take: not that."""
    supply = _numbers(fields.get("PS"))
    for watts in (number(fields.get("WALLPOWER")), supply[6] if len(supply) > 6 else None):
        if watts and 0 < watts < 100_000:
            return watts
    return None


def modes_of(product: str) -> tuple[str, ...]:
    """By their number."""
    return next((told for prefix, told in HOME_MODES.items() if product.lower().startswith(prefix)), _MODES)


def mode_of(fields: Mapping[str, str], product: str) -> str | None:
    code = whole(fields.get("WORKMODE"))
    if code is None:
        return None
    names = modes_of(product)
    return names[code] if code < len(names) else f"mode {code}"


def _conditions(fields: Mapping[str, str]) -> Iterable[Condition]:
    """The maker's codes. What ECHU and ECMM mean is not published."""
    supply = whole(next(iter(fields.get("PS", "").split()), ""))
    if supply:
        meaning = ", ".join(text for bit, text in _PSU.items() if supply & bit) or "unknown"
        yield Condition(f"psu:{supply}", f"the power supply reports {supply}: {meaning}", "critical")
    fan = whole(fields.get("FanErr"))
    if fan:
        yield Condition(f"fan:{fan}", f"the device reports fan error {fan}", "critical")
    for slot, told in enumerate(fields.get("ECHU", "").split()[:_MAX_BOARDS]):
        if (code := whole(told)) and code != _ECHU_QUIET:
            yield Condition(f"echu:{slot}:{code}", f"hash board {slot} reports ECHU {code}", "warning")
    if code := whole(fields.get("ECMM")):
        yield Condition(f"ecmm:{code}", f"the controller reports ECMM {code}", "warning")


# ---- the other answers -------------------------------------------------------------------------------------


def summary_rate(sections: Sequence[Mapping[str, Any]]) -> float | None:
    """H/s of the last minute, of `summary`."""
    for row in sections:
        for name in ("MHS 30s", "MHS 1m", "MHS 5m"):
            if (rate := number(row.get(name))) is not None and rate >= 0:
                return rate * UNITS_HS["MH"]
    return None


def _rate(told: object) -> float | None:
    value = number(told)
    return value * _GH if value is not None and value >= 0 else None


def _numbers(told: str | None) -> list[float]:
    """ "0 1214 1316"; one that is none ends the list, so that none moves up."""
    found: list[float] = []
    for part in (told or "").split():
        if (value := number(part)) is None:
            break
        found.append(value)
    return found


def _at(values: Sequence[float], place: int) -> float | None:
    return values[place] if place < len(values) else None


def _degrees(told: object) -> float | None:
    """0 and -273 are sensors that are not read."""
    value = number(told)
    return value if value and -60 <= value <= 200 else None


def _hottest(told: Iterable[object]) -> float | None:
    return max((value for one in told if (value := _degrees(one)) is not None), default=None)
