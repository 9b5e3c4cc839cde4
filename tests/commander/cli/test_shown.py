"""How values look: prefixes, ages, bars, columns that fit, and nothing that a device says moves the cursor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from commander.cli import shown
from commander.cli.client import check_url, in_path
from garrison.faults import BadInput


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "?"), (0, "0 H/s"), (950.0, "950.0 H/s"), (9_500, "9.50 kH/s"), (1.1e14, "110.00 TH/s"), (2.5e18, "2.50 EH/s")],
)
def test_hashrate(value: float | None, text: str) -> None:
    """What is not known is "?", and 0 is 0."""
    assert shown.hashrate(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "?"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")]
)
def test_duration(value: float | None, text: str) -> None:
    """In the largest unit of which there are two."""
    assert shown.duration(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "?"), (0, "0 W"), (3250.4, "3250 W"), (1.2e6, "1.20 MW")])
def test_power(value: float | None, text: str) -> None:
    """Watts as people read them on a miner; a hall in larger units."""
    assert shown.power(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "?"), ("", "?"), (True, "yes"), (False, "no"), (0, "0"), ([], "?"), (["a", "b"], "a, b")]
)
def test_text(value: Any, text: str) -> None:
    """An empty word is not known; 0 and False are."""
    assert shown.text(value) == text


def test_sparkline() -> None:
    """Lowest to highest; a gap stays a gap; many values are averaged into the width, nothing is dropped."""
    assert shown.sparkline([1, 2, None, 8]) == "▁▂ █"
    assert shown.sparkline([5, 5]) == "▁▁"
    assert shown.sparkline([None, None]) == ""
    assert shown.sparkline([]) == ""
    many = shown.sparkline([0.0] * 300 + [9.0] * 300, width=60)
    assert (len(many), many[0], many[-1]) == (60, "▁", "█")


COLUMNS: shown.Columns = {
    "id": ("ID", shown.text),
    "name": ("Name", shown.text),
    "age": ("Age", shown.text),
    "address": ("Address", shown.text),
    "text": ("Text", shown.text),
}
ROW = {"id": "1", "name": "n" * 10, "age": None, "address": "a" * 20, "text": "t" * 100}


@pytest.mark.parametrize(
    ("width", "kept"),
    [
        (200, ["id", "name", "age", "address", "text"]),
        (66, ["id", "name", "address", "text"]),  # of the age nobody knows anything
        (50, ["id", "name", "text"]),
        (5, ["id", "name", "text"]),  # what is not spare stays
    ],
)
def test_fit(width: int, kept: list[str]) -> None:
    """The first spare column goes first, one that is empty before all; a sentence needs no more room than it can be wrapped to."""
    assert list(shown.fit([ROW], COLUMNS, width, ("address", "age"))) == kept


def test_short_ids() -> None:
    """As short as they differ, and not below eight."""
    ids = ["aaaaaaaa-1111", "aaaaaaaa-2222"]
    assert [shown.beginnings(ids)(one) for one in ids] == ["aaaaaaaa-1", "aaaaaaaa-2"]
    assert [shown.ends(ids)(one) for one in ids] == ["aaa-1111", "aaa-2222"]
    assert shown.beginnings([])("0123456789") == "01234567"


@pytest.mark.parametrize("nasty", ["\x1b[2J", "\x9b2J", "a\rb", "a\nb", "\u202eevil", "\x07"])
def test_no_text_moves_the_cursor(nasty: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a table, in an object, in an error, and in JSON, where it stays what it was."""
    shown.listing([{"id": 1, "name": nasty}], {"id": ("ID", shown.text), "name": ("Name", shown.text)}, False, "")
    shown.facts({"name": nasty, "list": [{"a": nasty}], "map": {nasty: nasty}})
    shown.stderr(f"error: {nasty}")
    said = capsys.readouterr()
    for line in [*said.out.splitlines(), *said.err.splitlines()]:
        assert not {c for c in line if ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e"}, repr(line)
    shown.as_json({"name": nasty})
    written = capsys.readouterr().out
    assert not {c for c in written if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e"}
    assert json.loads(written) == {"name": nasty}


def test_markup_is_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """A device named "[red]" is shown so."""
    shown.listing([{"id": 1, "name": "[red]x[/red]"}], {"id": ("ID", shown.text), "name": ("Name", shown.text)}, False, "")
    assert "[red]x[/red]" in capsys.readouterr().out


def test_units_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """One object: the end of a field's name says how it is shown."""
    shown.facts({"hashrate_hs": 1e14, "power_w": 3000, "temp_c": 60, "age_s": 200, "on": True, "count_s": None})
    assert [line.split(maxsplit=1)[1].strip() for line in capsys.readouterr().out.splitlines()] == [
        "100.00 TH/s",
        "3000 W",
        "60 °C",
        "3 min",
        "yes",
        "?",
    ]


@pytest.mark.parametrize("bad", ["", " ", ".", "..", "a/b", "/", "../tokens"])
def test_not_a_name(bad: str) -> None:
    """What would lead to another address is refused before anything is asked."""
    with pytest.raises(BadInput):
        in_path(bad)


def test_a_name_in_an_address() -> None:
    """Whatever else stands in it stays in its step."""
    assert in_path("a b?c#d%2e:é") == "a%20b%3Fc%23d%252e%3A%C3%A9"


@pytest.mark.parametrize("good", ["https://x.example:8440", "http://127.0.0.1:1", "http://localhost", "http://[::1]:8440"])
def test_good_urls(good: str) -> None:
    """TLS anywhere, plain HTTP on this machine only."""
    check_url(good)
