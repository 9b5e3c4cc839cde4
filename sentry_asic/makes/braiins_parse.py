"""What Braiins OS says over its REST API, from parsed JSON to readings. Pure: no socket, no clock.

Source: recorded answers of an S19 XP with 25.07; the maker's own proto files (what its numbers mean). Every value carries
its unit as the name of its field: `gigahash_per_second`, `watt`, `degree_c`, `hertz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from garrison.faults import BadAnswer, Conflict
from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of, model_name
from sentry_asic.models import model_of

NOT_STARTED, NORMAL, PAUSED, SUSPENDED, RESTRICTED = 1, 2, 3, 4, 5
_UNITS_HS = {"megahash_per_second": 1e6, "gigahash_per_second": 1e9, "terahash_per_second": 1e12}
_MODES = {"powertargetmodestate": "power target", "hashratetargetmodestate": "hashrate target"}
_TUNER_OFF = 1
_BOOT_S = 300  # that long after the system's start its mining service may still be on its way
_MOST_ERRORS = 256
_OF_PATH = {
    "miner/stats": "hashrate_hs", "miner/hw/hashboards": "boards", "cooling/state": "fans_rpm", "pools": "pools",
    "performance/tuner-state": "mode", "miner/errors": "errors",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answers:
    """What each path answered; None: failed to ask, or not asked in this look."""

    details: Mapping[str, Any]
    stats: Any = None
    boards: Any = None
    cooling: Any = None
    pools: Any = None
    tuner: Any = None
    errors: Any = None
    failed: tuple[str, ...] = ()  # paths that were asked and gave nothing
    repairs: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Pools that take each other's place when one fails. `strategy`: its share of the work among groups, as the device puts it."""

    name: str
    strategy: Mapping[str, Any]
    pools: tuple[PoolOrder, ...]


def parse_seen(details: Mapping[str, Any], make: str) -> Seen:
    identity, version = table(details.get("miner_identity")), table(details.get("bos_version"))
    model = model_name(words(identity.get("miner_model")) or words(identity.get("name")))
    facts = {}
    for name, told in (
        ("hostname", details.get("hostname")),
        ("psu", _at(details, "psu_info", "model_name")),
        ("kernel", details.get("kernel_version")),
    ):
        if text := words(told):
            facts[name] = text
    if row := model_of(model):
        facts["algorithm"] = row.algorithm
    return Seen(
        make, model, words(version.get("current")), mac_of(details.get("mac_address")), words(details.get("serial_number")), facts
    )


def parse_reading(told: Answers) -> Reading:
    status = whole(told.details.get("status")) or None
    uptime_s = whole(told.details.get("bosminer_uptime_s")) if status != NOT_STARTED else None  # 0 there: it does not run
    system_s = whole(told.details.get("system_uptime_s", told.details.get("system_uptime")))
    stats = _at(told.stats, "miner_stats")
    rate = _rate(_at(stats, "real_hashrate", "last_5s"))
    asleep = None if status is None else status == PAUSED
    booting = status == NOT_STARTED and system_s is not None and system_s < _BOOT_S
    boards = parse_boards(told)
    power = _positive(_at(told.stats, "power_stats", "approximated_consumption", "watt"))
    shares = _at(told.stats, "pool_stats")
    hottest = _temp(_at(told.cooling, "highest_temperature", "temperature"))
    chips = [board.chip_temp_c for board in boards if board.chip_temp_c is not None]
    fans = [whole(row.get("rpm")) for row in rows(table(told.cooling).get("fans"))]
    reading = Reading(
        mining=False if status in (NOT_STARTED, PAUSED, SUSPENDED) else None if rate is None else rate > 0,
        asleep=asleep,
        booting=booting,
        hashrate_hs=rate,
        hashrate_avg_hs=_rate(_at(stats, "real_hashrate", "since_restart")),
        expected_hashrate_hs=_rate(_at(stats, "nominal_hashrate")) or None,
        power_w=power,
        power_source=None if power is None else "miner",
        power_limit_w=target_of(told.tuner),
        uptime_s=uptime_s,
        system_uptime_s=system_s,
        temp_c=max((board.temp_c for board in boards if board.temp_c is not None), default=None),
        chip_temp_c=max(chips, default=hottest),
        inlet_temp_c=_hottest(told, "lowest_inlet_temp"),
        outlet_temp_c=_hottest(told, "highest_outlet_temp"),
        accepted=whole(table(shares).get("accepted_shares")),
        rejected=whole(table(shares).get("rejected_shares")),
        stale=whole(table(shares).get("stale_shares")),
        fans_rpm=tuple(rpm for rpm in fans if rpm is not None),
        boards=boards,
        pools=parse_pools(told.pools),
        mode="paused" if asleep else _mode(told.tuner),
        conditions=tuple(_conditions(told, status, booting)),
        repairs=told.repairs,
    )
    return _with_missing(reading, told, status)


