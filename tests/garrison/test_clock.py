"""The clock that tests move: what sleeps wakes at its time, in its order, and not before."""

import asyncio

from garrison.clock import Clock, ManualClock, SystemClock


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_sleepers_wake_at_their_time() -> None:
    """In the order of their ends, whatever the order they went to sleep in."""
    clock = ManualClock(1_000)
    woken: list[float] = []

    async def nap(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (30, 10, 20, 0):
            group.create_task(nap(seconds))
        await settle()
        assert woken == [0]
        clock.advance(9.999)
        await settle()
        assert woken == [0]
        clock.advance(0.001)
        await settle()
        assert woken == [0, 10]
        clock.advance(60)
    assert woken == [0, 10, 20, 30]
    assert clock.monotonic_ms() == 70_000
    assert clock.now_ms() == 71_000


async def test_the_wall_jumps_and_durations_do_not() -> None:
    """NTP or a person moves the wall clock: sleeps and the monotonic clock do not notice."""
    clock = ManualClock(0)
    task = asyncio.create_task(clock.sleep(5))
    await settle()
    clock.step_wall(-3600)
    clock.step_wall(7200)
    await settle()
    assert not task.done()
    assert (clock.now_ms(), clock.monotonic_ms()) == (3_600_000, 0)
    clock.advance(5)
    await task


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    """Time passing over it does no harm."""
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    clock.advance(10)


async def test_the_system_clock_is_one() -> None:
    """Milliseconds, and the monotonic one does not go back."""
    clock: Clock = SystemClock()
    before = clock.monotonic_ms()
    await clock.sleep(0.01)
    assert clock.monotonic_ms() >= before + 5
    assert clock.now_ms() > 1_700_000_000_000
