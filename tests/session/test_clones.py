"""One identity on two machines (a cloned disk), over real gRPC: both stay, nothing of either is lost, neither gets orders."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copytree

import pytest

from commander.link.ports import Terms
from commander.link.rules import post_name
from garrison.faults import CertificateRevoked
from garrison.model import Order
from garrison.words import ActionKind, ActionState
from tests.session.a_sentry import IDENTITY, Settings, effects
from tests.session.farm import Farm, farm
from tests.session.post import enrolled, running, until
from tests.session.processes import FarmProcess, SentryProcess
from tests.session.test_stream import goodbye, left_in

A, B, C = (letter * 16 for letter in (b"a", b"b", b"c"))
SOON = Terms("f", reconnect_window_ms=100, adopt_after_ms=1_500)


async def cloned(it: Farm, home: Path, *, machine: bytes = A) -> str:
    """A sentry that has worked on `machine` for a while, and its disk copied: HOME/s and HOME/copy. Returns its id."""
    who = await enrolled(home / "s", it.token())
    async with running(home / "s", machine=machine) as sentry:
        await until(lambda: len(it.telemetry.taken) > 10)
        (home / "s" / "quiet").touch()

        async def all_there() -> bool:
            return await it.count("frames") == sentry.post.looks

        await until(all_there)
    (home / "s" / "quiet").unlink()
    await until(lambda: who.sentry_id not in it.link.sessions())
    await asyncio.to_thread(copytree, home / "s", home / "copy")
    return who.sentry_id


async def frames_of(it: Farm, post: str) -> set[tuple[bytes, int]]:
    """(boot, sequence) of what is kept under this name."""
    rows = await it.db.read(lambda c: c.execute("select boot, seq from frames where sentry = ?", (post,)).fetchall())
    return {(row[0], row[1]) for row in rows}


async def all_kept(it: Farm, post: str, home: Path) -> None:
    """Every frame and record that its journal numbered under its newest boot is there under this name."""

    async def kept() -> bool:
        with contextlib.closing(sqlite3.connect(copy / "journal.db")) as db:
            boot = db.execute("select boot from boots order by no desc limit 1").fetchone()[0]
            names = ("next_frames", "next_records")
            last = [int(db.execute("select value from meta where name = ?", (name,)).fetchone()[0]) - 1 for name in names]
        for table, count in zip(("frames", "records"), last, strict=True):
            asked = f"select count(*) from {table} where sentry = ? and boot = ?"  # noqa: S608  # our own names
            found = await it.db.read(lambda c, asked=asked: c.execute(asked, (post, boot)).fetchone()[0])  # type: ignore[misc]  # bound
            if found != count:
                return False
        return True

    copy = home.with_name(f"{home.name}.looked-at")
    await asyncio.to_thread(copytree, home, copy, dirs_exist_ok=True)
    await until(kept)


@contextlib.asynccontextmanager
async def both(it: Farm, home: Path, sentry_id: str, *machines: bytes) -> AsyncIterator[str]:
    """Both machines run and are connected, the first one as the sentry itself. Gives the other's post."""
    first, second = machines or (A, B)
    async with running(home / "s", machine=first):
        await until(lambda: sentry_id in it.link.sessions())
        async with running(home / "copy", machine=second):
            post = post_name(sentry_id, second)
            await until(lambda: post in it.link.sessions())
            yield post


