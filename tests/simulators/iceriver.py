"""A simulated IceRiver over real sockets: its pages on one port, nothing on any other. Of two ages of firmware.

In a test:  async with Iceriver() as device: … device.port
Early firmware (`open_to_all`) knows no log-in and puts everything into one form; newer firmware hands out a cookie.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

PAGE = "<HTML><HEAD><TITLE>用户界面</TITLE></HEAD><BODY>KS</BODY></HTML>"
BOARDS, CHIPS = 3, 76


class Iceriver(Machine):
    """One KS3 of 9 TH/s. `down_s`: how long a restart keeps the port shut."""

    def __init__(
        self, *, host: str = "127.0.0.1", open_to_all: bool = False, down_s: float = 0.1, started_s_ago: float = 5_379_456
    ) -> None:
        self.web = WebPort(self._answer, host)
        self.open_to_all, self.down_s = open_to_all, down_s
        self.mac, self.password = "02-00-5E-10-00-41", "12345678"
        self.pools = [{"addr": "stratum+tcp://pool.invalid:5555", "user": "factory.worker", "pass": "p"}]
        self.dead_pools: set[str] = {"dead."}
        self.mode, self.ratio = 1, 60
        self.blinks = False
        self.miner_down = False
        self.reboots = 0
        self.restarts = 0  # of the miner, by a form that it took
        self.forms: list[dict[str, str]] = []
        self.cookie = ""
        self.log_ins = 0
        self.drop_reply: set[str] = set()  # paths whose orders it carries out without a word
        self.refuses = False
        self.without: set[str] = set()  # names that its answers lack
        self.page = PAGE.encode()
        super().__init__((self.web,), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self._open()
        else:
            self.cookie = ""
            await self._shut()

    # ---- pages -------------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        if request.path in ("/", "/user/login"):
            return Response(self.page)
        if request.path == "/user/loginpost":
            return self._log_in(request)
        if not self.open_to_all and (not self.cookie or request.headers.get("cookie") != self.cookie):
            return Response(self.page)
        if self.miner_down:
            return told({"error": 1, "data": {}, "message": "Connect miner failed!"})
        post = request.given.get("post", "")
        if request.path == "/user/userpanel":
            said = self._panel_post(post, request)
        elif request.path == "/user/machineconfig":
            said = self._config_post(post, request)
        else:
            return Response(b"", 404)
        order = (request.path, post) not in (("/user/userpanel", "4"), ("/user/machineconfig", "1"))
        return None if order and request.path in self.drop_reply else said

    def _log_in(self, request: Request) -> Reply:
        if request.given.get("user") != "admin":
            return told({"error": 1001, "data": {"id": "login"}, "message": "user not exist"})
        if request.given.get("pwd") != self.password:
            return told({"error": 1002, "data": {"id": "login"}, "message": "password error"})
        self.log_ins += 1
        self.cookie = "" if self.open_to_all else f"-http-session-=sim{self.log_ins}"
        expires = "; Expires=Thu, 01 Jan 2099 00:00:00 GMT; Path=/"
        return told({"error": 0, "data": {"id": "login"}, "message": ""}, cookie=self.cookie + expires if self.cookie else "")

    def _panel_post(self, post: str, request: Request) -> Reply:
        if post == "4":
            return told({"error": 0, "data": self._data(), "message": ""})
        if self.refuses:
            return told({"error": 1005, "data": {"id": "x"}, "message": "not now"})
        if post == "5":
            self.blinks = request.given.get("locate") == "1"
        elif post == "3":
            self.reboots += 1
            self._step = asyncio.create_task(self._reboot())
        else:
            return told({"data": "userpanel"})
        return told({"error": 0, "data": {}, "message": "(null)"})

    def _config_post(self, post: str, request: Request) -> Reply:
        if post == "1":
            rows = [{"no": i + 1.0, **pool} for i, pool in enumerate(self._slots())]
            data = {"pools": rows, "ratio": self.ratio, "mode": self.mode}
            return told({"error": 0, "data": {k: v for k, v in data.items() if k not in self.without}, "message": ""})
        if post not in ("2", "3") or (post == "3" and self.open_to_all):
            return told({"data": "machineConfig"})
        if self.refuses:
            return told({"error": 1005, "data": {"id": "setpool"}, "message": "not now"})
        form = dict(request.given)
        self.forms.append(form)
        self.restarts += 1
        if post == "2":
            names = [(f"pool{i}address", f"pool{i}miner", f"pool{i}pwd") for i in (1, 2, 3)]
            self.pools = [
                {"addr": form[url], "user": form[user], "pass": form[word]} for url, user, word in names if form.get(url, "")
            ]
        self.mode, self.ratio = {"sleep": 0, "normal": 1}[form["fanmode"]], int(form["fanratio"])
        self._began_s = asyncio.get_running_loop().time()
        return told({"error": 0, "data": {}, "message": ""})

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    # ---- what it knows -----------------------------------------------------------------------------------

    def _slots(self) -> list[dict[str, str]]:
        return (self.pools + [{"addr": "", "user": "", "pass": ""}] * 3)[:3]

    def _data(self) -> dict[str, Any]:
        up = int(asyncio.get_running_loop().time() - self._began_s)
        alive = [bool(pool["addr"]) and not any(dead in pool["addr"] for dead in self.dead_pools) for pool in self._slots()]
        hashes = any(alive) and self.mode == 1
        shares = up // 5 if hashes else 0
        pools = [
            {"no": i + 1.0, **pool, "connect": hashes and i == alive.index(True), "diff": "8G", "priority": i + 1.0}
            | {"accepted": float(shares) if hashes and i == alive.index(True) else 0.0, "rejected": 0.0, "state": 0.0}
            for i, pool in enumerate(self._slots())
        ]
        board = {"chipnum": float(CHIPS), "error": 2.0, "freq": 660.0, "rtpow": "3000G" if hashes else "0G", "avgpow": "2990G"}
        board |= {"idealpow": "3100G", "tempnum": "0", "pcbtemp": "", "state": True, "false": ""}
        days, rest = divmod(up, 86400)
        data: dict[str, Any] = {
            "model": "none", "algo": "no", "online": True, "firmver1": "2024-01-02 03:04:05", "softver1": "br_1.2_sim_ks3miner",
            "firmtype": "Factory", "nic": "eth0", "mac": self.mac, "ip": "192.0.2.41", "host": "simulated", "dhcp": True,
            "locate": self.blinks, "rtpow": "9.00T" if hashes else "0G", "avgpow": "8970.5G", "reject": 0.5,
            "runtime": f"{days:02}:{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}", "unit": "G",
            "powstate": hashes, "netstate": True, "fanstate": True, "tempstate": False, "fans": [4680, 4710, 5400, 0],
            "pools": pools,
            "boards": [{"no": i + 1.0, **board, "intmp": 55.22 + i, "outtmp": 58.17 + i} for i in range(BOARDS)],
        }  # fmt: skip
        return {key: value for key, value in data.items() if key not in self.without}
