"""A simulated Innosilicon over real sockets: its API behind a token that expires. Of two makes of firmware.

In a test:  async with Innosilicon() as device: … device.port
`kind`: "T3" is newer firmware, with units, all in one answer and the power; "T1" is a DragonMint's, with cgminer's rates only.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

BOARDS = 3


class Innosilicon(Machine):
    """One of 43 TH/s. `down_s`: how long a restart keeps the port shut."""

    def __init__(self, kind: str = "T3", *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.web = WebPort(self._answer, host)
        self.kind, self.down_s, self.rate_hs = kind, down_s, 43e12
        self.unit, self.scale = "TH/s", 1e12
        self.mac, self.password = "02:00:5E:10:00:71", "dragonadmin" if kind == "T1" else "admin"
        self.title = "DragonMint" if kind == "T1" else "AsicMiner"
        self.pools = [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "p"}]
        self.dead_pools: set[str] = {"dead."}
        self.error = ("0", "")
        self.miner_down = False
        self.reboots = self.restarts = self.log_ins = 0
        self.token = ""
        self.without: set[str] = set()  # names of its API that it does not know now
        self.drop_reply: set[str] = set()  # orders that it carries out without a word
        self.refuses = False
        super().__init__((self.web,), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self._open()
        else:
            await self._shut()

    # ---- the API -----------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        if request.path == "/":
            return Response(f"<!doctype html><html><head><title>{self.title}</title></head></html>".encode())
        name = request.path.removeprefix("/api/")
        if request.method != "POST" or name in self.without:
            return Response(b"")  # its router finds nothing, and says nothing
        if name == "auth":
            return self._log_in(request)
        if not self.token or request.token != self.token:
            return told({"success": False, "token": "expired"})
        if name in ("reboot", "restartCgMiner", "updatePools"):
            if self.refuses:
                return told({"success": False, "message": "not now"})
            self._order(name, request)
            return None if name in self.drop_reply else told({"success": True})
        return self._page(name)

    def _log_in(self, request: Request) -> Reply:
        if request.given.get("username") != "admin":
            return told({"success": False, "message": "user not found"})
        if request.given.get("password") != self.password:
            return told({"success": False, "message": "invalid password"})
        self.log_ins += 1
        self.token = f"eyJ0eXAiOiJKV1Qi.simulated.{self.log_ins}"
        return told({"success": True, "jwt": self.token})

    def _order(self, name: str, request: Request) -> None:
        if name == "reboot":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
            return
        self.restarts += 1
        self._began_s = asyncio.get_running_loop().time()
        if name == "updatePools":
            names = [(f"Pool{i}", f"UserName{i}", f"Password{i}") for i in (1, 2, 3)]
            given = [{"url": request.given[u], "user": request.given[n], "pass": request.given[p]} for u, n, p in names]
            self.pools = [pool for pool in given if all(pool.values())]

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    # ---- what it knows -----------------------------------------------------------------------------------

    def _page(self, name: str) -> Reply:
        if name == "type":
            return told({"success": True, "type": self.kind})
        if name == "overview":
            version = {"hwver": "g19", "ethaddr": self.mac, "platform_v": "t3_20200101_000000"}
            return told({"success": True, "type": self.kind, "network": {"ipaddress": "192.0.2.71"}, "version": version})
        if name == "pools":
            return told({"success": True, "pools": self.pools})
        if name == "summary":
            return told(self.summary())
        if self.kind != "T1" and name == "getAll":
            return told({"success": True, "all": {"mac": self.mac, "power": 2100 if self._hashes() else 80, "fansSpeed": 60}})
        if self.kind != "T1" and name == "getErrorDetail":
            return told({"success": True, "code": self.error[0], "errmsg": self.error[1]})
        return Response(b"")

    def _alive(self) -> list[bool]:
        return [not any(dead in pool["url"] for dead in self.dead_pools) for pool in self.pools]

    def _hashes(self) -> bool:
        return any(self._alive())

    def summary(self) -> dict[str, Any]:
        if self.miner_down:
            return {"success": False}
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = self._alive()
        each_hs = self.rate_hs / BOARDS if any(alive) else 0.0
        first = alive.index(True) if any(alive) else -1
        devs = []
        for i in range(BOARDS):
            row: dict[str, Any] = {"ASC": i, "ID": i, "Status": "Alive", "Temperature": 66.0 + i, "Device Elapsed": up}
            row |= {"Accepted": up // 8, "Rejected": 1, "Hardware Errors": 3 + i, "MHS av": each_hs / 1e6, "MHS 5s": each_hs / 1e6}
            if self.kind != "T1":
                row |= {"Hash Rate": each_hs / self.scale, "Unit": self.unit, "Hash Rate H": each_hs}
            devs.append(row)
        pools = [
            {"POOL": i, "URL": pool["url"], "User": pool["user"], "Status": "Alive" if alive[i] else "Dead", "Priority": i}
            | {"Accepted": up // 3 if i == first else 0, "Rejected": 0, "Stale": 0, "Stratum Active": i == first}
            for i, pool in enumerate(self.pools)
        ]
        answer: dict[str, Any] = {"success": True, "DEVS": devs, "POOLS": pools, "HARDWARE": {"Fan duty": 60}, "tuning": False}
        if self.kind != "T1":
            answer["TotalHash"] = {"Hash Rate": each_hs * BOARDS / self.scale, "Unit": self.unit}
        return answer
