"""NVIDIA cards, by NVML in a helper process with a deadline: a hung card must not hang the sentry.

Why a process and not a thread: a call that hangs in the driver holds NVML's own lock, so every later call of the same
process hangs too, and a process with a thread stuck in the kernel cannot even end. The helper is killed at its deadline;
one that does not die is left behind, at most `MAX_STUCK` of them, and then nothing is tried until one has gone.
It also keeps a crash inside the driver's library away from the sentry. It costs one small Python on rigs that have
the driver, and nothing on others: there the helper says so and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from garrison.clock import Clock
from sentry_rig.pci import pci_address

log = logging.getLogger(__name__)

MAX_STUCK = 2
_RETRY_S = (10.0, 30.0, 60.0, 300.0)
_ABSENT_RETRY_S = 3600.0
_START_LIMIT_S = 20.0
_KILL_LIMIT_S = 2.0
_MAX_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Card:
    """`values`: metric name to value, only what the card gave. `lost`: fell off the bus; its values are absent."""

    uuid: str
    pci: str = ""
    name: str = ""
    vbios: str = ""
    lost: bool = False
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CardsLook:
    """`cards`: those that answered, and those seen earlier that no longer do (`lost`). `fault`: why there are no values."""

    cards: tuple[Card, ...] = ()
    driver: str = ""
    nameless: int = 0  # lost before we ever knew them
    fault: str = ""

    @property
    def missing(self) -> int:
        return self.nameless + sum(card.lost for card in self.cards)


class _Fault(Exception):
    pass


class NvidiaCards:
    def __init__(self, clock: Clock, deadline_s: float = 5, env: Mapping[str, str] | None = None) -> None:
        self._clock, self._deadline_s, self._env = clock, deadline_s, env
        self._helper: Process | None = None
        self._stuck: list[Process] = []
        self._known: dict[str, Card] = {}
        self._not_before_ms = 0
        self._failures = 0
        self._fault = ""

    async def look(self) -> CardsLook:
        """Never raises, and never takes much longer than the deadline."""
        if self._clock.monotonic_ms() < self._not_before_ms:
            return CardsLook(self._all_lost_values(), fault=self._fault)
        try:
            answer = await self._ask()
        except _Fault as fault:
            return self._failed(str(fault))
        if answer.get("absent"):
            await self._end_helper()
            self._wait(_ABSENT_RETRY_S)
            self._fault = ""
            return CardsLook()
        if "fault" in answer:
            await self._end_helper()
            return self._failed(str(answer["fault"])[:200])
        self._failures, self._fault = 0, ""
        return self._merged(answer)

    async def close(self) -> None:
        await self._end_helper()

    async def _ask(self) -> dict[str, Any]:
        if self._helper is None or self._helper.returncode is not None:
            hello = await self._start()
            if "ready" not in hello:
                return hello
        helper = self._helper
        if helper is None or helper.stdin is None:
            raise _Fault("the NVML helper is gone")
        try:
            async with asyncio.timeout(self._deadline_s):
                helper.stdin.write(b"look\n")
                await helper.stdin.drain()
                return await self._line(helper)
        except TimeoutError:
            await self._end_helper()
            raise _Fault(f"NVML did not answer within {self._deadline_s:g} s: a card or its driver hangs") from None
        except OSError as error:
            await self._end_helper()
            raise _Fault(f"the NVML helper ended: {error}") from error

    async def _start(self) -> dict[str, Any]:
        self._stuck = [process for process in self._stuck if process.returncode is None]
        if len(self._stuck) >= MAX_STUCK:
            raise _Fault(f"{len(self._stuck)} NVML helpers hang and cannot be killed; only a reboot helps")
        arguments = ("-m", "sentry_rig.nvml_reader")
        env = dict(self._env) if self._env is not None else dict(os.environ)
        try:
            self._helper = helper = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=env, limit=_MAX_LINE
            )
        except OSError as error:
            raise _Fault(f"cannot start the NVML helper: {error.strerror}") from error
        try:
            async with asyncio.timeout(max(_START_LIMIT_S, self._deadline_s) if not self._failures else self._deadline_s + 5):
                return await self._line(helper)
        except TimeoutError:
            await self._end_helper()
            raise _Fault("NVML did not start: its driver hangs") from None

    async def _line(self, helper: Process) -> dict[str, Any]:
        if helper.stdout is None:
            raise _Fault("the NVML helper is gone")
        try:
            line = await helper.stdout.readline()
            return msgspec.json.decode(line, type=dict[str, Any])
        except (ValueError, msgspec.DecodeError) as error:  # no line, half a line, a line without end
            await self._end_helper()
            raise _Fault("the NVML helper ended in the middle of a look: the driver's library crashed") from error

    async def _end_helper(self) -> None:
        helper, self._helper = self._helper, None
        if helper is None:
            return
        if helper.stdin is not None:
            helper.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            helper.kill()
        try:
            async with asyncio.timeout(_KILL_LIMIT_S):
                await helper.wait()
        except TimeoutError:
            self._stuck.append(helper)
            log.warning("an NVML helper cannot be killed and is left behind", extra={"pid": helper.pid, "stuck": len(self._stuck)})

    def _failed(self, fault: str) -> CardsLook:
        self._wait(_RETRY_S[min(self._failures, len(_RETRY_S) - 1)])
        self._failures += 1
        self._fault = fault
        return CardsLook(self._all_lost_values(), fault=fault)

    def _wait(self, seconds: float) -> None:
        self._not_before_ms = self._clock.monotonic_ms() + round(seconds * 1000)

    def _all_lost_values(self) -> tuple[Card, ...]:
        """Cards we know, without values: the fault is the reader's, so they are not called lost."""
        return tuple(self._known.values())

    def _merged(self, answer: Mapping[str, Any]) -> CardsLook:
        seen: dict[str, Card] = {}
        for told in answer.get("cards", ()):
            values = {} if told["lost"] else told["values"]
            card = Card(told["uuid"], pci_address(told["pci"]) or told["pci"], told["name"], told["vbios"], told["lost"], values)
            before = self._known.get(card.uuid)
            if before is not None:  # a card that is being lost stops telling its name first
                card = Card(
                    card.uuid, card.pci or before.pci, card.name or before.name, card.vbios or before.vbios, card.lost, card.values
                )
            seen[card.uuid] = card
            self._known[card.uuid] = Card(card.uuid, card.pci, card.name, card.vbios)
        gone = [
            Card(known.uuid, known.pci, known.name, known.vbios, lost=True)
            for uuid, known in self._known.items()
            if uuid not in seen
        ]
        nameless = max(0, int(answer.get("lost", 0)) - len(gone))  # one that lost its name is one of those we miss
        return CardsLook((*seen.values(), *gone), str(answer.get("driver", "")), nameless)
