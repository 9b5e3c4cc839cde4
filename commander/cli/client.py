"""How the command line talks to the daemon: over its Unix socket, or to `--url` with a token."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import typer

from commander.settings import SOCKET, home_of
from garrison.faults import BadAnswer, Fault, IdentityRefused, TimedOut, Unreachable, from_wire


@dataclass(frozen=True, slots=True)
class Target:
    """Where the daemon is. `url` empty: the Unix socket in `home`."""

    home: Path
    url: str
    token: str


def target_of(context: typer.Context) -> Target:
    """What the options before the command said."""
    found = context.find_object(Target)
    return found or Target(home_of(), "", "")


class Api:
    """One command's connection. Every error is a Fault with the daemon's own words."""

    def __init__(self, target: Target, timeout_s: float = 30.0) -> None:
        self._target = target
        timeout = httpx.Timeout(timeout_s, connect=5.0)
        if target.url:
            if not target.token:
                raise IdentityRefused("--url needs a token", hint="set GARRISON_TOKEN, or --token-file")
            self._client = httpx.Client(
                base_url=target.url, timeout=timeout, headers={"authorization": f"Bearer {target.token}"}, trust_env=False
            )
        else:
            transport = httpx.HTTPTransport(uds=str(target.home / SOCKET))
            self._client = httpx.Client(base_url="http://commander", timeout=timeout, transport=transport, trust_env=False)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, query=query)

    def post(self, path: str, body: Any = None) -> Any:
        return self._ask("POST", path, body=body if body is not None else {})

    def patch(self, path: str, body: Any) -> Any:
        return self._ask("PATCH", path, body=body)

    def put(self, path: str, body: Any) -> Any:
        return self._ask("PUT", path, body=body)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        params = {name: value for name, value in (query or {}).items() if value is not None}
        where = self._target.url or str(self._target.home)
        try:
            reply = self._client.request(method, f"/api/v1{path}", params=params, json=body)
        except httpx.TimeoutException as error:
            raise TimedOut(f"the commander at {where} did not answer in time") from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"the commander at {where} does not answer",
                hint="is it running? `commander run`; another farm: --home or GARRISON_HOME",
            ) from error
        if reply.is_success:
            return reply.json() if reply.content else None
        raise _fault(reply)


def _fault(reply: httpx.Response) -> Fault:
    try:
        told = reply.json()
        fault = from_wire(told["code"], told["text"])
        fault.hint = told.get("hint") or ""
    except (ValueError, KeyError, TypeError):
        return BadAnswer(f"the commander answered {reply.status_code} in an unknown shape", hint="is it the same version?")
    return fault


def token_from(path: Path | None) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8").strip()
    return os.environ.get("GARRISON_TOKEN", "")
