"""A simulated Goldshell over real sockets: its HTTP API behind a token on one port, cgminer's API on another.

In a test:  async with Goldshell() as device: … device.port (4028), device.web.port
`kind`: "new" wants the password ciphered and a token for all but its status; "old" wants neither; "box" has no boards on its page.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.api_port import ApiPort, invalid, status
from tests.simulators.api_port import Reply as ApiReply
from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

PROGRAM = "intminer 5.4.2"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.simulated.example"  # the same from every unit, like the real one
CIPHERED = {"123456789": "bbad7537f4c8b6ea31eea0b3d760e257"}  # of the factory's password, as public clients write it
BOARDS = 4


class Goldshell(Machine):
    """One of 5.4 TH/s. `down_s`: how long a restart keeps both ports shut."""

    def __init__(self, kind: str = "new", *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.kind, self.down_s = kind, down_s
        self.api, self.web = ApiPort(self._said, host), WebPort(self._answer, host)
        self.model, self.algorithm = "Goldshell-HS5", "blake2b(SC)"
        self.mac, self.password = "02:00:5E:10:00:61", "123456789"
        self.rate_mhs = 5_400_000.0
        self.pools: list[dict[str, Any]] = [
            {"url": "stratum+tcp://pool.invalid:700", "legal": True, "active": True, "dragid": 0, "user": "factory.worker",
             "pool-priority": 0, "pass": "p"}
        ]  # fmt: skip
        self.dead_pools: set[str] = {"dead."}
        self.setting: dict[str, Any] = {
            "select": 0, "tempcontrol": True, "ledcontrol": False, "manualPowerplan": "725 MHz 0.41 V 70 RPM 70 RPM",
            "name": self.mac, "manual": False, "temp_targets": [65.0, 75.0], "version": "v2.1", "temp_target": 65,
            "powerplans": [
                {"level": 0, "info": "725 MHz 0.41 V 70 RPM 70 RPM"}, {"level": 1, "info": "600 MHz 0.4 V 60 RPM 60 RPM"},
                {"level": 3, "info": "0 MHz 0 V 70 RPM 70 RPM"},
            ],
        }  # fmt: skip
        self.board_states: dict[int, int] = {}
        self.status = 2
        self.restarts = self.log_ins = 0
        self.race = 0  # so many answers are a 401, though the token is right
        self.without: set[str] = set()  # paths and commands that it does not know now
        self.drop_reply: set[str] = set()  # paths whose orders it carries out without a word
        self.refuses = False
        super().__init__((self.api, self.web), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self._open()
        else:
            await self._shut()

    # ---- pages -------------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        if request.path in self.without:
            return Response(b"", 404)
        if request.path == "/":
            return Response(b"<!DOCTYPE html><html><head><title>cloud-box</title></head></html>")
        if request.path == "/user/login":
            return self._log_in(request)
        if self.kind != "old" and request.path != "/mcb/status" and request.token != TOKEN:
            return Response(b"Check Token Error", 401)
        if self.race:
            self.race -= 1
            return Response(b"Check Token Error", 401)
        if request.method == "PUT":
            return self._order(request)
        return self._page(request)

    def _log_in(self, request: Request) -> Reply:
        ciphered = request.given.get("cipher") == "true"
        right = CIPHERED.get(self.password, "?") if ciphered else self.password
        if ciphered == (self.kind == "old") or request.given.get("username") != "admin" or request.given.get("password") != right:
            return Response(b"", 500)
        self.log_ins += 1
        return told({"JWT Token": TOKEN})

    def _page(self, request: Request) -> Reply:
        if request.path == "/mcb/status":
            return told({"hardware": "40.40.HA", "model": self.model, "mcbversion": "MCB_V5_4", "firmware": "2.2.5"})
        if request.path == "/mcb/cgminer" and request.given.get("cgminercmd") == "devs" and self.kind != "box":
            return told({"status": self.status, "data": self._boards()})
        if request.path == "/mcb/pools":
            works = self._working()
            return told([pool | {"active": pool is works} for pool in self.pools])
        if request.path == "/mcb/setting":
            return told(self.setting)
        if request.path == "/mcb/algosetting":
            return told({"algos": [{"name": "blake2bsha3(HNS)", "id": 0}, {"name": self.algorithm, "id": 1}], "algo_select": 1})
        return Response(b"", 500)

    def _order(self, request: Request) -> Reply:
        if self.refuses:
            return Response(b"not now", 500)
        if request.path == "/mcb/restart":
            self.restarts += 1
            self._step = asyncio.create_task(self._restart())
        elif request.path == "/mcb/setting":
            self.setting = request.json
        elif request.path == "/mcb/pools":
            self.pools = request.json
        else:
            return Response(b"", 404)
        return None if request.path in self.drop_reply else told(request.json)

    async def _restart(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    # ---- what it knows -----------------------------------------------------------------------------------

    @property
    def asleep(self) -> bool:
        return not self.setting["manual"] and self.setting["select"] == 3

    def _up(self) -> int:
        return int(asyncio.get_running_loop().time() - self._began_s)

    def _working(self) -> dict[str, Any] | None:
        ranked = sorted(self.pools, key=lambda pool: int(pool["pool-priority"]))
        return next((pool for pool in ranked if not any(dead in pool["url"] for dead in self.dead_pools)), None)

    def _mhs(self) -> float:
        return self.rate_mhs / BOARDS if self._working() is not None and not self.asleep else 0.0

    def _boards(self) -> list[dict[str, Any]]:
        return [
            {"valid": 10, "av_hashrate": self._mhs() * 0.99, "rejected": 1, "time": 22, "id": i, "powerplan": 0, "hwerrors": 3 + i}
            | {"fanspeed": "2700 rpm / 2730 rpm", "accepted": 600 + i, "hwerr_ration": 0.0002, "nonces": 4830}
            | {"hashrate": self._mhs(), "temp": f"{80 + i}.0 °C / 79.7 °C", "minerstatus": self.board_states.get(i, 0)}
            for i in range(BOARDS)
        ]

    def _said(self, command: str, parameter: str) -> ApiReply:
        if command in self.without:
            return invalid(PROGRAM)
        if command == "version":
            return status(22, "BFGMiner versions", program=PROGRAM) | {"VERSION": [{"CGMiner": "5.4.2", "API": "3.4"}]}
        if command == "summary":
            return status(11, "Summary", program=PROGRAM) | {"SUMMARY": [{"Elapsed": self._up(), "MHS 20s": self._mhs() * BOARDS}]}
        if command == "devs":
            rows = [
                {"PGA": i, "ID": i, "MHS av": self._mhs(), "MHS 20s": self._mhs(), "Accepted": 600 + i, "Rejected": 1}
                | {"Hardware Errors": 3 + i, "clock": 725.0, "tstemp-0": 74.0, "tstemp-1": 74.0, "tstemp-2": -150.0}
                | {"fan0": 2700, "fan1": 2730, "Device Elapsed": self._up()}
                for i in range(BOARDS)
            ]
            return status(9, "4 PGA(s)", program=PROGRAM) | {"DEVS": rows}
        return invalid(PROGRAM)
