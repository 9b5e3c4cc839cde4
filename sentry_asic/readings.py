"""From a look at an ASIC to the values and the roster entry that the commander gets. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from operator import attrgetter

from garrison.faults import Fault
from garrison.frame import Number, Series, quantise
from garrison.model import Condition, Device, Pool, Target
from garrison.words import DEVICE_STATE_CODES, ActionKind, DeviceState
from sentry_asic.make import EVERY_LOOK, Reading, Seen

_SOURCES = {"meter": 1, "miner": 2, "configured": 3, "nameplate": 4}
_DEVICE = (
    "hashrate_hs", "hashrate_avg_hs", "expected_hashrate_hs", "accepted", "rejected", "stale", "hw_errors", "uptime_s",
    "system_uptime_s", "power_w", "power_limit_w", "temp_c", "chip_temp_c", "inlet_temp_c", "outlet_temp_c",
)  # fmt: skip
_BOARD = ("hashrate_hs", "temp_c", "chip_temp_c", "chips", "chips_expected", "frequency_mhz", "hw_errors")
_POOL = ("accepted", "rejected", "stale")
_MAX_IDENTITY = 200
"""The commander takes none that is longer."""
_MAX_PARTS = 32
"""Boards, fans and pools kept of one device: a device that claims more is not believed."""


def identity_of(seen: Seen | None, target: Target) -> str:
    """By MAC, else by serial, else the target until it is known."""
    if seen is not None and seen.mac:
        return f"mac:{seen.mac}"
    if seen is not None and seen.serial:
        return f"serial:{seen.make}:{seen.serial}"[:_MAX_IDENTITY]
    return f"target:{target.id}"


def values_of(reading: Reading, state: DeviceState, look_ms: int, repairs: int) -> dict[Series, Number]:
    """The metrics of a good look, quantised. `repairs`: all of this device since the sentry began."""
    values: dict[Series, Number] = {}

    def put(told: object, names: Iterable[str], component: str = "") -> None:
        for name in names:
            value = getattr(told, name)
            if value is not None and (exact := quantise((name, component), value)) is not None:
                values[name, component] = exact

    values["look_ok", ""], values["look_ms", ""], values["repairs", ""] = 1, look_ms, repairs
    values["state", ""] = DEVICE_STATE_CODES[state]
    put(reading, _DEVICE)
    if reading.power_w is not None and (source := _SOURCES.get(reading.power_source or "")) is not None:
        values["power_source", ""] = source
    for board in reading.boards[:_MAX_PARTS]:
        put(board, _BOARD, f"board:{board.slot}")
    for place, rpm in enumerate(reading.fans_rpm[:_MAX_PARTS], start=1):
        if (exact := quantise(("fan_rpm", ""), rpm)) is not None:
            values["fan_rpm", f"fan:{place}"] = exact
    for place, pool in enumerate((reading.pools or ())[:_MAX_PARTS]):
        put(pool, _POOL, f"pool:{place}")
    return values


def values_of_failure(state: DeviceState, look_ms: int) -> dict[Series, Number]:
    """A failed look is a sample too."""
    return {("look_ok", ""): 0, ("look_ms", ""): look_ms, ("state", ""): DEVICE_STATE_CODES[state]}


def with_slow(reading: Reading, slow: Reading | None) -> Reading:
    """A fast look, with what only the last slow one asked for."""
    if slow is None:
        return reading
    held = tuple(c for c in slow.conditions if c.code not in EVERY_LOOK)
    # firmware that tells its mode only on the web page sleeps until a slow look or its hashrate says otherwise
    asleep = reading.asleep or (reading.mode is None and slow.asleep is True and not reading.mining and not reading.booting)
    return replace(reading, conditions=merged(reading.conditions, held), mode=reading.mode or slow.mode, asleep=asleep)


def merged(*lists: Iterable[Condition]) -> tuple[Condition, ...]:
    """Each code once, the first wins."""
    found: dict[str, Condition] = {}
    for conditions in lists:
        for condition in conditions:
            found.setdefault(condition.code, condition)
    return tuple(found.values())


def device_of(
    target: Target,
    identity: str,
    seen: Seen | None,
    reading: Reading | None,
    state: DeviceState,
    fault: Fault | None,
    seen_ms: int,
    capabilities: tuple[ActionKind, ...],
    sheet_id: str = "",
) -> Device:
    """The roster entry. `reading` is the last good one, whatever became of the device since."""
    known, last = seen or Seen(target.make), reading or Reading()
    return Device(
        identity=identity,
        kind="asic",
        state=state,
        target=target.id,
        name=target.name,
        make=known.make,
        model=known.model,
        firmware=known.firmware,
        address=target.address,
        mac=known.mac,
        serial=known.serial,
        simulated=target.simulated,
        mode=last.mode or "",
        pools=(last.pools or ())[:_MAX_PARTS],
        conditions=last.conditions[:_MAX_PARTS] if fault is None else (),
        missing=last.missing,
        capabilities=capabilities,
        facts=known.facts,
        fault=fault.code if fault else "",
        fault_text=str(fault) if fault else "",
        sheet_id=sheet_id,
        seen_ms=seen_ms,
        components=tuple(f"board:{board.slot}=board {board.slot}" for board in last.boards[:_MAX_PARTS]),
    )


def news(before: Device | None, now: Device) -> bool:
    """Whether an entry says anything new besides that time passed and shares were found."""
    if before is None or _STILL(before) != _STILL(now) or len(before.pools) != len(now.pools):
        return True
    return any(_STILL_OF_POOL(a) != _STILL_OF_POOL(b) for a, b in zip(before.pools, now.pools, strict=True))


_STILL = attrgetter(*(field.name for field in fields(Device) if field.name not in ("pools", "seen_ms")))
_STILL_OF_POOL = attrgetter(*(field.name for field in fields(Pool) if field.name not in _POOL))
