"""A farm for measuring: the real commander in a process of its own, and many sentries that it knows.

The sentries are enrolled without going through the door: their certificates are signed by the farm's CA and their rows
written to fleet.db while the commander is down. Who they are is in `keys`, one JSON object a line, for `bench.streams`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from commander import schema
from commander.access.ca import Authority
from commander.db import Database
from commander.fleet import store
from commander.fleet.records import SentryRecord
from garrison.clock import SystemClock
from sentry_core import enrolment

BIN = Path(sys.executable).parent
KEYS = "keys.jsonl"
SETTINGS = """\
farm = "bench"
[listen]
post = "127.0.0.1:{post}"
enrol = ""
http = ""
[log]
level = "warning"
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def allow_files(count: int) -> int:
    """Raises the limit of open files for us and whom we start; what it is now."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def memory_kb(pid: int) -> dict[str, int]:
    """Rss, Pss, Private_Dirty, … of a process, in kB, as the kernel counts them."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0])
    return found


def cpu_s(pid: int) -> float:
    """User and system time of all threads of a process, and of its children, also of those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu_s(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """Processes that it has started and that run."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for one in lists for word in one.read_text().split()]


def machine_cpu_s() -> float:
    """What all processors together have worked since the machine started: user, nice, system, interrupts."""
    told = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(told[place] for place in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class WholeFarm:
    """`home`: an empty folder, not in memory: an fsync must cost what it costs."""

    home: Path
    post: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def _folder(self) -> Path:
        return self.home / "commander"

    @property
    def keys(self) -> Path:
        return self.home / KEYS

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.post}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "GARRISON_HOME": str(self.home)}

    # ---- once ----------------------------------------------------------------------------------------------

    def init(self, enrol: int = 0) -> None:
        here = ("--listen", "127.0.0.1", "--advertise", "127.0.0.1")
        subprocess.run([BIN / "commander", "init", "--farm", "bench", *here], env=self.environment, check=True, capture_output=True)
        text = SETTINGS.format(post=self.post)
        if enrol:
            text = text.replace('enrol = ""', f'enrol = "127.0.0.1:{enrol}"\nadvertise = "127.0.0.1"')
        (self._folder / "commander.toml").write_text(text)

    async def enrol(self, count: int) -> None:
        """Keys, certificates and rows for `count` sentries. About 1.5 ms each."""
        clock = SystemClock()
        authority = Authority.open(self._folder / "ca")
        changes = store.Changes()
        with self.keys.open("w") as out:
            for number in range(count):
                sentry_id = str(uuid4())
                key = ec.generate_private_key(ec.SECP256R1())
                key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                signed = authority.sign_sentry(sentry_id, enrolment.csr(key_pem), clock.now_ms())
                who = {"id": sentry_id, "key": key_pem.decode(), "chain": signed.chain_pem.decode()}
                out.write(json.dumps(who | {"roots": authority.roots_pem.decode()}) + "\n")
                changes.sentries[sentry_id] = SentryRecord(
                    sentry_id, "rig", f"rig {number}", "approved", "", enrolled_ms=clock.now_ms(), seen_ms=clock.now_ms()
                )
        db = await Database.open(self._folder / "fleet.db", schema.FLEET)
        await db.write(lambda c: store.apply(c, changes))
        await db.close()

    # ---- the commander -------------------------------------------------------------------------------------

    def start(self) -> float:
        """How long it took, in s, until it listened to sentries."""
        began_s = time.monotonic()
        log = (self.home / "commander.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [BIN / "commander", "run"], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while time.monotonic() - began_s < 60:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.post), 1):
                return time.monotonic() - began_s
            if self.process.poll() is not None:
                raise RuntimeError(f"the commander ended:\n{(self.home / 'commander.log').read_text()[-2000:]}")
            time.sleep(0.01)
        raise RuntimeError("the commander does not listen")

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            finally:
                self.kill()

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError("no commander runs")
        return self.process.pid

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def metrics(self) -> dict[str, float]:
        """What it says of itself: "name{labels}" to value."""
        link = http.client.HTTPConnection("commander", timeout=30)
        link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(link):
            link.sock.settimeout(30)
            link.sock.connect(str(self._folder / "commander.sock"))
            link.request("GET", "/metrics")
            text = link.getresponse().read().decode()
        pairs = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def loop_lag_s(self, share: float) -> float:
        """Upper end of the histogram's bucket below which this share of the loop's wake-ups were late; 10: or more."""
        told = self.metrics()
        count = told["garrison_loop_lag_seconds_count"]
        buckets = {
            float(name.partition('le="')[2].partition('"')[0]): value
            for name, value in told.items()
            if name.startswith("garrison_loop_lag_seconds_bucket") and "+Inf" not in name
        }
        return next((upper for upper, below in sorted(buckets.items()) if below >= share * count), 10.0)


# ---- the sentries ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Streams:
    """One process of `bench.streams` with `count` sentries from the `first` on."""

    process: subprocess.Popen[str]

    def ask(self, *words: object) -> dict[str, list[float]]:
        """One command, one answer."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("no pipes")
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the process with the sentries ended")
        told: dict[str, list[float]] = json.loads(answer)
        return told


@contextlib.contextmanager
def streams(farm: WholeFarm, first: int, count: int, *, devices: bool = False) -> Iterator[Streams]:
    """`devices`: each with a rig on its roster."""
    command = [sys.executable, "-m", "bench.streams", farm.address, str(farm.keys), str(first), str(count)]
    command += ["--devices"] if devices else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Streams(process)
        finally:
            process.kill()
