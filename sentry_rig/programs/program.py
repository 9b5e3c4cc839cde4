"""What the driver of one mining program offers. Reading (I/O) and parsing (pure, takes bytes) are apart in each driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from garrison.model import PoolOrder


@dataclass(frozen=True, slots=True)
class Api:
    """Where the program's own API listens; chosen by the sentry, new for every start."""

    port: int
    token: str = field(repr=False)
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Named:
    """A pool that the arguments name, in their order. `place`: as the program's API will name it, "host:port"."""

    url: str
    user: str
    place: str


@dataclass(frozen=True, slots=True)
class RawLook:
    """What the API sent. None: this question is optional and was not answered."""

    main: bytes = field(repr=False)
    parts: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PartReading:
    """One card, as the program sees it. `pci` is "0000:01:00.0", empty when not told. Units: H/s."""

    pci: str
    name: str = ""
    hashrate_hs: float | None = None


@dataclass(frozen=True, slots=True)
class MinerReading:
    """One look at a program. Every value is what it said, in base units, or None."""

    version: str = ""
    algorithm: str | None = None
    pool: str | None = None  # "host:port"; None: no connection told
    connected: bool | None = None
    paused: bool | None = None
    hashrate_hs: float | None = None  # the shortest window
    hashrate_avg_hs: float | None = None  # the longest window that has samples
    accepted: int | None = None
    rejected: int | None = None
    uptime_s: int | None = None
    ping_ms: int | None = None
    parts: tuple[PartReading, ...] | None = None  # None: failed to ask
    facts: Mapping[str, str] = field(default_factory=dict)


class Program(Protocol):
    """A driver: one file, one line in the table, one fixture folder."""

    name: str
    title: str
    set_aside: tuple[str, ...]
    """Files of the program's own archive that would change what it mines: renamed after unpacking."""

    def arguments(self, given: Sequence[str], pools: Sequence[PoolOrder], algorithm: str) -> list[str]:
        """The owner's arguments, completed with the sheet's pools and algorithm where they name none.

        Raises BadInput (makes no sense, or no pool with a user), NotAllowed (would take the program out of our hands).
        """
        ...

    def pools(self, arguments: Sequence[str]) -> list[Named]:
        """The pools of completed arguments, in order of preference."""
        ...

    def payouts(self, arguments: Sequence[str]) -> list[str]:
        """Every user or wallet the arguments would mine to, for the guard."""
        ...

    def command(self, executable: Path, arguments: Sequence[str], api: Api) -> list[str]:
        """The argument list to start, with our own flags for the API and the output."""
        ...

    async def read(self, api: Api) -> RawLook:
        """I/O. Raises Unreachable, TimedOut, BadAnswer, WrongPassword (the token was refused)."""
        ...

    def parse(self, raw: RawLook) -> MinerReading:
        """Pure. Raises BadAnswer for what is unreadable; never a zero in its place."""
        ...

    async def pause(self, api: Api) -> None:
        """Asks the program to stop hashing. Only a later read shows whether it did."""
        ...

    async def resume(self, api: Api) -> None: ...
