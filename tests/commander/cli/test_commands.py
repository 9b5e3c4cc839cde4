"""The commands against a running farm: what they print, in every form they offer."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.commander.api.test_overview import ISSUE_KEYS
from tests.commander.cli.conftest import Shell
from tests.e2e.processes import BIN, until

LISTS = (
    ("devices", "list"),
    ("sentries", "list"),
    ("relays", "list"),
    ("sheets", "list"),
    ("sheets", "drift"),
    ("programs", "list"),
    ("actions", "list"),
    ("tokens", "list"),
    ("events",),
)
ANSI = re.compile(r"\x1b\[")


def rows(shell: Shell, *words: str) -> list[dict[str, Any]]:
    found = json.loads(shell.out(*words, "--json"))
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_lists(shell: Shell, command: tuple[str, ...]) -> None:
    """Each as a table or a sentence, and with --json as a list of objects."""
    assert shell.out(*command).strip()
    for row in rows(shell, *command):
        assert isinstance(row, dict)


def test_devices(shell: Shell) -> None:
    """Every key of the issue, null for what is not known, and the word "simulated" wherever such a device is shown."""
    for row in rows(shell, "devices", "list"):
        assert set(ISSUE_KEYS) <= set(row)
        assert row["simulated"] is True
        assert row["make"] == "antminer"
        assert row["power_w"] is None  # an Antminer does not tell it
    for command in (("devices", "list"), ("devices", "show", "miner-1"), ("status",), ("relays", "list")):
        assert "simulated" in shell.out(*command)
    assert json.loads(shell.out("devices", "list", "--state", "off", "--json")) == []
    assert "no such devices" in shell.out("devices", "list", "--tag", "nothing")
    shown = json.loads(shell.out("devices", "show", "miner-1", "--json"))
    assert shown["latest"]


def test_device_by_every_name(shell: Shell) -> None:
    """Id, name in any case, MAC, serial, address with its port."""
    one = shell.farm.device("miner-1")
    for ref in (str(one["id"]), "MINER-1", one["mac"].upper(), one["serial"], one["address"]):
        assert json.loads(shell.out("devices", "show", ref, "--json"))["id"] == one["id"]


def test_change_a_device(shell: Shell) -> None:
    """Names, tags, maintenance; and away again."""
    address = "127.0.0.250:4028"
    sentry = shell.farm.sentry("asic")["name"]
    password = Path(shell.farm.home / "password")
    password.write_text("c4nary\n")
    added = shell.out("devices", "add", address, "--sentry", sentry, "--username", "root", "--password-file", str(password))
    assert "will be watched by" in added
    (device,) = [row for row in rows(shell, "devices", "list") if row["address"] == address]
    ref = str(device["id"])
    assert "cellar" in shell.out("devices", "name", ref, "cellar")
    assert "spare" in shell.out("devices", "tag", "cellar", "rack-a", "spare")
    assert "spare" not in shell.out("devices", "tag", "cellar", "no-spare")
    shell.out("devices", "maintenance", "cellar")
    (device,) = rows(shell, "devices", "list", "--tag", "rack-a")
    assert (device["name"], device["state"], device["tags"]) == ("cellar", "maintenance", ["rack-a"])
    assert device["hashrate_hs"] is None
    shell.out("devices", "maintenance", "cellar", "--off")
    shell.out("devices", "remove", "cellar")
    assert "no device" in shell.refused("devices", "show", "cellar")
    assert "c4nary" not in shell.farm.log("commander")


def test_history(shell: Shell) -> None:
    """The same points as a table with a line of bars, as CSV and as JSON."""
    asked = ("history", "miner-1", "--metric", "hashrate_hs", "--since", "24h")
    told = json.loads(shell.out(*asked, "--json"))
    known = [point for point in told["points"] if point["value"] is not None]
    assert known
    table = shell.out(*asked)
    assert re.search(r"\d+\.\d\d TH/s", table)
    assert re.search(r"[▁▂▃▄▅▆▇█]", table)
    written = list(csv.DictReader(io.StringIO(shell.out(*asked, "--csv"))))
    assert list(written[0]) == ["at_ms", "at", "hashrate_hs"]
    assert {row["at_ms"] for row in written} >= {str(point["at_ms"]) for point in known}
    assert datetime.fromisoformat(written[0]["at"]).timestamp() == int(written[0]["at_ms"]) / 1000
    steps = list(csv.DictReader(io.StringIO(shell.out(*asked, "--csv", "--step", "5min"))))
    assert {"at_ms", "hashrate_hs_avg", "hashrate_hs_min", "hashrate_hs_max"} <= set(steps[0])
    board = json.loads(shell.out("history", "miner-1", "-m", "temp_c", "--component", "board:1", "--json"))
    assert any(point["value"] for point in board["points"])
    assert "gave a value" in shell.out("history", "miner-1", "--metric", "power_w")
    assert "nothing is known" in shell.out("history", "miner-1", "--since", "2001-01-01T00:00", "--until", "2001-01-02T00:00")


def test_orders(shell: Shell) -> None:
    """`--wait 0` returns at once with the order's id; without it the end is waited for. The order is found by how its id ends."""
    (sent,) = json.loads(shell.out("order", "locate", "miner-1", "--off", "--wait", "0", "--json"))["actions"]
    assert sent["final"] is False
    until("it has ended", lambda: shell.farm.get(f"/actions/{sent['id']}")["final"])
    shown = json.loads(shell.out("actions", "show", sent["id"][-8:], "--json"))
    assert shown["id"] == sent["id"]
    assert [report["state"] for report in shown["reports"]][:2] == ["accepted", "started"]
    said = shell.out("order", "locate", "miner-1", "miner-2")
    assert said.count("succeeded") >= 2
    assert "succeeded" in shell.out("actions", "list", "--state", "succeeded", "--device", "miner-1", "--limit", "1")
    error = shell.refused("actions", "cancel", sent["id"][-8:])
    assert "error: " in error
    told = shell.run("order", "pause", "miner-1", "nothing", "--wait", "0")
    assert told.returncode == 1
    assert "nothing" in told.stderr
    shell.out("order", "resume", "miner-1", "--wait", "60", "--json")


