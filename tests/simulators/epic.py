"""A simulated S19 XP with ePIC's PowerPlay over real sockets: HTTP on the port where others have the cgminer API.

In a test:  async with Epic() as device: … device.port
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

BOARDS, CHIPS, FANS = 3, 110, 4


class Epic(Machine):
    """One device of 141 TH/s. `down_s`: how long a reboot keeps its port shut."""

    def __init__(self, *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.web = WebPort(self._answer, host)
        self.rate_mhs, self.down_s = 141_000_000.0, down_s
        self.mac, self.password = "02:00:5E:10:00:81", "letmein"
        self.configs = [{"pool": "stratum+tcp://pool.invalid:3333", "login": "factory.worker", "password": "p"}]
        self.coin, self.unique = "BTC", True
        self.dead_pools: set[str] = {"dead."}
        self.state, self.lit = "Mining", False
        self.reboots = self.restarts = 0
        self.more: dict[str, Any] = {}  # laid over what `summary` tells
        self.hardware: dict[str, Any] = {}  # laid over what `capabilities` tells
        self.without: set[str] = set()  # paths it has not
        self.untold: set[str] = set()  # paths that it refuses to tell now
        self.refuses = ""  # every order, with this reason
        self.drop_reply = False
        super().__init__((self.web,), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._start()
            await self._open()
        else:
            await self._shut()

    def _start(self) -> None:
        self._began_s, self.state = asyncio.get_running_loop().time(), "Mining"

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    # ---- answers -----------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        name = request.path[1:]
        if name in self.without:
            return Response(b"", 404)
        if request.method == "POST":
            return self._order(name, request.json)
        if name in self.untold:
            return told({"result": False, "error": "Miner is not ready"})
        pages = {"summary": self._summary, "capabilities": self._capabilities, "network": self._network}
        return told(pages[name]()) if name in pages else Response(b"", 404)

    def _order(self, name: str, given: dict[str, Any]) -> Reply:
        if given.get("password") != self.password:
            return told({"result": False, "error": "Incorrect password"})
        if self.refuses:
            return told({"result": False, "error": self.refuses})
        param = given["param"]
        if name == "reboot":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
        elif name == "softreboot":
            self.restarts += 1
            self._start()
        elif name == "miner":
            self.state = {"Stop": "Idling", "Autostart": "Mining"}[param]
            self._began_s = asyncio.get_running_loop().time()
        elif name == "identify":
            self.lit = param
        elif name == "coin":
            self.coin, self.configs, self.unique = param["coin"], list(param["stratum_configs"]), param["unique_id"]
        else:
            return Response(b"", 404)
        return None if self.drop_reply else told({"result": True, "error": None})

    def _summary(self) -> dict[str, Any]:
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = next((at for at, c in enumerate(self.configs) if not any(dead in c["pool"] for dead in self.dead_pools)), None)
        hashes = self.state == "Mining" and alive is not None
        at = alive or 0
        idle = self.state == "Idling"
        mhs = self.rate_mhs / BOARDS if hashes else 0.0
        fans: dict[str, int | None] = {f"Fans Speed {i}": 5700 + 10 * i for i in range(1, FANS + 1)}
        fans |= {f"Fans Speed {i}": None for i in range(FANS + 1, 13)}
        boards = [
            {"Index": i, "Hashrate": [mhs, 98.0 if hashes else 0.0, 0.5], "Temperature": 60.5 + i, "Core Clock Avg": 487.5,
             "Input Voltage": 12.6, "Input Power": 0.0}
            for i in range(BOARDS)
        ]  # fmt: skip
        tune = {"Target": 144, "Throttle Target": None, "Unit": "TH/s", "Optimized": True}
        return {
            "Status": {"Operating State": self.state, "Last Command": None, "Last Command Result": None, "Last Error": None},
            "Hostname": "simulated", "Software": "PowerPlay-BMS v1.5.99-sim", "OS Type": "umcOS",
            "Mining": {"Algorithm": "SHA-256", "Coin": self.coin},
            "HBs": [] if idle else boards,
            "HBStatus": [{"Index": i, "Detected": True, "Enabled": True} for i in range(BOARDS)],
            "Fans": {"Fans Speed": 80}, "Fans Rpm": fans,
            "Misc": {"Locate Miner State": self.lit, "Shutdown Temp": 85.0},
            "PerpetualTune": {"Running": True, "Algorithm": {"VoltageOptimizer": tune}},
            "Power Supply Stats": {"Input Power": 2900.5 if hashes else 21.0, "Input Voltage": 0.0, "Output Voltage": 12.6},
            "Session": {"Accepted": up // 2, "Rejected": 2, "Submitted": up // 2 + 2, "Average MHs": mhs * BOARDS, "Uptime": up},
            "Stratum": {
                "Config Id": at, "Current Pool": self.configs[at]["pool"].partition("://")[2], "IsPoolConnected": hashes,
                "Current User": f"{self.configs[at]['login']}-0x1x81", "Worker Unique Id": self.unique,
            },
            "StratumConfigs": self.configs,
        } | self.more  # fmt: skip

    def _capabilities(self) -> dict[str, Any]:
        return {
            "Model": "AntMiner S19 XP", "Model Subtype": "BHB00000", "Chip Type": "BM1366", "Coins": ["BTC"], "Max HBs": BOARDS,
            "Control Board Version": {"cpuHardware": "STM32 (Device Tree Support)", "cpuSerial": "00EXAMPLE0081"},
            "Performance Estimator": {"Chip Count": CHIPS, "Hashes Per Second Per Chip": 894.0}, "Default Hashrate": 143,
            "Temp Sensor Info": {"Count": 2, "Type": "Board"},
        } | self.hardware  # fmt: skip

    def _network(self) -> dict[str, Any]:
        return {"static": {"address": "192.0.2.81", "gateway": "192.0.2.1", "mac_address": self.mac}}
