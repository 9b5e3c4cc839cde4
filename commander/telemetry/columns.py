"""Frames as numpy arrays: the one place where a frame's columns become numbers by the thousand.

Values stay scaled integers (value * 10**decimals), so that nothing is rounded on the way to memory and disk; `number`
turns one into what the sentry read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from garrison.frame import Layout, Number, RawColumn, RawFrame

Ints: TypeAlias = NDArray[np.int64]
Keys: TypeAlias = NDArray[np.uint64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Look:
    """A frame's samples. `scaled` and `valid` are columns by samples; what is not valid holds anything.

    `odd`: (column, sample) to the exact value, where scaling would have changed it. `missing`: values that are absent.
    """

    layout: Layout
    keys: Keys
    at_ms: Ints
    scaled: Ints
    valid: Flags | None  # None: every value is there
    missing: int
    odd: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def values(self) -> int:
        return self.scaled.size - self.missing

    def at(self, at_ms: Ints) -> Look:
        """The same samples at other times."""
        return replace(self, at_ms=at_ms)


def look(frame: RawFrame, salt: int = 0) -> Look:
    """All values of a checked frame. `salt`: see `store.salt_of`."""
    n = frame.samples
    scaled = np.empty((len(frame.columns), n), np.int64)
    valid: Flags | None = None
    missing = 0
    odd: dict[tuple[int, int], float] = {}
    for place, column in enumerate(frame.columns):
        if column.valid is None:
            offsets_into(column, scaled[place])
        else:
            if valid is None:
                valid = np.ones(scaled.shape, np.bool_)
            there = valid_flags(column.valid, n)
            valid[place] = there
            missing += n - column.present
            present = np.empty(column.present, np.int64)
            offsets_into(column, present)
            scaled[place, there] = present
        for i, value in column.odd:
            odd[place, i] = value
    mine = keys(frame) ^ np.uint64(salt) if salt else keys(frame)
    return Look(frame.layout, mine, times_ms(frame), scaled, valid, missing, odd)


def keys(frame: RawFrame) -> Keys:
    planes = np.frombuffer(frame.key_planes, np.uint8).reshape(8, frame.samples)
    return np.ascontiguousarray(planes.T).view("<u8").ravel().astype(np.uint64, copy=False)


def times_ms(frame: RawFrame) -> Ints:
    times = np.empty(frame.samples, np.int64)
    offsets_into(frame.times, times)
    return times


def offsets_into(column: RawColumn, out: Ints) -> None:
    """The column's present values, scaled, into `out` (as long as there are)."""
    width, count = column.width, column.present
    if width == 0 or count == 0:
        out.fill(column.base)
        return
    planes = np.frombuffer(column.planes, np.uint8)
    if width == 1:
        np.add(planes, column.base, out=out, dtype=np.int64)
        return
    raw = np.zeros((count, 8), np.uint8)
    raw[:, :width] = planes.reshape(width, count).T
    # offsets are unsigned and the base may be negative: two's complement makes the wrapped sum the right one
    np.add(raw.view("<i8").ravel(), column.base, out=out)


def valid_flags(bits: bytes, samples: int) -> Flags:
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=samples, bitorder="little").view(np.bool_)


def number(scaled: int, decimals: int) -> Number:
    """The value as the sentry gave it: an integer where the metric has no decimals."""
    return scaled / 10**decimals if decimals else scaled


def scaled_at(column: RawColumn, sample: int) -> int | None:
    """One value of a column, scaled, without the others; None where it is absent. An odd one is a stand-in."""
    place = sample
    if column.valid is not None:
        if not column.valid[sample >> 3] >> (sample & 7) & 1:
            return None
        before = int.from_bytes(column.valid, "little") & ((1 << sample) - 1)
        place = before.bit_count()
    return column.base + sum(column.planes[plane * column.present + place] << (8 * plane) for plane in range(column.width))
