"""What the running sentry finds by itself, by its own scan of its named ranges, by mDNS, and when a person presses a device's "IP
report" button: what nobody watches goes to the commander as *found*.

Called by the ASIC sentry's post. A found device is a roster entry of the kind "found", named by its address. It is not polled,
and no order reaches it, until the commander assigns it like any other target.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from garrison.clock import Clock
from garrison.faults import BadInput, Fault
from garrison.model import Condition, Device, Target
from garrison.words import DeviceState
from sentry_asic.cgminer import PORT as API_PORT
from sentry_asic.discovery import Found, Manner, Pacer, look, scan
from sentry_asic.ip_reports import PORTS, reports
from sentry_asic.make import Place
from sentry_asic.mdns import GROUP, ask
from sentry_asic.probe import place_of
from sentry_asic.ranges import Network, Plan, named, order_of, plan, range_of
from sentry_asic.settings import ScanSettings
from sentry_core.post import Outbox

log = logging.getLogger(__name__)

FIRST_S = 60.0
"""Before the first round: until then the watch knows which of its devices do not answer where they were."""
MISSES = 3
"""Rounds without an answer before a found device is gone: it may just be restarting."""
_RESOLVE_S = 5.0


@dataclass(slots=True)
class _Kept:
    entry: Device
    missed: int = 0
    pressed: bool = False  # a button was pressed: no round looks for it


@dataclass(frozen=True, slots=True)
class Ways:
    """Where the network is asked by mDNS, and where buttons are heard. Tests have their own."""

    mdns: tuple[str, int] = GROUP
    mdns_wait_s: float = 2.0
    report_ports: Mapping[int, str] = field(default_factory=lambda: PORTS)
    report_host: str = "0.0.0.0"


class Finder:
    """`networks`: where the guard lets us look, asked before each round; raises when its file makes no sense."""

    def __init__(
        self, settings: ScanSettings, networks: Callable[[], Sequence[Network]], clock: Clock, ways: Ways = Ways()
    ) -> None:
        self._settings, self._networks, self._clock, self._ways = settings, networks, clock, ways
        self._manner = Manner(settings.connects_per_s, settings.at_once)
        self._pacer = Pacer(clock, settings.connects_per_s)  # of single looks
        self._watched: set[tuple[str, int]] = set()
        self._resolved: set[tuple[str, int]] = set()  # where the names among the targets led last
        self._kept: dict[str, _Kept] = {}  # by address
        self._outbox: Outbox | None = None

    def assign(self, targets: Sequence[Target]) -> None:
        """What is watched is not found any more."""
        self._watched = _doors(targets)
        self._drop([address for address in self._kept if self._is_watched(_door(place_of(address)))])

    async def run(self, outbox: Outbox) -> None:
        """Until cancelled, round after round; at once when there is nothing to do."""
        self._outbox = outbox
        settings = self._settings
        async with asyncio.TaskGroup() as tasks:
            if settings.every_s and (settings.ranges or settings.mdns):
                tasks.create_task(self._rounds(), name="scans")
            if settings.ip_reports:
                tasks.create_task(self._hear(outbox), name="IP reports")

    async def _rounds(self) -> None:
        settings = self._settings
        await self._clock.sleep(min(FIRST_S, settings.every_s))
        while True:
            began_ms = self._clock.monotonic_ms()
            try:
                await self.round()
            except Fault as fault:  # the guard or the settings do not let us
                log.warning("no scan", extra={"fault": fault.code, "why": str(fault)})
            spent_s = (self._clock.monotonic_ms() - began_ms) / 1000
            await self._clock.sleep(max(settings.every_s - spent_s, 1))

    async def round(self) -> None:
        """One look through all ranges, and at whoever answers by mDNS."""
        settings, networks = self._settings, await asyncio.to_thread(self._networks)
        self._resolved = await self._lead()
        met = await self._called(networks) if settings.mdns else set()
        if settings.ranges:
            met |= await self._scanned(plan(named((), settings.ranges), settings.exclude, networks))
        self._end_round(met)

    async def _scanned(self, wanted: Plan) -> set[str]:
        """Addresses at which something was found."""
        settings, met = self._settings, set()
        scanned = scan(
            wanted,
            api_port=settings.api_port,
            http_port=settings.http_port,
            manner=self._manner,
            skip=lambda host: self._is_watched(_door(Place(host, settings.api_port))),
            clock=self._clock,
        )
        async for device in scanned:
            if not self._is_watched(_door(place_of(device.address))):  # it may have been adopted meanwhile
                met.add(device.address)
                self._keep(device)
        return met

    async def _called(self, networks: Sequence[Network]) -> set[str]:
        """The same, of those that answer by mDNS."""
        try:
            hosts = await ask(self._ways.mdns, self._ways.mdns_wait_s)
        except OSError as error:
            log.warning("no question by mDNS", extra={"why": str(error)})
            return set()
        return {address for host in hosts if (address := await self._look_at(host, networks)) is not None}

    async def _hear(self, outbox: Outbox) -> None:
        """A person at a device wants to know which one it is: told as an event, whoever watches it."""
        ways = self._ways
        async for report in reports(self._clock, ways.report_ports, ways.report_host):
            text = f"{report.make} {report.mac} at {report.address} reports its address: its button was pressed"
            await outbox.event("ip_report", text, device=f"mac:{report.mac}", detail={"address": report.address, "mac": report.mac})
            try:
                address = await self._look_at(report.address, await asyncio.to_thread(self._networks))
            except Fault as fault:  # the guard
                log.warning("not looked at", extra={"address": report.address, "fault": fault.code, "why": str(fault)})
                continue
            if address is not None:
                self._kept[address].pressed = True

    async def _look_at(self, host: str, networks: Sequence[Network]) -> str | None:
        """Its address when something was found there that nobody watches. Only where a scan might look, too."""
        settings = self._settings
        try:
            wanted = plan((host,), settings.exclude, networks).count
        except BadInput:
            return None
        place = Place(host, settings.api_port, settings.http_port)
        if not wanted or self._is_watched(_door(place)):
            return None
        device = await look(place, self._pacer, self._manner.connect_s)
        if device is None or self._is_watched(_door(place)):  # it may have been adopted meanwhile
            return None
        self._keep(device)
        return device.address

    def _keep(self, found: Found) -> None:
        """Told at once: a large range takes its time."""
        before = self._kept.get(found.address)
        entry = self._entry(found)
        if before is not None and not entry.mac and not entry.serial and (before.entry.mac or before.entry.serial):
            # it does not say now who it is, and is not another one for that
            entry = replace(before.entry, seen_ms=entry.seen_ms)
        elif before is not None and _same(before.entry, entry):
            entry = replace(entry, conditions=before.entry.conditions)
        self._kept[found.address] = _Kept(entry)
        self._tell([entry])

    def _end_round(self, met: set[str]) -> None:
        """What was not met for some rounds is gone; one MAC at several addresses is said of each."""
        lost = []
        for address, kept in self._kept.items():
            kept.missed = 0 if address in met or kept.pressed else kept.missed + 1
            if kept.missed >= MISSES:
                lost.append(address)
        places = defaultdict(list)
        for address in sorted(met & self._kept.keys()):
            entry = self._kept[address].entry
            if entry.mac or entry.serial:
                places[entry.mac or entry.serial].append(address)
        # a device that moved within its range: where it was before, it is not any more
        lost += [
            address
            for address, kept in self._kept.items()
            if address not in met and (kept.entry.mac or kept.entry.serial) in places and address not in lost
        ]
        changed = []
        for name, addresses in places.items():
            for address in addresses:
                kept, others = self._kept[address], [one for one in addresses if one != address]
                conditions = (
                    (Condition("duplicate_mac", f"{name} is also at {', '.join(others[:8])}", "warning"),) if others else ()
                )
                if kept.entry.conditions != conditions:
                    kept.entry = replace(kept.entry, conditions=conditions)
                    changed.append(kept.entry)
        self._drop(lost)
        self._tell(changed)

    def _entry(self, found: Found) -> Device:
        seen, settings = found.seen, self._settings
        facts = {"range": range_of(place_of(found.address).host, settings.ranges)}
        if settings.http_port:
            facts["http_port"] = str(settings.http_port)
        return Device(
            identity=f"found:{found.address}",
            kind="found",
            state=DeviceState(found.state) if found.state else DeviceState.UNKNOWN,
            make=seen.make if seen else "",
            model=seen.model if seen else "",
            firmware=seen.firmware if seen else "",
            address=found.address,
            mac=seen.mac if seen else "",
            serial=seen.serial if seen else "",
            facts=facts,
            fault=found.state or "",
            fault_text=found.error or "",
            seen_ms=self._clock.now_ms(),
        )

    def _is_watched(self, door: tuple[str, int]) -> bool:
        return door in self._watched or door in self._resolved

    async def _lead(self) -> set[tuple[str, int]]:
        """Of targets that are given by name: where these lead now."""
        loop, found = asyncio.get_running_loop(), set()
        for host, port in sorted(self._watched):
            if order_of(host)[0] != 9:
                continue  # an address
            try:
                async with asyncio.timeout(_RESOLVE_S):
                    told = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, TimeoutError, UnicodeError):
                continue
            found |= {(str(one[4][0]), port) for one in told}
        return found

    def _drop(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            del self._kept[address]
        if addresses and self._outbox is not None:
            self._outbox.roster((), gone=[f"found:{address}" for address in addresses])

    def _tell(self, entries: Sequence[Device]) -> None:
        if entries and self._outbox is not None:
            self._outbox.roster(entries)


def _doors(targets: Sequence[Target]) -> set[tuple[str, int]]:
    found = set()
    for target in targets:
        with contextlib.suppress(BadInput):  # the watch says what is wrong with it
            found.add(_door(place_of(target.address)))
    return found


def _door(place: Place) -> tuple[str, int]:
    return place.host, place.api_port or API_PORT


def _same(before: Device, now: Device) -> bool:
    return (before.mac, before.mac or before.serial) == (now.mac, now.mac or now.serial)
