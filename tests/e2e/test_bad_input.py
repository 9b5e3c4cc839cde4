"""What goes wrong outside: each ends in words that say what and where, or in a state; and what else there is goes on."""

from __future__ import annotations

import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentry_core.journal_file import JournalFile
from tests.e2e.hall import BOARD, furnish, hall_of
from tests.e2e.processes import RIG_TOML, Farm, until
from tests.simulators.antminer import Faults

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Initialised; nothing runs."""
    farm = Farm(tmp_path)
    try:
        farm.init()
        yield farm
    finally:
        farm.end()


def error(farm: Farm, program: str, *arguments: str) -> str:
    """What it says; nothing but one error and what to do about it."""
    told = farm.refused(program, *arguments)
    kinds = [line.partition(":")[0] for line in told.splitlines() if not line.startswith("{")]
    assert kinds in (["error"], ["error", "hint"]), told
    return told


# ---- ports, files, settings --------------------------------------------------------------------------------


def test_port_in_use(farm: Farm) -> None:
    """The commander ends with code 1, and the error names the address and the setting, for each of its three ports."""
    for setting, port in farm.ports.items():
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
            told = error(farm, "commander", "run")
        assert f"127.0.0.1:{port}" in told
        assert f"listen.{setting}" in told


def test_a_second_commander(farm: Farm) -> None:
    """Two on one farm would give every order twice: the second one does not start."""
    farm.start_commander()
    assert "another commander works" in error(farm, "commander", "run")
    assert farm.get("/status")


def test_key_that_others_may_read(farm: Farm) -> None:
    """A key with an open mode, or without its contents, is not used: the error names the file and what to do."""
    farm.start_commander()  # makes the last of its keys
    assert farm.stop("commander") == 0
    for name in ("ca/intermediate.key", "ca/server.key", "secrets.key"):
        path = farm.home / "commander" / name
        kept = path.read_bytes()
        path.chmod(0o644)
        told = error(farm, "commander", "run")
        assert str(path) in told
        assert "chmod 600" in told
        path.chmod(0o600)
        path.write_bytes(b"")
        assert str(path) in error(farm, "commander", "run")
        path.write_bytes(kept)
    farm.start_commander()


def test_sentry_key_that_others_may_read(farm: Farm) -> None:
    """The same for a sentry's key; put right, it works on as the same sentry."""
    farm.start_commander()
    farm.enrol("asic")
    path = farm.home / "sentry-asic" / "identity" / "identity.pem"
    path.chmod(0o640)
    told = error(farm, "sentry-asic", "run")
    assert str(path) in told
    assert "chmod 600" in told
    path.chmod(0o600)
    farm.start_sentry("asic")


def test_commander_settings(farm: Farm) -> None:
    """Neither `run` nor `config check` guesses: they name the file, the line and the key."""
    path = farm.home / "commander" / "commander.toml"
    cases = {
        "farm = x": r"line 1",  # no TOML
        'farm = "x"\n\n[power]\noff_sec = 30\n': r"line 4.*off_sec|off_sec.*line 4",  # no such key
        "[power]\noff_s = 3\n": r"line 2.*off_s|off_s.*line 2",  # out of range
        '[listen]\nhttp = "0.0.0.0:8440"\n': r"listen\.http",  # tokens in the clear
    }
    for broken, wanted in cases.items():
        path.write_text(broken)
        told = error(farm, "commander", "config", "check")
        assert str(path) in told
        assert re.search(wanted, told), told
        assert error(farm, "commander", "run") == told


def test_sentry_settings(farm: Farm) -> None:
    """The same for a sentry's settings and its guard; a guard that cannot be read allows nothing, and that is said at the start."""
    farm.start_commander()
    farm.enrol("rig")
    settings, guard = farm.home / "sentry-rig" / "sentry.toml", farm.home / "sentry-rig" / "guard.toml"
    settings.write_text("[rig]\npoll_every_s = 1\nhashrate_flor_hs = 5\n")
    for arguments in (["config", "check"], ["run"]):
        told = error(farm, "sentry-rig", *arguments)
        assert str(settings) in told
        assert re.search("line 3", told), told
    settings.write_text(RIG_TOML)
    guard.write_text('actions = ["mine_everything"]\n')
    told = error(farm, "sentry-rig", "config", "check")
    assert str(guard) in told
    assert "mine_everything" in told


