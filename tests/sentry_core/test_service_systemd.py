"""systemd units: what is written, what systemd's own tools say of it, and what installing does, on a root folder of the test's."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from garrison.faults import BadInput, NotAllowed, NotFound, NotSupported, Unavailable

assert sys.platform != "win32"  # systemd is not on Windows; mypy leaves out the rest there

from sentry_core import service_systemd  # noqa: E402  # after the line above
from sentry_core.service import Daemon, Kind  # noqa: E402  # after the line above
from sentry_core.service_systemd import Ran, Systemd, unit  # noqa: E402  # after the line above

EXAMPLES = Path(__file__).parents[2] / "packaging" / "systemd"
DAEMONS: dict[Kind, Daemon] = {
    "commander": Daemon("garrison-commander", "Garrison commander", ("commander", "run"), "commander"),
    "rig": Daemon("garrison-sentry-rig", "Garrison rig sentry", ("sentry-rig", "run"), "rig"),
    "asic": Daemon("garrison-sentry-asic", "Garrison ASIC sentry", ("sentry-asic", "run"), "asic"),
}
EACH = pytest.mark.parametrize("daemon", DAEMONS.values(), ids=list(DAEMONS))
GOAL = {"commander": 2.0, "asic": 2.0, "rig": 2.5}
"""Highest exposure by `systemd-analyze security`; the rig's is higher because miners run inside its unit and need GPUs."""


def text_of(daemon: Daemon) -> str:
    """As `service install` writes it on a machine with both graphics groups, for the places of docs/operations.md."""
    command = (f"/opt/garrison/bin/{daemon.argv[0]}", *daemon.argv[1:])
    return unit(daemon, command, Path("/var/lib/garrison"), ("video", "render") if daemon.kind == "rig" else ())


@EACH
def test_the_examples_are_what_is_written(daemon: Daemon) -> None:
    """packaging/systemd/ shows the units; GARRISON_WRITE_EXAMPLES=1 writes them anew."""
    path = EXAMPLES / f"{daemon.name}.service"
    if os.environ.get("GARRISON_WRITE_EXAMPLES"):
        path.write_text(text_of(daemon))
    assert path.read_text() == text_of(daemon)


@EACH
def test_no_line_says_nothing(daemon: Daemon) -> None:
    """Each setting stands once (but the two filters), in its section, with a watchdog that the daemon feeds."""
    lines = [line for line in text_of(daemon).splitlines() if line and not line.startswith("#")]
    keys = [line.split("=")[0] for line in lines if "=" in line]
    twice = {key for key in keys if keys.count(key) > 1}
    assert twice <= {"SystemCallFilter", "ReadWritePaths"}
    for wanted in ("Type=notify", "WatchdogSec=60", "Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert wanted in lines


def test_miners_outlive_the_rig_sentry() -> None:
    """Only the rig's unit: a stop ends the sentry alone, and a miner killed for memory does not end the sentry."""
    assert "KillMode=process" in text_of(DAEMONS["rig"])
    assert "OOMPolicy=continue" in text_of(DAEMONS["rig"])
    for kind in ("commander", "asic"):
        assert "KillMode" not in text_of(DAEMONS[kind])


def test_a_rig_sees_its_gpus() -> None:
    """Nothing that hides or lists devices, and nothing that forbids programs which compile as they run."""
    text = text_of(DAEMONS["rig"])
    for closed in ("PrivateDevices", "DevicePolicy", "ProtectClock=", "MemoryDenyWriteExecute", "PrivateTmp", "ProcSubset"):
        assert not re.search(rf"^{closed}", text, re.MULTILINE)


needs_systemd_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")


@needs_systemd_analyze
@EACH
def test_exposure(daemon: Daemon, tmp_path: Path) -> None:
    """`systemd-analyze security` stays below the goal."""
    path = tmp_path / f"{daemon.name}.service"
    path.write_text(text_of(daemon))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)],  # noqa: S607  # the system's own
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= GOAL[daemon.kind]


