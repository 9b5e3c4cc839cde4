"""The devices of a post as last told by it: whole for a new session, changes for a running one."""

from __future__ import annotations

from collections.abc import Sequence

from garrison.model import Device


class Roster:
    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
        self._changed: set[str] = set()
        self._gone: set[str] = set()

    def take(self, devices: Sequence[Device], gone: Sequence[str]) -> bool:
        """Whether anything is new."""
        for identity in gone:
            if self._devices.pop(identity, None) is not None:
                self._changed.discard(identity)
                self._gone.add(identity)
        for device in devices:
            if self._devices.get(device.identity) != device:
                self._devices[device.identity] = device
                self._changed.add(device.identity)
                self._gone.discard(device.identity)
        return bool(self._changed or self._gone)

    def whole(self) -> list[Device]:
        """All of them; what has changed until now is told with it."""
        self._changed.clear()
        self._gone.clear()
        return list(self._devices.values())

    def changes(self) -> tuple[list[Device], list[str]]:
        """New or changed since the last `whole` or `changes`, and what is gone."""
        found = [self._devices[identity] for identity in sorted(self._changed)]
        gone = sorted(self._gone)
        self._changed.clear()
        self._gone.clear()
        return found, gone
