"""What Auradine's Teraflux miners say, from parsed JSON to readings. Pure: no socket, no clock.

Source: recorded answers of an AT1500, from several versions of FluxOS. Rates are MH/s by their keys; the power supply states
its units inside its values ("58.94W"). Boards are numbered from 1, and 0 is the control board.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from garrison.model import Condition, Pool
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.cgminer import pools_of
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of

LOCATE, NORMAL = 3, 2  # codes of its lights
_MH, _TH = 1e6, 1e12
_MOST_PARTS = 16
_MOST_CHIPS = 1024
_NO_POWER = 1
_OURS = re.compile(r"gcminer|fluxos", re.IGNORECASE)

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows of one look, by command. None: not asked, or failed (then it is in `failed`)."""

    summary: Rows | None = None
    devs: Rows | None = None
    pools: Rows | None = None
    fan: Rows | None = None
    psu: Rows | None = None
    mode: Rows | None = None
    temperature: Rows | None = None
    frequency: Rows | None = None
    asccount: Rows | None = None
    led: Rows | None = None
    failed: tuple[str, ...] = ()
    repairs: int = 0


def is_ours(answer: Any) -> bool:
    """By the name of its program, which each of its answers carries: in its section or beside its status."""
    told = table(answer)
    for row in (*rows(told.get("VERSION")), *rows(told.get("STATUS"))):
        if any(_OURS.search(f"{key} {value}") for key, value in row.items() if isinstance(value, str | int | float)):
            return True
    return False


def parse_seen(told: Mapping[str, Any], make: str) -> Seen:
    """`told` is the row of `ipreport`."""
    facts = {
        "algorithm": "sha256",  # all that this maker builds
        "control_board": words(told.get("InternalType")),
        "hostname": words(told.get("hostname")),
        "ipaddress": words(told.get("ip")),
    }
    return Seen(
        make=make,
        model=words(told.get("model")),
        firmware=words(told.get("version")),
        mac=mac_of(told.get("mac")),
        serial=words(told.get("SerialNo")) or words(told.get("ChassisSerialNo")),
        facts={name: text for name, text in facts.items() if text},
    )


def parse_reading(told: Answers) -> Reading:
    summary, mode, psu = _first(told.summary), _first(told.mode), told.psu or ()
    asleep = _asleep(mode.get("Sleep"))
    rate = _scaled(summary.get("MHS 5s"), _MH)
    powers = [watts for row in psu[:_MOST_PARTS] if (watts := _stated(row.get("PowerIn"), "W")) is not None]
    volts = _stated(_first(psu).get("Vin"), "V")
    boards = _boards(told)
    limit = number(mode.get("Power")) or None
    reading = Reading(
        mining=False if asleep else None if rate is None else rate > 0,
        asleep=asleep,
        hashrate_hs=rate,
        hashrate_avg_hs=_scaled(summary.get("MHS av"), _MH),
        # with a power to keep to, what it says to hash is not what it should
        expected_hashrate_hs=_scaled(summary.get("ThsThrottle") if limit else summary.get("ThsThrottle", mode.get("Ths")), _TH)
        or None,
        power_w=sum(powers) if powers else None,
        power_source="miner" if powers else None,
        voltage_v=volts or None,
        power_limit_w=limit if limit is not None and 0 < limit < 100_000 else None,
        uptime_s=whole(summary.get("Elapsed")),
        temp_c=max((board.temp_c for board in boards if board.temp_c is not None), default=None),
        chip_temp_c=max((board.chip_temp_c for board in boards if board.chip_temp_c is not None), default=None),
        accepted=whole(summary.get("Accepted")),
        rejected=whole(summary.get("Rejected")),
        stale=whole(summary.get("Stale")),
        hw_errors=whole(summary.get("Hardware Errors")),
        fans_rpm=tuple(rpm for row in (told.fan or ())[:_MOST_PARTS] if (rpm := whole(row.get("Speed"))) is not None),
        boards=boards,
        pools=parse_pools(told.pools),
        mode="sleep" if asleep else words(mode.get("Mode")).lower() or None,
        conditions=tuple(_conditions(told, boards)),
        repairs=told.repairs,
    )
    return _with_missing(reading, told)


def parse_pools(told: Rows | None) -> tuple[Pool, ...] | None:
    return None if told is None else pools_of(told)


