"""`commander init`: a new farm on disk, settings first and the certificate authority last, so that it can be run again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from commander import settings as configured
from commander.access import keyfile
from commander.access.setup import init_farm
from commander.settings import FILE, Listen, Settings
from garrison import settings as toml
from garrison.clock import SystemClock
from garrison.faults import Conflict


@dataclass(frozen=True, slots=True)
class Addresses:
    """`listen`: the address of the two gRPC ports. `http` 0: only the Unix socket."""

    listen: str
    advertise: str
    post: int
    enrol: int
    http: int


def make_farm(home: Path, farm: str, at: Addresses) -> list[str]:
    """The lines to show. Conflict: there is a farm already. BadInput: an address or name that makes no sense."""
    if (home / "ca").exists():
        raise Conflict(f"there is a farm at {home} already", hint="`commander run` starts it")
    listen = Listen(
        post=f"{at.listen}:{at.post}",
        enrol=f"{at.listen}:{at.enrol}",
        advertise=at.advertise,
        http=f"127.0.0.1:{at.http}" if at.http else "",
    )
    settings = Settings(farm=farm, listen=listen)
    configured.check(settings, "init")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = toml.example(Settings, configured.TITLE, settings)
    keyfile.write(home / FILE, text.encode(), replace=True)
    made = init_farm(home, farm, f"http://{listen.http}" if listen.http else "", SystemClock().now_ms())
    lines = [f"farm {farm!r} at {home}", f"certificate authority, SHA-256: {made.pin}"]
    if made.setup_link:
        lines += ["first administrator, once and within a day, in a browser here:", f"  {made.setup_link}"]
    lines.append("on this machine no login is needed: the socket's file mode is the login")
    return lines