def test_an_order_is_called_back(shell: Shell) -> None:
    """While its sentry is away it waits, and can be cancelled; nobody waits for more than was asked."""
    shell.farm.stop("sentry-asic")
    try:
        (order,) = json.loads(shell.out("order", "reboot", "miner-2", "--wait", "0", "--json"))["actions"]
        assert order["state"] == "queued"
        assert "cancelled" in shell.out("actions", "cancel", order["id"])
        assert "cancelled" in shell.out("actions", "list", "--device", "miner-2", "--limit", "1")
    finally:
        shell.farm.start_sentry("asic")
        shell.farm.until_device("miner-2", "mining")


def test_sheets_and_programs(shell: Shell, tmp_path: Path) -> None:
    """Made, shown as a template and as rendered for a device, drift, removed; a program pinned by the file's own hash."""
    made = ("--coin", "BTC", "--algorithm", "sha256", "--wallet", "acct", "--pool", "stratum+tcp://a.invalid:1")
    shell.out("sheets", "create", "btc", *made, "--worker", "{device}-x")
    shown = json.loads(shell.out("sheets", "show", "btc", "--device", "miner-1", "--json"))
    assert shown["worker"] == "{device}-x"
    assert shown["rendered"]["pools"][0]["user"] == "acct.miner-1-x"
    assert "miner-1-x" in shell.out("sheets", "show", "btc", "--device", "miner-1")
    error = shell.refused("sheets", "create", "bad", *made, "--worker", "{machine}")
    assert "{machine}" in error
    assert "{device}" in error
    program = tmp_path / "miner"
    program.write_bytes(b"#!/bin/sh\n")
    shell.out("programs", "add", "xmrig", "1.0", "--location", str(program))
    assert rows(shell, "programs", "list")[0]["sha256"] == hashlib.sha256(program.read_bytes()).hexdigest()
    assert "no file" in shell.refused("programs", "add", "xmrig", "2.0", "--location", "/nowhere/x")
    shell.out("programs", "remove", "xmrig", "1.0")
    assert rows(shell, "programs", "list") == []
    assert rows(shell, "sheets", "drift", "--all") == []
    shell.out("sheets", "remove", "btc")
    assert "no flight sheet" in shell.refused("sheets", "show", "btc")


