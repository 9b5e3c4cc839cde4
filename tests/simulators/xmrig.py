#!/usr/bin/env python3
"""A mining program that does not mine: XMRig's command line and HTTP API, plausible figures, no network but its own port.

Needs nothing but Python, so that it can be pinned as the "archive" of a simulated program:

    tests/simulators/xmrig.py -o pool.example:3333 -u wallet -p x -a rx/0 --http-port 18080 --http-access-token t

It misbehaves by the first label of the first pool's host name:

    dead.…       never gets a connection, so no hashrate     crash-N.…   ends with code 1 after N seconds
    idle.…       connected, and does not hash                reject.…    every share is rejected
    deaf.…       mines, opens no API port                    hang.…      the API accepts and never answers
    garbage.…    the API answers what is not JSON            stubborn.…  ignores SIGTERM
    fork.…       leaves a child process behind it            slow-N.…    takes N seconds until it hashes
"""

from __future__ import annotations

import getopt
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = "6.26.0"
SHORT = "a:c:kBp:Px:r:R:s:t:T:o:u:O:v:l:S"
LONG = [
    "algo=",
    "coin=",
    "url=",
    "user=",
    "pass=",
    "userpass=",
    "rig-id=",
    "keepalive",
    "nicehash",
    "tls",
    "tls-fingerprint=",
    "threads=",
    "cpu-priority=",
    "cpu-affinity=",
    "cpu-max-threads-hint=",
    "donate-level=",
    "donate-over-proxy=",
    "randomx-mode=",
    "randomx-1gb-pages",
    "no-cpu",
    "opencl",
    "cuda",
    "cuda-devices=",
    "opencl-devices=",
    "print-time=",
    "health-print-time=",
    "retries=",
    "retry-pause=",
    "user-agent=",
    "verbose",
    "no-color",
    "config=",
    "background",
    "syslog",
    "log-file=",
    "http-enabled",
    "http-host=",
    "http-port=",
    "http-access-token=",
    "http-no-restricted",
    "api-worker-id=",
    "api-id=",
    "no-huge-pages",
    "huge-pages-jit",
    "no-title",
    "asm=",
    "argon2-impl=",
    "proxy=",
    "daemon",
    "dns-ttl=",
    "dry-run",
    "stress",
    "bench=",
]
FULL_HS = 4200.0
WARM_S = 0.6


