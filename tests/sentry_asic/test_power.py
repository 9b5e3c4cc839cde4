"""Power orders against the fake board: every outcome, every refusal with its rule, and power that always comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from garrison.faults import DiskFull, Unavailable, VersionMismatch
from garrison.model import Board, Credentials, Order, Outcome, Outlet, PowerLimits
from garrison.words import ActionKind, ActionState, PowerState
from rrc.queue import QueueLimits
from sentry_asic.power import NOTE, Power, PowerWaits
from sentry_asic.power_rules import Cut
from sentry_asic.power_store import PowerStore, Restore
from sentry_asic.relays import Relays
from sentry_asic.restores import Restores
from tests.sentry_asic.stand import FakeBoard, FastClock, KeptOutbox, KeptProgress, until

MINER = "mac:aa:bb:cc:dd:ee:01"
ON, OFF, CYCLE = ActionKind.POWER_ON, ActionKind.POWER_OFF, ActionKind.POWER_CYCLE
QUICK = QueueLimits(confirm_within_s=30, poll_s=1)


def order(kind: ActionKind, off_s: int = 10, device: str = MINER, name: str = "a1") -> Order:
    return Order(name, kind, device, 600_000, 1, off_s=off_s)


def outlets(*names: str) -> list[Outlet]:
    return [Outlet("B1", name, MINER if name == "1" else f"mac:{name}", circuit="C1") for name in names or ("1",)]


@dataclass
class Stand:
    fake: FakeBoard
    store: PowerStore
    relays: Relays
    power: Power
    outbox: KeptOutbox
    clock: FastClock
    answers: Callable[[], bool]
    silence: tuple[int, int] = (1, 50)
    progress: KeptProgress = field(default_factory=KeptProgress)
    runner: asyncio.Task[None] | None = None

    async def do(self, kind: ActionKind, off_s: int = 10, places: list[Outlet] | None = None, **limits: int) -> Outcome:
        async with asyncio.timeout(90):
            bounds = replace(PowerLimits(), **limits)
            return await self.power.perform(order(kind, off_s), places or outlets(), bounds, self.progress)

    async def stop(self) -> None:
        if self.runner is not None:
            self.runner.cancel()
            await asyncio.gather(self.runner, return_exceptions=True)
            self.runner = None


@contextlib.asynccontextmanager
async def standing(
    folder: Path,
    *,
    run: bool = True,
    answers: Callable[[], bool] | None = None,
    waits: PowerWaits | None = None,
    assigned: bool = True,
    grace_s: float = 30.0,
    options: Mapping[str, str] | None = None,
    can_ask: bool = True,
) -> AsyncIterator[Stand]:
    """A sentry's power over a fake board. The device answers while its outlet is on, unless told otherwise."""
    clock = FastClock()
    fake = FakeBoard(folder, **(options or {}))
    store = await PowerStore.open(folder / "power.db")
    relays = Relays(clock, switches=store.switches, limits=QUICK)
    await relays.assign([fake.board] if assigned else [])
    stand: list[Stand] = []

    async def asked(identity: str) -> bool:
        return stand[0].answers()

    restores = Restores(store, relays, clock, stop_grace_s=grace_s)
    power = Power(
        store,
        relays,
        clock,
        answers=asked,
        silence=lambda: stand[0].silence,
        waits=waits or PowerWaits(answer_within_s=60, answer_poll_s=2, report_after_s=60),
        restores=restores,
        can_ask=lambda _: can_ask,
    )
    outbox = KeptOutbox()
    stand.append(Stand(fake, store, relays, power, outbox, clock, answers or fake.is_on))
    if run:
        stand[0].runner = asyncio.create_task(power.run(outbox))
        await until(lambda: restores.running)
    try:
        yield stand[0]
    finally:
        await stand[0].stop()
        await relays.close()
        await store.close()


