"""Unpacking archives that strangers made: tar in any compression Python knows, and zip.

Only plain files and folders come out; a link, a device or a name that leads out of the folder refuses the whole archive.
Sizes are counted while unpacking: what an archive says about itself is not believed.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from garrison.faults import BadInput, Refused

MAX_FILES = 20_000
MAX_BYTES = 4_000_000_000
_PIECE = 1 << 18


class _Room:
    def __init__(self, max_bytes: int) -> None:
        self.files, self.left = 0, max_bytes

    def file(self, name: str) -> None:
        self.files += 1
        if self.files > MAX_FILES:
            raise Refused(f"the archive holds more than {MAX_FILES} files", hint=f"stopped at {name!r}")

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise Refused("the archive is larger unpacked than is believable for a mining program")


def looks_packed(file: Path) -> bool:
    return zipfile.is_zipfile(file) or tarfile.is_tarfile(file)


def unpack(packed: Path, target: Path, max_bytes: int = MAX_BYTES) -> None:
    """Into the new folder `target`. Raises BadInput (no archive, or a broken one), Refused (a hostile one)."""
    target.mkdir(mode=0o755)
    room = _Room(max_bytes)
    try:
        if tarfile.is_tarfile(packed):
            _untar(packed, target, room)
        elif zipfile.is_zipfile(packed):
            _unzip(packed, target, room)
        else:
            raise BadInput("the pinned file is no archive that can be unpacked", hint="tar, tar.gz, tar.bz2, tar.xz or zip")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise BadInput(f"the archive cannot be unpacked: {error}") from error  # RuntimeError: zipfile's word for "encrypted"


def _untar(packed: Path, target: Path, room: _Room) -> None:
    with tarfile.open(packed, "r:*") as archive:
        for member in archive:
            room.file(member.name)
            place = _place(target, member.name)
            if member.isdir():
                place.mkdir(mode=0o755, parents=True, exist_ok=True)
            elif member.isreg():
                source = archive.extractfile(member)
                if source is None:
                    raise BadInput(f"{member.name!r} cannot be read from the archive")
                with source:
                    _write(source, place, bool(member.mode & 0o111), room)
            else:
                raise Refused(f"the archive holds {member.name!r}, which is neither a file nor a folder")


def _unzip(packed: Path, target: Path, room: _Room) -> None:
    with zipfile.ZipFile(packed) as archive:
        for member in archive.infolist():
            room.file(member.filename)
            place = _place(target, member.filename)
            mode = member.external_attr >> 16
            if member.is_dir():
                place.mkdir(mode=0o755, parents=True, exist_ok=True)
            elif stat.S_IFMT(mode) in {0, stat.S_IFREG}:
                with archive.open(member) as source:
                    _write(source, place, bool(mode & 0o111), room)
            else:
                raise Refused(f"the archive holds {member.filename!r}, which is neither a file nor a folder")


def _place(target: Path, name: str) -> Path:
    parts = name.replace("\\", "/").rstrip("/").split("/")
    parts = [part for part in parts if part not in {"", "."}]
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or any(":" in part for part in parts):
        raise Refused(f"the archive holds {name!r}, which leads out of its folder")
    return target.joinpath(*parts)


def _write(source: IO[bytes], place: Path, executable: bool, room: _Room) -> None:
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if place.exists():
        raise Refused(f"the archive holds {place.name!r} twice in one folder")
    with place.open("wb") as out:
        while piece := source.read(_PIECE):
            room.take(len(piece))
            out.write(piece)
    place.chmod(0o755 if executable else 0o644)
