"""Prometheus remote write by the million: requests from a template in which only values and times are patched.

The labels of a request never change, so its bytes are made once; a look then costs two numpy assignments. Snappy holds literals
only, which is valid and the least work for whoever unpacks it.
"""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.history_data import Data, Floats, Ints
from bench.history_farm import MODEL, name
from bench.ingest_victoria import field, label, varint
from garrison.frame import Layout

FARM = "bench"
SERIES = 10_000
"""In a request."""
HEADERS = {
    "content-type": "application/x-protobuf",
    "content-encoding": "snappy",
    "x-prometheus-remote-write-version": "0.1.0",
    "user-agent": "bench",
}
_TIME_BYTES = 6
"""Of a varint that holds milliseconds from 2004 to 2109."""
_VALUE_BYTES = 8
_LITERAL = 63 << 2  # with a length of four bytes

Bytes = NDArray[np.uint8]


def series_name(number: int, metric: str, component: str) -> dict[str, str]:
    """The labels of a series, sorted as the protocol wants it."""
    told = {"__name__": metric, "component": component, "device": name(number), "farm": FARM, "model": MODEL}
    return {label: text for label, text in told.items() if text}


class Template:
    """Requests for the devices [first, last), one sample of each series a request."""

    def __init__(self, layout: Layout, first: int, last: int) -> None:
        plain, values, times = bytearray(), [], []
        for number in range(first, last):
            for column in layout.columns:
                labels = b"".join(label(*pair) for pair in series_name(number, column.metric, column.component).items())
                sample = b"\x09" + bytes(_VALUE_BYTES) + b"\x10" + bytes(_TIME_BYTES)
                plain += field(0x0A, labels + field(0x12, sample))
                times.append(len(plain) - _TIME_BYTES)
                values.append(times[-1] - 1 - _VALUE_BYTES)
        head = varint(len(plain)) + bytes([_LITERAL]) + struct.pack("<I", len(plain) - 1)
        self._devices = slice(first, last)
        self._request: Bytes = np.frombuffer(head + plain, np.uint8).copy()
        self._values = np.array(values)[:, None] + len(head) + np.arange(_VALUE_BYTES)
        self._times = np.array(times)[:, None] + len(head) + np.arange(_TIME_BYTES)

    def request(self, data: Data, look: int) -> bytes:
        values: Floats = data.values[look, :, self._devices].T / data.units
        self._request[self._values] = np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(-1, _VALUE_BYTES)
        self._request[self._times] = _varints(data.at_ms[look, self._devices]).repeat(len(data.layout.columns), axis=0)
        return self._request.tobytes()


def _varints(at_ms: Ints) -> Bytes:
    shifted = at_ms[:, None] >> 7 * np.arange(_TIME_BYTES)
    told = (shifted & 127).astype(np.uint8)
    told[:, :-1] |= 128
    return told


# ---- sending -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Feed:
    """Looks in the order of time, over one connection: `write` sends one request and waits for its answer."""

    data: Data
    templates: list[Template]

    @classmethod
    def of(cls, data: Data) -> Feed:
        """Some 10,000 series a request."""
        size = SERIES // len(data.layout.columns)
        parts = [(first, min(first + size, data.devices)) for first in range(0, data.devices, size)]
        return cls(data, [Template(data.layout, *part) for part in parts])

    def send(self, write: Callable[[bytes], None], first: int, last: int) -> None:
        """Looks [first, last). The next requests are made while the server works on one."""
        ready: queue.Queue[bytes | None] = queue.Queue(4)
        failed: list[Exception] = []

        def sender() -> None:
            while (request := ready.get()) is not None:
                if not failed:
                    try:
                        write(request)
                    except Exception as error:  # raised again below, where somebody waits for it
                        failed.append(error)

        thread = threading.Thread(target=sender)
        thread.start()
        for request in self._requests(first, last):
            if failed:
                break
            ready.put(request)
        ready.put(None)
        thread.join()
        if failed:
            raise failed[0]

    def _requests(self, first: int, last: int) -> Iterator[bytes]:
        for look in range(first, last):
            for template in self.templates:
                yield template.request(self.data, look)
