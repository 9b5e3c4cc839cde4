"""A simulated Whatsminer over real sockets: port 4028 (V1, V2) and port 4433 (V3), with orders that need the right password.

In a test:          async with Whatsminer("v2") as device: … device.api_port, device.http_port (that of V3)
Kinds: "v1" (no edevs, errors in the summary), "v2" (orders over 4028), "v3" (orders over 4433 only; 4028 still tells).
Its power is cut with `await device.power(False)`. Tokens and
ciphers are its own; only `md5_crypt` is the driver's, which has known answers of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sentry_asic.makes.whatsminer_crypt import md5_crypt

SALT = "Sa1tSa1t"
WHEN_S = 1_700_000_000  # by its own clock, which is not ours
_EMPTY = {"url": "", "user": "", "pass": ""}


@dataclass
class Faults:
    """What is wrong with the device now. Everything off: it is well."""

    write_disabled: bool = False
    too_many: bool = False  # all tokens are out
    drop_tokens: int = 0  # so many orders find their token dead
    ignore_settings: bool = False  # says yes to a mode, limit or name, and stays as it is
    drop_reply: bool = False  # carries out an order and closes without a word
    plain_errors: bool = True  # else errors come encrypted like answers
    twice_encoded: bool = False  # answers to orders are JSON in a JSON string
    no_summary: bool = False  # its mining process does not answer
    no_pools: bool = False
    endless: bool = False  # more than anyone asked for
    odd_errors: bool = False  # error_code as an array written like an object (firmware of API 2.0.4)
    html: bool = False
    api_down: bool = False  # port 4028 is shut, 4433 is not
    errors: list[int] = field(default_factory=list)


class Whatsminer:
    """One device on a loopback address. Ports 0 are chosen and then kept over power cycles."""

    def __init__(
        self,
        kind: str = "v2",
        *,
        host: str = "127.0.0.1",
        api_port: int = 0,
        http_port: int = 0,
        model: str = "M50_VH30",
        mac: str = "",
        password: str = "",
        boot_s: float = 0.1,
        started_s_ago: float = 3600,
    ) -> None:
        self.kind, self.host, self.api_port, self.http_port, self.model = kind, host, api_port, http_port, model
        self.mac = mac or "02:" + ":".join(f"{b:02x}" for b in secrets.token_bytes(5))
        self.firmware = {"v1": "20210322.22.REL", "v2": "20230911.12.REL", "v3": "20250214.16.REL"}[kind]
        self.password = password or ("super" if kind == "v3" else "admin")
        self.boot_s = boot_s
        self.faults = Faults()
        self.dead_pools: set[str] = set()
        self.pools = [{"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "x"}, _EMPTY, _EMPTY]
        self.boards, self.chips, self.nominal_hs, self.watts = 3, 105, 114e12, 3300
        self.power_mode, self.power_limit_w, self.hostname = "Normal", 3500, "simulated"
        self.on = self.hung = self.blinking = False
        self.mining = True
        self.reboots = self.restarts = self.tokens_given = 0
        self.orders: list[str] = []
        self.requests: list[str] = []
        self.asked_now = self.most_asked_at_once = 0
        self._booted_s = self._began_s = 0.0
        self._begin_s_ago = started_s_ago
        self._signs: dict[str, bytes] = {}
        self._servers: list[asyncio.Server] = []
        self._held: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Whatsminer:
        await self._open()
        self._booted_s = self._began_s = self._now() - self._begin_s_ago
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.power(False)
        for held in self._held:
            held.close()

    # ---- power ---------------------------------------------------------------------------------------------

    async def power(self, on: bool) -> None:
        if not on and self.on:
            self.on = self.hung = self.blinking = False
            await self._shut()
        elif on and not self.on:
            await self._open()
            self._booted_s = self._began_s = self._now()

    async def _open(self) -> None:
        self.on = True
        for held in self._held:
            held.close()
        self._held.clear()
        for name, serve in (("api_port", self._serve_api), ("http_port", self._serve_v3)):
            server = await asyncio.start_server(self._tracked(serve), self.host, getattr(self, name))
            setattr(self, name, server.sockets[0].getsockname()[1])
            self._servers.append(server)
        await self._apply()

    async def _apply(self) -> None:
        """Shuts the ports that this kind does not have."""
        shut = ([0] if self.faults.api_down else []) + ([1] if self.kind != "v3" else [])
        for place in shut:
            self._servers[place].close()

    async def shut_api(self) -> None:
        """Port 4028 is gone, 4433 is there."""
        self.faults.api_down = True
        await self._apply()

    async def _shut(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for port in (self.api_port, self.http_port):  # bound and not listening: refused, and nobody else takes the port
            held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                held.bind((self.host, port))
            self._held.append(held)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tracked(self, serve: Callable[..., Any]) -> Callable[..., None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._guarded(serve, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _guarded(self, serve: Callable[..., Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked_now += 1
        self.most_asked_at_once = max(self.most_asked_at_once, self.asked_now)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            self.asked_now -= 1
            writer.close()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # ---- what it does --------------------------------------------------------------------------------------

    def _act(self, name: str, given: dict[str, Any]) -> None:
        self.orders.append(name)
        if name == "reboot":
            self.reboots += 1
            self.blinking = False
            self._booted_s = self._began_s = self._now()
            self.mining = True
        elif name == "restart":
            self.restarts += 1
            self._began_s = self._now()
        elif name in ("stop", "start"):
            self.mining = name == "start"
            self._began_s = self._now()
        elif name == "led":
            self.blinking = given["on"]
        elif name == "pools":
            self.pools = (given["pools"] + [_EMPTY] * 3)[:3]
            self._began_s = self._now()

        elif name in ("mode", "limit") and not self.faults.ignore_settings:
            self.power_mode = given.get("mode", self.power_mode).capitalize()
            self.power_limit_w = min(given.get("limit_w", self.power_limit_w), 3600)  # its standard power: no fault, and no more
            self._began_s = self._now()
        elif name == "hostname" and not self.faults.ignore_settings:
            self.hostname = given["hostname"]

    def _alive(self, pool: dict[str, str]) -> bool:
        return not any(dead in pool["url"] for dead in self.dead_pools)

    @property
    def rate_hs(self) -> float:
        return self.nominal_hs * 1.01 if self.mining and any(p["url"] and self._alive(p) for p in self.pools) else 0.0

    # ---- port 4028 -----------------------------------------------------------------------------------------

    async def _serve_api(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.read(8192))
        if self.hung:
            await asyncio.sleep(3600)
        if self.faults.endless:
            writer.write(b'{"SUMMARY":[{"x":"' + b"y" * 3_000_000)
        elif self.faults.html:
            writer.write(b"<html><title>404</title></html>")
        else:
            said = self._order_v2(asked) if asked.get("enc") else self._told(str(asked.get("command") or asked.get("cmd")))
            if said is None:
                return
            writer.write(said if isinstance(said, bytes) else json.dumps(said).encode() + b"\x00")
        await writer.drain()

    def _told(self, command: str) -> dict[str, Any] | bytes:
        self.requests.append(command)
        if command == "get_token":
            return self._give_token()
        found = {
            "summary": None if self.faults.no_summary else ("SUMMARY", [self.summary()]),
            "pools": None if self.faults.no_pools else ("POOLS", self.pool_rows()),
            "devs": None if self.kind == "v3" else ("DEVS", self.dev_rows()),
            "edevs": None if self.kind == "v1" else ("DEVS", self.dev_rows()),
            "devdetails": ("DEVDETAILS", [{"Name": "SM", "ID": i, "Driver": "bitmicro", "Model": self.model} for i in range(3)]),
        }.get(command)
        if found is not None:
            return {"STATUS": [{"STATUS": "S", "When": WHEN_S, "Code": 9, "Msg": command}], found[0]: found[1], "id": 1}
        message = self._message(command)
        if command == "get_error_code" and self.kind != "v1":
            return self._error_codes()
        if message is None:
            return {"STATUS": "E", "When": WHEN_S, "Code": 14, "Msg": "invalid cmd", "Description": "whatsminer"}
        return {"STATUS": "S", "When": WHEN_S, "Code": 131, "Msg": message, "Description": "whatsminer"}

    def _message(self, command: str) -> dict[str, Any] | None:
        off = "false" if self.mining else "true"
        if command == "get_version":
            api = {"v1": "whatsminer v1.4.0", "v2": "2.0.5", "v3": "3.0.1"}[self.kind]
            return {"api_ver": api, "fw_ver": self.firmware} | ({} if self.kind == "v1" else {"platform": "H6OS"})
        if command == "status":
            name = "btmineroff" if self.kind == "v1" else "mineroff"
            return {name: off, "Firmware Version": f"'{self.firmware}'"}
        if command == "get_miner_info" and self.kind != "v1":
            led = "manual" if self.blinking else "auto"
            return {"hostname": self.hostname, "mac": self.mac.upper(), "ledstat": led, "minersn": "SIM0001", "proto": "dhcp"}
        return None

    def _error_codes(self) -> dict[str, Any] | bytes:
        if self.faults.odd_errors:
            pairs = ",".join(f'"{code}":"2024-01-02 03:04:05"' for code in self.faults.errors)
            return f'{{"STATUS":"S","When":1,"Code":131,"Msg":{{"error_code":[{pairs}]}},"Description":""}}'.encode()
        codes = [{str(code): "2024-01-02 03:04:05"} for code in self.faults.errors]
        return {"STATUS": "S", "When": WHEN_S, "Code": 131, "Msg": {"error_code": codes}, "Description": ""}

    def summary(self) -> dict[str, Any]:
        mh, now = self.rate_hs / 1e6, self._now()
        shares = int((now - self._began_s) / 5) if self.rate_hs else 0
        row: dict[str, Any] = {
            "Elapsed": int(now - self._began_s),
            "Uptime": int(now - self._booted_s),
            "MHS av": mh * 0.99,
            "MHS 5s": mh,
            "MHS 1m": mh,
            "HS RT": mh,
            "Accepted": shares,
            "Rejected": shares // 100,
            "Hardware Errors": 12,
            "Temperature": 71.5,
            "freq_avg": 650,
            "Fan Speed In": 4980,
            "Fan Speed Out": 5070,
            "Power": self.watts if self.mining else 30,
            "Power_RT": self.watts + 10,
            "Power Limit": self.power_limit_w,
            "Power Mode": self.power_mode,
            "Factory GHS": self.nominal_hs / 1e9,
            "Chip Temp Max": 92.5,
            "MAC": self.mac.upper(),
            "Firmware Version": f"'{self.firmware}'",
            "Liquid Cooling": False,
        }
        if self.kind != "v1":
            row |= {"Env Temp": 31.5}
        else:
            row |= {"Error Code Count": len(self.faults.errors)} | {f"Error Code {i}": c for i, c in enumerate(self.faults.errors)}
        if not self.mining:
            row["Power_RT"] = 30
        return row

    def dev_rows(self) -> list[dict[str, Any]]:
        mh = self.rate_hs / 1e6 / self.boards
        return [
            {
                "ASC": i,
                "Slot": i,
                "Status": "Alive",
                "Temperature": 70.0 + i,
                "Chip Frequency": 650,
                "MHS 1m": mh,
                "MHS av": mh * 0.99,
                "Effective Chips": self.chips,
                "Chip Temp Max": 90.0 + i,
                "Hardware Errors": 4,
                "Device Elapsed": 10,
            }
            for i in range(self.boards)
        ]

    def pool_rows(self) -> list[dict[str, Any]]:
        shares = int((self._now() - self._began_s) / 5) if self.rate_hs else 0
        return [
            {
                "POOL": i + 1,
                "URL": p["url"],
                "User": p["user"],
                "Priority": i,
                "Status": "Alive" if self._alive(p) else "Dead",
                "Accepted": shares if i == 0 else 0,
                "Rejected": shares // 100 if i == 0 else 0,
                "Stale": 0,
                "Stratum Active": i == 0 and self.rate_hs > 0,
            }
            for i, p in enumerate(self.pools)
            if p["url"]
        ]

    # ---- orders over port 4028 -----------------------------------------------------------------------------

    def _give_token(self) -> dict[str, Any]:
        self.tokens_given += 1
        if self.faults.too_many or self.tokens_given > 32:
            return {"STATUS": "E", "When": WHEN_S, "Code": 136, "Msg": "over max connect", "Description": ""}
        newsalt, time = secrets.token_hex(4), str(self.tokens_given)
        key = md5_crypt(self.password, SALT)
        self._signs[md5_crypt(key + time, newsalt)] = hashlib.sha256(key.encode()).digest()
        return {
            "STATUS": "S",
            "When": WHEN_S,
            "Code": 134,
            "Msg": {"time": time, "salt": SALT, "newsalt": newsalt},
            "Description": "",
        }

    def _order_v2(self, asked: dict[str, Any]) -> dict[str, Any] | bytes | None:
        key = hashlib.sha256(md5_crypt(self.password, SALT).encode()).digest()
        try:
            given = json.loads(_aes(key, base64.b64decode(asked["data"]), encrypt=False).rstrip(b"\x00"))
            command = given["cmd"]
        except (ValueError, KeyError, TypeError):
            self.requests.append("unreadable")
            return self._said_v2(key, 23, "invalid json message")
        self.requests.append(command)
        if self.faults.drop_tokens:
            self.faults.drop_tokens -= 1
            self._signs.clear()
        if given.get("token") not in self._signs:
            return self._said_v2(key, 135, "check token err")
        if self.faults.write_disabled or self.kind == "v3":
            return self._said_v2(key, 45, "can't access write cmd")
        name, values = _as_order(given)
        if not name:
            return self._said_v2(key, 14, "invalid cmd")
        self._act(name, values)
        return None if self.faults.drop_reply else self._said_v2(key, 131, "API command OK", ok=True)

    def _said_v2(self, key: bytes, code: int, text: str, *, ok: bool = False) -> dict[str, Any] | bytes:
        said = {"STATUS": "S" if ok else "E", "When": WHEN_S, "Code": code, "Msg": text, "Description": ""}
        if not ok and self.faults.plain_errors:
            return json.dumps(json.dumps(said)).encode() if self.faults.twice_encoded else said
        plain = json.dumps(json.dumps(said) if self.faults.twice_encoded else said).encode()
        return {"enc": base64.b64encode(_aes(key, plain + b"\x00" * (-len(plain) % 16), encrypt=True)).decode()}

    # ---- port 4433 -----------------------------------------------------------------------------------------

    async def _serve_v3(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (size,) = struct.unpack("<I", await reader.readexactly(4))
            asked = json.loads(await reader.readexactly(size))
            if self.hung:
                await asyncio.sleep(3600)
            if self.faults.endless:
                writer.write(struct.pack("<I", 2**31))
                await writer.drain()
                continue
            said = self._answer_v3(asked)
            if said is None:
                return
            body = json.dumps({"when": WHEN_S, "desc": asked.get("cmd")} | said).encode()
            writer.write(b"\x00\x00\x00\x00" + struct.pack("<I", len(body)) + body)  # a heartbeat goes before
            await writer.drain()

    def _answer_v3(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        command, param = str(asked.get("cmd")), asked.get("param")
        self.requests.append(command)
        if command == "get.device.info":
            told = self._device_v3()
            return {"code": 0, "msg": told if param is None else {param: told[param]}}
        if command == "get.miner.status":
            if not self.mining and self.faults.no_summary:
                return {"code": -1, "msg": "fail"}
            parts = {"summary": self._summary_v3(), "pools": self._pools_v3(), "edevs": self._edevs_v3()}
            return {"code": 0, "msg": {name: parts[name] for name in str(param).split("+") if name in parts}}
        if command == "get.miner.setting":
            told = {"power-limit": self.power_limit_w, "power-mode": self.power_mode.lower(), "power-percent": 0}
            return {"code": 0, "msg": told}
        if command == "get.system.setting":
            return {"code": 0, "msg": {"hostname": self.hostname, "web-pool": 1}}
        return self._order_v3(command, param, asked)

    def _order_v3(self, command: str, param: Any, asked: dict[str, Any]) -> dict[str, Any] | None:
        digest = hashlib.sha256(f"{command}{self.password}{SALT}{asked.get('ts')}".encode()).digest()
        wrong = asked.get("token") != base64.b64encode(digest).decode()[:8] or abs(int(asked.get("ts") or 0) - WHEN_S) > 30
        if wrong or asked.get("account") != "super" or self.faults.write_disabled:
            return {"code": -4, "msg": "no permission"}
        values: dict[str, Any] = {}
        if command == "set.miner.service" and param in ("stop", "start", "restart"):
            name = str(param)
        elif command == "set.system.reboot":
            name = "reboot"
        elif command == "set.system.led":
            name, values = "led", {"on": param != "auto"}
        elif command == "set.miner.pools":
            listed = json.loads(_aes(digest, base64.b64decode(str(param)), encrypt=False).rstrip(b"\x00"))
            name, values = "pools", {"pools": [{"url": p["pool"], "user": p["worker"], "pass": p["passwd"]} for p in listed]}
        elif command == "set.miner.power_mode" and param in ("low", "normal", "high"):
            name, values = "mode", {"mode": str(param)}
        elif command == "set.miner.power_limit" and isinstance(param, int):
            name, values = "limit", {"limit_w": param}
        elif command == "set.system.hostname" and isinstance(param, dict):
            name, values = "hostname", param
        else:
            return {"code": -2, "msg": "invalid command"}
        self._act(name, values)
        return None if self.faults.drop_reply else {"code": 0, "msg": "ok"}

    def _device_v3(self) -> dict[str, Any]:
        return {
            "network": {"mac": self.mac.upper(), "hostname": self.hostname},
            "miner": {"working": str(self.mining).lower(), "type": self.model, "board-num": "3", "miner-sn": "SIM0001"},
            "system": {
                "api": "3.0.1",
                "platform": "H616",
                "fwversion": self.firmware,
                "ledstatus": "manual" if self.blinking else "auto",
                "apiswitch": "0" if self.faults.write_disabled else "1",
            },
            "power": {"model": "SIM", "fanspeed": 6000},
            "salt": SALT,
            "error-code": [{str(code): "2024-01-02 03:04:05", "reason": f"reason {code}."} for code in self.faults.errors],
        }

    def _summary_v3(self) -> dict[str, Any]:
        th, now = self.rate_hs / 1e12, self._now()
        return {
            "elapsed": int(now - self._began_s),
            "bootup-time": int(now - self._booted_s),
            "factory-hash": self.nominal_hs / 1e12,
            "hash-average": th * 0.99,
            "hash-1min": th,
            "hash-realtime": th,
            "power-realtime": self.watts if self.mining else 30,
            "environment-temperature": 31.5,
            "board-temperature": [70.0, 71.0, 72.0],
            "chip-temp-max": 92.5,
            "power-limit": 2**31 - 1,
            "fan-speed-in": 4980,
            "fan-speed-out": 5070,
        }

    def _edevs_v3(self) -> list[dict[str, Any]]:
        th = self.rate_hs / 1e12 / self.boards
        return [
            {"id": i, "slot": i, "hash-average": th, "freq": 650, "effective-chips": self.chips, "chip-temp-max": 90.0 + i}
            for i in range(self.boards)
        ]

    def _pools_v3(self) -> list[dict[str, Any]]:
        return [
            {
                "id": i + 1,
                "url": p["url"],
                "account": p["user"],
                "status": "alive" if self._alive(p) else "dead",
                "stratum-active": i == 0 and self.rate_hs > 0,
            }
            for i, p in enumerate(self.pools)
            if p["url"]
        ]


def _as_order(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    plain = {"reboot": "reboot", "restart_btminer": "restart", "power_off": "stop", "power_on": "start"}
    command = given["cmd"]
    if command in plain:
        return plain[command], {}
    if command == "set_led":
        return "led", {"on": given.get("param") != "auto"}
    if command in ("set_low_power", "set_normal_power", "set_high_power"):
        return "mode", {"mode": command.split("_")[1]}
    if command == "adjust_power_limit" and isinstance(given["power_limit"], str):
        return "limit", {"limit_w": int(given["power_limit"])}
    if command == "set_hostname":
        return "hostname", {"hostname": given["hostname"]}
    if command == "update_pools":
        pools = [{"url": given[f"pool{i}"], "user": given[f"worker{i}"], "pass": given[f"passwd{i}"]} for i in (1, 2, 3)]
        return "pools", {"pools": [pool for pool in pools if pool["url"]]}
    return "", {}


def _aes(key: bytes, data: bytes, *, encrypt: bool) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305  # the device's choice
    turn = cipher.encryptor() if encrypt else cipher.decryptor()
    return turn.update(data) + turn.finalize()
