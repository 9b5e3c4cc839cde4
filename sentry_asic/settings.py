"""The ASIC sentry's own settings, beside what every sentry has."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from garrison.faults import BadInput
from sentry_asic.ranges import parse
from sentry_core.settings import SentrySettings


class PollSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    every_s: Annotated[float, Meta(description="how often a device is looked at, unless the commander says otherwise", ge=1)] = 10
    slow_every_s: Annotated[float, Meta(description="how often mode, own faults and identity are asked", ge=10)] = 300
    at_once: Annotated[int, Meta(description="devices asked at the same time", ge=1, le=5_000)] = 256


class ScanSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ranges: Annotated[
        dict[str, tuple[str, ...]],
        Meta(
            description="where devices are looked for, by name: networks, first-last, or single addresses, such as\n"
            '{ hall-a = ["10.0.0.0/24"], hall-b = ["10.0.1.10-10.0.1.90", "10.0.1.200"] }'
        ),
    ] = {}
    exclude: Annotated[tuple[str, ...], Meta(description="addresses that are never asked, written the same way")] = ()
    every_s: Annotated[
        int, Meta(description="how often the running sentry looks through them; 0: only `scan` does", ge=0, le=604_800)
    ] = 3600
    mdns: Annotated[bool, Meta(description="each time also ask the network by mDNS for Bitaxes and others with AxeOS")] = False
    ip_reports: Annotated[
        bool,
        Meta(description='hear the "IP report" buttons of Antminers and Whatsminers (opens the UDP ports 14235 and 8888)'),
    ] = False
    connects_per_s: Annotated[float, Meta(description="most new connections a second", ge=1, le=10_000)] = 100
    at_once: Annotated[int, Meta(description="addresses asked at the same time", ge=1, le=2_000)] = 128
    api_port: Annotated[int, Meta(description="port of the devices' API; 0: the make's own", ge=0, le=65_535)] = 0
    http_port: Annotated[int, Meta(description="port of their web pages; 0: the make's own", ge=0, le=65_535)] = 0

    def __post_init__(self) -> None:
        try:
            for text in (*self.exclude, *(one for ranges in self.ranges.values() for one in ranges)):
                parse(text)
        except BadInput as fault:
            raise ValueError(str(fault)) from fault


class AsicSettings(SentrySettings, frozen=True, forbid_unknown_fields=True):
    poll: PollSettings = PollSettings()
    scan: ScanSettings = ScanSettings()
