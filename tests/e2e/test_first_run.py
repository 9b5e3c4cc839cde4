"""A newcomer's first hour: init, run, a rig that joins; a second start; approval by hand; a sentry that is shut out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import BIN, RIG_TOML, Farm, farm_at, until

REFUSED = '"fault": "certificate_revoked"'
pytestmark = pytest.mark.timeout(300)


def points(farm: Farm) -> list[dict[str, Any]]:
    """Every look at the rig of the last hour that has a value."""
    found = farm.json("history", str(farm.device("rig")["id"]), "--metric", "memory_used_bytes", "--since", "1h")
    return [point for point in found["points"] if point["value"] is not None]


def test_first_run_to_first_sample_and_a_second_start(tmp_path: Path) -> None:
    """A token that approves by itself brings the rig in; its samples arrive; SIGTERM ends both with code 0. The next start is
    the same farm with the same sentry and the same device, its history is still there and goes on."""
    with farm_at(tmp_path) as farm:
        farm.enrol("rig", RIG_TOML)
        farm.start_sentry("rig")
        before = until("two looks at the rig", lambda: len(found := points(farm)) >= 2 and found)
        rig = farm.device("rig")
        assert rig["age_s"] < 30
        assert rig["sentry"] == farm.sentry("rig")["name"]
        assert not rig["simulated"]
        sentry, roots = farm.sentry("rig"), (tmp_path / "commander" / "ca" / "root.pem").read_bytes()
        assert "already" in farm.refused("commander", "init")

        assert farm.stop("sentry-rig") == 0
        assert farm.stop("commander") == 0
        farm.start_commander()
        assert (tmp_path / "commander" / "ca" / "root.pem").read_bytes() == roots
        assert farm.device("rig")["id"] == rig["id"]
        assert points(farm)[: len(before)] == before
        farm.start_sentry("rig")
        assert {one["id"] for one in farm.get("/sentries")["sentries"]} == {sentry["id"]}
        assert farm.sentry("rig")["fingerprint"] == sentry["fingerprint"]
        until("looks go on", lambda: len(points(farm)) > len(before))
        assert farm.stop("sentry-rig") == 0
        assert farm.stop("commander") == 0


def test_approval_by_hand_and_revocation(tmp_path: Path) -> None:
    """A plain token makes the sentry wait; both sides show the same fingerprint; a person's click lets it in. When it is
    revoked its open session is cut within seconds, it is not let in again, and both sides say why."""
    with farm_at(tmp_path) as farm:
        token = farm.ask("commander", "sentries", "token", "--kind", "asic").strip()
        enrolling = farm.start("enrol", [BIN / "sentry-asic", "enrol", token])
        pending = until("it waits", lambda: farm.sentry("asic"))
        assert pending["state"] == "pending"
        shown = until("it says so", lambda: re.search(r"approval\..*: ([0-9a-f ]+)$", farm.log("enrol"), re.MULTILINE))
        assert shown[1] == pending["fingerprint"]

        farm.ask("commander", "sentries", "approve", pending["id"])
        assert enrolling.wait(60) == 0
        farm.processes.pop("enrol")
        assert pending["id"] in farm.log("enrol")
        farm.start_sentry("asic")
        assert farm.sentry("asic")["id"] == pending["id"]

        farm.ask("commander", "sentries", "revoke", pending["id"], "--reason", "stolen")
        until("it is cut and knows why", lambda: standing(farm)["fault"] == "certificate_revoked", 10)
        assert farm.sentry("asic")["state"] == "revoked"
        assert "certificate_revoked" in farm.log("sentry-asic")
        assert farm.stop("sentry-asic") == 0
        assert REFUSED not in farm.log("commander")
        farm.start("sentry-asic", [BIN / "sentry-asic", "run"])  # a new start makes it try at once
        until("it is not let in again", lambda: REFUSED in farm.log("commander"))
        until("it knows why", lambda: standing(farm)["fault"] == "certificate_revoked")
        assert farm.stop("sentry-asic") == 0


def standing(farm: Farm) -> dict[str, Any]:
    found = dict(json.loads(farm.ask("sentry-asic", "status", "--json")))
    assert "fault" in found, found
    return found
