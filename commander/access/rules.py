"""What access decides about certificates that expired. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from commander.access.records import Issue

RECOVERIES = 3
RECOVERIES_WITHIN_MS = 30 * 86_400_000
REPLY_LOST_MS = 3_600_000
ASK_AGAIN_S = 10


def judge_recovery(issued: Sequence[Issue], old_key: bytes, new_key: bytes, now_ms: int) -> str:
    """ "issue", or why a person has to approve. `issued`: the certificates of the sentry, newest first.

    The key must be the sentry's newest or the one before: the reply that carried the newest may have been lost. An older
    key means an old copy of its disk.
    """
    keys = list(dict.fromkeys(one.key_hash for one in issued))
    if old_key not in keys[:2]:
        return "the key is not its newest: an old copy of its disk"
    if issued and issued[0].how == "recover" and issued[0].key_hash == new_key and now_ms - issued[0].issued_ms < REPLY_LOST_MS:
        return "issue"  # the same request again: its reply was lost
    recent = sum(one.how == "recover" and now_ms - one.issued_ms < RECOVERIES_WITHIN_MS for one in issued)
    return "issue" if recent < RECOVERIES else f"its certificate expired {RECOVERIES} times in 30 days"