def parse_boards(told: Answers) -> tuple[BoardReading, ...]:
    model = model_of(parse_seen(told.details, "").model)
    found = []
    for place, row in enumerate(rows(table(told.boards).get("hashboards"))):
        if row.get("enabled") is False:
            continue  # somebody switched it off
        slot = whole(row.get("id"))
        hertz = _positive(_at(row, "current_frequency", "hertz"))
        found.append(
            BoardReading(
                slot=place if slot is None else slot,
                hashrate_hs=_rate(_at(row, "stats", "real_hashrate", "last_5s")),
                temp_c=_temp(row.get("board_temp")),
                chip_temp_c=_temp(_at(row, "highest_chip_temp", "temperature")),
                chips=whole(row.get("chips_count")),
                chips_expected=model.chips if model else None,
                frequency_mhz=None if hertz is None else hertz / 1e6,
            )
        )
    return tuple(found)


def parse_pools(groups: Any) -> tuple[Pool, ...] | None:
    """The pools of all groups, in their order. None when this answer does not tell them."""
    if not isinstance(groups, list):
        return None
    found: list[Pool] = []
    for row in (row for group in rows(groups) for row in rows(group.get("pools"))):
        if not (url := words(row.get("url"))):
            continue
        alive, active, shares = row.get("alive"), row.get("active"), table(row.get("stats"))
        state = ("alive" if alive else "dead") if isinstance(alive, bool) else None
        found.append(
            Pool(
                url=url,
                user=words(row.get("user")),
                state="disabled" if row.get("enabled") is False else state,
                accepted=whole(shares.get("accepted_shares")),
                rejected=whole(shares.get("rejected_shares")),
                stale=whole(shares.get("stale_shares")),
                priority=len(found),
                active=active if isinstance(active, bool) else None,
            )
        )
    return tuple(found)


def parse_groups(told: Any, strategy: str) -> tuple[Group, ...] | None:
    """For orders: groups that have pools. `strategy`: the field that holds it. None when this makes no sense.

    Pools that somebody disabled are left out: going back to them would switch them on.
    """
    if not isinstance(told, list):
        return None
    found = []
    for group in told:
        held = group.get("pools") if isinstance(group, dict) else None
        if not isinstance(held, list) or not all(_is_pool(pool) for pool in held):
            return None
        pools = tuple(_order(pool) for pool in held if pool.get("enabled") is not False and pool["url"])
        if pools:
            found.append(Group(words(group.get("name")), table(group.get(strategy)), pools))
    return tuple(found)


def only_group(groups: tuple[Group, ...] | None, where: str) -> tuple[Group, ...]:
    """At most one. BadAnswer when they made no sense, Conflict when the device shares its work out between several."""
    if groups is None:
        raise BadAnswer(f"the pools that {where} shows make no sense, so nothing was written", hint="look at its web page")
    if len(groups) > 1:
        raise Conflict(
            "the device shares its work out between groups of pools, and that would be lost",
            hint="leave one group on its web page, then try again",
        )
    return groups


def _is_pool(pool: Any) -> bool:
    return isinstance(pool, dict) and isinstance(pool.get("url"), str) and isinstance(pool.get("user"), str)


def _order(pool: Mapping[str, Any]) -> PoolOrder:
    url, user, password = (words(pool.get(name), 4096) for name in ("url", "user", "password"))
    return PoolOrder(url, user, password) if password else PoolOrder(url, user)


def target_of(tuner: Any) -> int | None:
    """W."""
    told = _positive(_at(tuner, "mode_state", "powertargetmodestate", "current_target", "watt"))
    return None if told is None else round(told)


