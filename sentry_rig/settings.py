"""What the owner of a rig may set; a table in the sentry's TOML file."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
from msgspec import Meta

from sentry_core.settings import SentrySettings

_REBOOT = ["shutdown", "/r", "/t", "5"] if sys.platform == "win32" else ["systemctl", "reboot"]


class RigSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    poll_every_s: Annotated[float, Meta(ge=1, le=3600, description="how often to look at the machine and its miner")] = 10
    hashrate_floor_hs: Annotated[float, Meta(ge=0, description="below this the rig is degraded; 0: any hashrate will do")] = 0
    starting_grace_s: Annotated[
        float, Meta(ge=0, le=3600, description="how long a miner may take after its start until it hashes (datasets, tuning)")
    ] = 180
    stop_limit_s: Annotated[float, Meta(ge=1, le=300, description="how long a miner may take to stop before it is killed")] = 20
    api_port_first: Annotated[
        int, Meta(ge=1024, le=65535, description="miners' APIs listen on 127.0.0.1, on a free port from here")
    ] = 29100
    api_port_last: Annotated[int, Meta(ge=1024, le=65535, description="... to here")] = 29199
    log_max_mb: Annotated[
        float, Meta(gt=0, le=1024, description="the miner's log is turned over at this size; three old ones are kept")
    ] = 4

    restarts_max: Annotated[
        int, Meta(ge=0, le=1000, description="crashed miners are restarted so often within the window, then held")
    ] = 5
    restarts_window_s: Annotated[float, Meta(ge=1, le=86400, description="the window for restarts_max")] = 1800
    restarts_hold_s: Annotated[
        float,
        Meta(
            ge=1, le=604800, description="a held miner is tried again after this; an order to restart or a new sheet ends it sooner"
        ),
    ] = 3600
    restart_backoff_s: Annotated[
        float, Meta(ge=0.05, le=600, description="wait before the first restart; doubles each time, to 60 s")
    ] = 2

    reboot_command: Annotated[list[str], Meta(min_length=1, description="what `reboot` runs, as a list; no shell")] = msgspec.field(
        default_factory=lambda: list(_REBOOT)
    )
    reboot_within_s: Annotated[float, Meta(ge=1, le=3600, description="a reboot that has not begun by then has failed")] = 180

    archive_folder: Annotated[str, Meta(description="programs given by path must lie in here; empty: anywhere on this machine")] = (
        ""
    )
    archive_sha256: Annotated[
        list[str], Meta(description="only programs with these hashes may run, whatever the commander says; empty: any pinned one")
    ] = []
    downloads: Annotated[bool, Meta(description="whether a program may be fetched from the https address an order names")] = True
    download_max_mb: Annotated[float, Meta(gt=0, le=10240, description="largest archive taken")] = 600
    download_within_s: Annotated[float, Meta(ge=1, le=86400, description="a download that takes longer is given up")] = 900

    nvml_deadline_s: Annotated[
        float, Meta(ge=0.2, le=60, description="a look at the NVIDIA cards that takes longer is written off")
    ] = 5


class RigSentrySettings(SentrySettings, frozen=True, forbid_unknown_fields=True):
    """The whole `sentry.toml` of a rig."""

    rig: RigSettings = RigSettings()