async def test_both_stay_and_nothing_is_lost(tmp_path: Path) -> None:
    """No session ends, the frames and records of each are kept under its own name and acknowledged, and it is told once."""
    async with farm(tmp_path / "farm") as it:
        sentry_id = await cloned(it, tmp_path)
        it.fleet.reasons.clear()
        async with both(it, tmp_path, sentry_id) as post:
            sessions = {name: info.since_ms for name, info in it.link.sessions().items()}
            await until(lambda: bool(it.fleet.notes))
            wholes = it.fleet.wholes
            await asyncio.sleep(3)
            assert {name: info.since_ms for name, info in it.link.sessions().items()} == sessions
            assert sessions.keys() == {sentry_id, post}
            assert not it.fleet.reasons
            assert it.fleet.open[sentry_id] == 1
            assert it.fleet.wholes == wholes, "the twin's roster is not the sentry's"
            for name in ("s", "copy"):
                (tmp_path / name / "quiet").touch()
            await asyncio.sleep(0.5)
            await goodbye(it, tmp_path / "s")
            await until(lambda: "the test ends" in (tmp_path / "copy" / "status.json").read_text())
        (note,) = it.fleet.notes
        assert (note.kind, note.severity, note.sentry_id) == ("sentry_cloned", "warning", sentry_id)
        assert note.text.count("127.0.0.1:") == 2
        assert "sentry-rig enrol" in note.text
        assert await it.count("resent") == 0
        for name, kept_as in (("s", sentry_id), ("copy", post)):
            assert await left_in(tmp_path / name) == (0, 0)
            await all_kept(it, kept_as, tmp_path / name)


async def test_the_same_boot_on_both(tmp_path: Path) -> None:
    """A disk that was copied before its journal knew its machine: both number on alike, and yet no frame of either is lost."""
    async with farm(tmp_path / "farm") as it:
        sentry_id = await cloned(it, tmp_path, machine=b"")
        async with both(it, tmp_path, sentry_id) as post:
            await asyncio.sleep(1)
            for name in ("s", "copy"):
                (tmp_path / name / "quiet").touch()
            await asyncio.sleep(0.5)
            await goodbye(it, tmp_path / "s")
        mine, other = await frames_of(it, sentry_id), await frames_of(it, post)
        assert {boot for boot, _ in mine} == {boot for boot, _ in other}
        assert mine & other
        await all_kept(it, sentry_id, tmp_path / "s")
        await all_kept(it, post, tmp_path / "copy")
        assert await it.count("resent") == 0


async def test_a_disk_that_moves_begins_a_new_boot(tmp_path: Path) -> None:
    """So that no two machines ever number under one boot, whatever the commander knows."""
    async with farm(tmp_path / "farm") as it:
        sentry_id = await cloned(it, tmp_path)
        async with both(it, tmp_path, sentry_id) as post:
            before = {boot for boot, _ in await frames_of(it, sentry_id)}

            async def under_another() -> bool:
                return bool({boot for boot, _ in await frames_of(it, post)} - before)

            await until(under_another)
            assert {boot for boot, _ in await frames_of(it, sentry_id)} == before


async def test_orders_wait_and_go_when_one_is_left(tmp_path: Path) -> None:
    """Neither machine gets an order while both are about, and the reason is there; no assignment goes to the twin."""
    async with farm(tmp_path / "farm", terms=SOON) as it:
        sentry_id = await cloned(it, tmp_path)
        order = Order("0001", ActionKind.PAUSE, IDENTITY, 60_000, 1)
        async with running(tmp_path / "s", Settings(order_ms=1), machine=A):
            await until(lambda: sentry_id in it.link.sessions())
            async with running(tmp_path / "copy", Settings(order_ms=1), machine=B) as copy:
                await until(lambda: "two machines" in it.actions.held.get(sentry_id, ""))
                assert it.fleet.twins[sentry_id].startswith("127.0.0.1:")
                assert not await it.order(sentry_id, order)
                it.link.reassign(sentry_id)
                await asyncio.sleep(1)
                assert len(copy.post.assigned) == 1, "what stood on its disk, and no more"
                assert not it.actions.reports
            await until(lambda: it.actions.held[sentry_id] == "")
            assert it.fleet.twins[sentry_id] == ""
            await until(lambda: [note.kind for note in it.fleet.notes] == ["sentry_cloned", "sentry_clone_gone"])
            assert it.link.order(sentry_id, order)
            await until(lambda: ActionState.SUCCEEDED in [r.state for r in it.actions.reports])
        assert effects(tmp_path / "s") == ["0001"]
        assert effects(tmp_path / "copy") == []


