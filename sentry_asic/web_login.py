"""Devices whose web server wants a log-in first, and then a cookie or a token with every request.

Called by the drivers of such makes. For questions a log-in is made when it is due, and kept; an answer that says that it has
ended costs one more. Each order has a log-in of its own and is sent once; only one that was not let in (401, 403) is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from garrison.faults import BadAnswer, NotSupported, Refused, Unreachable, WrongPassword
from sentry_asic.answers import Answer, excerpt, parse
from sentry_core.http import HttpAnswer, HttpClient

LOG_IN_AGAIN = frozenset({301, 302, 303, 307, 308, 401, 403})
"""HTTP's own ways of saying it."""
_COOKIE = re.compile(r"(?:^|,\s*)([A-Za-z0-9_.\-]{1,64})=([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{0,4096})")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=\-]{1,8192}")


class WebLogin:
    """`log_in` makes one and returns the headers that prove it; `ended` tells an answer that wants a new one."""

    def __init__(
        self, http: HttpClient, log_in: Callable[[], Awaitable[Mapping[str, str]]], ended: Callable[[HttpAnswer], bool]
    ) -> None:
        self._http, self._log_in, self._ended = http, log_in, ended
        self._proof: Mapping[str, str] | None = None

    async def ask(
        self, method: str, path: str, *, form: Mapping[str, str] | None = None, json: object = None, unproven: bool = False
    ) -> HttpAnswer:
        """A question. `unproven`: tried without a log-in first, for firmware that lets everybody read."""
        if unproven and self._proof is None:
            answer = await self._http.request(method, path, form=form, json=json)
            if not self._ended(answer):
                return answer
        for anew in (False, True):
            answer = await self._http.request(method, path, form=form, json=json, headers=await self._headers(anew))
            if not self._ended(answer):
                return answer
        raise self._shut_out()

    async def order(
        self, method: str, path: str, *, form: Mapping[str, str] | None = None, json: object = None
    ) -> HttpAnswer | None:
        """None: it went out and no answer came, which is how many devices do as they are told.

        Logs in for it, so that it is not the order that finds out that a log-in has ended: what else than 401 and 403 comes
        back, even the page to log in, does not prove that nothing was done.
        """
        for _ in range(2):
            headers = await self._headers(anew=True)
            try:
                answer = await self._http.request(method, path, form=form, json=json, headers=headers, replay=False)
            except Unreachable:
                if self._http.delivered:
                    return None
                raise
            if answer.status not in (401, 403):
                return answer
        raise self._shut_out()

    async def _headers(self, anew: bool) -> Mapping[str, str]:
        if anew or self._proof is None:
            self._proof = None  # also when it fails
            self._proof = await self._log_in()
        return self._proof

    def _shut_out(self) -> WrongPassword:
        self._proof = None
        return WrongPassword(f"{self._http.where} asks for a log-in again after each", hint="is somebody else logged in there?")


def told_by(where: str, path: str, answer: HttpAnswer) -> Answer:
    """The JSON of a good answer, mended where it must be. Raises BadAnswer, without the query of `path`."""
    page = path.partition("?")[0]
    if not 200 <= answer.status < 300:
        raise BadAnswer(f"{where} answers {page} with HTTP {answer.status}")
    try:
        return parse(answer.body)
    except BadAnswer as fault:
        raise BadAnswer(f"{where} {page}: {fault.text}") from None


def check_order(where: str, path: str, answer: HttpAnswer) -> None:
    """Raises NotSupported where there is no such order, Refused for every other HTTP status that is no success."""
    if answer.status in (404, 405, 501):
        raise NotSupported(f"{where} has no {path}", hint="its firmware is older or newer than this driver; use its web page")
    if not 200 <= answer.status < 300:
        raise Refused(f"{where} refuses {path} (HTTP {answer.status}): {excerpt(answer.body) or 'no reason given'}")


def cookie_header(answer: HttpAnswer) -> dict[str, str]:
    """What to send back for `Set-Cookie`; nothing when there was none. Expiry dates hold commas too: they are no cookies."""
    found = _COOKIE.findall(answer.headers.get("set-cookie", ""))
    return {"cookie": "; ".join(f"{name}={value}" for name, value in found)} if found else {}


def bearer_header(token: object) -> dict[str, str]:
    """Nothing when `token` is none that a header can hold."""
    return {"authorization": f"Bearer {token}"} if isinstance(token, str) and _TOKEN.fullmatch(token) else {}
