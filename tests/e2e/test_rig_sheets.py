"""Switching the coin of a rig: the pinned program is the simulated XMRig, run as a real process by a real sentry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.processes import RIG_TOML, ROOT, Farm, farm_at, until

pytestmark = pytest.mark.timeout(300)
PROGRAM = ROOT / "tests" / "simulators" / "xmrig.py"
VERSION = "6.26.0-simulated"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A rig with three sheets to choose from: two that work, and one whose pool is dead."""
    with farm_at(tmp_path_factory.mktemp("rig")) as farm:
        try:
            farm.ask("commander", "programs", "add", "xmrig", VERSION, "--location", str(PROGRAM), "--simulated")
            for name, pool in {"one": "one.xmr.invalid", "two": "two.xmr.invalid", "dead": "dead.xmr.invalid"}.items():
                what = ["--coin", "XMR", "--algorithm", "rx/0", "--wallet", "wallet-1", "--program", f"xmrig@{VERSION}"]
                where = ["--pool", f"stratum+tcp://{pool}:3333", "--verify-within-s", "8" if name == "dead" else "60"]
                farm.ask("commander", "sheets", "create", name, *what, *where)
            farm.enrol("rig", RIG_TOML)
            farm.start_sentry("rig")
            until("the rig is seen", lambda: farm.device("rig")["state"] == "idle")
            yield farm
        finally:
            farm.end()
            for process in miners(farm):  # they outlive their sentry, as they should
                process.kill()


def miners(farm: Farm) -> list[psutil.Process]:
    """The mining programs that this farm's rig sentry has started."""
    place = str(farm.home / "sentry-rig")
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(word.startswith(place) for word in words[:2]):
            found.append(process)
    return found


def miner(farm: Farm) -> psutil.Process:
    """The one that runs."""
    found = miners(farm)
    assert len(found) == 1, found
    return found[0]


def apply(farm: Farm, sheet: str) -> dict[str, Any]:
    return farm.ordered("sheets", "apply", sheet, str(farm.device("rig")["id"]))


def pool(farm: Farm) -> list[str]:
    """The pools that the rig says it mines on now."""
    return [one["url"] for one in farm.get(f"/devices/{farm.device('rig')['id']}")["pools"] if one["active"]]


def test_coin_switch_with_roll_back_and_adoption(farm: Farm) -> None:
    """A sheet is applied and the rig mines on its pool, marked simulated; the same sheet again leaves the miner alone; a
    sheet with a dead pool is rolled back to the last good one, and its order says so; killed and restarted, the sentry
    adopts the miner that went on; a second coin switch still works then."""
    first = apply(farm, "one")
    assert first["state"] == "succeeded", first
    assert "one.xmr.invalid:3333" in first["text"]
    rig = farm.until_device("rig", "mining")
    assert rig["simulated"]
    until("its pool and hashrate are shown", lambda: farm.device("rig")["hashrate_hs"] and "one.xmr.invalid" in pool(farm)[0])
    assert any("one.xmr.invalid:3333" in word for word in miner(farm).cmdline())

    running = miner(farm)
    again = apply(farm, "one")
    assert again["state"] == "succeeded", again
    assert again["result"]["changed"] == "no"
    assert again["result"]["restarted"] == "no"
    assert miner(farm) == running, "an unchanged sheet restarted the miner"

    dead = apply(farm, "dead")
    assert dead["state"] == "failed", dead
    assert dead["result"]["rolled_back"]
    assert "went back to one" in dead["text"]
    assert any("one.xmr.invalid:3333" in word for word in miner(farm).cmdline())
    farm.until_device("rig", "mining")
    detail = farm.get(f"/devices/{rig['id']}")
    assert detail["sheet_id"] == first["arguments"]["sheet"]["id"]

    running = miner(farm)
    farm.kill("sentry-rig")
    assert running.is_running()
    farm.start_sentry("rig")
    farm.until_device("rig", "mining")
    assert farm.stop("sentry-rig") == 0
    assert running.is_running()
    farm.start_sentry("rig")
    farm.until_device("rig", "mining")
    assert miner(farm) == running, "a restarted sentry did not adopt its miner"

    second = apply(farm, "two")
    assert second["state"] == "succeeded", second
    assert miner(farm) != running
    until("it mines on the other pool", lambda: "two.xmr.invalid" in pool(farm)[0])


def test_a_sheet_that_cannot_be_is_refused_before_anything_changes(farm: Farm, tmp_path: Path) -> None:
    """An unknown placeholder, an unknown program, a program whose file is no longer what was pinned: refused in words, and the
    rig mines on undisturbed."""
    assert apply(farm, "one")["state"] == "succeeded"
    running = miner(farm)
    what = ["--coin", "XMR", "--algorithm", "rx/0", "--wallet", "w", "--pool", "stratum+tcp://two.xmr.invalid:3333"]
    told = farm.refused("commander", "sheets", "create", "bad", *what, "--program", "xmrig", "--argument", "{wallett}")
    assert "wallett" in told
    assert "{wallet}" in told
    assert "commander programs" in farm.refused("commander", "sheets", "create", "bad", *what, "--program", "nothing@1")

    changed = tmp_path / "changed.py"
    changed.write_bytes(PROGRAM.read_bytes())
    farm.ask("commander", "programs", "add", "xmrig", "changed", "--location", str(changed), "--simulated")
    changed.write_bytes(changed.read_bytes() + b"# and something else\n")
    farm.ask("commander", "sheets", "create", "changed", *what, "--program", "xmrig@changed")
    row = apply(farm, "changed")
    assert row["state"] in ("failed", "refused"), row
    assert "SHA-256" in row["text"]
    assert miner(farm) == running
