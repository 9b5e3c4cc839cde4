"""Files that hold secrets: written whole or not at all, mode 0600, and refused when others may read them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from garrison.faults import BadInput, Broken, DiskFull, NotFound, Unavailable

MAX_BYTES = 64 * 1024


def read(path: Path) -> bytes:
    """NotFound: no such file. BadInput: others may read it. Unavailable: we may not. Broken: empty or far too large."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing") from error
    except OSError as error:
        raise Unavailable(
            f"cannot read {path}: {error.strerror}", hint="it must belong to the user that runs the commander"
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise BadInput(f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
    if not 0 < len(data) <= MAX_BYTES:
        raise Broken(f"{path} is empty or too large", hint="put the copy from your backup in its place")
    return data


def write(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Synced before it returns. Without `replace` an existing file is never touched: BadInput."""
    if not replace and path.exists():
        raise BadInput(f"{path} exists already", hint="it is never overwritten; move it away first")
    fresh = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        if error.errno == 28:  # ENOSPC
            raise DiskFull(f"no space left for {path}", hint="free some space and try again") from error
        raise Unavailable(f"cannot write {path}: {error.strerror}") from error


def rename(source: Path, target: Path) -> None:
    """Synced before it returns."""
    try:
        source.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise Unavailable(f"cannot move {source} to {target}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """So that a rename in it survives a power cut. Windows cannot, and does not need it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
