"""What both systems share: which program is started, and what is refused."""

import sys
from pathlib import Path

import pytest

from garrison.faults import NotFound
from sentry_core.service import FOLDERS, Daemon, ServiceStatus

RIG = Daemon("garrison-sentry-rig", "Garrison rig sentry", ("python", "run"), "rig")


def test_the_program_is_the_one_beside_this_interpreter() -> None:
    """Not whatever PATH finds: a service has another PATH."""
    assert RIG.command() == (str(Path(sys.executable).parent / "python"), "run")


def test_a_program_that_is_not_there() -> None:
    """Said before anything is registered."""
    with pytest.raises(NotFound, match="no program"):
        Daemon("x", "x", ("no-such-program", "run"), "rig").command()


def test_a_status_is_a_row() -> None:
    """`--json` prints it; what is not known is null."""
    assert ServiceStatus(True, False).as_row() == {
        "installed": True, "running": False, "enabled": False, "state": "", "pid": None, "restarts": None, "text": "",
    }  # fmt: skip
    assert set(FOLDERS) == {"commander", "rig", "asic"}
