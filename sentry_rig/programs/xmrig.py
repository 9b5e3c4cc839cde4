"""XMRig 6: CPU, OpenCL and CUDA. Its HTTP API gives /2/summary and /2/backends; JSON-RPC pauses and resumes.

Facts proved on 6.26.0: windows without samples are null, a backend that does not run gives 0.0; an Authorization
header is refused when no token is set; JSON-RPC errors arrive as HTTP 200; a busy API port does not stop it mining;
without pools it takes those of a config file, whose stock pool is its author's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from garrison.faults import BadAnswer, BadInput, Conflict, Fault, WrongPassword
from garrison.model import PoolOrder
from sentry_core.http import HttpClient
from sentry_rig.pci import pci_address
from sentry_rig.programs.program import Api, MinerReading, Named, PartReading, RawLook
from sentry_rig.programs.xmrig_options import options, pool_place

_MAX_BYTES = 1 << 20
_MAX_CARDS = 64


class XMRig:
    name = "xmrig"
    title = "XMRig"
    set_aside: tuple[str, ...] = ("config.json",)

    def arguments(self, given: Sequence[str], pools: Sequence[PoolOrder], algorithm: str) -> list[str]:
        named = list(options(given))
        names = {name for name, _ in named}
        complete = list(given)
        if not names & {"algo", "coin"} and algorithm:
            complete = ["-a", algorithm, *complete]  # before the first pool it is meant for all of them
        if "url" not in names:
            stray = names & {"user", "userpass", "pass"}
            if stray:
                raise BadInput(
                    f"--{min(stray)} is given without its pool (-o)", hint="name pools in the arguments or in the sheet, not both"
                )
            for pool in pools:
                complete += ["-o", pool.url, "-u", pool.user, "-p", pool.password]
        if not self.pools(complete):
            raise BadInput("no pool: XMRig is never started without pools of your own")
        return complete

    def pools(self, arguments: Sequence[str]) -> list[Named]:
        found: list[Named] = []
        url: str | None = None
        user = ""
        for name, value in [*options(arguments), ("url", None)]:
            if name == "url":
                if url is not None:
                    if not user:
                        raise BadInput(f"the pool {url} has no user", hint="each -o is followed by its own -u")
                    found.append(Named(url, user, pool_place(url)))
                url, user = value, ""
                if url is not None:
                    pool_place(url)
            elif name in {"user", "userpass"}:
                if url is None:
                    raise BadInput("a user stands before its pool", hint="each -o is followed by its own -u")
                user = _user(name, value or "")
        return found

    def payouts(self, arguments: Sequence[str]) -> list[str]:
        users = [_user(name, value or "") for name, value in options(arguments) if name in {"user", "userpass"}]
        return list(dict.fromkeys(users))

    def command(self, executable: Path, arguments: Sequence[str], api: Api) -> list[str]:
        self.pools(arguments)
        return [
            str(executable),
            *arguments,
            "--no-color",
            f"--http-host={api.host}",
            f"--http-port={api.port}",
            f"--http-access-token={api.token}",
            "--http-no-restricted",
        ]

    async def read(self, api: Api) -> RawLook:
        async with _client(api) as client:
            summary = await client.request("GET", "/2/summary")
            _check(summary.status, "/2/summary")
            try:
                backends = await client.request("GET", "/2/backends")
                _check(backends.status, "/2/backends")
            except Fault:
                return RawLook(summary.body)  # cards' own figures are absent; the summary stands by itself
            return RawLook(summary.body, backends.body)

    def parse(self, raw: RawLook) -> MinerReading:
        summary = _object(_decoded(raw.main, "/2/summary"), "/2/summary")
        if "hashrate" not in summary and "connection" not in summary:
            raise BadAnswer("the answer to /2/summary is JSON, but not XMRig's")
        connection, results, hashrate = (_part(summary, name) for name in ("connection", "results", "hashrate"))
        windows = _windows(hashrate.get("total"))
        good, total = _count(results.get("shares_good")), _count(results.get("shares_total"))
        connected_s = _count(connection.get("uptime_ms"))
        if connected_s is None:
            connected_s = _count(connection.get("uptime"))
        cpu = _text(_part(summary, "cpu").get("brand"))
        return MinerReading(
            version=_text(summary.get("version")) or "",
            algorithm=_text(summary.get("algo")),
            pool=_text(connection.get("pool")) or None,
            connected=None if connected_s is None else connected_s > 0,
            paused=summary["paused"] if isinstance(summary.get("paused"), bool) else None,
            hashrate_hs=windows[0] if windows else None,
            hashrate_avg_hs=next((window for window in reversed(windows) if window is not None), None),
            accepted=good,
            rejected=total - good if good is not None and total is not None and total >= good else None,
            uptime_s=_count(summary.get("uptime")),
            ping_ms=_count(connection.get("ping")),
            parts=_cards(raw.parts) if raw.parts is not None else None,
            facts={"miner_cpu": cpu} if cpu else {},
        )

    async def pause(self, api: Api) -> None:
        await _order(api, "pause")

    async def resume(self, api: Api) -> None:
        await _order(api, "resume")


def _client(api: Api) -> HttpClient:
    return HttpClient(api.host, api.port, connect_s=2, total_s=4, max_bytes=_MAX_BYTES, bearer=api.token)


def _check(status: int, path: str) -> None:
    if status in {401, 403}:
        raise WrongPassword(f"the API refuses our token on {path} (HTTP {status})", hint="another program may hold this port")
    if status != 200:
        raise BadAnswer(f"{path} answered HTTP {status}")


async def _order(api: Api, method: str) -> None:
    async with _client(api) as client:
        answer = await client.request("POST", "/json_rpc", json={"jsonrpc": "2.0", "id": 1, "method": method}, replay=False)
    _check(answer.status, "/json_rpc")
    error = _object(_decoded(answer.body, "/json_rpc"), "/json_rpc").get("error")
    if error is not None:
        told = error.get("message") if isinstance(error, dict) else None
        raise Conflict(f"XMRig refuses to {method}: {_text(told) or 'no reason given'}")


def _user(option: str, value: str) -> str:
    return value.rpartition(":")[0] or value if option == "userpass" else value


def _decoded(body: bytes, path: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"the answer to {path} is not JSON: {error}") from error


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadAnswer(f"the answer to {path} is not an object")
    return value


def _part(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 2**63 and math.isfinite(value) and value >= 0 else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _text(value: Any) -> str | None:
    return value[:256] if isinstance(value, str) else None


def _windows(value: Any) -> list[float | None]:
    return [_number(item) for item in value[:3]] if isinstance(value, list) else []


def _cards(body: bytes) -> tuple[PartReading, ...] | None:
    """Only threads with a bus address are cards. An unreadable list is None: the summary stands by itself."""
    try:
        backends = _decoded(body, "/2/backends")
    except BadAnswer:
        return None
    if not isinstance(backends, list):
        return None
    found: dict[str, PartReading] = {}
    for backend in backends:
        threads = backend.get("threads") if isinstance(backend, dict) else None
        for thread in threads if isinstance(threads, list) else ():
            pci = pci_address(thread.get("bus_id")) if isinstance(thread, dict) else ""
            if not pci or (pci not in found and len(found) >= _MAX_CARDS):
                continue
            now = (_windows(thread.get("hashrate")) or [None])[0]
            before = found.get(pci)
            if before is not None and before.hashrate_hs is not None and now is not None:
                now += before.hashrate_hs  # several threads on one card
            elif before is not None:
                now = None  # one of its threads has no value: the sum is not known
            found[pci] = PartReading(pci, _text(thread.get("name")) or "", now)
    return tuple(found.values())