# ---- the cycle -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"cycle": "5-600"}], ids=["by the sentry", "by the board's timer"])
async def test_cycle_and_back(options: dict[str, str], tmp_path: Path) -> None:
    """Off, the time asked for, on, the device answers: back. One click each way, and nothing is left on disk."""
    async with standing(tmp_path, options=options) as stand:
        outcome = await stand.do(CYCLE)
        assert (outcome.state, outcome.detail["outcome"]) == (ActionState.SUCCEEDED, "back"), outcome
        assert outcome.detail["by"] == ("board timer" if options else "sentry")
        assert stand.fake.clicks() == [False, True]
        off_ms, on_ms = (at_ms for at_ms, _, _ in stand.fake.state["clicks"])
        assert on_ms - off_ms >= 9_900
        times = [int(outcome.detail[name]) for name in ("cut_at_ms", "off_seen_at_ms", "on_seen_at_ms", "answered_at_ms")]
        assert times == sorted(times)
        assert "=off" in outcome.detail["reads"]
        assert await stand.store.restores() == []
        assert [c.device for c in await stand.store.cuts(0)] == [MINER]
        assert json.loads(stand.progress.notes[NOTE])["outlet"] == "1"
        assert stand.progress.said
        assert stand.store.switches("B1", "1") == (1 if options else 2)


async def test_relay_that_does_not_switch(tmp_path: Path) -> None:
    """The board takes the command and the outlet stays on: did not switch, one command, the promise is struck off when due."""
    async with standing(tmp_path, options={"stuck": "1"}) as stand:
        outcome = await stand.do(CYCLE)
        assert (outcome.state, outcome.fault, outcome.detail["outcome"]) == (ActionState.FAILED, "did_not_switch", "did not switch")
        assert "it reads on, not off" in outcome.text
        assert stand.fake.commands() == [False]
        assert stand.fake.clicks() == []
        await until(lambda: not stand.power.promised())
        assert await stand.store.restores() == []


async def test_device_that_stays_silent(tmp_path: Path) -> None:
    """Power is back and read as on, the device is not: did not come back, with the outlet's state said."""
    async with standing(tmp_path, answers=lambda: False) as stand:
        outcome = await stand.do(CYCLE)
        assert (outcome.state, outcome.detail["outcome"]) == (ActionState.FAILED, "did not come back")
        assert "reads on" in outcome.text
        assert stand.fake.is_on()


async def test_device_that_cannot_be_asked_from_here(tmp_path: Path) -> None:
    """A rig on this sentry's relay: power was away and is back, and whether the rig is too stays honestly unknown."""
    async with standing(tmp_path, can_ask=False) as stand:
        outcome = await stand.do(CYCLE)
        assert (outcome.state, outcome.detail["outcome"]) == (ActionState.UNKNOWN, "unknown")
        assert "cannot be asked from here" in outcome.text
        assert stand.fake.is_on()
        assert stand.fake.clicks() == [False, True]


async def test_device_that_never_lost_power(tmp_path: Path) -> None:
    """The device answers while its outlet reads off: the mapping is wrong or a contact is welded, and that is said."""
    async with standing(tmp_path, answers=lambda: True) as stand:
        outcome = await stand.do(CYCLE, off_s=20)
        assert (outcome.state, outcome.detail["outcome"]) == (ActionState.FAILED, "did not switch")
        assert "mapping is wrong" in outcome.text
        assert stand.fake.clicks() == [False, True]


async def test_board_gone_while_off(tmp_path: Path) -> None:
    """The board goes away while the outlet is off: did not come back is loud, trying goes on, and power returns with the board."""
    waits = PowerWaits(answer_within_s=60, report_after_s=30)
    async with standing(tmp_path, waits=waits) as stand:
        doing = asyncio.create_task(stand.do(CYCLE))
        await until(lambda: stand.fake.clicks() == [False])
        stand.fake.break_it(unreachable="yes")
        outcome = await doing
        assert (outcome.state, outcome.detail["outcome"]) == (ActionState.FAILED, "did not come back"), outcome
        event = await stand.outbox.until_event("power_not_back")
        assert event[1:3] == ("critical", MINER)
        assert len(await stand.store.restores()) == 1
        stand.fake.mend()
        await stand.outbox.until_event("power_restored")
        assert stand.fake.clicks() == [False, True]
        assert await stand.store.restores() == []


async def test_relay_stuck_off_is_tried_again(tmp_path: Path) -> None:
    """An outlet that does not come back on is sent on again and again, and never off."""
    async with standing(tmp_path, waits=PowerWaits(report_after_s=20)) as stand:
        doing = asyncio.create_task(stand.do(CYCLE))
        await until(lambda: stand.fake.clicks() == [False])
        stand.fake.break_it(stuck="all")
        assert (await doing).detail["outcome"] == "did not come back"
        await stand.outbox.until_event("power_not_back")
        stand.fake.mend()
        await stand.outbox.until_event("power_restored")
        commands = stand.fake.commands()
        assert commands[0] is False
        assert all(commands[1:])
        assert len(commands) >= 3


