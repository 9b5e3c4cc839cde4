"""One miner, never two: real processes started, watched, ended and found again."""

import asyncio
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import psutil
import pytest

from garrison.clock import SystemClock
from garrison.faults import BadInput, Fault, Unavailable
from garrison.model import PoolOrder
from sentry_rig import miner_log, process, record
from sentry_rig.miner_look import look_at
from sentry_rig.programs.table import program
from sentry_rig.supervisor import Launch, MinerRecord, Restarts, Supervisor, end_left_miner
from tests.sentry_rig.stands import KILL, SIMULATOR, SOON_S, miners, quick

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the Windows side was not run")


class Ahead(SystemClock):
    """The system's clock, pushed forward by a test."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


class Told:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    async def __call__(self, kind: str, text: str, *, severity: str = "info", detail: Mapping[str, str] | None = None) -> None:
        self.kinds.append(kind)


def launch(host: str = "pool.example", executable: Path = SIMULATOR) -> Launch:
    arguments = program("xmrig").arguments([], [PoolOrder(f"{host}:3333", "wallet.rig")], "rx/0")
    return Launch("xmrig", executable, tuple(arguments), f"print-of-{host}", f"sheet-{host}")


def supervisor(state: Path, clock: SystemClock | None = None, told: Told | None = None, **settings: object) -> Supervisor:
    return Supervisor(state / "miner", clock or SystemClock(), quick(**settings), told or Told())


async def until(true: Callable[[], bool], made: Supervisor | None = None) -> None:
    """Waits, tending meanwhile."""
    ends = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < ends, "did not come true in time"
        if made is not None:
            await made.tend()
        await asyncio.sleep(0.05)


async def started(made: Supervisor, given: Launch) -> int:
    await made.recover(given)
    await made.tend()
    assert made.now_running is not None
    return made.now_running.pid


async def test_starts_apart_from_us_with_a_clean_environment(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own session, nothing of the sentry's environment, log and records for our eyes only, API on loopback with a token."""
    monkeypatch.setenv("GARRISON_SECRET_OF_THE_SENTRY", "1")
    made = supervisor(state)
    pid = await started(made, launch())
    assert process.leads(pid)
    environ = psutil.Process(pid).environ()
    assert "GARRISON_SECRET_OF_THE_SENTRY" not in environ
    assert environ["HOME"] == str(state / "miner")
    for name in ("miner.json", "miner.log"):
        assert stat.S_IMODE((state / "miner" / name).stat().st_mode) == 0o600
    await until(lambda: (state / "miner" / "miner.log").stat().st_size > 0)
    await until(lambda: bool(psutil.Process(pid).net_connections("tcp")))
    connections = psutil.Process(pid).net_connections("tcp")
    assert {found.laddr.ip for found in connections} == {"127.0.0.1"}
    assert 29100 <= connections[0].laddr.port <= 29199
    look = await look_at(made)
    assert look.api
    await made.halt()
    assert miners(state) == []
    assert not (state / "miner" / "miner.json").exists()


async def test_a_crashed_miner_is_started_again(state: Path) -> None:
    """The end is noticed with its exit code, the next one has another token, the count is kept on disk."""
    told = Told()
    made = supervisor(state, told=told)
    pid = await started(made, launch())
    os.kill(pid, KILL)
    await until(lambda: made.now_running is not None and made.now_running.pid != pid and made.alive, made)
    assert told.kinds.count("miner_crashed") == 1
    assert made.restarts_total == 1
    restarts = record.read(state / "miner" / "restarts.json", Restarts)
    assert restarts is not None
    assert restarts.total == 1
    assert len(miners(state)) == 1
    await made.halt()


async def test_a_crash_loop_is_held_and_tried_again_later(state: Path) -> None:
    """Three restarts in the window, then held, told once; also by the next sentry; the hold ends by itself or by an order."""
    clock, told = Ahead(), Told()
    made = supervisor(state, clock, told)
    await made.recover(launch("crash-0.example"))
    await until(lambda: made.held, made)
    for _ in range(3):
        await made.tend()
    assert told.kinds.count("miner_held") == 1
    assert told.kinds.count("miner_started") == 4  # the first, and three restarts
    assert (made.alive, miners(state)) == (False, [])

    after = supervisor(state, clock, told)
    await after.recover(launch("crash-0.example"))
    await after.tend()
    assert after.held
    assert told.kinds.count("miner_held") == 1
    assert told.kinds.count("miner_started") == 4

    clock.ahead_ms += 601_000
    await until(lambda: told.kinds.count("miner_started") == 5, after)
    await until(lambda: not after.alive)
    await after.run_this(launch("pool.example"))
    assert (after.held, after.alive) == (False, True)
    await after.halt()


