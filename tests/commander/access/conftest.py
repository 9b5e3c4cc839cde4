"""A farm of our own: a real CA on disk, a real database, a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from commander.access import store
from commander.access.ca import Authority
from commander.access.secrets import Secrets
from commander.access.service import Access
from commander.access.setup import InitResult, init_farm
from commander.db import Database, Migration
from commander.fleet import found_store, many
from commander.fleet import store as fleet_store
from commander.fleet.service import Fleet
from commander.model import Caller
from garrison.clock import ManualClock
from garrison.join import recovery_message

MIGRATIONS = (
    Migration(1, "fleet", fleet_store.create_tables),
    Migration(2, "access", store.create_tables),
    Migration(3, "events about many", many.create_table),
    Migration(4, "found devices", found_store.create_table),
    Migration(5, "notes of devices", fleet_store.add_notes),
)
ADMIN = Caller("ada", "administrator", "10.0.0.2")
DAY_S = 86_400


@dataclass
class Machine:
    """A sentry's side: a key, its requests, its signatures."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def csr(self, name: str = "root of all farms") -> bytes:
        return request_for(self.key, name)

    def recovery(self, csr: bytes, at_ms: int) -> bytes:
        return self.key.sign(recovery_message(at_ms, csr), ec.ECDSA(hashes.SHA256()))


def request_for(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, name: str = "x") -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    wanted = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://other/sentry/me"), x509.DNSName("commander")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(wanted, critical=False)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def der_of(chain_pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(chain_pem).public_bytes(Encoding.DER)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "farm" / "commander"


@pytest.fixture
def made(home: Path, clock: ManualClock) -> InitResult:
    return init_farm(home, "Nordfarm", "http://127.0.0.1:8440", clock.now_ms())


@pytest.fixture
def authority(home: Path, made: InitResult) -> Authority:
    return Authority.open(home / "ca")


@asynccontextmanager
async def access_at(home: Path, clock: ManualClock) -> AsyncIterator[Access]:
    db = await Database.open(home / "fleet.db", MIGRATIONS)
    try:
        fleet = await Fleet.open(db, clock, Secrets.open_file(home))
        access = await Access.open(db, Authority.open(home / "ca"), fleet, clock)
        access.enrol_address = "127.0.0.1:8442"
        access.people.http_url = "http://127.0.0.1:8440"
        yield access
    finally:
        await db.close()


@pytest.fixture
async def access(home: Path, made: InitResult, clock: ManualClock) -> AsyncIterator[Access]:
    async with access_at(home, clock) as opened:
        yield opened
