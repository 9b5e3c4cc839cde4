"""The metric catalogue: the single place to add a metric.

One row a metric: name (with its unit, base SI), unit, decimals kept, gauge or counter, what a roll-up keeps of it.
A metric is of a device or of one of its components: the component is named in the layout, not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RollUp = Literal["avg", "min", "max", "last"]


@dataclass(frozen=True, slots=True)
class Metric:
    """`decimals`: digits kept behind the point. `roll_up`: what 5-minute and hourly values keep of a device, `parts` of each of
    its components. `totals`: whether groups (farm, site, rack, model, coin, tag) keep totals of it."""

    name: str
    unit: str
    decimals: int
    kind: Literal["gauge", "counter", "state"]
    roll_up: tuple[RollUp, ...]
    text: str
    parts: tuple[RollUp, ...]
    totals: bool = False

    def quantise(self, value: float) -> int | float | None:
        """The value as it is sent: rounded to `decimals`. None for what is not finite: that is no value."""
        if not math.isfinite(value):
            return None
        return round(value) if self.decimals == 0 else round(value, self.decimals)


def _gauge(
    name: str,
    unit: str,
    decimals: int,
    text: str,
    roll_up: tuple[RollUp, ...] = ("avg", "min", "max"),
    *,
    parts: tuple[RollUp, ...] = (),
    totals: bool = False,
) -> Metric:
    return Metric(name, unit, decimals, "gauge", roll_up, text, parts or roll_up[:1], totals)


def _counter(name: str, unit: str, decimals: int, text: str, *, totals: bool = False) -> Metric:
    """Of a counter a roll-up keeps what is needed to know its rise, whatever `roll_up` shows."""
    return Metric(name, unit, decimals, "counter", ("last",), text, ("last",), totals)


def _state(name: str, text: str) -> Metric:
    return Metric(name, "", 0, "state", ("last",), text, ("last",))


_ALL: tuple[Metric, ...] = (
    # every look at a device, good or failed
    _state("state", "garrison.words.DEVICE_STATE_CODES"),
    _state("look_ok", "1: the look succeeded; 0: it failed, and the other columns are absent"),
    _gauge("look_ms", "ms", 0, "how long the look took", ("avg", "max")),
    _counter("repairs", "1", 0, "answers that had to be repaired before they parsed"),
    # mining
    _gauge("hashrate_hs", "H/s", 0, "as the device or program states it now (seconds)", ("avg", "min", "max"), totals=True),
    _gauge("hashrate_avg_hs", "H/s", 0, "over the longest window the device gives", ("avg",)),
    _gauge("expected_hashrate_hs", "H/s", 0, "nominal, by the device or the model table", ("last",), totals=True),
    _counter("accepted", "1", 0, "shares accepted since the miner started", totals=True),
    _counter("rejected", "1", 0, "shares rejected", totals=True),
    _counter("stale", "1", 0, "shares too late", totals=True),
    _counter("hw_errors", "1", 0, "hardware errors", totals=True),
    _gauge("uptime_s", "s", 0, "of the mining process", ("last",)),
    _gauge("system_uptime_s", "s", 0, "of the machine", ("last",)),
    _state("miner_alive", "1: the mining process runs"),
    _state("miner_api", "1: its API answers"),
    _state("miner_hashing", "1: its hashrate is above the floor"),
    _counter("miner_restarts", "1", 0, "restarts by the sentry"),
    # electricity and heat
    _gauge("power_w", "W", 1, "electric power", ("avg", "max"), totals=True),
    _state("power_source", "1 outlet meter, 2 the miner's own, 3 configured, 4 nameplate"),
    _gauge("voltage_v", "V", 3, "voltage"),
    _gauge("current_a", "A", 3, "current"),
    _counter("energy_j", "J", 0, "energy counter"),
    _gauge("temp_c", "°C", 1, "hottest board or edge temperature", ("avg", "max"), parts=("max",), totals=True),
    _gauge("chip_temp_c", "°C", 1, "hottest chip or junction", ("avg", "max"), parts=("max",), totals=True),
    _gauge("memory_temp_c", "°C", 1, "memory temperature", ("avg", "max"), parts=("max",)),
    _gauge("inlet_temp_c", "°C", 1, "air or water going in", ("avg", "max"), parts=("max",), totals=True),
    _gauge("outlet_temp_c", "°C", 1, "air or water coming out", ("avg", "max"), parts=("max",)),
    _gauge("fan_rpm", "rpm", 0, "fan speed", ("avg", "min"), parts=("min",)),
    _gauge("fan_pct", "%", 0, "fan duty"),
    # boards and cards
    _gauge("chips", "1", 0, "chips found", ("min",)),
    _gauge("chips_expected", "1", 0, "chips the model has", ("last",)),
    _gauge("frequency_mhz", "MHz", 0, "chip frequency", ("avg",)),
    _gauge("core_clock_mhz", "MHz", 0, "GPU core clock", ("avg",)),
    _gauge("memory_clock_mhz", "MHz", 0, "GPU memory clock", ("avg",)),
    _gauge("power_limit_w", "W", 1, "power limit in force", ("last",)),
    _gauge("utilisation_pct", "%", 0, "how busy", ("avg",)),
    _state("throttle_reasons", "NVML's bit mask"),
    _state("pstate", "NVML's performance state"),
    _counter("pcie_replays", "1", 0, "PCIe replay counter"),
    # the host
    _gauge("cpu_pct", "%", 1, "processor use", ("avg", "max")),
    _gauge("load1", "1", 2, "load average, 1 minute", ("avg", "max")),
    _gauge("memory_used_bytes", "B", 0, "memory in use", ("avg", "max")),
    _gauge("memory_total_bytes", "B", 0, "memory", ("last",)),
    _gauge("disk_used_bytes", "B", 0, "disk in use", ("last",)),
    _gauge("disk_total_bytes", "B", 0, "disk", ("last",)),
    _gauge("sentry_memory_bytes", "B", 0, "memory of the sentry itself", ("avg", "max")),
    # relays
    _state("outlet_state", "garrison.words.POWER_STATE_CODES"),
    _counter("outlet_switches", "1", 0, "times this sentry switched the outlet"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Name to metric, in the order of columns in a layout."""

ORDER: dict[str, int] = {metric.name: place for place, metric in enumerate(_ALL)}
