"""Deny by default: a method that `access.policy` does not name for this port is refused before its handler is looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from commander.access import policy
from commander.link.refusal import Context, refuse
from garrison.faults import NotAllowed


class PolicyGuard(grpc.aio.ServerInterceptor):
    """`opened_to`: whom this port serves, `policy.SENTRY` or `policy.ANYBODY`."""

    def __init__(self, opened_to: str) -> None:
        self._opened_to = opened_to

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if policy.GRPC.get(handler_call_details.method) == self._opened_to:
            return await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_deny)


async def _deny(_: object, context: Context) -> None:
    await refuse(context, NotAllowed("no policy names this method", hint="sentries use garrison.v1.Post and garrison.v1.Enrolment"))
