"""The poll schedule: every target looked at in its turn, one question at a time for each, all looks of a second in one frame.

Called by the ASIC sentry's post: `assign`, `run`; its orders take a device with `hold` and ask for a look with `look`.
A fast look is port 4028 only; every five minutes, and when a device comes back, a slow one also identifies it again and
asks its web page. Devices are known by MAC: a new address is the same device, another device at a known address is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace

from garrison.clock import Clock
from garrison.faults import BadAnswer, Conflict, Fault, NotFound, TimedOut, Unavailable, Unreachable, WrongPassword
from garrison.frame import Sample, device_key
from garrison.model import Device, Target
from garrison.words import DeviceState
from sentry_asic.make import Driver, Reading, Seen
from sentry_asic.probe import place_of
from sentry_asic.readings import device_of, identity_of, news, values_of, values_of_failure, with_slow
from sentry_asic.rules import OFFLINE_AFTER, judge_state
from sentry_asic.table import identify, least_every_s
from sentry_core.post import Outbox

log = logging.getLogger(__name__)

_TICK_S = 0.1
_ROSTER_EVERY_MS = 60_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long. A look that begins late because all places are taken is late, never doubled."""

    poll_every_s: float = 10
    slow_every_s: float = 300
    look_s: float = 10
    slow_look_s: float = 20
    back_off_s: float = 60  # longest time between looks at a device that does not answer
    identify_again_s: float = 60  # after a device that answers did not say who it is, or refused our log-in
    at_once: int = 256
    batch_s: float = 1