@needs_systemd_analyze
@pytest.mark.parametrize("home", ["/var/lib/garrison", "/srv/my farm/100%", '/srv/a "b" $c;d\\e'])
def test_systemd_reads_it(home: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, also of homes with spaces, quotes, %, $ and backslashes."""
    for kind, daemon in DAEMONS.items():
        path = tmp_path / f"{daemon.name}.service"
        path.write_text(unit(daemon, (shutil.which("true") or "/bin/true", "run"), Path(home), ("video",) if kind == "rig" else ()))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)],  # noqa: S607  # the system's own
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_control_characters_are_refused() -> None:
    """A line end in a path would be a line of the unit."""
    with pytest.raises(BadInput, match="control characters"):
        unit(DAEMONS["rig"], ("/bin/true",), Path("/srv/a\nUser=root"))


# ---- installing, on a root of our own -------------------------------------------------------------------------


@dataclass
class Machine:
    """systemctl and systemd-sysusers of the test: notes what is asked, and answers."""

    root: Path
    asked: list[tuple[str, ...]] = field(default_factory=list)
    answers: dict[str, Ran] = field(default_factory=dict)
    root_user: bool = True

    def __post_init__(self) -> None:
        (self.root / "run/systemd/system").mkdir(parents=True)
        (self.root / "etc/polkit-1/rules.d").mkdir(parents=True)

    def run(self, argv: Sequence[str]) -> Ran:
        self.asked.append(tuple(argv))
        return self.answers.get(argv[1] if argv[0] == "systemctl" else argv[0], Ran(0, ""))

    @property
    def systemd(self) -> Systemd:
        return Systemd(self.root, self.run, lambda: self.root_user)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "farm"


def me(kind: Kind) -> Daemon:
    """A daemon whose user exists on every machine: this test's own, so that files can be given to it."""
    import pwd

    return Daemon(pwd.getpwuid(os.geteuid()).pw_name, "A daemon", ("/bin/true", "run"), kind)


def test_install(machine: Machine, home: Path) -> None:
    """User, folder, unit, rule, reload, enable, start: in this order; the folder is the user's alone."""
    daemon = me("rig")
    assert "is installed and runs" in machine.systemd.install(daemon, home)
    path = machine.root / f"etc/systemd/system/{daemon.name}.service"
    assert "ExecStart=/bin/true run\n" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert (home / "sentry-rig").stat().st_mode & 0o777 == 0o700
    assert [asked[:2] for asked in machine.asked] == [
        ("systemd-sysusers", "--inline"), ("systemctl", "daemon-reload"), ("systemctl", "enable"), ("systemctl", "restart"),
    ]  # fmt: skip
    rule = (machine.root / f"etc/polkit-1/rules.d/50-{daemon.name}.rules").read_text()
    assert f'subject.user == "{daemon.name}"' in rule
    machine.systemd.install(daemon, home)  # again: the same


def test_only_a_rig_may_ask_for_a_reboot(machine: Machine, home: Path) -> None:
    """No other daemon gets a rule."""
    machine.systemd.install(me("asic"), home)
    assert not list((machine.root / "etc/polkit-1/rules.d").iterdir())


def test_a_link_in_the_folder_is_not_followed(machine: Machine, home: Path, tmp_path: Path) -> None:
    """`install` runs as root: a link planted in the daemon's folder must not give another file away."""
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    before = outside.stat()
    (home / "sentry-asic").mkdir(parents=True)
    (home / "sentry-asic" / "link").symlink_to(outside)
    (home / "sentry-asic" / "dangling").symlink_to(tmp_path / "nowhere")
    machine.systemd.install(me("asic"), home)
    assert (outside.stat().st_uid, outside.stat().st_ctime_ns) == (before.st_uid, before.st_ctime_ns)


def test_a_unit_that_does_not_start(machine: Machine, home: Path) -> None:
    """Said with where to look; the unit stays, so that systemd goes on trying."""
    machine.answers["restart"] = Ran(1, "Job failed")
    with pytest.raises(Unavailable, match="journalctl"):
        machine.systemd.install(me("rig"), home)


def test_remove(machine: Machine, home: Path) -> None:
    """Stopped, disabled, gone with its rule; the data stays. Twice: NotFound."""
    daemon = me("rig")
    machine.systemd.install(daemon, home)
    (home / "sentry-rig" / "journal.db").write_text("data")
    machine.asked.clear()
    assert "its data stays" in machine.systemd.remove(daemon)
    assert machine.asked == [("systemctl", "disable", "--now", daemon.name), ("systemctl", "daemon-reload")]
    assert not list((machine.root / "etc/systemd/system").iterdir())
    assert not list((machine.root / "etc/polkit-1/rules.d").iterdir())
    assert (home / "sentry-rig" / "journal.db").exists()
    with pytest.raises(NotFound, match="not installed"):
        machine.systemd.remove(daemon)


def test_status(machine: Machine) -> None:
    """What `systemctl show` says, as data; a unit that is not there is a status, not an error."""
    machine.answers["show"] = Ran(
        0,
        "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=812\nNRestarts=2\nStatusText=a=b",
    )
    found = machine.systemd.status(DAEMONS["rig"])
    assert (found.installed, found.running, found.enabled, found.pid, found.restarts) == (True, True, True, 812, 2)
    assert (found.state, found.text) == ("active (running)", "a=b")
    machine.answers["show"] = Ran(
        0, "LoadState=not-found\nActiveState=inactive\nSubState=dead\nMainPID=0\nNRestarts=0\nStatusText="
    )
    found = machine.systemd.status(DAEMONS["rig"])
    assert (found.installed, found.running, found.pid) == (False, False, None)


def test_refusals(machine: Machine, home: Path, tmp_path: Path) -> None:
    """Each with its words, and before anything is changed."""
    daemon = me("rig")
    machine.root_user = False
    with pytest.raises(NotAllowed, match=r"only root.*sudo"):
        machine.systemd.install(daemon, home)
    with pytest.raises(NotAllowed, match=r"only root.*sudo"):
        machine.systemd.remove(daemon)
    machine.root_user = True
    with pytest.raises(BadInput, match=r"a person's home.*/var/lib/garrison"):
        machine.systemd.install(daemon, Path("/home/ann/farm"))
    with pytest.raises(BadInput, match=r"a person's home.*/opt/garrison"):
        service_systemd._check_places(Path("/root/garrison/.venv/bin/sentry-rig"), home)
    closed = tmp_path / "closed" / "sentry-rig"
    closed.parent.mkdir(mode=0o700)
    closed.write_text("")
    with pytest.raises(BadInput, match="may not enter"):
        service_systemd._check_places(closed, home)
    assert machine.asked == []
    machine.answers["systemd-sysusers"] = Ran(1, "no")
    with pytest.raises(Unavailable, match="cannot make the user"):
        machine.systemd.install(daemon, home)
    (machine.root / "run/systemd/system").rmdir()
    with pytest.raises(NotSupported, match="systemd does not run"):
        machine.systemd.install(daemon, home)
    with pytest.raises(NotSupported, match="systemd does not run"):
        machine.systemd.remove(daemon)
    with pytest.raises(NotSupported, match="systemd does not run"):
        machine.systemd.status(daemon)


# ---- MemoryDenyWriteExecute ------------------------------------------------------------------------------------

_UNDER_MDWE = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: what systemd asks for where the kernel has it
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    pass
else:
    sys.exit("the limit is not in force")

import asyncio, sqlite3
import cryptography.hazmat.primitives.asymmetric.ec as ec, fastapi, grpc, msgspec, numpy, psutil, pydantic, uvicorn, zstandard

async def main():
    server = grpc.aio.server()
    async def echo(request, context):
        return request
    handler = grpc.method_handlers_generic_handler("a.B", {"E": grpc.unary_unary_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/a.B/E")(b"x") == b"x"
    await server.stop(0)

asyncio.run(main())
ec.generate_private_key(ec.SECP256R1())
numpy.ones((64, 64)) @ numpy.ones((64, 64))
zstandard.ZstdDecompressor().decompress(zstandard.compress(b"x" * 1000))
"""


def test_our_libraries_live_without_executable_writable_memory() -> None:
    """gRPC, cryptography, numpy and the rest load and work under the limit that the commander's and the ASIC sentry's units set."""
    done = subprocess.run([sys.executable, "-c", _UNDER_MDWE], capture_output=True, text=True, timeout=100, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (before Linux 6.3)")
    assert (done.returncode, done.stderr) == (0, "")
