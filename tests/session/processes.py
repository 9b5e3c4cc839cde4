"""The farm and the sentry as processes of their own, to be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from garrison import wire
from garrison.model import Order

REPO = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'proto'}", "GARRISON_PLAIN_LOGS": "1"}


async def python(home: Path, *arguments: str, stdin: bool = False) -> asyncio.subprocess.Process:
    """A process of this repository; what it writes to stderr is in HOME/log."""
    await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
    with (home / "log").open("ab") as log:  # a test's own log
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            cwd=REPO,
            env=environment(),
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )


@dataclass
class FarmProcess:
    """`kill` is kill -9; `start` again takes the same ports."""

    home: Path
    process: asyncio.subprocess.Process | None = None
    told: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> None:
        ports = (str(self.told.get("post", 0)), str(self.told.get("enrol", 0)))
        self.process = await python(self.home, "tests.session.farm", str(self.home), *ports, stdin=True)
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            line = await self.process.stdout.readline()
        assert line, (self.home / "log").read_text()[-3000:]
        self.told = json.loads(line)

    async def ask(self, **command: Any) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        async with asyncio.timeout(30):
            await self.process.stdin.drain()
            await self.process.stdout.readline()

    async def order(self, sentry_id: str, order: Order) -> None:
        await self.ask(sentry=sentry_id, order=wire.order_to(order).SerializeToString().hex())

    async def kill(self) -> None:
        await kill(self.process)


@dataclass
class SentryProcess:
    """`home` is the farm's home; the state is in `state`. `machine` empty: as the hardware says."""

    home: Path
    process: asyncio.subprocess.Process | None = None
    machine: bytes = b""

    @property
    def state(self) -> Path:
        return self.home / "sentry-test"

    async def enrol(self, token: str) -> str:
        process = await python(self.home, "tests.session.a_sentry", "enrol", token, "--home", str(self.home))
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, (self.home / "log").read_text()[-3000:]
        return next(word for word in out.decode().replace(";", " ").split() if len(word) == 36 and word.count("-") == 4)

    async def start(self) -> None:
        verb = ("run-as", self.machine.hex()) if self.machine else ("run",)
        self.process = await python(self.home, "tests.session.a_sentry", *verb, "--home", str(self.home))

    async def kill(self) -> None:
        await kill(self.process)

    async def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        async with asyncio.timeout(30):
            await self.process.communicate()
        return self.process.returncode or 0


async def kill(process: asyncio.subprocess.Process | None) -> None:
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def both(home: Path) -> AsyncIterator[tuple[FarmProcess, SentryProcess, str]]:
    """A farm and a sentry that is enrolled there and runs; and its id."""
    farm, sentry = FarmProcess(home / "farm"), SentryProcess(home / "post")
    try:
        await farm.start()
        sentry_id = await sentry.enrol(farm.told["token"])
        (sentry.state / "sentry.toml").write_text("every_ms = 5\n[journal]\nmin_free_mb = 0\n")
        await sentry.start()
        yield farm, sentry, sentry_id
    finally:
        await sentry.kill()
        await farm.kill()
