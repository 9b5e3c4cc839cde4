"""Flight sheets: kept, rendered, given to devices, and watched for drift.

A sheet is applied by an order of kind apply_flight_sheet; `within` notes, in the transaction of that order, what the
device should run from now on. An order that never came to anything (refused, expired, called back) counts for nothing;
one that failed does: the device went back to its last good sheet, and that shows as drift.

Called by `api.py`; by the orders (`render`, `within`, `changed`) and by `main.py` (`run`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from commander.db import Database
from commander.fleet import audit
from commander.flight_sheets import rules, store
from commander.flight_sheets.records import Application, ProgramRow, SheetRow, Template
from commander.flight_sheets.rules import Drift
from commander.model import ActionRow, Caller, DeviceRow
from garrison.clock import Clock
from garrison.faults import Conflict, NotFound, Unavailable
from garrison.model import Sheet
from garrison.words import ActionKind, ActionState

log = logging.getLogger(__name__)

CAME_TO_NOTHING = frozenset({ActionState.REFUSED, ActionState.EXPIRED, ActionState.CANCELLED})
RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Ports:
    """What the other parts do; `main.py` connects them. `want` tells the fleet what a device should run."""

    device: Callable[[int], Awaitable[DeviceRow]]
    devices: Callable[[], Awaitable[Sequence[DeviceRow]]]
    want: Callable[[int, str], Awaitable[None]]
    switching: Callable[[], Awaitable[frozenset[int]]]
    """Devices with an open order to apply a sheet."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a device should run, and how what it runs differs."""

    device: DeviceRow
    wanted: Application
    drift: Drift | None


