"""A simulated S19 Pro with MaraFW over real sockets: its JSON API behind a digest log-in, port 4028 with its name.

In a test:  async with Marathon() as device: … device.port, device.web.port
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

from tests.simulators.api_port import ApiPort, invalid, status
from tests.simulators.api_port import Reply as ApiReply
from tests.simulators.digest import Door
from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

PROGRAM = "MARAFW 2.0.0"
BOARDS, CHIPS, FANS = 3, 114, 4
_ROOT = "/kaonsu/v1/"


class Marathon(Machine):
    """One device of 110 TH/s. `down_s`: how long a reboot keeps both ports shut. `unit`: "" for releases that state none."""

    def __init__(self, *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600, unit: str = "") -> None:
        self.api, self.web = ApiPort(self._said, host), WebPort(self._answer, host)
        self.rate_ths, self.unit, self.down_s = 110.0, unit, down_s
        self.mac, self.password = "02:00:5e:10:00:a1", "root"
        self._door = Door("antMiner Configuration")  # stock firmware's
        self.config: dict[str, Any] = {
            "mode": {"work-mode-selector": "Auto", "concorde": {"mode-select": "PowerConsumption", "power-target": 3300}},
            "pool-group": [{"gid": 0, "alias": "main", "percent": 100}],
            "pools": [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "p", "gid": 0}],
            "general-config": {"environment-profile": "AirCooling"},
        }
        self.history: list[dict[str, Any]] = []
        self.dead_pools: set[str] = {"dead."}
        self.blinking = False
        self.reboots = self.reloads = 0
        self.wrapped = False  # every answer under `data`
        self.more: dict[str, dict[str, Any]] = {}  # by page: laid over what it tells
        self.without: set[str] = set()  # pages that it does not know now
        self.refuses = ""  # every order, with this reason
        self.drop_reply = False
        super().__init__((self.api, self.web), started_s_ago)

    @property
    def mode(self) -> str:
        return str(self.config["mode"]["work-mode-selector"])

    def realm(self, realm: str) -> None:
        self._door = Door(realm)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self._open()
        else:
            await self._shut()

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    # ---- web page ----------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        query = f"?{urlencode(request.given)}" if request.given else ""
        header = request.headers.get("authorization", "")
        challenge = self._door.refuses(request.method, request.path + query, header, "root", self.password)
        if challenge is not None:
            return Response(b"<html>401</html>", 401, {"WWW-Authenticate": challenge})
        page = request.path.removeprefix(_ROOT)
        if not request.path.startswith(_ROOT) or page in self.without:
            return Response(b"<html>404</html>", 404)
        if request.method == "POST":
            return self._order(page, request.json)
        found = self._page(page)
        if found is None:
            return Response(b"<html>404</html>", 404)
        found = found | self.more.get(page, {}) if isinstance(found, dict) else found
        return told({"data": found} if self.wrapped else found)

    def _order(self, page: str, given: Any) -> Reply:
        if self.refuses:
            return told({"error": True, "msg": self.refuses})
        answer: dict[str, Any] = {"error": False, "msg": "success"}
        if page == "maintenance" and given == {"type": "reboot"}:
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
        elif page == "maintenance" and given == {"type": "reload"}:
            self.reloads += 1
            self._began_s = asyncio.get_running_loop().time()
        elif page == "locate_miner":
            self.blinking = given["blinking"]
            answer = {"blinking": self.blinking}
        elif page == "miner_config":
            before, self.config = self.mode, given
            if before != self.mode:
                change = {"type": "update", "path": ["Mode", "WorkModeSelector"], "from": before, "to": self.mode}
                self.history.append({f"change {len(self.history)}": [change]})
            self._began_s = asyncio.get_running_loop().time()
        else:
            return Response(b"", 404)
        return None if self.drop_reply else told(answer)

    def _page(self, page: str) -> Any:
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = [not any(dead in pool["url"] for dead in self.dead_pools) for pool in self.config["pools"]]
        asleep = self.mode == "Sleep"
        hashes = any(alive) and not asleep
        first = alive.index(True) if hashes else -1
        rate = self.rate_ths if hashes else 0.0
        stated: dict[str, Any] = {"hashrate_unit": self.unit} if self.unit else {}
        shown = rate * 1000 if self.unit == "GH/s" else rate
        pages: dict[str, Any] = {
            "brief": {
                "status": "Sleep" if asleep else "Mining", "hashrate_realtime": shown, "hashrate_average": shown * 0.99,
                "hashrate_ideal": self.rate_ths * 1000, "power_consumption_estimated": 3250 if hashes else 25,
                "power_source": "EST", "elapsed": up, "temperature_max": 78.5,
            } | stated,
            "overview": {
                "model": "Antminer S19 Pro", "model_extended": "Antminer S19 Pro (110TH)", "mac": self.mac,
                "version_firmware": "rel 2.0.0-sim", "control_board": "Xilinx",
            },
            "hashboards": {"hashboards": [
                {"index": i, "hashrate_average": rate * 1000 / BOARDS, "asic_num": CHIPS, "asic_num_ideal": CHIPS,
                 "temperature_pcb": [55.0 + i, 60.0 + i, 0], "temperature_chip": [70.5 + i, 74.5 + i], "frequency_avg": 675.0}
                for i in range(BOARDS)
            ]},
            "fans": {"fans": [{"current_speed": 0 if asleep else 5500 + 10 * i} for i in range(FANS)]},
            "pools": [
                {"index": i, "url": p["url"], "user": p["user"], "status": "Alive" if alive[i] else "Dead", "priority": i,
                 "accepted": up // 2 if i == first else 0, "rejected": 1, "stale": 0}
                for i, p in enumerate(self.config["pools"])
            ],
            "miner_config": self.config,
            "locate_miner": {"blinking": self.blinking},
            "log": self.history,
        }  # fmt: skip
        return pages.get(page)

    # ---- port 4028 ---------------------------------------------------------------------------------------

    def _said(self, command: str, parameter: str) -> ApiReply:
        if command == "version":
            row = {"BMMiner": PROGRAM, "API": "3.1", "Type": "Antminer S19 Pro", "Model": "Antminer S19 Pro"}
            return status(22, "BMMiner versions", program=PROGRAM) | {"VERSION": [row]}
        return invalid(PROGRAM)
