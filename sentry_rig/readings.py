"""What one look at the rig becomes: the values of a sample, and the roster entry. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from garrison.frame import Number, Series, quantise
from garrison.model import Condition, Device, Pool
from garrison.words import DEVICE_STATE_CODES, ActionKind, DeviceState
from sentry_rig.host import Machine
from sentry_rig.miner_look import MinerLook
from sentry_rig.nvidia import Card, CardsLook
from sentry_rig.programs.program import Named
from sentry_rig.rules import RigFacts, hashing, judge_state


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """Of the flight sheet that runs (or should)."""

    id: str = ""
    program: str = ""
    version: str = ""
    algorithm: str = ""
    pools: tuple[Named, ...] = ()


@dataclass(frozen=True, slots=True)
class RigLook:
    """Everything one look gathered. `host` empty with `host_fault` set: it could not be read in time."""

    at_ms: int
    took_ms: int
    host: Mapping[Series, Number] = field(default_factory=dict)
    host_fault: str = ""
    cards: CardsLook = field(default_factory=CardsLook)
    miner: MinerLook = field(default_factory=MinerLook)
    sheet: SheetFacts | None = None
    pause_wanted: bool = False
    held: bool = False
    since_start_s: float | None = None
    restarts: int = 0
    simulated: bool = False
    floor_hs: float = 0
    grace_s: float = 180


def state_of(look: RigLook) -> DeviceState:
    reading = look.miner.reading
    return judge_state(
        RigFacts(
            has_sheet=look.sheet is not None,
            pause_wanted=look.pause_wanted,
            alive=look.miner.alive,
            held=look.held,
            api=look.miner.api,
            paused=reading.paused if reading else None,
            hashrate_hs=reading.hashrate_hs if reading else None,
            floor_hs=look.floor_hs,
            since_start_s=look.since_start_s,
            grace_s=look.grace_s,
            cards_missing=look.cards.missing > 0,
        )
    )


def values_of(look: RigLook) -> dict[Series, Number]:
    """By (metric, component), rounded to the catalogue's decimals; what was not read is not there."""
    values: dict[Series, Number | None] = {
        ("state", ""): DEVICE_STATE_CODES[state_of(look)],
        ("look_ok", ""): 0 if look.host_fault else 1,
        ("look_ms", ""): look.took_ms,
        **look.host,
    }
    for card in look.cards.cards:
        values |= {(metric, _component(card)): value for metric, value in card.values.items()}
    temps = [card.values["temp_c"] for card in look.cards.cards if "temp_c" in card.values]
    values["temp_c", ""] = max(temps) if temps else look.host.get(("temp_c", "cpu"))
    if look.sheet is not None:
        values |= _miner_values(look)
    rounded = {series: quantise(series, value) for series, value in values.items() if value is not None}
    return {series: value for series, value in rounded.items() if value is not None}


def _miner_values(look: RigLook) -> dict[Series, Number | None]:
    above = hashing(look.miner.reading.hashrate_hs, look.floor_hs) if look.miner.reading else None
    values: dict[Series, Number | None] = {
        ("miner_alive", ""): int(look.miner.alive),
        ("miner_api", ""): int(look.miner.api),
        ("miner_hashing", ""): None if above is None else int(above),
        ("miner_restarts", ""): look.restarts,
    }
    reading = look.miner.reading
    if reading is None:
        return values
    values |= {
        ("hashrate_hs", ""): reading.hashrate_hs,
        ("hashrate_avg_hs", ""): reading.hashrate_avg_hs,
        ("accepted", ""): reading.accepted,
        ("rejected", ""): reading.rejected,
        ("uptime_s", ""): reading.uptime_s,
    }
    by_pci = {card.pci: card for card in look.cards.cards if card.pci}
    for part in reading.parts or ():
        if part.pci in by_pci:  # joined by PCI address: each program has its own order of cards
            values["hashrate_hs", _component(by_pci[part.pci])] = part.hashrate_hs
    return values


