"""Frames on disk, read back as looks or as the rows of one device."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator

import numpy as np

from commander.telemetry import clocks, columns, store
from commander.telemetry.columns import Look
from commander.telemetry.store import Kept
from commander.telemetry.table import Table, merged, sorted_table
from garrison import frame
from garrison.faults import BadFrame, Broken, TimedOut
from garrison.frame import Layout, Series


class Layouts:
    """The layouts of frames, each read once."""

    def __init__(self, c: sqlite3.Connection) -> None:
        self._c = c
        self._known: dict[int, Layout] = {}

    def __getitem__(self, number: int) -> Layout:
        """Broken: it was changed on disk."""
        if number not in self._known:
            self._known[number] = store.layout(self._c, number)
        return self._known[number]


def look(kept: Kept, layout: Layout, salt: int) -> Look:
    """Its samples with corrected times and the keys of its post. BadFrame: the disk has harmed it."""
    found = columns.look(frame.parse(layout, kept.body), salt)
    return found.at(clocks.corrected(found.at_ms, kept.received_ms, kept.ahead_ms))


def rows_of(
    c: sqlite3.Connection, key: int, from_ms: int, to_ms: int, wanted: Collection[Series] | None, stop: threading.Event
) -> tuple[Table, int]:
    """The device's samples in [from, to) that are not sealed yet, and how many frames do not read. TimedOut when `stop` is set."""
    layouts = Layouts(c)
    tables: list[Table] = []
    unreadable = 0
    for post, salt in store.posts_of_device(c, key, from_ms, to_ms):
        for kept in store.frames_of_post(c, post, from_ms, to_ms):
            if stop.is_set():
                raise TimedOut("reading the history took too long", hint="ask for a shorter time")
            try:
                tables += _rows_in(kept, layouts[kept.layout], key, salt, wanted)
            except (BadFrame, Broken):
                unreadable += 1  # it was good when it came: the disk has harmed it
    return merged(tables).between(from_ms, to_ms), unreadable


def _rows_in(kept: Kept, layout: Layout, key: int, salt: int, wanted: Collection[Series] | None) -> Iterator[Table]:
    raw = frame.parse(layout, kept.body)
    samples = np.flatnonzero(columns.keys(raw) == np.uint64(key ^ salt))
    if not len(samples):
        return
    places = [place for place, column in enumerate(layout.columns) if wanted is None or (column.metric, column.component) in wanted]
    at_ms = clocks.corrected(columns.times_ms(raw), kept.received_ms, kept.ahead_ms)[samples]
    scaled = np.zeros((len(places), len(samples)), np.int64)
    valid = np.ones(scaled.shape, np.bool_)
    odd = {}
    for row, place in enumerate(places):
        for i, sample in enumerate(samples.tolist()):
            found = columns.scaled_at(raw.columns[place], sample)
            if found is None:
                valid[row, i] = False
            else:
                scaled[row, i] = found
        for sample, value in raw.columns[place].odd:
            where = np.flatnonzero(samples == sample)
            if len(where):
                odd[row, int(where[0])] = value
    kept_columns = tuple(layout.columns[place] for place in places)
    yield sorted_table(kept_columns, at_ms, scaled, None if valid.all() else valid, odd)
