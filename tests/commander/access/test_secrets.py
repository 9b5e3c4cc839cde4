"""Credentials at rest: sealed to their row and to the farm's key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.access import secrets
from commander.access.secrets import Secrets
from garrison.faults import BadInput, Broken, NotFound


@given(st.binary(max_size=300), st.text(max_size=40))
def test_round_trip(plain: bytes, row: str) -> None:
    """What was sealed opens, twice sealed differs, and nothing of it shows."""
    vault = Secrets(b"k" * 32)
    one, two = vault.seal(plain, row), vault.seal(plain, row)
    assert one != two
    assert vault.open(one, row) == vault.open(two, row) == plain
    assert len(plain) < 4 or plain not in one


@pytest.mark.parametrize(
    "spoil", [lambda s: s[:-1], lambda s: b"\x02" + s[1:], lambda s: b"", lambda s: s[:5], lambda s: s[:-1] + b"x"]
)
def test_spoiled(spoil: Callable[[bytes], bytes]) -> None:
    """A damaged, cut or foreign seal is Broken, not a crash and not a password."""
    vault = Secrets(b"k" * 32)
    with pytest.raises(Broken):
        vault.open(spoil(vault.seal(b"hunter2", "devices/1")), "devices/1")


def test_another_row_another_key() -> None:
    """A row copied over another does not open; neither does a database from another farm."""
    sealed = Secrets(b"k" * 32).seal(b"hunter2", "devices/1")
    with pytest.raises(Broken, match="devices/2"):
        Secrets(b"k" * 32).open(sealed, "devices/2")
    with pytest.raises(Broken):
        Secrets(b"l" * 32).open(sealed, "devices/1")


def test_key_file(tmp_path: Path) -> None:
    """0600, made once, never overwritten, refused when it is missing, short, or open to others."""
    with pytest.raises(NotFound):
        Secrets.open_file(tmp_path)
    secrets.create(tmp_path)
    path = tmp_path / secrets.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadInput):
        secrets.create(tmp_path)
    Secrets.open_file(tmp_path)
    path.chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        Secrets.open_file(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(Broken):
        Secrets.open_file(tmp_path)
