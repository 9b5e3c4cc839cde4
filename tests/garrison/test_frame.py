"""The frame codec: what goes in comes out, and a lie is refused before it costs anything."""

import math
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from garrison import frame
from garrison.catalogue import METRICS
from garrison.faults import BadFrame, BadInput
from garrison.frame import Column, Layout, Number, Sample, Series, device_key, pack, pack_look, parse, quantise, unpack

FIXTURES = Path(__file__).parents[1] / "fixtures" / "frames"
HEADER = struct.Struct("<2sBxIIII")

SERIES: tuple[Series, ...] = (
    ("state", ""),
    ("hashrate_hs", ""),
    ("power_w", ""),
    ("voltage_v", "gpu:GPU-1"),
    ("accepted", ""),
    ("temp_c", "board:0"),
    ("temp_c", "board:1"),
    ("load1", "cpu"),
)
LAYOUT = Layout.of(SERIES)

numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1000, 1000).map(lambda x: round(x, 1)),
    st.sampled_from([0, 0.0, -0.0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0**53]),
)
samples = st.builds(
    Sample,
    key=st.integers(0, 2**64 - 1),
    at_ms=st.integers(-(2**63), 2**63 - 1),
    values=st.dictionaries(st.sampled_from(SERIES), numbers),
)
looks = st.lists(samples, min_size=1, max_size=40)


def same(a: Number, b: Number) -> bool:
    """Equal, and a minus zero stays one."""
    return a == b and math.copysign(1, a) == math.copysign(1, b)


def fits(sample: Sample) -> bool:
    """An integer past 2^53 has no float64 of the same value: where decimals are kept it may have to be refused."""
    for (metric, _), value in sample.values.items():
        if isinstance(value, int) and METRICS[metric].decimals and float(value) != value:
            return False
    return True


@given(looks.map(lambda look: [s for s in look if fits(s)]).filter(bool))
@settings(max_examples=300)
def test_what_goes_in_comes_out(look: list[Sample]) -> None:
    """Any finite values, absent values, counters to 2^63, values that do not fit their decimals: equal after the trip."""
    back = unpack(LAYOUT, pack(LAYOUT, look))
    assert [(s.key, s.at_ms) for s in back] == [(s.key, s.at_ms) for s in look]
    for was, now in zip(look, back, strict=True):
        assert was.values.keys() == now.values.keys()
        for series, value in was.values.items():
            assert same(value, now.values[series]), (series, value, now.values[series])


@given(looks)
def test_what_is_packed_is_right_or_refused(look: list[Sample]) -> None:
    """A number that neither 64 bits nor a float64 holds is BadInput; nothing is rounded silently."""
    try:
        body = pack(LAYOUT, look)
    except BadInput:
        assert not all(fits(s) for s in look)
        return
    for was, now in zip(look, unpack(LAYOUT, body), strict=True):
        assert dict(was.values) == dict(now.values)


@given(looks)
def test_a_look_is_grouped_and_loses_nothing(look: list[Sample]) -> None:
    """`pack_look` may use several bodies; together they hold each sample that has a value."""
    look = [s for s in look if fits(s)]
    found = [s for layout, body in pack_look(look) for s in unpack(layout, body)]
    wanted = [s for s in look if s.values]
    order = lambda s: (s.key, s.at_ms, sorted(s.values), sorted(map(repr, s.values.values())))  # noqa: E731  # one use, one line
    assert [(s.key, s.at_ms, set(s.values)) for s in sorted(found, key=order)] == [
        (s.key, s.at_ms, set(s.values)) for s in sorted(wanted, key=order)
    ]


