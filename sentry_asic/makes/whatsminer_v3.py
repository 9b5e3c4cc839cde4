"""Whatsminer API V3: port 4433, length-prefixed JSON, a token for each order.

Called by makes/whatsminer.py. Source: the maker's API document 3.0 (apidoc.whatsminer.com); not recorded on a device by us.
A token holds the time, and a device whose clock differs refuses it: we use the time it states itself in the answer
that gives the salt. Write access is off until a person turns it on: we say so and leave it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from garrison.faults import BadAnswer, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import parse, table, whole, words
from sentry_asic.cgminer import MAX_BYTES, NoReply
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of
from sentry_asic.makes.whatsminer_crypt import encrypt, token_v3
from sentry_asic.makes.whatsminer_parse import firmware_of, is_yes, limit_of, listed_errors, of_v3
from sentry_asic.makes.whatsminer_v2 import ANSWER_S, ORDER_S, WRITE_DISABLED_HINT

PORT = 4433
_LENGTH = struct.Struct("<I")
_ACCOUNTS = ("super", "user1", "user2", "user3")  # the maker: "admin" is no longer supported here
_NO_COMMAND, _NO_PERMISSION = -2, -4


class V3:
    """Errors as sentry_asic.make.Driver says."""

    def __init__(self, place: Place, account: str, password: str, *, factory: bool) -> None:
        self._host, self._port = place.host, place.http_port or PORT
        self._account = account if account in _ACCOUNTS else _ACCOUNTS[0]
        self._password, self._factory = password, factory

    # ---- reading -------------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        try:
            reading = of_v3(table(await self.ask("get.miner.status", "summary+pools+edevs")))
        except Refused:  # firmware at rest may refuse to tell its status
            if not await self._off():
                raise
            reading = Reading(mining=False, asleep=True, missing=("pools",))
            return await self._slow(reading) if slow else reading
        if not reading.mining and await self._off():
            missing = tuple(name for name in reading.missing if name == "pools")
            reading = replace(reading, asleep=True, mining=False, missing=missing)
        return await self._slow(reading) if slow else reading

    async def _off(self) -> bool:
        return is_yes(table((await self.info("miner")).get("miner")).get("working")) is False

    async def _slow(self, reading: Reading) -> Reading:
        conditions: tuple[Condition, ...] = ()
        missing, mode = list(reading.missing), None
        try:
            mode = words(table(await self.ask("get.miner.setting")).get("power-mode"), 32).lower() or None
        except (BadAnswer, Refused):
            missing.append("mode")
        try:
            conditions = listed_errors((await self.info("error-code")).get("error-code"))
        except (BadAnswer, Refused):
            missing.append("errors")
        return replace(reading, mode=mode, conditions=conditions, missing=tuple(missing))

    async def info(self, part: str = "") -> Mapping[str, Any]:
        return table(await self.ask("get.device.info", part or None))

    async def seen(self, make: str, model: str, firmware: str) -> Seen:
        told = await self.info()
        miner, system, network = (table(told.get(name)) for name in ("miner", "system", "network"))
        named = {"api": system.get("api"), "platform": system.get("platform"), "hostname": network.get("hostname")}
        facts = {name: text for name, value in named.items() if (text := words(value, 64))}
        return Seen(
            make,
            words(miner.get("type"), 64) or model,
            firmware_of(system.get("fwversion")) or firmware,
            mac_of(network.get("mac")),
            words(miner.get("miner-sn"), 64),
            facts,
        )

    async def blinks(self) -> bool | None:
        told = words(table((await self.info("system")).get("system")).get("ledstatus"), 32)
        return None if not told else told != "auto"

    async def held_pools(self) -> tuple[Pool, ...]:
        reading = of_v3(table(await self.ask("get.miner.status", "pools")))
        if reading.pools is None:
            raise BadAnswer(f"{self._host}: an answer without pools")
        return reading.pools

    async def held_power(self) -> tuple[str | None, int | None]:
        """Power mode and limit in W; None where it does not tell."""
        told = table(await self.ask("get.miner.setting"))
        limit_w = limit_of(told.get("power-limit"))
        return words(told.get("power-mode"), 32).lower() or None, None if limit_w is None else round(limit_w)

    async def hostname(self) -> str | None:
        """What is stored: it goes by a new name after its restart."""
        return words(table(await self.ask("get.system.setting")).get("hostname"), 64) or None

    async def ask(self, command: str, param: str | None = None) -> Any:
        """`msg` of a get command."""
        request = {"cmd": command} | ({} if param is None else {"param": param})
        return self._message(command, await self._say(request, ANSWER_S))

    # ---- orders --------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("set.system.reboot")

    async def restart(self) -> None:
        await self._order("set.miner.service", "restart")

    async def stop(self) -> None:
        await self._order("set.miner.service", "stop")

    async def start(self) -> None:
        await self._order("set.miner.service", "start")

    async def blink(self, on: bool) -> None:
        await self._order("set.system.led", [{"color": "red", "period": 500, "duration": 250, "start": 0}] if on else "auto")

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        param = [{"pool": pool.url, "worker": pool.user, "passwd": pool.password} for pool in pools]
        await self._order("set.miner.pools", param, sealed=True)

    async def set_power_mode(self, mode: str) -> None:
        await self._order("set.miner.power_mode", mode)

    async def set_power_limit(self, limit_w: int) -> None:
        await self._order("set.miner.power_limit", limit_w)

    async def set_hostname(self, name: str) -> None:
        await self._order("set.system.hostname", {"hostname": name})

    async def _order(self, command: str, param: object = None, *, sealed: bool = False) -> None:
        """Returns when the device took it. One that went out and got no answer is no fault: the caller looks later."""
        said = await self._say({"cmd": "get.device.info"}, ANSWER_S)
        told = table(self._message("get.device.info", said))
        salt, ts = words(told.get("salt"), 64), whole(table(said).get("when"))
        if not salt or ts is None:
            raise BadAnswer(f"{self._host} gives no salt, so nothing was sent")
        if words(table(told.get("system")).get("apiswitch"), 4) == "0":
            raise Refused(f"write access is disabled on {self._host}", hint=WRITE_DISABLED_HINT)
        token = token_v3(command, self._password, salt, ts)
        request: dict[str, object] = {"cmd": command, "ts": ts, "token": token.sign, "account": self._account}
        if param is not None:
            request["param"] = encrypt(token.key, msgspec.json.encode(param)) if sealed else param
        try:
            answer = await self._say(request, ORDER_S)
        except (NoReply, TimedOut):
            return
        self._message(command, answer)

    def _message(self, command: str, said: Any) -> Any:
        code = table(said).get("code")
        if isinstance(code, bool) or not isinstance(code, int):
            raise BadAnswer(f"{self._host}:{self._port} {command}: an answer without a code")
        if code == 0:
            return table(said).get("msg")
        text = words(table(said).get("msg")) or "no reason given"
        if code == _NO_PERMISSION:
            what = "the factory password" if self._factory else "this password"
            hint = f"it is wrong, or still the factory's, with which orders are blocked, or: {WRITE_DISABLED_HINT}"
            raise WrongPassword(f"{self._host} refuses {what} of account {self._account}: {text}", hint=hint)
        if code == _NO_COMMAND:
            raise NotSupported(f"the firmware of {self._host} does not know {command}: {text}")
        raise Refused(f"{self._host} refuses {command}: {text} (code {code})")

    async def _say(self, request: Mapping[str, object], total_s: float) -> Any:
        raw = await framed(self._host, self._port, msgspec.json.encode(request), total_s=total_s)
        try:
            return parse(raw).value
        except BadAnswer as fault:
            raise BadAnswer(f"{self._host}:{self._port} {request['cmd']}: {fault.text}") from None


async def framed(host: str, port: int, request: bytes, *, connect_s: float = 3, total_s: float = 8) -> bytes:
    """One request and its answer, each behind four bytes of length. Raises Unreachable, NoReply, TimedOut, BadAnswer."""
    where, sent = f"{host}:{port}", False
    writer: asyncio.StreamWriter | None = None
    loop = asyncio.get_running_loop()
    end_s = loop.time() + total_s
    try:
        async with asyncio.timeout(min(connect_s, total_s)) as limit:
            reader, writer = await asyncio.open_connection(host, port)
            limit.reschedule(end_s)
            writer.write(_LENGTH.pack(len(request)) + request)
            sent = True
            await writer.drain()
            size = 0
            while not size:  # a length of 0 is a heartbeat
                (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if size > MAX_BYTES:
                raise BadAnswer(f"{where} announces {size} bytes, more than the {MAX_BYTES} allowed")
            return await reader.readexactly(size)
    except TimeoutError:
        if writer is None:
            raise Unreachable(f"{where}: no connection within {connect_s:g} s") from None
        raise TimedOut(f"{where} did not answer within {total_s:g} s") from None
    except ConnectionRefusedError:
        raise Unreachable(f"{where} refuses connections") from None
    except (asyncio.IncompleteReadError, OSError) as error:
        if sent:
            raise NoReply(f"{where} closed the connection without an answer") from None
        raise Unreachable(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if writer is not None:
            writer.transport.abort()
