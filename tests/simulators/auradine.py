"""A simulated Teraflux AT1500 with FluxOS over real sockets: cgminer's API on one port, HTTP with a token on another.

In a test:  async with Auradine() as device: … device.port, device.web.port
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.api_port import ApiPort, invalid, status
from tests.simulators.api_port import Reply as ApiReply
from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

PROGRAM = "FluxOS-2099-01.01-simulated"
BOARDS, CHIPS, FANS = 3, 132, 4


class Auradine(Machine):
    """One device of 150 TH/s. `down_s`: how long a reboot keeps both ports shut."""

    def __init__(self, *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.api, self.web = ApiPort(self._said, host), WebPort(self._answer, host)
        self.rate_mhs, self.down_s = 150_000_000.0, down_s
        self.mac, self.serial, self.password = "02:00:5e:10:00:91", "EXAMPLE0091", "admin"
        self.pools = [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "p"}]
        self.dead_pools: set[str] = {"dead."}
        self.asleep, self.led = False, 2
        self.led_message = "Normal"
        self.mode: dict[str, Any] = {"Mode": "normal"}
        self.reboots = self.restarts = self.log_ins = 0
        self.token = ""
        self.without: set[str] = set()  # commands and paths that it does not know now
        self.spoilt: dict[str, object] = {}  # commands and paths: the rows they answer instead
        self.refuses = ""  # every order, with this reason
        self.says_ended = False  # a token that has ended is told in words, with HTTP 200
        self.drop_reply = False
        super().__init__((self.api, self.web), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self._open()
        else:
            self.token = ""
            await self._shut()

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    # ---- port 8080 ---------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        name = request.path[1:]
        if name == "token":
            if (request.json.get("user"), request.json.get("password")) != ("admin", self.password):
                return told(status(700, "wrong user or password", kind="E", program=PROGRAM))
            self.log_ins += 1
            self.token = f"sim{self.log_ins}.token"
            return told(status(700, "Token", program=PROGRAM) | {"Token": [{"Token": self.token}]})
        if not self.token or request.headers.get("token") != self.token:
            return told(status(701, "token expired", kind="E", program=PROGRAM), status=200 if self.says_ended else 401)
        if name in self.without:
            return Response(b"", 404)
        if request.method == "POST":
            return self._order(name, request.json)
        return told(self._section(name) or invalid(PROGRAM))

    def _order(self, name: str, given: dict[str, Any]) -> Reply:
        assert given["command"] == name
        if self.refuses:
            return told(status(600, self.refuses, kind="E", program=PROGRAM))
        if name == "restart" and given.get("parameter") == "gcminer":
            self.restarts += 1
            self._began_s = asyncio.get_running_loop().time()
        elif name == "restart":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
        elif name == "mode":
            self.asleep = {"on": True, "off": False}[given["sleep"]]
            self._began_s = asyncio.get_running_loop().time()
        elif name == "led":
            self.led = given["code"]
        elif name == "updatepools":
            self.pools = [dict(pool) for pool in given["pools"]]
        else:
            return Response(b"", 404)
        return None if self.drop_reply else told(status(600, "ok", program=PROGRAM))

    # ---- what both say -----------------------------------------------------------------------------------

    def _said(self, command: str, parameter: str) -> ApiReply:
        if command in self.without or command not in ("version", "summary", "devs", "pools", "asccount"):
            return invalid(PROGRAM)
        return self._section(command)

    def _section(self, name: str) -> dict[str, Any] | None:
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = [not any(dead in pool["url"] for dead in self.dead_pools) for pool in self.pools]
        hashes = any(alive) and not self.asleep
        first = alive.index(True) if hashes else -1
        mhs = self.rate_mhs if hashes else 0.0
        slots = range(1, BOARDS + 1)
        control = {"ID": 0, "Name": "Control Board", "BoardTemp": [{"ID": 0, "Temperature": 35.0}], "ChipTemp": None}
        temps: list[dict[str, Any]] = [control, *(_temperatures(i) for i in slots)]
        sections: dict[str, tuple[str, list[dict[str, Any]] | None]] = {
            "version": ("VERSION", [{"API": "1.0", "GCMiner": "0.5"}]),
            "summary": ("SUMMARY", [
                {"Elapsed": up, "MHS av": mhs * 0.99, "MHS 5s": mhs, "Accepted": up // 2, "Rejected": 3, "Hardware Errors": 7}
            ]),
            "devs": ("DEVS", [
                {"DEV": i, "ID": i, "Enabled": True, "MHS 5s": mhs / BOARDS, "Status": "Alive", "Temperature": 40.0} for i in slots
            ]),
            "pools": ("POOLS", [
                {"POOL": i, "URL": p["url"], "User": p["user"], "Status": "Alive" if alive[i] else "Dead", "Priority": i,
                 "Accepted": up // 2 if i == first else 0, "Rejected": 0, "Stratum Active": i == first}
                for i, p in enumerate(self.pools)
            ]),
            "asccount": ("ASCCount", [{"AsicCount": BOARDS * CHIPS, "BoardCount": BOARDS}]),
            "mode": ("Mode", [self.mode | {"Sleep": "on" if self.asleep else "off"}]),
            "psu": ("PSU", [{"PowerIn": "3452.50W" if hashes else "60.00W", "PowerOut": "3300.00W", "Vin": "241.00V"}]),
            "fan": ("Fan", [{"ID": i, "Max": 7700, "Speed": 6990 + 10 * i, "Target": 7000} for i in range(1, FANS + 1)]),
            "temperature": ("Temperature", temps),
            "frequency": ("Frequency", [
                {"ID": i, "ChipFrequency": [{"ID": j, "Frequency": 300.0 + j % 2} for j in range(CHIPS)]} for i in slots
            ]),
            "led": ("LED", [{"Code": self.led, "LED1": 1, "LED2": 1, "Msg": self.led_message}]),
            "ipreport": ("IPReport", [
                {"SerialNo": self.serial, "model": "AT1500", "mac": self.mac, "version": "2099-01.01", "hostname": "simulated",
                 "ip": "192.0.2.91", "InternalType": "T0"}
            ]),
        }  # fmt: skip
        if name not in sections:
            return None
        key, rows = sections[name]
        return status(11, name, program=PROGRAM) | {key: self.spoilt.get(name, rows)}


def _temperatures(slot: int) -> dict[str, Any]:
    board = [{"ID": i, "Temperature": degrees} for i, degrees in enumerate((30.0 + slot, 0, 50.0 + slot))]
    chips = [{"ID": i, "Temperature": 70.0 + slot} for i in range(CHIPS)]
    return {"ID": slot, "Name": f"Hash Board {slot}", "BoardTemp": board, "ChipTemp": chips}