def test_relays_and_power(shell: Shell) -> None:
    """A board with its outlets; what would refuse a power order; a refusal names its rule and nothing clicks."""
    board = json.loads(shell.out("relays", "show", "board", "--json"))
    assert {outlet["device"] for outlet in board["outlets_mapped"]} == {"miner-1", "miner-2"}
    found = json.loads(shell.out("power", "check", "miner-1", "--json"))
    assert set(found) >= {"allowed", "refusals", "outlets"}
    error = shell.run("power", "cycle", "miner-1", "--off-s", "5", "--wait", "0")
    assert error.returncode == 1
    assert "10" in error.stderr
    shell.out("relays", "add", "second", "--board", "fake", "--address", "127.0.0.1:9", "--sentry", shell.farm.sentry("asic")["id"])
    assert "tasmota" in shell.refused("relays", "add", "x", "--board", "toaster", "--address", "127.0.0.1:9", "--sentry", "vm")
    shell.out("relays", "remove", "second")


def test_tokens_and_url(shell: Shell, tmp_path: Path) -> None:
    """A token made here works over TCP from a file or a variable, as far as its role goes, until it is removed."""
    made = json.loads(shell.out("tokens", "add", "Ada", "--role", "viewer", "--days", "1", "--json"))
    url = ("--url", f"http://127.0.0.1:{shell.farm.ports['http']}")
    file = tmp_path / "token"
    file.write_text(made["token"] + "\n")
    assert json.loads(shell.out(*url, "--token-file", str(file), "status", "--json"))["farm"] == "test farm"
    assert shell.out(*url, "devices", "list", GARRISON_TOKEN=made["token"])
    assert shell.out("devices", "list", GARRISON_TOKEN=made["token"], GARRISON_URL=url[1])
    assert "may not" in shell.refused(*url, "tokens", "list", GARRISON_TOKEN=made["token"])
    listed = shell.out("tokens", "list")
    assert "Ada" in listed
    assert made["token"] not in listed
    shell.out("tokens", "remove", made["id"])
    assert "not known here" in shell.refused(*url, "status", GARRISON_TOKEN=made["token"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/setup#\w+\n", shell.out("tokens", "link"))


def test_sentries(shell: Shell) -> None:
    """By name, id, or the beginning of its id; a join token is printed alone, so that it can be piped."""
    one = shell.farm.sentry("asic")
    for ref in (one["id"], one["id"][:8], one["name"]):
        assert json.loads(shell.out("sentries", "show", ref, "--json"))["id"] == one["id"]
    assert one["id"][:8] in shell.out("sentries", "list")
    assert re.fullmatch(r"gsj1-[0-9a-z]+-[a-z2-7]{32}-[0-9a-f]{64}@127\.0\.0\.1:\d+\n", shell.out("sentries", "token"))
    shell.out("sentries", "name", one["name"], "hall-one")
    assert json.loads(shell.out("sentries", "show", "hall-one", "--json"))["id"] == one["id"]
    shell.out("sentries", "name", "hall-one", one["name"])


def test_narrow_terminal(shell: Shell) -> None:
    """At 80 columns no row is broken over lines, and what was left out is said; in a pipe nothing is left out."""
    for command in (("devices", "list"), ("sentries", "list"), ("relays", "list")):
        narrow = shell.out(*command, COLUMNS="80").rstrip().splitlines()
        count = len(shell.farm.get(f"/{command[0]}")[command[0]])
        assert max(map(len, narrow)) <= 80
        left_out = [line for line in narrow if line.startswith("too narrow for: ")]
        assert len(narrow) == 1 + count + len(left_out)
        piped = shell.out(*command, COLUMNS="").splitlines()
        assert len(piped) == 1 + count
    names = [line.split()[1] for line in shell.out("devices", "list", COLUMNS="80").splitlines()[1:3]]
    assert names == ["miner-1", "miner-2"]
    assert "simulated" in shell.out("devices", "list", COLUMNS="80")
    assert max(map(len, shell.out("status", COLUMNS="80").splitlines())) <= 80


def test_colour(shell: Shell) -> None:
    """None in a pipe, none with NO_COLOR even when somebody forces a terminal, some when forced alone."""
    assert not ANSI.search(shell.out("devices", "list", NO_COLOR=""))
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert re.search(r"\x1b\[32m", shell.out("devices", "list", NO_COLOR="", **forced))
    assert not re.search(r"\x1b\[3\dm", shell.out("devices", "list", NO_COLOR="1", **forced))


def test_whoever_read_enough_may_go(shell: Shell) -> None:
    """A closed pipe is no error to talk about."""
    with subprocess.Popen(
        [BIN / "commander", "devices", "show", "miner-1", "--json"],
        env={"GARRISON_HOME": str(shell.farm.home), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
