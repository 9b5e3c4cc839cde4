"""A simulated Antminer with LuxOS, over real sockets: port 4028, its one session, sleep, pools in groups, the red light.

In a test:  async with Luxos() as device: … device.port
What it answers follows the maker's API documentation and the shapes of recorded answers; the words are our own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.api_port import ApiPort, Reply, invalid, status

PROGRAM = "LUXminer 2025.6.1.101010-simulated"
SECTIONS = {
    "summary": "SUMMARY", "devs": "DEVS", "stats": "STATS", "fans": "FANS", "power": "POWER", "temps": "TEMPS",
    "config": "CONFIG", "events": "EVENTS", "version": "VERSION", "pools": "POOLS", "profiles": "PROFILES", "atm": "ATM",
}  # fmt: skip
BOARDS = 3


class Luxos:
    """One S19k Pro of 120 TH/s. `down_s`: how long a restart keeps the port shut."""

    def __init__(self, *, host: str = "127.0.0.1", down_s: float = 0.2, started_s_ago: float = 3600) -> None:
        self.api = ApiPort(self._answer, host)
        self.rate_hs, self.down_s = 120e12, down_s
        self.mac, self.serial = "02:00:5e:10:00:21", "EXAMPLE0021"
        self.asleep = False
        self.led = "auto"
        self.profiles = ["450MHz", "500MHz", "550MHz", "2"]
        self.profile = "500MHz"
        self.atm = False
        self.target_w = 0  # 0: a model that holds no power target
        self.reboots = self.resets = 0
        self.pools: list[dict[str, Any]] = []
        self.add("stratum+tcp://pool.invalid:3333", "factory.worker")
        self.dead_pools: set[str] = {"//dead."}
        self.session = ""  # whose it is, only its taker knows
        self.sessions = 0
        self.without: set[str] = set()  # commands that it does not know now
        self.refuses: set[str] = set()  # orders that it refuses
        self.drop_reply: set[str] = set()  # orders that it carries out without a word
        self.events: list[dict[str, Any]] = []
        self.lost_boards = 0
        self._began_s = -started_s_ago
        self._step: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Luxos:
        self._began_s += asyncio.get_running_loop().time()
        await self.api.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._step is not None:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
        await self.api.shut(hold=False)

    @property
    def host(self) -> str:
        return self.api.host

    @property
    def port(self) -> int:
        return self.api.port

    async def power(self, on: bool) -> None:
        if on:
            self._began_s = asyncio.get_running_loop().time()
            await self.api.open()
        else:
            self.session = ""
            await self.api.shut()

    def add(self, url: str, user: str, password: str = "x", group: int = 0) -> None:  # noqa: S107  # what pools take
        number = max((pool["POOL"] for pool in self.pools), default=-1) + 1
        self.pools.append({"POOL": number, "URL": url, "User": user, "password": password, "GROUP": group})

    # ---- answers -----------------------------------------------------------------------------------------

    def _answer(self, command: str, parameter: str) -> Reply:
        if command in self.without:
            return invalid(PROGRAM)
        if (section := SECTIONS.get(command)) is not None:
            return status(11, command, program=PROGRAM) | {section: self._rows(command)}
        given = parameter.split(",") if parameter else []
        if command in ("logon", "session"):
            return self._log_on(command)
        if command in self.refuses:
            return status(400, "not now", kind="E", program=PROGRAM)
        if command in ("addpool", "removepool", "switchpool"):
            done = self._pool_order(command, given)
        elif command in ("curtail", "rebootdevice", "resetminer", "ledset", "logoff", "profileset", "powertargetset"):
            if not given or given[0] != self.session:
                return status(403, "invalid session", kind="E", program=PROGRAM)
            done = self._order(command, given[1:])
        else:
            return invalid(PROGRAM)
        if command in self.drop_reply:
            return None
        return status(335, "done", program=PROGRAM) if done else status(14, "bad parameter", kind="E", program=PROGRAM)

    def _log_on(self, command: str) -> Reply:
        if command == "session":
            return status(319, "Session information", program=PROGRAM) | {"SESSION": [{"SessionID": self.session}]}
        if self.session:
            return status(402, "Another session is active", kind="E", program=PROGRAM)
        self.sessions += 1
        self.session = f"sim{self.sessions}"
        return status(316, "Session created", program=PROGRAM) | {"SESSION": [{"SessionID": self.session}]}

    def _order(self, command: str, given: list[str]) -> bool:
        if command == "logoff":
            self.session = ""
        elif command == "curtail":
            if given not in (["sleep"], ["wakeup"]):
                return False
            self.asleep = given == ["sleep"]
            if not self.asleep:
                self._began_s = asyncio.get_running_loop().time()
        elif command == "ledset":
            if len(given) != 2 or given[0] != "red" or given[1] not in ("on", "off", "blink", "auto"):
                return False
            self.led = given[1]
        elif command == "profileset":
            if given[0] not in self.profiles or self.atm:
                return False
            self.profile = given[0]
        elif command == "powertargetset":
            if not self.target_w or not given[0].startswith("power="):
                return False
            self.target_w = int(given[0].partition("=")[2])
        elif command == "resetminer":
            self.resets += 1
            self._began_s = asyncio.get_running_loop().time()
        else:
            self.reboots += 1
            self.session = ""
            self._step = asyncio.create_task(self._reboot())
        return True

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    def _pool_order(self, command: str, given: list[str]) -> bool:
        if command == "addpool":
            if len(given) not in (3, 4):
                return False
            self.add(given[0], given[1], given[2], int(given[3]) if len(given) == 4 else 0)
            return True
        found = [pool for pool in self.pools if str(pool["POOL"]) == (given[0] if given else "")]
        if not found:
            return False
        if command == "switchpool":
            self.pools.remove(found[0])
            self.pools.insert(0, found[0])
            return True
        if len(self.pools) == 1 or found[0] is self._active():
            return False  # cgminer's rule: not the one in use
        self.pools.remove(found[0])
        return True

    # ---- what it knows -----------------------------------------------------------------------------------

    def _alive(self, pool: dict[str, Any]) -> bool:
        return not any(dead in pool["URL"] for dead in self.dead_pools)

    def _active(self) -> dict[str, Any] | None:
        return next((pool for pool in self.pools if self._alive(pool)), None)

    def _rows(self, command: str) -> list[dict[str, Any]]:
        up = int(asyncio.get_running_loop().time() - self._began_s)
        hashing = not self.asleep and self._active() is not None
        boards = BOARDS - self.lost_boards
        each_mhs = self.rate_hs / BOARDS / 1e6
        now_mhs = each_mhs if hashing else 0.0
        shares = up // 4 if hashing else 0
        if command == "version":
            row: dict[str, Any] = {
                "API": "3.7",
                "LUXminer": PROGRAM.split()[1],
                "Miner": "2025.6.1.101010",
                "Type": "Antminer S19k Pro",
            }
            return [row | {"CompileTime": "Sun Jun  1 10:10:10 UTC 2025"}]
        if command == "summary":
            total = now_mhs * boards / 1e3
            row = {"Elapsed": up, "GHS 5s": total, "GHS av": total, "Accepted": shares, "Rejected": 2, "Stale": 1}
            return [row | {"Hardware Errors": 5}]
        if command == "devs":
            return [
                {
                    "ASC": i,
                    "ID": i,
                    "Enabled": "Y",
                    "Status": "Alive",
                    "MHS 5s": now_mhs,
                    "MHS av": now_mhs,
                    "Nominal MHS": each_mhs,
                    "Temperature": 52.0 + i,
                    "Hardware Errors": i,
                    "IsRamping": False,
                }
                for i in reversed(range(boards))
            ]
        if command == "stats":
            body: dict[str, Any] = {"Elapsed": up, "rate_unit": "GH", "fan_num": 4}
            for i in range(1, boards + 1):
                body |= {f"chain_acn{i}": 0 if self.asleep else 77, f"freq{i}": 500.0, f"temp_chip{i}": "52-40-40-52"}
            return [{"Type": "Antminer S19k Pro", "Miner": "2025.6.1.101010"}, body]
        return self._slow_rows(command, shares)

    def _slow_rows(self, command: str, shares: int) -> list[dict[str, Any]]:
        if command == "fans":
            return [{"FAN": f"FAN{i + 1}", "ID": i, "RPM": 0 if self.asleep else 4200 + 60 * i, "Speed": 60} for i in range(4)]
        if command == "power":
            return [{"PSU": False, "Watts": 18 if self.asleep else 2760}]
        if command == "temps":
            rows = [(0, 52.0, 39.0), (1, 53.0, 40.0), (2, 54.0, 41.0)]
            return [
                {"ID": i, "TEMP": i, "TopLeft": out, "BottomLeft": out - 1, "TopRight": into, "BottomRight": 0}
                for i, out, into in rows
            ]
        if command == "config":
            row = {"Model": "Antminer S19k Pro", "MACAddr": self.mac.upper(), "SerialNumber": self.serial, "Hostname": "simulated"}
            row |= {
                "RedLed": self.led,
                "GreenLed": "auto",
                "CurtailMode": "Sleep" if self.asleep else "None",
                "Profile": self.profile,
            }
            return [row | {"IsAtmEnabled": self.atm, "IPAddr": "192.0.2.21", "OS": "LuxOS", "SystemStatus": "Normal"}]
        if command == "events":
            return self.events
        if command == "profiles":
            return [{"Profile Name": name, "Step": str(i), "Watts": 2000 + 300 * i} for i, name in enumerate(self.profiles)]
        if command == "atm":
            target = {"PowerMin": 2000, "PowerLimit": 3500, "PowerTarget": self.target_w} if self.target_w else {}
            return [{"Enabled": self.atm, "MaxProfile": "default"} | target]
        active = self._active()
        return [
            {key: value for key, value in pool.items() if key != "password"}
            | {"Status": "Alive" if self._alive(pool) else "Dead", "Priority": place, "Stratum Active": pool is active}
            | {"Accepted": shares if pool is active else 0, "Rejected": 0, "Stale": 0, "Quota": 1.0}
            for place, pool in enumerate(self.pools)
        ]
