"""Small files that must be whole and private: written aside, synced, renamed; mode 0600; refused when others may read them."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from garrison.faults import BadInput, DiskFull, NotFound, Unavailable

MAX_BYTES = 64 * 1024 * 1024


def read(path: Path, *, private: bool = True) -> bytes:
    """NotFound: no such file. BadInput: others may read it. Unavailable: we may not."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read(MAX_BYTES)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing") from error
    except OSError as error:
        raise Unavailable(
            f"cannot read {path}: {error.strerror}", hint="it must belong to the user that runs the sentry"
        ) from error
    if private and os.name == "posix" and mode & 0o077:
        raise BadInput(f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
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
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for {path}", hint="free some space and try again") from error
        raise Unavailable(f"cannot write {path}: {error.strerror}", hint="check the owner of its folder") from error


def _sync_folder(folder: Path) -> None:
    """So that the rename survives a power cut. Windows cannot, and does not need it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
