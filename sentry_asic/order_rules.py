"""When an order to an ASIC has had its effect. Pure: decided from what a later look showed, never from what a call returned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from garrison.faults import BadInput
from garrison.model import Pool, PoolOrder
from sentry_asic.make import Reading

_SLACK_S = 3.0
"""Devices round their uptime, and our clock and theirs tick apart."""


def restarted(reading: Reading, *, since_order_s: float, was_away: bool) -> bool:
    """Whether its miner began after the order. `was_away`: it did not answer in between; for firmware that tells no uptime."""
    if reading.uptime_s is not None:
        return reading.uptime_s <= since_order_s + _SLACK_S
    return was_away and (reading.booting is True or reading.asleep is True or reading.mining is True)


def sleeps(reading: Reading, wanted: bool) -> bool:
    """Whether it sleeps, or for `wanted` False is awake (starting up counts)."""
    if wanted:
        return reading.asleep is True
    return reading.asleep is False and (reading.mining is True or reading.booting is True or (reading.uptime_s or 0) > 0)


def holds_pools(configured: Sequence[Pool] | Sequence[PoolOrder], wanted: Sequence[PoolOrder]) -> bool:
    """Whether these pools, in this order, are what is wanted. Empty slots do not count."""
    held = [(same_address(pool.url), pool.user) for pool in configured if pool.url]
    return held == [(same_address(pool.url), pool.user) for pool in wanted]


def mines_on(reading: Reading, wanted: Sequence[PoolOrder]) -> tuple[bool, str]:
    """Whether it mines on one of the wanted pools, and if not what is in the way."""
    if reading.pools is None:
        return False, "it does not tell its pools"
    if not holds_pools(reading.pools, wanted):
        return False, "it still works with other pools"
    if not reading.mining:
        return False, "it does not mine"
    alive = [pool for pool in reading.pools if pool.url and pool.state == "alive" and pool.active is not False]
    if not alive:
        return False, "no pool is alive"
    return True, f"mines on {alive[0].url} as {alive[0].user}"


def same_address(url: str) -> tuple[str, int | None]:
    """Host and port, which is what a pool is: firmware adds and drops schemes."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        return (parts.hostname or "").lower(), parts.port
    except ValueError:
        return url.lower(), None


def check_pools(pools: Sequence[PoolOrder], most: int, *, forbidden: str = "") -> tuple[PoolOrder, ...]:
    """The pools when a device can hold them, else BadInput. `forbidden`: characters that its commands are made of."""
    if not 0 < len(pools) <= most:
        raise BadInput(f"this device takes 1 to {most} pools, not {len(pools)}")
    bad = re.compile(rf"[\x00-\x20\x7f{re.escape(forbidden)}]")
    for pool in pools:
        if not pool.url or bad.search(pool.url + pool.user + pool.password):
            hint = f"no spaces or control characters{' and none of ' + forbidden if forbidden else ''}"
            raise BadInput(f"a pool cannot be {pool.url!r} with user {pool.user!r}", hint=hint)
    return tuple(pools)
