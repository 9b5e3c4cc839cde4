"""Small files that must be whole and private: written aside, synced, renamed; mode 0600; refused when others may read them."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from garrison.faults import BadInput, Broken, DiskFull, Fault, NotFound, Unavailable

MAX_BYTES = 64 * 1024 * 1024


def read(path: Path, *, private: bool = True, most_bytes: int = MAX_BYTES) -> bytes:
    """NotFound: no such file. BadInput: others may read it. Unavailable: we may not. Broken: larger than `most_bytes`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read(most_bytes + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing") from error
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}", hint="it must belong to the user that runs this") from error
    if private and os.name == "posix" and mode & 0o077:
        raise BadInput(f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
    if len(data) > most_bytes:
        raise Broken(f"{path} is far too large", hint="put the copy from your backup in its place")
    return data


def write(path: Path, data: bytes) -> None:
    """Replaces the file; synced before it returns. DiskFull, Unavailable."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        raise disk_fault(error, f"cannot write {path}") from error


def rename(source: Path, target: Path) -> None:
    """Synced before it returns. DiskFull, Unavailable."""
    try:
        source.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_fault(error, f"cannot move {source} to {target}") from error


def sync_folder(folder: Path) -> None:
    """So that a rename in it survives a power cut. Windows cannot, and does not need it: NTFS journals the rename."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_fault(error: OSError, text: str) -> Fault:
    """What the system said of a file as one of ours."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"{text}: no space left", hint="free some space and try again")
    return Unavailable(f"{text}: {error.strerror or error}", hint="check the owner and mode of its folder")
