"""How the command line talks to the daemon: over its Unix socket, or to `--url` with a token."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import typer

from commander.settings import FILE, SOCKET, home_of, is_loopback
from garrison.faults import BadAnswer, BadInput, Fault, IdentityRefused, NotFound, TimedOut, Unreachable, from_wire


@dataclass(frozen=True, slots=True)
class Target:
    """Where the daemon is. `url` empty: the Unix socket in `home`. `ca_file`: whom to trust besides the system's authorities."""

    home: Path
    url: str
    token: str
    ca_file: Path | None = None


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
            check_url(target.url)
            if not target.token:
                raise IdentityRefused("--url needs a token", hint="set GARRISON_TOKEN, or --token-file")
            headers = {"authorization": f"Bearer {target.token}"}
            trust = _trust(target.ca_file) if target.url.lower().startswith("https:") else False
            self._client = httpx.Client(base_url=target.url, timeout=timeout, headers=headers, verify=trust, trust_env=False)
        else:
            transport = httpx.HTTPTransport(uds=str(target.home / SOCKET), verify=False)  # no TLS there, and no 40 ms to set it up
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

    def lines(self, path: str) -> Iterator[dict[str, Any]]:
        """POST, for an answer that comes as lines of JSON over minutes. A line that says `fault` is raised."""
        try:
            with self._client.stream("POST", f"/api/v1{path}") as reply:
                if not reply.is_success:
                    reply.read()
                    raise _fault(reply)
                for line in reply.iter_lines():
                    told: dict[str, Any] = json.loads(line)
                    if "fault" in told:
                        raise _told(told["fault"])
                    yield told
        except httpx.TimeoutException as error:
            raise TimedOut(f"the commander at {self._where} did not answer in time") from error
        except httpx.TransportError as error:
            raise _no_answer(self._target, error) from error

    @property
    def _where(self) -> str:
        return self._target.url or str(self._target.home)

    def text(self, path: str) -> str:
        """GET, for an answer that is no JSON."""
        return self._reply("GET", path).text

    def _ask(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        reply = self._reply(method, path, query=query, body=body)
        return reply.json() if reply.content else None

    def _reply(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> httpx.Response:
        params = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            reply = self._client.request(method, f"/api/v1{path}", params=params, json=body)
        except httpx.TimeoutException as error:
            raise TimedOut(f"the commander at {self._where} did not answer in time") from error
        except httpx.TransportError as error:
            raise _no_answer(self._target, error) from error
        if reply.is_success:
            return reply
        raise _fault(reply)


def _fault(reply: httpx.Response) -> Fault:
    try:
        return _told(reply.json())
    except (ValueError, KeyError, TypeError):
        return BadAnswer(f"the commander answered {reply.status_code} in an unknown shape", hint="is it the same version?")


def _told(told: Any) -> Fault:
    fault = from_wire(told["code"], told["text"])
    fault.hint = told.get("hint") or ""
    return fault


def _no_answer(target: Target, error: httpx.TransportError) -> Fault:
    if target.url:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return IdentityRefused(
                f"the certificate of {target.url} is not one that we trust: {error}", hint="--ca-file names its CA"
            )
        return Unreachable(
            f"the commander at {target.url} does not answer: {error}", hint="is it running, and is that its `listen.http`?"
        )
    try:
        there = (target.home / FILE).exists()
        ours = os.access(target.home / SOCKET, os.W_OK) or not (target.home / SOCKET).exists()
    except PermissionError:
        there, ours = True, False
    if not ours:
        return IdentityRefused(
            f"{target.home} belongs to another user, and its socket is the login",
            hint="run this as that user, or use --url and a token",
        )
    if not there:
        return NotFound(
            f"there is no farm at {target.home}", hint="--home or GARRISON_HOME names another; `commander init` makes one"
        )
    return Unreachable(f"the commander at {target.home} does not answer", hint="is it running? `commander run` starts it")


def in_path(text: str) -> str:
    """An id or name as one step of an address. BadInput: one that could be taken for more."""
    if not text.strip() or "/" in text or text in (".", ".."):
        raise BadInput(f"{text!r} is no id and no name", hint="the `list` commands show them")
    return quote(text, safe="")


def check_url(url: str) -> None:
    """BadInput: no address, or one that would send the token in the clear."""
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadInput(f"--url {url!r} is not an address: {error}") from error
    if found.scheme not in ("http", "https") or not found.host:
        raise BadInput(f"--url {url!r} is not an address", hint="such as https://commander.example:8440")
    if found.scheme == "http" and not is_loopback(found.host):
        raise BadInput(f"--url {url} would send the token in the clear", hint="use https")


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        trust = ssl.create_default_context()
        if ca_file is not None:
            trust.load_verify_locations(ca_file)
    except OSError as error:
        raise BadInput(f"cannot use --ca-file {ca_file}: {error.strerror or error}", hint="a PEM file with certificates") from error
    return trust


def token_from(path: Path | None) -> str:
    """From the file, or from GARRISON_TOKEN; empty when there is none. BadInput."""
    where = str(path) if path is not None else "GARRISON_TOKEN"
    token = os.environ.get("GARRISON_TOKEN", "").strip() if path is None else secret_of(path, "token").strip()
    if not token.isascii() or any(c.isspace() for c in token):
        raise BadInput(f"what stands in {where} is not a token")
    return token


def password_from(path: Path | None) -> str | None:
    """A password never stands on a command line: from a file, or from GARRISON_DEVICE_PASSWORD."""
    if path is not None:
        return secret_of(path, "password").strip("\r\n")
    return os.environ.get("GARRISON_DEVICE_PASSWORD")


def secret_of(path: Path, what: str) -> str:
    """The text of a file. BadInput: it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot read the {what} from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read the {what} from {path}: it is not UTF-8 text") from error
