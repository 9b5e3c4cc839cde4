"""Sealing and merging in a process of their own, so that the event loop never waits for them and their memory goes back.

The commander starts it when there is something to do, and lets it go when there was nothing for a while. They talk over its
stdin and stdout: a length of four bytes and a message, an order and its answer in turns. When stdin ends, it ends after the
order in hand; so it does when the commander was killed, and `lock.held_alone` waits for that before another commander begins.

    python -m commander.telemetry.apart HOME/history json info
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar, cast

import msgspec

from commander import db, lock, memory
from commander.telemetry import totals_store
from commander.telemetry.duties import Carried, Hand, Order, carry_out
from commander.telemetry.members import Members
from commander.telemetry.seal import Pace
from garrison import faults, logs
from garrison.faults import Fault, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

IDLE_S = 60.0
_MOST = 64 << 20  # of a message
_NICE = 5  # it may wait for the processor, the event loop may not
_END_S = 60.0
"""For the order in hand, at the end. A round takes a second or two."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The fault of an order."""

    code: str
    text: str
    hint: str


class Did(msgspec.Struct, frozen=True, tag=True):
    carried: Carried


_ORDER: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_ANSWER: msgspec.msgpack.Decoder[Did | Failed] = msgspec.msgpack.Decoder(Did | Failed)


class Apart:
    """The commander's side. `folder`: of the history."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Process | None = None
        self._gone: list[Process] = []
        self._idle: asyncio.TimerHandle | None = None

    async def carry_out(self, order: Order) -> Carried:
        """The faults of `duties.carry_out`. Unavailable: the process ended in the middle of it; the next order starts another."""
        self._stay()
        process = self._process = self._process or await self._started()
        orders, answers = (
            cast("asyncio.StreamWriter", process.stdin),
            cast("asyncio.StreamReader", process.stdout),
        )  # both are pipes
        try:
            orders.write(_framed(msgspec.msgpack.encode(order)))
            await orders.drain()
            size = int.from_bytes(await answers.readexactly(4), "big")
            answer = _ANSWER.decode(await answers.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self._process = None
            raise Unavailable(
                f"the process that seals and merges the history ended (exit {await process.wait()})",
                hint="it is started again; what it has logged says why it ended",
            ) from error
        except BaseException:
            self._let_go()  # its answer would be taken for that of the next order
            raise
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._let_go)
        if isinstance(answer, Failed):
            raise faults.BY_CODE.get(answer.code, Fault)(answer.text, hint=answer.hint)
        return answer.carried

    async def close(self) -> None:
        """After the order in hand."""
        self._let_go()
        for process in self._gone:
            try:
                async with asyncio.timeout(_END_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        self._gone.clear()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in (self._process, *self._gone) if process is not None and process.returncode is None]

    def _let_go(self) -> None:
        self._stay()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._gone = [process for process in self._gone if process.returncode is None] + [self._process]
        self._process = None

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _started(self) -> Process:
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
        command = (sys.executable, "-m", __name__, str(self._folder), logs.shape(), level)
        # a group of its own: a Ctrl-C is for the commander to decide on, also while this one is still starting
        group = None if sys.platform == "win32" else 0
        try:
            return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, process_group=group)
        except OSError as error:
            raise Unavailable(f"cannot start the process that seals and merges the history: {error.strerror}") from error


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


# ---- in the process ----------------------------------------------------------------------------------------


def serve(folder: Path, orders: BinaryIO, answers: BinaryIO) -> None:
    """Until `orders` ends."""
    path = folder / "hot.db"
    known: dict[int, Members] = {}
    with contextlib.closing(db.reader(path)) as reader, contextlib.closing(db.connect(path)) as writer:

        def write(work: Callable[[sqlite3.Connection], T]) -> T:
            with db.transaction(writer):
                return work(writer)

        def members(number: int) -> Members:
            if number not in known:
                known.clear()
                known[number] = Members(totals_store.members(reader))
            return known[number]

        hand = Hand(reader, folder, write, members, Pace(work_s=float("inf")))
        while (message := _message(orders)) is not None:
            answer: Did | Failed
            try:
                answer = Did(carry_out(hand, _ORDER.decode(message)))
            except sqlite3.Error as error:
                fault = db.translated(error, path)
                answer = Failed(fault.code, fault.text, fault.hint)
            except Fault as fault:
                answer = Failed(fault.code, fault.text, fault.hint)
            answers.write(_framed(msgspec.msgpack.encode(answer)))
            answers.flush()


def _message(orders: BinaryIO) -> bytes | None:
    head = orders.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    message = orders.read(size) if size <= _MOST else b""
    return message if len(message) == size else None


def main() -> None:
    folder, shape, level = Path(sys.argv[1]), cast("Literal['json', 'plain']", sys.argv[2]), sys.argv[3]
    for name in (signal.SIGINT, signal.SIGTERM):  # systemd and a terminal send them to both of us; the commander decides
        signal.signal(name, signal.SIG_IGN)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # our own service unit forbids it
            os.nice(_NICE)
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # nobody else writes between the answers
    logs.start(shape, level)
    memory.settle()
    with lock.held_by_worker(folder.parent), contextlib.suppress(BrokenPipeError):
        serve(folder, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
