"""Relay boards whose relays are Modbus coils: read with function 1, written with function 5 (FF00 on, 0000 off).

Options:
    unit      the board's unit id, 0 to 255 (default 1)
    framer    "tcp" (Modbus TCP, default) or "rtu-over-tcp" (a serial board behind a transparent gateway)
    base      address of the first relay's coil (default 0)

The echo of function 5 proves nothing; some boards echo what they ignore. One connection is kept: gateways allow few. It is
dropped after each failure, so that a late answer cannot be taken for the next one.
This is the one file that knows pymodbus, whose API moves in minor versions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from garrison.clock import Clock
from garrison.faults import BadAnswer, BadInput, Fault, NotSupported, TimedOut, Unavailable, Unreachable
from garrison.words import PowerState
from rrc.board import BoardAddress, Capabilities, OutletReading, check_options, host_and_port, outlet_number, whole_number

if TYPE_CHECKING:
    from pymodbus.client import AsyncModbusTcpClient
    from pymodbus.pdu import ModbusPDU

CONNECT_S = 3.0
ANSWER_S = 3.0
_OPTIONS = frozenset({"unit", "framer", "base"})
_FRAMERS = {"tcp": "socket", "rtu-over-tcp": "rtu"}
_REFUSALS: dict[int, tuple[type[Fault], str]] = {
    1: (BadAnswer, "the board knows no coils (exception 1)"),
    2: (BadAnswer, "the board has no coil at that address (exception 2): check outlets and base"),
    3: (BadAnswer, "the board refuses the value (exception 3)"),
    4: (BadAnswer, "the board reports a failure of its own (exception 4)"),
    5: (TimedOut, "the board took the request and has not finished it (exception 5)"),
    6: (Unavailable, "the board is busy (exception 6)"),
    10: (Unreachable, "the gateway has no path to the board (exception 10)"),
    11: (TimedOut, "the board behind the gateway does not answer (exception 11): check unit"),
}


class Modbus:
    def __init__(self, address: BoardAddress, clock: Clock) -> None:
        check_options(address, _OPTIONS)
        self._host, self._port = host_and_port(address.address, 502)
        self._shown = address.address
        self._outlets = address.outlets
        self._unit = whole_number(address, "unit", 1, 0, 255)
        self._first = whole_number(address, "base", 0, 0, 65535)
        framer = address.options.get("framer", "tcp")
        if framer not in _FRAMERS:
            raise BadInput(f"option framer is {framer!r}", hint=f"one of: {', '.join(_FRAMERS)}")
        self._framer = _FRAMERS[framer]
        self._client: AsyncModbusTcpClient | None = None
        self.capabilities = Capabilities(None, metering=False, outlets=address.outlets)

    async def read(self, *, slow: bool = True) -> Mapping[str, OutletReading]:
        answer = await self._ask(lambda c: c.read_coils(self._first, count=self._outlets, device_id=self._unit))
        bits = answer.bits
        if len(bits) < self._outlets:
            await self.close()
            raise BadAnswer(f"{self._shown} was asked for {self._outlets} coils and gave {len(bits)}")
        return {str(n + 1): OutletReading(PowerState.ON if bits[n] else PowerState.OFF) for n in range(self._outlets)}

    async def set(self, outlet: str, on: bool) -> None:
        coil = self._first + outlet_number(outlet, self._outlets) - 1
        await self._ask(lambda c: c.write_coil(coil, on, device_id=self._unit))

    async def cycle(self, outlet: str, off_s: int) -> None:
        raise NotSupported("plain coils have no timer")

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _ask(self, send: Callable[[AsyncModbusTcpClient], Awaitable[ModbusPDU]]) -> ModbusPDU:
        """One request and its answer. Every pymodbus error is translated here."""
        client = await self._connected()
        from pymodbus.exceptions import ModbusException  # `_connected` has told what is missing

        whole = False
        try:
            async with asyncio.timeout(ANSWER_S + 1):
                answer = await send(client)
            whole = True
        except (TimeoutError, ModbusException, OSError):
            raise TimedOut(
                f"{self._shown} gives no Modbus answer within {ANSWER_S:.0f} s", hint="check unit and framer; is it a Modbus board?"
            ) from None
        finally:
            if not whole:
                await self.close()
        code = getattr(answer, "exception_code", 0)
        if code or answer.isError():
            kind, text = _REFUSALS.get(code, (BadAnswer, f"the board answers with exception {code}"))
            raise kind(f"{self._shown}: {text}")
        return answer

    async def _connected(self) -> AsyncModbusTcpClient:
        if self._client is not None and self._client.connected:
            return self._client
        await self.close()
        try:
            from pymodbus import FramerType  # a sentry without such a board does not load it
            from pymodbus.client import AsyncModbusTcpClient
        except ImportError:
            raise Unavailable("Modbus boards need the package pymodbus", hint="pip install 'garrison[asic]'") from None
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it logs each byte of a bad answer; faults tell what matters
        client = AsyncModbusTcpClient(
            self._host,
            port=self._port,
            framer=FramerType(self._framer),
            timeout=ANSWER_S,
            retries=0,  # the queue decides what may be sent twice
            reconnect_delay=0,  # no task of its own that goes on after us
        )
        try:
            async with asyncio.timeout(CONNECT_S):
                connected = await client.connect()
        except (TimeoutError, OSError):
            connected = False
        if not connected:
            client.close()
            raise Unreachable(f"{self._shown} cannot be reached")
        self._client = client
        return client
