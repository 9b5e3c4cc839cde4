"""Small files that must survive a power cut: JSON of a msgspec struct, written whole and synced before it counts."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from garrison.faults import Broken, DiskFull, Unavailable

T = TypeVar("T", bound=msgspec.Struct)


def write(path: Path, value: msgspec.Struct) -> None:
    """Replaces `path` atomically, mode 0600, synced. Raises DiskFull, Unavailable."""
    new = path.with_name(path.name + ".new")
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            body = memoryview(msgspec.json.encode(value))
            while body:
                body = body[os.write(handle, body) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the old file stands; the half one is only in the way
            new.unlink(missing_ok=True)
        raise disk_fault(error, f"cannot write {path}") from error


def read(path: Path, kind: type[T]) -> T | None:
    """None when there is none. Raises Broken for a damaged one, which the caller sets aside."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_fault(error, f"cannot read {path}") from error
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Broken(f"{path} is damaged: {error}") from error


def set_aside(path: Path) -> Path:
    """Moves a damaged file out of the way, kept for a person to look at."""
    kept = path.with_name(path.name + ".damaged")
    path.replace(kept)
    return kept


def sync_folder(folder: Path) -> None:
    if sys.platform != "win32":  # NTFS journals the rename, and a folder cannot be opened there
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def disk_fault(error: OSError, text: str) -> DiskFull | Unavailable:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"{text}: no space left", hint="make room on this disk")
    return Unavailable(f"{text}: {error.strerror or error}")
