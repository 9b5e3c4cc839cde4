"""The real commander with a wall clock that a file sets: python -m tests.e2e.a_commander FILE, which holds seconds."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from commander import settings
from commander.main import run
from garrison import logs
from garrison.clock import SystemClock


class SetClock(SystemClock):
    """As a machine whose clock somebody sets while it runs."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now_ms(self) -> int:
        seconds = 0
        with contextlib.suppress(OSError, ValueError):
            seconds = int(self._file.read_text())
        return super().now_ms() + seconds * 1000


if __name__ == "__main__":
    home = settings.home_of()
    logs.start("plain", "info")
    asyncio.run(run(home, settings.load(home), SetClock(Path(sys.argv[1]))))
