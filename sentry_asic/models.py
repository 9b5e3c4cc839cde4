"""Antminer models as rows of data: what a healthy one has, and the unit it means when it says GHS.

Only facts that the devices do not state themselves. `unit` is the true unit of rates whose key says "GHS" and that come
without `rate_unit`: firmware for other algorithms kept the Bitcoin names. None: not known, so nothing is expected.
Sources: answers of real devices, hiveos-asic (units of old models), pyasic and asic-rs (boards, chips, fans, coolant).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """`chips` a board; `fans` 0 for hydro and immersion; `unit` as a key of `UNITS_HS`."""

    algorithm: str
    boards: int | None = None
    chips: int | None = None
    fans: int | None = None
    unit: str = "GH"
    coolant: str = ""
    """Where a water-cooled one shows its coolant, in and out: "pcb" (temp_pcb[0] and [2]), "chip" (temp_chip[0] and [1],
    when the other two are 0). Empty: not known, so its sensors are taken for what they are called."""
    total_unit: tuple[str, str] = ("", "")
    """Part of a compile time, and the unit that firmware of then gives its total in; its boards keep `unit`."""


UNITS_HS: dict[str, float] = {"H": 1, "KH": 1e3, "MH": 1e6, "GH": 1e9, "TH": 1e12, "PH": 1e15, "EH": 1e18}
"""H/s, and sol/s and g/s where an algorithm counts those."""

_SHA, _SCRYPT, _X11, _EQUIHASH, _ETHASH = "sha256", "scrypt", "x11", "equihash", "ethash"
_HYD = re.compile(r"[ ]*\bHYD(RO|\.)?$")

MODELS: dict[str, Model] = {
    "S9": Model(_SHA, 3, 63, 2),
    "S9I": Model(_SHA, 3, 63, 2),
    "S9J": Model(_SHA, 3, 63, 2),
    "S17": Model(_SHA, 3, 48, 4),
    "S17 PRO": Model(_SHA, 3, 48, 4),
    "S17+": Model(_SHA, 3, 65, 4),
    "S17E": Model(_SHA, 3, 135, 4),
    "T17": Model(_SHA, 3, 30, 4),
    "T17+": Model(_SHA, 3, 44, 4),
    "T17E": Model(_SHA, 3, 78, 4),
    "S19": Model(_SHA, 3, 76, 4),
    "S19 PRO": Model(_SHA, 3, 114, 4),
    "S19 XP": Model(_SHA, 3, 110, 4),
    "S19X88": Model(_SHA, 3, 88, 4),  # as Hiveon calls it
    "S19A": Model(_SHA, 3, 72, 4),
    "S19A PRO": Model(_SHA, 3, 100, 4),
    "S19J": Model(_SHA, 3, 114, 4),
    "S19J PRO": Model(_SHA, 3, 126, 4),
    "S19JPRO": Model(_SHA, 3, 126, 4),  # as Hiveon calls it
    "S19J PRO+": Model(_SHA, 3, 120, 4),
    "S19K PRO": Model(_SHA, 3, 77, 4),
    "S19+": Model(_SHA, 3, 80, 4),
    "S19 PRO+": Model(_SHA, 3, 120, 4),
    "S19 HYD.": Model(_SHA, 4, 104, 0),
    "S19 PRO HYD.": Model(_SHA, 4, 180, 0),
    "S19 PRO+ HYD.": Model(_SHA, 4, 180, 0),
    "S19 XP HYD.": Model(_SHA, 3, 204, 0),
    "S19 XP+ HYD.": Model(_SHA, None, None, 0),
    "T19": Model(_SHA, 3, 76, 4),
    "S21": Model(_SHA, 3, 108, 4),
    "S21 PRO": Model(_SHA, 3, 65, 4),
    "S21+": Model(_SHA, 3, 55, 4),
    "S21 XP": Model(_SHA, 3, 91, 4),
    "S21 HYD.": Model(_SHA, 3, 216, 0, coolant="chip"),
    "S21+ HYD.": Model(_SHA, 3, None, 0, coolant="pcb"),
    "S21 XP HYD.": Model(_SHA, 3, 160, 0, coolant="chip"),
    "S21E XP HYD.": Model(_SHA, None, None, 0, coolant="chip"),
    "S23 HYD.": Model(_SHA, 3, 84, 0),
    "T21": Model(_SHA, 3, 108, 4),
    "L3": Model(_SCRYPT, 4, 72, 2, "MH"),
    "L3+": Model(_SCRYPT, 4, 72, 2, "MH"),
    "L3++": Model(_SCRYPT, 4, 72, 2, "MH"),
    "L7": Model(_SCRYPT, 4, 120, 4, "MH"),
    "L9": Model(_SCRYPT, 4, 110, 4),
    "L11": Model(_SCRYPT, 3, 88, 4),
    "D3": Model(_X11, 3, 60, 2, "MH"),
    "D7": Model(_X11, 3, 70, 4),
    "D9": Model(_X11, 3, 126, 4),
    "Z9": Model(_EQUIHASH, 3, None, 2, "KH"),
    "Z9-MINI": Model(_EQUIHASH, 3, None, 2, "KH"),
    "Z11": Model(_EQUIHASH, 3, None, 2, "KH", total_unit=("Oct 2019", "H")),
    "Z15": Model(_EQUIHASH, 3, None, 2, "KH"),
    "X3": Model("cryptonight", 3, None, 2, "KH"),
    "E3": Model(_ETHASH, 3, None, 2, "MH"),
    "E9 PRO": Model(_ETHASH, 2, 8, 4, "MH"),
    "HS3": Model("blake2b+sha3", 3, 92, 4),
    "KA3": Model("blake2s", 3, 92, 4),
    "KS5": Model("kheavyhash", 3, 92, 4),
    "KS5 PRO": Model("kheavyhash", 3, 92, 4),
}


def model_of(name: str) -> Model | None:
    """The row for "S19 Pro", "Antminer S19 Pro" or "S21 Hydro" (its own name is "S21 Hyd."); None for a model we do not know."""
    return MODELS.get(_HYD.sub(" HYD.", " ".join(name.upper().removeprefix("ANTMINER").split())))


def unit_hs(stated: str) -> float | None:
    """H/s of one unit as a device states it: "GH", "GH/s", "MHS", "kSol/s". None when it is none we know."""
    bare = stated.strip().upper().removesuffix("/S").removesuffix("OL").removesuffix("S")
    return UNITS_HS.get(bare if bare.endswith("H") else f"{bare}H")
