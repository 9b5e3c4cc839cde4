"""The FastAPI application: the routes of all subjects, and every fault as an answer of one shape.

It is served behind `commander.api.gate` only, twice: on the Unix socket, where file permissions are the login, and on TCP, where
a token is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from garrison import faults
from garrison.faults import BadInput, Fault, NotFound

STATUS: dict[type[Fault], int] = {
    faults.BadInput: 400,
    faults.BadAnswer: 502,
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

_NOT_OURS = frozenset({"HTTPValidationError", "ValidationError"})
_FAULT = {
    "Fault": {
        "title": "Fault",
        "type": "object",
        "properties": {
            "code": {"type": "string", "enum": sorted(faults.BY_CODE)},
            "text": {"type": "string", "description": "what was wrong, for a person"},
            "hint": {"type": "string", "description": "what to do; may be empty"},
        },
        "required": ["code", "text", "hint"],
    }
}
_REFUSED = {
    "description": "Refused or failed",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Fault"}}},
}


def application(routers: Iterable[APIRouter], version: str) -> FastAPI:
    """The routes of all subjects, with faults turned into `{"code", "text", "hint"}`."""
    app = _Described(title="Garrison", version=version, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None)
    for router in routers:
        # into one flat list, not by include_router: the gate must see the very routes that answer
        app.router.routes.extend(router.routes)
    app.add_exception_handler(Fault, _fault)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _broken)
    return app


class _Described(FastAPI):
    """Its OpenAPI says how this API refuses, which FastAPI cannot know."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            told = super().openapi()
            parts = told.setdefault("components", {})
            parts["schemas"] = {name: one for name, one in parts.get("schemas", {}).items() if name not in _NOT_OURS} | _FAULT
            parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            told["security"] = [{"token": []}]
            for item in told["paths"].values():
                for operation in item.values():
                    operation["responses"].pop("422", None)
                    operation["responses"]["default"] = _REFUSED
        return self.openapi_schema or {}


def status_of(fault: Fault) -> int:
    return next(STATUS[kind] for kind in type(fault).__mro__ if kind in STATUS)


def answer(fault: Fault, status: int | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    status = status or status_of(fault)
    told = {"www-authenticate": "Bearer", **(headers or {})} if status == 401 else headers
    return JSONResponse({"code": fault.code, "text": fault.text, "hint": fault.hint}, status, told)


async def _fault(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Fault)  # noqa: S101  # registered for Fault only
    return answer(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for it only
    wrong = [_wrong(item) for item in error.errors()]
    return answer(BadInput("; ".join(wrong[:10]), hint="/api/openapi.json describes every request"))


def _wrong(item: dict[str, Any]) -> str:
    where: Sequence[Any] = item["loc"]
    if item["type"] == "json_invalid":
        return f"the body is not JSON: {item['ctx']['error']} at character {where[-1]}"
    if item["type"] == "model_attributes_type" and len(where) == 1:
        return "the body is not a JSON object sent as application/json"
    return f"{'.'.join(str(part) for part in where[1:]) or where[0]}: {item['msg']}"


async def _plain(_: Request, error: Exception) -> JSONResponse:
    """What Starlette itself refuses. Little is left for it: the gate finds the route first."""
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for it only
    fault = NotFound("no such address") if error.status_code == 404 else BadInput(str(error.detail))
    return answer(fault, error.status_code, error.headers)


async def _broken(_: Request, error: Exception) -> JSONResponse:
    """Ours. Starlette raises it again after this, so that it is in the log with where it happened."""
    return answer(Fault("the commander failed at this; its log says where"))


def route_templates(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """(method, path template) of every route there is; whatever is not a plain route shows as method "*"."""
    for route in routes:
        if isinstance(route, Route):
            yield from ((method, route.path) for method in sorted(route.methods or ()) if method != "HEAD")
        else:
            yield "*", getattr(route, "path", repr(route))
