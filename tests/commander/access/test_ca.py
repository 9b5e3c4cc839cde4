"""The farm's CA: what it signs, whom it recognises, what it refuses to run with, how it is renewed."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from commander.access import ca, certificates, keyfile
from commander.access.ca import Authority
from commander.access.setup import init_farm
from garrison.clock import ManualClock, SystemClock
from garrison.faults import (
    BadInput,
    Broken,
    CertificateExpired,
    Conflict,
    Fault,
    NoCertificate,
    NotFound,
    Unavailable,
    UnknownAuthority,
    WrongIdentity,
)
from garrison.join import SERVER_NAME, pin_of
from tests.commander.access.conftest import Machine, der_of, request_for

DAY_MS = 86_400_000
SENTRY = str(uuid4())


def test_names_in_the_request_are_ignored(authority: Authority, clock: ManualClock) -> None:
    """The commander decides who it is: seven days, clients only, one name."""
    signed = authority.sign_sentry(SENTRY, Machine().csr("administrator"), clock.now_ms())
    leaf = x509.load_pem_x509_certificate(signed.chain_pem)
    assert certificates.names_of(leaf) == (f"spiffe://{authority.farm_id}/sentry/{SENTRY}",)
    assert certificates.purposes_of(leaf) == ("client",)
    assert "administrator" not in leaf.subject.rfc4514_string()
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert signed.leaf.not_after_ms - clock.now_ms() == 7 * DAY_MS
    assert authority.verify_sentry(signed.chain_pem, clock.now_ms()) == signed.leaf
    assert authority.verify_sentry(der_of(signed.chain_pem), clock.now_ms()) == signed.leaf


def test_keys_taken(authority: Authority, clock: ManualClock) -> None:
    """P-256 and Ed25519, proven by the request's own signature; nothing else, whatever is sent."""
    authority.sign_sentry(SENTRY, request_for(ed25519.Ed25519PrivateKey.generate()), clock.now_ms())
    good = Machine().csr()
    broken = bytearray(good)
    broken[-1] ^= 1
    weak = rsa.generate_private_key(65537, 2048)
    name = x509.Name([])
    rsa_csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(weak, hashes.SHA256())
    wrong_curve = request_for(ec.generate_private_key(ec.SECP384R1()))
    for bad in (b"", b"\x30\x03", bytes(broken), rsa_csr.public_bytes(Encoding.DER), wrong_curve, good[:-10], b"\x30" * 9000):
        with pytest.raises(BadInput):
            authority.sign_sentry(SENTRY, bad, clock.now_ms())


