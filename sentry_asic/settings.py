"""The ASIC sentry's own settings, beside what every sentry has."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sentry_core.settings import SentrySettings


class PollSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    every_s: Annotated[float, Meta(description="how often a device is looked at, unless the commander says otherwise", ge=1)] = 10
    slow_every_s: Annotated[float, Meta(description="how often mode, own faults and identity are asked", ge=10)] = 300
    at_once: Annotated[int, Meta(description="devices asked at the same time", ge=1, le=5_000)] = 256


class AsicSettings(SentrySettings, frozen=True, forbid_unknown_fields=True):
    poll: PollSettings = PollSettings()
