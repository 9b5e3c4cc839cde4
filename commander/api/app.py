"""The FastAPI application: every request passes the gate, and only routes that a policy names exist for it.

`application` is served twice: on the Unix socket, where file permissions are the login, and on TCP, where a token is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commander.access import policy
from commander.model import Caller
from garrison import faults
from garrison.faults import BadInput, Fault, NotAllowed, NotFound

log = logging.getLogger(__name__)
MAX_BODY = 1 << 20

STATUS: dict[type[Fault], int] = {
    faults.BadInput: 400,
    faults.NotAllowed: 403,
    faults.Conflict: 409,
    faults.Refused: 409,
    faults.IdentityRefused: 401,
    faults.NotFound: 404,
    faults.Unreachable: 502,
    faults.TimedOut: 504,
    faults.DiskFull: 507,
    faults.Unavailable: 503,
    faults.VersionMismatch: 409,
    faults.Fault: 500,
}
"""The nearest class decides."""

TokenCheck = Callable[[str], Caller | None]


def application(routers: Iterable[APIRouter], version: str) -> FastAPI:
    """The routes of all subjects, with faults turned into `{"code", "text", "hint"}`."""
    app = FastAPI(title="Garrison", version=version, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None)
    for router in routers:
        # into one flat list, not by include_router: the gate must see the very routes that answer
        app.router.routes.extend(router.routes)
    app.add_exception_handler(Fault, _fault)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    return app


def status_of(fault: Fault) -> int:
    return next(STATUS[kind] for kind in type(fault).__mro__ if kind in STATUS)


def answer(fault: Fault) -> JSONResponse:
    return JSONResponse({"code": fault.code, "text": fault.text, "hint": fault.hint}, status_of(fault))


async def _fault(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Fault)  # noqa: S101  # registered for Fault only
    return answer(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for it only
    wrong = [f"{'.'.join(str(part) for part in item['loc'][1:]) or item['loc'][0]}: {item['msg']}" for item in error.errors()]
    return answer(BadInput("; ".join(wrong[:10]), hint="/api/openapi.json describes every request"))


async def _plain(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for it only
    fault = NotFound("no such address") if error.status_code == 404 else BadInput(str(error.detail))
    return JSONResponse({"code": fault.code, "text": fault.text, "hint": ""}, error.status_code, headers=error.headers)


def route_templates(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """(method, path template) of every route there is; whatever is not a plain route shows as method "*"."""
    for route in routes:
        if isinstance(route, Route):
            yield from ((method, route.path) for method in sorted(route.methods or ()) if method != "HEAD")
        else:
            yield "*", getattr(route, "path", repr(route))


class Gate:
    """ASGI: finds the caller, then the route, then the policy's row for it; without a row nobody gets in."""

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
        try:
            caller = self._caller(scope)
            scope.setdefault("state", {})["caller"] = caller
            self._judge(scope, caller)
        except Fault as fault:
            await answer(fault)(scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)

    def _caller(self, scope: Scope) -> Caller | None:
        if self._local:
            return Caller("local", "administrator", "unix socket", local=True)
        address = scope["client"][0] if scope.get("client") else ""
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, token = value.decode("latin-1").partition(" ")
                known = self._token_check(token.strip()) if scheme.lower() == "bearer" else None
                if known is None:
                    raise faults.IdentityRefused("this token is not known here, or is no longer valid")
                return Caller(known.name, known.role, address)
        return None

    def _judge(self, scope: Scope, caller: Caller | None) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        template = self._template({**scope, "method": method})
        if template is None:
            raise NotFound("no such address", hint="/api/openapi.json lists them all")
        if policy.allowed(caller, method, template):
            return
        if caller is None:
            raise faults.IdentityRefused("this needs a token", hint="send it as `Authorization: Bearer …`")
        raise NotAllowed(f"{caller.name} ({caller.role}) may not {method} {template}")

    def _template(self, scope: Scope) -> str | None:
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is Match.FULL:
                return route.path
        return None


def _bounded(receive: Receive) -> Callable[[], Awaitable[Message]]:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message: Any = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY:
            raise BadInput(f"the request is larger than {MAX_BODY} bytes")
        return dict(message)

    return bounded
