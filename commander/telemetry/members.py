"""Which device was in which group when. In memory, followed from the fleet, kept in hot.db.

A total belongs to the group a device was in at that time, so what once was is never changed: a device that moves ends one
membership and begins another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from commander.telemetry.columns import Ints
from commander.telemetry.levels import STEP_MS
from commander.telemetry.totals_store import Group, Membership

FARM: Group = ("farm", "")
KINDS = ("farm", "site", "rack", "model", "coin", "tag")
_FOR_EVER = 2**62

_Spans = tuple[Ints, Ints]
"""When memberships of a group began and when they ended, each sorted."""


class Members:
    """`known`: what the database holds."""

    def __init__(self, known: Iterable[Membership] = ()) -> None:
        self._of_key: dict[int, list[Membership]] = {}
        for one in known:
            self._of_key.setdefault(one.key, []).append(one)
        self.changes = 0
        """How often it was changed."""
        self._spans: dict[str, tuple[int, dict[str, _Spans]]] = {}

    def follow(self, now: Mapping[int, Iterable[Group]], now_ms: int) -> list[Membership]:
        """The fleet as it is: what began and what ended, to be written; memory changes with `take` after that. A change counts
        from the next whole step, so that a step is of one group."""
        at_ms = -(-now_ms // STEP_MS) * STEP_MS
        changed: list[Membership] = []
        for key, groups in now.items():
            wanted = set(groups)
            for one in self._of_key.get(key, ()):
                if one.to_ms is None and one.group in wanted:
                    wanted.discard(one.group)
                elif one.to_ms is None:
                    changed.append(Membership(key, one.group, one.from_ms, max(at_ms, one.from_ms)))
            # whoever is new was there before we were told: its first samples are in the step that runs
            first_ms = at_ms if key in self._of_key else at_ms - STEP_MS
            changed += [Membership(key, group, first_ms, None) for group in sorted(wanted)]
        for key, known in self._of_key.items():
            if key not in now:
                changed += [Membership(key, one.group, one.from_ms, max(at_ms, one.from_ms)) for one in known if one.to_ms is None]
        return changed

    def take(self, changed: Iterable[Membership]) -> None:
        """What `follow` found, now that it is durable."""
        for one in changed:
            kept = [old for old in self._of_key.get(one.key, ()) if (old.group, old.from_ms) != (one.group, one.from_ms)]
            self._of_key[one.key] = [*kept, one]
        self.changes += 1

    def groups_at(self, key: int, at_ms: int) -> list[Group]:
        return [one.group for one in self._of_key.get(key, ()) if one.from_ms <= at_ms < (one.to_ms or _FOR_EVER)]

    def first_groups(self, key: int) -> list[Group]:
        """Of a device whose samples are older than our knowledge of it: where it was first."""
        known = self._of_key.get(key, ())
        first_ms = min((one.from_ms for one in known), default=0)
        return [one.group for one in known if one.from_ms == first_ms]

    def groups_for(self, key: int, at_ms: int) -> list[Group]:
        """As `groups_at`; before the first that is known, the first."""
        found = self.groups_at(key, at_ms)
        known = self._of_key.get(key, ())
        if not found and known and at_ms < min(one.from_ms for one in known):
            return self.first_groups(key)
        return found

    def groups_during(self, key: int, first_ms: int, end_ms: int) -> list[tuple[int, int, list[Group]]]:
        """(from, to, groups) spans that make up [first_ms, end_ms); mostly one."""
        cuts = {first_ms, end_ms}
        for one in self._of_key.get(key, ()):
            cuts |= {at_ms for at_ms in (one.from_ms, one.to_ms) if at_ms is not None and first_ms < at_ms < end_ms}
        times = sorted(cuts)
        return [(from_ms, to_ms, self.groups_for(key, from_ms)) for from_ms, to_ms in pairwise(times)]

    def counts(self, kind: str, at_ms: Ints) -> dict[str, NDArray[np.int64]]:
        """Name to how many devices the group had at each time. In any thread."""
        changes = self.changes
        made, spans = self._spans.get(kind, (-1, {}))
        if made != changes:
            spans = self._sorted(kind)
            self._spans[kind] = changes, spans
        return {
            name: np.searchsorted(begun, at_ms, side="right") - np.searchsorted(ended, at_ms, side="right")
            for name, (begun, ended) in spans.items()
        }

    def _sorted(self, kind: str) -> dict[str, _Spans]:
        begins: dict[str, list[int]] = {}
        ends: dict[str, list[int]] = {}
        for one in self._every():
            if one.group[0] == kind:
                begins.setdefault(one.group[1], []).append(one.from_ms)
                ends.setdefault(one.group[1], []).append(one.to_ms or _FOR_EVER)
        return {
            name: (np.sort(np.array(begun, np.int64)), np.sort(np.array(ends[name], np.int64))) for name, begun in begins.items()
        }

    def now_in(self, kind: str) -> dict[str, set[int]]:
        """Name to the devices that are in the group."""
        found: dict[str, set[int]] = {}
        for one in self._every():
            if one.group[0] == kind and one.to_ms is None:
                found.setdefault(one.group[1], set()).add(one.key)
        return found

    def _every(self) -> Iterator[Membership]:
        for known in list(self._of_key.values()):  # at once: the event loop may add a device meanwhile
            yield from known
