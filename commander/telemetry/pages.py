"""Rows out of a database file that SQLite no longer reads: its leaf pages, wherever they lie. Pure, but for the file.

Called by `repair` when a walk by SQL met damage. The tables' own tree may be broken above a page that is whole, and the first page
may be gone: the rows are still there. Whether a row is true is for the caller to see: a page that is free holds rows of
yesterday, and nothing here is checked but the shape. Format: https://www.sqlite.org/fileformat2.html, sections 1.6 and 2.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

Value = int | float | str | bytes | None

_LEAF = 13
_MAGIC = b"SQLite format 3\0"
_SIZES = {512, 1024, 2048, 4096, 8192, 16384, 32768, 65536}
_MOST_BYTES = 64 << 20
"""Of one row: more is no row of ours."""

_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial type to bytes."""


def rows(path: Path, columns: int, usual_bytes: int) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """(rowid, values) of every row with so many columns. `usual_bytes`: of a page, when the file does not say it believably."""
    with path.open("rb") as file:
        size = _page_bytes(file.read(18), usual_bytes)
        number = 0
        file.seek(0)
        while page := file.read(size):
            number += 1
            begin = 100 if number == 1 else 0
            if len(page) == size and page[begin] == _LEAF:
                behind = file.tell()
                yield from _cells(file, page, begin, columns)
                file.seek(behind)


def _page_bytes(head: bytes, usual_bytes: int) -> int:
    told = int.from_bytes(head[16:18], "big") if len(head) == 18 else 0
    told = 65536 if told == 1 else told
    return told if told in _SIZES and head.startswith(_MAGIC) else usual_bytes


def _cells(file: IO[bytes], page: bytes, begin: int, columns: int) -> Iterator[tuple[int, tuple[Value, ...]]]:
    (count,) = struct.unpack_from(">H", page, begin + 3)
    for place in range(min(count, len(page) // 4)):
        try:
            (at,) = struct.unpack_from(">H", page, begin + 8 + 2 * place)
            length, at = _varint(page, at)
            rowid, at = _varint(page, at)
            if length > _MOST_BYTES:
                continue
            found = _record(_payload(file, page, at, length), columns)
        except (IndexError, struct.error, ValueError):
            continue
        if found is not None:
            yield rowid - (1 << 64) if rowid >> 63 else rowid, found


def _payload(file: IO[bytes], page: bytes, at: int, length: int) -> bytes:
    """With what overflows into other pages."""
    usable = len(page)
    here = length
    if length > usable - 35:
        least = (usable - 12) * 32 // 255 - 23
        here = least + (length - least) % (usable - 4)
        here = here if here <= usable - 35 else least
    parts = [page[at : at + here]]
    left = length - len(parts[0])
    (following,) = struct.unpack_from(">I", page, at + here) if here < length else (0,)
    while left > 0:
        if following < 2:
            raise ValueError("a row ends before its end")
        file.seek((following - 1) * usable)
        more = file.read(usable)
        (following,) = struct.unpack_from(">I", more)
        parts.append(more[4 : 4 + left])
        if len(parts[-1]) < min(left, usable - 4):
            raise ValueError("a page is cut short")
        left -= len(parts[-1])
    return b"".join(parts)


def _record(payload: bytes, columns: int) -> tuple[Value, ...] | None:
    """None: another number of columns."""
    head, at = _varint(payload, 0)
    kinds = []
    while at < head:
        kind, at = _varint(payload, at)
        kinds.append(kind)
        if len(kinds) > columns:
            return None
    if len(kinds) != columns or at != head:
        return None
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    return tuple(values) if at == len(payload) else None


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if kind in (8, 9):
        return kind - 8, at
    if kind >= 12:
        end = at + (kind - 12) // 2
        raw = payload[at:end]
        return (raw if kind % 2 == 0 else raw.decode("utf-8", "replace")), end
    return None, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(8):
        byte = data[at + place]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + place + 1
    return number << 8 | data[at + 8], at + 9
