"""A simulated stock Antminer, old or modern, over real sockets: port 4028 and the digest CGI of its web page.

In a test:          async with Antminer(kind="modern") as device: … device.api_port, device.http_port
For `make demo`:    python -m tests.simulators.antminer --count 3 --kind modern --host 127.0.0.2
                    prints one line of JSON with every address, then runs until it is told to stop.
Its power is cut with `await device.power(False)`, or from another process: POST {control}/power {"on": false}.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import ipaddress
import json
import re
import secrets
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote_plus

from tests.simulators.antminer_answers import SPECS, Moment, Spec, answer, chain_stats, dumps, rate_at, summary_cgi
from tests.simulators.digest import Door

OLD_FIELDS = [f"_ant_pool{slot}{name}" for slot in (1, 2, 3) for name in ("url", "user", "pw")]


@dataclass
class Faults:
    """What is wrong with the device now. Everything off: it is well."""

    slow_s: float = 0.0  # each answer waits this long
    until_eof: bool = False  # reads until the client half-closes
    hold_open: bool = False  # answers and keeps the connection
    no_nul: bool = False
    segments: bool = False  # an answer in pieces
    malformed: str = ""  # "commas", "control", "truncated", "inf"
    html: bool = False  # a web page on port 4028
    huge: bool = False  # 10 MB
    drop_reply: bool = False  # carries out an order and closes without a word
    broken_conf: bool = False  # get_miner_conf.cgi shows a configuration without pools
    ignore_orders: bool = False  # says M000 and does nothing
    nonce_uses: int = 0  # a nonce goes stale after so many requests; 0: never
    api_down: bool = False  # the miner process is gone, the web page is there
    lost_boards: int = 0
    lamps: dict[str, str] = field(default_factory=dict)  # summary.cgi: {"temp": "too hot"}
    warnings: list[dict[str, Any]] | None = None  # of warning.cgi; None: this firmware has no such page
    broken_warnings: bool = False


class Antminer:
    """One device. `host` must be a loopback address; ports 0 are chosen and then kept over power cycles."""

    def __init__(
        self,
        kind: str = "modern",
        *,
        model: str = "",
        host: str = "127.0.0.1",
        api_port: int = 0,
        http_port: int = 0,
        mac: str = "",
        serial: str = "",
        password: str = "root",  # noqa: S107  # the maker's
        down_s: float = 0.2,
        boot_s: float = 0.3,
        started_s_ago: float = 3600,
        dead_pools: Iterable[str] = (),
    ) -> None:
        self.spec: Spec = SPECS[model or ("S19j Pro" if kind == "modern" else "S9")]
        self.host, self.api_port, self.http_port = host, api_port, http_port
        self.mac = mac or "02:" + ":".join(f"{b:02x}" for b in secrets.token_bytes(5))
        self.serial = serial or f"SIM{self.mac.replace(':', '').upper()}"
        self.password = password
        self.down_s, self.boot_s = down_s, boot_s
        self.faults = Faults()
        self.dead_pools = set(dead_pools)
        self.hung = False
        self.on = False
        self.reboots = 0
        self.writes: list[dict[str, Any]] = []
        self.api_requests = 0
        self.asked_now = self.most_asked_at_once = 0
        self.http_requests: list[str] = []
        self.blinking = False
        self.conf: dict[str, Any] = _factory_conf(self.spec)
        self._begin_s_ago = started_s_ago
        self._phase, self._since = "booting", 0.0
        self._servers: list[asyncio.Server] = []
        self._held: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[asyncio.BaseTransport] = set()
        self._step: asyncio.Task[None] | None = None
        self._door = Door("antMiner Configuration")
        self._nonces = self._door.nonces

    async def __aenter__(self) -> Antminer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Up and mining, as if it had been for a while."""
        await self._open()
        self._mine(self._begin_s_ago)

    async def stop(self) -> None:
        await self.power(False)
        for held in self._held:
            held.close()
        self._held.clear()

    # ---- power and phases ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """off, hung, down, booting, sleeping or mining."""
        return "off" if not self.on else "hung" if self.hung else self._phase

    async def power(self, on: bool) -> None:
        """The mains. Off: ports closed at once, hanging ends, the configuration stays."""
        if self._step:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
            self._step = None
        if not on:
            self.on = self.hung = self.blinking = False
            await self._shut()
        elif not self.on:
            self.on = True
            self._phase = "booting"
            await self._open()
            self._spawn_step(self._boot())

    def hang(self, on: bool = True) -> None:
        """Accepts connections and says nothing, until the power is cut."""
        self.hung = on

    def _mine(self, ago_s: float = 0) -> None:
        asleep = self.mode == 1
        self._phase, self._since = "sleeping" if asleep else "mining", asyncio.get_running_loop().time() - ago_s

    async def _boot(self) -> None:
        self._phase = "booting"
        await asyncio.sleep(self.boot_s)
        self._mine()

    async def _reboot(self) -> None:
        await asyncio.sleep(0.02)  # lets the answer out
        await self._shut()
        await asyncio.sleep(self.down_s)
        await self._open()
        await self._boot()

    def reboot(self) -> None:
        self.reboots += 1
        self.blinking = False
        self._phase = "down"
        self._spawn_step(self._reboot())

    def _spawn_step(self, step: Any) -> None:
        if self._step:
            self._step.cancel()
        self._step = asyncio.create_task(step)

    async def _open(self) -> None:
        self.on = True
        loop = asyncio.get_running_loop()
        for held in self._held:
            held.close()
        self._held.clear()
        api = await loop.create_server(lambda: _Api(self), self.host, self.api_port)
        web = await asyncio.start_server(self._accept_web, self.host, self.http_port)
        self._servers = [api, web]
        self.api_port, self.http_port = (server.sockets[0].getsockname()[1] for server in self._servers)

    async def _shut(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        if not self._held and self.api_port:
            for port in (self.api_port, self.http_port):  # bound and not listening: refused, and nobody else takes the port
                held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.bind((self.host, port))
                self._held.append(held)
        for link in list(self._links):
            cast("asyncio.Transport", link).abort()
        others = [task for task in self._tasks if not task.done()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # ---- what it knows ------------------------------------------------------------------------------------

    @property
    def mode(self) -> int:
        return int(self.conf.get("bitmain-work-mode") or 0)

    def moment(self) -> Moment:
        up = max(0.0, asyncio.get_running_loop().time() - self._since)
        pools = self.conf["pools"]
        alive = [bool(p["url"]) and not any(dead in p["url"] for dead in self.dead_pools | {"//dead."}) for p in pools]
        mining = self._phase == "mining"
        rate = rate_at(self.spec.nominal_hs, self.mac, up) if mining and any(alive) else 0.0
        lost = self.faults.lost_boards
        rate *= (self.spec.boards - lost) / self.spec.boards
        shares = int(up / 4) if rate else 0
        return Moment(self.spec, self._phase, int(up), rate, self.mode, pools, alive, shares, lost, self.faults.lamps)

    def api_answer(self, request: bytes) -> bytes:
        """The bytes on port 4028 for one request."""
        self.api_requests += 1
        try:
            asked = json.loads(request.rstrip(b"\x00\n"))
            command, new_api = str(asked["command"]), asked.get("new_api") is True
        except (ValueError, KeyError, TypeError):
            return b"STATUS=E,When=1,Code=14,Msg=Invalid command,Description=cgminer 1.0.0|\x00"
        return self._spoilt(answer(self.moment(), command, new_api=new_api))

    def _spoilt(self, text: str) -> bytes:
        faults = self.faults
        if faults.html:
            return b"<html><head><title>404 Not Found</title></head></html>"
        if faults.huge:
            return b'{"STATS":[{"x":"' + b"y" * 10_000_000 + b'"}]}'
        if faults.malformed == "commas":
            text = text.replace("},{", "}{").replace("[{", "[,{").replace("}]", "},]")
        elif faults.malformed == "control":
            text = text.replace('"User":"', '"User":"\x07\n')
        elif faults.malformed == "inf":
            text = re.sub(r'"(rate_30m|GHS av)":[^,}]+', r'"\1":inf', text)
        elif faults.malformed == "truncated":
            return text[: int(len(text) * 0.8)].encode()
        return text.encode() + (b"" if faults.no_nul or self.spec.modern else b"\x00")

    # ---- the web page ------------------------------------------------------------------------------------

    def _accept_web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve_web(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")[:-2]
                method, path, _ = first.split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if self.hung:
                    await asyncio.sleep(3600)
                await asyncio.sleep(self.faults.slow_s)
                self.http_requests.append(f"{method} {path}")
                said = self._web_answer(method, path, headers, body)
                if said is None:
                    break
                writer.write(said)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass  # the client left, or spoke no HTTP
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    def _web_answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes | None:
        refusal = self._log_in(method, path, headers.get("authorization", ""))
        if refusal is not None:
            return refusal
        name = path.removeprefix("/cgi-bin/").removesuffix(".cgi")
        said = self._order(name, body) if name in ("set_miner_conf", "blink", "reboot") else self._page(name)
        if said is None:
            return _http(404, "<html>404 Not Found</html>")
        if name in ("set_miner_conf", "reboot") and self.faults.drop_reply:
            return None
        return _http(200, said)

    def _log_in(self, method: str, path: str, header: str) -> bytes | None:
        """None: welcome."""
        challenge = self._door.refuses(method, path, header, "root", self.password, self.faults.nonce_uses)
        return None if challenge is None else _http(401, "<html>401</html>", f"WWW-Authenticate: {challenge}\r\n")

    def _page(self, name: str) -> str | None:
        now = self.moment()
        if name == "get_system_info":
            told = {
                "minertype": f"Antminer {self.spec.model}{self.spec.brand}",
                "nettype": "DHCP",
                "netdevice": "eth0",
                "macaddr": self.mac.upper(),
            }
            told |= {"hostname": "simulated", "ipaddress": self.host, "system_filesystem_version": f"sim-{self.spec.firmware}"}
            return dumps(told | ({"serinum": self.serial} if self.spec.modern else {"uptime": "1:00"}))
        if name == "get_miner_conf":
            return dumps({"bitmain-freq": "650"} if self.faults.broken_conf else self.conf)
        if name == "/":
            return "<html><title>Ant Miner</title></html>"
        if self.spec.modern and name == "get_blink_status":
            return dumps({"blink": self.blinking})
        if self.spec.modern and name == "summary":
            return dumps(summary_cgi(now))
        if self.spec.modern and name == "warning" and self.faults.warnings is not None:
            return "no JSON" if self.faults.broken_warnings else dumps({"WARNING": self.faults.warnings})
        if self.spec.modern and name == "stats":
            return dumps({"STATUS": {"STATUS": "S"}, "STATS": [chain_stats(now)] if now.phase == "mining" else []})
        return None

    def _order(self, name: str, body: bytes) -> str:
        if name == "reboot":
            if not self.faults.ignore_orders:
                self.reboot()
            return ""
        if name == "blink":
            return self._blink(body)
        conf = self._asked_conf(body)
        if conf is None:
            return dumps({"stats": "error", "code": "M001", "msg": "Illegal request!"})
        self.writes.append(conf)
        if not self.faults.ignore_orders:
            self.conf = conf
            self._phase = "booting"
            self._spawn_step(self._boot())
        return dumps({"stats": "success", "code": "M000", "msg": "OK!"}) if self.spec.modern else "ok"

    def _blink(self, body: bytes) -> str:
        if self.spec.modern:
            self.blinking = json.loads(body)["blink"] is True
            return dumps({"code": "B000" if self.blinking else "B100"})
        asked = body.decode()
        if asked != "action=onPageLoaded":
            self.blinking = asked == "action=startBlink"
        return dumps({"isBlinking": self.blinking})

    def _asked_conf(self, body: bytes) -> dict[str, Any] | None:
        if not self.spec.modern:
            return self._asked_by_form(body.decode())
        try:
            asked = json.loads(body)
            pools = [{k: str(p[k]) for k in ("url", "user", "pass")} for p in asked["pools"]]
        except (ValueError, KeyError, TypeError):
            return None
        conf = {k: v for k, v in asked.items() if k not in ("miner-mode", "freq-level")}
        return conf | {"pools": pools, "bitmain-work-mode": str(asked.get("miner-mode", 0))}

    def _asked_by_form(self, body: str) -> dict[str, Any]:
        """The old script takes fields by their place, and what is not sent is gone."""
        values = [unquote_plus(part.partition("=")[2]) for part in body.split("&")]
        values += [""] * (16 - len(values))
        pools = [{"url": values[i], "user": values[i + 1], "pass": values[i + 2]} for i in (0, 3, 6)]
        conf: dict[str, Any] = {"pools": pools, "api-listen": True, "api-network": True}
        names = (
            "bitmain-nobeeper",
            "bitmain-notempoverctrl",
            "bitmain-fan-ctrl",
            "bitmain-fan-pwm",
            "bitmain-freq",
            "bitmain-voltage",
        )
        for name, value in zip(names, values[9:15], strict=True):
            if value not in ("", "false"):
                conf[name] = True if value == "true" else value
        return conf


class _Api(asyncio.Protocol):
    """One connection to port 4028: reads once, answers, closes. Cheap: a farm has a thousand devices."""

    def __init__(self, device: Antminer) -> None:
        self._device = device
        self._got = b""
        self._eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._device._links.add(transport)
        if self._device.faults.api_down:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._device._links.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._device.faults.until_eof:
            self._answer()

    def eof_received(self) -> bool:
        if self._device.faults.until_eof:
            self._answer()
        return True  # we close, not asyncio

    def _answer(self) -> None:
        device, faults = self._device, self._device.faults
        if device.hung or self._eof:
            return
        self._eof = True
        device.asked_now += 1
        device.most_asked_at_once = max(device.most_asked_at_once, device.asked_now)
        if faults.slow_s or faults.segments:
            task = asyncio.create_task(self._answer_later())
            device._tasks.add(task)
            task.add_done_callback(device._tasks.discard)
        else:
            device.asked_now -= 1
            self._say([device.api_answer(self._got)])

    async def _answer_later(self) -> None:
        await asyncio.sleep(self._device.faults.slow_s)
        self._device.asked_now -= 1
        said = self._device.api_answer(self._got)
        size = 700 if self._device.faults.segments else len(said)
        for i in range(0, len(said), size):
            self._transport.write(said[i : i + size])
            await asyncio.sleep(0.005)
        self._say([])

    def _say(self, parts: list[bytes]) -> None:
        if not self._transport.is_closing():
            self._transport.writelines(parts)
            if not self._device.faults.hold_open:
                self._transport.close()


def _factory_conf(spec: Spec) -> dict[str, Any]:
    pool = {"url": "stratum+tcp://pool.invalid:3333", "user": "factory.worker", "pass": "x"}
    conf: dict[str, Any] = {"pools": [pool, {"url": "", "user": "", "pass": ""}, {"url": "", "user": "", "pass": ""}]}
    conf |= {"api-listen": True, "api-network": True}
    if spec.modern:
        return conf | {
            "api-groups": "A:stats:pools:devs:summary:version",
            "api-allow": "A:0/0,W:*",
            "bitmain-fan-ctrl": False,
            "bitmain-fan-pwm": "77",
            "bitmain-use-vil": True,
            "bitmain-freq": "545",
            "bitmain-voltage": "1370",
            "bitmain-work-mode": "0",
            "bitmain-freq-level": "100",
        }
    return conf | {"bitmain-fan-ctrl": True, "bitmain-fan-pwm": "71", "bitmain-freq": "650", "bitmain-voltage": "0706"}


def _http(code: int, body: str, headers: str = "") -> bytes:
    content = body.encode()
    return f"HTTP/1.1 {code} X\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode() + content


# ---- standalone ------------------------------------------------------------------------------------------


class Control:
    """POST /N/power {"on": false}, /N/hang {"on": true}, /N/faults {"slow_s": 5}; GET / lists the devices."""

    def __init__(self, devices: list[Antminer]) -> None:
        self._devices = devices
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split("\r\n", 1)[0].split(" ")
            size = re.search(r"content-length:\s*(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(size[1]) if size else 0)
            writer.write(await self._answer(method, path, json.loads(body or b"{}")))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass  # the client left, or spoke no HTTP
        finally:
            writer.close()

    async def _answer(self, method: str, path: str, asked: dict[str, Any]) -> bytes:
        parts = [part for part in path.split("/") if part]
        if method == "GET":
            return _http(200, dumps(self.listing()))
        device = self._devices[int(parts.pop(0))] if parts and parts[0].isdigit() else self._devices[0]
        if parts == ["power"]:
            await device.power(asked["on"] is True)
        elif parts == ["hang"]:
            device.hang(asked.get("on", True) is True)
        elif parts == ["faults"]:
            device.faults = Faults(**asked)
        else:
            return _http(404, "{}")
        return _http(200, dumps({"state": device.state}))

    def listing(self) -> list[dict[str, Any]]:
        base = f"http://127.0.0.1:{self.port}"
        return [
            {
                "host": d.host,
                "api_port": d.api_port,
                "http_port": d.http_port,
                "mac": d.mac,
                "model": d.spec.model,
                "state": d.state,
                "control": f"{base}/{i}",
            }
            for i, d in enumerate(self._devices)
        ]


async def _main(args: argparse.Namespace) -> None:
    first = ipaddress.IPv4Address(args.host)
    if not first.is_loopback:
        raise SystemExit("a simulator stays on loopback addresses")
    devices = [
        Antminer(
            "old" if args.kind == "old" or (args.kind == "mixed" and i % 2) else "modern",
            model=args.model,
            host=str(first + i),
            api_port=args.api_port,
            http_port=args.http_port,
            mac=f"02:5a:00:{(i >> 16) & 255:02x}:{(i >> 8) & 255:02x}:{i & 255:02x}" if not args.seed else _mac_of(args.seed, i),
            down_s=args.down_s,
            boot_s=args.boot_s,
        )
        for i in range(args.count)
    ]
    for device in devices:
        await device.start()
    control = Control(devices)
    server = await control.start()
    told = {"simulated": True, "control": f"http://127.0.0.1:{control.port}", "devices": control.listing()}
    sys.stdout.write(dumps(told) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    server.close()
    for device in devices:
        await device.stop()


def _mac_of(seed: str, i: int) -> str:
    return "02:" + ":".join(f"{b:02x}" for b in hashlib.blake2b(f"{seed}/{i}".encode(), digest_size=5).digest())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["modern", "old", "mixed"], default="modern")
    parser.add_argument("--model", choices=["", *SPECS], default="")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--host", default="127.0.0.1", help="of the first; the next ones follow it")
    parser.add_argument("--api-port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--seed", default="", help="of the MAC addresses")
    parser.add_argument("--down-s", type=float, default=3, help="how long a reboot keeps the ports closed")
    parser.add_argument("--boot-s", type=float, default=5, help="how long it boots before it mines")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
