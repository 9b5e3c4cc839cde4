"""What Bitaxes and NerdAxes say in `/api/system/info`, from parsed JSON to readings. Pure: no socket, no clock.

Source: a recorded answer, the firmware's own handlers (bitaxeorg/ESP-Miner, shufps/ESP-Miner-NerdQAxePlus). Units: every
hash rate in GH/s, power W, core voltage mV, current mA; the input voltage in mV where AxeOS tells it. Numbers may be text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from garrison.faults import BadInput
from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import number, table, whole, words
from sentry_asic.make import BoardReading, Fan, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of
from sentry_asic.order_rules import check_pools

_GH = 1e9
_SLOTS = (("stratum", 0), ("fallbackStratum", 1))
_PLAIN, _TLS = ("stratum+tcp", "tcp", ""), ("stratum+ssl", "stratum+tls", "ssl", "tls")


def is_info(told: Mapping[str, Any]) -> bool:
    """Whether this is such a device's answer: any server may have a JSON page at that path."""
    return bool(words(told.get("ASICModel"))) and any(name in told for name in ("stratumURL", "smallCoreCount", "asicCount"))


def is_nerd(told: Mapping[str, Any]) -> bool:
    """NerdAxe and NerdQAxe firmware: takes new pools without a restart, cannot pause, may ask for a one-time password."""
    return any(name in told for name in ("shutdown", "otp", "pidTargetTemp")) or words(told.get("deviceModel")).startswith("Nerd")


def can_pause(told: Mapping[str, Any]) -> bool:
    """AxeOS that has the state also has the orders for it, and the blinking that came before them."""
    return isinstance(told.get("miningPaused"), bool)


def parse_seen(told: Mapping[str, Any], make: str) -> Seen:
    facts = {"algorithm": "sha256"}
    for name, key in (
        ("asic_model", "ASICModel"),
        ("board_version", "boardVersion"),
        ("hostname", "hostname"),
        ("ipaddress", "hostip"),
        ("web_version", "axeOSVersion"),
    ):
        if text := words(told.get(key)):
            facts[name] = text
    for name, key in (("core_voltage_mv", "coreVoltageActual"), ("core_voltage_set_mv", "coreVoltage")):
        if (value := _positive(told.get(key))) is not None:
            facts[name] = f"{value:g}"
    model = words(told.get("deviceModel")) or words(told.get("ASICModel"))
    return Seen(make, model, words(told.get("version")), mac_of(told.get("macAddr")), facts=facts)


def parse_info(told: Mapping[str, Any], *, old_run: bool = False, repairs: int = 0) -> Reading:
    """`old_run`: the pools were changed and the device has not started anew, so it does not work with what it shows."""
    asleep = _flag(told.get("miningPaused"), told.get("shutdown"))
    rate = _scaled(told.get("hashRate"))
    pools = parse_pools(told, old_run=old_run)
    chip_temp = _hottest(told.get("temp"), told.get("temp2"), *_list(told.get("asicTemps")))
    temp = _hottest(told.get("vrTemp"), told.get("vrTempInt"))
    fans = _fans(told)
    board = BoardReading(
        slot=0,
        hashrate_hs=rate,
        temp_c=temp,  # of the voltage regulator: the only sensor on the board beside the chip's
        chip_temp_c=chip_temp,
        chips_expected=whole(told.get("asicCount")) or None,  # what the board has by its type, not what answered
        frequency_mhz=_positive(told.get("frequency")),
    )
    power = number(told.get("power"))
    power = power if power is not None and power >= 0 else None
    volts = None if is_nerd(told) else _positive(told.get("voltage"))
    reading = Reading(
        mining=False if asleep else None if rate is None else rate > 0,
        asleep=asleep,
        hashrate_hs=rate,
        hashrate_avg_hs=next((v for k in ("hashRate_1h", "hashRate_10m") if (v := _scaled(told.get(k))) is not None), None),
        expected_hashrate_hs=_scaled(told.get("expectedHashrate")) or None,
        power_w=power,
        power_source=None if power is None else "miner",
        voltage_v=None if volts is None else volts / 1000,
        uptime_s=whole(told.get("uptimeSeconds")),
        temp_c=temp,
        chip_temp_c=chip_temp,
        accepted=whole(told.get("sharesAccepted")),
        rejected=whole(told.get("sharesRejected")),
        fans_rpm=fans,
        fan_pct=number(told.get("fanspeed")),
        boards=(board,),
        pools=pools,
        mode=None if asleep is None else "paused" if asleep else "normal",
        conditions=tuple(_conditions(told)),
        repairs=repairs,
    )
    return _with_missing(reading, told)


