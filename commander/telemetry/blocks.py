"""The block codec: a table of one device as bytes, for chunks of hours, days and roll-ups. Pure.

    body = pack(table, Grain.COLUMN)
    table = unpack(columns, body)                       # all of it
    table = unpack(columns, body, wanted=[3, 7])        # two columns, without unpacking the others

A column becomes small unsigned integers: minus its lowest value or, where that is smaller, minus the value before; divided by
what all steps have in common (a device that counts hundredths of GH/s moves in steps of 10^7 H/s). A total that is the
sum of its parts to a rounding, as boards add up to a miner, is kept as the difference from that sum. The bytes of these
integers lie in planes, and each plane (or the same plane of all columns) is one zstd frame: low bytes of noise are stored
as they are, and do not spoil the tables by which the others are coded. Measured on the data of bench/: 0.46 bytes a
value for a day of 40 columns, against 0.55 with one frame for all.

Layout of a body: `_HEAD`; one zstd frame with kinds, widths, bases, units, validity, odd ones and the sizes of the streams; the
streams.
All integers are little-endian. The block does not hold its columns: they stand beside it, once for all blocks.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import zstandard
from numpy.typing import NDArray

from commander.telemetry.columns import Flags, Ints
from commander.telemetry.table import Odd, Table
from garrison.faults import Broken
from garrison.frame import MAX_COLUMNS, Column

VERSION = 1
MOST_ROWS = 1 << 22
_HEAD = struct.Struct("<2sBBHII")  # magic, version, grain, columns, rows, size of the packed head
_MAGIC = b"GB"
_ODD = struct.Struct("<HId")
_DELTA, _SUM, _ABSENT = 1, 2, 4
_LEVEL = 1
"""zstd 3 is no smaller on planes of noise, 9 saves 1 % and takes twice the time."""

_TRIED = 64
"""Steps looked at before the common divisor of all is computed: mostly it is 1."""

_TOGETHER = 100_000
"""Values that are coded together: less than a megabyte, what a processor keeps near."""

_LONG = 512
_ONE = np.uint64(1)
_HEAD_BYTES = 64 << 20
Unsigned = NDArray[np.uint64]


class Grain(IntEnum):
    """What one stream holds: the same plane of all columns (smaller for few rows), or one plane of one column (for many rows;
    a column is read without the others)."""

    PLANE = 0
    COLUMN = 1


# ---- packing -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Coded:
    """Columns of one or more tables on their way out: the times first, then the table's. By columns and tables, but for
    `offsets`, which are by columns and rows of all tables."""

    kinds: NDArray[np.uint8]
    bases: Ints
    units: Ints
    widths: NDArray[np.uint8]
    offsets: Unsigned


def pack(table: Table, grain: Grain) -> bytes:
    """`unpack` gives back an equal table. ValueError: no rows, or more than fit."""
    return pack_many([table], grain)[0]


def pack_many(tables: Sequence[Table], grain: Grain) -> list[bytes]:
    """As `pack`, of each table. Those that have the same columns and all values are coded together: for chunks of a few hundred
    rows numpy's calls cost more than its work."""
    bodies: list[bytes] = [b""] * len(tables)
    together: dict[int, list[int]] = {}  # by identity: the tables hold the columns
    for place, table in enumerate(tables):
        if not 0 < len(table) <= MOST_ROWS or len(table.columns) > MAX_COLUMNS:
            raise ValueError(f"a block of {len(table)} rows and {len(table.columns)} columns")
        if table.valid is None:
            together.setdefault(id(table.columns), []).append(place)
        else:
            bodies[place] = _body(table, _coded([table]), 0, 0, grain)
    for places in together.values():
        for some in _portions(tables, places):
            coded = _coded([tables[place] for place in some])
            first = 0
            for i, place in enumerate(some):
                bodies[place] = _body(tables[place], coded, i, first, grain)
                first += len(tables[place])
    return bodies


def _portions(tables: Sequence[Table], places: Sequence[int]) -> Iterator[list[int]]:
    """So many tables that their numbers stay in the processor's cache, more or less."""
    some: list[int] = []
    size = 0
    for place in places:
        some.append(place)
        size += tables[place].scaled.size
        if size >= _TOGETHER:
            yield some
            some, size = [], 0
    if some:
        yield some


