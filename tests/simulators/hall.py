"""A small hall in one process, for `make demo` and by hand: three Antminers behind the outlets of one Tasmota board.

    python -m tests.simulators.hall --host 127.77.0.10

Outlet N feeds the Nth miner: when it clicks, that miner's power goes. One line of JSON on stdout says what is where; the
control address takes POST /N/power, /N/hang and /N/faults for each miner (0 is the first).
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import signal
import sys
from json import dumps

from tests.simulators.antminer import Antminer, Control
from tests.simulators.tasmota import Tasmota

MODELS = ("S21", "S19j Pro", "S9")


async def run(host: str, api_port: int, http_port: int, relay_port: int, boot_s: float) -> None:
    """Until SIGTERM or SIGINT."""
    first = ipaddress.IPv4Address(host)
    if not first.is_loopback:
        raise SystemExit("a simulator stays on loopback addresses")
    miners = [
        Antminer(
            "old" if model == "S9" else "modern",
            model=model,
            host=str(first + place),
            api_port=api_port,
            http_port=http_port,
            mac=f"02:5a:00:00:00:{place:02x}",
            boot_s=boot_s,
        )
        for place, model in enumerate(MODELS)
    ]
    switching: set[asyncio.Task[None]] = set()

    def click(outlet: int, on: bool) -> None:
        if outlet <= len(miners):
            task = asyncio.get_running_loop().create_task(miners[outlet - 1].power(on))
            switching.add(task)
            task.add_done_callback(switching.discard)

    board = Tasmota(len(MODELS) + 1, on_switch=click)
    for miner in miners:
        await miner.start()
    await board.start(host, relay_port)
    control = Control(miners)
    server = await control.start()
    told = {
        "simulated": True,
        "control": f"http://127.0.0.1:{control.port}",
        "relay": f"{host}:{board.port}",
        "devices": control.listing(),
    }
    sys.stdout.write(dumps(told) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    server.close()
    await board.stop()
    for miner in miners:
        await miner.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.77.0.10", help="of the first miner and of the board; the next ones follow it")
    parser.add_argument("--api-port", type=int, default=4028)
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--relay-port", type=int, default=8081)
    parser.add_argument("--boot-s", type=float, default=10, help="how long a miner boots before it mines")
    asked = parser.parse_args()
    asyncio.run(run(asked.host, asked.api_port, asked.http_port, asked.relay_port, asked.boot_s))


if __name__ == "__main__":
    main()
