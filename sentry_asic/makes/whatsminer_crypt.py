"""The arithmetic of Whatsminer log-ins. Pure: text and bytes in, text and bytes out.

V2 (maker's API 2.0.5): key = MD5-crypt(password, salt), sign = MD5-crypt(key + time, newsalt), orders in AES-256-ECB under
SHA-256(key). V3 (maker's API 3.0): one SHA-256 over command, password, salt and time is token and AES key of one order.
The device demands both schemes; nothing of ours is protected by them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from garrison.faults import BadAnswer

_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TRIPLES = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Token:
    """`key`: AES-256. `sign`: what goes along with an order."""

    key: bytes = field(repr=False)
    sign: str = field(repr=False)


def md5_crypt(word: str, salt: str) -> str:
    """The hash field of `$1$salt$hash`, as `openssl passwd -1` prints it (Poul-Henning Kamp's scheme of 1994)."""
    told, grain = word.encode(), salt.encode()[:8]
    inner = _md5(told + grain + told)
    start = told + b"$1$" + grain + (inner * (len(told) // 16 + 1))[: len(told)]
    left = len(told)
    while left:
        start += b"\x00" if left & 1 else told[:1]
        left >>= 1
    digest = _md5(start)
    for turn in range(1000):
        odd = turn & 1
        mixed = (told if odd else digest) + (grain if turn % 3 else b"") + (told if turn % 7 else b"")
        digest = _md5(mixed + (digest if odd else told))
    text = "".join(_letters(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _TRIPLES)
    return text + _letters(digest[11], 2)


def token_v2(password: str, salt: str, newsalt: str, time: str) -> Token:
    key = md5_crypt(password, salt)
    return Token(hashlib.sha256(key.encode()).digest(), md5_crypt(key + time, newsalt))


def token_v3(command: str, password: str, salt: str, ts: int) -> Token:
    digest = hashlib.sha256(f"{command}{password}{salt}{ts}".encode()).digest()
    return Token(digest, base64.b64encode(digest).decode()[:8])


def encrypt(key: bytes, text: bytes) -> str:
    """Base64 of AES-256-ECB, padded with zeros."""
    cipher = _cipher(key).encryptor()
    return base64.b64encode(cipher.update(text + b"\x00" * (-len(text) % _BLOCK)) + cipher.finalize()).decode()


def decrypt(key: bytes, text: str) -> bytes:
    """Raises BadAnswer for what is not base64 of whole blocks."""
    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadAnswer("an encrypted answer that is not base64") from None
    if not raw or len(raw) % _BLOCK:
        raise BadAnswer("an encrypted answer of a length that cannot be")
    cipher = _cipher(key).decryptor()
    return (cipher.update(raw) + cipher.finalize()).rstrip(b"\x00")


def _cipher(key: bytes) -> Cipher[modes.ECB]:
    return Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305  # the device's choice


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _letters(number: int, count: int) -> str:
    return "".join(_ALPHABET[number >> 6 * place & 63] for place in range(count))