@pytest.mark.parametrize("host", ["stubborn.example", "fork.example"])
async def test_ends_whatever_was_started(state: Path, host: str) -> None:
    """One that ignores SIGTERM is killed after the limit; a child it leaves behind ends with it."""
    made = supervisor(state, stop_limit_s=1)
    await started(made, launch(host))
    log = state / "miner" / "miner.log"
    await until(lambda: "HTTP API" in log.read_text())
    assert len(miners(state)) == (2 if host.startswith("fork") else 1)
    await made.halt()
    assert miners(state) == []


async def test_what_a_crashed_miner_forked_is_ended_too(state: Path) -> None:
    """A watchdog's child must not mine beside the new one."""
    made = supervisor(state)
    pid = await started(made, launch("fork.example"))
    await until(lambda: len(miners(state)) == 2)
    child = next(found for found in miners(state) if found != pid)
    os.kill(pid, KILL)
    await until(lambda: made.now_running is not None and made.now_running.pid != pid and made.alive, made)
    assert process.mark_of(child) is None
    await made.halt()


async def test_adopts_by_pid_start_and_command(state: Path) -> None:
    """The next sentry finds the miner running and leaves it alone; it can still read it and end it."""
    first, told = supervisor(state), Told()
    pid = await started(first, launch())
    first.let_go()
    second = supervisor(state, told=told)
    await second.recover(launch())
    await second.tend()
    assert second.now_running is not None
    assert second.now_running.pid == pid
    assert told.kinds == ["miner_adopted"]
    await until(lambda: "HTTP API" in second.log.read_text())
    assert (await look_at(second)).api
    await second.halt()
    assert miners(state) == []


async def test_a_left_miner_is_ended_on_request(state: Path) -> None:
    """With the sentry stopped, one command ends the miner that outlived it; a second time there is nothing to end."""
    first = supervisor(state)
    await started(first, launch())
    first.let_go()
    assert await end_left_miner(state / "miner")
    assert miners(state) == []
    assert not await end_left_miner(state / "miner")


async def test_finds_a_miner_whose_pid_was_never_written(state: Path) -> None:
    """The sentry died between the start and the record of it: the miner is adopted, there are never two."""
    first = supervisor(state)
    pid = await started(first, launch())
    first.let_go()
    noted = record.read(state / "miner" / "miner.json", MinerRecord)
    assert noted is not None
    record.write(state / "miner" / "miner.json", msgspec.structs.replace(noted, pid=0, mark=""))
    second = supervisor(state)
    await second.recover(launch())
    await second.tend()
    assert second.now_running is not None
    assert (second.now_running.pid, miners(state)) == (pid, [pid])
    second.let_go()


@pytest.mark.parametrize("damage", ["missing", "damaged", "another start"])
async def test_a_stray_miner_is_ended(state: Path, damage: str) -> None:
    """What runs and is on no record, or not as the record says, is ended before another is started."""
    first, told = supervisor(state), Told()
    pid = await started(first, launch())
    first.let_go()
    file = state / "miner" / "miner.json"
    noted = record.read(file, MinerRecord)
    assert noted is not None
    if damage == "missing":
        file.unlink()
    elif damage == "damaged":
        file.write_bytes(b'{"start": "')
    else:
        record.write(file, msgspec.structs.replace(noted, start="other", pid=0, mark=""))
    second = supervisor(state, told=told)
    await second.recover(launch())
    await until(lambda: second.alive, second)
    assert second.now_running is not None
    assert second.now_running.pid != pid
    assert miners(state) == [second.now_running.pid]
    assert "stray_ended" in told.kinds
    assert ("record_damaged" in told.kinds) == (damage == "damaged")
    second.let_go()


