"""A simulated Tasmota plug or relay board: a real HTTP server on loopback.

    python tests/simulators/tasmota.py --port 8081 --outlets 4 --password secret

It answers `/cm` as the firmware does (after its source, versions 9 to 14), keeps each click of a contact with its time, and can
misbehave: `mode` is "ok", "stuck" (takes commands, switches nothing), "slow" (answers after `slow_s`, the relay switches at once),
"html", "huge" (10 MB), "silent", "empty", or "lost" (carries a command out, and cuts the connection before the answer).

Whoever simulates what hangs on an outlet gives `on_switch(outlet, on)`; another process asks `GET /sim` (JSON: simulated,
mode, outlets, clicks, commands) and sets `GET /sim?mode=stuck` or `GET /sim?outlet=1&on=0` (a hand on the button).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

MODES = ("ok", "stuck", "slow", "html", "huge", "silent", "empty", "lost")
VOLTS = 230


@dataclass(frozen=True, slots=True)
class Click:
    """A contact that moved, or a command that came."""

    at_ms: int
    outlet: int
    on: bool


@dataclass
class Tasmota:
    """`password`: empty for none; `load_w`: drawn by each outlet that is on; None: no meter."""

    outlets: int = 1
    password: str = ""
    load_w: float | None = 3250.0
    on_switch: Callable[[int, bool], None] | None = None
    mode: str = "ok"
    slow_s: float = 3.0
    old_energy: bool = False  # firmware that has the meter in `Status 8`
    on: dict[int, bool] = field(default_factory=dict)
    clicks: list[Click] = field(default_factory=list)
    commands: list[Click] = field(default_factory=list)
    requests: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self.on = {n: self.on.get(n, True) for n in range(1, self.outlets + 1)}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = time.monotonic()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Tasmota:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def off_clicks(self, outlet: int = 1) -> list[Click]:
        return [click for click in self.clicks if click.outlet == outlet and not click.on]

    def reboot(self, on: bool) -> None:
        """The plug restarts: its backlog is gone, and its relays are as PowerOnState says."""
        for task in list(self._tasks):
            if task.get_name() == "backlog":
                task.cancel()
        for outlet in self.on:
            self._move(outlet, on)

    # ---- HTTP ----

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            await self._answer(head.split(b" ", 2)[1].decode(), writer)
            await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away, as clients do
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, target: str, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/sim":
            return _reply(writer, self._control(query))
        self.requests += 1
        if self.mode == "silent":
            await asyncio.sleep(3600)
        if self.mode == "html":
            return _reply(writer, "<!DOCTYPE html><html><body>Router log in</body></html>", "text/html")
        if self.mode == "empty":
            return _reply(writer, "")
        if self.mode == "huge":
            return _reply(writer, '{"StatusSTS":{"POWER":"OFF","Filler":"' + "x" * 10_000_000 + '"}}')
        if url.path != "/cm":
            return _reply(writer, "Not found", "text/plain", "404 Not Found")
        if self.password and (query.get("user"), query.get("password")) != ("admin", self.password):
            return _reply(writer, {"WARNING": "Need user=<username>&password=<password>"})
        before = len(self.commands)
        answer = self._command(query.get("cmnd", "").strip())
        if self.mode == "slow":
            await asyncio.sleep(self.slow_s)
        if self.mode == "lost" and len(self.commands) > before:
            return None
        return _reply(writer, answer)

    # ---- commands ----

    def _command(self, text: str) -> dict[str, Any]:
        name, _, argument = text.partition(" ")
        word, number = name.rstrip("0123456789").lower(), name[len(name.rstrip("0123456789")) :]
        if word == "backlog":
            task = asyncio.get_running_loop().create_task(self._backlog(argument.split(";")), name="backlog")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return {}
        if word == "power":
            return self._power(int(number or 1), argument.strip().lower())
        if word == "status":
            return self._status(argument.strip())
        return {"Command": "Unknown"}

    def _power(self, outlet: int, argument: str) -> dict[str, Any]:
        if outlet not in self.on:
            return {"Command": "Unknown"}
        if argument in ("toggle", "2"):
            raise AssertionError("a driver must never toggle")
        if argument in ("on", "1", "off", "0"):
            on = argument in ("on", "1")
            self.commands.append(Click(_now_ms(), outlet, on))
            if self.mode != "stuck":
                self._move(outlet, on)
            return {self._name(outlet): "ON" if on else "OFF"}
        return {self._name(outlet): "ON" if self.on[outlet] else "OFF"}

    async def _backlog(self, commands: list[str]) -> None:
        for command in commands:
            name, _, argument = command.strip().partition(" ")
            if name.lower() == "delay":
                await asyncio.sleep(int(argument) / 10)
            else:
                self._command(command.strip())

    def _status(self, which: str) -> dict[str, Any]:
        if which == "11":
            relays = {self._name(n): "ON" if on else "OFF" for n, on in self.on.items()}
            return {"StatusSTS": {"Time": "2026-11-21T06:00:00", "UptimeSec": round(time.monotonic() - self._started), **relays}}
        if which == ("8" if self.old_energy else "10"):
            return {
                "StatusSNS": {
                    "Time": "2026-11-21T06:00:00",
                    **({} if self.load_w is None else {"ENERGY": self._energy(self.load_w)}),
                }
            }
        return {"Command": "Unknown"} if which in ("8", "10") else {"Status": {"Module": 0, "FriendlyName": ["Simulated"]}}

    def _energy(self, load_w: float) -> dict[str, Any]:
        watts = [load_w if on else 0.0 for on in self.on.values()]
        amperes = [round(w / VOLTS, 3) for w in watts]
        if self.outlets == 1:
            return {"Total": 12.5, "Power": watts[0], "Voltage": VOLTS, "Current": amperes[0]}
        return {"Total": [12.5] * self.outlets, "Power": watts, "Voltage": VOLTS, "Current": amperes}

    def _name(self, outlet: int) -> str:
        return "POWER" if self.outlets == 1 else f"POWER{outlet}"

    def _move(self, outlet: int, on: bool) -> None:
        if self.on[outlet] != on:
            self.on[outlet] = on
            self.clicks.append(Click(_now_ms(), outlet, on))
            if self.on_switch is not None:
                self.on_switch(outlet, on)

    def _control(self, query: dict[str, str]) -> dict[str, Any]:
        if query.get("mode") in MODES:
            self.mode = query["mode"]
        if query.get("outlet", "").isdecimal() and int(query["outlet"]) in self.on:
            self._move(int(query["outlet"]), query.get("on") == "1")
        return {
            "simulated": True,
            "mode": self.mode,
            "outlets": {str(n): on for n, on in self.on.items()},
            "clicks": [asdict(click) for click in self.clicks],
            "commands": [asdict(command) for command in self.commands],
        }


def _reply(
    writer: asyncio.StreamWriter, body: dict[str, Any] | str, kind: str = "application/json", status: str = "200 OK"
) -> None:
    content = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Server: Tasmota/14.1.0 (simulated)", "Connection: close")
    head = "\r\n".join((*lines, f"Content-Length: {len(content)}", "", ""))
    writer.write(head.encode() + content)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _run(arguments: argparse.Namespace) -> None:
    def told(outlet: int, on: bool) -> None:
        print(json.dumps({"click": {"at_ms": _now_ms(), "outlet": outlet, "on": on}}), flush=True)  # noqa: T201  # what it is for

    plug = Tasmota(arguments.outlets, arguments.password, on_switch=told)
    await plug.start(arguments.host, arguments.port)
    print(json.dumps({"simulated": "tasmota", "address": f"{arguments.host}:{plug.port}"}), flush=True)  # noqa: T201  # the same
    try:
        await asyncio.Event().wait()
    finally:
        await plug.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="A simulated Tasmota plug on loopback.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--outlets", type=int, default=1)
    parser.add_argument("--password", default="")
    try:
        asyncio.run(_run(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
