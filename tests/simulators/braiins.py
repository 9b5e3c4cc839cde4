"""A simulated S19 XP with Braiins OS over real sockets. `kind` "rest" (25.07): a REST API behind a token; "old": port 4028
for reading, GraphQL and LuCI behind a cookie for the rest. Both tell their `version` on port 4028.

In a test:  async with Braiins("rest") as device: … device.port, device.web.port
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.simulators.api_port import ApiPort, invalid, status
from tests.simulators.api_port import Reply as ApiReply
from tests.simulators.machine import Machine
from tests.simulators.web_port import Reply, Request, Response, WebPort, told

PROGRAM = "BOSer boser-sim 0.1.0-0"
BOARDS, CHIPS, FANS = 3, 110, 4
FIRMWARE = {"rest": "2025-01-01-0-00000000-25.07-plus", "old": "2024-01-01-0-00000000-24.02-plus"}
_REST = "/api/v1/"


class Braiins(Machine):
    """One device of 140 TH/s. `down_s`: how long a reboot keeps both ports shut."""

    def __init__(self, kind: str = "rest", *, host: str = "127.0.0.1", down_s: float = 0.1, started_s_ago: float = 3600) -> None:
        self.api, self.web = ApiPort(self._said, host), WebPort(self._answer, host)
        self.kind, self.rate_hs, self.down_s = kind, 140e12, down_s
        self.mac, self.serial = "02:00:5e:10:00:61", "EXAMPLE0061"
        self.password = "root" if kind == "rest" else ""
        pools = [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "password": "p", "enabled": True}]
        self.groups: list[dict[str, Any]] = [{"name": "farm", "quota": 2, "pools": pools}]
        self.works_with = self.groups
        self.dead_pools: set[str] = {"dead."}
        self.target_w = 3000
        self.paused = self.stopped = self.blinking = False
        self.reboots = self.restarts = self.log_ins = 0
        self.proof = ""  # the token or the session that is good now
        self.errors: list[dict[str, Any]] = []
        self.tells_passwords = True  # the REST configuration names its pools
        self.without: set[str] = set()  # paths of REST and commands of port 4028 that it does not know now
        self.spoilt: dict[str, object] = {}  # paths of REST, or "groups": what they answer instead
        self.drop_reply = self.refuses = False
        self.no_log_in = self.no_graphql = False  # its GraphQL knows no such thing; it has none
        super().__init__((self.api, self.web), started_s_ago)

    async def power(self, on: bool) -> None:
        if on:
            self._start_service()
            await self._open()
        else:
            self.proof = ""
            await self._shut()

    def _start_service(self) -> None:
        self._began_s = asyncio.get_running_loop().time()
        self.works_with, self.paused, self.stopped = self.groups, False, False

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self.power(False)
        await asyncio.sleep(self.down_s)
        await self.power(True)

    def _begin_reboot(self) -> None:
        self.reboots += 1
        self._step = asyncio.create_task(self._reboot())

    @property
    def _up_s(self) -> int:
        return int(asyncio.get_running_loop().time() - self._began_s)

    def _pools(self) -> list[tuple[dict[str, Any], bool, bool]]:
        """Each that it works with, whether it is alive, and whether it is the one in use."""
        pools = [pool for group in self.works_with for pool in group["pools"]]
        alive = [not any(dead in pool["url"] for dead in self.dead_pools) for pool in pools]
        first = alive.index(True) if any(alive) else -1
        return [(pool, alive[i], i == first) for i, pool in enumerate(pools)]

    @property
    def _hashes(self) -> bool:
        return not self.paused and not self.stopped and any(alive for _, alive, _ in self._pools())

    # ---- its web page ------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        if request.path == "/":
            return Response(b"<!doctype html><html><head><title>Braiins OS</title></head></html>")
        if self.kind == "rest" and request.path.startswith(_REST):
            return self._rest(request, request.path.removeprefix(_REST).strip("/"))
        if self.kind == "old" and (request.method, request.path) == ("POST", "/graphql") and not self.no_graphql:
            return self._graphql(request)
        if self.kind == "old" and request.path.startswith("/cgi-bin/luci"):
            return self._luci(request)
        return Response(b"<html>405</html>", 405) if request.method == "POST" else Response(b"", 404)

    def _log_in(self, username: object, password: object) -> bool:
        if (username, password) != ("root", self.password):
            return False
        self.log_ins += 1
        self.proof = f"sim{self.log_ins}"
        return True

    # ---- REST --------------------------------------------------------------------------------------------

    def _rest(self, request: Request, path: str) -> Reply:
        if path == "auth/login" and request.method == "POST":
            good = self._log_in(request.json["username"], request.json["password"])
            return told({"token": self.proof, "timeout_s": 3600}) if good else told({"message": "no"}, status=401)
        if not self.proof or request.headers.get("authorization") != self.proof:  # as it is, without "Bearer"
            return told({"message": "Unauthorized"}, status=401)
        if path in self.without:
            return Response(b"", 404)
        if path in self.spoilt:
            return told(self.spoilt[path])
        if request.method == "PUT":
            return self._put(path, request.json)
        answers: dict[str, Any] = {
            "version": {"major": 1, "minor": 0, "patch": 0},
            "miner/details": self._details(),
            "miner/errors": {"errors": self.errors},
            "miner/stats": self._stats(),
            "miner/hw/hashboards": {"hashboards": [self._board(i) for i in range(BOARDS)]},
            "cooling/state": {"fans": [{"position": i, "rpm": 5100 + 30 * i, "target_speed_ratio": 0.9} for i in range(FANS)]},
            "performance/tuner-state": {
                "mode_state": {"powertargetmodestate": {"current_target": {"watt": self.target_w}}},
                "overall_tuner_state": 2,
            },
            "configuration/constraints": {
                "tuner_constraints": {"power_target": {"min": {"watt": 1200}, "default": {"watt": 3000}, "max": {"watt": 3800}}}
            },
            "actions/locate": self.blinking,
            "pools": self._rest_groups(),
            "configuration/miner": {"pool_groups": self._configuration() if self.tells_passwords else []},
        }
        return told(answers[path]) if path in answers else Response(b"", 404)

    def _put(self, path: str, given: Any) -> Reply:
        if self.refuses:
            return told({"message": "not now"}, status=400)
        if path == "actions/reboot":
            self._begin_reboot()
        elif path == "actions/restart":
            self.restarts += 1
            self._start_service()
        elif path in ("actions/pause", "actions/resume"):
            self.paused = path.endswith("pause")
        elif path == "actions/locate":
            self.blinking = bool(given)
        elif path == "performance/power-target":
            self.target_w = given["watt"]
        elif path == "pools/batch":
            self.groups = [
                {
                    "name": group["name"],
                    "quota": group["load_balance_strategy"]["quota"]["value"],
                    "pools": [pool | {"enabled": True} for pool in group["pools"]],
                }
                for group in given
            ]
            self._start_service()  # it applies them by itself
        else:
            return Response(b"", 404)
        return None if self.drop_reply else told(False)

    def _details(self) -> dict[str, Any]:
        status_now = 1 if self.stopped else 3 if self.paused else 2 if self._hashes else 4
        return {
            "bos_version": {"bos_plus": True, "current": FIRMWARE["rest"], "major": FIRMWARE["rest"]},
            "bosminer_uptime_s": 0 if self.stopped else self._up_s,
            "hostname": "simulated",
            "kernel_version": "4.9.0",
            "mac_address": self.mac,
            "miner_identity": {"brand": 1, "miner_model": "Antminer S19 XP", "name": "Antminer S19 XP"},
            "psu_info": {"model_name": "APW-EXAMPLE"},
            "serial_number": self.serial,
            "status": status_now,
            "sticker_hashrate": {"gigahash_per_second": 141000.0},
            "system_uptime_s": self._up_s + 60,
        }

    def _rates(self, rate_hs: float, nominal_hs: float) -> dict[str, Any]:
        ghs = {"gigahash_per_second": rate_hs / 1e9}
        windows = dict.fromkeys(("last_5s", "last_1m", "last_15m", "since_restart"), ghs)
        return {"nominal_hashrate": {"gigahash_per_second": nominal_hs / 1e9}, "real_hashrate": windows}

    def _stats(self) -> dict[str, Any]:
        shares = {"accepted_shares": self._up_s // 5, "rejected_shares": 2, "stale_shares": 1}
        return {
            "miner_stats": self._rates(self.rate_hs if self._hashes else 0, 142e12),
            "pool_stats": shares | {"last_share_time": {"seconds": 1_800_000_000, "nanos": 0}},
            "power_stats": {"approximated_consumption": {"watt": 3010 if self._hashes else 40}},
        }

    def _board(self, i: int) -> dict[str, Any]:
        return {
            "id": str(i + 1),
            "enabled": True,
            "chips_count": CHIPS,
            "board_temp": {"degree_c": 52.0 + i},
            "highest_chip_temp": {"id": 1, "location": 1, "temperature": {"degree_c": 66.0 + i}},
            "lowest_inlet_temp": {"degree_c": 40.0 + i},
            "highest_outlet_temp": {"degree_c": 54.0 + i},
            "current_frequency": {"hertz": 480e6},
            "stats": self._rates(self.rate_hs / BOARDS if self._hashes else 0, 142e12 / BOARDS),
        }

    def _rest_groups(self) -> list[dict[str, Any]]:
        states = iter(self._pools())
        found = []
        for group in self.works_with:
            pools = []
            for pool in group["pools"]:
                _, alive, active = next(states)
                stats = {"accepted_shares": self._up_s // 5 if active else 0, "rejected_shares": 0, "stale_shares": 0}
                shown = {name: pool[name] for name in ("url", "user", "enabled")}
                pools.append(shown | {"alive": alive, "active": active and self._hashes, "stats": stats, "uid": "x"})
            found.append({"name": group["name"], "strategy": {"quota": {"value": group["quota"]}}, "pools": pools})
        return found

    def _configuration(self) -> list[dict[str, Any]]:
        found = []
        for group in self.groups:
            strategy = {"quota": {"value": group["quota"]}}
            found.append({"uid": "x", "name": group["name"], "load_balance_strategy": strategy, "pools": group["pools"]})
        return found

    # ---- GraphQL and LuCI --------------------------------------------------------------------------------

    def _graphql(self, request: Request) -> Reply:
        text, given = request.json["query"], request.json.get("variables") or {}
        if "login(" in text and self.no_log_in:
            return told({"data": None, "errors": [{"message": "Unknown field"}]})
        if "login(" in text:
            good = self._log_in(given["username"], given["password"])
            result = {"__typename": "VoidResult"} if good else {"__typename": "AuthError", "message": "wrong"}
            return told({"data": {"auth": {"login": result}}}, cookie=f"session_id={self.proof}; Path=/; HttpOnly" if good else "")
        if text.startswith("mutation"):
            if not self.proof or f"session_id={self.proof}" not in request.headers.get("cookie", ""):
                return told({"data": None, "errors": [{"message": "Unauthorized"}]})
            return self._mutation(text, given)
        if "groups{" in text:
            return self._graphql_groups()
        if "bosminer{uptime" in text:
            if self.stopped:
                return told({"data": None, "errors": [{"message": "Service unavailable"}]})
            return told({"data": {"bosminer": {"uptime": {"durationS": self._up_s}}}})
        bos = {"hostname": "simulated", "faultLight": self.blinking, "info": {"version": {"full": FIRMWARE["old"]}}}
        return told({"data": {"bos": bos}})

    def _graphql_groups(self) -> Reply:
        groups = [
            {"id": str(i), "name": group["name"], "strategy": {"quota": group["quota"]}, "pools": group["pools"]}
            for i, group in enumerate(self.groups)
        ]
        return told({"data": {"bosminer": {"config": {"groups": self.spoilt.get("groups", groups)}}}})

    def _mutation(self, text: str, given: dict[str, Any]) -> Reply:
        if self.refuses:
            return told({"data": {"bosminer": {"any": {"__typename": "BosminerError", "message": "not now"}}}})
        name = next(iter(re.findall(r"\b(reboot|restart|stop|start|setFaultLight|updateGroups)\b", text)))
        if name == "reboot":
            self._begin_reboot()
        elif name == "stop":
            self.stopped = True
        elif name == "setFaultLight":
            self.blinking = given["enable"]
        elif name == "updateGroups":
            self.groups = [group | {"pools": [pool | {"enabled": True} for pool in group["pools"]]} for group in given["groups"]]
        else:
            self.restarts += name == "restart"
            self._start_service()
        return None if self.drop_reply else told({"data": {"any": {name: {"__typename": "VoidResult"}}}})

    def _luci(self, request: Request) -> Reply:
        if request.method == "POST":
            if not self._log_in(request.given.get("luci_username"), request.given.get("luci_password")):
                return Response(b"<html>log in</html>", 403)
            return Response(b"", 302, {"set-cookie": f"session_id={self.proof}; Path=/", "location": "/"})
        if f"session_id={self.proof}" not in request.headers.get("cookie", "") or not self.proof:
            return Response(b"<html>log in</html>", 403)
        return told([{"macaddr": self.mac.upper()}])

    # ---- port 4028 ---------------------------------------------------------------------------------------

    def _said(self, command: str, parameter: str) -> ApiReply:
        if command == "version":
            return status(22, "BOSer versions", program=PROGRAM) | {"VERSION": [{"API": "3.7", "BOSer": "boser-sim 0.1.0-0"}]}
        if self.stopped or command in self.without:
            return status(23, "Invalid JSON", kind="E", program=PROGRAM)  # what a real one says
        mhs = self.rate_hs / 1e6 if self._hashes else 0.0
        board = {"MHS 5s": mhs / BOARDS, "Nominal MHS": 142e6 / BOARDS, "Hardware Errors": 2, "Enabled": "Y", "Status": "Alive"}
        sections: dict[str, list[dict[str, Any]]] = {
            "SUMMARY": [
                {"Elapsed": self._up_s, "MHS 5s": mhs, "MHS av": mhs, "MHS 24h": mhs, "Accepted": self._up_s // 5}
                | {"Rejected": 2, "Stale": 1, "Hardware Errors": 6}
            ],
            "DEVS": [{"ASC": i, "ID": i + 1} | board for i in range(BOARDS)],
            "TEMPS": [{"TEMP": i, "ID": i + 1, "Board": 52.0 + i, "Chip": 66.0 + i} for i in range(BOARDS)],
            "FANS": [{"FAN": i, "ID": i, "RPM": 5100 + 30 * i, "Speed": 90} for i in range(FANS)],
            "TUNERSTATUS": [{"ApproximateMinerPowerConsumption": 3010 if mhs else 40, "PowerLimit": 3000}],
            "DEVDETAILS": [{"DEVDETAILS": i, "ID": i + 1, "Chips": CHIPS, "Model": "Antminer S19 XP"} for i in range(BOARDS)],
            "POOLS": [
                {"POOL": i, "URL": pool["url"], "User": pool["user"], "Status": "Alive" if alive else "Dead", "Priority": i}
                | {"Accepted": self._up_s // 5 if active else 0, "Rejected": 0, "Stale": 0, "Stratum Active": active}
                for i, (pool, alive, active) in enumerate(self._pools())
            ],
        }
        name = command.upper()
        return status(0, name, program=PROGRAM) | {name: sections[name]} if name in sections else invalid(PROGRAM)