async def test_a_moved_disk_is_adopted(tmp_path: Path) -> None:
    """The other machine takes the place when the first was silent for long; what it saw meanwhile comes again, under the
    sentry's own name. The first one, should it come back, is then the twin.
    """
    async with farm(tmp_path / "farm", terms=SOON) as it:
        sentry_id = await cloned(it, tmp_path)
        order = Order("0001", ActionKind.PAUSE, IDENTITY, 60_000, 1)
        async with running(tmp_path / "copy", Settings(order_ms=1), machine=B):
            await until(lambda: post_name(sentry_id, B) in it.link.sessions())
            assert "another machine" in it.actions.held[sentry_id]
            assert not await it.order(sentry_id, order)
            await until(lambda: sentry_id in it.link.sessions())
            assert post_name(sentry_id, B) not in it.link.sessions()
            assert it.actions.held[sentry_id] == ""
            await until(lambda: ActionState.SUCCEEDED in [r.state for r in it.actions.reports])
            assert [note.kind for note in it.fleet.notes] == ["sentry_moved"]

            async def all_of_it() -> bool:
                return await frames_of(it, post_name(sentry_id, B)) <= await frames_of(it, sentry_id)

            await until(all_of_it)
            async with running(tmp_path / "s", machine=A):
                await until(lambda: post_name(sentry_id, A) in it.link.sessions())
                await until(lambda: it.fleet.notes[-1].kind == "sentry_cloned")


async def test_an_adopted_clone_brings_nothing_twice(tmp_path: Path) -> None:
    """What it saw beside the first machine stays apart when it takes that one's place, and in every session after."""
    async with farm(tmp_path / "farm", terms=SOON) as it:
        sentry_id = await cloned(it, tmp_path)
        old = {boot for boot, _ in await frames_of(it, sentry_id)}
        async with running(tmp_path / "s", machine=A) as first:
            await until(lambda: sentry_id in it.link.sessions())
            async with running(tmp_path / "copy", machine=B):
                await until(lambda: any(note.kind == "sentry_cloned" for note in it.fleet.notes))
                first.stop.set()
                await first.task
                await until(lambda: post_name(sentry_id, B) not in it.link.sessions() and sentry_id in it.link.sessions())
                beside = {one for one in await frames_of(it, post_name(sentry_id, B)) if one[0] not in old}
                await asyncio.sleep(0.5)
                assert beside
                assert not beside & await frames_of(it, sentry_id)
        async with running(tmp_path / "copy", machine=B):
            await until(lambda: sentry_id in it.link.sessions())
            await asyncio.sleep(0.5)
            assert not beside & await frames_of(it, sentry_id)


async def test_a_restart_forgets_neither(tmp_path: Path) -> None:
    """Whoever comes first after it: the sentry's own machine is that, and orders wait from the first moment."""
    async with farm(tmp_path / "farm") as it:
        sentry_id = await cloned(it, tmp_path)
        async with both(it, tmp_path, sentry_id) as post:
            await until(lambda: bool(it.fleet.notes))
    async with farm(tmp_path / "farm", post_port=it.link.post_port, enrol_port=it.link.enrol_port) as again:
        assert "two machines" in again.actions.held[sentry_id]
        async with running(tmp_path / "copy", machine=B):
            await until(lambda: post in again.link.sessions())
            async with running(tmp_path / "s", machine=A):
                await until(lambda: sentry_id in again.link.sessions())
                assert not await again.order(sentry_id, Order("0001", ActionKind.PAUSE, IDENTITY, 60_000, 1))
                await asyncio.sleep(3)
                assert again.link.sessions().keys() == {sentry_id, post}
                assert not again.fleet.notes, "told a moment ago"


