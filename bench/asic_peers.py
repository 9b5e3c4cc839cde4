"""One peer of bench_asic, in a virtual environment of its own: `PEER/bin/python bench/asic_peers.py pyasic|pyasic-rs`.

Reads one JSON object with the hosts, then one word a line: `look` for what our look has, `full` for all that it can ask.
Answers each with a line of JSON: CPU, and what it read, in our units. Nothing of ours is imported here.
"""

import asyncio
import functools
import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

AT_ONCE = 32
TOO_LONG_S = 60


class Pyasic:
    """It asks for what its `include` names."""

    def __init__(self) -> None:
        self._module = importlib.import_module("pyasic")
        names = ("HASHRATE", "EXPECTED_HASHRATE", "HASHBOARDS", "FANS", "UPTIME", "POOLS", "IS_MINING")
        self._look = [getattr(self._module.DataOptions, name) for name in names]

    async def find(self, host: str) -> Any:
        return await self._module.get_miner(host)

    async def ask(self, miner: Any, full: bool) -> Any:
        return await (miner.get_data() if full else miner.get_data(include=self._look))

    def told(self, data: Any) -> dict[str, Any]:
        rate = data.hashrate
        return {
            "hashrate_hs": None if rate is None else float(rate.rate) * float(rate.unit.value),
            "uptime_s": data.uptime,
            "fans": [fan.speed for fan in data.fans],
            "boards": [[board.temp, board.chips] for board in data.hashboards],
            "users": [pool.user for pool in data.pools],
        }


class PyasicRs:
    """It asks for all but what its `exclude` names."""

    def __init__(self) -> None:
        module = importlib.import_module("pyasic_rs")
        fields = importlib.import_module("pyasic_rs.asic_rs").DataField
        self._factory = module.MinerFactory()
        names = (
            "Mac",
            "SerialNumber",
            "Hostname",
            "ApiVersion",
            "FirmwareVersion",
            "ControlBoardVersion",
            "LightFlashing",
            "Messages",
        )
        more = ("Wattage", "TuningTarget", "TuningPercent", "TuningCapabilities", "FluidTemperature", "PsuFans", "DevFeeConnected")
        self._not_in_look = [getattr(fields, name) for name in (*names, *more) if hasattr(fields, name)]

    async def find(self, host: str) -> Any:
        return await self._factory.get_miner(host)

    async def ask(self, miner: Any, full: bool) -> Any:
        return await (miner.get_data() if full else miner.get_data(exclude=self._not_in_look))

    def told(self, data: Any) -> dict[str, Any]:
        rate = data.hashrate
        return {
            "hashrate_hs": None if rate is None else float(rate.value) * float(int(rate.unit)),
            "uptime_s": None if data.uptime is None else data.uptime.total_seconds(),
            "fans": [fan.rpm for fan in data.fans],
            "boards": [[board.board_temperature, board.working_chips] for board in data.hashboards],
            "users": [pool.user for group in data.pools for pool in group.pools],
        }


async def all_of(jobs: Sequence[Callable[[], Awaitable[Any]]]) -> tuple[list[Any], float]:
    """What each gave, None where it failed, and the CPU that it took."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(job: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            try:
                async with asyncio.timeout(TOO_LONG_S):
                    return await job()
            except Exception:  # whatever the peer raises: it counts as not read
                return None

    cpu_s = time.process_time()
    found = await asyncio.gather(*(one(job) for job in jobs))
    return list(found), time.process_time() - cpu_s


async def main(name: str) -> None:
    hosts = json.loads(sys.stdin.readline())
    peer = Pyasic() if name == "pyasic" else PyasicRs()
    miners, cpu_s = await all_of([functools.partial(peer.find, host) for host in hosts])
    tell({"version": importlib.metadata.version(name), "found": sum(miner is not None for miner in miners), "cpu_s": cpu_s})
    while word := sys.stdin.readline().strip():
        asked = [miner for miner in miners if miner is not None]
        got, cpu_s = await all_of([functools.partial(peer.ask, miner, word == "full") for miner in asked])
        left = iter(got)
        readings = [None if miner is None or (data := next(left)) is None else peer.told(data) for miner in miners]
        tell({"cpu_s": cpu_s, "readings": readings})


def tell(said: object) -> None:
    print(json.dumps(said), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
