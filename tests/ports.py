"""Ports of this machine for tests, also when several run at once."""

from __future__ import annotations

import contextlib
import os
import socket

_FIRST, _SHARE, _WORKERS = 20_000, 2_000, 6
"""Below the ports that the system gives out by itself (from 32768 on), so that nobody gets one of these by chance."""

_held: list[socket.socket] = []
_next = os.getpid() % _SHARE


def closed_port() -> int:
    """Nothing listens there, and nobody else gets it as long as we run."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    _held.append(held)
    return int(held.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """In a row, free just now; another worker of the same test run gets others."""
    global _next  # so that no two calls give the same
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    for _ in range(_SHARE):
        first = _FIRST + worker * _SHARE + _next % (_SHARE - count)
        _next += count
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(range(first, first + count))
    raise AssertionError(f"no {count} free ports in a row")
