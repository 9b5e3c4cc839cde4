"""The rig sentry's duty, whole: a post that runs, the simulated program as a real process, orders and what looks show."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from garrison.clock import SystemClock
from garrison.faults import BadInput, Conflict, NotAllowed, NotSupported, Refused
from garrison.frame import device_key, pack_look
from garrison.model import Assignment, PoolOrder
from garrison.words import DEVICE_STATE_CODES, ActionKind, ActionState, DeviceState
from sentry_core.post import Post
from sentry_rig.orders import Orders
from sentry_rig.post import RigPost
from sentry_rig.programs.table import program
from tests.sentry_rig.stands import KILL, MACHINE, SOON_S, Kept, Steps, miners, on_duty, order, quick, sheet

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the Windows side was not run")

APPLY = ActionKind.APPLY_FLIGHT_SHEET


def last(outbox: Kept, metric: str, component: str = "") -> float | None:
    return outbox.samples[-1].values.get((metric, component))


def shows(outbox: Kept, state: DeviceState) -> Callable[[], bool]:
    return lambda: last(outbox, "state") == DEVICE_STATE_CODES[state]


async def test_a_rig_without_a_sheet_is_idle_and_seen(state: Path) -> None:
    """The machine is looked at from the first moment; nothing runs that nobody asked for, and nothing is made up."""
    async with on_duty(state) as (post, outbox):
        as_post: Post = post  # mypy proves that it is one
        assert as_post.kind == "rig"
        sample, device = outbox.samples[-1], outbox.devices[-1]
        assert sample.key == device_key(MACHINE.identity)
        assert sample.values["state", ""] == DEVICE_STATE_CODES[DeviceState.IDLE]
        assert sample.values["look_ok", ""] == 1
        assert sample.values["memory_total_bytes", ""] > 0
        assert not {"hashrate_hs", "power_w", "miner_alive"} & {metric for metric, _ in sample.values}
        assert pack_look([sample])  # every value has its place and decimals in the catalogue
        assert (device.identity, device.kind, device.state, device.name) == (
            MACHINE.identity,
            "rig",
            DeviceState.IDLE,
            "rig-under-test",
        )
        assert set(device.capabilities) == {ActionKind.REBOOT, APPLY}
        assert post.known(MACHINE.identity)
        assert not post.known("machine:other")
        assert miners(state) == []


async def test_a_sheet_is_applied_proved_and_seen(state: Path) -> None:
    """The program is installed and started, a read shows it mining on the sheet's pool, samples and roster tell it."""
    async with on_duty(state) as (post, outbox):
        steps = Steps()
        outcome = await post.perform(order(APPLY, sheet("one", "pool.example", "spare.example")), steps)
        assert outcome.state is ActionState.SUCCEEDED, outcome
        assert outcome.detail["pool"] == "pool.example:3333"
        assert outcome.detail["restarted"] == "yes"
        assert len(steps.verified) == 1
        await outbox.until(shows(outbox, DeviceState.MINING), "mining")
        sample = outbox.samples[-1].values
        assert (sample["miner_alive", ""], sample["miner_api", ""], sample["miner_hashing", ""]) == (1, 1, 1)
        assert 3500 < sample["hashrate_hs", ""] < 5000
        await outbox.until(lambda: outbox.devices[-1].state is DeviceState.MINING, "roster")
        device = outbox.devices[-1]
        assert (device.sheet_id, device.simulated, device.firmware) == ("sheet-one", True, "xmrig 6.26.0")
        assert [(pool.url, pool.active) for pool in device.pools] == [
            ("stratum+tcp://pool.example:3333", True),
            ("stratum+tcp://spare.example:3333", False),
        ]
        assert "sheet_applied" in outbox.kinds()
        assert len(miners(state)) == 1


