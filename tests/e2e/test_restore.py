"""A commander put back to an older backup is refilled by its sentries."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import RIG_TOML, Farm, farm_at, until

pytestmark = pytest.mark.timeout(300)


def looks(farm: Farm) -> list[dict[str, Any]]:
    found = farm.json("history", str(farm.device("rig")["id"]), "--metric", "memory_used_bytes", "--since", "1h")
    return list(found["points"])


def test_restored_commander_is_refilled(tmp_path: Path) -> None:
    """Backed up while it runs; samples go on; stopped, put back to the backup, started: what came after the backup is there
    again, each look once and with the same value, and so is what was looked at while there was no commander at all."""
    home, backup = tmp_path / "farm", tmp_path / "backup.tar"
    home.mkdir()
    with farm_at(home) as farm:
        farm.enrol("rig", RIG_TOML)
        farm.start_sentry("rig")
        until("two looks", lambda: len(looks(farm)) >= 2)
        farm.ask("commander", "backup", str(backup))
        saved = looks(farm)
        before = until("four looks since the backup", lambda: len(found := looks(farm)) >= len(saved) + 4 and found)

        assert "another commander works" in farm.refused("commander", "restore", str(backup))
        assert farm.stop("commander") == 0
        farm.ask("commander", "restore", str(backup))
        farm.start_commander()
        after = until("all is there again, and more", lambda: len(found := looks(farm)) >= len(before) + 3 and found)
        last_ms = before[-1]["at_ms"]
        assert [look for look in after if look["at_ms"] <= last_ms] == before
        times = [look["at_ms"] for look in after]
        assert len(set(times)) == len(times)
        gaps_ms = [later - earlier for earlier, later in pairwise(times)]
        usual_ms = sorted(gaps_ms)[len(gaps_ms) // 2]
        assert max(gaps_ms) < 5 * usual_ms, "what was seen while there was no commander is missing"
