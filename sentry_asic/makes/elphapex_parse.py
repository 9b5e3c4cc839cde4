"""What an Elphapex says, from parsed JSON to readings. Pure: no socket, no clock.

Not believed, because it is the same on every board of the two devices whose answers are known, idle or hashing: `temp_pcb` and
`temp_pic` (47, 46, 67, 66), the map `asic`; `hw` of a board is its number of chips, `hw_all` of the summary its hashrate. No unit
is stated for `freq_avg` (62000) and for `get_power.cgi`: not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.model import Condition, Pool
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import info, mac_of, parse_conditions, parse_pools
from sentry_asic.models import unit_hs

_MAX_BOARDS, _MAX_FANS = 8, 8
_STATES = {"unreachable": "dead"}
_MODES = {0: "normal", 1: "sleep", -1000: "sleep"}
"""1: pyasic. -1000: two monitors, for firmware of DG1 and DG1+ (reported)."""
_EXPECTED: dict[str, tuple[int | None, int | None, int | None]] = {"DG1+": (4, 204, 4), "DG-HOME1": (None, 120, 4)}
"""Boards, chips a board, fans: from devices that hashed with all of them."""


def is_elphapex(system: Mapping[str, Any]) -> bool:
    """get_system_info.cgi: its type is "DG1", "DG1+", "DG-Home1", and it hashes scrypt."""
    kind = words(system.get("minertype")).upper()
    return kind.startswith(("DG", "ELPHAPEX")) and words(system.get("Algorithm")).lower() in ("", "scrypt")


def parse_seen(system: Mapping[str, Any], stats: Mapping[str, Any], make: str) -> Seen:
    told = table(stats.get("INFO"))
    facts = {"algorithm": "scrypt"}
    for name, value in (
        ("hardware", told.get("hw_version")),
        ("hostname", system.get("hostname")),
        ("ipaddress", system.get("ipaddress")),
        ("nettype", system.get("nettype")),
    ):
        if text := words(value):
            facts[name] = text
    return Seen(
        make=make,
        model=words(system.get("minertype")),
        firmware=words(system.get("system_filesystem_version")) or words(told.get("miner_version")),
        mac=mac_of(system.get("macaddr")),
        serial=words(told.get("dev_sn")),
        facts=facts,
    )


def parse_reading(
    stats: Mapping[str, Any],
    pool_page: Mapping[str, Any] | None,
    conf: Mapping[str, Any] | None,
    summary: Mapping[str, Any] | None,
) -> Reading:
    """stats.cgi, pools.cgi, get_miner_conf.cgi, summary.cgi. None: could not be asked."""
    listed = rows(stats.get("STATS"))
    row = listed[0] if listed else {}
    expected = _EXPECTED.get(words(table(stats.get("INFO")).get("type")).upper(), (None, None, None))
    scale = unit_hs(words(row.get("rate_unit"))) if words(row.get("rate_unit")) else None
    rate = _rate(row, "rate_5s", scale)
    boards = [b for place, c in enumerate(rows(row.get("chain"))[:_MAX_BOARDS]) if (b := _board(c, place, scale, expected[1]))]
    mode = _mode(conf or {})
    asleep = mode == "sleep" and not rate
    fans = row.get("fan")
    turning = tuple(rpm for fan in fans[:_MAX_FANS] if (rpm := whole(fan)) is not None) if isinstance(fans, list) else ()
    pools = None if pool_page is None else _pools(pool_page)
    conditions = [*parse_conditions(info(summary or {})), *([] if asleep else _shortfalls(boards, turning, expected))]
    return Reading(
        mining=False if asleep else None if rate is None else rate > 0,
        asleep=asleep,
        hashrate_hs=rate,
        hashrate_avg_hs=_rate(row, "rate_avg", scale),
        expected_hashrate_hs=_rate(row, "rate_ideal", scale) or None,
        uptime_s=whole(row.get("elapsed")),
        chip_temp_c=max((b.chip_temp_c for b in boards if b.chip_temp_c is not None), default=None),
        accepted=_sum(pool.accepted for pool in pools or ()),
        rejected=_sum(pool.rejected for pool in pools or ()),
        stale=_sum(pool.stale for pool in pools or ()),
        fans_rpm=turning,
        boards=tuple(boards),
        pools=pools,
        mode=mode,
        conditions=tuple(conditions),
        missing=(
            *_missing(row, rate, turning, boards, pools, asleep=asleep),
            *(name for name, told in (("mode", conf), ("errors", summary)) if told is None),
        ),
    )


def _rate(row: Mapping[str, Any], name: str, scale: float | None) -> float | None:
    value = number(row.get(name))
    return None if value is None or scale is None or value < 0 else value * scale


def _board(chain: Mapping[str, Any], place: int, scale: float | None, chips_expected: int | None) -> BoardReading | None:
    """None for a place without a board: no chips, no serial number, nothing that it should hash.

    `hashrate` is of now; the sum of `rate_real` is the device's average since its start.
    """
    chips, slot = whole(chain.get("asic_num")), whole(chain.get("index"))
    if not chips and not words(chain.get("sn")) and not number(chain.get("rate_ideal")):
        return None
    rate = _rate(chain, "hashrate", scale)
    return BoardReading(
        slot=place if slot is None else slot,
        hashrate_hs=_rate(chain, "rate_real", scale) if rate is None else rate,
        chip_temp_c=_chip_temp(chain.get("temp_chip")),
        chips=chips,
        chips_expected=chips_expected,
    )


def _chip_temp(value: object) -> float | None:
    """Text in thousandths of a degree, "47125"; "" for a sensor that is not there. Nothing else in it is above 200."""
    told = [number(part) for part in value[:16]] if isinstance(value, list) else []
    degrees = [part / 1000 if part > 200 else part for part in told if part]
    return max((d for d in degrees if -60 <= d <= 200), default=None)


def _mode(conf: Mapping[str, Any]) -> str | None:
    code = number(conf.get("fc-work-mode"))
    return None if code is None else _MODES.get(int(code), f"mode {code:g}")


def _pools(page: Mapping[str, Any]) -> tuple[Pool, ...] | None:
    if not isinstance(page.get("POOLS"), list):
        return None
    return tuple(replace(pool, state=_STATES.get(pool.state or "", pool.state)) for pool in parse_pools(rows(page["POOLS"])))


def _sum(counts: Iterable[int | None]) -> int | None:
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def _shortfalls(
    boards: Sequence[BoardReading], fans: Sequence[int], expected: tuple[int | None, int | None, int | None]
) -> list[Condition]:
    """Boards and fans fewer than the model has. Codes and words are ours: the device only leaves them out."""
    found = []
    alive, turning = sum(1 for board in boards if board.chips), sum(1 for rpm in fans if rpm)
    if expected[0] and alive < expected[0]:
        found.append(Condition("boards_missing", f"{alive} of {expected[0]} hash boards answer", "critical"))
    if expected[2] and fans and turning < expected[2]:
        found.append(Condition("fans_missing", f"{turning} of {expected[2]} fans turn", "critical"))
    return found


def _missing(
    row: Mapping[str, Any],
    rate: float | None,
    fans: Sequence[int],
    boards: Sequence[BoardReading],
    pools: tuple[Pool, ...] | None,
    *,
    asleep: bool,
) -> list[str]:
    """Names of what this firmware gives when it works, and did not now. Asleep, only the pools are owed."""
    owed: dict[str, object] = {"pools": pools}
    if not asleep:
        owed |= {
            "hashrate_hs": rate,
            "expected_hashrate_hs": number(row.get("rate_ideal")),
            "uptime_s": whole(row.get("elapsed")),
            "fans_rpm": fans or None,
            "boards": boards or None,
        }
    gone = [name for name, value in owed.items() if value is None]
    for board in () if asleep else boards:
        told = {"hashrate_hs": board.hashrate_hs, "chips": board.chips, "chip_temp_c": board.chip_temp_c}
        gone += [f"boards.{board.slot}.{name}" for name, value in told.items() if value is None]
    return gone
