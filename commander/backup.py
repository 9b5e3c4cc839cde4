"""Backup while running, and restore: one tar file with everything a commander is.

A backup holds every file of the commander's home: databases as consistent copies (SQLite's backup API, read through
after copying), settings, the farm's CA with its keys, secrets. It is as secret as the home itself: mode 0600, keep it so.
`manifest.json`, its last member, names each file with size and SHA-256.

    made = await backup(home, Path("/mnt/usb/farm.tar"))
    restore(Path("/mnt/usb/farm.tar"), home)      # the commander must not run
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from commander import db
from commander.fleet.store import renumber
from commander.lock import held_alone
from garrison.faults import BadInput, Broken, DiskFull, Fault, NotFound, Unavailable, VersionMismatch

FORMAT = 1
MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_MOST_FILES = 100_000
_MANIFEST_BYTES = 64 << 20
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
_PASSING = ("-wal", "-shm", "-journal", ".lock", ".sock", ".part")
"""Ends of names that belong to a running commander and mean nothing in a backup: a database's copy holds its WAL."""
_HISTORY = "history"
_HOT = "hot.db"
"""Copied before the other files of the history: what moves from it to them meanwhile is then in both, which is harmless."""
_SET_ASIDE = "damaged"
"""What files were before they were repaired: large, and of use to nobody who restores."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`left_out`: what is in the home and not in the backup (links, sockets): told, not lost in silence."""

    format: int
    garrison: str
    made_ms: int
    files: list[_File]
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Made:
    path: Path
    bytes: int
    files: int
    left_out: tuple[str, ...]


async def backup(home: Path, target: Path) -> Made:
    """Backs up `home` into the new file `target`, while the commander runs or not; checked by reading it back.

    Nothing is overwritten, and there is no `target` unless all went well. BadInput, Unavailable, DiskFull, Broken.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_make, home, target, stop)
    finally:
        stop.set()  # whoever asked is gone: the thread ends at the next step


# ---- making ------------------------------------------------------------------------------------------------


def _make(home: Path, target: Path, stop: threading.Event) -> Made:
    if not home.is_dir():
        raise NotFound(f"no commander at {home}")
    if target.resolve().is_relative_to(home.resolve()):
        raise BadInput(f"{target} is inside {home}", hint="a backup belongs on another disk, or at least in another folder")
    if not target.parent.is_dir():
        raise BadInput(f"there is no folder {target.parent}", hint="make it, or name another")
    if target.exists():
        raise BadInput(f"{target} exists already", hint="name a new file")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _translated(target):
            _check_space(home, target.parent)
            manifest = _write_tar(home, part, stop)
            _verify_tar(part, manifest)
            _publish(part, target)
    finally:
        part.unlink(missing_ok=True)
    return Made(target, target.stat().st_size, len(manifest.files), tuple(manifest.left_out))


def _write_tar(home: Path, part: Path, stop: threading.Event) -> Manifest:
    files: list[_File] = []
    left_out: list[str] = []
    with (
        os.fdopen(os.open(part, _NEW_FILE, 0o600), "wb") as raw,
        tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar,
        tempfile.TemporaryDirectory(prefix=f".{part.name}.", dir=part.parent) as spool,
    ):
        for path, name in _members(home, left_out):
            if stop.is_set():
                raise Unavailable("the backup was given up")
            copy = Path(spool) / "copy"
            try:
                _copied(path, copy, stop)
            except (Fault, OSError):
                if path.exists() or not name.startswith(f"{_HISTORY}/"):
                    raise
                continue  # its time was over: the history removed it since we looked
            files.append(_add(tar, copy, name))
            copy.unlink()
        manifest = Manifest(FORMAT, version("garrison"), time.time_ns() // 1_000_000, files, left_out)
        text = Path(spool) / MANIFEST
        text.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        _add(tar, text, MANIFEST)
        tar.close()
        raw.flush()
        os.fsync(raw.fileno())
    return manifest


def _copied(path: Path, copy: Path, stop: threading.Event) -> None:
    if path.suffix != ".db":
        shutil.copyfile(path, copy, follow_symlinks=False)
        return
    try:
        db.copy_checked(path, copy, stop.is_set)
    except Broken as fault:
        if path.parent.name == _HISTORY:
            fault.hint = "`commander history repair` keeps what still reads; an older backup may be whole"
        raise


def _members(home: Path, left_out: list[str]) -> Iterator[tuple[Path, str]]:
    for folder, folders, names in os.walk(home):
        folders.sort()
        here = Path(folder)
        if here == home / _HISTORY and _SET_ASIDE in folders:
            folders.remove(_SET_ASIDE)
            left_out.append(f"{_HISTORY}/{_SET_ASIDE}")
        linked = [f for f in folders if (here / f).is_symlink()]
        for name in sorted([*names, *linked], key=lambda name: (name != _HOT, name)):
            path = here / name
            if name.endswith(_PASSING):
                continue
            try:
                plain = stat.S_ISREG(path.lstat().st_mode)
            except FileNotFoundError:  # its time was over
                continue
            if plain:
                yield path, path.relative_to(home).as_posix()
            else:
                left_out.append(path.relative_to(home).as_posix())


def _add(tar: tarfile.TarFile, path: Path, name: str) -> _File:
    info = tarfile.TarInfo(name)
    info.size = path.stat().st_size
    info.mode = 0o600
    info.mtime = int(time.time())
    with path.open("rb") as file:
        reader = _Hashing(file)
        tar.addfile(info, reader)
    return _File(name, info.size, reader.digest.hexdigest())


class _Hashing:
    """A file that hashes what is read from it. Broken when it ends early."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        some = self._file.read(size)
        self.digest.update(some)
        return some


