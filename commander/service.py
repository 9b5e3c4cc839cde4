"""The commander as a system service."""

from __future__ import annotations

from sentry_core.service import Daemon

DAEMON = Daemon("garrison-commander", "Garrison commander", ("commander", "run"), "commander")