async def test_the_same_sheet_again_restarts_nothing(state: Path) -> None:
    """Only a change of what would run restarts the miner; a new name for the same thing is taken over."""
    async with on_duty(state) as (post, outbox):
        one = sheet("one", "pool.example")
        await post.perform(order(APPLY, one), Steps())
        before = miners(state)
        outcome = await post.perform(order(APPLY, one), Steps())
        assert outcome.state is ActionState.SUCCEEDED
        assert (outcome.detail["restarted"], outcome.detail["changed"]) == ("no", "no")
        renamed = replace(one, id="sheet-renamed", name="renamed")
        assert (await post.perform(order(APPLY, renamed), Steps())).state is ActionState.SUCCEEDED
        assert miners(state) == before
        await outbox.until(lambda: outbox.devices[-1].sheet_id == "sheet-renamed", "the new name")
        changed = replace(one, arguments=("--threads=2",))
        assert (await post.perform(order(APPLY, changed), Steps())).detail["restarted"] == "yes"
        assert miners(state) != before
        assert len(miners(state)) == 1


@pytest.mark.parametrize(
    "host", ["dead.example", "crash-0.example", "idle.example", "reject.example", "deaf.example", "garbage.example"]
)
async def test_goes_back_to_the_last_good_sheet(state: Path, host: str) -> None:
    """A sheet that does not mine within its limit is taken back, the former one mines again, and the outcome says both."""
    async with on_duty(state) as (post, outbox):
        good = await post.perform(order(APPLY, sheet("good", "pool.example")), Steps())
        assert good.state is ActionState.SUCCEEDED
        outcome = await post.perform(order(APPLY, sheet("bad", f"{host}.example", within_s=3), 2), Steps())
        assert outcome.state is ActionState.FAILED
        assert outcome.detail["rolled_back"] == "sheet-good"
        assert outcome.detail["why"]
        assert "sheet_rolled_back" in outbox.kinds()
        outbox.samples.clear()
        await outbox.until(lambda: bool(outbox.samples) and shows(outbox, DeviceState.MINING)(), "mining again")
        await outbox.until(lambda: outbox.devices[-1].sheet_id == "sheet-good", "the old sheet")
        assert outbox.devices[-1].pools[0].url == "stratum+tcp://pool.example:3333"
        assert len(miners(state)) == 1
    assert miners(state)  # and it outlives the sentry


async def test_without_an_earlier_sheet_nothing_runs(state: Path) -> None:
    """A first sheet that does not work leaves the rig idle, and says so."""
    async with on_duty(state) as (post, _):
        outcome = await post.perform(order(APPLY, sheet("bad", "dead.example", within_s=2)), Steps())
        assert (outcome.state, outcome.detail["rolled_back"]) == (ActionState.FAILED, "")
        assert miners(state) == []


async def test_a_sheet_that_makes_no_sense_changes_nothing(state: Path) -> None:
    """Wrong hash, forbidden arguments, unknown program, no pool: refused before the miner is touched."""
    async with on_duty(state) as (post, _):
        await post.perform(order(APPLY, sheet("good", "pool.example")), Steps())
        before = miners(state)
        one = sheet("one", "pool.example")
        for wrong, fault in [
            (sheet("one", "other.example", sha256="00" * 32), Refused),
            (replace(one, arguments=("--config=/tmp/x",)), NotAllowed),
            (replace(one, arguments=("--what-is-this",)), BadInput),
            (replace(one, program="no-miner"), NotSupported),
            (replace(one, program=""), BadInput),
            (replace(one, pools=()), BadInput),
            (replace(one, archive=None), BadInput),
        ]:
            with pytest.raises(fault):
                await post.perform(order(APPLY, wrong), Steps())
        with pytest.raises(BadInput):
            await post.perform(order(APPLY), Steps())
        assert miners(state) == before


async def test_the_guard_sees_every_user(state: Path) -> None:
    """Exactly those of the command line that would run."""
    post = RigPost(quick(), state, SystemClock(), MACHINE)
    one = sheet("one", "pool.example")
    assert post.payouts(order(APPLY, one)) == ["wallet.one"]
    own = replace(one, arguments=("-o", "a.example:1", "-u", "thief", "-o", "b.example:2", "-O", "other:x"))
    assert post.payouts(order(APPLY, own)) == ["thief", "other"]
    two = replace(one, pools=(*one.pools, PoolOrder("b.example:2", "second")))
    assert post.payouts(order(APPLY, two)) == ["wallet.one", "second"]
    assert post.payouts(order(ActionKind.REBOOT)) == []
    with pytest.raises(NotAllowed):
        post.payouts(order(APPLY, replace(one, arguments=("-c", "x"))))


