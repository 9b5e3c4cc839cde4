"""The commander's settings: `<home>/commander/commander.toml`, read once at start."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from commander.fleet.found_rules import rules_of
from garrison import settings as toml
from garrison.faults import BadInput
from sentry_core import settings as sentries

FILE = "commander.toml"
SOCKET = "commander.sock"
TITLE = "Garrison commander. Every key is optional; these are the defaults."


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    post: Annotated[str, Meta(description="host:port where sentries work (mutual TLS 1.3)")] = "0.0.0.0:8441"
    enrol: Annotated[str, Meta(description="host:port where new sentries ask for a certificate; empty: closed")] = "0.0.0.0:8442"
    advertise: Annotated[
        str, Meta(description="the host name or address that sentries should dial; empty: this machine's own address")
    ] = ""
    http: Annotated[
        str,
        Meta(
            description="host:port of the HTTP API for people and programs with a token; empty: only the Unix socket.\n"
            "Anything but loopback needs the certificate and key below"
        ),
    ] = "127.0.0.1:8440"
    http_certificate: Annotated[str, Meta(description="PEM file with the certificate chain for `http`")] = ""
    http_key: Annotated[str, Meta(description="PEM file with its key")] = ""


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    raw_days: Annotated[int, Meta(description="days that raw samples are kept", ge=1, le=3650)] = 30
    five_minute_days: Annotated[int, Meta(description="days that 5-minute values are kept", ge=1, le=3650)] = 730
    hour_days: Annotated[int, Meta(description="days that hourly values are kept", ge=1, le=36500)] = 3650
    commit_every_ms: Annotated[
        int, Meta(description="samples that arrive within this time share one durable commit", ge=10, le=5_000)
    ] = 250


class Sessions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reconnect_window_s: Annotated[
        int, Meta(description="sentries come back spread over this time after a commander restart", ge=1, le=300)
    ] = 20
    silent_after_s: Annotated[int, Meta(description="a sentry without a stream for this long is silent", ge=5, le=3_600)] = 30
    poll_every_s: Annotated[int, Meta(description="how often ASICs and relays are read", ge=1, le=3_600)] = 10


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    off_s: Annotated[int, Meta(description="how long mains stays off in a power cycle", ge=10, le=600)] = 30
    min_interval_s: Annotated[int, Meta(description="least time between two cycles of one device", ge=60, le=86_400)] = 900
    max_per_day: Annotated[int, Meta(description="cycles of one device in 24 h", ge=1, le=50)] = 3
    stagger_ms: Annotated[int, Meta(description="least time between two power-ons on one circuit", ge=0, le=600_000)] = 2_000
    brake_share: Annotated[
        float,
        Meta(description="above this share of silent devices it is the network: no cutting", gt=0, le=1),
    ] = 0.3


class Pools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    restore_pools: Annotated[
        bool,
        Meta(
            description="an ASIC whose pools are no longer those of its flight sheet gets them again, at most twice.\n"
            "false: it is told as a critical event, and nothing is done"
        ),
    ] = False


class Discovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    adopt: Annotated[
        tuple[str, ...],
        Meta(
            description="which devices that a sentry's scan found are watched without asking anybody:\n"
            '"all", "make:bitaxe", "range:hall-a" or both in one, "make:bitaxe range:hall-a".\n'
            "Never what is there twice (MAC, serial, address), refused our log-in, or was removed by a person"
        ),
    ] = ()


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: Annotated[Literal["auto", "json", "plain"], Meta(description="auto: plain on a terminal, JSON otherwise")] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level that is written")] = "info"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything in the file."""

    farm: Annotated[str, Meta(description="the farm's name, for people", min_length=1, max_length=100)] = "farm"
    listen: Listen = Listen()
    history: History = History()
    sessions: Sessions = Sessions()
    power: Power = Power()
    pools: Pools = Pools()
    discovery: Discovery = Discovery()
    log: Log = Log()


def load(home: Path) -> Settings:
    """The checked settings of the farm at `home`, with the files that they name. Raises NotFound, BadInput."""
    settings = toml.load(home / FILE, Settings)
    check(settings, str(home / FILE))
    check_files(settings, str(home / FILE))
    return settings


def check(settings: Settings, name: str) -> None:
    """What the types cannot say. Raises BadInput."""
    try:
        rules_of(settings.discovery.adopt)
    except BadInput as fault:
        raise BadInput(f"{name}: `discovery.adopt`: {fault.text}", hint=fault.hint) from fault
    for key, address in (("post", settings.listen.post), ("enrol", settings.listen.enrol), ("http", settings.listen.http)):
        if address:
            host_port(address, f"{name}: `listen.{key}`")
        elif key == "post":
            raise BadInput(f"{name}: `listen.post` is empty", hint="sentries need an address to work with")
    secured = bool(settings.listen.http_certificate), bool(settings.listen.http_key)
    if any(secured) and not all(secured):
        raise BadInput(f"{name}: `listen.http_certificate` and `listen.http_key` belong together")
    if settings.listen.http and not all(secured) and not is_loopback(host_port(settings.listen.http, name)[0]):
        raise BadInput(
            f"{name}: `listen.http` = {settings.listen.http} would send tokens in the clear",
            hint="use a loopback address, or set http_certificate and http_key",
        )


def check_files(settings: Settings, name: str) -> None:
    """Whether the certificate and key of `listen.http` are there, readable, and belong together. Raises BadInput."""
    listen = settings.listen
    for key, path in (("http_certificate", listen.http_certificate), ("http_key", listen.http_key)):
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise BadInput(f"{name}: cannot read `listen.{key}` = {path}: {error.strerror}") from error
    if listen.http_certificate:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listen.http_certificate, listen.http_key, password=_no_password)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{name}: `listen.http_certificate` and `listen.http_key` do not work: {error}",
                hint="PEM files: the certificate chain, and its key without a password",
            ) from error


def _no_password() -> str:
    raise ValueError("the key asks for a password")


def host_port(text: str, where: str) -> tuple[str, int]:
    """("host", port); an IPv6 host stands in brackets. Raises BadInput."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise BadInput(f"{where}: {text!r} is not host:port")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether what goes there stays on this machine. Any other name may lead anywhere."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def home_of(option: Path | None = None) -> Path:
    """The commander's folder in the farm's home, which all three programs find by the same rule."""
    return sentries.home_of(option) / "commander"
