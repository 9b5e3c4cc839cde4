"""The frame codec: one look at many devices of the same layout, as scaled integers in columns.

A body is `MAGIC`, version, sizes, CRC-32 and one zstd frame. Unpacked, it holds in this order:

    keys        n * 8 bytes     device keys, unsigned, byte-shuffled
    times       column          sample times, milliseconds since 1970 UTC
    columns     m columns       in the order of the layout

A column is: width (1 byte, 0..8), flags (1 byte), base (8 bytes, signed), then
    validity    ceil(n / 8)     only with flag ABSENT: bit i (least first) set: sample i has a value
    planes      width * k       value minus base, unsigned, least byte plane first; k is the number of set bits
    odd ones    2 + c * 12      only with flag EXACT: count, then index (4 bytes) and float64, for values that
                                scaling to the column's decimals would change, or that do not fit 64 bits

All integers are little-endian. A frame stands alone: it needs its layout, and no earlier frame. What goes in comes
out: a float is scaled only where scaling back gives the same float. Samplers round to the catalogue's decimals first,
so that odd ones stay rare. Cost is per column, so pack all devices of one look into one frame.
"""

from __future__ import annotations

import array
import hashlib
import math
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import zstandard

from garrison.catalogue import METRICS, ORDER
from garrison.faults import BadFrame, BadInput

MAGIC = b"GF"
VERSION = 1
MAX_SAMPLES = 20_000
MAX_COLUMNS = 2_000
MAX_VALUES = 1_000_000
"""Samples times columns: an empty column costs a frame 10 bytes, but its reader a list as long as the frame."""
MAX_DECIMALS = 12
MAX_TEXT = 200
_HEADER = struct.Struct("<2sBxIIII")  # magic, version, samples, columns, unpacked size, CRC-32 of the unpacked bytes
_COLUMN = struct.Struct("<BBq")
_COUNT = struct.Struct("<H")
_ODD = struct.Struct("<Id")
_ABSENT, _EXACT = 1, 2
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_MAX_ODD = 0xFFFF

Number = int | float
Series = tuple[str, str]
"""Metric name and component ("" for the device itself)."""


@dataclass(frozen=True, slots=True)
class Column:
    metric: str
    component: str
    unit: str
    decimals: int


@dataclass(frozen=True)
class Layout:
    """Ordered metrics. Announced once, then named by `hash` (16 bytes). BadInput: none, too many, or texts that make no sense."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.columns) <= MAX_COLUMNS:
            raise BadInput(f"a layout has 1 to {MAX_COLUMNS} columns, not {len(self.columns)}")
        for column in self.columns:
            if not 0 <= column.decimals <= MAX_DECIMALS:
                raise BadInput(f"a column of {column.decimals} decimals: 0 to {MAX_DECIMALS}")
            for text in (column.metric, column.component, column.unit):
                # a tab or line end would let two layouts have one hash
                if len(text) > MAX_TEXT or "\t" in text or "\n" in text:
                    raise BadInput(f"not a name for a column: {text[:40]!r}")

    @cached_property
    def hash(self) -> bytes:
        text = "\n".join(f"{c.metric}\t{c.component}\t{c.unit}\t{c.decimals}" for c in self.columns)
        return hashlib.blake2b(text.encode(), digest_size=16, person=b"garrison.layout").digest()

    @cached_property
    def places(self) -> dict[Series, int]:
        return {(c.metric, c.component): place for place, c in enumerate(self.columns)}

    @staticmethod
    def of(series: Iterable[Series]) -> Layout:
        """The layout for these series, in the catalogue's order. An unknown metric is BadInput."""
        wanted = set(series)
        unknown = sorted({metric for metric, _ in wanted} - METRICS.keys())
        if unknown:
            raise BadInput(f"no such metric: {', '.join(unknown)}", hint="garrison/catalogue.py lists them")
        ordered = sorted(wanted, key=lambda s: (ORDER[s[0]], s[1]))
        return Layout(tuple(Column(m, c, METRICS[m].unit, METRICS[m].decimals) for m, c in ordered))


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one device. A value that was not read is not in `values`."""

    key: int
    at_ms: int
    values: Mapping[Series, Number] = field(default_factory=dict)


def device_key(identity: str) -> int:
    """The 64-bit key of a device in frames, from its identity ("mac:…", "machine:…")."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8, person=b"garrison.device").digest(), "little")


