"""Whether an answer of the history benchmark is what was fed. Each raises a RuntimeError over one that is not.

`theirs_…` take what VictoriaMetrics and Prometheus answer, all others ours. Values are held against each other exactly; a peer's
to 12 digits, and sums of many to as many as adding them up in another order leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.history_data import Floats, Ints
from bench.history_farm import name
from garrison.catalogue import METRICS
from garrison.frame import Layout, Series

_DIGITS = 1e-12
_SUM_DIGITS = 1e-9
_ROUNDED = 1.1e-4
"""Roll-ups keep averages to five digits and one decimal more than the metric has, and round again when they make longer steps."""

Expected = Mapping[Series, Floats]
"""By series: one value a look."""


def _found(told: Any) -> dict[Series, Any]:
    """A peer's result by metric and component."""
    return {(one["metric"]["__name__"], one["metric"].get("component", "")): one["values"] for one in told["data"]["result"]}


def _same(found: set[Series], wanted: set[Series]) -> None:
    if found != wanted:
        raise RuntimeError(f"{len(found)} series were told, not {len(wanted)}: {sorted(found ^ wanted)[:5]}")


# ---- one device --------------------------------------------------------------------------------------------


def looks(told: Any, at_ms: Ints, expected: Expected) -> None:
    found = {(one["metric"], one["component"]): one["values"] for one in told["series"]}
    _same(set(found), set(expected))
    if told["step_ms"] is not None or told["at_ms"] != at_ms.tolist():
        raise RuntimeError(f"{len(told['at_ms'])} times were told, which are not those of the {len(at_ms)} looks")
    for series, values in expected.items():
        if found[series] != values.tolist():
            raise RuntimeError(f"{series}: other values were told than were fed")


def theirs_looks(told: Any, at_ms: Ints, expected: Expected) -> None:
    found = _found(told)
    _same(set(found), set(expected))
    for series, values in expected.items():
        times = np.array([at for at, _ in found[series]])
        if len(times) != len(at_ms) or not np.allclose(times * 1000, at_ms, rtol=0, atol=0.5):
            raise RuntimeError(f"{series}: {len(times)} times were told, which are not those of the {len(at_ms)} looks")
        if not np.allclose([float(v) for _, v in found[series]], values, rtol=_DIGITS, atol=0):
            raise RuntimeError(f"{series}: other values were told than were fed")


def steps(told: Any, at_ms: Ints, expected: Expected) -> None:
    """A chart: every look is counted, and averages are those of the looks, to the digits that roll-ups keep."""
    step_ms = told["step_ms"]
    if not step_ms:
        raise RuntimeError("looks were told, not steps")
    found = {(one["metric"], one["component"]): one for one in told["series"]}
    _same(set(found), set(expected))
    place = (at_ms - told["at_ms"][0]) // step_ms
    size = len(told["at_ms"])
    count = np.bincount(place, minlength=size)
    for series, values in expected.items():
        if found[series]["count"] != count.tolist():
            raise RuntimeError(f"{series}: {sum(found[series]['count'])} looks are counted, not {len(at_ms)}")
        if "avg" in found[series]:
            mean = np.bincount(place, weights=values, minlength=size) / count
            tenth = 10.0 ** -METRICS[series[0]].decimals / 10
            _near(found[series]["avg"], mean, float(np.abs(values).max()) * _ROUNDED + 1.1 * tenth, str(series))


# ---- many devices ------------------------------------------------------------------------------------------


def latest(told: Any, layout: Layout, scaled: Ints, at_ms: Ints) -> None:
    """`scaled`: [column, device], of the last look at each device; a device's id is its number + 1."""
    values = _values(layout, scaled)
    left = set(range(len(at_ms)))
    for block in told["blocks"]:
        numbers = np.array(block["devices"]) - 1
        left -= set(numbers.tolist())
        series = [(one["metric"], one["component"]) for one in block["columns"]]
        _same(set(series), set(layout.places))
        if block["names"] != [name(number) for number in numbers.tolist()] or block["at_ms"] != at_ms[numbers].tolist():
            raise RuntimeError("other names or times were told than were fed")
        rows = [layout.places[one] for one in series]
        if not np.array_equal(np.array(block["values"], np.float64), values[rows][:, numbers]):
            raise RuntimeError("other latest values were told than were fed")
    if left:
        raise RuntimeError(f"the latest values of {len(left)} devices are missing")


def theirs_latest(told: Any, layout: Layout, scaled: Ints) -> None:
    values = _values(layout, scaled)
    found = np.full(values.shape, np.nan)
    for one in told["data"]["result"]:
        place = layout.places[one["metric"]["__name__"], one["metric"].get("component", "")]
        found[place, int(one["metric"]["device"].rpartition("-")[2])] = float(one["value"][1])
    if not np.allclose(found, values, rtol=_DIGITS, atol=0):
        raise RuntimeError("other latest values were told than were fed")


def top(told: Any, layout: Layout, scaled: Ints, metric: str, count: int) -> None:
    """The highest of each device, of whichever part of it."""
    places = [place for (known, _), place in layout.places.items() if known == metric]
    highest = _values(layout, scaled)[places].max(axis=0)
    numbers = [one["id"] - 1 for one in told["devices"]]
    found = [one["value"] for one in told["devices"]]
    if found != sorted(highest.tolist(), reverse=True)[:count] or found != highest[numbers].tolist():
        raise RuntimeError(f"{found} were told as the highest")


def theirs_top(told: Any, layout: Layout, scaled: Ints, series: Series, count: int) -> None:
    highest = sorted(_values(layout, scaled)[layout.places[series]].tolist(), reverse=True)[:count]
    found = sorted((float(one["value"][1]) for one in told["data"]["result"]), reverse=True)
    if found != highest:
        raise RuntimeError(f"{found} were told as the highest, not {highest}")


def farm(told: Any, expected: Floats) -> None:
    """One group, one value a step."""
    (group,) = told["groups"]
    _near(group["values"], expected, float(np.abs(expected).max()) * _SUM_DIGITS, "the farm")


def theirs_farm(told: Any, expected: Floats) -> None:
    (line,) = told["data"]["result"]
    _near([float(v) for _, v in line["values"]], expected, float(np.abs(expected).max()) * _SUM_DIGITS, "the farm")


def _values(layout: Layout, scaled: Ints) -> Floats:
    units: Floats = np.array([[10.0**column.decimals] for column in layout.columns])
    told: Floats = scaled / units
    return told


def _near(told: Sequence[float | None], expected: Floats, within: float, what: str) -> None:
    if len(told) != len(expected) or None in told:
        raise RuntimeError(f"{what}: {len(told)} steps were told, {list(told).count(None)} of them empty, not {len(expected)}")
    worst = float(np.max(np.abs(np.array(told, np.float64) - expected)))
    if worst > within:
        raise RuntimeError(f"{what}: an answer is off by {worst:g}")
