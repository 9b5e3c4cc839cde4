"""The farm's certificate authority: a root that may live elsewhere, an online intermediate, and what they sign.

`<home>/ca/` holds
    root.pem            what every sentry trusts; two certificates during a rotation, the current one first
    root.key            may be moved away (`export_root`); needed once a year to renew the intermediate
    intermediate.pem    every intermediate there was, the current one first: an expired sentry must still be recognised
    intermediate.key
    server.pem, server.key   of the two gRPC ports; renewed by themselves

Called by: `service.py` (sentry certificates), `main.py` (`server_identity`, `tend`), `setup.py` (`create`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from commander.access import keyfile
from commander.access.certificates import (
    DAY_MS,
    SENTRY_DAYS,
    Key,
    PublicKey,
    certificate_of,
    common_name,
    key_der,
    key_pem,
    make_intermediate,
    make_root,
    make_sentry,
    make_server,
    ms_of,
    names_of,
    pem,
    purposes_of,
    request_key,
    server_names,
    signed_by,
    takes,
    time_of,
)
from garrison.faults import Broken, CertificateExpired, Conflict, NotFound, Unavailable, UnknownAuthority, WrongIdentity
from garrison.join import pin_of

INTERMEDIATE_RENEW_DAYS = 90
SERVER_RENEW_DAYS = 30
FROM_BACKUP = "put the copy from your backup in its place"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A sentry's certificate, as far as it says who it is. `key_der` is its SubjectPublicKeyInfo."""

    sentry_id: str
    serial: str  # hexadecimal
    not_after_ms: int
    public_key: PublicKey
    key_der: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A fresh sentry certificate. `chain_pem`: the leaf, then the intermediate."""

    leaf: Leaf
    chain_pem: bytes


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """For `grpc.ssl_server_credentials`. The chain ends with the root, so that a newcomer can compare it with its pin."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    not_after_ms: int
    names: tuple[str, ...]


