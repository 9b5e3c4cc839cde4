"""Fetching an archive that an order names: https only, each redirect held to the same rule. Blocking.

Imported only when something is fetched: Python's HTTP takes memory that an idle rig can use better.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import urlsplit

from garrison.faults import BadAnswer, BadInput, Fault, NotAllowed, TimedOut, Unreachable
from sentry_rig.archives import shown

_READ_LIMIT_S = 30


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Release pages redirect; each place they name is held to the same rule as the first."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> urllib.request.Request | None:
        _allowed(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _allowed(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise BadInput("an address with a password in it is not taken")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _loopback(parts.hostname or ""):
        return
    raise NotAllowed(f"{parts.scheme}://{parts.hostname} is not fetched: https only")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def download(url: str) -> Iterator[IO[bytes]]:
    _allowed(url)
    opener = urllib.request.build_opener(_SameScheme)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "garrison"})  # noqa: S310  # _allowed looked at the scheme
        with opener.open(request, timeout=_READ_LIMIT_S) as answer:
            yield answer
    except Fault:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        raise BadAnswer(f"{shown(url)} answered HTTP {error.code}") from error
    except TimeoutError as error:
        raise TimedOut(f"{shown(url)} was silent for {_READ_LIMIT_S} s") from error
    except urllib.error.URLError as error:
        raise Unreachable(f"cannot reach {shown(url)}: {error.reason}") from error
    except http.client.HTTPException as error:
        raise BadAnswer(f"{shown(url)} ended its answer early: {type(error).__name__}") from error
    except ConnectionError as error:
        raise Unreachable(f"{shown(url)} broke the connection") from error
