"""The miner's output: it writes the file itself, because it outlives the sentry. We only turn it over and read its end.

Turning over copies and truncates: the miner keeps its open file (in append mode, so it goes on at the new end). What it
writes between the copy and the cut is lost; that is a line or two.
"""

from __future__ import annotations

import shutil
from pathlib import Path

KEPT = 3


def turn_over(log: Path, max_bytes: int) -> bool:
    """Moves a log above `max_bytes` to .1 (and .1 to .2, …). Returns whether it did."""
    try:
        if log.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(KEPT, 1, -1):
        older = log.with_name(f"{log.name}.{number - 1}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number}"))
    with log.open("rb") as source, log.with_name(f"{log.name}.1").open("wb") as target:
        source.seek(max(0, log.stat().st_size - max_bytes))  # a miner gone wild must not fill the disk twice
        shutil.copyfileobj(source, target)
    with log.open("r+b") as source:
        source.truncate(0)
    return True


def tail(log: Path, lines: int, max_bytes: int = 1 << 20) -> list[str]:
    """The last lines, oldest first; of the one before it as well when the log was just turned over."""
    text = b""
    for file in (log.with_name(f"{log.name}.1"), log):
        try:
            with file.open("rb") as source:
                size = source.seek(0, 2)
                source.seek(max(0, size - max_bytes))
                text += source.read(max_bytes)
        except FileNotFoundError:
            continue
    return text.decode("utf-8", "replace").splitlines()[-lines:] if lines > 0 else []
