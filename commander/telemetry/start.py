"""What memory is rebuilt from when the commander starts: the newest look at every device, and the looks that no total holds yet."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator

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
    """Looks that hold the newest sample of every device: a few frames a post, not the whole history; of devices that have been
    silent for a while their newest chunk."""
    layouts = hot.Layouts(c)
    posts = store.post_numbers(c)
    wanted: dict[str, dict[int, int]] = {}
    for item in store.seen(c):
        wanted.setdefault(item.sentry, {})[item.key] = item.last_ms
    looks: list[Look] = []
    missing: set[int] = set()
    for name, devices in wanted.items():
        post, salt = posts[name], store.salt_of(name)
        found, left = _newest_at(c, post, salt, devices, layouts)
        looks += found
        missing |= left
        every = (min(devices.values()) - PRESENCE_MS, max(devices.values()) + 1)
        looks += filter(None, (_readable(kept, layouts, salt) for kept in store.wide_frames(c, post, *every)))
    looks += _from_blocks(c, missing)
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


def _newest_at(
    c: sqlite3.Connection, post: int, salt: int, devices: dict[int, int], layouts: hot.Layouts
) -> tuple[list[Look], set[int]]:
    """`devices`: key to the end of the last step of presence in which this post saw it. Looks, and the devices in none of them."""
    looks: list[Look] = []
    left: set[int] = set()
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
        left |= here
    return looks, left


def _from_blocks(c: sqlite3.Connection, keys: Iterable[int]) -> Iterator[Look]:
    columns = Columns(c)
    for key in keys:
        stored = block_store.newest(c, key)
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
