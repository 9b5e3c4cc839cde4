"""A thousand simulated Antminers in one process, each on its own loopback address, for load.

In a test:    async with Farm(50) as farm: farm.devices[7].host, farm.api_port
Standalone:   python -m tests.simulators.farm --count 1000 --first 127.10.0.1 --api-port 14028 --http-port 18028
              prints one line of JSON, then runs until it is told to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import signal
import sys

from tests.simulators.antminer import Antminer


class Farm:
    """`mixed`: every fourth is an old one. All answer on the same two ports; 0 for each its own."""

    def __init__(
        self, count: int, *, first: str = "127.10.0.1", api_port: int = 0, http_port: int = 0, mixed: bool = True, boot_s: float = 1
    ) -> None:
        start = ipaddress.IPv4Address(first)
        if not start.is_loopback or not (start + count).is_loopback:
            raise ValueError("a simulator stays on loopback addresses")
        self.devices = [
            Antminer(
                "old" if mixed and i % 4 == 3 else "modern",
                host=str(start + i),
                api_port=api_port,
                http_port=http_port,
                mac=f"02:fa:00:{i >> 16 & 255:02x}:{i >> 8 & 255:02x}:{i & 255:02x}",
                boot_s=boot_s,
                started_s_ago=3600 + i,
            )
            for i in range(count)
        ]

    async def start(self) -> None:
        allow_files(len(self.devices) * 4 + 1000)
        for device in self.devices:
            await device.start()

    async def stop(self) -> None:
        for device in self.devices:
            await device.stop()

    async def __aenter__(self) -> Farm:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def allow_files(count: int) -> None:
    """Two listening sockets a device are more than many shells allow."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def _main(args: argparse.Namespace) -> None:
    farm = Farm(args.count, first=args.first, api_port=args.api_port, http_port=args.http_port, mixed=not args.modern)
    await farm.start()
    devices = [{"host": d.host, "api_port": d.api_port, "http_port": d.http_port, "mac": d.mac} for d in farm.devices]
    sys.stdout.write(json.dumps({"simulated": True, "devices": devices}) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await farm.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", default="127.10.0.1")
    parser.add_argument("--api-port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--modern", action="store_true", help="no old ones among them")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