def quantise(series: Series, value: Number) -> Number | None:
    """The value rounded to the catalogue's decimals; None when it is not finite."""
    return METRICS[series[0]].quantise(value)


# ---- packing -----------------------------------------------------------------------------------------------


def pack(layout: Layout, samples: Sequence[Sample]) -> bytes:
    """The body for these samples, in their order. BadInput: too many, a value outside the layout, not finite."""
    if not 0 < len(samples) <= _most_samples(len(layout.columns)):
        raise BadInput(f"a frame holds 1 to {_most_samples(len(layout.columns))} samples of this layout, not {len(samples)}")
    known = layout.places.keys()
    for sample in samples:
        if not sample.values.keys() <= known:
            strange = next(iter(sample.values.keys() - known))
            raise BadInput(f"value outside the layout: {strange[0]} of {strange[1] or 'the device'}")
        if not (0 <= sample.key < 2**64 and _INT_MIN <= sample.at_ms <= _INT_MAX):
            raise BadInput(f"a sample with the key {sample.key} at {sample.at_ms} ms: they do not fit 64 bits")
    keys = array.array("Q", [sample.key for sample in samples])
    parts = [_planes(keys, 8), _pack_column([sample.at_ms for sample in samples], 0)]
    for column in layout.columns:
        series = (column.metric, column.component)
        parts.append(_pack_column([sample.values.get(series) for sample in samples], column.decimals))
    plain = b"".join(parts)
    head = _HEADER.pack(MAGIC, VERSION, len(samples), len(layout.columns), len(plain), zlib.crc32(plain))
    return head + zstandard.ZstdCompressor(level=1, write_content_size=True).compress(plain)


