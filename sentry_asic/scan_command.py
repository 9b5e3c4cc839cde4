"""`sentry-asic scan`: ranges by hand or by name, with a progress bar where a person looks on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from garrison.model import Credentials
from sentry_asic.discovery import Found, Manner
from sentry_asic.discovery import scan as search
from sentry_asic.ranges import Network, named, networks_of, order_of, plan
from sentry_asic.settings import AsicSettings, ScanSettings
from sentry_core import guard


@dataclass(frozen=True, slots=True)
class Asked:
    """What stands on the command line. 0: as in the settings."""

    ranges: Sequence[str] = ()
    exclude: Sequence[str] = ()
    connects_per_s: float = 0
    api_port: int = 0
    http_port: int = 0
    credentials: Credentials | None = None


async def scan(asked: Asked, settings: AsicSettings, state_dir: Path, *, progress: bool) -> list[dict[str, Any]]:
    """The devices as rows, in the order of their addresses. BadInput before anything is asked."""
    kept: ScanSettings = settings.scan
    wanted = plan(named(asked.ranges, kept.ranges), [*kept.exclude, *asked.exclude], allowed_networks(state_dir))
    manner = Manner(asked.connects_per_s or kept.connects_per_s, kept.at_once)
    with _bar(wanted.count, shown=progress and sys.stderr.isatty()) as on_asked:
        scanned = search(
            wanted,
            api_port=asked.api_port or kept.api_port,
            http_port=asked.http_port or kept.http_port,
            credentials=asked.credentials,
            manner=manner,
            on_asked=on_asked,
        )
        rows = [_row(device) async for device in scanned]
    return sorted(rows, key=lambda row: order_of(row["address"]))


def allowed_networks(state_dir: Path) -> tuple[Network, ...]:
    """Private ones, and what the owner wrote into the guard file. GuardRefused when that file makes no sense."""
    return networks_of(guard.load(state_dir).scan_networks if (state_dir / guard.FILE).exists() else ())


def _row(device: Found) -> dict[str, Any]:
    seen = device.seen
    told = {name: (getattr(seen, name) or None) if seen else None for name in ("make", "model", "mac", "firmware", "serial")}
    return {"address": device.address, **told, "state": device.state, "error": device.error}


@contextlib.contextmanager
def _bar(count: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=count)
        yield lambda: bar.advance(task)