def test_databases_from_a_newer_version(farm: Farm) -> None:
    """They are left as they are: the error says that this program is older, and nothing is changed in the file."""
    farm.start_commander()
    farm.enrol("asic")
    farm.start_sentry("asic")
    assert farm.stop("sentry-asic") == 0
    assert farm.stop("commander") == 0
    commander, sentry = farm.home / "commander", farm.home / "sentry-asic"
    for program, path in (("commander", commander / "fleet.db"), ("commander", commander / "history" / "hot.db")):
        change(path, "insert into migrations (number, name, at) values (999, 'of the future', '2030-01-01T00:00:00Z')")
        told = error(farm, program, "run")
        assert str(path) in told
        assert "newer" in told
        change(path, "delete from migrations where number = 999")
    journal = JournalFile(sentry / "journal.db", 1 << 30, 0, 0)
    journal.open(0)
    journal._set_meta("version", "999")
    journal.close()
    told = error(farm, "sentry-asic", "run")
    assert "newer" in told
    assert (sentry / "journal.db").exists()
    assert len(list(sentry.glob("journal.db*"))) == 1, "it was set aside although it is not damaged"
    farm.start_commander()


def change(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    try:
        db.execute(statement)
        db.commit()
    finally:
        db.close()


def test_token_used_twice(farm: Farm, tmp_path: Path) -> None:
    """A token lets in one machine; another one is refused in words, both there and in the commander's log. A wrong token and a
    sentry that is enrolled already are refused too."""
    farm.start_commander()
    token = farm.ask("commander", "sentries", "token", "--kind", "asic", "--approve").strip()
    farm.ask("sentry-asic", "enrol", token)
    other = ["--home", str(tmp_path / "another machine")]
    told = error(farm, "sentry-asic", "enrol", token, *other)
    assert "token" in told
    assert '"fault": "token_refused"' in farm.log("commander")
    assert len(farm.get("/sentries")["sentries"]) == 1
    assert "already" in error(farm, "sentry-asic", "enrol", token)
    assert "token" in error(farm, "sentry-asic", "enrol", token[:-4] + "aaaa", *other)
    assert "token" in error(farm, "sentry-asic", "enrol", "no token at all", *other)
    kind = farm.ask("commander", "sentries", "token", "--kind", "rig", "--approve").strip()
    assert "rig" in error(farm, "sentry-asic", "enrol", kind, *other), "a token for a rig let an ASIC sentry in"


# ---- devices and boards ------------------------------------------------------------------------------------


def test_devices_and_boards_that_answer_rubbish(farm: Farm) -> None:
    """A device that answers HTML, 10 MB or nothing, or whose miner process is gone: each gets a state and a reason, never
    values. A board that answers HTML, 10 MB, nothing or an empty page: its outlet is unknown, never off, and nothing is
    switched on a guess. The device that is well mines and stays fresh all the time; all come back when they are well again."""
    with hall_of("modern", "modern", "modern", "old", "modern") as hall:
        farm.start_commander()
        furnish(farm, hall)
        hall.miners[0].faults = Faults(html=True)
        hall.miners[1].faults = Faults(huge=True)
        hall.miners[2].hang()
        hall.miners[3].faults = Faults(api_down=True)
        for mode in ("html", "huge", "empty", "silent"):
            until("the outlet reads on", lambda: outlet_state(farm) == "on")
            hall.board.mode = mode
            until(f"the outlet of a board that answers {mode} is unknown", lambda: outlet_state(farm) == "unknown")
            well = farm.device("miner-5")
            assert well["state"] in ("mining", "starting")
            assert well["age_s"] < 15
            if mode == "html":
                done = farm.run("commander", "power", "cycle", "miner-5")
                assert done.returncode == 1
                assert "board_unreachable" in done.stderr, done.stderr
            hall.board.mode = "ok"
        assert hall.board.clicks == []

        for number, states in {1: OUT, 2: OUT, 3: OUT, 4: ("idle",)}.items():
            row = farm.until_device(f"miner-{number}", *states)
            assert not row["hashrate_hs"]
            assert farm.get(f"/devices/miner-{number}")["fault_text"] or states == ("idle",)
        assert farm.sentry("asic")["state"] == "connected"
        for miner in hall.miners:
            miner.faults = Faults()
            miner.hang(False)
        for number in range(1, 6):
            farm.until_device(f"miner-{number}", "mining", "starting")


OUT = ("slow", "unreachable")


def outlet_state(farm: Farm) -> str:
    return str(farm.get(f"/relays/{BOARD}")["outlets_mapped"][-1]["state"])
