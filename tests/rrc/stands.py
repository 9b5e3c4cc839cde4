"""One stand a kind of board: something real that the contract test's board is opened against."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from pymodbus import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from rrc.board import BoardAddress
from tests.simulators.tasmota import Tasmota

FIXTURES = Path(__file__).parents[1] / "fixtures" / "rrc"
Stand = Callable[[BoardAddress, Path], AbstractAsyncContextManager[BoardAddress]]


@contextlib.asynccontextmanager
async def fake(address: BoardAddress, folder: Path) -> AsyncIterator[BoardAddress]:
    shutil.copy(FIXTURES / "fake" / "state.json", folder / "state.json")
    yield replace(address, address="nowhere", options={**address.options, "state_file": str(folder / "state.json")})


@contextlib.asynccontextmanager
async def modbus(address: BoardAddress, folder: Path) -> AsyncIterator[BoardAddress]:
    async with pymodbus_server(int(address.options["unit"]), int(address.options["base"]), address.outlets) as port:
        yield replace(address, address=f"127.0.0.1:{port}")


@contextlib.asynccontextmanager
async def pymodbus_server(unit: int, base: int, coils: int, framer: str = "socket") -> AsyncIterator[int]:
    """A server of pymodbus' with that many coils, all on; gives its port."""
    bits = [SimData(base, values=[True] * coils, datatype=DataType.BITS)]
    spare = [SimData(0, count=1, datatype=DataType.REGISTERS)]
    device = SimDevice(id=unit, simdata=(bits, [SimData(0, values=[False], datatype=DataType.BITS)], spare, spare))
    server = ModbusTcpServer(device, address=("127.0.0.1", 0), framer=FramerType(framer))
    await server.serve_forever(background=True)
    assert isinstance(server.transport, asyncio.Server)
    try:
        yield server.transport.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it untyped


@contextlib.asynccontextmanager
async def tasmota(address: BoardAddress, folder: Path) -> AsyncIterator[BoardAddress]:
    async with Tasmota(outlets=address.outlets, password=address.password) as plug:
        yield replace(address, address=plug.address)


STANDS: Mapping[str, Stand] = {"fake": fake, "modbus": modbus, "tasmota": tasmota}
