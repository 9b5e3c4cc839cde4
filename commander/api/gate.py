"""What every request passes before the application sees it: who asks, which route it is, whether the policy lets them.

A route without a row in the policy is there for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commander.access import policy
from commander.api.app import answer
from commander.model import Caller
from garrison.faults import BadInput, Fault, IdentityRefused, NotAllowed, NotFound, NotSupported

MAX_BODY = 1 << 20
MOST_TAKEN = 16 << 20
"""So much of a request that is refused is still read: who cannot finish sending does not see why it was refused."""
BODY_LIMIT_S = 30.0

TokenCheck = Callable[[str], Caller | None]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """`status` None: what the fault stands for."""

    fault: Fault
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


class _Gone(Exception):
    """Whoever asked has hung up."""


class _TooLarge(Exception):
    """`whole`: all of it was read, so that the connection can go on."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole


class Gate:
    """ASGI. `local`: everybody who gets here is the administrator, because the socket's file mode was the login."""

    def __init__(self, app: FastAPI, token_check: TokenCheck, *, local: bool) -> None:
        self._app: ASGIApp = app
        self._routes = app.router.routes
        self._token_check = token_check
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server below knows better and sends no body
        refusal = self._let_in(scope)
        whole = True
        try:
            body = await _taken(receive)
        except _Gone:
            return
        except _TooLarge as error:
            whole = error.whole
            refusal = refusal or _Refusal(BadInput(f"the request is larger than {MAX_BODY} bytes"), 413)
        except TimeoutError:
            whole = False
            refusal = refusal or _Refusal(BadInput(f"the request did not arrive within {BODY_LIMIT_S:.0f} s"), 408)
        if refusal is not None:
            headers = refusal.headers if whole else {**refusal.headers, "connection": "close"}
            await answer(refusal.fault, refusal.status, headers)(scope, receive, send)
        else:
            await self._app(scope, _given(body, receive), send)

    def _let_in(self, scope: Scope) -> _Refusal | None:
        try:
            caller = self._caller(scope)
        except IdentityRefused as fault:
            return _Refusal(fault)
        scope.setdefault("state", {})["caller"] = caller
        template, others = self._route(scope)
        if template is None and others:
            there = ", ".join(sorted(others))
            return _Refusal(NotSupported(f"no {scope['method']} here", hint=f"there is {there}"), 405, {"allow": there})
        if template is None:
            return _Refusal(NotFound("no such address", hint="/api/openapi.json lists them all"))
        if policy.allowed(caller, scope["method"], template):
            return None
        if caller is None:
            return _Refusal(IdentityRefused("this needs a token", hint="send it as `Authorization: Bearer …`"))
        return _Refusal(NotAllowed(f"{caller.name} ({caller.role}) may not {scope['method']} {template}"))

    def _caller(self, scope: Scope) -> Caller | None:
        if self._local:
            return Caller("local", "administrator", "unix socket", local=True)
        address = scope["client"][0] if scope.get("client") else ""
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, token = value.decode("latin-1").partition(" ")
                known = self._token_check(token.strip()) if scheme.lower() == "bearer" else None
                if known is None:
                    raise IdentityRefused("this token is not known here, or is no longer valid")
                return Caller(known.name, known.role, address)
        return None

    def _route(self, scope: Scope) -> tuple[str | None, set[str]]:
        """The template of the route that will answer, or None and the methods that the address has."""
        others: set[str] = set()
        for route in self._routes:
            if isinstance(route, Route):
                match, _ = route.matches(scope)
                if match is Match.FULL:
                    return route.path, set()
                if match is Match.PARTIAL:
                    others |= route.methods or set()
        return None, others


async def _taken(receive: Receive) -> bytes:
    """The whole body. _Gone, _TooLarge, TimeoutError."""
    parts: list[bytes] = []
    size, more = 0, True
    async with asyncio.timeout(BODY_LIMIT_S):
        while more and size <= MOST_TAKEN:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size <= MAX_BODY:
                parts.append(part)
            else:
                parts.clear()
    if size > MAX_BODY:
        raise _TooLarge(whole=not more)
    return b"".join(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    """As if it had not been read yet."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again
