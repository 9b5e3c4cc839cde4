"""The policy: what no row names is denied, for everybody."""

from __future__ import annotations

import pytest

from commander.access.policy import ANYBODY, GRPC, HTTP, SENTRY, Role, allowed, grpc_allowed, role_named
from commander.model import Caller
from garrison.faults import BadInput

ROLES = ("viewer", "operator", "administrator")


@pytest.mark.parametrize(("route", "needed"), HTTP.items())
def test_each_route_and_role(route: tuple[str, str], needed: Role) -> None:
    """Nobody, each role and a role that does not exist get exactly what the row says."""
    assert allowed(None, *route) is (needed is Role.ANYONE)
    assert allowed(Caller("x", "root"), *route) is (needed is Role.ANYONE)
    assert allowed(Caller("x", "anyone"), *route) is (needed is Role.ANYONE)
    for role in ROLES:
        assert allowed(Caller("x", role), *route) is (Role[role.upper()] >= needed)


def test_deny_by_default() -> None:
    """An unknown path, method or gRPC call is denied even to an administrator or a good certificate."""
    administrator = Caller("x", "administrator", local=True)
    assert not allowed(administrator, "GET", "/api/v1/nothing")
    assert not allowed(administrator, "TRACE", "/api/v1/sentries")
    assert allowed(administrator, "HEAD", "/api/v1/sentries")
    assert not grpc_allowed("/garrison.v1.Post/Everything", identified=True)
    assert not grpc_allowed("", identified=True)


def test_grpc() -> None:
    """Post needs a certificate that was taken; enrolment is open, as each call proves itself."""
    for method, needed in GRPC.items():
        assert needed in (ANYBODY, SENTRY)
        assert grpc_allowed(method, identified=True)
        assert grpc_allowed(method, identified=False) is (needed == ANYBODY)


def test_only_setup_is_open() -> None:
    """Whatever else becomes open to nobody-in-particular must be decided here."""
    assert {path for (_, path), role in HTTP.items() if role is Role.ANYONE} <= {
        "/api/openapi.json",
        "/setup",
        "/api/v1/setup",
        "/metrics",
        "/healthz",
    }


def test_role_names() -> None:
    """Only the three words are roles."""
    assert role_named("operator") is Role.OPERATOR
    for bad in ("anyone", "", "Administrator", "root"):
        with pytest.raises(BadInput):
            role_named(bad)