def _boards(told: Answers) -> tuple[BoardReading, ...]:
    """By their number, from all answers that have one; the control board is none."""
    temps, clocks = _by_board(told.temperature), _by_board(told.frequency)
    devs = {slot: row for place, row in enumerate((told.devs or ())[:_MOST_PARTS], 1) if (slot := _slot(row, place))}
    count = _first(told.asccount)
    chips, parts = whole(count.get("AsicCount")), whole(count.get("BoardCount"))
    each = chips // parts if chips and parts and chips % parts == 0 else None
    found = []
    for slot in sorted({*devs, *temps}):
        dev, sensors = devs.get(slot, {}), temps.get(slot, {})
        megahertz = _values(clocks.get(slot, {}).get("ChipFrequency"), "Frequency")
        found.append(
            BoardReading(
                slot=slot,
                hashrate_hs=_scaled(dev.get("MHS 5s"), _MH),
                temp_c=_hottest(_values(sensors.get("BoardTemp"), "Temperature") or _values([dev], "Temperature")),
                chip_temp_c=_hottest(_values(sensors.get("ChipTemp"), "Temperature")),
                chips_expected=each,
                frequency_mhz=round(sum(megahertz) / len(megahertz), 2) if megahertz else None,
                hw_errors=whole(dev.get("Hardware Errors")),
            )
        )
    return tuple(found)


def _slot(row: Mapping[str, Any], place: int) -> int:
    slot = whole(row.get("ID", row.get("DEV")))
    return place if slot is None else min(slot, 255)


def _by_board(told: Rows | None) -> dict[int, Mapping[str, Any]]:
    return {slot: row for row in (told or ())[:_MOST_PARTS] if (slot := min(whole(row.get("ID")) or 0, 255))}


def _values(told: object, name: str) -> list[float]:
    return [value for row in rows(told)[:_MOST_CHIPS] if (value := number(row.get(name))) is not None]


def _hottest(degrees: Sequence[float]) -> float | None:
    """0 is a sensor that did not answer."""
    return max((value for value in degrees if 0 < value <= 200), default=None)


def _conditions(told: Answers, boards: Sequence[BoardReading]) -> list[Condition]:
    """Its lights show what is wrong with it, with a code and in words."""
    found = []
    dead = [
        _slot(row, place)
        for place, row in enumerate((told.devs or ())[:_MOST_PARTS], 1)
        if words(row.get("Status")).lower() in ("dead", "sick")
    ]
    if dead:
        found.append(Condition("boards_missing", f"{len(boards) - len(dead)} of {len(boards)} hash boards answer", "critical"))
    led = _first(told.led)
    if (code := whole(led.get("Code"))) not in (None, NORMAL, LOCATE, _NO_POWER):
        found.append(Condition(f"led:{code}", words(led.get("Msg")) or f"its lights show code {code}", "warning"))
    return found


def _with_missing(reading: Reading, told: Answers) -> Reading:
    """Names of what this firmware gives, and did not. Asleep, rates and temperatures are not owed."""
    gone = [name for name in ("accepted", "pools") if getattr(reading, name) is None]
    if reading.asleep is None:
        gone.append("mode")
    if not reading.asleep:
        owed: dict[str, object] = {name: getattr(reading, name) for name in ("hashrate_hs", "power_w", "uptime_s", "temp_c")}
        owed |= {"boards": reading.boards or None, "fans_rpm": reading.fans_rpm or None if told.fan is None or told.fan else 0}
        for board in reading.boards:
            owed |= {f"boards.{board.slot}.{name}": getattr(board, name) for name in ("hashrate_hs", "temp_c")}
        gone += [name for name, value in owed.items() if value is None]
    if "led" in told.failed:
        gone.append("errors")
    return replace(reading, missing=tuple(gone))


def _first(told: Rows | None) -> Mapping[str, Any]:
    return told[0] if told else {}


def _asleep(told: object) -> bool | None:
    return told if isinstance(told, bool) else {"on": True, "true": True, "off": False, "false": False}.get(words(told).lower())


def _stated(told: object, unit: str) -> float | None:
    """ "58.94W" with its unit, and nothing without."""
    text = words(told)
    found = number(text.removesuffix(unit)) if text.endswith(unit) else None
    return found if found is not None and 0 <= found < 100_000 else None


def _scaled(value: object, scale: float) -> float | None:
    found = number(value)
    return found * scale if found is not None and found >= 0 else None