async def test_pause_and_resume(state: Path) -> None:
    """Paused is what a read shows; it holds over a new sentry; resume ends it."""
    async with on_duty(state) as (post, outbox):
        with pytest.raises(Conflict):
            await post.perform(order(ActionKind.PAUSE), Steps())
        await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())
        outcome = await post.perform(order(ActionKind.PAUSE), Steps())
        assert (outcome.state, outcome.detail["how"]) == (ActionState.SUCCEEDED, "api")
        await outbox.until(shows(outbox, DeviceState.PAUSED), "paused")
        for kind in (ActionKind.RESTART_MINING, APPLY):
            with pytest.raises(Conflict, match="paused"):
                await post.perform(order(kind, sheet("two", "pool.example")), Steps())
        pid = miners(state)
    async with on_duty(state) as (post, outbox):
        assert miners(state) == pid
        await outbox.until(shows(outbox, DeviceState.PAUSED), "paused still")
        assert (await post.settle(order(ActionKind.PAUSE), {})).state is ActionState.SUCCEEDED
        assert (await post.settle(order(ActionKind.RESUME), {})).state is ActionState.FAILED
        outcome = await post.perform(order(ActionKind.RESUME), Steps())
        assert (outcome.state, outcome.detail["how"]) == (ActionState.SUCCEEDED, "api")
        await outbox.until(shows(outbox, DeviceState.MINING), "mining")
        assert miners(state) == pid
        assert (await post.settle(order(ActionKind.RESUME), {})).state is ActionState.SUCCEEDED


async def test_somebody_else_resumes_a_paused_miner(state: Path) -> None:
    """Paused is what was asked for: the next look asks again."""
    async with on_duty(state) as (post, outbox):
        await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())
        await post.perform(order(ActionKind.PAUSE), Steps())
        await outbox.until(shows(outbox, DeviceState.PAUSED), "paused")
        api = post.supervisor.api
        assert api is not None
        driver = program("xmrig")
        await driver.resume(api)
        ends = time.monotonic() + SOON_S
        while not driver.parse(await driver.read(api)).paused:
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)


async def test_a_paused_miner_that_dies_stays_down(state: Path) -> None:
    """Nobody asked for mining: it is not started again until resume."""
    async with on_duty(state) as (post, outbox):
        await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())
        await post.perform(order(ActionKind.PAUSE), Steps())
        os.kill(miners(state)[0], KILL)
        await outbox.until(lambda: last(outbox, "miner_alive") == 0, "dead")
        assert last(outbox, "state") == DEVICE_STATE_CODES[DeviceState.PAUSED]
        assert miners(state) == []
        outcome = await post.perform(order(ActionKind.RESUME), Steps())
        assert (outcome.state, outcome.detail["how"]) == (ActionState.SUCCEEDED, "started")
        assert len(miners(state)) == 1


async def test_a_miner_that_cannot_be_paused_is_ended(state: Path) -> None:
    """Pause means no mining, whether the program's API takes part or not."""
    async with on_duty(state) as (post, outbox):
        await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())
        running = post.supervisor.now_running
        assert running is not None
        psutil.Process(running.pid).suspend()  # alive, and deaf
        outcome = await post.perform(order(ActionKind.PAUSE), Steps())
        assert (outcome.state, outcome.detail["how"]) == (ActionState.SUCCEEDED, "stopped")
        assert miners(state) == []
        await outbox.until(shows(outbox, DeviceState.PAUSED), "paused")


