"""Private files: whole or not at all, readable by their owner alone, and every way they can be wrong has its words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from garrison import keyfile
from garrison.faults import BadInput, Broken, NotFound, Unavailable


def test_what_was_written_is_read_and_private(tmp_path: Path) -> None:
    """The file is mode 0600 whatever the umask says, its folder is made, and no half file stays behind."""
    before = os.umask(0)
    try:
        keyfile.write(tmp_path / "new" / "key", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600
    assert keyfile.read(tmp_path / "new" / "key") == b"secret"
    keyfile.write(tmp_path / "new" / "key", b"other")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["key"]
    assert keyfile.read(tmp_path / "new" / "key") == b"other"


def test_what_others_may_read_is_refused(tmp_path: Path) -> None:
    """The words say which file, which mode, and the command that mends it."""
    keyfile.write(tmp_path / "key", b"secret")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(BadInput, match=r"mode 0640.*chmod 600"):
        keyfile.read(tmp_path / "key")
    assert keyfile.read(tmp_path / "key", private=False) == b"secret"


def test_missing_too_large_and_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is missing"):
        keyfile.read(tmp_path / "key")
    keyfile.write(tmp_path / "key", b"0123456789")
    with pytest.raises(Broken, match="too large"):
        keyfile.read(tmp_path / "key", most_bytes=9)
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unavailable, match="cannot read"):
        keyfile.read(tmp_path / "folder")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Nothing lost, nothing half done."""
    keyfile.write(tmp_path / "key", b"old")
    (tmp_path / ".key.new").mkdir()
    with pytest.raises(Unavailable, match="cannot write"):
        keyfile.write(tmp_path / "key", b"new")
    assert keyfile.read(tmp_path / "key") == b"old"


def test_a_rename_across_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot move"):
        keyfile.rename(tmp_path / "no", tmp_path / "new")
