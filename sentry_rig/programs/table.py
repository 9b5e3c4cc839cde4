"""The mining programs we can run. A driver is one file, one line here, and one folder in tests/fixtures/programs/."""

from __future__ import annotations

from garrison.faults import NotSupported
from sentry_rig.programs.program import Program
from sentry_rig.programs.xmrig import XMRig

PROGRAMS: dict[str, Program] = {
    "xmrig": XMRig(),
}


def program(name: str) -> Program:
    """The driver of this name. Raises NotSupported."""
    known = PROGRAMS.get(name)
    if known is None:
        raise NotSupported(
            f"this sentry has no driver for the mining program {name!r}", hint=f"it has: {', '.join(sorted(PROGRAMS))}"
        )
    return known