class Authority:
    """Open with `Authority.open`. Signing takes about a millisecond, so it may be done on the event loop."""

    def __init__(
        self, folder: Path, roots: Sequence[x509.Certificate], intermediates: Sequence[x509.Certificate], signing_key: Key
    ) -> None:
        self.folder = folder
        self._roots = tuple(roots)
        self._intermediates = tuple(intermediates)
        self._key = signing_key
        self._server: ServerIdentity | None = None
        self.farm_id = _farm_id(self._roots[0])
        self.farm_name = common_name(self._roots[0])

    @property
    def roots_pem(self) -> bytes:
        """What a sentry trusts."""
        return pem(*self._roots)

    @property
    def pin(self) -> bytes:
        """SHA-256 of the current root: the part of a join token that keeps another commander out."""
        return pin_of(self._roots[0].public_bytes(Encoding.DER))

    @property
    def until_ms(self) -> int:
        """When the current intermediate ends, and with it every certificate."""
        return ms_of(self._intermediates[0].not_valid_after_utc)

    @property
    def root_key_here(self) -> bool:
        return (self.folder / "root.key").exists()

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """NotFound: no farm here. BadInput: a key that others may read. Broken: a file that is not what it should be."""
        roots = _certificates(folder / "root.pem")
        intermediates = _certificates(folder / "intermediate.pem")
        signing_key = _signing_key(folder, intermediates[0])
        if not any(signed_by(intermediates[0], root) for root in roots):
            raise Broken(f"{folder / 'intermediate.pem'} is not signed by root.pem", hint="restore both from one backup")
        if (folder / "root.key").exists():
            _key(folder / "root.key")  # others must not read it, even while it is not needed
        return cls(folder, roots, intermediates, signing_key)

    # ---- sentries ------------------------------------------------------------------------------------------

    def sign_sentry(self, sentry_id: str, csr_der: bytes, now_ms: int, *, life_ms: int = SENTRY_DAYS * DAY_MS) -> Signed:
        """A client certificate for the identity that we decided; of the CSR only the key counts.

        BadInput: not a CSR, a key kind we do not take, not signed by its key. Unavailable: the intermediate has expired.
        """
        issuer = self._intermediates[0]
        made = make_sentry(request_key(csr_der), self._spiffe(sentry_id), issuer, self._key, now_ms, life_ms)
        return Signed(self._leaf(made), pem(made, issuer))

    def recognise(self, certificate: bytes, now_ms: int) -> tuple[Leaf, CertificateExpired | None]:
        """Whose certificate (PEM or DER) this is; an expired one is handed back with its refusal.

        NoCertificate, UnknownAuthority; WrongIdentity: we signed it, but not for a sentry.
        """
        found = certificate_of(certificate)
        if not any(signed_by(found, issuer) for issuer in self._intermediates):
            raise UnknownAuthority(
                f"this certificate was signed by another authority ({common_name(found, issuer=True)}), not by {self.farm_name}",
                hint="enrol the sentry with a join token of this farm",
            )
        leaf = self._leaf(found)
        if time_of(now_ms) < found.not_valid_before_utc:
            begins = f"{found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            return leaf, CertificateExpired(f"the certificate is not valid before {begins}", hint="check both clocks")
        if time_of(now_ms) >= found.not_valid_after_utc:
            ended = f"{found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            return leaf, CertificateExpired(
                f"the certificate expired on {ended}", hint="the sentry asks for a new one by itself, with the key we know"
            )
        return leaf, None

    def verify_sentry(self, certificate: bytes, now_ms: int) -> Leaf:
        """As `recognise`, for a certificate that must be valid now."""
        leaf, fault = self.recognise(certificate, now_ms)
        if fault is not None:
            raise fault
        return leaf

    def _leaf(self, certificate: x509.Certificate) -> Leaf:
        """Refuses what is ours but not a sentry's: a server's, or another farm's under the same root."""
        if purposes_of(certificate) != ("client",):
            raise WrongIdentity("this certificate is not for a sentry, but for another use")
        names, prefix, public_key = names_of(certificate), self._spiffe(""), certificate.public_key()
        sentry_id = names[0].removeprefix(prefix) if len(names) == 1 and names[0].startswith(prefix) else ""
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", sentry_id) or not takes(public_key):
            raise WrongIdentity("this certificate does not name a sentry of this farm")
        until_ms = ms_of(certificate.not_valid_after_utc)
        return Leaf(sentry_id, f"{certificate.serial_number:x}", until_ms, public_key, key_der(public_key))

    def _spiffe(self, sentry_id: str) -> str:
        return f"spiffe://{self.farm_id}/sentry/{sentry_id}"

    # ---- ourselves -----------------------------------------------------------------------------------------

    def server_identity(self, names: Sequence[str], now_ms: int) -> ServerIdentity:
        """The certificate of our gRPC ports for these host names and addresses (and loopback); made or renewed when needed."""
        wanted = server_names(names)
        known = self._server or self._stored_server()
        if known is None or known.names != wanted or known.not_after_ms - now_ms < self._server_renew_ms(now_ms):
            known = self._make_server(wanted, now_ms)
        self._server = known
        return known

    def tend(self, now_ms: int) -> list[str]:
        """To be called at start and once a day: renews the intermediate. Returns warnings for a person."""
        if self.until_ms - now_ms > INTERMEDIATE_RENEW_DAYS * DAY_MS:
            return []
        if not self.root_key_here:
            ends = f"{time_of(self.until_ms):%Y-%m-%d}"
            return [f"the farm's online CA ends on {ends}: put root.key back into {self.folder} for one restart, to renew it"]
        root_key, root = _key(self.folder / "root.key"), self._roots[0]
        if key_der(root_key.public_key()) != _public(root):
            raise Broken(f"{self.folder / 'root.key'} does not belong to root.pem", hint="put back the key of this farm")
        signing_key = ec.generate_private_key(ec.SECP256R1())
        chain = (make_intermediate(signing_key, root, root_key, now_ms), *self._intermediates)
        # Killed between any two of these, `_signing_key` still finds the key that fits the certificate.
        keyfile.write(self.folder / "intermediate.key.next", key_pem(signing_key), replace=True)
        keyfile.write(self.folder / "intermediate.pem", pem(*chain), replace=True)
        keyfile.rename(self.folder / "intermediate.key.next", self.folder / "intermediate.key")
        self._intermediates, self._key, self._server = chain, signing_key, None
        return []

    def export_root(self, target: Path) -> None:
        """Moves the root's key to the file `target` (on a stick); the farm goes on without it. Conflict: it is away already."""
        source = self.folder / "root.key"
        try:
            data = keyfile.read(source)
        except NotFound as error:
            raise Conflict("root.key is not here: it was moved away before") from error
        keyfile.write(target, data)
        if target.read_bytes() != data:
            raise Broken(f"{target} does not read back as it was written", hint="root.key is still in its place")
        source.unlink()
        keyfile.sync_folder(self.folder)

    def _server_renew_ms(self, now_ms: int) -> int:
        """How much must be left; less when the intermediate itself ends soon, or we would sign a new one at every call."""
        return min(SERVER_RENEW_DAYS * DAY_MS, max((self.until_ms - now_ms) // 2, 0))

    def _stored_server(self) -> ServerIdentity | None:
        """The pair on disk, when it fits and is signed by the current intermediate."""
        try:
            data = keyfile.read(self.folder / "server.key")
            chain = _certificates(self.folder / "server.pem")
        except NotFound:
            return None
        fits = key_der(_key(self.folder / "server.key").public_key()) == _public(chain[0])
        if not fits or not signed_by(chain[0], self._intermediates[0]):
            return None  # killed between the two files, or the intermediate was renewed
        return ServerIdentity(data, pem(*chain), ms_of(chain[0].not_valid_after_utc), names_of(chain[0]))

    def _make_server(self, wanted: tuple[str, ...], now_ms: int) -> ServerIdentity:
        issuer = self._intermediates[0]
        server_key = ec.generate_private_key(ec.SECP256R1())
        made = make_server(server_key, wanted, issuer, self._key, now_ms)
        identity = ServerIdentity(key_pem(server_key), pem(made, issuer, self._roots[0]), ms_of(made.not_valid_after_utc), wanted)
        keyfile.write(self.folder / "server.key", identity.key_pem, replace=True)
        keyfile.write(self.folder / "server.pem", identity.chain_pem, replace=True)
        return identity


def create(folder: Path, farm_name: str, farm_id: str, now_ms: int) -> Authority:
    """A new farm's CA in `folder`, whole or not at all. Conflict: there is one already; it is never overwritten."""
    if folder.exists():
        raise Conflict(f"there is a farm at {folder.parent} already", hint="its CA is never overwritten; choose another home")
    root_key, signing_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = make_root(root_key, farm_name, farm_id, now_ms)
    intermediate = make_intermediate(signing_key, root, root_key, now_ms)
    fresh = folder.with_name(f"{folder.name}.new")
    try:
        if fresh.exists():
            shutil.rmtree(fresh)  # of an init that was killed: nothing was ever signed by it
        fresh.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise Unavailable(f"cannot create {fresh}: {error.strerror}") from error
    keyfile.write(fresh / "root.key", key_pem(root_key))
    keyfile.write(fresh / "root.pem", pem(root))
    keyfile.write(fresh / "intermediate.key", key_pem(signing_key))
    keyfile.write(fresh / "intermediate.pem", pem(intermediate))
    keyfile.rename(fresh, folder)
    return Authority(folder, [root], [intermediate], signing_key)


def _signing_key(folder: Path, intermediate: x509.Certificate) -> Key:
    """The intermediate's key. A renewal that was cut short is finished here."""
    place, following = folder / "intermediate.key", folder / "intermediate.key.next"
    found = _key(place)
    if key_der(found.public_key()) == _public(intermediate):
        return found
    if following.exists():
        found = _key(following)
        if key_der(found.public_key()) == _public(intermediate):
            keyfile.rename(following, place)
            return found
    raise Broken(f"{place} does not belong to intermediate.pem", hint="restore both from one backup")


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing", hint="`commander init` makes a farm; `commander restore` brings one back") from error
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise Broken(f"{path} holds no certificate", hint=FROM_BACKUP) from error


def _key(path: Path) -> Key:
    try:
        found = load_pem_private_key(keyfile.read(path), password=None)
    except NotFound as error:
        raise NotFound(f"{path} is missing", hint=FROM_BACKUP) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Broken(f"{path} is not a private key", hint=FROM_BACKUP) from error
    if not isinstance(found, Key) or not takes(found.public_key()):
        raise Broken(f"{path} is not a P-256 key", hint=FROM_BACKUP)
    return found


def _public(certificate: x509.Certificate) -> bytes:
    found = certificate.public_key()
    return key_der(found) if takes(found) else b""


def _farm_id(root: x509.Certificate) -> str:
    for name in names_of(root):
        if name.startswith("spiffe://"):
            return name.removeprefix("spiffe://")
    raise Broken("root.pem names no farm", hint=FROM_BACKUP)