def _verify_tar(path: Path, manifest: Manifest) -> None:
    wanted = {file.path: file for file in manifest.files}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            data = tar.extractfile(member)
            if data is None or member.name == MANIFEST:
                continue
            found = _digest(data)
            if wanted.pop(member.name).sha256 != found:
                raise Broken(f"{member.name} reads back differently from what was written", hint="the disk is failing")
    if wanted:
        raise Broken(f"{next(iter(wanted))} is missing in what was written", hint="the disk is failing")


def _digest(data: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while some := data.read(_CHUNK):
        digest.update(some)
    return digest.hexdigest()


def _publish(part: Path, target: Path) -> None:
    """Under its name at once and whole, and never over another file."""
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise BadInput(f"{target} exists already", hint="name a new file") from error
    except OSError:  # a file system without links
        if target.exists():
            raise BadInput(f"{target} exists already", hint="name a new file") from None
        part.rename(target)
    _sync_folder(target.parent)


def _check_space(home: Path, folder: Path) -> None:
    sizes = [_size(path) for path, _ in _members(home, [])]
    _room(folder, sum(sizes) + max(sizes, default=0))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(f"{needed / 1e6:.0f} MB are needed in {folder}, {free / 1e6:.0f} MB are free")


# ---- restoring ---------------------------------------------------------------------------------------------


def restore(source: Path, home: Path) -> list[str]:
    """Puts the backup in place of `home`; what was there is kept beside it. Lines for people.

    Everything is checked before anything is touched. Conflict: the commander runs. Broken: cut short, changed or damaged.
    VersionMismatch: from a newer Garrison. BadInput: no backup, or one that would write elsewhere.
    """
    with held_alone(home):
        finish_restore(home)
        _tidy_up(home)
        if not source.exists():
            raise NotFound(f"there is no {source}")
        if not source.is_file():
            raise BadInput(f"{source} is not a file", hint="a backup is one file, as `commander backup` made it")
        fresh = Path(tempfile.mkdtemp(prefix=_unfinished(home), dir=home.parent))
        try:
            with _translated(source):
                manifest = _unpack(source, fresh)
                _check_databases(fresh)
                _renumber(fresh)
                _sync_tree(fresh)
            kept = _swap(fresh, home)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    made = datetime.fromtimestamp(manifest.made_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"{home} is as it was backed up at {made} by Garrison {manifest.garrison} ({len(manifest.files)} files)"]
    if kept is not None:
        lines.append(f"what was there before is in {kept}; remove it when all is well")
    if manifest.left_out:
        lines.append(f"not in the backup, put it back by hand: {', '.join(manifest.left_out)}")
    lines.append("start the commander: its sentries send again what they still hold of the time since")
    return lines


def finish_restore(home: Path) -> bool:
    """A restore that was killed between its two last steps left no home, but a whole new one beside it: takes it."""
    ready = home.with_name(f"{home.name}.restored")
    if home.exists() or not ready.is_dir():
        return False
    ready.rename(home)
    _sync_folder(home.parent)
    return True


def _unpack(source: Path, fresh: Path) -> Manifest:
    found: dict[str, _File] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(source, "r:") as tar:
            for count, member in enumerate(tar):
                if manifest is not None or count > _MOST_FILES:
                    raise BadInput(f"{source} is not a backup of a commander")
                name = _safe(member, source)
                data = tar.extractfile(member)
                if data is None:
                    raise BadInput(f"{source}: {name} is not a plain file")
                if name == MANIFEST:
                    manifest = _manifest(data.read(_MANIFEST_BYTES), source)
                else:
                    _room(fresh, member.size)
                    found[name] = _extract(data, fresh / name, name, member.size, source)
    except (tarfile.TarError, EOFError) as error:
        raise Broken(f"{source} is cut short, or is no backup: {error}", hint="use another backup") from error
    if manifest is None:
        raise Broken(f"{source} is cut short: it has no manifest", hint="use another backup")
    _compare(manifest, found, source)
    return manifest


def _safe(member: tarfile.TarInfo, source: Path) -> str:
    """Its name, where that is a plain relative path of a plain file."""
    path = PurePosixPath(member.name)
    odd = not member.isreg() or path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name
    if odd or not member.name or path.as_posix() != member.name or "\0" in member.name:
        raise BadInput(f"{source} holds {member.name[:200]!r}, which no backup of ours does", hint="do not trust this file")
    return member.name


def _extract(data: IO[bytes], path: Path, name: str, size: int, source: Path) -> _File:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, _NEW_FILE, 0o600)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadInput(f"{source} holds {name} twice", hint="do not trust this file") from error
    digest = hashlib.sha256()
    with os.fdopen(handle, "wb") as file:
        while some := data.read(_CHUNK):
            digest.update(some)
            file.write(some)
    if path.stat().st_size != size:
        raise Broken(f"{source} is cut short in {name}", hint="use another backup")
    return _File(name, size, digest.hexdigest())