async def test_off_ends_a_promise_that_is_not_kept(tmp_path: Path) -> None:
    """When power does not come back, a person may order the outlet off for good; then nobody switches it on."""
    async with standing(tmp_path, waits=PowerWaits(report_after_s=130)) as stand:
        doing = asyncio.create_task(stand.do(CYCLE))
        await until(lambda: stand.fake.clicks() == [False])
        stand.fake.break_it(stuck="all")
        assert (await doing).detail["outcome"] == "did not come back"
        assert (await stand.do(CYCLE)).detail["rule"] in ("circuit_busy", "outlet_off")
        outcome = await stand.do(OFF)
        assert outcome.state is ActionState.SUCCEEDED, outcome
        assert await stand.store.restores() == []
        stand.fake.mend()
        await stand.clock.sleep(30)
        assert not stand.fake.is_on()


@pytest.mark.parametrize("cycle_option", ["", "5-600"])
async def test_board_that_cannot_be_reached_for_the_command(cycle_option: str, tmp_path: Path) -> None:
    """Nothing was sent: failed, nothing is held against the device's limits, and no promise is left."""
    async with standing(tmp_path, options={"cycle": cycle_option}) as stand:

        class Breaks(KeptProgress):
            async def note(self, key: str, value: str) -> None:
                stand.fake.break_it(unreachable="yes")  # between the rules and the command

        stand.progress = Breaks()
        outcome = await stand.do(CYCLE)
        assert (outcome.state, outcome.fault) == (ActionState.FAILED, "unreachable")
        assert "nothing was switched" in outcome.text
        assert await stand.store.restores() == []
        assert await stand.store.cuts(0) == []
        stand.fake.mend()
        assert (await stand.do(CYCLE)).state is not ActionState.REFUSED


async def test_no_cycle_without_a_promise_on_disk(tmp_path: Path) -> None:
    """A promise that cannot be written forbids the cut."""
    async with standing(tmp_path) as stand:

        async def full(cut: Cut, restore: Restore | None) -> int:
            raise DiskFull("no space")

        stand.store.begin = full  # type: ignore[method-assign]  # a full disk, without filling one
        with pytest.raises(DiskFull):
            await stand.do(CYCLE)
        assert stand.fake.commands() == []


async def test_no_cycle_when_nobody_brings_power_back(tmp_path: Path) -> None:
    """Before `run` and after its end no cycle is begun."""
    async with standing(tmp_path, run=False) as stand:
        with pytest.raises(Unavailable):
            await stand.do(CYCLE)
        assert stand.fake.commands() == []


# ---- on and off ----------------------------------------------------------------------------------------------


async def test_off_and_on(tmp_path: Path) -> None:
    """Off stays off; on too soon after it is refused; later it is on. Each is what the last read shows."""
    async with standing(tmp_path) as stand:
        assert (await stand.do(OFF)).state is ActionState.SUCCEEDED
        assert not stand.fake.is_on()
        assert (await stand.do(ON)).detail["rule"] == "min_off_time"
        await stand.clock.sleep(12)
        outcome = await stand.do(ON)
        assert (outcome.state, outcome.text) == (ActionState.SUCCEEDED, "outlet 1 of B1 reads on")
        assert (await stand.do(ON)).text.endswith("reads on already")
        assert stand.fake.clicks() == [False, True]


@pytest.mark.parametrize("kind", [ON, OFF])
async def test_on_and_off_that_fail(kind: ActionKind, tmp_path: Path) -> None:
    """Stuck is did not switch; a board that goes away after the command is unknown."""
    async with standing(tmp_path, options={"start": "off" if kind is ON else "on", "stuck": "all"}) as stand:
        outcome = await stand.do(kind)
        assert (outcome.state, outcome.detail["outcome"]) == (ActionState.FAILED, "did not switch")
    (tmp_path / "two").mkdir()
    async with standing(tmp_path / "two", options={"start": "off" if kind is ON else "on", "slow": "5"}) as stand:
        doing = asyncio.create_task(stand.do(kind))
        await until(lambda: bool(stand.fake.commands()))
        stand.fake.break_it(unreachable="yes")
        outcome = await doing
        assert (outcome.state, outcome.detail["outcome"]) == (ActionState.UNKNOWN, "unknown")


