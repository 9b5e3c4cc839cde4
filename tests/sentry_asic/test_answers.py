"""Device answers: strict first, mended only when needed, and nothing inside a string is ever changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison.faults import BadAnswer
from sentry_asic.answers import MAX_REPAIRED_BYTES, clean, number, parse, whole, words

RECORDED = Path(__file__).parents[3] / "shared" / "recorded"
NASTY = st.sampled_from(["}{", "[,{", ",}", 'x"y', "a\\b", "{", "]", "nan", "\x7f", "worker.}{.1", ",,", "ü", '":"'])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | NASTY
    | st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)
)
NAMES = NASTY | st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8)
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20)
DOCUMENTS = st.dictionaries(NAMES, TREES, max_size=5) | st.lists(TREES, max_size=5)


def broken(value: Any, fault: st.DataObject) -> str:
    """JSON as a careless device writes it: commas missing or too many, outside strings only."""
    choice = fault.draw(st.sampled_from(["", "no comma", "leading", "trailing"]))
    if isinstance(value, list):
        parts = [broken(item, fault) for item in value]
        # without its comma a number would run into the next one: only what ends and begins with a mark can lose it
        marks = all(part[0] in '{["' for part in parts)
        inside = ("" if choice == "no comma" and marks else ",").join(parts)
        return "[" + ("," if choice == "leading" else "") + inside + ("," if choice == "trailing" and parts else "") + "]"
    if isinstance(value, dict):
        pairs = [f"{json.dumps(k)}:{broken(v, fault)}" for k, v in value.items()]
        inside = ("" if choice == "no comma" else ",").join(pairs)
        return "{" + ("," if choice == "leading" else "") + inside + ("," if choice == "trailing" and pairs else "") + "}"
    return json.dumps(value)


@given(DOCUMENTS)
def test_correct_json_is_never_touched(document: Any) -> None:
    """Whatever is JSON comes out as it went in, with no repair; a NUL behind it does not matter."""
    for tail in (b"", b"\x00", b"\n\x00"):
        answer = parse(json.dumps(document).encode() + tail)
        assert answer.value == document
        assert answer.repairs == 0


@given(DOCUMENTS, st.data())
def test_commas_are_mended_and_strings_survive(document: Any, fault: st.DataObject) -> None:
    """Missing, leading and trailing commas: the same data comes out, pool users with `}{` in them too."""
    text = broken(document, fault)
    answer = parse(text.encode())
    assert answer.value == document
    try:
        json.loads(text)
    except ValueError:
        assert answer.repairs > 0


def within(part: Any, original: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(original, dict) and all(k in original and within(v, original[k]) for k, v in part.items())
    if isinstance(part, list):
        same = isinstance(original, list) and len(part) <= len(original)
        return same and all(within(a, b) for a, b in zip(part, original, strict=False))
    return bool(part == original)


@given(DOCUMENTS, st.data())
def test_a_cut_tail_gives_only_what_was_said(document: Any, data: st.DataObject) -> None:
    """Cut anywhere: nothing comes out that was not in the original, and no half number."""
    text = json.dumps(document)
    cut = data.draw(st.integers(0, len(text) - 1))
    try:
        answer = parse(text[:cut].encode())
    except BadAnswer:
        return
    assert answer.repairs > 0
    assert within(answer.value, document)


@given(st.binary(max_size=400) | st.text('{}[],:"\\ abn1.-\x00\x07', max_size=60).map(str.encode))
@settings(max_examples=400)
def test_any_bytes_give_data_or_bad_answer(raw: bytes) -> None:
    """No input raises anything else."""
    try:
        answer = parse(raw)
    except BadAnswer:
        return
    assert isinstance(answer.value, dict | list)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"STATS":[{"Type":"S9"}{"Elapsed":"5"}],"id":1}', {"STATS": [{"Type": "S9"}, {"Elapsed": "5"}], "id": 1}),
        (b'{"STATS":[,{"a":1}]}', {"STATS": [{"a": 1}]}),
        (b'{"a":1,}', {"a": 1}),
        (b'{"user":"w}{1,}"}{"id":1}', {"user": "w}{1,}"}),
        (b'{"chain_acs8":"oo""temp0":40}', {"chain_acs8": "oo", "temp0": 40}),
        (b'{"a":inf,"b":-nan,"c":3}', {"a": None, "b": None, "c": 3}),
        (b'{"user":"a\nb\x07"}', {"user": "a\nb\x07"}),
        (b'{"user":"a\xff"}', {"user": "a\ufffd"}),
        (b'{"error_code":["110":"2022-01-01","111":"x"]}', {"error_code": [{"110": "2022-01-01"}, {"111": "x"}]}),
        (b'{"a":,"b":1}', {"b": 1}),
        (b'{"a":{"b":1},"rate":110566', {"a": {"b": 1}}),
        (b'{"a":05,"b":+1,"c":2.}', {"a": 5, "b": 1, "c": 2.0}),
        (b'{"a":1e999}', {"a": None}),
        (b'{"a":"\\q"}', {"a": "\\q"}),
        (b'{"a":1},"id":1}', {"a": 1}),
    ],
)
def test_faults_seen_on_devices(raw: bytes, value: Any) -> None:
    """Each of the faults that real firmware makes, mended and counted."""
    answer = parse(raw)
    assert answer.value == value
    assert answer.repairs > 0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00",
        b"<html><body>404</body></html>",
        b"Socket connect failed: Connection refused",
        b"5",
        b'"text"',
        b"{bare:1}",
        b'{"a" 1}',
        b'{"a":1]',
        b'{"a":"he said "hi" loudly"}',
        b"[" * 100_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"a":"' + b"x" * MAX_REPAIRED_BYTES,
    ],
)
def test_what_would_need_guessing_is_refused(raw: bytes) -> None:
    """HTML, text, bare words, nesting without end: BadAnswer with a short excerpt."""
    with pytest.raises(BadAnswer) as caught:
        parse(raw)
    assert len(caught.value.text) < 200


@pytest.mark.parametrize(
    ("value", "told"),
    [(" 12.0000", 12.0), ("37603.30", 37603.3), (5, 5.0), ("", None), ("inf", None), (True, None), ([1], None), (10**400, None)],
)
def test_number(value: object, told: float | None) -> None:
    """Numbers come as numbers or as padded text; what is neither is not known."""
    assert number(value) == told


def test_whole_and_words() -> None:
    """Counters are non-negative integers; text is cleaned of control characters and cut."""
    assert [whole(v) for v in (7, "7", 7.0, " 12.0000", -1, 7.5, "x", True, 2**63)] == [7, 7, 7, 12, None, None, None, None, None]
    assert words(" a\x1b[31mb ") == "a\ufffd[31mb"
    assert len(clean("x" * 1000)) == 256


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not beside this clone")
def test_recorded_answers_are_strict_json() -> None:
    """A second opinion: every recorded answer parses without repair, except what its maker broke."""
    for path in RECORDED.glob("*/*.json"):
        if path.read_bytes().lstrip()[:1] in (b"{", b"["):
            assert parse(path.read_bytes()).value is not None, path
