"""What LuxOS says, from parsed JSON to readings. Pure: no socket, no clock.

Source: recorded answers of an S19k Pro; the maker's API documentation. `stats` copies the stock firmware, down to chip
temperatures that are those of the board: of it only chips and frequencies are believed, the rest comes from LuxOS' own
commands. Rates are GHS in `summary`, MHS in `devs`, as their keys say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from garrison.model import Condition
from sentry_asic.answers import number, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, model_name, parse_pools
from sentry_asic.models import model_of, unit_hs

Rows = list[Mapping[str, Any]]

_QUIET = frozenset({"IDLE", "SLEEP", "MINER_TUNED", "MINER_TUNING", "REBOOT_USER", "REBOOT_SYSINIT", "SHUTDOWN_USER"})
"""Events that tell what somebody wanted, and no fault."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows of each command's section; None: failed to ask, or not asked in this look."""

    summary: Rows | None = None
    devs: Rows | None = None
    stats: Rows | None = None
    fans: Rows | None = None
    power: Rows | None = None
    pools: Rows | None = None
    temps: Rows | None = None
    config: Rows | None = None
    events: Rows | None = None
    failed: tuple[str, ...] = field(default_factory=tuple)  # commands that were asked and gave nothing
    repairs: int = 0


def is_luxos(version: Mapping[str, Any]) -> bool:
    return any(key.lower() == "luxminer" for key in version)


def parse_seen(version: Mapping[str, Any], config: Mapping[str, Any], make: str) -> Seen:
    model = model_name(words(config.get("Model")) or words(version.get("Type")))
    facts = {}
    for name, told in (
        ("hostname", config.get("Hostname")),
        ("ipaddress", config.get("IPAddr")),
        ("control_board", config.get("ControlBoardType")),
        ("profile", config.get("Profile")),
        ("psu", config.get("PSULabel")),
        ("compiled", version.get("CompileTime")),
    ):
        if text := words(told):
            facts[name] = text
    if row := model_of(model):
        facts["algorithm"] = row.algorithm
    firmware = words(version.get("LUXminer")) or words(version.get("Miner"))
    return Seen(make, model, firmware, mac_of(config.get("MACAddr")), words(config.get("SerialNumber")), facts)


def parse_reading(told: Answers) -> Reading:
    summary = told.summary[0] if told.summary else {}
    curtail = words(told.config[0].get("CurtailMode")).lower() if told.config else ""
    asleep = "sleep" in curtail if curtail else None
    rate = _rate(summary, "GHS 5s")
    ramping = any(row.get("IsRamping") is True for row in told.devs or [])
    boards = parse_boards(told.devs, told.stats or [], told.temps or [])
    intake, exhaust = _by_side(told.temps or [], "Right"), _by_side(told.temps or [], "Left")
    board_temps = [board.temp_c for board in boards if board.temp_c is not None]
    nominal = [_rate(row, "Nominal MHS") for row in told.devs or [] if words(row.get("Enabled")) != "N"]
    watts = number(told.power[0].get("Watts")) if told.power else None
    watts = watts if watts is not None and 0 <= watts < 100_000 else None
    return Reading(
        mining=False if asleep else None if rate is None else rate > 0,
        asleep=asleep,
        booting=bool(ramping and not rate and not asleep),
        hashrate_hs=rate,
        hashrate_avg_hs=_rate(summary, "GHS av"),
        expected_hashrate_hs=sum(filter(None, nominal)) or None if nominal and None not in nominal else None,
        power_w=watts,
        power_source=None if watts is None else "miner",
        uptime_s=whole(summary.get("Elapsed")),
        temp_c=max(board_temps, default=None),
        inlet_temp_c=max(intake, default=None),
        outlet_temp_c=max(exhaust, default=None),
        accepted=whole(summary.get("Accepted")),
        rejected=whole(summary.get("Rejected")),
        stale=whole(summary.get("Stale")),
        hw_errors=whole(summary.get("Hardware Errors")),
        fans_rpm=tuple(rpm for row in told.fans or [] if (rpm := whole(row.get("RPM"))) is not None),
        boards=boards,
        pools=None if told.pools is None else parse_pools(told.pools),
        mode=_mode(curtail),
        conditions=tuple(_conditions(told.events or [])),
        missing=tuple(_missing(told, asleep, rate, summary, boards)),
        repairs=told.repairs,
    )