class FlightSheets:
    def __init__(self, db: Database, ports: Ports, clock: Clock) -> None:
        self._db, self._ports, self._clock = db, ports, clock
        self._stale: set[int] = set()
        self._told = asyncio.Event()

    # ---- sheets ------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, template: Template) -> SheetRow:
        """BadInput, NotFound (its program), Conflict (its name)."""
        tidy = rules.checked(template)
        return await self._db.write(lambda c: self._created(c, caller, tidy))

    def _created(self, c: sqlite3.Connection, caller: Caller, template: Template) -> SheetRow:
        now_ms = self._clock.now_ms()
        row = store.add(c, _pinned(c, template), caller.name, now_ms)
        if row is None:
            raise Conflict(f"there is a sheet {template.name!r} already", hint="change that one, or choose another name")
        audit.record(c, now_ms, caller, "sheet.create", f"sheet {row.id}", audited(row.template))
        return row

    async def change(self, caller: Caller, ref: str, template: Template) -> SheetRow:
        """A new revision. Devices keep running what was applied to them, until it is applied again."""
        old = await self.find(ref)
        tidy = rules.checked(template, old.template)
        return await self._db.write(lambda c: self._changed(c, caller, old.id, tidy))

    def _changed(self, c: sqlite3.Connection, caller: Caller, sheet_id: int, template: Template) -> SheetRow:
        old = _found(c, str(sheet_id))
        pinned = _pinned(c, template)
        if pinned == old.template:
            return old
        other = store.find(c, template.name)
        if other is not None and other.id != sheet_id:
            raise Conflict(f"there is a sheet {template.name!r} already", hint="choose another name")
        now_ms = self._clock.now_ms()
        row = replace(old, revision=old.revision + 1, template=pinned, changed_ms=now_ms, changed_by=caller.name)
        store.change(c, row)
        detail = {"before": audited(old.template), "after": audited(pinned), "revision": row.revision}
        audit.record(c, now_ms, caller, "sheet.change", f"sheet {row.id}", detail)
        return row

    async def remove(self, caller: Caller, ref: str) -> SheetRow:
        """Conflict while a device runs it or should."""
        devices = await self._ports.devices()
        return await self._db.write(lambda c: self._removed(c, caller, ref, devices))

    def _removed(self, c: sqlite3.Connection, caller: Caller, ref: str, devices: Sequence[DeviceRow]) -> SheetRow:
        row = _found(c, ref)
        should = {one.device_id for one in store.wanted(c) if one.sheet_id == row.id}
        using = [device.name for device in devices if device.id in should or device.sheet_id.partition(".")[0] == str(row.id)]
        if using:
            named = ", ".join(sorted(using)[:5]) + (f" and {len(using) - 5} more" if len(using) > 5 else "")
            raise Conflict(f"sheet {row.template.name!r} is in use by {named}", hint="apply another sheet to them first")
        store.remove(c, row.id)
        audit.record(c, self._clock.now_ms(), caller, "sheet.remove", f"sheet {row.id}", audited(row.template))
        return row

    async def find(self, ref: str) -> SheetRow:
        """By name or number. NotFound."""
        return await self._db.read(lambda c: _found(c, ref))

    async def sheets(self) -> list[SheetRow]:
        return await self._db.read(store.all_sheets)

    # ---- programs ----------------------------------------------------------------------------------------------

    async def add_program(self, caller: Caller, program: ProgramRow) -> ProgramRow:
        """Conflict: this version is pinned already, to something else."""
        tidy = replace(rules.checked_program(program), added_ms=self._clock.now_ms(), added_by=caller.name)
        return await self._db.write(lambda c: self._program_added(c, caller, tidy))

    def _program_added(self, c: sqlite3.Connection, caller: Caller, program: ProgramRow) -> ProgramRow:
        if store.add_program(c, program):
            audit.record(c, program.added_ms, caller, "program.add", f"program {program.name} {program.version}", asdict(program))
            return program
        there = store.program(c, program.name, program.version)
        if there is not None and replace(program, added_ms=there.added_ms, added_by=there.added_by) == there:
            return there
        raise Conflict(
            f"{program.name} {program.version} is pinned already, to another archive",
            hint="give it another version, such as 1.2.3-1; what a version means never changes",
        )

    async def remove_program(self, caller: Caller, name: str, version: str) -> None:
        await self._db.write(lambda c: self._program_removed(c, caller, name, version))

    def _program_removed(self, c: sqlite3.Connection, caller: Caller, name: str, version: str) -> None:
        for sheet in store.all_sheets(c):
            if (sheet.template.program, sheet.template.version) == (name, version):
                raise Conflict(f"sheet {sheet.template.name!r} runs {name} {version}", hint="change or remove that sheet first")
        if not store.remove_program(c, name, version):
            raise NotFound(f"no program {name} {version}", hint="`commander programs list` shows them")
        audit.record(c, self._clock.now_ms(), caller, "program.remove", f"program {name} {version}")

    async def programs(self) -> list[ProgramRow]:
        return await self._db.read(store.all_programs)

    # ---- for the orders ----------------------------------------------------------------------------------------

    async def render(self, ref: str, device: DeviceRow) -> Sheet:
        """The sheet as this device would run it; ASSIGNED: what it was given last, unchanged. NotFound, NotSupported, BadInput."""
        if ref == rules.ASSIGNED:
            given = await self.wanted_of(device.id)
            if given is None:
                raise NotFound(f"{device.name} was given no flight sheet", hint="`commander sheets apply` gives it one")
            return given.rendered
        row, program = await self._db.read(lambda c: _with_program(c, ref))
        return rules.render(row, program, device)

    def within(self, c: sqlite3.Connection, row: ActionRow) -> None:
        """In the transaction of an order's new state: whether its sheet is what the device should run."""
        if row.kind is not ActionKind.APPLY_FLIGHT_SHEET:
            return
        rendered = msgspec.convert(row.arguments["sheet"], Sheet)
        number, _, revision = rendered.id.partition(".")
        one = Application(row.id, row.device_id, int(number), int(revision), row.created_ms, rendered)
        store.apply(c, one, withdrawn=row.state in CAME_TO_NOTHING)

    def changed(self, row: ActionRow) -> None:
        """An order's new state is durable: the fleet's copy of what the device should run may be old."""
        if row.kind is ActionKind.APPLY_FLIGHT_SHEET:
            self._stale.add(row.device_id)
            self._told.set()

    # ---- what runs where ---------------------------------------------------------------------------------------

    async def wanted_of(self, device_id: int) -> Application | None:
        return await self._db.read(lambda c: store.wanted_of(c, device_id))

    async def standings(self, sheet_id: int | None = None) -> list[Standing]:
        """Every device that should run a sheet (this one), with its drift."""
        devices = {device.id: device for device in await self._ports.devices()}
        switching = await self._ports.switching()
        wanted = await self._db.read(store.wanted)
        return [
            Standing(device, one, rules.drift(one, device, order_open=device.id in switching))
            for one in wanted
            if (device := devices.get(one.device_id)) is not None and sheet_id in (None, one.sheet_id)
        ]

    async def run(self) -> None:
        """Keeps the fleet's copy of what each device should run; until cancelled."""
        self._stale.update(device.id for device in await self._ports.devices())
        while True:
            self._told.clear()
            for device_id in sorted(self._stale):
                await self._pass_on(device_id)
            if self._stale:
                await self._clock.sleep(RETRY_S)
            else:
                await self._told.wait()

    async def _pass_on(self, device_id: int) -> None:
        try:
            one = await self.wanted_of(device_id)
            running_id = one.running_id if one else ""
            if (await self._ports.device(device_id)).wanted_sheet_id != running_id:
                await self._ports.want(device_id, running_id)
        except NotFound:
            self._stale.discard(device_id)  # the device is gone
        except Unavailable as fault:  # no space, or the file is busy: it passes
            log.warning("what devices should run is not passed on", extra={"fault": fault.code, "text": fault.text})
        else:
            self._stale.discard(device_id)


def _found(c: sqlite3.Connection, ref: str) -> SheetRow:
    row = store.find(c, ref)
    if row is None:
        raise NotFound(f"there is no flight sheet {ref!r}", hint="`commander sheets list` shows them")
    return row


def _with_program(c: sqlite3.Connection, ref: str) -> tuple[SheetRow, ProgramRow | None]:
    row = _found(c, ref)
    if not row.template.program:
        return row, None
    return row, _program(c, row.template.program, row.template.version)


def _program(c: sqlite3.Connection, name: str, version: str) -> ProgramRow:
    found = store.program(c, name, version)
    if found is None:
        raise NotFound(
            f"no program {name} {version}".rstrip(), hint="`commander programs add` pins one; `commander programs list` shows them"
        )
    return found


def _pinned(c: sqlite3.Connection, template: Template) -> Template:
    """With the version spelled out: a sheet never follows what is added later."""
    if not template.program:
        return template
    return replace(template, version=_program(c, template.program, template.version).version)


def audited(template: Template) -> dict[str, Any]:
    """Without passwords."""
    kept = asdict(template)
    kept["pools"] = [{"url": pool.url, "user": pool.user} for pool in template.pools]
    kept["arguments"] = list(template.arguments)
    return kept
