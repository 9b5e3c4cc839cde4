"""Settings: what is wrong is refused with its file and line; the example is the defaults."""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct

from garrison import settings
from garrison.faults import BadInput, NotFound


class Pool(Struct, frozen=True, forbid_unknown_fields=True):
    url: Annotated[str, Meta(description="where")] = ""
    weight: Annotated[int, Meta(description="how much", ge=1)] = 1


class Power(Struct, frozen=True, forbid_unknown_fields=True):
    off_s: Annotated[int, Meta(description="how long\nmains stays off", ge=10, le=600)] = 30
    share: Annotated[float, Meta(description="of all")] = 0.3


class Everything(Struct, frozen=True, forbid_unknown_fields=True):
    farm: Annotated[str, Meta(description="the name", min_length=1)] = 'a "farm" \\ ümlaut'
    shape: Literal["auto", "json"] = "auto"
    enabled: bool = True
    limit: Annotated[int | None, Meta(description="unset: no limit")] = None
    price: Decimal = Decimal("0.25")
    networks: tuple[str, ...] = ("10.0.0.0/8", "192.168.0.0/16")
    names: dict[str, int] = {}
    pools: tuple[Pool, ...] = ()
    power: Annotated[Power, Meta(description="relays")] = Power()


def refused(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        settings.loads(text, Everything, "x.toml")
    return str(caught.value)


def test_the_example_is_the_defaults() -> None:
    """`config example` read again gives the settings of an empty file, and says every key and description."""
    text = settings.example(Everything, "All of it")
    assert settings.loads(text, Everything) == Everything() == settings.loads("", Everything)
    assert text.startswith("# All of it\n")
    for words in ("# the name", "# how long", "# mains stays off", "# limit =", "[power]", "off_s = 30"):
        assert words in text
    assert tomllib.loads(text)["farm"] == 'a "farm" \\ ümlaut'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("\nfram = 1", 2, "unknown key `fram`"),
        ("farm = 1", 1, "`farm`: expected `str`"),
        ('farm = ""', 1, "`farm`"),
        ("[power]\n\noff_s = 5", 3, "`power.off_s`: expected `int` >= 10"),
        ("[power]\n# off_s = 5\noff = 5", 3, "unknown key `power.off`"),
        ("power.off_s = 'a'", 1, "`power.off_s`"),
        ("enabled = true\npower = { off_s = 5 }", 2, "`power.off_s`"),
        ("[[pools]]\nurl = 'a'\n[[pools]]\nurl = 5", 4, "`pools[1].url`"),
        ("[[pools]]\nurl = 'a'\n[[pools]]\nuri = 5", 4, "unknown key `pools[1].uri`"),
        ("pools = [{ url = 'a' },\n  { url = 5 }]", 1, "`pools[1].url`"),
        ("[names]\na = 1\nb = 'x'", 1, "`names[...]`"),
        ("[names]\na = 'x'", 2, "`names[...]`"),
        ("'far m' = 1", 1, "unknown key `far m`"),
        ("[pwoer]\noff_s = 5", 1, "unknown key `pwoer`"),
        ("shape = 'xml'", 1, "`shape`"),
        ("enabled = 1", 1, "`enabled`: expected `bool`"),
        ("power = 3", 1, "`power`"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, words: str) -> None:
    """The message names the file, the line and the key as the person wrote it, and where to find the right one."""
    message = refused(text)
    assert f"x.toml, line {line}: " in message
    assert words in message
    assert "config example" in message


def test_broken_toml_is_told_with_its_line() -> None:
    """A syntax error gives its place."""
    message = refused("farm = 'a'\npower = [")
    assert message.startswith("x.toml is not valid TOML")
    assert "line 2" in message or "end of document" in message
    assert "line 1" in refused("farm == 'a'")


def test_a_missing_required_key_is_named() -> None:
    """Where no line can be told there is no empty quote either."""

    class Needs(Struct, frozen=True, forbid_unknown_fields=True):
        address: str

    with pytest.raises(BadInput, match=r"^x: Object missing required field `address`"):
        settings.loads("", Needs, "x")


def test_files(tmp_path: Path) -> None:
    """No file: NotFound with what writes it. Not text, or a folder: BadInput with its name."""
    with pytest.raises(NotFound, match="init"):
        settings.load(tmp_path / "none.toml", Everything)
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"farm = '\xff'")
    with pytest.raises(BadInput, match="not UTF-8"):
        settings.load(bad, Everything)
    with pytest.raises(BadInput, match="cannot read"):
        settings.load(tmp_path, Everything)
    bad.write_text("farm = 'north'\n[power]\noff_s = 40\n")
    assert settings.load(bad, Everything) == Everything(farm="north", power=Power(off_s=40))
