"""Device credentials at rest: AES-256-GCM under a key file, the row's name as associated data.

A row copied over another does not open; a stolen database without `secrets.key` holds no passwords.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from commander.access import keyfile
from garrison.faults import Broken, NotFound

FILE = "secrets.key"
VERSION = b"\x01"
NONCE_BYTES = 12


class Secrets:
    """Seals and opens; fits `commander.fleet.book.Vault`."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def open_file(cls, home: Path) -> Secrets:
        """NotFound: no key. BadInput: others may read it. Broken: not 32 bytes."""
        path = home / FILE
        try:
            key = keyfile.read(path)
        except NotFound as error:
            raise NotFound(
                f"{path} is missing", hint="put the copy from your backup in its place: device passwords need it"
            ) from error
        if len(key) != 32:
            raise Broken(f"{path} is not a key of 32 bytes", hint="put the copy from your backup in its place")
        return cls(key)

    def seal(self, plain: bytes, row: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return VERSION + nonce + self._cipher.encrypt(nonce, plain, row.encode())

    def open(self, sealed: bytes, row: str) -> bytes:
        """Broken: another key, another row, or damaged."""
        try:
            if sealed[:1] != VERSION:
                raise InvalidTag
            return self._cipher.decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], row.encode())
        except (InvalidTag, ValueError) as error:
            raise Broken(f"the credentials of {row} do not open with this farm's {FILE}", hint="enter them again") from error


def create(home: Path) -> None:
    """A new key; an existing one is never touched (BadInput)."""
    keyfile.write(home / FILE, AESGCM.generate_key(256))