def _manifest(text: bytes, source: Path) -> Manifest:
    try:
        told = msgspec.json.decode(text, type=dict[str, object]).get("format")
        if isinstance(told, int) and told > FORMAT:
            raise VersionMismatch(f"{source} was made by a newer Garrison", hint="install that one, or use an older backup")
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise Broken(f"the manifest of {source} does not read: {error}", hint="use another backup") from error


def _compare(manifest: Manifest, found: Mapping[str, _File], source: Path) -> None:
    listed = {file.path: file for file in manifest.files}
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise Broken(f"{source} has lost {name}", hint="use another backup")
        if name not in listed:
            raise BadInput(f"{source} holds {name}, which its manifest does not know", hint="do not trust this file")
        if listed[name] != found[name]:
            raise Broken(f"{name} in {source} is not what was backed up: its hash is wrong", hint="use another backup")


def _check_databases(fresh: Path) -> None:
    # imported here: a backup is made without knowing the tables
    from commander.schema import FLEET
    from commander.telemetry.archive import VERSION
    from commander.telemetry.levels import file_named
    from commander.telemetry.store import MIGRATIONS

    known = {"fleet.db": len(FLEET), "history/hot.db": len(MIGRATIONS)}
    for path in sorted(fresh.rglob("*.db")):
        name = path.relative_to(fresh).as_posix()
        if (wrong := db.damage(path)) is not None:
            raise Broken(f"{name} in the backup is damaged: {wrong}", hint="use another backup")
        if name in known and (number := _newest_migration(path)) > known[name]:
            raise VersionMismatch(
                f"{name} in the backup is of version {number}, this program knows {known[name]}",
                hint="install the newer Garrison that made it",
            )
        if path.parent == fresh / _HISTORY and file_named(path.name) is not None and (number := _user_version(path)) > VERSION:
            raise VersionMismatch(
                f"{name} in the backup is of version {number}, this program knows {VERSION}",
                hint="install the newer Garrison that made it",
            )
        for left in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            left.unlink(missing_ok=True)


def _renumber(fresh: Path) -> None:
    """The sentries have seen assignments of the days that are lost: what they get from now on must be newer."""
    path = fresh / "fleet.db"
    if path.exists():
        with contextlib.closing(db.connect(path)) as connection:
            if connection.execute("select 1 from sqlite_master where name = 'sentries'").fetchone():
                renumber(connection, time.time_ns() // 1_000_000)


def _user_version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("pragma user_version").fetchone()[0])


def _newest_migration(path: Path) -> int:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return int(connection.execute("select coalesce(max(number), 0) from migrations").fetchone()[0])
    except sqlite3.Error as error:
        raise Broken(f"{path.name} in the backup is no database of ours: {error}", hint="use another backup") from error


def _swap(fresh: Path, home: Path) -> Path | None:
    """`fresh` becomes `home` in two renames; killed between them, `finish_restore` does the second."""
    ready = home.with_name(f"{home.name}.restored")
    fresh.rename(ready)
    kept: Path | None = None
    try:
        if home.exists():
            kept = home.with_name(f"{home.name}.before-restore-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
            home.rename(kept)
        ready.rename(home)
    except OSError as error:
        if kept is not None and not home.exists() and kept.exists():
            kept.rename(home)
        shutil.rmtree(ready, ignore_errors=True)
        raise Unavailable(f"cannot replace {home}: {error.strerror}", hint="is it a mount point, or in use?") from error
    _sync_folder(home.parent)
    return kept


def _unfinished(home: Path) -> str:
    return f".{home.name}.restoring-"


def _tidy_up(home: Path) -> None:
    """What restores that were killed left. Only called by who holds the lock."""
    for left in (*home.parent.glob(f"{_unfinished(home)}*"), home.with_name(f"{home.name}.restored")):
        shutil.rmtree(left, ignore_errors=True)


# ---- both --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except Fault:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for {path}", hint="free some space, or use another disk") from error
        raise Unavailable(f"{error.filename or path}: {error.strerror}") from error


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """So that names survive a power cut. Windows has no such thing."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
