"""What a farm of ASICs says over a day, for the history benchmark: 40 series of each device, the same each time.

`generate` makes three numpy files in a folder, which several processes may then map, and names the columns beside them:
    values  int64 [look, column, device]   scaled by the catalogue's decimals, as frames carry them
    at_ms   int64 [look, device]           each device at a whole second of its own; or anywhere, with a poller's jitter
    keys    uint64 [device]                of `identity(number)`
Quantised as devices quantise: hashrates are GH/s with two decimals, temperatures whole degrees on half of the devices and
tenths on the others, fans count in 30 or 60 rpm. A total is rounded from the boards' unrounded sum, as a recorded S19 Pro has it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from garrison.frame import Column, Layout, Series, device_key
from garrison.words import DEVICE_STATE_CODES, DeviceState

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

STEP_MS = 30_000
JITTER_MS = 400
BOARDS = 3
FANS = 4
_SERIES: tuple[Series, ...] = (
    *((metric, "") for metric in ("state", "look_ok", "look_ms", "hashrate_hs", "hashrate_avg_hs", "expected_hashrate_hs")),
    *((metric, "") for metric in ("accepted", "rejected", "stale", "hw_errors", "uptime_s", "system_uptime_s")),
    *((metric, "") for metric in ("power_w", "power_source", "voltage_v", "temp_c", "chip_temp_c", "fan_pct")),
    *(("fan_rpm", f"fan:{number}") for number in range(1, FANS + 1)),
    *(
        (metric, f"board:{slot}")
        for slot in range(BOARDS)
        for metric in ("hashrate_hs", "temp_c", "chip_temp_c", "chips", "hw_errors", "frequency_mhz")
    ),
)
LAYOUT = Layout.of(_SERIES)
COLUMNS = len(LAYOUT.columns)
_SCALE = {column.metric: 10**column.decimals for column in LAYOUT.columns}
_GHS_CENT = 10_000_000
"""0.01 GH/s in H/s."""
_BLOCK = 100
_COLUMNS = "columns.json"


def identity(number: int) -> str:
    return f"mac:02:00:{number >> 24 & 255:02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


@dataclass(frozen=True, slots=True)
class Data:
    """The mapped files of a folder."""

    values: Ints
    at_ms: Ints
    keys: NDArray[np.uint64]
    layout: Layout

    @property
    def units(self) -> Floats:
        """By columns: a value is its scaled integer divided by this."""
        return np.array([10.0**column.decimals for column in self.layout.columns])

    @property
    def looks(self) -> int:
        return len(self.values)

    @property
    def devices(self) -> int:
        return len(self.keys)

    @property
    def count(self) -> int:
        """Values in all."""
        return int(self.values.size)

    def series(self, number: int, series: Series) -> Floats:
        """One series of a device, as a sentry would give it."""
        place = self.layout.places[series]
        told: Floats = self.values[:, place, number] / self.units[place]
        return told


def opened(folder: Path) -> Data:
    values, at_ms, keys = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("values", "at_ms", "keys"))
    return Data(values, at_ms, keys, Layout(tuple(Column(*told) for told in json.loads((folder / _COLUMNS).read_text()))))


def name_columns(folder: Path, layout: Layout) -> None:
    (folder / _COLUMNS).write_text(json.dumps([astuple(column) for column in layout.columns]))


def generate(folder: Path, devices: int, looks: int, end_ms: int, jitter_ms: int = 0) -> Data:
    """`looks` steps that end at `end_ms`. About 6 ms for a day of a device."""
    folder.mkdir()
    name_columns(folder, LAYOUT)
    values = np.lib.format.open_memmap(folder / "values.npy", "w+", np.int64, (looks, COLUMNS, devices))
    at_ms = np.lib.format.open_memmap(folder / "at_ms.npy", "w+", np.int64, (looks, devices))
    ticks_ms = end_ms - STEP_MS * np.arange(looks, 0, -1, dtype=np.int64)
    for first in range(0, devices, _BLOCK):
        made = [miner(number, ticks_ms, jitter_ms) for number in range(first, min(first + _BLOCK, devices))]
        # by blocks: a single device's values lie far apart in the file
        at_ms[:, first : first + _BLOCK] = np.stack([at for at, _ in made], axis=-1)
        values[:, :, first : first + _BLOCK] = np.stack([rows for _, rows in made]).transpose(2, 1, 0)
    np.save(folder / "keys.npy", np.array([device_key(identity(number)) for number in range(devices)], np.uint64))
    values.flush()
    at_ms.flush()
    return opened(folder)


def entropy_bits(data: Data, devices: Sequence[int]) -> float:
    """Order-0 entropy of the differences from look to look, bits a value: how hard these data are, whatever stores them."""
    bits, columns = 0.0, len(data.layout.columns)
    for place in range(columns):
        # of several devices together: one alone has too few looks to show how wide a hashrate's noise is
        times = np.unique(np.diff(data.values[:, place, devices], axis=0), return_counts=True)[1]
        share = times / times.sum()
        bits -= float((share * np.log2(share)).sum())
    return bits / columns


# ---- one device --------------------------------------------------------------------------------------------


def miner(number: int, ticks_ms: Ints, jitter_ms: int = 0) -> tuple[Ints, Ints]:
    """When it was looked at, and what it said: [column, look]."""
    rng = np.random.default_rng((STEP_MS, number))
    looks = len(ticks_ms)
    grain_ms = 1 if jitter_ms else 1_000
    at_ms = ticks_ms + rng.integers(0, (STEP_MS - jitter_ms) // grain_ms) * grain_ms + rng.integers(0, jitter_ms + 1, looks)
    said: dict[Series, Ints | int] = {("look_ok", ""): 1, ("power_source", ""): 2}
    ambient_c = 25 + 8 * np.sin(2 * np.pi * (ticks_ms / 86_400_000 + rng.random())) + _wander(rng, looks, 0.995, 1.5)
    load = _wander(rng, looks, 0.98, 1.0)
    base_ghs = float(rng.choice([95e3, 104e3, 110e3, 140e3, 200e3]))
    _tell_hashrates(said, rng, looks, base_ghs)
    _tell_heat(said, rng, ambient_c, load)
    _tell_electricity(said, rng, load, base_ghs)
    _tell_counters(said, rng, at_ms)
    waits_ms = rng.uniform(60, 250) * (1 + 0.15 * rng.standard_normal(looks)) + rng.exponential(400, looks) * (
        rng.random(looks) < 0.03
    )
    said["look_ms", ""] = _whole(np.maximum(waits_ms, 5))
    rows = np.empty((COLUMNS, looks), np.int64)
    for place, column in enumerate(LAYOUT.columns):
        rows[place] = said[column.metric, column.component]
    return at_ms, rows


def _tell_hashrates(said: dict[Series, Ints | int], rng: np.random.Generator, looks: int, base_ghs: float) -> None:
    chips = int(rng.choice([76, 110, 126]))
    mhz = int(rng.choice([487, 525, 560, 610])) + 5 * _whole(_wander(rng, looks, 0.999, 1.0))
    boards = np.empty((BOARDS, looks))
    found = np.full((BOARDS, looks), chips)
    for slot in range(BOARDS):
        moved = 1 + _wander(rng, looks, 0.97, 0.006) + rng.normal(0, 0.02, looks)
        boards[slot] = base_ghs / BOARDS * (1 + rng.normal(0, 0.01)) * moved
    state = np.full(looks, DEVICE_STATE_CODES[DeviceState.MINING])
    if rng.random() < 0.05:  # a board fails for a tenth of the time
        slot, begins = int(rng.integers(BOARDS)), int(rng.integers(looks))
        gone = slice(begins, begins + looks // 10)
        boards[slot, gone], found[slot, gone], state[gone] = 0, 0, DEVICE_STATE_CODES[DeviceState.DEGRADED]
    total_ghs = boards.sum(axis=0)
    said["state", ""] = state
    said["hashrate_hs", ""] = _hs(total_ghs)
    said["hashrate_avg_hs", ""] = _hs(_average(rng, total_ghs))
    said["expected_hashrate_hs", ""] = round(base_ghs * 1e9)
    for slot in range(BOARDS):
        said["hashrate_hs", f"board:{slot}"] = _hs(boards[slot])
        said["chips", f"board:{slot}"] = found[slot]
        said["frequency_mhz", f"board:{slot}"] = mhz + slot


def _average(rng: np.random.Generator, ghs: Floats) -> Floats:
    """Half of the devices state it since the miner started, half over a quarter of an hour."""
    looks, before = len(ghs), float(ghs.mean())
    if rng.random() < 0.5:
        known = int(rng.integers(1_000, 200_000))
        since: Floats = (before * known + np.cumsum(ghs)) / (known + np.arange(1, looks + 1))
        return since
    window = 900_000 // STEP_MS
    sums = np.cumsum(np.concatenate([np.full(window, before), ghs]))
    lately: Floats = (sums[window:] - sums[:-window]) / window
    return lately


def _tell_heat(said: dict[Series, Ints | int], rng: np.random.Generator, ambient_c: Floats, load: Floats) -> None:
    looks = len(load)
    degree = 1.0 if rng.random() < 0.5 else 0.1
    hottest: dict[str, Ints] = {}
    for slot in range(BOARDS):
        for metric, above_c, share, noise_c in (("temp_c", 33, 0.8, 0.15), ("chip_temp_c", 48, 1.0, 0.3)):
            read_c = ambient_c + above_c + rng.normal(0, 2) + share * load + rng.normal(0, noise_c, looks)
            told = _scaled(metric, _whole(read_c / degree) * degree)
            said[metric, f"board:{slot}"] = told
            hottest[metric] = np.maximum(hottest[metric], told) if metric in hottest else told
    for metric, told in hottest.items():
        said[metric, ""] = told
    rpm = 4_200 + 60 * (ambient_c - 25)
    by = int(rng.choice([30, 60]))
    for number in range(1, FANS + 1):
        said["fan_rpm", f"fan:{number}"] = by * _whole((rpm + rng.normal(0, 60) + rng.normal(0, 25, looks)) / by)
    said["fan_pct", ""] = np.clip(_whole(rpm / 60), 0, 100)


def _tell_electricity(said: dict[Series, Ints | int], rng: np.random.Generator, load: Floats, base_ghs: float) -> None:
    joule_a_th = float(rng.choice([21.5, 26, 29.5, 34]))
    power_w = base_ghs / 1000 * joule_a_th * (1 + 0.002 * load) + rng.normal(0, 6, len(load))
    said["power_w", ""] = _scaled("power_w", _whole(power_w).astype(np.float64))
    said["voltage_v", ""] = _scaled("voltage_v", 13.2 + 0.02 * _whole(load))


def _tell_counters(said: dict[Series, Ints | int], rng: np.random.Generator, at_ms: Ints) -> None:
    looks, often = len(at_ms), STEP_MS / 30_000
    said["accepted", ""] = rng.integers(1_000, 500_000) + np.cumsum(rng.poisson(5 * often, looks))
    said["rejected", ""] = rng.integers(500) + np.cumsum(rng.random(looks) < 0.01 * often)
    said["stale", ""] = rng.integers(200) + np.cumsum(rng.random(looks) < 0.005 * often)
    errors = rng.integers(0, 9_000, (BOARDS, 1)) + np.cumsum(rng.poisson(0.4 * often, (BOARDS, looks)), axis=1)
    for slot in range(BOARDS):
        said["hw_errors", f"board:{slot}"] = errors[slot]
    said["hw_errors", ""] = errors.sum(axis=0)
    began_ms = np.full(looks, at_ms[0] - rng.integers(1_000_000, 5_000_000_000))
    booted_ms = began_ms - rng.integers(60_000, 200_000)
    if rng.random() < 0.1:  # it starts again, on every second of these with the whole machine
        again = int(rng.integers(looks))
        began_ms[again:] = at_ms[again] - rng.integers(STEP_MS)
        if rng.random() < 0.5:
            booted_ms[again:] = began_ms[again] - 60_000
    said["uptime_s", ""] = (at_ms - began_ms) // 1000
    said["system_uptime_s", ""] = (at_ms - booted_ms) // 1000


def _wander(rng: np.random.Generator, looks: int, keeps: float, spread: float) -> Floats:
    """An AR(1) process with the standard deviation `spread`: every look keeps this share of the one before."""
    told = rng.normal(0, spread * np.sqrt(1 - keeps * keeps), looks)
    told[0] = rng.normal(0, spread)
    reach, share = 1, keeps
    while reach < looks and share > 1e-9:  # sums over twice as many looks in each round
        told[reach:] += share * told[:-reach]
        reach, share = 2 * reach, share * share
    return told


def _whole(values: NDArray[np.floating[Any]]) -> Ints:
    whole: Ints = np.rint(values).astype(np.int64)
    return whole


def _scaled(metric: str, values: NDArray[np.floating[Any]]) -> Ints:
    return _whole(values * _SCALE[metric])


def _hs(ghs: Floats) -> Ints:
    return _whole(ghs * 100) * _GHS_CENT
