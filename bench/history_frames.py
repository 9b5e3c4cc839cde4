"""Frames by the thousand for the history benchmark: `garrison.frame.pack`, bit for bit, from whole numpy columns.

The sentry's own packer takes one value at a time, which is right for a look every 10 s; here it would be the bottleneck.
`check` holds the two against each other before anything is measured.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import zstandard
from numpy.typing import NDArray

from bench.history_data import Data, Ints
from garrison.frame import MAGIC, VERSION, Sample, pack, unpack

DEVICES = 250
"""In a frame, as the goal says."""
_HEADER = struct.Struct("<2sBxIIII")
_COLUMN = struct.Struct("<BBq")


class Packer:
    """Frames of the same devices, without a missing value and without one that does not fit its decimals."""

    def __init__(self, keys: NDArray[np.uint64], columns: int) -> None:
        self._samples, self._columns = len(keys), columns
        self._keys = keys.astype("<u8").view(np.uint8).reshape(-1, 8).T.tobytes()
        self._compress = zstandard.ZstdCompressor(level=1, write_content_size=True).compress
        self._rows = np.empty((1 + columns, self._samples), np.int64)

    def pack(self, at_ms: Ints, scaled: Ints) -> bytes:
        """`scaled`: [column, device]."""
        rows = self._rows
        rows[0], rows[1:] = at_ms, scaled
        lowest = rows.min(axis=1)
        rows -= lowest[:, None]
        planes = np.ascontiguousarray(
            rows.astype("<u8", copy=False).view(np.uint8).reshape(-1, self._samples, 8).transpose(0, 2, 1)
        )
        parts = [self._keys]
        for place, (base, reach) in enumerate(zip(lowest.tolist(), rows.max(axis=1).tolist(), strict=True)):
            width = (reach.bit_length() + 7) // 8
            parts += (_COLUMN.pack(width, 0, base), planes[place, :width].tobytes())
        plain = b"".join(parts)
        head = _HEADER.pack(MAGIC, VERSION, self._samples, self._columns, len(plain), zlib.crc32(plain))
        return head + self._compress(plain)


def check(data: Data) -> None:
    """One frame of ours is the product's own, and reads back as the same numbers. RuntimeError."""
    some, look = slice(0, min(DEVICES, data.devices)), data.looks // 2
    body = Packer(data.keys[some], len(data.layout.columns)).pack(data.at_ms[look, some], data.values[look, :, some])
    samples = [
        Sample(
            int(data.keys[number]),
            int(data.at_ms[look, number]),
            {
                (c.metric, c.component): scaled / 10**c.decimals if c.decimals else scaled
                for c, scaled in zip(data.layout.columns, data.values[look, :, number].tolist(), strict=True)
            },
        )
        for number in range(some.stop)
    ]
    if body != pack(data.layout, samples) or unpack(data.layout, body) != samples:
        raise RuntimeError("bench.history_frames does not pack as garrison.frame does")
