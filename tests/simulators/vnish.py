"""A simulated S21 Pro with VNish over real sockets: its REST API behind a password on one port, port 4028 beside it.

In a test:  async with Vnish() as device: … device.port, device.web.port
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.api_port import ApiPort, invalid, status
from tests.simulators.api_port import Reply as ApiReply
from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

BOARDS, CHIPS, FANS = 3, 65, 4
_API = "/api/v1/"
_DEVFEE = {"url": "DevFee", "pool_type": "DevFee", "user": "DevFee", "status": "active", "accepted": 9, "rejected": 0, "stale": 0}


_PRESETS = [{"name": "disabled", "pretty": "Disabled", "status": "untuned", "modded_psu_required": False}] + [
    {"name": str(w), "pretty": f"{w} watt ~ 188 TH", "status": "tuned", "modded_psu_required": w > 4000} for w in (2550, 2800, 4100)
]


class Vnish(Machine):
    """One device of 190 TH/s. `down_s`: how long a reboot keeps both ports shut."""

    def __init__(self, *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.api, self.web = ApiPort(self._said, host), WebPort(self._answer, host)
        self.rate_hs, self.down_s = 190e12, down_s
        self.mac, self.password = "02:00:5e:10:00:71", "admin"
        pools = [{"url": "pool.invalid:3333", "user": "factory.worker", "pass": "p"}]
        empty = {"url": "", "user": "", "pass": ""}
        self.settings: dict[str, Any] = {
            "miner": {
                "misc": {"quiet_mode": True},
                "overclock": {"preset": "2800", "globals": {"freq": 495}},
                "cooling": {"mode": {"name": "auto", "param": 65}, "fan_min_count": 4},
                "pools": [*pools, empty, dict(empty)],
            },
            "ui": {"consts": {"cooling": {"min_fan_pwm": 10}}},
            "network": {"hostname": "simulated", "dhcp": True},
            "password": None,
        }
        self.works_with: list[dict[str, str]] = pools
        self.dead_pools: set[str] = {"dead."}
        self.state = "mining"
        self.status_more: dict[str, Any] = {}  # beside the state
        self.miner_more: dict[str, Any] = {}  # laid over what `summary` tells
        self.unit = "GH/s"
        self.lit = False
        self.reboots = self.restarts = self.log_ins = 0
        self.token = ""
        self.wants = "restart_required"  # after new pools; "" for firmware that takes them at once
        self.without: set[str] = set()  # paths that it does not know now
        self.spoilt: dict[str, object] = {}  # paths: what they answer instead
        self.err: tuple[int, dict[str, Any]] | None = None  # what orders are refused with
        self.drop_reply = self.ignores_on = False
        super().__init__((self.api, self.web), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._start_miner()
            await self._open()
        else:
            self.token = ""
            await self._shut()

    def _start_miner(self) -> None:
        self._began_s = asyncio.get_running_loop().time()
        self.works_with = [pool for pool in self.settings["miner"]["pools"] if pool["url"]]
        self.state = "mining"

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    @property
    def _up_s(self) -> int:
        return int(asyncio.get_running_loop().time() - self._began_s)

    def _alive(self) -> list[bool]:
        return [not any(dead in pool["url"] for dead in self.dead_pools) for pool in self.works_with]

    @property
    def _hashes(self) -> bool:
        return self.state in ("mining", "auto-tuning") and any(self._alive())

    # ---- its web page ------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        path = request.path.removeprefix(_API)
        if not request.path.startswith(_API) or path in self.without:
            page = b"<!doctype html><html><head><title>AnthillOS</title></head></html>"
            return Response(page) if request.path == "/" else Response(b"", 404)
        if path == "unlock":
            return self._unlock(request)
        unlocked = bool(self.token) and request.headers.get("authorization") == f"Bearer {self.token}"
        if request.method == "GET":
            return self._get(path, unlocked)
        if not unlocked:
            return told({"err": "locked"}, status=401)
        if self.err is not None:
            return told(self.err[1], status=self.err[0])
        said = self._order(path, request.json)
        if said is None:
            return Response(b"", 404)
        return None if self.drop_reply else told(said)

    def _unlock(self, request: Request) -> Reply:
        if request.json != {"pw": self.password}:
            return told({"err": "wrong password"}, status=403)
        self.log_ins += 1
        self.token = f"sim{self.log_ins}"
        return told({"token": self.token})

    def _get(self, path: str, unlocked: bool) -> Reply:
        if path in self.spoilt:
            return told(self.spoilt[path])
        if path == "settings":
            return told(self.settings) if unlocked else Response(b"")
        if path == "autotune/presets":
            return told(_PRESETS) if unlocked else told({"err": "locked"}, status=401)
        answers = {"info": self._info, "summary": self._summary, "status": self._status, "perf-summary": self._perf}
        return told(answers[path]()) if path in answers else Response(b"", 404)

    def _order(self, path: str, given: Any) -> dict[str, Any] | None:
        if path == "system/reboot":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
        elif path == "mining/stop":
            self.state = "stopped"
        elif path == "mining/start" and self.state == "stopped":
            self._start_miner()
        elif path == "mining/resume" and self.state == "paused":
            self.state = "mining"
        elif path == "mining/restart":
            self.restarts += 1
            self._start_miner()
        elif path == "find-miner":
            self.lit = not self.lit if self.ignores_on else given["on"]
            return {"on": self.lit}
        elif path == "settings":
            self.settings = _merged(self.settings, given)
            if not self.wants:
                self._start_miner()
            return {name: name == self.wants for name in ("restart_required", "reboot_required")}
        else:
            return None
        return {"success": True}

    def _info(self) -> dict[str, Any]:
        network = {"mac": self.mac.upper(), "ip": "192.0.2.71", "hostname": "simulated"}
        return {
            "miner": "Antminer S21 Pro", "model": "s21pro", "fw_name": "Vnish", "fw_version": "1.2.7-sim", "platform": "aml",
            "hr_measure": self.unit, "system": {"network_status": network, "uptime": "1 days, 2:05"}, "serial": "N/A",
        }  # fmt: skip

    def _status(self) -> dict[str, Any]:
        return {"miner_state": self.state, "miner_state_time": 5, "find_miner": self.lit, "unlocked": False} | self.status_more

    def _perf(self) -> dict[str, Any]:
        preset = self.settings["miner"]["overclock"]["preset"]
        return {"current_preset": {"name": preset, "pretty": f"{preset} watt ~ 188 TH", "status": "tuned"}}

    def _summary(self) -> dict[str, Any]:
        ghs = self.rate_hs / 1e9 if self._hashes else 0.0
        on = self.state in ("mining", "auto-tuning")
        miner = {
            "miner_status": {"miner_state": self.state, "miner_state_time": 5} | self.status_more,
            "miner_type": "Antminer S21 Pro (Vnish 1.2.7-sim)",
            "average_hashrate": ghs / 1e3, "hr_realtime": ghs, "hr_nominal": 196e3 if on else 0.0, "hr_average": ghs,
            "pcb_temp": {"min": 40, "max": 52 if on else 0}, "chip_temp": {"min": 55, "max": 66 if on else 0},
            "power_consumption": 2580 if self._hashes else 0, "hw_errors": 57, "pools": self._pools(),
            "cooling": {"fan_num": FANS, "fan_duty": 90, "fans": [{"id": i, "rpm": 5880 + 30 * i} for i in range(FANS)]},
            "chains": [self._chain(i, ghs) for i in range(BOARDS)] if on else [],
        }  # fmt: skip
        return {"miner": miner | self.miner_more}

    def _chain(self, i: int, ghs: float) -> dict[str, Any]:
        return {
            "id": i + 1, "frequency": 495.0, "hashrate_rt": ghs / BOARDS, "hw_errors": 19, "status": {"state": "mining"},
            "pcb_temp": {"min": 40, "max": 50 + i}, "chip_temp": {"min": 55, "max": 64 + i},
            "chip_statuses": {"red": 0, "orange": 6, "grey": CHIPS - 6},
        }  # fmt: skip

    def _pools(self) -> list[dict[str, Any]]:
        alive = self._alive()
        first = alive.index(True) if any(alive) else -1
        found = []
        for i, pool in enumerate(self.works_with):
            state = "active" if i == first else "working" if alive[i] else "offline"
            shares = {"accepted": self._up_s // 5 if i == first else 0, "rejected": 1, "stale": 0}
            found.append({"id": i, "url": pool["url"], "user": pool["user"], "pool_type": "UserPool", "status": state} | shares)
        return [*found, _DEVFEE]

    # ---- port 4028 ---------------------------------------------------------------------------------------

    def _said(self, command: str, parameter: str) -> ApiReply:
        if command == "stats":
            row = {"Type": "Antminer S21 Pro (Vnish 1.2.7-sim)", "Miner": "0.0.0", "CompileTime": "2025-01-01 00:00:00"}
            return status(70, "CGMiner stats") | {"STATS": [row, {"Elapsed": self._up_s, "GHS 5s": self.rate_hs / 1e9}]}
        if command == "summary" and self.state in ("mining", "auto-tuning"):
            return status(11, "Summary") | {"SUMMARY": [{"Elapsed": self._up_s, "GHS 5s": self.rate_hs / 1e9}]}
        return invalid()


def _merged(held: Any, given: Any) -> Any:
    """What a settings document leaves out stays (proto-fleet writes the preset alone)."""
    if not isinstance(held, dict) or not isinstance(given, dict):
        return given
    return held | {name: _merged(held.get(name), value) for name, value in given.items()}
