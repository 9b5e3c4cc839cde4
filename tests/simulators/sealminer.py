"""A simulated SealMiner A2 over real sockets: its API on port 4028, its PHP pages behind a cookie on another.

In a test:  async with Sealminer() as device: … device.port, device.web.port
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.api_port import ApiPort, invalid, status
from tests.simulators.api_port import Reply as ApiReply
from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

PROGRAM = "bdminer 4.11.1"
BOARDS, CHIPS, FANS = 3, 153, 4


class Sealminer(Machine):
    """One A2 of 220 TH/s. `down_s`: how long a restart keeps both ports shut."""

    def __init__(self, *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.api, self.web = ApiPort(self._said, host), WebPort(self._answer, host)
        self.rate_hs, self.down_s = 220e12, down_s
        self.mac, self.serial, self.password = "02:00:5e:10:00:51", "EXAMPLE0051", "seal"
        self.pools = [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "p"}]
        self.dead_pools: set[str] = {"dead."}
        self.asleep, self.led = False, "off"
        self.reboots = 0
        self.cookie, self.log_ins = "", 0
        self.stats: dict[str, Any] = {}  # laid over what it tells
        self.without: set[str] = set()  # commands, pages and names that it does not know now
        self.drop_reply: set[str] = set()  # pages whose orders it carries out without a word
        self.refuses: set[str] = set()
        super().__init__((self.api, self.web), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self._open()
        else:
            self.cookie = ""
            await self._shut()

    # ---- pages -------------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        page = request.path.removeprefix("/cgi-bin/").removesuffix(".php")
        if page == "login":
            return self._log_in(request)
        if page in self.without:
            return Response(b"", 404)
        if not self.cookie or self.cookie not in request.headers.get("cookie", "").split("; "):
            return Response(b"<script>location.href='login.html'</script>")
        if request.method == "GET":
            return self._page(page)
        if page in self.refuses:
            return told({"result": 1, "msg": "not now"})
        if not self._order(page, request.json):
            return Response(b"", 404)
        return None if page in self.drop_reply else told({"status": 1, "result": 0})

    def _log_in(self, request: Request) -> Reply:
        if (request.given.get("username"), request.given.get("origin_pwd")) != ("seal", self.password):
            return told({"state": 1, "msg": "wrong"})
        self.log_ins += 1
        self.cookie = f"PHPSESSID=sim{self.log_ins}"
        return told(
            {"state": 0, "msg": "ok"}, cookie=f"{self.cookie}; path=/, userLanguage=en; expires=Fri, 02 Jan 2099 00:00:00 GMT"
        )

    def _page(self, page: str) -> Reply:
        if page == "get_system_info":
            return told({"miner_type": "A2", "macaddr": self.mac, "led": self.led, "brand": "Sealminer"})
        if page == "get_miner_poolconf":
            rows = (self.pools + [{"url": "", "user": "", "pass": ""}] * 3)[:3]
            return told({"xk-h3x-miningmode": "2"} | ({} if "pools" in self.without else {"pools": rows}))
        return Response(b"", 404)

    def _order(self, page: str, given: Any) -> bool:
        if page == "reboot":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
        elif page == "led_conf":
            self.led = given["value"]
        elif page == "mining_setting":
            self.asleep = given == {"params_data": 0}
            self._began_s = asyncio.get_running_loop().time()
        elif page == "set_miner_poolconf":
            names = [(f"poolurl{i}", f"pooluser{i}", f"poolpwd{i}") for i in (1, 2, 3)]
            self.pools = [{"url": given[url], "user": given[user], "pass": given[word]} for url, user, word in names if given[url]]
        else:
            return False
        return True

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    # ---- port 4028 ---------------------------------------------------------------------------------------

    def _said(self, command: str, parameter: str) -> ApiReply:
        if command in self.without:
            return invalid(PROGRAM)
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = [not any(dead in pool["url"] for dead in self.dead_pools) for pool in self.pools]
        hashes = any(alive) and not self.asleep
        if command == "version":
            return status(22, "BDMiner versions", program=PROGRAM) | {"VERSION": [{"BDMiner": "4.11.1", "API": "3.7"}]}
        if command == "summary":
            row = {"Elapsed": up, "MHS av": 1.0, "Accepted": up // 2, "Rejected": 3, "Stale": 1, "Hardware Errors": 54}
            return status(11, "Summary", program=PROGRAM) | {"SUMMARY": [row]}
        if command == "stats":
            return status(70, "BDMiner stats", program=PROGRAM) | {"STATS": [self._stats(up, hashes) | self.stats]}
        if command == "pools":
            first = alive.index(True) if any(alive) else -1
            rows = [
                {"POOL": i, "URL": pool["url"], "User": pool["user"], "Status": "Alive" if alive[i] else "Dead", "Priority": i}
                | {"Accepted": up // 2 if i == first else 0, "Rejected": 0, "Stale": 0, "Stratum Active": hashes and i == first}
                for i, pool in enumerate(self.pools)
            ]
            return status(7, f"{len(rows)} Pool(s)", program=PROGRAM) | {"POOLS": rows}
        return invalid(PROGRAM)

    def _stats(self, up: int, hashes: bool) -> dict[str, Any]:
        mhs = self.rate_hs / 1e6 if hashes else 0.0
        row: dict[str, Any] = {
            "STATS": 0, "ID": "A20", "Elapsed": up, "Model": "A2", "ASIC": "Seal02-V1", "Firmware": "2025010101",
            "Software Version": "4.11.1-sim", "IP": "192.0.2.51", "MAC": self.mac.upper(), "Ctrl Board": "taurus_air_v1.1",
            "Ctrl Board SN": self.serial, "PM State": "Suspended" if self.asleep else "Running", "Bad Chip Count": 0,
            "Mining Mode": "Normal", "Temp": 70, "Error Chip": "", "Error Code": "", "Liquid Cooling": False,
            "System Uptime": up + 60, "MHS(Rated)": 230e6, "MHS(Ideal)": 221e6, "MHS(Sample)": mhs, "MHS(30s)": mhs,
            "MHS(Avg)": mhs * 0.99, "Power Limit": 3500, "PSU Model": "EXAMPLE-PSU", "PSU Error": "0x00000000",
            "PSU Input Voltage": 246.0, "PSU Input Power": 3504 if hashes else 60, "Fan Count": FANS, "Board Count": BOARDS,
        }  # fmt: skip
        for i in range(FANS):
            row |= {f"{i} PWM": 112, f"{i} Speed": 3720 + 30 * i}
        for i in range(BOARDS):
            row |= {f"{i} Online": True, f"{i} Chip Count": CHIPS, f"{i} Bad Chip Count": 0, f"{i} Freq": 346}
            row |= {f"{i} MHS(Sample)": mhs / BOARDS} | {f"{i} Temp {j}": t for j, t in enumerate((55 + i, 0, 70 + i, 65 + i))}
        return row