@pytest.mark.parametrize("machines", [(b"", b""), (A, b""), (b"", A)])
async def test_what_is_not_known_changes_nothing(tmp_path: Path, machines: tuple[bytes, bytes]) -> None:
    """A sentry that does not say its machine is who its certificate says: the newest session wins, as ever."""
    async with farm(tmp_path / "farm") as it:
        sentry_id = await cloned(it, tmp_path, machine=machines[0])
        async with running(tmp_path / "s", machine=machines[0]):
            await until(lambda: sentry_id in it.link.sessions())
            async with running(tmp_path / "copy", machine=machines[1]):
                await until(lambda: any("newer session" in reason for reason in it.fleet.reasons))
        assert not it.fleet.notes
        assert not it.actions.held


async def test_revoking_cuts_both(tmp_path: Path) -> None:
    """At once, when it is asked for; and at the next look at the list."""
    async with farm(tmp_path / "farm") as it:
        sentry_id = await cloned(it, tmp_path)
        async with both(it, tmp_path, sentry_id):
            it.access.revoked.add(sentry_id)
            it.link.cut(sentry_id, CertificateRevoked("revoked by the test"))
            await until(lambda: not it.link.sessions())
            for name in ("s", "copy"):
                await until(lambda name=name: "revoked" in (tmp_path / name / "status.json").read_text())  # type: ignore[misc]  # bound


async def test_three(tmp_path: Path) -> None:
    """Each has a name of its own."""
    async with farm(tmp_path / "farm") as it:
        sentry_id = await cloned(it, tmp_path)
        await asyncio.to_thread(copytree, tmp_path / "copy", tmp_path / "third")
        async with both(it, tmp_path, sentry_id) as post, running(tmp_path / "third", machine=C):
            await until(lambda: it.link.sessions().keys() == {sentry_id, post, post_name(sentry_id, C)})
            await until(lambda: len(it.fleet.notes) == 2)
            assert len({note.text for note in it.fleet.notes}) == 2


@pytest.mark.timeout(180)
async def test_as_processes(tmp_path: Path) -> None:
    """Commander and both sentries as processes; the commander is killed in between. All that both saw is there, told once."""
    it, first, second = FarmProcess(tmp_path / "farm"), SentryProcess(tmp_path / "a", machine=A), SentryProcess(tmp_path / "b")
    second.machine = B
    try:
        await it.start()
        sentry_id = await first.enrol(it.told["token"])
        (first.state / "sentry.toml").write_text("every_ms = 50\n[journal]\nmin_free_mb = 0\n")
        await first.start()
        await until(lambda: count(it, "select count(*) from frames") > 10, 60)
        assert await first.stop() == 0
        await asyncio.to_thread(copytree, first.home, second.home)
        await first.start()
        await until(lambda: '"connected"' in (first.state / "status.json").read_text())
        await second.start()
        await until(lambda: count(it, "select count(*) from machines where told_ms > 0") == 1, 60)
        await it.kill()
        await it.start()
        post = post_name(sentry_id, B)
        seen = count(it, "select count(*) from frames where sentry = ?", post)
        await until(lambda: count(it, "select count(*) from frames where sentry = ?", post) > seen + 20, 60)
        for one in (first, second):
            (one.state / "quiet").touch()
        await asyncio.sleep(2)
        assert await first.stop() == 0
        assert await second.stop() == 0
        for home, name in ((first.state, sentry_id), (second.state, post)):
            assert await left_in(home) == (0, 0)
            with contextlib.closing(sqlite3.connect(home / "journal.db")) as db:
                boot = db.execute("select boot from boots order by no desc limit 1").fetchone()[0]
                last = int(db.execute("select value from meta where name = 'next_frames'").fetchone()[0]) - 1
            assert count(it, "select count(*) from frames where sentry = ? and boot = ?", name, boot) == last
        assert count(it, "select count(*) from notes") == 1
    finally:
        await first.kill()
        await second.kill()
        await it.kill()


def count(it: FarmProcess, query: str, *values: object) -> int:
    with contextlib.closing(sqlite3.connect(it.home / "farm.db")) as db:
        return int(db.execute(query, values).fetchone()[0])
