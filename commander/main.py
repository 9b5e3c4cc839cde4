"""The composition root: opens what there is, connects the subjects to one another, runs until told to stop.

Called by `commander run`. Everything here is wiring; whoever looks for a decision finds it in a subject.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from commander import memory, schema
from commander.access import api as access_api
from commander.access.ca import Authority
from commander.access.secrets import Secrets
from commander.access.service import Access
from commander.actions import api as actions_api
from commander.actions import service as actions_service
from commander.actions.service import Actions
from commander.api import app as http
from commander.api import gate, overview, serving, upkeep
from commander.backup import Made, backup
from commander.db import Database
from commander.fleet import api as fleet_api
from commander.fleet import found_api, inventory_api
from commander.fleet.found_rules import rules_of
from commander.fleet.service import Fleet, FleetSettings
from commander.flight_sheets import api as sheets_api
from commander.flight_sheets import pool_watch
from commander.flight_sheets import service as sheets_service
from commander.flight_sheets.pool_watch import PoolWatch
from commander.flight_sheets.rules import ASSIGNED
from commander.flight_sheets.service import FlightSheets
from commander.link.ports import Ports, Terms
from commander.link.server import REVOKED, Link, Listen
from commander.lock import held_alone
from commander.metrics import Metrics
from commander.power import api as power_api
from commander.power import service as power_service
from commander.power.rules import Limits
from commander.power.service import Power
from commander.settings import SOCKET, History, Settings, host_port
from commander.telemetry import api as telemetry_api
from commander.telemetry import checks_api
from commander.telemetry.checks import Checks
from commander.telemetry.retention import Spans
from commander.telemetry.service import Telemetry
from garrison.clock import Clock, SystemClock
from garrison.faults import CertificateRevoked, NotFound
from garrison.model import PowerLimits
from garrison.words import ActionKind
from rrc.table import BOARDS
from sentry_core.notify import Notifier, keep_watchdog

log = logging.getLogger(__name__)
VERSION = version("garrison")
SWITCH_S = 0.001
COME_BACK_MS = 1_000
"""What sentries are told on a planned stop: the next start is mostly seconds away."""


async def run(home: Path, settings: Settings, clock: Clock | None = None, stop: asyncio.Event | None = None) -> None:
    """The commander of the farm at `home`, until SIGTERM, SIGINT or `stop`. Raises a Fault when it cannot start."""
    # A thread that works may keep the event loop from the interpreter for so long; 5 ms by default.
    sys.setswitchinterval(SWITCH_S)
    memory.settle()
    notifier = Notifier()
    stop = stop or asyncio.Event()
    with held_alone(home), _signals(stop):
        async with opened(home, settings, clock or SystemClock()) as commander:
            await commander.serve(stop, notifier)
    log.info("stopped")


@dataclass(slots=True)
class Commander:
    """All parts, open and connected."""

    home: Path
    settings: Settings
    clock: Clock
    authority: Authority
    fleet: Fleet
    access: Access
    telemetry: Telemetry
    actions: Actions
    sheets: FlightSheets
    pools: PoolWatch
    link: Link
    metrics: Metrics
    app: FastAPI

    async def serve(self, stop: asyncio.Event, notifier: Notifier) -> None:
        listen = self.settings.listen
        local = serving.unix_socket(self.home / SOCKET) if sys.platform != "win32" else None
        tcp = serving.tcp_socket(*host_port(listen.http, "listen.http"), "listen.http") if listen.http else None
        await self.link.open()
        async with asyncio.TaskGroup() as tasks:
            duties = [
                tasks.create_task(part, name=name)
                for name, part in {
                    "link": self.link.serve(),
                    "fleet": self.fleet.run(),
                    "telemetry": self.telemetry.run(),
                    "actions": self.actions.run(),
                    "flight sheets": self.sheets.run(),
                    "pools": self.pools.run(),
                    "metrics": self.metrics.run(),
                    "certificates": self._tend(),
                    "watchdog": keep_watchdog(notifier, self.clock),
                }.items()
            ]
            doors: list[asyncio.Task[None]] = []
            if local is not None:
                doors.append(tasks.create_task(serving.serve(self.gate(local=True), local, stop), name="socket"))
            if tcp is not None:
                secured = serving.serve(self.gate(local=False), tcp, stop, listen.http_certificate, listen.http_key)
                doors.append(tasks.create_task(secured, name="http"))
            notifier.ready(f"farm {self.settings.farm}")
            log.info("ready", extra={"farm": self.settings.farm, "version": VERSION, "home": str(self.home)})
            await stop.wait()
            log.info("stopping")
            notifier.stopping()
            self.actions.close()
            if doors:
                await asyncio.wait(doors)
            await self.link.drain("the commander is being stopped", COME_BACK_MS)
            for duty in duties:
                duty.cancel()
        await self.fleet.keep_seen()
        with contextlib.suppress(FileNotFoundError):
            (self.home / SOCKET).unlink()

    async def _tend(self) -> None:
        """The farm's own certificates are renewed in time; what a person must do about them is said every day."""
        while True:
            for warning in await asyncio.to_thread(self.authority.tend, self.clock.now_ms()):
                log.warning(warning)
            await self.clock.sleep(86_400)

    def gate(self, *, local: bool) -> gate.Gate:
        """ASGI: the HTTP API behind its gate. `local`: for the Unix socket."""
        return gate.Gate(self.app, self.access.caller_for_token, local=local)


