"""Whatsminer API V1 and V2: port 4028, reads in plain JSON, orders encrypted under a token.

Called by makes/whatsminer.py. Source: the maker's API document 2.0.5, recorded answers of an M30. A token lives for half an
hour and one address may hold 32: it is kept, renewed once when the device calls it wrong (135), and after "too many" (136)
none is asked for until the old ones are dead. Write access is off until a person turns it on: we say so and leave it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from garrison.faults import BadAnswer, Conflict, Fault, NotSupported, Refused, TimedOut, Unreachable, WrongPassword
from garrison.model import Condition, Pool, PoolOrder
from sentry_asic.answers import Answer, parse, rows, table, whole, words
from sentry_asic.cgminer import PORT, MinerDown, NoReply, ask, exchange, pools_of, section
from sentry_asic.make import Place, Reading, Seen
from sentry_asic.makes.antminer_parse import mac_of
from sentry_asic.makes.whatsminer_crypt import Token, decrypt, encrypt, token_v2
from sentry_asic.makes.whatsminer_parse import firmware_of, is_yes, listed_errors, of_v2, summary_errors

ANSWER_S = 5  # of one question: a look is three, and has 10 s in all
ORDER_S = 15
SLOTS = 3
POWER_MODES = ("low", "normal", "high")
MOST_LIMIT_W = 99_999  # of both API documents
LOCK_OUT_S = 30 * 60
_TOKEN_S = 25 * 60  # it lives for 30 minutes
_OK, _WRONG_TOKEN, _TOO_MANY, _DENIED, _UNKNOWN_COMMAND = 131, 135, 136, 45, 14
_UNREADABLE = (23, 137)  # it could not make sense of what we encrypted: another password
WRITE_DISABLED_HINT = "turn it on with WhatsMinerTool: first change the admin password, then Remote Ctrl, Miner API Switch, Enable"


class V2:
    """Errors as sentry_asic.make.Driver says."""

    def __init__(self, place: Place, password: str, *, factory: bool) -> None:
        self._host, self._port = place.host, place.api_port or PORT
        self._password, self._factory = password, factory
        self._devs = "devs"
        self._token: Token | None = None
        self._token_until_s = self._locked_until_s = 0.0
        self._lock: Fault | None = None

    # ---- reading -------------------------------------------------------------------------------------------

    async def read(self, *, slow: bool) -> Reading:
        try:
            answer = await self.ask("summary")
            summary = section(answer, "SUMMARY")[0]
        except (MinerDown, BadAnswer, Refused, IndexError) as fault:
            return await self._without_summary(fault)
        pools, pool_repairs = await self._section("pools", "POOLS")
        devs, dev_repairs = await self._boards()
        repairs = answer.repairs + pool_repairs + dev_repairs
        reading = of_v2(summary, devs, None if pools is None else pools_of(pools), repairs)
        if not reading.mining and await self._off():
            reading = _asleep(reading)
        return await self._with_errors(reading, summary) if slow else reading

    async def ask(self, command: str) -> Answer:
        return await ask(self._host, command, port=self._port, total_s=ANSWER_S)

    async def _section(self, command: str, name: str) -> tuple[list[Mapping[str, Any]] | None, int]:
        """The rows and the repairs; None when it could not be asked: the look goes on without."""
        try:
            answer = await self.ask(command)
            return section(answer, name), answer.repairs
        except TimedOut:
            raise
        except (Unreachable, BadAnswer, Refused):
            return None, 0

    async def _boards(self) -> tuple[list[Mapping[str, Any]] | None, int]:
        """V1 and early V2 know `devs`, later ones `edevs`."""
        found, repairs = await self._section(self._devs, "DEVS")
        if found is None:
            self._devs = "edevs" if self._devs == "devs" else "devs"
            found, repairs = await self._section(self._devs, "DEVS")
        return found, repairs

    async def _off(self) -> bool | None:
        """Whether its hash boards were switched off by an order. None: this firmware does not tell."""
        told = await self.message("status")
        return next((yes for name in ("btmineroff", "mineroff") if (yes := is_yes(told.get(name))) is not None), None)

    async def message(self, command: str) -> Mapping[str, Any]:
        """`Msg` of a get_ command; empty when it is not to be had."""
        try:
            return table(table((await self.ask(command)).value).get("Msg"))
        except TimedOut:
            raise
        except (Unreachable, BadAnswer, Refused):
            return {}

    async def _without_summary(self, fault: Exception) -> Reading:
        """Its mining process is silent; the device tells whether it was put to sleep."""
        off = await self._off()
        if off is None:
            raise fault if isinstance(fault, Fault) else BadAnswer(f"{self._host}: a summary without a row")
        pools, repairs = await self._section("pools", "POOLS")
        told = None if pools is None else pools_of(pools)
        if off:
            return _asleep(Reading(mining=False, pools=told, missing=() if pools is not None else ("pools",), repairs=repairs))
        condition = Condition("miner_down", "the device answers, its miner does not", "critical")
        missing = ("hashrate_hs", "uptime_s", "power_w", "fans_rpm", "boards") + (() if pools is not None else ("pools",))
        return Reading(mining=False, asleep=False, pools=told, conditions=(condition,), missing=missing, repairs=repairs)

    async def _with_errors(self, reading: Reading, summary: Mapping[str, Any]) -> Reading:
        if summary_errors(summary) is not None:
            return reading
        try:
            answer = await self.ask("get_error_code")
            told = table(table(answer.value).get("Msg")).get("error_code")
        except TimedOut:
            raise
        except (Unreachable, BadAnswer, Refused):
            told = None
        if not isinstance(told, list):
            return replace(reading, missing=(*reading.missing, "errors"))
        return replace(reading, conditions=listed_errors(told), repairs=reading.repairs + answer.repairs)

    async def seen(self, make: str, model: str, firmware: str) -> Seen:
        """Raises Unreachable when the device says nothing of itself."""
        version, info = await self.message("get_version"), await self.message("get_miner_info")
        if not model:
            details, _ = await self._section("devdetails", "DEVDETAILS")
            model = next((told for row in details or () if (told := words(row.get("Model"), 64))), "")
        mac, firmware = mac_of(info.get("mac")), firmware_of(version.get("fw_ver")) or firmware
        if not mac or not firmware:  # V1 tells both in its summary, which it may not give while it sleeps
            try:
                found = section(await self.ask("summary"), "SUMMARY")
            except (MinerDown, BadAnswer, Refused):
                found = []
            for row in found[:1]:
                mac = mac or mac_of(row.get("MAC"))
                firmware = firmware or firmware_of(row.get("Firmware Version"))
        named = {"api": version.get("api_ver"), "platform": version.get("platform"), "hostname": info.get("hostname")}
        facts = {name: text for name, value in named.items() if (text := words(value, 64))}
        model = model or words(version.get("miner_type"), 64)
        return Seen(make, model, firmware, mac, words(info.get("minersn"), 64), facts)

    async def blinks(self) -> bool | None:
        told = words((await self.message("get_miner_info")).get("ledstat"), 32)
        return None if not told else told != "auto"

    async def held_pools(self) -> tuple[Pool, ...]:
        """BadAnswer and what asking raises when they are not to be had."""
        return pools_of(section(await self.ask("pools"), "POOLS"))

    async def held_power(self) -> tuple[str | None, int | None]:
        """Power mode and limit in W; None where it does not tell. Its summary tells them, which it may not give asleep."""
        found = section(await self.ask("summary"), "SUMMARY")
        reading = of_v2(found[0] if found else {}, None, None)
        return reading.mode, None if reading.power_limit_w is None else round(reading.power_limit_w)

    async def hostname(self) -> str | None:
        return words((await self.message("get_miner_info")).get("hostname"), 64) or None

    # ---- orders --------------------------------------------------------------------------------------------

    async def reboot(self) -> None:
        await self._order("reboot")

    async def restart(self) -> None:
        await self._order("restart_btminer")

    async def stop(self) -> None:
        await self._order("power_off", respbefore="true")  # else the answer comes after its API is gone

    async def start(self) -> None:
        await self._order("power_on")

    async def blink(self, on: bool) -> None:
        if on:
            await self._order("set_led", color="red", period=500, duration=250, start=0)
        else:
            await self._order("set_led", param="auto")

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        fields: dict[str, object] = {}
        for place in range(SLOTS):
            pool = pools[place] if place < len(pools) else PoolOrder("", "", "")
            fields |= {f"pool{place + 1}": pool.url, f"worker{place + 1}": pool.user, f"passwd{place + 1}": pool.password}
        await self._order("update_pools", **fields)

    async def set_power_mode(self, mode: str) -> None:
        await self._order(f"set_{mode}_power")

    async def set_power_limit(self, limit_w: int) -> None:
        await self._order("adjust_power_limit", power_limit=str(limit_w))

    async def set_hostname(self, name: str) -> None:
        await self._order("set_hostname", hostname=name)

    async def _order(self, command: str, **fields: object) -> None:
        """Returns when the device took it. One that went out and got no answer is no fault: the caller looks later."""
        for last in (False, True):
            token = await self._a_token()
            plain = msgspec.json.encode({"cmd": command, **fields, "token": token.sign})
            request = msgspec.json.encode({"enc": 1, "data": encrypt(token.key, plain)})
            try:
                raw = await exchange(self._host, self._port, request, total_s=ORDER_S)
            except (NoReply, TimedOut):
                return
            try:
                letter, code, text = verdict(unwrapped(raw, token.key))
            except Sealed:  # not sent again: we cannot read whether it was carried out
                raise self._locked(self._wrong_password()) from None
            if letter in ("S", "I") or code == _OK:
                return
            if code != _WRONG_TOKEN and code not in _UNREADABLE:
                raise self._refusal(command, code, text)
            self._token = None  # refused before it was carried out: a fresh token may do
            if last:
                raise self._locked(self._wrong_password())

    async def _a_token(self) -> Token:
        now_s = asyncio.get_running_loop().time()
        if self._lock is not None and now_s < self._locked_until_s:
            raise self._lock
        if self._token is not None and now_s < self._token_until_s:
            return self._token
        said = (await self.ask("get_token")).value
        told = table(table(said).get("Msg"))
        salt, newsalt, time = (words(told.get(name), 64) for name in ("salt", "newsalt", "time"))
        if not (salt and newsalt and time):
            _, code, text = verdict(said)
            raise self._refusal("get_token", code, text)
        self._token, self._token_until_s = token_v2(self._password, salt, newsalt, time), now_s + _TOKEN_S
        return self._token

    def _refusal(self, command: str, code: int | None, text: str) -> Fault:
        if code == _TOO_MANY or "over max" in text.lower():
            hint = f"it gives out few and each lives 30 minutes: not asked again for {LOCK_OUT_S // 60} minutes"
            return self._locked(Conflict(f"{self._host} has given out all its tokens", hint=hint))
        if code == _DENIED or "access write" in text.lower() or "permission denied" in text.lower():
            return Refused(f"write access is disabled on {self._host}", hint=WRITE_DISABLED_HINT)
        if code == _UNKNOWN_COMMAND:
            return NotSupported(f"the firmware of {self._host} does not know {command}")
        return Refused(f"{self._host} refuses {command}: {text or 'no reason given'} (code {code})")

    def _wrong_password(self) -> Fault:
        what = "the factory password" if self._factory else "this password"
        hint = f"give this device its admin password; {what} is not tried again for {LOCK_OUT_S // 60} minutes"
        return WrongPassword(f"{self._host} refuses {what}", hint=hint)

    def _locked(self, fault: Fault) -> Fault:
        """Every try costs a token: the same answer is given until it may be another."""
        self._lock, self._locked_until_s = fault, asyncio.get_running_loop().time() + LOCK_OUT_S
        return fault


class Sealed(BadAnswer):
    """An answer that our key does not open."""


def unwrapped(raw: bytes, key: bytes) -> Any:
    """What an order was answered: encrypted, plain, or JSON inside a JSON string. Raises BadAnswer, Sealed."""
    opened = False
    for _ in range(4):
        raw = raw.strip(b"\x00 \t\r\n")
        if raw[:1] == b'"':
            try:
                raw = msgspec.json.decode(raw, type=str).encode()
                continue
            except msgspec.DecodeError:
                raise BadAnswer("an answer in half a string") from None
        try:
            value = parse(raw).value
        except BadAnswer as fault:
            raise (Sealed(fault.text) if opened else fault) from None
        sealed = table(value).get("enc")
        if not isinstance(sealed, str):
            return value
        raw, opened = decrypt(key, sealed), True
    raise BadAnswer("an answer wrapped too often")


def verdict(value: Any) -> tuple[str, int | None, str]:
    """Letter, code and words of {"STATUS":"E","Code":45,"Msg":…} and of {"STATUS":[{…}]}."""
    top = table(value)
    said = next(iter(rows(top.get("STATUS"))), top)
    return words(said.get("STATUS"), 8), whole(said.get("Code")), words(said.get("Msg"))


def _asleep(reading: Reading) -> Reading:
    """Asleep, nothing is owed but the pools."""
    return replace(reading, asleep=True, mining=False, missing=tuple(name for name in reading.missing if name == "pools"))
