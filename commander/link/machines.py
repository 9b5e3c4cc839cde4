"""Which machines use a sentry's identity, and which of them is the sentry's own. `rules.py` judges.

Called by `server.py`: `load` at start, `place` for each Hello, `left` at the end of a session, `tend` every two seconds.

A machine's silence counts from when it was last heard, at the earliest from our own start: while we were down it could
not be heard. On disk is who is who, so that a restart neither forgets the sentry's own machine nor orders through a twin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from commander.fleet.records import EventRecord, MachineRecord
from commander.link import rules
from commander.link.ports import Ports, SessionInfo
from commander.link.rules import Verdict, post_name
from garrison.clock import Clock
from garrison.faults import Fault
from garrison.model import SentryHello

log = logging.getLogger(__name__)

KEPT = 8
"""Machines of one sentry; those that were heard longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class Place:
    """Under which name a session's frames and records are kept. `also`: where else its machine's are, from when it was a twin."""

    post: str
    twin: bool = False
    also: str = ""


class Machines:
    """`is_open`: whether a session of this post name is open."""

    def __init__(self, ports: Ports, clock: Clock, adopt_after_ms: int, is_open: Callable[[str], bool]) -> None:
        self._ports = ports
        self._clock = clock
        self._adopt_after_ms = adopt_after_ms
        self._is_open = is_open
        self._known: dict[str, tuple[MachineRecord, ...]] = {}
        self._twinned: set[str] = set()
        self._heard_ms: dict[str, int] = {}  # by post name, monotonic
        self._started_ms = clock.monotonic_ms()
        self._unkept: set[str] = set()

    async def load(self) -> None:
        self._known = {sentry_id: tuple(found) for sentry_id, found in (await self._ports.fleet.machines()).items()}
        self._started_ms = self._clock.monotonic_ms()
        for sentry_id in self._known:
            self._hold(sentry_id)

    def held(self, sentry_id: str) -> bool:
        """Whether a second machine is about: nobody knows which one an order is for."""
        return sentry_id in self._twinned

    async def place(self, sentry_id: str, hello: SentryHello) -> Place:
        """Where the session that says this belongs; durable when it returns."""
        known = self._known.get(sentry_id, ())
        main = _main(known)
        verdict = rules.judge(main.machine if main else b"", hello.machine, self._silent_ms(sentry_id), self._adopt_after_ms)
        if verdict is Verdict.SAME:
            place = Place(sentry_id, also=post_name(sentry_id, main.machine) if main and main.met else "")
        else:
            one = next((one for one in known if one.machine == hello.machine), MachineRecord(hello.machine, "gone"))
            place = await self._take(sentry_id, verdict, one, hello.address)
        self._heard_ms[place.post] = self._clock.monotonic_ms()
        if sentry_id in self._unkept:
            await self._keep(sentry_id)
        return place

    async def _take(self, sentry_id: str, verdict: Verdict, one: MachineRecord, address: str) -> Place:
        others = [other for other in self._known.get(sentry_id, ()) if other.machine != one.machine]
        post = post_name(sentry_id, one.machine)
        if verdict is Verdict.TWIN:
            log.warning("a sentry's identity on a second machine", extra={"sentry": sentry_id, "address": address, "post": post})
            self._set(sentry_id, [*others, replace(one, standing="twin", address=address)])
            return Place(post, twin=True)
        others = [replace(other, standing="gone") if other.standing == "main" else other for other in others]
        self._set(sentry_id, [*others, replace(one, standing="main", address=address)])
        if verdict is Verdict.ADOPTED:
            log.warning("a sentry's disk runs in another machine", extra={"sentry": sentry_id, "address": address})
            await self._note(sentry_id, "sentry_moved", rules.moved_text(address, self._adopt_after_ms))
        return Place(sentry_id, also=post if one.met else "")

    def left(self, post: str) -> None:
        """Its session is over: until now it was heard."""
        self._heard_ms[post] = self._clock.monotonic_ms()

    async def tend(self, sessions: Callable[[], Mapping[str, SessionInfo]]) -> list[str]:
        """Tells of clones, lets orders go when only one is left. Returns the posts that should come again, to be adopted."""
        due: list[str] = []
        for sentry_id in sorted(self._twinned):
            try:
                due += await self._tend(sentry_id, sessions())
            except Fault as fault:  # a full disk: the next round does it
                log.warning("cloned disks are not looked after", extra={"sentry": sentry_id, "text": str(fault)})
        return due

    async def _tend(self, sentry_id: str, sessions: Mapping[str, SessionInfo]) -> list[str]:
        main = sessions.get(sentry_id)
        due: list[str] = []
        for machine in [one.machine for one in self._known[sentry_id]]:
            one = next((one for one in self._known[sentry_id] if one.machine == machine), None)  # as it is after the last await
            if one is None or one.standing != "twin":
                continue
            post = post_name(sentry_id, machine)
            twin = sessions.get(post)
            if self._silent_ms(post) > self._adopt_after_ms:
                self._put(sentry_id, replace(one, standing="gone"))
                await self._note(sentry_id, "sentry_clone_gone", rules.alone_text(one.address, self._adopt_after_ms))
            elif main is not None and twin is not None and main.last_message_ms > twin.since_ms:
                await self._met(sentry_id, one, main, twin)
            elif twin is not None and not due and self._silent_ms(sentry_id) > self._adopt_after_ms:
                due.append(post)
        if sentry_id in self._unkept:
            await self._keep(sentry_id)
        return due

    async def _met(self, sentry_id: str, one: MachineRecord, main: SessionInfo, twin: SessionInfo) -> None:
        """Both speak: these are two machines, and not one that was changed."""
        now_ms = self._clock.now_ms()
        told = rules.is_due(one.told_ms, now_ms)
        self._put(sentry_id, replace(one, met=True, told_ms=now_ms if told else one.told_ms, address=twin.address))
        if told:
            text = rules.clone_text(main.address, twin.address, f"sentry-{twin.kind}")
            await self._note(sentry_id, "sentry_cloned", text, "warning")

    def _silent_ms(self, post: str) -> int:
        if self._is_open(post):
            return 0
        return self._clock.monotonic_ms() - max(self._started_ms, self._heard_ms.get(post, 0))

    # ---- what is known -------------------------------------------------------------------------------------

    def _put(self, sentry_id: str, changed: MachineRecord) -> None:
        self._set(sentry_id, [changed if one.machine == changed.machine else one for one in self._known[sentry_id]])

    def _set(self, sentry_id: str, machines: Sequence[MachineRecord]) -> None:
        main = [one for one in machines if one.standing == "main"]
        others = [one for one in machines if one.standing != "main"]
        for one in others[: -(KEPT - 1)]:
            self._heard_ms.pop(post_name(sentry_id, one.machine), None)
        fresh = (*main, *others[-(KEPT - 1) :])
        if fresh != self._known.get(sentry_id):  # an address alone is no reason to write
            self._unkept.add(sentry_id)
        self._known[sentry_id] = fresh
        self._hold(sentry_id)

    def _hold(self, sentry_id: str) -> None:
        twins = [one for one in self._known[sentry_id] if one.standing == "twin"]
        if twins:
            self._twinned.add(sentry_id)
        elif sentry_id in self._twinned:
            self._twinned.discard(sentry_id)
        else:
            return
        last = twins[-1] if twins else None
        self._ports.fleet.mark_twin(sentry_id, last.address if last else "")
        met = any(one.met for one in twins)
        why = rules.why_held(last.address, met=met, adopt_after_ms=self._adopt_after_ms) if last else ""
        self._ports.actions.hold(sentry_id, why)

    async def _keep(self, sentry_id: str) -> None:
        self._unkept.discard(sentry_id)  # what changes while this is written is written after it
        try:
            await self._ports.fleet.keep_machines(sentry_id, self._known[sentry_id])
        except BaseException:
            self._unkept.add(sentry_id)
            raise

    async def _note(self, sentry_id: str, kind: str, text: str, severity: str = "info") -> None:
        await self._ports.fleet.note(EventRecord(self._clock.now_ms(), kind, text, severity, sentry_id))


def _main(known: Sequence[MachineRecord]) -> MachineRecord | None:
    return next((one for one in known if one.standing == "main"), None)