def _with_missing(reading: Reading, told: Mapping[str, Any]) -> Reading:
    """Names of what every version gives, and this answer did not."""
    owed: dict[str, object] = {
        "hashrate_hs": reading.hashrate_hs,
        "power_w": reading.power_w,
        "uptime_s": reading.uptime_s,
        "chip_temp_c": reading.chip_temp_c if not reading.asleep else 0,  # a chip without power measures nothing
        "accepted": reading.accepted,
        "rejected": reading.rejected,
        "fans_rpm": reading.fans_rpm or (None if "fanrpm" not in told or number(told["fanrpm"]) is None else 0),
        "pools": reading.pools,
    }
    return replace(reading, missing=tuple(name for name, value in owed.items() if value is None))


def parse_pools(told: Mapping[str, Any], *, old_run: bool = False) -> tuple[Pool, ...] | None:
    """The configured pools, the one in use marked. None when this answer does not tell them.

    Shares are counted for the device, not for a pool. That a pool is alive is told by NerdAxe only; else it is what
    follows from shares accepted in this run while it hashes.
    """
    if "stratumURL" not in told:
        return None
    on_fallback = _flag(told.get("isUsingFallbackStratum"), table(told.get("stratum")).get("usingFallback"))
    if on_fallback is None and not words(told.get("fallbackStratumURL")):
        on_fallback = False  # there is none to fall back on
    works = bool(whole(told.get("sharesAccepted"))) and bool(_scaled(told.get("hashRate")))
    found = []
    for prefix, place in _SLOTS:
        if not (url := _url(told, prefix)):
            continue
        connected = _connected(told, place)
        active = None if old_run or on_fallback is None else on_fallback == (place == 1)
        state = None if old_run or connected is None else "alive" if connected else "dead"
        if state is None and active and works and not old_run:
            state = "alive"
        found.append(Pool(url, words(told.get(f"{prefix}User")), state, priority=place, active=active))
    return tuple(found)


def parse_pool_orders(told: Mapping[str, Any]) -> tuple[PoolOrder, ...] | None:
    """The same, for going back to them. Passwords are never told: they come back as what pools take when they ask for none."""
    pools = parse_pools(told)
    return None if pools is None else tuple(PoolOrder(pool.url, pool.user) for pool in pools)


def settings_for(told: Mapping[str, Any], pools: Sequence[PoolOrder]) -> dict[str, object]:
    """What to PATCH so that the device has exactly these pools. BadInput for what it cannot hold."""
    check_pools(pools, len(_SLOTS))
    wanted: dict[str, object] = {}
    for (prefix, place), pool in zip(_SLOTS, [*pools, None][: len(_SLOTS)], strict=True):
        if pool is None:
            wanted |= {f"{prefix}URL": "", f"{prefix}User": ""}
            continue
        scheme, host, port = _parts(pool)
        tls = scheme in _TLS
        had = told.get(f"{prefix}TLS")
        if tls and had is None:
            raise BadInput(
                f"the firmware of this device cannot reach {pool.url!r}: it has no TLS", hint="use the pool's plain port"
            )
        wanted |= {
            f"{prefix}URL": host,
            f"{prefix}Port": port,
            f"{prefix}User": pool.user,
            f"{prefix}Password": pool.password,
        }
        if had is not None and tls != bool(_flag(had)):  # 2 is "TLS with a certificate of its own": left as it is
            wanted[f"{prefix}TLS"] = tls if isinstance(had, bool) else int(tls)
        if place and "fallbackStratumURL" not in told:
            raise BadInput("the firmware of this device has no second pool", hint="give it one pool")
    if len(pools) == 1 and not words(told.get("fallbackStratumURL")):
        wanted = {key: value for key, value in wanted.items() if not key.startswith("fallback")}
    return wanted


