"""What a daemon tells systemd: that it is ready, that it lives, that it stops (sd_notify, one datagram each).

Without systemd (a terminal, a container, Windows) each call does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, MutableMapping

from garrison.clock import Clock

log = logging.getLogger(__name__)


class Notifier:
    """Made once, at the start of `run`. The two variables are taken out of the environment, so that no miner inherits them."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.pop("NOTIFY_SOCKET", "") if sys.platform == "linux" else ""
        self._failed = False
        self.watchdog_every_s: float | None = None
        """How often `watchdog` must be called: half of what systemd allows; None: nobody watches."""
        span = environment.pop("WATCHDOG_USEC", "")
        if span.isdecimal() and int(span) and environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self.watchdog_every_s = int(span) / 2_000_000

    @property
    def watched(self) -> bool:
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Everything is open: who waits for this service may go on."""
        self._tell("READY=1", status)

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell("", status)

    def watchdog(self) -> None:
        self._tell("WATCHDOG=1", "")

    def stopping(self, status: str = "") -> None:
        self._tell("STOPPING=1", status)

    def _tell(self, what: str, status: str) -> None:
        text = "\n".join(filter(None, (what, f"STATUS={' '.join(status.split())}" if status else "")))
        if self._address and text:
            self._send(text.encode())

    def _send(self, data: bytes) -> None:
        if sys.platform != "win32":
            # "@" is how systemd writes the null byte of an abstract socket
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                    channel.setblocking(False)
                    channel.sendto(data, address)
            except OSError as error:
                if not self._failed:
                    log.warning("cannot reach systemd", extra={"socket": self._address, "error": error})
                self._failed = True


async def keep_watchdog(notifier: Notifier, clock: Clock, alive: Callable[[], bool] = lambda: True) -> None:
    """Runs in the daemon's TaskGroup; returns at once when nobody watches. Silent while `alive` says no: systemd restarts us."""
    every_s = notifier.watchdog_every_s
    while every_s is not None:
        if alive():
            notifier.watchdog()
        await clock.sleep(every_s)
