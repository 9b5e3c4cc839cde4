"""Small files that must survive a power cut: JSON of a msgspec struct, written whole and synced before it counts."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from garrison import keyfile
from garrison.faults import Broken

T = TypeVar("T", bound=msgspec.Struct)


def write(path: Path, value: msgspec.Struct) -> None:
    """Replaces `path` atomically, mode 0600, synced. Raises DiskFull, Unavailable."""
    keyfile.write(path, msgspec.json.encode(value))


def read(path: Path, kind: type[T]) -> T | None:
    """None when there is none. Raises Broken for a damaged one, which the caller sets aside."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise keyfile.disk_fault(error, f"cannot read {path}") from error
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Broken(f"{path} is damaged: {error}") from error


def set_aside(path: Path) -> Path:
    """Moves a damaged file out of the way, kept for a person to look at."""
    kept = path.with_name(path.name + ".damaged")
    path.replace(kept)
    return kept
