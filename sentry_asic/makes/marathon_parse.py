"""What MaraFW (Marathon's firmware on Antminers, "kaonsu") says, from parsed JSON to readings. Pure: no socket, no clock.

Source: pyasic and asic-rs, which also describes what it saw on two KS5 Pro with release 3.14: documented, not recorded by us.
Units: the one stated beside a rate (newer releases), else what both say of older ones: TH/s for the whole device, GH/s for
`hashrate_ideal` and for a board's average. Its power is an estimate or its power supply's, and stands under one name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, model_name, parse_pools
from sentry_asic.models import model_of, unit_hs

SLEEP = "Sleep"  # as it writes it; read in any case
MODES = ("Auto", "Fixed", "Stock")
SLOTS = 3
_GH, _TH = 1e9, 1e12
_MOST_PARTS = 16
_MARK = re.compile(r"mara ?fw|kaonsu", re.IGNORECASE)
_BRIEF = ("hashrate_average", "hashrate_realtime", "hashrate_realtime_10m", "hashrate_ideal", "power_consumption_estimated")
_ASLEEP = re.compile(r"sleep|paus|curtail|suspend", re.IGNORECASE)
_STARTS = re.compile(r"init|start|boot|warm", re.IGNORECASE)
_FAILS = re.compile(r"critical|fatal|fail", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answers:
    """One look, by page. None: not asked, or failed (then it is in `failed`)."""

    brief: Mapping[str, Any]
    hashboards: Mapping[str, Any] | None = None
    fans: Mapping[str, Any] | None = None
    pools: Any = None
    miner_config: Mapping[str, Any] | None = None
    failed: tuple[str, ...] = ()
    repairs: int = 0


def has_mark(told: object) -> bool:
    """Whether this text or these values name the firmware. Stock copies neither."""
    if isinstance(told, Mapping):
        return any(_MARK.search(f"{key} {value}") for key, value in told.items() if isinstance(value, str | int | float))
    return bool(_MARK.search(words(told, 4096)))


def payload(told: Any) -> Any:
    """Some releases put each answer under `data`."""
    inner = table(told).get("data")
    return inner if isinstance(inner, dict | list) else told


def is_brief(told: Any) -> bool:
    """By two of its names and its state: any server may have a JSON page at that path."""
    brief = table(told)
    return sum(name in brief for name in _BRIEF) >= 2 and any(words(brief.get(name)) for name in ("status", "work_mode"))


def parse_seen(told: Mapping[str, Any], make: str) -> Seen:
    """`told` is `overview`."""
    model = model_name(words(told.get("model")) or words(told.get("model_extended")))
    known = model_of(model)
    facts = {
        "algorithm": known.algorithm if known else "",
        "control_board": words(told.get("control_board")),
        "model_extended": words(told.get("model_extended")),
    }
    return Seen(
        make=make,
        model=model,
        firmware=words(told.get("version_firmware")),
        mac=mac_of(told.get("mac")),
        facts={name: text for name, text in facts.items() if text},
    )


def parse_reading(told: Answers) -> Reading:
    brief = told.brief
    state = words(brief.get("status")) or words(brief.get("work_mode"))
    asleep = None if not state else bool(_ASLEEP.search(state))
    rate = _rate(brief, ("hashrate_realtime", "hashrate_realtime_10m"), words(brief.get("hashrate_unit")), _TH)
    failed = bool(_FAILS.search(state))
    booting = not failed and not asleep and bool(_STARTS.search(state))
    boards = _boards(told)
    power = number(brief.get("power_consumption_estimated"))
    power = power if power is not None and 0 <= power < 100_000 else None
    hot = number(brief.get("temperature_max"))
    temps = [board.temp_c for board in boards if board.temp_c is not None]
    chip_temps = [board.chip_temp_c for board in boards if board.chip_temp_c is not None]
    pools = _pools(told)
    reading = Reading(
        mining=False if asleep or booting or failed else None if rate is None else rate > 0,
        asleep=asleep,
        booting=booting,
        hashrate_hs=rate,
        hashrate_avg_hs=_rate(brief, ("hashrate_average",), words(brief.get("hashrate_unit")), _TH),
        expected_hashrate_hs=_rate(brief, ("hashrate_ideal",), "", _GH) or None,
        power_w=power,
        power_source=None if power is None else "miner",
        power_limit_w=_power_limit(told.miner_config),
        uptime_s=whole(brief.get("elapsed")),
        temp_c=max(temps, default=hot if hot is not None and 0 < hot <= 200 else None),
        chip_temp_c=max(chip_temps, default=None),
        accepted=_sum(pools, "accepted"),
        rejected=_sum(pools, "rejected"),
        stale=_sum(pools, "stale"),
        fans_rpm=_fans(told),
        boards=boards,
        pools=pools,
        mode="sleep" if asleep else work_mode(told.miner_config).lower() or None,
        conditions=tuple(_conditions(told, boards, state, quiet=bool(asleep) or booting)),
        repairs=told.repairs,
    )
    return _with_missing(reading, told)


def _rate(told: Mapping[str, Any], names: Sequence[str], shared: str, default: float) -> float | None:
    """The first that is told, by its own unit, else the shared one, else `default`. A unit we do not know makes it unknown."""
    for name in names:
        if name in told:
            stated = words(told.get(f"{name}_unit")) or shared
            scale = unit_hs(stated) if stated else default
            value = number(told[name])
            return value * scale if value is not None and value >= 0 and scale is not None else None
    return None


def _boards(told: Answers) -> tuple[BoardReading, ...]:
    page = table(told.hashboards)
    shared = words(told.brief.get("hashrate_unit"))
    found = []
    for place, row in enumerate(rows(page.get("hashboards"))[:_MOST_PARTS]):
        slot = whole(row.get("index"))
        own = words(row.get("hashrate_unit")) or words(page.get("hashrate_unit"))
        if "hashrate_realtime_10m" in row:
            rate = _rate(row, ("hashrate_realtime_10m",), own or shared, _TH)
        else:
            rate = _rate(row, ("hashrate_average",), own, _GH)  # in GH/s, whatever the whole device is told in
        found.append(
            BoardReading(
                slot=place if slot is None else min(slot, 255),
                hashrate_hs=rate,
                temp_c=_hottest(row.get("temperature_pcb")) or _hottest(row.get("temperature_raw")),
                chip_temp_c=_hottest(row.get("temperature_chip")),
                chips=whole(row.get("asic_num")),
                chips_expected=whole(row.get("asic_num_ideal")) or None,
                frequency_mhz=number(row.get("frequency_avg")) or None,
            )
        )
    return tuple(found)


def _hottest(told: object) -> float | None:
    """0 is a sensor that did not answer."""
    values = told if isinstance(told, list) else list(told.values()) if isinstance(told, dict) else [told]
    return max((d for value in values[:64] if (d := number(value)) is not None and 0 < d <= 200), default=None)


def _fans(told: Answers) -> tuple[int, ...]:
    found = [whole(row.get("current_speed")) for row in rows(table(told.fans).get("fans"))[:_MOST_PARTS]]
    return tuple(rpm for rpm in found if rpm is not None)


def _pools(told: Answers) -> tuple[Pool, ...] | None:
    listed = told.pools if isinstance(told.pools, list) else table(told.pools).get("pools")
    return parse_pools(rows(listed)) if isinstance(listed, list) else None


def _sum(pools: Sequence[Pool] | None, name: str) -> int | None:
    told = [count for pool in pools or () if (count := getattr(pool, name)) is not None]
    return sum(told) if told else None


def _power_limit(config: Mapping[str, Any] | None) -> float | None:
    """Only where it tunes itself to a power."""
    mode = table(table(config).get("mode"))
    aim = table(mode.get("concorde"))
    watts = number(aim.get("power-target"))
    to_power = work_mode(config).lower() == "auto" and "power" in words(aim.get("mode-select")).lower()
    return watts if to_power and watts is not None and 0 < watts < 100_000 else None


def _conditions(told: Answers, boards: Sequence[BoardReading], state: str, *, quiet: bool) -> list[Condition]:
    found = []
    brief, page = told.brief, table(told.hashboards)
    if _FAILS.search(state):
        found.append(Condition("status", words(brief.get("status_long")) or f"it says {state}", "critical"))
    most = whole(page.get("hashboard_num_ideal", brief.get("hashboard_num_ideal"))) or len(boards)
    there = sum(1 for board in boards if board.chips or (board.chips is None and board.hashrate_hs))
    if boards and there < most <= _MOST_PARTS and not quiet:
        found.append(Condition("boards_missing", f"{there} of {most} hash boards answer", "critical"))
    fans = _fans(told)
    turning = sum(1 for rpm in fans if rpm)
    if 0 < turning < len(fans) and not quiet:  # none at all: immersed
        found.append(Condition("fans_missing", f"{turning} of {len(fans)} fans turn", "critical"))
    return found


def _with_missing(reading: Reading, told: Answers) -> Reading:
    """Names of what this firmware gives, and did not. Asleep and starting, rates and temperatures are not owed."""
    gone = ["pools"] if reading.pools is None else []
    if not reading.asleep and not reading.booting:
        owed: dict[str, object] = {
            name: getattr(reading, name) for name in ("hashrate_hs", "expected_hashrate_hs", "power_w", "uptime_s")
        }
        owed |= {"boards": reading.boards or None}
        owed["fans_rpm"] = reading.fans_rpm or (None if told.fans is None or rows(told.fans.get("fans")) else 0)
        for board in reading.boards:
            if board.chips != 0:
                owed |= {f"boards.{board.slot}.{name}": getattr(board, name) for name in ("hashrate_hs", "chips")}
                owed[f"boards.{board.slot}.temp_c"] = board.chip_temp_c if board.temp_c is None else board.temp_c
        gone += [name for name, value in owed.items() if value is None]
    if "miner_config" in told.failed:
        gone.append("mode")
    return replace(reading, missing=tuple(gone))


# ---- configuration -----------------------------------------------------------------------------------------


def work_mode(config: Any) -> str:
    """ "Auto", "Fixed", "Stock" or "Sleep"; "" when it does not tell."""
    return words(table(table(config).get("mode")).get("work-mode-selector"), 32)


def sleeps(mode: str) -> bool:
    return mode.lower() == SLEEP.lower()


def is_config(told: Any) -> bool:
    """Whether this is the whole document: a mode, and pools with their fields."""
    pools = table(told).get("pools")
    shaped = isinstance(pools, list) and all(isinstance(table(row).get(name), str) for row in pools for name in ("url", "user"))
    return shaped and bool(work_mode(told))


def parse_pool_orders(config: Mapping[str, Any]) -> tuple[PoolOrder, ...]:
    """The configured pools with their passwords, empty slots left out."""
    held = [
        (words(row.get("url")), words(row.get("user"), 4096), words(row.get("pass"), 4096)) for row in rows(config.get("pools"))
    ]
    return tuple(PoolOrder(*pool) for pool in held if pool[0])


def is_split(config: Mapping[str, Any]) -> bool:
    """Whether the work is shared out between groups of pools: more than one group that has pools."""
    return len({whole(row.get("gid")) or 0 for row in rows(config.get("pools")) if words(row.get("url"))}) > 1


def with_pools(config: Mapping[str, Any], pools: Sequence[PoolOrder]) -> dict[str, Any]:
    """The document with these pools, in the group of those before, and else as it was."""
    held = rows(config.get("pools"))
    kept = next((row for row in held if words(row.get("url"))), held[0] if held else {})
    group = {"gid": kept["gid"]} if "gid" in kept else {}
    return {**config, "pools": [{"url": pool.url, "user": pool.user, "pass": pool.password, **group} for pool in pools]}


def with_mode(config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    return {**config, "mode": {**config["mode"], "work-mode-selector": mode}}


def mode_before_sleep(history: Any) -> str:
    """What it was last put to sleep from, by its own log (newest last); "" when that does not tell."""
    entries = history if isinstance(history, list) else []
    for entry in reversed(entries[-256:]):
        for changes in table(entry).values():
            for change in rows(changes)[:64]:
                path = change.get("path")
                names = [words(name).lower() for name in path] if isinstance(path, list) else []
                if names == ["mode", "workmodeselector"] and sleeps(words(change.get("to"))):
                    before = words(change.get("from"))
                    if before in MODES:
                        return before
    return ""
