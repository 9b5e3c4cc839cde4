"""Latest values for screens: columns of many devices, and the devices at the top."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from commander.telemetry.columns import Look
from commander.telemetry.service import Telemetry
from commander.telemetry.table import Table
from garrison.catalogue import METRICS
from garrison.faults import BadInput


def looks(telemetry: Telemetry, named: Mapping[int, tuple[int, str]], metrics: Collection[str] | None) -> list[Look]:
    """Copies, on the event loop. `named`: device key to id and name; devices that are not in it are left out. BadInput: an unknown
    metric."""
    _check(metrics or ())
    return telemetry.latest_blocks(named.keys(), metrics)


def blocks(looks: Sequence[Look], named: Mapping[int, tuple[int, str]]) -> list[dict[str, Any]]:
    """Those looks as columns, in any thread."""
    found = []
    for look in looks:
        table = _table(look)
        known = [named[key] for key in look.keys.tolist()]
        found.append(
            {
                "columns": [{"metric": c.metric, "component": c.component, "unit": c.unit} for c in table.columns],
                "devices": [number for number, _ in known],
                "names": [name for _, name in known],
                "at_ms": look.at_ms,
                "values": [table.shown(place) for place in range(len(table.columns))],
            }
        )
    return found


def top(
    telemetry: Telemetry, named: Mapping[int, tuple[int, str]], metric: str, count: int, *, highest: bool
) -> list[dict[str, Any]]:
    """The devices with the highest (or lowest) value of any of their components. BadInput: an unknown metric."""
    _check((metric,))
    values, ids, names, times, components = [], [], [], [], []
    for look in telemetry.latest_blocks(named.keys(), {metric}):
        table = _table(look)
        if not table.columns:
            continue
        told = np.array([table.floats(place) for place in range(len(table.columns))])
        worst = -np.inf if highest else np.inf
        known = np.where(np.isnan(told), worst, told)
        which = known.argmax(axis=0) if highest else known.argmin(axis=0)
        best = known[which, np.arange(known.shape[1])]
        there = np.flatnonzero(best != worst)
        cut = np.argsort(-best[there] if highest else best[there], kind="stable")[:count]
        for place in there[cut].tolist():
            number, name = named[int(look.keys[place])]
            values.append(float(best[place]))
            ids.append(number)
            names.append(name)
            times.append(int(look.at_ms[place]))
            components.append(table.columns[int(which[place])].component)
    order = sorted(range(len(values)), key=lambda i: (-values[i] if highest else values[i], ids[i]))[:count]
    return [{"device": names[i], "id": ids[i], "component": components[i], "value": values[i], "at_ms": times[i]} for i in order]


def _table(look: Look) -> Table:
    """Devices as rows: their times differ, and the order is not one of time."""
    return Table(look.layout.columns if look.scaled.shape[0] else (), look.at_ms, look.scaled, look.valid, look.odd)


def _check(metrics: Collection[str]) -> None:
    for metric in metrics:
        if metric not in METRICS:
            raise BadInput(f"no metric {metric!r}", hint=f"one of {', '.join(METRICS)}")
