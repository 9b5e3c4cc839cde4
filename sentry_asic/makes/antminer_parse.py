"""What stock Antminers say besides `stats` (antminer_stats.py), from parsed JSON to values. Pure: no socket, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from garrison.model import Condition, Pool
from sentry_asic.answers import rows, table, whole, words

MODES = {0: "normal", 1: "sleep", 3: "low"}
MAX_WARNINGS = 16
_SEVERITIES = {"fans": "critical", "temp": "critical"}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_OTHERS = ("vnish", "braiins", "bosminer", "luxos", "luxminer", "marafw", "kaonsu", "asicseer", "hashsource", "epic")
"""Firmware on Antminer hardware that copies its answers, but not its controls."""


@dataclass(frozen=True, slots=True)
class Version:
    """What `version` (or the header of `stats`) tells. `model` is "" when it does not."""

    model: str = ""
    firmware: str = ""
    stock: bool = False
    hiveon: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)


def parse_version(row: Mapping[str, Any]) -> Version:
    """`stock` only for the maker's own firmware and Hiveon: others copy the type and the web realm.

    "rwglr" stands in the answers of Hiveon and of MSK alike; only the first also names itself ("Antminer S9 Hiveon").
    """
    kind = words(row.get("Type"))
    everything = " ".join(f"{k} {v}" for k, v in row.items() if isinstance(v, str | int | float)).lower()
    hiveon = "hiveon" in everything
    other = any(name in everything for name in _OTHERS) or ("rwglr" in everything and not hiveon)
    stock = kind.lower().startswith("antminer") and not other
    told = {"miner": words(row.get("Miner")), "compiled": words(row.get("CompileTime")), "api": words(row.get("API"))}
    if hiveon:
        told["brand"] = "Hiveon"
    return Version(model_name(kind), told["miner"], stock, hiveon, {k: v for k, v in told.items() if v})


def model_name(kind: str) -> str:
    """ "Antminer S19 Pro (88)" and "Antminer S19 Pro Hiveon" are the model "S19 Pro": the make stands elsewhere."""
    bare = re.sub(r"\s+hiveon$", "", re.sub(r"\s*\([^)]*\)\s*$", "", kind.strip()), flags=re.IGNORECASE)
    return re.sub(r"^antminer\s+", "", bare, flags=re.IGNORECASE)


def mac_of(value: object) -> str:
    """ "aa:bb:cc:dd:ee:ff"; "" for what is none, and for all zeros or ones."""
    told = words(value).lower().replace("-", ":")
    return told if _MAC.fullmatch(told) and told not in ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff") else ""


# ---- the other answers -------------------------------------------------------------------------------------


def parse_pools(sections: Sequence[Mapping[str, Any]]) -> tuple[Pool, ...]:
    """The rows of POOLS, from port 4028 or from CGI. Slots without a URL are no pools."""
    found = []
    for place, row in enumerate(sections):
        told = {key.lower(): value for key, value in row.items()}
        url = words(told.get("url"))
        if not url:
            continue
        active = told.get("stratum active")
        priority = whole(told.get("priority"))
        found.append(
            Pool(
                url=url,
                user=words(told.get("user")),
                state=words(told.get("status")).lower() or None,
                accepted=whole(told.get("accepted")),
                rejected=whole(told.get("rejected")),
                stale=whole(told.get("stale")),
                priority=place if priority is None else min(priority, 2**31),
                active=active if isinstance(active, bool) else None,
            )
        )
    return tuple(found)


def parse_conditions(summary: Mapping[str, Any]) -> tuple[Condition, ...]:
    """`status` of summary.cgi: what is not "s" (well) is a fault; an empty word says nothing."""
    found = []
    for row in rows(summary.get("status")):
        kind, state = words(row.get("type"), 32), words(row.get("status"), 16)
        if state in ("", "s"):
            continue
        code = whole(row.get("code"))
        text = words(row.get("msg")) or f"the device reports a fault of its {kind or 'hardware'}"
        name = kind or "status"
        found.append(Condition(f"{name}:{code}" if code else name, text, _SEVERITIES.get(kind, "warning")))
    return tuple(found)


def parse_warnings(told: Mapping[str, Any]) -> tuple[Condition, ...]:
    """warning.cgi of recent firmware: `{"WARNING": [{"code": "P:2", "suggestion": "…", "timestamp": …}]}` (reported).

    The maker's code and words; which of them is grave it does not say.
    """
    found = []
    listed = rows(told.get("WARNING")) or rows(told.get("WARNINGS"))
    for row in listed[:MAX_WARNINGS]:
        number = whole(row.get("code"))
        code = words(row.get("code"), 32) or ("" if number is None else str(number))
        texts = (words(row.get(name)) for name in ("msg", "message", "cause", "suggestion"))
        text = next((text for text in texts if text), "")
        if code or text:
            found.append(
                Condition(f"warning:{code}" if code else "warning", text or f"the device warns with code {code}", "warning")
            )
    return tuple(dict.fromkeys(found))


def conf_mode(conf: Mapping[str, Any]) -> str | None:
    """The mode that the stored configuration asks for."""
    for name in ("miner-mode", "bitmain-work-mode"):
        code = whole(conf.get(name))
        if code is not None:
            return MODES.get(code, f"mode {code}")
    return None


def info(value: object) -> Mapping[str, Any]:
    """The first row of SUMMARY in an answer of summary.cgi."""
    found = rows(table(value).get("SUMMARY"))
    return found[0] if found else {}
