"""The catalogue: names carry their unit, each once, and a frame can hold what a row says."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.catalogue import METRICS, ORDER, Metric
from garrison.frame import MAX_DECIMALS, Column, Layout, Sample, pack, unpack

SUFFIX = {
    "H/s": "_hs", "W": "_w", "V": "_v", "A": "_a", "J": "_j", "°C": "_c", "rpm": "_rpm", "%": "_pct", "MHz": "_mhz",
    "s": "_s", "ms": "_ms", "B": "_bytes",
}  # fmt: skip
ROWS = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))


@ROWS
def test_the_name_has_the_unit(metric: Metric) -> None:
    """A unit of the table is the end of the name; a name with such an end has that unit."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    if metric.unit in SUFFIX:
        assert metric.name.endswith(SUFFIX[metric.unit])
    else:
        assert metric.unit in ("", "1")
        assert not any(metric.name.endswith(end) for end in SUFFIX.values())


@ROWS
def test_the_row_makes_sense(metric: Metric) -> None:
    """Decimals a frame takes, roll-up columns without doubles, a text; states and counters keep their last value."""
    assert 0 <= metric.decimals <= 6 <= MAX_DECIMALS
    assert metric.roll_up
    assert len(set(metric.roll_up)) == len(metric.roll_up)
    assert metric.text
    if metric.kind != "gauge":
        assert metric.roll_up == ("last",)
        assert metric.decimals == 0
    if metric.kind == "state":
        assert metric.unit == ""


def test_names_and_order() -> None:
    """Each row is found by its name, and its place is that of the catalogue."""
    assert [METRICS[name].name for name in METRICS] == list(METRICS) == sorted(ORDER, key=lambda name: ORDER[name])
    assert len(METRICS) == len(ORDER) == len(set(ORDER.values()))


def test_no_row_is_there_twice() -> None:
    """A dict would hide it."""
    from garrison import catalogue  # the tuple behind the dict is this test's alone

    assert len(catalogue._ALL) == len(METRICS)


@ROWS
@given(value=st.floats(0, 1e9) | st.integers(0, 2**53))
def test_a_quantised_value_is_never_odd(metric: Metric, value: float) -> None:
    """Rounded to its decimals, a plausible value costs a few bytes: no float64 beside the scaled integers."""
    kept = metric.quantise(value)
    assert kept is not None
    assert abs(kept - value) <= 0.5 * 10**-metric.decimals + 1e-6
    layout = Layout((Column(metric.name, "", metric.unit, metric.decimals),))
    body = pack(layout, [Sample(1, 1, {(metric.name, ""): kept})])
    assert unpack(layout, body)[0].values == {(metric.name, ""): kept}


@ROWS
def test_what_is_not_finite_is_no_value(metric: Metric) -> None:
    """None, never 0."""
    assert [metric.quantise(v) for v in (math.nan, math.inf, -math.inf)] == [None] * 3