def device_of(look: RigLook, machine: Machine) -> Device:
    reading, sheet = look.miner.reading, look.sheet
    version = (reading.version if reading else "") or (sheet.version if sheet else "")
    fault = look.miner.fault if sheet is not None else None
    cpu = machine.facts.get("cpu", "")
    disks = sorted({component for _, component in look.host if component.startswith("disk:")})
    algorithm = ((reading.algorithm if reading else None) or sheet.algorithm) if sheet else ""
    return Device(
        identity=machine.identity,
        kind="rig",
        state=state_of(look),
        name=machine.facts.get("hostname", ""),
        model=_model(look.cards, cpu),
        firmware=f"{sheet.program} {version}".strip() if sheet else "",
        simulated=look.simulated,
        mode=algorithm,
        pools=_pools(look),
        conditions=conditions_of(look),
        capabilities=capabilities(sheet is not None),
        facts={
            **machine.facts,
            **_card_facts(look.cards),
            **(reading.facts if reading else {}),
            **({"algorithm": algorithm} if algorithm else {}),
        },
        fault=fault.code if fault else "unavailable" if look.host_fault else "",
        fault_text=fault.text if fault else look.host_fault,
        sheet_id=sheet.id if sheet else "",
        seen_ms=0 if look.host_fault else look.at_ms,
        components=(
            f"cpu={cpu}",
            *(f"{_component(card)}={card.name} {card.pci}".rstrip() for card in look.cards.cards),
            *(f"{disk}={disk.removeprefix('disk:')}" for disk in disks),
        ),
    )


def capabilities(has_sheet: bool) -> tuple[ActionKind, ...]:
    always = (ActionKind.REBOOT, ActionKind.APPLY_FLIGHT_SHEET)
    return (*always, ActionKind.RESTART_MINING, ActionKind.PAUSE, ActionKind.RESUME) if has_sheet else always


def conditions_of(look: RigLook) -> tuple[Condition, ...]:
    found = [
        Condition("gpu_lost", f"{card.name or card.uuid} at {card.pci} is lost", "critical")
        for card in look.cards.cards
        if card.lost
    ]
    if look.cards.nameless:
        found.append(Condition("gpu_lost", f"{look.cards.nameless} card(s) are lost", "critical"))
    if look.cards.fault:
        found.append(Condition("gpu_sensors", look.cards.fault, "warning"))
    if look.held:
        found.append(Condition("miner_held", "the miner ended too often and is held", "critical"))
    if look.miner.alive and not look.miner.api and look.miner.fault is not None:
        found.append(Condition("miner_api", look.miner.fault.text, "warning"))
    if look.host_fault:
        found.append(Condition("host", look.host_fault, "warning"))
    return tuple(found)


def _component(card: Card) -> str:
    return f"gpu:{card.uuid}"


def _model(cards: CardsLook, cpu: str) -> str:
    names = [card.name or "GPU" for card in cards.cards]
    if not names:
        return cpu
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))  # the sign for "times"


def _card_facts(cards: CardsLook) -> dict[str, str]:
    found = {_component(card): f"{card.pci} {card.name} {card.vbios}".strip() for card in cards.cards}
    return found | ({"nvidia_driver": cards.driver} if cards.driver else {})


def _pools(look: RigLook) -> tuple[Pool, ...]:
    """The sheet's pools, with what the program says of the one it is connected to."""
    if look.sheet is None:
        return ()
    reading = look.miner.reading
    now = (reading.pool or "").casefold() if reading and reading.connected else None
    pools = []
    for priority, named in enumerate(look.sheet.pools):
        if now is None or named.place.casefold() != now:
            pools.append(Pool(named.url, named.user, priority=priority, active=None if now is None else False))
            continue
        state = "alive" if reading and reading.connected else None
        accepted, rejected = (reading.accepted, reading.rejected) if reading else (None, None)
        pools.append(Pool(named.url, named.user, state, accepted, rejected, None, priority, active=True))
    return tuple(pools)
