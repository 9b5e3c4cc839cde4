"""The frame decoder: any bytes give BadFrame, or finite samples that pack again to the same."""

import math
import struct
import zlib

from tests.fuzz.driver import Feed, run

HEADER = struct.Struct("<2sBxIIII")


def make() -> Feed:
    """First byte even: the rest is a body. Odd: the rest is content, put behind an honest header, to get the fuzzer past it."""
    import zstandard

    from garrison.faults import BadFrame
    from garrison.frame import Layout, pack, unpack

    layout = Layout.of([("state", ""), ("hashrate_hs", ""), ("power_w", ""), ("temp_c", "board:0")])
    compress = zstandard.ZstdCompressor(level=1).compress

    def feed(data: bytes) -> None:
        body = data[1:]
        if data[:1] and data[0] & 1:
            samples, plain = 1 + (data[0] >> 1) % 20, body
            body = HEADER.pack(b"GF", 1, samples, len(layout.columns), len(plain), zlib.crc32(plain)) + compress(plain)
        try:
            found = unpack(layout, body)
        except BadFrame:
            return
        assert all(math.isfinite(value) for sample in found for value in sample.values.values())
        assert unpack(layout, pack(layout, found)) == found

    return feed


if __name__ == "__main__":
    run(make)
