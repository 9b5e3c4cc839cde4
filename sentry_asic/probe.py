"""`sentry-asic probe`: one device, identified and read once, without any commander."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from garrison.faults import BadInput, Fault, TimedOut, Unreachable, WrongPassword
from garrison.model import Credentials, Target
from garrison.words import DeviceState
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.rules import OFFLINE_AFTER, judge_state
from sentry_asic.table import identify


@dataclass(frozen=True, slots=True)
class Probe:
    """`found` is the object to print; `ok` is false when the device could not be read."""

    found: dict[str, Any]
    ok: bool


def place_of(address: str, http_port: int = 0, credentials: Credentials | None = None) -> Place:
    """ "10.0.0.5", "10.0.0.5:4028", "[fd00::5]:4028" or a name. Raises BadInput."""
    host, port = address.strip(), ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    if not host or not host.isprintable() or any(c in host for c in " /@?#") or (port and not port.isdecimal()):
        raise BadInput(f"{address!r} is no address", hint="HOST or HOST:PORT, such as 192.168.1.20:4028")
    if not 0 <= int(port or 0) <= 65535 or not 0 <= http_port <= 65535:
        raise BadInput(f"{address!r}: a port is 1 to 65535")
    return Place(host, int(port or 0), http_port, credentials)


async def probe(address: str, *, http_port: int = 0, credentials: Credentials | None = None) -> Probe:
    """Identifies and reads. What goes wrong with the device is in the answer; BadInput is raised."""
    place = place_of(address, http_port, credentials)
    try:
        driver = await identify(place)
    except Fault as fault:
        return Probe(_unread(address, fault), ok=False)
    try:
        refused: WrongPassword | None = None
        try:
            seen = await driver.seen()
        except WrongPassword as fault:
            seen, refused = Seen(driver.make), fault
        reading = await driver.read(slow=True)
        state = judge_state(reading, Target("", address))
    except Fault as fault:
        return Probe(_unread(address, fault), ok=False)
    finally:
        await driver.close()
    if refused is not None:  # it lets itself be watched, and neither known nor commanded
        told = describe(address, seen, reading, DeviceState.REFUSED)
        return Probe(told | {"error": _sentence(refused)}, ok=False)
    return Probe(describe(address, seen, reading, state), ok=True)


def describe(address: str, seen: Seen, reading: Reading, state: DeviceState) -> dict[str, Any]:
    """What was found, as one object. None: not known."""
    identity = {"model": seen.model, "firmware": seen.firmware, "mac": seen.mac}
    return {
        "address": address,
        "make": seen.make,
        "model": seen.model or None,
        "firmware": seen.firmware or None,
        "mac": seen.mac or None,
        "serial": seen.serial or None,
        "state": state.value,
        "hashrate_hs": reading.hashrate_hs,
        "expected_hashrate_hs": reading.expected_hashrate_hs,
        "power_w": reading.power_w,
        "power_source": reading.power_source,
        "uptime_s": reading.uptime_s,
        "fans_rpm": list(reading.fans_rpm),
        "boards": [
            {
                "slot": board.slot,
                "hashrate_hs": board.hashrate_hs,
                "temp_c": board.temp_c,
                "chip_temp_c": board.chip_temp_c,
                "chips": board.chips,
            }
            for board in reading.boards
        ],
        "pools": None
        if reading.pools is None
        else [
            {"url": p.url, "user": p.user, "state": p.state, "accepted": p.accepted, "rejected": p.rejected, "stale": p.stale}
            for p in reading.pools
        ],
        "mode": reading.mode,
        "errors": [{"code": c.code, "text": c.text, "severity": c.severity} for c in reading.conditions],
        "missing": [name for name, value in identity.items() if not value] + list(reading.missing),
    }


def _unread(address: str, fault: Fault) -> dict[str, Any]:
    """One failed look from a person's hand is no three in a row, but the person wants the likely word."""
    if type(fault) is Unreachable or isinstance(fault, WrongPassword):
        state = judge_state(fault, Target("", address), failures=OFFLINE_AFTER)
    elif isinstance(fault, TimedOut):
        state = DeviceState.SLOW
    else:
        state = DeviceState.UNKNOWN  # something answers, and we cannot tell what
    return {"address": address, "state": state.value, "error": _sentence(fault)}


def _sentence(fault: Fault) -> str:
    if isinstance(fault, WrongPassword) and not fault.hint:
        return f"{fault.text} (give --username and --password-file)"
    return str(fault)
