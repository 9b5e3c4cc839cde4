"""Structured logs: one line an event, as JSON for machines or as `key=value` for people; secrets never.

log = logging.getLogger(__name__)
log.info("sentry connected", extra={"sentry": sentry_id, "address": peer})
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_NAME = re.compile(r"pass(word|wd|phrase)?$|pwd$|secret|token|authorization|cookie|api_?key|private", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"""(?ix)
    ( (?: pass(?:word|wd|phrase)? | secret | token | authorization | cookie | pwd | api_?key ) ["']? \s* [=:] \s*
      (?: (?:bearer|basic|digest) \s+ )? )
    ( "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | [^\s"'&,;}]+ )
    """
)
_USERINFO = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]*(?=@)")
_JOIN_TOKEN = re.compile(r"(gsj1-[0-9a-z]{6,32}-)[a-z2-7]{32}")
# everything that ends a line or moves a terminal's cursor, and half characters, which no stream can encode
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
HIDDEN = "•••"


def redact(text: str) -> str:
    """The text without what looks like a secret, and without characters that move a terminal's cursor."""
    shown = _JOIN_TOKEN.sub(rf"\1{HIDDEN}", text)
    shown = _USERINFO.sub(rf"\1:{HIDDEN}", _SECRET_TEXT.sub(rf"\1{HIDDEN}", shown))
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", shown)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: _clean(name, value) for name, value in vars(record).items() if name not in _USUAL and not name.startswith("_")}


def _clean(name: str, value: Any) -> Any:
    """As JSON can hold it, at any depth: a secret hides in an exception's text as well as in a dict."""
    if _SECRET_NAME.search(name) and value is not None:
        return HIDDEN
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", inner) for inner in value]
    return redact(value if isinstance(value, str) else str(value))


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "what": redact(record.getMessage()),
            **_extra(record),
        }
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        extra = "".join(f" {name}={_word(value)}" for name, value in _extra(record).items())
        what = redact(record.getMessage()).replace("\n", "\\n")  # one line an event: nobody writes a second one into it
        line = f"{at} {record.levelname.lower():<7} {record.name}: {what}{extra}"
        if record.exc_info:
            line += "\n" + redact(self.formatException(record.exc_info))
        return line


def _word(value: Any) -> str:
    """Quoted where it would not read as one word."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if not text or (re.search(r"[\s\"=]", text) and isinstance(value, str)) else text


def start(shape: Literal["json", "plain", "auto"] = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Logs go to stderr. `auto`: plain on a terminal, JSON otherwise; under journald the journal keeps the time."""
    stream = stream or sys.stderr
    if shape == "auto":
        shape = "plain" if stream.isatty() or "GARRISON_PLAIN_LOGS" in os.environ else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if shape == "json" else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("httpx").setLevel("WARNING")  # it logs every request with its address


def shape() -> Literal["json", "plain"]:
    """In which logs are written here: for a process that is to write like us."""
    handlers = logging.getLogger().handlers
    return "json" if handlers and isinstance(handlers[0].formatter, JsonLines) else "plain"