def test_who_is_refused(authority: Authority, clock: ManualClock, tmp_path: Path) -> None:
    """No certificate, nonsense, another farm's, a server's, an authority's, an expired one, one of tomorrow: each its own fault."""
    now_ms = clock.now_ms()
    other = ca.create(tmp_path / "other", "Südfarm", str(uuid4()), now_ms)
    foreign = other.sign_sentry(SENTRY, Machine().csr(), now_ms).chain_pem
    good = authority.sign_sentry(SENTRY, Machine().csr(), now_ms).chain_pem
    server = authority.server_identity([], now_ms).chain_pem
    intermediate = good[good.index(b"-----BEGIN", 10) :]
    cases: list[tuple[bytes, int, type[Fault], str]] = [
        (b"", now_ms, NoCertificate, "no certificate was shown"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", now_ms, NoCertificate, "not a certificate"),
        (b"\x00\x01", now_ms, NoCertificate, "not a certificate"),
        (foreign, now_ms, UnknownAuthority, "another authority .*Südfarm"),
        (authority.roots_pem, now_ms, UnknownAuthority, "another authority"),
        (intermediate, now_ms, UnknownAuthority, "another authority"),
        (server, now_ms, WrongIdentity, "not for a sentry"),
        (good, now_ms + 7 * DAY_MS, CertificateExpired, "expired on"),
        (good, now_ms - DAY_MS, CertificateExpired, "not valid before"),
    ]
    for certificate, at_ms, fault, words in cases:
        with pytest.raises(fault, match=words):
            authority.verify_sentry(certificate, at_ms)
    leaf, refusal = authority.recognise(good, now_ms + 60 * DAY_MS)
    assert leaf.sentry_id == SENTRY
    assert isinstance(refusal, CertificateExpired)


def test_another_farm_under_our_key(authority: Authority, home: Path, clock: ManualClock) -> None:
    """Signed by our intermediate is not enough: the name must be of this farm, and a sentry's."""
    now_ms = clock.now_ms()
    for name in (
        "spiffe://elsewhere/sentry/" + SENTRY,
        f"spiffe://{authority.farm_id}/sentry/../admin",
        f"spiffe://{authority.farm_id}/x",
    ):
        issuer_key = ca._key(home / "ca" / "intermediate.key")
        issuer = x509.load_pem_x509_certificate((home / "ca" / "intermediate.pem").read_bytes())
        made = certificates.make_sentry(Machine().key.public_key(), name, issuer, issuer_key, now_ms, DAY_MS)
        with pytest.raises(WrongIdentity, match="does not name a sentry"):
            authority.verify_sentry(certificates.pem(made), now_ms)


def test_mutual_tls(tmp_path: Path) -> None:
    """OpenSSL on both ends takes our chains: TLS 1.3, the pin finds the root in what the server shows."""
    now_ms = SystemClock().now_ms()
    real = ca.create(tmp_path / "real", "Nordfarm", str(uuid4()), now_ms)
    server = real.server_identity(["192.168.7.7", "[fd00::7]", "Commander.lan", "0.0.0.0"], now_ms)
    assert set(server.names) == {SERVER_NAME, "localhost", "127.0.0.1", "::1", "192.168.7.7", "fd00::7", "commander.lan"}
    machine = Machine()
    signed = real.sign_sentry(SENTRY, machine.csr(), now_ms)
    files = {
        "server.pem": server.key_pem + server.chain_pem,
        "client.pem": machine.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.chain_pem,
        "roots.pem": real.roots_pem,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "roots.pem"))
    listening.load_cert_chain(tmp_path / "server.pem")
    listening.verify_mode = ssl.CERT_REQUIRED
    listening.minimum_version = ssl.TLSVersion.TLSv1_3
    calling = ssl.create_default_context(cafile=str(tmp_path / "roots.pem"))
    calling.load_cert_chain(tmp_path / "client.pem")
    seen: list[bytes] = []

    def answer(door: socket.socket) -> None:
        raw, _ = door.accept()
        with listening.wrap_socket(raw, server_side=True) as stream:
            seen.append(stream.getpeercert(binary_form=True) or b"")
            stream.sendall(b"ok")

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=answer, args=(door,))
        thread.start()
        with (
            socket.create_connection(door.getsockname(), timeout=20) as raw,
            calling.wrap_socket(raw, server_hostname=SERVER_NAME) as s,
        ):
            assert s.recv(2) == b"ok"
            assert s.version() == "TLSv1.3"
        thread.join(20)
    assert real.verify_sentry(seen[0], now_ms).sentry_id == SENTRY
    shown = x509.load_pem_x509_certificates(server.chain_pem)
    assert real.pin in {pin_of(one.public_bytes(Encoding.DER)) for one in shown}


def test_server_certificate_renews_itself(home: Path, authority: Authority, clock: ManualClock) -> None:
    """Kept while it is good, across restarts; made anew for new names, and a month before it ends."""
    first = authority.server_identity(["10.0.0.1"], clock.now_ms())
    assert Authority.open(home / "ca").server_identity(["10.0.0.1"], clock.now_ms()) == first
    second = authority.server_identity(["10.0.0.2"], clock.now_ms())
    assert "10.0.0.2" in second.names
    clock.advance(59 * 86_400)
    assert authority.server_identity(["10.0.0.2"], clock.now_ms()) == second
    clock.advance(2 * 86_400)
    assert authority.server_identity(["10.0.0.2"], clock.now_ms()).not_after_ms > second.not_after_ms
    assert "xn--mller-kva.lan" in authority.server_identity(["Müller.lan"], clock.now_ms()).names
    with pytest.raises(BadInput, match="cannot stand in a certificate"):
        authority.server_identity(["ü" * 300], clock.now_ms())


def test_root_away(home: Path, authority: Authority, clock: ManualClock, tmp_path: Path) -> None:
    """The root's key goes to a stick; the farm works on, says in time that it needs it back, and stops at the end."""
    stick = tmp_path / "stick" / "root.key"
    stick.parent.mkdir()
    authority.export_root(stick)
    assert not authority.root_key_here
    assert stick.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="moved away"):
        authority.export_root(tmp_path / "again")
    authority = Authority.open(home / "ca")
    authority.sign_sentry(SENTRY, Machine().csr(), clock.now_ms())
    assert authority.tend(clock.now_ms()) == []
    clock.advance(300 * 86_400)
    (warning,) = authority.tend(clock.now_ms())
    assert "put root.key back" in warning
    clock.advance(64 * 86_400)
    short = authority.sign_sentry(SENTRY, Machine().csr(), clock.now_ms())
    assert short.leaf.not_after_ms == authority.until_ms
    clock.advance(86_400)
    with pytest.raises(Unavailable, match="online CA has expired"):
        authority.sign_sentry(SENTRY, Machine().csr(), clock.now_ms())
    keyfile.write(home / "ca" / "root.key", stick.read_bytes())
    assert authority.tend(clock.now_ms()) == []
    authority.sign_sentry(SENTRY, Machine().csr(), clock.now_ms())


