"""A simulated hall inside the test's own process: Antminers behind the outlets of one Tasmota board, on a thread with a loop.

The board's outlets are wired to the miners: outlet N feeds the Nth. So a daemon that is killed cannot take the hall along,
and the test sees each click of a contact.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.e2e.processes import Farm
from tests.simulators.antminer import Antminer
from tests.simulators.tasmota import Tasmota

T = TypeVar("T")
BOARD = "board"
LIMIT_S = 30.0


class Hall:
    """`kinds`: "modern" or "old" for each miner, whose name in the farm is `miner-1` and so on."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hall")
        self._switching: set[asyncio.Task[None]] = set()
        self.miners: list[Antminer] = []
        self.board = Tasmota(max(1, len(kinds)), on_switch=self._click)

    def start(self) -> None:
        self._thread.start()
        self.do(self._start())

    def stop(self) -> None:
        self.do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it in the hall's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def click(self, outlet: int, on: bool) -> None:
        """A hand on the board's button."""
        self._loop.call_soon_threadsafe(self.board._move, outlet, on)

    def power(self, number: int, on: bool) -> None:
        """A hand on the plug of miner `number`."""
        self.do(self.miners[number - 1].power(on))

    def clicks(self, outlet: int) -> list[bool]:
        """What the contact did so far: False is off."""
        return [click.on for click in list(self.board.clicks) if click.outlet == outlet]

    def commands(self, outlet: int) -> list[bool]:
        """What the board was told so far."""
        return [command.on for command in list(self.board.commands) if command.outlet == outlet]

    def conf_pools(self, number: int) -> list[str]:
        """The pools in the configuration of miner `number`, as its maker keeps them."""
        return [pool["url"] for pool in self.miners[number - 1].conf["pools"] if pool["url"]]

    async def _start(self) -> None:
        for number, kind in enumerate(self._kinds, start=1):
            miner = Antminer(kind, mac=f"02:5a:00:00:00:{number:02x}")
            await miner.start()
            self.miners.append(miner)
        await self.board.start()

    async def _stop(self) -> None:
        await self.board.stop()
        for miner in self.miners:
            await miner.stop()

    def _click(self, outlet: int, on: bool) -> None:
        if outlet <= len(self.miners):
            task = self._loop.create_task(self.miners[outlet - 1].power(on))
            self._switching.add(task)
            task.add_done_callback(self._switching.discard)


@contextmanager
def hall_of(*kinds: str) -> Iterator[Hall]:
    """A hall that runs."""
    hall = Hall(kinds)
    hall.start()
    try:
        yield hall
    finally:
        hall.stop()


def furnish(farm: Farm, hall: Hall, *, board: bool = True) -> None:
    """An ASIC sentry, every miner of the hall watched and mining, and with `board` each mapped to its outlet."""
    farm.enrol("asic")
    farm.start_sentry("asic")
    sentry = farm.sentry("asic")["id"]
    for number, miner in enumerate(hall.miners, start=1):
        where = [f"127.0.0.1:{miner.api_port}", "--http-port", str(miner.http_port)]
        farm.ask("commander", "devices", "add", *where, "--sentry", sentry, "--name", f"miner-{number}", "--simulated")
    if board:
        what = ["--board", "tasmota", "--address", hall.board.address, "--outlets", str(hall.board.outlets), "--simulated"]
        farm.ask("commander", "relays", "add", BOARD, "--sentry", sentry, *what)
        for number in range(1, len(hall.miners) + 1):
            # a circuit each: what is tested together must not wait for one another
            farm.ask("commander", "relays", "map", BOARD, str(number), f"miner-{number}", "--circuit", f"circuit-{number}")
    for number in range(1, len(hall.miners) + 1):
        farm.until_device(f"miner-{number}", "mining", "starting")