def target_bounds(constraints: Any) -> tuple[int | None, int | None]:
    """W, of a power target. None: not stated."""
    bounds = (_at(constraints, "tuner_constraints", "power_target", name, "watt") for name in ("min", "max"))
    least, most = (whole(_positive(bound)) for bound in bounds)
    return least, most


def _mode(tuner: Any) -> str | None:
    if isinstance(state := _at(tuner, "mode_state"), dict):
        return next((mode for key, mode in _MODES.items() if key in state), None)
    return "tuner off" if whole(table(tuner).get("overall_tuner_state")) == _TUNER_OFF else None


def _conditions(told: Answers, status: int | None, booting: bool) -> list[Condition]:
    found = []
    if status == NOT_STARTED and not booting:
        found.append(Condition("miner_down", "its mining service does not run", "critical"))
    elif status == SUSPENDED:
        found.append(Condition("suspended", "it has suspended itself: no pool that works, or too hot or cold", "warning"))
    elif status == RESTRICTED:
        found.append(Condition("restricted", "its firmware restricts it: look at its licence", "warning"))
    return found + _errors(told)


def _errors(told: Answers) -> list[Condition]:
    """The newest of each code, of this run of the mining service only: the list goes back for weeks."""
    dated = [(_seconds(row.get("timestamp")), row) for row in rows(table(told.errors).get("errors"))[-_MOST_ERRORS:]]
    latest = max((at_s for at_s, _ in dated), default=0.0)
    share_s = number(_at(told.stats, "pool_stats", "last_share_time", "seconds")) or 0.0  # its own clock, as the errors
    began_s = max(latest, share_s) - (whole(told.details.get("bosminer_uptime_s")) or 0)
    found: dict[str, Condition] = {}
    for at_s, row in sorted(dated, key=lambda each: -each[0]):
        if at_s < began_s:
            break
        codes = [code for code in rows(row.get("error_codes")) if words(code.get("code"))] or [{}]
        for code in codes:
            name = words(code.get("code"), 64) or "error"
            text = words(row.get("message")) or words(code.get("reason")) or "it reports an error without words"
            found.setdefault(name, Condition(name, text, "warning"))
    return list(found.values())


def _with_missing(reading: Reading, told: Answers, status: int | None) -> Reading:
    """Names of what this firmware gives when it mines, and did not now."""
    gone = [_OF_PATH.get(path, path) for path in told.failed]
    if status is None:
        gone.append("asleep")
    if reading.pools is None:
        gone.append("pools")
    if status in (None, NORMAL, RESTRICTED):
        model = model_of(parse_seen(told.details, "").model)
        owed: dict[str, object] = {
            "hashrate_hs": reading.hashrate_hs,
            "uptime_s": reading.uptime_s,
            "power_w": reading.power_w,
            "fans_rpm": reading.fans_rpm or (0 if model and model.fans == 0 else None),
            "boards": reading.boards or None,
        }
        gone += [name for name, value in owed.items() if value is None]
        for board in reading.boards:
            values = {"hashrate_hs": board.hashrate_hs, "temp_c": board.temp_c, "chips": board.chips}
            gone += [f"boards.{board.slot}.{name}" for name, value in values.items() if value is None]
    else:
        gone = [name for name in gone if name in ("pools", "mode", "errors", "asleep")]
    return replace(reading, missing=tuple(dict.fromkeys(gone)))


def _at(told: Any, *keys: str) -> Any:
    for key in keys:
        told = table(told).get(key)
    return told


def _rate(told: Any) -> float | None:
    """By the unit that the field's name states."""
    for unit, scale in _UNITS_HS.items():
        value = number(table(told).get(unit))
        if value is not None and value >= 0:
            return value * scale
    return None


def _temp(told: Any) -> float | None:
    """0 is a sensor that is not there."""
    value = number(table(told).get("degree_c"))
    return value if value and -60 <= value <= 200 else None


def _hottest(told: Answers, name: str) -> float | None:
    found = (_temp(row.get(name)) for row in rows(table(told.boards).get("hashboards")))
    return max((value for value in found if value is not None), default=None)


def _positive(told: Any) -> float | None:
    value = number(told)
    return value if value is not None and value > 0 else None


def _seconds(told: Any) -> float:
    """Of "2026-03-22T05:43:43.268950Z"; 0 for what is no time."""
    try:
        return datetime.fromisoformat(words(told, 40)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