def test_a_counter_of_2_63_minus_1_is_exact() -> None:
    """Counters to 2^63 come back as the same integer, also beside zero."""
    look = [Sample(1, 5, {("accepted", ""): 2**63 - 1}), Sample(2, 5, {("accepted", ""): 0})]
    layout = Layout.of([("accepted", "")])
    assert [s.values[("accepted", "")] for s in unpack(layout, pack(layout, look))] == [2**63 - 1, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    """NaN and infinities are no values: `quantise` says None, `pack` refuses."""
    assert quantise(("power_w", ""), value) is None
    with pytest.raises(BadInput, match="finite"):
        pack(LAYOUT, [Sample(1, 1, {("power_w", ""): value})])


@pytest.mark.parametrize(
    ("look", "why"),
    [
        ([], "1 to"),
        ([Sample(-1, 1, {})], "64 bits"),
        ([Sample(2**64, 1, {})], "64 bits"),
        ([Sample(1, 2**63, {})], "64 bits"),
        ([Sample(1, 1, {("fan_rpm", "fan:1"): 1})], "outside the layout"),
        ([Sample(1, 1, {("accepted", ""): 2**63 + 1})], "neither 64 bits"),
    ],
)
def test_what_cannot_be_packed_says_why(look: list[Sample], why: str) -> None:
    """BadInput, in words."""
    with pytest.raises(BadInput, match=why):
        pack(LAYOUT, look)


@pytest.mark.parametrize(
    "columns",
    [
        (),
        tuple(Column("power_w", f"gpu:{i}", "W", 1) for i in range(frame.MAX_COLUMNS + 1)),
        (Column("power_w", "", "W", 400),),
        (Column("power_w", "", "W", -1),),
        (Column("power_w", "x" * 201, "W", 1),),
        (Column("power_w", "a\tW\t1\npower_w\tb", "W", 1),),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(columns: tuple[Column, ...]) -> None:
    """No columns, too many, decimals that would make a huge power of ten, names that could forge another layout's hash."""
    with pytest.raises(BadInput):
        Layout(columns)


def test_an_unknown_metric_has_no_layout() -> None:
    """`Layout.of` takes names of the catalogue only."""
    with pytest.raises(BadInput, match="no such metric: speed"):
        Layout.of([("speed", "")])


# ---- the format does not drift -------------------------------------------------------------------------------


def known_look() -> tuple[Layout, list[Sample]]:
    layout = Layout.of(
        [("state", ""), ("hashrate_hs", ""), ("power_w", ""), ("accepted", ""), ("temp_c", "board:0"), ("voltage_v", "")]
    )
    return layout, [
        Sample(device_key("mac:02:00:00:00:00:01"), 1_700_000_000_000, {("state", ""): 1, ("hashrate_hs", ""): 104_250_000_000_000,
               ("power_w", ""): 3250.5, ("accepted", ""): 2**63 - 1, ("temp_c", "board:0"): 71.5, ("voltage_v", ""): 1 / 3}),
        Sample(device_key("mac:02:00:00:00:00:02"), 1_700_000_000_250, {("state", ""): 8}),
        Sample(device_key("machine:0123"), 1_699_999_999_000, {("state", ""): 2, ("power_w", ""): -0.0, ("accepted", ""): 0,
               ("voltage_v", ""): 12.125}),
    ]  # fmt: skip


def test_known_answer_of_the_unpacked_bytes() -> None:
    """The bytes inside zstd, and those of the header, are those of the fixture: the format cannot change by accident.

    The compressed bytes are not pinned: another zstd may choose others for the same content.
    """
    layout, look = known_look()
    body = pack(layout, look)
    plain = zstandard.ZstdDecompressor().decompress(body[HEADER.size :])
    assert body[: HEADER.size] == HEADER.pack(b"GF", 1, 3, 6, len(plain), zlib.crc32(plain))
    assert plain == bytes.fromhex((FIXTURES / "known-v1.plain.hex").read_text())


def test_a_body_written_long_ago_is_read() -> None:
    """The committed body decodes to the same samples: journals and histories on disk stay readable."""
    layout, look = known_look()
    body = bytes.fromhex((FIXTURES / "known-v1.body.hex").read_text())
    assert unpack(layout, body) == look
    minus_zero = unpack(layout, body)[2].values[("power_w", "")]
    assert math.copysign(1, minus_zero) == -1


def test_known_hashes() -> None:
    """Keys and layout hashes are stored on disk on both sides."""
    layout, _ = known_look()
    assert layout.hash.hex() == "a5145625dd5df4a6e3da38f5261058ad"
    assert f"{device_key('mac:02:00:00:00:00:01'):016x}" == "bf4c4ae5dbb84c33"


# ---- lies ----------------------------------------------------------------------------------------------------


def body_of(
    plain: bytes, samples: int = 1, columns: int = len(LAYOUT.columns), size: int | None = None, crc: int | None = None
) -> bytes:
    """A body with a header that says what the test wants it to say."""
    head = HEADER.pack(b"GF", 1, samples, columns, len(plain) if size is None else size, zlib.crc32(plain) if crc is None else crc)
    return head + zstandard.ZstdCompressor(level=1).compress(plain)


def read(layout: Layout, body: bytes) -> list[Sample] | None:
    """Samples, or None when refused. Anything but BadFrame fails the test that calls."""
    try:
        return unpack(layout, body)
    except BadFrame:
        return None


GOOD = pack(
    LAYOUT, [Sample(i, 1_700_000_000_000 + i, {("hashrate_hs", ""): i * 10**12, ("power_w", ""): 1 / (i + 1)}) for i in range(20)]
)
GOOD_PLAIN = zstandard.ZstdDecompressor().decompress(GOOD[HEADER.size :])


def test_each_truncation_is_refused() -> None:
    """A frame cut at any byte, and one with bytes behind it."""
    for end in range(len(GOOD)):
        assert read(LAYOUT, GOOD[:end]) is None
    assert read(LAYOUT, GOOD + b"\0") is None


def test_each_flipped_bit_is_refused_or_harmless() -> None:
    """One bit turned anywhere: refused, or (zstd has bits that mean nothing) the same samples."""
    truth = unpack(LAYOUT, GOOD)
    for at in range(len(GOOD)):
        for bit in range(8):
            bent = bytearray(GOOD)
            bent[at] ^= 1 << bit
            assert read(LAYOUT, bytes(bent)) in (None, truth)


@given(st.binary(max_size=400))
@example(b"")
@example(b"GF\x01\x00" + b"\xff" * 16)
def test_noise_is_refused(noise: bytes) -> None:
    """Any bytes give BadFrame and nothing else."""
    assert read(LAYOUT, noise) is None
    assert read(LAYOUT, GOOD[: HEADER.size] + noise) is None


@given(st.data())
@settings(max_examples=300)
def test_bent_content_with_a_right_checksum_is_refused_or_finite(data: st.DataObject) -> None:
    """Content that lies behind honest sizes and checksum: BadFrame, or finite values inside their ranges."""
    bent = bytearray(GOOD_PLAIN)
    for _ in range(data.draw(st.integers(1, 4))):
        bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    found = read(LAYOUT, body_of(bytes(bent), samples=20))
    for sample in found or []:
        assert -(2**63) <= sample.at_ms < 2**63
        assert all(math.isfinite(value) for value in sample.values.values())


@given(st.binary(max_size=600), st.integers(1, 40))
@settings(max_examples=300)
def test_made_up_content_is_refused_or_finite(plain: bytes, samples: int) -> None:
    """The same with content that was never a frame."""
    for sample in read(LAYOUT, body_of(plain, samples=samples)) or []:
        assert all(math.isfinite(value) for value in sample.values.values())


column = struct.Struct("<BBq")
KEY_AND_TIME = bytes(8) + column.pack(0, 0, 5)
ONE = Layout.of([("power_w", "")])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"GG" + GOOD[2:], "not a frame"),
        (b"GF\x02" + GOOD[3:], "frame version 2"),
        (body_of(b"", samples=0), "0 samples"),
        (body_of(b"", samples=frame.MAX_SAMPLES + 1), "samples"),
        (body_of(b"", columns=7), "7 columns, but the layout has 8"),
        (body_of(b"x", size=2**32 - 1), "more than its 1 samples can be"),
        (body_of(b"x" * 100, size=99), "its zstd header 100"),
        (body_of(b"x" * 100, crc=1), "checksum"),
        (GOOD[: HEADER.size] + b"not zstd at all", "zstd header -1|does not unpack|zstd header"),
    ],
)
def test_a_lie_in_the_header(body: bytes, why: str) -> None:
    """Each has its own words."""
    with pytest.raises(BadFrame, match=why):
        unpack(LAYOUT, body)


