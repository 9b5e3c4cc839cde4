"""Certificates as plain functions: what we sign, what we read, which keys we take. No files, no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from garrison.faults import BadInput, NoCertificate, Unavailable
from garrison.join import SERVER_NAME

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

DAY_MS = 86_400_000
ROOT_DAYS = 3652
INTERMEDIATE_DAYS = 365
SERVER_DAYS = 90
SENTRY_DAYS = 7
BACKDATED = timedelta(hours=1)  # the clock of a rig may be behind ours
MAX_CSR_BYTES = 8 * 1024


# ---- making ------------------------------------------------------------------------------------------------


def make_root(key: Key, farm_name: str, farm_id: str, now_ms: int) -> x509.Certificate:
    """Self-signed, 10 years; the farm's id stands in it as spiffe://ID."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, farm_name[:64])])
    start = time_of(now_ms) - timedelta(days=1)
    return (
        _builder(farm_name[:64], name, key.public_key(), start, start + timedelta(days=ROOT_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{farm_id}")]), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_intermediate(key: Key, root: x509.Certificate, root_key: Key, now_ms: int) -> x509.Certificate:
    """One year, or what is left of the root. Its name holds the time: two must differ, or a verifier may pick the wrong one."""
    start = max(time_of(now_ms) - timedelta(days=1), root.not_valid_before_utc)
    end = min(time_of(now_ms) + timedelta(days=INTERMEDIATE_DAYS), root.not_valid_after_utc)
    return (
        _builder(f"{common_name(root)[:40]} online {now_ms}", root.subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(_authority_key(root), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def make_sentry(
    public_key: PublicKey, identity: str, issuer: x509.Certificate, issuer_key: Key, now_ms: int, life_ms: int
) -> x509.Certificate:
    """For clients only. `identity` is the whole spiffe:// name. Unavailable: the issuer has expired."""
    return _leaf(
        _builder("sentry", issuer.subject, public_key, *_life(issuer, now_ms, life_ms)),
        [x509.UniformResourceIdentifier(identity)],
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
        issuer,
        issuer_key,
    )


def make_server(key: Key, names: Sequence[str], issuer: x509.Certificate, issuer_key: Key, now_ms: int) -> x509.Certificate:
    """For servers only, for these host names and addresses. Unavailable: the issuer has expired."""
    return _leaf(
        _builder("commander", issuer.subject, key.public_key(), *_life(issuer, now_ms, SERVER_DAYS * DAY_MS)),
        [_general_name(name) for name in names],
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        issuer,
        issuer_key,
    )


def _leaf(
    builder: x509.CertificateBuilder,
    names: Sequence[x509.GeneralName],
    purpose: x509.ExtendedKeyUsage,
    issuer: x509.Certificate,
    issuer_key: Key,
) -> x509.Certificate:
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(purpose, critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_authority_key(issuer), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _builder(subject: str, issuer: x509.Name, key: PublicKey, start: datetime, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _life(issuer: x509.Certificate, now_ms: int, life_ms: int) -> tuple[datetime, datetime]:
    """Never outside the issuer's own."""
    start = time_of(now_ms)
    if start >= issuer.not_valid_after_utc:
        raise Unavailable("the farm's online CA has expired", hint="put root.key back into the ca folder and restart the commander")
    end = min(start + timedelta(milliseconds=life_ms), issuer.not_valid_after_utc)
    return max(start - BACKDATED, issuer.not_valid_before_utc), end


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def server_names(names: Sequence[str]) -> tuple[str, ...]:
    """What a server certificate is for: the given names, loopback, and the one name that never changes. Sorted."""
    found = {SERVER_NAME, "localhost", "127.0.0.1", "::1"}
    for name in names:
        bare = name.strip().removeprefix("[").removesuffix("]").lower()
        if bare not in ("", "0.0.0.0", "::"):
            found.add(str(_general_name(bare).value))
    return tuple(sorted(found))


def _general_name(name: str) -> x509.IPAddress | x509.DNSName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name if name.isascii() else name.encode("idna").decode())
    except ValueError as error:  # UnicodeError is one
        raise BadInput(f"{name!r} cannot stand in a certificate", hint="use plain ASCII host names or addresses") from error


# ---- reading -----------------------------------------------------------------------------------------------


def request_key(csr_der: bytes) -> PublicKey:
    """The key of a certificate request, proven by its signature; all else in it is ignored. BadInput."""
    if len(csr_der) > MAX_CSR_BYTES:
        raise BadInput(f"the certificate request is larger than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(csr_der)
        public_key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput("this is not a certificate request") from error
    if not takes(public_key):
        raise BadInput("the key of the certificate request is neither P-256 nor Ed25519")
    if not signed:
        raise BadInput("the certificate request is not signed by its own key")
    return public_key


def takes(key: object) -> TypeGuard[PublicKey]:
    """P-256 and Ed25519; nothing else."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


def key_der(key: PublicKey) -> bytes:
    """Its SubjectPublicKeyInfo, from which `garrison.join.fingerprint` is made."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signature_fits(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """ECDSA with SHA-256, or Ed25519."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def certificate_of(data: bytes) -> x509.Certificate:
    """From PEM (the first one in it) or DER. NoCertificate."""
    if not data:
        raise NoCertificate("no certificate was shown", hint="enrol this sentry with a join token")
    try:
        return x509.load_pem_x509_certificate(data) if data.lstrip().startswith(b"-----") else x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise NoCertificate("what was shown is not a certificate") from error


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Its subject alternative names as text, sorted; empty when it has none that can be read."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(sorted(str(name.value) for name in names))


def purposes_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """ "client", "server", or the dotted number of what it may be used for."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    words = {ExtendedKeyUsageOID.CLIENT_AUTH: "client", ExtendedKeyUsageOID.SERVER_AUTH: "server"}
    return tuple(words.get(one, one.dotted_string) for one in usage)


def common_name(certificate: x509.Certificate, *, issuer: bool = False) -> str:
    found = (certificate.issuer if issuer else certificate.subject).get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value)[:64] if found else "no name"


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def key_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def time_of(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC).replace(microsecond=0)


def ms_of(at: datetime) -> int:
    return int(at.timestamp() * 1000)
