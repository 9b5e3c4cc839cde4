"""Every error that crosses a boundary, one to one with the codes on the wire.

Fault
├── BadInput              bad_input            what a person or file gave makes no sense
│   ├── BadFrame          bad_frame            a frame that lies about itself
│   └── BadAnswer         bad_answer           a device answered, but not what it should
│       └── DidNotSwitch  did_not_switch       a relay took the command, and its read-back says it did not switch
├── Refused               refused              understood, and will not
│   ├── NotAllowed        not_allowed          no right, or no policy names it
│   ├── GuardRefused      guard_refused        the guard file on the sentry forbids it
│   ├── RuleRefused       rule_refused         a safety rule (power, interval, interlock)
│   ├── WrongPassword     wrong_password       a device refused our credentials
│   ├── NotSupported      not_supported        this device or program cannot do it
│   └── Conflict          conflict             it is in another state than the order needs
├── IdentityRefused       identity_refused     who are you
│   ├── NoCertificate     no_certificate
│   ├── UnknownAuthority  unknown_authority    signed by another farm's CA
│   ├── CertificateExpired certificate_expired
│   ├── CertificateRevoked certificate_revoked
│   ├── WrongIdentity     wrong_identity       another sentry's certificate
│   └── TokenRefused      token_refused        unknown, used up or expired join token
├── NotFound              not_found
├── Unreachable           unreachable          no answer from the other machine
│   └── TimedOut          timed_out            connected, then silence
├── Unavailable           unavailable          ours, and will pass: retry later
│   └── DiskFull          disk_full
├── VersionMismatch       version_mismatch     database or protocol newer than this program
└── Broken                broken               our own data is damaged
"""

from __future__ import annotations

from typing import ClassVar


class Fault(Exception):
    """What was wrong, where, and what to do, in words for a person."""

    code: ClassVar[str] = "fault"

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.text} ({self.hint})" if self.hint else self.text


class BadInput(Fault):
    code = "bad_input"


class BadFrame(BadInput):
    code = "bad_frame"


class BadAnswer(BadInput):
    code = "bad_answer"


class DidNotSwitch(BadAnswer):
    code = "did_not_switch"


class Refused(Fault):
    code = "refused"


class NotAllowed(Refused):
    code = "not_allowed"


class GuardRefused(Refused):
    code = "guard_refused"


class RuleRefused(Refused):
    code = "rule_refused"


class WrongPassword(Refused):
    code = "wrong_password"


class NotSupported(Refused):
    code = "not_supported"


class Conflict(Refused):
    code = "conflict"


class IdentityRefused(Fault):
    code = "identity_refused"


class NoCertificate(IdentityRefused):
    code = "no_certificate"


class UnknownAuthority(IdentityRefused):
    code = "unknown_authority"


class CertificateExpired(IdentityRefused):
    code = "certificate_expired"


class CertificateRevoked(IdentityRefused):
    code = "certificate_revoked"


class WrongIdentity(IdentityRefused):
    code = "wrong_identity"


class TokenRefused(IdentityRefused):
    code = "token_refused"


class NotFound(Fault):
    code = "not_found"


class Unreachable(Fault):
    code = "unreachable"


class TimedOut(Unreachable):
    code = "timed_out"


class Unavailable(Fault):
    code = "unavailable"


class DiskFull(Unavailable):
    code = "disk_full"


class VersionMismatch(Fault):
    code = "version_mismatch"


class Broken(Fault):
    code = "broken"


def _tree(top: type[Fault]) -> dict[str, type[Fault]]:
    found = {top.code: top}
    for child in top.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE: dict[str, type[Fault]] = _tree(Fault)
"""Wire code to class."""


def from_wire(code: str, text: str) -> Fault:
    """The fault a peer sent. An unknown code (a newer peer) keeps its name in the text."""
    known = BY_CODE.get(code)
    return known(text) if known else Fault(f"{code}: {text}")