def _body(table: Table, coded: _Coded, number: int, first: int, grain: Grain) -> bytes:
    """The block of one of the tables that were coded: the `number`th, whose rows begin at `first`."""
    widths = coded.widths[:, number]
    offsets = coded.offsets[:, first : first + len(table)]
    streams = [_squeezed(plain) for plain in _planes(offsets, widths, grain)]
    head = b"".join(
        [
            coded.kinds[:, number].tobytes(),
            widths.tobytes(),
            _shuffled(coded.bases[:, number]),
            _shuffled(coded.units[:, number]),
            *_validity(table),
            struct.pack("<I", len(table.odd)),
            *(_ODD.pack(place, row, value) for (place, row), value in sorted(table.odd.items())),
            np.array([len(stream) for stream in streams], "<u4").tobytes(),
        ]
    )
    packed = _tools().compressor.compress(head)
    return b"".join([_HEAD.pack(_MAGIC, VERSION, grain, len(table.columns), len(table), len(packed)), packed, *streams])


def _coded(tables: Sequence[Table]) -> _Coded:
    """Of tables with the same columns; of more than one only when all their values are there."""
    columns = tables[0].columns
    ends = np.cumsum([len(table) for table in tables])
    starts = np.concatenate([[0], ends[:-1]])
    values = np.empty((len(columns) + 1, int(ends[-1])), np.int64)
    for table, first, end in zip(tables, starts.tolist(), ends.tolist(), strict=True):
        values[0, first:end] = table.at_ms
        values[1:, first:end] = table.scaled
    kinds = np.zeros((len(values), len(tables)), np.uint8)
    valid = tables[0].valid
    if valid is not None:
        _fill(values[1:], valid)
        kinds[1:, 0][~valid.all(axis=1)] |= _ABSENT
    for total, parts in _sums(columns):
        rest = values[total + 1] - values[[part + 1 for part in parts]].sum(axis=0)
        better = _unrest(rest, starts) * 2 < _unrest(values[total + 1], starts)
        kinds[total + 1, better] |= _SUM
        values[total + 1] = np.where(np.repeat(better, ends - starts), rest, values[total + 1])
    return _with_offsets(values, kinds, starts, ends - starts)


