"""The fault tree is one to one with the codes on the wire, and with the drawing at the top of its file."""

import re

import pytest

from garrison import faults
from garrison.faults import BY_CODE, Fault, from_wire

CLASSES = [c for c in vars(faults).values() if isinstance(c, type) and issubclass(c, Fault)]


def test_every_class_has_its_own_code() -> None:
    """No code twice, none inherited."""
    assert len({c.code for c in CLASSES}) == len(CLASSES) == len(BY_CODE)
    assert all("code" in vars(c) for c in CLASSES)
    assert all(BY_CODE[c.code] is c for c in CLASSES)
    assert all(re.fullmatch(r"[a-z_]+", c.code) for c in CLASSES)


def test_the_drawing_is_the_tree() -> None:
    """The drawing names every class with its code, below its parent."""
    drawn: dict[str, tuple[str, str]] = {}
    path: list[str] = ["Fault"]
    for line in (faults.__doc__ or "").splitlines():
        found = re.match(r"([│ ]*)[├└]── (\w+)\s+(\w+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            path[depth:] = [found[2]]
            drawn[found[2]] = (found[3], path[depth - 1])
    assert drawn == {c.__name__: (c.code, c.__mro__[1].__name__) for c in CLASSES if c is not Fault}


@pytest.mark.parametrize("kind", CLASSES)
def test_across_the_wire(kind: type[Fault]) -> None:
    """A known code comes back as its class, with the sentence."""
    fault = from_wire(kind.code, "what was wrong")
    assert type(fault) is kind
    assert fault.text == "what was wrong"


def test_a_code_from_the_future() -> None:
    """A newer peer's code is a plain Fault that keeps its name."""
    fault = from_wire("too_hot", "the room burns")
    assert type(fault) is Fault
    assert str(fault) == "too_hot: the room burns"


def test_words_for_a_person() -> None:
    """The text, and what to do about it in brackets."""
    assert str(faults.NotFound("no device 7", hint="`devices list` shows them")) == "no device 7 (`devices list` shows them)"
    assert str(faults.NotFound("no device 7")) == "no device 7"
