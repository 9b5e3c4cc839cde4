"""A small commander for the session's tests: the real link and CA over a few tables that count what arrived.

In a test: `async with farm(home) as it`. As a process of its own: `python -m tests.session.farm HOME`, which prints its ports
as one line of JSON and takes commands as lines of JSON on stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from commander.access import ca
from commander.access.certificates import certificate_of
from commander.db import Database, Migration
from commander.fleet import machines
from commander.fleet.records import EventRecord, MachineRecord
from commander.link.ports import Ports, Terms
from commander.link.server import Link, Listen
from garrison import frame, join, logs, wire
from garrison.clock import Clock, SystemClock
from garrison.faults import CertificateRevoked, Fault, TokenRefused, Unavailable
from garrison.frame import Layout
from garrison.model import Assignment, Device, Event, Order, Report, SentryHello, Target
from garrison.spans import Spans
from garrison.v1 import post_pb2 as pb
from garrison.words import ActionState

log = logging.getLogger(__name__)
FARM_ID = "11111111-2222-4333-8444-555555555555"


def _tables(c: sqlite3.Connection) -> None:
    c.execute("create table layouts (hash blob primary key, body blob)")
    c.execute("create table frames (sentry text, boot blob, seq integer, samples integer, primary key (sentry, boot, seq))")
    c.execute("create table records (sentry text, boot blob, seq integer, kind text, at integer primary key, body blob)")
    c.execute("create unique index one_record on records (sentry, boot, seq)")
    c.execute("create table orders (id text primary key, sentry text, body blob, state integer not null, reports integer not null)")
    c.execute("create table sentries (id text primary key, key blob, revoked integer not null default 0, approved integer)")
    c.execute("create table resent (lane text, n integer)")
    c.execute("create table notes (sentry text, kind text, severity text, text text)")
    machines.create_table(c)


MIGRATIONS = (Migration(1, "the test's tables", _tables),)


@dataclass(frozen=True)
class Peer:
    sentry_id: str
    not_after_ms: int


@dataclass(frozen=True)
class Issued:
    sentry_id: str
    certificate_pem: bytes
    farm_roots_pem: bytes
    not_after_ms: int


@dataclass(frozen=True)
class Pending:
    fingerprint: str
    ask_again_s: int


class Access:
    def __init__(self, authority: ca.Authority, clock: Clock, db: Database) -> None:
        self.authority = authority
        self.clock = clock
        self.db = db
        self.revoked: set[str] = set()
        self.approve = True
        self.life_ms = 7 * 86_400_000
        self.tokens: dict[str, bytes] = {}
        self.said: list[tuple[str, str]] = []
        self.waiting: dict[bytes, str] = {}

    def identify(self, certificate_pem: bytes) -> Peer:
        leaf = self.authority.verify_sentry(certificate_pem, self.clock.now_ms())
        return Peer(leaf.sentry_id, leaf.not_after_ms)

    def is_revoked(self, sentry_id: str) -> bool:
        return sentry_id in self.revoked

    async def renew(self, sentry_id: str, csr_der: bytes) -> Issued:
        return self.issue(sentry_id, csr_der)

    def issue(self, sentry_id: str, csr_der: bytes) -> Issued:
        signed = self.authority.sign_sentry(sentry_id, csr_der, self.clock.now_ms(), life_ms=self.life_ms)
        return Issued(sentry_id, signed.chain_pem, self.authority.roots_pem, signed.leaf.not_after_ms)

    async def enrol(
        self, token_id: str, token_secret: bytes, kind: str, csr_der: bytes, facts: Mapping[str, str], address: str
    ) -> Issued | Pending:
        if self.tokens.get(token_id) != join.secret_hash(token_secret):
            raise TokenRefused("this join token is not known here")
        sentry_id = self.waiting.setdefault(csr_der, str(uuid.uuid4()))
        return self.issue(sentry_id, csr_der) if self.approve else Pending("ab12 cd34", 1)

    async def recover(self, certificate_der: bytes, csr_der: bytes, at_ms: int, signature: bytes, address: str) -> Issued | Pending:
        leaf, fault = self.authority.recognise(certificate_der, self.clock.now_ms())
        log.warning("recovery", extra={"sentry": leaf.sentry_id, "text": str(fault)})
        return self.issue(leaf.sentry_id, csr_der) if self.approve else Pending("ab12 cd34", 1)

    def explain(self, certificate_der: bytes) -> tuple[str, str]:
        try:
            leaf = self.authority.verify_sentry(certificate_der, self.clock.now_ms())
            if leaf.sentry_id in self.revoked:
                raise CertificateRevoked("this sentry was revoked")
            said = ("ok", "")
        except Fault as fault:
            said = (fault.code, str(fault))
        self.said.append(said)
        return said

    def token(self, enrol_port: int) -> str:
        secret = b"s" * join.SECRET_BYTES
        self.tokens["token1"] = join.secret_hash(secret)
        return join.JoinToken("token1", secret, self.authority.pin, f"127.0.0.1:{enrol_port}").text()


class Telemetry:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.full = False
        self.layouts: dict[bytes, Layout] = {}
        self.taken: list[tuple[bytes, int]] = []
        self.posts: list[str] = []

    async def load(self) -> None:
        for body in await self.db.read(lambda c: c.execute("select body from layouts").fetchall()):
            layout = wire.layout_from(wire.parsed(pb.Layout, body[0]))
            self.layouts[layout.hash] = layout

    def learn_layout(self, sentry_id: str, layout: Layout) -> asyncio.Future[None]:
        self.layouts[layout.hash] = layout
        body = wire.layout_to(layout).SerializeToString()

        def work(c: sqlite3.Connection) -> None:
            c.execute("insert into layouts values (?, ?) on conflict do nothing", (layout.hash, body))

        return self.db.submit(work)

    def take(self, sentry_id: str, boot: bytes, seq: int, layout_hash: bytes, body: bytes) -> asyncio.Future[None]:
        if self.full:
            raise Unavailable("no space left")
        samples = frame.parse(self.layouts[layout_hash], body).samples
        self.taken.append((boot, seq))
        self.posts.append(sentry_id)

        def work(c: sqlite3.Connection) -> None:
            new = c.execute(
                "insert into frames values (?, ?, ?, ?) on conflict do nothing", (sentry_id, boot, seq, samples)
            ).rowcount
            if not new:
                c.execute("insert into resent values ('frames', 1)")

        return self.db.submit(work)

    async def durable(self, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Spans]:
        return await self.db.read(lambda c: _durable(c, "frames", sentry_id, held))


def _durable(c: sqlite3.Connection, table: str, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Spans]:
    found: dict[bytes, Spans] = {}
    for boot, first, last in held:
        asked = f"select seq from {table} where sentry = ? and boot = ? and seq between ? and ?"  # noqa: S608  # our own names
        rows = c.execute(asked, (sentry_id, boot, first, last))
        spans = found.setdefault(boot, Spans())
        for (seq,) in rows:
            spans.add(seq)
    return found


class Fleet:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.hellos: list[SentryHello] = []
        self.open: dict[str, int] = {}
        self.reasons: list[str] = []
        self.devices: dict[str, Device] = {}
        self.wholes = 0
        self.lag_ms: int | None = None
        self.twins: dict[str, str] = {}
        self.notes: list[EventRecord] = []
        self.given = Assignment(1, (Target("1", "127.0.0.1:4028"),))

    async def connected(self, sentry_id: str, hello: SentryHello) -> None:
        self.hellos.append(hello)
        self.open[sentry_id] = self.open.get(sentry_id, 0) + 1

    async def disconnected(self, sentry_id: str, reason: str) -> None:
        self.open[sentry_id] -= 1
        self.reasons.append(reason)

    async def take_roster(self, sentry_id: str, whole: bool, devices: Sequence[Device], gone: Sequence[str]) -> None:
        if whole:
            self.devices.clear()
            self.wholes += 1
        for device in devices:
            self.devices[device.identity] = device
        for identity in gone:
            self.devices.pop(identity, None)

    async def take_event(self, sentry_id: str, boot: bytes, seq: int, event: Event, *, twin: str = "") -> None:
        await self.db.write(lambda c: _record(c, twin or sentry_id, boot, seq, "event", wire.event_to(event).SerializeToString()))

    async def assignment(self, sentry_id: str) -> Assignment:
        return self.given

    async def records_durable(self, sentry_id: str, held: Sequence[tuple[bytes, int, int]]) -> dict[bytes, Spans]:
        return await self.db.read(lambda c: _durable(c, "records", sentry_id, held))

    def mark_seen(self, sentry_id: str, now_ms: int) -> None:
        pass

    def mark_lag(self, sentry_id: str, backlog_ms: int | None) -> None:
        self.lag_ms = backlog_ms

    async def machines(self) -> dict[str, tuple[MachineRecord, ...]]:
        return await self.db.read(machines.kept)

    async def keep_machines(self, sentry_id: str, now: Sequence[MachineRecord]) -> None:
        await self.db.write(lambda c: machines.keep(c, sentry_id, now))

    def mark_twin(self, sentry_id: str, address: str) -> None:
        self.twins[sentry_id] = address

    async def note(self, event: EventRecord) -> None:
        row = (event.sentry_id, event.kind, event.severity, event.text)
        await self.db.write(lambda c: c.execute("insert into notes values (?, ?, ?, ?)", row))
        self.notes.append(event)


def _record(c: sqlite3.Connection, sentry_id: str, boot: bytes, seq: int, kind: str, body: bytes) -> bool:
    statement = "insert into records (sentry, boot, seq, kind, body) values (?, ?, ?, ?, ?) on conflict do nothing"
    new = c.execute(statement, (sentry_id, boot, seq, kind, body)).rowcount
    if not new:
        c.execute("insert into resent values ('records', 1)")
    return bool(new)


class Actions:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.reports: list[Report] = []
        self.held: dict[str, str] = {}

    async def add(self, sentry_id: str, order: Order) -> None:
        body = wire.order_to(order).SerializeToString()
        await self.db.write(lambda c: c.execute("insert into orders values (?, ?, ?, 1, 0)", (order.id, sentry_id, body)))

    async def take_report(self, sentry_id: str, boot: bytes, seq: int, report: Report, *, twin: str = "") -> None:
        def work(c: sqlite3.Connection) -> None:
            new = _record(c, twin or sentry_id, boot, seq, "report", wire.report_to(report).SerializeToString())
            if new and not twin:
                c.execute(
                    "update orders set state = max(state, ?), reports = reports + 1 where id = ?",
                    (int(report.state), report.action_id),
                )

        await self.db.write(work)
        self.reports.append(report)

    async def open_orders(self, sentry_id: str) -> list[Order]:
        rows = await self.db.read(
            lambda c: c.execute(
                "select body from orders where sentry = ? and state < ? order by id", (sentry_id, int(ActionState.SUCCEEDED))
            ).fetchall()
        )
        return [wire.order_from(wire.parsed(pb.Action, row[0])) for row in rows]

    async def sent(self, action_id: str) -> None:
        pass

    def hold(self, sentry_id: str, why: str) -> None:
        self.held[sentry_id] = why


@dataclass
class Farm:
    """All of it, open."""

    link: Link
    access: Access
    telemetry: Telemetry
    fleet: Fleet
    actions: Actions
    db: Database
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def token(self) -> str:
        return self.access.token(self.link.enrol_port)

    async def count(self, what: str) -> int:
        return int(await self.db.read(lambda c: c.execute(f"select count(*) from {what}").fetchone()[0]))  # noqa: S608  # the test's own words

    async def order(self, sentry_id: str, order: Order) -> bool:
        await self.actions.add(sentry_id, order)
        return self.link.order(sentry_id, order)


@contextlib.asynccontextmanager
async def farm(
    home: Path,
    clock: Clock | None = None,
    *,
    post_port: int = 0,
    enrol_port: int = 0,
    terms: Terms | None = None,
    farm_id: str = FARM_ID,
    name: str = "test farm",
) -> AsyncIterator[Farm]:
    """Opens (or opens again) the farm in `home`."""
    clock = clock or SystemClock()
    folder = home / "ca"
    await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
    authority = ca.Authority.open(folder) if folder.exists() else ca.create(folder, name, farm_id, clock.now_ms())
    db = await Database.open(home / "farm.db", MIGRATIONS, gather_s=0.02)
    access, telemetry, fleet, actions = Access(authority, clock, db), Telemetry(db), Fleet(db), Actions(db)
    await telemetry.load()
    link = Link(
        Ports(access, telemetry, fleet, actions),
        terms or Terms(name, reconnect_window_ms=200),
        Listen(f"127.0.0.1:{post_port}", f"127.0.0.1:{enrol_port}"),
        SystemClock(),
        keys=lambda: authority.server_identity(["127.0.0.1"], clock.now_ms()),
        roots=lambda: authority.roots_pem,
    )
    await link.open()
    serving = asyncio.create_task(link.serve())
    try:
        yield Farm(link, access, telemetry, fleet, actions, db)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await link.close()  # cancelled before it began, `serve` has not done it
        await db.close()


def leaf_der(chain_pem: bytes) -> bytes:
    return certificate_of(chain_pem).public_bytes(Encoding.DER)


async def _process(home: Path, post_port: int, enrol_port: int) -> None:
    async with farm(home, post_port=post_port, enrol_port=enrol_port) as it:
        print(json.dumps({"post": it.link.post_port, "enrol": it.link.enrol_port, "token": it.token()}), flush=True)  # noqa: T201  # for the test that started us
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            asked = json.loads(line)
            if "order" in asked:
                order = wire.order_from(wire.parsed(pb.Action, bytes.fromhex(asked["order"])))
                await it.order(asked["sentry"], order)
            elif "drain" in asked:
                await it.link.drain("restarting", asked["drain"])
                return
            print("{}", flush=True)  # noqa: T201  # taken


if __name__ == "__main__":
    logs.start("plain")
    asyncio.run(_process(Path(sys.argv[1]), *(int(port) for port in sys.argv[2:4])))
