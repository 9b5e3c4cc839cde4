"""The forms that give a BlackMiner or VolcMiner its pools and all its own settings back. Pure.

Fields and their order: foreman-apps (BlackMiner F1), asic-rs and bitcap-ipr (VolcMiner D1). The device's script counts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.faults import BadAnswer
from sentry_asic.answers import parse, table, words
from sentry_asic.digest_cgi import check_settings, encoded, plain, pool_fields

_PREFIX = "_bb_"
_SAME = frozenset({"pools", "api-listen", "api-network", "api-groups", "api-allow", "use-vil"})
"""Written by the script itself."""

_HEAD = (
    ("nobeeper", "nobeeper", "false"),
    ("notempoverctrl", "notempoverctrl", "false"),
    ("fan_customize_switch", "fan-ctrl", "false"),
)
_BLACK = (*_HEAD, ("fan_customize_value", "fan-pwm", ""), ("freq", "freq", None), ("coin_type", "coin-type", None))
_VOLC = (
    *_HEAD,
    ("fan_customize_value_front", "fan-pwm-front", ""),
    ("fan_customize_value_back", "fan-pwm-back", ""),
    ("freq", "freq", None),
    ("coin_type", "coin-type", None),
    ("runmode", "runmode", None),
    ("voltage_customize_value", "voltage", None),
    ("ema", "sram-voltage", None),
    ("debug", "bb_debug_enable", None),
)
"""Field, setting, what to send for one that is not shown; None: without it nothing is sent."""

_IN_QUOTES = re.compile(r':\s*"\s*(?=[\[{])|(?<=[\]}])\s*"(?=\s*[,\]}])')
_NUMBER = re.compile(r"-?\d{1,5}")
_MAX_BYTES = 64 * 1024


def black_form(conf: Mapping[str, Any], pools: Sequence[Mapping[str, str]]) -> bytes:
    """Conflict when it has a setting that the form cannot carry; BadAnswer when one is not shown; BadInput for odd characters."""
    return _form(_BLACK, conf, pools, _SAME)


def volc_form(conf: Mapping[str, Any], more: Mapping[str, str], pools: Sequence[Mapping[str, str]]) -> bytes:
    """The same, with the settings of `parse_more`."""
    return _form(_VOLC, {**conf, **more}, pools, _SAME)


def _form(
    fields: Sequence[tuple[str, str, str | None]],
    conf: Mapping[str, Any],
    pools: Sequence[Mapping[str, str]],
    same: frozenset[str],
) -> bytes:
    check_settings(conf, same | {key for _, key, _ in fields})
    made = pool_fields(_PREFIX, pools)
    for field, key, default in fields:
        value = plain(conf.get(key, default))
        if default is None and not value:
            raise BadAnswer(f"the device does not show its setting {key!r}, so nothing was written", hint="look at its web page")
        made.append((_PREFIX + field, value))
    return encoded(made)


def parse_more(body: bytes) -> dict[str, str]:
    """Run mode, voltage and debug switch of get_miner_confV1.cgi, which puts objects into quotes. Raises BadAnswer."""
    if len(body) > _MAX_BYTES:
        raise BadAnswer("get_miner_confV1.cgi is longer than any configuration, so nothing was written")
    top = table(
        parse(_IN_QUOTES.sub(lambda found: ":" if found[0][0] == ":" else "", body.decode("utf-8", "replace")).encode()).value
    )
    inner = table(top.get("data")) or top
    debug = table(inner.get("debug")).get("bb_debug_enable", False)
    more = {name: words(inner.get(name)) or str(inner.get(name)) for name in ("runmode", "voltage")}
    if not all(_NUMBER.fullmatch(value) for value in more.values()):
        raise BadAnswer(
            "get_miner_confV1.cgi does not show run mode and voltage, so nothing was written", hint="look at its web page"
        )
    return {**more, "bb_debug_enable": "true" if debug is True or words(debug) == "true" else "false"}
