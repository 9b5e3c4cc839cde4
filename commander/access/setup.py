"""A new farm on disk: its CA, the key of its secrets, and the one-time link for the first administrator.

There is no default password: who reads the link's secret on this machine, once and within a day, is the administrator.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import msgspec

from commander.access import ca, keyfile, secrets
from commander.access.tokens import SETUP_LINK_MS, new_secret_text, text_hash
from commander.fleet.rules import checked_name
from garrison.faults import Broken, Conflict, NotFound, Unavailable

FIRST_LINK = "first-link.json"
CA = "ca"


@dataclass(frozen=True, slots=True)
class InitResult:
    """`setup_link` is empty when the HTTP API has no address; `pin` is the SHA-256 of the farm's root, in hexadecimal."""

    farm_id: str
    pin: str
    setup_link: str = field(repr=False)


class FirstLink(msgspec.Struct, frozen=True):
    hash: bytes
    expires_ms: int


def init_farm(home: Path, name: str, http_url: str, now_ms: int) -> InitResult:
    """Makes `home` a farm. Conflict: there is one already, and nothing of it was touched.

    The CA comes last: until it is there, an interrupted init can simply be run again.
    """
    if (home / CA).exists():
        raise Conflict(f"there is a farm at {home} already", hint="`commander run` starts it; its CA is never overwritten")
    farm = checked_name(name, "name for a farm")
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(f"cannot create {home}: {error.strerror}") from error
    if not (home / secrets.FILE).exists():
        secrets.create(home)
    secret = new_secret_text()
    first = FirstLink(text_hash(secret), now_ms + SETUP_LINK_MS)
    keyfile.write(home / FIRST_LINK, msgspec.json.encode(first), replace=True)
    authority = ca.create(home / CA, farm, str(uuid4()), now_ms)
    return InitResult(authority.farm_id, authority.pin.hex(), link(http_url, secret) if http_url else "")


def link(http_url: str, secret: str) -> str:
    """The secret stands behind #, which browsers do not send: it is in no server's log."""
    return f"{http_url.rstrip('/')}/setup#{secret}"


def first_link(home: Path) -> FirstLink | None:
    """What `init_farm` left for the first start; None when it was taken already."""
    try:
        return msgspec.json.decode(keyfile.read(home / FIRST_LINK), type=FirstLink)
    except NotFound:
        return None
    except msgspec.DecodeError as error:
        raise Broken(f"{home / FIRST_LINK} is damaged", hint="remove it; `commander tokens link` makes a new link") from error


def forget_first_link(home: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (home / FIRST_LINK).unlink()
    keyfile.sync_folder(home)
