"""What `make demo` adds to a farm: an ASIC sentry, a simulated hall, a simulated mining program. All of it marked simulated.

Each step looks first whether it was done before: a second start finds everything in place.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tools.quickstart import ROOT, Failed, Farm, join, listed, say

PROGRAM = ROOT / "tests" / "simulators" / "xmrig.py"
VERSION = "6.26.0-simulated"
NAMES = ("S21", "S19j-Pro", "S9")
BOARD = "simulated-board"


def furnish(farm: Farm) -> None:
    """Raises Failed."""
    hall = start_hall(farm)
    join(farm, "asic")
    sentry = next(row["id"] for row in listed(farm, "sentries", "list") if row["kind"] == "asic" and row["state"] == "connected")
    add_miners(farm, hall, sentry)
    add_board(farm, hall, sentry)
    add_sheets(farm)
    say_what_to_try(hall)


def start_hall(farm: Farm) -> dict[str, Any]:
    hall = farm.start("simulators", [sys.executable, "-m", "tests.simulators.hall"], pipe=True)
    line = hall.process.stdout.readline() if hall.process.stdout else b""
    if not line:
        raise Failed("the simulators did not start: are 127.77.0.10 to .12, ports 4028, 8080 and 8081, free?")
    found: dict[str, Any] = json.loads(line)
    return found


def add_miners(farm: Farm, hall: dict[str, Any], sentry: str) -> None:
    watched = {row["name"] for row in listed(farm, "devices", "list")}
    for name, device in zip(NAMES, hall["devices"], strict=True):
        if name not in watched:
            address = f"{device['host']}:{device['api_port']}"
            web = ["--http-port", str(device["http_port"])]
            farm.command("commander", "devices", "add", address, "--sentry", sentry, "--name", name, *web, "--simulated")


def add_board(farm: Farm, hall: dict[str, Any], sentry: str) -> None:
    if BOARD not in {row["name"] for row in listed(farm, "relays", "list")}:
        where = ["--board", "tasmota", "--address", hall["relay"], "--sentry", sentry, "--outlets", "4"]
        farm.command("commander", "relays", "add", BOARD, *where, "--simulated")
        for outlet, name in enumerate(NAMES, start=1):
            farm.command("commander", "relays", "map", BOARD, str(outlet), name, "--circuit", "demo")


def add_sheets(farm: Farm) -> None:
    if VERSION not in {row["version"] for row in listed(farm, "programs", "list")}:
        farm.command("commander", "programs", "add", "xmrig", VERSION, "--location", str(PROGRAM), "--simulated")
    known = {row["name"] for row in listed(farm, "sheets", "list")}
    rig = ["--coin", "XMR", "--algorithm", "rx/0", "--wallet", "demo-wallet", "--program", f"xmrig@{VERSION}"]
    asic = ["--coin", "BTC", "--algorithm", "sha256", "--wallet", "demo-account"]
    for name, parts in {
        "xmr-one": [*rig, "--pool", "stratum+tcp://one.xmr.invalid:3333"],
        "xmr-two": [*rig, "--pool", "stratum+tcp://two.xmr.invalid:3333"],
        "btc-one": [*asic, "--pool", "stratum+tcp://one.btc.invalid:3333"],
        "btc-dead": [*asic, "--pool", "stratum+tcp://dead.btc.invalid:3333", "--verify-within-s", "30"],
    }.items():
        if name not in known:
            farm.command("commander", "sheets", "create", name, *parts)
    rigs = [row for row in listed(farm, "devices", "list") if row["kind"] == "rig"]
    if rigs and "xmr-one" not in known:
        farm.command("commander", "sheets", "apply", "xmr-one", str(rigs[0]["id"]), "--wait", "0")


def say_what_to_try(hall: dict[str, Any]) -> None:
    say("everything here but this machine itself is simulated. Try, in another terminal:")
    say("  commander devices list                      commander relays show simulated-board")
    say("  commander sheets apply xmr-two RIG          switch the coin of the rig (RIG: its id)")
    say("  commander sheets apply btc-one S21          switch the pools of an ASIC")
    say("  commander sheets apply btc-dead S21         a pool that is dead: goes back by itself")
    say(f"  curl -X POST {hall['control']}/0/hang      the S21 hangs …")
    say("  commander power cycle S21                   … and comes back")
