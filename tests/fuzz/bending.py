"""What goes wrong with an answer, done on purpose: in its bytes, and in its JSON where it has one."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.fuzz.fuzz_asic import MARK

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), "", " ", "0", "-1", "1e999", "NaN", "inf", "-", "N/A", "12.5W", "0x10", "\u0663", "\u00b2", "\x00",
    "\x1b[2J", "\ud800", "x" * 300, "9" * 400, "9" * 5000, "1:2:3:4", "99:99:99:99", "]", "}{", "a" * 20000, "http://[", "%s%n",
    "stratum+tcp://[::1", [], {}, [[]], [{}], [None] * 40, [0] * 300, {"": ""}, {"x": {}}, [1e308] * 3, ["a", 1, None, {}],
    [[[[[[[[]]]]]]]], "Antminer", "GH/s", "1970-01-01T00:00:00Z",
)  # fmt: skip
TOKENS = (
    b"\x00", b"\xff", b"}{", b"[,{", b",}", b'"', b"\\", b"\\u", b"\\ud800", b"{", b"[", b"]", b"}", b":", b",", b"inf", b"nan",
    b"-", b"1e999", b"9" * 400, b"[" * 200, b'{"a":' * 200, b"<html>", b"|", b"=", b" ", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf",
    b"\x1e", b"\x1eapi/stats\n", b"e", b".",
)  # fmt: skip


def bent(data: bytes, dice: random.Random) -> bytes:
    """A few of them at once."""
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        data = (_value if dice.random() < 0.7 else _bytes)(data, dice)
    return data


def _value(data: bytes, dice: random.Random) -> bytes:
    """One value of one answer is another: nasty, one of the same answer's, or gone. Or its name is."""
    head, *parts = data.split(MARK)
    if not parts:
        return _bytes(data, dice)
    at = dice.randrange(len(parts))
    name, _, body = parts[at].partition(b"\n")
    try:
        answer = json.loads(body.strip(b"\x00"))
    except (ValueError, RecursionError):
        return _bytes(data, dice)
    places = list(_places(answer))
    if not places:
        return _bytes(data, dice)
    inner, key = dice.choice(places)
    way = dice.randrange(8)
    if way == 0:
        del inner[key]
    elif way == 1:
        other, other_key = dice.choice(places)
        inner[key] = json.loads(json.dumps(other[other_key]))
    elif way == 2 and isinstance(inner, list):
        inner *= dice.choice((0, 2, 50))
    elif way == 3 and isinstance(inner, dict):
        inner[dice.choice(("", "x", "0", str(key) + "2", "chain_acn99999999999"))] = inner.pop(key)
    else:
        inner[key] = dice.choice(NASTY)
    parts[at] = name + b"\n" + json.dumps(answer).encode()
    return MARK.join([head, *parts])


def _places(answer: Any) -> list[tuple[Any, Any]]:
    found, todo = [], [answer]
    while todo:
        one = todo.pop()
        if isinstance(one, dict | list):
            for key, value in one.items() if isinstance(one, dict) else enumerate(one):
                found.append((one, key))
                todo.append(value)
    return found


def _bytes(data: bytes, dice: random.Random) -> bytes:
    at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    way = dice.randrange(6)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + data[end:]
    if way == 2:
        return data[:at] + data[at:end] * 2 + data[end:]
    if way == 3 and data:
        return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
    return data[:at] + dice.choice(TOKENS) + data[at + dice.choice((0, 0, 1, 4)) :]
