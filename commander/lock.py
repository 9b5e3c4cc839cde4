"""One commander a home: two on the same databases would both give orders to the same hardware.

The process that seals and merges for it has a lock of its own. When a commander is killed, that one may still have an order in
hand: whoever comes next waits for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from garrison.faults import Conflict, Unavailable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

WAIT_S = 60.0
"""For what a killed commander's process has in hand: a second or two, more on a disk that hardly answers."""

_FAR = 1 << 20  # Windows locks bytes, and a locked byte cannot be read: one behind the text


@contextlib.contextmanager
def held_alone(home: Path) -> Iterator[None]:
    """While inside, no other process gets past this for the same home. Conflict: one is there already.

    The lock lies beside `home` (`commander.lock` beside `commander/`), because a restore replaces `home` as a whole. It is
    the operating system's: when the process dies, however, it is free. The file itself stays.
    """
    with _opened(home.with_name(f"{home.name}.lock")) as file:
        try:
            _lock(file)
        except OSError as error:
            raise Conflict(
                f"another commander works in {home}{_who(file)}", hint="stop it first, or use the command line to talk to it"
            ) from error
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, f"{os.getpid():<20}\n".encode())
        if _of_worker(home).exists():
            with held_by_worker(home):
                pass
        yield


@contextlib.contextmanager
def held_by_worker(home: Path) -> Iterator[None]:
    """For the process that works for the commander of `home`: one at a time. Unavailable: the one before does not end."""
    with _opened(_of_worker(home)) as file:
        end_s = time.monotonic() + WAIT_S
        while True:
            try:
                _lock(file)
                break
            except OSError as error:
                if time.monotonic() > end_s:
                    raise Unavailable(
                        f"a process of the commander before still writes in {home}", hint="try again; if it hangs, end it"
                    ) from error
            time.sleep(0.02)
        yield


def _of_worker(home: Path) -> Path:
    return home.with_name(f"{home.name}.worker.lock")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Closing it unlocks it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise Unavailable(f"cannot open {path}: {error.strerror}", hint="check the owner and mode of the folder") from error
    try:
        yield file
    finally:
        os.close(file)


def _who(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    text = os.read(file, 20).decode("ascii", "replace").strip()
    return f" (process {text})" if text.isdecimal() else ""


def _lock(file: int) -> None:
    if sys.platform == "win32":
        os.lseek(file, _FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
