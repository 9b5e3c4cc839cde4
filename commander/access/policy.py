"""What each role may do, as two tables of data. What no row names is denied.

Pure: asked by the HTTP app for every route and by the link for every gRPC method. A test in tests/commander/api
compares both tables with the routes and the descriptors, both ways.
"""

from __future__ import annotations

from enum import IntEnum

from commander.model import Caller
from garrison.faults import BadInput


class Role(IntEnum):
    """Each role may do what the ones below it may. ANYONE needs no login: setup, health, the API's own description."""

    ANYONE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMINISTRATOR = 3

    @property
    def word(self) -> str:
        return self.name.lower()


ROLE_WORDS: tuple[str, ...] = tuple(role.word for role in Role if role is not Role.ANYONE)
"""What a person or token can be."""


HTTP: dict[tuple[str, str], Role] = {
    # api
    ("GET", "/api/openapi.json"): Role.ANYONE,
    ("GET", "/setup"): Role.ANYONE,
    ("GET", "/api/v1/status"): Role.VIEWER,
    ("POST", "/api/v1/backup"): Role.ADMINISTRATOR,
    ("POST", "/api/v1/setup"): Role.ANYONE,
    # access: people
    ("GET", "/api/v1/me"): Role.VIEWER,
    ("GET", "/api/v1/tokens"): Role.ADMINISTRATOR,
    ("POST", "/api/v1/tokens"): Role.ADMINISTRATOR,
    ("DELETE", "/api/v1/tokens/{token_id}"): Role.ADMINISTRATOR,
    ("POST", "/api/v1/setup/link"): Role.ADMINISTRATOR,
    ("GET", "/api/v1/audit"): Role.ADMINISTRATOR,
    ("GET", "/api/v1/ca"): Role.VIEWER,
    # access: sentries joining and leaving
    ("GET", "/api/v1/sentries/tokens"): Role.ADMINISTRATOR,
    ("POST", "/api/v1/sentries/tokens"): Role.ADMINISTRATOR,
    ("DELETE", "/api/v1/sentries/tokens/{token_id}"): Role.ADMINISTRATOR,
    ("GET", "/api/v1/sentries/pending"): Role.VIEWER,
    ("POST", "/api/v1/sentries/{sentry}/approve"): Role.ADMINISTRATOR,
    ("POST", "/api/v1/sentries/{sentry}/revoke"): Role.ADMINISTRATOR,
    # fleet
    ("GET", "/api/v1/sentries"): Role.VIEWER,
    ("GET", "/api/v1/sentries/{sentry}"): Role.VIEWER,
    ("PATCH", "/api/v1/sentries/{sentry}"): Role.OPERATOR,
    ("GET", "/api/v1/devices"): Role.VIEWER,
    ("POST", "/api/v1/devices"): Role.OPERATOR,
    ("GET", "/api/v1/devices/{device}"): Role.VIEWER,
    ("PATCH", "/api/v1/devices/{device}"): Role.OPERATOR,
    ("DELETE", "/api/v1/devices/{device}"): Role.OPERATOR,
    ("GET", "/api/v1/found"): Role.VIEWER,
    ("POST", "/api/v1/found/adopt"): Role.OPERATOR,
    ("POST", "/api/v1/found/dismiss"): Role.OPERATOR,
    ("GET", "/api/v1/inventory"): Role.VIEWER,
    ("POST", "/api/v1/inventory"): Role.OPERATOR,
    ("GET", "/api/v1/relays"): Role.VIEWER,
    ("POST", "/api/v1/relays"): Role.OPERATOR,
    ("GET", "/api/v1/relays/{board}"): Role.VIEWER,
    ("DELETE", "/api/v1/relays/{board}"): Role.OPERATOR,
    ("POST", "/api/v1/relays/{board}/outlets/{outlet}"): Role.OPERATOR,
    ("DELETE", "/api/v1/relays/{board}/outlets/{outlet}"): Role.OPERATOR,
    ("GET", "/api/v1/events"): Role.VIEWER,
    # actions
    ("GET", "/api/v1/actions"): Role.VIEWER,
    ("POST", "/api/v1/actions"): Role.OPERATOR,
    ("GET", "/api/v1/actions/{action_id}"): Role.VIEWER,
    ("GET", "/api/v1/actions/{action_id}/wait"): Role.VIEWER,
    ("POST", "/api/v1/actions/{action_id}/cancel"): Role.OPERATOR,
    # flight sheets
    ("GET", "/api/v1/sheets"): Role.VIEWER,
    ("POST", "/api/v1/sheets"): Role.OPERATOR,
    ("GET", "/api/v1/sheets/{sheet}"): Role.VIEWER,
    ("PUT", "/api/v1/sheets/{sheet}"): Role.OPERATOR,
    ("DELETE", "/api/v1/sheets/{sheet}"): Role.OPERATOR,
    ("POST", "/api/v1/sheets/{sheet}/apply"): Role.OPERATOR,
    ("GET", "/api/v1/drift"): Role.VIEWER,
    ("GET", "/api/v1/programs"): Role.VIEWER,
    ("POST", "/api/v1/programs"): Role.ADMINISTRATOR,
    ("DELETE", "/api/v1/programs/{program}/{version}"): Role.ADMINISTRATOR,
    # power
    ("GET", "/api/v1/power/check"): Role.VIEWER,
    ("POST", "/api/v1/power/{verb}"): Role.OPERATOR,
    # telemetry
    ("GET", "/api/v1/devices/{device}/history"): Role.VIEWER,
    ("GET", "/api/v1/devices/{device}/series"): Role.VIEWER,
    ("GET", "/api/v1/devices/{device}/energy"): Role.VIEWER,
    ("GET", "/api/v1/latest"): Role.VIEWER,
    ("GET", "/api/v1/top"): Role.VIEWER,
    ("GET", "/api/v1/history/aggregate"): Role.VIEWER,
    ("GET", "/api/v1/history/energy"): Role.VIEWER,
    ("GET", "/api/v1/history/usage"): Role.VIEWER,
    ("GET", "/api/v1/history/plan"): Role.VIEWER,
    ("GET", "/api/v1/history/set-aside"): Role.VIEWER,
    ("POST", "/api/v1/history/tidy"): Role.ADMINISTRATOR,
    ("POST", "/api/v1/history/verify"): Role.OPERATOR,
    ("POST", "/api/v1/history/repair"): Role.ADMINISTRATOR,
    # the commander about itself
    ("GET", "/metrics"): Role.VIEWER,
}
"""(method, path template as FastAPI spells it) to the least role that may."""


