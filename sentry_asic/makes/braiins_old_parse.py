"""What Braiins OS says on port 4028 and over GraphQL, from parsed JSON to readings. Pure: no socket, no clock.

Source: the maker's page on the BOSminer API; pyasic and monitors that read it. Rates are MHS, as their keys say; the unit
of a board's frequency is not stated anywhere: it stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.cgminer import pools_of
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, model_name
from sentry_asic.makes.cgminer import rate_hs
from sentry_asic.models import model_of

Rows = list[Mapping[str, Any]]

_NAMES = {"devs": "boards", "temps": "temps", "fans": "fans_rpm", "tunerstatus": "power_w", "pools": "pools"}
_NOW, _AVERAGE = ("5s", "1m"), ("av", "24h")


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows of each command's section; None: failed to ask."""

    summary: Rows
    devs: Rows | None = None
    temps: Rows | None = None
    fans: Rows | None = None
    tunerstatus: Rows | None = None
    pools: Rows | None = None
    devdetails: Rows | None = None
    failed: tuple[str, ...] = ()
    repairs: int = 0


def is_braiins(version: Mapping[str, Any]) -> bool:
    """ "BOSminer", "BOSminer+" up to 2022, "BOSer" since."""
    return any(key.lower().startswith(("bosminer", "boser")) for key in version)


def parse_seen(version: Mapping[str, Any], details: Mapping[str, Any], system: Mapping[str, Any], mac: str, make: str) -> Seen:
    told = next((words(text) for key, text in version.items() if is_braiins({key: text})), "")
    firmware = words(table(table(system.get("info")).get("version")).get("full")) or told
    model = model_name(words(details.get("Model")))
    facts = {}
    if hostname := words(system.get("hostname")):
        facts["hostname"] = hostname
    if row := model_of(model):
        facts["algorithm"] = row.algorithm
    return Seen(make, model, firmware, mac_of(mac), facts=facts)


def parse_reading(told: Answers) -> Reading:
    summary = told.summary[0] if told.summary else {}
    tuner = told.tunerstatus[0] if told.tunerstatus else {}
    rate = rate_hs(summary, _NOW)
    boards = parse_boards(told)
    nominal = [_positive(row.get("Nominal MHS")) for row in told.devs or []]
    power = _positive(tuner.get("ApproximateMinerPowerConsumption"))
    fans = (whole(row.get("RPM")) for row in told.fans or [])
    return Reading(
        mining=None if rate is None else rate > 0,
        asleep=False,
        hashrate_hs=rate,
        hashrate_avg_hs=rate_hs(summary, _AVERAGE),
        expected_hashrate_hs=sum(filter(None, nominal)) * 1e6 if nominal and None not in nominal else None,
        power_w=power,
        power_source=None if power is None else "miner",
        power_limit_w=_positive(tuner.get("PowerLimit")),
        uptime_s=whole(summary.get("Elapsed")),
        temp_c=max((board.temp_c for board in boards if board.temp_c is not None), default=None),
        chip_temp_c=max((board.chip_temp_c for board in boards if board.chip_temp_c is not None), default=None),
        accepted=whole(summary.get("Accepted")),
        rejected=whole(summary.get("Rejected")),
        stale=whole(summary.get("Stale")),
        hw_errors=whole(summary.get("Hardware Errors")),
        fans_rpm=tuple(rpm for rpm in fans if rpm is not None),
        boards=boards,
        pools=None if told.pools is None else pools_of(told.pools),
        mode="normal",
        missing=tuple(dict.fromkeys(_missing(told, rate, summary, power, boards))),
        repairs=told.repairs,
    )


def parse_boards(told: Answers) -> tuple[BoardReading, ...]:
    """By the number that the firmware gives a board: from 0, 1 or, on an S9, from 6."""
    model = model_of(model_name(words(told.devdetails[0].get("Model")))) if told.devdetails else None
    found = []
    for place, row in enumerate(told.devs or []):
        slot = whole(row.get("ID", row.get("ASC")))
        slot = place if slot is None else slot
        temps = next((t for t in told.temps or [] if whole(t.get("ID", t.get("TEMP"))) == slot), {})
        details = next((d for d in told.devdetails or [] if whole(d.get("ID", d.get("DEVDETAILS"))) == slot), {})
        found.append(
            BoardReading(
                slot=slot,
                hashrate_hs=rate_hs(row, _NOW),
                temp_c=_temp(temps.get("Board")),
                chip_temp_c=_temp(temps.get("Chip")),
                chips=whole(details.get("Chips")),
                chips_expected=model.chips if model else None,
                hw_errors=whole(row.get("Hardware Errors")),
            )
        )
    return tuple(sorted(found, key=lambda board: board.slot))


def error_of(told: Any, depth: int = 8) -> str:
    """What a GraphQL answer refuses with: `errors`, or a result whose type is one. "" when it does not."""
    top = table(told)
    for error in rows(top.get("errors")):
        return words(error.get("message")) or "no reason given"
    if words(top.get("__typename")).endswith("Error"):
        return words(top.get("message")) or words(top.get("__typename"))
    inner = (error_of(value, depth - 1) for value in top.values() if isinstance(value, dict)) if depth else iter(())
    return next((error for error in inner if error), "")


def _missing(
    told: Answers, rate: float | None, summary: Mapping[str, Any], power: float | None, boards: tuple[BoardReading, ...]
) -> list[str]:
    """Names of what this firmware gives when it mines, and did not now."""
    gone = [_NAMES[command] for command in told.failed if command in _NAMES]
    owed: dict[str, object] = {"hashrate_hs": rate, "uptime_s": whole(summary.get("Elapsed")), "power_w": power}
    gone += [name for name, value in owed.items() if value is None and (name != "power_w" or rate)]
    if told.devs is not None and not boards:
        gone.append("boards")
    for board in boards:
        values = {"hashrate_hs": board.hashrate_hs, "temp_c": board.temp_c, "chips": board.chips}
        gone += [f"boards.{board.slot}.{name}" for name, value in values.items() if value is None]
    return gone


def _temp(told: object) -> float | None:
    """0 is a sensor that is not there."""
    value = number(told)
    return value if value and -60 <= value <= 200 else None


def _positive(told: object) -> float | None:
    value = number(told)
    return value if value is not None and value > 0 else None
