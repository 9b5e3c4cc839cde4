"""What every sentry may be told in `sentry.toml`. Each kind adds a table of its own by subclassing `SentrySettings`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FILE = "sentry.toml"


class JournalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cap_mb: Annotated[
        int,
        Meta(ge=8, le=1_000_000, description="the journal's size; beyond it the oldest looks go, events and results never"),
    ] = 1024
    keep_acked_h: Annotated[
        int, Meta(ge=0, le=720, description="how long looks are kept that the commander has: a restored one is refilled from here")
    ] = 24
    min_free_mb: Annotated[int, Meta(ge=0, le=1_000_000, description="the journal stops growing when the disk has less free")] = 200


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: Annotated[Literal["auto", "json", "plain"], Meta(description="auto: plain on a terminal, JSON otherwise")] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level that is written")] = "info"


class SentrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    commander: Annotated[
        str, Meta(description="host:port of the commander; empty: what it said when this sentry was enrolled", max_length=300)
    ] = ""
    journal: JournalSettings = JournalSettings()
    log: Log = Log()


def home_of(option: Path | None = None) -> Path:
    """The farm's home: `--home`, else $GARRISON_HOME, else ./farm where there is one, else the system's place."""
    if option is not None:
        return option.absolute()
    if os.environ.get("GARRISON_HOME"):
        return Path(os.environ["GARRISON_HOME"]).absolute()
    if Path("farm").is_dir():
        return Path("farm").absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", "C:\\ProgramData")) / "Garrison"
    else:  # noqa: RET505  # with `else` mypy knows what belongs to which platform
        return Path("/var/lib/garrison")
