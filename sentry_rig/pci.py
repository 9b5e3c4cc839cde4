"""The one form of a PCI address in which the sources of a card's values meet. Indexes move when a card dies; this does not."""

from __future__ import annotations

import re
from typing import Any

_BUS = re.compile(r"(?:(?P<domain>[0-9A-Fa-f]{4,8}):)?(?P<bus>[0-9A-Fa-f]{2}):(?P<device>[0-9A-Fa-f]{2})(?:\.(?P<function>[0-7]))?")


def pci_address(told: Any) -> str:
    """ "01:00.0", "00000000:01:00.0" → "0000:01:00.0"; empty when it is none."""
    match = _BUS.fullmatch(told.strip()) if isinstance(told, str) else None
    if match is None:
        return ""
    domain = int(match["domain"] or "0", 16)
    return f"{domain:04x}:{match['bus'].lower()}:{match['device'].lower()}.{match['function'] or '0'}"
