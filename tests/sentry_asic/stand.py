"""What the tests of power and relays share: a fast clock, an outbox and a progress that keep, a fake board that breaks at will."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from garrison.frame import Sample
from garrison.model import Board, Device


async def until(true: Callable[[], bool], within_s: float = 60.0) -> None:
    """Returns when it is true; TimeoutError otherwise. For what happens in files and other processes."""
    async with asyncio.timeout(within_s):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


class FastClock:
    """Real time, `speed` times as fast."""

    def __init__(self, speed: float = 20.0) -> None:
        self._speed = speed
        self._began = time.monotonic()
        self._base_ms = time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000 * self._speed)

    def now_ms(self) -> int:
        return self._base_ms + self.monotonic_ms()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)


class KeptOutbox:
    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.events: list[tuple[str, str, str, str]] = []
        self.devices: dict[str, Device] = {}
        self.gone: list[str] = []
        self.news = asyncio.Event()

    async def look(self, samples: Sequence[Sample]) -> None:
        self.samples += samples
        self.news.set()

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None:
        self.events.append((kind, severity, device, text))
        self.news.set()

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None:
        self.devices |= {device.identity: device for device in devices}
        self.gone += gone
        self.news.set()

    async def until_event(self, kind: str) -> tuple[str, str, str, str]:
        async with asyncio.timeout(60):
            while True:
                self.news.clear()
                for event in self.events:
                    if event[0] == kind:
                        return event
                await self.news.wait()


class KeptProgress:
    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.said: list[str] = []

    async def verifying(self, text: str) -> None:
        self.said.append(text)

    async def note(self, key: str, value: str) -> None:
        self.notes[key] = value


class FakeBoard:
    """The fake board's files, from outside: what it did, and how it shall misbehave."""

    def __init__(self, folder: Path, name: str = "B1", **options: str) -> None:
        self.file = folder / f"{name}.json"
        self.board = Board(name, "fake", "nowhere", 4, simulated=True, options={"state_file": str(self.file), **options})

    def break_it(self, **faults: str) -> None:
        new = self.file.with_name(self.file.name + ".faults.new")
        new.write_text(json.dumps(faults))
        new.replace(self.file.with_name(self.file.name + ".faults"))

    def mend(self) -> None:
        self.file.with_name(self.file.name + ".faults").unlink()

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = (
            json.loads(self.file.read_text()) if self.file.exists() else {"outlets": {}, "clicks": [], "commands": []}
        )
        return found

    def clicks(self, outlet: str = "1") -> list[bool]:
        return [on for _, name, on in self.state["clicks"] if name == outlet]

    def commands(self, outlet: str = "1") -> list[bool]:
        return [on for _, name, on in self.state["commands"] if name == outlet]

    def is_on(self, outlet: str = "1") -> bool:
        return bool(self.state["outlets"][outlet]["on"]) if outlet in self.state["outlets"] else True
