"""Tests of columns: numpy reads from a frame exactly what the plain decoder reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from commander.telemetry import columns
from garrison.frame import Layout, Number, Sample, Series, pack, parse, unpack

ALL: tuple[Series, ...] = (("accepted", ""), ("power_w", ""), ("voltage_v", "board:1"), ("state", ""))
LAYOUT = Layout.of(ALL)
NUMBERS: st.SearchStrategy[Number] = (
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(0, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**6), 10**6).map(lambda n: n / 1000)
)


def _fits(value: Number, decimals: int) -> bool:
    return not isinstance(value, int) or decimals == 0 or abs(value) <= 2**53


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    found = []
    for _ in range(draw(st.integers(1, 40))):
        values = {}
        for column in LAYOUT.columns:
            value = draw(st.none() | NUMBERS)
            if value is not None and _fits(value, column.decimals):
                values[column.metric, column.component] = value
        found.append(Sample(draw(st.integers(0, 2**64 - 1)), draw(st.integers(-(2**62), 2**62)), values))
    return found


@given(samples())
def test_same_as_the_plain_decoder(given_samples: list[Sample]) -> None:
    """Keys, times, presence and every value, in bulk and one at a time; and how many values there are."""
    raw = parse(LAYOUT, pack(LAYOUT, given_samples))
    look = columns.look(raw)
    plain = unpack(LAYOUT, pack(LAYOUT, given_samples))
    assert look.keys.tolist() == [sample.key for sample in plain]
    assert look.at_ms.tolist() == [sample.at_ms for sample in plain]
    assert look.values == sum(len(sample.values) for sample in plain)
    for place, column in enumerate(LAYOUT.columns):
        for i, sample in enumerate(plain):
            wanted = sample.values.get((column.metric, column.component))
            scaled = columns.scaled_at(raw.columns[place], i)
            alone = None if scaled is None else dict(raw.columns[place].odd).get(i, columns.number(scaled, column.decimals))
            assert alone == wanted
            assert type(alone) is type(wanted)
            there = look.valid is None or bool(look.valid[place, i])
            assert there == (wanted is not None)
            if there:
                bulk = look.odd.get((place, i), columns.number(int(look.scaled[place, i]), column.decimals))
                assert bulk == wanted