async def test_restart_mining(state: Path) -> None:
    """Another process, mining again; settled after a crash only when a read can tell."""
    async with on_duty(state) as (post, _):
        with pytest.raises(Conflict):
            await post.perform(order(ActionKind.RESTART_MINING), Steps())
        await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())
        before, steps = miners(state), Steps()
        outcome = await post.perform(order(ActionKind.RESTART_MINING), steps)
        assert outcome.state is ActionState.SUCCEEDED
        assert miners(state) != before
        assert len(miners(state)) == 1
        settle = order(ActionKind.RESTART_MINING)
        assert (await post.settle(settle, steps.notes)).state is ActionState.SUCCEEDED
        running = post.supervisor.now_running
        assert running is not None
        assert (await post.settle(settle, {"was": running.start})).state is ActionState.UNKNOWN
        assert (await post.settle(settle, {})).state is ActionState.UNKNOWN


@pytest.mark.parametrize("kind", [ActionKind.POWER_CYCLE, ActionKind.POWER_OFF, ActionKind.LOCATE])
async def test_what_a_rig_cannot(state: Path, kind: ActionKind) -> None:
    """Is refused in words."""
    post = RigPost(quick(), state, SystemClock(), MACHINE)
    with pytest.raises(NotSupported):
        await post.perform(order(kind), Steps())


async def test_reboot(state: Path, tmp_path: Path) -> None:
    """The settings' command runs, without a shell; whether the machine went down is read from its boot id afterwards."""
    done = tmp_path / "told to reboot; $(whoami)"
    async with on_duty(state, quick(reboot_command=["/usr/bin/touch", str(done)])) as (post, _):
        steps = Steps()
        outcome = await post.perform(order(ActionKind.REBOOT), steps)
        assert done.exists()
        assert steps.notes == {"boot": "boot-1"}
        assert (outcome.state, outcome.fault) == (ActionState.FAILED, "timed_out")  # this machine did not go down
        assert (await post.settle(order(ActionKind.REBOOT), steps.notes)).state is ActionState.UNKNOWN
        assert (await post.settle(order(ActionKind.REBOOT), {})).state is ActionState.FAILED
    after = RigPost(quick(), state, SystemClock(), replace(MACHINE, boot="boot-2"))
    assert (await after.settle(order(ActionKind.REBOOT), steps.notes)).state is ActionState.SUCCEEDED
    failing = RigPost(quick(reboot_command=["/bin/sh", "-c", "echo not permitted; exit 3"]), state, SystemClock(), MACHINE)
    outcome = await failing.perform(order(ActionKind.REBOOT), Steps())
    assert outcome.state is ActionState.FAILED
    assert "not permitted" in outcome.text
    missing = RigPost(quick(reboot_command=["/no/such/command"]), state, SystemClock(), MACHINE)
    with pytest.raises(Refused):
        await missing.perform(order(ActionKind.REBOOT), Steps())


async def test_the_last_good_sheet_goes_on_without_a_commander(state: Path) -> None:
    """A sentry that starts with nobody to ask mines what it mined, also after the machine was off."""
    async with on_duty(state) as (post, _):
        await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())
    pid = miners(state)
    async with on_duty(state) as (post, outbox):
        await outbox.until(shows(outbox, DeviceState.MINING), "mining")
        assert miners(state) == pid
        assert "miner_adopted" in outbox.kinds()
        os.kill(pid[0], KILL)
        await outbox.until(lambda: "miner_crashed" in outbox.kinds(), "the crash")
        await outbox.until(lambda: outbox.kinds().count("miner_started") == 1, "the restart")
    for left in miners(state):
        os.kill(left, KILL)
    ends = time.monotonic() + SOON_S
    while miners(state):
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)
    async with on_duty(state) as (_, outbox):
        await outbox.until(shows(outbox, DeviceState.MINING), "mining after the miner was gone")


