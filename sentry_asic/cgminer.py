"""The cgminer API on port 4028: one command, one connection, one JSON answer, and the device closes.

Called by the drivers. Real devices append a NUL or do not, answer in many segments, keep the socket open after the
answer, or wait for our half-close before they say anything: all of that is an answer. What is not: silence (TimedOut),
a closed port (Unreachable), more than `MAX_BYTES`, something else than JSON (BadAnswer).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from garrison.faults import BadAnswer, Refused, TimedOut, Unreachable
from garrison.model import Pool
from sentry_asic.answers import Answer, excerpt, is_whole, parse, rows, whole, words

PORT = 4028
MAX_BYTES = 1 << 20
HALF_CLOSE_AFTER_S = 1.0  # some servers read until our end of file
QUIET_S = 0.5  # an answer that ends in "}" and is followed by nothing is taken, though it is not strict JSON
_MAX_TRIES = 8  # to parse what looks complete; bounds the work that a drip-feeding device can cause


class MinerDown(Unreachable):
    """Something on the device says that its mining process is not there."""


class NoReply(Unreachable):
    """The request went out, and the connection ended without an answer: an order may have been carried out."""


async def ask(
    host: str,
    command: str,
    *,
    port: int = PORT,
    parameter: str | None = None,
    extra: Mapping[str, object] | None = None,
    connect_s: float = 3,
    total_s: float = 8,
    max_bytes: int = MAX_BYTES,
) -> Answer:
    """One command. Raises Unreachable, TimedOut, BadAnswer; MinerDown when a proxy on the device says so."""
    request: dict[str, object] = {"command": command}
    if parameter is not None:
        request["parameter"] = parameter
    raw = await exchange(
        host,
        port or PORT,
        msgspec.json.encode(request | dict(extra or {})),
        connect_s=connect_s,
        total_s=total_s,
        max_bytes=max_bytes,
    )
    if b"onnection refused" in raw[:200] and raw.lstrip()[:1] not in (b"{", b"["):
        raise MinerDown(f"{host}: the mining process is not running ({excerpt(raw)})")
    try:
        return parse(raw)
    except BadAnswer as fault:
        raise BadAnswer(f"{host}:{port} {command}: {fault.text}") from None


async def exchange(
    host: str, port: int, request: bytes, *, connect_s: float = 3, total_s: float = 8, max_bytes: int = MAX_BYTES
) -> bytes:
    """The raw answer to one request in one write. Raises Unreachable, TimedOut, BadAnswer."""
    loop = asyncio.get_running_loop()
    where = f"{host}:{port}"
    talk: _Talk | None = None
    began_s = loop.time()
    try:
        # one limit, moved when the connection stands: each costs a timer, and there are two of these in a look
        async with asyncio.timeout(min(connect_s, total_s)) as limit:
            _, talk = await loop.create_connection(lambda: _Talk(where, max_bytes), host, port)
            limit.reschedule(began_s + total_s)
            talk.send(request)
            return await talk.answer
    except TimeoutError:
        if talk is None and connect_s < total_s:
            raise Unreachable(f"{where}: no connection within {connect_s:g} s") from None
        raise TimedOut(f"{where} did not answer within {total_s:g} s") from None
    except ConnectionRefusedError:
        raise Unreachable(f"{where} refuses connections") from None
    except OSError as error:
        raise Unreachable(f"{where}: {error.strerror or error}") from error
    finally:
        if talk is not None:
            talk.end()


class _Talk(asyncio.Protocol):
    """One connection: collects until the answer is complete."""

    def __init__(self, where: str, max_bytes: int) -> None:
        self._where, self._max_bytes = where, max_bytes
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bytes] = self._loop.create_future()
        self._got = bytearray()
        self._tries = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._sent = False

    def send(self, request: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(request)
            self._sent = True
            self._timer = self._loop.call_later(HALF_CLOSE_AFTER_S, self._half_close)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # seen: nobody may be waiting any more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.answer.done():
            return
        self._got += data
        if len(self._got) > self._max_bytes:
            self._fail(BadAnswer(f"{self._where} answers more than the {self._max_bytes} bytes allowed"))
        elif data.endswith(b"\x00"):
            self._finish()
        elif data.rstrip(b"\r\n ").endswith((b"}", b"]")):
            self._tries += 1
            if self._tries <= _MAX_TRIES and is_whole(bytes(self._got)):
                self._finish()
            else:
                self._timer = self._loop.call_later(QUIET_S, self._finish)

    def eof_received(self) -> None:
        self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if self._got:
            self._finish()
        else:
            self._fail(self._no_answer())

    def _half_close(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _finish(self) -> None:
        if self.answer.done():
            return
        if self._got:
            self.answer.set_result(bytes(self._got))
        else:
            self._fail(self._no_answer())

    def _no_answer(self) -> Unreachable:
        return (NoReply if self._sent else Unreachable)(f"{self._where} closed the connection without an answer")

    def _fail(self, fault: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(fault)


def section(answer: Answer, name: str) -> list[Mapping[str, object]]:
    """The rows of one section, such as STATS. Refused when the device says it will not; BadAnswer when it is not there."""
    top = answer.value if isinstance(answer.value, dict) else {}
    if name in top and isinstance(top[name], list):
        return rows(top[name])
    for status in rows(top.get("STATUS")) or rows([top.get("STATUS")]):
        if words(status.get("STATUS")) in ("E", "F"):
            raise Refused(f"the device refuses: {words(status.get('Msg')) or 'no reason given'} (code {whole(status.get('Code'))})")
    raise BadAnswer(f"an answer without {name}")


def pools_of(sections: Sequence[Mapping[str, Any]]) -> tuple[Pool, ...]:
    """The rows of POOLS. Slots without a URL are no pools."""
    found = []
    for place, row in enumerate(sections):
        if not (url := words(row.get("URL"))):
            continue
        priority, active = whole(row.get("Priority")), row.get("Stratum Active")
        found.append(
            Pool(
                url=url,
                user=words(row.get("User")),
                state=words(row.get("Status")).lower() or None,
                accepted=whole(row.get("Accepted")),
                rejected=whole(row.get("Rejected")),
                stale=whole(row.get("Stale")),
                priority=place if priority is None else min(priority, 2**31),
                active=active if isinstance(active, bool) else None,
            )
        )
    return tuple(found)
