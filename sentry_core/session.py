"""The stream to the commander: held open, opened again, and what is said on it.

`Session.run` never ends by itself. `Conversation` (conversation.py) is one stream from Hello to its end; this file is
what comes between two of them: when to try again, which identity, and why it did not work, in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from garrison import keyfile, wire
from garrison.clock import Clock
from garrison.faults import (
    CertificateExpired,
    Conflict,
    Fault,
    IdentityRefused,
    Unavailable,
    Unreachable,
    VersionMismatch,
)
from garrison.model import Assignment, Order
from sentry_core import identity as identities
from sentry_core.conversation import About, Conversation, Dismissed
from sentry_core.identity import Identity
from sentry_core.journal import Frame, Journal
from sentry_core.roster import Roster

log = logging.getLogger(__name__)

WINDOW_S = 20.0
LONGEST_S = 60.0
_REFUSED_S = 30.0
_RENEW_CHECK_S = 30.0
_LONG_MS = 10_000


def next_wait_s(failures: int, window_s: float, share: float) -> float:
    """How long to wait before the next try. `failures`: tries since the last session; `share`: random, 0 to 1.

    The first try comes at once, then each somewhere in the window, which doubles from the third failure on.
    """
    if failures == 0:
        return 0.0
    return share * min(LONGEST_S, window_s * 2.0 ** min(max(0, failures - 2), 10))


@dataclass(slots=True)
class Standing:
    """How the session stands, for `status`."""

    state: str = "starting"  # "connected", "waiting", "refused"
    since_ms: int = 0
    farm: str = ""
    fault: str = ""
    text: str = ""


class Session:
    """`take_order`, `cancel_order` and `take_assignment` are called in the loop and must return at once."""

    def __init__(
        self,
        state_dir: Path,
        identity: Identity,
        about: About,
        journal: Journal,
        clock: Clock,
        *,
        take_order: Callable[[Order], None],
        cancel_order: Callable[[str], None],
        take_assignment: Callable[[Assignment], None],
        address: str = "",
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._folder = state_dir / "identity"
        self._standing_file = state_dir / "status.json"
        self._identity = replace(identity, post_address=address) if address else identity
        self._address = address
        self._about = about
        self._journal = journal
        self._clock = clock
        self._take_order = take_order
        self._cancel_order = cancel_order
        self._take_assignment = take_assignment
        self._chance = chance
        self._window_s = WINDOW_S
        self._conversation: Conversation | None = None
        self._renewing = asyncio.Lock()
        self._was_open = False
        self._opened_at_ms = 0
        self.roster = Roster()
        self.standing = Standing(since_ms=clock.now_ms())
        journal.on_frame = self._on_frame
        journal.on_records = self._on_records
        journal.on_new_boot = self._on_new_boot

    async def run(self) -> None:
        """Until cancelled."""
        self._leave_word()  # what the last process wrote is no longer so
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_certificate(), name="certificate")
            tasks.create_task(self._keep_stream(), name="stream")

    def tell_roster(self) -> None:
        if self._conversation is not None:
            self._conversation.wake()

    # ---- between two streams -------------------------------------------------------------------------------

    async def _keep_stream(self) -> None:
        failures, met = 0, False
        while True:
            await self._clock.sleep(next_wait_s(failures, self._window_s, self._chance()))
            try:
                met = await self._converse() or met
            except Dismissed as dismissed:
                failures = 0
                self._stand("waiting", Unavailable(f"the commander asks us to come back: {dismissed.text}"))
                await self._clock.sleep(dismissed.come_back_s + self._chance() * self._window_s / 4)
                continue
            except Fault as fault:
                failures = (0 if self._held_long() else 1) if self._was_open else failures + 1
                reason = fault
                if isinstance(fault, Unreachable) and not self._was_open and (failures > 1 or not met):
                    reason = await identities.diagnose(self._folder, self._identity, self._clock)
                failures = await self._handle(reason, failures)

    async def _converse(self) -> bool:
        self._was_open = False
        conversation = Conversation(self._identity, self._about, self._journal, self.roster, self._clock)
        try:
            async with conversation.opened() as welcome:
                self._was_open = True
                self._opened_at_ms = self._clock.monotonic_ms()
                self._window_s = welcome.reconnect_window_ms / 1000
                self._conversation = conversation
                self._stand("connected", None, welcome.farm)
                await conversation.hold(self._take_order, self._cancel_order, self._take_assignment)
        finally:
            self._conversation = None
        return True

    def _held_long(self) -> bool:
        """A session that ends soon after it opened is no reason to be back at once: it would go round and round."""
        return self._clock.monotonic_ms() - self._opened_at_ms >= _LONG_MS

    async def _handle(self, fault: Fault, failures: int) -> int:
        """Says why, does what can be done about it. Returns how many failures that makes."""
        refused = isinstance(fault, IdentityRefused | Conflict | VersionMismatch)
        self._stand("refused" if refused else "waiting", fault)
        if isinstance(fault, CertificateExpired) and await self._recover():
            return 0
        if refused:
            await self._clock.sleep(_REFUSED_S * (0.5 + self._chance()))
        return max(1, failures) if refused else failures

    # ---- the certificate -----------------------------------------------------------------------------------

    async def _keep_certificate(self) -> None:
        """Renews at half life. A failure is tried again: there is the other half for it."""
        while True:
            now_ms = self._clock.now_ms()
            if self._identity.renew_at_ms <= now_ms < self._identity.not_after_ms:
                from sentry_core import enrolment  # 9 MB that a running sentry needs for this alone

                try:
                    async with self._renewing:
                        self._use(await enrolment.renew(self._folder, self._identity))
                    log.info("certificate renewed", extra={"until_ms": self._identity.not_after_ms})
                except Fault as fault:
                    log.warning("the certificate could not be renewed", extra={"fault": fault.code, "text": str(fault)})
            await self._clock.sleep(_RENEW_CHECK_S * (0.5 + self._chance()))

    async def _recover(self) -> bool:
        """A new certificate for the key that the commander knows. True when we have it."""

        def pending(fingerprint: str) -> None:
            log.warning("the commander wants a person to approve this sentry again", extra={"fingerprint": fingerprint})

        from sentry_core import enrolment  # 9 MB that a running sentry needs for this alone

        try:
            async with self._renewing:
                self._use(await enrolment.recover(self._folder, self._identity, self._clock, on_pending=pending))
        except Fault as fault:
            log.warning("the expired certificate could not be replaced", extra={"fault": fault.code, "text": str(fault)})
            return False
        log.info("the expired certificate is replaced", extra={"until_ms": self._identity.not_after_ms})
        return True

    def _use(self, fresh: Identity) -> None:
        self._identity = replace(fresh, post_address=self._address) if self._address else fresh

    # ---- from the journal, in the loop ---------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        if self._conversation is not None:
            self._conversation.offer(frame)

    def _on_records(self) -> None:
        if self._conversation is not None:
            self._conversation.wake()

    def _on_new_boot(self) -> None:
        if self._conversation is not None:
            self._conversation.end(Unavailable("the journal began anew: the session must begin anew"))

    def _stand(self, state: str, fault: Fault | None, farm: str = "") -> None:
        """Logged once a change, and left in a file for `status`."""
        told = (self.standing.state, self.standing.fault, self.standing.text)
        fresh = Standing(
            state, self._clock.now_ms(), farm or self.standing.farm, fault.code if fault else "", str(fault) if fault else ""
        )
        if told == (fresh.state, fresh.fault, fresh.text):
            return
        self.standing = fresh
        extra = {"commander": self._identity.post_address}
        if fault is None:
            log.info("session open", extra={**extra, "farm": farm})
        else:
            log.warning("no session", extra={**extra, "fault": fault.code, "text": str(fault)})
        self._leave_word()

    def _leave_word(self) -> None:
        now = self.standing
        shown = {
            "state": now.state,
            "since_ms": now.since_ms,
            "farm": now.farm,
            "fault": now.fault,
            "text": now.text,
            "commander": self._identity.post_address,
            "sentry": self._identity.sentry_id,
            "protocol": wire.PROTOCOL_MAX,
        }
        with contextlib.suppress(Fault):  # only for `status`; the log has it
            keyfile.write(self._standing_file, json.dumps(shown).encode())
