"""A simulated Avalon over real sockets: port 4028 with one thread, one command a connection, and everything in one string.

In a test:          async with Avalon("q") as device: … device.api_port
Kinds: "q" (home model: JSON, no light, three pool slots), "a12" (A1246: JSON, a light, one pool slot), "a10" (text only, sleeps by
`hashpower`, wakes by a reboot). Its power is cut with `await device.power(False)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from dataclasses import dataclass
from typing import Any

WHEN_S = 1_700_000_000  # by its own clock, which is not ours


@dataclass(frozen=True, slots=True)
class Spec:
    """One simulated model. Rates in GH/s."""

    product: str
    boards: int
    chips: int
    nominal_ghs: float
    watts: int
    options: str
    pools: int
    user: str


_OPTIONS_A = "help|fan-spd|led|workmode|worklevel|reboot|setpool|hashpower|softon|softoff|time|"
SPECS: dict[str, Spec] = {
    "q": Spec(
        "Avalon Q", 1, 160, 90_000, 1674, "help|fan-spd|lcd|workmode|worklevel|reboot|softon|softoff|password|time|", 3, "admin"
    ),
    "a12": Spec("AvalonMiner 1246-83", 3, 120, 83_000, 3420, _OPTIONS_A, 3, "root"),
    "a10": Spec("AvalonMiner 1066", 3, 114, 50_000, 3250, "", 1, "root"),
}


@dataclass
class Faults:
    """What is wrong with the device now. Everything off: it is well."""

    drop_reply: bool = False  # carries out an order and closes without a word
    ignore_orders: bool = False
    refuse_orders: bool = False
    no_pools: bool = False
    endless: bool = False
    html: bool = False
    psu: int = 0
    fan: int = 0
    not_numbers: bool = False  # inf and nan where numbers should be


class Avalon:
    """One device on a loopback address. Port 0 is chosen and then kept over power cycles."""

    def __init__(
        self,
        kind: str = "q",
        *,
        host: str = "127.0.0.1",
        api_port: int = 0,
        mac: str = "",
        password: str = "",
        started_s_ago: float = 3600,
    ) -> None:
        self.kind, self.spec, self.host, self.api_port = kind, SPECS[kind], host, api_port
        self.mac = mac or "02:" + ":".join(f"{b:02x}" for b in secrets.token_bytes(5))
        self.serial = f"0201{self.mac.replace(':', '')}"
        self.password = password or self.spec.user
        self.faults = Faults()
        self.dead_pools: set[str] = set()
        names = [f"stratum+tcp://pool{i or ''}.invalid:3333" for i in range(self.spec.pools if kind == "q" else 1)]
        self.pools = [{"url": url, "user": "factory.worker", "pass": "x"} for url in names]
        self._stored = [dict(pool) for pool in self.pools]  # what a reboot brings to life
        self.on = self.hung = self.blinking = False
        self.soft_off = 0
        self.workmode = 1
        self.reboots = 0
        self.orders: list[str] = []
        self.requests: list[str] = []
        self.asked_now = self.most_asked_at_once = 0
        self._began_s = 0.0
        self._begin_s_ago = started_s_ago
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Avalon:
        await self._open()
        self._began_s = self._now() - self._begin_s_ago
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.power(False)
        if self._held is not None:
            self._held.close()

    # ---- power ---------------------------------------------------------------------------------------------

    async def power(self, on: bool) -> None:
        if not on and self.on:
            self.on = self.hung = self.blinking = False
            if self._server is not None:
                self._server.close()
            self._held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)  # bound and not listening: refused
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                self._held.bind((self.host, self.api_port))
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        elif on and not self.on:
            await self._open()
            self._boot()

    async def _open(self) -> None:
        self.on = True
        if self._held is not None:
            self._held.close()
            self._held = None
        self._server = await asyncio.start_server(self._accept, self.host, self.api_port)
        self.api_port = self._server.sockets[0].getsockname()[1]

    def _boot(self) -> None:
        self.soft_off, self.blinking = 0, False
        self.pools = [dict(pool) for pool in self._stored]
        self._began_s = self._now()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked_now += 1
        self.most_asked_at_once = max(self.most_asked_at_once, self.asked_now)
        try:
            said = await self._answer(await reader.read(8192))
            if said is not None:
                writer.write(said)
                await writer.drain()
        except ConnectionError:
            pass  # the client left
        finally:
            self.asked_now -= 1
            writer.close()

    async def _answer(self, request: bytes) -> bytes | None:
        if self.hung:
            await asyncio.sleep(3600)
        if self.faults.endless:
            return b'{"STATS":[{"x":"' + b"y" * 3_000_000
        if self.faults.html:
            return b"<html><title>404</title></html>"
        text = request.decode().strip()
        if not text.startswith("{"):
            return self._in_text(self._told(text))
        if self.kind == "a10":
            return None  # drops JSON
        asked = json.loads(text)
        if asked["command"] in ("ascset", "setpool"):
            return None  # some firmware drops orders in JSON without a word
        said = self._told(asked["command"])
        return None if said is None else json.dumps(said | {"id": 1}).encode() + b"\x00"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # ---- what it says --------------------------------------------------------------------------------------

    @property
    def mining(self) -> bool:
        return not self.soft_off and any(self._alive(pool) for pool in self.pools)

    def _alive(self, pool: dict[str, str]) -> bool:
        return bool(pool["url"]) and not any(dead in pool["url"] for dead in self.dead_pools)

    def _told(self, command: str) -> dict[str, Any] | None:
        self.requests.append(command)
        if command.startswith(("ascset|", "setpool|")):
            said = self._order(command)
            return None if said is None else {"STATUS": [said]}
        rows = {
            "version": ("VERSION", [self._version()]),
            "estats": ("STATS", [self._stats()]),
            "pools": None if self.faults.no_pools else ("POOLS", self._pool_rows()),
            "summary": ("SUMMARY", [{"Elapsed": 1, "MHS 1m": self.spec.nominal_ghs * 1010.0 * self.mining, "MHS av": 1.0}]),
        }.get(command)
        if rows is None:
            return {"STATUS": [_status("E", 14, "Invalid command")]}
        return {"STATUS": [_status("S", 70, command)], rows[0]: rows[1]}

    def _version(self) -> dict[str, Any]:
        mac = self.mac.replace(":", "") if self.kind == "a10" else self.mac.upper()
        model = self.spec.product.split(" ")[-1]
        row = {"CGMiner": "4.11.1", "API": "3.7", "PROD": self.spec.product, "MODEL": model, "HWTYPE": "SIM", "SWTYPE": "SIM"}
        version = {"LVERSION": "24010101_sim"} if self.kind == "q" else {"VERSION": "24010101_sim"}
        return row | version | {"DNA": self.serial, "MAC": mac}

    def _stats(self) -> dict[str, Any]:
        up = int(self._now() - self._began_s)
        row: dict[str, Any] = {"STATS": 0, "ID": "AVALON0", "Elapsed": up, "Calls": 0}
        if self.kind != "q":
            return row | {"MM Count": 1, "MM ID0": self.machine(), "Nonce Mask": 25}
        chips = " ".join(["62"] * self.spec.chips)
        return row | {"MM ID0:Summary": f"'STATS':{{{self.machine()}}}", "HBinfo": f"'HB0':{{PVT_T0[ {chips}] MW0[{chips}]}}"}

    def machine(self) -> str:
        """The big string."""
        spec, on = self.spec, self.mining
        rate = spec.nominal_ghs * 1.01 if on else 0.0
        each = " ".join([f"{spec.nominal_ghs / spec.boards:.2f}"] * spec.boards)
        work = "In Idle" if self.soft_off else "In Work"
        power = f"{self.faults.psu} 1214 {1316 if on else 0} {242 if on else 0} {int(spec.watts * 0.92) if on else 0} 1320"
        temps = " ".join(str(75 + i if on else 0) for i in range(spec.boards))
        parts = [
            f"Ver[{spec.product.split(' ')[-1]}-24010101_sim] DNA[{self.serial}] NETFAIL[0 0 0 0 0 0 0 0]",
            f"SYSTEMSTATU[Work: {work}, Hash Board: {spec.boards} ] Elapsed[{int(self._now() - self._began_s)}]",
            f"MH[{' '.join(['4'] * spec.boards)}] HW[{4 * spec.boards}] DH[2.1%]",
            "ITemp[26] HBITemp[44] HBOTemp[52]" if self.kind == "q" else "Temp[30]",
            f"TMax[{74 + spec.boards if on else 0}] TAvg[{65 if on else 0}] FanErr[{self.faults.fan}]",
            " ".join(f"Fan{i}[{5300 + i if on else 0}]" for i in range(1, 5)) + f" FanR[{72 if on else 0}%]",
            f"PS[{power}{'' if self.kind == 'a10' else f' {spec.watts if on else 20}'}]",
            "" if self.kind == "a10" else f"GHSspd[{'inf' if self.faults.not_numbers else f'{rate:.2f}'}] SoftOFF[{self.soft_off}]",
            f"GHSmm[{spec.nominal_ghs:.2f}] WU[1.0] Freq[502.41]",
            f"GHSavg[{'nan' if self.faults.not_numbers else f'{spec.nominal_ghs:.2f}'}]",
            f"MGHS[{each}] MTmax[{temps}] TA[{spec.boards * spec.chips}] ECHU[{' '.join(['0'] * spec.boards)}] ECMM[0]",
            "" if self.kind == "q" else " ".join(f"PVT_T{i}[{' '.join(['66'] * spec.chips)}]" for i in range(spec.boards)),
            f"ATAOPTS0[--avalon10-freq 376:396 ] POW_I2C[OK] WORKMODE[{self.workmode}] MPO[3200]",
        ]
        return " ".join(part for part in parts if part)

    def _pool_rows(self) -> list[dict[str, Any]]:
        shares = int((self._now() - self._began_s) / 5) if self.mining else 0
        rows = []
        for i, pool in enumerate(self.pools):
            row: dict[str, Any] = {"POOL": i, "URL": pool["url"], "User": pool["user"], "Priority": i}
            row |= {"Status": "Alive" if self._alive(pool) else "Dead", "Accepted": shares if i == 0 else 0}
            row |= {"Rejected": shares // 100 if i == 0 else 0, "Stale": 0, "Stratum Active": i == 0 and self.mining}
            rows.append(row | ({"Password": pool["pass"]} if self.kind == "q" else {}))
        return rows

    # ---- orders --------------------------------------------------------------------------------------------

    def _order(self, command: str) -> dict[str, Any] | None:
        name, _, rest = command.partition("|")
        if name == "setpool":
            return self._set_pool(rest.split(","), with_slot=True) if self.kind == "q" else _status("E", 14, "Invalid command")
        _, option, *values = rest.split(",")
        if option == "help":
            return (
                _status("I", 118, f"ASC 0 set info: {self.spec.options}")
                if self.spec.options
                else _status("E", 121, "Unknown option")
            )
        if option == "led" and values == ["1-255"]:
            return _status("I", 118, f"ASC 0 set info: LED[{int(self.blinking)}]")
        if option not in (self.spec.options or "reboot|led|setpool|hashpower|workmode").split("|") or self.faults.refuse_orders:
            return _status("E", 120, f"ASC 0 set failed: Unknown option: {option}")
        if option == "setpool":
            return self._set_pool(values, with_slot=False)
        self.orders.append(",".join([option, *values]))
        if not self.faults.ignore_orders:
            self._act(option, values)
        if self.faults.drop_reply or option == "softon":
            return None  # closes without a reply
        return _status("S", 119, "ASC 0 set OK")

    def _act(self, option: str, values: list[str]) -> None:
        if option == "reboot":
            self.reboots += 1
            self._boot()
        elif option == "led":
            self.blinking = values == ["1-1"]
        elif option == "workmode":
            if (len(values) == 2) == (self.kind == "q"):  # home models want the word `set`, the others do not know it
                self.workmode = int(values[-1])
        elif option == "hashpower":
            self.soft_off = 5 if values == ["0"] else 0
        elif option in ("softoff", "softon"):
            mode, _, when = values[0].partition(":")
            if mode == "1" and 0 < int(when) - WHEN_S < 60:  # a time behind it is not carried out
                self.soft_off = 4 if option == "softoff" else 0

    def _set_pool(self, values: list[str], *, with_slot: bool) -> dict[str, Any] | None:
        user, password, *rest = values
        if (user, password) != (self.spec.user, self.password):
            return _status("E", 120, "ASC 0 set failed: username or password error")
        slot, (url, worker, secret) = (int(rest[0]), rest[1:]) if with_slot else (0, rest)
        self.orders.append(f"setpool,{slot}")
        if not self.faults.ignore_orders:
            self._stored += [{"url": "", "user": "", "pass": ""}] * (slot + 1 - len(self._stored))
            self._stored[slot] = {"url": url, "user": worker, "pass": secret}
        if self.faults.drop_reply:
            return None
        text = f"ASC 0 set info:\npool success set to {url}\nworker is {worker}\nPlease reboot miner to make config work.\n"
        return _status("I", 118, text)

    def _in_text(self, said: dict[str, Any] | None) -> bytes | None:
        """ "STATUS=S,When=1,…|VERSION,CGMiner=4.11.1,…|" and a NUL."""
        if said is None:
            return None
        heads = {"VERSION": "VERSION", "SUMMARY": "SUMMARY"}
        parts = []
        for name, rows in said.items():
            for row in rows:
                fields = ",".join(f"{key}={_word(value)}" for key, value in row.items())
                parts.append(f"{heads[name]},{fields}" if name in heads else fields)
        return "|".join(parts).encode() + b"|\x00"


def _status(letter: str, code: int, text: str) -> dict[str, Any]:
    return {"STATUS": letter, "When": WHEN_S, "Code": code, "Msg": text, "Description": "cgminer 4.11.1"}


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
