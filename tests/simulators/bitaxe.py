"""A simulated Bitaxe (AxeOS, older AxeOS, NerdAxe) over real sockets: the HTTP API on one port, nothing on any other.

In a test:  async with Bitaxe("axeos") as device: … device.port
What it stores it shows at once; with AxeOS it works with new pools after a restart only, as the real one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any


@dataclass
class Faults:
    """What is wrong with the device now. Everything off: it is well."""

    hung: bool = False
    endless: bool = False  # never stops talking
    html: bool = False  # every path is a web page
    drop_reply: bool = False  # carries out an order and closes without a word
    locked_out: bool = False  # our address is not one that it lets in
    otp: bool = False  # NerdAxe: changes want a one-time password
    no_pools: bool = False  # an answer without its pools
    refuse: bool = False  # "Wrong API input"


_POOL = {"stratumURL": "pool.invalid", "stratumPort": 3333, "stratumUser": "factory.worker", "stratumPassword": "x"}
_FALLBACK = {f"fallbackS{key[1:]}": value for key, value in _POOL.items()} | {"fallbackStratumURL": "spare.invalid"}


class Bitaxe:
    """One device of 1.2 TH/s. `kind`: "axeos" (pauses, blinks), "old" (neither) or "nerd"."""

    def __init__(self, kind: str = "axeos", *, host: str = "127.0.0.1", down_s: float = 0.2, started_s_ago: float = 3600) -> None:
        self.kind, self.host, self.port, self.down_s = kind, host, 0, down_s
        self.mac = "02:00:5e:10:00:31"
        self.stored: dict[str, Any] = {**_POOL, **_FALLBACK, "stratumTLS": 0 if kind == "axeos" else False}
        self.stored |= {"hostname": "simulated", "autofanspeed": 1}
        self.stored |= {"fanspeed": 42} if kind == "old" else {"manualFanSpeed": 100}
        self.works_with = dict(self.stored)
        self.faults = Faults()
        self.dead_pools: set[str] = {"dead."}
        self.paused = self.blinking = False
        self.overheated = 0
        self.restarts = 0
        self.requests: list[str] = []
        self.asked_s: list[float] = []
        self.now = self.most_at_once = self.connections = 0
        self._began_s = -started_s_ago
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._step: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Bitaxe:
        self._began_s += asyncio.get_running_loop().time()
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._step is not None:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
        await self._shut()
        if self._held is not None:
            self._held.close()

    async def power(self, on: bool) -> None:
        if not on:
            await self._shut()
            return
        self._began_s = asyncio.get_running_loop().time()
        self.works_with = dict(self.stored)
        self.paused = self.blinking = False
        await self._open()

    async def _restart(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    async def _open(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        others = [task for task in self._tasks if not task.done()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._held is None and self.port:  # bound and not listening: refused, and nobody else takes the port
            self._held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind((self.host, self.port))

    # ---- HTTP --------------------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")[:-2]
                method, path, _ = first.split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if self.faults.hung:
                    await asyncio.sleep(3600)
                self.requests.append(f"{method} {path}")
                self.asked_s.append(asyncio.get_running_loop().time())
                status, said = self._answer(method, path, body)
                if self.faults.drop_reply and method != "GET":
                    break
                if self.faults.endless:
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    while True:
                        writer.write(b"10000\r\n" + b"y" * 65536 + b"\r\n")
                        await writer.drain()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
                await writer.drain()
                if headers.get("connection", "").lower() == "close":
                    break
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, asyncio.CancelledError):
            pass  # the client left, the power did, or it spoke no HTTP
        finally:
            self.now -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if self.faults.html or (method, path) == ("GET", "/"):
            return 200, b"<!doctype html><html><title>AxeOS</title></html>"
        if self.faults.locked_out:
            return 401, b"Unauthorized"
        if (method, path) == ("GET", "/api/system/info"):
            return 200, json.dumps(self.info()).encode()
        if method != "GET" and self.faults.otp:
            return 401, b"OTP required"
        if (method, path) == ("PATCH", "/api/system"):
            return self._patch(json.loads(body))
        if (method, path) == ("POST", "/api/system/restart"):
            self.restarts += 1
            self._step = asyncio.create_task(self._restart())
            return 200, b'{"message":"System will restart shortly."}'
        if self.kind == "axeos" and method == "POST":
            if path in ("/api/system/pause", "/api/system/resume"):
                self.paused = path.endswith("pause")
                return 200, json.dumps({"paused": self.paused}).encode()
            if path == "/api/system/identify":
                self.blinking = not self.blinking
                text = 'The device says "Hi!" for 30 seconds.' if self.blinking else 'The device no longer says "Hi!".'
                return 200, json.dumps({"message": text}).encode()
        return 404, b'{"error":"unknown route"}'

    def _patch(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        if self.faults.refuse:
            return 400, b"Wrong API input"
        self.stored |= asked
        if self.kind == "nerd":
            self.works_with = dict(self.stored)  # reconnects
        return 200, b""

    # ---- what it knows -----------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        up = int(asyncio.get_running_loop().time() - self._began_s)
        urls = [self.works_with["stratumURL"], self.works_with["fallbackStratumURL"]]
        alive = [bool(url) and not any(dead in url for dead in self.dead_pools) for url in urls]
        hashing = any(alive) and not self.paused
        told: dict[str, Any] = {
            "power": 18.2 if hashing else 3.1,
            "voltage": 5120.0,
            "current": 3550.0,
            "temp": 58.5,
            "vrTemp": 61,
            "hashRate": 1201.5 if hashing else 0,
            "bestDiff": "483k",
            "isUsingFallbackStratum": int(not alive[0] and alive[1]),
            "coreVoltage": 1150,
            "coreVoltageActual": 1146,
            "frequency": 525,
            "macAddr": self.mac.upper(),
            "hostname": "simulated",
            "sharesAccepted": (up + 5) // 5 if any(alive) else 0,
            "sharesRejected": 2,
            "uptimeSeconds": up,
            "asicCount": 1,
            "smallCoreCount": 2040,
            "ASICModel": "BM1370",
            "version": "v2.12.0-sim",
            "boardVersion": "601",
            "overheat_mode": self.overheated,
            "fanspeed": 42,
            "fanrpm": 4100,
            **{key: value for key, value in self.stored.items() if not key.endswith("Password")},
        }
        if self.kind == "axeos":
            told |= {"expectedHashrate": 1071.0, "miningPaused": self.paused, "hashRate_1h": told["hashRate"], "fan2rpm": 0}
        if self.kind == "nerd":
            told |= {
                "deviceModel": "NerdQAxe+",
                "shutdown": False,
                "otp": self.faults.otp,
                "asicCount": 4,
                "asicTemps": [57.0, 59.0],
            }
            told |= {"fanrpm2": 4000, "fanCount": 2, "stratum": self._stratum(alive)}
        if self.kind != "axeos":
            told.pop("stratumTLS" if self.kind == "old" else "", None)
        if self.faults.no_pools:
            told = {key: value for key, value in told.items() if "tratum" not in key}
        return told

    def _stratum(self, alive: list[bool]) -> dict[str, Any]:
        return {"usingFallback": not alive[0] and alive[1], "pools": [{"connected": ok} for ok in alive]}
