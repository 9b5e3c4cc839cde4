"""A simulated miner that speaks the plain cgminer API and nothing else: no web page, no maker's own commands.

In a test:  async with Cgminer() as device: … device.port
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulators.api_port import ApiPort, Reply, invalid, status


class Cgminer:
    """One device of two boards at 6.5 TH/s. `unit` is the prefix of its rate keys: "M", "G" or "K"."""

    def __init__(self, unit: str = "M", *, host: str = "127.0.0.1", started_s_ago: float = 3600) -> None:
        self.unit, self.rate_hs = unit, 13e12
        self.api = ApiPort(self._answer, host)
        self.version: dict[str, Any] | None = {"CGMiner": "4.11.1", "API": "3.7", "Type": "Example Miner 13T"}
        self.pools = [("stratum+tcp://pool.invalid:3333", "factory.worker"), ("stratum+tcp://dead.invalid:3333", "factory.worker")]
        self.dead_pools = {"dead.invalid"}
        self.without: set[str] = set()  # commands that it does not know
        self._began_s = -started_s_ago

    async def __aenter__(self) -> Cgminer:
        self._began_s += asyncio.get_running_loop().time()
        await self.api.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.shut(hold=False)

    @property
    def host(self) -> str:
        return self.api.host

    @property
    def port(self) -> int:
        return self.api.port

    def _answer(self, command: str, parameter: str) -> Reply:
        alive = [not any(dead in url for dead in self.dead_pools) for url, _ in self.pools]
        rate = self.rate_hs / {"K": 1e3, "M": 1e6, "G": 1e9}[self.unit] if any(alive) else 0.0
        up = int(asyncio.get_running_loop().time() - self._began_s)
        key = f"{self.unit}HS"
        if command in self.without:
            return invalid()
        if command == "version" and self.version is not None:
            return status(22, "CGMiner versions") | {"VERSION": [self.version]}
        if command == "summary":
            row = {"Elapsed": up, f"{key} av": rate * 0.99, f"{key} 5s": rate, "Accepted": up // 4, "Rejected": 3, "Stale": 1}
            return status(11, "Summary") | {"SUMMARY": [row | {"Hardware Errors": 7, "Pool Stale%": 0.0}]}
        if command == "devs":
            rows = [
                {"ASC": i, "ID": i, "Status": "Alive", f"{key} 5s": rate / 2, "Temperature": 61.0 + i, "Hardware Errors": 3 + i}
                for i in range(2)
            ]
            return status(9, "2 ASC(s)") | {"DEVS": rows}
        if command == "pools":
            first = alive.index(True) if any(alive) else -1
            rows = [
                {
                    "POOL": i,
                    "URL": url,
                    "User": user,
                    "Status": "Alive" if alive[i] else "Dead",
                    "Priority": i,
                    "Accepted": up // 4 if i == first else 0,
                    "Rejected": 0,
                    "Stale": 0,
                    "Stratum Active": i == first,
                }
                for i, (url, user) in enumerate(self.pools)
            ]
            return status(7, f"{len(rows)} Pool(s)") | {"POOLS": rows}
        return invalid()
