"""A sentry as a process: opens what there is, runs the post, the session and the orders in one TaskGroup, stops cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from garrison import keyfile, wire
from garrison.clock import Clock
from garrison.faults import BadInput, Broken, Fault
from garrison.frame import Sample, pack_look
from garrison.model import Assignment, Device, Event
from sentry_core import identity
from sentry_core import machine as machines
from sentry_core.conversation import About
from sentry_core.journal import Journal
from sentry_core.notify import Notifier, keep_watchdog
from sentry_core.orders import Orders
from sentry_core.post import Post
from sentry_core.session import Session
from sentry_core.settings import SentrySettings

log = logging.getLogger(__name__)

ASSIGNMENT = "assignment.bin"
_MB = 1024 * 1024
_PACK_HERE = 8
"""A look at more devices than this is packed in a thread."""


async def run(
    post: Post,
    settings: SentrySettings,
    state_dir: Path,
    clock: Clock,
    *,
    stop: asyncio.Event | None = None,
    notifier: Notifier | None = None,
    machine: bytes | None = None,
) -> None:
    """Until SIGTERM, SIGINT or `stop`. Raises a Fault when it cannot start: NoCertificate, Unavailable, BadInput, Broken.

    `machine`: which machine this is; None: its hardware says.
    """
    stop = stop or asyncio.Event()
    notifier = notifier or Notifier()
    if machine is None:
        machine = await asyncio.to_thread(machines.read)
    who = await asyncio.to_thread(identity.load, state_dir / "identity")
    journal = await Journal.open(
        state_dir / "journal.db",
        clock,
        cap_bytes=settings.journal.cap_mb * _MB,
        keep_acked_ms=settings.journal.keep_acked_h * 3_600_000,
        min_free_bytes=settings.journal.min_free_mb * _MB,
        machine=machine,
    )
    about = About(post.kind, _software(), lambda: tuple(str(kind) for kind in post.capabilities()), post.facts, machine)
    try:
        with _signals(stop):
            await _run(post, settings, state_dir, clock, who, about, journal, stop, notifier)
    finally:
        await journal.close()
    log.info("stopped")


async def _run(
    post: Post,
    settings: SentrySettings,
    state_dir: Path,
    clock: Clock,
    who: identity.Identity,
    about: About,
    journal: Journal,
    stop: asyncio.Event,
    notifier: Notifier,
) -> None:
    orders = Orders(post, journal, clock, state_dir)
    duty = Duty(post, state_dir / ASSIGNMENT)
    session = Session(
        state_dir,
        who,
        about,
        journal,
        clock,
        take_order=orders.take,
        cancel_order=orders.cancel,
        take_assignment=duty.take,
        address=settings.commander,
    )
    await duty.begin()
    log.info(
        "sentry starts", extra={"sentry": who.sentry_id, "kind": post.kind, "commander": settings.commander or who.post_address}
    )
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_endless(post.run(Outbox(journal, session, clock)), "post"), name="post"),
            tasks.create_task(_endless(orders.run(), "orders"), name="orders"),
            tasks.create_task(_endless(session.run(), "session"), name="session"),
            tasks.create_task(_endless(duty.run(), "assignment"), name="assignment"),
            tasks.create_task(keep_watchdog(notifier, clock), name="watchdog"),
        ]
        notifier.ready(f"{post.kind} sentry {who.sentry_id}")
        await stop.wait()
        log.info("stopping")
        notifier.stopping()
        for task in running:
            task.cancel()


async def _endless(part: Coroutine[Any, Any, None], name: str) -> None:
    """A part that ends by itself must not do so in silence: the service is started again."""
    await part
    raise Broken(f"the {name} of this sentry ended by itself")


class Outbox:
    """What a post is given. `look` and `event` return when the journal has it on disk."""

    def __init__(self, journal: Journal, session: Session, clock: Clock) -> None:
        self._journal = journal
        self._session = session
        self._clock = clock

    async def look(self, samples: Sequence[Sample]) -> None:
        small = len(samples) <= _PACK_HERE
        bodies = pack_look(samples) if small else await asyncio.to_thread(pack_look, samples)
        for layout, body in bodies:
            await self._journal.append_frame(layout, body)

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None:
        await self._journal.append_event(Event(self._clock.now_ms(), kind, text, device, severity, dict(detail or {})))

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None:
        if self._session.roster.take(devices, gone):
            self._session.tell_roster()


class Duty:
    """The assignment: on disk before the post gets it, so that a start without a commander knows it. It holds passwords: 0600."""

    def __init__(self, post: Post, path: Path) -> None:
        self._post = post
        self._path = path
        self._fresh: Assignment | None = None
        self._given: Assignment | None = None
        self._wake = asyncio.Event()

    async def begin(self) -> None:
        """Gives the post what is stored. A damaged file is as none: the commander sends it again."""
        try:
            data = await asyncio.to_thread(keyfile.read, self._path)
            stored = wire.unpacked_assignment(data)
        except BadInput as fault:
            log.warning("the stored assignment cannot be used", extra={"text": str(fault)})
        except Fault:
            log.info("no assignment yet")
        else:
            await self._give(stored)

    def take(self, assignment: Assignment) -> None:
        """From the session; the newest wins."""
        self._fresh = assignment
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            fresh, self._fresh = self._fresh, None
            if fresh is None or fresh == self._given:
                continue
            try:
                data = wire.packed_assignment(fresh)
                await asyncio.to_thread(keyfile.write, self._path, data)
            except Fault as fault:  # it still holds until the next start
                log.warning("the assignment is not on disk", extra={"text": str(fault)})
            await self._give(fresh)

    async def _give(self, assignment: Assignment) -> None:
        extra = {"revision": assignment.revision, "targets": len(assignment.targets), "boards": len(assignment.boards)}
        try:
            await self._post.assign(assignment)
        except Fault as fault:
            log.warning("the assignment could not be taken", extra={**extra, "text": str(fault)})
        else:
            self._given = assignment
            log.info("assignment taken", extra=extra)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`, for as long as this lasts."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield  # whoever runs us has `stop`
    elif sys.platform == "win32":  # its loop has no signal handlers
        before = [signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set)) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
    else:
        for number in numbers:
            loop.add_signal_handler(number, stop.set)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def _software() -> str:
    try:
        return f"garrison {version('garrison')}"
    except PackageNotFoundError:
        return "garrison"
