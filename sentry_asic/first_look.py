"""What a device says of itself before it is asked as one make or another: `version` on port 4028, or its page where that is shut.

Whoever it names is asked first. So a gentle device hears two questions, and not one of each make that stands before its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from garrison.faults import BadAnswer, Fault, TimedOut, Unreachable
from sentry_asic.cgminer import PORT, NoReply, ask
from sentry_asic.make import Place
from sentry_core.http import HttpClient

HTTP_PORT = 80
_ANSWER_S = 3
_MOST = 65_536


@dataclass(frozen=True, slots=True)
class FirstLook:
    """`text`: what it said, in small letters. `silent`: of "api" and "web", where nothing answers. `fault`: of the silence."""

    text: str
    silent: frozenset[str] = frozenset()
    fault: Fault | None = None


async def first_look(place: Place) -> FirstLook:
    """Never fails; takes two limits at most."""
    try:
        answer = await ask(place.host, "version", port=place.api_port or PORT, total_s=_ANSWER_S)
        return FirstLook(msgspec.json.encode(answer.value).decode()[:_MOST].lower())
    except BadAnswer as fault:  # it speaks something else there
        return FirstLook(fault.text.lower())
    except NoReply:
        return FirstLook("")
    except Unreachable as fault:
        first = fault
    http = HttpClient(place.host, place.http_port or HTTP_PORT, total_s=_ANSWER_S)
    try:
        page = await http.request("GET", "/")
    except BadAnswer:
        return FirstLook("", frozenset({"api"}), first)
    except Unreachable as fault:
        # "connected, then silence" says more than "refused", whichever came first
        worst = first if isinstance(first, TimedOut) else fault
        return FirstLook("", frozenset({"api", "web"}), worst)
    finally:
        await http.close()
    asked_for = page.headers.get("www-authenticate", "")
    return FirstLook(f"{asked_for} {page.body[:_MOST].decode('utf-8', 'replace')}".lower(), frozenset({"api"}), first)