def pack_look(samples: Iterable[Sample]) -> list[tuple[Layout, bytes]]:
    """The samples grouped by the series they carry, one body a group."""
    groups: dict[frozenset[Series], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(frozenset(sample.values), []).append(sample)
    bodies: list[tuple[Layout, bytes]] = []
    for series, group in groups.items():
        if series:
            layout = _layout_of(series)
            step = _most_samples(len(series))
            bodies += [(layout, pack(layout, group[i : i + step])) for i in range(0, len(group), step)]
    return bodies


def _most_samples(columns: int) -> int:
    return min(MAX_SAMPLES, MAX_VALUES // columns)


def _most_unpacked(samples: int, columns: int) -> int:
    """The longest that a frame of this many samples and columns can be: every value 8 bytes and an odd one."""
    column = _COLUMN.size + (samples + 7) // 8 + 8 * samples + _COUNT.size + min(samples, _MAX_ODD) * _ODD.size
    return 8 * samples + (columns + 1) * column


@lru_cache(maxsize=1024)
def _layout_of(series: frozenset[Series]) -> Layout:
    return Layout.of(series)


def _pack_column(values: Sequence[Number | None], decimals: int) -> bytes:
    scaled: list[int] = []
    odd: list[tuple[int, float]] = []
    present = 0
    valid = bytearray((len(values) + 7) // 8)
    for i, value in enumerate(values):
        if value is None:
            continue
        present += 1
        valid[i >> 3] |= 1 << (i & 7)
        whole = _scale(value, decimals)
        if whole is None:
            odd.append((i, _exact(value)))
            scaled.append(scaled[-1] if scaled else 0)
        else:
            scaled.append(whole)
    flags = (_ABSENT if present < len(values) else 0) | (_EXACT if odd else 0)
    base = min(scaled, default=0)
    reach = max(scaled, default=0) - base
    width = (reach.bit_length() + 7) // 8
    parts = [_COLUMN.pack(width, flags, base)]
    if flags & _ABSENT:
        parts.append(bytes(valid))
    if width:
        parts.append(_planes(array.array("Q", [number - base for number in scaled]), width))
    if odd:
        if len(odd) > _MAX_ODD:
            raise BadInput(f"more than {_MAX_ODD} values that do not fit their decimals in one column")
        parts.append(_COUNT.pack(len(odd)))
        parts += [_ODD.pack(i, value) for i, value in odd]
    return b"".join(parts)


def _scale(value: Number, decimals: int) -> int | None:
    """The scaled integer, or None where scaling would change the value."""
    if isinstance(value, int):
        whole = value * 10**decimals
        return whole if _INT_MIN <= whole <= _INT_MAX and (decimals == 0 or abs(value) <= 2**53) else None
    if not math.isfinite(value):
        raise BadInput(f"not a finite value: {value}", hint="leave out what is not known")
    if abs(value) >= 2**53:
        return None
    whole = round(value * 10**decimals)
    if decimals == 0 or not _INT_MIN <= whole <= _INT_MAX:
        # decimals 0 come out as integers: a float goes in only when it is one
        return whole if decimals == 0 and whole == value and not (whole == 0 and math.copysign(1, value) < 0) else None
    back = whole / 10**decimals
    return whole if back == value and math.copysign(1, back) == math.copysign(1, value) else None


def _exact(value: Number) -> float:
    if isinstance(value, float):
        return value
    as_float = float(value) if abs(value) < 2**1024 - 2**970 else math.inf
    if as_float != value:
        raise BadInput(f"{value} fits neither 64 bits nor a float64")
    return as_float


def _planes(numbers: array.array[int], width: int) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    raw = numbers.tobytes()
    return b"".join(raw[plane::8] for plane in range(width))


# ---- unpacking ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawColumn:
    """A column as it lies in the frame, checked. `planes` has `width` planes of as many bytes as values are present."""

    decimals: int
    width: int
    base: int
    valid: bytes | None
    present: int
    planes: memoryview
    odd: tuple[tuple[int, float], ...]

    def scaled(self) -> list[int]:
        """The present values, scaled, in order; odd ones hold a stand-in."""
        return [offset + self.base for offset in _offsets(self.planes, self.width, self.present)]

    def values(self, samples: int) -> list[Number | None]:
        """One value a sample, None where absent."""
        present: list[Number] = list(self.scaled())
        if self.decimals:
            unit = 10**self.decimals
            present = [number / unit for number in present]
        if self.valid is None:
            every: list[Number | None] = list(present)
        else:
            follow = iter(present)
            every = [next(follow) if self.valid[i >> 3] >> (i & 7) & 1 else None for i in range(samples)]
        for i, value in self.odd:
            every[i] = value
        return every


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A checked frame whose columns are not yet turned into numbers."""

    layout: Layout
    samples: int
    key_planes: memoryview
    times: RawColumn
    columns: tuple[RawColumn, ...]

    def keys(self) -> list[int]:
        return list(_offsets(self.key_planes, 8, self.samples))

    def times_ms(self) -> list[int]:
        return self.times.scaled()


def parse(layout: Layout, body: bytes) -> RawFrame:
    """Checks everything a frame says about itself. BadFrame tells the first thing that is not true."""
    if len(body) < _HEADER.size:
        raise BadFrame(f"a frame of {len(body)} bytes is too short")
    magic, version, samples, columns, size, checksum = _HEADER.unpack_from(body)
    if magic != MAGIC:
        raise BadFrame("not a frame")
    if version != VERSION:
        raise BadFrame(f"frame version {version}, this program reads {VERSION}", hint="update the commander")
    if not 0 < samples <= _most_samples(len(layout.columns)):
        raise BadFrame(f"a frame of {samples} samples in {len(layout.columns)} columns")
    if columns != len(layout.columns):
        raise BadFrame(f"{columns} columns, but the layout has {len(layout.columns)}")
    if size > _most_unpacked(samples, columns):
        raise BadFrame(f"the frame says it unpacks to {size} bytes, more than its {samples} samples can be")
    plain = _unpack(body[_HEADER.size :], size)
    if zlib.crc32(plain) != checksum:
        raise BadFrame("the frame's checksum is wrong")
    reader = _Reader(memoryview(plain))
    key_planes = reader.take(8 * samples)
    times = reader.column(samples, 0)
    if times.valid is not None or times.odd:
        raise BadFrame("a sample without a time")
    parsed = RawFrame(layout, samples, key_planes, times, tuple(reader.column(samples, c.decimals) for c in layout.columns))
    if reader.left:
        raise BadFrame(f"{reader.left} bytes behind the last column")
    return parsed


def unpack(layout: Layout, body: bytes) -> list[Sample]:
    """The samples of a body. Raises BadFrame."""
    raw = parse(layout, body)
    columns = [column.values(raw.samples) for column in raw.columns]
    series = [(c.metric, c.component) for c in layout.columns]
    keys, times = raw.keys(), raw.times_ms()
    rows = zip(*columns, strict=True)
    return [
        Sample(key, at_ms, {s: v for s, v in zip(series, row, strict=True) if v is not None})
        for key, at_ms, row in zip(keys, times, rows, strict=True)
    ]


def _unpack(packed: bytes, size: int) -> bytes:
    try:
        told = zstandard.frame_content_size(packed)
        if told != size:
            raise BadFrame(f"the frame says {size} bytes, its zstd header {told}")
        plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadFrame(f"the frame does not unpack: {error}") from error
    if len(plain) != size:
        raise BadFrame(f"the frame says {size} bytes and unpacks to {len(plain)}")
    return plain


def _offsets(planes: memoryview, width: int, count: int) -> Sequence[int]:
    if not width:
        return [0] * count
    raw = bytearray(8 * count)
    for plane in range(width):
        raw[plane::8] = planes[plane * count : (plane + 1) * count]
    numbers = array.array("Q")
    numbers.frombytes(raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


class _Reader:
    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, count: int) -> memoryview:
        if count > self.left:
            raise BadFrame(f"{count} bytes wanted, {self.left} left")
        self._at += count
        return self._view[self._at - count : self._at]

    def column(self, samples: int, decimals: int) -> RawColumn:
        width, flags, base = _COLUMN.unpack(self.take(_COLUMN.size))
        if width > 8 or flags & ~(_ABSENT | _EXACT):
            raise BadFrame(f"a column of width {width} and flags {flags}")
        valid = self._validity(samples) if flags & _ABSENT else None
        present = samples if valid is None else int.from_bytes(valid, "little").bit_count()
        planes = self.take(width * present)
        _check_reach(planes, present, base)
        odd = self._odd(samples, valid) if flags & _EXACT else ()
        return RawColumn(decimals, width, base, valid, present, planes, odd)

    def _validity(self, samples: int) -> bytes:
        valid = bytes(self.take((samples + 7) // 8))
        if samples % 8 and valid[-1] >> (samples % 8):
            raise BadFrame("validity bits behind the last sample")
        return valid

    def _odd(self, samples: int, valid: bytes | None) -> tuple[tuple[int, float], ...]:
        (count,) = _COUNT.unpack(self.take(_COUNT.size))
        odd: list[tuple[int, float]] = []
        last = -1
        for _ in range(count):
            i, value = _ODD.unpack(self.take(_ODD.size))
            if not last < i < samples or (valid is not None and not valid[i >> 3] >> (i & 7) & 1):
                raise BadFrame(f"an exact value for sample {i}, which has none")
            if not math.isfinite(value):
                raise BadFrame("a value that is not finite")
            odd.append((i, value))
            last = i
        return tuple(odd)


def _check_reach(planes: memoryview, count: int, base: int) -> None:
    """No value may leave 64 signed bits."""
    width = len(planes) // count if count else 0
    if not width or base + (1 << (8 * width)) - 1 <= _INT_MAX:
        return
    if max(_offsets(planes, width, count)) + base > _INT_MAX:
        raise BadFrame("a value above 2^63")