def _with_offsets(values: Ints, kinds: NDArray[np.uint8], starts: Ints, lengths: Ints) -> _Coded:
    # Differences wrap at 64 bits, and wrap back when they are added up: no value is too large.
    steps = np.zeros_like(values)
    np.subtract(values[:, 1:], values[:, :-1], out=steps[:, 1:])
    steps[:, starts] = 0
    lowest, highest = np.minimum.reduceat(values, starts, axis=1), np.maximum.reduceat(values, starts, axis=1)
    rough = np.add.reduceat(np.abs(steps), starts, axis=1, dtype=np.float64)
    mean = np.add.reduceat(values, starts, axis=1, dtype=np.float64) / lengths
    spread = np.add.reduceat(np.abs(values - np.repeat(mean, lengths, axis=1)), starts, axis=1)
    moving = highest != lowest
    # where the range wraps only differences are safe
    delta = moving & ((rough <= spread) | (highest.astype(np.float64) - lowest > 2**62))
    kinds[delta] |= _DELTA
    bases = np.where(delta, values[:, starts], lowest)
    units = np.ones(bases.shape, np.int64)
    offsets: Unsigned = np.empty(values.shape, np.uint64)
    for place in range(len(values)):
        unit = _common(steps[place]) if moving[place].any() else 1
        units[place] = unit
        if delta[place].all():
            step = steps[place] if unit == 1 else steps[place] // unit
            np.bitwise_xor(step << 1, step >> 63, out=offsets[place].view(np.int64))
            continue
        raw = values[place] - np.repeat(lowest[place], lengths)
        offsets[place] = (raw if unit == 1 else raw // unit).view(np.uint64)
        if delta[place].any():
            step = steps[place] if unit == 1 else steps[place] // unit
            chosen = np.repeat(delta[place], lengths)
            offsets[place] = np.where(chosen, ((step << 1) ^ (step >> 63)).view(np.uint64), offsets[place])
    widths = np.zeros(bases.shape, np.uint8)
    largest = np.maximum.reduceat(offsets, starts, axis=1)
    for plane in range(8):
        widths += (largest >> np.uint64(8 * plane) != 0).astype(np.uint8)
    return _Coded(kinds, bases, units, widths, offsets)


def _common(steps: Ints) -> int:
    """What all steps are multiples of."""
    moving = steps[:_TRIED][steps[:_TRIED] != 0]
    if (len(moving) and int(np.gcd.reduce(moving)) == 1) or int(steps.min()) == -(2**63):
        return 1
    return max(1, int(np.gcd.reduce(steps)))


def _unrest(values: Ints, starts: Ints) -> NDArray[np.float64]:
    """How much each table's values move, added up."""
    steps = np.zeros(len(values))
    steps[1:] = np.abs(values[1:] - values[:-1])
    steps[starts] = 0
    return np.add.reduceat(steps, starts)


_SUMS: dict[int, tuple[tuple[Column, ...], tuple[tuple[int, list[int]], ...]]] = {}


def _sums(columns: tuple[Column, ...]) -> tuple[tuple[int, list[int]], ...]:
    """Each total with its parts: the same metric of the device and of two or more of its components."""
    known = _SUMS.get(id(columns))  # hashing forty columns takes longer than all the rest
    if known is None or known[0] is not columns:
        if len(_SUMS) > 10_000:
            _SUMS.clear()
        known = _SUMS[id(columns)] = columns, tuple(_found_sums(columns))
    return known[1]


def _found_sums(columns: Sequence[Column]) -> Iterator[tuple[int, list[int]]]:
    parts: dict[tuple[str, str, int, str], list[int]] = {}
    totals: dict[tuple[str, str, int], int] = {}
    for place, column in enumerate(columns):
        kind = (column.metric, column.unit, column.decimals)
        if column.component:
            parts.setdefault((*kind, column.component.partition(":")[0]), []).append(place)
        else:
            totals[kind] = place
    for (metric, unit, decimals, _), places in parts.items():
        total = totals.pop((metric, unit, decimals), None) if len(places) > 1 else None
        if total is not None:
            yield total, places


def _fill(values: Ints, valid: Flags) -> None:
    """What is absent gets the value before it, or the first one: that costs the fewest bytes."""
    for place in np.flatnonzero(~valid.all(axis=1)).tolist():
        there = np.flatnonzero(valid[place])
        if not len(there):
            values[place] = 0
            continue
        before = np.searchsorted(there, np.arange(values.shape[1]), side="right") - 1
        values[place] = values[place, there[np.maximum(before, 0)]]


def _planes(offsets: Unsigned, widths: NDArray[np.uint8], grain: Grain) -> Iterator[bytes]:
    raw = offsets.astype("<u8", copy=False).view(np.uint8).reshape(*offsets.shape, 8)
    if grain is Grain.COLUMN:
        for place, width in enumerate(widths.tolist()):
            for plane in range(width):
                yield raw[place, :, plane].tobytes()
    else:
        for plane in range(int(widths.max(initial=0))):
            yield raw[widths > plane, :, plane].tobytes()


def _squeezed(plain: bytes) -> bytes:
    """A plane of one and the same byte is that byte; one that does not get smaller stays as it is."""
    if plain.count(plain[:1]) == len(plain):
        return plain[:1]
    packed = _tools().compressor.compress(plain)
    return packed if 1 < len(packed) < len(plain) else plain


def _validity(table: Table) -> Iterator[bytes]:
    if table.valid is not None:
        for place in np.flatnonzero(~table.valid.all(axis=1)).tolist():
            yield np.packbits(table.valid[place], bitorder="little").tobytes()


def _shuffled(numbers: Ints) -> bytes:
    return np.ascontiguousarray(np.ascontiguousarray(numbers, "<i8").view(np.uint8).reshape(-1, 8).T).tobytes()


# ---- unpacking ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Opened:
    grain: Grain
    rows: int
    kinds: list[int]
    widths: list[int]
    bases: Ints
    units: Ints
    valid: dict[int, Flags]
    odd: Odd
    streams: list[memoryview]


def unpack(columns: tuple[Column, ...], body: bytes, wanted: Collection[int] | None = None) -> Table:
    """The table, or only its columns at `wanted`, in their order. Broken: these are not the bytes that were packed."""
    try:
        return _unpack(columns, body, wanted)
    except (struct.error, zstandard.ZstdError, ValueError, IndexError) as error:
        raise Broken(
            f"a block of the history does not read: {error}", hint="`commander history verify` finds all of them"
        ) from error


def _unpack(columns: tuple[Column, ...], body: bytes, wanted: Collection[int] | None) -> Table:
    opened = _open(len(columns), body)
    places = list(range(len(columns))) if wanted is None else sorted(set(wanted))
    parts = {total: found for total, found in _sums(columns) if opened.kinds[total + 1] & _SUM}
    lines = [0, *(place + 1 for place in places)]
    more = {part + 1 for total in places for part in parts.get(total, ())} - set(lines)
    lines += sorted(more)
    values = _read(opened, lines)
    line_of = {line: row for row, line in enumerate(lines)}
    for total in places:
        if total in parts:
            values[line_of[total + 1]] += values[[line_of[part + 1] for part in parts[total]]].sum(axis=0)
    valid = None
    if any(place + 1 in opened.valid for place in places):
        valid = np.ones((len(places), opened.rows), np.bool_)
        for row, place in enumerate(places):
            if place + 1 in opened.valid:
                valid[row] = opened.valid[place + 1]
    row_of = {place: row for row, place in enumerate(places)}
    odd = {(row_of[place], row): value for (place, row), value in opened.odd.items() if place in row_of}
    return Table(tuple(columns[place] for place in places), values[0], values[1 : len(places) + 1], valid, odd)


def _open(columns: int, body: bytes) -> _Opened:
    magic, version, grain, count, rows, size = _HEAD.unpack_from(body)
    if magic != _MAGIC or version != VERSION:
        raise ValueError(f"not a block of version {VERSION}")
    if count != columns or not 0 < rows <= MOST_ROWS:
        raise ValueError(f"it has {count} columns and {rows} rows, its layout {columns} columns")
    view = memoryview(body)
    head = memoryview(_tools().decompressor.decompress(view[_HEAD.size : _HEAD.size + size], max_output_size=_HEAD_BYTES))
    every = count + 1
    kinds, widths = head[:every].tolist(), head[every : 2 * every].tolist()
    bases, units = _unshuffled(head[2 * every :], every), _unshuffled(head[10 * every :], every)
    at = 18 * every
    valid: dict[int, Flags] = {}
    flags = (rows + 7) // 8
    for place, kind in enumerate(kinds):
        if kind & _ABSENT:
            valid[place] = np.unpackbits(np.frombuffer(head[at : at + flags], np.uint8), count=rows, bitorder="little").view(
                np.bool_
            )
            at += flags
    (odds,) = struct.unpack_from("<I", head, at)
    at += 4
    odd = {(place, row): value for place, row, value in (_ODD.unpack_from(head, at + i * _ODD.size) for i in range(odds))}
    at += odds * _ODD.size
    streams, begin = [], _HEAD.size + size
    for length in np.frombuffer(head[at:], "<u4").tolist():
        streams.append(view[begin : begin + length])
        begin += length
    if begin != len(body) or max(widths) > 8:
        raise ValueError(f"{len(body)} bytes, where {begin} are told")
    return _Opened(Grain(grain), rows, kinds, widths, bases, units, valid, odd, streams)


def _read(opened: _Opened, lines: Sequence[int]) -> Ints:
    """These of the block's columns (the times are the first), as they were."""
    if opened.grain is Grain.COLUMN and opened.rows >= _LONG:
        return _read_long(opened, lines)
    raw = np.zeros((len(lines), opened.rows, 8), np.uint8)
    if opened.grain is Grain.COLUMN:
        for row, streams in enumerate(_streams(opened, lines)):
            _lay(raw[row], streams)
    else:
        row_of = {line: row for row, line in enumerate(lines)}
        for plane, packed in enumerate(opened.streams):
            there = [line for line, width in enumerate(opened.widths) if width > plane]
            plain = _plane(packed, opened.rows * len(there)).reshape(len(there), opened.rows)
            pairs = [(place, row_of[line]) for place, line in enumerate(there) if line in row_of]
            if pairs:
                raw[[row for _, row in pairs], :, plane] = plain[[place for place, _ in pairs]]
    return _restored(opened, lines, raw.view("<i8")[:, :, 0])


def _read_long(opened: _Opened, lines: Sequence[int]) -> Ints:
    """A column at a time: one fits where the processor is fast, all of them do not."""
    found = np.empty((len(lines), opened.rows), np.int64)
    raw = np.empty((opened.rows, 8), np.uint8)
    for out, line, streams in zip(found, lines, _streams(opened, lines), strict=True):
        if opened.widths[line]:
            raw.fill(0)
            _lay(raw, streams)
        _restore(out, opened, line, raw.view("<i8")[:, 0])
    return found


def _streams(opened: _Opened, lines: Sequence[int]) -> Iterator[list[memoryview]]:
    """The planes of each of these columns."""
    first = np.concatenate([[0], np.cumsum(opened.widths)]).tolist()
    yield from (opened.streams[first[line] : first[line + 1]] for line in lines)


def _lay(raw: NDArray[np.uint8], streams: Sequence[memoryview]) -> None:
    for plane, stream in enumerate(streams):
        raw[:, plane] = _plane(stream, len(raw))


def _restored(opened: _Opened, lines: Sequence[int], offsets: Ints) -> Ints:
    units, bases = opened.units[list(lines)][:, None], opened.bases[list(lines)]
    found: Ints = offsets * units
    delta = np.flatnonzero([bool(opened.kinds[line] & _DELTA) for line in lines])
    plain = np.ones(len(lines), np.bool_)
    plain[delta] = False
    found[plain] += bases[plain, None]
    if len(delta):
        bits = offsets[delta].view(np.uint64)
        steps = ((bits >> np.uint64(1)).view(np.int64) ^ -(bits & np.uint64(1)).view(np.int64)) * units[delta]
        steps[:, 0] = bases[delta]
        found[delta] = np.cumsum(steps, axis=1)
    return found


def _restore(out: Ints, opened: _Opened, line: int, offsets: Ints) -> None:
    """One column by itself, into `out`."""
    base, unit = int(opened.bases[line]), int(opened.units[line])
    if not opened.widths[line]:
        out.fill(base)
    elif not opened.kinds[line] & _DELTA:
        np.multiply(offsets, unit, out=out)
        np.add(out, base, out=out)
    else:
        bits = offsets.view(np.uint64)
        np.right_shift(bits, _ONE, out=out.view(np.uint64))
        sign = (bits & _ONE).view(np.int64)
        np.negative(sign, out=sign)
        np.bitwise_xor(out, sign, out=out)
        if unit != 1:
            np.multiply(out, unit, out=out)
        out[0] = base
        np.cumsum(out, out=out)


def _plane(stream: memoryview, size: int) -> NDArray[np.uint8]:
    if len(stream) == size:
        return np.frombuffer(stream, np.uint8)
    if len(stream) == 1:
        return np.full(size, stream[0], np.uint8)
    plain = _tools().decompressor.decompress(stream, max_output_size=size)
    if len(plain) != size:
        raise ValueError(f"a plane of {len(plain)} bytes, where {size} are told")
    return np.frombuffer(plain, np.uint8)


def _unshuffled(planes: memoryview, count: int) -> Ints:
    raw = np.frombuffer(planes[: 8 * count], np.uint8).reshape(8, count)
    numbers: Ints = np.ascontiguousarray(raw.T).view("<i8").ravel()
    return numbers


class _Tools(threading.local):
    """zstd's contexts serve one thread at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=False, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_TOOLS = _Tools()


def _tools() -> _Tools:
    return _TOOLS
