"""gRPC channels of a sentry, and gRPC's errors as ours: the only place in `sentry_core` that reads its status codes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc

from garrison import wire
from garrison.faults import Fault, TimedOut, Unavailable, Unreachable, from_wire
from garrison.join import SERVER_NAME

T = TypeVar("T")
CONNECT_S = 10.0
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 8_000
"""A half-open link is found after both together. gRPC does not take less than 10 s."""

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.ssl_target_name_override", SERVER_NAME),  # the farm's CA vouches for the commander, wherever it stands
    ("grpc.use_local_subchannel_pool", 1),  # a fresh try is a fresh connection: no backoff of an older channel
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # without it (default 60 s) a busy stream is not found dead
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE),
    ("grpc.max_send_message_length", wire.MAX_MESSAGE),
)


def post_channel(address: str, roots_pem: bytes, key_pem: bytes, chain_pem: bytes) -> grpc.aio.Channel:
    """Mutual TLS, with our certificate."""
    credentials = grpc.ssl_channel_credentials(roots_pem, key_pem, chain_pem)
    return grpc.aio.secure_channel(address, credentials, _OPTIONS)


def enrol_channel(address: str, roots_pem: bytes) -> grpc.aio.Channel:
    """Server TLS only."""
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots_pem), _OPTIONS)


async def answered(call: Awaitable[T], address: str) -> T:
    """What a call returns; whatever keeps it from that is a Fault."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise fault_of(error, address) from error


def cancelled_by_us() -> bool:
    """Asked in `except CancelledError` while reading: gRPC raises it also in the reader of a stream whose *write* ran out of time.
    Taken for our own end it would end the session's task in silence, and the sentry would never connect again."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def fault_of(error: grpc.aio.AioRpcError, address: str) -> Fault:
    """What the commander said when it refused, or what kept us from it."""
    trailing = error.trailing_metadata() or ()
    code = next((value for key, value in trailing if key == wire.FAULT_KEY), None)
    text = error.details() or ""
    if isinstance(code, str):
        return from_wire(code, text)
    status = error.code()
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(f"the commander at {address} did not answer in time")
    if status is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(f"no connection to the commander at {address}: {text}")
    return Unavailable(f"the commander at {address} answered {status.name.lower()}: {text}")