# ---- refusals ------------------------------------------------------------------------------------------------


async def test_refusals_name_their_rule(tmp_path: Path) -> None:
    """Each rule refuses with its name, and nothing is sent."""
    async with standing(tmp_path) as stand:
        cases: list[tuple[str, Outcome]] = [
            ("unmapped", await stand.do(CYCLE, places=outlets("2"))),
            ("ambiguous", await stand.do(CYCLE, places=[*outlets(), Outlet("B2", "1", MINER)])),
            ("protected", await stand.do(OFF, places=[replace(outlets()[0], protected=True)])),
            ("board_unreachable", await stand.do(CYCLE, places=[Outlet("B9", "1", MINER)])),
            ("min_off_time", await stand.do(CYCLE, off_s=3)),
            ("max_per_day", await stand.do(CYCLE, max_per_day=0)),
        ]
        stand.silence = (30, 50)
        cases.append(("network_suspected", await stand.do(CYCLE)))
        for rule, outcome in cases:
            assert (outcome.state, outcome.fault, outcome.detail["rule"]) == (ActionState.REFUSED, "rule_refused", rule)
        assert stand.fake.commands() == []
        stand.fake.break_it(unreachable="yes")
        assert (await stand.do(OFF)).detail["rule"] == "board_unreachable"


async def test_second_cycle_within_the_interval(tmp_path: Path) -> None:
    """The history is on disk: a second cycle within the interval is refused, also after a restart."""
    async with standing(tmp_path) as stand:
        assert (await stand.do(CYCLE)).state is ActionState.SUCCEEDED
        assert (await stand.do(CYCLE)).detail["rule"] == "min_interval"
    async with standing(tmp_path) as stand:
        assert (await stand.do(CYCLE)).detail["rule"] == "min_interval"
        assert stand.fake.clicks() == [False, True]


async def test_one_circuit_one_at_a_time(tmp_path: Path) -> None:
    """Of two cycles ordered at once on one circuit one is refused as busy; on another circuit it may run."""
    async with standing(tmp_path) as stand:
        places = [*outlets("1", "2"), Outlet("B1", "3", "mac:3", circuit="C2")]

        async def cycle(device: str) -> Outcome:
            return await stand.power.perform(order(CYCLE, device=device, name=device), places, PowerLimits(), KeptProgress())

        async with asyncio.timeout(90):
            done = await asyncio.gather(cycle(MINER), cycle("mac:2"), cycle("mac:3"))
        assert sorted(o.detail.get("rule", "") for o in done[:2]) == ["", "circuit_busy"]
        assert done[2].state is not ActionState.REFUSED
        assert stand.fake.clicks("3") == [False, True]


# ---- stop, crash, restart ------------------------------------------------------------------------------------


async def test_stop_in_the_dark(tmp_path: Path) -> None:
    """Stopped between off and on, with the time due within the grace: power is brought back before the stop ends."""
    async with standing(tmp_path) as stand:
        doing = asyncio.create_task(stand.do(CYCLE))
        await until(lambda: stand.fake.clicks() == [False])
        doing.cancel()
        await stand.stop()
        await asyncio.gather(doing, return_exceptions=True)
        assert stand.fake.clicks() == [False, True]
        assert await stand.store.restores() == []


async def test_stop_in_the_middle_of_the_cut(tmp_path: Path) -> None:
    """Stopped while the outlet is just changing, the order itself going on: the stop waits for the cut, and brings power back."""
    async with standing(tmp_path, options={"slow": "4"}) as stand:
        doing = asyncio.create_task(stand.do(CYCLE))
        await until(lambda: bool(stand.fake.commands()))
        assert stand.fake.clicks() == []
        await stand.stop()
        assert stand.fake.clicks() == [False, True]
        assert (await doing).state is ActionState.SUCCEEDED
        with pytest.raises(Unavailable):
            await stand.do(CYCLE, min_interval_s=0)


