"""What IceRivers say in `/user/userpanel` and `/user/machineconfig`, from parsed JSON to readings. Pure: no socket, no clock.

Source: the web server of an early firmware, which is public, with examples in its comments; pyasic, asic-rs, bitcap-ipr and
PoPManager: documented and reported, not recorded. Each rate is text that ends in its unit ("12.3G"); numbers may come as 1.000000.
The flags `powstate`, `tempstate`, `fanstate` and `netstate` are not read: no source says which way round each of them is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, rows, table, whole, words
from sentry_asic.make import BoardReading, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of
from sentry_asic.models import unit_hs

MODES = {0: "sleep", 1: "normal"}
"""The words that `machineconfig` takes for the numbers that it tells."""
_MOST_PARTS = 16
_RATE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([KMGTPE]?)(?:(?:H|SOL)?/?S?)", re.IGNORECASE)
_RUNTIME = re.compile(r"(\d{1,6}):(\d{1,2}):(\d{1,2}):(\d{1,2})")
_NUMBERED = {"10306": "AL3", "11304": "KS7"}  # bitcap-ipr: models that call themselves by a number
_ALGORITHMS = {"KS": "kheavyhash", "AL": "blake3"}
_SIGNS = ("rtpow", "boards", "softver1", "firmver1", "powstate", "runtime")


def is_panel(told: Any) -> bool:
    """Whether this is such a device's own answer: any server may have a page of that name."""
    data = table(table(told).get("data"))
    return "error" in table(told) and sum(name in data for name in _SIGNS) >= 3


def rate_hs(text: object, unit: object = None) -> float | None:
    """ "12.3G" is 12.3 GH/s. Without a unit of its own it is one of `unit`, and without that it is not known."""
    found = _RATE.fullmatch(words(text)) if isinstance(text, str) else None
    if found is None:
        return None
    prefix = found[2] or words(unit, 8)
    scale = unit_hs(prefix) if prefix else None
    return None if scale is None else float(found[1]) * scale


def runtime_s(text: object) -> int | None:
    """ "62:14:17:36": days, hours, minutes, seconds."""
    found = _RUNTIME.fullmatch(words(text, 32))
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part) for part in found.groups())
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def model_of_panel(data: Mapping[str, Any]) -> str:
    """Most say "none" and carry it at the end of their software's name: "…_ks3lminer", "…_10306_miner"."""
    told = words(data.get("model"), 64)
    if told and told.lower() not in ("none", "null", "(null)"):
        return re.sub(r"^ice\s?river[\s_-]*", "", told, flags=re.IGNORECASE).strip()
    parts = re.sub(r"_?miner$", "", words(data.get("softver1")), flags=re.IGNORECASE).split("_")
    last = parts[-1].upper() if len(parts) > 1 else ""
    last = _NUMBERED.get(last, last)
    return last if re.fullmatch(r"[A-Z]{2}[0-9][A-Z0-9 +-]{0,11}", last) else ""


def parse_seen(data: Mapping[str, Any], make: str) -> Seen:
    model = model_of_panel(data)
    facts = {}
    algorithm = words(data.get("algo"), 32).lower()
    algorithm = algorithm if algorithm not in ("", "no", "none", "null", "(null)") else _ALGORITHMS.get(model[:2], "")
    for name, told in (
        ("algorithm", algorithm),
        ("hostname", data.get("host")),
        ("ipaddress", data.get("ip")),
        ("firmware_version", data.get("firmver1")),
        ("firmware_type", data.get("firmtype")),
    ):
        if (text := words(told)) and text != "(null)":
            facts[name] = text
    return Seen(make, model, words(data.get("softver1")) or words(data.get("firmver1")), mac_of(data.get("mac")), facts=facts)


def parse_reading(told: Mapping[str, Any], config: Mapping[str, Any] | None, *, slow: bool, repairs: int = 0) -> Reading:
    """`config`: `machineconfig`, which tells whether it sleeps. None: not asked, or failed to ask."""
    if code := whole(told.get("error")):
        text = f"its web page cannot ask the miner: {words(told.get('message')) or f'code {code}'}"
        return Reading(mining=False, conditions=(Condition("miner_down", text, "critical"),), repairs=repairs)
    data = table(told.get("data"))
    mode = mode_of(table(config))
    asleep = None if mode is None else mode == "sleep"
    unit = data.get("unit")
    rate = rate_hs(data.get("rtpow"), unit)
    boards = tuple(_board(row, place, unit) for place, row in enumerate(rows(data.get("boards"))[:_MOST_PARTS], start=1))
    ideal = [rate_hs(row.get("idealpow"), unit) for row in rows(data.get("boards"))[:_MOST_PARTS]]
    temps = [board.temp_c for board in boards if board.temp_c is not None]
    pools = parse_pools(data, awake=asleep is False)
    fans = [whole(rpm) for rpm in data["fans"][:_MOST_PARTS]] if isinstance(data.get("fans"), list) else []
    reading = Reading(
        mining=False if asleep else None if rate is None else rate > 0,
        asleep=asleep,
        hashrate_hs=rate,
        hashrate_avg_hs=rate_hs(data.get("avgpow"), unit),
        expected_hashrate_hs=sum(each for each in ideal if each) or None if None not in ideal else None,
        uptime_s=runtime_s(data.get("runtime")),
        temp_c=max(temps, default=None),
        accepted=sum_told(pool.accepted for pool in pools or ()),
        rejected=sum_told(pool.rejected for pool in pools or ()),
        fans_rpm=tuple(rpm for rpm in fans if rpm is not None),
        boards=boards,
        pools=pools,
        mode=mode,
        repairs=repairs,
    )
    gone = _missing(reading, data, asleep) + (["mode"] if slow and mode is None else [])
    return replace(reading, missing=tuple(gone))


