"""What a simulated Antminer says: our own values, in the shapes that the maker's firmware uses."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spec:
    """One simulated model. `unit_hs`: what a number in its "GHS" fields is worth."""

    model: str
    modern: bool
    boards: int
    chips: int
    nominal_hs: float
    firmware: str
    unit_hs: float = 1e9
    first_chain: int = 1
    fans: tuple[int, ...] = (1, 2, 3, 4)
    unit: str = "GH"
    watts: int | None = None
    coolant: str = ""  # "pcb", "chip": where a hydro one shows its water
    brand: str = ""  # behind the type, as Hiveon has it
    compiled: str = "Mon Jan  1 00:00:00 UTC 2024"
    total_unit_hs: float = 0.0  # when the total comes in another unit than the boards


SPECS: dict[str, Spec] = {
    "S19j Pro": Spec("S19j Pro", True, 3, 126, 104e12, "71.0.1.3"),
    "S21": Spec("S21", True, 3, 108, 200e12, "91.0.2.1", watts=3500),
    "L7": Spec("L7", True, 4, 120, 9.5e9, "66.0.0.8", unit_hs=1e6, unit="MH"),
    "S9": Spec("S9", False, 3, 63, 13.5e12, "30.0.1.3", first_chain=6, fans=(3, 6)),
    "L3+": Spec("L3+", False, 4, 72, 504e6, "1.0.1.3", unit_hs=1e6, fans=(1, 2)),
    "L9": Spec("L9", True, 4, 110, 16e9, "86.0.2.1", unit_hs=1e6, unit="MH", watts=3360),
    "S21+ Hyd.": Spec("S21+ Hyd.", True, 3, 95, 319e12, "91.0.2.2", fans=(), watts=4785, coolant="pcb"),
    "S21 XP Hyd.": Spec("S21 XP Hyd.", True, 3, 160, 473e12, "91.0.2.3", fans=(), coolant="chip"),
    "D3": Spec("D3", False, 3, 60, 19.3e9, "1.0.1.3", unit_hs=1e6, fans=(1, 2)),
    "X3": Spec("X3", False, 3, 60, 220e3, "1.0.1.3", unit_hs=1e3, fans=(1, 2)),
    "Z11": Spec("Z11", False, 3, 9, 135e3, "1.0.1.3", unit_hs=1e3, fans=(1, 2)),
    "Z11 2019": Spec(
        "Z11", False, 3, 9, 135e3, "1.0.1.3", 1e3, fans=(1, 2), compiled="Fri Oct 25 10:00:00 CST 2019", total_unit_hs=1
    ),
    "S9 Hiveon": Spec("S9", False, 3, 63, 13.5e12, "30.0.1.3", first_chain=6, fans=(5, 6), watts=1150, brand=" Hiveon"),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """The device at one instant. `rate_hs` 0: not hashing."""

    spec: Spec
    phase: str  # "mining", "booting", "sleeping"
    uptime_s: int
    rate_hs: float
    mode: int
    pools: Sequence[Mapping[str, str]]
    alive: Sequence[bool]
    accepted: int
    lost_boards: int = 0
    faults: Mapping[str, str] | None = None


def noise(seed: str, step: int) -> float:
    """A repeatable number in -1..1."""
    return zlib.crc32(f"{seed}/{step}".encode()) / 0x7FFFFFFF - 1


def status(code: int, text: str, letter: str = "S") -> list[dict[str, Any]]:
    # The device's clock is wrong on purpose: nobody may use it.
    return [{"STATUS": letter, "When": 1, "Code": code, "Msg": text, "Description": "cgminer 1.0.0"}]


def answer(now: Moment, command: str, *, new_api: bool = False) -> str:
    """The text of the answer on port 4028, malformed where the old firmware's is."""
    if command == "version":
        return dumps({"STATUS": status(22, "CGMiner versions"), "VERSION": [_version(now.spec)], "id": 1})
    if command == "stats":
        return _stats(now, new_api=new_api)
    if command == "summary":
        rows = [] if now.phase != "mining" else [_summary(now)]
        return dumps({"STATUS": status(11, "Summary"), "SUMMARY": rows, "id": 1})
    if command == "pools":
        return dumps({"STATUS": status(7, f"{len(now.pools)} Pool(s)"), "POOLS": _pools(now), "id": 1})
    if command in ("addpool", "switchpool", "removepool", "restart", "quit"):
        return dumps({"STATUS": status(45, f"Access denied to '{command}' command", "E"), "id": 1})
    return dumps({"STATUS": status(14, "Invalid command", "E"), "id": 1})


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _version(spec: Spec) -> dict[str, Any]:
    name = "BMMiner" if spec.unit_hs == 1e9 else "CGMiner"
    return {
        name: "2.0.0",
        "API": "3.1",
        "Miner": spec.firmware,
        "CompileTime": spec.compiled,
        "Type": f"Antminer {spec.model}{spec.brand}",
    }