async def test_stop_when_due_is_far(tmp_path: Path) -> None:
    """Due later than the grace: the stop does not wait, the promise stays on disk, and the next start keeps it."""
    async with standing(tmp_path, grace_s=5) as stand:
        doing = asyncio.create_task(stand.do(CYCLE, off_s=60))
        await until(lambda: stand.fake.clicks() == [False])
        doing.cancel()
        await stand.stop()
        await asyncio.gather(doing, return_exceptions=True)
        assert len(await stand.store.restores()) == 1
    async with standing(tmp_path) as stand:
        event = await stand.outbox.until_event("power_restored")
        assert event[1:3] == ("warning", MINER)
        assert stand.fake.clicks() == [False, True]


async def test_board_left_the_assignment(tmp_path: Path) -> None:
    """The promise carries all it takes to reach the board: power comes back though the board is no longer assigned."""
    async with standing(tmp_path, run=False) as stand:
        now_ms = stand.clock.now_ms()
        entry = Restore(stand.fake.board, "1", MINER, "C1", "a1", now_ms, 30, now_ms - 1)
        await stand.store.begin(Cut(MINER, "B1", "1", CYCLE, now_ms), entry)
        queue = stand.relays.queue("B1")
        assert queue is not None
        await queue.switch("1", False)
    async with standing(tmp_path, assigned=False) as stand:
        await stand.outbox.until_event("power_restored")
        assert stand.fake.clicks() == [False, True]


async def test_wall_clock_that_went_back(tmp_path: Path) -> None:
    """A promise that seems a day away is kept after its off time at the latest."""
    async with standing(tmp_path, run=False) as stand:
        now_ms = stand.clock.now_ms()
        entry = Restore(stand.fake.board, "1", MINER, "C1", "a1", now_ms, 10, now_ms + 86_400_000)
        await stand.store.begin(Cut(MINER, "B1", "1", CYCLE, now_ms), entry)
        queue = stand.relays.queue("B1")
        assert queue is not None
        await queue.switch("1", False)
    async with standing(tmp_path) as stand:
        await stand.outbox.until_event("power_restored")
        assert stand.fake.is_on()


async def test_promise_of_another_process(tmp_path: Path) -> None:
    """A promise that `sentry-asic relay cycle` left behind is adopted once it is overdue."""
    async with standing(tmp_path) as stand:
        queue = stand.relays.queue("B1")
        assert queue is not None
        await queue.switch("2", False)
        other = await PowerStore.open(tmp_path / "power.db")
        now_ms = stand.clock.now_ms()
        board = replace(stand.fake.board, id="fake@nowhere")
        await other.begin(Cut("", board.id, "2", CYCLE, now_ms), Restore(board, "2", "", "", "", now_ms, 10, now_ms + 10_000))
        await other.close()
        await stand.outbox.until_event("power_restored")
        assert stand.fake.clicks("2") == [False, True]


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from garrison.clock import SystemClock
from garrison.model import PowerLimits
from sentry_asic.power import Power
from sentry_asic.power_store import PowerStore
from sentry_asic.relays import Relays
from tests.sentry_asic.stand import FakeBoard, KeptOutbox, KeptProgress
from tests.sentry_asic.test_power import CYCLE, order, outlets

async def main(folder, cycle):
    clock = SystemClock()
    store = await PowerStore.open(folder / "power.db")
    relays = Relays(clock)
    await relays.assign([FakeBoard(folder).board])
    async def answers(identity): return False
    power = Power(store, relays, clock, answers=answers, silence=lambda: (1, 50))
    await power.resume()
    outbox = KeptOutbox()
    running = asyncio.create_task(power.run(outbox))
    await asyncio.sleep(0)
    if cycle:
        while not power._restores.running: await asyncio.sleep(0.01)
        await power.perform(order(CYCLE, 12), outlets(), PowerLimits(), KeptProgress())
    else:
        print(await outbox.until_event("power_restored"), flush=True)
    running.cancel()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "cycle"))