@contextlib.asynccontextmanager
async def opened(home: Path, settings: Settings, clock: Clock) -> AsyncIterator[Commander]:
    """The commander with everything open and connected; nothing listens or runs before `serve`."""
    authority = await asyncio.to_thread(Authority.open, home / "ca")
    vault = await asyncio.to_thread(Secrets.open_file, home)
    async with contextlib.AsyncExitStack() as open_now:
        db = await Database.open(home / "fleet.db", schema.FLEET)
        open_now.push_async_callback(db.close)
        telemetry = await Telemetry.open(
            home / "history",
            clock,
            spans=_spans(settings.history),
            commit_every_ms=settings.history.commit_every_ms,
            apart=True,
        )
        open_now.push_async_callback(telemetry.close)
        fleet = await Fleet.open(db, clock, vault, _fleet_settings(settings))
        fleet.latest = telemetry.latest
        access = await Access.open(db, authority, fleet, clock)
        yield _connected(home, settings, clock, db, authority, fleet, access, telemetry)


def _connected(
    home: Path,
    settings: Settings,
    clock: Clock,
    db: Database,
    authority: Authority,
    fleet: Fleet,
    access: Access,
    telemetry: Telemetry,
) -> Commander:
    names = _own_names(settings)
    link: Link  # the orders need it, and it needs them
    sheets: FlightSheets
    power: Power

    actions = Actions(
        db,
        actions_service.Ports(
            device=fleet.device,
            send=lambda sentry_id, order: link.order(sentry_id, order),
            cancel_at=lambda sentry_id, action_id: link.cancel(sentry_id, action_id),
            connected=fleet.stream_open,
            render=lambda ref, device: sheets.render(ref, device),
            power_check=lambda caller, kind, device, arguments: power.arguments(caller, kind, device, arguments),
        ),
        clock,
    )

    async def switching() -> frozenset[int]:
        return await actions.busy(ActionKind.APPLY_FLIGHT_SHEET)

    sheets = FlightSheets(
        db,
        sheets_service.Ports(fleet.device, fleet.devices, fleet.set_wanted_sheet, switching),
        clock,
    )

    async def restore(identities: Sequence[str]) -> list[str]:
        ordered = await actions.create(pool_watch.RESTORER, ActionKind.APPLY_FLIGHT_SHEET, identities, {"sheet": ASSIGNED})
        taken = {row.identity for row in ordered.actions}
        return [one for one in identities if one not in taken]

    pools = PoolWatch(
        db,
        pool_watch.Ports(fleet.some, switching, restore),
        clock,
        restore=settings.pools.restore_pools,
        look_s=settings.sessions.poll_every_s,
    )
    power = Power(
        db, power_service.Ports(fleet.devices, fleet.outlets, fleet.boards, fleet.sentries), clock, _power_limits(settings)
    )
    actions.within += [sheets.within, pools.within, power.within]
    actions.changed += [sheets.changed, pools.changed]
    link = Link(
        Ports(access, telemetry, fleet, actions),
        Terms(settings.farm, reconnect_window_ms=settings.sessions.reconnect_window_s * 1000),
        Listen(settings.listen.post, settings.listen.enrol, _dialled(settings, settings.listen.post)),
        clock,
        keys=lambda: authority.server_identity(names, clock.now_ms()),
        roots=lambda: authority.roots_pem,
    )
    if settings.listen.http:
        access.people.http_url = f"{'https' if settings.listen.http_certificate else 'http'}://{settings.listen.http}"
    if settings.listen.enrol:
        access.enrol_address = _dialled(settings, settings.listen.enrol)

    async def groups() -> AsyncIterator[tuple[int, tuple[tuple[str, str], ...]]]:
        coins = {str(row.id): row.template.coin for row in await sheets.sheets()}
        async for found in fleet.groups(coins):
            yield found

    telemetry.follow(groups)
    access.on_revoked.append(lambda sentry_id: link.cut(sentry_id, CertificateRevoked(REVOKED)))
    fleet.on_assignment_change.append(link.reassign)
    metrics = Metrics(clock, telemetry, link, db, home)
    give = actions_api.giving(actions)

    async def key_of(ref: str) -> int:
        device = await fleet.device(ref)
        if device.key is None:
            raise NotFound(f"{device.name} has not been identified yet, so there is no history of it")
        return device.key

    async def backed_up(target: Path) -> Made:
        async with telemetry.undisturbed():
            return await backup(home, target)

    sources = overview.Sources(
        devices=fleet.devices,
        device=fleet.device,
        sentries=fleet.sentries,
        latest=telemetry.latest,
        clock=clock,
        farm=settings.farm,
        version=VERSION,
        started_ms=clock.now_ms(),
        fresh_ms=max(60_000, 6_000 * settings.sessions.poll_every_s),
    )
    app = http.application(
        [
            overview.router(sources),
            upkeep.router(backed_up),
            access_api.router(access),  # before the fleet's: /sentries/tokens is not a sentry
            fleet_api.router(fleet),
            found_api.router(fleet),
            inventory_api.router(fleet),
            telemetry_api.router(telemetry, key_of, clock, fleet.named),
            checks_api.router(Checks(telemetry, lambda: fleet.named({}))),
            actions_api.router(actions),
            sheets_api.router(sheets, fleet.device, give),
            power_api.router(power, fleet.device, give),
            metrics.router(),
        ],
        VERSION,
    )
    return Commander(home, settings, clock, authority, fleet, access, telemetry, actions, sheets, pools, link, metrics, app)


