"""What the C library's allocator is told."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def settle() -> None:
    """What is freed goes back to the system. glibc gives each thread an arena of its own, keeps in it what was freed, and raises
    the size from which on memory is returned at once with each larger block that it sees: with arrays of megabytes in a dozen
    threads that adds up. Called before there are threads; elsewhere than on glibc it does nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            for option, value in ((_MMAP_THRESHOLD, 1 << 20), (_TRIM_THRESHOLD, 4 << 20), (_ARENA_MAX, 4)):
                mallopt(option, value)
