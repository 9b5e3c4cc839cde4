"""ASIC answers: whatever a device says, a driver gives values that can be stored and sent on, or a Fault, in bounded time.

An input is a make, then for each answer \\x1e, its name (api/COMMAND, web/PATH as the fixtures have it, v3/COMMAND), a line feed
and its bytes. Anything else is the answer to every question of one of the makes. The drivers are whole, their network is in memory.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fuzz.driver import Feed, run

MARK = b"\x1e"
MOST_CPU_S = 2.0
"""For all that is done with one input by one make: what 64 kB take is a tenth of it, on a busy machine."""
MOST_REQUESTS = 400
ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).parent / "corpus" / "fuzz_asic"
_WEB_PORTS = (80, 8080)
_LENGTH = struct.Struct("<I")


def seeds() -> Iterator[tuple[str, bytes]]:
    """Every fixture, and what was kept of earlier findings."""
    for device in sorted((ROOT / "fixtures" / "asic").glob("*/*/")):
        paths = sorted([*device.glob("*/*.json"), *device.glob("*/*.html")])
        told = (f"{path.parent.name}/{path.stem}\n".encode() + path.read_bytes() for path in paths)
        yield f"{device.parent.name}-{device.name}", MARK.join([device.parent.name.encode(), *told])
    for path in sorted(KEPT.glob("*")):
        yield path.name, path.read_bytes()


class Device:
    """What one input answers. `otherwise` is for questions that it does not name; None: it knows none of those.

    A port of whose kind no answer is named is shut.
    """

    def __init__(self, answers: Mapping[str, bytes], otherwise: bytes | None = None) -> None:
        self._answers, self._otherwise = answers, otherwise

    def opens(self, port: int) -> bool:
        kind = "v3/" if port == 4433 else "web/" if port in _WEB_PORTS else "api/"
        return self._otherwise is not None or any(name.startswith(kind) for name in self._answers)

    def answer(self, port: int, request: bytes) -> bytes | None:
        if port == 4433:
            body = self._told("v3", _json_name(request[4:], "cmd"))
            return None if body is None else _LENGTH.pack(len(body)) + body
        if port in _WEB_PORTS or request[:4] in (b"GET ", b"POST"):
            return self._page("web" if port in _WEB_PORTS else "api", request)
        name = _json_name(request, "command") if request.startswith(b"{") else request.partition(b"|")[0].decode("latin-1")
        body = self._told("api", name)
        return b'{"STATUS":[{"STATUS":"E","Code":14,"Msg":"Invalid command"}]}\x00' if body is None else body

    def _told(self, kind: str, name: str) -> bytes | None:
        return self._answers.get(f"{kind}/{name}", self._otherwise)

    def _page(self, kind: str, request: bytes) -> bytes:
        path = request.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
        cgi = path.removeprefix("/cgi-bin/").removesuffix(".cgi")
        body = self._answers.get(f"{kind}/{cgi}") or self._told(kind, path[1:].replace("/", "__") or "index")
        status = "404 Not Found" if body is None else "200 OK"
        return f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body or b'')}\r\n\r\n".encode() + (body or b"")


def _json_name(request: bytes, key: str) -> str:
    return str(json.loads(request).get(key, "enc"))


def make() -> Feed:
    """Every input also goes through the shared mending of JSON."""
    from sentry_asic.table import MAKES
    from tests.fuzz.memory_network import MemoryNetwork

    named = {one.name.encode(): one for one in MAKES}

    def feed(data: bytes) -> None:
        head, *parts = data.split(MARK)
        pieces = [part.partition(b"\n") for part in parts]
        for body in [data, *(piece[2] for piece in pieces)]:
            check_answer(body)
        if (asked := named.get(head)) is not None:
            device = Device({name.decode("latin-1"): body for name, _, body in pieces})
        else:
            asked, device = MAKES[zlib.crc32(data) % len(MAKES)], Device({}, data)
        begun_s = time.process_time()
        with contextlib.closing(MemoryNetwork(device)) as network:
            network.run_until_complete(look(asked))
        spent_s = time.process_time() - begun_s
        assert spent_s < MOST_CPU_S, f"{asked.name}: {spent_s:.1f} s of CPU"
        assert network.asked < MOST_REQUESTS, f"{asked.name}: {network.asked} requests"
        if network.failed is not None:
            raise network.failed

    return feed


# ---- one answer, one look -----------------------------------------------------------------------------------


def check_answer(body: bytes) -> None:
    """Mended or refused; what comes out is JSON without a number that is none."""
    import msgspec

    from garrison.faults import BadAnswer, Fault
    from sentry_asic.answers import is_whole, parse
    from sentry_asic.cgminer import pools_of, section

    is_whole(body)
    try:
        answer = parse(body)
    except BadAnswer:
        return
    again = msgspec.json.decode(msgspec.json.encode(answer.value))
    assert again == answer.value or not is_whole(body), "mended to something that JSON cannot hold"
    assert all(math.isfinite(number) for number in _floats(answer.value))
    with contextlib.suppress(Fault):
        pools_of(section(answer, "POOLS"))


def _floats(value: Any) -> Iterator[float]:
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, float):
            yield one
        elif isinstance(one, dict | list):
            todo += one.values() if isinstance(one, dict) else one


async def look(asked: Any) -> tuple[bool, Any]:
    """All that is ever asked of a device and told to it, by a driver that believes it to be its own. Whether it would recognise it,
    and its slow reading."""
    from garrison.faults import Fault
    from garrison.model import PoolOrder
    from sentry_asic.make import Fan, FanControl, Hostname, Place, PowerLimit, PowerModes

    place, found, reading = Place("127.0.0.1"), None, None
    with contextlib.suppress(Fault):
        found, _ = await asked.fingerprint(place)
        if found is not None:
            await found.close()
    driver = asked.driver(place)
    seen = await _unless_fault(driver.seen)
    for slow in (False, True):
        reading = await _unless_fault(functools.partial(driver.read, slow=slow))
        check_reading(reading, seen, driver.capabilities)
    new = [PoolOrder("stratum+tcp://new.invalid:3333", "wallet.rig", "x")]
    for call in (
        driver.pools, driver.locating, lambda: driver.set_pools(new), driver.pause, driver.resume,
        lambda: driver.locate(True), driver.restart_mining, driver.reboot,
    ):  # fmt: skip
        await _unless_fault(call)
    for kind, get, put, value in (
        (PowerModes, "power_mode", "set_power_mode", "normal"), (PowerLimit, "power_limit_w", "set_power_limit", 2000),
        (FanControl, "fan", "set_fan", Fan(60)), (Hostname, "hostname", "set_hostname", "miner-1"),
    ):  # fmt: skip
        if isinstance(driver, kind):
            await _unless_fault(getattr(driver, get))
            await _unless_fault(functools.partial(getattr(driver, put), value))
    await driver.close()
    return found is not None, reading


async def _unless_fault(call: Callable[[], Awaitable[Any]]) -> Any:
    from garrison.faults import Fault

    try:
        return await call()
    except Fault:
        return None


def check_reading(reading: Any, seen: Any, capabilities: Any) -> None:
    """It goes the whole way to the commander: judged, quantised, packed, and as an entry of the roster."""
    from garrison.frame import Sample, pack_look
    from garrison.model import Target
    from garrison.wire import device_from, device_to, parsed
    from sentry_asic.readings import device_of, identity_of, values_of
    from sentry_asic.rules import judge_state

    if reading is None:
        return
    target = Target("t1", "127.0.0.1", "")
    state = judge_state(reading, target)
    values = values_of(reading, state, 1, reading.repairs)
    assert all(math.isfinite(value) for value in values.values())
    pack_look([Sample(1, 1, values)])
    identity = identity_of(seen, target)
    device = device_of(target, identity, seen, reading, state, None, 1, capabilities)
    sent = device_to(device)
    device_from(parsed(type(sent), sent.SerializeToString()))


if __name__ == "__main__":
    run(make, ("garrison", "sentry_asic", "sentry_core"), seeds)
