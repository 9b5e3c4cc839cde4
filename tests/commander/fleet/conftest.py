"""A fleet on a real database, with a clock that tests move."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from commander.db import Database, Migration
from commander.fleet import found_store, machines, many, store
from commander.fleet.records import EventRecord, SentryRecord
from commander.fleet.service import Fleet, FleetSettings
from garrison.clock import ManualClock

MIGRATIONS = (
    Migration(1, "fleet", store.create_tables),
    Migration(2, "machines", machines.create_table),
    Migration(3, "events about many", many.create_table),
    Migration(4, "found devices", found_store.create_table),
    Migration(5, "notes of devices", store.add_notes),
)
RIG, ASIC, ASIC2 = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "123")


class PlainVault:
    """Seals by turning the bytes around; refuses another row."""

    def seal(self, plain: bytes, row: str) -> bytes:
        return row.encode() + b"\n" + plain[::-1]

    def open(self, sealed: bytes, row: str) -> bytes:
        kept, _, rest = sealed.partition(b"\n")
        assert kept.decode() == row
        return rest[::-1]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


OpenFleet = Callable[[], Awaitable[Fleet]]


@asynccontextmanager
async def fleet_at(path: Path, clock: ManualClock, settings: FleetSettings | None = None) -> AsyncIterator[Fleet]:
    db = await Database.open(path, MIGRATIONS)
    try:
        yield await Fleet.open(db, clock, PlainVault(), settings)
    finally:
        await db.close()


@pytest.fixture
async def fleet(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Fleet]:
    async with fleet_at(tmp_path / "fleet.db", clock) as opened:
        await enrol(opened, RIG, "rig", "rig-1")
        await enrol(opened, ASIC, "asic", "hall-a")
        await enrol(opened, ASIC2, "asic", "hall-b")
        yield opened


async def enrol(fleet: Fleet, sentry_id: str, kind: str, name: str) -> None:
    def nothing(_: sqlite3.Connection) -> None:
        return None

    record = SentryRecord(sentry_id, kind, name, "approved", "aaaa bbbb", enrolled_ms=fleet.clock.now_ms())
    await fleet.add_sentry(record, EventRecord(fleet.clock.now_ms(), "sentry_enrolled", f"{name} enrolled"), nothing)
