"""The log-in of a simulated device's web server: digest (RFC 7616 with MD5) as lighttpd does it, or basic."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets


class Door:
    """`way`: "digest", "basic" or "" for a door that stands open."""

    def __init__(self, realm: str, way: str = "digest") -> None:
        self.realm, self.way = realm, way
        self.nonces: dict[str, int] = {}

    def refuses(self, method: str, target: str, header: str, user: str, password: str, nonce_uses: int = 0) -> str | None:
        """The `WWW-Authenticate` of a 401; None: welcome. `nonce_uses`: a nonce goes stale after so many requests; 0: never."""
        if self.way == "basic":
            proof = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
            return None if header == proof else f'Basic realm="{self.realm}"'
        if not self.way:
            return None
        said = dict(re.findall(r'(\w+)="?((?:[^",\\]|\\.)*)"?', header))
        nonce, stale = said.get("nonce", ""), False
        if nonce in self.nonces:
            ha1 = _md5(f"{user}:{self.realm}:{password}")
            ha2 = _md5(f"{method}:{said.get('uri', '')}")
            proof = _md5(":".join([ha1, nonce, said.get("nc", ""), said.get("cnonce", ""), "auth", ha2]))
            self.nonces[nonce] += 1
            stale = 0 < nonce_uses < self.nonces[nonce]
            if stale:
                del self.nonces[nonce]
            elif said.get("response") == proof and said.get("uri") == target:
                return None
        fresh = secrets.token_hex(16)
        self.nonces[fresh] = 0
        return f'Digest realm="{self.realm}", nonce="{fresh}", qop="auth"{", stale=true" if stale else ""}'


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