def _missing(reading: Reading, data: Mapping[str, Any], asleep: bool | None) -> list[str]:
    """Names of what this firmware gives, and did not."""
    owed: dict[str, object] = {"hashrate_hs": reading.hashrate_hs, "uptime_s": reading.uptime_s, "pools": reading.pools}
    if not asleep:
        owed |= {"boards": reading.boards or None, "fans_rpm": reading.fans_rpm or data.get("fans")}
        owed |= {f"boards.{board.slot}.hashrate_hs": board.hashrate_hs for board in reading.boards}
    return [name for name, value in owed.items() if value is None]


def _board(row: Mapping[str, Any], place: int, unit: object) -> BoardReading:
    """`chipsuc` are the chips that answer, `false` (by the firmware's comment) the places of those that are bad."""
    temps = [number(row.get(name)) for name in ("pcbtemp", "intmp", "outtmp")]
    there, good = whole(row.get("chipnum")), whole(row.get("chipsuc"))
    if good is None and there is not None and isinstance(row.get("false"), list):
        good = max(0, there - len(row["false"]))
    slot = whole(row.get("no"))
    return BoardReading(
        slot=place if slot is None else min(slot, 2**15),
        hashrate_hs=rate_hs(row.get("rtpow"), unit),
        temp_c=max((t for t in temps if t is not None and 0 < t <= 200), default=None),
        chips=there if good is None else good,
        chips_expected=None if good is None else there,
        frequency_mhz=number(row.get("freq")) or None,
        hw_errors=whole(row.get("error")),
    )


def parse_pools(data: Mapping[str, Any], *, awake: bool) -> tuple[Pool, ...] | None:
    """None when it does not tell them. One that is not connected is dead only where none is, and the device is known to be
    awake: the others are not tried."""
    if not isinstance(data.get("pools"), list):
        return None
    told = [row for row in rows(data["pools"])[:_MOST_PARTS] if words(row.get("addr"))]
    works = [flag(row.get("connect")) or flag(row.get("state")) for row in told]
    found = []
    for place, (row, alive) in enumerate(zip(told, works, strict=True)):
        priority = whole(row.get("priority"))
        found.append(
            Pool(
                url=words(row.get("addr")),
                user=words(row.get("user")),
                state="alive" if alive else "dead" if awake and alive is False and not any(works) else None,
                accepted=whole(row.get("accepted")),
                rejected=whole(row.get("rejected")),
                priority=place if priority is None else min(priority, 2**31),
                active=flag(row.get("connect")),
            )
        )
    return tuple(found)


def parse_pool_orders(config: Mapping[str, Any]) -> tuple[PoolOrder, ...] | None:
    """With passwords, empty slots left out. None when they are not told."""
    if not isinstance(config.get("pools"), list):
        return None
    return tuple(
        PoolOrder(url, words(row.get("user"), 4096), words(row.get("pass"), 4096))
        for row in rows(config["pools"])
        if (url := words(row.get("addr"), 4096))
    )


def mode_of(config: Mapping[str, Any]) -> str | None:
    number_of_it = whole(config.get("mode"))
    return None if number_of_it is None else MODES.get(number_of_it)


def parse_settings(config: Mapping[str, Any]) -> dict[str, str] | None:
    """What else is in the form of the pools. None when it is not told, or in words that we do not know."""
    ratio, mode = whole(config.get("ratio")), mode_of(config)
    return None if ratio is None or ratio > 100 or mode is None else {"fanratio": str(ratio), "fanmode": mode}


def form_of(pools: Sequence[PoolOrder], slots: int) -> dict[str, str]:
    """All slots: the firmware does not ask whether one is there before it reads it."""
    form: dict[str, str] = {}
    for place in range(slots):
        pool = pools[place] if place < len(pools) else PoolOrder("", "", "")
        form |= {f"pool{place + 1}address": pool.url, f"pool{place + 1}miner": pool.user, f"pool{place + 1}pwd": pool.password}
    return form


def flag(value: object) -> bool | None:
    """True, false, 1, 0, 1.0, "1". None for everything else."""
    if isinstance(value, bool):
        return value
    told = whole(value)
    return None if told is None else told > 0


def sum_told(counts: Iterable[int | None]) -> int | None:
    """None when nothing is told."""
    told = [count for count in counts if count is not None]
    return sum(told) if told else None
