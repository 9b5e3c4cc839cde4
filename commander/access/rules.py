"""What access decides about certificates that expired. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from commander.access.records import Issue

RECOVERIES = 3
RECOVERIES_WITHIN_MS = 30 * 86_400_000
REPLY_LOST_MS = 3_600_000
ASK_AGAIN_S = 10


def judge_recovery(issued: Sequence[Issue], old_key: bytes, new_key: bytes, now_ms: int) -> str:
    """ "recover"; "again" for a reply that was lost; or why a person has to approve. `issued`: of the sentry, newest first.

    The key must be the sentry's newest or the one before: the reply that carried the newest may have been lost. An older
    key means an old copy of its disk.
    """
    keys = list(dict.fromkeys(one.key_hash for one in issued))
    if old_key not in keys[:2]:
        return "the key is not its newest: an old copy of its disk"
    recent = [one for one in issued if one.how == "recover" and now_ms - one.issued_ms < RECOVERIES_WITHIN_MS]
    if any(one.key_hash == new_key and now_ms - one.issued_ms < REPLY_LOST_MS for one in recent):
        return "again"
    return "recover" if len(recent) < RECOVERIES else f"its certificate expired {RECOVERIES} times in 30 days"
