"""Structured logs: one line an event, as JSON for machines or as `key=value` for people; secrets never.

log = logging.getLogger(__name__)
log.info("sentry connected", extra={"sentry": sentry_id, "address": peer})
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_NAME = re.compile(r"pass(word|wd)?$|secret|token|authorization|cookie|api_?key|private", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"""(?ix)
    ( (?: password | passwd | secret | token | access[-_]token | authorization | pwd ) ["']? \s* [=:] \s* (?:bearer\s+)? ["']? )
    ( [^\s"'&,;}]+ )
    """
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
HIDDEN = "•••"


def redact(text: str) -> str:
    """The text without what looks like a secret, and without characters that move a terminal's cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _SECRET_TEXT.sub(rf"\1{HIDDEN}", text))


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    found = {}
    for name, value in vars(record).items():
        if name not in _USUAL and not name.startswith("_"):
            found[name] = HIDDEN if _SECRET_NAME.search(name) else redact(value) if isinstance(value, str) else value
    return found


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
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        line = f"{at} {record.levelname.lower():<7} {record.name}: {redact(record.getMessage())}{extra}"
        if record.exc_info:
            line += "\n" + redact(self.formatException(record.exc_info))
        return line


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
