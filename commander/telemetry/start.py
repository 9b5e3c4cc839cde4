"""What memory is rebuilt from when the commander starts: the newest look at every device, and the looks that no total holds yet."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping

import numpy as np

from commander.telemetry import block_store, clocks, hot, store
from commander.telemetry.block_store import Columns
from commander.telemetry.columns import Look
from commander.telemetry.ingest import PRESENCE_MS
from commander.telemetry.levels import HOUR_MS
from garrison.faults import BadFrame, BadInput, Broken
from garrison.frame import Layout

log = logging.getLogger(__name__)

_LIVE_MS = HOUR_MS


def newest_looks(c: sqlite3.Connection) -> list[Look]:
    """Looks that hold the newest sample of every device: a few frames a post, not the whole history; and where what is sealed is
    newer, that."""
    layouts = hot.Layouts(c)
    posts = store.post_numbers(c)
    wanted: dict[str, dict[int, int]] = {}
    for item in store.seen(c):
        wanted.setdefault(item.sentry, {})[item.key] = item.last_ms
    looks: list[Look] = []
    for name, devices in wanted.items():
        post, salt = posts[name], store.salt_of(name)
        looks += _newest_at(c, post, salt, devices, layouts)
        every = (min(devices.values()) - PRESENCE_MS, max(devices.values()) + 1)
        looks += filter(None, (_readable(kept, layouts, salt) for kept in store.wide_frames(c, post, *every)))
    newest_ms = {key: 0 for devices in wanted.values() for key in devices}
    for look in looks:
        for key, at_ms in zip(look.keys.tolist(), look.at_ms.tolist(), strict=True):
            newest_ms[key] = max(at_ms, newest_ms.get(key, 0))
    looks += _from_blocks(c, newest_ms)
    return looks


def unsealed_looks(c: sqlite3.Connection) -> list[tuple[str, Look]]:
    """Looks with samples that are not in the totals of groups, of the last hour, by post and in the order of arrival."""
    layouts = hot.Layouts(c)
    posts = store.post_numbers(c)
    found: list[tuple[str, Look]] = []
    for name, sealed_ms in store.sealed(c).items():
        newest = next(iter(store.newest_frames(c, posts[name], 2**62)), None)
        if newest is None:
            continue
        frames = store.frames_of_post(c, posts[name], max(sealed_ms, newest.first_ms - _LIVE_MS), 2**62)
        for kept in sorted(frames, key=lambda kept: kept.id):
            look = _readable(kept, layouts, store.salt_of(name))
            if look is not None:
                found.append((name, look))
    return found


def set_back(c: sqlite3.Connection, sealed_ms: int) -> list[tuple[str, list[Look]]]:
    """In the writer. Posts that are said to be sealed for longer than that are not: the clock was ahead. Each with its looks since
    then."""
    layouts = hot.Layouts(c)
    posts = store.post_numbers(c)
    found: list[tuple[str, list[Look]]] = []
    for name in [name for name, at_ms in store.sealed(c).items() if at_ms > sealed_ms]:
        store.set_sealed(c, name, sealed_ms)
        frames = sorted(store.frames_of_post(c, posts[name], sealed_ms, 2**62), key=lambda kept: kept.id)
        looks = (_readable(kept, layouts, store.salt_of(name)) for kept in frames)
        found.append((name, [look for look in looks if look is not None]))
    return found


def _newest_at(c: sqlite3.Connection, post: int, salt: int, devices: dict[int, int], layouts: hot.Layouts) -> list[Look]:
    """`devices`: key to the end of the last step of presence in which this post saw it. Each in its newest frame, if it is in one
    of about that time."""
    looks: list[Look] = []
    for end_ms in sorted(set(devices.values()), reverse=True):
        here = {key for key, last_ms in devices.items() if last_ms == end_ms}
        for kept in store.newest_frames(c, post, end_ms):
            look = _readable(kept, layouts, salt)
            held = here.intersection(look.keys.tolist()) if look is not None else None
            if held and look is not None:
                looks.append(look)
                here -= held
            if not here or kept.first_ms < end_ms - PRESENCE_MS - clocks.WIDE_MS:
                break
    return looks


def _from_blocks(c: sqlite3.Connection, newest_ms: Mapping[int, int]) -> Iterator[Look]:
    """Of each device whose newest sealed look is newer than that time."""
    columns = Columns(c)
    for key, known_ms in newest_ms.items():
        stored = block_store.newest(c, key, known_ms)
        if stored is None:
            continue
        try:
            table = block_store.read(stored, columns)
            layout = Layout(table.columns)
        except (Broken, BadInput) as fault:
            log.warning("a chunk on disk does not read any more", extra={"text": fault.text})
            continue
        valid = None if table.valid is None else table.valid[:, -1:]
        odd = {(place, 0): value for (place, row), value in table.odd.items() if row == len(table) - 1}
        yield Look(layout, np.array([key], np.uint64), table.at_ms[-1:], table.scaled[:, -1:], valid, 0, odd)


def _readable(kept: store.Kept, layouts: hot.Layouts, salt: int) -> Look | None:
    try:
        return hot.look(kept, layouts[kept.layout], salt)
    except (BadFrame, Broken) as fault:
        log.warning("a frame on disk does not read any more", extra={"text": fault.text})
        return None
