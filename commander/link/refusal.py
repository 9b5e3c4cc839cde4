"""A fault as the status of a gRPC call: its code travels in the trailing metadata, its words as the status text."""

from __future__ import annotations

import logging
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc

from garrison import wire
from garrison.faults import BadInput, Conflict, Fault, IdentityRefused, NotAllowed, NotFound, Refused, Unavailable, VersionMismatch

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_STATUS: tuple[tuple[type[Fault], grpc.StatusCode], ...] = (
    (IdentityRefused, grpc.StatusCode.UNAUTHENTICATED),
    (NotAllowed, grpc.StatusCode.PERMISSION_DENIED),
    (Conflict, grpc.StatusCode.FAILED_PRECONDITION),
    (VersionMismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (Refused, grpc.StatusCode.PERMISSION_DENIED),
    (BadInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)


async def refuse(context: Context, fault: Fault, sentry_id: str = "") -> NoReturn:
    """Logs it in our words and ends the call with it."""
    extra = {"address": address_of(context), "fault": fault.code, "text": str(fault)}
    log.warning("a sentry was refused", extra={**extra, "sentry": sentry_id} if sentry_id else extra)
    status = next((status for kind, status in _STATUS if isinstance(fault, kind)), grpc.StatusCode.INTERNAL)
    await context.abort(status, str(fault)[:2000], ((wire.FAULT_KEY, fault.code),))


def address_of(context: Context) -> str:
    """host:port of the other side, as people write it."""
    kind, _, rest = unquote(context.peer()).partition(":")
    return rest if kind in ("ipv4", "ipv6") else f"{kind}:{rest}"


def host_of(context: Context) -> str:
    return address_of(context).rpartition(":")[0]
