"""The enrolment port: server TLS only, open to whoever reaches it, so each call proves itself and all are few."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from commander.link.ports import Access, Issued, Pending
from commander.link.refusal import Context, address_of, host_of, refuse
from garrison import wire
from garrison.clock import Clock
from garrison.faults import Fault, Unavailable
from garrison.v1 import enrolment_pb2 as pb
from garrison.v1.enrolment_pb2_grpc import EnrolmentServicer

log = logging.getLogger(__name__)

_PER_SECOND = 20.0
_BURST = 200.0
_REMEMBERED = 10_000


@dataclass(slots=True)
class Allowance:
    """Calls a second from one host, and from all together ten times as many. A farm behind one address may enrol at once."""

    clock: Clock
    _left: dict[str, tuple[float, int]] = field(default_factory=dict)

    def take(self, host: str) -> bool:
        return self._take("", 10.0) and self._take(host, 1.0)

    def _take(self, host: str, share: float) -> bool:
        now_ms = self.clock.monotonic_ms()
        left, before_ms = self._left.get(host, (_BURST * share, now_ms))
        left = min(_BURST * share, left + (now_ms - before_ms) / 1000 * _PER_SECOND * share)
        if len(self._left) >= _REMEMBERED and host not in self._left:
            everyone = self._left.get("", (0.0, now_ms))
            self._left = {"": everyone}  # who was refused starts again; the sum over all still holds
        self._left[host] = (left - 1, now_ms) if left >= 1 else (left, now_ms)
        return left >= 1


class Enrolment(EnrolmentServicer):
    """`post_address`: what a certificate's owner should dial; an empty host means "where you found me"."""

    def __init__(self, access: Access, clock: Clock, post_address: str) -> None:
        self._access = access
        self._allowance = Allowance(clock)
        self._post_address = post_address

    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.EnrolReply:  # noqa: N802  # the proto's name
        r = request
        return await self._answered(
            request,
            context,
            lambda: self._access.enrol(r.token_id, r.token_secret, r.kind, r.csr_der, dict(r.facts), address_of(context)),
        )

    async def Recover(self, request: pb.RecoverRequest, context: Context) -> pb.EnrolReply:  # noqa: N802  # the proto's name
        r = request
        return await self._answered(
            request,
            context,
            lambda: self._access.recover(r.certificate_der, r.csr_der, r.at_ms, r.signature, address_of(context)),
        )

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainReply:  # noqa: N802  # the proto's name
        await self._admit(context)
        code, text = self._access.explain(request.certificate_der[:16_384])
        if code != "ok":
            log.warning("a sentry was refused", extra={"address": address_of(context), "fault": code, "text": text})
        return pb.ExplainReply(code=code, text=text)

    async def _answered(
        self, request: pb.EnrolRequest | pb.RecoverRequest, context: Context, ask: Callable[[], Awaitable[Issued | Pending]]
    ) -> pb.EnrolReply:
        await self._admit(context)
        try:
            wire.checked(request)
            answer = await ask()
        except Fault as fault:
            await refuse(context, fault)
        if isinstance(answer, Issued):
            return pb.EnrolReply(certificate=certificate_to(answer, self._post_address))
        return pb.EnrolReply(pending=pb.Pending(fingerprint=answer.fingerprint, ask_again_s=answer.ask_again_s))

    async def _admit(self, context: Context) -> None:
        if not self._allowance.take(host_of(context)):
            await refuse(context, Unavailable("too many calls to the enrolment port", hint="try again in a minute"))


def certificate_to(issued: Issued, post_address: str) -> pb.Certificate:
    return pb.Certificate(
        sentry_id=issued.sentry_id,
        certificate_pem=issued.certificate_pem,
        farm_roots_pem=issued.farm_roots_pem,
        not_after_ms=issued.not_after_ms,
        post_address=post_address,
    )
