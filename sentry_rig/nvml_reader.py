"""The helper process that calls NVML: one line in, one JSON line out. Run by `nvidia.py`, as `python -m sentry_rig.nvml_reader`.

Imports little on purpose: it is one more Python on each NVIDIA rig. Every single value is optional, because every single
call may be NOT_SUPPORTED on some card, and all of them fail once a card fell off the bus.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml

_MAX_TEMP_C = 120
"""Above this a driver of a crashed card makes figures up (511 °C and 460 °C were seen)."""


def look() -> dict[str, Any]:
    """{"cards": [{uuid, pci, name, vbios, lost, values}], "driver", "lost": how many cards could not even be named}."""
    cards: list[dict[str, Any]] = []
    nameless = 0
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            nameless += 1 if _lost(error) else 0
            continue
        card = _card(handle)
        if card["uuid"]:
            cards.append(card)
        else:
            nameless += 1
    return {"cards": cards, "lost": nameless, "driver": _word(pynvml.nvmlSystemGetDriverVersion)}


def _card(handle: Any) -> dict[str, Any]:
    lost = False
    values: dict[str, int | float] = {}

    def ask(name: str, call: Callable[[], Any], scale: float = 1, most: float | None = None) -> None:
        nonlocal lost
        try:
            value = call()
        except pynvml.NVMLError as error:
            lost = lost or _lost(error)
            return
        if isinstance(value, int | float) and value >= 0 and (most is None or value <= most):
            values[name] = value * scale if scale != 1 else value

    ask("temp_c", lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU), most=_MAX_TEMP_C)
    ask("memory_temp_c", lambda: _field(handle, pynvml.NVML_FI_DEV_MEMORY_TEMP), most=_MAX_TEMP_C)
    ask("power_w", lambda: pynvml.nvmlDeviceGetPowerUsage(handle), 0.001)
    ask("power_limit_w", lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle), 0.001)
    ask("energy_j", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) // 1000)
    ask("fan_pct", lambda: max(pynvml.nvmlDeviceGetFanSpeed_v2(handle, fan) for fan in range(_fans(handle))))
    ask("core_clock_mhz", lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS))
    ask("memory_clock_mhz", lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM))
    ask("utilisation_pct", lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, most=100)
    ask("memory_used_bytes", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    ask("memory_total_bytes", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    ask("throttle_reasons", lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    ask("pstate", lambda: pynvml.nvmlDeviceGetPerformanceState(handle), most=15)
    ask("pcie_replays", lambda: pynvml.nvmlDeviceGetPcieReplayCounter(handle))
    return {
        "uuid": _word(pynvml.nvmlDeviceGetUUID, handle),
        "pci": _word(lambda: pynvml.nvmlDeviceGetPciInfo(handle).busId),
        "name": _word(pynvml.nvmlDeviceGetName, handle),
        "vbios": _word(pynvml.nvmlDeviceGetVbiosVersion, handle),
        "lost": lost,
        "values": values,
    }


def _fans(handle: Any) -> int:
    count = int(pynvml.nvmlDeviceGetNumFans(handle))
    if count == 0:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return count


def _field(handle: Any, number: int) -> int:
    field = pynvml.nvmlDeviceGetFieldValues(handle, [number])[0]
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    return int(field.value.uiVal)


def _word(call: Callable[..., Any], *arguments: Any) -> str:
    try:
        value = call(*arguments)
    except pynvml.NVMLError:
        return ""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))[:128]


def _lost(error: Any) -> bool:
    return error.value in {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}


def main() -> int:
    """Answers each line until its input ends: with the sentry, the helper ends."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = error.value in {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
        _say({"absent": absent, "fault": str(error)})
        return 0
    _say({"ready": True})
    for _ in sys.stdin:
        try:
            _say(look())
        except pynvml.NVMLError as error:
            _say({"fault": str(error)})
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
