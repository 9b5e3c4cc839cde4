"""What a device answers, as data: strict JSON first, repair only when that fails and only outside string literals.

Called by the drivers. Seen on real devices and mended here: `}{` and other missing commas, `[,{`, `,}`, raw control
bytes and bytes that are not UTF-8, `inf` and `nan`, an array written like an object, a tail cut off by a full buffer.
What is mended is counted; what cannot be mended without guessing is BadAnswer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from garrison.faults import BadAnswer

MAX_DEPTH = 32
MAX_REPAIRED_BYTES = 256 * 1024  # real answers are below 30 kB, and mending is slower than parsing
_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_SPACE = re.compile(r"[\s\x00-\x1f\ufeff]*")
_TO_ITS_END = r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)'  # a string, or what was cut of one: looked through once, nothing kept to go back
_NO_COMMA = re.compile(_TO_ITS_END + r'|[}\]]\s*(?=[{\["])', re.DOTALL)
_NESTING = re.compile(_TO_ITS_END.encode() + rb"|[\[{]|[\]}]", re.DOTALL)
_GAP = re.compile(r'[}\]]\s*(?=[{\["])')
_MAX_GAPS = 64
_BARE = re.compile(r"[A-Za-z0-9_.+\-]+")
_NUMBER = re.compile(r"[+-]?\d{1,25}(?:\.\d*)?(?:[eE][+-]?\d{1,3})?")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Answer:
    """`repairs` is 0 when the bytes were JSON as they came."""

    value: Any
    repairs: int = 0


def parse(raw: bytes) -> Answer:
    """The JSON object or array in `raw`, mended where it must be. Raises BadAnswer."""
    raw = raw.strip(b"\x00 \t\r\n")
    if not raw:
        raise BadAnswer("an empty answer")
    if raw[:1] == b"<":
        raise BadAnswer(f"a web page instead of data: {excerpt(raw)}")
    _check_depth(raw)
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None
    if isinstance(value, dict | list):
        return Answer(value)
    if len(raw) > MAX_REPAIRED_BYTES:
        raise BadAnswer(f"{len(raw)} bytes that are not JSON: {excerpt(raw)}")
    text = raw.decode("utf-8", "replace")
    return _with_commas(text) or _Mender(text, 1 if "\ufffd" in text else 0).mend()


def is_whole(raw: bytes) -> bool:
    """Whether `raw` is complete, correct JSON."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def excerpt(raw: bytes) -> str:
    """The first few characters, fit to be shown."""
    return clean(raw[:60].decode("utf-8", "replace"), 60)


