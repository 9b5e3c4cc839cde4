"""The peer of the ingest benchmark: VictoriaMetrics single node, fed the same values by Prometheus remote write."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator

import psutil

from bench import ingest_frames
from bench.measure import Measured
from garrison.frame import Sample

DEVICES = 250
TICKS = 8
REPEATS = 12
"""Each run sends `TICKS` looks this many times, at later times."""


def cpu_per_value_us(runs: int) -> Measured | None:
    """None: it is not installed. $VICTORIA_METRICS names the program where it is not on the PATH."""
    program = shutil.which(os.environ.get("VICTORIA_METRICS", "victoria-metrics"))
    if program is None:
        return None
    ticks = ingest_frames.looks(DEVICES, TICKS)
    values = REPEATS * sum(len(sample.values) for tick in ticks for sample in tick)
    measured = []
    with _server(program) as (process, port):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for number in range(runs + 1):
            shift_ms = [(number * REPEATS + i) * TICKS * ingest_frames.EVERY_MS for i in range(REPEATS)]
            requests = (_snappy(_write_request(tick, by_ms)) for by_ms in shift_ms for tick in ticks)  # our CPU is not counted
            before = process.cpu_times()
            for body in requests:
                _post(link, body)
            time.sleep(0.5)  # it works on what it took for a moment
            after = process.cpu_times()
            measured.append((after.user + after.system - before.user - before.system) / values * 1e6)
        link.close()
    return Measured(tuple(measured[1:]))


def _post(link: http.client.HTTPConnection, body: bytes) -> None:
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
    link.request("POST", "/api/v1/write", body, headers)
    answer = link.getresponse()
    text = answer.read()
    if answer.status // 100 != 2:
        raise RuntimeError(f"VictoriaMetrics answered {answer.status}: {text[:200]!r}")


@contextlib.contextmanager
def _server(program: str) -> Iterator[tuple[psutil.Process, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix=".bench-victoria-", dir=".") as folder:
        arguments = [
            f"-storageDataPath={folder}",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-retentionPeriod=120",
            "-search.disableCache",
        ]
        with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for(port)
                yield psutil.Process(process.pid), port
            finally:
                process.terminate()
                process.wait(timeout=30)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("VictoriaMetrics did not start")


# ---- remote write: protobuf and snappy by hand -------------------------------------------------------------


def _write_request(samples: list[Sample], by_ms: int) -> bytes:
    series = []
    for sample in samples:
        device = label("device", f"dev-{sample.key:016x}")
        at = b"\x10" + varint(sample.at_ms + by_ms)
        for (metric, component), value in sample.values.items():
            labels = label("__name__", metric) + (label("component", component) if component else b"") + device
            point = b"\x09" + struct.pack("<d", value) + at
            series.append(field(0x0A, labels + field(0x12, point)))
    return b"".join(series)


def label(name: str, value: str) -> bytes:
    return field(0x0A, field(0x0A, name.encode()) + field(0x12, value.encode()))


def field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + varint(len(content)) + content


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _snappy(data: bytes) -> bytes:
    """As literals only: valid, not smaller, and the least work to unpack."""
    out = bytearray(varint(len(data)))
    for at in range(0, len(data), 65_536):
        part = data[at : at + 65_536]
        out += bytes([61 << 2]) + struct.pack("<H", len(part) - 1) + part
    return bytes(out)
