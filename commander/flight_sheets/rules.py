"""Flight sheets: what one may say, how it is rendered for a device, and whether a device runs what it should. Pure.

Arguments are a list from beginning to end; a rendered value is never split, never read by a shell, and never begins with
"-", so that no wallet, password or device name can become an option of the mining program.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from commander.fleet.rules import checked_name
from commander.flight_sheets import pool_rules
from commander.flight_sheets.records import Application, PoolTemplate, ProgramRow, SheetRow, Template
from commander.model import DeviceRow
from garrison.faults import BadInput, NotSupported
from garrison.model import Archive, PoolOrder, Sheet

SCHEMES = ("stratum+tcp", "stratum+ssl", "stratum+tls", "ssl", "tls", "tcp")
MAX_POOLS = 10
ASIC_POOLS = 3
"""Stock firmware of every make keeps three."""

MAX_ARGUMENTS = 100
MAX_ARGUMENT = 1_000
ASSIGNED = "@assigned"
"""In an order, instead of the name of a sheet: what the device was given last, in the revision it was given."""

HIDDEN = "•••"
PLAIN_PASSWORDS = frozenset({"", "x", "X"})
"""What pools take when they ask for none: worth seeing, and no secret."""

IN_WORKER = ("device", "coin", "algorithm")
IN_USER = ("wallet", "worker", "device", "coin", "algorithm")
IN_ARGUMENTS = ("wallet", "worker", "user", "password", "pool", "pool_host", "pool_port", "algorithm", "coin", "device")
"""And pool1, pool2 … as far as the sheet has pools."""

_WALLET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,199}")
_ALGORITHM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+/-]{0,39}")
_COIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}")
_WORKER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_USER = re.compile(r"[!-,./-~][!-~]{0,255}")
_PASSWORD = re.compile(r"([!-,./-~][!-~]{0,127})?")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_PART = re.compile(r"\{\{|\}\}|\{([a-z0-9_]*)\}|[{}]|[^{}]+")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ABSOLUTE = re.compile(r"/[^/]|[A-Za-z]:[\\/]")


# ---- what one may say ------------------------------------------------------------------------------------------


def checked(template: Template, before: Template | None = None) -> Template:
    """The same, tidied. BadInput names the field. `before`: the sheet it replaces, for the passwords left out."""
    name = checked_name(template.name, "name of a sheet")
    if name == ASSIGNED:
        raise BadInput(f"no sheet can be called {name}: in orders it means what a device was given last")
    if name.isdecimal():
        raise BadInput(f"{name!r} would be taken for the number of a sheet", hint="a name with a letter in it")
    _match(_COIN, template.coin, "coin", "letters, digits and . _ -")
    _match(_ALGORITHM, template.algorithm, "algorithm", "such as sha256 or rx/0")
    _match(_WALLET, template.wallet, "wallet", "letters, digits and . _ : @ + / - inside; up to 200 characters")
    if not 1 <= len(template.pools) <= MAX_POOLS:
        raise BadInput(f"a sheet has 1 to {MAX_POOLS} pools, not {len(template.pools)}")
    old = {pool.url: pool.password for pool in before.pools} if before else {}
    pools = tuple(_checked_pool(pool, old) for pool in template.pools)
    if not 5 <= template.verify_within_s <= 3_600:
        raise BadInput(f"verify_within_s must be 5 to 3600, not {template.verify_within_s}")
    if (template.arguments or template.version) and not template.program:
        raise BadInput("arguments or a version without a program", hint="name the program, or leave both out: pools only")
    _check_arguments(template.arguments)
    tidy = replace(template, name=name, pools=pools)
    _rendered(tidy, "a1", tidy.arguments)  # every placeholder is tried now, not first on a device
    return tidy


def _match(pattern: re.Pattern[str], text: str, what: str, hint: str) -> None:
    if not pattern.fullmatch(text):
        raise BadInput(f"{text[:80]!r} is no {what}", hint=hint)


def _checked_pool(pool: PoolTemplate, old: Mapping[str, str | None]) -> PoolTemplate:
    host_port(pool.url)
    password = pool.password if pool.password is not None else old.get(pool.url) or "x"
    if password == HIDDEN or not _PASSWORD.fullmatch(password):
        raise BadInput(
            f"the password for {pool.url} cannot be used",
            hint="printable ASCII without spaces, not beginning with -; leave it out to keep the one there is",
        )
    return replace(pool, password=password)


def host_port(url: str) -> tuple[str, int]:
    """("host", port) of a pool. BadInput."""
    hint = f"such as stratum+tcp://pool.example:3333; {', '.join(SCHEMES)}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadInput(f"{url[:120]!r} is no pool address", hint=hint) from None
    if parts.scheme not in SCHEMES or port is None or not port:
        raise BadInput(f"{url[:120]!r} is no pool address", hint=hint)
    if parts.username is not None or parts.password is not None:
        raise BadInput("a pool address holds no user or password", hint="they have their own fields")
    if (
        not (_IPV6 if ":" in host else _HOST).fullmatch(host)
        or parts.path
        or parts.query
        or parts.fragment
        or "?" in url
        or "#" in url
    ):
        raise BadInput(f"{url[:120]!r} is no pool address", hint=hint)
    if url != url.strip() or not url.isascii() or not url.isprintable():
        raise BadInput(f"{url[:120]!r} is no pool address", hint=hint)
    return host, port


def _check_arguments(arguments: Sequence[str]) -> None:
    if len(arguments) > MAX_ARGUMENTS:
        raise BadInput(f"a sheet has at most {MAX_ARGUMENTS} arguments, not {len(arguments)}")
    for argument in arguments:
        if not argument or len(argument) > MAX_ARGUMENT or not _printable(argument):
            raise BadInput(f"{argument[:80]!r} is no argument", hint=f"1 to {MAX_ARGUMENT} printable characters, one argument each")


def _printable(text: str) -> bool:
    return not any(unicodedata.category(one)[0] == "C" for one in text)


def checked_program(program: ProgramRow) -> ProgramRow:
    """The same, tidied. BadInput."""
    for text, what in ((program.name, "name of a program"), (program.version, "version")):
        if not _WORD.fullmatch(text) or ".." in text:
            raise BadInput(f"{text[:80]!r} is no {what}", hint="letters, digits and . _ + - inside")
    sha256 = program.sha256.strip().lower()
    _match(_SHA256, sha256, "SHA-256", "64 hex digits, as `sha256sum` prints them")
    return replace(
        program, sha256=sha256, location=_checked_location(program.location), executable=_checked_inside(program.executable)
    )


def _checked_location(location: str) -> str:
    hint = "an absolute path on the rigs, or an https:// address without user and password"
    if not 0 < len(location) <= 2_000 or not _printable(location):
        raise BadInput("a program comes from somewhere", hint=hint)
    if _ABSOLUTE.match(location):
        return location
    try:
        parts = urlsplit(location)
        host, user = parts.hostname, parts.username
        _ = parts.port
    except ValueError:
        raise BadInput(f"{location[:120]!r} cannot be used", hint=hint) from None
    if parts.scheme != "https" or not host or user is not None or "@" in parts.netloc:
        raise BadInput("the program's location cannot be used", hint=hint)
    return location


def _checked_inside(executable: str) -> str:
    parts = executable.split("/")
    if executable and ("\\" in executable or ":" in executable or not _printable(executable) or {"", ".", ".."} & set(parts)):
        raise BadInput(f"{executable[:80]!r} is no path inside an archive", hint="relative, with /, without ..")
    return executable


# ---- rendering -------------------------------------------------------------------------------------------------


def worker_name(device: DeviceRow) -> str:
    """What {device} becomes: its name in letters every pool takes; "d12" when nothing is left of it."""
    plain = unicodedata.normalize("NFKD", device.name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:40].strip("-") or f"d{device.id}"


def render(sheet: SheetRow, program: ProgramRow | None, device: DeviceRow) -> Sheet:
    """The sheet as this device would run it. NotSupported: not of its kind. BadInput: what comes of it cannot be used."""
    template = sheet.template
    if device.kind == "rig" and program is None:
        raise NotSupported(
            f"sheet {template.name!r} names no mining program, and {device.name} is a rig", hint="a sheet with a program"
        )
    if device.kind == "asic" and program is not None:
        raise NotSupported(
            f"sheet {template.name!r} runs {program.name}, and {device.name} is an ASIC", hint="a sheet of pools only"
        )
    if device.kind == "asic" and len(template.pools) > ASIC_POOLS:
        raise NotSupported(f"sheet {template.name!r} has {len(template.pools)} pools; ASICs keep {ASIC_POOLS}")
    if device.kind not in ("rig", "asic"):
        raise NotSupported(f"{device.name} is a {device.kind}: nothing mines there")
    worker, pools, arguments = _rendered(template, worker_name(device), template.arguments)
    return Sheet(
        id=sheet.running_id,
        name=template.name,
        coin=template.coin,
        algorithm=template.algorithm,
        pools=pools,
        wallet=template.wallet,
        worker=worker,
        program=program.name if program else "",
        version=program.version if program else "",
        arguments=arguments,
        archive=Archive(program.location, program.sha256, program.executable, program.simulated) if program else None,
        verify_within_s=template.verify_within_s,
    )


def _rendered(template: Template, device: str, arguments: Sequence[str]) -> tuple[str, tuple[PoolOrder, ...], tuple[str, ...]]:
    values = {"device": device, "coin": template.coin, "algorithm": template.algorithm}
    worker = filled(template.worker, values, IN_WORKER, "worker")
    _match(_WORKER, worker, "worker name", "letters, digits and . _ - inside, up to 64; {device} is the device's name")
    values |= {"wallet": template.wallet, "worker": worker}
    pools = []
    for pool in template.pools:
        user = filled(pool.user or template.user, values, IN_USER, "user")
        _match(_USER, user, "pool user", "printable ASCII without spaces, not beginning with -")
        pools.append(PoolOrder(pool.url, user, "x" if pool.password is None else pool.password))
    host, port = host_port(pools[0].url)
    values |= {"pool": pools[0].url, "pool_host": host, "pool_port": str(port)}
    values |= {"user": pools[0].user, "password": pools[0].password}
    values |= {f"pool{number}": pool.url for number, pool in enumerate(pools, 1)}
    known = (*IN_ARGUMENTS, *(f"pool{number}" for number in range(1, len(pools) + 1)))
    return worker, tuple(pools), tuple(filled(one, values, known, "argument") for one in arguments)


def filled(text: str, values: Mapping[str, str], known: Sequence[str], what: str) -> str:
    """`text` with its {placeholders} replaced; {{ and }} stand for braces. BadInput names what is not known, and what is."""
    parts = []
    for found in _PART.finditer(text):
        part = found.group()
        if part in ("{{", "}}"):
            parts.append(part[0])
        elif part in ("{", "}"):
            raise BadInput(f"a single {part} in the {what} {text[:80]!r}", hint="{{ and }} stand for braces")
        elif part.startswith("{"):
            parts.append(_value(found.group(1), text, values, known, what))
        else:
            parts.append(part)
    return "".join(parts)


def _value(name: str, text: str, values: Mapping[str, str], known: Sequence[str], what: str) -> str:
    if name not in known:
        raise BadInput(
            f"unknown placeholder {{{name}}} in the {what} {text[:80]!r}",
            hint=f"there are {', '.join(f'{{{one}}}' for one in known)}",
        )
    value = values[name]
    if value.startswith("-") or not _printable(value):
        raise BadInput(f"the value of {{{name}}} cannot be used in the {what}: it must not begin with -")
    return value


def hidden(sheet: Sheet) -> Sheet:
    """For showing: passwords that are secrets are hidden, wherever they stand."""
    passwords = [pool.password for pool in sheet.pools]
    pools = tuple(replace(pool, password=hidden_password(pool.password)) for pool in sheet.pools)
    return replace(sheet, pools=pools, arguments=tuple(without(passwords, one) for one in sheet.arguments))


def hidden_password(password: str) -> str:
    return password if password in PLAIN_PASSWORDS else HIDDEN


def without(passwords: Iterable[str | None], text: str) -> str:
    """`text` with these hidden in it, the longest first."""
    for secret in sorted({one for one in passwords if one} - PLAIN_PASSWORDS, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


# ---- does it run what it should --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drift:
    """`switching`: an order is on its way. `unknown`: nobody can tell now. `sheet`, `pools`: it runs something else."""

    kind: Literal["switching", "unknown", "sheet", "pools"]
    text: str


def drift(wanted: Application, device: DeviceRow, *, order_open: bool) -> Drift | None:
    """How what a device runs differs from what was last applied to it; None: it does not."""
    name = wanted.rendered.name
    if order_open:
        return Drift("switching", f"an order to run {name} is open")
    if device.state in pool_rules.TELLS_NOTHING:
        return Drift("unknown", f"it should run {name}; it is {device.state.value}, so nobody can tell")
    if device.sheet_id and device.sheet_id != wanted.running_id:
        return Drift("sheet", f"it should run {name} ({wanted.running_id}) and runs sheet {device.sheet_id}")
    if not device.pools:
        return None if device.sheet_id else Drift("unknown", f"it should run {name}; it says neither its sheet nor its pools")
    return _pool_drift(wanted.rendered, device)


def _pool_drift(sheet: Sheet, device: DeviceRow) -> Drift | None:
    if device.kind == "asic":
        found = pool_rules.difference(sheet.pools, device.pools)
        return Drift("pools", found.text) if found is not None else None
    # A mining program names the pool it works on, seldom its whole list.
    active = [pool for pool in device.pools if pool.active is not False]
    ordered = {pool_rules.place_of(pool.url) for pool in sheet.pools}
    stray = [pool.url for pool in active if ":" in (place := pool_rules.place_of(pool.url) or "") and place not in ordered]
    return Drift("pools", f"it mines on {stray[0]}, which is none of the pools of {sheet.name}") if stray else None