@pytest.mark.parametrize(
    ("plain", "why"),
    [
        (KEY_AND_TIME[:12], "left"),
        (KEY_AND_TIME + column.pack(9, 0, 0), "width 9"),
        (KEY_AND_TIME + column.pack(0, 4, 0), "flags 4"),
        (KEY_AND_TIME + column.pack(1, 0, 0), "1 bytes wanted, 0 left"),
        (KEY_AND_TIME + column.pack(0, 1, 0) + b"\x03", "validity bits behind"),
        (KEY_AND_TIME + column.pack(1, 0, 2**63 - 1) + b"\x01", "above 2\\^63"),
        (KEY_AND_TIME + column.pack(0, 2, 0) + struct.pack("<HId", 1, 1, 1.5), "exact value for sample 1"),
        (KEY_AND_TIME + column.pack(0, 3, 0) + b"\x00" + struct.pack("<HId", 1, 0, 1.5), "exact value for sample 0"),
        (KEY_AND_TIME + column.pack(0, 2, 0) + struct.pack("<HIdId", 2, 0, 1.5, 0, 1.5), "exact value"),
        (KEY_AND_TIME + column.pack(0, 2, 0) + struct.pack("<HId", 1, 0, math.nan), "not finite"),
        (KEY_AND_TIME + column.pack(0, 2, 0) + struct.pack("<HId", 1, 0, math.inf), "not finite"),
        (KEY_AND_TIME + column.pack(0, 0, 0) + b"\x00", "1 bytes behind"),
        (bytes(8) + column.pack(0, 1, 5) + b"\x00" + column.pack(0, 0, 0), "without a time"),
    ],
)
def test_a_lie_in_the_content(plain: bytes, why: str) -> None:
    """Each has its own words."""
    with pytest.raises(BadFrame, match=why):
        unpack(ONE, body_of(plain, columns=1))