@dataclass(slots=True)
class Watched:
    """One target and what is known of the device behind it. Only `Watcher` changes it."""

    target: Target
    identity: str
    state: DeviceState = DeviceState.UNKNOWN
    driver: Driver | None = None
    seen: Seen | None = None
    reading: Reading | None = None  # the last good one
    slow: Reading | None = None  # the last one that asked for slow fields
    fault: Fault | None = None  # of the last look
    failures: int = 0
    seen_ms: int = 0
    repairs: int = 0
    refused: Fault | None = None  # its web page refuses our log-in, so it was never identified
    slow_due_ms: int = 0
    identify_due_ms: int = 0
    muted: bool = False  # the same device answers at another target's address
    left: str = ""  # the identity it had before, not yet taken off the roster
    gone: bool = False
    busy: bool = False
    looked_ms: int | None = None  # when the last look began
    device: Device | None = None  # as last put on the roster
    device_ms: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Watcher:
    """`is_off` says whether the outlet of a device is known to be off; `sheet_of` which flight sheet was verified on it."""

    def __init__(
        self,
        clock: Clock,
        pace: Pace = Pace(),
        *,
        is_off: Callable[[str], bool] = lambda _: False,
        sheet_of: Callable[[str], str] = lambda _: "",
        rng: random.Random | None = None,
    ) -> None:
        self._clock, self._pace = clock, pace
        self._is_off, self._sheet_of = is_off, sheet_of
        self._rng = rng or random.Random()
        self._poll_every_s = pace.poll_every_s
        self._watched: dict[str, Watched] = {}  # by target id
        self._owners: dict[str, str] = {}  # identity to target id
        self._due: list[tuple[int, int, str]] = []  # (monotonic ms, turn, target id); stale entries are skipped
        self._turn: dict[str, int] = {}
        self._leaving: list[Watched] = []
        self._looks: list[Sample] = []
        self._first_ms = 0
        self._flying = 0
        self._outbox: Outbox | None = None

    # ---- what to watch -----------------------------------------------------------------------------------

    def assign(self, targets: Iterable[Target], poll_every_ms: int = 0) -> None:
        """The whole list; what is not in it is watched no more. `poll_every_ms` 0: our own pace."""
        self._poll_every_s = poll_every_ms / 1000 if poll_every_ms else self._pace.poll_every_s
        wanted = {target.id: target for target in targets}
        for gone in self._watched.keys() - wanted.keys():
            self._forget(self._watched.pop(gone))
        for target in wanted.values():
            watched = self._watched.get(target.id)
            if watched is None:
                watched = self._watched[target.id] = Watched(target, f"target:{target.id}")
                self._schedule(watched, self._rng.uniform(0, min(self._poll_every_s, 5)))
                self._tell(watched)
                continue
            moved = _way(watched.target) != _way(target)
            watched.target = target
            if moved:
                self._start_over(watched)
                self._schedule(watched, 0)

    def _forget(self, watched: Watched) -> None:
        watched.gone = True
        self._turn.pop(watched.target.id, None)
        self._leaving.append(watched)
        if self._owners.get(watched.identity) == watched.target.id:
            del self._owners[watched.identity]
        if self._outbox is not None and not watched.muted:
            self._outbox.roster((), gone=(watched.identity,))

    def _start_over(self, watched: Watched) -> None:
        """Another address or log-in: who answers there must be found out anew."""
        self._part(watched)
        watched.seen, watched.refused, watched.muted, watched.looked_ms = None, None, False, None
        watched.slow_due_ms = watched.identify_due_ms = 0

    def _part(self, watched: Watched) -> None:
        """With its driver, which is closed in the schedule's time."""
        if watched.driver is not None:
            self._leaving.append(replace(watched, lock=watched.lock))
            watched.driver = None

    # ---- for orders --------------------------------------------------------------------------------------

    def known(self, identity: str) -> bool:
        return self._by_identity(identity) is not None

    def states(self) -> list[DeviceState]:
        """Of every device that is watched."""
        return [watched.state for watched in self._watched.values() if not watched.muted]

    def state(self, identity: str) -> Watched | None:
        """What is known of a device now; read it, do not change it."""
        return self._by_identity(identity)

    @contextlib.asynccontextmanager
    async def hold(self, identity: str) -> AsyncIterator[Driver]:
        """The driver of a device, nobody else asking it meanwhile. It is identified first: its address may be another's by now.

        Raises NotFound (not watched), Conflict (another device answers there), and what asking it raises.
        """
        watched = self._by_identity(identity)
        if watched is None:
            raise NotFound(f"{identity} is not watched here")
        async with watched.lock:
            try:
                async with asyncio.timeout(self._pace.slow_look_s):
                    driver = await self._driver(watched)
                    told = identity_of(await driver.seen(), watched.target)
            except TimeoutError:
                raise TimedOut(f"{watched.target.address} did not say who it is in time", hint="nothing was sent") from None
            if told != identity and not identity.startswith("target:"):
                where = watched.target.address
                if told.startswith("target:"):
                    raise Unreachable(f"{where} does not say now which device it is", hint="nothing was sent")
                raise Conflict(f"{where} is {told} now, not {identity}", hint="nothing was sent; scan for its new address")
            yield driver

    async def look(self, identity: str, *, slow: bool = True) -> Reading:
        """One look out of turn, for verification; it counts like any other, and waits while the device is left in peace.

        Raises what went wrong.
        """
        watched = self._by_identity(identity)
        if watched is None:
            raise NotFound(f"{identity} is not watched here")
        while (rest_s := self._rest_s(watched)) > 0:
            await self._clock.sleep(rest_s)
        async with watched.lock:
            await self._look(watched, slow=slow)
        if watched.fault is not None or watched.reading is None:
            raise watched.fault or TimedOut(f"{identity} gave no reading")
        return watched.reading

    def nudge(self, identity: str, after_s: float = 0) -> None:
        """Look soon: its power came on, an order was carried out."""
        watched = self._by_identity(identity)
        if watched is not None:
            self._schedule(watched, after_s)

    def _by_identity(self, identity: str) -> Watched | None:
        owner = self._owners.get(identity) or identity.removeprefix("target:")
        watched = self._watched.get(owner)
        return watched if watched is not None and (watched.identity == identity or identity == f"target:{owner}") else None

    # ---- the schedule ------------------------------------------------------------------------------------

    async def run(self, outbox: Outbox) -> None:
        """Watches until cancelled; what was seen until then is handed over first."""
        self._outbox = outbox
        for watched in self._watched.values():
            self._tell(watched, again=True)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._begin_due(group)
                    await self._hand_over()
                    await self._clock.sleep(_TICK_S)
        finally:
            await self._hand_over(now=True)
            for watched in [*self._watched.values(), *self._leaving]:
                if watched.driver is not None:
                    await watched.driver.close()
                    watched.driver = None
            self._leaving.clear()

    def _begin_due(self, group: asyncio.TaskGroup) -> None:
        leaving, self._leaving = self._leaving, []
        for watched in leaving:
            group.create_task(_close(watched))
        now_ms = self._clock.monotonic_ms()
        while self._due and self._due[0][0] <= now_ms and self._flying < self._pace.at_once:
            _, turn, name = heapq.heappop(self._due)
            due = self._watched.get(name)
            if due is None or self._turn.get(name) != turn or due.busy:
                continue
            if due.lock.locked():  # an order has it
                self._schedule(due, 1)
                continue
            if (rest_s := self._rest_s(due)) > 0:
                self._schedule(due, rest_s)
                continue
            due.busy = True
            self._flying += 1
            group.create_task(self._turn_of(due))

    async def _turn_of(self, watched: Watched) -> None:
        began_ms = self._clock.monotonic_ms()
        try:
            async with watched.lock:
                await self._look(watched, slow=began_ms >= watched.slow_due_ms)
        finally:
            watched.busy = False
            self._flying -= 1
        if not watched.gone:
            spent_s = (self._clock.monotonic_ms() - began_ms) / 1000
            every_s = self._every_s(watched) * self._rng.uniform(0.95, 1.05)
            self._schedule(watched, max(every_s - spent_s, 0.1))

    def _rest_s(self, watched: Watched) -> float:
        """How long this device is to be left in peace: some makes do not bear to be asked at our pace."""
        if watched.looked_ms is None:
            return 0
        make = watched.driver.make if watched.driver else watched.seen.make if watched.seen else watched.target.make
        return least_every_s(make) - (self._clock.monotonic_ms() - watched.looked_ms) / 1000

    def _every_s(self, watched: Watched) -> float:
        """Dead addresses cost connections and time: they are asked less and less."""
        beyond = watched.failures - OFFLINE_AFTER
        if beyond < 0:
            return self._poll_every_s
        return max(self._poll_every_s, min(self._pace.back_off_s, self._poll_every_s * (2 << min(beyond, 10))))

    def _schedule(self, watched: Watched, after_s: float) -> None:
        name = watched.target.id
        self._turn[name] = turn = self._turn.get(name, 0) + 1
        heapq.heappush(self._due, (self._clock.monotonic_ms() + round(after_s * 1000), turn, name))

    # ---- one look ----------------------------------------------------------------------------------------

    async def _look(self, watched: Watched, *, slow: bool) -> None:
        """The caller holds the device's lock. Faults are kept in `watched`, not raised."""
        began_ms = watched.looked_ms = self._clock.monotonic_ms()
        slow = slow or watched.failures > 0 or (watched.seen is None and began_ms >= watched.identify_due_ms)
        limit_s = self._pace.slow_look_s if slow else self._pace.look_s
        try:
            async with asyncio.timeout(limit_s):
                driver = await self._driver(watched)
                if slow:
                    await self._identify(watched, driver)
                reading = await driver.read(slow=slow)
        except TimeoutError:
            self._failed(watched, TimedOut(f"{watched.target.address} did not answer all of a look within {limit_s:g} s"), began_ms)
        except Fault as fault:
            self._failed(watched, fault, began_ms)
        except Exception:  # a driver's own mistake over one hostile device must not end the watch of all others
            log.exception("a driver failed", extra={"address": watched.target.address, "make": watched.target.make})
            self._failed(watched, BadAnswer(f"{watched.target.address}: its answer broke the driver"), began_ms)
        else:
            self._read(watched, reading, began_ms, slow=slow)

    async def _driver(self, watched: Watched) -> Driver:
        if watched.driver is None:
            target = watched.target
            watched.driver = await identify(place_of(target.address, target.http_port, target.credentials), target.make)
        return watched.driver

    async def _identify(self, watched: Watched, driver: Driver) -> None:
        """Who it is. A device that answers and does not tell keeps what it was known by."""
        watched.identify_due_ms = self._clock.monotonic_ms() + round(self._pace.identify_again_s * 1000)
        try:
            seen = await driver.seen()
        except Fault as fault:
            watched.refused = fault if isinstance(fault, WrongPassword) and watched.seen is None else None
            log.debug("not identified", extra={"address": watched.target.address, "fault": fault.code})
            return
        watched.refused = None
        identity = identity_of(seen, watched.target)
        if identity.startswith("target:") and watched.seen is not None:
            return  # it told before; it is not another one for not telling now
        watched.seen = seen
        await self._own(watched, identity)

    async def _own(self, watched: Watched, identity: str) -> None:
        """From now on this target stands for that device; a target that stood for it before is muted until it finds its own."""
        other = self._watched.get(self._owners.get(identity, ""))
        if other is not None and other is not watched:
            other.muted, other.seen = True, None
            log.info("the same device at a new address", extra={"device": identity, "address": watched.target.address})
        if identity == watched.identity and not watched.muted:
            self._owners[identity] = watched.target.id
            return
        before = watched.identity
        if self._owners.get(before) == watched.target.id:
            del self._owners[before]
        watched.identity, watched.muted, watched.device = identity, False, None
        watched.left = "" if before in self._owners or before == identity else before
        watched.reading = watched.slow = None
        self._owners[identity] = watched.target.id
        if self._outbox is not None and not before.startswith("target:") and before != identity:
            text = f"another device answers at {watched.target.address}"
            await self._outbox.event("device_replaced", text, device=identity, severity="warning", detail={"before": before})

    def _read(self, watched: Watched, reading: Reading, began_ms: int, *, slow: bool) -> None:
        now_ms = self._clock.monotonic_ms()
        if slow:
            watched.slow = reading
            every_ms = round(self._pace.slow_every_s * 1000 * self._rng.uniform(0.9, 1.1))
            watched.slow_due_ms = now_ms + every_ms
        watched.repairs += reading.repairs
        watched.reading = reading if slow else with_slow(reading, watched.slow)
        watched.failures, watched.fault, watched.seen_ms = 0, watched.refused, self._clock.now_ms()
        state = judge_state(watched.reading, watched.target, watched.state)
        if watched.refused is not None and state is not DeviceState.MAINTENANCE:
            state = DeviceState.REFUSED  # it lets itself be watched, and neither known nor commanded
        watched.state = state
        self._keep(watched, values_of(watched.reading, state, now_ms - began_ms, watched.repairs))

    def _failed(self, watched: Watched, fault: Fault, began_ms: int) -> None:
        watched.failures += 1
        watched.fault = fault
        if watched.failures >= OFFLINE_AFTER:
            self._part(watched)  # when something answers here again it may be of another make
        state = judge_state(fault, watched.target, watched.state, watched.failures)
        if state in (DeviceState.SLOW, DeviceState.UNREACHABLE) and self._is_off(watched.identity):
            state = DeviceState.OFF
        watched.state = state
        self._keep(watched, values_of_failure(state, self._clock.monotonic_ms() - began_ms))

    def _keep(self, watched: Watched, values: dict[tuple[str, str], int | float]) -> None:
        if watched.gone or watched.muted:
            return
        if not self._looks:
            self._first_ms = self._clock.monotonic_ms()
        self._looks.append(Sample(device_key(watched.identity), self._clock.now_ms(), values))
        self._tell(watched)

    # ---- handing over ------------------------------------------------------------------------------------

    def _tell(self, watched: Watched, *, again: bool = False) -> None:
        """Puts the device on the roster when there is news, and now and then for its counters."""
        if self._outbox is None or watched.muted:
            return
        capabilities = watched.driver.capabilities if watched.driver is not None else ()
        if not capabilities and watched.device is not None:
            capabilities = watched.device.capabilities
        device = device_of(
            watched.target,
            watched.identity,
            watched.seen,
            watched.reading,
            watched.state,
            watched.fault,
            watched.seen_ms,
            capabilities,
            self._sheet_of(watched.identity),
        )
        now_ms = self._clock.monotonic_ms()
        if again or news(watched.device, device) or now_ms - watched.device_ms >= _ROSTER_EVERY_MS:
            gone, watched.left = ((watched.left,) if watched.left else ()), ""
            watched.device, watched.device_ms = device, now_ms
            self._outbox.roster((device,), gone)

    async def _hand_over(self, *, now: bool = False) -> None:
        """All looks of about a second in one call: the cost is per frame."""
        if not self._looks or self._outbox is None:
            return
        if not now and self._clock.monotonic_ms() - self._first_ms < self._pace.batch_s * 1000:
            return
        looks, self._looks = self._looks, []
        try:
            await self._outbox.look(looks)
        except Unavailable as fault:  # a full disk: looks may be lost, watching goes on
            log.warning("looks were not kept", extra={"looks": len(looks), "fault": fault.code, "why": fault.text})


def _way(target: Target) -> tuple[object, ...]:
    """What decides who answers and whether we may log in."""
    return (target.address, target.http_port, target.credentials, target.make)


async def _close(watched: Watched) -> None:
    async with watched.lock:
        if watched.driver is not None:
            await watched.driver.close()