async def test_a_pid_used_again_is_not_our_miner(state: Path) -> None:
    """Another process with the number of our old miner is neither adopted nor ended."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # noqa: ASYNC220  # a moment, in a test
    try:
        first = supervisor(state)
        pid = await started(first, launch())
        await first.halt()
        noted = MinerRecord(
            "x", "xmrig", [str(SIMULATOR)], 29100, "t", "print-of-pool.example", 0, "boot", pid=stranger.pid, mark="boot/1"
        )
        record.write(state / "miner" / "miner.json", noted)
        second = supervisor(state)
        await second.recover(launch())
        await second.tend()
        assert second.now_running is not None
        assert second.now_running.pid not in {pid, stranger.pid}
        assert stranger.poll() is None
        await second.halt()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_another_sheet_than_what_runs(state: Path) -> None:
    """After a crash in the middle of a change the wanted one is started and the other ended; with none wanted, it is ended."""
    first = supervisor(state)
    await started(first, launch("old.example"))
    first.let_go()
    second = supervisor(state)
    await second.recover(launch("new.example"))
    await second.tend()
    assert second.now_running is not None
    assert second.now_running.fingerprint == "print-of-new.example"
    assert len(miners(state)) == 1
    second.let_go()
    third = supervisor(state)
    await third.recover(None)
    assert miners(state) == []


async def test_what_cannot_start_is_said(state: Path) -> None:
    """To the one who ordered it; on its own the supervisor counts it as a crash and goes on."""
    broken = state / "broken"
    broken.write_bytes(b"\x7fELF not really")
    broken.chmod(0o755)
    told = Told()
    made = supervisor(state, told=told)
    await made.recover(None)
    with pytest.raises(BadInput, match="cannot start"):
        await made.run_this(launch(executable=broken))
    await made.tend()
    assert "miner_crashed" in told.kinds
    with pytest.raises(Fault):
        await made.run_this(launch(executable=state / "none"))


async def test_no_free_port(state: Path) -> None:
    """A range that is taken is said, and nothing is started."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = supervisor(state, api_port_first=port, api_port_last=port)
    await made.recover(None)
    with pytest.raises(Unavailable, match="no free port"):
        await made.run_this(launch())
    assert miners(state) == []
    server.close()
    await server.wait_closed()


async def test_nothing_starts_that_cannot_be_written_down(state: Path) -> None:
    """A disk that takes no record: the order fails in words, no miner runs unrecorded, and it works once the disk does."""
    made, in_the_way = supervisor(state), state / "miner" / ".miner.json.new"
    await made.recover(None)
    in_the_way.mkdir()
    with pytest.raises(Unavailable, match="cannot write"):
        await made.run_this(launch())
    assert miners(state) == []
    in_the_way.rmdir()
    await until(lambda: made.alive, made)
    assert len(miners(state)) == 1
    await made.halt()


def test_the_log_is_turned_over(tmp_path: Path) -> None:
    """At its size, under a writer that keeps its file open; three old ones stay, and the tail reads across."""
    log = tmp_path / "miner.log"
    with log.open("ab") as output:
        writer = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=output)
    assert writer.stdin is not None
    for turn in range(6):
        writer.stdin.write(b"".join(b"turn %d line %d\n" % (turn, line) for line in range(100)))
        writer.stdin.flush()
        ends = time.monotonic() + SOON_S
        while log.stat().st_size < 100 * 14:
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert miner_log.turn_over(log, 1000)
    assert log.stat().st_size == 0
    writer.stdin.write(b"last\n")
    writer.stdin.close()
    writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["miner.log", "miner.log.1", "miner.log.2", "miner.log.3"]
    assert miner_log.tail(log, 2) == ["turn 5 line 99", "last"]
    assert miner_log.tail(tmp_path / "none", 5) == []
    assert not miner_log.turn_over(log, 1000)


def test_what_is_gone_has_no_mark() -> None:
    """Nor has what only waits to be reaped; what lives keeps its own."""
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.DEVNULL)
    ends = time.monotonic() + SOON_S
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert process.mark_of(child.pid) is None
    child.wait()
    assert process.mark_of(child.pid) is None
    assert process.mark_of(os.getpid()) == process.mark_of(os.getpid())
    assert process.mark_of(os.getpid()) != process.mark_of(1)
