"""A rig whose disk was copied, before the real commander: what a person sees of it, and what does not happen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import Farm, farm_at, until
from tests.session.a_sentry import effects

A, B = "61" * 16, "62" * 16


def start_sentry(farm: Farm, home: Path, machine: str) -> None:
    farm.start(home.name, [sys.executable, "-m", "tests.session.a_sentry", "run-as", machine, "--home", str(home)])


def test_a_cloned_rig(tmp_path: Path) -> None:
    """It is told once and shown; an order waits and says why, over a restart of the commander; one device, one sentry."""
    first, second = tmp_path / "first", tmp_path / "second"
    with farm_at(tmp_path / "farm") as farm:
        token = farm.ask("commander", "sentries", "token", "--kind", "rig", "--approve").strip()
        command = [sys.executable, "-m", "tests.session.a_sentry", "enrol", token, "--home", str(first)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        (first / "sentry-test" / "sentry.toml").write_text("every_ms = 200\n")
        start_sentry(farm, first, A)
        farm.until_device("test", "idle")
        assert "Clone at" not in farm.ask("commander", "sentries", "list")
        assert farm.stop("first") == 0
        shutil.copytree(first, second)
        start_sentry(farm, first, A)
        until("the sentry is back", lambda: farm.sentry("rig")["state"] == "connected")
        start_sentry(farm, second, B)
        told = until("it is told", lambda: farm.get("/events", kind="sentry_cloned")["events"])
        assert told[0]["severity"] == "warning"
        twin = farm.sentry("rig")["twin"]
        assert twin in told[0]["text"]
        assert "Clone at" in farm.ask("commander", "sentries", "list")
        farm.run("commander", "order", "pause", "test", "--wait", "0")
        farm.kill("commander")
        farm.start_commander()
        until("both are back", lambda: farm.sentry("rig")["state"] == "connected" and farm.sentry("rig")["twin"] != twin)
        (order,) = farm.get("/actions")["actions"]
        until("the order says why", lambda: "two machines" in farm.get(f"/actions/{order['id']}")["text"])
        assert farm.get(f"/actions/{order['id']}")["state"] == "queued"
        assert len(farm.get("/events", kind="sentry_cloned")["events"]) == 1
        assert len(farm.get("/sentries")["sentries"]) == 1
        assert len(farm.get("/devices")["devices"]) == 1
        assert farm.stop("first") == 0
        assert farm.stop("second") == 0
    assert effects(first / "sentry-test") == effects(second / "sentry-test") == []
