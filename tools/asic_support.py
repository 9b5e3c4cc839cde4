"""Writes docs/asic-support.md: what each ASIC make can be asked and told, and how that is known. `python -m tools.asic_support`.

From the table of makes, their drivers, and tests/fixtures/asic/<make>/: its devices and its `evidence.toml`. A test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from garrison.words import POWER_ACTIONS, SETTINGS, ActionKind
from sentry_asic.cgminer import PORT
from sentry_asic.table import MAKES, Make

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "asic-support.md"
FIXTURES = ROOT / "tests" / "fixtures" / "asic"

Known = Literal["recorded", "documented", "reported"]

ORDERS = {kind: kind.value.replace("_", " ") for kind in ActionKind if kind not in POWER_ACTIONS | SETTINGS}
SETS = {kind: kind.value.removeprefix("set_").replace("_", " ") for kind in ActionKind if kind in SETTINGS}
"""Every order that a driver can take, with the head of its column. Sheets have pools for an ASIC."""
ORDERS[ActionKind.APPLY_FLIGHT_SHEET] = "pools"

_HEAD = """\
# ASIC support

Written by `make docs-asic` from the table of makes, their fixtures and the `evidence.toml` beside these. Do not edit.

How reading a make, and each order to it, is known:

- **recorded**: a test reads answers of a real device.
- **documented**: the maker's document, its firmware's source, or the source of open programs that do it. No answer of a real device
  is read by a test.
- **reported**: issue threads and notes of owners alone.
- **\\***: not on every model or firmware, see below the table. **no**: refused, with what to do instead.

Ports are those by which a device is told apart; orders may go to its web page besides. "Pools" is what a flight sheet sets.
Power is switched by relays, whatever the make. Every make and order is also tested against fixtures and simulators of our own:
they show that the driver does what it means to, and nothing about a device.
"""


class Evidence(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`evidence.toml` of one make. `depends`: orders that not every model or firmware takes, and which do."""

    sources: str
    reading: Known
    orders: dict[ActionKind, Known] = {}
    depends: dict[ActionKind, str] = {}
    recordings: tuple[str, ...] = ()  # folders of shared/recorded that a test reads with this driver
    notes: tuple[str, ...] = ()


def evidence_of(make: str) -> Evidence:
    """Raises msgspec.ValidationError, and FileNotFoundError where the make has none."""
    return msgspec.toml.decode((FIXTURES / make / "evidence.toml").read_bytes(), type=Evidence)


def devices_of(make: str) -> list[str]:
    return sorted(path.parent.name for path in (FIXTURES / make).glob("*/expected.json"))


def page() -> str:
    known = {make: evidence_of(make.name) for make in MAKES}
    lines = [_HEAD, *_table(["make", "ports", "reading", *ORDERS.values(), "fixtures"], [_row(*one) for one in known.items()])]
    if settable := {make: evidence for make, evidence in known.items() if evidence.orders.keys() & SETS.keys()}:
        lines += ["", "What can be set, and on the makes that are not here nothing:", ""]
        lines += _table(["make", *SETS.values()], [[_link(make), *_told(one, SETS)] for make, one in settable.items()])
    for make, evidence in known.items():
        lines += ["", f"## {make.name}", "", *_more(make, evidence)]
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(f"| {' | '.join(row)} |" for row in cells)]


def _row(make: Make, known: Evidence) -> list[str]:
    return [_link(make), _ports(make), known.reading, *_told(known, ORDERS), str(len(devices_of(make.name)))]


def _link(make: Make) -> str:
    return f"[{make.name}](#{make.name})"


def _told(known: Evidence, kinds: Iterable[ActionKind]) -> list[str]:
    return [known.orders.get(kind, "no") + ("\\*" if kind in known.depends else "") for kind in kinds]


def _ports(make: Make) -> str:
    numbers = {"api": PORT, "web": 80}
    return ", ".join(str(port) for port in sorted(numbers.get(port) or int(port) for port in make.ports))


def _more(make: Make, known: Evidence) -> list[str]:
    found = [f"- Sources: {known.sources}."]
    if known.recordings:
        found.append(f"- Recordings: {', '.join(known.recordings)}.")
    found.append(f"- Fixtures: {', '.join(devices_of(make.name))}.")
    if make.least_every_s:
        found.append(f"- Looked at every {make.least_every_s:g} s at most.")
    wheres = dict.fromkeys(known.depends.values())
    for where in wheres:
        kinds = [word for kind, word in (ORDERS | SETS).items() if known.depends.get(kind) == where]
        found.append(f"- \\* {', '.join(kinds)}: {where}.")
    return [*found, *(f"- {note}" for note in known.notes)]


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
