"""Keys of the farm: as `garrison.keyfile`, but never empty, and never overwritten unasked."""

from __future__ import annotations

from pathlib import Path

from garrison import keyfile
from garrison.faults import BadInput, Broken
from garrison.keyfile import rename, sync_folder

__all__ = ["read", "rename", "sync_folder", "write"]

MAX_BYTES = 64 * 1024


def read(path: Path) -> bytes:
    """As `garrison.keyfile.read`; Broken also when it is empty."""
    data = keyfile.read(path, most_bytes=MAX_BYTES)
    if not data:
        raise Broken(f"{path} is empty", hint="put the copy from your backup in its place")
    return data


def write(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Synced before it returns. Without `replace` an existing file is never touched: BadInput."""
    if not replace and path.exists():
        raise BadInput(f"{path} exists already", hint="it is never overwritten; move it away first")
    keyfile.write(path, data)