def _stats(now: Moment, *, new_api: bool) -> str:
    spec = now.spec
    if now.phase == "sleeping":
        return dumps({"STATUS": status(70, "CGMiner stats"), "STATS": [], "id": 1})
    head = _version(spec)
    if now.phase != "mining":
        return dumps({"STATUS": status(70, "CGMiner stats"), "STATS": [head], "id": 1})
    if spec.modern and new_api:
        return dumps({"STATUS": status(70, "stats"), "STATS": [head | chain_stats(now)], "id": 1})
    body = _legacy(now)
    text = dumps({"STATUS": status(70, "CGMiner stats"), "STATS": [head, body], "id": 1})
    return text if spec.modern else text.replace("},{", "}{")  # as the old firmware really does


def chain_stats(now: Moment) -> dict[str, Any]:
    """The `chain` shape, as stats.cgi and `new_api` give it."""
    spec, rate = now.spec, now.rate_hs / now.spec.unit_hs
    boards = spec.boards - now.lost_boards
    chains = [
        {
            "index": i,
            "freq_avg": 545,
            "rate_ideal": round(spec.nominal_hs / spec.unit_hs / spec.boards, 2),
            "rate_real": round(rate / boards, 2) if i < boards else 0.0,
            "asic_num": spec.chips if i < boards else 0,
            "asic": "o" * spec.chips if i < boards else "",
            "temp_pic": [44 + i, 40 + i, 58 + i, 60 + i],
            "temp_pcb": [46 + i, 42 + i, 60 + i, 62 + i] if i < boards else [0, 0, 0, 0],
            "temp_chip": [56 + i, 52 + i, 70 + i, 72 + i] if i < boards else ["", "", "", ""],
            "hw": 7 * i,
            "eeprom_loaded": i < boards,
            "sn": f"SIMBOARD{i}" if i < boards else "",
            "hwp": "0.1",
        }
        | _water(spec.coolant)
        for i in range(spec.boards)
    ]
    said: dict[str, Any] = {
        "elapsed": now.uptime_s,
        "rate_5s": round(rate, 2),
        "rate_30m": round(rate, 2),
        "rate_avg": round(spec.nominal_hs / spec.unit_hs * (rate > 0), 2),
        "rate_ideal": round(spec.nominal_hs / spec.unit_hs, 2),
        "rate_unit": spec.unit,
        "chain_num": spec.boards,
        "fan_num": len(spec.fans),
        "fan": [4800 + 60 * i for i in range(len(spec.fans))],
        "hwp_total": 0.1,
        "miner-mode": now.mode,
        "freq-level": 100,
        "chain": chains,
    }
    return said | ({"watt": spec.watts} if spec.watts else {})


def _water(coolant: str) -> dict[str, list[int]]:
    """Over the sensors of a board: in at 31 °C, out at 42 °C, the chips at 66 °C, the board at 52 °C."""
    if coolant == "pcb":
        return {"temp_pcb": [31, 50, 42, 52], "temp_pic": [66, 49, 51, 48], "temp_chip": [0, 0, 0, 0]}
    return {"temp_pcb": [46, 47, 51, 52], "temp_chip": [31, 42, 0, 0]} if coolant == "chip" else {}


