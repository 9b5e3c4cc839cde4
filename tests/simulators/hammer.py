"""A simulated Hammer D10, BlackMiner F1 or VolcMiner D1 over real sockets: port 4028, and CGI behind a digest log-in.

In a test:  async with Hammer("volcminer") as device: … device.port, device.web.port
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tests.simulators.api_port import ApiPort, invalid, status
from tests.simulators.api_port import Reply as ApiReply
from tests.simulators.digest import Door
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

PROGRAM = "ccminer 2.3.3"


@dataclass(frozen=True)
class Spec:
    kind: str
    unit: str
    boards: int
    chips: int
    rate: float  # in `unit`
    password: str = "root"  # the makers'


SPECS = {
    "hammer": Spec("Hammer D10", "MHS", 3, 108, 4700.0),
    "blackminer": Spec("Blackminer F1", "GHS", 2, 6, 16.0),
    "volcminer": Spec("VolcMiner D1", "MHS", 3, 105, 15500.0, "ltc@dog"),
}


class _WithoutCommas(ApiPort):
    def _bytes(self, request: bytes) -> bytes:
        return super()._bytes(request).replace(b"}, {", b"}{")  # as the firmware really does


class Hammer:
    """`shut_api`: newer VolcMiners have no port 4028. `down_s`: how long a restart keeps the ports shut."""

    def __init__(self, family: str = "hammer", *, shut_api: bool = False, down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.family, self.spec = family, SPECS[family]
        self.api, self.web = _WithoutCommas(self._said), WebPort(self._answer)
        self.door = Door("blackMiner Configuration")
        self.mac, self.password, self.down_s = "02:00:5e:10:00:81", self.spec.password, down_s
        self.conf: dict[str, Any] = {
            "pools": [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "p"}]
            + [{"url": "", "user": "", "pass": ""}] * 2,
            "freq": "810",
            "coin-type": "ckb" if family == "blackminer" else "ltc",
        }
        if family == "volcminer":
            self.conf |= {"fan-ctrl": True, "fan-pwm-front": "60", "fan-pwm-back": "70", "use-vil": True, "sram-voltage": "3"}
        else:
            self.conf |= {"api-listen": True, "api-network": True, "api-allow": "R:0/0,W:127.0.0.1"}
        self.more = (
            '{"code":0,"data":"{"cfgs":"[{"freq":"810"}]","keepower":"1","debug":"{"bb_debug_enable":false}",'
            '"runmode":"0","voltage":"1260"}"}'
        )
        self.forms: list[dict[str, str]] = []
        self.dead_pools: set[str] = {"dead."}
        self.lost_boards, self.blinking, self.reboots = 0, False, 0
        self.booting = self.miner_down = False
        self.without: set[str] = set()  # commands and pages that it does not have now
        self.broken: dict[str, bytes] = {}  # what a page shows instead
        self.drop_reply: set[str] = set()
        self._shut_api, self._began_s = shut_api, -started_s_ago
        self._step: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Hammer:
        self._began_s += asyncio.get_running_loop().time()
        await self.api.open()
        if self._shut_api:
            await self.api.shut()
        await self.web.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._step is not None:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
        await self.api.shut(hold=False)
        await self.web.shut(hold=False)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            if not self._shut_api:
                await self.api.open()
            await self.web.open()
        else:
            await self.api.shut()
            await self.web.shut()

    async def kill_miner(self) -> None:
        self.miner_down = True
        await self.api.shut()

    def _state(self) -> tuple[int, list[bool], float]:
        """Uptime, which pools live, and the rate in the device's unit."""
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = [bool(p["url"]) and not any(dead in p["url"] for dead in self.dead_pools) for p in self.conf["pools"]]
        return up, alive, self.spec.rate if any(alive) else 0.0

    # ---- port 4028 ---------------------------------------------------------------------------------------

    def _said(self, command: str, parameter: str) -> ApiReply:
        if command in self.without:
            return invalid(PROGRAM)
        head = {"CGMiner": "2.3.3", "Miner": "2.0.2.2", "CompileTime": "2024-01-02 03-04-05 CST", "Type": self.spec.kind}
        if command == "version":
            return status(22, "CGMiner versions", program=PROGRAM) | {"VERSION": [head | {"API": "3.1"}]}
        if command == "stats":
            return status(70, "CGMiner stats", program=PROGRAM) | {"STATS": [head] if self.booting else [head, self._stats()]}
        if command == "pools":
            up, alive, _ = self._state()
            first = alive.index(True) if any(alive) else -1
            rows = [
                {"POOL": i, "URL": p["url"], "User": p["user"], "Status": "Alive" if alive[i] else "Dead", "Priority": i}
                | {"Accepted": up // 2 if i == first else 0, "Rejected": 3 * (i == first), "Stale": 0, "Stratum Active": i == first}
                | {"Diff": "  8.0000"}
                for i, p in enumerate(self.conf["pools"])
            ]
            return status(7, "3 Pool(s)", program=PROGRAM) | {"POOLS": rows}
        return invalid(PROGRAM)

    def _stats(self) -> dict[str, Any]:
        up, _, rate = self._state()
        spec, on = self.spec, self.spec.boards - self.lost_boards
        row: dict[str, Any] = {
            "STATS": 0, "ID": "A30", "Elapsed": up, f"{spec.unit} 5s": f"{rate:.4f}", f"{spec.unit} av": f"{rate * 0.99:.4f}",
            "miner_count": on, "frequency": self.conf["freq"], "fan_num": 4, "temp_num": on,
        }  # fmt: skip
        row |= {f"fan{i}": 4500 + 30 * i for i in range(1, 5)}
        for i in range(1, 5):
            here = i <= on
            row |= {
                f"temp{i}": 40 + i if here else 0,
                f"chain_acn{i}": spec.chips if here else 0,
                f"chain_hw{i}": 7 * i if here else 0,
            }
            row |= {f"chain_rate{i}": f"{rate / on:.4f}" if here else "", f"chain_acs{i}": " oooo" if here else ""}
            row[f"chipTemp{i}"] = "[67.30, 0.00, -73364045383872769689863497711616.00, 0.13]"
        return row

    # ---- pages -------------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        header = request.headers.get("authorization", "")
        challenge = self.door.refuses(request.method, request.path, header, "root", self.password)
        if challenge is not None:
            return Response(b"<html>401</html>", 401, {"WWW-Authenticate": challenge})
        name = request.path.removeprefix("/cgi-bin/").removesuffix(".cgi")
        if name in self.without:
            return Response(b"", 404)
        if name in self.broken:
            return Response(self.broken[name])
        if name in ("set_miner_conf", "post_led_onoff", "reboot"):
            said = self._order(name, dict(request.given))
            return None if name in self.drop_reply else said
        if name == "get_miner_confV1" and self.family == "volcminer":
            return Response(self.more.encode())
        page = self._page(name)
        return Response(b"<html>404</html>", 404) if page is None else Response(b"//the script's own words\n" + told(page).body)

    def _page(self, name: str) -> dict[str, Any] | None:
        if name == "get_system_info":
            return {
                "minertype": self.spec.kind, "macaddr": self.mac.upper(), "hostname": "simulated", "nettype": "DHCP",
                "ipaddress": "192.0.2.81", "system_filesystem_version": "2024-01-02 03-04-05 CST", "bb_hwv": "2.0.2.2",
            }  # fmt: skip
        if name == "get_miner_conf":
            return self.conf
        return self._status() if name == "get_miner_status" else None

    def _status(self) -> dict[str, Any]:
        up, alive, rate = self._state()
        if self.miner_down:
            return {"summary": {"elapsed": "0", "ghs5s": "0", "ghsav": "0"}, "pools": [], "devs": []}
        fans = ",".join(f"fan{i}={4500 + 30 * i}" for i in range(1, 5))
        return {
            "summary": {"elapsed": str(up), "ghs5s": f"{rate:,.2f}", "ghsav": f"{rate * 0.99:,.2f}"},
            "pools": [
                {"index": str(i), "url": p["url"], "user": p["user"], "status": "Alive" if alive[i] else "Dead"}
                | {"priority": str(i), "accepted": f"{up * 10:,}" if alive[i] else "0", "rejected": "1", "stale": "0"}
                for i, p in enumerate(self.conf["pools"])
            ],
            "devs": [
                {"index": str(i), "chain_acn": str(self.spec.chips), "freq": f"{self.conf['freq']},fan_num=4,{fans},temp_num=3"}
                | {"temp": f"[{40 + i}, {50 + i}]", "chain_acs": " oooo"}
                for i in range(1, self.spec.boards + 1)
            ],
        }

    def _order(self, name: str, given: dict[str, str]) -> Response:
        if name == "reboot":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
            return Response()
        if name == "post_led_onoff":
            self.blinking = given == {"_bb_type": "rgOn"}
            return Response(b'{"code":0,"msg":"ok"}')
        self.forms.append(given)
        pools = [{k: given[f"_bb_pool{i}{f}"] for k, f in (("url", "url"), ("user", "user"), ("pass", "pw"))} for i in (1, 2, 3)]
        self.conf = {**self.conf, "pools": pools, "freq": given["_bb_freq"], "coin-type": given["_bb_coin_type"]}
        self._began_s = asyncio.get_running_loop().time()
        return Response(b"ok")

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)
