"""sd_notify over a real datagram socket."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from garrison.clock import ManualClock
from sentry_core.notify import Notifier, keep_watchdog

assert sys.platform != "win32"  # systemd is not on Windows; mypy leaves out the rest there


@contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    """The other end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(10)
        yield channel


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_what_systemd_hears(kind: str, tmp_path: Path) -> None:
    """Each call is one datagram in systemd's words, on a path and on an abstract socket."""
    name = str(tmp_path / "notify") if kind == "path" else f"@garrison-test-{os.getpid()}"
    with systemd(name.replace("@", "\0", 1) if kind == "abstract" else name) as other:
        notifier = Notifier({"NOTIFY_SOCKET": name})
        assert notifier.watched
        notifier.ready("watching 3 devices")
        notifier.watchdog()
        notifier.status("two lines\nREADY=0")
        notifier.stopping()
        notifier.status("")
        heard = [other.recv(4096).decode() for _ in range(4)]
    assert heard == ["READY=1\nSTATUS=watching 3 devices", "WATCHDOG=1", "STATUS=two lines READY=0", "STOPPING=1"]


def test_without_systemd_nothing_happens() -> None:
    """On a terminal each call is silent."""
    notifier = Notifier({})
    notifier.ready()
    notifier.watchdog()
    assert not notifier.watched
    assert notifier.watchdog_every_s is None


def test_children_do_not_inherit_it() -> None:
    """A miner must not be able to speak for the sentry."""
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "LANG": "C"}
    Notifier(environment)
    assert environment == {"LANG": "C"}


@pytest.mark.parametrize(
    ("environment", "every_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_often(environment: dict[str, str], every_s: float | None) -> None:
    """Half of what systemd allows, and only when it means this very process."""
    assert Notifier(environment).watchdog_every_s == every_s


def test_a_dead_socket_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """systemd gone (or never there) does not stop a daemon, and does not fill its log."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    for _ in range(3):
        notifier.watchdog()
    assert [record.message for record in caplog.records] == ["cannot reach systemd"]


async def test_the_watchdog_is_fed_while_alive(tmp_path: Path) -> None:
    """Every half span; not while the daemon says that it hangs; again when it recovers."""
    clock, alive = ManualClock(), [True]
    with systemd(str(tmp_path / "notify")) as other:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000000"})
        task = asyncio.create_task(keep_watchdog(notifier, clock, lambda: alive[0]))
        for said in (True, False, True):
            alive[0] = said
            clock.advance(10)
            for _ in range(5):
                await asyncio.sleep(0)
            other.setblocking(False)
            if said:
                assert other.recv(100) == b"WATCHDOG=1"
            with pytest.raises(BlockingIOError):
                other.recv(100)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nobody_watches() -> None:
    """Without WATCHDOG_USEC the task ends at once and costs nothing."""
    await asyncio.wait_for(keep_watchdog(Notifier({}), ManualClock()), 5)