def _legacy(now: Moment) -> dict[str, Any]:
    spec, rate = now.spec, now.rate_hs / now.spec.unit_hs
    boards = spec.boards - now.lost_boards
    said: dict[str, Any] = {"STATS": 0, "ID": "BTM_SOC0", "Elapsed": now.uptime_s}
    total_hs = spec.total_unit_hs or spec.unit_hs
    said |= {"GHS 5s": f"{now.rate_hs / total_hs:.2f}", "GHS av": round(spec.nominal_hs / total_hs, 2), "miner_count": boards}
    said |= {"fan_num": len(spec.fans)} | {f"fan{i}": 5400 + 60 * i if i in spec.fans else 0 for i in range(1, 9)}
    for i in range(1, 17):
        on = spec.first_chain <= i < spec.first_chain + boards
        said[f"chain_acn{i}"] = spec.chips if on else 0
        said[f"chain_rate{i}"] = f"{rate / boards:.2f}" if on else ""
        said[f"chain_hw{i}"] = 3 if on else 0
        said[f"chain_acs{i}"] = " " + " ".join(["oooooooo"] * (spec.chips // 8)) if on else ""
        said[f"freq_avg{i}"] = 650.0 if on else 0.0
        if spec.modern:
            said[f"temp_pcb{i}"] = "60-42-61-62" if on else "0-0-0-0"
            said[f"temp_chip{i}"] = "70-52-71-72" if on else "0-0-0-0"
        else:
            said[f"temp{i}"], said[f"temp2_{i}"] = (61, 76) if on else (0, 0)
    if spec.modern:
        said |= {"rate_unit": spec.unit, "total_rateideal": round(spec.nominal_hs / spec.unit_hs, 2)}
    return said | ({"chain_power": f"{spec.watts}.32 (AB)"} if spec.brand else {})


def _summary(now: Moment) -> dict[str, Any]:
    rate = round(now.rate_hs / now.spec.unit_hs, 2)
    return {
        "Elapsed": now.uptime_s,
        "GHS 5s": rate if now.spec.modern else str(rate),
        "GHS av": rate,
        "Accepted": now.accepted,
        "Rejected": now.accepted // 200,
        "Stale": now.accepted // 500,
        "Hardware Errors": now.accepted // 50,
        "Pool Stale%%": 0.0,
    }


def _pools(now: Moment) -> list[dict[str, Any]]:
    found = []
    working = next((i for i, alive in enumerate(now.alive) if alive), None)
    for i, pool in enumerate(now.pools):
        if not pool.get("url"):
            continue
        mine = now.accepted if i == working else 0
        found.append(
            {
                "POOL": i,
                "URL": pool["url"],
                "Status": "Alive" if now.alive[i] else "Dead",
                "Priority": i,
                "User": pool["user"],
                "Accepted": mine,
                "Rejected": mine // 200,
                "Stale": mine // 500,
                "Stratum Active": i == working and now.rate_hs > 0,
                "Last Share Time": "0:00:03",
            }
        )
    return found


def summary_cgi(now: Moment) -> dict[str, Any]:
    """summary.cgi of the modern web page: each of its four lamps."""
    faults = now.faults or {}
    lamps = [
        {"type": kind, "status": "f" if kind in faults else "s", "code": 1 if kind in faults else 0, "msg": faults.get(kind, "")}
        for kind in ("rate", "network", "fans", "temp")
    ]
    rate = round(now.rate_hs / now.spec.unit_hs, 2)
    row = {"elapsed": now.uptime_s, "rate_5s": rate, "rate_avg": rate, "rate_unit": now.spec.unit, "hw_all": 0, "status": lamps}
    return {
        "STATUS": {"STATUS": "S", "when": 1, "Msg": "summary"},
        "INFO": {"type": f"Antminer {now.spec.model}"},
        "SUMMARY": [row],
    }


def rate_at(nominal_hs: float, seed: str, uptime_s: float) -> float:
    """Rises over the first seconds, then wanders by 2 % around the nominal value."""
    return nominal_hs * min(1.0, 0.5 + uptime_s / 20) * (1 + 0.02 * noise(seed, math.floor(uptime_s / 5)))