ANYBODY = "anybody"
"""Open to whoever reaches the enrolment port: each call proves itself by a token or a signature."""

SENTRY = "sentry"
"""A certificate of this farm, neither expired nor revoked."""

GRPC: dict[str, str] = {
    "/garrison.v1.Enrolment/Enrol": ANYBODY,
    "/garrison.v1.Enrolment/Recover": ANYBODY,
    "/garrison.v1.Enrolment/Explain": ANYBODY,
    "/garrison.v1.Post/Session": SENTRY,
    "/garrison.v1.Post/Renew": SENTRY,
}
"""Full method name to ANYBODY or SENTRY."""


def role_named(word: str) -> Role:
    """The role of a token or person. BadInput for any other word."""
    if word not in ROLE_WORDS:
        raise BadInput(f"no role {word!r}", hint=f"one of {', '.join(ROLE_WORDS)}")
    return Role[word.upper()]


def allowed(caller: Caller | None, method: str, path_template: str) -> bool:
    """Whether the caller (None: nobody logged in) may. HEAD is read as GET."""
    needed = HTTP.get(("GET" if method == "HEAD" else method, path_template))
    if needed is None:
        return False
    if needed is Role.ANYONE:
        return True
    return caller is not None and caller.role in ROLE_WORDS and Role[caller.role.upper()] >= needed


def grpc_allowed(method: str, *, identified: bool) -> bool:
    """Whether a peer may call the gRPC method. `identified`: it showed a certificate that `Access.identify` took."""
    needed = GRPC.get(method)
    return needed == ANYBODY or (needed == SENTRY and identified)
