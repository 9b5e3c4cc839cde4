"""`sentry-rig hardware`: what can be seen of this machine, without a commander."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from garrison.clock import SystemClock
from garrison.faults import Fault
from garrison.logs import redact
from sentry_rig import host
from sentry_rig.aside import aside
from sentry_rig.nvidia import Card, NvidiaCards

_LIMIT_S = 20.0
_SETTLE_S = 0.2


async def gather() -> dict[str, Any]:
    """One JSON-able object: identity-free facts, host values, cards. What is not known is null or absent."""
    clock, looks, cards = SystemClock(), host.HostLooks(), NvidiaCards(SystemClock(), deadline_s=10)
    try:
        facts = await aside("reading the machine", host.facts, _LIMIT_S)
        await aside("reading the machine", looks.look, _LIMIT_S)
        await clock.sleep(_SETTLE_S)  # processor use is counted between two looks
        values = await aside("reading the machine", looks.look, _LIMIT_S)
        fault = ""
    except Fault as caught:
        facts, values, fault = {}, {}, caught.text
    try:
        look = await cards.look()
    finally:
        await cards.close()
    parts: dict[str, dict[str, Any]] = {}
    for (metric, component), value in values.items():
        parts.setdefault(component or "machine", {})[metric] = value
    return {
        "facts": facts,
        "values": parts,
        "fault": fault or None,
        "nvidia": {
            "driver": look.driver or None,
            "fault": look.fault or None,
            "lost": look.missing,
            "cards": [_shown(card) for card in look.cards],
        },
    }


def _shown(card: Card) -> dict[str, Any]:
    named = {"uuid": card.uuid, "pci": card.pci, "name": card.name, "vbios": card.vbios or None, "lost": card.lost}
    return named | dict(card.values)


def print_table(found: dict[str, Any]) -> None:
    """The same for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None)

    def row(name: str, value: object) -> None:
        table.add_row(escape(redact(name)), escape(redact(str(value))))

    for name, value in found["facts"].items():
        row(name, value)
    for component, values in found["values"].items():
        row(component, _joined(values))
    nvidia = found["nvidia"]
    row("NVIDIA driver", nvidia["driver"] or "none found")
    for card in nvidia["cards"]:
        row(f"{card['pci']} {card['name']}", f"{card['uuid']}: {_joined(card, skip={'uuid', 'pci', 'name'})}")
    for fault in (found["fault"], nvidia["fault"]):
        if fault:
            row("fault", fault)
    Console().print(table)


def _joined(values: Mapping[str, Any], skip: Set[str] = frozenset()) -> str:
    told = {name: value for name, value in values.items() if name not in skip and value is not None}
    return ", ".join(f"{name} {round(value, 2) if isinstance(value, float) else value}" for name, value in told.items())
