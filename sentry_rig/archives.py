"""Mining programs as files: pinned by SHA-256, checked before they are unpacked, kept under <state>/programs/.

An archive is a path on this machine or an https address that an order names; nothing else is ever fetched. What is
unpacked is the copy that was hashed, so nobody can change it in between. Blocking: call `Programs.install` through `aside`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from garrison import keyfile
from garrison.faults import BadInput, Broken, NotAllowed, NotFound, Refused, TimedOut, Unavailable
from garrison.model import Archive
from sentry_rig import record
from sentry_rig.settings import RigSettings

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_PIECE = 1 << 18


class Installed(msgspec.Struct, frozen=True):
    """Beside an unpacked program; without it the folder is half a thing."""

    sha256: str
    executable: str
    executable_sha256: str


class Programs:
    def __init__(self, folder: Path, settings: RigSettings) -> None:
        self._folder, self._settings = folder.resolve(), settings
        self.stop = threading.Event()
        """Set it to give up a download that is under way."""

    def install(self, name: str, version: str, archive: Archive, set_aside: tuple[str, ...] = ()) -> Path:
        """The executable, unpacked now or earlier. `set_aside`: files to rename, wherever they lie in the archive.

        Raises BadInput, NotFound, Refused (another hash than pinned), NotAllowed (by the settings of this rig),
        Unreachable, TimedOut, BadAnswer, DiskFull, Unavailable.
        """
        self._check(name, version, archive)
        home = self._folder / name / f"{version}-{archive.sha256[:12].lower()}"
        try:
            kept = self._kept(home, archive)
            if kept is not None:
                return kept
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".incoming-", dir=self._folder) as incoming:
                packed = Path(incoming) / "packed"
                self._fetch(archive, packed)
                unpacked = Path(incoming) / "unpacked"
                executable = _place(packed, unpacked, archive, name)
                _rename(unpacked, set_aside)
                executable.chmod(0o755)
                inside = executable.relative_to(unpacked).as_posix()
                record.write(unpacked / ".garrison.json", Installed(archive.sha256.lower(), inside, _sha256(executable)))
                if home.exists():
                    shutil.rmtree(home)  # an earlier half one, or one that was changed since
                home.parent.mkdir(mode=0o700, exist_ok=True)
                unpacked.replace(home)
                keyfile.sync_folder(home.parent)
        except OSError as error:
            raise keyfile.disk_fault(error, f"cannot install {name} {version}") from error
        return home / inside

    def _check(self, name: str, version: str, archive: Archive) -> None:
        if not _SHA256.fullmatch(archive.sha256):
            raise BadInput(f"the archive of {name} is not pinned by a SHA-256", hint="64 hex digits, as `sha256sum` prints them")
        if not _VERSION.fullmatch(version) or ".." in version:
            raise BadInput(f"{version!r} is no version", hint="letters, digits and . _ + -")
        if not _VERSION.fullmatch(name):
            raise BadInput(f"{name!r} is no program name")
        pinned = {known.lower() for known in self._settings.archive_sha256}
        if pinned and archive.sha256.lower() not in pinned:
            raise NotAllowed(
                f"{name} with SHA-256 {archive.sha256} is not among this rig's archive_sha256", hint="its owner adds it there"
            )

    def _kept(self, home: Path, archive: Archive) -> Path | None:
        try:
            noted = record.read(home / ".garrison.json", Installed)
        except Broken:
            return None
        if noted is None or noted.sha256 != archive.sha256.lower():
            return None
        executable = home / noted.executable
        if not executable.is_file() or _sha256(executable) != noted.executable_sha256:
            return None  # changed since: unpack the pinned one again
        if archive.executable and _inside(archive.executable) != noted.executable:
            return None
        return executable

    def _fetch(self, archive: Archive, target: Path) -> None:
        """Copies and hashes in one go. Raises Refused when it is not what was pinned."""
        limit = round(self._settings.download_max_mb * 1_000_000)
        digest = hashlib.sha256()
        size = 0
        until = time.monotonic() + self._settings.download_within_s
        with self._open(archive.location) as source, target.open("wb") as out:
            while piece := source.read(_PIECE):
                size += len(piece)
                if size > limit:
                    raise Refused(
                        f"{shown(archive.location)} is larger than {self._settings.download_max_mb:g} MB", hint="download_max_mb"
                    )
                if self.stop.is_set():
                    raise Unavailable("the sentry is stopping")
                if time.monotonic() > until:
                    raise TimedOut(f"{shown(archive.location)} took longer than {self._settings.download_within_s:g} s")
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != archive.sha256.lower():
            raise Refused(
                f"{shown(archive.location)} has SHA-256 {digest.hexdigest()}, pinned is {archive.sha256.lower()}",
                hint="it is not the file that was pinned: nothing of it was used",
            )

    def _open(self, location: str) -> AbstractContextManager[Any]:
        if "://" in location:
            if not self._settings.downloads:
                raise NotAllowed("this rig's settings allow no downloads", hint="give a path on the rig, or set downloads = true")
            from sentry_rig.download import download

            return download(location)
        path = Path(location)
        if not path.is_absolute():
            raise BadInput(f"{location!r} is neither an absolute path nor an https address")
        real = path.resolve()
        allowed = self._settings.archive_folder
        if allowed and not real.is_relative_to(Path(allowed).resolve()):
            raise NotAllowed(f"{path} does not lie in this rig's archive_folder {allowed}")
        if not real.is_file():
            raise NotFound(f"there is no file {path} on this rig")
        return real.open("rb")


def _place(packed: Path, unpacked: Path, archive: Archive, name: str) -> Path:
    from sentry_rig.unpack import looks_packed, unpack  # only when needed: tar and zip take memory

    if not archive.executable:
        if looks_packed(packed):
            raise BadInput(
                "the pinned file is an archive, and no executable in it is named", hint="give the path inside the archive"
            )
        unpacked.mkdir(mode=0o755)
        target = unpacked / (name + (".exe" if os.name == "nt" else ""))
        packed.replace(target)
        return target
    unpack(packed, unpacked)
    target = unpacked / _inside(archive.executable)
    if not target.is_file():
        raise BadInput(f"the archive holds no file {archive.executable!r}")
    return target


def _inside(path: str) -> str:
    parts = [part for part in path.replace("\\", "/").split("/") if part not in {"", "."}]
    if not parts or ".." in parts or path.startswith("/") or ":" in parts[0]:
        raise BadInput(f"{path!r} is no path inside an archive")
    return "/".join(parts)


def _rename(folder: Path, names: tuple[str, ...]) -> None:
    for file in [file for file in folder.rglob("*") if file.is_file() and file.name.casefold() in names]:
        file.replace(file.with_name(file.name + ".stock"))


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def shown(location: str) -> str:
    """A path or address without query and fragment: some services put keys there."""
    return location.partition("?")[0].partition("#")[0]