"""


async def test_killed_between_off_and_on(tmp_path: Path) -> None:
    """A real process killed with -9 while the outlet is off, and started again: it ends on, with exactly one click off."""
    script = tmp_path / "sentry.py"
    script.write_text(KILLED.format(root=str(Path(__file__).parents[2])))
    fake = FakeBoard(tmp_path)
    first = await asyncio.create_subprocess_exec(sys.executable, str(script), str(tmp_path), "cycle")
    try:
        await until(lambda: fake.clicks() == [False])
    finally:
        first.kill()
        await first.wait()
    assert not fake.is_on()
    second = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path), "wait", stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await asyncio.wait_for(second.communicate(), 90)
    finally:
        if second.returncode is None:
            second.kill()
            await second.wait()
    assert b"power_restored" in out
    assert fake.is_on()
    assert fake.clicks() == [False, True]
    assert fake.commands() == [False, True]


# ---- settling after a crash ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wanted", "reads", "state"),
    [
        (ON, "on", "on", ActionState.SUCCEEDED),
        (ON, "on", "off", ActionState.FAILED),
        (OFF, "off", "off", ActionState.SUCCEEDED),
        (OFF, "off", "on", ActionState.FAILED),
        (OFF, "off", "nothing", ActionState.UNKNOWN),
        (CYCLE, "on", "on", ActionState.UNKNOWN),
        (CYCLE, "on", "off", ActionState.UNKNOWN),
    ],
)
async def test_settle(kind: ActionKind, wanted: str, reads: str, state: ActionState, tmp_path: Path) -> None:
    """A wanted state is read back; a cycle is unknown; nothing is switched by settling."""
    async with standing(tmp_path, run=False, options={"start": reads if reads != "nothing" else "on"}) as stand:
        if reads == "nothing":
            stand.fake.break_it(unreachable="yes")
        notes = {NOTE: json.dumps({"board": "B1", "outlet": "1", "wanted": wanted, "at_ms": "1"})}
        outcome = await stand.power.settle(order(kind), notes)
        assert outcome.state is state
        assert stand.fake.commands() == []


async def test_settle_before_anything_was_sent(tmp_path: Path) -> None:
    """No note, so nothing was sent: that is failed, not unknown."""
    async with standing(tmp_path, run=False) as stand:
        assert (await stand.power.settle(order(CYCLE), {})).state is ActionState.FAILED


# ---- the file ------------------------------------------------------------------------------------------------


def contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.iterdir()]


async def test_store_keeps_and_forgets(tmp_path: Path) -> None:
    """What was written is there for the next process, mode 0600, and the password goes with the promise."""
    path = tmp_path / "power.db"
    store = await PowerStore.open(path)
    board = Board("B1", "tasmota", "10.0.0.9", 4, options={"a": "b"})
    board = replace(board, credentials=Credentials("admin", "sesam-oeffne"))
    entry = Restore(board, "2", MINER, "C1", "a7", 5, 30, 35_000, by_board=True)
    await store.begin(Cut(MINER, "B1", "2", CYCLE, 5), entry)
    await store.count_switch("B1", "2")
    await store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    store = await PowerStore.open(path)
    assert await store.restores() == [entry]
    assert store.switches("B1", "2") == 1
    await store.finish("B1", "2")
    await store.close()
    assert not any(b"sesam-oeffne" in content for content in contents(tmp_path))


async def test_damaged_store_is_set_aside(tmp_path: Path) -> None:
    """A damaged file is kept aside, the sentry starts, and a critical event says so."""
    path = tmp_path / "power.db"
    path.write_bytes(b"this is no database" * 500)
    async with standing(tmp_path) as stand:
        event = await stand.outbox.until_event("power_record_lost")
        assert event[1] == "critical"
        assert (tmp_path / "power.db.damaged-1").read_bytes().startswith(b"this is no")
        assert (await stand.do(CYCLE)).state is ActionState.SUCCEEDED


async def test_store_of_a_newer_program(tmp_path: Path) -> None:
    """A file of a newer version is refused, and left as it is."""
    with contextlib.closing(sqlite3.connect(tmp_path / "power.db")) as db:
        db.execute("pragma user_version = 9")
    with pytest.raises(VersionMismatch):
        await PowerStore.open(tmp_path / "power.db")


async def test_state_of_a_devices_outlet(tmp_path: Path) -> None:
    """The outlet's state as last looked at; None without a mapping; unknown when the board is silent."""
    async with standing(tmp_path) as stand:
        assert stand.power.state_of(MINER, "", outlets()) is PowerState.UNKNOWN
        await stand.relays.look("B1")
        assert stand.power.state_of(MINER, "", outlets()) is PowerState.ON
        assert stand.power.state_of("mac:none", "", outlets()) is None
        stand.fake.break_it(unreachable="yes")
        await stand.relays.look("B1")
        assert stand.power.state_of(MINER, "", outlets()) is PowerState.UNKNOWN
