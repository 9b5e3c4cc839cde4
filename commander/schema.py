"""`fleet.db`: the tables of every subject, in the order they came."""

from __future__ import annotations

import commander.access.store
import commander.actions.store
import commander.fleet.found_store
import commander.fleet.machines
import commander.fleet.many
import commander.fleet.store
import commander.flight_sheets.pool_store
import commander.flight_sheets.store
import commander.power.store
from commander.db import Migration

FLEET: tuple[Migration, ...] = (
    Migration(1, "fleet", commander.fleet.store.create_tables),
    Migration(2, "access", commander.access.store.create_tables),
    Migration(3, "actions", commander.actions.store.create_tables),
    Migration(4, "flight sheets", commander.flight_sheets.store.create_tables),
    Migration(5, "power", commander.power.store.create_tables),
    Migration(6, "machines", commander.fleet.machines.create_table),
    Migration(7, "events about many", commander.fleet.many.create_table),
    Migration(8, "pool watch", commander.flight_sheets.pool_store.create_table),
    Migration(9, "found devices", commander.fleet.found_store.create_table),
    Migration(10, "notes of devices", commander.fleet.store.add_notes),
)
"""Never edit one that has been released: add one. docs/checklists/add-a-migration.md."""
