"""A simulated Elphapex DG1+ over real sockets: its CGI behind a log-in by digest, by basic, or none.

In a test:  async with Elphapex() as device: … device.web.port
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.digest import Door
from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

BOARDS, CHIPS, FANS = 4, 204, 4
INFO = {"miner_version": "DG1+_SW_V9", "CompileTime": "", "dev_sn": "EXAMPLE0071", "type": "DG1+", "hw_version": "DG1+_HW_V9"}


class Elphapex(Machine):
    """One DG1+ of 14 GH/s. `down_s`: how long a restart keeps its port shut."""

    def __init__(self, *, way: str = "digest", host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.web = WebPort(self._answer, host)
        self.door = Door("Daoge", way)
        self.rate_hs, self.down_s = 14e9, down_s
        self.mac, self.password = "02:00:5e:10:00:71", "root"
        self.conf: dict[str, Any] = {
            "algo": "ltc", "fc-fan-ctrl": False, "fc-fan-pwm": "80", "fc-freq": "1850", "fc-freq-level": "100",
            "fc-voltage": "1470", "fc-work-mode": 0,
            "pools": [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "p"}]
            + [{"url": "", "user": "", "pass": ""}] * 2,
        }  # fmt: skip
        self.writes: list[dict[str, Any]] = []
        self.dead_pools: set[str] = {"dead."}
        self.lost_boards, self.blinking, self.reboots = 0, False, 0
        self.lamps: dict[str, str] = {}
        self.without: set[str] = set()  # pages that it does not have now
        self.broken: dict[str, object] = {}  # what a page shows instead
        self.drop_reply: set[str] = set()  # orders that it carries out without a word
        self.refuses: set[str] = set()
        super().__init__((self.web,), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self._open()
        else:
            await self._shut()

    def _answer(self, request: Request) -> Reply:
        challenge = self.door.refuses(request.method, request.path, request.headers.get("authorization", ""), "root", self.password)
        if challenge is not None:
            return Response(b"<html>401</html>", 401, {"WWW-Authenticate": challenge})
        name = request.path.removeprefix("/cgi-bin/").removesuffix(".cgi")
        if name in self.without:
            return Response(b"", 404)
        if name in self.broken:
            return told(self.broken[name])
        if name in ("set_miner_conf", "blink", "reboot"):
            said = self._order(name, request.json)
            return None if name in self.drop_reply else said
        page = self._page(name)
        return Response(b"<html>404</html>", 404) if page is None else told(page)

    def _order(self, name: str, given: Any) -> Response:
        if name in self.refuses:
            return told({"stats": "error", "code": "M001", "msg": "not now"})
        if name == "reboot":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
            return Response()
        if name == "blink":
            self.blinking = given["blink"] is True
            return told({"code": "B000" if self.blinking else "B100"})
        self.writes.append(given)
        self.conf = given
        self._began_s = asyncio.get_running_loop().time()
        return told({"stats": "success", "code": "M000", "msg": "OK!"})

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    def _page(self, name: str) -> dict[str, Any] | None:
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = [bool(p["url"]) and not any(dead in p["url"] for dead in self.dead_pools) for p in self.conf["pools"]]
        mhs = self.rate_hs / 1e6 if any(alive) and self.conf.get("fc-work-mode") == 0 else 0.0
        head = {"STATUS": {"STATUS": "S", "when": 1, "timestamp": 1, "api_version": "1.0.0", "Msg": name}, "INFO": INFO}
        if name == "get_system_info":
            return {
                "minertype": "DG1+", "Algorithm": "Scrypt", "macaddr": self.mac.upper(), "hostname": "simulated", "nettype": "DHCP",
                "ipaddress": "192.0.2.71", "system_filesystem_version": "DG1+_SW_V9", "firmware_type": "Release",
            }  # fmt: skip
        if name == "get_miner_conf":
            return self.conf
        if name == "get_blink_status":
            return {"blink": self.blinking}
        if name == "pools":
            return head | {"POOLS": self._pools(alive, up)}
        rates = {"rate_5s": mhs, "rate_avg": mhs * 0.99, "rate_ideal": 14229, "rate_30m": 0, "rate_unit": "MH/s", "elapsed": up}
        if name == "summary":
            kinds = ("rate", "network", "fans", "temp")
            lamps = [
                {"type": k, "status": "e" if k in self.lamps else "s", "code": 3 if k in self.lamps else 0}
                | {"msg": self.lamps.get(k, "")}
                for k in kinds
            ]
            return head | {"SUMMARY": [rates | {"hw_all": mhs, "status": lamps}]}
        if name == "stats":
            chains = [self._chain(i, mhs) for i in range(BOARDS)]
            return head | {"STATS": [rates | {"chain": chains, "chain_num": BOARDS, "fan": ["5400"] * FANS, "fan_num": FANS}]}
        return None

    def _chain(self, i: int, mhs: float) -> dict[str, Any]:
        on = i < BOARDS - self.lost_boards
        rate = mhs / (BOARDS - self.lost_boards) if on else 0
        return {
            "index": i, "asic_num": CHIPS if on else 0, "hw": CHIPS if on else 0, "hashrate": rate, "rate_real": rate * 0.99,
            "rate_ideal": 3557.25 if on else 0, "freq_avg": 62000 if on else 0, "sn": f"SIMBOARD{i}" if on else "",
            "asic": "oooo", "temp_pcb": [47, 46, 67, 66], "temp_pic": [47, 46, 67, 66],
            "temp_chip": [f"{52000 + 125 * i}", f"{56000 + 125 * i}", "", ""] if on else ["", "", "", ""],
        }  # fmt: skip

    def _pools(self, alive: list[bool], up: int) -> list[dict[str, Any]]:
        first = alive.index(True) if any(alive) else -1
        return [
            {"index": i, "url": pool["url"], "user": pool["user"], "status": "Alive" if alive[i] else "Unreachable"}
            | {"priority": i, "accepted": up // 2 if i == first else 0, "rejected": 3 if i == first else 0, "stale": 0}
            for i, pool in enumerate(self.conf["pools"])
        ]