def peak_of(layout: Layout, body: bytes) -> int:
    """Bytes that reading (and refusing) took at most."""
    tracemalloc.start()
    try:
        assert read(layout, body) is None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_costs_nothing() -> None:
    """A body of a few kilobytes that says, or is, 64 MB: refused without that memory."""
    zeros = bytes(64 * 1024 * 1024)
    packed = zstandard.ZstdCompressor(level=1).compress(zeros)
    assert len(packed) < 10_000
    for size in (len(zeros), 1000):
        head = HEADER.pack(b"GF", 1, 1, len(LAYOUT.columns), size, zlib.crc32(zeros))
        assert peak_of(LAYOUT, head + packed) < 200_000


def test_many_empty_columns_do_not_become_many_values() -> None:
    """20,000 samples of 2,000 empty columns are a few kilobytes packed and 40 million values to the reader: refused."""
    wide = Layout(tuple(Column("power_w", f"gpu:{i}", "W", 1) for i in range(frame.MAX_COLUMNS)))
    plain = bytes(8 * frame.MAX_SAMPLES) + column.pack(0, 0, 5) + column.pack(0, 0, 0) * frame.MAX_COLUMNS
    body = body_of(plain, samples=frame.MAX_SAMPLES, columns=frame.MAX_COLUMNS)
    assert len(body) < 20_000
    assert peak_of(wide, body) < 200_000


def test_the_largest_look_passes() -> None:
    """What is allowed works: as many samples as a frame of three columns may hold, and more in two bodies."""
    layout = Layout.of([("state", ""), ("look_ok", ""), ("power_w", "")])
    look = [Sample(i, i, {("state", ""): 1, ("look_ok", ""): 1, ("power_w", ""): i / 10}) for i in range(frame.MAX_SAMPLES + 1)]
    assert parse(layout, pack(layout, look[:-1])).samples == frame.MAX_SAMPLES
    assert [parse(layout, body).samples for layout, body in pack_look(look)] == [frame.MAX_SAMPLES, 1]
