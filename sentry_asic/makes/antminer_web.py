"""The two ways stock Antminers take orders over HTTP: JSON (S19, S21, L7 and later) and forms (S9, S17, L3 and earlier).

Called by makes/antminer.py. Both replace the whole configuration on a write; how that is made safe stands in digest_cgi.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from garrison.faults import Conflict, NotSupported
from garrison.model import PoolOrder
from garrison.words import ActionKind
from sentry_asic.answers import table, whole, words
from sentry_asic.digest_cgi import (
    blink,
    blinking,
    cgi,
    check_conf,
    check_settings,
    encoded,
    order,
    plain,
    pool_fields,
    same_pools,
    slots,
    write_conf,
)
from sentry_asic.make import Fan
from sentry_asic.settable import check_mode
from sentry_core.http import HttpClient

POWER_MODES = {"normal": 0, "low": 3}
_BOTH = (ActionKind.REBOOT, ActionKind.LOCATE, ActionKind.APPLY_FLIGHT_SHEET)


class Web(Protocol):
    """Orders of one generation. Errors as sentry_asic.make.Driver says."""

    capabilities: tuple[ActionKind, ...]

    async def conf(self) -> dict[str, Any]:
        """The whole stored configuration, checked. BadAnswer when it makes no sense."""
        ...

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None: ...

    async def set_mode(self, mode: int) -> None: ...

    async def locate(self, on: bool) -> None: ...

    async def locating(self) -> bool | None: ...


# ---- S19, S21, L7 and later --------------------------------------------------------------------------------


class ModernWeb:
    """JSON in, `{"stats":"success","code":"M000"}` out. Sleep is `miner-mode` 1, low power 3."""

    capabilities: tuple[ActionKind, ...] = (
        *_BOTH,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.SET_POWER_MODE,
        ActionKind.SET_FAN,
    )

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._awake_mode = 0  # what `pause` found, for `resume`

    async def conf(self) -> dict[str, Any]:
        return check_conf(await cgi(self._http, "get_miner_conf"))

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        wanted = slots(pools)
        conf = await self.conf()
        if not same_pools(conf, wanted):
            await self._write({**conf, "pools": wanted}, _mode_of(conf))

    async def set_mode(self, mode: int) -> None:
        """1: sleep. 0: awake, in the mode that a pause of ours interrupted."""
        conf = await self.conf()
        now = _mode_of(conf)
        if mode == 1 and now != 1:
            self._awake_mode = now
            await self._write(conf, 1)
        elif mode != 1 and now == 1:
            await self._write(conf, self._awake_mode)

    async def set_power_mode(self, mode: str) -> None:
        """Not every model has the low mode, and none tells: what was not taken is not there when read again."""
        wanted = POWER_MODES[check_mode(mode, tuple(POWER_MODES))]
        conf = await self.conf()
        if _mode_of(conf) == 1:
            raise Conflict("it sleeps, and another mode would wake it", hint="resume it first; nothing was sent")
        await self._write(conf, wanted)

    async def fan(self) -> Fan | None:
        conf = await self.conf()
        by_hand = {"true": True, "false": False}.get(words(str(conf.get("bitmain-fan-ctrl"))).lower())
        percent = whole(conf.get("bitmain-fan-pwm"))
        return Fan(None) if by_hand is False else None if by_hand is None or percent is None else Fan(percent)

    async def set_fan(self, fan: Fan) -> None:
        conf = await self.conf()
        if not isinstance(by_hand := conf.get("bitmain-fan-ctrl"), bool | str) or "bitmain-fan-pwm" not in conf:
            raise NotSupported("this firmware has no setting for its fans", hint="models with liquid cooling have none")
        wanted: bool | str = fan.percent is not None
        changed = {"bitmain-fan-ctrl": str(wanted).lower() if isinstance(by_hand, str) else wanted}
        if fan.percent is not None:
            changed["bitmain-fan-pwm"] = str(fan.percent)
        await self._write({**conf, **changed}, _mode_of(conf))

    async def _write(self, conf: Mapping[str, Any], mode: int) -> None:
        """The configuration is read under one set of names and written under another; whatever else it has goes back as it was."""
        document = dict(conf)
        document["miner-mode"] = mode
        if "bitmain-work-mode" in document:
            document["bitmain-work-mode"] = str(mode) if isinstance(document["bitmain-work-mode"], str) else mode
        if "bitmain-freq-level" in document:
            document.setdefault("freq-level", document["bitmain-freq-level"])
        await write_conf(self._http, document)

    async def locate(self, on: bool) -> None:
        await blink(self._http, on)

    async def locating(self) -> bool | None:
        return await blinking(self._http)


def _mode_of(conf: Mapping[str, Any]) -> int:
    for name in ("miner-mode", "bitmain-work-mode"):
        code = whole(conf.get(name))
        if code is not None:
            return code
    return 0


# ---- S9, S17, L3 and earlier -------------------------------------------------------------------------------

_FORM = (
    ("_ant_nobeeper", "bitmain-nobeeper", "false"),
    ("_ant_notempoverctrl", "bitmain-notempoverctrl", "false"),
    ("_ant_fan_customize_switch", "bitmain-fan-ctrl", "false"),
    ("_ant_fan_customize_value", "bitmain-fan-pwm", ""),
    ("_ant_freq", "bitmain-freq", ""),
    ("_ant_voltage", "bitmain-voltage", ""),
    ("_ant_work_mode", "bitmain-work-mode", None),
    ("_ant_multi_level", "bitmain-multi-level", None),
    ("_ant_force_tuning", "bitmain-force-tuning", None),
)
"""Behind the nine pool fields, in this order: the device's shell script counts fields and ignores their names.
None: sent only when the configuration has it or a later one."""

_CARRIED = frozenset(
    {"pools", "api-listen", "api-network", "api-groups", "api-allow", "bitmain-use-vil", "bitmain-ccdelay", "bitmain-pwth"}
) | {key for _, key, _ in _FORM}
"""The first are written by the script itself."""


class OldWeb:
    """Forms in, "ok" out, half a minute later. It cannot sleep."""

    capabilities: tuple[ActionKind, ...] = _BOTH

    def __init__(self, http: HttpClient, *, known_form: bool = True) -> None:
        """`known_form`: whether its script takes the fields that the maker's own does."""
        self._http = http
        self._known_form = known_form
        if not known_form:
            self.capabilities = (ActionKind.REBOOT, ActionKind.LOCATE)

    async def conf(self) -> dict[str, Any]:
        return check_conf(await cgi(self._http, "get_miner_conf"))

    async def set_pools(self, pools: Sequence[PoolOrder]) -> None:
        if not self._known_form:
            raise NotSupported("what the form of this firmware takes is not known", hint="set its pools on its web page")
        wanted = slots(pools)
        conf = await self.conf()
        if not same_pools(conf, wanted):
            await order(self._http, "set_miner_conf", form=old_form(conf, wanted))

    async def set_mode(self, mode: int) -> None:
        raise NotSupported(f"this Antminer cannot {'sleep' if mode == 1 else 'be woken'}", hint="its power can be cut by a relay")

    async def locate(self, on: bool) -> None:
        await order(self._http, "blink", form=f"action={'startBlink' if on else 'stopBlink'}".encode())

    async def locating(self) -> bool | None:
        try:
            said = table(await order(self._http, "blink", form=b"action=onPageLoaded"))
        except NotSupported:
            return None
        blinks = said.get("isBlinking")
        return blinks if isinstance(blinks, bool) else {"true": True, "false": False}.get(words(blinks))


def old_form(conf: Mapping[str, Any], pools: Sequence[Mapping[str, str]]) -> bytes:
    """The form that gives the device these pools and all its own settings back.

    Conflict when it has a setting that the form cannot carry; BadInput for text that its script would spoil.
    """
    check_settings(conf, _CARRIED)
    fields = pool_fields("_ant_", pools)
    last = max(place for place, (_, key, default) in enumerate(_FORM) if default is not None or key in conf)
    for field, key, default in _FORM[: last + 1]:
        fields.append((field, plain(conf.get(key, default))))
    return encoded(fields)


async def find_web(http: HttpClient, *, known_form: bool = True) -> Web:
    """Which of the two this device has: only the newer has `get_blink_status.cgi` or `summary.cgi`."""
    for name in ("get_blink_status", "summary"):
        try:
            await cgi(http, name)
        except NotSupported:
            continue
        return ModernWeb(http)
    return OldWeb(http, known_form=known_form)
