"""Records as the rest of the commander sees them, with their judged state."""

from __future__ import annotations

from typing import Any

from commander.fleet.records import BoardRecord, DeviceRecord, SentryRecord
from commander.model import BoardRow, DeviceRow, Sentry
from garrison.model import Device
from garrison.words import DeviceState, SentryState


def shown_sentry(one: SentryRecord, state: SentryState, heard_ms: int | None, twin: str = "") -> Sentry:
    """`heard_ms`: later than what was written, from memory. `twin`: where a second machine with its identity calls from."""
    return Sentry(
        id=one.id,
        kind=one.kind,
        name=one.name,
        state=state,
        fingerprint=one.fingerprint,
        site=one.site,
        address=one.address,
        software=one.software,
        enrolled_ms=one.enrolled_ms,
        seen_ms=one.seen_ms if heard_ms is None else heard_ms,
        certificate_until_ms=one.certificate_until_ms,
        frames_dropped=one.frames_dropped,
        clock_skew_ms=one.clock_skew_ms,
        capabilities=one.capabilities,
        facts=one.facts,
        twin=twin,
    )


def haystack(one: DeviceRecord) -> str:
    """All that a search looks through, case folded."""
    seen = one.seen
    told = (seen.mac, seen.serial, seen.address, seen.model) if seen else ()
    return "\0".join((one.name, one.identity or "", one.watched_address, *told)).casefold()


def differences(before: DeviceRecord, after: DeviceRecord) -> dict[str, Any]:
    """What a person changed, for the audit; of credentials only that they changed."""
    names = ("name", "tags", "maintenance", "watched_address", "expected_hashrate_hs", "site", "rack", "position", "notes")
    changed: dict[str, Any] = {
        name: {"before": getattr(before, name), "after": getattr(after, name)}
        for name in names
        if getattr(before, name) != getattr(after, name)
    }
    if before.sealed != after.sealed:
        changed["credentials"] = "changed"
    return changed


def shown_board(one: BoardRecord) -> BoardRow:
    return BoardRow(one.id, one.name, one.sentry_id, one.kind, one.address, one.outlets, one.simulated, None, one.options)


_NOTHING_SAID = Device("", "", DeviceState.UNKNOWN)


def shown_device(one: DeviceRecord, key: int | None, state: DeviceState) -> DeviceRow:
    """What people decided, and what its sentry last said of it."""
    seen = one.seen or _NOTHING_SAID
    return DeviceRow(
        id=one.id,
        identity=one.identity,
        key=key,
        sentry_id=one.sentry_id,
        kind=one.kind,
        name=one.name,
        state=state,
        make=seen.make or one.make_hint,
        model=seen.model,
        firmware=seen.firmware,
        address=one.watched_address or seen.address,
        mac=seen.mac,
        serial=seen.serial,
        simulated=one.simulated or seen.simulated,
        mode=seen.mode,
        tags=one.tags,
        pools=seen.pools,
        conditions=seen.conditions,
        missing=seen.missing,
        capabilities=seen.capabilities,
        facts=seen.facts,
        fault=seen.fault,
        fault_text=seen.fault_text,
        sheet_id=seen.sheet_id,
        wanted_sheet_id=one.wanted_sheet_id,
        seen_ms=seen.seen_ms or None,
        components=seen.components,
        maintenance=one.maintenance,
        site=one.site,
        rack=one.rack,
        position=one.position,
        notes=one.notes,
    )