def test_intermediate_renewed(home: Path, authority: Authority, clock: ManualClock) -> None:
    """Certificates of the intermediate before stay good, and are recognised for ever; the pin does not change."""
    pin = authority.pin
    clock.advance(300 * 86_400)
    old = authority.sign_sentry(SENTRY, Machine().csr(), clock.now_ms()).chain_pem
    before = authority.server_identity([], clock.now_ms())
    assert authority.tend(clock.now_ms()) == []
    assert authority.tend(clock.now_ms()) == []
    for one in (authority, Authority.open(home / "ca")):
        assert one.verify_sentry(old, clock.now_ms()).sentry_id == SENTRY
        assert one.pin == pin
        assert one.until_ms - clock.now_ms() == 365 * DAY_MS
        assert one.server_identity([], clock.now_ms()) != before


def test_renewal_cut_short(home: Path, authority: Authority, clock: ManualClock) -> None:
    """Killed at any point of the renewal, the CA opens again with a key that fits."""
    folder = home / "ca"
    clock.advance(300 * 86_400)
    old_key, old_chain = (folder / "intermediate.key").read_bytes(), (folder / "intermediate.pem").read_bytes()
    authority.tend(clock.now_ms())
    new_key, new_chain = (folder / "intermediate.key").read_bytes(), (folder / "intermediate.pem").read_bytes()
    for chain, key in ((old_chain, old_key), (new_chain, old_key)):
        keyfile.write(folder / "intermediate.key.next", new_key, replace=True)
        keyfile.write(folder / "intermediate.key", key, replace=True)
        keyfile.write(folder / "intermediate.pem", chain, replace=True)
        opened = Authority.open(folder)
        opened.verify_sentry(opened.sign_sentry(SENTRY, Machine().csr(), clock.now_ms()).chain_pem, clock.now_ms())


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps access lists, not modes")
@pytest.mark.parametrize("name", ["intermediate.key", "root.key"])
def test_key_that_others_may_read(home: Path, authority: Authority, name: str) -> None:
    """The commander does not run with it, and says what to do."""
    (home / "ca" / name).chmod(0o640)
    with pytest.raises(BadInput, match=rf"{name} can be read by others \(mode 0640\) \(chmod 600"):
        Authority.open(home / "ca")


def copied(name: str, over: str) -> Callable[[Path], object]:
    return lambda folder: (folder / over).write_bytes((folder / name).read_bytes())


def written(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def a_folder(folder: Path) -> None:
    (folder / "intermediate.key").unlink()
    (folder / "intermediate.key").mkdir()


@pytest.mark.parametrize(
    ("spoil", "fault", "words"),
    [
        (lambda folder: (folder / "intermediate.key").unlink(), NotFound, "intermediate.key is missing"),
        (lambda folder: (folder / "root.pem").unlink(), NotFound, "commander init"),
        (written("intermediate.key", b""), Broken, "empty"),
        (written("intermediate.key", b"x"), Broken, "not a private key"),
        (written("root.pem", b"x"), Broken, "holds no certificate"),
        (copied("root.key", "intermediate.key"), Broken, "does not belong"),
        (copied("intermediate.pem", "root.pem"), Broken, "not signed by root.pem"),
        (a_folder, Unavailable, "cannot read"),
    ],
)
def test_damaged(home: Path, authority: Authority, spoil: Callable[[Path], object], fault: type[Fault], words: str) -> None:
    """A missing, empty, foreign or unreadable file is named, with what to do."""
    spoil(home / "ca")
    with pytest.raises(fault, match=words):
        Authority.open(home / "ca")


def test_init_never_overwrites(home: Path, authority: Authority, clock: ManualClock) -> None:
    """A second init changes nothing; one that was killed before its end can be run again."""
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(Conflict, match="there is a farm"):
        init_farm(home, "other", "", clock.now_ms())
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    for path in home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    (home / "ca").rename(home / "ca.new")
    assert init_farm(home, "again", "", clock.now_ms()).setup_link == ""
    with pytest.raises(BadInput):
        init_farm(home.parent / "third", "a/b", "", clock.now_ms())
