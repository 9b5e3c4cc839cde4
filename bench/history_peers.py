"""The peers of the history benchmark: VictoriaMetrics and Prometheus from their binaries, on loopback, each with a data folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from bench.history_http import Answer, Link
from bench.history_remote_write import HEADERS
from bench.whole_farm import cpu_s, free_port

START_S = 60.0
STOP_S = 300.0
QUIET_S = 5.0
"""They merge behind what they took: so long without a change on disk, and it has ended."""
VICTORIA = "victoria-metrics"
PROMETHEUS = "prometheus"
MERGED, STOPPED, BLOCKS = "after a forced merge", "after a clean stop", "its blocks"


@dataclass(frozen=True, slots=True)
class Kind:
    """`command`: from program, data folder and host:port to the command line. `taken`: bytes a value on disk, by what, of the peer
    that was fed so many, which is stopped then. `compared`: those of them that are held against ours."""

    name: str
    program: str
    write: str
    ready: str
    command: Callable[[str, Path, str], Sequence[str | Path]]
    taken: Callable[[Peer, int], dict[str, float]]
    compared: tuple[str, ...]
    nocache: bool = False

    def installed(self) -> str | None:
        """Its path. The environment may name it: VICTORIA_METRICS, PROMETHEUS."""
        return shutil.which(os.environ.get(self.program.upper().replace("-", "_"), self.program))


def _victoria(program: str, folder: Path, address: str) -> Sequence[str | Path]:
    return [
        program,
        f"-storageDataPath={folder}",
        f"-httpListenAddr={address}",
        "-retentionPeriod=120",  # months
        "-search.disableCache",
        "-search.maxQueryDuration=5m",
        "-http.connTimeout=24h",  # else it closes a feed's connection after two minutes
        "-loggerLevel=WARN",
    ]


def _prometheus(program: str, folder: Path, address: str) -> Sequence[str | Path]:
    nothing = folder.with_suffix(".yml")
    nothing.write_text("scrape_configs: []\n")
    return [
        program,
        f"--config.file={nothing}",
        f"--storage.tsdb.path={folder}",
        f"--web.listen-address={address}",
        "--web.enable-remote-write-receiver",
        "--log.level=warn",
    ]


@dataclass(slots=True)
class Peer:
    kind: Kind
    program: str
    home: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    _writing: Link | None = None

    @property
    def data(self) -> Path:
        return self.home / "data"

    # ---- the process ---------------------------------------------------------------------------------------

    def start(self) -> None:
        self.home.mkdir(exist_ok=True)
        self.port = free_port()
        command = self.kind.command(self.program, self.data, f"127.0.0.1:{self.port}")
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, RuntimeError), self.link() as link:
                link.get(self.kind.ready)
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"{self.kind.name} did not start:\n{(self.home / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """As its owner would: it writes what it holds."""
        self._writing = None
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_S)
            finally:
                self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.kind.name} does not run")
        return self.process.pid

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def rss_mb(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def settle(self, limit_s: float = 120.0) -> None:
        """Until nothing has changed on disk for a while."""
        deadline, before, since = time.monotonic() + limit_s, -1, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < QUIET_S:
            now = size(self.data)
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(0.5)

    # ---- talking to it -------------------------------------------------------------------------------------

    def link(self) -> Link:
        return Link(("127.0.0.1", self.port))

    def write(self, request: bytes) -> None:
        if self._writing is None:
            self._writing = self.link()
        self._writing.ask("POST", self.kind.write, request, HEADERS)

    def instant(self, link: Link, expression: str, at_ms: int) -> Answer:
        return link.get(f"/api/v1/query?{self._query(query=expression, time=at_ms / 1000)}")

    def ranged(self, link: Link, expression: str, first_ms: int, last_ms: int, step_s: int) -> Answer:
        asked = self._query(query=expression, start=first_ms / 1000, end=last_ms / 1000, step=step_s)
        return link.get(f"/api/v1/query_range?{asked}")

    def export(self, link: Link, selector: str, first_ms: int, last_ms: int) -> Answer:
        """VictoriaMetrics only: the samples as they are, a JSON object a line."""
        return link.get(f"/api/v1/export?{urlencode({'match[]': selector, 'start': first_ms / 1000, 'end': last_ms / 1000})}")

    def _query(self, **asked: object) -> str:
        told = {name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in asked.items()}
        return urlencode(told | ({"nocache": "1"} if self.kind.nocache else {}), quote_via=quote)


# ---- what they take on disk --------------------------------------------------------------------------------


def size(folder: Path) -> int:
    """Bytes of all files below; one that goes away meanwhile counts as nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                total += path.stat().st_size
    return total


def _victoria_taken(peer: Peer, count: int) -> dict[str, float]:
    """Without its index of labels, which a larger farm would not make larger by the value."""
    running = size(peer.data) / count
    peer.stop()
    stopped, whole = size(peer.data / "data") / count, size(peer.data) / count
    peer.start()
    with peer.link() as link:
        link.get("/internal/force_merge")
    peer.settle()
    peer.stop()
    merged = size(peer.data / "data") / count
    return {MERGED: merged, STOPPED: stopped, "after a clean stop, with its index": whole, "while it runs, with its index": running}


def _prometheus_taken(peer: Peer, count: int) -> dict[str, float]:
    """Its blocks, by what is in them. A run shorter than three hours makes none: then all of it."""
    running = size(peer.data) / count
    peer.stop()
    blocks = [path.parent for path in peer.data.glob("*/meta.json")]
    held = sum(json.loads((block / "meta.json").read_text())["stats"]["numSamples"] for block in blocks)
    told = {"all, with WAL and head, while it runs": running, "all, after a clean stop": size(peer.data) / count}
    if not held:
        return {BLOCKS: size(peer.data) / count, **told}
    chunks = sum(size(block / "chunks") for block in blocks) / held
    return {BLOCKS: sum(map(size, blocks)) / held, "the chunks of its blocks": chunks, **told}


VICTORIA_METRICS = Kind(
    "VictoriaMetrics", VICTORIA, "/api/v1/write", "/health", _victoria, _victoria_taken, (MERGED, STOPPED), nocache=True
)
PROMETHEUS_TSDB = Kind("Prometheus", PROMETHEUS, "/api/v1/write", "/-/ready", _prometheus, _prometheus_taken, (BLOCKS,))