class Miner:
    """What the real one would know about itself. Times are seconds of the monotonic clock."""

    def __init__(self, arguments: list[str]) -> None:
        given, _ = getopt.gnu_getopt(arguments, SHORT, LONG)
        self.pools: list[dict[str, str]] = []
        self.algo = "rx/0"
        self.host, self.port, self.token, self.restricted = "127.0.0.1", 0, "", True
        for option, value in given:
            if option in {"-o", "--url"}:
                self.pools.append({"url": value, "user": "x"})
            elif option in {"-u", "--user"} and self.pools:
                self.pools[-1]["user"] = value
            elif option in {"-a", "--algo"}:
                self.algo = value
            elif option == "--http-host":
                self.host = value
            elif option == "--http-port":
                self.port = int(value)
            elif option == "--http-access-token":
                self.token = value
            elif option == "--http-no-restricted":
                self.restricted = False
        self.started = time.monotonic()
        self.paused_at: float | None = None
        self.paused_s = 0.0
        place = self.pools[0]["url"].rpartition("://")[2] if self.pools else ""
        self.place = place if ":" in place else f"{place}:3333"
        word, _, number = self.place.partition(".")[0].partition("-")
        self.trick, self.trick_s = word, float(number) if number.replace(".", "").isdigit() else 3.0

    @property
    def connected(self) -> bool:
        return self.trick != "dead"

    def worked_s(self) -> float:
        """How long it has been hashing."""
        if self.trick in {"dead", "idle"}:
            return 0.0
        now = time.monotonic()
        pause_s = self.paused_s + (now - self.paused_at if self.paused_at is not None else 0)
        warm_s = self.trick_s if self.trick == "slow" else WARM_S
        return max(0.0, now - self.started - pause_s - warm_s)

    def hashrate(self) -> list[float | None]:
        worked_s = self.worked_s()
        if self.paused_at is not None:
            return [0.0, 0.0, None]
        if worked_s <= 0:
            return [None, None, None]
        now_hs = FULL_HS * (1 + 0.03 * math.sin(time.monotonic() / 7))
        return [round(now_hs, 2), round(FULL_HS, 2) if worked_s > 60 else None, FULL_HS if worked_s > 900 else None]

    def shares(self) -> tuple[int, int]:
        found = int(self.worked_s() / 1.5 + 0.9)  # the first one comes soon, for impatient tests
        return (0, found) if self.trick == "reject" else (found - found // 50, found // 50)

    def pause(self) -> None:
        if self.paused_at is None:
            self.paused_at = time.monotonic()

    def resume(self) -> None:
        if self.paused_at is not None:
            self.paused_s += time.monotonic() - self.paused_at
            self.paused_at = None

    def summary(self) -> dict[str, Any]:
        up_s = time.monotonic() - self.started
        good, bad = self.shares()
        hashrate = self.hashrate()
        active = self.connected and up_s > 0.2
        connection_ms = int((up_s - 0.2) * 1000) if active else 0
        hashes = int(self.worked_s() * FULL_HS)
        timing = {"avg_time": 1 if good else 0, "avg_time_ms": 1500 if good else 0, "hashes_total": hashes}
        return {
            "id": "",
            "worker_id": os.uname().nodename if hasattr(os, "uname") else "sim",
            "uptime": int(up_s),
            "restricted": self.restricted,
            "resources": {
                "memory": {"free": 1 << 33, "total": 1 << 34, "resident_set_memory": 2_400_000_000},
                "load_average": [1.0, 1.0, 1.0],
                "hardware_concurrency": os.cpu_count() or 1,
            },
            "features": ["api", "http"],
            "results": {
                "diff_current": 100_000 if active else 0,
                "shares_good": good,
                "shares_total": good + bad,
                **timing,
                "best": [0] * 10,
            },
            "algo": self.algo if active else None,
            "connection": {
                "pool": self.place if active else "",
                "ip": "127.0.0.1" if active else None,
                "uptime": connection_ms // 1000,
                "uptime_ms": connection_ms,
                "ping": 21 if active else 0,
                "failures": 0 if active else int(up_s),
                "tls": None,
                "tls-fingerprint": None,
                "algo": self.algo if active else None,
                "diff": 100_000 if active else 0,
                "accepted": good,
                "rejected": bad,
                **timing,
            },
            "version": VERSION,
            "kind": "miner",
            "ua": f"XMRig/{VERSION} (simulated)",
            "cpu": {"brand": "Simulated processor", "cores": 8, "threads": 16},
            "donate_level": 1,
            "paused": self.paused_at is not None,
            "algorithms": ["rx/0", "rx/wow", "cn/r"],
            "hashrate": {"total": hashrate, "highest": FULL_HS * 1.03 if self.worked_s() > 0 else None},
            "hugepages": [0, 0],
        }

    def backends(self) -> list[dict[str, Any]]:
        rate = self.hashrate()
        threads = [
            {"intensity": 1, "affinity": -1, "av": 1, "hashrate": [None if now is None else round(now / 2, 2) for now in rate]}
            for _ in range(2)
        ]
        return [
            {
                "type": "cpu",
                "enabled": True,
                "algo": self.algo,
                "profile": "rx",
                "hw-aes": True,
                "hashrate": rate,
                "threads": threads,
            },
            {"type": "opencl", "enabled": False, "algo": None, "profile": None, "platform": None},
            {"type": "cuda", "enabled": False, "algo": None, "profile": None},
        ]

    def config(self) -> dict[str, Any]:
        return {
            "http": {"host": self.host, "port": self.port, "access-token": self.token, "restricted": self.restricted},
            "pools": self.pools,
        }


class Answers(BaseHTTPRequestHandler):
    miner: Miner
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        """Quiet, as the real one."""

    def answer(self, status: int, body: Any = None) -> None:
        words = {401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 400: "BAD_REQUEST", 415: "UNSUPPORTED_MEDIA_TYPE"}
        if status in words and body is None:
            body = {"status": status, "error": words[status]}
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body, indent=4).encode()
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Connection", "close")
        if status != 204:
            self.send_header("Content-Length", str(len(raw)))
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(raw)

    def refused(self) -> int | None:
        miner, given = self.miner, self.headers.get("Authorization")
        if not miner.token:
            return None if miner.restricted and given is None else 401
        if given is None:
            return 401
        return None if given == f"Bearer {miner.token}" else 403

    def handle_one(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.miner.trick == "hang":
            time.sleep(3600)
        refusal = self.refused()
        path = self.path.partition("?")[0]
        if refusal:
            self.answer(refusal)
        elif self.miner.trick == "garbage":
            self.answer(200, b'{"hashrate": {"total": [12.5,')
        elif method == "GET" and path in {"/2/summary", "/1/summary", "/api.json"}:
            self.answer(200, self.miner.summary())
        elif method == "GET" and path == "/2/backends":
            self.answer(200, self.miner.backends())
        elif path in {"/1/config", "/2/config"}:
            self.configure(method, body)
        elif method == "POST" and path == "/json_rpc":
            self.call(body)
        else:
            self.answer(404)

    def configure(self, method: str, body: bytes) -> None:
        if self.miner.restricted:
            self.answer(403)
        elif method == "GET":
            self.answer(200, self.miner.config())
        elif "application/json" not in (self.headers.get("Content-Type") or ""):
            self.answer(415)
        else:
            try:
                pools = json.loads(body).get("pools")
            except (ValueError, AttributeError):
                self.answer(400, {"error": "Invalid value.", "status": 400})
                return
            self.answer(204 if pools else 400)

    def call(self, body: bytes) -> None:
        if self.miner.restricted:
            self.answer(403)
            return
        try:
            request = json.loads(body)
            method, number = request["method"], request.get("id")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.answer(200, {"error": {"code": -32700, "message": "Parse error"}, "jsonrpc": "2.0", "id": None})
            return
        if method == "stop":
            threading.Timer(0.1, os._exit, (0,)).start()
        elif method in {"pause", "resume"}:
            getattr(self.miner, method)()
        else:
            self.answer(200, {"error": {"code": -32601, "message": "Method not found"}, "jsonrpc": "2.0", "id": number})
            return
        self.answer(200, {"result": {"status": "OK"}, "jsonrpc": "2.0", "id": number})

    def do_GET(self) -> None:
        self.handle_one("GET")

    def do_POST(self) -> None:
        self.handle_one("POST")

    def do_PUT(self) -> None:
        self.handle_one("PUT")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    try:
        miner = Miner(arguments)
    except getopt.GetoptError as error:
        say(f"xmrig: {error}")
        return 1
    say(f" * ABOUT        XMRig/{VERSION} SIMULATED: nothing is mined")
    if not miner.pools:
        say("no valid configuration found, try https://xmrig.com/wizard")
        return 2
    for number, pool in enumerate(miner.pools, start=1):
        say(f" * POOL #{number}      {pool['url']} algo {miner.algo}")
    if miner.trick == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if miner.trick == "fork":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # left behind on purpose
    if miner.port and miner.trick != "deaf":
        Answers.miner = miner
        try:
            server = ThreadingHTTPServer((miner.host, miner.port), Answers)
        except OSError:
            say(f" * HTTP API     {miner.host}:{miner.port} address already in use")
            say("net      HTTP API server failed to start.")
        else:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            say(f" * HTTP API     {miner.host}:{miner.port}")
    say(f"net      use pool {miner.place}" if miner.connected else f'net      {miner.place} connect error: "connection refused"')
    shown = 0
    while True:
        time.sleep(0.1)
        if miner.trick == "crash" and time.monotonic() - miner.started >= miner.trick_s:
            say("simulated crash")
            return 1
        good, bad = miner.shares()
        if good + bad > shown:
            shown = good + bad
            say(f"cpu      {'accepted' if good else 'rejected'} ({good}/{bad}) diff 100000 (21 ms)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
