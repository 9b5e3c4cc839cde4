"""Log-ins by cookie or token: what is kept, when it is made anew, how often an order goes out; and no make takes another's page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio

from garrison.faults import BadAnswer, Fault, NotSupported, Refused, Unreachable, WrongPassword
from sentry_asic.make import Place
from sentry_asic.table import make_named
from sentry_asic.web_login import WebLogin, bearer_header, check_order, cookie_header, told_by
from sentry_core.http import HttpAnswer, HttpClient
from tests.ports import closed_port
from tests.simulators.bitaxe import Bitaxe
from tests.simulators.goldshell import Goldshell
from tests.simulators.iceriver import Iceriver
from tests.simulators.innosilicon import Innosilicon
from tests.simulators.luxos import Luxos
from tests.simulators.sealminer import Sealminer
from tests.simulators.web_port import Reply, Request, Response, WebPort, told


class Door:
    """A web server whose log-in can end, and which can refuse."""

    def __init__(self) -> None:
        self.web = WebPort(self._answer)
        self.password, self.proof = "right", ""
        self.log_ins = self.orders = 0
        self.refuses = 0  # so many orders are a 401
        self.says: Reply = told({"done": True})

    def _answer(self, request: Request) -> Reply:
        if request.path == "/in":
            if request.given.get("password") != self.password:
                return told({"in": False})
            self.log_ins += 1
            self.proof = f"k{self.log_ins}"
            return told({"in": True}, cookie=f"id={self.proof}; path=/")
        if request.path == "/order":
            if self.refuses:
                self.refuses -= 1
                return Response(b"", 401)
            self.orders += 1
            return self.says
        return told({"x": 1}) if request.headers.get("cookie") == f"id={self.proof}" else Response(b"<html>in</html>")


@pytest_asyncio.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    await made.web.open()
    yield made
    await made.web.shut(hold=False)


@pytest_asyncio.fixture
async def login(door: Door) -> AsyncIterator[WebLogin]:
    http = HttpClient("127.0.0.1", door.web.port, total_s=2)

    async def log_in() -> Mapping[str, str]:
        answer = await http.request("POST", "/in", form={"password": "right"})
        if told_by(http.where, "/in", answer).value != {"in": True}:
            raise WrongPassword("no")
        return cookie_header(answer)

    yield WebLogin(http, log_in, lambda answer: answer.body.startswith(b"<"))
    await http.close()


async def test_a_log_in_is_kept_and_made_anew_once(door: Door, login: WebLogin) -> None:
    """Two questions, one log-in; when it has ended, one more; where it does not help, WrongPassword."""
    for _ in range(2):
        assert (await login.ask("GET", "/x")).json() == {"x": 1}
    assert door.log_ins == 1
    door.proof = "other"
    assert (await login.ask("GET", "/x")).json() == {"x": 1}
    assert door.log_ins == 2
    door.password = door.proof = "changed"
    with pytest.raises(WrongPassword):
        await login.ask("GET", "/x")


async def test_an_open_door_needs_no_log_in(door: Door, login: WebLogin) -> None:
    """`unproven`: tried without; and with, where that is not enough."""
    door.proof = ""
    assert (await login.ask("GET", "/order", unproven=True)).json() == {"done": True}
    assert door.log_ins == 0
    assert (await login.ask("GET", "/x", unproven=True)).json() == {"x": 1}
    assert door.log_ins == 1


async def test_an_order_goes_out_once(door: Door, login: WebLogin) -> None:
    """Taken without a word; answered with a page, which proves nothing; not let in, and only then sent again."""
    answer = await login.order("POST", "/order")
    assert answer is not None
    door.says = None
    assert await login.order("POST", "/order") is None
    door.says = Response(b"<html>in</html>")
    await login.order("POST", "/order")
    assert door.orders == 3
    door.refuses = 1
    await login.order("POST", "/order")
    assert door.orders == 4
    door.refuses = 9
    with pytest.raises(WrongPassword):
        await login.order("POST", "/order")
    await door.web.shut()
    with pytest.raises(Unreachable):
        await login.order("POST", "/order")
    assert door.orders == 4


@pytest.mark.parametrize(
    ("header", "cookie"),
    [
        ("a=1; path=/", "a=1"), ("a=1; expires=Fri, 02 Jan 2099 00:00:00 GMT, b.c=2/x==; HttpOnly", "a=1; b.c=2/x=="),
        ("", None), ("nonsense", None), ("a=\u00e9\u00e9", "a="), ('a="q"', "a="),
    ],
)  # fmt: skip
def test_cookies(header: str, cookie: str | None) -> None:
    """Of several headers in one, dates among them; what no header can hold is left out."""
    assert cookie_header(HttpAnswer(200, {"set-cookie": header}, b"")).get("cookie") == cookie


@pytest.mark.parametrize("token", ["", None, 7, "a b", "a\r\nX: y", "\u00e9", "x" * 9000])
def test_tokens_that_are_none(token: object) -> None:
    """Nothing is sent that would be another header."""
    assert bearer_header(token) == {}
    assert bearer_header("a.b-c_d") == {"authorization": "Bearer a.b-c_d"}


def test_answers_that_are_no_success() -> None:
    """In words, and without the query, where a password may stand."""
    for answer in (HttpAnswer(500, {}, b"{}"), HttpAnswer(200, {}, b"<html>"), HttpAnswer(200, {}, b"")):
        with pytest.raises(BadAnswer) as caught:
            told_by("here:80", "/in?password=hunter2", answer)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(NotSupported):
        check_order("here:80", "/x", HttpAnswer(404, {}, b""))
    with pytest.raises(Refused, match="not now"):
        check_order("here:80", "/x", HttpAnswer(500, {}, b"not now"))


Open = Callable[[], AbstractAsyncContextManager[Bitaxe | Goldshell | Iceriver | Innosilicon | Luxos | Sealminer]]


@pytest.mark.parametrize(
    ("own", "device"),
    [
        ("", Bitaxe), ("", Luxos), ("iceriver", Iceriver), ("iceriver", lambda: Iceriver(open_to_all=True)),
        ("goldshell", Goldshell), ("goldshell", lambda: Goldshell("old")), ("innosilicon", Innosilicon),
        ("innosilicon", lambda: Innosilicon("T1")), ("sealminer", Sealminer),
    ],
)  # fmt: skip
async def test_no_make_takes_the_page_of_another(own: str, device: Open) -> None:
    """Whatever the order of asking: only a device's own make says it is its device, and no other sends it a password."""
    async with device() as simulated:
        web = simulated.web if hasattr(simulated, "web") else None
        api_port = simulated.port if isinstance(simulated, Goldshell | Luxos | Sealminer) else closed_port()
        http_port = web.port if web is not None else simulated.port if isinstance(simulated, Bitaxe) else closed_port()
        taken = []
        for name in ("sealminer", "iceriver", "goldshell", "innosilicon"):
            try:
                driver, _ = await make_named(name).fingerprint(Place("127.0.0.1", api_port, http_port))
            except Fault:
                continue
            if driver is not None:
                taken.append(name)
                await driver.close()
        assert taken == ([own] if own else [])
        if web is not None:
            assert not [asked for asked in web.asked if "log" in asked or "auth" in asked]
            assert len(web.asked) <= 6, "two questions of each make that asks here at most"


async def test_a_silent_or_dead_page_is_told(door: Door) -> None:
    """Nothing there, or nothing said, is no make's page."""
    makes: list[Callable[[Place], Awaitable[object]]] = [
        make_named(name).fingerprint for name in ("iceriver", "goldshell", "innosilicon")
    ]
    await door.web.shut()
    for fingerprint in makes:
        with pytest.raises(Unreachable):
            await fingerprint(Place("127.0.0.1", closed_port(), door.web.port))
