"""Blocking calls that may never return (a hung disk, a hung driver, /proc of a stuck process) run here, off the loop.

A thread of its own, and a daemon one: a call that hangs is left behind at its deadline and cannot keep the sentry from
ending. The default executor could not do that: Python waits for its threads at exit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from garrison.faults import TimedOut, Unavailable

T = TypeVar("T")

_MAX_LEFT_BEHIND = 8
_left_behind: set[threading.Thread] = set()


async def aside(what: str, work: Callable[[], T], limit_s: float) -> T:
    """`work()` in a thread. Raises TimedOut after `limit_s`; Unavailable when too many earlier calls still hang."""
    _left_behind.intersection_update([thread for thread in _left_behind if thread.is_alive()])
    if len(_left_behind) >= _MAX_LEFT_BEHIND:
        raise Unavailable(f"{len(_left_behind)} earlier calls still hang, so {what} is not tried", hint="a disk or a driver hangs")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only where T allows it

    def body() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as caught:  # handed to the one who waits
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop ended before the call did: nobody waits any more

    thread = threading.Thread(target=body, name=f"aside: {what}", daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(limit_s):
            return await done
    except TimeoutError:
        if done.done() and not done.cancelled():
            raise  # the work's own
        raise TimedOut(f"{what} did not end within {limit_s:g} s") from None
    finally:
        if done.cancelled() and thread.is_alive():
            _left_behind.add(thread)
