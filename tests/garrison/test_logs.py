"""Logs: one line an event, no secret in any of them, nothing that moves a cursor."""

import io
import json
import logging

import pytest

from garrison import logs
from garrison.join import JoinToken

CANARY = "c4n4ry-5ecret-value"
TOKEN = JoinToken("abc123", bytes(range(20)), bytes(32), "10.0.0.1:8442")


def lines(shape: str, message: object, extra: dict[str, object] | None = None, error: Exception | None = None) -> str:
    """What a logger would write."""
    record = logging.LogRecord("a.part", logging.WARNING, "f", 1, message, None, (type(error), error, None) if error else None)
    for name, value in (extra or {}).items():
        setattr(record, name, value)
    return (logs.JsonLines() if shape == "json" else logs.PlainLines()).format(record)


SHAPES = pytest.mark.parametrize("shape", ["json", "plain"])


@SHAPES
@pytest.mark.parametrize(
    "message",
    [
        f"password={CANARY}",
        f"passwd: {CANARY}",
        f'{{"password": "{CANARY} with a space"}}',
        f'{{"password": "a\\"{CANARY}"}}',
        f"{{'pwd': '{CANARY}'}}",
        f"Authorization: Bearer {CANARY}",
        f"Authorization: Digest {CANARY}",
        f"http://10.0.0.5/?token={CANARY}&x=1",
        f"--http-access-token={CANARY}",
        f"access_token = {CANARY}",
        f"stratum+tcp://user:{CANARY}@pool.example:3333",
        f"http://:{CANARY}@10.0.0.1/",
        f"API_KEY={CANARY}",
        f"Cookie: {CANARY}",
        f"passphrase={CANARY}",
    ],
)
def test_a_secret_in_a_message_is_hidden(shape: str, message: str) -> None:
    """In the text, in an exception's text, in an extra that is an exception, and deep in one that is a dict."""
    assert CANARY not in lines(shape, message)
    assert CANARY not in lines(shape, "x", error=ValueError(message))
    assert CANARY not in lines(shape, "x", {"why": ValueError(message), "more": {"a": [message]}})
    assert logs.HIDDEN in lines(shape, message)


@SHAPES
@pytest.mark.parametrize(
    "name", ["password", "pool_pass", "token", "token_secret", "Authorization", "api_key", "private_key", "pwd"]
)
def test_a_secret_by_its_name_is_hidden(shape: str, name: str) -> None:
    """An extra, or a key at any depth in one, that is named like a secret."""
    line = lines(shape, "x", {name: CANARY, "deep": {"list": [{name: CANARY}]}, "bytes": {name: CANARY.encode()}})
    assert CANARY not in line
    assert line.count(logs.HIDDEN) == 3


@SHAPES
def test_a_join_token_is_hidden_and_its_id_is_not(shape: str) -> None:
    """The line says which token, and nobody can join with it."""
    line = lines(shape, f"sentry-rig enrol {TOKEN.text()}")
    assert TOKEN.text().split("-")[2] not in line
    assert "gsj1-abc123-" in line
    assert "10.0.0.1:8442" in line


@SHAPES
def test_what_is_no_secret_stays(shape: str) -> None:
    """Hiding too much makes logs useless."""
    line = lines(shape, "pool stratum+tcp://pool.example:3333 of device 7", {"hashrate_hs": 5, "address": "10.0.0.9:4028"})
    assert logs.HIDDEN not in line
    assert "stratum+tcp://pool.example:3333" in line
    assert "10.0.0.9:4028" in line


@SHAPES
def test_one_line_an_event(shape: str) -> None:
    """A device that answers with line ends and escape codes cannot write a second event, nor paint the terminal."""
    hostile = "S19\x1b[2J\x9b31m\r\n2026-01-01 00:00:00.000 info    root: all is well\u2028\u202e\ud800\x00"
    line = lines(shape, hostile, {"model": hostile, "list": [hostile]})
    assert "\n" not in line
    assert not logs._CONTROL.search(line)
    line.encode()


def test_json_is_json() -> None:
    """Each line parses; odd values do not stop a log line."""
    line = json.loads(
        lines("json", "x %s", {"at_ms": 5, "nothing": None, "nan": float("nan"), "set": {1}, "obj": ValueError("é"), "ok": True}),
        parse_constant=lambda text: pytest.fail(f"not JSON: {text}"),
    )
    assert line["what"] == "x %s"
    assert line["level"] == "warning"
    assert line["from"] == "a.part"
    assert (line["at_ms"], line["nothing"], line["nan"], line["set"], line["obj"], line["ok"]) == (5, None, "nan", [1], "é", True)
    assert line["at"].endswith("+00:00")


def test_plain_words_with_spaces_are_quoted() -> None:
    """`key=value` stays readable, and a value cannot pretend to be another key."""
    line = lines("plain", "connected", {"rig": "a b=c", "n": 5, "empty": "", "list": ["a b"]})
    assert line.endswith('a.part: connected rig="a b=c" n=5 empty="" list=["a b"]')


def test_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto`: JSON where nobody looks, plain where GARRISON_PLAIN_LOGS asks for it; httpx's own lines stay out."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        monkeypatch.delenv("GARRISON_PLAIN_LOGS", raising=False)
        stream = io.StringIO()
        logs.start("auto", "info", stream)
        logging.getLogger("a").info("one")
        logging.getLogger("a").debug("two")
        logging.getLogger("httpx").info("GET http://10.0.0.1/?token=x")
        assert [json.loads(line)["what"] for line in stream.getvalue().splitlines()] == ["one"]
        monkeypatch.setenv("GARRISON_PLAIN_LOGS", "1")
        stream = io.StringIO()
        logs.start("auto", "debug", stream)
        logging.getLogger("a").debug("two")
        assert stream.getvalue().endswith(" a: two\n")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
