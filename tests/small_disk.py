"""A small disk that a test can fill to the last byte: a file system in memory, mounted for as long as the test runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_BLOCK = 4096


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mounts it over `folder`, which is made. The test is skipped where that is not permitted. A process of its own unmounts it
    when the test ends, and also when the test is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount, shell = shutil.which("mount"), shutil.which("sh")
    if mount is None or shell is None:
        pytest.skip("there is no mount command here, which makes a disk that can be filled")
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "none", str(folder)]
    done = subprocess.run([mount, *options], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        pytest.skip(f"a disk that can be filled is mounted by root alone: {done.stderr.strip()}")
    # `cat` ends when nobody holds the other end any more; lazily, because a process may still have files open there
    wait_and_unmount = [shell, "-c", 'cat >/dev/null; umount -l "$0"', str(folder)]
    guard = subprocess.Popen(wait_and_unmount, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield folder
    finally:
        guard.communicate(timeout=20)
        assert not folder.is_mount()


def fill(file: Path, *, leave_bytes: int = 0) -> None:
    """Writes until no more than `leave_bytes` are free; none: until not a byte goes in."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while leave_bytes == 0 or free_bytes(file.parent) > leave_bytes:
            os.write(descriptor, bytes(_BLOCK))
    except OSError:
        return
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