@pytest.mark.parametrize("host", ["slow-2.example", "dead.example"])
async def test_a_trial_goes_on_after_a_restart(state: Path, host: str) -> None:
    """The sentry ends in the middle of proving a sheet: the next one proves it or goes back, once, and settles the order."""
    async with on_duty(state) as (post, _):
        await post.perform(order(APPLY, sheet("good", "pool.example")), Steps())
        applied = asyncio.create_task(post.perform(order(APPLY, sheet("new", host, within_s=4), 2), steps := Steps()))
        async with asyncio.timeout(SOON_S):
            while not steps.verified:  # noqa: ASYNC110  # the order tells its progress by a call
                await asyncio.sleep(0.02)
        applied.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applied
    async with on_duty(state) as (post, outbox):
        outcome = await post.settle(order(APPLY, sheet("new", host, within_s=4), 2), {})
        if host.startswith("slow"):
            assert outcome.state is ActionState.SUCCEEDED, outcome
            await outbox.until(lambda: outbox.devices[-1].sheet_id == "sheet-new", "the new sheet")
        else:
            assert (outcome.state, outcome.detail["rolled_back"]) == (ActionState.FAILED, "sheet-good")
            await outbox.until(lambda: outbox.devices[-1].sheet_id == "sheet-good", "the old sheet")
        await outbox.until(shows(outbox, DeviceState.MINING), "mining")
        assert len(miners(state)) == 1


async def test_settles_a_sheet_that_was_never_begun(state: Path) -> None:
    """The sentry ended while it fetched the program: nothing was changed, and that is what is reported."""
    async with on_duty(state) as (post, _):
        await post.perform(order(APPLY, sheet("good", "pool.example")), Steps())
        outcome = await post.settle(order(APPLY, sheet("never", "other.example"), 2), {})
        assert outcome.state is ActionState.FAILED
        assert "sheet-good" in outcome.text


async def test_a_deaf_api_is_not_a_dead_miner(state: Path) -> None:
    """Alive, API and hashing are three facts; an unreadable answer is kept for whoever mends the driver."""
    settings = quick(starting_grace_s=1)
    async with on_duty(state, settings) as (post, outbox):
        await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())
        kept = post.sheets.book.good
        assert kept is not None
        deaf = replace(kept.launch, arguments=("-o", "deaf.example:3333", "-u", "w"), fingerprint="deaf")
        await post.supervisor.run_this(deaf)
        await outbox.until(lambda: (last(outbox, "miner_alive"), last(outbox, "miner_api")) == (1, 0), "deaf")
        await outbox.until(shows(outbox, DeviceState.DEGRADED), "degraded")
        assert last(outbox, "hashrate_hs") is None
        assert last(outbox, "miner_hashing") is None
        assert outbox.devices[-1].fault
        garbage = replace(kept.launch, arguments=("-o", "garbage.example:3333", "-u", "w"), fingerprint="garbage")
        await post.supervisor.run_this(garbage)
        kept_file = state / "miner" / "unreadable.bin"
        await outbox.until(kept_file.exists, "the unreadable answer")
        assert kept_file.read_bytes().startswith(b'{"hashrate"')
        assert last(outbox, "hashrate_hs") is None


async def test_a_damaged_book_is_set_aside(state: Path) -> None:
    """Half a file is no sheet: the rig is idle, the file is kept, the event says so, and a new sheet works."""
    (state / "miner").mkdir()
    (state / "miner" / "sheets.json").write_bytes(b'{"good": {"sheet"')
    async with on_duty(state) as (post, outbox):
        assert "record_damaged" in outbox.kinds()
        assert (state / "miner" / "sheets.json.damaged").exists()
        assert shows(outbox, DeviceState.IDLE)()
        assert (await post.perform(order(APPLY, sheet("one", "pool.example")), Steps())).state is ActionState.SUCCEEDED


async def test_the_commander_may_set_the_pace(state: Path) -> None:
    """An assignment's interval replaces that of the settings; none means the settings'."""
    post = RigPost(quick(poll_every_s=7), state, SystemClock(), MACHINE)
    await post.assign(Assignment(1, poll_every_ms=2500))
    assert post._poll_every_s == 2.5
    await post.assign(Assignment(2))
    assert post._poll_every_s == 7
    assert isinstance(post._orders, Orders)