def clean(text: str, longest: int = 256) -> str:
    """Text of a device without what moves a terminal's cursor, and not longer than `longest` characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[:longest])


# ---- one value ---------------------------------------------------------------------------------------------


def number(value: object) -> float | None:
    """A finite number, also from text such as " 12.0000"; None for everything else."""
    if type(value) is int and -(2**53) <= value <= 2**53:  # nearly all of them
        return float(value)
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond float64
        return None


def whole(value: object) -> int | None:
    """A non-negative integer that fits 63 bits; None for everything else. 4057.0 and "4057" are 4057."""
    if type(value) is int:  # nearly all of them
        return value if 0 <= value < 2**63 else None
    if isinstance(value, str):
        value = value.strip()
        value = int(value) if value.isdecimal() and len(value) < 20 else number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < 2**63 else None


def words(value: object, longest: int = 256) -> str:
    """Text, cleaned and trimmed; "" for everything else."""
    return clean(value, longest).strip() if isinstance(value, str) else ""


def table(value: object) -> Mapping[str, Any]:
    """A JSON object; an empty one for everything else."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[Mapping[str, Any]]:
    """The objects of a JSON array; none for everything else."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


# ---- mending -----------------------------------------------------------------------------------------------


def _with_commas(text: str) -> Answer | None:
    """The commonest fault by far, on every answer of old Antminers: `}{`. Ten times quicker than `_Mender`, to the same end."""
    if "\\" in text or len(gaps := [found.end() for found in _GAP.finditer(text)]) > _MAX_GAPS:
        return _with_commas_anywhere(text)
    parts, begin = [], 0
    for end in gaps:
        if text.count('"', 0, end) % 2 == 0:  # not inside a string
            parts += [text[begin:end], ","]
            begin = end
    parts.append(text[begin:])
    return _mended("".join(parts), len(parts) // 2)


def _with_commas_anywhere(text: str) -> Answer | None:
    """The same where strings hold quotes, or where counting them again and again would take too long."""
    added = 0

    def comma(found: re.Match[str]) -> str:
        nonlocal added
        if found[0][0] == '"':
            return found[0]
        added += 1
        return found[0] + ","

    return _mended(_NO_COMMA.sub(comma, text), added)


def _mended(text: str, added: int) -> Answer | None:
    if not added:
        return None
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return Answer(value, added) if isinstance(value, dict | list) else None


def _check_depth(raw: bytes) -> None:
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for token in _NESTING.finditer(raw):
        mark = token[0]
        if mark in (b"{", b"["):
            depth += 1
            if depth > MAX_DEPTH:
                raise BadAnswer(f"an answer nested deeper than {MAX_DEPTH}")
        elif mark in (b"}", b"]"):
            depth -= 1


class _Cut(Exception):
    """The text ended in the middle of a token."""


class _Mender:
    """A tolerant reader with its own stack. Every departure from JSON that it accepts counts as a repair."""

    def __init__(self, text: str, repairs: int) -> None:
        self._text, self._at, self._repairs = text, 0, repairs
        self._stack: list[dict[str, Any] | list[Any]] = []
        self._key: str | None = None  # of the innermost object: read, its value not yet

    def mend(self) -> Answer:
        top: dict[str, Any] | list[Any] | None = None
        comma = True  # a value may begin here without a comma missing
        try:
            while top is None or self._stack:
                mark = self._next()
                if mark in "{[":
                    fresh: dict[str, Any] | list[Any] = {} if mark == "{" else []
                    self._begin(comma)
                    if top is None:
                        top = fresh
                    else:
                        self._put(fresh)
                    self._stack.append(fresh)
                    comma = True
                elif top is None:
                    raise BadAnswer(f"not JSON: {excerpt(self._text.encode())}")
                elif mark in "}]":
                    comma = self._close(mark, comma)
                elif mark == ",":
                    self._at += 1
                    self._repairs += int(comma)  # `[,` and `,,` and a name without a value
                    self._key, comma = None, True
                else:
                    comma = self._scalar(mark, comma)
        except _Cut:
            self._repairs += 1
        if self._at < len(self._text) and self._text[self._at :].strip("\x00 \t\r\n"):
            self._repairs += 1  # something behind the end, such as `,"id":1}`
        if top is None:
            raise BadAnswer(f"not JSON: {excerpt(self._text.encode())}")
        return Answer(top, max(1, self._repairs))  # strict parsing had failed: something was wrong

    def _next(self) -> str:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        if self._at >= len(self._text):
            raise _Cut
        return self._text[self._at]

    def _begin(self, comma: bool) -> None:
        """A container begins here."""
        inner = self._stack[-1] if self._stack else None
        if isinstance(inner, dict) and self._key is None:
            raise BadAnswer("an object where a name should be")
        self._repairs += int(isinstance(inner, list) and not comma)
        self._at += 1

    def _put(self, value: Any) -> None:
        inner = self._stack[-1]
        if isinstance(inner, list):
            inner.append(value)
        else:
            inner[self._key or ""] = value
            self._key = None

    def _close(self, mark: str, comma: bool) -> bool:
        inner = self._stack[-1]
        if isinstance(inner, dict) != (mark == "}"):
            raise BadAnswer(f"{mark} closes what it did not open")
        self._repairs += int((comma and bool(inner)) or self._key is not None)  # `,}` and a name without a value
        self._at += 1
        self._stack.pop()
        self._key = None
        return False

    def _scalar(self, mark: str, comma: bool) -> bool:
        """A string or bare word, as name or value. Returns whether a comma is still not missing after it."""
        inner = self._stack[-1]
        if mark == ":":
            return self._colon(inner)
        self._repairs += int(not comma)
        if isinstance(inner, list) or self._key is not None:
            self._put(self._string() if mark == '"' else self._bare())
            return False
        if mark != '"':
            raise BadAnswer("a bare word where a name should be")
        name = self._string()
        if self._next() != ":":
            raise BadAnswer("a name without a colon")
        self._at += 1
        self._key = name
        return True

    def _colon(self, inner: dict[str, Any] | list[Any]) -> bool:
        """`["code":"text"]`: an array written like an object becomes an array of objects (seen on Whatsminer 2.0.4)."""
        if not isinstance(inner, list) or not inner or not isinstance(inner[-1], str):
            raise BadAnswer("a colon out of place")
        self._at += 1
        self._repairs += 1
        name = inner.pop()
        mark = self._next()
        if mark in "{[}],:":
            raise BadAnswer("a colon out of place")
        inner.append({name: self._string() if mark == '"' else self._bare()})
        return False

    def _string(self) -> str:
        found = _STRING.match(self._text, self._at)
        if not found:
            self._at = len(self._text)
            raise _Cut
        self._at = found.end()
        inside = found[1]
        if _CONTROL.search(inside):
            self._repairs += 1
        if "\\" not in inside:
            return inside
        return _ESCAPE.sub(self._unescape, inside).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _unescape(self, found: re.Match[str]) -> str:
        mark = found[1]
        if len(mark) == 5:
            return chr(int(mark[1:], 16))
        if mark in '"\\/':
            return mark
        if mark not in _SIMPLE:
            self._repairs += 1  # kept as it came
            return found[0]
        return _SIMPLE[mark]

    def _bare(self) -> float | int | bool | None:
        found = _BARE.match(self._text, self._at)
        if not found:
            raise BadAnswer(f"not JSON: {excerpt(self._text[self._at :].encode())}")
        self._at = found.end()
        if self._at >= len(self._text):
            raise _Cut  # 11 may have been 110566
        word = found[0]
        if word in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[word]
        if not _NUMBER.fullmatch(word):
            self._repairs += 1  # inf, nan, N/A: not known
            return None
        plain = word.lstrip("+")
        self._repairs += int(bool(re.match(r"\+|-?0\d|.*\.(?!\d)", word)))
        value = float(plain) if any(c in plain for c in ".eE") else int(plain)
        if isinstance(value, float) and not math.isfinite(value):
            self._repairs += 1
            return None
        return value