def _parts(pool: PoolOrder) -> tuple[str, str, int]:
    try:
        parts = urlsplit(pool.url if "://" in pool.url else f"//{pool.url}")
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if not host or not port or scheme not in _PLAIN + _TLS or parts.path.strip("/"):
        raise BadInput(f"a pool of a Bitaxe cannot be {pool.url!r}", hint="stratum+tcp://HOST:PORT")
    return scheme, host, port


def _url(told: Mapping[str, Any], prefix: str) -> str:
    """ "stratum+tcp://host:port": the device keeps the parts apart, and people write a scheme into the first of them."""
    host = words(told.get(f"{prefix}URL"))
    if not host:
        return ""
    scheme, _, rest = host.rpartition("://")
    scheme = "stratum+ssl" if scheme in _TLS or _flag(told.get(f"{prefix}TLS")) else "stratum+tcp"
    port = whole(told.get(f"{prefix}Port"))
    return f"{scheme}://{rest}" if port is None else f"{scheme}://{rest}:{port}"


def _connected(told: Mapping[str, Any], place: int) -> bool | None:
    """NerdAxe tells both pools, or older versions only the one in use, which then could be either. With a first pool that
    answers it does not try the second: that one is not dead, it is not asked."""
    told_here = [table(pool).get("connected") for pool in _list(table(told.get("stratum")).get("pools"))]
    if len(told_here) != len(_SLOTS) or not isinstance(told_here[place], bool):
        return None
    return True if told_here[place] else None if place and told_here[0] is True else False


def _conditions(told: Mapping[str, Any]) -> list[Condition]:
    found = []
    if overheats(told):
        found.append(Condition("overheat_mode", "it overheated and holds itself back until somebody clears that", "critical"))
    if fault := words(told.get("power_fault")):
        found.append(Condition("power_fault", fault, "critical"))
    if _flag(told.get("isUsingFallbackStratum")):
        found.append(Condition("fallback_pool", "it works with its fallback pool", "warning"))
    return found


def _fans(told: Mapping[str, Any]) -> tuple[int, ...]:
    """A fan that stands is 0; a second one is there when it is counted or turns."""
    first = whole(told.get("fanrpm"))
    second = whole(told.get("fan2rpm", told.get("fanrpm2")))
    if not second and (whole(told.get("fanCount")) or 0) < 2:
        second = None
    return tuple(speed for speed in (first, second) if speed is not None)


def overheats(told: Mapping[str, Any]) -> bool:
    return _flag(told.get("overheat_mode")) is True


def parse_fan(told: Mapping[str, Any]) -> Fan | None:
    """What it is set to. `fanspeed` is how fast it goes since AxeOS 2.11, which keeps the manual speed as `manualFanSpeed`."""
    automatic = _flag(told.get("autofanspeed"))
    if automatic is None:
        return None
    percent = whole(told.get("manualFanSpeed", told.get("fanspeed")))
    return Fan(None) if automatic else None if percent is None else Fan(percent)


def fan_settings(told: Mapping[str, Any], fan: Fan) -> dict[str, int]:
    """NerdAxe counts its ways to decide by itself: 1 by the temperature alone, 2 by a target for it, where it has one."""
    if fan.percent is None:
        return {"autofanspeed": 2 if "pidTargetTemp" in told else 1}
    return {"autofanspeed": 0, "manualFanSpeed" if "manualFanSpeed" in told else "fanspeed": fan.percent}


def _flag(*values: object) -> bool | None:
    """The first that is told, as true, false, 0, 1 or a higher number."""
    for value in values:
        if isinstance(value, bool):
            return value
        if (count := whole(value)) is not None:
            return count > 0
    return None


def _positive(value: object) -> float | None:
    found = number(value)
    return found if found is not None and found > 0 else None


def _scaled(value: object) -> float | None:
    found = number(value)
    return found * _GH if found is not None and found >= 0 else None


def _hottest(*values: object) -> float | None:
    """-1 and 0 are how this firmware says that a sensor did not answer."""
    found = [degrees for value in values if (degrees := number(value)) is not None and 0 < degrees <= 200]
    return max(found, default=None)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