def parse_boards(devs: Rows | None, stats: Rows, temps: Rows) -> tuple[BoardReading, ...]:
    """By the number that LuxOS gives a board, from 0. `stats` counts the same boards from 1."""
    body = next((row for row in stats if "chain_acn1" in row), {})
    model = model_of(model_name(next((words(row.get("Type")) for row in stats if "Type" in row), "")))
    found = []
    for place, row in enumerate(devs or []):
        slot = whole(row.get("ID", row.get("ASC")))
        slot = place if slot is None else slot
        sensors = _sensors([t for t in temps if whole(t.get("ID", t.get("TEMP"))) == slot])
        hottest = max(sensors, default=None) or number(row.get("Temperature")) or None
        found.append(
            BoardReading(
                slot=slot,
                hashrate_hs=_rate(row, "MHS 5s"),
                temp_c=hottest,
                chips=whole(body.get(f"chain_acn{slot + 1}")),
                chips_expected=model.chips if model else None,
                frequency_mhz=number(body.get(f"freq{slot + 1}")) or None,
                hw_errors=whole(row.get("Hardware Errors")),
            )
        )
    return tuple(sorted(found, key=lambda board: board.slot))


def blinks(config: Mapping[str, Any]) -> bool | None:
    """ "auto" is the device's own use of its red light."""
    led = words(config.get("RedLed")).lower()
    return led == "blink" if led else None


def is_split(pools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it shares its work out between groups of pools at the same time."""
    return len({whole(row.get("GROUP")) or 0 for row in pools if words(row.get("URL"))}) > 1


def _mode(curtail: str) -> str | None:
    if not curtail:
        return None
    return "sleep" if "sleep" in curtail else "normal" if curtail == "none" else curtail


def _rate(row: Mapping[str, Any], key: str) -> float | None:
    """The unit is the word of the key that ends in HS."""
    unit = unit_hs(next((word for word in key.split() if word.endswith("HS")), ""))
    value = number(row.get(key))
    return value * unit if value is not None and unit is not None and value >= 0 else None


def _sensors(temps: Rows, sides: Sequence[str] = ("Left", "Right")) -> list[float]:
    """0 is a sensor that is not there."""
    told = (number(row.get(f"{end}{side}")) for row in temps for end in ("Top", "Bottom") for side in sides)
    return [degrees for degrees in told if degrees and -60 <= degrees <= 200]


def _by_side(temps: Rows, side: str) -> list[float]:
    """Left is the exhaust and right the intake, as the METADATA of the recorded `temps` labels them."""
    return _sensors(temps, (side,))


def _conditions(events: Rows) -> list[Condition]:
    found = []
    for row in events:
        code = words(row.get("Code"), 64)
        if not code or code in _QUIET:
            continue
        where = words(row.get("Target"), 32)
        number_there = whole(row.get("ID"))
        bad = "FAILURE" in code or "PANIC" in code or ("SHUTDOWN" in code and not code.endswith("USER"))
        name = ":".join(part for part in (code, where, "" if number_there is None else str(number_there)) if part)
        found.append(Condition(name, words(row.get("Description")) or code, "critical" if bad else "warning"))
    return found


def _missing(
    told: Answers, asleep: bool | None, rate: float | None, summary: Mapping[str, Any], boards: Sequence[BoardReading]
) -> list[str]:
    """Names of what LuxOS gives when it mines, and did not now. Asleep, boards and their values are not owed."""
    names = {"devs": "boards", "fans": "fans_rpm", "power": "power_w", "temps": "temps", "config": "mode", "events": "errors"}
    gone = [names.get(command, command) for command in told.failed if command != "stats"]
    if asleep:
        return gone
    if rate is None:
        gone.append("hashrate_hs")
    if whole(summary.get("Elapsed")) is None:
        gone.append("uptime_s")
    if told.devs is not None and not boards:
        gone.append("boards")
    for board in boards:
        values = {"hashrate_hs": board.hashrate_hs, "temp_c": board.temp_c, "chips": board.chips}
        gone += [f"boards.{board.slot}.{name}" for name, value in values.items() if value is None]
    return gone
