"""What a farm sends, for the ingest benchmark: 40 metrics of ASICs, quantised as devices quantise them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from garrison.frame import Layout, Number, Sample, Series, pack

BOARDS = range(3)
_SERIES: tuple[Series, ...] = (
    *((metric, "") for metric in ("state", "look_ok", "look_ms", "hashrate_hs", "hashrate_avg_hs", "expected_hashrate_hs")),
    *((metric, "") for metric in ("accepted", "rejected", "stale", "hw_errors", "uptime_s", "power_w", "temp_c")),
    *((metric, f"board:{slot}") for slot in BOARDS for metric in ("hashrate_hs", "temp_c", "chip_temp_c", "chips", "hw_errors")),
    *((metric, f"board:{slot}") for slot in BOARDS for metric in ("frequency_mhz", "voltage_v")),
    *(("fan_rpm", f"fan:{number}") for number in range(1, 5)),
    ("fan_pct", ""),
    ("chip_temp_c", ""),
)
LAYOUT = Layout.of(_SERIES)
START_MS = 1_790_000_000_000
EVERY_MS = 10_000


@dataclass(slots=True)
class _Miner:
    key: int
    base_hs: int
    temp_c: int
    shares: int
    hw_errors: int
    uptime_s: int

    def look(self, rng: random.Random, at_ms: int) -> Sample:
        self.shares += rng.randrange(3)
        self.hw_errors += rng.random() < 0.02
        self.uptime_s += EVERY_MS // 1000
        self.temp_c += rng.choice((-1, 0, 0, 0, 1)) if 45 < self.temp_c < 80 else (1 if self.temp_c <= 45 else -1)
        values: dict[Series, Number] = {}
        for metric, component in _SERIES:
            values[metric, component] = self._value(rng, metric, component)
        return Sample(self.key, at_ms + rng.randrange(3_000), values)

    def _value(self, rng: random.Random, metric: str, component: str) -> Number:
        share = 1 if not component else 3
        match metric:
            case "hashrate_hs" | "hashrate_avg_hs":  # GH/s with two decimals, 2 % of noise
                return round(self.base_hs / share * rng.gauss(1, 0.02) / 1e7) * 10_000_000
            case "expected_hashrate_hs":
                return self.base_hs
            case "temp_c":
                return self.temp_c
            case "chip_temp_c":
                return self.temp_c + 15
            case "power_w":
                return round(3_250 + rng.gauss(0, 20), 1)
            case "voltage_v":
                return 13.7
            case "fan_rpm":
                return 4_200 + 60 * rng.randrange(4)
            case "accepted":
                return self.shares
            case "hw_errors":
                return self.hw_errors
            case "uptime_s":
                return self.uptime_s
            case "look_ms":
                return rng.randrange(80, 400)
            case _:
                return {"state": 1, "look_ok": 1, "chips": 126, "frequency_mhz": 545, "fan_pct": 80}.get(metric, 12)


def looks(devices: int, ticks: int) -> list[list[Sample]]:
    """`ticks` looks at `devices` miners, the same each time this is called."""
    rng = random.Random(devices)
    miners = [
        _Miner(rng.getrandbits(64), rng.randrange(90, 120) * 10**12, rng.randrange(55, 70), rng.randrange(10**6), 0, 10**5)
        for _ in range(devices)
    ]
    return [[miner.look(rng, START_MS + tick * EVERY_MS) for miner in miners] for tick in range(ticks)]


def bodies(devices: int, ticks: int) -> list[bytes]:
    """The frames of those looks."""
    return [pack(LAYOUT, samples) for samples in looks(devices, ticks)]