def _fleet_settings(settings: Settings) -> FleetSettings:
    power, sessions = settings.power, settings.sessions
    return FleetSettings(
        board_kinds=frozenset(BOARDS),
        poll_every_ms=sessions.poll_every_s * 1000,
        adopt=rules_of(settings.discovery.adopt),
        power=PowerLimits(power.off_s, power.min_interval_s, power.max_per_day, power.stagger_ms),
        silent_after_ms=sessions.silent_after_s * 1000,
        window_ms=sessions.reconnect_window_s * 1000,
    )


def _spans(history: History) -> Spans:
    return Spans(history.raw_days, history.five_minute_days, history.hour_days)


def _power_limits(settings: Settings) -> Limits:
    power = settings.power
    return Limits(power.off_s, power.min_interval_s, power.max_per_day, power.brake_share)


def _dialled(settings: Settings, listening: str) -> str:
    """host:port that another machine should dial to reach what listens on `listening`."""
    host, port = host_port(listening, "listen")
    host = settings.listen.advertise or (socket.getfqdn() if host in ("0.0.0.0", "::") else host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _own_names(settings: Settings) -> list[str]:
    """What the server's certificate must name."""
    found = {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()}
    found |= {host_port(_dialled(settings, one), "listen")[0] for one in (settings.listen.post, settings.listen.enrol) if one}
    return sorted(found)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    ours = (signal.SIGTERM, signal.SIGINT)
    try:
        for number in ours:
            loop.add_signal_handler(number, stop.set)
    except NotImplementedError:  # Windows: the service manager stops us, and Ctrl-C cancels
        yield
        return
    try:
        yield
    finally:
        for number in ours:
            loop.remove_signal_handler(number)
